"""Exercise 1.1, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage01 import e1_matrix_rank as room
from lora_ref.checks.verdicts import Check

HIDDEN = [
    graded(room, "1.1/products", 0.5),
    Check(
        "1.1/zero",
        "only what is larger than the threshold counts: a zero matrix has rank 0",
        room.probe_ranks,
        room.judge_ranks(*room.COUNT, rule=room.RANK),
        room.draw_zero,
        points=0.25,
    ),
    graded(room, "1.1/scale", 0.5),
    graded(room, "1.1/rtol", 0.25, draw=room.draw_rtol),
    graded(room, "1.1/default", 0.25),
    graded(room, "1.1/int", 0.25),
]


_VALUES = "values = torch.linalg.svdvals(M)"
_DEFAULT = "rtol = max(M.shape) * torch.finfo(M.dtype).eps"
_IF_NONE = f"if rtol is None:\n        {_DEFAULT}"
_COUNT = "return int((values > rtol * values.max()).sum())"


MUTANTS = [
    Mutant(
        "1.1/in-place",
        "M is divided by its largest entry in place",
        "values = torch.linalg.svdvals(M)\n",
        "M /= M.abs().max().clamp_min(1e-300 if M.dtype == torch.float64 else 1e-38)\n"
        "    values = torch.linalg.svdvals(M)\n",
        "changed its argument M",
    ),
    Mutant(
        "1.1/one-thread-more",
        "torch's number of threads is set",
        "values = torch.linalg.svdvals(M)\n",
        "torch.set_num_threads(torch.get_num_threads() + 1)\n    values = torch.linalg.svdvals(M)\n",
        "torch's number of threads",
    ),
    Mutant("1.1/no-tolerance", "everything above 0 counts", _COUNT, "return int((values > 0).sum())", "tolerance"),
    Mutant(
        "1.1/absolute", "a fixed threshold", _COUNT, "return int((values > 1e-6).sum())", "the tolerance is relative"
    ),
    Mutant(
        "1.1/rtol-absolute",
        "rtol is compared with the values themselves",
        _COUNT,
        "return int((values > rtol).sum())",
        "the tolerance is relative",
    ),
    Mutant(
        "1.1/at-least",
        "values at the threshold count",
        _COUNT,
        "return int((values >= rtol * values.max()).sum())",
        "not >=",
    ),
    Mutant(
        "1.1/at-least-but-zero",
        "values at the threshold count, and the zero matrix is an exception",
        _COUNT,
        "if values.max() == 0:\n        return 0\n    return int((values >= rtol * values.max()).sum())",
        "at the threshold is not larger",
    ),
    Mutant(
        "1.1/eps-alone",
        "the shape is not in the tolerance",
        _DEFAULT,
        "rtol = torch.finfo(M.dtype).eps",
        "max(M.shape)",
    ),
    Mutant(
        "1.1/rows",
        "the number of rows for the longer side",
        _DEFAULT,
        _DEFAULT.replace("max(M.shape)", "len(M)"),
        "max",
    ),
    Mutant(
        "1.1/shorter", "the shorter side for the longer", _DEFAULT, _DEFAULT.replace("max(", "min("), "max(M.shape)"
    ),
    Mutant("1.1/both", "both sides together", _DEFAULT, _DEFAULT.replace("max(", "sum("), "max(M.shape)"),
    Mutant(
        "1.1/mean-side",
        "the mean of both sides",
        _DEFAULT,
        _DEFAULT.replace("max(M.shape)", "sum(M.shape) / 2"),
        "max(M.shape)",
    ),
    Mutant(
        "1.1/root",
        "the root of the number of entries",
        _DEFAULT,
        _DEFAULT.replace("max(M.shape)", "M.numel() ** 0.5"),
        "max(M.shape)",
    ),
    Mutant("1.1/doubled", "twice the tolerance", _DEFAULT, _DEFAULT.replace("max(", "2 * max("), "max(M.shape)"),
    Mutant(
        "1.1/float64-eps",
        "double precision's epsilon for every dtype",
        _DEFAULT,
        _DEFAULT.replace("M.dtype", "torch.float64"),
        "tolerance",
    ),
    Mutant(
        "1.1/float32-eps",
        "single precision's epsilon for every dtype",
        _DEFAULT,
        _DEFAULT.replace("M.dtype", "torch.float32"),
        "machine epsilon",
    ),
    Mutant(
        "1.1/rtol-or", "rtol=0.0 is taken for not given", _IF_NONE, f"rtol = rtol or {_DEFAULT[7:]}", "`rtol or ...`"
    ),
    Mutant("1.1/rtol-ignored", "rtol is never used", _IF_NONE, _DEFAULT, "rtol is not used"),
    Mutant(
        "1.1/of-the-norm",
        "relative to the Frobenius norm",
        _COUNT,
        "return int((values > rtol * values.norm()).sum())",
        "by the norm",
    ),
    Mutant(
        "1.1/of-the-mean",
        "relative to the mean",
        _COUNT,
        "return int((values > rtol * values.mean()).sum())",
        "by the mean",
    ),
    Mutant(
        "1.1/tensor", "a tensor is returned", _COUNT, "return (values > rtol * values.max()).sum()", "expected an int"
    ),
    Mutant(
        "1.1/gram",
        "eigenvalues of M^T M for singular values, so rounding counts twice",
        _VALUES,
        "values = torch.linalg.eigvalsh(M.T @ M).clamp(min=0)",
        "singular values",
    ),
    Mutant(
        "1.1/rows-not-zero",
        "rows that are not zero are counted",
        _COUNT,
        "return int((M.abs().sum(1) > rtol * values.max()).sum())",
        "rows that are not zero",
    ),
    Mutant(
        "1.1/at-most-10",
        "no rank above 10",
        "return int((values > rtol * values.max()).sum())",
        "return min(int((values > rtol * values.max()).sum()), 10)",
        "a matrix of rank 20",
    ),
]
