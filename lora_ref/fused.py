"""The layer of `lora_ref.layers` as one autograd function: the same result, in less time.

``y = x W^T + b + scaling * (x A^T) B^T`` with ``W`` and ``b`` frozen. Written out, autograd would make a tensor of the
output's size for each product and for their sum; here each sum is taken by the matrix product that ends in it
(``addmm``). For the backward pass the mathematics needs ``x`` (for the gradient of ``A``) and ``h = x A^T`` (for that
of ``B``), so these two are kept, beside the weights, which are there anyway.

How a product with one short side of length rank lies in memory decides its time, by up to a factor of three: hence the
copies of small matrices (measured by ``python -m benchmarks layer``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
    if lora.training and lora.dropout.p > 0:
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
        flat = x.reshape(-1, x.shape[-1])
        h = flat @ A.T
        y = torch.nn.functional.linear(flat, W, b)
        y.addmm_(h, B.T.contiguous(), alpha=scaling)
        ctx.save_for_backward(x, h, W, A, B)
        ctx.scaling = scaling
        return y.view(*x.shape[:-1], W.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """With ``G = scaling * dy B``: ``dA = G^T x``, ``dB = scaling * dy^T h``, ``dx = dy W + G A``.

        Thin matrices, (tokens, rank), are laid out as the products that read them go fastest; copying one is cheap.
        """
        x, h, W, A, B = ctx.saved_tensors
        flat, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        dx = dA = dB = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[3]:
            G = (B.T.contiguous() @ dy.T).mul_(ctx.scaling).T.contiguous()
        if ctx.needs_input_grad[0]:
            dx = (dy @ W).addmm_(G, A).view(x.shape)
        if ctx.needs_input_grad[3]:
            dA = G.T @ flat
        if ctx.needs_input_grad[4]:
            dB = (h.T.contiguous() @ dy).mul_(ctx.scaling).T
        return dx, None, None, dA, dB, None
