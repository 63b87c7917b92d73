"""Real ``nbgrader autograde`` and ``python -m autograder grade`` give honest submissions the same points."""

from __future__ import annotations

import os
import shutil

import grade_course
import nbgraders
import pytest
from grade_course import FULL, ROOT, STAGE
from nbgrader.api import Gradebook

from autograder.exercises import STAGES


def by_nbgrader(root, stage):
    """Points by student and exercise, from nbgrader's own gradebook."""
    target = root / "solutions" / stage
    target.mkdir(parents=True)
    shutil.copy(ROOT / "solutions" / stage / f"{stage}.ipynb", target)
    environment = {**os.environ, "LORA_PROFILE": "tiny", "OMP_NUM_THREADS": "1"}
    where = [stage, f"--CourseDirectory.root={root}", "--log-level=ERROR"]
    nbgraders.run(ROOT, ["generate_assignment", *where], ["autograde", *where], env=environment)
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}") as book:
        return {
            notebook.student.id: {grade.name: grade.auto_score for grade in notebook.grades}
            for notebook in book.notebook_submissions(stage, stage)
        }


def same(root, stage, submissions):
    for student, data in submissions.items():
        grade_course.hand_in(root, student, data, stage)
    done = grade_course.grade(root, root / "out", "--stage", stage, "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = grade_course.grades(root / "out"), by_nbgrader(root, stage)
    assert set(ours) == set(theirs) == set(submissions)
    automatic = [e.id for e in STAGES[stage] if not e.manual]
    wrong = {}
    for student in submissions:
        mine = {e: float(ours[student][e]) for e in automatic}
        plain = {e: theirs[student][f"check_{e.replace('.', '_')}"] for e in automatic}
        if mine != plain:
            wrong[student] = {e: (mine[e], plain[e]) for e in automatic if mine[e] != plain[e]}
    assert not wrong
    return {student: sum(float(ours[student][e]) for e in automatic) for student in submissions}


def test_some_of_the_bank(tmp_path, bubblewrap):
    bank = grade_course.bank_class()
    wrong = next(name for name in bank if name.startswith("mistakes"))
    scores = same(tmp_path, STAGE, {name: bank[name] for name in ("in-own-cells", wrong)})
    assert scores["in-own-cells"] == FULL
    assert scores[wrong] < FULL


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_whole_bank(stage, tmp_path, bubblewrap):
    bank = grade_course.bank_class(stage)
    scores = same(tmp_path, stage, bank)
    full = sum(e.points for e in STAGES[stage] if not e.manual)
    for student, score in scores.items():
        right = student in ("complete", "in-own-cells") or student.startswith("alternate")
        assert (score == full) is right, (student, score)
