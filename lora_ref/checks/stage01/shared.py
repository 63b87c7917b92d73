"""Stage 01, rank and what it costs: what several of its exercises use.

Matrices are drawn with known singular values: far from any tolerance, so that rounding decides no rank, and with gaps
between them, so that the closest matrix of a rank is one matrix. Sizes are unequal: a transposed answer must show.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lora_ref import rank
from lora_ref.checks.probing import array, result_of
from lora_ref.checks.verdicts import ELSEWHERE, Fault, a, close, error_fault
from lora_ref.rounding import number as figure

#: See `lora_ref.checks.probing.stand_ins`.
STAND_INS = {"best_rank_k": lambda names: rank.best_rank_k, "lora_param_count": lambda names: rank.lora_param_count}


def tried(record: Callable[[Any], dict], call: Callable[..., Any], *arguments: Any, **options: Any) -> dict:
    """What ``record`` writes down of the call's result, or under ``"raised"`` what stopped the call."""
    result, error = result_of(call, *arguments, **options)
    return {"raised": error} if error else {"raised": None, **record(result)}


def number(value: Any) -> dict:
    """A number's value and type; the value is None for what is none."""
    kind, whole = type(value).__name__, isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = array(value).item()
    if isinstance(value, numbers.Real):
        return {
            "kind": kind,
            "whole": whole,
            "value": int(value) if isinstance(value, numbers.Integral) else float(value),
        }
    return {"kind": kind, "whole": False, "value": None}


def tensor(values: np.ndarray, dtype: str = "float64", transposed: bool = False) -> torch.Tensor:
    """The inputs' matrix as a tensor; ``transposed`` gives the same values in memory that is not contiguous.

    The next matrix of the same form is the same tensor, filled again: what was remembered of the last one must show.
    """
    key = (*values.shape, dtype, transposed)
    if key not in _FILLED:
        rows, columns = values.shape
        sizes = (columns, rows) if transposed else (rows, columns)
        empty = torch.zeros(sizes, dtype=getattr(torch, dtype))
        _FILLED[key] = empty.T if transposed else empty
    return _FILLED[key].copy_(torch.tensor(values))


_FILLED: dict[tuple, torch.Tensor] = {}


def stopped(result: Mapping[str, Any], call: str) -> Fault | None:
    """The fault of a call that raised where it must return."""
    if not result["raised"]:
        return None
    kind, text = result["raised"]["type"], result["raised"]["text"]
    likely = error_fault(result["raised"]).likely
    if kind in ("ValueError", "AssertionError"):
        likely = "this input is allowed: the contract says what it gives"
    elif kind == "IndexError":
        likely = "an index runs past the end; a slice does not: S[:k] takes what there is"
    where = f" ({result['raised']['line']})" if result["raised"].get("line") else ""
    return Fault(f"{call} raised {kind}: {text}{where}", likely)


#: What a mistake gives instead of the right number, and the likely cause.
Mistakes = Sequence[tuple[float, str]]


def by_matrix(actual: np.ndarray, mistakes: Mapping[str, np.ndarray]) -> str:
    """The mistake that gives the matrix that was seen."""
    return next((likely for likely, value in mistakes.items() if close(actual, value, 1e-6)), "")


def numbers_fault(rows: Sequence[tuple[str, Mapping[str, Any], int, Mistakes]], rule: str = "") -> Fault | None:
    """The first wrong number of rows of (call, result, expected, mistakes); types are another check's.

    A cause is named if it alone gives what was seen in each of the rows where the number is not right; else the
    ``rule`` is.
    """
    for call, result, expected, mistakes in rows:
        fault = stopped(result, call)
        if fault:
            return fault
        if result["value"] is None:
            likely = (
                "a return is missing" if result["kind"] == "NoneType" else "a number is asked for, not text or a list"
            )
            return Fault(f"{call} gives {a(result['kind'])}, expected a number", likely)
        if result["value"] != expected:
            found = f"{call} = {shown(result['value'])}, expected {expected:,}"
            fitting = {likely for value, likely in mistakes if value == result["value"]}
            causes = {likely for likely in fitting if all(_explains(likely, row) for row in rows)}
            causes = causes or {
                likely for likely in fitting if all(_explains(likely, row, at_times=True) for row in rows)
            }
            if len(causes) == 1:
                return Fault(found, causes.pop())
            return Fault(f"{found} ({rule})" if rule else found)
    return None


def _explains(likely: str, row: tuple[str, Mapping[str, Any], int, Mistakes], at_times: bool = False) -> bool:
    """Whether a mistake gives what was seen in this row; ``at_times``, or the row is right."""
    _, result, expected, mistakes = row
    values = {value for value, cause in mistakes if cause == likely}
    return result["raised"] or result["value"] in (values | {expected} if at_times or not values else values)


def shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else figure(value, 6, tolerance=0)


def type_fault(calls: Sequence[str], results: Sequence[Mapping[str, Any]], expected: Sequence[int]) -> Fault | None:
    """Right values as plain integers."""
    for call, result, value in zip(calls, results, expected, strict=True):
        fault = stopped(result, call)
        if fault:
            return fault
        if result["value"] != value:
            problem = f"gives {a(result['kind'])}" if result["value"] is None else f"is not {value:,}"
            return Fault(f"{call} {problem}", ELSEWHERE)
        if not result["whole"]:
            likely = "a count is an int: int(...) or .item() at the end; and / gives a float, // an int"
            return Fault(f"{call} is {a(result['kind'])}, expected an int", likely)
    return None


def with_values(rng: np.random.Generator, rows: int, columns: int, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """A matrix with these singular values (the rest are zero) and random directions."""
    left = np.linalg.qr(rng.normal(size=(rows, len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(columns, len(values))))[0]
    return (left * np.asarray(values)) @ right.T


def gapped(rng: np.random.Generator, count: int) -> np.ndarray:
    """``count`` singular values from largest to smallest, each at most 0.8 of the one before."""
    return float(rng.uniform(3, 9)) * np.cumprod(rng.uniform(0.6, 0.8, size=count))


def sizes(rng: np.random.Generator, low: int = 5, high: int = 12) -> tuple[int, int]:
    """Two different sizes, smaller first."""
    small, large = sorted(int(n) for n in rng.choice(np.arange(low, high), size=2, replace=False))
    return small, large


def truncated(M: np.ndarray, k: int) -> np.ndarray:
    """The closest matrix of rank at most k."""
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    return (U[:, :k] * S[:k]) @ Vh[:k]


def best_mistakes(M: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """What plausible mistakes give instead, by likely cause."""
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    rows, columns, block, entries = (np.zeros_like(M) for _ in range(4))
    rows[:k], columns[:, :k], block[:k, :k] = M[:k], M[:, :k], M[:k, :k]
    largest = np.unravel_index(np.argsort(-np.abs(M), axis=None)[:k], M.shape)
    entries[largest] = M[largest]
    mistakes = {
        "that is M itself: nothing is left out": M,
        "k + 1 terms are kept": truncated(M, k + 1),
        "k - 1 terms are kept": truncated(M, k - 1) if k > 1 else np.full_like(M, np.nan),
        "two terms are kept whatever the rank asked for: rank r needs r of them": truncated(M, 2),
        "the k largest terms are left out, not kept": M - truncated(M, k),
        "the k smallest terms are kept: torch.linalg.svd sorts from the largest": (U[:, -k:] * S[-k:]) @ Vh[-k:],
        "the singular values are missing between U and Vh": U[:, :k] @ Vh[:k],
        "the singular values enter as their roots: once is enough, and once is needed": (U[:, :k] * S[:k] ** 0.5)
        @ Vh[:k],
        "the singular values enter twice": (U[:, :k] * S[:k] ** 2) @ Vh[:k],
        "all k terms are scaled by one singular value": S[0] * U[:, :k] @ Vh[:k],
        "the first k rows are kept; their rank is right, but another matrix is closer": rows,
        "the first k columns are kept; their rank is right, but another matrix is closer": columns,
        "the top left corner is kept, not the leading directions": block,
        "the k largest entries are kept; few entries are not low rank": entries,
        "the columns are centred first, as PCA does; the closest matrix to M itself is asked for": (
            M.mean(0) + truncated(M - M.mean(0), k)
        ),
    }
    if M.shape[0] == M.shape[1]:
        mistakes["torch.linalg.svd returns V transposed already: multiply by Vh, not by Vh.T"] = (
            U[:, :k] * S[:k]
        ) @ Vh.T[:k]
        mistakes["the columns of Vh are cut: its first k rows are the directions"] = (U[:, :k] * S[:k]) @ Vh[:, :k].T
    return mistakes
