"""The one writer of nbgrader's gradebook and of the executed notebooks.

``out`` becomes a course of nbgrader's layout: `nbgrader formgrader`, manual grading, `nbgrader generate_feedback` and
`nbgrader export` work on it. Scores come from the oracle's records, never from what a notebook shows.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import NotebookExporter
from nbgrader.api import Gradebook
from traitlets.config import PyFileConfigLoader

from autograder.contract import STAGES
from autograder.files import write_whole
from autograder.run.assignment import ROOT, Assignment, grade_id, nbgrader, source_of

CONFIG = """\
# Made by `python -m autograder grade`: this folder is an nbgrader course with the course's own settings.
c = get_config()  # noqa: F821
load_subconfig({settings!r})
c.CourseDirectory.root = {root!r}
"""


class Book:
    """The gradebook in ``out/gradebook.db``, open for a run; use as a context manager."""

    def __init__(self, out: Path):
        self.out = out
        self.url = f"sqlite:///{out / 'gradebook.db'}"
        self._gradebook: Gradebook | None = None
        # loading it also puts nbgrader's helper commands on the path
        self._config = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT / "autograder")).load_config()

    def __enter__(self) -> Book:
        self._gradebook = Gradebook(self.url, "lora")
        return self

    def __exit__(self, *_: Any) -> None:
        self._gradebook.close()

    def add_assignment(self, assignment: Assignment) -> None:
        """Make the stage known: its cells, points, hidden tests; and put the files where nbgrader looks for them."""
        stage = assignment.stage
        self._gradebook.update_or_create_assignment(stage)
        for folder, notebook in (("solutions", assignment.solution), ("notebooks", assignment.release)):
            text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
            write_whole(self.out / folder / stage / f"{stage}.ipynb", text.encode())
        settings = self.out / "nbgrader_config.py"
        if not settings.exists():
            shared = str(ROOT / "autograder" / "nbgrader_config.py")
            write_whole(settings, CONFIG.format(settings=shared, root=str(self.out)).encode())
        config = copy.deepcopy(self._config)
        config.Exporter.default_preprocessors = []
        exporter = NotebookExporter(config=config)
        for step in config.GenerateAssignment.preprocessors:  # SaveCells among them writes the gradebook
            exporter.register_preprocessor(step)
        where = {"db_url": self.url, "assignment": stage, "notebook": stage, "student": "."}
        notebook = nbformat.reads(json.dumps(assignment.solution), as_version=4)
        exporter.from_notebook_node(notebook, {"nbgrader": where})

    def write(self, assignment: Assignment, row: dict[str, Any]) -> None:
        """Bring one submission's scores in, and write its executed notebook.

        A manual score stays, and its cell is marked for another look. A submission that could not be graded has no
        automatic score and waits for a person.
        """
        stage, student = assignment.stage, row["student"]
        earned = {f"check_{r['id'].replace('.', '_')}": r["earned"] for r in row.get("results", ())}
        untouched = {
            name: row.get("answers", {}).get(name, "").strip() == source_of(cell).strip()
            for name, cell in assignment.answer_cells().items()
        }
        book = self._gradebook
        book.update_or_create_student(student)
        with book.db.no_autoflush:
            book.update_or_create_submission(stage, student)
        notebook = book.find_submission_notebook(stage, stage, student)
        for grade in notebook.grades:
            score = earned.get(grade.name)
            if score is None and row["status"] == "graded" and untouched.get(grade.name):
                score = 0.0  # a written answer that is not there
            grade.auto_score = score
            grade.needs_manual_grade = score is None or grade.manual_score is not None
        for comment in notebook.comments:
            comment.auto_comment = "No response." if untouched.get(comment.name) else None
        book.db.commit()
        if row["status"] == "graded":
            text = nbformat.writes(executed(assignment, row))
            write_whole(self.out / "autograded" / student / stage / f"{stage}.ipynb", text.encode())
        else:
            shutil.rmtree(self.out / "autograded" / student / stage, ignore_errors=True)


def executed(assignment: Assignment, row: dict[str, Any]) -> nbformat.NotebookNode:
    """The notebook that ran, with outputs; its graded cells show the hidden tests (for graders) and the points."""
    full = {grade_id(cell): cell for cell in assignment.solution["cells"] if grade_id(cell)}
    results = {r["id"]: r for r in row["results"]}
    cells = assignment.rebuilt(row["answers"])
    for number, cell in enumerate(cells):
        name = grade_id(cell)
        if nbgrader(cell).get("locked") and name in full:
            cell["source"] = source_of(full[name])
        if cell["cell_type"] != "code":
            continue
        outputs = row["outputs"].get(str(number), [])
        exercise = assignment.exercise_of.get(name)
        if exercise:
            result = results[exercise]
            # text alone: an error or a number that the student's side put here would be a score to nbgrader
            outputs = [o for o in outputs if o["output_type"] == "stream"]
            outputs.append({"output_type": "stream", "name": "stdout", "text": result["message"] + "\n"})
            data = {"text/plain": repr(float(result["earned"]))}
            last = {"output_type": "execute_result", "execution_count": number + 1, "data": data, "metadata": {}}
            outputs.append(last)
        cell["outputs"], cell["execution_count"] = outputs, number + 1
    metadata = {key: assignment.release["metadata"][key] for key in ("kernelspec", "language_info")}
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def table(rows: Iterable[dict[str, Any]]) -> str:
    """``grades.csv``: a row for each submission; automatic points, and what waits for a person."""
    rows = list(rows)
    ids = [e.id for s, es in STAGES.items() for e in es if not e.manual and any(r["stage"] == s for r in rows)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["student", "stage", "status", "score", "max_score", "by_hand", "attention", *ids])
    for row in rows:
        exercises = STAGES[row["stage"]]
        earned = {r["id"]: r["earned"] for r in row.get("results", ())}
        score = f"{sum(earned.values()):g}" if earned else ""
        most, by_hand = sum(e.points for e in exercises if not e.manual), sum(e.points for e in exercises if e.manual)
        attention = "; ".join([*filter(None, [row["problem"]]), *row["notes"]])
        cells = [row["student"], row["stage"], row["status"], score, most, by_hand, attention]
        writer.writerow([_safe(c) for c in cells] + [f"{earned[i]:g}" if i in earned else "" for i in ids])
    return out.getvalue()


def _safe(cell: Any) -> Any:
    """Text that a spreadsheet will not take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
