"""The layer of `lora_ref.layers` as one autograd function: the same result, in less time.

``y = x W^T + b + scaling * (x A^T) B^T`` with ``W`` and ``b`` frozen. Written out, autograd would make a tensor of the
output's size for each product and for their sum. Here there are two ways around that. With many rows in ``x``, one
product with ``W + scaling * B A`` is cheapest, made for the moment and dropped again; with few, the thin product is
added into the output in place (``addmm_``). For the backward pass the mathematics needs ``x``, so ``x`` is kept, beside
the weights, which are there anyway; all else is computed again from it.

A product with one short side, of length rank, is fastest with that side first, (rank, rows), by up to a factor of four
(measured by ``python -m benchmarks layer``): hence the transposes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def frozen_linear_plus_lora(linear: nn.Linear, lora: nn.Module, x: Tensor) -> Tensor:
    """``linear(x) + lora(x)`` for a layer and an update that `can_fuse` allows; ``x`` has shape (..., in_features).

    Example:
        >>> from lora_ref.layers import LoRALayer
        >>> linear, lora, x = nn.Linear(6, 4).requires_grad_(False), LoRALayer(6, 4, rank=2, alpha=4), torch.randn(5, 6)
        >>> torch.allclose(frozen_linear_plus_lora(linear, lora, x), linear(x) + lora(x), atol=1e-6)
        True
    """
    return FrozenLinearPlusLoRA.apply(x, linear.weight, linear.bias, lora.lora_A, lora.lora_B, lora.scaling)


def can_fuse(linear: nn.Linear, lora: nn.Module) -> bool:
    """True where the one function computes what the two modules would.

    Not with active dropout, not under autocast (which casts each product by itself), not with a weight that trains or
    is parametrized or a layer that is a subclass, and not where somebody hooked a module to look at its output.

    Example:
        >>> from lora_ref.layers import LoRALayer
        >>> lora = LoRALayer(6, 4, rank=2, alpha=4, dropout=0.1)
        >>> can_fuse(nn.Linear(6, 4).requires_grad_(False), lora)  # in training mode dropout acts
        False
        >>> can_fuse(nn.Linear(6, 4).requires_grad_(False), lora.eval())
        True
        >>> can_fuse(nn.Linear(6, 4), lora)  # this weight trains
        False
    """
    if lora.training and getattr(lora.dropout, "p", 0) > 0:
        return False
    if type(linear) is not nn.Linear or linear.weight.requires_grad:
        return False
    if linear.bias is not None and linear.bias.requires_grad:
        return False
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in (linear, lora)):
        return False
    return linear.weight.dtype == lora.lora_A.dtype and not torch.is_autocast_enabled(linear.weight.device.type)


class FrozenLinearPlusLoRA(torch.autograd.Function):
    """Gradients for ``x``, ``A`` and ``B``; none for the frozen weight and bias.

    Example:
        >>> x, W, b = torch.randn(5, 6), torch.randn(4, 6), torch.randn(4)
        >>> A, B = torch.randn(2, 6, requires_grad=True), torch.randn(4, 2, requires_grad=True)
        >>> FrozenLinearPlusLoRA.apply(x, W, b, A, B, 2.0).sum().backward()
        >>> A.grad.shape, B.grad.shape
        (torch.Size([2, 6]), torch.Size([4, 2]))
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        """``x`` (..., in), ``W`` (out, in), ``b`` (out) or None, ``A`` (rank, in), ``B`` (out, rank) -> (..., out)."""
        ctx.save_for_backward(x, W, A, B)
        ctx.scaling = scaling
        rows = x.reshape(-1, x.shape[-1])
        if adds_to_weight(rows, W):
            y = functional.linear(rows, torch.addmm(W, B, A, alpha=scaling), b)
        else:
            y = functional.linear(rows, W, b).addmm_((A @ rows.T).T, B.T, alpha=scaling)
        return y.view(*x.shape[:-1], len(W))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """With ``G = scaling * dy B``: ``dA = G^T x``, ``dB = scaling * dy^T (x A^T)``, ``dx = dy W + G A``."""
        x, W, A, B = ctx.saved_tensors
        rows, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, len(W))
        dx = dA = dB = None
        needs_x, needs_A, needs_B = (ctx.needs_input_grad[i] for i in (0, 3, 4))
        merges = adds_to_weight(rows, W)
        if needs_A or (needs_x and not merges):
            G_T = (B.T @ dy.T).mul_(ctx.scaling)
        if needs_x and merges:
            dx = (dy @ torch.addmm(W, B, A, alpha=ctx.scaling)).view(x.shape)
        elif needs_x:
            dx = (dy @ W).addmm_(G_T.T, A).view(x.shape)
        if needs_A:
            dA = G_T @ rows
        if needs_B:
            dB = ((A @ rows.T) @ dy).mul_(ctx.scaling).T
        return dx, None, None, dA, dB, None


def adds_to_weight(rows: Tensor, W: Tensor) -> bool:
    """True where one product with ``W + scaling * B A`` touches less memory than a thin product added to the output.

    Never in half precision, where a small update would be lost in the weight's rounding.

    Example:
        >>> W = torch.zeros(768, 768)
        >>> adds_to_weight(torch.zeros(1_024, 768), W), adds_to_weight(torch.zeros(8, 768), W)
        (True, False)
        >>> adds_to_weight(torch.zeros(1_024, 768), W.half())
        False
    """
    n_out, n_in = W.shape
    return W.element_size() >= 4 and len(rows) * (n_in + n_out) >= 2 * n_in * n_out
