"""What can be wrong with a gradebook's file, as sentences."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

#: Seconds for which another program may hold the gradebook.
PATIENCE = 5.0


class GradebookError(OSError):
    """The gradebook cannot be read or written; the message says why and what to do."""


def look(path: Path) -> None:
    """Look whether a gradebook can be used, before hours of work depend on it; one that is not there can.

    Raises:
        GradebookError: it is in use, made by another nbgrader, damaged, or may not be read or written.
    """
    if not path.exists():
        return
    with explained(path):
        with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            state = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            columns = {table: {row[1] for row in db.execute(f"PRAGMA table_info('{table}')")} for table in tables}
            db.execute("ROLLBACK")
        if state != "ok":
            raise sqlite3.DatabaseError(f"malformed: {state}")
        from nbgrader.api import Base

        for table in Base.metadata.sorted_tables:
            if table.name not in columns and {"assignment", "student"} & tables:
                raise sqlite3.OperationalError(f"no such table: {table.name}")
            for column in table.columns if table.name in columns else ():
                if column.name not in columns[table.name]:
                    raise sqlite3.OperationalError(f"no such column: {table.name}.{column.name}")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a database's error into a sentence.

    Raises:
        GradebookError: instead of what sqlite3 or SQLAlchemy raise.
    """
    quiet = logging.root.manager.disable
    logging.disable(logging.ERROR)  # nbgrader would log the traceback, too
    try:
        yield
    except Exception as error:
        if not isinstance(error, sqlite3.Error) and not type(error).__module__.startswith("sqlalchemy"):
            raise
        text = str(getattr(error, "orig", None) or error).splitlines()[0][:200]
        raise GradebookError(f"{path}: {_sentence(text.lower())} ({text})") from None
    finally:
        logging.disable(quiet)


def _sentence(text: str) -> str:
    kept = "nothing that is graded is lost"
    if "locked" in text or "busy" in text:
        return f"another program is using the gradebook (formgrader, a viewer): close it and run this again; {kept}"
    if "no such column" in text or "no such table" in text or "has no column" in text:
        return (
            "the gradebook was made by another nbgrader: keep a copy, run `nbgrader db upgrade` in its folder, and "
            f"then this again; {kept}"
        )
    if "readonly" in text or "unable to open" in text or "permission" in text:
        return f"the gradebook may not be written or read: give yourself the right, and run this again; {kept}"
    if "disk" in text and "full" in text:
        return f"the disk is full: make room and run this again; {kept}"
    return (
        "the gradebook is damaged: put a copy back, or move it away and run `python -m autograder grade` again, which "
        "makes it again from what is graded; points given by hand are only in the gradebook"
    )
