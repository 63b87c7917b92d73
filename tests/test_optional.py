"""Optional exercises: checked as all others are, and without points. What a grader makes of them is asked of one class.

Their mistakes, right answers written otherwise, gaps and judges; then a class of three, in which one solved them, one
has a mistake and one left them open.
"""

import nbformat
import numpy as np
import pytest
from stage_answers import POINTS, WITHOUT_POINTS, failed_visible, hidden, released, run, touched, worked
from test_exercises import MANY_SEEDS, assert_explained, per_stage, run_mutant

from autograder import in_gradescope
from autograder.engine.assignment import Assignment
from autograder.engine.job import Row
from autograder.evaluation import Result, evaluate, evaluate_exercise, grade_cell, stopped
from autograder.exercises import OPTIONAL, ROOT, STAGES, exercise, optional_alternates, optional_mutants, stage_of
from autograder.exercises.mutant import worked_cells
from autograder.results import feedback, items
from lora_ref.checks import check, visible_checks
from lora_ref.checks.probing import observe
from lora_ref.checks.verdicts import judge

each_exercise = per_stage("exercise", [(stage_of(e.id), e.id, e) for e in WITHOUT_POINTS])
each_check = per_stage("check", [(stage_of(e.id), c.id, c) for e in WITHOUT_POINTS for c in e.hidden])
each_mutant = per_stage("mutant", [(stage_of(e.id), m.id, m) for e in WITHOUT_POINTS for m in e.mutants])


# --- each exercise --------------------------------------------------------------------------------------------------


@each_exercise
def test_it_has_checks_mutants_and_alternates_and_no_points(exercise):
    assert exercise.optional
    assert exercise.points == 0
    assert exercise.id not in POINTS
    for checks in (exercise.hidden, visible_checks(exercise.id)):
        assert len(checks) >= 3
        assert {one.exercise for one in checks} == {exercise.id}
        assert len({one.contract for one in checks}) == len(checks)
    assert len({mutant.id for mutant in exercise.mutants}) == len(exercise.mutants) >= 8
    assert {mutant.exercise for mutant in exercise.mutants} == {exercise.id}
    assert len(optional_alternates(exercise.id)) >= 2


@each_exercise
def test_right_answers_solve_it(exercise):
    stage = stage_of(exercise.id)
    answers = [worked(stage)]
    answers += [run([*worked_cells(stage), path.read_text()]) for path in optional_alternates(exercise.id)]
    for answer in answers:
        assert answer.errors == []
        assert failed_visible(exercise.id, answer.namespace) == []
        for seed in range(2):
            result = evaluate_exercise(exercise.id, answer.namespace, seed)
            assert result.failed == [], result.message


@each_mutant
def test_a_mistake_is_found_and_explained_and_costs_no_other_exercise(mutant):
    assert_explained(mutant, run_mutant(mutant).namespace)
    assert [e.id for e in touched(mutant)] == []


@pytest.mark.slow
@each_mutant
def test_a_mistake_is_found_whatever_the_seed(mutant):
    namespace = run_mutant(mutant).namespace
    results = [evaluate_exercise(mutant.exercise, namespace, seed) for seed in MANY_SEEDS]
    assert [result.message for result in results if mutant.says not in result.message] == []


@each_exercise
def test_an_open_gap_is_not_yet_and_costs_nothing(exercise):
    stage = stage_of(exercise.id)
    answer = run(released(stage, [exercise.id]))
    assert answer.errors == []
    assert len(failed_visible(exercise.id, answer.namespace)) == len(visible_checks(exercise.id))
    result = evaluate_exercise(exercise.id, answer.namespace, 0)
    assert all(verdict.fault.raised == "NotImplementedError" for verdict in result.verdicts)
    assert result.message.startswith(f"{exercise.id} {exercise.title} (optional): not yet")


@each_check
def test_a_judge_passes_nothing_that_a_sandbox_made_up(check):
    inputs = check.draw(np.random.default_rng(0))
    seen = observe(check.probe, worked(stage_of(check.exercise)).namespace, inputs)
    assert check.judge(inputs, seen) is None, seen
    made_up = [{}, {"error": {}}, *(dict.fromkeys(seen, value) for value in (None, [], {}, "right"))]
    assert [data for data in made_up if judge(check, inputs, data).passed] == []


# --- the course around them -----------------------------------------------------------------------------------------

STAGE = "04_sst2_training"


def test_the_points_of_the_course_do_not_count_them():
    assert sum(POINTS.values()) == 100
    assert not {e.id for e in WITHOUT_POINTS} & {e.id for exercises in STAGES.values() for e in exercises}
    assert exercise("4.8").optional
    assert stage_of("4.8") == STAGE
    assert not exercise("4.4").optional


def test_a_check_says_that_it_is_optional(capsys):
    check("4.8", worked(STAGE).namespace)
    assert capsys.readouterr().out.startswith("4.8 DoRA, as a parametrization (optional): visible checks passed.")
    assert grade_cell("4.8", worked(STAGE).namespace) is None
    assert "4.8 DoRA, as a parametrization (optional): solved" in capsys.readouterr().out


def test_a_report_has_them_apart():
    report = evaluate("02_lora_layer", {}, 0)
    assert report.optional == tuple(evaluate_exercise(e.id, {}, 0) for e in OPTIONAL["02_lora_layer"])
    report = evaluate(STAGE, {}, 0)
    assert [result.id for result in report.optional] == [e.id for e in OPTIONAL[STAGE]]
    assert report.max_score == sum(e.points for e in STAGES[STAGE] if not e.manual)
    assert len(report.to_dict()["optional"]) == len(OPTIONAL[STAGE])
    assert "4.8 DoRA, as a parametrization (optional): not yet" in str(report)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if OPTIONAL[stage]])
def test_students_get_the_gap_and_a_check_without_points(stage):
    release = nbformat.read(ROOT / "notebooks" / stage / f"{stage}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in release.cells)
    known = {cell.metadata.nbgrader.grade_id: cell for cell in release.cells if "nbgrader" in cell.metadata}
    for e in OPTIONAL[stage]:
        assert f'raise NotImplementedError("Exercise {e.id}")' in text
        assert f"**Exercise {e.id}** · optional, no points ·" in text
        cell = known[f"check_{e.id.replace('.', '_')}"]
        assert (cell.metadata.nbgrader.points, cell.metadata.nbgrader.locked) == (0, True)
        assert "grade_cell" not in cell.source


def row_of(student, namespace):
    report = evaluate(STAGE, namespace, 0)
    return Row(student, STAGE, status="graded", results=list(report.results), optional=list(report.optional))


@pytest.fixture(scope="module")
def rows():
    """Solved, wrong, open."""
    wrong = run_mutant(next(m for m in optional_mutants(STAGE) if m.id == "4.8/no-scale")).namespace
    gaps = run(released(STAGE, [e.id for e in OPTIONAL[STAGE]])).namespace
    return [row_of("solved", worked(STAGE).namespace), row_of("wrong", wrong), row_of("open", gaps)]


def test_nobody_loses_a_point_or_needs_attention(rows):
    assert len({row.score for row in rows}) == 1
    assert [row.attention for row in rows] == [[], [], []]


def test_the_statistics_of_graded_checks_have_none_of_theirs(rows):
    assert {item.id for item in items.analyse(rows)} == {check.id for check in hidden(STAGE)}
    dora = next(one for one in items.optional(rows) if one.id == "4.8")
    assert (dora.tried, dora.solved) == (2, 1)
    assert min(share for _, share in dora.checks) == 0.5


def test_feedback_says_solved_or_not_yet(rows):
    assignment = Assignment.load(STAGE)
    solved, wrong, open_ = (" ".join(feedback.page(assignment, row).split()) for row in rows)
    assert "4.8 DoRA, as a parametrization, optional: solved" in solved
    for page in (wrong, open_):
        assert "4.8 DoRA, as a parametrization, optional: not yet" in page
    assert "the scale alpha / rank is missing" in wrong
    assert solved.partition("<table>")[0] == open_.partition("<table>")[0].replace("open.", "solved.")


def test_gradescope_shows_them_without_a_score(rows):
    for row in rows:
        tests = in_gradescope.results_of(row, Assignment.load(STAGE), "visible")["tests"]
        theirs = [test for test in tests if "(optional)" in test["name"]]
        assert len(theirs) == len(OPTIONAL[STAGE])
        assert not any("score" in test or "max_score" in test for test in theirs)


def test_a_record_of_an_older_version_has_none(rows):
    row = Row("old", STAGE)
    row.finish({"results": [result.to_dict() for result in rows[0].results]})
    assert (row.optional, row.score) == ([], rows[0].score)
    assert Result.from_dict(stopped("4.8", "time was up").to_dict()).heading.endswith("(optional): not yet")
