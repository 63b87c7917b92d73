"""The layer of `lora_ref.layers` as one autograd function: the same result, in less time.

``y = x W^T + b + scaling * (x A^T) B^T`` with ``W`` and ``b`` frozen. Written out, autograd would make a tensor of the
output's size for each product and for their sum. Here there are two ways around that. With many rows in ``x``, one
product with ``W + scaling * B A`` is cheapest, made for the moment and dropped again; with few, the thin product is
added into the output in place (``addmm_``). For the backward pass the mathematics needs ``x``, so ``x`` is kept, beside
the weights, which are there anyway; all else is computed again from it.

A product with one short side, of length rank, is fastest with that side first, (rank, rows), by up to a factor of four
(measured by ``python -m benchmarks layer``): hence the transposes.

The function stands in for two modules, so it may run only where nobody could tell: `can_fuse` asks all that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.modules import module as module_internals

#: Classes whose forward the function knows, each with that forward: an override or a patch is another one.
FORWARDS: dict[type[nn.Module], Callable] = {nn.Linear: nn.Linear.forward, nn.Dropout: nn.Dropout.forward}


def fusible(cls: type[nn.Module]) -> type[nn.Module]:
    """Note that the function here computes what this class's forward computes; returns the class.

    Example:
        >>> from lora_ref.layers import LoRALayer
        >>> FORWARDS[LoRALayer] is LoRALayer.forward
        True
    """
    FORWARDS[cls] = cls.forward
    return cls


def frozen_linear_plus_lora(linear: nn.Linear, lora: nn.Module, x: Tensor) -> Tensor:
    """``linear(x) + lora(x)`` for a layer and an update that `can_fuse` allows; ``x`` has shape (..., in_features).

    Example:
        >>> from lora_ref.layers import LoRALayer
        >>> linear, lora, x = nn.Linear(6, 4).requires_grad_(False), LoRALayer(6, 4, rank=2, alpha=4), torch.randn(5, 6)
        >>> torch.allclose(frozen_linear_plus_lora(linear, lora, x), linear(x) + lora(x), atol=1e-6)
        True
    """
    # the shape is changed out here: what a function returns as a view can't be changed in place by what comes after
    rows = x.reshape(-1, x.shape[-1])
    y = FrozenLinearPlusLoRA.apply(rows, linear.weight, linear.bias, lora.lora_A, lora.lora_B, lora.scaling)
    return y.view(*x.shape[:-1], y.shape[-1])


def can_fuse(linear: nn.Linear, lora: nn.Module, x: Tensor | None = None) -> bool:
    """True where the one function computes what the two modules would, and nobody could tell the difference.

    Not with active dropout, not under autocast (which casts each product by itself), not with a weight that trains, is
    parametrized or quantised, lies on ``meta`` or is a tensor of a class of its own, not with a scale that is a tensor
    (it may train), not where a module is a subclass, has a hook or another forward, and not while something looks at
    the single operations (`in_plain_eager_mode`).

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
    if not in_plain_eager_mode() or module_internals._has_any_global_hook():
        return False
    dropout = lora._modules.get("dropout")
    if dropout is not None and dropout.training and getattr(dropout, "p", 1) > 0:
        return False
    if not all(is_itself(m) for m in (linear, lora, dropout) if m is not None):
        return False
    W: Any = linear._parameters.get("weight")
    A: Any = lora._parameters.get("lora_A")
    B: Any = lora._parameters.get("lora_B")
    b = linear._parameters.get("bias")
    if not all(type(p) is nn.Parameter for p in (W, A, B)) or (b is not None and type(b) is not nn.Parameter):
        return False
    if W.requires_grad or (b is not None and b.requires_grad) or W.is_meta or not W.is_floating_point():
        return False
    if not W.dtype == A.dtype == B.dtype or not isinstance(lora.scaling, (int, float)):
        return False
    if x is not None and (type(x) not in (Tensor, nn.Parameter) or x.is_nested or x.layout != torch.strided):
        return False
    if x is not None and (x.dtype != W.dtype or not x.numel() or x.shape[-1:] != W.shape[1:]):
        return False  # nothing to save, or an error that nn.Linear words
    return not torch.is_autocast_enabled(W.device.type)


def is_itself(module: nn.Module) -> bool:
    """No subclass, no other forward on the class or on the instance, no hook of any kind.

    Example:
        >>> is_itself(nn.Linear(4, 2)), is_itself(nn.ReLU())  # it knows no other classes than `FORWARDS`
        (True, False)
    """
    own = FORWARDS.get(type(module))
    if own is None or getattr(module.forward, "__func__", None) is not own:
        return False
    return not (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def in_plain_eager_mode() -> bool:
    """True where operations simply run: nobody compiles, exports, traces or transforms them, or follows each of them.

    Not in forward-mode differentiation either, and not under a dispatch or function mode (a counter of operations).

    Example:
        >>> in_plain_eager_mode()
        True
        >>> _ = torch.func.vmap(lambda x: print(in_plain_eager_mode()) or x)(torch.ones(1))
        False
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch.jit.is_scripting()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or forward_ad._current_level >= 0
    )


class FrozenLinearPlusLoRA(torch.autograd.Function):
    """Gradients for ``x``, ``A`` and ``B``; none for the frozen weight and bias.

    The backward pass consists of operations that can be differentiated again, for gradient penalties and the like.

    Example:
        >>> x, W, b = torch.randn(5, 6), torch.randn(4, 6), torch.randn(4)
        >>> A, B = torch.randn(2, 6, requires_grad=True), torch.randn(4, 2, requires_grad=True)
        >>> FrozenLinearPlusLoRA.apply(x, W, b, A, B, 2.0).sum().backward()
        >>> A.grad.shape, B.grad.shape
        (torch.Size([2, 6]), torch.Size([4, 2]))
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        """``x`` (rows, in), ``W`` (out, in), ``b`` (out) or None, ``A`` (rank, in), ``B`` (out, rank): (rows, out)."""
        # W only where the plain path keeps it, too: whoever changes it before the backward pass gets torch's error
        ctx.save_for_backward(x, W if ctx.needs_input_grad[0] else None, A, B)
        ctx.scaling = scaling
        if adds_to_weight(x, W):
            return functional.linear(x, torch.addmm(W, B, A, alpha=scaling), b)
        return functional.linear(x, W, b).addmm_((A @ x.T).T, B.T, alpha=scaling)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """With ``G = scaling * dy B``: ``dA = G^T x``, ``dB = scaling * dy^T (x A^T)``, ``dx = dy W + G A``."""
        x, W, A, B = ctx.saved_tensors
        dx = dA = dB = None
        needs_x, needs_A, needs_B = (ctx.needs_input_grad[i] for i in (0, 3, 4))
        merges = needs_x and adds_to_weight(x, W)
        if needs_A or (needs_x and not merges):
            G_T = (B.T @ dy.T).mul_(ctx.scaling)
        if needs_x and merges:
            dx = dy @ torch.addmm(W, B, A, alpha=ctx.scaling)
        elif needs_x:
            dx = (dy @ W).addmm_(G_T.T, A)
        if needs_A:
            dA = G_T @ x
        if needs_B:
            dB = ((A @ x.T) @ dy).mul_(ctx.scaling).T
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
