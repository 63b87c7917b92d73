"""What holds of stage 01's checks alone; of all stages' alike: ``test_exercises.py``."""

import numpy as np
import pytest
import torch
from stage_answers import POINTS, earned, hidden, hidden_check, names_of, worked

from autograder import evaluate
from autograder.answers import load_answer
from autograder.exercises import alternates
from lora_ref.checks.stage01 import e1_matrix_rank, e2_best_rank_k, e3_rank_factors, shared
from lora_ref.checks.verdicts import judge, run_check

STAGE = "01_rank_theory"


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


@pytest.mark.parametrize(
    "value", [0, 1, 2, 3, 7.0, True, float("nan"), 10**30, torch.tensor(2), "2", [], torch.zeros(5, 6)]
)
def test_no_constant_earns_anything(value):
    report = evaluate(STAGE, dict.fromkeys(names_of(STAGE), lambda *args, **kwargs: value), 0)
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


@pytest.mark.parametrize("seed", range(30))
def test_no_drawn_rank_is_decided_by_rounding(seed):
    """Singular values are far from the tolerance, and far from one another where the closest matrix must be one."""
    rng = np.random.default_rng(seed)
    ranks = e1_matrix_rank
    for draw in (ranks.draw_products, ranks.draw_zero, ranks.draw_scaled, ranks.draw_rtol, ranks.draw_default):
        for case in draw(rng)["cases"]:
            M = shared.tensor(case["M"], case["dtype"])
            values, diagonal = torch.linalg.svdvals(M), M.diagonal()
            if M.count_nonzero() == diagonal.count_nonzero():  # these are exact, and may lie at the tolerance
                assert torch.equal(values, diagonal.sort(descending=True).values)
                continue
            rtol = case["rtol"] or max(M.shape) * torch.finfo(M.dtype).eps
            ratio = (values / values.max()).double().numpy() / rtol
            assert not ((ratio > 0.75) & (ratio < 1.35)).any(), (case["what"], ratio)
    for draw in (e2_best_rank_k.draw_best, e3_rank_factors.draw_factors, e2_best_rank_k.draw_whole):
        for case in draw(rng)["cases"]:
            values = np.linalg.svd(case["M"], compute_uv=False)
            values = values[values > 1e-9]
            assert (values[1:] < 0.81 * values[:-1]).all()


@pytest.mark.parametrize("check", hidden(STAGE), ids=lambda check: check.id)
def test_no_judge_passes_numbers_that_a_sandbox_made_up(check):
    inputs = check.draw(np.random.default_rng(0))
    number = {"raised": None, "whole": True, "kind": "int", "value": 3}
    many = [{"raised": None, "values": np.zeros((2, 2)), "shape": [2, 2], "dtype": "float32", "unchanged": True}] * 30
    for seen in (
        {"ranks": [], "matrices": [], "factors": [], "counts": [], "bytes": []},
        {"ranks": [number] * 30, "counts": [number], "bytes": [number] * 30},
        {"ranks": None, "matrices": many, "factors": "right"},
    ):
        verdict = judge(check, inputs, seen)
        assert not verdict.passed, f"{seen} passes"


def test_a_numpy_number_is_an_int_and_a_tensor_is_not():
    check, matrix_rank = hidden_check("1.1/int"), worked(STAGE).namespace["matrix_rank"]
    assert run_check(check, {"matrix_rank": lambda M: np.int64(matrix_rank(M))}).passed
    for wrap in (torch.tensor, float, str):
        assert not run_check(check, {"matrix_rank": lambda M, wrap=wrap: wrap(matrix_rank(M))}).passed
