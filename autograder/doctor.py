"""What an instructor needs beside a student's things: the lines that `python -m lora_ref doctor` adds in a checkout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from autograder.run.sandbox import SandboxError, require
from lora_ref.doctor import BROKEN, MISSING, OK, Line, pip_install, version_of

GRADING = pip_install("-e", ".[grading]")
DEVELOPING = pip_install("-e", ".[dev]")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def examine() -> list[Line]:
    """All lines; none is a student's need."""
    return [*_nbgrader(), _sandbox(), *_browser()]


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


def _sandbox() -> Line:
    try:
        require("bwrap")
    except SandboxError as error:
        first, _, rest = str(error).partition("\n")
        status = BROKEN if shutil.which("bwrap") else MISSING
        return Line("sandbox", status, first, rest or "see README, 'I teach'", needed=False)
    return Line("sandbox", OK, "bubblewrap makes namespaces here", needed=False)


def _browser() -> Iterator[Line]:
    """What `make test` drives."""
    version = version_of("playwright")
    if version is None:
        yield Line("playwright", MISSING, "not installed", DEVELOPING, needed=False)
    else:
        yield Line("playwright", OK, version, needed=False)
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found:
        yield Line("chromium", OK, found, needed=False)
    else:
        yield Line("chromium", MISSING, "not installed; `make test` needs it", "apt-get install chromium", needed=False)
