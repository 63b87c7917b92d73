"""What one student gets back: points, messages, own code and outputs. No hidden test, no judge, no seed."""

from __future__ import annotations

import re
from html import escape
from typing import Any

from autograder.engine.assignment import Assignment, grade_id, nbgrader
from autograder.engine.job import Row
from autograder.exercises import STAGES

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
pre{background:#f5f5f5;padding:.6rem .8rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
table{border-collapse:collapse}td,th{border-bottom:1px solid #bbb;padding:.3rem .8rem;text-align:left}
img{max-width:100%}.full{color:#00603c}.part{color:#8a4b00}.out{background:#fff;border-left:3px solid #bbb}
@media(max-width:45rem){td,th{padding:.3rem}}"""


def page(assignment: Assignment, row: Row) -> str:
    """The feedback page of one graded submission, self-contained."""
    results = {r.id: r for r in row.results}
    lines = []
    for exercise in STAGES[assignment.stage]:
        result = results.get(exercise.id)
        earned = f"{result.earned:g}" if result else "graded by hand"
        kind = "full" if result and result.earned == exercise.points else "part"
        title = f"<td>{exercise.id}</td><td>{escape(exercise.title)}</td>"
        lines.append(f'<tr>{title}<td class="{kind}">{earned}</td><td>{exercise.points:g}</td></tr>')
    total = f"{row.score:g} of {sum(r.points for r in row.results):g}"
    body = []
    for number, cell in enumerate(assignment.rebuilt(row.answers, row.own)):
        outputs = row.outputs.get(str(number), [])
        exercise_id = assignment.exercise_of.get(grade_id(cell))
        if exercise_id:
            body.append(f"<h2>{escape(exercise_id)}</h2><pre>{escape(results[exercise_id].message)}</pre>")
        elif nbgrader(cell).get("solution"):
            body.append(f"<h3>Your cell: {escape(grade_id(cell))}</h3><pre>{escape(cell['source'])}</pre>")
            body += [_output(o) for o in outputs]
        elif outputs:
            body.append(f"<details><summary>Output of cell {number + 1}</summary>")
            body += [*(_output(o) for o in outputs), "</details>"]
    notes = "".join(f"<p>Note: {escape(note)}</p>" for note in row.notes)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(assignment.stage)}: feedback</title><style>{STYLE}</style></head><body><main>
<h1>{escape(assignment.stage)}: {total} automatic points</h1>
<p>{escape(row.student)}. Written answers are graded by a person.</p>{notes}
<table><tr><td></td><th>exercise</th><th>points</th><th>of</th></tr>{"".join(lines)}</table>
{"".join(body)}</main></body></html>
"""


def _output(output: dict[str, Any]) -> str:
    kind = output["output_type"]
    if kind == "stream":
        return f'<pre class="out">{escape(output["text"])}</pre>'
    if kind == "error":
        return f'<pre class="out">{escape(chr(10).join(output["traceback"]))}</pre>'
    for mime in ("image/png", "image/jpeg"):
        data = output["data"].get(mime, "").replace("\n", "")
        if data and re.fullmatch(r"[A-Za-z0-9+/=]+", data):
            return f'<p><img alt="picture" src="data:{mime};base64,{data}"></p>'
    return f'<pre class="out">{escape(output["data"].get("text/plain", ""))}</pre>'
