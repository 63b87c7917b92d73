"""``laptop``: a small pretrained encoder and real film reviews, through the package index alone."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from lora_ref.profiles.base import Profile

if TYPE_CHECKING:
    from datasets import DatasetDict
    from torch import nn
    from transformers import PreTrainedTokenizerBase, RobertaForSequenceClassification

    from lora_ref.images import Images


class Laptop(Profile):
    """Needs the assets, which are fetched once through the package index (`lora_ref.assets`)."""

    def problem(self) -> str | None:
        return laptop_problem()

    def model(self, num_labels: int, seed: int) -> RobertaForSequenceClassification:
        from lora_ref import models

        return models.laptop_encoder(num_labels=num_labels, seed=seed)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        from lora_ref import models

        return models.laptop_tokenizer()

    def sentences(self, seed: int) -> DatasetDict:
        from lora_ref import assets, data

        path = assets.fetch("reviews") / "movieReviewSnippets_GroundTruth.txt"
        shares = {"train": 0.7, "validation": 0.15, "test": 0.15}
        return data.split_and_draw(data.rated_sentences(path), shares, self.sizes, seed)

    def digits(self, seed: int, train_size: int | None, test_size: int | None) -> dict[str, Images]:
        from lora_ref import images

        return images.laptop_digits(seed, train_size, test_size)

    def model_shapes(self) -> nn.Module | None:
        from lora_ref import assets

        return super().model_shapes() if assets.cached("encoder") else None


def laptop_problem() -> str | None:
    """None where the laptop profile's assets are in the cache or could be fetched just now, else the reason.

    Example::

        laptop_problem()  # None: it fetches what is missing.
    """
    from lora_ref import assets

    try:
        assets.fetch_all()
    except assets.AssetError as error:
        return str(error)
    return None


LAPTOP = Laptop(
    name="laptop",
    base_model="all-MiniLM-L6-v2, a pretrained encoder of 22.7 M parameters, in RoBERTa's classes",
    data="real film-review sentences, rated by 20 people each",
    purpose="real results on two CPU cores, without a hub",
    train_size=2_000,
    validation_size=500,
    test_size=1_000,
    epochs=2,
    train_batch_size=32,
    eval_batch_size=64,
    learning_rates=MappingProxyType({"head": 1e-3, "lora": 1e-3, "full": 5e-5}),
    warmup_fraction=0.1,
    max_length=128,
    fp16=False,
    minutes=2.5,
    notebook_minutes=(0.2, 0.4, 1.5, 3.5, 2.5),
    machine=" on two CPU cores",
    meaning="Its accuracies and times are real ones, measured on two CPU cores.",
)
