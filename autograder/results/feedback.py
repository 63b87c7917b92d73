"""What one student gets back: points, messages, own code and outputs. No hidden test, no judge, no seed."""

from __future__ import annotations

import re
from typing import Any

from autograder.engine.assignment import Assignment, grade_id, nbgrader, source_of
from autograder.engine.job import Row
from autograder.exercises import STAGES
from autograder.results.templates import render


def page(assignment: Assignment, row: Row) -> str:
    """The feedback page of one graded submission, self-contained."""
    results = {result.id: result for result in row.results}
    sections: list[dict[str, Any]] = []
    for number, cell in enumerate(row.cells):
        outputs = [_shown(output) for output in row.outputs.get(str(number), [])]
        section = {"number": number + 1, "outputs": outputs, "result": None, "answer": None}
        if exercise_id := assignment.exercise_of.get(grade_id(cell)):
            sections.append(section | {"result": results[exercise_id]})
        elif nbgrader(cell).get("solution"):
            answer = {"answer": grade_id(cell), "source": source_of(cell), "code": cell["cell_type"] == "code"}
            sections.append(section | answer)
        elif outputs:
            sections.append(section)
    return render(
        "feedback.html",
        row=row,
        results=results,
        exercises=STAGES[assignment.stage],
        most=sum(result.points for result in row.results),
        sections=sections,
    )


def _shown(output: dict[str, Any]) -> dict[str, str]:
    """What a page shows of an output: a picture, as the rest of its data address, or text."""
    if output["output_type"] == "stream":
        return {"picture": "", "text": output["text"]}
    if output["output_type"] == "error":
        return {"picture": "", "text": "\n".join(output["traceback"])}
    for mime in ("image/png", "image/jpeg"):
        data = output["data"].get(mime, "").replace("\n", "")
        if data and re.fullmatch(r"[A-Za-z0-9+/=]+", data):
            return {"picture": f"{mime};base64,{data}", "text": ""}
    return {"picture": "", "text": output["data"].get("text/plain", "")}
