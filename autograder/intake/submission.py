"""What one student handed in for one stage, from finding it until it is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from autograder.engine.assignment import Own
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
        own: the student's own code cells, in the order they have in the file, once `answers` has read them.
        evidence: what its cells showed that a written answer may quote (`autograder.intake.notebook.evidence`).
    """

    student: str
    stage: str
    origin: str
    fetch: Fetch
    problem: str = ""
    notes: list[str] = field(default_factory=list)
    hash: str = ""
    own: list[Own] = field(default_factory=list)
    evidence: dict[str, list[dict[str, str]]] = field(default_factory=dict)
