"""Read a notebook as what it is, an untrusted file, and tell what is wrong with it; `rebuild` makes what is graded."""

from __future__ import annotations

import json
from typing import Any

from autograder.engine.assignment import Assignment, digest
from autograder.intake.names import few
from autograder.intake.rebuild import MAX_OWN, MAX_OWN_CELLS, rebuild
from autograder.intake.submission import Submission
from autograder.intake.walk import Unreadable

__all__ = ["MAX_OWN", "MAX_OWN_CELLS", "answers", "cells_of"]


def answers(submission: Submission, assignment: Assignment) -> dict[str, str]:
    """grade_id -> source, of the solution cells and written answers in a submission.

    The notebook that is graded goes into ``submission.cells``, what is odd into ``submission.notes``, what makes
    grading impossible into ``submission.problem``.
    """
    if submission.problem:
        return {}
    try:
        data = submission.fetch()
        submission.hash = digest(data)
        cells = cells_of(data)
    except Unreadable as error:
        submission.problem = str(error)
        return {}
    except (ValueError, RecursionError) as error:
        submission.problem = f"no notebook: {str(error)[:200]}"
        return {}
    rebuilt = rebuild(cells, assignment, submission.notes)
    if not rebuilt.of_this_stage:
        submission.problem = f"none of the cells of {submission.stage} is in it (another notebook?)"
        return {}
    submission.cells, submission.open, submission.waits = rebuilt.cells, rebuilt.open, rebuilt.waits
    submission.notes = few(submission.notes)
    return rebuilt.answers


def cells_of(data: bytes) -> list[dict[str, Any]]:
    """A notebook file's cells.

    Raises:
        ValueError, RecursionError: it is not a notebook.
    """
    if not data.strip():
        raise ValueError("the file is empty")
    notebook = json.loads(data.decode("utf-8-sig", "replace"))
    if not isinstance(notebook, dict):
        raise ValueError("it is JSON, but no notebook")
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        if isinstance(notebook.get("worksheets"), list):
            raise ValueError("it is of an old form (nbformat 3): open and save it in Jupyter")
        raise ValueError("it has no list of cells")
    return [cell for cell in cells if isinstance(cell, dict)]
