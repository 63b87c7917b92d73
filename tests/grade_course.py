"""Sample classes for the tests of ``python -m autograder grade``, and a way to run it."""

from __future__ import annotations

import copy
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Container, Sequence
from pathlib import Path
from unittest.mock import patch

import forked
import nbformat
from conftest import hears_ctrl_c
from stage_answers import POINTS, full_marks

from autograder.attacks import Attack, attacks, trees
from autograder.demo import ROOT, fill, sample_answers
from autograder.engine import oracle
from autograder.engine.assignment import Assignment, grade_id, nbgrader, source_of
from autograder.exercises import STAGES, alternates, mutants
from autograder.publish.preprocessors import clear_gaps

#: What `clear_gaps` keeps of a solution: all of it.
ALL = {*POINTS, "Lab"}
STAGE = "02_lora_layer"
#: Points of a right answer in the stage that the tests grade, before a person reads the written one.
FULL = sum(full_marks(STAGE).values())


def notebooks(stage: str = STAGE) -> tuple[dict, dict]:
    """The release and the worked solution, as plain data."""
    return tuple(
        json.loads((ROOT / folder / stage / f"{stage}.ipynb").read_text(encoding="utf-8"))
        for folder in ("notebooks", "solutions")
    )


def hand_in(folder: Path, student: str, data: bytes, stage: str = STAGE) -> Path:
    """Put a file where nbgrader's collect would."""
    path = folder / "submitted" / student / stage / f"{stage}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def sample(answer: str, stage: str = STAGE) -> bytes:
    """One of `autograder.demo.sample_answers` as a file."""
    release, worked = (nbformat.reads(json.dumps(n), as_version=4) for n in notebooks(stage))
    return nbformat.writes(fill(release, worked, sample_answers(stage)[answer])).encode()


def bank_class(stage: str = STAGE) -> dict[str, bytes]:
    """Student -> file, for everything in the bank that an honest student could hand in.

    Mistakes of different exercises are made together: submission n has the n-th mistake of each exercise.
    """
    release, worked = notebooks(stage)
    made = {answer: sample(answer, stage) for answer in sample_answers(stage)}

    def submission(write) -> bytes:
        """The release with its solution cells as ``write(name, worked source)`` has them."""
        notebook = copy.deepcopy(release)
        right = {name: cell for cell in worked["cells"] if (name := grade_id(cell))}
        for cell in notebook["cells"]:
            if nbgrader(cell).get("solution") and cell["cell_type"] == "code":
                cell["source"] = clear_gaps(write(grade_id(cell), source_of(right[grade_id(cell)])), keep=ALL)
        return json.dumps(notebook).encode()

    first = next(grade_id(cell) for cell in release["cells"] if nbgrader(cell).get("solution"))
    for path in alternates(stage):
        text = path.read_text(encoding="utf-8")
        made[f"alternate-{path.stem}"] = submission(
            lambda name, _, t=text: t if name == first else "# in the first cell"
        )
    waiting = [[m for m in mutants(stage) if m.exercise == e.id] for e in STAGES[stage]]
    while any(waiting):
        together = [of_one.pop(0) for of_one in waiting if of_one]

        def wrong(name, source, together=together):
            for mutant in together:
                source = source.replace(mutant.old, mutant.new)
            return source

        made[f"mistakes-{len(made)}"] = submission(wrong)
    aside = json.loads(made["complete"])
    for cell in [c for c in aside["cells"] if nbgrader(c).get("solution") and c["cell_type"] == "code"]:
        own = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": cell["source"]}
        aside["cells"].insert(aside["cells"].index(cell), {**own, "id": f"aside-{grade_id(cell)}"})
        cell["source"] = "# see the cell above"
    made["in-own-cells"] = json.dumps(aside).encode()
    return made


def write_attacks(folder: Path, only: Container[str] | None = None) -> None:
    """Attacks of the bank as students' submissions: those with these names, or all, zip files and links too."""
    for attack in attacks():
        if only is None or attack.id in only:
            hand_in(folder, attack.id, attack.make(*notebooks()))
    if only is None:
        trees.write_all(folder / "submitted", *notebooks())


def as_expected(attack: Attack | trees.Tree, row: dict[str, str], hints: list[str]) -> None:
    """Assert that an attack has what it may get, and that the report says of it what it must."""
    if attack.earns is None:
        assert (row["status"], row["score"]) == ("needs attention", "")
        assert row["attention"]
        return
    assert row["status"] == "graded"
    if attack.earns != "some":
        assert float(row["score"]) == (FULL if attack.earns == "all" else attack.earns)
    assert getattr(attack, "hint", "") in "; ".join(hints)


def command(submissions: Path, out: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "autograder", "grade", "--submissions", str(submissions), "--out", str(out)),
        *("--stage", STAGE, "--cells", "needed", "--seed", "7", *options),
    ]


def start_held(submissions: Path, out: Path, first: int, *options: str) -> forked.Started:
    """Start the command with one worker, which does ``first`` jobs and then waits for a file ``go`` in ``out``.

    So a run can be disturbed in the middle, however fast or slow the machine is.
    """

    def hold() -> None:
        hears_ctrl_c()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        grade, parent, begun = oracle.grade, os.getpid(), []

        def held(*arguments):
            begun.append(arguments)
            while len(begun) > first and not (out / "go").exists() and os.getppid() == parent:
                time.sleep(0.02)
            return grade(*arguments)

        oracle.grade = held

    return forked.Started(command(submissions, out, "--workers", "1", *options)[3:], cwd=ROOT, first=hold)


def wait_for(process: forked.Started, true) -> None:
    """Wait until ``true()``, which must come before the process ends."""
    while not true():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def grade(submissions: Path, out: Path, *options: str, warm: Sequence[str] = ()) -> subprocess.CompletedProcess:
    """Run the command to its end; ``warm`` are modules that its warm process imports beside the stage's."""
    environment = {**os.environ, "A_SECRET": "of-the-instructor", "PYTHONPATH": str(ROOT)}
    of_stage = Assignment.modules
    with patch.object(Assignment, "modules", lambda assignment: [*of_stage(assignment), *warm]):
        return forked.run(command(submissions, out, *options)[3:], cwd=ROOT, env=environment)


def grades(out: Path) -> dict[str, dict[str, str]]:
    """``grades.csv``, by student."""
    with open(out / "grades.csv", encoding="utf-8", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}
