"""What an instructor needs beside a student's things: the lines that `python -m lora_ref doctor` adds in a checkout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from autograder.system import BUBBLEWRAP, CHROMIUM, Program
from lora_ref.diagnosis import BROKEN, MISSING, OK, Line
from lora_ref.packages import pip_install, version_of

GRADING = pip_install("-e", ".[grading]")
DEVELOPING = pip_install("-e", ".[dev]")


def examine() -> list[Line]:
    """All lines; none is a student's need."""
    sandbox = _system(BUBBLEWRAP, "sandbox", "grading a class needs it")
    return [*_nbgrader(), sandbox, _playwright(), _system(CHROMIUM, "chromium", "`make test` needs it")]


def _nbgrader() -> Iterator[Line]:
    version = version_of("nbgrader")
    if version is None:
        yield Line("nbgrader", MISSING, "not installed", GRADING, needed=False)
        return
    yield Line("nbgrader", OK, version, needed=False)
    enabled = Path(sys.prefix) / "etc" / "jupyter" / "jupyter_server_config.d" / "nbgrader.json"
    if enabled.is_file():
        yield Line("formgrader", OK, "its server extension is enabled", needed=False)
    else:
        fix = f"{sys.executable} -m jupyter server extension enable --sys-prefix nbgrader.server_extensions.formgrader"
        yield Line("formgrader", MISSING, f"no {enabled}", fix, needed=False)


def _system(program: Program, name: str, why: str) -> Line:
    problem = program.problem()
    if problem is None:
        return Line(name, OK, program.path() or "", needed=False)
    installed = program.path() is not None
    fix = program.remedy() if installed or not program.possible() else f"make system, or {program.remedy()}"
    return Line(name, BROKEN if installed else MISSING, f"{problem}; {why}", fix, needed=False)


def _playwright() -> Line:
    """What `make test` drives the browser with."""
    version = version_of("playwright")
    if version is None:
        return Line("playwright", MISSING, "not installed", DEVELOPING, needed=False)
    return Line("playwright", OK, version, needed=False)
