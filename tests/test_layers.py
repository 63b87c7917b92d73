"""The reference layers: what they promise, over drawn sizes, dtypes and layouts."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora_ref.layers import LinearWithLoRA, LoRALayer

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 6e-2, torch.float16: 1e-2}
sizes = st.integers(1, 9)
leading = st.lists(st.integers(0, 4), max_size=3)
seeds = st.integers(0, 2**16)
quick = settings(max_examples=40)


def trained(layer, seed=0):
    """The same layer with values in B, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator))
    return layer


def linear(in_features, out_features, bias=True, dtype=torch.float32):
    return nn.Linear(in_features, out_features, bias=bias).to(dtype)


@given(sizes, sizes, sizes, st.floats(0.1, 64), leading, seeds)
@quick
def test_the_update_is_the_papers_formula(in_features, out_features, rank, alpha, shape, seed):
    torch.manual_seed(seed)
    layer = trained(LoRALayer(in_features, out_features, rank, alpha), seed)
    x = torch.randn(*shape, in_features)
    A, B = layer.lora_A.double(), layer.lora_B.double()
    expected = alpha / rank * (x.double() @ A.T @ B.T)
    assert layer(x).shape == (*shape, out_features)
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-4 * alpha)
    torch.testing.assert_close(layer.delta_weight().double(), alpha / rank * B @ A, rtol=1e-4, atol=1e-4 * alpha)


@given(sizes, sizes, sizes, st.booleans(), leading, st.sampled_from(list(DTYPES)), seeds)
@quick
def test_a_fresh_wrapper_is_the_layer_bit_for_bit(in_features, out_features, rank, bias, shape, dtype, seed):
    torch.manual_seed(seed)
    base = linear(in_features, out_features, bias, dtype)
    x = torch.randn(*shape, in_features).to(dtype)
    before = base(x)
    wrapped = LinearWithLoRA(base, rank, 16)
    assert wrapped(x).dtype == dtype
    assert torch.equal(wrapped(x), before)


@given(sizes, sizes, sizes, st.booleans(), leading, st.sampled_from(list(DTYPES)), seeds)
@quick
def test_merging_keeps_the_output_and_unmerging_restores_every_bit(
    in_features, out_features, rank, bias, shape, dtype, seed
):
    torch.manual_seed(seed)
    wrapped = LinearWithLoRA(linear(in_features, out_features, bias, dtype), rank, rank)
    trained(wrapped.lora, seed)
    state = {name: value.clone() for name, value in wrapped.state_dict().items()}
    x = torch.randn(*shape, in_features).to(dtype)
    apart = wrapped(x).detach()
    wrapped.merge()
    assert wrapped.merged
    scale = max(1.0, float(apart.abs().max()) if apart.numel() else 0.0)
    torch.testing.assert_close(wrapped(x), apart, rtol=0, atol=3 * DTYPES[dtype] * scale)
    once = wrapped.linear.weight.clone()
    wrapped.merge()
    assert torch.equal(wrapped.linear.weight, once)
    for _ in range(2):
        wrapped.unmerge()
        assert not wrapped.merged
        assert all(torch.equal(value, state[name]) for name, value in wrapped.state_dict().items())
    assert torch.equal(wrapped(x), apart)


def test_input_may_be_a_view_with_strides():
    torch.manual_seed(0)
    layer = trained(LoRALayer(6, 5, 2, 4))
    x = torch.randn(6, 3, 2).transpose(0, 2)
    assert not x.is_contiguous()
    torch.testing.assert_close(layer(x), layer(x.contiguous()))


@pytest.mark.parametrize("rank", [0, -3])
def test_rank_below_one_is_an_error_that_names_it(rank):
    with pytest.raises(ValueError, match=str(rank)):
        LoRALayer(4, 3, rank, 1)
    base = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=str(rank)):
        LinearWithLoRA(base, rank, 1)


@pytest.mark.parametrize("other", [nn.LayerNorm(4), nn.Conv1d(4, 3, 1), None, "linear"])
def test_what_is_not_linear_is_a_type_error(other):
    with pytest.raises(TypeError, match=type(other).__name__):
        LinearWithLoRA(other, 2, 4)


def test_the_layer_is_kept_frozen_and_only_the_factors_train():
    base = nn.Linear(6, 5)
    wrapped = LinearWithLoRA(base, 2, 4)
    assert wrapped.linear is base
    assert [n for n, p in wrapped.named_parameters() if p.requires_grad] == ["lora.lora_A", "lora.lora_B"]


def test_training_moves_the_factors_alone_before_and_after_a_merge():
    torch.manual_seed(0)
    wrapped = LinearWithLoRA(nn.Linear(6, 5), 2, 4)
    base = copy.deepcopy(wrapped.linear.state_dict())
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.01)  # frozen ones get no gradient, so no decay either
    for _ in range(2):
        before = wrapped.lora.lora_A.clone(), wrapped.lora.lora_B.clone()
        for _ in range(3):
            optimizer.zero_grad()
            wrapped(torch.randn(8, 6)).square().mean().backward()
            optimizer.step()
        assert not torch.equal(before[0], wrapped.lora.lora_A)
        assert not torch.equal(before[1], wrapped.lora.lora_B)
        wrapped.merge()
        assert isinstance(wrapped.linear.weight, nn.Parameter)
        assert wrapped.linear.weight.is_leaf
        assert not wrapped.linear.weight.requires_grad
        wrapped.unmerge()
    assert all(torch.equal(value, base[name]) for name, value in wrapped.linear.state_dict().items())


def test_merging_works_where_somebody_thawed_the_weight():
    wrapped = LinearWithLoRA(nn.Linear(6, 5), 2, 4)
    trained(wrapped.lora)
    wrapped.linear.weight.requires_grad_(True)
    wrapped.merge()
    assert wrapped.linear.weight.requires_grad
    assert wrapped.linear.weight.is_leaf


def test_at_the_start_only_b_has_a_gradient():
    torch.manual_seed(0)
    layer = LoRALayer(6, 5, 2, 4)
    layer(torch.randn(8, 6)).sum().backward()
    assert not layer.lora_A.grad.any()
    assert layer.lora_B.grad.any()


def test_dropout_acts_on_the_input_in_training_mode_alone():
    torch.manual_seed(0)
    layer = trained(LoRALayer(1000, 5, 2, 4, dropout=0.4))
    x = torch.randn(64, 1000)
    expected = layer.eval()(x)
    assert torch.equal(layer(x), expected)
    mean = torch.stack([layer.train()(x) for _ in range(300)]).mean(0)
    assert not torch.equal(layer(x), expected)
    assert (mean - expected).std() < 0.2 * expected.std()  # kept inputs are scaled by 1 / (1 - p): the mean is right


def test_state_is_that_of_the_parts_merged_or_not():
    wrapped = LinearWithLoRA(nn.Linear(6, 5), 2, 4)
    keys = {"linear.weight", "linear.bias", "lora.lora_A", "lora.lora_B"}
    assert set(wrapped.state_dict()) == keys
    wrapped.merge()
    assert set(wrapped.state_dict()) == keys


def test_repr_tells_sizes_rank_and_scale():
    assert "in_features=6, out_features=5, rank=2, scaling=2" in repr(LoRALayer(6, 5, 2, 4))
