"""No right answer is lost: worked notebooks after what people and their editors do to them."""

from __future__ import annotations

import random

import human_edits
import pytest
from stage_answers import full_marks

from autograder.check import check_file
from autograder.engine import oracle
from autograder.engine.assignment import Assignment
from autograder.engine.job import job_of
from autograder.engine.sandbox import Sandbox
from autograder.exercises import STAGES
from autograder.intake.plan import plan
from autograder.intake.submission import Submission


@pytest.fixture(scope="module")
def box(bubblewrap):
    modules = [name for stage in STAGES for name in Assignment.load(stage).modules()]
    with Sandbox("bwrap", modules=list(dict.fromkeys(modules))) as made:
        yield made


def graded(stage, data, box, only=()):
    """The row of a notebook's file, graded; with ``only``, in the exercises alone that have one of these names."""
    assignment = Assignment.load(stage)
    row = plan(Submission("s", stage, "", lambda: data), assignment, 7, "needed")
    assert not row.problem
    job = job_of(row, assignment, "needed")
    skipped = {e.id for e in STAGES[stage] if only and not {*e.names} & {*only}}
    for cell in job["cells"]:
        cell["exercise"] = None if cell["exercise"] in skipped else cell["exercise"]
    row.finish(oracle.grade({**job, "cell_seconds": 60, "seconds": 300}, box))
    row.results = [result for result in row.results if result.id not in skipped]
    return row


def grade_some(counts, seed, box, most, whole):
    """Edit and grade ``counts`` notebooks of the stages; a point that is lost is a failure.

    Args:
        whole: every exercise is judged; else those that the edits touched, and another.
    """
    lost = []
    for stage, count in zip(STAGES, counts, strict=True):
        full = full_marks(stage)
        for number in range(count):
            dice = random.Random(f"{seed}/{stage}/{number}")
            notebook, done = human_edits.edited(stage, dice, most, quick=not whole)
            another = dice.choice([name for e in STAGES[stage] for name in e.names])
            only = () if whole else (*notebook.pop("touched", ()), another)
            row = graded(stage, human_edits.file_of(notebook, dice), box, only)
            short = {result.id: result.earned for result in row.results if result.earned != full[result.id]}
            if short or not row.results:
                lost.append(
                    (stage, number, done, short, row.notes, [r.message[:600] for r in row.results if r.id in short])
                )
    assert not lost, lost


def test_thirty_notebooks_that_people_edited(box):
    grade_some((14, 9, 2, 2, 3), "make test", box, most=4, whole=False)


@pytest.mark.slow
def test_five_hundred_notebooks_that_people_edited(box):
    grade_some((100,) * 5, "slow", box, most=6, whole=True)


def disagreement(stage, number, seed, box, folder):
    """What `check` and `grade` say differently of an edited notebook, some of it wrong; "" if nothing."""
    dice = random.Random(f"{seed}/{stage}/{number}")
    notebook, done = human_edits.edited(stage, dice, 5, quick=True)
    for cell in dice.sample(notebook["cells"], 3):  # so that not all is right
        cell["source"] = "".join(cell["source"]).replace("return ", "return None and ")
    path = folder / f"{stage}-{number}.ipynb"
    path.write_bytes(human_edits.file_of(notebook, dice))
    row = graded(stage, path.read_bytes(), box)
    ours = {result.id: result.earned for result in row.results}
    theirs = {result["id"]: result["earned"] for result in check_file(stage, path, seed=7)["results"]}
    return "" if ours == theirs else f"{stage} {number} {done}: {ours} {theirs}"


def test_check_gives_what_grade_gives(box, tmp_path):
    assert disagreement("02_lora_layer", 0, "make test", box, tmp_path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_check_gives_what_grade_gives_many_times(stage, box, tmp_path):
    for number in range(8):
        assert disagreement(stage, number, "slow", box, tmp_path) == ""
