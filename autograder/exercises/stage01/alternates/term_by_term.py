"""Terms taken away one by one, which leaves rounding for k = 0; factors with signs flipped; exact fractions."""

from fractions import Fraction

import torch


def matrix_rank(M, rtol=None):
    values = torch.linalg.svdvals(M)
    if not values.any():
        return 0
    if rtol is None:
        rtol = torch.finfo(M.dtype).eps * (M.shape[0] if M.shape[0] > M.shape[1] else M.shape[1])
    return (values / values[0] > rtol).sum().item()


def best_rank_k(M, k):
    if k < 0:
        raise ValueError("negative rank")
    U, S, Vh = torch.linalg.svd(M)
    result = M.clone()
    for u, s, v in list(zip(U.T, S, Vh, strict=False))[k:]:
        result -= s * torch.outer(u, v)
    return result


def rank_factors(M, r):
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    columns, rows = [], []
    for i in range(r):
        if i < len(S):
            columns.append(-U[:, i] * S[i] ** 0.25)
            rows.append(-Vh[i] * S[i] ** 0.75)
        else:
            columns.append(torch.zeros_like(U[:, 0]))
            rows.append(torch.ones_like(Vh[0]))
    return torch.stack(columns, dim=1), torch.stack(rows)


def lora_param_count(out_features, in_features, r):
    return sum(out_features + in_features for _ in range(r))


def break_even_rank(out_features, in_features):
    even = Fraction(out_features * in_features, out_features + in_features)
    return even.numerator // even.denominator - (even.denominator == 1)


def training_memory(n_params, n_trainable, bytes_per_param=4, optimizer_states=2):
    memory = {"weights": n_params, "gradients": n_trainable, "states": optimizer_states * n_trainable}
    return sum(bytes_per_param * count for count in memory.values())
