"""Projections onto eigenvectors; the left factor is orthogonal, and what is too much is random times zero."""

import torch


def matrix_rank(M, rtol=None):
    S = torch.linalg.svd(M)[1]
    tolerance = torch.finfo(M.dtype).eps * max(M.size()) if rtol is None else rtol
    return sum(1 for value in S.tolist() if value > tolerance * S[0].item())


def best_rank_k(M, k):
    if not k >= 0:
        raise ValueError(k)
    k = min(k, *M.shape)
    values, vectors = torch.linalg.eigh(M @ M.T)  # smallest first
    top = vectors[:, len(values) - k :]
    return top @ (top.T @ M)


def rank_factors(M, r):
    vectors = torch.linalg.eigh(M @ M.T).eigenvectors.flip(1)[:, : min(r, *M.shape)]
    extra = r - vectors.shape[1]
    B = torch.cat([vectors, torch.randn(len(M), extra, dtype=M.dtype)], dim=1)
    A = torch.cat([vectors.T @ M, torch.zeros(extra, M.shape[1], dtype=M.dtype)])
    return B, A


def lora_param_count(out_features, in_features, r):
    return out_features * r + r * in_features


def break_even_rank(out_features, in_features):
    low, high = 0, out_features * in_features  # low saves or is 0; high does not
    while high - low > 1:
        middle = (low + high) // 2
        if middle * (out_features + in_features) < out_features * in_features:
            low = middle
        else:
            high = middle
    return low


def training_memory(n_params, n_trainable, bytes_per_param=4, optimizer_states=2):
    numbers = n_params
    for _ in range(1 + optimizer_states):
        numbers += n_trainable
    return int(numbers * bytes_per_param)
