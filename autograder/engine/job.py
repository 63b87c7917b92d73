"""A submission on its way through grading: its row, and the job that a worker gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autograder.engine.assignment import STUDENT, Assignment, environment_hash, grade_id, nbgrader, source_of
from autograder.engine.needed import needed
from autograder.engine.store import key_of, seed_of
from autograder.exercises import OPTIONAL, STAGES

if TYPE_CHECKING:  # it imports torch, and grading must start its warm process before that
    from autograder.evaluation import Result


@dataclass
class Row:
    """A submission: what was handed in and, once it is graded, what came of it.

    Attributes:
        student, stage: who and what.
        origin: where it lies, so that a person can find it.
        problem: why there is no grade, or "".
        notes: what a person should know about it.
        answers: sources of the solution cells and written answers, by ``grade_id``.
        cells: of the notebook that is graded (`autograder.intake.rebuild`).
        open, waits: ``grade_id`` of answers that are not there; of written ones that a person must look for.
        seed: from which its inputs are drawn.
        key: of its result in the store.
        status: ``"graded"`` or ``"needs attention"``; "" while it has no result.
        flags: hints that code may not be the student's own.
        results: of the exercises with automatic checks.
        optional: of those without points.
        outputs: what its cells showed, by the cell's number as text. Only while it is written out: there may be
            thousands of rows.
        stopped: what ended its process, each ``{"cell": number, "why": text}``.
        replaced: what it patched.
        origins: packages that its names come from.
        used: time and memory, as the sandbox measured them.
        seconds: how long grading it took.
    """

    student: str
    stage: str
    origin: str = ""
    problem: str = ""
    notes: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    cells: list[dict[str, Any]] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    waits: set[str] = field(default_factory=set)
    seed: int = 0
    key: str = ""
    status: str = ""
    flags: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    optional: list[Result] = field(default_factory=list)
    outputs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    stopped: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    origins: dict[str, list[str]] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def finish(self, record: Mapping[str, Any]) -> None:
        """Take over what `autograder.engine.oracle.grade` recorded, but the outputs; an empty record: not graded."""
        from autograder.evaluation import Result

        self.results = [Result.from_dict(result) for result in record.get("results", ())]
        self.optional = [Result.from_dict(result) for result in record.get("optional", ())]
        self.stopped = record.get("stopped", [])
        self.replaced = record.get("replaced", [])
        self.origins = record.get("origins", {})
        self.used = record.get("used", {})
        self.seconds = record.get("seconds", 0.0)
        self.problem = self.problem or record.get("failed", "")
        self.notes += [note for note in record.get("notes", ()) if note not in self.notes]
        self.status = "needs attention" if self.problem else "graded"

    @property
    def attention(self) -> list[str]:
        """What a person should look at: the problem and the notes."""
        return [*filter(None, [self.problem]), *self.notes]

    @property
    def score(self) -> float:
        """The automatic points."""
        return sum(result.earned for result in self.results)


def seed_and_key(student: str, submitted: str, assignment: Assignment, run_seed: int, cells: str) -> tuple[int, str]:
    """A submission's seed, and its result's key: of everything that the result depends on.

    Args:
        student: who handed it in.
        submitted: hash of the file.
        assignment: the stage.
        run_seed: of the whole run.
        cells: ``"needed"`` or ``"all"``.
    """
    seed = seed_of(run_seed, assignment.stage, student, submitted)
    return seed, key_of(student, assignment.stage, submitted, assignment.hash, environment_hash(), seed, cells)


def job_of(row: Row, assignment: Assignment, which: str) -> dict[str, Any]:
    """What a worker needs to grade a row.

    A cell that isn't code has an empty source; one whose source no answer needs is ``spare``, unless ``which`` is
    ``"all"``. So is a check's own source: the judge asks more than it does.
    """
    sources = [source_of(cell) if cell["cell_type"] == "code" else "" for cell in row.cells]
    exercises = [assignment.exercise_of.get(grade_id(cell)) for cell in row.cells]
    if which == "all":
        run = [True] * len(row.cells)
    else:
        names = {name for table in (STAGES, OPTIONAL) for exercise in table[row.stage] for name in exercise.names}
        run = needed(list(zip(sources, map(kind_of, row.cells), strict=True)), names)
    own = [STUDENT in cell["metadata"].get("tags", ()) for cell in row.cells]
    cells = [
        {"source": source, "exercise": exercise, "spare": not runs, "own": theirs}
        for source, exercise, runs, theirs in zip(sources, exercises, run, own, strict=True)
    ]
    return {"key": row.key, "stage": row.stage, "seed": row.seed, "cells": cells}


def kind_of(cell: dict[str, Any]) -> str:
    """What `autograder.engine.needed.needed` calls a cell."""
    known = nbgrader(cell)
    if known.get("solution"):
        return "answer"
    if STUDENT in cell["metadata"].get("tags", ()):
        return "own"
    return "always" if known.get("locked") and not known.get("grade") else "maybe"
