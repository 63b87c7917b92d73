"""``tiny``: a random model and made-up data, for checks, grading and unit tests."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from lora_ref.profiles.base import Profile

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerBase, RobertaForSequenceClassification

    from lora_ref.images import Images


class Tiny(Profile):
    """Needs nothing: everything is drawn on the spot."""

    def problem(self) -> str | None:
        return None

    def model(self, num_labels: int, seed: int) -> RobertaForSequenceClassification:
        from lora_ref import models

        return models.tiny_roberta(num_labels=num_labels, seed=seed)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        from lora_ref import models

        return models.tiny_tokenizer()

    def sentences(self, seed: int) -> DatasetDict:
        from lora_ref import data

        shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
        return data.split_and_draw(data.tiny_sentences(), shares, self.sizes, seed)

    def digits(self, seed: int, train_size: int | None, test_size: int | None) -> dict[str, Images]:
        from lora_ref import images

        return images.split_digits(images.tiny_digits(), seed, train_size, test_size)


TINY = Tiny(
    name="tiny",
    base_model="a random RoBERTa of about 20,000 parameters",
    data="sentences made on the spot",
    purpose="checks, grading and unit tests: seconds, and no claim about language",
    train_size=256,
    validation_size=128,
    test_size=128,
    epochs=3,
    train_batch_size=16,
    eval_batch_size=64,
    learning_rates=MappingProxyType({"head": 1e-2, "lora": 1e-2, "full": 3e-3}),
    warmup_fraction=0.1,
    max_length=64,
    fp16=False,
    minutes=0.2,
    notebook_minutes=(0.2, 0.1, 0.2, 0.3, 0.3),
    machine="",
    meaning="That shows that everything works, and says nothing about language; `make site PROFILE=laptop` does.",
)
