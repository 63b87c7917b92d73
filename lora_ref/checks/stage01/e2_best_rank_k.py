"""Exercise 1.2, best_rank_k: the closest matrix of rank k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array
from lora_ref.checks.stage01.shared import (
    best_mistakes,
    by_matrix,
    gapped,
    sizes,
    stopped,
    tensor,
    tried,
    truncated,
    with_values,
)
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, a, close
from lora_ref.rounding import pair


def matrix(value: Any) -> dict:
    """A tensor's values, shape and dtype; of anything else its kind alone."""
    if not isinstance(value, torch.Tensor):
        return {"kind": type(value).__name__}
    values = array(value)
    return {"values": values, "shape": list(values.shape), "dtype": str(value.dtype).removeprefix("torch.")}


def draw_best(rng: np.random.Generator) -> Inputs:
    """Wide, tall and square matrices with gaps between the singular values, each at several ranks."""
    small, large = sizes(rng, 7, 13)
    cases = []
    for rows, columns in ((small, large), (large, small), (small, small)):
        M = with_values(rng, rows, columns, gapped(rng, small))
        # 4 or more tells "one term more or less" from "always two"; half of them would not tell "kept" from "left out"
        for k in (int(rng.choice([k for k in range(4, small - 1) if 2 * k != small])), 1):
            cases.append({"M": M, "k": k, "dtype": "float64", "transposed": rows > columns})
    M = with_values(rng, 19, 24, 3 * 0.8 ** np.arange(19))
    return {"cases": [*cases, {"M": M, "k": 15, "dtype": "float64", "transposed": False}]}


def draw_whole(rng: np.random.Generator) -> Inputs:
    """k at min(shape) and beyond, and k above the rank of a matrix that has not the full one."""
    small, large = sizes(rng, 5, 10)
    cases = []
    for rows, columns in ((small, large), (large, small)):
        M = with_values(rng, rows, columns, gapped(rng, small))
        cases += [{"M": M, "k": k} for k in (small, small + 1, large + 3)]
    low = with_values(rng, large, small, gapped(rng, 2))
    first = {"M": cases[0]["M"], "k": 1}
    return {"cases": [dict(case, dtype="float64", transposed=False) for case in (*cases, {"M": low, "k": 4}, first)]}


def draw_none(rng: np.random.Generator) -> Inputs:
    """k = 0, and k = 1 for comparison."""
    small, large = sizes(rng)
    M = with_values(rng, small, large, gapped(rng, small))
    return {"cases": [{"M": M, "k": k, "dtype": "float64", "transposed": False} for k in (0, 1)]}


def draw_negative(rng: np.random.Generator) -> Inputs:
    small, large = sizes(rng)
    M = with_values(rng, small, large, gapped(rng, small))
    ks = (-1, -int(rng.integers(2, 5)), 1)
    return {"cases": [{"M": M, "k": k, "dtype": "float64", "transposed": False} for k in ks]}


def draw_dtypes(rng: np.random.Generator) -> Inputs:
    small, large = sizes(rng)
    M = with_values(rng, small, large, gapped(rng, small))
    return {
        "cases": [
            {"M": M, "k": k, "dtype": dtype, "transposed": False}
            for dtype in ("float32", "float64")
            for k in (0, 2, small)
        ]
    }


def probe_best(names: Names, **inputs: Any) -> dict:
    """The matrix that best_rank_k gives for each case."""
    seen = []
    for case in inputs["cases"]:
        M = tensor(case["M"], case["dtype"], case["transposed"])
        before = M.clone()
        result = tried(matrix, names.best_rank_k, M, case["k"])
        seen.append({**result, "unchanged": bool(torch.equal(M, before))})
    return {"matrices": seen}


def best_call(case: Mapping[str, Any]) -> str:
    rows, columns = case["M"].shape
    return f"best_rank_k of a matrix of shape ({rows}, {columns}) with k={case['k']}"


def no_tensor(result: Mapping[str, Any], call: str) -> Fault | None:
    """The fault of a call that raised or gave something else than a tensor."""
    if not result["raised"] and "kind" in result:
        likely = "a return is missing" if result["kind"] == "NoneType" else "return one tensor"
        return Fault(f"{call} gives {a(result['kind'])}, expected a tensor", likely)
    return stopped(result, call)


def judge_best(inputs: Inputs, seen: Observation) -> Fault | None:
    """The closest matrix of rank k."""
    for case, result in zip(inputs["cases"], seen["matrices"], strict=True):
        M, k = case["M"], case["k"]
        fault = no_tensor(result, best_call(case)) or shape_fault(best_call(case), result, M.shape)
        if fault:
            return fault
        expected = truncated(M, k)
        if not close(result["values"], expected):
            likely = by_matrix(result["values"], best_mistakes(M, k))
            distance, best = (float(np.linalg.norm(M - X)) for X in (result["values"], expected))
            shown, closest = pair(distance, best)
            text = f"{best_call(case)} lies {shown} from M, the closest one {closest}"
            if distance < best:
                text += " (so it has more than rank k)"
            if abs(distance - best) < 1e-4 * max(best, float(np.linalg.norm(M))):
                likely = likely or "right but for rounding: computed in a lower precision than M's dtype, or rounded"
            elif best < distance < 1.1 * best and np.linalg.matrix_rank(result["values"], 1e-6) == k:
                likely = likely or "close to the closest, as a randomised SVD is: torch.linalg.svd is exact"
            return Fault(text, likely)
    return None


def shape_fault(call: str, result: Mapping[str, Any], shape: Sequence[int]) -> Fault | None:
    if list(result["shape"]) == list(shape):
        return None
    likely = "the result has M's own shape; what is left out are terms of a sum, not rows or columns"
    if list(result["shape"]) == list(shape)[::-1]:
        likely = "the result is transposed"
    elif list(result["shape"]) == [shape[0], min(shape)]:
        likely = "the columns of Vh are cut: its first k rows are the directions"
    return Fault(f"{call} has shape {tuple(result['shape'])}, expected {tuple(shape)}", likely)


def judge_whole(inputs: Inputs, seen: Observation) -> Fault | None:
    """M where k is large enough, and not M where it is not (the last case)."""
    for case, result in zip(inputs["cases"], seen["matrices"], strict=True):
        fault = no_tensor(result, best_call(case)) or shape_fault(best_call(case), result, case["M"].shape)
        if fault:
            return fault
        is_M = close(result["values"], case["M"])
        if case["k"] > 1 and not is_M:
            likely = "M has no larger rank than k, so nothing is left out: M is its own closest matrix"
            return Fault(f"{best_call(case)} is not M", likely)
        if case["k"] == 1 and is_M:
            return Fault(f"{best_call(case)} is M itself", "nothing is left out")
    return None


def judge_none(inputs: Inputs, seen: Observation) -> Fault | None:
    for case, result in zip(inputs["cases"], seen["matrices"], strict=True):
        fault = no_tensor(result, best_call(case)) or shape_fault(best_call(case), result, case["M"].shape)
        if fault:
            return fault
        zero = close(result["values"], np.zeros(case["M"].shape))  # up to rounding: terms may have been taken away
        if case["k"] == 0 and not zero:
            known = {
                "M itself comes back: S[-0:] is all of S, and `if k:` takes 0 for not given": case["M"],
                "one term is kept: rank 0 is a sum of none": truncated(case["M"], 1),
                "two terms are kept: rank 0 is a sum of none": truncated(case["M"], 2),
            }
            return Fault(f"{best_call(case)} is not zero", by_matrix(result["values"], known))
        if case["k"] and zero:
            return Fault(f"{best_call(case)} is zero", "")
    return None


def judge_negative(inputs: Inputs, seen: Observation) -> Fault | None:
    for case, result in zip(inputs["cases"], seen["matrices"], strict=True):
        if case["k"] > 0:
            fault = no_tensor(result, best_call(case))
        elif not result["raised"]:
            likely = "the check for k < 0 is missing: a slice [:-1] leaves the last one out and raises nothing"
            fault = Fault(f"{best_call(case)} raises nothing", likely)
        elif "ValueError" not in result["raised"]["bases"]:
            text = f"{best_call(case)} raises {result['raised']['type']}"
            likely = "raise a ValueError (an assert raises AssertionError, and python -O drops it)"
            fault = Fault(text, likely)
        else:
            continue
        if fault:
            return fault
    return None


def judge_dtypes(inputs: Inputs, seen: Observation) -> Fault | None:
    """M's dtype and precision, and M as it was, for k of every kind."""
    for case, result in zip(inputs["cases"], seen["matrices"], strict=True):
        call = f"{best_call(case)}, {case['dtype']},"
        fault = no_tensor(result, call)
        if fault:
            return fault
        if result["dtype"] != case["dtype"]:
            likely = "the result has M's dtype: no .float(), .double() or torch.zeros(...) without dtype=M.dtype"
            return Fault(f"{call} is {result['dtype']}", likely)
        expected = truncated(case["M"], case["k"])
        if not close(result["values"], expected, 1e-3 if case["dtype"] == "float32" else 1e-9):
            rough = close(result["values"], expected, 1e-3)
            likely = "digits are lost: computed in a lower precision than M's, or rounded" if rough else ""
            return Fault(f"{call} is not the closest matrix", likely)
        if not result["unchanged"]:
            return Fault(f"{call} changes M itself", "work on a copy: M.clone()")
    return None


EXERCISE = Exercise(
    "1.2",
    "best_rank_k: the closest matrix of rank k",
    names=("best_rank_k",),
    pure=("best_rank_k",),
    checks=[
        Check("1.2/best", "best_rank_k is the closest matrix of rank k", probe_best, judge_best, draw_best, seed=6),
        Check(
            "1.2/whole",
            "for k of the rank of M or more it is M",
            probe_best,
            judge_whole,
            draw_whole,
            seed=7,
            after=("1.2/best",),
        ),
        Check("1.2/none", "for k = 0 it is zero", probe_best, judge_none, draw_none, seed=8, after=("1.2/best",)),
        Check("1.2/negative", "k < 0 is a ValueError", probe_best, judge_negative, draw_negative, seed=9),
        Check(
            "1.2/dtype",
            "the result has M's dtype and precision, and M stays as it is",
            probe_best,
            judge_dtypes,
            draw_dtypes,
            seed=10,
            after=("1.2/best",),
        ),
    ],
)
