"""Exercise 5.3, subspace_similarity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, attempt
from lora_ref.checks.stage05.shared import SAME, separated
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, error_fault
from lora_ref.rounding import pair


def draw_subspaces(rng: np.random.Generator, pairs: int = 5) -> Inputs:
    """Two matrices of different ranks over one space, with some directions nearly shared, and several (i, j)."""
    r1, r2 = (int(r) for r in rng.permutation([4, 6]))
    n = int(rng.integers(13, 18))
    A1 = separated(rng, r1, n)
    A2 = separated(rng, r2, n)
    A2[: min(r1, r2)] += 0.8 * A1[: min(r1, r2)]  # so that the similarities are far from those of random spaces
    mixed = [(i, j) for i in range(1, r1 + 1) for j in range(1, r2 + 1) if i != j]
    chosen = [mixed[k] for k in rng.choice(len(mixed), size=pairs, replace=False)]
    chosen += [(2, 3), (3, 2), (1, 1), (3, 3), (r1, r2)]
    later = [{"A1": A1[:, ::-1].copy(), "A2": A2, "i": 2, "j": 3}, {"A1": A1, "A2": A2[:, ::-1].copy(), "i": 2, "j": 3}]
    return {"cases": [*({"A1": A1, "A2": A2, "i": i, "j": j} for i, j in chosen), *later]}


def draw_limits(rng: np.random.Generator) -> Inputs:
    """Pairs whose similarity is known beforehand: the same space, one inside the other, orthogonal ones, parts."""
    r, n = 4, int(rng.integers(11, 15))
    A = separated(rng, r, n)
    _, s, Vh = np.linalg.svd(A, full_matrices=True)

    def with_directions(*which: int) -> np.ndarray:
        turn = np.linalg.qr(rng.normal(size=(len(which), len(which))))[0]
        return turn @ np.diag(s[: len(which)]) @ Vh[list(which)]

    other, exchanged, half = with_directions(4, 5, 6), with_directions(1, 0, 4), with_directions(0, 5, 6)
    aslant = s[:1, None] * (0.5 * Vh[0] + 0.75**0.5 * Vh[4])
    return {
        "cases": [
            {"A1": A, "A2": A, "i": i, "j": j, "is": 1.0, "what": "of one matrix with itself"}
            for i, j in ((1, 1), (2, 2), (4, 4), (2, 4), (4, 1))
        ]
        + [
            {"A1": A, "A2": other, "i": i, "j": j, "is": 0.0, "what": "of orthogonal spaces"}
            for i, j in ((1, 1), (4, 3), (2, 3))
        ]
        + [
            {
                "A1": A,
                "A2": exchanged,
                "i": i,
                "j": j,
                "is": float(i > 1 or j > 1),
                "what": "where A2's first is A1's second",
            }
            for i, j in ((1, 1), (2, 2), (2, 1), (1, 2))
        ]
        + [{"A1": A, "A2": half, "i": 2, "j": j, "is": 0.5, "what": "where one of two is shared"} for j in (2, 3)]
        # without the square this is 0.5 or -0.5, whatever signs the directions come with
        + [{"A1": A, "A2": aslant, "i": 1, "j": 1, "is": 0.25, "what": "of directions at 60 degrees"}]
    }


def draw_same_space(rng: np.random.Generator) -> Inputs:
    """Matrices with the same right-singular directions, but other sizes and other rows."""
    while True:
        first = draw_subspaces(rng, pairs=2)["cases"][0]
        A1, A2 = first["A1"], first["A2"]
        if abs(similarity_of(A1, A2, 2, 3) - similarity_of(A1, A2, 3, 2)) > 0.02:  # exchanged must show
            break
    turn = np.linalg.qr(rng.normal(size=(len(A1), len(A1))))[0]
    return {
        "cases": [
            {"A1": one, "A2": two, "i": i, "j": j}
            for one, two in ((A1, A2), (25 * A1, A2), (turn @ A1, A2), (-A1, 0.04 * A2))
            for i, j in ((2, 3), (3, 2))
        ]
    }


def draw_trained(rng: np.random.Generator) -> Inputs:
    """As `draw_subspaces`, and the matrices are parameters, as a trained `lora_A` is."""
    return {"cases": [case | {"trained": True} for case in draw_subspaces(rng, pairs=2)["cases"]]}


def similarity_of(A1: np.ndarray, A2: np.ndarray, i: int, j: int) -> float:
    V1, V2 = (np.linalg.svd(A, full_matrices=False)[2] for A in (A1, A2))
    return float((V1[:i] @ V2[:j].T).__pow__(2).sum() / min(i, j))


def probe_similarity(names: Names, **inputs: Any) -> dict:
    """The similarity of each pair, and its type. Pairs of one shape are one pair of tensors, as in training."""
    held: dict[tuple, torch.Tensor] = {}

    def one(case: Mapping[str, Any]) -> dict:
        A1, A2 = (held.setdefault((name, *case[name].shape), torch.zeros(case[name].shape)) for name in ("A1", "A2"))
        for A, name in ((A1, "A1"), (A2, "A2")):
            A.requires_grad_(False).copy_(torch.tensor(case[name], dtype=torch.float32))
            A.requires_grad_(bool(case.get("trained")))
        if case.get("trained"):
            A1, A2 = torch.nn.Parameter(A1.detach()), torch.nn.Parameter(A2.detach())
        result = names.subspace_similarity(A1, A2, case["i"], case["j"])
        seen = {"kind": type(result).__name__, "is_float": isinstance(result, float)}
        if isinstance(result, torch.Tensor) and result.numel() > 1:
            return {**seen, "shape": list(result.shape)}
        if result is None or isinstance(result, (bool, str)):
            return {**seen, "shape": None}
        return {**seen, "value": float(result)}

    return {"outcomes": [attempt(one, case) for case in inputs["cases"]]}


def judge_similarity(inputs: Inputs, seen: Observation) -> Fault | None:
    wrong = []
    for case, outcome in zip(inputs["cases"], seen["outcomes"], strict=True):
        at = f"i={case['i']}, j={case['j']}"
        if "error" in outcome:
            return _similarity_error(case, outcome["error"], at)
        if "value" not in outcome:
            likely = "one number is asked for: the sum of all squared products over min(i, j)"
            if outcome.get("shape") is None:
                likely = "the function returns nothing that is a number"
            return Fault(
                f"{at}: a {outcome['kind']}{' of shape ' + str(outcome['shape']) if outcome['shape'] else ''}", likely
            )
        wanted = case.get("is", similarity_of(case["A1"], case["A2"], case["i"], case["j"]))
        if not abs(outcome["value"] - wanted) <= SAME:
            wrong.append((at, case, outcome["value"], wanted))
    if not wrong:
        return None
    at, case, value, wanted = wrong[0]
    what = f" {case['what']}" if "what" in case else ""
    cases = [(c, o["value"]) for c, o in zip(inputs["cases"], seen["outcomes"], strict=True)]
    shown, asked = pair(value, wanted, tolerance=SAME)
    before = [c for c in inputs["cases"] if "is" not in case and c is not case]
    mixed = [(one["A1"], case["A2"]) for one in before[:1]] + [(case["A1"], one["A2"]) for one in before[:1]]
    if any(abs(similarity_of(*two, case["i"], case["j"]) - value) < SAME for two in mixed):
        return Fault(
            f"{at}: {shown}, expected {asked}; {shown} is right for matrices of an earlier call",
            "an earlier call's result is used again: a tensor of the same shape, or the same one, may hold new values",
        )
    return Fault(f"{at}{what}: {shown}, expected {asked}", _similarity_cause(cases))


def _similarity_error(case: Mapping[str, Any], error: Mapping[str, str], at: str) -> Fault:
    fault = error_fault(error)
    r1, r2, n = len(case["A1"]), len(case["A2"]), case["A1"].shape[1]
    likely, text = fault.likely, str(error.get("text"))
    if "in-place operation" in text:
        likely = "A1 and A2 may be parameters, and are the caller's: A / A.norm() is a new tensor, A /= ... is not"
    elif "requires grad" in text:
        likely = "a trained lora_A requires grad: .detach() before NumPy"
    elif error.get("type") in ("RuntimeError", "ValueError", "IndexError"):
        likely = (
            "A1 and A2 may have different numbers of rows"
            if "stack" in text
            else (
                f"right-singular directions have n = {n} entries and are the rows of Vh; left-singular ones have the "
                f"rank's ({r1} and {r2}), and do not fit together"
            )
        )
    return Fault(f"{at}: {fault.seen}", likely)


def _bases(case: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What may be taken for the two bases, rows as directions."""
    i, j = case["i"], case["j"]
    (U1, _, V1), (U2, _, V2) = (np.linalg.svd(case[name], full_matrices=False) for name in ("A1", "A2"))
    F1, F2 = (np.linalg.svd(case[name], full_matrices=True)[2] for name in ("A1", "A2"))
    Q1, Q2 = (np.linalg.qr(case[name].T)[0].T for name in ("A1", "A2"))
    N1, N2 = (case[name] / np.linalg.norm(case[name], axis=1, keepdims=True) for name in ("A1", "A2"))
    return {
        "right": (V1[:i], V2[:j]),
        "whole": (V1, V2),
        "smallest": (V1[::-1][:i], V2[::-1][:j]),
        "columns": (V1.T[:i] if len(V1) == len(V2) else F1.T[:i], V2.T[:j] if len(V1) == len(V2) else F2.T[:j]),
        "left": (U1.T[:i], U2.T[:j]),
        "same count": (V1[: min(i, j)], V2[: min(i, j)]),
        "exchanged": (V1[:j], V2[:i]),
        "qr": (Q1[:i], Q2[:j]),
        "rows": (N1[:i], N2[:j]),
        "raw": (case["A1"][:i], case["A2"][:j]),
    }


_BASIS_CAUSES = {
    "whole": "i and j are not used: only the leading directions count",
    "smallest": "the smallest directions are taken: eigh counts upwards",
    "columns": "the columns of Vh are taken; its rows are the right-singular directions",
    "left": "the left-singular directions are taken; they say how the rows of A mix, not which inputs it reads",
    "same count": "i and j may differ: i directions of A1, j of A2",
    "exchanged": "i belongs to A1 and j to A2",
    "qr": "that is the space of A's first rows (A cut before the SVD, or QR, which takes the rows as they stand): the "
    "leading directions are those of the whole A",
    "rows": "the rows of A are not an orthonormal basis: their directions overlap, take the SVD's",
    "raw": "A itself is taken for a basis: take the right-singular vectors of its SVD",
}


#: What may have been done with the products of two bases, and the two numbers of directions.
Rule = Callable[[np.ndarray, int, int], Any]


def _similarity_cause(cases: list[tuple[Mapping[str, Any], float]]) -> str:
    def explains(rule: Rule, basis: str = "right") -> bool:
        for case, value in cases:
            one, two = _bases(case)[basis]
            if one.shape[1] != two.shape[1]:
                return False
            if not abs(rule(one @ two.T, case["i"], case["j"]) - value) <= SAME:
                return False
        return True

    def square(P: np.ndarray) -> float:
        return float((P**2).sum())

    rules: tuple[tuple[Rule, str], ...] = (
        (lambda P, i, j: square(P) / max(i, j), "divided by max(i, j): then a space inside another does not give 1"),
        (lambda P, i, j: square(P) / i, "divided by i: the smaller of the two counts"),
        (lambda P, i, j: square(P) / j, "divided by j: the smaller of the two counts"),
        (lambda P, i, j: square(P) / (i * j), "divided by i * j: that is the mean, which falls as the spaces grow"),
        (lambda P, i, j: square(P) / (i + j), "divided by i + j: the smaller of the two counts"),
        (lambda P, i, j: square(P), "not divided by min(i, j)"),
        (lambda P, i, j: square(P) ** 0.5 / min(i, j), "the norm is not squared"),
        (lambda P, i, j: (square(P) / min(i, j)) ** 0.5, "a root too many: the norm is squared in the formula"),
        (lambda P, i, j: np.abs(P).sum() / min(i, j), "absolute values in place of squares"),
        (lambda P, i, j: P.sum() / min(i, j), "the products are not squared, and their signs mean nothing"),
        (lambda P, i, j: P.sum() ** 2 / min(i, j), "the sum is squared, not each product"),
        (lambda P, i, j: np.trace(P**2) / min(i, j), "only the k-th with the k-th direction: all pairs count"),
        (lambda P, i, j: np.linalg.norm(P, 2) ** 2 / min(i, j), "the spectral norm; the Frobenius norm is asked for"),
        (lambda P, i, j: np.linalg.norm(P, 2) ** 2, "the largest cosine alone; all pairs count"),
        (lambda P, i, j: np.linalg.norm(P, "nuc") / min(i, j), "the nuclear norm; Frobenius' is asked for"),
        (lambda P, i, j: square(P) / min(P.shape), "divided by something else than min(i, j)"),
        (lambda P, i, j: 1 - square(P) / min(i, j), "a distance, 1 minus the similarity"),
    )
    for rule, likely in rules:
        if explains(rule):
            return likely
    for basis, likely in _BASIS_CAUSES.items():
        for rule in (lambda P, i, j: square(P) / min(i, j), lambda P, i, j: square(P) / min(P.shape)):
            if explains(rule, basis):
                return likely
    return (
        "the sum of all products squared, over min(i, j); the directions are the first i and the first j rows of each "
        "Vh (not its columns, and not scaled)"
    )


def judge_similarity_type(inputs: Inputs, seen: Observation) -> Fault | None:
    for case, outcome in zip(inputs["cases"], seen["outcomes"], strict=True):
        if "error" in outcome:
            return _similarity_error(case, outcome["error"], f"i={case['i']}, j={case['j']}")
        if not outcome["is_float"]:
            return Fault(
                f"a {outcome['kind']}, expected a float",
                "a tensor of one element is not a number: float(...) or .item()",
            )
    return None


EXERCISE = Exercise(
    "5.3",
    "subspace_similarity",
    names=("subspace_similarity",),
    pure=("subspace_similarity",),
    checks=[
        Check(
            "5.3/values",
            "the similarity of the leading i and j right-singular directions",
            probe_similarity,
            judge_similarity,
            draw_subspaces,
            seed=1,
        ),
        Check(
            "5.3/limits",
            "1 where one space contains the other, 0 where they are orthogonal, and what is known between",
            probe_similarity,
            judge_similarity,
            draw_limits,
            seed=1,
        ),
        Check(
            "5.3/float",
            "the result is a float, of a trained lora_A as well",
            probe_similarity,
            judge_similarity_type,
            draw_trained,
            seed=1,
        ),
    ],
)
