"""What holds of every exercise and every stage alike, whatever it teaches.

Right answers pass whatever their style. Each mistake of the bank loses points where it is wrong, there alone, and is
explained by the visible checks in the words of the table of messages. Gaps, hostile answers and observations that a
sandbox made up earn nothing. What holds of one stage alone is in ``test_stage0N.py``.

A test's id begins with its stage: pytest-xdist deals the stages out to its workers (`conftest.ByStageOrFile`).
"""

import contextlib
import dataclasses
import importlib
import io
import json
import pkgutil
import random
import zlib

import numpy as np
import pytest
from hostile_answers import HOSTILE, hangs
from stage_answers import (
    AUTOMATIC,
    POINTS,
    alternate,
    automatic,
    earned,
    failed_visible,
    full_marks,
    hidden,
    names_of,
    released,
    right_answers,
    run,
    touched,
    worked,
)

import lora_ref
from autograder import messages
from autograder.evaluation import evaluate, evaluate_exercise, hidden_checks, result_from
from autograder.exercises import STAGES, alternates, mutants, optional_mutants, stage_of
from lora_ref.checks import probing, visible_checks
from lora_ref.checks.probing import observe
from lora_ref.checks.verdicts import judge, run_check, run_checks

#: Seeds from which inputs are drawn, for what must hold of any: a draw of one kind in 20 is found nearly surely.
MANY_SEEDS = range(60)
#: The published pieces (S0 to S4) whose mistakes are in a stage's bank.
PUBLISHED = {
    "01_rank_theory": {"S1", "S4"},
    "02_lora_layer": {"S0", "S1", "S2", "S3", "S4"},
    "03_roberta_injection": {"S0", "S2", "S4"},
    "04_sst2_training": {"S0", "S1", "S2"},
    "05_analysis": {"S0", "S3"},
}
#: An open gap costs what others lose with it: the output of a merged layer needs the wrapper's forward.
NEEDS_A_NEIGHBOUR = {"2.4": {"2.5": 0.75}}
#: (hostile answer, stage) -> points that it earns: a layer full of NaN has the right shapes, a float is a float.
EARNS = {
    ("nan layer", "02_lora_layer"): 1,
    ("lying layer", "02_lora_layer"): 1,
    ("returns 0.0", "05_analysis"): 0.25,
}
#: Here an observation says yes or no, or lists what is wrong: a yes and an empty list are right.
TRUSTED_FLAGS = ("3.1/", "3.4/")


def per_stage(name, rows):
    """Parametrises a test: (stage, id, value) each."""
    return pytest.mark.parametrize(name, [pytest.param(value, id=f"{stage}-{id_}") for stage, id_, value in rows])


each_stage = pytest.mark.parametrize("stage", STAGES)
each_exercise = per_stage("exercise", [(stage_of(e.id), e.id, e) for e in AUTOMATIC])
each_check = per_stage("check", [(stage, check.id, check) for stage in STAGES for check in hidden(stage)])
each_mutant = per_stage("mutant", [(stage, mutant.id, mutant) for stage in STAGES for mutant in mutants(stage)])


def assert_right(answer, stage, seeds):
    assert answer.errors == []
    for seed in seeds:
        report = evaluate(stage, answer.namespace, seed)
        assert report.score == report.max_score == sum(full_marks(stage).values()), str(report)
    assert [message for e in automatic(stage) for message in failed_visible(e.id, answer.namespace)] == []


# --- points ---------------------------------------------------------------------------------------------------------


def test_the_course_has_a_hundred_points():
    assert sum(POINTS.values()) == 100


@each_exercise
def test_an_exercise_has_points_for_each_check_and_something_to_run(exercise):
    assert sum(check.points for check in exercise.hidden) == pytest.approx(exercise.points)
    assert min(check.points for check in exercise.hidden) > 0
    assert visible_checks(exercise.id), "a student must be able to check the exercise"
    for checks in (exercise.hidden, visible_checks(exercise.id)):
        assert {check.exercise for check in checks} == {exercise.id}
        assert len({check.id for check in checks}) == len(checks)
        assert len({check.contract for check in checks}) == len(checks)  # or a report names one check twice


# --- right answers --------------------------------------------------------------------------------------------------


@each_stage
def test_the_worked_solution_has_full_marks(stage):
    assert_right(worked(stage), stage, range(2))  # at many seeds: the slow tests


@per_stage("path", [(stage, path.stem, path) for stage in STAGES for path in alternates(stage)])
def test_a_right_answer_written_otherwise_has_full_marks(path):
    stage = next(stage for stage in STAGES if path in alternates(stage))
    assert_right(alternate(path), stage, [zlib.crc32(path.stem.encode())])  # at many seeds: the slow tests


@each_stage
def test_there_are_enough_alternates(stage):
    assert len(alternates(stage)) >= 4


@each_stage
def test_the_reference_package_passes_its_own_checks(stage):
    modules = [importlib.import_module(f"lora_ref.{m.name}") for m in pkgutil.iter_modules(lora_ref.__path__)]
    modules = [module for module in modules if module.__name__ != "lora_ref.commands"]  # its train is a command
    own = {
        name: value
        for module in modules
        for name in names_of(stage)
        if getattr(value := vars(module).get(name), "__module__", None) == module.__name__
    }
    assert len(own) >= 2
    report = evaluate(stage, {**worked(stage).namespace, **own}, 0)
    assert report.score == report.max_score, str(report)


@pytest.mark.slow
@each_stage
def test_right_answers_have_full_marks_whatever_the_seed(stage):
    for answer in right_answers(stage).values():
        assert_right(answer, stage, MANY_SEEDS)


# --- mistakes -------------------------------------------------------------------------------------------------------


@each_mutant
def test_a_mistake_costs_its_own_exercise_alone_and_is_explained(mutant):
    """The mistake is run once, and everything is asked of that run."""
    answer = run_mutant(mutant)
    assert_explained(mutant, answer.namespace)
    for exercise in touched(mutant):
        # a sample; the slow `test_a_mistake_costs_nothing_where_its_cell_is_not_used` asks every mistake
        if exercise.id != mutant.exercise and zlib.crc32(mutant.id.encode()) % 4 == 0:
            result = evaluate_exercise(exercise.id, answer.namespace, 0)
            assert result.earned == exercise.points, result.message


def assert_explained(mutant, namespace):
    """By the visible checks, which alone let a reader find the mistake and its cause, and by a hidden one."""
    visible = run_checks(visible_checks(mutant.exercise), namespace)
    seen = messages.words(visible)
    assert mutant.says in seen, seen or "no visible check fails"
    assert messages.row(mutant, seen) in TABLE, "stale: run `python -m autograder messages`"
    found = [verdict.id for verdict in visible if not verdict.passed]
    hidden_first = sorted(hidden_checks(mutant.exercise), key=lambda check: check.id not in found)
    # one is enough, and costs points; all of them, at many seeds: the slow tests
    assert any(mutant.says in messages.words([run_check(check, namespace, 1)]) for check in hidden_first)


TABLE = messages.TABLE.read_text(encoding="utf-8").splitlines()


def run_mutant(mutant):
    with contextlib.redirect_stdout(io.StringIO()):
        answer = mutant.answer(stage_of(mutant.exercise))
    assert answer.errors == []
    return answer


def test_the_table_of_messages_has_one_row_for_each_mistake():
    assert sum(line.startswith("| `") for line in TABLE) == sum(
        len(mutants(stage) + optional_mutants(stage)) for stage in STAGES
    )


@each_stage
def test_every_exercise_and_every_published_mistake_has_mutants(stage):
    bank = mutants(stage)
    assert {mutant.exercise for mutant in bank} == {e.id for e in automatic(stage)}
    assert {mutant.seed for mutant in bank} >= PUBLISHED[stage]
    assert len({mutant.id for mutant in bank}) == len(bank) >= 20


@pytest.mark.slow
@each_mutant
def test_a_mistake_costs_the_same_whatever_the_seed(mutant):
    """Or two students lose different points for one mistake; and each of them reads what it is."""
    namespace = run_mutant(mutant).namespace
    results = [evaluate_exercise(mutant.exercise, namespace, seed) for seed in MANY_SEEDS]
    assert len({result.earned for result in results}) == 1, [result.earned for result in results]
    assert results[0].earned < results[0].points
    assert [result.message for result in results if mutant.says not in result.message] == []


@pytest.mark.slow
@each_mutant
def test_a_mistake_costs_nothing_where_its_cell_is_not_used(mutant):
    """That `touched` leaves out nothing."""
    points = earned(evaluate(stage := stage_of(mutant.exercise), run_mutant(mutant).namespace, 0))
    points[mutant.exercise] = POINTS[mutant.exercise]
    assert points == full_marks(stage)


# --- gaps -----------------------------------------------------------------------------------------------------------


@each_stage
def test_an_untouched_notebook_scores_nothing(stage):
    answer = run(released(stage, POINTS))
    assert answer.errors == []
    report = evaluate(stage, answer.namespace, 0)
    assert report.score == 0, str(report)
    assert all(not verdict.passed for result in report.results for verdict in result.verdicts)
    for exercise in automatic(stage):
        assert len(failed_visible(exercise.id, answer.namespace)) == len(visible_checks(exercise.id))


def open_gap(exercise, others):
    """Points of an exercise whose gap is open and of others of its stage, and what they must be."""
    names = run(released(stage_of(exercise.id), [exercise.id])).namespace
    lost = {exercise.id: exercise.points} | NEEDS_A_NEIGHBOUR.get(exercise.id, {})
    asked = [exercise, *others]
    points = {e.id: evaluate_exercise(e.id, names, 0).earned for e in asked}
    return points, {e.id: e.points - lost.get(e.id, 0) for e in asked}


@each_exercise
def test_one_open_gap_costs_its_own_exercise_alone(exercise):
    """A student who skips an exercise can still get every point of the others: of two here, of all in the slow test."""
    others = [e for e in automatic(stage_of(exercise.id)) if e.id != exercise.id]
    points, wanted = open_gap(exercise, random.Random(exercise.id).sample(others, 2))
    assert points == wanted


@pytest.mark.slow
@each_exercise
def test_one_open_gap_costs_no_other_exercise_of_its_stage(exercise):
    points, wanted = open_gap(exercise, [e for e in automatic(stage_of(exercise.id)) if e.id != exercise.id])
    assert points == wanted


@each_stage
def test_a_missing_name_is_called_missing(stage):
    report = evaluate(stage, {}, 0)
    assert report.score == 0
    for result in report.results:
        assert "is not defined" in result.message
        assert "raised" not in result.message.replace("raised an error", "")


# --- hostile answers ------------------------------------------------------------------------------------------------


each_hostile = per_stage("case", [(stage, what, (stage, what)) for stage in STAGES for what in HOSTILE])


@each_hostile
def test_a_hostile_answer_gets_a_verdict_and_hardly_a_point(case):
    """Of two exercises, others for each answer; of all: the slow test."""
    stage, what = case
    names = dict.fromkeys(names_of(stage), HOSTILE[what])
    for exercise in random.Random(f"{stage} {what}").sample(automatic(stage), 2):
        result = evaluate_exercise(exercise.id, names, 0)
        assert result.earned <= EARNS.get((what, stage), 0), result.message
        json.dumps(result.to_dict())


@pytest.mark.slow
@each_hostile
def test_a_hostile_answer_gets_a_verdict_of_every_exercise(case):
    stage, what = case
    report = evaluate(stage, dict.fromkeys(names_of(stage), HOSTILE[what]), 0)
    assert report.score == EARNS.get((what, stage), 0), str(report)
    json.dumps(report.to_dict())


@each_exercise
def test_a_hang_is_a_verdict(exercise, monkeypatch):
    monkeypatch.setattr(probing, "TRIES", 1)
    first = dataclasses.replace(exercise.hidden[0], seconds=0.1, builds_on=())
    names = worked(stage_of(exercise.id)).namespace | dict.fromkeys(exercise.names, hangs)
    result = result_from(exercise.id, run_checks([first], names, 0))
    assert result.earned == 0
    assert "still running" in result.message


# --- judges alone ---------------------------------------------------------------------------------------------------


@each_check
def test_a_judge_takes_plain_data_and_passes_none_that_a_sandbox_made_up(check):
    """A judge may sit in another process: nothing but arrays, numbers and text may reach it, and any of it."""
    inputs = check.draw(np.random.default_rng(0))
    seen = observe(check.probe, worked(stage_of(check.exercise)).namespace, inputs)
    assert "error" not in seen
    for data in (seen, inputs):
        assert "error" not in observe(lambda names, data=data: data, {}, {})
    assert check.judge(inputs, seen) is None
    made_up = [{}, {"error": {}}, {"y": "right"}, {"states": []}, {"outcomes": []}]
    made_up += [dict.fromkeys(seen)]
    if not check.id.startswith(TRUSTED_FLAGS):
        made_up += [dict.fromkeys(seen, value) for value in ([], {}, "right")]
    for data in made_up:
        fault = judge(check, inputs, data).fault
        assert fault is not None, f"{data} passes"
        assert str(fault)
