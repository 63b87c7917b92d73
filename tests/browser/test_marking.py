"""An instructor marks forty answers in JupyterLab with the keyboard alone; nbgrader's gradebook has it all."""

from __future__ import annotations

import base64
import io

import marked_course
import pytest
from axe_playwright_python.sync_playwright import Axe
from nbgrader.api import Gradebook
from playwright.sync_api import expect

from autograder.marking import page as marking_page

STAGE = "02_lora_layer"
ANSWERS = 40


def figure() -> str:
    """A picture as a notebook keeps it."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (480, 300), "white")
    draw = ImageDraw.Draw(picture)
    draw.line([(30, 270), (150, 200), (300, 120), (450, 30)], fill="#0072b2", width=4)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def text(number: int) -> str:
    """A few kinds of answer, each a little different."""
    kinds = (
        "(a) With `B = 0` the update is zero, so training starts from the pretrained model. (b) The gradient of $B$ is "
        "$\\frac{\\alpha}{r} G A^T$ and that of $A$ is $\\frac{\\alpha}{r} B^T G$. With both at zero neither moves. "
        f"(c) Less retuning; at rank 256 I measured 0.0{number} of the update at rank 1.",
        f"(a) To save memory {number}. (b) Symmetry breaking. (c) It keeps the update the same size for every rank.",
        f"(a) B is zero so that nothing changes at first, said in words of student {number}. (b) Otherwise A never "
        "learns, because its gradient contains B and B's contains A. (c) alpha over rank makes tuning easier.",
    )
    return kinds[number % len(kinds)]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    out = tmp_path_factory.mktemp("marking")
    answers = {f"student-{number:02}": text(number) for number in range(ANSWERS)}
    evidence = {"2.8": [{"png": figure()}, {"text": "rank 1: 1.00\nrank 256: 0.08"}]}
    marked_course.grade(out, STAGE, answers, evidence)
    marking_page.write(out)
    return out


def grades(out):
    """Student -> (points, comment) of the answers that are marked."""
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
        marked = {}
        for submission in book.assignment_submissions(STAGE):
            (notebook,) = submission.notebooks
            grade = next(g for g in notebook.grades if g.name == "written_2_8")
            comment = next(c for c in notebook.comments if c.name == "written_2_8")
            if not grade.needs_manual_grade:
                marked[submission.student.id] = (grade.manual_score, comment.comment)
        return marked


@pytest.mark.usefixtures("widgets")
def test_forty_answers_are_marked_by_keyboard(course, jupyter, page, shot):
    desk = jupyter(course)
    page.goto(f"{desk.url}lab/tree/mark.ipynb")
    expect(page.get_by_text("| Idle")).to_be_visible()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    panel = page.locator(".lora-marking")
    counted = panel.locator(".lora-count")
    expect(counted).to_have_text("0 of 40 marked, 40 left")
    expect(panel.locator("img")).to_be_visible()
    expect(panel.locator(".lora-reading math").first).to_be_visible()
    assert "student-" not in panel.inner_text(), "answers have no names"
    expect(panel).to_be_focused()
    shot(page, "marking-1-first")

    for key in ("1", "3", "5", "6"):
        page.keyboard.press(key)
    expect(panel.locator(".lora-points")).to_have_text("3 of 3")
    page.keyboard.press("t")
    page.keyboard.type("Clear, and in your own words.")
    shot(page, "marking-2-switched")
    page.keyboard.press("Control+Enter")
    expect(counted).to_have_text("1 of 40 marked, 39 left")
    page.keyboard.press("u")
    expect(counted).to_have_text("0 of 40 marked, 40 left")
    expect(panel.locator(".lora-text textarea")).to_have_value("Clear, and in your own words.")
    expect(panel.locator(".lora-points")).to_have_text("3 of 3")
    page.keyboard.press("ArrowRight")
    expect(panel.locator(".lora-points")).to_have_text("0 of 3")
    page.keyboard.press("ArrowLeft")
    expect(panel.locator(".lora-text textarea")).to_have_value("Clear, and in your own words.")
    page.keyboard.press("Enter")
    expect(counted).to_have_text("1 of 40 marked, 39 left")
    page.keyboard.press("g")
    expect(panel.get_by_text("Nearly the same")).to_be_in_viewport()
    shot(page, "marking-3-alike")
    page.keyboard.press("g")
    expect(panel.get_by_text("Nearly the same")).to_have_count(0)
    found = Axe().run(page, ".lora-marking").response["violations"]
    assert [v for v in found if v["impact"] in ("serious", "critical")] == []

    for number in range(1, ANSWERS):
        for key in ("1", "4") if number % 2 else ("3", "7"):
            page.keyboard.press(key)
        page.keyboard.press("Enter")
    expect(counted).to_have_text("40 of 40 marked, 0 left")
    shot(page, "marking-4-done")
    assert len(page.locator(".jp-Cell").all()) == 3, "no key reached JupyterLab"
    marked = grades(course)
    assert len(marked) == ANSWERS
    assert sorted(points for points, _ in marked.values()) == [1.0] * 19 + [1.5] * 20 + [3.0]
    assert sum("Symmetry explains why A is random" in comment for _, comment in marked.values()) == 20
