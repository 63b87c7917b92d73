"""What a profile is: sizes and learning rates, and where its model, tokenizer, sentences and digits come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import DatasetDict
    from torch import nn
    from transformers import PreTrainedTokenizerBase, RobertaForSequenceClassification

    from lora_ref.images import Images

METHODS = ("head", "lora", "full")


@dataclass(frozen=True)
class Profile(ABC):
    """One size of the course; change a copy with ``dataclasses.replace(profile, epochs=3)``.

    Importing a profile costs nothing: its methods import torch, transformers and datasets when they are called.

    Attributes:
        name: ``"tiny"``, ``"laptop"`` or ``"t4"``.
        base_model, data, purpose: in words.
        train_size, validation_size, test_size: sentences.
        epochs: passes over the training sentences.
        train_batch_size, eval_batch_size: sentences a step.
        learning_rates: peak learning rate of AdamW by method (``"head"``, ``"lora"``, ``"full"``).
        warmup_fraction: share of all steps over which the learning rate rises.
        max_length: tokens a sentence is truncated to.
        fp16: train in half precision where there is CUDA. A T4 has no bf16, so fp16 with loss scaling it is.
        minutes: expected for head, LoRA and full training together, on the machine the profile is for.
        notebook_minutes: for running all cells of each stage's notebook, without what a person needs to read and write.
        machine: where the minutes were measured, as a sentence goes on: ``" on two CPU cores"``.
        meaning: what a reader should make of figures from this profile.

    Example:
        >>> import dataclasses
        >>> from lora_ref.profiles import TINY
        >>> TINY.name, TINY.train_size, TINY.learning_rates["lora"]
        ('tiny', 256, 0.01)
        >>> dataclasses.replace(TINY, epochs=1).epochs
        1
    """

    name: str
    base_model: str
    data: str
    purpose: str
    train_size: int
    validation_size: int
    test_size: int
    epochs: int
    train_batch_size: int
    eval_batch_size: int
    learning_rates: Mapping[str, float] = field(hash=False)
    warmup_fraction: float
    max_length: int
    fp16: bool
    minutes: float
    notebook_minutes: tuple[float, ...]
    machine: str
    meaning: str

    @property
    def sizes(self) -> dict[str, int]:
        """Sentences by split."""
        return {"train": self.train_size, "validation": self.validation_size, "test": self.test_size}

    @abstractmethod
    def problem(self) -> str | None:
        """None where this machine can run the profile, else a sentence that says what is missing."""

    @abstractmethod
    def model(self, num_labels: int, seed: int) -> RobertaForSequenceClassification:
        """What `lora_ref.models.base_model` returns."""

    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What `lora_ref.models.tokenizer` returns."""

    @abstractmethod
    def sentences(self, seed: int) -> DatasetDict:
        """What `lora_ref.data.reviews` returns."""

    @abstractmethod
    def digits(self, seed: int, train_size: int | None, test_size: int | None) -> dict[str, Images]:
        """What `lora_ref.images.mnist` returns."""

    def model_shapes(self) -> nn.Module | None:
        """A model to count parameters in, without a download; None where only a download would tell."""
        return self.model(num_labels=2, seed=0)
