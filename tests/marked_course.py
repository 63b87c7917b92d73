"""A graded course with written answers, made without running a notebook: where marking, feedback and tables start."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from nbgrader.api import Gradebook

from autograder.engine.assignment import Assignment, grade_id
from autograder.engine.job import Row
from autograder.engine.store import Store
from autograder.evaluation import Result, result_from
from autograder.exercises import STAGES
from autograder.intake.rebuild import rebuild
from autograder.results import handed_in, history
from autograder.results.writer import Writer, write_tables
from lora_ref.checks.verdicts import Check, Fault, Verdict

STAGE = "02_lora_layer"
WRITTEN = "Both start at zero, so no gradient flows."
#: A picture of one pixel.
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def results(wrong: str = "", stage: str = STAGE) -> list[Result]:
    """Of all exercises of a stage; those whose check's id begins with ``wrong`` failed."""
    fault = Fault("seen", "likely")

    def verdict(check: Check) -> Verdict:
        failed = bool(wrong) and check.id.startswith(wrong)
        return Verdict(check.id, check.contract, check.points, fault if failed else None)

    return [result_from(e.id, [verdict(check) for check in e.hidden]) for e in STAGES[stage] if not e.manual]


class Course:
    """A course folder, graded without running anything."""

    def __init__(self, out: Path, stage: str = STAGE):
        self.out, self.stage = out, stage
        self.assignment = Assignment.load(stage)
        self.code, self.written = (
            [n for n, c in self.assignment.answer_cells().items() if (c["cell_type"] == "code") == code]
            for code in (True, False)
        )

    def row(self, student: str, answers: Mapping[str, str], key: str) -> Row:
        """A submission with these sources in its answer cells, the others as released."""
        cells = copy.deepcopy(self.assignment.release["cells"])
        for cell in cells:
            cell["source"] = answers.get(grade_id(cell), cell["source"])
        made = rebuild(cells, self.assignment, [])
        kept = {"answers": made.answers, "cells": made.cells, "open": made.open, "waits": made.waits}
        return Row(student, self.stage, origin=f"{student}.ipynb", **kept, key=key, seed=1)

    def keep(self, rows: Iterable[Row], wrong: str = "") -> Store:
        """Write rows into the course, those without a problem with their results."""
        store, record = Store(self.out / ".grading"), [result.to_dict() for result in results(wrong, self.stage)]
        with Writer(self.out, store, {self.stage: self.assignment}) as writer:
            for row in rows:
                if not row.problem:
                    store.put(row.key, {"results": record, "outputs": {}, "seconds": 1.0})
                writer.waiting.append(row)
            writer.all()
        return store

    def grade(self, *students: str, wrong: str = "", key: str = "k", written: str = WRITTEN, problem: str = "") -> None:
        """As `python -m autograder grade` does after the work is done; a new ``key``: the checks have changed."""
        before = history.stamps(self.out)
        answers = dict.fromkeys(self.code, "x = 1") | dict.fromkeys(self.written, written)
        rows = [self.row(student, answers, f"{key}{self.stage}{student}") for student in students]
        for row in rows:
            row.problem = problem
        store = self.keep(rows, wrong)
        history.record(self.out, store, before, rows, {(self.stage, s): written for s in students}, "a.zip")
        write_tables(self.out, store, rows, {self.stage: self.assignment}, 1.0)

    @property
    def table(self) -> dict[str, dict[str, str]]:
        with open(self.out / "grades.csv", encoding="utf-8", newline="") as file:
            return {row["student"]: row for row in csv.DictReader(file)}

    def marks(self, student: str) -> dict[str, tuple[float | None, float | None, bool]]:
        """(automatic score, manual score, whether it needs a look), of each graded cell."""
        with Gradebook(f"sqlite:///{self.out / 'gradebook.db'}") as book:
            grades = book.find_submission_notebook(self.stage, self.stage, student).grades
            return {g.name: (g.auto_score, g.manual_score, g.needs_manual_grade) for g in grades}

    def mark(self, student: str, points: float) -> None:
        """What a person does in formgrader: points for each written answer."""
        with Gradebook(f"sqlite:///{self.out / 'gradebook.db'}") as book:
            for grade in book.find_submission_notebook(self.stage, self.stage, student).grades:
                if grade.name in self.written:
                    grade.manual_score, grade.needs_manual_grade = points, False
            book.db.commit()


def grade(out: Path, stage: str, answers: Mapping[str, str | None], evidence: handed_in.Evidence | None = None) -> None:
    """Grade students who have every automatic point.

    Args:
        out: the course; it may have other stages, or an older grading of this one.
        stage: which.
        answers: student -> the written answer; None leaves it as it was released.
        evidence: what each notebook showed, the same for all.
    """
    course = Course(out, stage)
    for student in answers:
        handed_in.keep_evidence(out, student, stage, evidence or {})
    course.keep(
        course.row(student, {} if text is None else dict.fromkeys(course.written, text), f"{student}-{hash(text)}")
        for student, text in answers.items()
    )


def submission_cell(notebook: dict, name: str) -> dict:
    """A notebook's cell by its ``grade_id``."""
    return next(cell for cell in notebook["cells"] if grade_id(cell) == name)
