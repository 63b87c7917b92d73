"""What a student gets back: verdicts, points, comments, answers and pictures. No hidden test, no judge, no seed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autograder.engine.assignment import Assignment, grade_id, nbgrader, source_of
from autograder.engine.job import Row
from autograder.engine.store import Store
from autograder.exercises import OPTIONAL, STAGES
from autograder.results import handed_in
from autograder.results.marks import LATE, Given
from autograder.results.templates import render


def page(
    assignment: Assignment,
    row: Row,
    given: Mapping[str, Given] | None = None,
    evidence: handed_in.Evidence | None = None,
) -> str:
    """The feedback page of one graded submission, self-contained.

    Args:
        assignment: the stage.
        row: with its results and outputs.
        given: points and comments by hand, by exercise, and what being late costs (`autograder.results.marks.given`).
        evidence: the student's own outputs that a written answer may quote, by exercise.
    """
    results = {result.id: result for result in row.results}
    given = given or {}
    points: dict[str, float | None] = {}
    for exercise in STAGES[assignment.stage]:
        by_hand = given.get(exercise.id, Given(None))
        automatic = results[exercise.id].earned if exercise.id in results else None
        points[exercise.id] = automatic if by_hand.points is None else by_hand.points
    cells, rest = _by_exercise(assignment, row)
    sections = [
        {
            "exercise": exercise,
            "points": points[exercise.id],
            "result": results.get(exercise.id),
            "comment": given[exercise.id].comment if exercise.id in given else "",
            "cells": cells.get(exercise.id, []),
            "evidence": [_own(output) for output in (evidence or {}).get(exercise.id, ())],
        }
        for exercise in STAGES[assignment.stage]
    ]
    optional = [
        {"exercise": exercise, "result": result, "cells": cells.get(exercise.id, [])}
        for exercise in OPTIONAL[assignment.stage]
        for result in row.optional
        if result.id == exercise.id
    ]
    open_ = [exercise for exercise in STAGES[assignment.stage] if points[exercise.id] is None]
    earned = sum(filter(None, points.values()))
    late = given.get(LATE, Given(0)).points or 0.0
    return render(
        "feedback.html",
        row=row,
        sections=sections,
        optional=optional,
        rest=rest,
        before=earned,
        earned=max(0.0, earned + late),
        late=-late,
        most=sum(exercise.points for exercise in STAGES[assignment.stage] if exercise not in open_),
        waiting=sum(exercise.points for exercise in open_),
    )


def again(out: Path, stages: Sequence[str], students: Sequence[str] = ()) -> Iterator[tuple[Row, str]]:
    """The pages of a graded course as they are now, with what people gave: (row, page).

    The page is "" where the submission was graded before answers were kept, or another version is being graded.

    Args:
        out: the course folder.
        stages, students: which; no students: all.
    """
    from autograder.results.marks import given

    store = Store(out / ".grading")
    for stage in stages:
        assignment = None
        for path in sorted((out / ".grading" / "written" / stage).glob("*.json")):
            key, problem, _, *notes = json.loads(path.read_text(encoding="utf-8"))
            if problem or (students and path.stem not in students) or key not in store:
                continue
            row, kept, record = Row(path.stem, stage, key=key, notes=notes), {}, store.get(key)
            kept = handed_in.cells(out, stage, row.student)
            row.finish(record)
            if kept.get("key") != key or row.status != "graded":
                yield row, ""
                continue
            row.answers, row.cells, row.outputs = kept["answers"], kept["cells"], record.get("outputs", {})
            assignment = assignment or Assignment.load(stage)
            shown = handed_in.evidence(out, stage, row.student)
            yield row, page(assignment, row, given(out, stage, row.student), shown)


def file_of(out: Path, row: Row) -> Path:
    """Where a student's page is, as nbgrader has it."""
    return out / "feedback" / row.student / row.stage / f"{row.stage}.html"


def _by_exercise(assignment: Assignment, row: Row) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Exercise -> the cells that lead to its check, answers and what others showed; and those after the last one."""
    written = {f"written_{e.id.replace('.', '_')}": e.id for e in STAGES[assignment.stage]}
    by_exercise: dict[str, list[dict[str, Any]]] = {}
    waiting: list[dict[str, Any]] = []
    for number, cell in enumerate(row.cells):
        name = grade_id(cell)
        outputs = [_shown(output) for output in row.outputs.get(str(number), [])]
        shown = {
            "number": number + 1,
            "name": name,
            "source": "",
            "outputs": outputs,
            "code": cell["cell_type"] == "code",
        }
        if exercise := assignment.exercise_of.get(name):
            by_exercise[exercise], waiting = waiting, []
        elif name in written:
            by_exercise[written[name]] = [shown | {"source": source_of(cell)}]
        elif nbgrader(cell).get("solution"):
            waiting.append(shown | {"source": source_of(cell)})
        elif outputs:
            waiting.append(shown)
    return by_exercise, waiting


def _shown(output: dict[str, Any]) -> dict[str, str]:
    """What a page shows of an output: a picture, as the rest of its data address, or text."""
    if output["output_type"] == "stream":
        return {"picture": "", "text": output["text"]}
    if output["output_type"] == "error":
        return {"picture": "", "text": "\n".join(output["traceback"])}
    for mime in ("image/png", "image/jpeg"):
        if picture := _picture(mime, output["data"].get(mime, "")):
            return {"picture": picture, "text": ""}
    return {"picture": "", "text": output["data"].get("text/plain", "")}


def _own(output: Mapping[str, str]) -> dict[str, str]:
    return {"picture": _picture("image/png", output.get("png", "")), "text": output.get("text", "")}


def _picture(mime: str, data: str) -> str:
    data = data.replace("\n", "")
    return f"{mime};base64,{data}" if data and re.fullmatch(r"[A-Za-z0-9+/=]+", data) else ""
