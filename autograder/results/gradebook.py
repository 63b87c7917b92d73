"""The one writer of nbgrader's gradebook and of the executed notebooks.

``out`` becomes a course of nbgrader's layout: `nbgrader formgrader`, manual grading, `nbgrader generate_feedback` and
`nbgrader export` work on it. Scores come from the oracle's records, never from what a notebook shows.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from autograder.engine.assignment import ROOT, STUDENT, Assignment, digest, grade_id, source_of
from autograder.engine.assignment import nbgrader as metadata_of
from autograder.engine.job import Row
from autograder.files import write_whole
from autograder.results import marks
from autograder.results.harmless import Page, harmless, harmless_output  # noqa: F401

#: What is imported on the way and not needed here, in seconds: jsonschema has the first build the grammar of a format
#: that no notebook's schema names (1.1); nbgrader imports its four server extensions, with all that they serve (0.2).
UNUSED = {"rfc3987_syntax": None} | {
    f"nbgrader.server_extensions.{name}": SimpleNamespace(load_jupyter_server_extension=None)
    for name in ("assignment_list", "course_list", "validate_assignment", "formgrader")
}


@contextlib.contextmanager
def _without(unused: Mapping[str, Any]) -> Iterator[None]:
    """Import these modules as they are given, unless they are there already; None: as if not installed."""
    modules: dict[str, Any] = sys.modules
    instead = {name: module for name, module in unused.items() if name not in modules}
    modules |= instead
    try:
        yield
    finally:
        for name in instead:
            del modules[name]


with _without(UNUSED):
    import nbformat
    import nbgrader
    import nbgrader.api as models
    from nbgrader.preprocessors import SaveCells
    from sqlalchemy import bindparam, case, insert, or_, select, text, update
    from traitlets.config import PyFileConfigLoader

CONFIG = """\
# Made by `python -m autograder grade`: this folder is an nbgrader course with the course's own settings.
c = get_config()  # noqa: F821
load_subconfig({settings!r})
c.CourseDirectory.root = {root!r}
c.ExportPlugin.to = "nbgrader_grades.csv"  # for `nbgrader export`: its grades.csv would take the place of the command's
"""


class Book:
    """The gradebook in ``out/gradebook.db``, open for a run; use as a context manager."""

    def __init__(self, out: Path):
        self.out = out
        self.url = f"sqlite:///{out / 'gradebook.db'}"
        self._gradebook: models.Gradebook  # from `__enter__` on
        # loading it also puts nbgrader's helper commands on the path
        self._config = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT / "autograder")).load_config()
        self._stages: dict[str, _Stage] = {}
        self._students: set[str] = set()

    def __enter__(self) -> Book:
        _stamp_version(self.out / "gradebook.db")
        self._gradebook = models.Gradebook(self.url, "lora")
        db = self._gradebook.db
        self._students = set(db.scalars(select(models.Student.id)))
        db.execute(text(READ_TABLE))
        self._read = {(of, cell): what for of, cell, what in db.execute(text(f"SELECT {READ} FROM lora_read"))}
        return self

    def __exit__(self, *_: Any) -> None:
        self._gradebook.close()

    def commit(self) -> None:
        """Make what `write` brought in last."""
        self._gradebook.db.commit()

    def add_assignment(self, assignment: Assignment) -> None:
        """Make the stage known: its cells, points, hidden tests; and put the files where nbgrader looks for them."""
        stage = assignment.stage
        self._gradebook.update_or_create_assignment(stage)
        for folder, notebook in (("solutions", assignment.solution), ("notebooks", assignment.release)):
            lines = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
            write_whole(self.out / folder / stage / f"{stage}.ipynb", lines.encode())
        settings = self.out / "nbgrader_config.py"
        if not settings.exists():
            shared = str(ROOT / "autograder" / "nbgrader_config.py")
            write_whole(settings, CONFIG.format(settings=shared, root=str(self.out)).encode())
        steps = self._config.GenerateAssignment.preprocessors
        where = {"db_url": self.url, "assignment": stage, "notebook": stage, "student": "."}
        notebook, resources = nbformat.v4.reads(json.dumps(assignment.solution)), {"nbgrader": where}
        for step in steps[: steps.index(SaveCells) + 1]:  # it writes the gradebook
            notebook, resources = step(config=self._config)(notebook, resources)
        self._stages[stage] = _Stage(self._gradebook, stage)

    def write(self, assignment: Assignment, row: Row) -> None:
        """Bring one submission's scores in (`commit` makes them last), and write its executed notebook.

        A manual score stays. Its cell is marked for another look if what the person read has changed, and for no other
        reason. A submission that could not be graded has no automatic score and waits for a person.
        """
        stage, student = assignment.stage, row.student
        earned = {f"check_{r.id.replace('.', '_')}": r.earned for r in (*row.results, *row.optional)}
        known, db = self._stages[stage], self._gradebook.db
        number = known.submitted.get(student) or self._submission(known, student)
        grades, comments, reads = [], [], []
        place = self.out / "autograded" / student / stage / f"{stage}.ipynb"
        graded = executed(assignment, row) if row.status == "graded" else None
        now = what_is_read(graded) if graded else {}
        if now and place.is_file() and not any((number, cell) in self._read for cell in known.graded.values()):
            before = what_is_read(json.loads(place.read_text(encoding="utf-8")))  # graded before this was kept
            self._read |= {(number, known.graded[name]): what for name, what in before.items() if name in known.graded}
        for name, cell in known.graded.items():
            was = self._read.get((number, cell))
            if name in now and was != now[name]:
                reads.append({"notebook_id": number, "cell_id": cell, "digest": now[name]})
                self._read[number, cell] = now[name]
            score = earned.get(name)
            if score is None and row.status == "graded" and name in row.open:
                score = 0.0  # a written answer that is not there
            grade = {"of": number, "cell": cell, "score": score, "by_hand": score is None}
            grades.append(grade | {"changed": name in now and was not in (None, now[name], ZERO)})
            if was == ZERO and name in now:  # it stood for a file that could not be graded
                db.execute(FORGET_ZERO, {name: grade[name] for name in ("of", "cell", "by_hand")})
        for name, cell in known.commented.items():
            comments.append({"of": number, "cell": cell, "text": "No response." if name in row.open else None})
        db.execute(SET_GRADE, grades)
        db.execute(SET_COMMENT, comments)
        if reads:
            db.execute(text(SET_READ), reads)
        # formgrader counts these folders; the file is not put there, since its Autograde button knows no sandbox
        (self.out / "submitted" / student / stage).mkdir(parents=True, exist_ok=True)
        if graded:
            lines = json.dumps(graded, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
            write_whole(place, lines.encode())
        else:
            shutil.rmtree(self.out / "autograded" / student / stage, ignore_errors=True)

    def given(self, stage: str, student: str) -> dict[str, marks.Given]:
        """What people gave a student, also what is not committed yet."""
        rows = self._gradebook.db.connection().exec_driver_sql(marks.QUERY, (stage, student))
        return marks.given_in(rows.all())

    def _submission(self, known: _Stage, student: str) -> str:
        """A student's new submission, as nbgrader's `add_submission` makes it, but in our transaction."""
        db = self._gradebook.db
        if student not in self._students:
            db.execute(insert(models.Student), [{"id": student}])
            self._students.add(student)
        submission, notebook = uuid4().hex, uuid4().hex
        whole = {"id": submission, "assignment_id": known.assignment, "student_id": student}
        db.execute(insert(models.SubmittedAssignment), [whole])
        part = {"id": notebook, "notebook_id": known.notebook, "assignment_id": submission}
        db.execute(insert(models.SubmittedNotebook), [part])
        for kind, cells in ((models.Grade, known.graded), (models.Comment, known.commented)):
            db.execute(insert(kind), [{"cell_id": cell, "notebook_id": notebook} for cell in cells.values()])
        known.submitted[student] = notebook
        return notebook


class _Stage:
    """What the gradebook calls a stage, its cells and the submissions there are.

    Attributes:
        assignment, notebook: ids.
        graded, commented: name -> id of its cells.
        submitted: student -> id of the submitted notebook.
    """

    def __init__(self, book: models.Gradebook, stage: str):
        notebook = book.find_notebook(stage, stage)
        self.assignment, self.notebook = notebook.assignment.id, notebook.id
        self.graded = {cell.name: cell.id for cell in [*notebook.grade_cells, *notebook.task_cells]}
        self.commented = {cell.name: cell.id for cell in [*notebook.solution_cells, *notebook.task_cells]}
        submitted = models.SubmittedNotebook
        students = select(models.SubmittedAssignment.student_id, submitted.id).join(submitted.assignment)
        self.submitted = dict(book.db.execute(students.where(submitted.notebook_id == self.notebook)).all())


_GRADE, _COMMENT = models.Grade.__table__, models.Comment.__table__
SET_GRADE = (
    update(_GRADE)
    .where(_GRADE.c.notebook_id == bindparam("of"), _GRADE.c.cell_id == bindparam("cell"))
    .values(
        auto_score=bindparam("score"),
        needs_manual_grade=case(
            (_GRADE.c.manual_score.is_not(None), or_(_GRADE.c.needs_manual_grade, bindparam("changed"))),
            else_=bindparam("by_hand"),
        ),
    )
)
FORGET_ZERO = (
    update(_GRADE)
    .where(_GRADE.c.notebook_id == bindparam("of"), _GRADE.c.cell_id == bindparam("cell"), _GRADE.c.manual_score == 0)
    .values(manual_score=None, needs_manual_grade=bindparam("by_hand"))
)
#: In nbgrader's own file, so that one transaction changes both: for each graded cell, what a person reads there.
READ = "notebook_id, cell_id, digest"
READ_TABLE = f"CREATE TABLE IF NOT EXISTS lora_read ({READ}, PRIMARY KEY (notebook_id, cell_id))"
SET_READ = f"INSERT OR REPLACE INTO lora_read ({READ}) VALUES (:notebook_id, :cell_id, :digest)"
#: What stands there for the 0 that a person gave to a file that could not be graded.
ZERO = "nothing"
SET_COMMENT = (
    update(_COMMENT)
    .where(_COMMENT.c.notebook_id == bindparam("of"), _COMMENT.c.cell_id == bindparam("cell"))
    .values(auto_comment=bindparam("text"))
)


def _stamp_version(path: Path) -> None:
    """Write the version of its tables into a new gradebook: nbgrader would start a program to ask for it (0.7 s)."""
    if path.exists():
        return
    folder = Path(nbgrader.__file__).parent / "alembic" / "versions"
    texts = [file.read_text(encoding="utf-8") for file in folder.glob("*.py")]
    pattern = "^{} *= *['\"](\\w+)['\"]"
    revisions, predecessors = (
        {name for text in texts for name in re.findall(pattern.format(word), text, re.MULTILINE)}
        for word in ("revision", "down_revision")
    )
    (newest,) = revisions - predecessors
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        db.execute("INSERT INTO alembic_version VALUES (?)", (newest,))


def what_is_read(notebook: dict[str, Any]) -> dict[str, str]:
    """grade_id of each graded cell of an executed notebook -> digest of what a person reads to grade it.

    Of a written answer, that and the student's own text; of an exercise, all code of the student's.
    """
    written: dict[str, str] = {}
    exercises: list[str] = []
    code: list[str] = []
    texts: list[str] = []
    for cell in notebook["cells"]:
        known, source = metadata_of(cell), source_of(cell).strip()
        if known.get("grade") and known.get("solution"):
            written[known["grade_id"]] = source
        elif known.get("grade"):
            exercises.append(known["grade_id"])
        elif known.get("solution") or STUDENT in cell["metadata"].get("tags", ()):
            (code if cell["cell_type"] == "code" else texts).append(source)
    read = {name: digest(json.dumps([source, *texts]).encode()) for name, source in written.items()}
    return read | dict.fromkeys(exercises, digest(json.dumps(code).encode()))


def executed(assignment: Assignment, row: Row) -> dict[str, Any]:
    """The notebook that ran, with outputs; its graded cells show the hidden tests (for graders) and the points."""
    full = {grade_id(cell): cell for cell in assignment.solution["cells"] if grade_id(cell)}
    results = {r.id: r for r in (*row.results, *row.optional)}
    cells, page = [{**cell, "source": source_of(cell)} for cell in row.cells], Page()
    for number, cell in enumerate(cells):
        name = grade_id(cell)
        if metadata_of(cell).get("locked") and name in full:
            cell["source"] = source_of(full[name])
        if cell["cell_type"] != "code":
            if metadata_of(cell).get("solution") or STUDENT in cell["metadata"].get("tags", ()):
                cell["source"] = page.markdown(cell["source"], cell.get("attachments"))
            continue
        outputs = [page.output(output) for output in row.outputs.get(str(number), [])]
        exercise = assignment.exercise_of.get(name)
        if exercise:
            result = results[exercise]
            # text alone: an error or a number that the student's side put here would be a score to nbgrader
            outputs = [o for o in outputs if o["output_type"] == "stream"]
            outputs.append({"output_type": "stream", "name": "stdout", "text": result.message + "\n"})
            if result.points:
                data = {"text/plain": repr(float(result.earned))}
                last = {"output_type": "execute_result", "execution_count": number + 1, "data": data, "metadata": {}}
                outputs.append(last)
        ran = exercise or str(number) in row.outputs
        cell["outputs"], cell["execution_count"] = outputs, number + 1 if ran else None
    metadata = {key: assignment.release["metadata"][key] for key in ("kernelspec", "language_info")}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
