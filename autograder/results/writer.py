"""Writes what follows from results: gradebook, executed notebooks and feedback as they come, tables at the end."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder.engine import border
from autograder.engine.assignment import Assignment
from autograder.engine.job import Row
from autograder.engine.store import Store
from autograder.exercises import STAGES
from autograder.files import write_whole
from autograder.intake.names import NOBODY
from autograder.intake.register import Register
from autograder.results import (
    copies,
    feedback,
    handed_in,
    history,
    integrity,
    report,
    roster,
    tables,
    templates,
)
from autograder.results.database import explained, look

if TYPE_CHECKING:
    from autograder.results.gradebook import Book

#: Rows that are written in one transaction.
BATCH = 10


class Writer:
    """Writes gradebook, executed notebooks and feedback. Use as a context manager.

    Attributes:
        waiting: rows whose results are in the store and not written out yet; or that have a problem.
        expected: stages of which rows will come.
    """

    def __init__(self, out: Path, store: Store, assignments: Mapping[str, Assignment], expected: Collection[str] = ()):
        self.out, self.store, self.assignments, self.expected = out, store, assignments, expected
        self.waiting: list[Row] = []
        self._book: Book | None = None
        self._stages: set[str] = set()
        self._last = time.monotonic()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._book is not None:
            self._book.__exit__()

    def some(self) -> None:
        """Write what waits, if it is worth a transaction.

        The first call does what can be done before there is a row, and takes a while: workers are warming up then.
        """
        if self._book is None:
            with explained(self.out / "gradebook.db"):
                self._prepare()
        if len(self.waiting) >= BATCH or (self.waiting and time.monotonic() - self._last > 1):
            self.all()

    def all(self) -> None:
        """Write what waits: a stamp for each row says that the rest is there."""
        with explained(self.out / "gradebook.db"):
            self._all(self._open())

    def _all(self, book: Book) -> None:
        rows, self.waiting = self.waiting, []
        for start in range(0, len(rows), BATCH):
            stamps = [self._safely(row, book) for row in rows[start : start + BATCH]]
            book.commit()
            for path, text in filter(None, stamps):
                write_whole(path, text.encode())
            for row in rows[start : start + BATCH]:
                row.cells = []  # kept in a file now; a class's, with the pictures in them, would fill the memory
        self._last = time.monotonic()

    def _prepare(self) -> None:
        book = self._open()
        for stage in self.expected:
            self._add(stage, book)
            cells = self.assignments[stage].release["cells"]
            feedback.page(self.assignments[stage], Row("", stage, cells=cells))  # reads the page's parts
        templates.read("report.html")

    def _add(self, stage: str, book: Book) -> None:
        if stage not in self._stages:
            book.add_assignment(self.assignments[stage])
            self._stages.add(stage)

    def _open(self) -> Book:
        if self._book is None:
            look(self.out / "gradebook.db")
            from autograder.results import gradebook  # with nbgrader and much else

            self._book = gradebook.Book(self.out).__enter__()
        return self._book

    def _safely(self, row: Row, book: Book) -> tuple[Path, str] | None:
        """`_row`; what goes wrong with one row is written down as its problem, and the others go on."""
        try:
            return self._row(row, book)
        except Exception as error:
            if _of_the_machine(error):
                raise
            row.problem = border.text(f"it cannot be written out ({type(error).__name__}: {error})", 300)
        try:
            return self._row(row, book)
        except Exception as error:
            if _of_the_machine(error):
                raise
            row.finish({})  # it is in the report and not in the gradebook, and the next run tries again
            return None

    def _row(self, row: Row, book: Book) -> tuple[Path, str] | None:
        record = {} if row.problem else self.store.get(row.key)
        assignment = self.assignments[row.stage]
        row.finish(record)
        row.flags = integrity.flags(row, assignment)
        if row.stopped:
            row.notes.append("; ".join(f"cell {stop['cell'] + 1}: {stop['why']}" for stop in row.stopped))
        stamp = self.out / ".grading" / "written" / row.stage / f"{row.student}.json"
        what = [row.key, row.problem, self.store.number(row.key)]
        written, before = json.dumps(what + row.notes), stamp.read_text(encoding="utf-8") if stamp.exists() else "[]"
        if json.loads(before)[: len(what)] == what:
            return None if before == written else (stamp, written)
        self._add(row.stage, book)
        complete = replace(row, outputs=record.get("outputs", {}))
        if not (row.problem and row.student == NOBODY):  # files of nobody known are no student
            book.write(assignment, complete)
        target = feedback.file_of(self.out, row)
        handed_in.keep_cells(self.out, row)
        if row.status == "graded":
            by_hand = book.given(row.stage, row.student)
            own = handed_in.evidence(self.out, row.stage, row.student)
            write_whole(target, feedback.page(assignment, complete, by_hand, own).encode())
        else:
            target.unlink(missing_ok=True)
        return stamp, written


def _of_the_machine(error: Exception) -> bool:
    """Whether an error would hit every row: a full or broken disk, a gradebook that is locked or no gradebook."""
    from sqlalchemy.exc import DatabaseError

    full = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENOMEM)
    return isinstance(error, DatabaseError) or (isinstance(error, OSError) and error.errno in full)


def write_tables(
    out: Path, store: Store, rows: Sequence[Row], assignments: Mapping[str, Assignment], seconds: float
) -> None:
    """Write ``report.html`` and ``grades.csv``, on this run's rows and on all that was graded in earlier runs.

    Args:
        out: the course folder.
        store: its results.
        rows: those that are finished.
        assignments: of their stages.
        seconds: what this run took.
    """
    history.keep_hints(out, rows)
    copies.keep(out, rows, assignments)
    rewrite_tables(out, store, rows, seconds)


def rewrite_tables(out: Path, store: Store, rows: Sequence[Row] = (), seconds: float = 0.0) -> None:
    """Write them on ``rows`` and on what else is in the course folder."""
    now, hints = {(row.stage, row.student) for row in rows}, history.hints(out)
    everything = list(rows)
    for row in graded_before(out, store, now):
        row.flags = hints.get(row.stage, {}).get(row.student, [])
        everything.append(row)
    everything.sort(key=lambda row: (row.stage, row.student))
    alike = copies.groups(out, {(row.stage, row.student) for row in everything})
    page = report.page(everything, seconds, history.last_changes(out), roster.load(out), alike, Register(out).numbers())
    write_whole(out / "report.html", page.encode())
    write_whole(out / "grades.csv", tables.grades_csv(everything).encode())


def graded_before(out: Path, store: Store, but: Collection[tuple[str, str]] = ()) -> Iterator[Row]:
    """What was written into this course folder, but these (stage, student); without answers and outputs."""
    for path in (out / ".grading" / "written").glob("*/*.json"):
        if (path.parent.name, path.stem) in but:
            continue
        key, problem, _, *notes = json.loads(path.read_text(encoding="utf-8"))
        if path.parent.name in STAGES and (problem or key in store):
            row = Row(path.stem, path.parent.name, problem=problem, notes=notes)
            row.finish({} if problem else store.get(key))
            yield row
