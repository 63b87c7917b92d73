"""rank.py against NumPy and against the identities that define it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_ref import rank

sizes = st.integers(1, 9)


def matrix(m, n, seed=0, r=None):
    generator = torch.Generator().manual_seed(seed)
    r = min(m, n) if r is None else r
    left = torch.randn(m, r, generator=generator, dtype=torch.float64)
    return left @ torch.randn(r, n, generator=generator, dtype=torch.float64)


@settings(max_examples=60)
@given(sizes, sizes, sizes, st.integers(0, 100))
def test_rank_is_the_inner_dimension_of_a_random_product(m, n, r, seed):
    assert rank.matrix_rank(matrix(m, n, seed, r)) == min(m, n, r)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2], [3, 4]], 2),
        ([[1, 0, 0], [0, 2, 0], [0, 0, 3]], 3),
        ([[1, 2, 3], [2, 4, 6], [3, 6, 9]], 1),
        ([[0, 0], [0, 0]], 0),
    ],
)
def test_the_four_examples_of_the_course(rows, expected):
    assert rank.matrix_rank(torch.tensor(rows, dtype=torch.float32)) == expected


def test_the_tolerance_decides():
    M = torch.diag(torch.tensor([1.0, 1e-3]))
    assert rank.matrix_rank(M) == 2
    assert rank.matrix_rank(M, rtol=1e-2) == 1


@settings(max_examples=60)
@given(sizes, sizes, st.integers(0, 10), st.integers(0, 100))
def test_the_error_of_the_best_approximation_is_the_tail(m, n, k, seed):
    M = matrix(m, n, seed)
    tail = np.linalg.svd(M.numpy(), compute_uv=False)[k:]
    assert float((M - rank.best_rank_k(M, k)).norm()) == pytest.approx(np.sqrt((tail**2).sum()), abs=1e-8)
    assert rank.matrix_rank(rank.best_rank_k(M, k), rtol=1e-10) <= k


def test_bounds_of_best_rank_k():
    M = matrix(4, 6)
    assert torch.equal(rank.best_rank_k(M, 4), M)
    assert torch.equal(rank.best_rank_k(M, 0), torch.zeros_like(M))
    with pytest.raises(ValueError, match="got -1"):
        rank.best_rank_k(M, -1)


@settings(max_examples=60)
@given(sizes, sizes, st.integers(1, 10), st.integers(0, 100))
def test_the_factors_multiply_to_the_best_approximation(m, n, r, seed):
    M = matrix(m, n, seed)
    B, A = rank.rank_factors(M, r)
    assert B.shape == (m, r)
    assert A.shape == (r, n)
    torch.testing.assert_close(B @ A, rank.best_rank_k(M, r))


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_break_even_is_the_last_rank_that_saves(out_features, in_features):
    r = rank.break_even_rank(out_features, in_features)
    assert rank.lora_param_count(out_features, in_features, r) < out_features * in_features
    assert rank.lora_param_count(out_features, in_features, r + 1) >= out_features * in_features


@pytest.mark.parametrize(
    ("out_features", "in_features", "reductions"),
    [
        (768, 768, [96.0, 48.0, 24.0, 12.0, 6.0]),
        (2048, 2048, [256.0, 128.0, 64.0, 32.0, 16.0]),
        (3072, 768, [153.6, 76.8, 38.4, 19.2, 9.6]),
    ],
)
def test_reductions_for_ranks_4_to_64(out_features, in_features, reductions):
    counts = [rank.lora_param_count(out_features, in_features, r) for r in (4, 8, 16, 32, 64)]
    assert [round(out_features * in_features / c, 1) for c in counts] == reductions


def test_memory_of_full_and_lora_training():
    full = rank.training_memory(1000, 1000)
    assert full == 4 * 4 * 1000, "weights, gradients, two Adam states"
    assert rank.training_memory(1000, 10) == 4 * 1000 + 3 * 4 * 10
    assert rank.training_memory(1000, 10, bytes_per_param=2, optimizer_states=0) == 2 * 1000 + 2 * 10
    with pytest.raises(ValueError, match="11 trainable of 10"):
        rank.training_memory(10, 11)


def test_subspace_similarity_is_one_for_a_subspace_and_zero_for_its_complement():
    Q = torch.linalg.qr(matrix(8, 8))[0]
    assert rank.subspace_similarity(Q[:3], Q[:5], 3, 5) == pytest.approx(1)
    assert rank.subspace_similarity(Q[:3], Q[3:6], 2, 3) == pytest.approx(0, abs=1e-12)
    half = rank.subspace_similarity(torch.stack([Q[0] * 2, Q[1]]), torch.stack([Q[0] * 2, Q[2]]), 2, 2)
    assert half == pytest.approx(0.5)
    with pytest.raises(ValueError, match="widths 8 and 7"):
        rank.subspace_similarity(Q[:3], Q[:3, :7], 1, 1)
    with pytest.raises(ValueError, match="j must be from 1 to 3, got 4"):
        rank.subspace_similarity(Q[:3], Q[:3], 1, 4)


def test_effective_rank_counts_the_directions_that_hold_the_energy():
    M = torch.diag(torch.tensor([3.0, 1.0, 0.1]))
    assert rank.effective_rank(M, 0.8) == 1
    assert rank.effective_rank(M, 0.95) == 2
    assert rank.effective_rank(M, 1.0) == 3
    assert rank.effective_rank(torch.zeros(3, 3)) == 0
    with pytest.raises(ValueError, match="energy"):
        rank.effective_rank(M, 0)
