"""Exercise 1.4, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage01 import e4_param_count as room

HIDDEN = [
    graded(room, "1.4/count", 0.75),
    graded(room, "1.4/even", 0.5),
    graded(room, "1.4/ties", 0.5),
    graded(room, "1.4/int", 0.25),
]


_PARAMS = "return r * (out_features + in_features)"
_EVEN = "return (out_features * in_features - 1) // (out_features + in_features)"


MUTANTS = [
    Mutant(
        "1.4/clipped",
        "a rank above the smaller side is clipped",
        _PARAMS,
        "return min(r, out_features, in_features) * (out_features + in_features)",
        "r is clipped",
    ),
    Mutant("1.4/full", "the product's size", _PARAMS, "return r * out_features * in_features", "their sizes add up"),
    Mutant("1.4/one-factor", "B alone", _PARAMS, "return r * out_features", "only one factor"),
    Mutant("1.4/square", "both factors of one size", _PARAMS, "return 2 * r * in_features", "with the same size"),
    Mutant(
        "1.4/svd", "singular values counted", _PARAMS, "return r * (out_features + in_features + 1)", "third factor"
    ),
    Mutant("1.4/brackets", "brackets are missing", _PARAMS, "return r * out_features + in_features", "only one size"),
    Mutant(
        "1.4/base-too",
        "the frozen matrix is counted",
        _PARAMS,
        "return r * (out_features + in_features) + out_features * in_features",
        "frozen matrix is counted",
    ),
    Mutant(
        "1.4/not-strict",
        "equal counts as fewer",
        _EVEN,
        "return out_features * in_features // (out_features + in_features)",
        "strictly fewer",
    ),
    Mutant(
        "1.4/one-too-many",
        "the first rank that no longer saves",
        _EVEN,
        "return (out_features * in_features - 1) // (out_features + in_features) + 1",
        "one too many",
    ),
    Mutant(
        "1.4/half",
        "half the shorter side",
        _EVEN,
        "return min(out_features, in_features) // 2",
        "square matrices alone",
    ),
    Mutant("1.4/at-least-one", "never below 1", _EVEN, f"return max(1, {_EVEN[7:]})", "one too many"),
    Mutant(
        "1.4/float",
        "a quotient in place of a whole number",
        _EVEN,
        "return (out_features * in_features - 1) / (out_features + in_features) // 1",
        "// an int",
    ),
    Mutant(
        "1.4/rounded",
        "rounded, not cut",
        _EVEN,
        "return round(out_features * in_features / (out_features + in_features))",
        "too many",
    ),
]
