"""A student's work in a graded course, as a whole: taken out, made another's, or given 0 where it cannot be graded."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from autograder.engine.store import Store
from autograder.exercises import STAGES
from autograder.intake.register import Register
from autograder.results import history
from autograder.results.writer import rewrite_tables

#: Folders with STUDENT/STAGE, in a course of nbgrader's layout.
FOLDERS = ("submitted", "autograded", "feedback")
#: What stands for what a person read where there was nothing to read (`autograder.results.gradebook.ZERO`).
ZERO = "nothing"


class StudentError(ValueError):
    """It cannot be done, or not without being told so; the message says why."""


@contextmanager
def changed(out: Path) -> Iterator[sqlite3.Connection]:
    """The gradebook of a course, which is copied first; afterwards the tables are written again.

    Raises:
        StudentError: there is no gradebook, or another program is using it.
    """
    database = out / "gradebook.db"
    if not database.is_file():
        raise StudentError(f"no gradebook.db in {out}: give the folder that `autograder grade --out` wrote")
    try:
        with closing(sqlite3.connect(database, timeout=5)) as db:
            _copy(db, out / ".grading" / "copies")
            with db:
                yield db
    except sqlite3.Error as error:
        raise StudentError(f"{database}: {error}; nothing is changed") from None
    rewrite_tables(out, Store(out / ".grading"))


def _copy(db: sqlite3.Connection, folder: Path) -> None:
    """Copy a gradebook into a file of its own, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y%m%d-%H%M%S")
    names = (f"gradebook-{now}{f'-{n}' if n else ''}.db" for n in itertools.count())
    path = next(folder / name for name in names if not (folder / name).exists())
    try:
        with closing(sqlite3.connect(path)) as kept:
            db.backup(kept)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def stages_of(db: sqlite3.Connection, student: str) -> dict[str, str]:
    """stage -> the id of a student's submission.

    Raises:
        StudentError: there is no such student; the message names those with nearly that name.
    """
    if not db.execute("SELECT 1 FROM student WHERE id = ?", [student]).fetchone():
        near = db.execute("SELECT id FROM student WHERE id LIKE ? LIMIT 5", [f"%{student[:4]}%"])
        some = ", ".join(name for (name,) in near)
        raise StudentError(f"no student {student!r} in the gradebook{f'; there are {some}' if some else ''}")
    rows = db.execute(
        "SELECT a.name, s.id FROM submitted_assignment s JOIN assignment a ON a.id = s.assignment_id"
        " WHERE s.student_id = ?",
        [student],
    )
    return dict(rows.fetchall())


def _grades(db: sqlite3.Connection, submission: str) -> dict[str, tuple[str, float | None, int, str]]:
    """cell id -> (id of the grade, points by hand, needs a look, id of the notebook)."""
    rows = db.execute(
        "SELECT g.cell_id, g.id, g.manual_score, g.needs_manual_grade, n.id FROM grade g"
        " JOIN submitted_notebook n ON n.id = g.notebook_id WHERE n.assignment_id = ?",
        [submission],
    )
    return {cell: (grade, points, look, notebook) for cell, grade, points, look, notebook in rows}


def remove(out: Path, student: str, stage: str | None = None, marked: bool = False) -> list[str]:
    """Take a student's work out of a course: of one stage, or all of it and the student.

    Args:
        out: the course folder.
        student: as the course calls them.
        stage: which; None: all.
        marked: also if a person has given points.

    Returns:
        The stages that were taken out.

    Raises:
        StudentError: there is none, or it has points by hand and ``marked`` is false.
    """
    with changed(out) as db:
        stages = stages_of(db, student)
        if stage is not None and stage not in stages:
            raise StudentError(f"{student} has no submission of {stage}")
        gone = [stage] if stage else sorted(stages)
        for name in gone:
            by_hand = [points for _, points, *_ in _grades(db, stages[name]).values() if points is not None]
            if by_hand and not marked:
                raise StudentError(
                    f"{student}, {name}: {sum(by_hand):g} points were given by hand; --marked takes them out too"
                )
        for name in gone:
            _drop(db, stages[name])
        if not set(stages) - set(gone):
            db.execute("DELETE FROM student WHERE id = ?", [student])
            register = Register(out)
            register.forget(student)
            register.save()
        for name in gone:
            _files(out, name, student, lambda path: shutil.rmtree(path) if path.is_dir() else path.unlink())
            history.forget(out, name, student)
    return gone


def _drop(db: sqlite3.Connection, submission: str) -> None:
    notebooks = "SELECT id FROM submitted_notebook WHERE assignment_id = ?"
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in {"grade", "comment", "lora_read"} & tables:
        db.execute(f"DELETE FROM {table} WHERE notebook_id IN ({notebooks})", [submission])
    db.execute("DELETE FROM submitted_notebook WHERE assignment_id = ?", [submission])
    db.execute("DELETE FROM submitted_assignment WHERE id = ?", [submission])


def _files(out: Path, stage: str, student: str, do: Callable[[Path], Any]) -> None:
    """Do something with everything that grading wrote about a submission."""
    places = [out / folder / student / stage for folder in FOLDERS]
    places += (out / ".grading").glob(f"*/{stage}/*.json")
    for path in places:
        if path.exists() and (path.name == stage or path.stem == student):
            do(path)
    for folder in FOLDERS:
        home = out / folder / student
        if home.is_dir() and not any(home.iterdir()):
            home.rmdir()


def merge(out: Path, student: str, into: str) -> list[str]:
    """Make one student's work another's, for good: what comes in under the old name is the other's too.

    Of a stage that both have, the other's counts; points and comments by hand go along where the other has none, and
    are marked for a look where the answers are not the same.

    Returns:
        What was done, a line for each stage.

    Raises:
        StudentError: one of them is not there.
    """
    if student == into:
        raise StudentError("these are one student")
    done = []
    with changed(out) as db:
        theirs, others = stages_of(db, student), stages_of(db, into)
        for stage, submission in sorted(theirs.items()):
            if stage in others:
                moved = _carry(db, submission, others[stage])
                _drop(db, submission)
                done.append(f"{stage}: {into}'s own counts" + (f"; {moved} grades by hand went along" if moved else ""))
            else:
                db.execute("UPDATE submitted_assignment SET student_id = ? WHERE id = ?", [into, submission])
                done.append(f"{stage}: now {into}'s")
        db.execute("DELETE FROM student WHERE id = ?", [student])
        register = Register(out)
        register.forget(student, into)
        register.save()

        def move(path: Path) -> None:
            json = path.suffix == ".json" and path.is_file()
            target = path.with_name(f"{into}.json") if json else path.parents[1] / into / path.name
            if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(target, ignore_errors=True)
                path.rename(target)

        for stage in theirs:
            _files(out, stage, student, move)
            history.forget(out, stage, student, into)
    return done


def _carry(db: sqlite3.Connection, one: str, other: str) -> int:
    """Take points and comments by hand along, where the other submission has none."""
    read = {}
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'lora_read'").fetchone():
        read = {(n, c): what for n, c, what in db.execute("SELECT notebook_id, cell_id, digest FROM lora_read")}
    theirs, moved = _grades(db, other), 0
    for cell, (_, points, look, notebook) in _grades(db, one).items():
        if points is None or cell not in theirs or theirs[cell][1] is not None:
            continue
        target, _, _, home = theirs[cell]
        same = read.get((notebook, cell)) is not None and read.get((notebook, cell)) == read.get((home, cell))
        values = [points, int(look or not same), target]
        db.execute("UPDATE grade SET manual_score = ?, needs_manual_grade = ? WHERE id = ?", values)
        moved += 1
    comments = (
        "SELECT c.cell_id, c.manual_comment FROM comment c JOIN submitted_notebook n ON n.id = c.notebook_id"
        " WHERE n.assignment_id = ? AND c.manual_comment IS NOT NULL"
    )
    for cell, text in db.execute(comments, [one]).fetchall():
        db.execute(
            "UPDATE comment SET manual_comment = ? WHERE cell_id = ? AND manual_comment IS NULL"
            " AND notebook_id IN (SELECT id FROM submitted_notebook WHERE assignment_id = ?)",
            [text, cell, other],
        )
    return moved


def zero(out: Path, student: str, stage: str) -> None:
    """Give 0 to a submission that cannot be graded. When one comes in that can, it is graded as any other.

    Raises:
        StudentError: there is none, or it was graded.
    """
    with changed(out) as db:
        stages = stages_of(db, student)
        if stage not in stages:
            raise StudentError(f"{student} has no submission of {stage}")
        if (out / "autograded" / student / stage).is_dir():
            raise StudentError(f"{student}, {stage} is graded: change points in formgrader, where the answers are")
        for cell, (grade, _, _, notebook) in _grades(db, stages[stage]).items():
            db.execute("UPDATE grade SET manual_score = 0, needs_manual_grade = 0 WHERE id = ?", [grade])
            db.execute("INSERT OR REPLACE INTO lora_read VALUES (?, ?, ?)", [notebook, cell, ZERO])


def undo(out: Path, marked: bool = False) -> tuple[str, list[str], list[str]]:
    """Take out what the last grading run brought in for the first time.

    Returns:
        Where its submissions were; what was taken out; what it graded again, which stays: grading the earlier files
        again puts that back, and nothing runs twice.

    Raises:
        StudentError: nothing is known of a run, or a new submission has points by hand and ``marked`` is false.
    """
    run = history.last_changes(out)
    if not run:
        raise StudentError(f"no grading run is recorded in {out}")
    present = history.stamps(out)
    gone = [(stage, student) for stage, student in run["new"] if stage in STAGES and (stage, student) in present]
    with changed(out) as db:
        stages = {student: stages_of(db, student) for _, student in gone}
        for stage, student in gone:
            grades = _grades(db, stages[student][stage]) if stage in stages[student] else {}
            if not marked and any(points is not None for _, points, *_ in grades.values()):
                raise StudentError(f"{student}, {stage} has points by hand; --marked takes them out too")
        register = Register(out)
        for stage, student in gone:
            if stage in stages[student]:
                _drop(db, stages[student].pop(stage))
            if not stages[student]:
                db.execute("DELETE FROM student WHERE id = ?", [student])
                register.forget(student)
            _files(out, stage, student, lambda path: shutil.rmtree(path) if path.is_dir() else path.unlink())
            history.forget(out, stage, student)
        register.save()
        history.forget_last(out)
    again = sorted({f"{student}, {stage}" for stage, student, *_ in run["changed"]})
    return run["what"], [f"{student}, {stage}" for stage, student in gone], again
