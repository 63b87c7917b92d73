"""From a submission to the row that is graded."""

from __future__ import annotations

from autograder.engine.assignment import Assignment
from autograder.engine.job import Row, seed_and_key
from autograder.intake.names import shown
from autograder.intake.notebook import answers
from autograder.intake.submission import Submission


def unreadable(error: Exception) -> str:
    """Why a person must look at a submission that nobody thought of."""
    return (
        f"cannot be read ({type(error).__name__}: {shown(str(error))}): look at the file, and report it to the course"
    )


def plan(submission: Submission, assignment: Assignment, run_seed: int, cells: str) -> Row:
    """A submission's row: who, what the file holds, and the key that its result will have.

    Args:
        submission: it is read here.
        assignment: of its stage.
        run_seed: of the whole run.
        cells: ``"needed"`` or ``"all"``.
    """
    sources: dict[str, str] = {}
    try:
        sources = answers(submission, assignment)
    except Exception as error:  # whatever it is, it is this submission's alone
        submission.problem = unreadable(error)
    seed, key = seed_and_key(submission.student, submission.hash, assignment, run_seed, cells)
    return Row(
        student=submission.student,
        stage=submission.stage,
        origin=submission.origin,
        problem=submission.problem,
        notes=list(submission.notes),
        answers=sources,
        cells=submission.cells,
        open=submission.open,
        waits=submission.waits,
        seed=seed,
        key=key,
    )
