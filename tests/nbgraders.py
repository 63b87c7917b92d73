"""nbgrader's own commands, several in one process: each alone would import for seconds what all of them need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

EACH = """
import json, sys
from nbgrader.apps import NbGraderApp

for arguments in json.loads(sys.argv[1]):
    NbGraderApp.clear_instance()
    NbGraderApp.launch_instance(arguments)
"""


def run(root: Path, *commands: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Run commands one after another, as from a shell in the course's folder.

    Args:
        root: the folder.
        commands: what stands after ``nbgrader``, for each.
        env: all of their environment; by default this process's.
    """
    line = [sys.executable, "-c", EACH, json.dumps(commands)]
    done = subprocess.run(line, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
