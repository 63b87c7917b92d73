"""``t4``: RoBERTa and SST-2 from the hub, on Colab's GPU."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from lora_ref.hub import hub_problem
from lora_ref.profiles.base import Profile

if TYPE_CHECKING:
    from datasets import DatasetDict
    from torch import nn
    from transformers import PreTrainedTokenizerBase, RobertaForSequenceClassification

    from lora_ref.images import Images


class T4Profile(Profile):
    """Needs a CUDA GPU, and a hub that answers."""

    def problem(self) -> str | None:
        return gpu_problem() or hub_problem()

    def model(self, num_labels: int, seed: int) -> RobertaForSequenceClassification:
        from lora_ref import models

        return models.roberta_base(num_labels=num_labels, seed=seed)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        from lora_ref import models

        return models.roberta_tokenizer()

    def sentences(self, seed: int) -> DatasetDict:
        from lora_ref import data

        return data.sst2(self.sizes, seed)

    def digits(self, seed: int, train_size: int | None, test_size: int | None) -> dict[str, Images]:
        from lora_ref import images

        return images.hub_digits(seed, train_size, test_size)

    def model_shapes(self) -> nn.Module | None:
        from lora_ref import costs

        return costs.meta_model(costs.roberta_base_config())


def gpu_problem() -> str | None:
    """None where torch sees a CUDA GPU, else a sentence that says so.

    Example:
        >>> import torch
        >>> (gpu_problem() is None) == torch.cuda.is_available()
        True
    """
    import torch

    if torch.cuda.is_available():
        return None
    return "torch sees no CUDA GPU here (in Colab: Runtime, Change runtime type, T4)."


T4 = T4Profile(
    name="t4",
    base_model="roberta-base, 124.6 M parameters, from the hub",
    data="GLUE SST-2, 10,000 sentences by seeded shuffle, from the hub",
    purpose="Colab's GPU",
    train_size=10_000,
    validation_size=872,  # all of SST-2's validation set
    test_size=1_000,
    epochs=2,
    train_batch_size=32,
    eval_batch_size=64,
    learning_rates=MappingProxyType({"head": 1e-3, "lora": 5e-4, "full": 2e-5}),
    warmup_fraction=0.06,
    max_length=128,
    fp16=True,
    minutes=10,
    notebook_minutes=(1, 1, 4, 15, 10),
    machine=" on a T4, by estimate",
    meaning="Its accuracies and times are real ones, measured on a GPU.",
)
