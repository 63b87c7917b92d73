"""A published injection into a vision transformer, kept as it is wrong, for the lab to look at."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_ref.inject import linear_at, match_targets, replace_module
from lora_ref.models import seeded

if TYPE_CHECKING:
    pass


class PublishedLoRALinear(nn.Module):
    """An injected layer as a published notebook writes it: its own weight, never filled, and no bias.

    ``torch.empty`` hands out memory as it is. What an earlier tensor left there becomes the "pretrained" weight.

    Example:
        >>> layer = PublishedLoRALinear(8, 4, rank=2)
        >>> [name for name, _ in layer.named_parameters()]
        ['weight', 'lora_A', 'lora_B']
    """

    def __init__(self, in_features: int, out_features: int, rank: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias: Tensor | None = None
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + x @ self.lora_A.T @ self.lora_B.T


def published_injection(
    model: nn.Module,
    targets: Iterable[str],
    rank: int = 4,
    *,
    keep_weight: bool = False,
    keep_bias: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A copy of ``model`` with the published injection's mistakes, for spotting them; ``model`` itself stays as it is.

    B is zero, so a right injection would leave the logits as they are. This one does not, and shows why, the same each
    time: torch fills what it does not initialise with NaN here, where it would leave whatever was there.

    Args:
        model: any module with ``nn.Linear`` layers.
        targets: as in `lora_ref.inject.match_targets`; `vit_targets` gives a vision transformer's.
        rank: LoRA's.
        keep_weight: fix the first mistake: copy the pretrained weight.
        keep_bias: fix the second: copy the pretrained bias.
        seed: draws A.

    Raises:
        ValueError: a target matches nothing.

    Example:
        >>> from lora_ref.vision import small_vit, vit_targets
        >>> model = small_vit()
        >>> broken = published_injection(model, vit_targets(model))
        >>> broken(torch.zeros(1, 1, 28, 28)).logits.isnan().any().item()
        True
    """
    model = copy.deepcopy(model)
    with seeded(seed), _unfilled_memory_is_nan(), torch.no_grad():
        for name in match_targets(model, targets):
            linear = linear_at(model, name)
            layer = PublishedLoRALinear(linear.in_features, linear.out_features, rank)
            if keep_weight:
                layer.weight.copy_(linear.weight)
            if keep_bias:
                layer.bias = linear.bias
            replace_module(model, name, layer)
    return model


@contextlib.contextmanager
def _unfilled_memory_is_nan() -> Iterator[None]:
    """Let ``torch.empty`` return NaN: what torch does in deterministic mode, so that nobody relies on old memory."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    setting: Any = torch.utils.deterministic  # a module that answers for its own attribute
    fill = setting.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    setting.fill_uninitialized_memory = True
    try:
        yield
    finally:
        setting.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
