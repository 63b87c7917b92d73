"""NumPy throughout, floating-point ceilings for whole numbers."""

import math

import numpy as np
import torch


def matrix_rank(M, rtol=None):
    values = np.linalg.svd(M.numpy(), compute_uv=False)
    if rtol is None:
        rtol = max(M.shape) * np.finfo(values.dtype).eps
    return np.count_nonzero(values > rtol * values[0])


def best_rank_k(M, k):
    if k < 0:
        raise ValueError("k")
    u, s, vt = np.linalg.svd(M.numpy(), full_matrices=False)
    s[k:] = 0
    return torch.from_numpy(u @ np.diag(s) @ vt)


def rank_factors(M, r):
    u, s, vt = np.linalg.svd(M.numpy(), full_matrices=True)
    values = np.zeros((r, r), dtype=s.dtype)
    for i in range(min(r, len(s))):
        values[i, i] = s[i]
    left = np.pad(u, ((0, 0), (0, max(0, r - u.shape[1]))))[:, :r]
    right = np.pad(vt, ((0, max(0, r - vt.shape[0])), (0, 0)))[:r]
    return [torch.from_numpy(left), torch.from_numpy(values @ right)]


def lora_param_count(out_features, in_features, r):
    return np.zeros((out_features, r)).size + np.zeros((r, in_features)).size


def break_even_rank(out_features, in_features):
    return math.ceil(out_features * in_features / (out_features + in_features)) - 1


def training_memory(n_params, n_trainable, bytes_per_param=4, optimizer_states=2):
    weights = np.int64(n_params) * bytes_per_param
    gradients = n_trainable * bytes_per_param
    return weights + gradients + optimizer_states * gradients
