"""Stage 01's checks against the bank: right answers pass whatever their style, wrong ones lose points and learn why."""

import contextlib
import dataclasses
import io
import json
import time

import numpy as np
import pytest
import torch
from autograder.judges import stage01 as judges
from stage_answers import POINTS, earned, faults_of_visible, release
from test_stage02 import HOSTILE

import lora_ref.rank
from autograder import evaluate
from autograder.answers import load_answer, run_cells
from autograder.exercises import ROOT, STAGES, alternates, mutants
from autograder.exercises.mutant import worked_cells
from lora_ref import costs
from lora_ref.checks import stage01 as visible
from lora_ref.checks import visible_checks
from lora_ref.checks.probing import observe
from lora_ref.checks.verdicts import judge, run_check

STAGE = "01_rank_theory"
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


@pytest.mark.parametrize("seed", range(20))
def test_worked_solution_has_full_marks(worked, seed):
    report = evaluate(STAGE, worked, seed)
    assert report.score == report.max_score == 12, str(report)


def test_worked_solution_passes_the_visible_checks(worked):
    assert [fault for exercise in AUTOMATIC for fault in faults_of_visible(exercise, worked)] == []


@pytest.mark.parametrize("path", alternates(STAGE), ids=lambda path: path.stem)
def test_alternates_have_full_marks(path):
    answer = load_answer(path)
    assert answer.errors == []
    for seed in range(5):
        report = evaluate(STAGE, answer.namespace, seed)
        assert report.score == report.max_score, str(report)
    assert [fault for exercise in AUTOMATIC for fault in faults_of_visible(exercise, answer.namespace)] == []


def test_the_reference_package_passes_its_own_checks():
    report = evaluate(STAGE, {name: getattr(lora_ref.rank, name) for name in NAMES}, 0)
    assert report.score == report.max_score, str(report)


# --- wrong answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", mutants(STAGE), ids=lambda mutant: mutant.id)
def test_mutant_loses_points_where_it_is_wrong_and_learns_why(mutant):
    with contextlib.redirect_stdout(io.StringIO()):
        answer = mutant.answer(STAGE)
    assert answer.errors == []
    for seed in (0, 1):
        report = evaluate(STAGE, answer.namespace, seed)
        points = earned(report)
        assert points.pop(mutant.exercise) < POINTS[mutant.exercise], "survives"
        assert points == {exercise: POINTS[exercise] for exercise in points}, str(report)
        hidden = next(result.message for result in report.results if result.id == mutant.exercise)
        assert mutant.says in hidden, hidden
    # the visible checks' messages alone let a reader mend it
    seen = "\n".join(faults_of_visible(mutant.exercise, answer.namespace))
    assert mutant.says in seen, seen


def test_every_exercise_and_the_published_mistake_have_mutants():
    assert {mutant.exercise for mutant in mutants(STAGE)} == set(AUTOMATIC)
    assert {"S1", "S4"} <= {mutant.seed for mutant in mutants(STAGE)}
    assert len(mutants(STAGE)) >= 20


def test_untouched_notebook_scores_nothing():
    with contextlib.redirect_stdout(io.StringIO()):
        answer = run_cells([release(cell) for cell in worked_cells(STAGE)])
    assert answer.errors == []
    report = evaluate(STAGE, answer.namespace, 0)
    assert report.score == 0, str(report)
    assert all("not done yet" in result.message for result in report.results)
    for exercise in AUTOMATIC:
        assert len(faults_of_visible(exercise, answer.namespace)) == len(visible_checks(exercise))


def test_what_builds_on_an_open_gap_or_a_mistake_keeps_its_points():
    """rank_factors on best_rank_k, break_even_rank on lora_param_count."""
    answer = load_answer(next(path for path in alternates(STAGE) if path.stem == "library_calls")).namespace
    for name, wrong in (("best_rank_k", lambda M, k: M * 0), ("lora_param_count", lambda m, n, r: m * n * r)):
        # the functions look each other up in their own globals
        before = answer[name]
        answer[name] = wrong
        points = earned(evaluate(STAGE, answer, 0))
        answer[name] = before
        if name == "best_rank_k":
            assert points.pop("1.2") <= 0.5
        else:
            assert points.pop("1.4") == 1  # the right rank of a wrong count keeps "even" and "ties"
        assert points == {exercise: POINTS[exercise] for exercise in points}


def test_a_missing_name_is_called_missing():
    for result in evaluate(STAGE, {}, 0).results:
        assert "is not defined" in result.message
        assert "raised" not in result.message.replace("raised an error", "")


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_names_get_a_verdict_and_no_point(what):
    report = evaluate(STAGE, dict.fromkeys(NAMES, HOSTILE[what]), 0)
    assert report.score == 0, str(report)
    json.dumps(report.to_dict())


@pytest.mark.parametrize(
    "value", [0, 1, 2, 3, 7.0, True, float("nan"), 10**30, torch.tensor(2), "2", [], torch.zeros(5, 6)]
)
def test_no_constant_earns_anything(value):
    report = evaluate(STAGE, dict.fromkeys(NAMES, lambda *args, **kwargs: value), 0)
    assert report.score == 0, str(report)


def test_lazy_answers_earn_little():
    def first(M, *_, **__):
        return M

    def refuse(*_, **__):
        raise ValueError("no")

    def zeros(M, k):
        return torch.zeros_like(M)

    for best in (first, refuse, zeros):
        assert evaluate(STAGE, {"best_rank_k": best}, 0).score == 0
    assert evaluate(STAGE, {"matrix_rank": lambda M, rtol=None: min(M.shape)}, 0).score == 0
    assert evaluate(STAGE, {"matrix_rank": lambda M, rtol=None: int(M.any())}, 0).score == 0
    assert evaluate(STAGE, {}, 0).score == 0


def test_a_hang_becomes_a_verdict(monkeypatch):
    def forever(*_, **__):
        while True:
            time.sleep(0.01)

    first = {check.exercise: dataclasses.replace(check, seconds=0.2, carry={}) for check in reversed(judges.HIDDEN)}
    monkeypatch.setattr(judges, "HIDDEN", list(first.values()))
    report = evaluate(STAGE, dict.fromkeys(NAMES, forever), 0)
    assert report.score == 0
    assert all("still running" in result.message for result in report.results)


# --- the checks themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_no_drawn_rank_is_decided_by_rounding(seed):
    """Singular values are far from the tolerance, and far from one another where the closest matrix must be one."""
    rng = np.random.default_rng(seed)
    for draw in (
        visible.draw_products,
        visible.draw_zero,
        visible.draw_scaled,
        visible.draw_rtol,
        visible.draw_default,
    ):
        for case in draw(rng)["cases"]:
            M = visible.tensor(case["M"], case["dtype"])
            values, diagonal = torch.linalg.svdvals(M), M.diagonal()
            if M.count_nonzero() == diagonal.count_nonzero():  # these are exact, and may lie at the tolerance
                assert torch.equal(values, diagonal.sort(descending=True).values)
                continue
            rtol = case["rtol"] or max(M.shape) * torch.finfo(M.dtype).eps
            ratio = (values / values.max()).double().numpy() / rtol
            assert not ((ratio > 0.75) & (ratio < 1.35)).any(), (case["what"], ratio)
    for draw in (visible.draw_best, visible.draw_factors, visible.draw_whole):
        for case in draw(rng)["cases"]:
            values = np.linalg.svd(case["M"], compute_uv=False)
            values = values[values > 1e-9]
            assert (values[1:] < 0.81 * values[:-1]).all()


@pytest.mark.parametrize("check", judges.HIDDEN, ids=lambda check: check.id)
def test_no_judge_passes_an_observation_that_a_sandbox_made_up(check):
    inputs = check.draw(np.random.default_rng(0))
    number = {"raised": None, "whole": True, "kind": "int", "value": 3}
    many = [{"raised": None, "values": np.zeros((2, 2)), "shape": [2, 2], "dtype": "float32", "unchanged": True}] * 30
    made_up = [
        {},
        {"error": {}},
        {"ranks": [], "matrices": [], "factors": [], "counts": [], "bytes": []},
        {"ranks": [number] * 30, "counts": [number], "bytes": [number] * 30},
        {"ranks": None, "matrices": many, "factors": "right"},
    ]
    for seen in made_up:
        fault = judge(check, inputs, seen)
        assert fault is not None, f"{seen} passes"
        assert str(fault)


def test_every_judge_takes_plain_data_alone(worked):
    """A judge may sit in another process: nothing but arrays, numbers and text may reach it."""
    for check in judges.HIDDEN:
        inputs = check.draw(np.random.default_rng(0))
        seen = observe(check.probe, worked, inputs)
        assert "error" not in seen
        assert "error" not in observe(lambda names, seen=seen: seen, {}, {}), check.id
        assert "error" not in observe(lambda names, inputs=inputs: inputs, {}, {}), check.id
        assert check.judge(inputs, seen) is None


def test_a_numpy_number_is_an_int_and_a_tensor_is_not(worked):
    check = next(c for c in judges.HIDDEN if c.id == "1.1/int")
    assert run_check(check, {"matrix_rank": lambda M: np.int64(worked["matrix_rank"](M))}).passed
    for wrap in (torch.tensor, float, str):
        assert not run_check(check, {"matrix_rank": lambda M, wrap=wrap: wrap(worked["matrix_rank"](M))}).passed


# --- the notebook ---------------------------------------------------------------------------------------------------


def test_the_notebooks_tables_are_the_published_ones():
    """The digest's figures for the second and third piece, to the digit that they give."""
    published = {
        "768x768": [96.1, 48.1, 24.0, 12.0, 6.0],
        "768x3072": [153.8, 76.9, 38.5, 19.2, 9.6],
        "1024x1024": [128.1, 64.1, 32.0, 16.0, 8.0],
        "1024x4096": [205.0, 102.5, 51.2, 25.6, 12.8],
        "2048x2048": [256.1, 128.1, 64.0, 32.0, 16.0],
    }
    table = costs.layer_table(ranks=(4, 8, 16, 32, 64))
    for layer, figures in published.items():
        assert table[table["layer"] == layer]["reduction"].tolist() == pytest.approx(figures, abs=0.0501)
    network = costs.network_table()
    assert network["reduction"].tolist() == pytest.approx([311.9, 155.9, 78.0, 39.0, 19.5], abs=0.0501)
    text = MASTER.read_text(encoding="utf-8")
    assert "costs.layer_table(ranks=(4, 8, 16, 32, 64))" in text
    assert "costs.network_table()" in text


def test_training_bytes_are_what_adamw_keeps():
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    assert costs.training_bytes(model, optimizer) == {"weights": 4 * 26, "gradients": 0, "optimizer": 0}
    model(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    kept = costs.training_bytes(model, optimizer)
    assert kept == {
        "weights": 4 * 26,
        "gradients": 4 * 8,
        "optimizer": 4 * (2 * 8 + 2),
    }  # and a counter for each tensor
    assert sum(kept.values()) == lora_ref.rank.training_memory(26, 8) + 4 * 2
