"""A graded course with written answers in it, made without running a notebook: what marking and feedback start from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from autograder.engine.assignment import Assignment, grade_id
from autograder.engine.job import Row
from autograder.engine.store import Store
from autograder.evaluation import result_from
from autograder.exercises import STAGES
from autograder.intake.rebuild import rebuild
from autograder.marking.desk import cell_of
from autograder.results import handed_in
from autograder.results.writer import Writer
from lora_ref.checks.verdicts import Verdict

#: A picture of one pixel.
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def grade(out: Path, stage: str, answers: Mapping[str, str], evidence: handed_in.Evidence | None = None) -> None:
    """Grade students who have every automatic point.

    Args:
        out: the course; it may have other stages, or an older grading of this one.
        stage: which.
        answers: student -> the written answer; None leaves it as it was released.
        evidence: what each notebook showed, the same for all.
    """
    assignment, store = Assignment.load(stage), Store(out / ".grading")
    (written,) = (e for e in STAGES[stage] if e.manual)
    results = [
        result_from(e.id, [Verdict(check.id, check.contract, check.points) for check in e.hidden])
        for e in STAGES[stage]
        if not e.manual
    ]
    with Writer(out, store, {stage: assignment}) as writer:
        for student, text in answers.items():
            cells = copy.deepcopy(assignment.release["cells"])
            for cell in cells:
                if text is not None and grade_id(cell) == cell_of(written.id):
                    cell["source"] = text
            made = rebuild(cells, assignment, [])
            kept = {"answers": made.answers, "cells": made.cells, "open": made.open, "waits": made.waits}
            row = Row(student, stage, **kept, key=f"{student}-{hash(text)}", seed=1)
            handed_in.keep_evidence(out, student, stage, evidence or {})
            store.put(row.key, {"results": [result.to_dict() for result in results], "outputs": {}})
            writer.waiting.append(row)
        writer.all()


def submission_cell(notebook: dict, name: str) -> dict:
    """A notebook's cell by its ``grade_id``."""
    return next(cell for cell in notebook["cells"] if grade_id(cell) == name)
