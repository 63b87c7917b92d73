"""Exercise 1.1, matrix_rank: count the singular values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names
from lora_ref.checks.stage01.shared import number, numbers_fault, sizes, tensor, tried, type_fault, with_values
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation
from lora_ref.rounding import number as figure


def on_diagonal(rows: int, columns: int, values: Sequence[float]) -> np.ndarray:
    """These values on the diagonal and zeros elsewhere: singular values that no rounding touches."""
    M = np.zeros((rows, columns))
    M[range(len(values)), range(len(values))] = values
    return M


def case(what: str, M: ArrayLike, rtol: float | None = None, dtype: str = "float64", transposed: bool = False) -> dict:
    return {"what": what, "M": np.asarray(M, dtype=float), "rtol": rtol, "dtype": dtype, "transposed": transposed}


#: Four small matrices as they stand in courses on linear algebra, of ranks 2, 3, 1 and 0.
EXAMPLES = (
    case("[[2, 1], [1, 3]]", [[2, 1], [1, 3]]),
    case("three rows, none a mix of the others", [[1, 0, 2, 1], [0, 1, 1, 0], [3, 0, 0, 1]]),
    # tenths are not exact, so rounding is there to be counted, on every processor
    case(
        "four rows, each a multiple of the first",
        [[0.1, 0.2, 0.3], [0.2, 0.4, 0.6], [-0.1, -0.2, -0.3], [0.3, 0.6, 0.9]],
    ),
    case("zeros of shape (3, 2)", np.zeros((3, 2))),
)


#: `>` and `>=` differ here. rtol is the default, so a tolerance that is not used as given costs in its own check alone.
_EPS8 = 8 * float(np.finfo("float64").eps)


AT_THRESHOLD = case("a diagonal of 1, 1, 8 eps and five zeros; rtol=8 eps", on_diagonal(8, 8, [1, 1, _EPS8]), _EPS8)


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
    cases.append(low_rank(rng, "a matrix of rank 20", (23, 31), 20))
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
            # in either order: a rank that is remembered for a shape is too large once and too small once
            for factor in sorted((0.9 * large, 1.1 * large), reverse=rows > columns):
                what = f"a {dtype} matrix of shape ({rows}, {columns}) with singular values 1 and {factor:g} eps"
                cases.append(case(what, on_diagonal(rows, columns, [1, factor * eps]), dtype=dtype))
    return {"cases": cases}


def draw_easy(rng: np.random.Generator) -> Inputs:
    small, large = sizes(rng)
    return {"cases": [low_rank(rng, f"a matrix of rank {r}", (large, small), r) for r in (2, 3)]}


def probe_ranks(names: Names, **inputs: Any) -> dict:
    """The rank of each case; rtol is given only where the case has one."""
    ranks = []
    for case in inputs["cases"]:
        M = tensor(case["M"], case["dtype"], case["transposed"])
        options = {} if case["rtol"] is None else {"rtol": case["rtol"]}
        ranks.append(tried(number, names.matrix_rank, M, **options))
    return {"ranks": ranks}


def true_rank(case: Mapping[str, Any], above: Callable[[Any, Any], Any] = np.greater) -> int:
    """The contract's count, of the matrix as its dtype holds it; ``above`` compares with the threshold."""
    M = case["M"].astype(case["dtype"])
    values = np.linalg.svd(M.astype(float), compute_uv=False)
    rtol = max(M.shape) * float(np.finfo(case["dtype"]).eps) if case["rtol"] is None else case["rtol"]
    return int(above(values, rtol * values.max()).sum())


def counts_rounding(case: Mapping[str, Any], value: int, expected: int) -> bool:
    """Whether singular values are counted that are nothing but rounding: how many, each processor has its own."""
    if value <= expected or not case["M"].any():
        return False
    values = np.linalg.svd(case["M"].astype(case["dtype"]).astype(float), compute_uv=False)
    real = int((values > float(np.finfo(case["dtype"]).eps) * values.max()).sum())
    return real < value <= len(values)


#: A likely cause, and whether it explains a rank, right or wrong: ``explains(case, the rank given, expected)``.
Cause = tuple[str, Callable[[Mapping[str, Any], int, int], bool]]


def judge_ranks(*causes: Cause, rule: str = "") -> Callable[[Inputs, Observation], Fault | None]:
    """Right ranks; a cause is named if it alone explains them all. ``rule`` says what the number is."""

    def judge(inputs: Inputs, seen: Observation) -> Fault | None:
        rows = [(case, result, true_rank(case)) for case, result in zip(inputs["cases"], seen["ranks"], strict=True)]
        wrong = [row for row in rows if row[1]["raised"] or row[1]["value"] != row[2]]
        fault = numbers_fault([(f"matrix_rank of {case['what']}", one, expected, []) for case, one, expected in wrong])
        if fault is None or wrong[0][1]["raised"] or wrong[0][1]["value"] is None:
            return fault
        found, (case, result, expected) = fault.seen, wrong[0]
        if counts_rounding(case, result["value"], expected):
            found = f"matrix_rank of {case['what']} is more than {expected}, expected {expected}"
        known = [_AT_LEAST if case["M"].any() else _ZERO]
        values = [(case, result["value"], expected) for case, result, expected in rows if not result["raised"]]
        fitting = [cause for cause, explains in (*known, *causes) if all(explains(*row) for row in values)]
        if len(fitting) == 1:
            return Fault(found, fitting[0])
        return Fault(f"{found} ({rule})" if rule else found)

    return judge


def _above_or_at(case: Mapping[str, Any], value: int, expected: int) -> bool:
    return value == true_rank(case, np.greater_equal)


def _above_or_at_but_zero(case: Mapping[str, Any], value: int, expected: int) -> bool:
    return value == true_rank(case, np.greater_equal) if case["M"].any() else value == expected


def _rounding(case: Mapping[str, Any], value: int, expected: int) -> bool:
    return value == expected or counts_rounding(case, value, expected)


def _fixed_number(case: Mapping[str, Any], value: int, expected: int) -> bool:
    """A threshold that is not relative takes too few of small values and too many of large ones."""
    return value <= expected if np.abs(case["M"]).max() < 1e-3 else value >= expected


def _instead_of(
    threshold: Callable[[np.ndarray, float, float], float | np.floating],
) -> Callable[[Mapping[str, Any], int, int], bool]:
    """What a count above another threshold explains: ``threshold(values, rtol, the default rtol)``."""

    def explains(case: Mapping[str, Any], value: int, expected: int) -> bool:
        M = case["M"].astype(case["dtype"])
        values = np.linalg.svd(M.astype(float), compute_uv=False)
        default = max(M.shape) * float(np.finfo(case["dtype"]).eps)
        return value == int((values > threshold(values, case["rtol"], default)).sum())

    return explains


_ZERO: Cause = (
    "the zero matrix has a largest singular value of 0: count those that are > the threshold, not >=",
    _above_or_at,
)
_AT_LEAST: Cause = (
    "a singular value at the threshold is not larger than it: count those that are >, not >=",
    _above_or_at_but_zero,
)


RANK = "the number of singular values above the tolerance"
DEFAULT = "without rtol it is max(M.shape) times the machine epsilon of M's own dtype, torch.finfo(M.dtype).eps"


#: Causes of a wrong rank with the default tolerance.
COUNT: tuple[Cause, ...] = (
    (
        "rounding leaves small singular values where there should be zeros: the tolerance is missing or too small",
        _rounding,
    ),
    (
        "rows that are not zero are counted: a row may be a mix of the others",
        lambda case, value, expected: value == int(case["M"].any(axis=1).sum()),
    ),
    ("the longer side of a shape is not the rank", lambda case, value, expected: value == max(case["M"].shape)),
)


RELATIVE: tuple[Cause, ...] = (
    (
        "the tolerance is relative: compare with rtol times the largest singular value, not with a fixed number",
        _fixed_number,
    ),
)


_RTOL: tuple[Cause, ...] = (
    ("rtol is not used, only the default tolerance", _instead_of(lambda s, rtol, default: default * s.max())),
    (
        "rtol=0.0 is a tolerance too, and `rtol or ...` drops it",
        lambda case, value, expected: value == expected or case["rtol"] == 0,
    ),
    ("the values are compared with rtol itself", _instead_of(lambda s, rtol, default: rtol)),
    (
        "rtol is multiplied by the norm, not by the largest singular value",
        _instead_of(lambda s, rtol, default: rtol * np.linalg.norm(s)),
    ),
    (
        "rtol is multiplied by the mean, not by the largest singular value",
        _instead_of(lambda s, rtol, default: rtol * s.mean()),
    ),
    (
        "rtol is multiplied by the sum, not by the largest singular value",
        _instead_of(lambda s, rtol, default: rtol * s.sum()),
    ),
    (
        "the tolerance is compared with squares: eigenvalues of M^T M are the singular values squared",
        _instead_of(lambda s, rtol, default: (rtol or default) ** 0.5 * s.max()),
    ),
)


_DEFAULT: tuple[Cause, ...] = (
    (f"the default tolerance is too small: {DEFAULT}", lambda case, value, expected: value >= expected),
    (f"the default tolerance is too large: {DEFAULT}", lambda case, value, expected: value <= expected),
)


def judge_rank_type(inputs: Inputs, seen: Observation) -> Fault | None:
    calls = [f"matrix_rank of {case['what']}" for case in inputs["cases"]]
    return type_fault(calls, seen["ranks"], [true_rank(case) for case in inputs["cases"]])


#: Checks of the plain rank: what the others see follows from it.
BASIC = ("1.1/examples", "1.1/products")

EXERCISE = Exercise(
    "1.1",
    "matrix_rank: count the singular values",
    names=("matrix_rank",),
    pure=("matrix_rank",),
    checks=[
        Check(
            "1.1/examples",
            "four small matrices have the ranks 2, 3, 1 and 0",
            probe_ranks,
            judge_ranks(*COUNT, rule=RANK),
            lambda rng: {"cases": list(EXAMPLES)},
        ),
        Check(
            "1.1/products",
            "the rank is the number of singular values above rounding",
            probe_ranks,
            judge_ranks(*COUNT, rule=RANK),
            draw_products,
            seed=1,
        ),
        Check(
            "1.1/scale",
            "a matrix times a number has the same rank, however small the number",
            probe_ranks,
            judge_ranks(*RELATIVE),
            draw_scaled,
            seed=2,
            after=BASIC,
        ),
        Check(
            "1.1/rtol",
            "rtol is the tolerance relative to the largest singular value",
            probe_ranks,
            judge_ranks(*_RTOL, rule="count the singular values > rtol * the largest"),
            draw_rtol_and_threshold,
            seed=3,
            after=BASIC,
        ),
        Check(
            "1.1/default",
            "without rtol it is max(M.shape) times the machine epsilon of M's dtype",
            probe_ranks,
            judge_ranks(*_DEFAULT, rule=DEFAULT),
            draw_default,
            seed=4,
            after=BASIC,
        ),
        Check("1.1/int", "the result is an int", probe_ranks, judge_rank_type, draw_easy, seed=5),
    ],
)
