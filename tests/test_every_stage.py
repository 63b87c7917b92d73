"""What holds of each stage alike: its points, its checks' names, its bank's size, how its notebook reads."""

import contextlib
import importlib
import io
import re

import jupytext
import pytest
from stage_answers import POINTS

from autograder.answers import load_answer, run_cells
from autograder.evaluation import evaluate, evaluate_exercise
from autograder.exercises import ROOT, STAGES, alternates, mutants, stage_of
from autograder.exercises.mutant import worked_cells

#: Seeds from which inputs are drawn, for what must hold of any: a draw of one kind in 20 is found nearly surely.
MANY_SEEDS = range(60)


@pytest.fixture(params=STAGES)
def stage(request):
    return request.param


@pytest.fixture
def automatic(stage):
    return [e.id for e in STAGES[stage] if not e.manual]


@pytest.fixture
def judges(stage):
    return importlib.import_module(f"autograder.judges.stage{stage[:2]}")


@pytest.fixture
def visible(stage):
    return importlib.import_module(f"lora_ref.checks.stage{stage[:2]}")


@pytest.fixture
def master(stage):
    return ROOT / "solutions" / stage / f"{stage}.py"


def test_the_course_has_a_hundred_points():
    assert sum(POINTS.values()) == 100


def test_hidden_points_add_up_to_the_contract(automatic, judges):
    for exercise in automatic:
        points = [check.points for check in judges.HIDDEN if check.exercise == exercise]
        assert sum(points) == POINTS[exercise]
        assert min(points) > 0


def test_check_ids_are_unique_and_every_exercise_has_visible_checks(stage, automatic, judges, visible):
    for checks in (judges.HIDDEN, visible.VISIBLE):
        ids = [check.id for check in checks]
        assert len(ids) == len(set(ids))
        sentences = [(check.exercise, check.contract) for check in checks]
        assert len(sentences) == len(set(sentences))  # or a report names one check twice
        assert {check.exercise for check in checks} == set(automatic)
    assert set(visible.TITLES) == {e.id for e in STAGES[stage]}


def test_no_hidden_judge_is_shipped(visible):
    assert not hasattr(visible, "HIDDEN")


def test_there_are_enough_alternates(stage):
    assert len(alternates(stage)) >= 4


@pytest.mark.slow
def test_right_answers_have_full_marks_whatever_the_seed(stage):
    with contextlib.redirect_stdout(io.StringIO()):
        answers = [run_cells(worked_cells(stage)), *(load_answer(path) for path in alternates(stage))]
    for answer in answers:
        for seed in MANY_SEEDS:
            report = evaluate(stage, answer.namespace, seed)
            assert report.score == report.max_score, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [m for stage in STAGES for m in mutants(stage)], ids=lambda mutant: mutant.id)
def test_a_mistake_costs_the_same_whatever_the_seed(mutant):
    """Or two students lose different points for one mistake; and each of them reads what it is."""
    with contextlib.redirect_stdout(io.StringIO()):
        namespace = mutant.answer(stage_of(mutant.exercise)).namespace
    results = [evaluate_exercise(mutant.exercise, namespace, seed) for seed in MANY_SEEDS]
    assert len({result.earned for result in results}) == 1, [result.earned for result in results]
    assert results[0].earned < results[0].points
    assert [result.message for result in results if mutant.says not in result.message] == []


def test_every_exercise_has_its_box_and_three_hints(stage, automatic, master):
    text = master.read_text(encoding="utf-8")
    for exercise in STAGES[stage]:
        assert f"**Exercise {exercise.id}** · {exercise.points} points" in text
    assert text.count("<details>") == text.count("</details>") == 3 * len(automatic)
    roles = [cell.metadata for cell in jupytext.read(master, fmt="py:percent").cells]
    assert [r["check"] for r in roles if "check" in r] == automatic
    assert [r["written"] for r in roles if "written" in r] == [e.id for e in STAGES[stage] if e.manual]


def test_sources_are_named_and_linked(master):
    """Each exercise says where to read on; a paper named by its number is a link, and so is the LoRA paper once."""
    cells = jupytext.read(master, fmt="py:percent").cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    boxes = re.findall(r"\*\*Exercise [\d.]+\*\* · .* · (.+)", prose)
    assert boxes
    for source in boxes:
        assert re.search(r"LoRA paper|\]\(https://", source), source
    for number in re.findall(r"(?<!\[arXiv:)(?<!/abs/)\b\d{4}\.\d{5}\b", prose):
        raise AssertionError(f"{number} is no link")
    first = prose.find("LoRA paper")
    assert first < 0 or prose[first:].startswith("LoRA paper ([arXiv:2106.09685](https://arxiv.org/abs/2106.09685))")
    assert not re.search(r"\]\((?!https://)", prose), "a link that is not https"


def test_no_long_prose_between_code_cells(master):
    """About 120 words; a collapsed hint is not read in passing, and a table's marks are no words."""
    words = 0
    for cell in jupytext.read(master, fmt="py:percent").cells:
        if cell.cell_type == "code":
            words = 0
            continue
        if "written" in cell.metadata or cell.source.startswith(("# ", "## Before you go on")):
            continue
        shown = cell.source.split("<details>")
        text = shown[0] + " ".join(part.partition("</details>")[2] for part in shown[1:])
        words += len(text.replace("|", " ").split())
        assert words <= 150, cell.source[:200]
