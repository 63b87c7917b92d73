"""LoRA from scratch: a low-rank update beside a frozen linear layer.

The layer computes ``y = x W^T + b + scaling * (x A^T) B^T`` with ``A`` of shape (rank, in_features), ``B`` of
shape (out_features, rank) and ``scaling = alpha / rank``: equation 3 of the LoRA paper (arXiv:2106.09685, section
4.1), in its orientation. Only ``A`` and ``B`` train.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_ref.fused import can_fuse, frozen_linear_plus_lora, fusible
from lora_ref.stand_in import StandsForLinear, update_options

#: How ``A`` may start, with mean zero either way: as ``nn.Linear`` and the paper's code do, and normally distributed.
INITIALISATIONS = {
    "kaiming": lambda A: nn.init.kaiming_uniform_(A, a=math.sqrt(5)),
    "gaussian": lambda A: nn.init.normal_(A, std=1 / len(A)),
}


@fusible
class LoRALayer(nn.Module):
    """The update alone: ``scaling * (dropout(x) A^T) B^T``.

    ``A`` starts random and ``B`` at zero, so the update starts at exactly zero and still has a gradient: that of ``B``
    needs ``A`` to be nonzero.

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension.
        rank: inner dimension of the update, at least 1.
        alpha: numerator of the scale; ``scaling = alpha / rank``.
        dropout: probability of dropping an input feature, on the update's path only.
        rslora: divide by ``sqrt(rank)`` instead of ``rank`` (rsLoRA, arXiv:2312.03732).
        init: how ``A`` starts, ``"kaiming"`` (uniform) or ``"gaussian"`` (standard deviation 1 / rank).

    Raises:
        ValueError: ``rank`` is below 1, or there is no such ``init``.

    Example:
        >>> lora = LoRALayer(in_features=768, out_features=3072, rank=8, alpha=16)
        >>> lora.lora_A.shape, lora.lora_B.shape, lora.scaling
        (torch.Size([8, 768]), torch.Size([3072, 8]), 2.0)
        >>> lora(torch.randn(2, 10, 768)).shape
        torch.Size([2, 10, 3072])
        >>> lora.delta_weight().abs().max().item()  # B is zero at the start
        0.0
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        *,
        rslora: bool = False,
        init: str = "kaiming",
    ):
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if init not in INITIALISATIONS:
            raise ValueError(f"no initialisation {init!r}; there are {', '.join(map(repr, INITIALISATIONS))}")
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        self.scaling = alpha / math.sqrt(rank) if rslora else alpha / rank
        self.dropout = nn.Dropout(dropout)
        INITIALISATIONS[init](self.lora_A)

    def forward(self, x: Tensor) -> Tensor:
        """The update for ``x`` of shape (..., in_features), in shape (..., out_features).

        The small tensor in the middle, (..., rank), is the one that is scaled; ``B A`` is never built.
        """
        down = F.linear(self.dropout(x).to(self.lora_A.dtype), self.lora_A)
        return F.linear(self.scaling * down, self.lora_B)

    def delta_weight(self) -> Tensor:
        """The update as a matrix, ``scaling * B A``, of shape (out_features, in_features)."""
        return self.scaling * (self.lora_B @ self.lora_A)

    def extra_repr(self) -> str:
        rank, in_features = self.lora_A.shape
        return (
            f"in_features={in_features}, out_features={len(self.lora_B)}, rank={rank}, scaling={float(self.scaling):g}"
        )


class LinearWithLoRA(StandsForLinear):
    """A pretrained linear layer, frozen, with a trainable low-rank update beside it.

    Here is what it computes; that it can stand where the linear layer stood is `lora_ref.stand_in`'s affair.

    Args:
        linear: the layer to adapt. It is kept, not copied, as ``.linear``; its weight and bias are frozen.
        rank, alpha, dropout, options: as in `LoRALayer`, which is kept as ``.lora`` on the layer's device and in its
            dtype.

    Attributes:
        enabled: the switch; off, the layer computes what ``linear`` computed before LoRA, merged or not.

    Raises:
        TypeError: ``linear`` is not an ``nn.Linear``.
        ValueError: as in `LoRALayer`.

    Example:
        >>> linear, x = nn.Linear(768, 768), torch.randn(4, 768)
        >>> layer = LinearWithLoRA(linear, rank=8, alpha=16)
        >>> torch.equal(layer(x), linear(x))  # it starts as the layer that it wraps
        True
        >>> sum(p.numel() for p in layer.parameters() if p.requires_grad)
        12288
        >>> layer.merge()
        >>> layer.merged
        True
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float = 0.0, **options):
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"LinearWithLoRA wraps an nn.Linear, got {type(linear).__name__}")
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha, dropout, **options)
        self.lora.to(**update_options(linear))
        self.enabled = True
        self.train(linear.training)  # a model in evaluation mode stays in it

    @property
    def merged(self) -> bool:
        """True while the update is part of ``linear.weight``."""
        return self._weight_before_merge is not None

    def forward(self, x: Tensor) -> Tensor:
        """The adapted layer's output for ``x`` of shape (..., in_features)."""
        if self._weight_before_merge is not None and not self.enabled:
            return self.refuse_training(F.linear(x, self._weight_before_merge, self.linear.bias))
        if self.merged or not self.enabled:
            return self.refuse_training(self.linear(x))
        if can_fuse(self.linear, self.lora, x):  # the plain result, in less time
            return frozen_linear_plus_lora(self.linear, self.lora, x)
        y = self.linear(x)
        return y + self.lora(x).to(y.dtype)  # A and B may stay in float32 beside a W in half precision

    @torch.no_grad()
    def merge(self) -> None:
        """Let the update be part of the weight, ``W <- W + scaling B A``; merging twice is merging once.

        ``W`` itself is kept, because ``(W + D) - D`` is not ``W`` in floating point.

        Raises:
            ValueError: the result is not finite, or the weight is not a plain one (quantised, parametrized, ...).
        """
        if not self.merged:
            self.add_to_weight(self.lora.delta_weight())

    @torch.no_grad()
    def unmerge(self) -> None:
        """Restore ``W`` bit for bit; ``A`` and ``B`` are as they were, so training can go on."""
        if self.merged:
            self.take_weight_back()
