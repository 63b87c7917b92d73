"""Exercise 4.6, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from functools import partial

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage04 import e6_metrics_match as room
from lora_ref.checks.verdicts import Check

HIDDEN = [
    Check(
        "4.6/timing",
        "metrics match whatever the timing keys say, and differ where accuracy does",
        room.probe_match,
        room.judge_match,
        partial(room.draw_timing, prefix="test"),
        points=0.5,
    ),
    graded(room, "4.6/missing-key", 0.5),
    graded(room, "4.6/tolerance", 0.5),
    Check(
        "4.6/only-timing",
        "the timing keys are left out, and no others",
        room.probe_match,
        room.judge_match,
        room.draw_only_timing,
        points=0.5,
    ),
]


_TIMING = '("runtime", "per_second", "preparation_time")'
_CLOSE = "math.isclose(a[key], b[key], rel_tol=1e-6)"


MUTANTS = [
    Mutant(
        "4.6/anywhere",
        "a timing word anywhere in the key",
        "a = {key: value for key, value in a.items() if not key.endswith(timing)}\n"
        "    b = {key: value for key, value in b.items() if not key.endswith(timing)}",
        "a = {key: value for key, value in a.items() if not any(t in key for t in timing)}\n"
        "    b = {key: value for key, value in b.items() if not any(t in key for t in timing)}",
        "endswith, not in",
    ),
    Mutant(
        "4.6/numpy-tolerance",
        "NumPy's absolute 1e-8 beside the relative tolerance",
        _CLOSE,
        "bool(np.isclose(a[key], b[key], rtol=1e-6))",
        "an absolute tolerance",
    ),
    Mutant(
        "4.6/nan-passes",
        "what is not further apart is equal, and nan is never further",
        _CLOSE,
        "not abs(a[key] - b[key]) > 1e-6 * max(abs(a[key]), abs(b[key]))",
        "nan or inf",
    ),
    Mutant(
        "4.6/keys-of-timing",
        "a timing key that only one side has is a difference",
        "    a = {key: value for key, value in a.items() if not key.endswith(timing)}",
        "    if a.keys() != b.keys():\n        return False\n"
        "    a = {key: value for key, value in a.items() if not key.endswith(timing)}",
        "timing keys are compared",
    ),
    Mutant(
        "4.6/compares-runtime",
        "no two evaluations take equally long",
        _TIMING,
        '("no key ends so",)',
        "no two runs take equally long",
        "S0",
    ),
    Mutant("4.6/runtime-alone", "one timing key of three", _TIMING, '("runtime",)', "no two runs take equally long"),
    Mutant(
        "4.6/leftover-raise",
        "a raise is left in after the check",
        "return a.keys() == b.keys()",
        'if a == b:\n        raise RuntimeError("they are equal")\n    return a.keys() == b.keys()',
        "a raise left in after a check",
        "S0",
    ),
    Mutant(
        "4.6/leaves-out-too-much",
        "everything with 'time' or 'second' in its name is left out",
        "for key in a)",
        'for key in a if "time" not in key and "second" not in key)',
        "and nothing shorter",
    ),
    Mutant(
        "4.6/short-endings",
        "everything that ends in 'time' or 'second' is left out",
        _TIMING,
        '("time", "second")',
        "and nothing shorter",
    ),
    Mutant("4.6/no-epoch", "the epoch is left out", "for key in a)", 'for key in a if key != "epoch")', "not at all"),
    Mutant(
        "4.6/order-of-keys",
        "the same keys in another order are a difference",
        "a.keys() == b.keys()",
        "list(a) == list(b)",
        "whatever the order of its keys",
    ),
    Mutant(
        "4.6/values-alone",
        "values are compared in a row, whatever their keys",
        f"a.keys() == b.keys() and all({_CLOSE} for key in a)",
        "len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-6) for x, y in zip(a.values(), b.values()))",
        "by its key",
    ),
    Mutant(
        "4.6/sorted-values",
        "values are compared in the order of their size",
        f"all({_CLOSE} for key in a)",
        "all(math.isclose(x, y, rel_tol=1e-6) for x, y in zip(sorted(a.values()), sorted(b.values())))",
        "by its key",
    ),
    Mutant(
        "4.6/missing-as-zero",
        "a key that one side lacks is taken for 0",
        f"a.keys() == b.keys() and all({_CLOSE} for key in a)",
        "all(math.isclose(a.get(key, 0.0), b.get(key, 0.0), rel_tol=1e-6) for key in {*a, *b})",
        "a key that only one side has",
    ),
    Mutant(
        "4.6/absolute-as-well",
        "an absolute tolerance beside the relative one",
        _CLOSE,
        "math.isclose(a[key], b[key], rel_tol=1e-6, abs_tol=1e-7)",
        "an absolute tolerance",
    ),
    Mutant(
        "4.6/six-digits",
        "six digits are compared",
        _CLOSE,
        'f"{a[key]:.6g}" == f"{b[key]:.6g}"',
        "a real difference goes unnoticed",
    ),
    Mutant(
        "4.6/four-millionths",
        "a tolerance that is too wide",
        _CLOSE,
        "math.isclose(a[key], b[key], rel_tol=4e-6)",
        "a real difference goes unnoticed",
    ),
    Mutant(
        "4.6/fifth-of-a-millionth",
        "a tolerance that is too narrow",
        _CLOSE,
        "math.isclose(a[key], b[key], rel_tol=2e-7)",
        "a relative 1e-6",
    ),
    Mutant("4.6/exact", "no tolerance", _CLOSE, "a[key] == b[key]", "a relative 1e-6"),
    Mutant("4.6/absolute", "an absolute tolerance", _CLOSE, "abs(a[key] - b[key]) < 1e-6", "an absolute tolerance"),
    Mutant(
        "4.6/generous",
        "a tolerance of a percent",
        _CLOSE,
        "math.isclose(a[key], b[key], rel_tol=1e-2)",
        "a real difference goes unnoticed",
    ),
    Mutant(
        "4.6/one-sided",
        "keys that only the second has are not noticed",
        "a.keys() == b.keys() and",
        "a.keys() <= b.keys() and",
        "a key that only one side has",
    ),
    Mutant(
        "4.6/keys-unchecked",
        "a key that the second lacks is a KeyError",
        "a.keys() == b.keys() and",
        "True and",
        "a key that only one side has",
    ),
    Mutant(
        "4.6/tiny-absolute",
        "an absolute tolerance of 1e-12 beside the relative one",
        _CLOSE,
        f"{_CLOSE[:-1]}, abs_tol=1e-12)",
        "hides differences between small numbers",
    ),
]
