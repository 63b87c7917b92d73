"""A class of 24 with one of each hostile submission of the bank: nobody's points, row or time are another's."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import Any

import grade_course
import pytest
from grade_course import FULL, STAGE

from autograder import grade
from autograder.attacks import attacks, trees
from autograder.check import check_file
from autograder.engine import oracle
from autograder.engine.assignment import Assignment
from autograder.engine.sandbox import Gone
from autograder.evaluation import Result
from autograder.grade import job_for
from autograder.intake import plan as planning
from autograder.intake.discover import discover
from autograder.intake.plan import plan
from autograder.intake.submission import Submission
from autograder.results import history

#: What each of four students hands in.
ANSWERS = ("complete", "half-done", "buggy", "untouched")


@pytest.mark.slow
def test_a_class_of_24_with_one_of_each(tmp_path, bubblewrap):
    answers = ANSWERS * 6
    honest = {"victim" if n == 0 else f"honest-{n}": answer for n, answer in enumerate(answers)}
    made = {answer: grade_course.sample(answer) for answer in ANSWERS}
    for student, answer in honest.items():
        grade_course.hand_in(tmp_path, student, made[answer])
    grade_course.write_attacks(tmp_path)
    out = tmp_path / "out"
    limits = ("--workers", "2", "--anyway", "--cell-seconds", "4", "--seconds", "60")
    done = grade_course.grade(tmp_path, out, *limits)
    assert done.returncode == 1, done.stderr  # some need attention
    rows, hints = grade_course.grades(out), history.hints(out)[STAGE]
    hostile = [*attacks(), *trees.TREES]
    assert set(rows) == {*honest, *(attack.id for attack in hostile)}
    alone = {}
    for answer, data in made.items():
        (tmp_path / "alone.ipynb").write_bytes(data)
        alone[answer] = check_file(STAGE, tmp_path / "alone.ipynb", 7)["score"]
    assert (alone["complete"], alone["untouched"]) == (FULL, 0)
    for student, answer in honest.items():
        assert (rows[student]["status"], float(rows[student]["score"])) == ("graded", alone[answer]), student
    for attack in hostile:
        try:
            grade_course.as_expected(attack, rows[attack.id], hints.get(attack.id, []))
        except AssertionError as error:
            raise AssertionError(f"{attack.id}: {rows[attack.id]} {hints.get(attack.id)}") from error


def test_what_is_handed_in_instead_of_a_notebook_is_nobody_elses(tmp_path):
    grade_course.hand_in(tmp_path, "victim", grade_course.sample("half-done"))
    trees.write_all(tmp_path / "submitted", *grade_course.notebooks())
    assignment = Assignment.load(STAGE)
    rows = {s.student: plan(s, assignment, 1, "needed") for s in discover(tmp_path, {STAGE: assignment})}
    assert set(rows) == {"victim", *(tree.id for tree in trees.TREES)}
    assert rows["victim"].origin == str(tmp_path / "submitted" / "victim" / STAGE / f"{STAGE}.ipynb")
    assert not rows["victim"].problem
    for row in rows.values():
        assert " ".join([row.student, row.origin, row.problem, *row.notes]).encode()
    for tree in trees.TREES:
        assert bool(rows[tree.id].problem) == (tree.earns is None), (tree.id, rows[tree.id].problem)


@pytest.mark.parametrize("attack", [a for a in attacks() if a.id in ("deep-set-up", "deep-chain", "pictures", "prose")])
def test_what_is_deep_or_long_is_planned(attack):
    data = attack.make(*grade_course.notebooks())
    row = plan(Submission("eve", STAGE, "", lambda: data), Assignment.load(STAGE), 1, "needed")
    assert not row.problem
    assert job_for(row, Assignment.load(STAGE), "needed")


def test_an_error_that_nobody_thought_of_is_one_submission_s(monkeypatch):
    def broken(*_):
        raise SystemError("AST constructor recursion depth mismatch")

    assignment = Assignment.load(STAGE)
    row = plan(Submission("eve", STAGE, "", lambda: b'{"cells": []}'), assignment, 1, "needed")
    row.problem = ""
    monkeypatch.setattr(grade, "job_of", broken)
    assert job_for(row, assignment, "needed") is None
    assert "SystemError" in row.problem
    monkeypatch.setattr(planning, "answers", broken)
    assert "SystemError" in plan(Submission("eve", STAGE, "", bytes), assignment, 1, "needed").problem


def says(text):
    return lambda order: {"outputs": [{"output_type": "stream", "name": "stdout", "text": text}]}


def value(order):
    word = re.findall(r"'(\w+)'$", order["source"])[0]
    data = {"text/plain": repr(word)}
    return {"outputs": [{"output_type": "execute_result", "execution_count": 1, "data": data, "metadata": {}}]}


def gone(order):
    raise Gone("the process ended")


@pytest.mark.parametrize(
    ("answer", "seconds", "told"),
    [
        (value, 60, False),
        (says("2.1 LoRALayer: visible checks passed."), 60, True),  # what the answer itself may print
        (gone, 60, True),
        (gone, -1, False),  # there was no time to ask
    ],
)
def test_what_hidden_checks_pass_and_visible_ones_do_not_is_a_hint(answer, seconds, told):
    run = oracle._Run({"stage": STAGE, "cells": [], "cell_seconds": 4}, time.monotonic() + seconds)
    run.results["2.1"] = Result("2.1", "", 4.0, ())
    session: Any = SimpleNamespace(ask=lambda order, limit: answer(order), replaced=[])
    run.compare(session)
    assert session.replaced == ["!a visible check of 2.1 fails, and the hidden ones pass"] * told
