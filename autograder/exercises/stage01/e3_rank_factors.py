"""Exercise 1.3, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage01 import e3_rank_factors as room

HIDDEN = [graded(room, "1.3/shapes", 0.5), graded(room, "1.3/product", 1), graded(room, "1.3/beyond", 0.5)]


_MIDDLE = "p = min(r, len(S))"
_START = "B, A = M.new_zeros(M.shape[0], r), M.new_zeros(r, M.shape[1])"
_FILL = "B[:, :p] = U[:, :p] * S[:p]\n    A[:p] = Vh[:p]"
_FACTORS = f"{_MIDDLE}\n    {_START}\n    {_FILL}\n    return B, A"


MUTANTS = [
    Mutant(
        "1.3/in-place",
        "M is changed by the caller's back",
        "    U, S, Vh = torch.linalg.svd(M, full_matrices=False)\n    p = min",
        "    U, S, Vh = torch.linalg.svd(M, full_matrices=False)\n    M.div_(2)\n    p = min",
        "changed its argument M",
    ),
    Mutant(
        "1.3/float32",
        "the factors are float32 whatever M is",
        "    return B, A\n",
        "    return B.float(), A.float()\n",
        "M's dtype",
    ),
    Mutant(
        "1.3/order", "A comes first", f"{_FILL}\n    return B, A", f"{_FILL}\n    return A, B", "in the wrong order"
    ),
    Mutant(
        "1.3/features-swapped",
        "rows and columns exchanged",
        f"{_FILL}\n    return B, A",
        f"{_FILL}\n    return A.T, B.T",
        "rows and columns are swapped",
        "S1",
    ),
    Mutant(
        "1.3/transposed",
        "both transposed",
        f"{_FILL}\n    return B, A",
        f"{_FILL}\n    return B.T, A.T",
        "both are transposed",
    ),
    Mutant(
        "1.3/twice",
        "the singular values in both",
        _FILL,
        "B[:, :p] = U[:, :p] * S[:p]\n    A[:p] = S[:p, None] * Vh[:p]",
        "enter twice",
    ),
    Mutant(
        "1.3/neither", "the singular values in neither", _FILL, "B[:, :p] = U[:, :p]\n    A[:p] = Vh[:p]", "in neither"
    ),
    Mutant(
        "1.3/one-root",
        "a root in one factor alone",
        _FILL,
        "B[:, :p] = U[:, :p] * S[:p].sqrt()\n    A[:p] = Vh[:p]",
        "in one factor alone",
    ),
    Mutant("1.3/not-cut", "all terms are kept", _FACTORS, "return U * S, Vh", "the inner size is r"),
    Mutant(
        "1.3/not-filled-up",
        "as many columns as there are singular values",
        _FACTORS,
        "return U[:, :r] * S[:r], Vh[:r]",
        "fill up with zeros",
    ),
    Mutant("1.3/three", "three factors", _FACTORS, "return U[:, :r], S[:r], Vh[:r]", "return two tensors"),
    Mutant(
        "1.3/columns",
        "columns of M and the best mix of them",
        _FACTORS,
        "B = M[:, :r]\n    return B, torch.linalg.lstsq(B, M).solution",
        "from best_rank_k",
    ),
    Mutant(
        "1.3/float32-zeros",
        "torch.zeros without M's dtype for one factor",
        _START,
        "B, A = torch.zeros(M.shape[0], r), M.new_zeros(r, M.shape[1])",
        "torch does not multiply",
    ),
    Mutant("1.3/two-terms", "two terms whatever r is", _MIDDLE, "p = min(2, len(S))", "two terms are kept", "S4"),
    Mutant(
        "1.3/one-buffer",
        "factors of one shape are written into one pair of tensors",
        "    return B, A\n",
        "    kept = rank_factors.__dict__.setdefault((B.shape, A.shape, B.dtype), (B, A))\n"
        "    return kept[0].copy_(B), kept[1].copy_(A)\n",
        "one and the same object",
    ),
]
