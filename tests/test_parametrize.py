"""The reference parametrization."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from lora_ref.parametrize import LoRAParametrization

sizes = st.integers(1, 9)
quick = settings(max_examples=40)


def attached(linear, rank=2, alpha=4.0, trained=True):
    linear.requires_grad_(False)
    lora = LoRAParametrization(*linear.weight.shape, rank=rank, alpha=alpha).to(linear.weight.dtype)
    if trained:
        nn.init.normal_(lora.lora_B)
    register_parametrization(linear, "weight", lora)
    return lora


@given(sizes, sizes, sizes, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.integers(0, 2**16))
@quick
def test_fresh_changes_no_bit_and_off_is_w_itself(out_features, in_features, rank, dtype, seed):
    torch.manual_seed(seed)
    linear = nn.Linear(in_features, out_features).to(dtype)
    x = torch.randn(3, in_features).to(dtype)
    before, weight = linear(x), linear.weight.clone()
    lora = attached(linear, rank, trained=False)
    assert torch.equal(linear(x), before)
    nn.init.normal_(lora.lora_B)
    expected = weight.double() + 4 / rank * lora.lora_B.double() @ lora.lora_A.double()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(linear.weight.double(), expected, rtol=0, atol=tolerance * scale)
    lora.enabled = False
    assert torch.equal(linear(x), before)
    W = torch.randn(out_features, in_features)
    assert lora(W) is W
    lora.enabled = True
    assert lora(W) is not W


def test_only_the_factors_train():
    torch.manual_seed(0)
    linear = nn.Linear(6, 5)
    lora = attached(linear)
    original = linear.parametrizations.weight.original.clone()
    optimizer = torch.optim.SGD([p for p in linear.parameters() if p.requires_grad], lr=0.1)
    before = lora.lora_A.clone(), lora.lora_B.clone()
    linear(torch.randn(4, 6)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before[0], lora.lora_A)
    assert not torch.equal(before[1], lora.lora_B)
    assert torch.equal(linear.parametrizations.weight.original, original)


def test_removing_it_leaves_the_merged_weight():
    torch.manual_seed(0)
    linear = nn.Linear(6, 5)
    attached(linear)
    adapted = linear.weight.clone()
    remove_parametrizations(linear, "weight", leave_parametrized=True)
    assert type(linear) is nn.Linear
    assert torch.equal(linear.weight, adapted)


def test_it_fits_weights_that_no_wrapper_reaches():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).requires_grad_(False)
    x = torch.randn(2, 3, 8)
    before = attention(x, x, x)[0]
    lora = LoRAParametrization(*attention.in_proj_weight.shape, rank=2, alpha=4)
    register_parametrization(attention, "in_proj_weight", lora)
    torch.testing.assert_close(attention(x, x, x)[0], before)  # another kernel: nothing is frozen any more
    nn.init.normal_(lora.lora_B)
    assert not torch.allclose(attention(x, x, x)[0], before, atol=1e-3)


def test_defaults_are_rank_one_alpha_one():
    lora = LoRAParametrization(5, 6)
    assert (lora.lora_A.shape, lora.lora_B.shape, lora.scaling) == ((1, 6), (5, 1), 1)


@pytest.mark.parametrize("rank", [0, -1])
def test_rank_below_one_is_an_error(rank):
    with pytest.raises(ValueError, match=str(rank)):
        LoRAParametrization(5, 6, rank)
