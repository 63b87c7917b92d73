"""In Gradescope's container: grade the one submission that lies there and write ``results.json``.

    source/                    the unpacked zip: this package, with the hidden checks of one stage
    submission/                what the student handed in
    submission_metadata.json   who and when
    results/results.json       what Gradescope reads

Only root may look into any of these. Where the container allows namespaces the submission runs in bubblewrap as
everywhere else; where it does not, as another user; where that cannot be had either, nothing is graded.

Format: Gradescope's "Autograder Specifications". A test is a check; what a student may see of it, and when, is its
``visibility``. Late days and penalties are Gradescope's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autograder.engine.assignment import Assignment
from autograder.engine.job import Row, job_of
from autograder.engine.sandbox import Sandbox, SandboxError, require
from autograder.engine.store import seed_of
from autograder.exercises import STAGES
from autograder.intake.plan import plan
from autograder.intake.submission import Submission
from autograder.intake.walk import read_file
from autograder.results import integrity
from lora_ref.checks import visible_checks
from lora_ref.files import whole_file

#: Added to `autograder.engine.sandbox.FIRST_UID`: a user id apart from those of a grading pool.
NUMBERS = range(4000, 4500)


class Refused(Exception):
    """The submission, or the container, is such that nothing can be graded; the message is for the student."""


def main(root: Path) -> int:
    """Grade and write the results, whatever happens; the exit status is always 0."""
    started = time.monotonic()
    close_doors(root)
    settings = json.loads((root / "source" / "gradescope.json").read_text(encoding="utf-8"))
    try:
        results = graded(root, settings)
    except Refused as error:
        results = refusal(settings["stage"], str(error))
    except BaseException:  # of the autograder itself; its text is for the instructor
        traceback.print_exc()
        message = "The autograder failed, which is not your fault. Your instructor sees why, and can run it again."
        results = refusal(settings["stage"], message)
    results["execution_time"] = round(time.monotonic() - started, 1)
    target = root / "results" / "results.json"
    with whole_file(target) as unfinished:
        unfinished.write_text(json.dumps(results, indent=1), encoding="utf-8", newline="\n")
    print(f"{settings['stage']}: score {results['score']:g}")
    return 0


def close_doors(root: Path) -> None:
    """Leave hidden checks, results, and others' data to root alone."""
    (root / "results").mkdir(exist_ok=True)
    for name in ("source", "results", "submission"):
        (root / name).chmod(0o700)
    with contextlib.suppress(FileNotFoundError):
        (root / "submission_metadata.json").chmod(0o600)


def graded(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The results of the submission in ``root / "submission"``.

    Raises:
        Refused: it cannot be graded.
    """
    stage = settings["stage"]
    release = root / "source" / "notebooks" / stage / f"{stage}.ipynb"
    assignment = Assignment(stage, json.loads(release.read_text(encoding="utf-8")), {"cells": []})
    path, notes = find(root / "submission", stage)
    submission = Submission("student", stage, path.name, lambda: read_file(path))
    submission.notes += notes
    row = plan(submission, assignment, settings["seed"], settings["cells"])
    if row.problem:
        raise Refused(f"{row.problem}. Nothing was graded: hand in {stage}.ipynb as Jupyter saved it.")
    row.seed = seed_of(settings["seed"], stage, submission_id(root) or submission.hash)
    limits = {name: settings[name] for name in ("cell_seconds", "seconds")}
    record = run({**job_of(row, assignment, settings["cells"]), **limits}, assignment.modules())
    print(f"seed {row.seed}")
    row.finish(record)
    return results_of(row, assignment, settings["show"])


def find(folder: Path, stage: str) -> tuple[Path, list[str]]:
    """The notebook to grade, and what the student should know about the choice.

    Raises:
        Refused: there is none, or several and none has the right name.
    """
    inside = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
    inside = [path for path in sorted(inside) if not {".ipynb_checkpoints", "__MACOSX", ".git"} & set(path.parts)]
    notebooks = [path for path in inside if path.suffix == ".ipynb"]
    named = [path for path in notebooks if path.name == f"{stage}.ipynb"]
    listed = ", ".join(str(path.relative_to(folder)) for path in (notebooks or inside)[:10]) or "nothing"
    if not notebooks:
        raise Refused(f"There is no notebook in your submission (there is {listed}). Hand in {stage}.ipynb.")
    if len(notebooks) == 1:
        odd = [] if named else [f"Your file is called {notebooks[0].name}; it was graded as {stage}.ipynb."]
        return notebooks[0], odd
    if len(named) == 1:
        others = ", ".join(str(path.relative_to(folder)) for path in notebooks if path != named[0])
        return named[0], [f"Only {stage}.ipynb was graded, and not {others[:300]}."]
    raise Refused(f"There are several notebooks in your submission ({listed}). Hand in one: {stage}.ipynb.")


def submission_id(root: Path) -> str:
    """Gradescope's number of the submission, or "": grading it again asks the same questions, another one others."""
    try:
        data = json.loads((root / "submission_metadata.json").read_text(encoding="utf-8"))
        return str(data["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def run(job: dict[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """The job's record, from the best protection that this container allows; ``modules`` as for `Sandbox`.

    Raises:
        Refused: there is none.
    """
    from autograder.engine import oracle

    for kind in ("bwrap", "user"):
        try:
            require(kind)
            with Sandbox(kind, secrets.choice(NUMBERS), modules=modules) as sandbox:
                print(f"sandbox: {kind}")
                return oracle.grade(job, sandbox)
        except SandboxError as error:
            print(f"no sandbox of kind {kind}: {error}")
    message = "The hidden checks cannot be protected in this container, so nothing was graded. Tell your instructor."
    raise Refused(message)


def results_of(row: Row, assignment: Assignment, show: str) -> dict[str, Any]:
    """Gradescope's form of a graded row: a test for each check.

    A check whose contract is one of the visible checks', which students can run themselves, is always shown; of the
    others, name, points and message are shown when ``show`` says so.
    """
    tests: list[dict[str, Any]] = []
    for result in row.results:
        open_to_all = {check.contract for check in visible_checks(result.id)}
        for number, verdict in enumerate(result.verdicts, start=1):
            tests.append(
                {
                    "name": f"{result.id} {result.title}: {verdict.contract}",
                    "number": f"{result.id}.{number}",
                    "score": verdict.earned,
                    "max_score": verdict.points,
                    "status": "passed" if verdict.passed else "failed",
                    "output": verdict.message,
                    "output_format": "text",
                    "visibility": "visible" if verdict.contract in open_to_all else show,
                }
            )
    tests += [  # without points
        {
            "name": result.heading,
            "output": "Every check passed." if not result.failed else result.message,
            "output_format": "text",
            "visibility": show,
        }
        for result in row.optional
    ]
    hints = integrity.flags(row, assignment)
    if hints:
        message = "Look at the notebook before you draw a conclusion.\n" + "\n".join(hints)
        hint = {"name": "For the instructor: hints that code may not be the student's own", "output": message}
        tests.append({**hint, "score": 0.0, "max_score": 0.0, "output_format": "text", "visibility": "hidden"})
    notes = list(row.notes)
    notes += [f"Cell {stop['cell'] + 1} ended the notebook: {stop['why']}." for stop in row.stopped]
    by_hand = [f"{e.id} ({e.points:g} points)" for e in STAGES[row.stage] if e.manual]
    notes += [f"A person grades {', '.join(by_hand)}."] if by_hand else []
    return {
        "score": round(row.score, 6),
        "output": "\n".join(notes),
        "output_format": "text",
        "visibility": show,
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def refusal(stage: str, why: str) -> dict[str, Any]:
    """Results without a point, and why."""
    most = sum(e.points for e in STAGES[stage] if not e.manual)
    test = {"name": "Not graded", "score": 0.0, "max_score": most, "status": "failed", "output": why}
    return {
        "score": 0.0,
        "output": why,
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [{**test, "output_format": "text", "visibility": "visible"}],
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
