"""Where torch has a function, that function; the search for the break-even rank is a loop."""

import itertools

import torch


def matrix_rank(M, rtol=None):
    return torch.linalg.matrix_rank(M, rtol=rtol).item()


def best_rank_k(M, k):
    if k < 0:
        raise ValueError("k < 0")
    if k == 0:
        return torch.zeros_like(M)
    if k >= min(M.shape):
        return M
    u, s, v = torch.svd(M)
    return u[:, :k] @ torch.diag(s[:k]) @ v[:, :k].T


def rank_factors(M, r):
    """The last singular values may be too many: zero rows below are as good."""
    U, S, Vh = torch.linalg.svd(best_rank_k(M, r), full_matrices=False)
    pad = max(0, r - len(S))
    B = torch.nn.functional.pad(U[:, :r] * S[:r].sqrt(), (0, pad))
    A = torch.nn.functional.pad(S[:r, None].sqrt() * Vh[:r], (0, 0, 0, pad))
    return B, A


def lora_param_count(out_features, in_features, r):
    B, A = torch.empty(out_features, r, device="meta"), torch.empty(r, in_features, device="meta")
    return sum(t.numel() for t in (B, A))


def break_even_rank(out_features, in_features):
    full = out_features * in_features
    return next(r for r in itertools.count() if lora_param_count(out_features, in_features, r + 1) >= full)


def training_memory(n_params, n_trainable, bytes_per_param=4, optimizer_states=2):
    frozen = n_params - n_trainable
    return frozen * bytes_per_param + n_trainable * bytes_per_param * (2 + optimizer_states)
