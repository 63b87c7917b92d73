"""An instructor's hour in a minute: a class is graded, formgrader shows it, a written answer is graded by hand."""

from __future__ import annotations

from types import SimpleNamespace

import grade_course
import pytest
from grade_course import FULL, STAGE
from nbgrader.api import Gradebook
from playwright.sync_api import expect

from autograder.exercises import STAGES

#: Of the whole stage, its written answer included.
POINTS = sum(e.points for e in STAGES[STAGE])
STUDENTS = ("complete", "buggy", "half-done")


@pytest.fixture(scope="module")
def graded(tmp_path_factory, bubblewrap):
    """A class of three after `python -m autograder grade`; `.out` is the course folder."""
    root = tmp_path_factory.mktemp("class")
    for student in STUDENTS:
        grade_course.hand_in(root, student, grade_course.sample(student))
    done = grade_course.grade(root, root / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(out=root / "out")


def total(out, student: str) -> float:
    """A student's points in the gradebook."""
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
        return book.find_submission(STAGE, student).score


def test_see_the_class_grade_a_written_answer_and_the_total_changes(graded, jupyter, page, shot):
    desk = jupyter(graded.out)
    page.goto(f"{desk.url}formgrader")
    stage = page.locator("#main-table tr").filter(has_text=STAGE)
    stage.get_by_role("link", name=str(len(STUDENTS)), exact=True).click()
    rows = page.locator("#main-table tr")
    expect(rows).to_have_count(len(STUDENTS))
    for student in STUDENTS:
        expect(rows.filter(has_text=student).first).to_contain_text("needs manual grading")
    shot(page, "instructor-1-class")

    page.goto(f"{desk.url}formgrader/manage_students/complete/{STAGE}")
    row = page.locator("#main-table tr").filter(has_text=STAGE)
    expect(row).to_contain_text(f"{FULL:g} / {POINTS}")
    assert total(graded.out, "complete") == FULL

    row.get_by_role("link", name=STAGE).click()
    points = page.locator("#written_2_8")
    page.wait_for_function("window.formgrader?.grades?.loaded")  # before, the field is there and nobody listens to it
    expect(points).to_have_value("")
    points.fill("2.5")
    with page.expect_response(lambda r: "/formgrader/api/grade/" in r.url and r.request.method == "PUT") as saved:
        points.blur()  # not Tab, for which formgrader has plans of its own
    assert saved.value.ok
    shot(page, "instructor-2-written")

    page.goto(f"{desk.url}formgrader/manage_students/complete/{STAGE}")
    expect(row).to_contain_text(f"{FULL + 2.5:g} / {POINTS}")
    shot(page, "instructor-3-total")
    assert total(graded.out, "complete") == FULL + 2.5
    assert total(graded.out, "buggy") < FULL


def test_the_report_and_the_feedback_can_be_read_by_all(graded, page, shot, grave):
    feedback = graded.out / "feedback" / "buggy" / STAGE / f"{STAGE}.html"
    for name, file, words in (
        ("report", graded.out / "report.html", "3 of 3"),
        ("feedback", feedback, "division by rank is missing"),
    ):
        page.goto(file.as_uri())
        expect(page.locator("body")).to_contain_text(words)
        shot(page, name)
        assert grave(page) == [], name
        page.set_viewport_size({"width": 390, "height": 800})  # a telephone
        wide = page.evaluate("document.documentElement.scrollWidth")
        shot(page, f"{name}-narrow")
        page.set_viewport_size({"width": 1280, "height": 900})
        assert wide <= 390, f"{name} is {wide} wide on a telephone of 390"
    assert page.errors == []
