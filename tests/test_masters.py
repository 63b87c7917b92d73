"""How the notebooks' masters read: boxes, hints, sources, and no wall of prose."""

import functools
import re

import jupytext
import pytest
from stage_answers import automatic

from autograder.exercises import OPTIONAL, ROOT, STAGES

each_stage = pytest.mark.parametrize("stage", STAGES)


def master(stage):
    return ROOT / "solutions" / stage / f"{stage}.py"


@functools.cache
def cells(stage):
    return jupytext.read(master(stage), fmt="py:percent").cells


@each_stage
def test_every_exercise_has_its_box_and_three_hints(stage):
    exercises = automatic(stage)
    text = master(stage).read_text(encoding="utf-8")
    for exercise in STAGES[stage]:
        assert f"**Exercise {exercise.id}** · {exercise.points} points" in text
    for exercise in OPTIONAL[stage]:
        assert f"**Exercise {exercise.id}** · optional, no points" in text
    assert text.count("<summary>Hint ") == 3 * len([*exercises, *OPTIONAL[stage]])
    assert text.count("<details>") == text.count("</details>")
    roles = [cell.metadata for cell in cells(stage)]
    graded = [r["check"] for r in roles if r.get("check") in [e.id for e in exercises]]
    assert graded == [e.id for e in exercises]
    assert [r["written"] for r in roles if "written" in r] == [e.id for e in STAGES[stage] if e.manual]


@each_stage
def test_every_prediction_and_closing_question_has_a_folded_answer(stage):
    """An answer stands below the code that decides it, and before the next question."""
    open_questions = 0
    for cell in cells(stage):
        if cell.cell_type != "markdown" or "written" in cell.metadata:
            continue
        prose, _, closing = cell.source.partition("## Before you go on")
        for word in re.findall(r"\*\*Predict\*\*(?=:| )|<summary>Answer", prose):
            if word.startswith("<"):
                assert open_questions, f"an answer without a question: {cell.source[:80]!r}"
                open_questions -= 1
            elif "At **Predict**, say" not in prose:
                open_questions += 1
        if closing:
            assert not open_questions, "a prediction without an answer"
            assert closing.count("<summary>Answer") == len(re.findall(r"^\d\. ", closing, re.MULTILINE)) == 4


@each_stage
def test_each_part_of_a_written_question_has_its_points_beside_it(stage):
    prose = "\n".join(cell.source for cell in cells(stage))
    for exercise in (exercise for exercise in STAGES[stage] if exercise.manual):
        box = re.search(rf"> \*\*Exercise {re.escape(exercise.id)}\*\* · .*\n(?:>.*\n?)+", prose)[0]
        parts = re.findall(r"\*\[([\d.]+) points?\]\*", box)
        assert len(parts) == len(re.findall(r"\([a-d]\) ", box))
        assert sum(map(float, parts)) == exercise.points


@each_stage
def test_sources_are_named_and_linked(stage):
    """Each exercise says where to read on; a paper named by its number is a link, and so is the LoRA paper once."""
    prose = "\n".join(cell.source for cell in cells(stage) if cell.cell_type == "markdown")
    boxes = re.findall(r"\*\*Exercise [\d.]+\*\* · .* · (.+)", prose)
    assert boxes
    for source in boxes:
        assert re.search(r"LoRA paper|\]\(https://", source), source
    for number in re.findall(r"(?<!\[arXiv:)(?<!/abs/)\b\d{4}\.\d{5}\b", prose):
        raise AssertionError(f"{number} is not a link")
    first = re.search(r"\bLoRA paper", prose)
    assert not first or prose[first.start() :].startswith(
        "LoRA paper ([arXiv:2106.09685](https://arxiv.org/abs/2106.09685))"
    )
    assert not re.search(r"\]\((?!https://)", prose), "a link that is not https"


@each_stage
def test_no_long_prose_between_code_cells(stage):
    """About 120 words; a collapsed hint is not read in passing, and a table's marks are not words."""
    words = 0
    for cell in cells(stage):
        if cell.cell_type == "code" or "written" in cell.metadata:  # there the reader stops reading and writes
            words = 0
            continue
        if "written" in cell.metadata or cell.source.startswith(("# ", "## Before you go on")):
            continue
        shown = cell.source.split("<details>")
        text = shown[0] + " ".join(part.partition("</details>")[2] for part in shown[1:])
        words += len(text.replace("|", " ").split())
        assert words <= 150, cell.source[:200]


def test_only_one_cell_draws_the_comparison_and_nothing_else():
    drawing = [c for c in cells("04_sst2_training") if "compare_methods(" in c.source]
    assert len(drawing) == 1
    assert drawing[0].source.count("display(") == 1


def test_every_figure_is_described():
    for cell in cells("05_analysis"):
        if "figure = plots." in cell.source:
            assert "display(figure)\n" in cell.source
            assert "print(describe(figure))" in cell.source


def test_the_report_asks_for_the_students_own_figures():
    """A published course accepted "1" for an answer."""
    written = next(c for c in cells("05_analysis") if "written" in c.metadata)
    scheme = written.source.partition("### BEGIN MARK SCHEME")[2]
    assert "own figures" in scheme
    assert all(f"({part})" in scheme for part in "abcd")
