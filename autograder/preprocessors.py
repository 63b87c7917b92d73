"""`autograder.publish.preprocessors` by the name that a course's own ``nbgrader_config.py``, or a script, may have."""

from autograder.publish.preprocessors import (
    ClearGaps,
    ExecuteForGrading,
    HideMarkSchemesInFeedback,
    HideTestsInFeedback,
    RestoreCells,
    clear_gaps,
)

__all__ = [
    "ClearGaps",
    "ExecuteForGrading",
    "HideMarkSchemesInFeedback",
    "HideTestsInFeedback",
    "RestoreCells",
    "clear_gaps",
]
