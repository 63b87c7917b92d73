"""Exercise 5.3, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage05 import e3_subspace_similarity as room
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation


def _judge_similarity_type(inputs: Inputs, seen: Observation) -> Fault | None:
    """A type costs on its own only where there is a number to speak of."""
    fault = room.judge_similarity_type(inputs, seen)
    return fault or next(
        (
            Fault(f"a {one['kind']} with no finite value", "")
            for one in seen["outcomes"]
            if not np.isfinite(one["value"])
        ),
        None,
    )


HIDDEN = [
    graded(room, "5.3/values", 1.5),
    graded(room, "5.3/limits", 0.75),
    Check(
        "5.3/directions",
        "only directions count: not the size of A, and not how its rows are turned",
        room.probe_similarity,
        room.judge_similarity,
        room.draw_same_space,
        points=0.5,
    ),
    Check(
        "5.3/float",
        "the result is a float, of a trained lora_A as well",
        room.probe_similarity,
        _judge_similarity_type,
        room.draw_trained,
        points=0.25,
    ),
]


_V1 = "V1 = torch.linalg.svd(A1, full_matrices=False).Vh[:i]"
_V2 = "V2 = torch.linalg.svd(A2, full_matrices=False).Vh[:j]"
_BASES = f"{_V1}\n    {_V2}"
_SHARE = "return (V1 @ V2.T).square().sum().item() / min(i, j)"


MUTANTS = [
    Mutant(
        "5.3/remembers-shapes",
        "the directions of A1 are remembered by its shape",
        _V1,
        "kept = subspace_similarity.__dict__.setdefault('kept', {})\n"
        "    V1 = kept.setdefault(A1.shape, torch.linalg.svd(A1, full_matrices=False).Vh)[:i]",
        "earlier call",
    ),
    Mutant(
        "5.3/remembers-tensors",
        "directions are remembered by the tensor, which training fills again",
        _V1,
        "kept = subspace_similarity.__dict__.setdefault('kept', {})\n"
        "    V1 = kept.setdefault((id(A1), A1.data_ptr()), (A1, torch.linalg.svd(A1, full_matrices=False).Vh))[1][:i]",
        "earlier call",
    ),
    Mutant(
        "5.3/left",
        "the left-singular directions",
        _BASES,
        "V1 = torch.linalg.svd(A1, full_matrices=False).U.T[:i]\n"
        "    V2 = torch.linalg.svd(A2, full_matrices=False).U.T[:j]",
        "do not fit together",
    ),
    Mutant(
        "5.3/columns",
        "columns of Vh",
        _BASES,
        "V1 = torch.linalg.svd(A1).Vh[:, :i].T\n    V2 = torch.linalg.svd(A2).Vh[:, :j].T",
        "not its columns",
    ),
    Mutant("5.3/rows", "the rows of A themselves", _BASES, "V1, V2 = A1[:i], A2[:j]", "A itself is taken for a basis"),
    Mutant(
        "5.3/normalised-rows",
        "rows of length 1 for a basis",
        _BASES,
        "V1, V2 = (nn.functional.normalize(A, dim=1)[:k] for A, k in ((A1, i), (A2, j)))",
        "not an orthonormal basis",
    ),
    Mutant(
        "5.3/qr",
        "QR in place of the SVD",
        _BASES,
        "V1, V2 = (torch.linalg.qr(A.T).Q.T[:k] for A, k in ((A1, i), (A2, j)))",
        "QR, which takes the rows as they stand",
    ),
    Mutant(
        "5.3/cut-first",
        "A is cut before the SVD",
        _BASES,
        "V1 = torch.linalg.svd(A1[:i], full_matrices=False).Vh\n"
        "    V2 = torch.linalg.svd(A2[:j], full_matrices=False).Vh",
        "A cut before the SVD",
    ),
    Mutant(
        "5.3/numpy",
        "NumPy without detach, which a trained A refuses",
        _V1,
        _V1.replace("(A1,", "(torch.from_numpy(A1.numpy()),"),
        ".detach() before NumPy",
    ),
    Mutant("5.3/in-place", "A1 is divided in place", _V1, f"A1 /= A1.norm()\n    {_V1}", "are the caller's"),
    Mutant(
        "5.3/smallest",
        "the smallest directions",
        _BASES,
        "V1, V2 = (torch.linalg.svd(A, full_matrices=False).Vh[-k:] for A, k in ((A1, i), (A2, j)))",
        "the smallest directions are taken",
    ),
    Mutant(
        "5.3/all-directions",
        "i and j only in the divisor",
        _BASES,
        "V1, V2 = (torch.linalg.svd(A, full_matrices=False).Vh for A in (A1, A2))",
        "i and j are not used",
    ),
    Mutant("5.3/one-count", "i directions of both", _V2, _V2.replace(":j", ":i"), "the first i and the first j rows"),
    Mutant(
        "5.3/exchanged",
        "i and j exchanged",
        _BASES,
        f"{_V1.replace(':i', ':j')}\n    {_V2.replace(':j', ':i')}",
        "i belongs to A1",
    ),
    Mutant("5.3/max", "divided by the larger", _SHARE, _SHARE.replace("min", "max"), "divided by max(i, j)"),
    Mutant("5.3/by-i", "divided by i", _SHARE, _SHARE.replace("min(i, j)", "i"), "divided by i:"),
    Mutant("5.3/mean", "the mean of the squares", _SHARE, _SHARE.replace("min(i, j)", "(i * j)"), "divided by i * j"),
    Mutant("5.3/sum", "not divided", _SHARE, _SHARE.replace(" / min(i, j)", ""), "not divided by min(i, j)"),
    Mutant(
        "5.3/norm",
        "the norm, not squared",
        _SHARE,
        "return torch.linalg.norm(V1 @ V2.T).item() / min(i, j)",
        "the norm is not squared",
    ),
    Mutant("5.3/absolute", "absolute values", _SHARE, _SHARE.replace(".square()", ".abs()"), "in place of squares"),
    Mutant("5.3/signed", "products, not squares", _SHARE, _SHARE.replace(".square()", ""), "all products squared"),
    Mutant(
        "5.3/pairs",
        "the k-th with the k-th",
        _SHARE,
        "return (V1 @ V2.T).diagonal().square().sum().item() / min(i, j)",
        "all pairs count",
    ),
    Mutant(
        "5.3/spectral",
        "the spectral norm",
        _SHARE,
        "return torch.linalg.norm(V1 @ V2.T, 2).item() ** 2 / min(i, j)",
        "the spectral norm",
    ),
    Mutant(
        "5.3/tensor",
        "a tensor of one element",
        _SHARE,
        "return (V1 @ V2.T).square().sum() / min(i, j)",
        "a tensor of one element is not a number",
    ),
    Mutant(
        "5.3/weighted",
        "directions weighted with their singular values",
        _V1,
        "_, S1, V1 = torch.linalg.svd(A1, full_matrices=False)\n    V1 = (S1[:, None] * V1)[:i] / S1.mean()",
        "not scaled",
    ),
]
