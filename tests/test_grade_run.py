"""A class graded in the sandbox: honest answers get what plain grading gives them, attacks get nothing.

One run grades both together, so that every attack also has the chance to spoil the others.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from types import SimpleNamespace

import grade_course
import nbformat
import nbgraders
import pytest
from grade_course import FULL, STAGE
from nbconvert import HTMLExporter
from nbgrader.api import Gradebook

from autograder import demo
from autograder.answers import load_answer
from autograder.attacks import attacks
from autograder.engine.assignment import digest
from autograder.engine.store import seed_of
from autograder.evaluation import evaluate
from autograder.grade import DEMONSTRATIONS
from autograder.results import history
from autograder.results.harmless import Page, harmless, harmless_output

HONEST = ("complete", "half-done", "buggy", "untouched")
SAMPLE = {
    *("patched-torch", "forged-output", "replaced-probes", "forged-send", "search-judges", "read-hidden-tests"),
    *("exit", "network", "fork-bomb", "disk-flood", "kernel-memory", "neighbours", "output-flood", "picture-flood"),
    *("surrogates", "long-errors", "interrupted", "wire-served", "hand-back", "many-newlines"),
    *("edited-checks", "edited-checks-right", "duplicated", "nonsense", "invalid-json", "long-cell", "binary"),
    *("json-in-wire", "module-instead", "frames-to-serve", "observes-for-itself"),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory, bubblewrap):
    """The honest class and some attacks of each kind, after one run; `test_hostile_class` has all."""
    root = tmp_path_factory.mktemp("grade")
    demo.write_class(root / "submitted", [STAGE])
    grade_course.write_attacks(root, SAMPLE)
    limits = ("--cell-seconds", "4", "--seconds", "60")
    # beside many an attack all demonstrations run: the compiler that they need is imported once, and not for each
    done = grade_course.grade(root, root / "out", "--workers", "1", *limits, warm=DEMONSTRATIONS)
    assert done.returncode == 1, done.stderr  # some need attention
    rows, hints = grade_course.grades(root / "out"), history.hints(root / "out")[STAGE]
    return SimpleNamespace(root=root, out=root / "out", rows=rows, hints=hints, stdout=done.stdout)


def cell_outputs(out, student, name):
    nb = nbformat.read(out / "autograded" / student / STAGE / f"{STAGE}.ipynb", as_version=4)
    cell = next(c for c in nb.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name)
    return json.dumps(cell.outputs)


@pytest.mark.parametrize("student", HONEST)
def test_same_grades_as_plain_evaluation(graded, student):
    path = graded.root / "submitted" / student / STAGE / f"{STAGE}.ipynb"
    answer = load_answer(path)
    report = evaluate(STAGE, answer.namespace, seed_of(7, STAGE, student, digest(path.read_bytes())))
    row = graded.rows[student]
    assert {r.id: float(row[r.id]) for r in report.results} == {r.id: r.earned for r in report.results}
    assert float(row["score"]) == report.score


def test_honest_answers_have_no_hint(graded):
    assert not [hint for student in HONEST for hint in graded.hints.get(student, [])]


def test_the_honest_scores_are_apart(graded):
    scores = [float(graded.rows[student]["score"]) for student in HONEST]
    assert scores[0] == FULL
    assert scores[3] == 0
    assert 0 < scores[1] < FULL
    assert 0 < scores[2] < FULL


@pytest.mark.parametrize("attack", [a for a in attacks() if a.id in SAMPLE], ids=lambda attack: attack.id)
def test_attack(graded, attack):
    grade_course.as_expected(attack, graded.rows[attack.id], graded.hints.get(attack.id, []))


def test_what_the_sandbox_hides(graded):
    assert "FOUND []" in cell_outputs(graded.out, "search-judges", "layer")
    shown = cell_outputs(graded.out, "read-hidden-tests", "layer")
    assert "of-the-instructor" not in shown
    assert "READ " not in shown
    assert "CONNECTED" not in cell_outputs(graded.out, "network", "layer")
    assert "STOPPED AT" in cell_outputs(graded.out, "fork-bomb", "layer")
    assert "No space left" in cell_outputs(graded.out, "disk-flood", "layer")
    assert "HEARD []" in cell_outputs(graded.out, "neighbours", "layer")
    assert "SEMAPHORES [-1, -1, -1]" in cell_outputs(graded.out, "kernel-memory", "layer")


def test_what_a_person_is_told_of_attacks(graded):
    report = (graded.out / "report.html").read_text(encoding="utf-8")
    assert "raises KeyboardInterrupt where nobody interrupted it" in report
    for path in graded.out.rglob("*.html"):
        assert not set("\x1b\x9b\u202e\u2066") & set(path.read_text(encoding="utf-8")), path
    assert len(cell_outputs(graded.out, "output-flood", "layer")) < 200_000
    assert "<script>" not in cell_outputs(graded.out, "picture-flood", "layer")


def test_the_gradebook_has_the_recorded_points_and_manual_cells_stay_manual(graded):
    with Gradebook(f"sqlite:///{graded.out / 'gradebook.db'}") as book:
        for student in HONEST:
            found = {grade.name: grade for grade in book.find_submission_notebook(STAGE, STAGE, student).grades}
            points = {name: grade.auto_score for name, grade in found.items() if name != "written_2_8"}
            assert points == {f"check_2_{n}": float(graded.rows[student][f"2.{n}"]) for n in range(1, 8)}
            written = found["written_2_8"].auto_score, found["written_2_8"].needs_manual_grade
            assert written == ((0, False) if student == "untouched" else (None, True))
        broken = book.find_submission_notebook(STAGE, STAGE, "invalid-json").grades
        assert all(grade.auto_score is None and grade.needs_manual_grade for grade in broken)


def test_feedback_has_messages_and_no_test_judge_or_seed(graded):
    html = (graded.out / "feedback" / "buggy" / STAGE / f"{STAGE}.html").read_text(encoding="utf-8")
    assert "division by rank is missing" in html
    assert "class LoRALayer" in re.sub("<[^>]+>", "", html)  # code is coloured
    for secret in ("grade_cell", "HIDDEN TESTS", "MARK SCHEME", "autograder", str(seed_of(7, STAGE, "buggy"))):
        assert secret not in html
    assert list((graded.out / "feedback").rglob("*.html"))


LIVE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x]( &#106;avascript:alert(1))",
    "[r]: javascript:alert(1)\n\n[r]",
    "[r]:\n javascript:alert(1)\n\n[r]",
    "<javascript:alert(1)>",
    "![p](https://example.org/seen.png)",
    r"$\href{javascript:alert(1)}{x}$",
]


@pytest.mark.parametrize("text", LIVE)
def test_markdown_of_a_submission_runs_nothing_in_a_page_of_nbgraders(text):
    safe = harmless(text)
    output = harmless_output({"output_type": "display_data", "metadata": {}, "data": {"text/markdown": text}})
    assert output["data"]["text/markdown"] == safe
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(safe)])
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    body = page[page.index("<body") :]
    assert not re.search(r"<(script|img|svg)\b", body)
    assert not re.search(r"href=\W*(?!https?://)\w", body)
    assert "\\href" not in body
    assert body.count("alert") == text.count("alert")  # the reader sees what was written


STOPS = [
    "~~~&NewLine;\nx",
    "```&#9;\nx",
    "![x](attachment:picture-1.png)",
    "[x](<" * 400,
    "\\\\(" * 60_000,
    "\\\\[\n" * 9_000,
]


@pytest.mark.parametrize("text", STOPS, ids=lambda text: text[:6])
def test_markdown_of_a_submission_stops_no_page_of_nbgraders(text):
    page = Page()
    safe = page.markdown(text)
    assert len(safe) < 40_000
    assert safe.count("\\\\(") + safe.count("\\\\[") < 200  # each is looked for through the whole text
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(safe)])
    HTMLExporter(template_name="classic").from_notebook_node(notebook)


def test_beyond_a_page_s_share_markdown_is_shown_as_it_was_typed():
    page = Page()
    shown = [page.markdown("a " * 9_000).startswith("    ") for _ in range(12)]
    assert shown == [False] * 11 + [True]


def test_what_a_formula_and_code_look_like_stays():
    text = "$x < y$ and `a <b`, [paper](https://arxiv.org/abs/2106.09685), $\\frac{1}{2}$, x[1] = 2"
    assert harmless(text).replace("\u2060", "") == text
    assert harmless(text).count("\u2060") == 1


def test_the_executed_notebook_scores_the_same_in_nbgraders_eyes(graded):
    from nbgrader.utils import determine_grade, is_grade

    for student in (*HONEST, "forged-output"):
        nb = nbformat.read(graded.out / "autograded" / student / STAGE / f"{STAGE}.ipynb", as_version=4)
        graded_cells = [c for c in nb.cells if is_grade(c) and c.cell_type == "code"]
        assert sum(determine_grade(c)[0] for c in graded_cells) == float(graded.rows[student]["score"])
        assert all("grade_cell(" in c.source for c in graded_cells)


def test_nbgraders_export_takes_nothing_away(graded, tmp_path):
    shutil.copytree(graded.out, tmp_path / "out")
    settings = tmp_path / "out" / "nbgrader_config.py"
    settings.write_text(settings.read_text().replace(str(graded.out), str(tmp_path / "out")))
    line = ["export", "--log-level=ERROR"]
    nbgraders.run(tmp_path / "out", line, [*line, "--to", "mine.csv"])
    assert (tmp_path / "out" / "grades.csv").read_text() == (graded.out / "grades.csv").read_text()
    exported = (tmp_path / "out" / "nbgrader_grades.csv").read_text()
    assert "complete" in exported
    assert (tmp_path / "out" / "mine.csv").read_text() == exported


def test_run_again_grades_nothing_again_and_keeps_manual_scores(graded, tmp_path):
    shutil.copytree(graded.out, tmp_path / "out")
    with Gradebook(f"sqlite:///{tmp_path / 'out' / 'gradebook.db'}") as book:
        grade = book.find_grade("written_2_8", STAGE, STAGE, "complete")
        grade.manual_score, grade.needs_manual_grade = 2.5, False
        book.db.commit()
    results = sorted(p.name for p in (graded.out / ".grading" / "results").iterdir())
    again = grade_course.grade(graded.root, tmp_path / "out")
    assert f"0/0 graded, 0 a minute, warming up, 0 with failures, {len(graded.rows)} not" in again.stderr
    assert sorted(p.name for p in (tmp_path / "out" / ".grading" / "results").iterdir()) == results
    assert (tmp_path / "out" / "grades.csv").read_text() == (graded.out / "grades.csv").read_text()
    with sqlite3.connect(tmp_path / "out" / "gradebook.db") as db:
        kept = db.execute(
            "select manual_score, needs_manual_grade from grade where manual_score is not null"
        ).fetchall()
    assert kept == [(2.5, 0)]
