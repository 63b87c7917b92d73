"""LoRA as a weight parametrization: ``W`` becomes ``W + scaling B A`` wherever the layer reads it, and can be off.

Unlike `lora_ref.layers.LinearWithLoRA` this leaves the model's modules in place: ``linear`` is an ``nn.Linear`` as
before, and its ``weight`` is computed from the frozen original (``linear.parametrizations.weight.original``) on each
access. That builds ``B A``, which the wrapper's forward never does: the price of working for any weight matrix,
whatever its module.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LoRAParametrization(nn.Module):
    """``W -> W + scaling B A``, or ``W`` itself while ``enabled`` is False.

    Args:
        out_features, in_features: the shape of ``W``, in its own order: ``LoRAParametrization(*W.shape)``.
        rank: inner dimension of the update, at least 1.
        alpha: numerator of the scale; ``scaling = alpha / rank``.

    Attributes:
        enabled: the switch; True at first.

    Raises:
        ValueError: ``rank`` is below 1.

    Example:
        >>> from torch.nn.utils.parametrize import register_parametrization
        >>> linear, x = nn.Linear(3, 2).requires_grad_(False), torch.ones(1, 3)
        >>> before = linear(x)
        >>> lora = LoRAParametrization(*linear.weight.shape, rank=1, alpha=2)
        >>> _ = register_parametrization(linear, "weight", lora)
        >>> _ = nn.init.ones_(lora.lora_B)
        >>> torch.equal(linear(x), before)
        False
        >>> lora.enabled = False
        >>> torch.equal(linear(x), before)
        True
    """

    def __init__(self, out_features: int, in_features: int, rank: int = 1, alpha: float = 1):
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        self.scaling = alpha / rank
        self.enabled = True
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, W: Tensor) -> Tensor:
        """The adapted weight, of the shape of ``W``, (out_features, in_features)."""
        if not self.enabled:
            return W
        return W + self.scaling * (self.lora_B @ self.lora_A)
