"""Rank, and what it saves: singular values, the closest matrix of a rank, its factors, what they cost.

The claim behind LoRA is about rank: the change that fine-tuning makes to a weight matrix is close to a matrix of low
rank (arXiv:2106.09685, section 4.1), and such a matrix is a product of two small ones.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matrix_rank(M: Tensor, rtol: float | None = None) -> int:
    """How many singular values of ``M`` are larger than ``rtol`` times the largest.

    Args:
        M: shape (m, n), floating point.
        rtol: relative tolerance; by default ``max(m, n)`` times the machine epsilon of the dtype, which is what
            rounding alone can leave behind.

    Returns:
        The numerical rank; 0 for a zero matrix.

    Example:
        >>> matrix_rank(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))  # the second row is twice the first
        1
        >>> matrix_rank(torch.diag(torch.tensor([1.0, 1e-3])), rtol=0.01)
        1
    """
    singular_values = torch.linalg.svdvals(M)
    if rtol is None:
        rtol = max(M.shape) * torch.finfo(M.dtype).eps
    largest = singular_values.max() if singular_values.numel() else 0
    return int((singular_values > rtol * largest).sum())


def best_rank_k(M: Tensor, k: int) -> Tensor:
    """The matrix of rank at most ``k`` that is closest to ``M``: the first ``k`` terms of its SVD (Eckart-Young).

    Its distance from ``M`` is the energy in the tail: the root of the sum of the squared singular values left out.

    Args:
        M: shape (m, n).
        k: 0 gives zeros; ``min(m, n)`` or more gives ``M``.

    Raises:
        ValueError: ``k`` is negative.

    Example:
        >>> M = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> best_rank_k(M, 2)
        tensor([[3., 0., 0.],
                [0., 2., 0.],
                [0., 0., 0.]])
        >>> (M - best_rank_k(M, 1)).norm().square().item()  # 2^2 + 1^2
        5.0
    """
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    if k >= min(M.shape):
        return M.clone()
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    return (U[:, :k] * S[:k]) @ Vh[:k]


def rank_factors(M: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """``B`` of shape (m, r) and ``A`` of shape (r, n) with ``B @ A == best_rank_k(M, r)``.

    Each takes the square root of the singular values, so that neither is larger than the other. Beyond ``min(m, n)``
    the factors are filled up with zeros.

    Raises:
        ValueError: ``r`` is below 1.

    Example:
        >>> M = torch.outer(torch.arange(1.0, 4.0), torch.ones(5))  # (3, 5), of rank 1
        >>> B, A = rank_factors(M, 1)
        >>> B.shape, A.shape
        (torch.Size([3, 1]), torch.Size([1, 5]))
        >>> torch.allclose(B @ A, M)
        True
    """
    if r < 1:
        raise ValueError(f"r must be at least 1, got {r}")
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    kept, root = min(r, len(S)), S[:r].sqrt()
    B, A = M.new_zeros(M.shape[0], r), M.new_zeros(r, M.shape[1])
    B[:, :kept] = U[:, :kept] * root
    A[:kept] = root[:, None] * Vh[:kept]
    return B, A


def effective_rank(M: Tensor, energy: float = 0.9) -> int:
    """The fewest singular directions that hold ``energy`` of the sum of squared singular values; 0 for a zero matrix.

    Raises:
        ValueError: ``energy`` is not in (0, 1].

    Example:
        >>> M = torch.diag(torch.tensor([3.0, 1.0, 0.1]))  # squares 9, 1 and 0.01
        >>> effective_rank(M, energy=0.8), effective_rank(M, energy=0.9), effective_rank(M, energy=1.0)
        (1, 2, 3)
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy is a share in (0, 1], got {energy}")
    share = torch.linalg.svdvals(M.cpu().double()).square().cumsum(0)
    if not len(share) or share[-1] == 0:
        return 0
    return int((share < energy * share[-1]).sum()) + 1


def subspace_similarity(A1: Tensor, A2: Tensor, i: int, j: int) -> float:
    """How much of the ``i`` leading right-singular directions of ``A1`` lies in the ``j`` leading ones of ``A2``.

    ``||U1_i^T U2_j||_F^2 / min(i, j)``, from 0 (orthogonal) to 1 (one contains the other): the paper's section 7.2,
    equation 4.

    Args:
        A1, A2: shapes (r1, n) and (r2, n), such as the ``lora_A`` of two trainings.
        i, j: from 1 to the number of directions there are.

    Raises:
        ValueError: the widths differ, or ``i`` or ``j`` is out of range.

    Example:
        >>> x, y, z = torch.eye(3)
        >>> A1, A2 = torch.stack([2 * x, y]), torch.stack([3 * x, z])
        >>> round(subspace_similarity(A1, A2, i=1, j=1), 6)  # both begin with x
        1.0
        >>> round(subspace_similarity(A1, A2, i=2, j=2), 6)  # one of two is shared
        0.5
    """
    if A1.shape[-1] != A2.shape[-1]:
        raise ValueError(f"A1 and A2 live in different spaces: widths {A1.shape[-1]} and {A2.shape[-1]}")
    for name, count, matrix in (("i", i, A1), ("j", j, A2)):
        if not 1 <= count <= min(matrix.shape):
            raise ValueError(f"{name} must be from 1 to {min(matrix.shape)}, got {count}")
    U1 = torch.linalg.svd(A1.detach().cpu().double(), full_matrices=False).Vh[:i]
    U2 = torch.linalg.svd(A2.detach().cpu().double(), full_matrices=False).Vh[:j]
    return float((U1 @ U2.T).square().sum() / min(i, j))


def lora_param_count(out_features: int, in_features: int, r: int) -> int:
    """Parameters of a rank-``r`` update of an (out_features, in_features) matrix: ``r (out + in)``.

    Example:
        >>> lora_param_count(768, 768, r=8)  # of 589,824 in the full matrix
        12288
    """
    return r * (out_features + in_features)


def break_even_rank(out_features: int, in_features: int) -> int:
    """The largest rank whose update has strictly fewer parameters than the full matrix; 0 if none has.

    Example:
        >>> break_even_rank(768, 768)
        383
        >>> break_even_rank(4, 4)  # rank 2 would have 16 numbers, as many as the matrix
        1
    """
    return (out_features * in_features - 1) // (out_features + in_features)


def training_memory(n_params: int, n_trainable: int, bytes_per_param: int = 4, optimizer_states: int = 2) -> int:
    """Bytes of all weights, and of the gradients and optimiser states of the trainable ones (Adam keeps two states).

    Activations come on top; they depend on the batch and hardly on what trains.

    Raises:
        ValueError: more parameters train than there are.

    Example:
        >>> training_memory(125_000_000, 125_000_000) / 1e9  # GB, everything trained: 16 bytes a parameter
        2.0
        >>> training_memory(125_000_000, 300_000) / 1e9  # the same model, frozen but for LoRA
        0.5036
    """
    if n_trainable > n_params:
        raise ValueError(f"{n_trainable:,} trainable of {n_params:,} parameters")
    return bytes_per_param * (n_params + n_trainable * (1 + optimizer_states))
