"""Exercise 1.3, rank_factors: a tall matrix times a wide one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation, a, close
from lora_ref.rounding import number as figure


def draw_factors(rng: np.random.Generator) -> Inputs:
    """Wide and tall matrices, each at two ranks below the full one."""
    small, large = sizes(rng, 6, 12)
    cases = []
    for rows, columns in ((small, large), (large, small)):
        M = with_values(rng, rows, columns, gapped(rng, small))
        cases += [{"M": M, "r": r} for r in (int(rng.integers(3, small)), 1)]
    return {"cases": cases}


def draw_beyond(rng: np.random.Generator) -> Inputs:
    """r at min(shape), between the two sizes, and above both."""
    small, large = sizes(rng, 4, 9)
    large += 2
    cases = []
    for rows, columns in ((small, large), (large, small)):
        M = with_values(rng, rows, columns, gapped(rng, small))
        cases += [{"M": M, "r": r} for r in (small, small + 1, large + 2)]
    return {"cases": cases}


def probe_factors(names: Names, **inputs: Any) -> dict:
    """The two factors for each case."""

    def record(factors: Any) -> dict:
        if not isinstance(factors, (tuple, list)) or len(factors) != 2:
            count = f" of {len(factors)}" if isinstance(factors, (tuple, list)) else ""
            return {"kind": type(factors).__name__ + count}
        dtypes = [str(getattr(factor, "dtype", "")).removeprefix("torch.") for factor in factors]
        return {"B": array(factors[0]), "A": array(factors[1]), "dtypes": dtypes}

    return {"factors": [tried(record, names.rank_factors, tensor(case["M"]), case["r"]) for case in inputs["cases"]]}


def factors_fault(case: Inputs, result: Observation, call: str) -> Fault | None:
    """What is not a pair of matrices at all."""
    fault = stopped(result, call)
    if fault:
        return fault
    if "kind" in result:
        return Fault(f"{call} gives {a(result['kind'])}", "return two tensors: return B, A")
    for name in ("B", "A"):
        if np.ndim(result[name]) != 2 or not np.isfinite(result[name]).all():
            likely = "a root of a negative number, or a division by a singular value of zero"
            if np.ndim(result[name]) != 2:
                likely = "both factors are matrices, with r = 1 as well: slice [:, :r], do not index"
            found = f"{call}: {name} of shape {np.shape(result[name])} is not a matrix of finite numbers"
            return Fault(found, likely)
    return None


def factor_call(case: Mapping[str, Any]) -> str:
    rows, columns = case["M"].shape
    return f"rank_factors of a matrix of shape ({rows}, {columns}) with r={case['r']}"


def shape_causes(case: Inputs, B: tuple[int, ...], A: tuple[int, ...]) -> set[str]:
    """All mistakes that give factors of these shapes, or that do not show in this case."""
    (rows, columns), r = case["M"].shape, case["r"]
    mistakes = {
        "the two are returned in the wrong order: B first, then A": ((r, columns), (rows, r)),
        "rows and columns are swapped: M is (out, in), so B has out rows and A has in columns": (
            (columns, r),
            (r, rows),
        ),
        "A is transposed: it has shape (r, in)": ((rows, r), (columns, r)),
        "B is transposed: it has shape (out, r)": ((r, rows), (r, columns)),
        "both are transposed": ((r, rows), (columns, r)),
    }
    causes = {likely for likely, shapes in mistakes.items() if shapes == (B, A)}
    if ((rows, r), (r, columns)) == (B, A):
        causes |= {_FILL, _CUT}
    elif B[1] == A[0] < r:
        causes.add(_FILL)
    elif B[1] == A[0] > r:
        causes.add(_CUT)
    return causes


_FILL = "with r above min(shape) the factors still have r columns and rows: fill up with zeros"
_CUT = "the inner size is r: cut U, S and Vh to their first r"


def judge_factor_shapes(inputs: Inputs, seen: Observation) -> Fault | None:
    wrong = ""
    causes: set[str] | None = None
    for case, result in zip(inputs["cases"], seen["factors"], strict=True):
        (rows, columns), r, call = case["M"].shape, case["r"], factor_call(case)
        fault = factors_fault(case, result, call)
        if fault:
            return Fault(wrong) if wrong else fault
        shapes = np.shape(result["B"]), np.shape(result["A"])
        fitting = shape_causes(case, *shapes)
        causes = fitting if causes is None else causes & fitting
        if shapes != ((rows, r), (r, columns)):
            wrong = wrong or f"{call}: shapes {shapes[0]} and {shapes[1]}, expected {(rows, r)} and {(r, columns)}"
    return Fault(wrong, causes.pop() if causes and len(causes) == 1 else "") if wrong else None


def judge_factor_product(inputs: Inputs, seen: Observation) -> Fault | None:
    """The product is the closest matrix of rank r; the factors' order is the shapes' check, their dtype `beyond`'s."""
    for case, result in zip(inputs["cases"], seen["factors"], strict=True):
        M, r, call = case["M"], case["r"], factor_call(case)
        fault = factors_fault(case, result, call)
        if fault:
            return fault
        if len(set(result["dtypes"])) != 1:
            found = f"{call}: B is {result['dtypes'][0]} and A {result['dtypes'][1]}, which torch does not multiply"
            return Fault(found, "torch.zeros(...) is float32: M.new_zeros(...), or dtype=M.dtype")
        products = possible_products(result["B"], result["A"], M.shape)
        if not products:
            shapes = f"shapes {np.shape(result['B'])} and {np.shape(result['A'])}"
            return Fault(f"{call}: {shapes} have no product of shape {M.shape}", ELSEWHERE)
        expected = truncated(M, r)
        tolerance = 1e-6 if result["dtypes"][0] == "float64" else 1e-4
        if not any(close(product, expected, tolerance) for product in products):
            likely = by_matrix(products[0], {**_factor_mistakes(M, r), **best_mistakes(M, r)})
            off = float(np.linalg.norm(products[0] - expected))
            found = f"{call}: B @ A lies {figure(off)} from best_rank_k(M, {r})"
            return Fault(found, likely)
    return None


def possible_products(B: np.ndarray, A: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """B A, and what it may be if the factors come in another order or transposed."""
    pairs = [(B, A), (A, B), (A.T, B.T), (B.T, A.T)]
    products = [left @ right for left, right in pairs if left.shape[1] == right.shape[0]]
    products += [product.T for product in products]
    return [product for product in products if product.shape == tuple(shape)]


def _factor_mistakes(M: np.ndarray, r: int) -> dict[str, np.ndarray]:
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    return {
        "the singular values enter twice: once in B and once in A; take their roots, or leave them out of one": (
            U[:, :r] * S[:r] ** 2
        )
        @ Vh[:r],
        "the singular values are in neither factor": U[:, :r] @ Vh[:r],
        "the root of the singular values is in one factor alone": (U[:, :r] * S[:r] ** 0.5) @ Vh[:r],
    }


def judge_beyond(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := judge_factor_shapes(inputs, seen) or judge_factor_product(inputs, seen):
        return fault
    for case, result in zip(inputs["cases"], seen["factors"], strict=True):
        if result["dtypes"][0] != "float64":
            found = f"{factor_call(case)}: factors of {result['dtypes'][0]}, M is float64"
            return Fault(found, "both factors have M's dtype")
    return None


EXERCISE = Exercise(
    "1.3",
    "rank_factors: a tall matrix times a wide one",
    names=("rank_factors",),
    pure=("rank_factors",),
    builds_on=("best_rank_k",),
    checks=[
        Check(
            "1.3/shapes",
            "B has shape (out, r) and A has shape (r, in)",
            probe_factors,
            judge_factor_shapes,
            draw_factors,
            seed=11,
        ),
        Check(
            "1.3/product",
            "B @ A is the closest matrix of rank r",
            probe_factors,
            judge_factor_product,
            draw_factors,
            seed=11,
        ),
        Check(
            "1.3/beyond",
            "r may be larger than min(M.shape): the shapes hold, and B @ A is M, in its dtype",
            probe_factors,
            judge_beyond,
            draw_beyond,
            seed=12,
        ),
    ],
)
