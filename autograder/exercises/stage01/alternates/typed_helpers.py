"""Type hints and helpers; loops instead of formulas; the old torch.svd; roots of the singular values in both."""

from typing import Optional

import torch


def tolerance(M: torch.Tensor, rtol: Optional[float]) -> float:  # noqa: UP045 (as students write it)
    if rtol is not None:
        return rtol
    return max(M.shape[0], M.shape[1]) * float(torch.finfo(M.dtype).eps)


def matrix_rank(M: torch.Tensor, rtol: Optional[float] = None) -> int:  # noqa: UP045
    S = torch.linalg.svd(M.double(), full_matrices=False)[1]
    if S.numel() == 0 or S[0] == 0:
        return 0
    return len([s for s in S if s / S[0] > tolerance(M, rtol)])


def best_rank_k(M: torch.Tensor, k: int) -> torch.Tensor:
    if k < 0:
        raise ValueError("k")
    U, S, V = torch.svd(M)
    S = S.clone()
    S[k:] = 0
    return U @ torch.diag(S) @ V.t()


def rank_factors(M, r):
    U, S, Vh = torch.linalg.svd(M, full_matrices=True)
    m, n = M.shape
    p = min(m, n, r)
    root = S[:p].sqrt()
    B = torch.cat([U[:, :p] * root, torch.zeros(m, r - p, dtype=M.dtype)], 1)
    A = torch.cat([root[:, None] * Vh[:p], torch.zeros(r - p, n, dtype=M.dtype)], 0)
    return [B, A]


def lora_param_count(out_features: int, in_features: int, r: int) -> int:
    B, A = out_features * r, r * in_features
    return B + A


def break_even_rank(out_features, in_features):
    r = 0
    while lora_param_count(out_features, in_features, r + 1) < out_features * in_features:
        r += 1
    return r


def training_memory(n_params, n_trainable, bytes_per_param=4, optimizer_states=2):
    weights = n_params * bytes_per_param
    gradients = n_trainable * bytes_per_param
    states = optimizer_states * n_trainable * bytes_per_param
    return weights + gradients + states
