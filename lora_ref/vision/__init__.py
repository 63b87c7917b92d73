"""The vision labs: one digit of MNIST by weight parametrization (stage 02), a vision transformer (stage 03).

from lora_ref import vision

result = vision.one_digit(vision.PUBLISHED)   # LoRA on one digit alone: its errors go, and so does the rest
result = vision.one_digit(vision.BETTER)      # LoRA as well, with half of each batch replayed
results = vision.rotated_digits()             # a small vision transformer, adapted in six ways
results = vision.photographs()                # the same with ViT-base and CIFAR-10: a GPU and the hub
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lora_ref.vision.classifier import accuracy, predict, train_classifier
from lora_ref.vision.mnist import (
    BETTER,
    PUBLISHED,
    REPLAY_ONLY,
    OneDigitResult,
    Recipe,
    Score,
    WideMLP,
    base_classifier,
    lora_off,
    one_digit,
    parametrize_lora,
    parametrized_lora,
    score,
    switch_lora,
)
from lora_ref.vision.published import PublishedLoRALinear, published_injection
from lora_ref.vision.vit import (
    FULL_METHODS,
    HUB_VIT,
    SMALL_METHODS,
    VitMethod,
    VitResult,
    adapt,
    base_vit,
    one_channel,
    photographs,
    quarter_turn,
    rotated_digits,
    small_vit,
    vit_base,
    vit_pixels,
    vit_targets,
)

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "BETTER",
    "FULL_METHODS",
    "HUB_VIT",
    "PUBLISHED",
    "REPLAY_ONLY",
    "SMALL_METHODS",
    "OneDigitResult",
    "PublishedLoRALinear",
    "Recipe",
    "Score",
    "VitMethod",
    "VitResult",
    "WideMLP",
    "accuracy",
    "adapt",
    "base_classifier",
    "base_vit",
    "lora_off",
    "one_channel",
    "one_digit",
    "parametrize_lora",
    "parametrized_lora",
    "photographs",
    "predict",
    "published_injection",
    "quarter_turn",
    "rotated_digits",
    "score",
    "small_vit",
    "switch_lora",
    "table",
    "train_classifier",
    "vit_base",
    "vit_pixels",
    "vit_targets",
]


def table(results: Iterable[VitResult | OneDigitResult]) -> DataFrame:
    """The results' rows, in their order.

    Example:
        >>> from lora_ref.data import mnist
        >>> from lora_ref.profiles import TINY
        >>> data = mnist(TINY, train_size=40, test_size=20)
        >>> options = {"epochs": 1, "adapt_epochs": 1, "adapt_images": 20, "progress": False}
        >>> table(rotated_digits(SMALL_METHODS[:2], data=data, **options))["method"].tolist()
        ['head only', 'LoRA query-value r=4']
    """
    from pandas import DataFrame

    return DataFrame([result.row() for result in results])
