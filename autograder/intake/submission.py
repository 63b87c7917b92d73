"""What one student handed in for one stage, from finding it until it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from autograder.engine.assignment import STUDENT
from autograder.intake.walk import Fetch


@dataclass
class Submission:
    """What one student handed in for one stage.

    Attributes:
        student, stage: who and what.
        origin: where it is, for a person to find it.
        fetch: returns the file's bytes (Unreadable: why not).
        problem: why it cannot be graded, or "".
        notes: what a person should know though it can be graded.
        hash: of the bytes, once `answers` has read them.
        cells: the notebook that is graded (`autograder.intake.rebuild`), once `answers` has read it.
        open, waits: grade_ids of answers that are not there; of written ones that a person must look for.
        evidence: what its cells showed that a written answer may quote (`autograder.intake.notebook.evidence`).
    """

    student: str
    stage: str
    origin: str
    fetch: Fetch
    problem: str = ""
    notes: list[str] = field(default_factory=list)
    hash: str = ""
    cells: list[dict[str, Any]] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    waits: set[str] = field(default_factory=set)
    evidence: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    @property
    def own(self) -> list[dict[str, Any]]:
        """The cells of the graded notebook that the release has not, or has otherwise."""
        return [cell for cell in self.cells if STUDENT in cell["metadata"].get("tags", ())]
