"""From a submission to the row that is graded."""

from __future__ import annotations

from autograder.engine.assignment import Assignment
from autograder.engine.job import Row, seed_and_key
from autograder.intake import submissions as intake


def plan(submission: intake.Submission, assignment: Assignment, run_seed: int, cells: str) -> Row:
    """A submission's row: who, what the file holds, and the key that its result will have.

    Args:
        submission: it is read here.
        assignment: of its stage.
        run_seed: of the whole run.
        cells: ``"needed"`` or ``"all"``.
    """
    answers = intake.answers(submission, assignment)
    seed, key = seed_and_key(submission.student, submission.hash, assignment, run_seed, cells)
    return Row(
        student=submission.student,
        stage=submission.stage,
        origin=submission.origin,
        problem=submission.problem,
        notes=list(submission.notes),
        answers=answers,
        own=submission.own,
        seed=seed,
        key=key,
    )
