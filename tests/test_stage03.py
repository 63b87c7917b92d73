"""Stage 03's checks against the bank: right answers pass whatever their style, wrong ones lose points and learn why."""

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from autograder.judges import stage03 as judges
from stage_answers import POINTS, earned, faults_of_visible, release
from test_stage02 import HOSTILE, hangs
from torch import nn

from autograder import evaluate
from autograder.answers import load_answer, run_cells
from autograder.evaluation import evaluate_exercise
from autograder.exercises import ROOT, STAGES, alternates, mutants
from autograder.exercises.mutant import worked_cells
from lora_ref import costs, inject
from lora_ref.checks import stage03 as visible
from lora_ref.checks import visible_checks
from lora_ref.checks.probing import observe
from lora_ref.checks.verdicts import judge, run_check

STAGE = "03_roberta_injection"
AUTOMATIC = [e.id for e in STAGES[STAGE] if not e.manual]
NAMES = [name for e in STAGES[STAGE] for name in e.names]
MASTER = ROOT / "solutions" / STAGE / f"{STAGE}.py"


def run(cells):
    with contextlib.redirect_stdout(io.StringIO()):
        return run_cells(cells)


@pytest.fixture(scope="module")
def worked():
    answer = run(worked_cells(STAGE))
    assert answer.errors == []
    return answer.namespace


# --- right answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_worked_solution_has_full_marks(worked, seed):
    report = evaluate(STAGE, worked, seed)
    assert report.score == report.max_score == 17, str(report)


def test_worked_solution_passes_the_visible_checks(worked):
    assert [fault for exercise in AUTOMATIC for fault in faults_of_visible(exercise, worked)] == []


@pytest.mark.parametrize("path", alternates(STAGE), ids=lambda path: path.stem)
def test_alternates_have_full_marks(path):
    answer = load_answer(path)
    assert answer.errors == []
    for seed in range(3):
        report = evaluate(STAGE, answer.namespace, seed)
        assert report.score == report.max_score, str(report)
    assert [fault for exercise in AUTOMATIC for fault in faults_of_visible(exercise, answer.namespace)] == []


def test_the_reference_package_passes_its_own_checks(worked):
    own = {name: getattr(inject, name) for name in NAMES[:5]}
    report = evaluate(STAGE, {**worked, **own}, 0)
    assert report.score == report.max_score, str(report)


# --- wrong answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", mutants(STAGE), ids=lambda mutant: mutant.id)
def test_mutant_loses_points_where_it_is_wrong_and_learns_why(mutant):
    with contextlib.redirect_stdout(io.StringIO()):
        answer = mutant.answer(STAGE)
    assert answer.errors == []
    report = evaluate(STAGE, answer.namespace, 0)
    points = earned(report)
    points.pop(mutant.exercise)
    assert points == {exercise: POINTS[exercise] for exercise in points}, str(report)
    for seed in (0, 1):
        result = evaluate_exercise(mutant.exercise, answer.namespace, seed)
        assert result.earned < result.points, "survives"
        assert mutant.says in result.message, result.message
    seen = "\n".join(faults_of_visible(mutant.exercise, answer.namespace))
    # what a visible check finds, it explains as well as the hidden one
    assert not seen or mutant.says in seen, seen


def test_every_published_mistake_has_a_mutant():
    bank = mutants(STAGE)
    assert {"S0", "S2", "S4"} <= {mutant.seed for mutant in bank}
    assert {mutant.exercise for mutant in bank} == set(AUTOMATIC)
    assert len(bank) >= 20


def test_untouched_notebook_scores_nothing():
    answer = run([release(cell) for cell in worked_cells(STAGE)])
    assert answer.errors == []
    report = evaluate(STAGE, answer.namespace, 0)
    assert report.score == 0, str(report)
    assert all(not verdict.passed for result in report.results for verdict in result.verdicts)
    for exercise in AUTOMATIC:
        assert len(faults_of_visible(exercise, answer.namespace)) == len(visible_checks(exercise))


@pytest.mark.parametrize("exercise", AUTOMATIC)
def test_one_open_gap_costs_its_own_exercise_alone(exercise):
    """Each exercise has a cell of its own, so the others' can be kept whole."""
    cells = [release(cell) if f"### BEGIN SOLUTION {exercise}" in cell else cell for cell in worked_cells(STAGE)]
    points = earned(evaluate(STAGE, run(cells).namespace, 0))
    assert points.pop(exercise) == 0
    assert points == {name: POINTS[name] for name in points}


def test_a_wrong_layer_of_ones_own_costs_nothing_here(worked):
    """Whoever pastes a layer that stage 2 has marked down is not marked down again."""
    cells = worked_cells(STAGE)
    pasted = (
        "class LinearWithLoRA(nn.Module):\n"
        "    def __init__(self, linear, rank, alpha, dropout=0.0):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(linear.in_features, linear.out_features)\n"
        "    def forward(self, x):\n"
        "        return self.linear(x)\n"
    )
    answer = run([cells[0], pasted, *cells[1:]])
    assert answer.namespace["LinearWithLoRA"].__module__ == "__answer__"
    report = evaluate(STAGE, answer.namespace, 0)
    assert report.score == report.max_score, str(report)


# --- hostile answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_names_get_a_verdict_and_no_point(what):
    report = evaluate(STAGE, dict.fromkeys(NAMES, HOSTILE[what]), 0)
    assert report.score == 0, str(report)
    json.dumps(report.to_dict())


@pytest.mark.parametrize("name", NAMES)
def test_doing_nothing_earns_nothing(worked, name):
    """The laziest functions of the right signature: what is returned is what was given, or None."""
    for lazy in (lambda *args, **kwargs: None, lambda first, *args, **kwargs: first):
        verdicts = [run_check(c, {**worked, name: lazy}, 0) for c in judges.HIDDEN]
        exercise = next(e.id for e in STAGES[STAGE] if name in e.names)
        lost = [v for v in verdicts if not v.passed and v.check.exercise == exercise]
        if exercise == "3.6":
            assert [v.check.id for v in lost] == [f"3.6/{name}"]
        else:
            kept = [v.check.id for v in verdicts if v.passed and v.check.exercise == exercise]
            # the model itself comes back from a freeze that does nothing, too
            assert kept in ([], ["3.1/returned"]), kept


def test_a_hang_is_a_verdict(worked, monkeypatch):
    monkeypatch.setattr(judges, "HIDDEN", [dataclasses.replace(check, seconds=0.3) for check in judges.HIDDEN])
    for check in judges.HIDDEN:
        if check.exercise in ("3.1", "3.3", "3.5"):
            verdict = run_check(check, {**worked, **dict.fromkeys(NAMES, hangs)}, 0)
            assert "still running" in verdict.message


def test_missing_names_say_so():
    report = evaluate(STAGE, {}, 0)
    assert report.score == 0
    assert all("is not defined" in result.message for result in report.results)


# --- judges alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", judges.HIDDEN, ids=lambda check: check.id)
def test_no_judge_passes_an_observation_that_a_sandbox_made_up(check):
    inputs = check.draw(np.random.default_rng(0))
    for seen in ({}, {"error": {}}, {"outcomes": []}, {"wrapped": {}}, {"trains": []}, {"places": {}, "same": True}):
        if check.id in ("3.1/frozen", "3.1/all") and "trains" in seen:
            continue  # that nothing trains is right; the other keys are missing
        fault = judge(check, inputs, seen)
        assert fault is not None, f"{seen} passes"
        assert str(fault)


def test_every_judge_takes_plain_data_alone(worked):
    for check in judges.HIDDEN:
        inputs = check.draw(np.random.default_rng(0))
        seen = observe(check.probe, worked, inputs)
        assert "error" not in seen, check.id
        assert "error" not in observe(lambda names, inputs=inputs: inputs, {}, {}), check.id
        assert check.judge(inputs, seen) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_probes_model_has_its_traps(seed):
    inputs = visible.draw_match(np.random.default_rng(seed), "parts")
    names = visible.layer_names(inputs)
    assert sum(name.endswith("query") for name in names) > len(visible.matches(inputs, ["query"])) >= 12
    assert {"my_query", "output_dense", "mixer.0", "extra.gate"} <= set(names)
    assert isinstance(visible.build(inputs).embeddings.value, nn.LayerNorm)
    one, two = (visible.build(inputs).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)  # a judge builds the student's model again


# --- the notebook ---------------------------------------------------------------------------------------------------


def test_known_figures_of_roberta_base():
    """The counts that the notebook compares with: the homework's, the paper's table 2, the new head's."""
    meta = costs.meta_model(costs.roberta_base_config())
    assert inject.trainable_report(meta)["total"] == 124_647_170
    assert inject.trainable_report(meta.classifier)["total"] == 592_130
    every = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
    for targets, updates in (
        (["query", "value"], 294_912),
        (every, 1_327_104),
        ([*every, "classifier.dense", "classifier.out_proj"], 1_345_552),
    ):
        model = costs.meta_model(costs.roberta_base_config())
        inject.inject_lora(model, targets, rank=8, train_head=False)
        assert inject.trainable_report(model)["trainable"] == updates
