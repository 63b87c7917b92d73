"""What nbgrader's exchange needs beside a graded notebook to give feedback back: a time and a secret."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autograder.engine.job import Row
from autograder.files import write_whole

#: nbgrader's collect leaves them beside a notebook; without them, its release_feedback ends in a traceback.
FILES = ("timestamp.txt", "submission_secret.txt")
#: Larger ones are not nbgrader's, in bytes.
MOST = 1000


def keep(out: Path, rows: Iterable[Row]) -> None:
    """Put them beside the graded notebook, from where generate_feedback takes them, and beside the feedback page."""
    for row in rows:
        home = Path(row.origin).parent
        if row.status != "graded" or home.name != row.stage:
            continue
        for source in (home / name for name in FILES):
            if source.is_symlink() or not source.is_file() or source.stat().st_size > MOST:
                continue
            data = source.read_bytes()
            for folder in ("autograded", "feedback"):
                target = out / folder / row.student / row.stage / source.name
                if not target.is_file() or target.read_bytes() != data:
                    write_whole(target, data)
