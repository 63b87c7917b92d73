"""A newcomer's first minutes: a fresh clone, README's commands as they stand, the first passed check, a trained model.

Everything is downloaded as on a new machine (an empty cache of pip's, an empty cache of assets). What a new machine
fetches is then counted once more, at the speed of an ordinary line: this machine may sit beside its index.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lora_ref import assets

ROOT = Path(__file__).resolve().parents[1]
SECTION = "## The first five minutes"
ORDINARY_LINE = 50e6 / 8  # bytes a second: 50 Mbit/s
TO_FIRST_CHECK, TO_MODEL = 300, 600  # seconds
STAGE = "01_rank_theory"

#: Run with the clone's own Python: fills the first exercise as its worked solution does, and runs down to its check.
FIRST_EXERCISE = f"""
import nbformat
from nbclient import NotebookClient
from autograder.demo import fill
from autograder.publish.preprocessors import clear_gaps
paths = (f"{{side}}/{STAGE}/{STAGE}.ipynb" for side in ("notebooks", "solutions"))
release, worked = (nbformat.read(path, as_version=4) for path in paths)
notebook = fill(release, worked, lambda source: clear_gaps(source, keep={{"1.1"}}))
last = next(i for i, cell in enumerate(notebook.cells) if 'check("1.1"' in cell.source)
notebook.cells = notebook.cells[: last + 1]
NotebookClient(notebook, timeout=300, resources={{"metadata": {{"path": "notebooks/{STAGE}"}}}}).execute()
print(notebook.cells[-1].outputs[0].text)
"""


def commands() -> list[str]:
    """The commands of README's section, in order, without their comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition(SECTION + "\n")[2].partition("\n## ")[0]
    return [line.partition("  #")[0].strip() for line in section.splitlines() if line.startswith("    ")]


def walk(folder: Path) -> Iterator[tuple[str, float]]:
    """Do what README says in a fresh clone in ``folder``; yields each step and its seconds.

    Raises:
        RuntimeError: a step failed; its output is in the message.
    """
    clone = folder / "course"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LORA", "VIRTUAL_ENV"))}
    environment |= {"LORA_CACHE": str(folder / "assets"), "PIP_CACHE_DIR": str(folder / "pip")}
    environment |= {"JUPYTER_CONFIG_DIR": str(folder / "jupyter"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    (folder / "jupyter").mkdir()
    settings = "c.ServerApp.open_browser, c.ServerApp.allow_root, c.ServerApp.port = False, True, 0\n"
    (folder / "jupyter" / "jupyter_server_config.py").write_text(settings, encoding="utf-8", newline="\n")

    started = time.monotonic()
    _do(["git", "clone", "--quiet", str(ROOT), str(clone)], folder, environment)
    yield "git clone", time.monotonic() - started
    for command in commands():
        started = time.monotonic()
        if "jupyter lab" in command:
            _serve(command, clone, environment, folder / "runtime")
            yield command, time.monotonic() - started
            started = time.monotonic()
            said = _do([".venv/bin/python", "-c", FIRST_EXERCISE], clone, environment)
            if ": visible checks passed" not in said:
                raise RuntimeError(f"the first exercise, solved, does not pass:\n{said}")
            yield "set-up cell, first exercise, its check", time.monotonic() - started
            continue
        _do(["bash", "-c", command], clone, environment)
        yield command, time.monotonic() - started


def package_bytes(folder: Path) -> int:
    """Size of the files that ``make setup`` installs from, wherever pip found them: an index or a folder here."""
    report = folder / "report.json"
    python = ".venv/bin/python"
    options = ["--dry-run", "--ignore-installed", "--no-build-isolation", "--quiet", "--report", str(report)]
    command = [python, "-m", "pip", "install", *options, "-c", "constraints.txt", "torch", "setuptools", "-e", ".[dev]"]
    _do(command, folder / "course", os.environ | {"PIP_CACHE_DIR": str(folder / "pip")})
    addresses = [
        item["download_info"]["url"]
        for item in json.loads(report.read_text(encoding="utf-8"))["install"]
        if not _own(item)
    ]
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(_size, addresses))


def _own(item: dict) -> bool:
    return "dir_info" in item["download_info"]  # the clone itself


def _size(address: str) -> int:
    with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=60) as answer:
        return int(answer.headers["Content-Length"])


def _do(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)[:200]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _serve(command: str, folder: Path, environment: dict[str, str], runtime: Path) -> None:
    """Start JupyterLab and stop it once it serves its page."""
    log = runtime.parent / "jupyter.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            shlex.split(command), cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(1200):
            address = re.search(
                r"http://(?:localhost|127\.0\.0\.1):\d+/lab\S*", log.read_text(encoding="utf-8", errors="replace")
            )
            if address:
                with urllib.request.urlopen(address[0], timeout=60) as page:
                    page.read()
                return
            if process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"{command} serves no page:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def run() -> bool:
    """Print the seconds of each step and the minutes at both ends; True if both claims hold on an ordinary line."""
    with tempfile.TemporaryDirectory() as name:
        folder, spent, first = Path(name), 0.0, 0.0
        for step, seconds in walk(folder):
            spent += seconds
            print(f"   {seconds:6.1f} s  {step}", flush=True)
            if step.startswith("set-up cell"):
                first = spent
        packages = package_bytes(folder)
    reviews = sum(asset.size for asset in assets.ASSETS.values() if not asset.on_demand)
    line = (packages + reviews) / ORDINARY_LINE
    print(f"   {packages / 1e6:.0f} MB of packages and {reviews / 1e6:.0f} MB of assets: {line:.0f} s at 50 Mbit/s")
    for what, took, limit in (("first passed check", first, TO_FIRST_CHECK), ("trained model", spent, TO_MODEL)):
        total = took + line
        ratio = f"{total / limit:.2f} of {limit / 60:.0f} min"
        print(f"   {what}: {took / 60:.1f} min here, {total / 60:.1f} with the line: {ratio}")
    return first + line <= TO_FIRST_CHECK and spent + line <= TO_MODEL
