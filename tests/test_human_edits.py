"""No right answer is lost: worked notebooks after what people and their editors do to them."""

from __future__ import annotations

import random
import time

import human_edits
import pytest
from stage_answers import full_marks

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


def graded(stage, notebook, box):
    """The row of a notebook, graded."""
    assignment = Assignment.load(stage)
    row = plan(Submission("s", stage, "", lambda: human_edits.file_of(notebook)), assignment, 7, "needed")
    assert not row.problem
    row.finish(oracle.grade({**job_of(row, assignment, "needed"), "cell_seconds": 60, "seconds": 300}, box))
    return row


def grade_some(count, seed, box, most=4):
    """Edit and grade ``count`` notebooks of each stage; a lost point needs a note that says what to do."""
    lost = []
    for stage in STAGES:
        full = full_marks(stage)
        for number in range(count):
            notebook, done = human_edits.edited(stage, random.Random(f"{seed}/{stage}/{number}"), most)
            began = time.monotonic()
            row = graded(stage, notebook, box)
            earned = {result.id: result.earned for result in row.results}
            if earned != full:
                short = {id: (points, full[id]) for id, points in earned.items() if points != full[id]}
                messages = [r.message[:600] for r in row.results if r.id in short]
                lost.append((stage, number, done, short, row.notes, messages))
            print(stage, number, done, f"{time.monotonic() - began:.2f}", row.notes)
    assert not lost, lost[0]


def test_thirty_notebooks_that_people_edited(box):
    grade_some(6, "make test", box)


@pytest.mark.slow
def test_five_hundred_notebooks_that_people_edited(box):
    grade_some(100, "slow", box, most=6)
