"""The class as one picture: exercises by students, the darker the more points were earned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from autograder.engine.job import Row
from autograder.exercises import STAGES

#: The picture's width for all students, the widest column, and the narrowest that has a name above it; in pixels.
WIDTH, WIDEST, NAMED = 770, 22, 13
#: A row's height, and the gap between two stages.
TALL, GAP = 16, 8
#: (least share of the points, its class in the style sheet, what it says), from full to none.
LEVELS = ((1.0, "all", "all points"), (0.5, "half", "half or more"), (1e-9, "some", "less"), (0.0, "none", "none"))


def of(rows: Sequence[Row], stages: Sequence[str]) -> dict[str, Any]:
    """What the template draws.

    Students stand in the order of their points, so that what the weaker half lacks is an edge in the picture.

    Args:
        rows: everything graded so far.
        stages: those that are in it.
    """
    graded = {(row.stage, row.student): row for row in rows if row.status == "graded"}
    handed_in = {(row.stage, row.student) for row in rows}
    earned: dict[str, float] = defaultdict(float)
    for (_, student), row in graded.items():
        earned[student] += row.score
    students = sorted({row.student for row in rows}, key=lambda student: (-earned[student], student))
    wide = min(WIDEST, WIDTH / max(1, len(students)))
    paths: dict[str, list[str]] = defaultdict(list)
    labels, stage_labels, y = [], [], 0
    for stage in stages:
        stage_labels.append({"y": y, "text": stage})
        y += TALL
        points = {
            student: {result.id: result.earned / result.points for result in graded[stage, student].results}
            for student in students
            if (stage, student) in graded
        }
        for exercise in (exercise for exercise in STAGES[stage] if not exercise.manual):
            labels.append({"y": y, "id": exercise.id, "title": exercise.title})
            start, level = 0, _level(stage, students[0], exercise.id, points, handed_in) if students else ""
            for number in range(1, len(students) + 1):  # one rectangle for neighbours that are alike
                following = (
                    _level(stage, students[number], exercise.id, points, handed_in) if number < len(students) else None
                )
                if following != level or wide >= NAMED:
                    gap = 1 if wide >= NAMED else 0
                    across = (number - start) * wide - gap
                    paths[level].append(f"M{start * wide:.4g} {y + 1}h{across:.4g}v{TALL - 2}h-{across:.4g}z")
                    start, level = number, following or ""
            y += TALL
        y += GAP
    return {
        "paths": {level: "".join(parts) for level, parts in paths.items()},
        "labels": labels,
        "stages": stage_labels,
        "students": [
            {"x": number * wide, "name": student, "points": earned[student]} for number, student in enumerate(students)
        ],
        "wide": wide,
        "named": wide >= NAMED,
        "width": len(students) * wide,
        "height": max(y - GAP, 0),
        "tall": TALL,
        "legend": [(name, text) for _, name, text in LEVELS]
        + [("ungraded", "not graded"), ("absent", "not handed in")],
    }


def _level(
    stage: str,
    student: str,
    exercise: str,
    points: dict[str, dict[str, float]],
    handed_in: set[tuple[str, str]],
) -> str:
    """The class of one field of the picture."""
    if student not in points:
        return "ungraded" if (stage, student) in handed_in else "absent"
    share = points[student].get(exercise, 0.0)
    return next(name for least, name, _ in LEVELS if share >= least - 1e-12)
