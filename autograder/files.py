"""Writing files so that nobody ever sees half of one. It imports nothing large: the grading command starts with it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file as a whole or, when interrupted, not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)  # mkstemp's own 0600 would hide the notebook from a grading group
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
