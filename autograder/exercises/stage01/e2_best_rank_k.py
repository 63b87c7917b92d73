"""Exercise 1.2, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage01 import e2_best_rank_k as room

HIDDEN = [
    graded(room, "1.2/best", 1.25),
    graded(room, "1.2/whole", 0.5),
    graded(room, "1.2/none", 0.5),
    graded(room, "1.2/negative", 0.5),
    graded(room, "1.2/dtype", 0.25),
]


_NEGATIVE = 'if k < 0:\n        raise ValueError(f"k must not be negative, got {k}")\n    '
_WHOLE = "if k >= min(M.shape):\n        return M.clone()\n    "
_SVD = f"{_WHOLE}U, S, Vh = torch.linalg.svd(M, full_matrices=False)"
_BEST = "return (U[:, :k] * S[:k]) @ Vh[:k]"


MUTANTS = [
    Mutant(
        "1.2/one-buffer",
        "matrices of one shape share the memory of their results",
        "return (U[:, :k] * S[:k]) @ Vh[:k]",
        "buffer = globals().setdefault('_buffers', {}).setdefault(M.shape, torch.empty_like(M))\n"
        "    return buffer.to(M.dtype).copy_((U[:, :k] * S[:k]) @ Vh[:k])",
        "one and the same object",
    ),
    Mutant(
        "1.2/two-terms",
        "two terms whatever k is",
        _BEST,
        "return (U[:, :2] * S[:2]) @ Vh[:2]",
        "two terms are kept",
        "S4",
    ),
    Mutant(
        "1.2/no-singular-values",
        "directions without their size",
        _BEST,
        "return U[:, :k] @ Vh[:k]",
        "values are missing",
    ),
    Mutant(
        "1.2/twice", "sizes on both sides", _BEST, "return (U[:, :k] * S[:k]) @ (S[:k, None] * Vh[:k])", "enter twice"
    ),
    Mutant("1.2/roots", "roots of the sizes", _BEST, "return (U[:, :k] * S[:k].sqrt()) @ Vh[:k]", "as their roots"),
    Mutant("1.2/smallest", "the last terms are kept", _BEST, "return (U[:, -k:] * S[-k:]) @ Vh[-k:]", "k smallest"),
    Mutant(
        "1.2/one-more", "one term too many", _BEST, "return (U[:, : k + 1] * S[: k + 1]) @ Vh[: k + 1]", "k + 1 terms"
    ),
    Mutant(
        "1.2/one-less", "one term too few", _BEST, "k -= k > 1\n    return (U[:, :k] * S[:k]) @ Vh[:k]", "k - 1 terms"
    ),
    Mutant("1.2/transposed-V", "V^T is transposed again", _BEST, "return (U[:, :k] * S[:k]) @ Vh[:, :k].T", "Vh"),
    Mutant(
        "1.2/rest",
        "what should be left out is kept",
        _BEST,
        "return M - (U[:, :k] * S[:k]) @ Vh[:k]",
        "left out, not kept",
    ),
    Mutant(
        "1.2/rows",
        "the first k rows",
        _BEST,
        "X = torch.zeros_like(M)\n    X[:k] = M[:k]\n    return X",
        "another matrix is closer",
    ),
    Mutant(
        "1.2/columns",
        "the first k columns",
        _BEST,
        "X = torch.zeros_like(M)\n    X[:, :k] = M[:, :k]\n    return X",
        "another matrix is closer",
    ),
    Mutant(
        "1.2/entries",
        "the k largest entries",
        _BEST,
        "keep = M.abs().flatten().topk(k).indices\n    X = torch.zeros_like(M)\n"
        "    X.view(-1)[keep] = M.reshape(-1)[keep]\n    return X",
        "few entries are not low rank",
    ),
    Mutant(
        "1.2/random-directions",
        "random directions, as good as any?",
        _BEST,
        "Q = torch.linalg.qr(torch.randn(len(M), k, dtype=M.dtype)).Q\n    return Q @ (Q.T @ M)",
        "lies",
    ),
    Mutant(
        "1.2/centred",
        "the columns' means are taken out first",
        f"{_SVD}\n    {_BEST}",
        f"{_WHOLE}mean = M.mean(0)\n    U, S, Vh = torch.linalg.svd(M - mean, full_matrices=False)\n"
        "    return mean + (U[:, :k] * S[:k]) @ Vh[:k]",
        "as PCA does",
    ),
    Mutant(
        "1.2/sketch",
        "a randomised SVD, which is close to the closest",
        f"{_SVD}\n    {_BEST}",
        f"{_WHOLE}U, S, V = torch.svd_lowrank(M, q=k, niter=1)\n    return (U * S) @ V.T",
        "the closest one",
    ),
    Mutant("1.2/no-check", "a negative k is left to the slice", _NEGATIVE, "", "check for k < 0 is missing"),
    Mutant("1.2/assert", "an assert in place of the error", _NEGATIVE, "assert k >= 0\n    ", "AssertionError"),
    Mutant(
        "1.2/zero-refused",
        "k = 0 is refused too",
        'if k < 0:\n        raise ValueError(f"k must',
        'if k < 1:\n        raise ValueError(f"k must',
        "this input is allowed",
    ),
    Mutant(
        "1.2/large-refused",
        "k above min(shape) is refused",
        "if k >= min(M.shape):\n        return M.clone()",
        'if k > min(M.shape):\n        raise ValueError("k is too large")',
        "this input is allowed",
    ),
    Mutant(
        "1.2/loop-past-the-end",
        "a loop over k terms, however many there are",
        f"{_SVD}\n    {_BEST}",
        "U, S, Vh = torch.linalg.svd(M, full_matrices=False)\n"
        "    return sum((S[i] * torch.outer(U[:, i], Vh[i]) for i in range(k)), torch.zeros_like(M))",
        "a slice does not",
    ),
    Mutant(
        "1.2/zero-is-all",
        "k = 0 is taken for not given",
        _WHOLE,
        "if not k or k >= min(M.shape):\n        return M.clone()\n    ",
        "is not zero",
    ),
    Mutant(
        "1.2/float32",
        "computed in float32",
        f"{_SVD}\n    {_BEST}",
        "U, S, Vh = torch.linalg.svd(M.float(), full_matrices=False)\n    " + _BEST,
        "M's dtype",
    ),
    Mutant(
        "1.2/half-lost",
        "computed in float32 and converted back",
        f"{_SVD}\n    {_BEST}",
        "U, S, Vh = torch.linalg.svd(M.float(), full_matrices=False)\n"
        "    return ((U[:, :k] * S[:k]) @ Vh[:k]).to(M.dtype)",
        "digits are lost",
    ),
    Mutant(
        "1.2/in-place",
        "M is overwritten",
        _BEST,
        "return M.copy_((U[:, :k] * S[:k]) @ Vh[:k])",
        "changed its argument M",
    ),
    Mutant(
        "1.2/zeroed-in-place",
        "M itself is set to zero for k = 0",
        _WHOLE,
        f"if k == 0:\n        return M.zero_()\n    {_WHOLE}",
        "changed its argument M",
    ),
    Mutant(
        "1.2/no-return",
        "the result is computed and not returned",
        _BEST,
        _BEST.removeprefix("return "),
        "a return is missing",
    ),
    Mutant(
        "1.2/at-most-10",
        "no more than ten terms",
        "    return (U[:, :k] * S[:k]) @ Vh[:k]",
        "    k = min(k, 10)\n    return (U[:, :k] * S[:k]) @ Vh[:k]",
        "with k=15",
    ),
]
