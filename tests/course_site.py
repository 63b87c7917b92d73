"""The course's site, built with Sphinx."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def make_site(source: Path, folder: Path, *options: str) -> Path:
    """The site, built as `make site` builds it, with a warning as an error."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", *options, "docs", str(folder)]
    environment = {**os.environ, "LORA_PROFILE": "tiny"}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
