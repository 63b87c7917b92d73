"""Stage 04's checks against the bank: right answers pass whatever their style, wrong ones lose points and learn why."""

import contextlib
import dataclasses
import io
import sys
import time

import jupytext
import numpy as np
import pytest
import torch
from autograder.judges import stage04 as judges
from stage_answers import POINTS, earned, faults_of_visible, release

from autograder import evaluate
from autograder.answers import load_answer, run_cells
from autograder.evaluation import evaluate_exercise
from autograder.exercises import ROOT, STAGES, alternates, mutants
from autograder.exercises.mutant import worked_cells
from lora_ref import data, models, profiles, training
from lora_ref.checks import stage04 as visible
from lora_ref.checks import visible_checks
from lora_ref.checks.probing import observe
from lora_ref.checks.verdicts import run_check

STAGE = "04_sst2_training"
AUTOMATIC = [e.id for e in STAGES[STAGE] if not e.manual]
NAMES = [name for e in STAGES[STAGE] for name in e.names]
MASTER = ROOT / "solutions" / STAGE / f"{STAGE}.py"


@pytest.fixture(scope="module")
def worked():
    with contextlib.redirect_stdout(io.StringIO()):
        answer = run_cells(worked_cells(STAGE))
    assert answer.errors == []
    return answer.namespace


# --- right answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_worked_solution_has_full_marks(worked, seed):
    report = evaluate(STAGE, worked, seed)
    assert report.score == report.max_score == 21, str(report)


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
    from lora_ref import adapters

    names = {
        "tokenize": data.tokenize,
        "collate": data.collate,
        "compute_metrics": training.compute_metrics,
        "linear_schedule": training.linear_schedule,
        "save_adapter": adapters.save_adapter,
        "load_adapter": adapters.load_adapter,
        "metrics_match": training.metrics_match,
    }
    report = evaluate(STAGE, {**worked, **names}, 0)
    assert report.score == report.max_score, str(report)


def test_tokenize_works_inside_map(worked):
    """What the checks do not run: Dataset.map hands over its own kind of batch."""
    tiny = profiles.get("tiny")
    rows, tokenizer = data.reviews(tiny)["test"], models.tokenizer(tiny)
    for namespace in (worked, *(load_answer(path).namespace for path in alternates(STAGE))):
        mapped = rows.map(namespace["tokenize"], batched=True, fn_kwargs={"tokenizer": tokenizer, "max_length": 6})
        assert max(len(ids) for ids in mapped["input_ids"]) == 6
        batch = namespace["collate"](list(mapped.remove_columns("sentence").select(range(3))), tokenizer)
        assert batch["labels"].tolist() == rows["label"][:3]


# --- wrong answers --------------------------------------------------------------------------------------------------


def mutated(mutant):
    with contextlib.redirect_stdout(io.StringIO()):
        answer = mutant.answer(STAGE)
    assert answer.errors == []
    return answer.namespace


@pytest.mark.parametrize("mutant", mutants(STAGE), ids=lambda mutant: mutant.id)
def test_mutant_loses_points_and_learns_why(mutant):
    namespace = mutated(mutant)
    result = evaluate_exercise(mutant.exercise, namespace, 0)
    assert result.earned < result.points, "survives"
    assert mutant.says in result.message, result.message
    # the visible checks alone find it, and explain it as well as the hidden ones
    seen = "\n".join(faults_of_visible(mutant.exercise, namespace))
    assert mutant.says in seen, seen


def one_of_each():
    return [next(m for m in mutants(STAGE) if m.exercise == exercise) for exercise in AUTOMATIC]


@pytest.mark.parametrize("mutant", one_of_each(), ids=lambda mutant: mutant.id)
def test_a_mistake_costs_its_own_exercise_alone(mutant):
    points = earned(evaluate(STAGE, mutated(mutant), 0))
    assert points.pop(mutant.exercise) < POINTS[mutant.exercise]
    assert points == {exercise: POINTS[exercise] for exercise in points}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", mutants(STAGE), ids=lambda mutant: mutant.id)
def test_every_mistake_costs_its_own_exercise_alone(mutant):
    test_a_mistake_costs_its_own_exercise_alone(mutant)


def test_every_exercise_and_every_published_mistake_has_mutants():
    assert {mutant.exercise for mutant in mutants(STAGE)} == set(AUTOMATIC)
    assert {"S0", "S1", "S2"} <= {mutant.seed for mutant in mutants(STAGE)}


def test_untouched_notebook_scores_nothing():
    with contextlib.redirect_stdout(io.StringIO()):
        answer = run_cells([release(cell) for cell in worked_cells(STAGE)])
    assert answer.errors == []
    report = evaluate(STAGE, answer.namespace, 0)
    assert report.score == 0, str(report)
    assert all(not verdict.passed for result in report.results for verdict in result.verdicts)
    for exercise in AUTOMATIC:
        assert len(faults_of_visible(exercise, answer.namespace)) == len(visible_checks(exercise))


def stub(value):
    return lambda *args, **kwargs: value


def stopping(*args, **kwargs):
    raise ValueError("no")


def leaving(*args, **kwargs):
    sys.exit(0)


class Strange:
    """Answers every question with another strange thing, and each comparison with yes."""

    def __getattr__(self, name):
        return Strange()

    def __eq__(self, other):
        return True

    __hash__ = None

    def __call__(self, *args, **kwargs):
        return Strange()


@pytest.mark.parametrize(
    ("answer", "at_most"),
    [
        (stub(None), 0),
        (stub({}), 0),
        (stub([]), 0),
        (stub(float("nan")), 0),
        (stub(0.0), 0),
        (stub(True), 0),
        (stub([float("nan")] * 4), 0),
        (stub({"input_ids": [[1]], "attention_mask": [[1]], "accuracy": float("nan"), "labels": None}), 0),
        (stub({key: torch.full((5, 9), torch.nan) for key in ("input_ids", "attention_mask", "labels")}), 0),
        (stub(Strange()), 0),
        (Strange(), 0),
        (stopping, 0),  # a load_adapter that refuses every file must not pass for one that checks
        (leaving, 0),
        (7, 0),
        (None, 0),
    ],
)
def test_evaluate_survives_what_students_write(answer, at_most):
    report = evaluate(STAGE, dict.fromkeys(NAMES, answer), 0)
    assert report.score <= at_most, str(report)
    assert evaluate(STAGE, {}, 0).score == 0


def test_a_hang_becomes_a_verdict(monkeypatch, worked):
    def forever(*args, **kwargs):
        while True:
            time.sleep(0.01)

    first = {check.exercise: dataclasses.replace(check, seconds=0.3) for check in reversed(judges.HIDDEN)}
    monkeypatch.setattr(judges, "HIDDEN", list(first.values()))
    report = evaluate(STAGE, dict.fromkeys(NAMES, forever), 0)
    assert report.score == 0
    assert all("still running" in result.message for result in report.results)


def test_nan_losses_are_not_the_models_own(worked):
    def train(model, loader, steps, lr):
        worked["train"](model, loader, steps, lr)
        return [float("nan")] * steps

    result = evaluate_exercise("4.4", {**worked, "train": train}, 0)
    assert result.earned == POINTS["4.4"] - 1, result.message
    assert "] = nan, the model's loss" in result.message


def test_a_right_load_keeps_its_points_beside_a_wrong_save(worked):
    def save_adapter(model, path):
        open(path, "wb").close()

    result = evaluate_exercise("4.5", {**worked, "save_adapter": save_adapter}, 0)
    assert result.earned == 3, result.message  # missing, unexpected, misshapen, foreign


@pytest.mark.parametrize(
    ("optimizer", "right"),
    [
        (lambda p, lr: torch.optim.AdamW(p, lr=lr), True),
        (lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0), True),
        (lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.3, eps=1e-6, betas=(0.8, 0.9)), True),
        (lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=0.01), False),
        (lambda p, lr: torch.optim.NAdam(p, lr=lr), False),
        (lambda p, lr: torch.optim.RAdam(p, lr=lr), False),
        (lambda p, lr: torch.optim.Adamax(p, lr=lr), False),
        (lambda p, lr: torch.optim.RMSprop(p, lr=lr), False),
        (lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), False),
        (lambda p, lr: torch.optim.AdamW(p, lr=lr * 1.05), False),
        (lambda p, lr: torch.optim.AdamW(p, lr=lr, maximize=True), False),
        (lambda p, lr: torch.optim.AdamW(list(p)[:1], lr=lr), False),
    ],
)
def test_any_adamw_passes_and_nothing_else(optimizer, right):
    def train(model, loader, steps, lr):
        own = optimizer((p for p in model.parameters() if p.requires_grad), lr)
        losses = []
        while len(losses) < steps:
            for batch in loader:
                loss = model(**batch).loss
                model.zero_grad()
                loss.backward()
                own.step()
                losses.append(loss.item())
                if len(losses) == steps:
                    break
        return losses

    check = next(c for c in judges.HIDDEN if c.id == "4.4/adamw")
    for seed in range(4):
        verdict = run_check(check, {"train": train}, seed)
        assert verdict.passed is right, verdict.message


# --- the checks themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_numpy_agrees_with_autograd(seed):
    inputs = visible.draw_training(np.random.default_rng(seed))
    model = visible.PooledClassifier(*(inputs[key] for key in ("words", "weight", "A", "B", "head")))
    batch = inputs["passes"][0][0]
    loss = model(**{key: torch.tensor(values) for key, values in batch.items()}).loss
    loss.backward()
    ours = visible.forward_numpy(inputs, batch, inputs)
    assert ours[0] == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(ours[1], model.lora_A.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(ours[2], model.lora_B.grad.numpy(), atol=1e-12)


def test_every_judge_takes_plain_data_alone(worked):
    """A judge may sit in another process: nothing but arrays, numbers and text may reach it."""
    for check in judges.HIDDEN:
        inputs = check.draw(np.random.default_rng(0))
        seen = observe(check.probe, worked, inputs)
        assert "error" not in seen
        assert "error" not in observe(lambda names, seen=seen: seen, {}, {}), check.id
        assert "error" not in observe(lambda names, inputs=inputs: inputs, {}, {}), check.id
        assert check.judge(inputs, seen) is None


# --- the notebook ---------------------------------------------------------------------------------------------------


def test_only_one_cell_draws_the_comparison_and_nothing_else():
    cells = [c for c in jupytext.read(MASTER, fmt="py:percent").cells if "compare_methods(" in c.source]
    assert len(cells) == 1
    assert cells[0].source.count("display(") == 1
