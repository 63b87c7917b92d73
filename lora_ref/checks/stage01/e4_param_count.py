"""Exercise 1.4, what a low-rank update costs, and until when it saves."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names
from lora_ref.checks.stage01.shared import number, numbers_fault, sizes, tried, type_fault
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation


def draw_counts(rng: np.random.Generator) -> Inputs:
    cases = []
    for _ in range(4):
        small, large = sizes(rng, 20, 900)
        r = int(rng.integers(2, 16))
        cases += [[small, large, r], [large, small, r + 1]]
    beyond = [small, large, small + r], [large, small, large + r]  # a rank above either side is allowed
    return {"cases": [*cases, [768, 3072, 1], *map(list, beyond)]}


def probe_counts(names: Names, **inputs: Any) -> dict:
    return {"counts": [tried(number, names.lora_param_count, *case) for case in inputs["cases"]]}


def judge_counts(inputs: Inputs, seen: Observation) -> Fault | None:
    rows = []
    for (m, n, r), result in zip(inputs["cases"], seen["counts"], strict=True):
        mistakes = [
            (m * n, "that is the full matrix: B A is never stored"),
            (r * m * n, "r rows of the full matrix: B and A are two small matrices, their sizes add up"),
            (min(r, m, n) * (m + n), "r is clipped: it may be larger than either side, and B and A have it then too"),
            (r * m, "only one factor is counted"),
            (r * n, "only one factor is counted"),
            (
                2 * r * n,
                "both factors are counted with the same size: B has out_features rows, A has in_features columns",
            ),
            (
                2 * r * m,
                "both factors are counted with the same size: B has out_features rows, A has in_features columns",
            ),
            (r * (m + n) + r * r, "a third factor is counted: LoRA has two, the singular values are inside them"),
            (r * (m + n + 1), "a third factor is counted: LoRA has two, the singular values are inside them"),
            (r * (m + n) + m * n, "the frozen matrix is counted too: only what LoRA adds"),
            (r * m + n, "only one size is multiplied by r"),
            (m + r * n, "only one size is multiplied by r"),
            (r * (m + n) + m, "a bias is counted; the update has none"),
            (r + m + n, "the rank must multiply, not add"),
        ]
        rows.append((f"lora_param_count({m}, {n}, {r})", result, r * (m + n), mistakes))
    return numbers_fault(rows, "the entries of B, (out_features, r), and of A, (r, in_features)")


def draw_even(rng: np.random.Generator) -> Inputs:
    """Sizes whose quotient is not a whole number; rounding takes it down in some and up in others."""
    cases: list[list[int]] = []
    while len(cases) < 5:
        small, large = sizes(rng, 20, 3000)
        left = small * large % (small + large)
        if left and (2 * left > small + large) == bool(len(cases) % 2):
            cases.append([large, small] if len(cases) % 2 else [small, large])
    return {"cases": [*cases, [768, 3071], [50265, 768]]}


def draw_ties(rng: np.random.Generator) -> Inputs:
    """Sizes at which some rank has exactly as many parameters as the matrix, and sizes at which no rank saves."""
    half = int(rng.integers(5, 400))
    unit = int(rng.integers(2, 90))
    return {
        "cases": [
            [2 * half, 2 * half],
            [3 * unit, 6 * unit],
            [6 * unit, 3 * unit],
            [768, 768],
            [1, 9],
            [1, 1],
            [2, 2],
            [7, 40],
        ]
    }


def probe_even(names: Names, **inputs: Any) -> dict:
    return {"ranks": [tried(number, names.break_even_rank, *case) for case in inputs["cases"]]}


def judge_even(inputs: Inputs, seen: Observation) -> Fault | None:
    rows = []
    for (m, n), result in zip(inputs["cases"], seen["ranks"], strict=True):
        mistakes = [] if m * n % (m + n) else [(m * n // (m + n), _STRICTLY)]
        mistakes += [
            ((m * n - 1) // (m + n) + 1, "that is the first rank that no longer saves: one too many (rounded up?)"),
            (min(m, n) // 2, "half the smaller side is right for square matrices alone"),
            (min(m, n) // 2 - 1, "half the smaller side is right for square matrices alone"),
            (min(m, n), "min(shape) is the largest rank there is, not the last that saves"),
            (min(m, n) - 1, "only one factor is counted: solve r * (out + in) < out * in for r"),
            ((m * n - 1) // (m + n) - 1, "one too few: the largest rank that saves is asked for"),
        ]
        rows.append((f"break_even_rank({m}, {n})", result, (m * n - 1) // (m + n), mistakes))
    return numbers_fault(rows, "the largest whole r with r * (out + in) < out * in")


_STRICTLY = "at this rank both have the same number: strictly fewer is asked for, so one rank less"


def draw_few(rng: np.random.Generator) -> Inputs:
    return {"counts": [[300, 200, 3]], "evens": [[int(rng.integers(100, 200)), 300]]}


def probe_cost_types(names: Names, **inputs: Any) -> dict:
    return {**probe_counts(names, cases=inputs["counts"]), **probe_even(names, cases=inputs["evens"])}


def judge_cost_types(inputs: Inputs, seen: Observation) -> Fault | None:
    calls = [f"lora_param_count{tuple(one)}" for one in inputs["counts"]]
    calls += [f"break_even_rank{tuple(one)}" for one in inputs["evens"]]
    expected = [r * (m + n) for m, n, r in inputs["counts"]] + [(m * n - 1) // (m + n) for m, n in inputs["evens"]]
    results = [*seen["counts"], *seen["ranks"]]
    fault = type_fault(calls, results, expected)
    wrong = [one["raised"] or one["value"] != value for one, value in zip(results, expected, strict=True)]
    # a wrong number is the other checks': here the two functions vouch for one another
    if fault and any(wrong) and not all(wrong):
        right = [(c, o, e) for c, o, e, w in zip(calls, results, expected, wrong, strict=True) if not w]
        return type_fault(*(list(column) for column in zip(*right, strict=True)))
    return fault


EXERCISE = Exercise(
    "1.4",
    "what a low-rank update costs, and until when it saves",
    names=("lora_param_count", "break_even_rank"),
    pure=("lora_param_count", "break_even_rank"),
    checks=[
        Check(
            "1.4/count",
            "a rank-r update has r rows and columns of each side's length",
            probe_counts,
            judge_counts,
            draw_counts,
            seed=13,
        ),
        Check(
            "1.4/even",
            "break_even_rank is the largest rank that has fewer parameters than the matrix",
            probe_even,
            judge_even,
            draw_even,
            seed=14,
            builds_on=("lora_param_count",),
        ),
        Check(
            "1.4/ties",
            "an equal number is not fewer, and where no rank saves the answer is 0",
            probe_even,
            judge_even,
            draw_ties,
            seed=15,
            builds_on=("lora_param_count",),
        ),
        Check("1.4/int", "the result is an int", probe_cost_types, judge_cost_types, draw_few, seed=16),
    ],
)
