"""Packs what students get into one zip.

    lora-from-scratch/START.html                  one page: set up, work, hand in
    lora-from-scratch/lora_ref-<version>.whl      the reference package
    lora-from-scratch/notebooks/NN_stage/NN_stage.ipynb

A zip that shows a solution, a hidden test or a mark scheme is never written: `assert_clean` opens what was
packed and looks for them.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from autograder.exercises import ROOT
from autograder.files import write_whole
from autograder.publish.notebooks import MARKERS, BuildError, build, find_masters
from autograder.publish.opening import Repository, badge, repository
from autograder.publish.preprocessors import GAP, GIVEN, clear_gaps
from autograder.results.templates import render

TOP = "lora-from-scratch"
NEVER = (*MARKERS, "grade_cell")  # words that no student's file holds
PRIVATE = {
    "autograder",
    "solutions",
    "submitted",
    "autograded",
    "feedback",
    "tests",
}  # folders that no zip holds
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can carry
SHORTEST = 8  # characters; a shorter line of a solution ("pass", "else:") tells nothing


class LeakError(RuntimeError):
    """A student's file holds what only graders may see; the message says which file and what."""


def build_wheel(root: Path, folder: Path) -> Path:
    """Builds the `lora_ref` wheel into `folder` without a download: setuptools must be installed.

    The sources are copied first: a `build/` folder left over in the checkout would get into the wheel.

    Raises:
        RuntimeError: pip could not build it; its output is in the message.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            if (root / name).is_file():
                shutil.copy(root / name, scratch)
        shutil.copytree(root / "lora_ref", f"{scratch}/lora_ref", ignore=shutil.ignore_patterns("__pycache__"))
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--disable-pip-version-check",
            "--no-index",
        ]
        command += ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), scratch]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}  # EPOCH: the same wheel on every day
        result = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(folder.glob("lora_ref-*.whl"))
    if result.returncode or len(wheels) != 1:
        raise RuntimeError(f"pip could not build the wheel:\n{result.stdout}{result.stderr}")
    return wheels[0]


def pack(files: dict[str, bytes], programs: Collection[str] = ()) -> bytes:
    """A zip of these files, the same bytes for the same contents: sorted, one date, plain permissions."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, (0o755 if name in programs else 0o644) << 16  # Unix everywhere
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name])
    return buffer.getvalue()


def _repacked(wheel: Path) -> bytes:
    """The wheel without the builder's file permissions and order."""
    with zipfile.ZipFile(wheel) as archive:
        return pack({name: archive.read(name) for name in archive.namelist()})


def _strings(value: Any) -> Iterator[str]:
    """Every text in a parsed notebook, sources and outputs alike, with lists of lines joined."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        yield "".join(value)
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _texts(data: bytes, inside: str = "") -> Iterator[tuple[str, str]]:
    """The name and the text of each file in a zip, and of each file in a wheel or zip inside it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith((".whl", ".zip")):
                yield from _texts(content, f"{inside}{name}!")
            elif name.endswith(".ipynb"):
                yield inside + name, "\n".join(_strings(json.loads(content)))
            else:
                yield inside + name, content.decode("utf-8", "replace")


def secret_lines(root: Path) -> set[str]:
    """What only graders may see: the lines of gaps, model answers and mark schemes in the masters.

    A line that students see anyway isn't secret: one that stands in the open part of a master, in the wrong code of a
    "spot the bug" gap, or in `lora_ref`, which is the reference they install.
    """
    hidden, visible = [], [path.read_text(encoding="utf-8") for path in sorted(root.glob("lora_ref/**/*.py"))]
    for master in find_masters(root):
        for cell in jupytext.read(master, fmt="py:percent").cells:
            if "written" in cell.metadata:
                hidden.append(cell.source)
            else:
                hidden += [GIVEN.split(gap["body"])[0] for gap in GAP.finditer(cell.source)]
                visible.append(clear_gaps(cell.source))
    open_text = "\n".join(visible)
    lines = {line.strip() for text in hidden for line in text.splitlines() if "MARK SCHEME" not in line}
    return {line for line in lines if len(line) >= SHORTEST and line not in open_text}


def assert_clean(data: bytes, secrets: set[str]) -> None:
    """Looks into a zip, and the wheels in it, for what students must not get.

    Args:
        data: the zip.
        secrets: lines that must not occur, from `secret_lines`.

    Raises:
        LeakError: names the file and the first thing found in it.
    """
    for name, text in _texts(data):
        private = PRIVATE & set(re.split(r"[/!]", name))
        leaks = [word for word in NEVER if word in text] or sorted(line for line in secrets if line in text)
        if private or leaks:
            what = f"lies in {private.pop()}/" if private else f"contains {leaks[0]!r}"
            raise LeakError(f"not released: {name} {what}")


def start_page(wheel: str, stages: list[str], public: Repository | None, root: Path = ROOT) -> str:
    """`START.html`, which also says how to work on Colab: with an upload, or by a link where the course is public."""
    rows = [_stage_row(root / "notebooks" / stage / f"{stage}.ipynb") for stage in stages]
    return render("start.html", wheel=wheel, stages=stages, rows=rows, linked=bool(badge(public, stages[0])))


def _stage_row(notebook: Path) -> dict[str, str]:
    """A stage's title, points and minutes, as the head of its notebook says them; empty where there is none."""
    row = dict.fromkeys(("title", "points", "time"), "") | {"stage": notebook.stem}
    if notebook.is_file():
        head = nbformat.read(notebook, as_version=4).cells[0].source
        heading = re.match(r"# (?P<title>.+)\n[\s\S]*?· (?P<points>\d+) points · (?P<time>about [\w.]+ \w+)", head)
        row |= heading.groupdict() if heading else {}
    return row


def release(root: str | Path, out: str | Path = "dist") -> Path:
    """Writes `lora-from-scratch-<version>.zip` for students.

    Args:
        root: the project's root; its notebooks must be what `make build` makes.
        out: the folder for the zip, made if need be; relative to the current folder.

    Returns:
        The zip's path.

    Raises:
        BuildError: notebooks are out of date, or a master is at fault.
        LeakError: the zip would show what only graders may see; nothing is written.
        RuntimeError: the wheel cannot be built.
    """
    root, out = Path(root), Path(out)
    if stale := build(root, check=True):
        raise BuildError(f"run `make build` first: {', '.join(str(path) for path in stale)}")
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(root, Path(folder))
        files = {wheel.name: _repacked(wheel)}
    stages = [master.stem for master in find_masters(root)]
    for stage in stages:
        files[f"notebooks/{stage}/{stage}.ipynb"] = (root / "notebooks" / stage / f"{stage}.ipynb").read_bytes()
    files["START.html"] = start_page(wheel.name, stages, repository(root), root).encode()
    data = pack({f"{TOP}/{name}": content for name, content in files.items()})
    assert_clean(data, secret_lines(root))
    path = out / f"{TOP}-{wheel.name.split('-')[1]}.zip"
    write_whole(path, data)
    return path
