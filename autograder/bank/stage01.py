"""Stage 01, rank and what it costs: mistakes. Those with a ``seed`` stand in a published teaching piece (SEEDS.md)."""

from __future__ import annotations

from autograder.bank import Mutant

_VALUES = "values = torch.linalg.svdvals(M)"
_DEFAULT = "rtol = max(M.shape) * torch.finfo(M.dtype).eps"
_IF_NONE = f"if rtol is None:\n        {_DEFAULT}"
_COUNT = "return int((values > rtol * values.max()).sum())"
_NEGATIVE = 'if k < 0:\n        raise ValueError(f"k must not be negative, got {k}")\n    '
_WHOLE = "if k >= min(M.shape):\n        return M.clone()\n    "
_SVD = f"{_WHOLE}U, S, Vh = torch.linalg.svd(M, full_matrices=False)"
_BEST = "return (U[:, :k] * S[:k]) @ Vh[:k]"
_MIDDLE = "p = min(r, len(S))"
_START = "B, A = M.new_zeros(M.shape[0], r), M.new_zeros(r, M.shape[1])"
_FILL = "B[:, :p] = U[:, :p] * S[:p]\n    A[:p] = Vh[:p]"
_FACTORS = f"{_MIDDLE}\n    {_START}\n    {_FILL}\n    return B, A"
_PARAMS = "return r * (out_features + in_features)"
_EVEN = "return (out_features * in_features - 1) // (out_features + in_features)"
_MEMORY = "return bytes_per_param * (n_params + n_trainable * (1 + optimizer_states))"


def _memory(formula: str) -> str:
    return f"return {formula}"


MUTANTS = [
    # --- 1.1: the rank
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
        "rtol * the largest",
    ),
    Mutant(
        "1.1/of-the-mean",
        "relative to the mean",
        _COUNT,
        "return int((values > rtol * values.mean()).sum())",
        "rtol * the largest",
    ),
    Mutant(
        "1.1/tensor",
        "a tensor is returned",
        _COUNT,
        "return (values > rtol * values.max()).sum()",
        "expected an int",
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
        "tolerance",
    ),
    # --- 1.2: the closest matrix
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
        "changes M itself",
    ),
    Mutant(
        "1.2/zeroed-in-place",
        "M itself is set to zero for k = 0",
        _WHOLE,
        f"if k == 0:\n        return M.zero_()\n    {_WHOLE}",
        "changes M itself",
    ),
    Mutant(
        "1.2/no-return",
        "the result is computed and not returned",
        _BEST,
        _BEST.removeprefix("return "),
        "a return is missing",
    ),
    # --- 1.3: the factors
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
    Mutant(
        "1.3/not-cut",
        "all terms are kept",
        _FACTORS,
        "return U * S, Vh",
        "the inner size is r",
    ),
    Mutant(
        "1.3/not-filled-up",
        "as many columns as there are singular values",
        _FACTORS,
        "return U[:, :r] * S[:r], Vh[:r]",
        "fill up with zeros",
    ),
    Mutant(
        "1.3/three",
        "three factors",
        _FACTORS,
        "return U[:, :r], S[:r], Vh[:r]",
        "return two tensors",
    ),
    Mutant(
        "1.3/columns",
        "columns of M and the best mix of them",
        _FACTORS,
        "B = M[:, :r]\n    return B, torch.linalg.lstsq(B, M).solution",
        "best_rank_k(M, r)",
    ),
    Mutant(
        "1.3/float32-zeros",
        "torch.zeros without M's dtype for one factor",
        _START,
        "B, A = torch.zeros(M.shape[0], r), M.new_zeros(r, M.shape[1])",
        "torch does not multiply",
    ),
    Mutant("1.3/two-terms", "two terms whatever r is", _MIDDLE, "p = min(2, len(S))", "two terms are kept", "S4"),
    # --- 1.4: what they cost
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
    Mutant(
        "1.4/at-least-one",
        "never below 1",
        _EVEN,
        f"return max(1, {_EVEN[7:]})",
        "one too many",
    ),
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
    # --- 1.5: memory
    Mutant(
        "1.5/gradients-for-all",
        "frozen parameters get gradients",
        _MEMORY,
        _memory("bytes_per_param * (2 * n_params + n_trainable * optimizer_states)"),
        "gradients are counted for all",
    ),
    Mutant(
        "1.5/states-for-all",
        "frozen parameters get states",
        _MEMORY,
        _memory("bytes_per_param * (n_params * (1 + optimizer_states) + n_trainable)"),
        "states are counted for all",
    ),
    Mutant(
        "1.5/all-train",
        "everything counts as trainable",
        _MEMORY,
        _memory("bytes_per_param * n_params * (2 + optimizer_states)"),
        "for all parameters",
    ),
    Mutant(
        "1.5/no-gradients",
        "gradients are forgotten",
        _MEMORY,
        _memory("bytes_per_param * (n_params + n_trainable * optimizer_states)"),
        "gradients are missing",
    ),
    Mutant(
        "1.5/no-states",
        "states are forgotten",
        _MEMORY,
        _memory("bytes_per_param * (n_params + n_trainable)"),
        "states are missing",
    ),
    Mutant(
        "1.5/frozen-free",
        "frozen weights cost nothing",
        _MEMORY,
        _memory("bytes_per_param * n_trainable * (2 + optimizer_states)"),
        "frozen weights are missing",
    ),
    Mutant(
        "1.5/trainable-twice",
        "n_params is taken for the frozen ones",
        _MEMORY,
        _memory("bytes_per_param * (n_params + n_trainable * (2 + optimizer_states))"),
        "counted twice",
    ),
    Mutant(
        "1.5/numbers",
        "parameters in place of bytes",
        _MEMORY,
        _memory("n_params + n_trainable * (1 + optimizer_states)"),
        "not of bytes",
    ),
    Mutant("1.5/bits", "bits in place of bytes", _MEMORY, f"{_MEMORY} * 8", "that is bits"),
    Mutant("1.5/megabytes", "megabytes in place of bytes", _MEMORY, f"{_MEMORY} / 1e6", "megabytes"),
    Mutant(
        "1.5/four-bytes",
        "always float32",
        _MEMORY,
        _MEMORY.replace("bytes_per_param", "4"),
        "whatever bytes_per_param says",
    ),
    Mutant(
        "1.5/always-adam",
        "always two states",
        _MEMORY,
        _MEMORY.replace("1 + optimizer_states", "3"),
        "whatever optimizer_states says",
    ),
    Mutant(
        "1.5/brackets",
        "bytes for the weights alone",
        _MEMORY,
        _memory("bytes_per_param * n_params + n_trainable * (1 + optimizer_states)"),
        "only the weights are multiplied",
    ),
    Mutant(
        "1.5/none-is-two",
        "no states are taken for not given",
        _MEMORY,
        _MEMORY.replace("1 + optimizer_states", "1 + (optimizer_states or 2)"),
        "optimizer_states",
    ),
    Mutant(
        "1.5/int32",
        "computed with 32-bit integers",
        _MEMORY,
        _memory("int(torch.tensor(n_params + n_trainable * (1 + optimizer_states)).int() * bytes_per_param)"),
        "32 bits",
    ),
    Mutant("1.5/text", "text for reading", _MEMORY, f'return f"{{{_MEMORY[7:]}:,}} bytes"', "not text"),
    Mutant("1.5/float", "a float", _MEMORY, f"{_MEMORY} * 1.0", "expected an int"),
]
