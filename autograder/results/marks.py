"""Points and comments that people gave, from nbgrader's gradebook, for pages: whoever wrote them, and with what."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUERY = """
SELECT c.name, g.manual_score, g.auto_score, g.extra_credit, g.needs_manual_grade, m.manual_comment,
    n.late_submission_penalty
FROM grade g
JOIN base_cell c ON c.id = g.cell_id
JOIN submitted_notebook n ON n.id = g.notebook_id
JOIN submitted_assignment s ON s.id = n.assignment_id
JOIN assignment a ON a.id = s.assignment_id
LEFT JOIN comment m ON m.notebook_id = n.id AND m.cell_id IN (SELECT id FROM base_cell WHERE name = c.name)
WHERE a.name = ? AND s.student_id = ?
"""
#: What stands in the place of an exercise for what being late costs: points below zero.
LATE = "late"


@dataclass(frozen=True)
class Given:
    """What a person gave for an exercise.

    Attributes:
        points: None while it waits.
        comment: for the student.
    """

    points: float | None
    comment: str = ""


def given(out: Path, stage: str, student: str) -> dict[str, Given]:
    """Exercise -> what was given by hand, and 0 for a blank answer; exercises with automatic points alone are left out.

    `LATE` is there if the submission lost points for being late. Empty where there is no gradebook, or the student is
    not in it yet.
    """
    path = out / "gradebook.db"
    if not path.is_file():
        return {}
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as db:
        return given_in(db.execute(QUERY, (stage, student)).fetchall())


def given_in(rows: Iterable[Sequence[Any]]) -> dict[str, Given]:
    """`given`, from what `QUERY` found, whoever asked: a run that writes the gradebook asks in its own transaction."""
    marks = {}
    for name, by_hand, automatic, extra, waits, comment, penalty in rows:
        if penalty:
            marks[LATE] = Given(-penalty)
        kind, _, number = name.partition("_")
        if kind == "written" or by_hand is not None:
            points = by_hand if by_hand is not None else automatic
            total = None if waits or points is None else points + (extra or 0)
            marks[number.replace("_", ".")] = Given(total, comment or "")
    return marks
