"""``python -m autograder check STAGE FILE``: judge one file and print the points.

It is `python -m autograder grade` for one file, without a sandbox: the same choice of cells, shell and judges. The
answer runs in a process of its own. If that hangs, is killed or exits early, what had been reported stands, and it runs
again without the cell that ended it. This is for an instructor's own files and for trying an answer out: the answer
runs with the rights of whoever called.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path

import jupytext

from autograder.answers import read_text
from autograder.engine import oracle
from autograder.engine.assignment import STUDENT, Assignment, grade_id, source_of
from autograder.engine.job import Row, job_of
from autograder.engine.plain import Plain, end_all
from autograder.engine.sandbox import SandboxError
from autograder.evaluation import Report
from autograder.exercises import OPTIONAL, STAGES
from autograder.intake.plan import plan
from autograder.intake.submission import Submission

__all__ = ["check_file", "end_all"]
#: Seconds for the whole answer: its cells and the checks of its stage; and for one cell.
SECONDS, CELL_SECONDS = 300, 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", metavar="STAGE", choices=sorted(STAGES), help=", ".join(STAGES))
    parser.add_argument("file", metavar="FILE", type=Path, help="a .ipynb or .py file")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--seed", type=int, default=None, help="draw the inputs from this seed (default: a new one)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="time limit for all of it (default: %(default)s)"
    )


def main(args: argparse.Namespace) -> int:
    """Print the report. Exit status 0: full marks in all automatic exercises; 1: not; 2: the file cannot be read."""
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    if not args.file.is_file():
        print(f"no such file: {args.file}", file=sys.stderr)
        return 2
    report = check_file(args.stage, args.file, seed, args.seconds)
    if "unreadable" in report:
        print(report["unreadable"], file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        for note in [*report["notes"], *report["errors"]]:
            print(f"note: {note}")
        for result in [*report["results"], *report["optional"]]:
            print(result["message"])
        print(f"{args.stage}: {report['score']:g} of {report['max_score']:g} points (seed {seed})")
    return 0 if report["score"] == report["max_score"] else 1


def check_file(stage: str, path: Path, seed: int, seconds: float = SECONDS) -> dict:
    """Judge ``path`` as `python -m autograder grade` would, in a process of its own.

    Returns:
        `autograder.Report.to_dict`'s keys, ``"errors"``, a line for each cell that raised, and ``"notes"``, on how the
        file was read; or ``{"unreadable": reason}``.
    """
    try:
        assignment = Assignment.load(stage)
        data = as_notebook(path, assignment)
    except (OSError, ValueError) as error:
        return {"unreadable": str(error)}
    row = plan(Submission("", stage, path.name, lambda: data), assignment, 0, "needed")
    if row.problem:
        return {"unreadable": f"{path.name} is not a notebook of {stage}: {row.problem}"}
    row.seed = seed
    job = job_of(row, assignment, "needed")
    if path.suffix == ".py":  # all of it is the answer
        for cell, of in zip(job["cells"], row.cells, strict=True):
            cell["spare"] = cell["spare"] and STUDENT not in of["metadata"].get("tags", ())
    judged = {cell["exercise"] for cell in job["cells"]}
    automatic = [*(exercise for exercise in STAGES[stage] if not exercise.manual), *OPTIONAL[stage]]
    job["cells"] += [{"source": "", "exercise": e.id, "spare": True} for e in automatic if e.id not in judged]
    try:
        with Plain(assignment.modules()) as process:
            limits = {"cell_seconds": min(CELL_SECONDS, seconds), "seconds": seconds}
            record = oracle.grade({**job, **limits}, process)
    except SandboxError as error:
        return {"unreadable": str(error)}
    row.finish(record)
    if row.problem:
        return {"unreadable": row.problem}
    report = Report(stage, seed, tuple(row.results), tuple(row.optional)).to_dict()
    return {**report, "errors": errors_of(row, record, path), "notes": row.notes}


def errors_of(row: Row, record: dict, path: Path) -> list[str]:
    """A line for each cell that raised or ended the process."""
    lines = []
    for number, outputs in sorted(record["outputs"].items(), key=lambda item: int(item[0])):
        name = grade_id(row.cells[int(number)]) if int(number) < len(row.cells) else ""
        which = "1" if path.suffix == ".py" and not name else f"{int(number) + 1}{f' ({name})' if name else ''}"
        raised = [o for o in outputs if o["output_type"] == "error"]
        lines += [f"cell {which}: {o['ename']}: {o['evalue']}".rstrip(": ") for o in raised]
    return lines


def as_notebook(path: Path, assignment: Assignment) -> bytes:
    """A notebook file's bytes, or those of the notebook that a master or a Python file stands for.

    Raises:
        ValueError: the file is too large or of an unknown kind.
        OSError: it cannot be read.
    """
    if path.suffix != ".py":
        read_text(path)
        return path.read_bytes()
    text = read_text(path)
    setup = next(source_of(cell) for cell in assignment.release["cells"] if grade_id(cell) == "setup")
    code = {"cell_type": "code", "metadata": {}}
    check = next(cell for cell in assignment.release["cells"] if grade_id(cell).startswith("check_"))
    cells = [{**code, "source": setup}, {**code, "source": text}, dict(check)]  # by which the stage is known
    if "# %%" in text:
        cells = [dict(cell) for cell in jupytext.reads(text, fmt="py:percent").cells]
        for cell in cells:
            role = cell["metadata"]
            names = {"solution": "{}", "locked": "{}", "check": "check_{}", "written": "written_{}"}
            name = next((form.format(role[key]) for key, form in names.items() if key in role), "").replace(".", "_")
            cell["metadata"] = {"nbgrader": {"grade_id": name}} if name else {}
    return json.dumps({"cells": cells}).encode()
