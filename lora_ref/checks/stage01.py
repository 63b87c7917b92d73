"""Stage 01, rank and what it costs: probes and visible checks.

Matrices are drawn with known singular values: far from any tolerance, so that rounding decides no rank, and with gaps
between them, so that the closest matrix of a rank is one matrix. Sizes are unequal: a transposed answer must show.

What an exercise may build on (`lora_param_count` inside `break_even_rank`, say) has a stand-in, see `carry`.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lora_ref import rank as reference
from lora_ref.checks.probing import Names, array, raised
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close
from lora_ref.rounding import number as figure
from lora_ref.rounding import pair

TITLES = {
    "1.1": "matrix_rank: count the singular values",
    "1.2": "best_rank_k: the closest matrix of rank k",
    "1.3": "rank_factors: a tall matrix times a wide one",
    "1.4": "what a low-rank update costs, and until when it saves",
    "1.5": "training_memory: weights, gradients, optimiser",
    "1.6": "what makes full fine-tuning expensive",
}


def carry(*names: str) -> Mapping[str, Any]:
    """Stand-ins for what earlier exercises answer for."""
    return {name: getattr(reference, name) for name in names}


def fixed(seed: int, draw: Callable[[np.random.Generator], Inputs]) -> Callable[[np.random.Generator], Inputs]:
    """The same inputs every time, as visible checks have them."""
    return lambda rng: draw(np.random.default_rng(seed))


# --- what was returned ----------------------------------------------------------------------------------------------


def tried(call: Callable[[], Any], record: Callable[[Any], dict]) -> dict:
    """What ``record`` writes down of the result, or under ``"raised"`` what stopped the call."""
    results: list[Any] = []
    error = raised(lambda: results.append(call()))
    return {"raised": error} if error else {"raised": None, **record(results[0])}


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


def matrix(value: Any) -> dict:
    """A tensor's values, shape and dtype; of anything else its kind alone."""
    if not isinstance(value, torch.Tensor):
        return {"kind": type(value).__name__}
    values = array(value)
    return {"values": values, "shape": list(values.shape), "dtype": str(value.dtype).removeprefix("torch.")}


def tensor(values: np.ndarray, dtype: str = "float64", transposed: bool = False) -> torch.Tensor:
    """The inputs' matrix as a tensor; ``transposed`` gives the same values in memory that is not contiguous."""
    if transposed:
        return torch.tensor(values.T.copy(), dtype=getattr(torch, dtype)).T
    return torch.tensor(values, dtype=getattr(torch, dtype))


def stopped(one: Mapping[str, Any], call: str, read: str) -> Fault | None:
    """The fault of a call that raised where it must return."""
    if not one["raised"]:
        return None
    kind, text = one["raised"]["type"], one["raised"]["text"]
    likely = "shapes do not fit: write the shape of each matrix beside the line"
    if kind in ("ValueError", "AssertionError"):
        likely = "this input is allowed: the contract says what it gives"
    elif kind in ("TypeError", "AttributeError", "NameError"):
        likely = "the signature, a name or a type differs from the contract's"
    elif kind == "IndexError":
        likely = "an index runs past the end; a slice does not: S[:k] takes what there is"
    return Fault(f"{call} raised {kind}: {text}", likely, read)


#: What a mistake gives instead of the right number, and the likely cause; the first that fits is told.
Mistakes = Sequence[tuple[float, str]]


def by_formula(actual: float, mistakes: Mistakes) -> str:
    """The likely cause of a wrong number."""
    return next((likely for value, likely in mistakes if actual == value), "")


def by_matrix(actual: np.ndarray, mistakes: Mapping[str, np.ndarray]) -> str:
    """The mistake that gives the matrix that was seen."""
    return next((likely for likely, value in mistakes.items() if close(actual, value, 1e-6)), "")


def numbers_fault(
    rows: Sequence[tuple[str, Mapping[str, Any], int, Mistakes]], read: str, otherwise: str = ""
) -> Fault | None:
    """The first wrong number of rows of (call, result, expected, mistakes); types are another check's."""
    for call, one, expected, mistakes in rows:
        fault = stopped(one, call, read)
        if fault:
            return fault
        if one["value"] is None:
            likely = "a return is missing" if one["kind"] == "NoneType" else "a number is asked for, not text or a list"
            return Fault(f"{call} gives a {one['kind']}, expected a number", likely, read)
        if one["value"] != expected:
            likely = by_formula(one["value"], mistakes) or otherwise
            return Fault(f"{call} = {shown(one['value'])}, expected {expected:,}", likely, read)
    return None


def shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else figure(value, 6, tolerance=0)


def type_fault(
    calls: Sequence[str], ones: Sequence[Mapping[str, Any]], expected: Sequence[int], read: str
) -> Fault | None:
    """Right values as plain integers."""
    for call, one, value in zip(calls, ones, expected, strict=True):
        fault = stopped(one, call, read)
        if fault:
            return fault
        if one["value"] != value:
            got = f"gives a {one['kind']}" if one["value"] is None else f"is not {value:,}"
            return Fault(f"{call} {got}", "see the other checks of this exercise", read)
        if not one["whole"]:
            likely = "a count is an int: int(...) or .item() at the end; and / gives a float, // an int"
            return Fault(f"{call} is a {one['kind']}, expected an int", likely, read)
    return None


# --- drawing matrices -----------------------------------------------------------------------------------------------


def with_values(rng: np.random.Generator, rows: int, columns: int, values: Sequence[float]) -> np.ndarray:
    """A matrix with these singular values (the rest are zero) and random directions."""
    left = np.linalg.qr(rng.normal(size=(rows, len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(columns, len(values))))[0]
    return (left * np.asarray(values)) @ right.T


def on_diagonal(rows: int, columns: int, values: Sequence[float]) -> np.ndarray:
    """These values on the diagonal and zeros elsewhere: singular values that no rounding touches."""
    M = np.zeros((rows, columns))
    M[range(len(values)), range(len(values))] = values
    return M


def gapped(rng: np.random.Generator, count: int) -> np.ndarray:
    """``count`` singular values from largest to smallest, each at most 0.8 of the one before."""
    return float(rng.uniform(3, 9)) * np.cumprod(rng.uniform(0.6, 0.8, size=count))


def sizes(rng: np.random.Generator, low: int = 5, high: int = 12) -> tuple[int, int]:
    """Two different sizes, smaller first."""
    small, large = sorted(int(n) for n in rng.choice(np.arange(low, high), size=2, replace=False))
    return small, large


# --- 1.1 matrix_rank ------------------------------------------------------------------------------------------------


def case(what: str, M: np.ndarray, rtol: float | None = None, dtype: str = "float64", transposed: bool = False) -> dict:
    return {"what": what, "M": np.asarray(M, dtype=float), "rtol": rtol, "dtype": dtype, "transposed": transposed}


#: Four small matrices as they stand in courses on linear algebra, of ranks 2, 3, 1 and 0.
EXAMPLES = (
    case("[[2, 1], [1, 3]]", [[2, 1], [1, 3]]),
    case("three rows, none a mix of the others", [[1, 0, 2, 1], [0, 1, 1, 0], [3, 0, 0, 1]]),
    # tenths are not exact, so rounding is there to be counted, on every processor
    case("three rows, each a multiple of the first", [[0.1, 0.2, 0.3], [0.2, 0.4, 0.6], [-0.1, -0.2, -0.3]]),
    case("zeros of shape (3, 2)", np.zeros((3, 2))),
)


#: `>` and `>=` differ here. rtol is the default, so a tolerance that is not used as given costs in its own check alone.
_EPS8 = 8 * float(np.finfo("float64").eps)
AT_THRESHOLD = case(
    "a diagonal of 1, 1, 8 eps and five zeros; rtol=8 eps",
    on_diagonal(8, 8, [1, 1, _EPS8]),
    _EPS8,
)


def low_rank(
    rng: np.random.Generator,
    what: str,
    shape: tuple[int, int],
    r: int,
    dtype: str = "float64",
    transposed: bool = False,
    factor: float = 1.0,
) -> dict:
    """A case of rank ``r`` in which rounding leaves far less than an epsilon of the largest singular value.

    How large the tolerance must be is the default's check to say: one that is somewhat too small must cost the same
    whatever is drawn, and on every processor. So the largest value has the first row and column for itself, where an
    SVD begins and rounds nothing, and what rounding leaves of the others is as small as they are.
    """
    M = np.zeros(shape)
    M[0, 0] = 20.0
    M[1:, 1:] = with_values(rng, shape[0] - 1, shape[1] - 1, rng.uniform(0.5, 1, size=r - 1))
    return case(what, factor * M, None, dtype, transposed)


def draw_products(rng: np.random.Generator) -> Inputs:
    """Products through a narrow middle, wide and tall, in both precisions and layouts, and matrices of full rank."""
    cases = []
    for dtype in ("float64", "float32"):
        small, large = sizes(rng, 6, 14)
        r = int(rng.integers(2, small - 1))
        for rows, columns in ((small, large), (large, small)):
            what = f"a product of shapes ({rows}, {r}) and ({r}, {columns}), {dtype}"
            cases.append(low_rank(rng, what, (rows, columns), r, dtype, rows > columns))
    small, large = sizes(rng)
    full = with_values(rng, small, large, rng.uniform(1, 3, size=small))
    return {"cases": [*cases, case(f"a matrix of shape ({small}, {large}) of full rank", full)]}


def draw_zero(rng: np.random.Generator) -> Inputs:
    """Zero matrices, one that is not, and one with a singular value at the threshold itself, which is not above it."""
    small, large = sizes(rng)
    return {
        "cases": [
            case(f"zeros of shape ({small}, {large})", np.zeros((small, large))),
            case("zeros of shape (4, 4), float32", np.zeros((4, 4)), dtype="float32"),
            low_rank(rng, "a matrix of rank 2", (small, large), 2),
            AT_THRESHOLD,
        ]
    }


def draw_scaled(rng: np.random.Generator) -> Inputs:
    """Matrices of full rank and of a lower one, far larger and far smaller than 1."""
    small, large = sizes(rng, 6, 14)
    full = with_values(rng, small, large, rng.uniform(1, 3, size=small))
    cases = []
    for dtype, factors in (("float64", (1e-12, 1e9)), ("float32", (1e-9, 1e6))):
        for factor in factors:
            what = f"a matrix times {factor:.0e}, {dtype}"
            cases.append(case(what, factor * full, dtype=dtype))
            cases.append(low_rank(rng, what, (small, large), small - 3, dtype, factor=factor))
    return {"cases": cases}


def draw_rtol(rng: np.random.Generator) -> Inputs:
    """Given tolerances, well between two singular values; the largest singular value is not 1."""
    small, large = sizes(rng, 6, 12)
    largest = float(rng.uniform(20, 60))
    values = largest * np.array([1.0, 0.5, 0.1, 1e-2, 1e-4])
    M = with_values(rng, large, small, values)
    seen = f"singular values {', '.join(map(figure, values))}"
    tiny = on_diagonal(3, 5, [largest, 1.0, largest * 1e-9])
    # one value far from the others: the largest is not the norm, the sum or the mean
    alike = [largest * np.array([1.0] + [share] * (small - 1)) for share in (0.7, 0.3)]
    return {
        "cases": [
            *(case(f"{seen}; rtol={rtol:g}", M, rtol) for rtol in (0.7, 0.2, 0.03, 1e-3, 1e-6)),
            *(
                case(
                    f"singular values {figure(v[0])} and {small - 1} times {figure(v[1])}; rtol=0.5",
                    with_values(rng, small, large, v),
                    0.5,
                )
                for v in alike
            ),
            case("a diagonal of three numbers above zero, float32; rtol=0.0", tiny, 0.0, "float32"),
        ]
    }


def draw_rtol_and_threshold(rng: np.random.Generator) -> Inputs:
    """As `draw_rtol`, and a value at the threshold: of the visible checks this one speaks of it."""
    return {"cases": [*draw_rtol(rng)["cases"], AT_THRESHOLD]}


def draw_default(rng: np.random.Generator) -> Inputs:
    """Smallest singular values just below and just above max(shape) * eps of the dtype; diagonal, so exact.

    Nothing else that is made of the two sizes lies between: half their sum and the root of their product are below,
    their sum is above.
    """
    cases = []
    for dtype in ("float32", "float64"):
        eps = float(np.finfo(dtype).eps)
        large = int(rng.integers(40, 60))
        for rows, columns in ((10, large), (large, 10)):
            for factor in (0.9 * large, 1.1 * large):
                what = f"a {dtype} matrix of shape ({rows}, {columns}) with singular values 1 and {factor:g} eps"
                cases.append(case(what, on_diagonal(rows, columns, [1, factor * eps]), dtype=dtype))
    return {"cases": cases}


def draw_easy(rng: np.random.Generator) -> Inputs:
    small, large = sizes(rng)
    return {"cases": [low_rank(rng, f"a matrix of rank {r}", (large, small), r) for r in (2, 3)]}


def probe_ranks(names: Names, **inputs: Any) -> dict:
    """The rank of each case; rtol is given only where the case has one."""
    ranks = []
    for one in inputs["cases"]:
        M = tensor(one["M"], one["dtype"], one["transposed"])
        options = {} if one["rtol"] is None else {"rtol": one["rtol"]}
        ranks.append(tried(lambda M=M, options=options: names.matrix_rank(M, **options), number))
    return {"ranks": ranks}


def true_rank(one: Mapping[str, Any], above: Callable[[Any, Any], Any] = np.greater) -> int:
    """The contract's count, of the matrix as its dtype holds it; ``above`` compares with the threshold."""
    M = one["M"].astype(one["dtype"])
    values = np.linalg.svd(M.astype(float), compute_uv=False)
    rtol = max(M.shape) * float(np.finfo(one["dtype"]).eps) if one["rtol"] is None else one["rtol"]
    return int(above(values, rtol * values.max()).sum())


def counts_rounding(one: Mapping[str, Any], result: Observation, expected: int) -> bool:
    """Whether singular values are counted that are nothing but rounding: how many, each processor has its own."""
    if result["raised"] or (result["value"] or 0) <= expected or not one["M"].any():
        return False
    values = np.linalg.svd(one["M"].astype(one["dtype"]).astype(float), compute_uv=False)
    real = int((values > float(np.finfo(one["dtype"]).eps) * values.max()).sum())
    return real < result["value"] <= len(values)


def judge_ranks(otherwise: str) -> Callable[[Inputs, Observation], Fault | None]:
    """Right ranks; ``otherwise`` is the likely cause where the number itself does not tell."""

    def judge(inputs: Inputs, seen: Observation) -> Fault | None:
        for one, result in zip(inputs["cases"], seen["ranks"], strict=True):
            M, expected = one["M"], true_rank(one)
            call = f"matrix_rank of {one['what']}"
            if counts_rounding(one, result, expected):
                likely = _NO_TOLERANCE if otherwise == _COUNT else otherwise
                return Fault(f"{call} is more than {expected}, expected {expected}", likely, "section 1.1")
            mistakes = []
            if not M.any():
                mistakes = [(min(M.shape), _ZERO)]
            elif true_rank(one, np.greater_equal) != expected:
                mistakes = [(true_rank(one, np.greater_equal), _AT_LEAST)]
            elif otherwise == _COUNT:
                mistakes = [(max(M.shape), "the longer side of a shape is not the rank")]
            fault = numbers_fault([(call, result, expected, mistakes)], "section 1.1", otherwise)
            if fault:
                return fault
        return None

    return judge


_ZERO = "the zero matrix has a largest singular value of 0: count those that are > the threshold, not >="
_AT_LEAST = "a singular value at the threshold is not larger than it: count those that are >, not >="
_NO_TOLERANCE = (
    "rounding leaves small singular values where there should be zeros: the tolerance is missing or too small"
)
_COUNT = "count the singular values above rtol times the largest"
_RELATIVE = "the tolerance is relative: compare with rtol times the largest singular value, not with a fixed number"
_RTOL = (
    "rtol is not used as given: count the singular values > rtol * the largest (0.0 is a tolerance too, and "
    "`rtol or ...` drops it)"
)
_DEFAULT = "by default rtol is max(M.shape) times the machine epsilon of M's own dtype, torch.finfo(M.dtype).eps"


def judge_rank_type(inputs: Inputs, seen: Observation) -> Fault | None:
    calls = [f"matrix_rank of {one['what']}" for one in inputs["cases"]]
    return type_fault(calls, seen["ranks"], [true_rank(one) for one in inputs["cases"]], "section 1.1")


# --- 1.2 best_rank_k ------------------------------------------------------------------------------------------------


def draw_best(rng: np.random.Generator) -> Inputs:
    """Wide, tall and square matrices with gaps between the singular values, each at several ranks."""
    small, large = sizes(rng, 7, 13)
    cases = []
    for rows, columns in ((small, large), (large, small), (small, small)):
        M = with_values(rng, rows, columns, gapped(rng, small))
        # 4 or more tells "one term more or less" from "always two"; half of them would not tell "kept" from "left out"
        for k in (int(rng.choice([k for k in range(4, small - 1) if 2 * k != small])), 1):
            cases.append({"M": M, "k": k, "dtype": "float64", "transposed": rows > columns})
    return {"cases": cases}


def draw_whole(rng: np.random.Generator) -> Inputs:
    """k at min(shape) and beyond, and k above the rank of a matrix that has not the full one."""
    small, large = sizes(rng, 5, 10)
    cases = []
    for rows, columns in ((small, large), (large, small)):
        M = with_values(rng, rows, columns, gapped(rng, small))
        cases += [{"M": M, "k": k} for k in (small, small + 1, large + 3)]
    low = with_values(rng, large, small, gapped(rng, 2))
    first = {"M": cases[0]["M"], "k": 1}
    return {"cases": [dict(one, dtype="float64", transposed=False) for one in (*cases, {"M": low, "k": 4}, first)]}


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
    for one in inputs["cases"]:
        M = tensor(one["M"], one["dtype"], one["transposed"])
        before = M.clone()
        result = tried(lambda M=M, k=one["k"]: names.best_rank_k(M, k), matrix)
        seen.append({**result, "unchanged": bool(torch.equal(M, before))})
    return {"matrices": seen}


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
        "two terms are kept whatever k is: rank k needs k of them": truncated(M, 2),
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


def best_call(one: Mapping[str, Any]) -> str:
    rows, columns = one["M"].shape
    return f"best_rank_k of a matrix of shape ({rows}, {columns}) with k={one['k']}"


def no_tensor(result: Mapping[str, Any], call: str) -> Fault | None:
    """The fault of a call that raised or gave something else than a tensor."""
    if not result["raised"] and "kind" in result:
        likely = "a return is missing" if result["kind"] == "NoneType" else "return one tensor"
        return Fault(f"{call} gives a {result['kind']}, expected a tensor", likely, "section 1.2")
    return stopped(result, call, "section 1.2")


def judge_best(inputs: Inputs, seen: Observation) -> Fault | None:
    """The closest matrix of rank k."""
    for one, result in zip(inputs["cases"], seen["matrices"], strict=True):
        M, k = one["M"], one["k"]
        fault = no_tensor(result, best_call(one)) or shape_fault(best_call(one), result, M.shape)
        if fault:
            return fault
        expected = truncated(M, k)
        if not close(result["values"], expected):
            likely = by_matrix(result["values"], best_mistakes(M, k))
            got, best = (float(np.linalg.norm(M - X)) for X in (result["values"], expected))
            shown, closest = pair(got, best)
            found = f"{best_call(one)} lies {shown} from M, the closest one {closest}"
            if got < best:
                found += " (so it has more than rank k)"
            if abs(got - best) < 1e-4 * max(best, float(np.linalg.norm(M))):
                likely = likely or "right but for rounding: computed in a lower precision than M's dtype"
            likely = likely or "keep the first k of U's columns, of S and of Vh's rows (a randomised SVD is only close)"
            return Fault(found, likely, "section 1.2")
    return None


def shape_fault(call: str, result: Mapping[str, Any], shape: Sequence[int]) -> Fault | None:
    if list(result["shape"]) == list(shape):
        return None
    likely = "the result has M's own shape; what is left out are terms of a sum, not rows or columns"
    if list(result["shape"]) == list(shape)[::-1]:
        likely = "the result is transposed"
    elif list(result["shape"]) == [shape[0], min(shape)]:
        likely = "the columns of Vh are cut: its first k rows are the directions"
    return Fault(f"{call} has shape {tuple(result['shape'])}, expected {tuple(shape)}", likely, "section 1.2")


def judge_whole(inputs: Inputs, seen: Observation) -> Fault | None:
    """M where k is large enough, and not M where it is not (the last case)."""
    for one, result in zip(inputs["cases"], seen["matrices"], strict=True):
        fault = no_tensor(result, best_call(one)) or shape_fault(best_call(one), result, one["M"].shape)
        if fault:
            return fault
        is_M = close(result["values"], one["M"])
        if one["k"] > 1 and not is_M:
            likely = "M has no larger rank than k, so nothing is left out: M is its own closest matrix"
            return Fault(f"{best_call(one)} is not M", likely, "section 1.2")
        if one["k"] == 1 and is_M:
            return Fault(f"{best_call(one)} is M itself", "nothing is left out", "section 1.2")
    return None


def judge_none(inputs: Inputs, seen: Observation) -> Fault | None:
    for one, result in zip(inputs["cases"], seen["matrices"], strict=True):
        fault = no_tensor(result, best_call(one)) or shape_fault(best_call(one), result, one["M"].shape)
        if fault:
            return fault
        zero = close(result["values"], np.zeros(one["M"].shape))  # up to rounding: terms may have been taken away
        if one["k"] == 0 and not zero:
            likely = "rank 0 is a sum of no terms; S[-0:] is all of S, and `if k:` takes 0 for not given"
            return Fault(f"{best_call(one)} is not zero", likely, "section 1.2")
        if one["k"] and zero:
            return Fault(f"{best_call(one)} is zero", "", "section 1.2")
    return None


def judge_negative(inputs: Inputs, seen: Observation) -> Fault | None:
    for one, result in zip(inputs["cases"], seen["matrices"], strict=True):
        if one["k"] > 0:
            fault = no_tensor(result, best_call(one))
        elif not result["raised"]:
            likely = "the check for k < 0 is missing: a slice [:-1] leaves the last one out and raises nothing"
            fault = Fault(f"{best_call(one)} raises nothing", likely, "section 1.2")
        elif "ValueError" not in result["raised"]["bases"]:
            found = f"{best_call(one)} raises {result['raised']['type']}"
            likely = "raise a ValueError (an assert raises AssertionError, and python -O drops it)"
            fault = Fault(found, likely, "section 1.2")
        else:
            continue
        if fault:
            return fault
    return None


def judge_dtypes(inputs: Inputs, seen: Observation) -> Fault | None:
    """M's dtype and precision, and M as it was, for k of every kind."""
    for one, result in zip(inputs["cases"], seen["matrices"], strict=True):
        call = f"{best_call(one)}, {one['dtype']},"
        fault = no_tensor(result, call)
        if fault:
            return fault
        if result["dtype"] != one["dtype"]:
            likely = "the result has M's dtype: no .float(), .double() or torch.zeros(...) without dtype=M.dtype"
            return Fault(f"{call} is {result['dtype']}", likely, "section 1.2")
        expected = truncated(one["M"], one["k"])
        if not close(result["values"], expected, 1e-3 if one["dtype"] == "float32" else 1e-9):
            rough = close(result["values"], expected, 1e-3)
            likely = "computed in float32 and converted back: digits are lost" if rough else ""
            return Fault(f"{call} is not the closest matrix", likely, "section 1.2")
        if not result["unchanged"]:
            return Fault(f"{call} changes M itself", "work on a copy: M.clone()", "section 1.2")
    return None


# --- 1.3 rank_factors -----------------------------------------------------------------------------------------------


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

    return {
        "factors": [
            tried(lambda one=one: names.rank_factors(tensor(one["M"]), one["r"]), record) for one in inputs["cases"]
        ]
    }


def factors_fault(one: Inputs, result: Observation, call: str) -> Fault | None:
    """What is no pair of matrices at all."""
    fault = stopped(result, call, "section 1.3")
    if fault:
        return fault
    if "kind" in result:
        return Fault(f"{call} gives a {result['kind']}", "return two tensors: return B, A", "section 1.3")
    for name in ("B", "A"):
        if np.ndim(result[name]) != 2 or not np.isfinite(result[name]).all():
            likely = "a root of a negative number, or a division by a singular value of zero"
            if np.ndim(result[name]) != 2:
                likely = "both factors are matrices, with r = 1 as well: slice [:, :r], do not index"
            found = f"{call}: {name} of shape {np.shape(result[name])} is no matrix of finite numbers"
            return Fault(found, likely, "section 1.3")
    return None


def factor_call(one: Mapping[str, Any]) -> str:
    rows, columns = one["M"].shape
    return f"rank_factors of a matrix of shape ({rows}, {columns}) with r={one['r']}"


def judge_factor_shapes(inputs: Inputs, seen: Observation) -> Fault | None:
    for one, result in zip(inputs["cases"], seen["factors"], strict=True):
        (rows, columns), r, call = one["M"].shape, one["r"], factor_call(one)
        fault = factors_fault(one, result, call)
        if fault:
            return fault
        shapes = np.shape(result["B"]), np.shape(result["A"])
        if shapes == ((rows, r), (r, columns)):
            continue
        if shapes == ((r, columns), (rows, r)):
            likely = "the two are returned in the wrong order: B first, then A"
        elif shapes == ((columns, r), (r, rows)):
            likely = "rows and columns are swapped: M is (out, in), so B has out rows and A has in columns"
        elif shapes == ((r, rows), (columns, r)):
            likely = "both are transposed"
        elif shapes[0][1] == shapes[1][0] < r:
            likely = "with r above min(shape) the factors still have r columns and rows: fill up with zeros"
        elif shapes[0][1] == shapes[1][0]:
            likely = "the inner size is r: cut U, S and Vh to their first r"
        else:
            likely = "write B (out, r) and A (r, in) on paper first"
        return Fault(
            f"{call}: shapes {shapes[0]} and {shapes[1]}, expected {(rows, r)} and {(r, columns)}",
            likely,
            "section 1.3",
        )
    return None


def judge_factor_product(inputs: Inputs, seen: Observation) -> Fault | None:
    """The product is the closest matrix of rank r; the order of the factors is the shapes' check."""
    for one, result in zip(inputs["cases"], seen["factors"], strict=True):
        M, r, call = one["M"], one["r"], factor_call(one)
        fault = factors_fault(one, result, call)
        if fault:
            return fault
        if len(set(result["dtypes"])) != 1:
            found = f"{call}: B is {result['dtypes'][0]} and A {result['dtypes'][1]}, which torch does not multiply"
            return Fault(found, "torch.zeros(...) is float32: M.new_zeros(...), or dtype=M.dtype", "section 1.3")
        products = possible_products(result["B"], result["A"], M.shape)
        if not products:
            shapes = f"shapes {np.shape(result['B'])} and {np.shape(result['A'])}"
            return Fault(f"{call}: {shapes} have no product of shape {M.shape}", "see the shapes' check", "section 1.3")
        expected = truncated(M, r)
        if not any(close(product, expected, 1e-6) for product in products):
            likely = by_matrix(products[0], {**_factor_mistakes(M, r), **best_mistakes(M, r)})
            off = float(np.linalg.norm(products[0] - expected))
            found = f"{call}: B @ A lies {figure(off)} from the closest matrix of rank {r}"
            return Fault(found, likely or "B @ A must be best_rank_k(M, r)", "section 1.3")
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
    return judge_factor_shapes(inputs, seen) or judge_factor_product(inputs, seen)


# --- 1.4 costs ------------------------------------------------------------------------------------------------------


def draw_counts(rng: np.random.Generator) -> Inputs:
    cases = []
    for _ in range(4):
        small, large = sizes(rng, 20, 900)
        r = int(rng.integers(2, 16))
        cases += [[small, large, r], [large, small, r + 1]]
    return {"cases": [*cases, [768, 3072, 1]]}


def probe_counts(names: Names, **inputs: Any) -> dict:
    return {"counts": [tried(lambda one=one: names.lora_param_count(*one), number) for one in inputs["cases"]]}


def judge_counts(inputs: Inputs, seen: Observation) -> Fault | None:
    rows = []
    for (m, n, r), one in zip(inputs["cases"], seen["counts"], strict=True):
        mistakes = [
            (m * n, "that is the full matrix: B A is never stored"),
            (r * m * n, "r rows of the full matrix: B and A are two small matrices, their sizes add up"),
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
        rows.append((f"lora_param_count({m}, {n}, {r})", one, r * (m + n), mistakes))
    return numbers_fault(rows, "section 1.4", "B is (out_features, r), A is (r, in_features)")


def draw_even(rng: np.random.Generator) -> Inputs:
    """Sizes whose quotient is no whole number; rounding takes it down in some and up in others."""
    cases = []
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
    return {"ranks": [tried(lambda one=one: names.break_even_rank(*one), number) for one in inputs["cases"]]}


def judge_even(inputs: Inputs, seen: Observation) -> Fault | None:
    rows = []
    for (m, n), one in zip(inputs["cases"], seen["ranks"], strict=True):
        mistakes = [] if m * n % (m + n) else [(m * n // (m + n), _STRICTLY)]
        mistakes += [
            ((m * n - 1) // (m + n) + 1, "that is the first rank that no longer saves: one too many (rounded up?)"),
            (min(m, n) // 2, "half the smaller side is right for square matrices alone"),
            (min(m, n) // 2 - 1, "half the smaller side is right for square matrices alone"),
            (min(m, n), "min(shape) is the largest rank there is, not the last that saves"),
            (min(m, n) - 1, "only one factor is counted: solve r * (out + in) < out * in for r"),
            ((m * n - 1) // (m + n) - 1, "one too few: the largest rank that saves is asked for"),
        ]
        rows.append((f"break_even_rank({m}, {n})", one, (m * n - 1) // (m + n), mistakes))
    return numbers_fault(
        rows, "section 1.4", "solve r * (out + in) < out * in for the largest whole r; 0 if no r >= 1 saves"
    )


_STRICTLY = "at this rank both have the same number: strictly fewer is asked for, so one rank less"


def draw_few(rng: np.random.Generator) -> Inputs:
    return {"counts": [[300, 200, 3]], "evens": [[int(rng.integers(100, 200)), 300]]}


def probe_cost_types(names: Names, **inputs: Any) -> dict:
    return {
        **probe_counts(names, cases=inputs["counts"]),
        **probe_even(names, cases=inputs["evens"]),
    }


def judge_cost_types(inputs: Inputs, seen: Observation) -> Fault | None:
    calls = [f"lora_param_count{tuple(one)}" for one in inputs["counts"]]
    calls += [f"break_even_rank{tuple(one)}" for one in inputs["evens"]]
    expected = [r * (m + n) for m, n, r in inputs["counts"]] + [(m * n - 1) // (m + n) for m, n in inputs["evens"]]
    ones = [*seen["counts"], *seen["ranks"]]
    fault = type_fault(calls, ones, expected, "section 1.4")
    wrong = [one["raised"] or one["value"] != value for one, value in zip(ones, expected, strict=True)]
    # a wrong number is the other checks': here the two functions vouch for one another
    if fault and any(wrong) and not all(wrong):
        right = [(c, o, e) for c, o, e, w in zip(calls, ones, expected, wrong, strict=True) if not w]
        return type_fault(*(list(column) for column in zip(*right, strict=True)), "section 1.4")
    return fault


# --- 1.5 training_memory --------------------------------------------------------------------------------------------


def draw_memory(share: str) -> Callable[[np.random.Generator], Inputs]:
    """Numbers of parameters, all or some of which train; ``"options"`` gives the other two arguments as well."""

    def draw(rng: np.random.Generator) -> Inputs:
        cases = []
        for _ in range(3):
            n = int(rng.integers(1_000_000_000, 200_000_000_000))  # as large language models are
            t = n if share == "all" else int(rng.integers(100, n // 3))
            if share != "options":
                cases.append({"arguments": [n, t], "options": {}})
                continue
            cases += [
                {"arguments": [n, t], "options": {"bytes_per_param": 2}},
                {"arguments": [n, t], "options": {"optimizer_states": int(rng.integers(4, 7))}},
                {"arguments": [n, t], "options": {"optimizer_states": 0}},
                {"arguments": [n, t, 2, 1], "options": {}},
            ]
        if share == "some":
            cases.append({"arguments": [1_000_000, 0], "options": {}})
        return {"cases": cases}

    return draw


def probe_memory(names: Names, **inputs: Any) -> dict:
    return {
        "bytes": [
            tried(lambda one=one: names.training_memory(*one["arguments"], **one["options"]), number)
            for one in inputs["cases"]
        ]
    }


def memory_call(one: Mapping[str, Any]) -> tuple[str, int, Mistakes]:
    """The call as text, the right number of bytes, and what plausible mistakes give."""
    n, t, *rest = one["arguments"]
    settings = {"bytes_per_param": 4, "optimizer_states": 2, **one["options"]}
    settings |= dict(zip(("bytes_per_param", "optimizer_states"), rest, strict=False))
    b, s = settings["bytes_per_param"], settings["optimizer_states"]
    right = b * (n + t * (1 + s))
    given = "".join(f", {name}={value}" for name, value in one["options"].items())
    call = f"training_memory({', '.join(map(str, one['arguments']))}{given})"
    mistakes = [
        (b * (n + n + s * t), "gradients are counted for all parameters: only trainable ones have one"),
        (b * (n + t + s * n), "optimiser states are counted for all parameters: only trainable ones have them"),
        (b * (n + n * (1 + s)), "gradients and states are counted for all parameters: only trainable ones have them"),
        (b * (n + s * t), "the gradients are missing"),
        (b * (n + t), "the optimiser's states are missing"),
        (b * (n + t + t), "only one state is counted for each parameter: there are optimizer_states of them"),
        (b * t * (1 + 1 + s), "the frozen weights are missing: they are in memory too"),
        (b * t * (1 + s), "the weights are missing"),
        (b * (n + t * (2 + s)), "the weights of the trainable parameters are counted twice: n_params has them already"),
        (n + t * (1 + s), "that is a number of parameters, not of bytes: times bytes_per_param"),
        (8 * right, "that is bits: bytes_per_param is in bytes"),
        ((right + 2**31) % 2**32 - 2**31, "that is what 32 bits can hold of it: compute with Python's own int"),
        (right / 1e6, "that is megabytes: the contract asks for bytes"),
        (right / 2**20, "that is mebibytes: the contract asks for bytes"),
        (right / 1e9, "that is gigabytes: the contract asks for bytes"),
        (right / 2**30, "that is gibibytes: the contract asks for bytes"),
        (4 * (n + t * (1 + s)), "4 bytes are counted whatever bytes_per_param says"),
        (b * (n + t * 3), "two states are counted whatever optimizer_states says"),
        (b * n + t * (1 + s), "only the weights are multiplied by bytes_per_param"),
        (b * (n + t) + 4 * s * t, "the states are counted in 4 bytes whatever bytes_per_param says"),
        (b * n + 4 * t * (1 + s), "only gradients and states are counted in 4 bytes: all are bytes_per_param"),
        (b * (n + t * 1 + s), "one plus states belongs in brackets: t * (1 + states)"),
    ]
    return call, right, mistakes


def judge_memory(inputs: Inputs, seen: Observation) -> Fault | None:
    rows = []
    for one, result in zip(inputs["cases"], seen["bytes"], strict=True):
        call, right, mistakes = memory_call(one)
        rows.append((call, result, right, mistakes))
    otherwise = "bytes_per_param times (all weights + a gradient and optimizer_states numbers for each trainable one)"
    return numbers_fault(rows, "section 1.5", otherwise)


def judge_memory_type(inputs: Inputs, seen: Observation) -> Fault | None:
    calls, expected = zip(*(memory_call(one)[:2] for one in inputs["cases"]), strict=True)
    return type_fault(calls, seen["bytes"], expected, "section 1.5")


# --- visible checks -------------------------------------------------------------------------------------------------

EXAMPLE_RANKS = "four small matrices have the ranks 2, 3, 1 and 0"
RANK = "the rank is the number of singular values above rounding"
ZERO = "only what is larger than the threshold counts: a zero matrix has rank 0"
SCALE = "a matrix times a number has the same rank, however small the number"
RTOL = "rtol is the tolerance relative to the largest singular value"
DEFAULT = "without rtol it is max(M.shape) times the machine epsilon of M's dtype"
INT = "the result is an int"
BEST = "best_rank_k is the closest matrix of rank k"
WHOLE = "for k of the rank of M or more it is M"
NONE = "for k = 0 it is zero"
NEGATIVE = "k < 0 is a ValueError"
DTYPE = "the result has M's dtype and precision, and M stays as it is"
SHAPES = "B has shape (out, r) and A has shape (r, in)"
PRODUCT = "B @ A is the closest matrix of rank r"
BEYOND = "r may be larger than min(M.shape): the shapes hold, and B @ A is M"
COUNT = "a rank-r update has r rows and columns of each side's length"
EVEN = "break_even_rank is the largest rank that has fewer parameters than the matrix"
TIES = "an equal number is not fewer, and where no rank saves the answer is 0"
FULL = "with everything trained: weights, gradients and optimiser states"
PART = "only trainable parameters have a gradient and optimiser states"
OPTIONS = "bytes_per_param and optimizer_states count"

VISIBLE = [
    Check("1.1/examples", EXAMPLE_RANKS, probe_ranks, judge_ranks(_COUNT), lambda rng: {"cases": list(EXAMPLES)}),
    Check("1.1/products", RANK, probe_ranks, judge_ranks(_COUNT), fixed(1, draw_products)),
    Check("1.1/scale", SCALE, probe_ranks, judge_ranks(_RELATIVE), fixed(2, draw_scaled)),
    Check("1.1/rtol", RTOL, probe_ranks, judge_ranks(_RTOL), fixed(3, draw_rtol_and_threshold)),
    Check("1.1/default", DEFAULT, probe_ranks, judge_ranks(_DEFAULT), fixed(4, draw_default)),
    Check("1.1/int", INT, probe_ranks, judge_rank_type, fixed(5, draw_easy)),
    Check("1.2/best", BEST, probe_best, judge_best, fixed(6, draw_best)),
    Check("1.2/whole", WHOLE, probe_best, judge_whole, fixed(7, draw_whole)),
    Check("1.2/none", NONE, probe_best, judge_none, fixed(8, draw_none)),
    Check("1.2/negative", NEGATIVE, probe_best, judge_negative, fixed(9, draw_negative)),
    Check("1.2/dtype", DTYPE, probe_best, judge_dtypes, fixed(10, draw_dtypes)),
    Check("1.3/shapes", SHAPES, probe_factors, judge_factor_shapes, fixed(11, draw_factors), 0, carry("best_rank_k")),
    Check(
        "1.3/product", PRODUCT, probe_factors, judge_factor_product, fixed(11, draw_factors), 0, carry("best_rank_k")
    ),
    Check("1.3/beyond", BEYOND, probe_factors, judge_beyond, fixed(12, draw_beyond), 0, carry("best_rank_k")),
    Check("1.4/count", COUNT, probe_counts, judge_counts, fixed(13, draw_counts)),
    Check("1.4/even", EVEN, probe_even, judge_even, fixed(14, draw_even), 0, carry("lora_param_count")),
    Check("1.4/ties", TIES, probe_even, judge_even, fixed(15, draw_ties), 0, carry("lora_param_count")),
    Check("1.4/int", INT, probe_cost_types, judge_cost_types, fixed(16, draw_few)),
    Check("1.5/full", FULL, probe_memory, judge_memory, fixed(17, draw_memory("all"))),
    Check("1.5/part", PART, probe_memory, judge_memory, fixed(18, draw_memory("some"))),
    Check("1.5/options", OPTIONS, probe_memory, judge_memory, fixed(19, draw_memory("options"))),
    Check("1.5/int", INT, probe_memory, judge_memory_type, fixed(20, draw_memory("some"))),
]
