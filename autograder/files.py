"""Writing files so that nobody ever sees half of one. It imports nothing large: the grading command starts with it."""

from __future__ import annotations

import errno
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


def ignored_by_git(folder: Path) -> None:
    """Keep a folder of students' work out of the repository that it may lie in, whatever it is called."""
    if not (folder / ".gitignore").exists():
        write_whole(folder / ".gitignore", b"*\n")


def course_folder(folder: Path) -> Path:
    """A course folder before its first grading, made if it is named; the current one is not taken for one by chance.

    Raises:
        ValueError: the folder is the current one, and nothing was graded into it.
    """
    if not (folder / ".grading").is_dir():
        if folder == Path("."):
            raise ValueError("nothing was graded in this folder: say with --graded where the course is")
        folder.mkdir(parents=True, exist_ok=True)
        ignored_by_git(folder)
        print(f"a new course folder: {folder}")
    return folder.resolve()


def sentence(error: BaseException) -> str:
    """An error for the person at the command line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return no_room(error) or f"{error.filename}: {error.strerror.lower()}"
    return no_room(error) or str(error)


def no_room(error: BaseException) -> str:
    """What to do if the disk is full, or a quota; "" if an error says something else."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "database or disk is full" in str(error):
        return "the disk is full. What is graded stays: make room, and run the same command again to go on"
    return ""
