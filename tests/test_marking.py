"""Marking without a browser: keys at a desk, several markers at one gradebook, and nothing lost."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from pathlib import Path

import marked_course
import pytest
from nbgrader.api import Gradebook

from autograder.__main__ import main
from autograder.exercises import STAGES, exercise
from autograder.exercises.scheme import keys
from autograder.marking import likeness, panel
from autograder.marking.desk import Answer, Desk
from autograder.marking.ledger import Changed, Decision, Ledger, Mark
from autograder.marking.panel import Panel
from autograder.results import students
from autograder.results.tables import finals

STAGE = "02_lora_layer"
#: Three kinds of answer; those of one kind are nearly the same.
RIGHT = (
    "The update is zero at the start so the model is the pretrained one and its outputs stay, as measured 0.08 by {}"
)
WRONG = (
    "B is zero in order to save memory and against overfitting, and the scale keeps the size for every rank, says {}"
)
ODD = "I read the paper {} times"


@pytest.fixture(autouse=True)
def without_the_encoder(monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_CACHE", str(tmp_path / "empty-cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A graded class, to be copied: nbgrader takes a while to make one."""
    folder = tmp_path_factory.mktemp("class")
    answers = {f"right-{n}": RIGHT.format(n) for n in range(4)} | {f"wrong-{n}": WRONG.format(n) for n in range(3)}
    marked_course.grade(folder, STAGE, answers | {"odd": ODD.format(7), "blank": None})
    return folder


@pytest.fixture
def out(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "course"))


def desk(out, marker="ann") -> Desk:
    found = Desk(out, marker)
    found.choose(STAGE, "2.8")
    return found


def press(at: Desk, *what: str) -> None:
    for key in what:
        at.press(key)


def graded(out) -> dict[str, tuple[float | None, str | None, bool]]:
    """Student -> (points, comment, waits), as nbgrader itself reads them."""
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
        found = {}
        for submission in book.assignment_submissions(STAGE):
            (notebook,) = submission.notebooks
            grade = next(g for g in notebook.grades if g.name == "written_2_8")
            comment = next(c for c in notebook.comments if c.name == "written_2_8")
            found[submission.student.id] = (grade.manual_score, comment.comment, grade.needs_manual_grade)
        return found


def test_keys_mark_and_the_gradebook_and_the_export_have_it(out):
    at = desk(out)
    assert at.progress == (0, 8, 0), "a blank answer has its 0 already"
    student = at.answer.student
    press(at, "1", "5", "2", "2")
    at.text = "Well *put*."
    assert (at.points, at.touched) == (1.5, True)
    press(at, "Enter")
    points, comment, waits = graded(out)[student]
    assert (points, waits) == (1.5, False)
    assert comment == "(a) Right: as pretrained.\n(c) Right: less retuning with the rank.\nWell *put*."
    assert at.progress == (1, 8, 0)
    assert at.answer.student != student
    automatic = sum(e.points for e in STAGES[STAGE] if not e.manual)
    assert finals(out, STAGE)[student].score == automatic + 1.5
    while at.progress[0] < 8:
        press(at, "f", "Enter")
    assert all(final.score is not None for final in finals(out, STAGE).values())
    assert {points for points, *_ in graded(out).values()} == {1.5, 3.0, None}


def test_everything_is_taken_back_step_by_step(out):
    before = graded(out)
    at = desk(out)
    steps = []
    for keys_ in (("1", "Enter"), ("f", "Enter"), ("g", "1", "m"), ("0", "Enter")):
        press(at, *keys_)
        steps.append(graded(out))
    for wanted in (*reversed(steps[:-1]), before):
        press(at, "u")
        assert graded(out) == wanted
    press(at, "u")
    assert at.message == "Nothing left to take back."


def test_undo_lays_the_answer_out_to_be_corrected(out):
    at = desk(out)
    student = at.answer.student
    press(at, "1", "3", "Enter", "u")
    assert (at.answer.student, at.on) == (student, {"a1", "b1"})
    press(at, "3", "Enter")
    assert graded(out)[student][0] == 1


def test_what_is_left_unsaved_is_there_when_one_comes_back(out):
    at, before = desk(out), graded(out)
    student, place = at.answer.student, at.place
    press(at, "1")
    at.text = "A long text."
    press(at, "ArrowRight")
    assert (at.on, at.text) == (set(), "")
    press(at, "ArrowLeft")
    assert (at.on, at.text, at.message) == ({"a1"}, "A long text.", "As you left it; it is not saved.")
    assert graded(out) == before
    at.choose(STAGE, at.question.id)
    at.go(place)
    press(at, "Enter")
    assert graded(out)[student][1].endswith("A long text.")
    assert not at.drafts


def test_marking_again_what_is_marked_changes_nothing(out):
    at = desk(out)
    press(at, "1", "Enter")
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:  # as formgrader does
        notebook = book.find_submission_notebook(STAGE, STAGE, "odd")
        grade = next(g for g in notebook.grades if g.name == "written_2_8")
        grade.manual_score, grade.needs_manual_grade = 2.25, False
        next(c for c in notebook.comments if c.name == "written_2_8").manual_comment = "from formgrader"
        book.db.commit()
    before = graded(out)
    again = desk(out)
    for place in range(len(again.answers)):
        again.go(place)
        if not again.entry.state.waits:
            press(again, "Enter")
    assert graded(out) == before
    again.go(next(n for n, answer in enumerate(again.answers) if answer.student == "odd"))
    assert (again.text, again.on) == ("from formgrader", set())


def test_like_answers_follow_one_another_and_near_ones_are_marked_together_after_a_look(out):
    at = desk(out)
    kinds = [answer.student.partition("-")[0] for answer in at.answers]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    assert changes == 2, kinds
    at.go(kinds.index("wrong"))
    assert len(at.alike()) == 2
    press(at, "2", "m")
    assert at.looked
    assert all(comment is None for _, comment, _ in graded(out).values() if comment != "No response."), "only a look"
    pieces = at.difference(at.alike()[0])
    assert {what for what, _ in pieces} == {"same", "only here", "only there"}
    left = at.alike()[0]
    spared = at.answers[left].student
    at.leave_out(left)
    press(at, "m")
    marked = {student for student, (points, *_) in graded(out).items() if points == 0}
    assert len(marked) == 2
    assert spared not in marked
    assert all(student.startswith("wrong") for student in marked)


def test_one_word_more_is_near_and_is_shown(tmp_path):
    text = " ".join(f"word{n}" for n in range(60))
    assert likeness.near([text, text.replace("word30", "not word30"), "another answer"]) == [[1], [0], []]
    at = Desk.__new__(Desk)
    at.place, at.answers = 0, [Answer("1", "a", text), Answer("2", "b", text.replace("word30", "not word30"))]
    assert ("only there", "not") in at.difference(1)


def test_two_markers_never_get_the_same_answer_and_never_overwrite_one_another(out):
    ann, bob = desk(out, "ann"), desk(out, "bob")
    assert ann.answer.grade != bob.answer.grade
    bob.go(ann.place)
    press(ann, "1", "Enter")
    press(bob, "3", "4", "Enter")
    assert "changed meanwhile by ann, who gave 1" in bob.message
    assert bob.on == {"b1", "b2"}, "what bob decided is still there"
    assert graded(out)[bob.answer.student][0] == 1
    student = bob.answer.student
    press(bob, "Enter")
    assert graded(out)[student][0] == 1, "capped: part (b) has one point"
    assert graded(out)[student][1].startswith("(b) ")
    press(ann, "u")
    assert ann.message.startswith("Not taken back: changed meanwhile by bob")


def test_an_answer_whose_student_is_taken_out_meanwhile_is_not_saved(out):
    at = desk(out)
    student = at.answer.student
    students.remove(out, student)
    press(at, "1", "Enter")
    assert at.message == "Not saved: changed meanwhile by whoever took the student out."
    assert at.answer.student != student


def test_many_markers_at_once_lose_nothing(tmp_path):
    marked_course.grade(tmp_path, STAGE, {f"s-{n:02}": ODD.format(n) for n in range(40)})
    grades = [entry.grade for entry in Ledger(tmp_path, "first").entries(STAGE, "written_2_8")]
    refused = []

    def work(marker: str, mine: list[str]) -> None:
        ledger = Ledger(tmp_path, marker)
        seen = {entry.grade: entry.state for entry in ledger.entries(STAGE, "written_2_8")}
        for grade in mine:
            try:
                ledger.save([Decision(grade, seen[grade], 1.0, marker, Mark(("a1",)))])
            except Changed:
                refused.append(grade)

    # each answer is wanted by two of the four
    threads = [threading.Thread(target=work, args=(f"m{n}", grades[(n % 2) :: 2])) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = Ledger(tmp_path, "first").entries(STAGE, "written_2_8")
    assert [entry.state.score for entry in entries] == [1.0] * 40
    assert all(entry.state.comment == entry.marker for entry in entries), "points and comment are of one person"
    assert len(refused) <= 40


def test_comments_are_kept_and_offered_to_everybody(out):
    ann = desk(out, "ann")
    ann.keep("See section 2.2.")
    press(ann, "Enter")
    ann.keep("(a) As before: good.", switch="a1")
    bob = desk(out, "bob")
    press(bob, "shift+1", "1")
    assert bob.comment == "(a) As before: good.\nSee section 2.2."
    press(bob, "shift+1")
    assert bob.comment == "(a) As before: good."
    bob.keep("", switch="a1")
    assert bob.comment == "(a) Right: as pretrained."


def test_an_answer_that_changed_is_looked_at_again_with_what_it_had(out):
    at = desk(out)
    at.go(next(n for n, answer in enumerate(at.answers) if answer.student == "odd"))
    press(at, "1", "Enter")
    marked_course.grade(out, STAGE, {"odd": "A whole new answer."})
    at = desk(out)
    at.go(next(n for n, answer in enumerate(at.answers) if answer.student == "odd"))
    assert at.entry.state.waits
    assert at.changed_text
    assert (at.on, at.answer.text) == ({"a1"}, "A whole new answer.")


def test_more_switches_than_keys_are_chosen_by_part():
    at = Desk.__new__(Desk)
    at._question, at.part = exercise("5.5"), "b"
    shown = dict(at.switches())
    assert [name for name, key in shown.items() if key] == ["b1", "b2", "b3", "b4"]
    assert len(shown) == len(keys(exercise("5.5").scheme)) == 16


def test_the_command_says_what_is_left_and_writes_the_notebook(out, capsys):
    assert main(["mark", "--graded", str(out)]) == 1
    said = capsys.readouterr().out
    assert "2.8      0 of 8 marked, 1 blank" in said
    assert "8 left" in said
    assert (out / "mark.ipynb").is_file()
    at = desk(out)
    while at.progress[0] < 8:
        press(at, "f", "Enter")
    assert main(["mark", "--graded", str(out)]) == 0
    assert main(["mark", "--graded", str(out / "elsewhere")]) == 2
    assert "no gradebook.db" in capsys.readouterr().err


def test_the_panel_does_what_the_log_says_in_order(out):
    panel = Panel(Desk(out, "ann"))
    student = panel.desk.answer.student
    panel.log.value = json.dumps({"count": 2, "entries": ["1", "switch-b1"]})
    panel.log.value = json.dumps({"count": 5, "entries": ["1", "switch-b1", "=Fine.", "Enter", "2"]})
    points, comment, _ = graded(out)[student]
    assert points == 2
    assert comment.endswith("\nFine.")
    assert panel.desk.on == {"a2"}
    assert "&lt;" not in panel.read.value
    assert student not in panel.reading.value + panel.beside.value
    panel.log.value = json.dumps({"count": 1, "entries": ["u"]})  # a page that was opened again
    assert graded(out)[student][0] == 2


def test_where_no_widgets_are_drawn_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(panel.widgets, "__version__", "7.7.1")
    panel.show(tmp_path)
    assert capsys.readouterr().out.startswith("Marking needs ipywidgets 8 or newer, and this is 7.7.1: pip install")
