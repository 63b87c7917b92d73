"""``python -m autograder feedback``: pages made again after marking, and what is kept of a submission for them."""

from __future__ import annotations

import json

import marked_course
import pytest
from grade_course import notebooks
from nbgrader.api import Gradebook

from autograder.__main__ import main
from autograder.engine.assignment import Assignment, grade_id
from autograder.intake.notebook import MAX_TEXT, answers
from autograder.intake.submission import Submission
from autograder.marking.desk import Desk
from autograder.results import handed_in

STAGE = "02_lora_layer"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    out = tmp_path_factory.mktemp("feedback")
    evidence = {"2.8": [{"png": marked_course.DOT}, {"text": "ratio 0.081"}]}
    marked_course.grade(out, STAGE, {"ann": "An answer with $B^T G$.", "bob": "Another.", "cy": None}, evidence)
    return out


def page(out, student):
    return (out / "feedback" / student / STAGE / f"{STAGE}.html").read_text(encoding="utf-8")


def test_points_and_comments_come_into_the_pages_and_nothing_else_changes(course, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_CACHE", str(tmp_path))
    before = {student: page(course, student) for student in ("ann", "bob", "cy")}
    assert main(["feedback", "--graded", str(course)]) == 0
    assert "3 pages, 0 of them new or changed" in capsys.readouterr().out, "grading wrote these very pages"
    assert "3 more points wait" in before["ann"]
    assert "ratio 0.081" in before["ann"]
    assert "<msup>" in before["ann"]
    assert "22 of 25 points" in before["cy"], "a blank answer has no points, and waits for nobody"
    desk = Desk(course, "marker")
    desk.choose(STAGE, "2.8")
    desk.go(next(n for n, answer in enumerate(desk.answers) if answer.student == "ann"))
    desk.text = "Read *section 4.1* again."
    for key in ("1", "7", "Enter"):
        desk.press(key)
    assert main(["feedback", "--graded", str(course), "--student", "ann"]) == 0
    assert main(["feedback", "--graded", str(course)]) == 0
    assert "3 pages, 0 of them" in capsys.readouterr().out.splitlines()[-1]
    after = page(course, "ann")
    assert "23 of 25 points" in after
    assert "Read <em>section 4.1</em> again." in after
    assert "how large is the update at rank 1" in after
    assert "outputs as pretrained" not in after, "the mark scheme is for markers"
    assert {student: page(course, student) for student in ("bob", "cy")} == {s: before[s] for s in ("bob", "cy")}


def test_what_being_late_costs_stands_first(course):
    def shown(penalty):
        with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
            (notebook,) = book.find_submission(STAGE, "cy").notebooks
            notebook.late_submission_penalty = penalty
            book.db.commit()
        assert main(["feedback", "--graded", str(course), "--student", "cy"]) == 0
        return page(course, "cy")

    late, in_time = shown(2.2), shown(0)  # the other tests' course is as it was
    assert "19.8 of 25 points" in late
    assert "2.2 of 22 points went because it came in late" in late
    assert "22 of 25 points" in in_time
    assert "came in late" not in in_time


def test_what_cannot_be_made_is_named(course, capsys):
    kept = course / ".grading" / "cells" / STAGE / "bob.json"
    text = kept.read_text()
    kept.unlink()
    assert main(["feedback", "--graded", str(course)]) == 1
    assert f"not made: bob, {STAGE}" in capsys.readouterr().out
    kept.write_text(text)
    assert main(["feedback", "--graded", str(course), "--student", "nobody"]) == 2
    assert main(["feedback", "--graded", str(course / "feedback")]) == 2


def submission(change) -> Submission:
    notebook, _ = notebooks(STAGE)
    change(notebook)
    return Submission("ann", STAGE, "ann.ipynb", lambda: json.dumps(notebook).encode())


def step_cell(notebook):
    return next(c for c in notebook["cells"] if "plots.step_sizes(sizes)" in "".join(c["source"]))


@pytest.mark.parametrize("how", ["as released", "another id", "edited", "source as text"])
def test_the_students_own_outputs_are_found(how):
    def change(notebook):
        cell = step_cell(notebook)
        if how == "another id":
            cell["id"] = "made-elsewhere"
        elif how == "edited":
            cell["source"] = "print('mine')"
        elif how == "source as text":
            cell["source"] = "".join(cell["source"])
        png = marked_course.DOT
        cell["outputs"] = [
            {
                "output_type": "display_data",
                "data": {"image/png": [png[:40] + "\n", png[40:]], "text/html": "<script>"},
            },
            {"output_type": "stream", "text": ["a ", "ratio"]},
            {"output_type": "display_data", "data": {"text/html": "<script>"}},
        ]

    mine = submission(change)
    answers(mine, Assignment.load(STAGE))
    assert mine.evidence == {"2.8": [{"png": marked_course.DOT}, {"text": "a ratio"}]}


@pytest.mark.parametrize(
    "outputs",
    [
        None,
        "text",
        [None, 3, {}],
        [{"data": 3, "text": 7}],
        [{"data": {"image/png": {"a": 1}}}],
        [{"data": {"image/png": ["a", 3]}}],
    ],
)
def test_outputs_of_no_known_form_are_not_evidence(outputs):
    mine = submission(lambda notebook: step_cell(notebook).update(outputs=outputs))
    answers(mine, Assignment.load(STAGE))
    assert (mine.problem, mine.evidence) == ("", {})


def test_outputs_are_cut_to_size():
    large = [{"text": "x" * 10**6}, {"data": {"image/png": "A" * 10**7}}, *({"text": str(n)} for n in range(100))]
    mine = submission(lambda notebook: step_cell(notebook).update(outputs=large))
    answers(mine, Assignment.load(STAGE))
    first, second, *rest = mine.evidence["2.8"]
    assert len(first["text"]) == MAX_TEXT
    assert second == {"text": "(a picture too large to be kept)"}
    assert len(rest) == 4


def test_evidence_waits_until_the_batch_is_sure_and_that_of_an_earlier_one_goes(tmp_path):
    handed_in.keep_evidence(tmp_path, "ann", STAGE, {"2.8": [{"text": "first"}]})
    second = {"2.8": [{"text": "a line\nand another: \u00e9"}]}
    with handed_in.Waiting() as waiting:
        waiting.add("ann", STAGE, {})
        waiting.add("bo", STAGE, second)
        assert handed_in.evidence(tmp_path, STAGE, "bo") == {}
        waiting.keep(tmp_path)
    assert handed_in.evidence(tmp_path, STAGE, "ann") == {}
    assert handed_in.evidence(tmp_path, STAGE, "bo") == second
    assert grade_id(step_cell(notebooks(STAGE)[0])) == "", "an ordinary cell, which students may edit"
