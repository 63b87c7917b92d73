"""What a classifier gets right: accuracy, loss and logits on labelled sentences, without the Trainer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_ref import data

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TIMING_KEYS = ("runtime", "per_second", "preparation_time")


def compute_metrics(eval_pred: Any) -> dict[str, float]:
    """Accuracy of a classifier, for ``Trainer(compute_metrics=...)``.

    Args:
        eval_pred: logits of shape (n, classes) and labels of shape (n,), as a pair or an ``EvalPrediction``.

    Example:
        >>> logits, labels = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 1, 1])
        >>> compute_metrics((logits, labels))
        {'accuracy': 0.75}
    """
    logits, labels = eval_pred
    return {"accuracy": float((np.argmax(logits, axis=-1) == np.asarray(labels)).mean())}


def metrics_match(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """True if two evaluations found the same; how long they took (``runtime``, ``per_second``...) does not count.

    Numbers may differ by a relative 1e-6; a key that only one side has is a difference.

    Example:
        >>> metrics_match({"eval_loss": 0.31, "eval_runtime": 2.0}, {"eval_loss": 0.31, "eval_runtime": 9.0})
        True
        >>> metrics_match({"eval_loss": 0.31}, {"eval_loss": 0.31, "eval_accuracy": 0.9})
        False
    """
    a, b = ({k: v for k, v in side.items() if not k.endswith(_TIMING_KEYS)} for side in (a, b))
    return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)


def _same(x: Any, y: Any) -> bool:
    try:
        return math.isclose(x, y, rel_tol=1e-6)
    except TypeError:  # not numbers
        return x == y


def evaluate(
    model: nn.Module,
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 64,
    max_length: int = 128,
) -> dict[str, float]:
    """Accuracy and mean cross-entropy of a classifier on labelled sentences.

    The order of the sentences makes no difference, to the last bit: they are batched by length.

    Args:
        model: returns ``logits`` of shape (batch, classes).
        dataset: a ``datasets.Dataset`` with ``label`` and ``sentence`` (or ``input_ids`` and ``attention_mask``), or a
            list of such examples.
        tokenizer: gives the tokens, or only the padding token.
        batch_size, max_length: sentences in a batch; tokens a sentence is truncated to.

    Returns:
        ``accuracy`` and ``loss`` (natural logarithm).

    Raises:
        ValueError: there are no sentences, or a label is not the number of one of the model's classes.

    Example:
        >>> from lora_ref import models
        >>> sentences = [{"sentence": "a warm film", "label": 1}, {"sentence": "a cold film", "label": 0}]
        >>> evaluate(models.tiny_roberta(), sentences, models.tiny_tokenizer())["accuracy"] in (0.0, 0.5, 1.0)
        True
    """
    examples = tokenized(dataset, tokenizer, max_length)
    check_labels(examples, "", getattr(getattr(model, "config", None), "num_labels", None))
    examples = sorted(examples, key=length_first)
    labels = torch.tensor([int(example["label"]) for example in examples])
    logits = _logits(model, examples, tokenizer, batch_size)
    return {
        "accuracy": float((logits.argmax(-1) == labels).double().mean()),
        "loss": float(F.cross_entropy(logits.double(), labels)),
    }


def check_labels(examples: Sequence[Mapping[str, Any]], where: str, classes: int | None) -> None:
    """Raise a ValueError for the first label that is not the number of a class.

    Args:
        examples: each with ``label`` or ``labels``.
        where: what the message says behind the label's number.
        classes: how many there are, or None if the model does not say.

    Example:
        >>> check_labels([{"label": 0}, {"label": 0.5}], " of the 'test' split", classes=2)
        Traceback (most recent call last):
            ...
        ValueError: label 1 of the 'test' split is 0.5: classes are numbered from 0, as whole numbers
    """
    for number, example in enumerate(examples):
        label: Any = example["label"] if "label" in example else example.get("labels")
        if not _is_whole(label):
            advice = "classes are numbered from 0, as whole numbers"
            raise ValueError(f"label {number}{where} is {label!r}: {advice}")
        if label < 0 or (classes is not None and label >= classes):
            top = "" if classes is None else f" to {classes - 1}, as the model has {classes} outputs"
            note = " (-1 stands for a label that is kept secret, as in GLUE's test split)" if label == -1 else ""
            raise ValueError(f"label {number}{where} is {label}{note}: classes are numbered from 0{top}")


def _is_whole(label: Any) -> bool:
    """Whether it is one integer or truth value, of Python's, NumPy's or torch's."""
    if isinstance(label, (Tensor, np.generic)):
        return label.ndim == 0 and "float" not in str(label.dtype) and float(label).is_integer()
    return isinstance(label, Integral)


def predict_logits(
    model: nn.Module,
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 64,
    max_length: int = 128,
) -> Tensor:
    """Logits of shape (n, classes) in the order of the sentences, float32 on the CPU. Arguments as in `evaluate`.

    Example:
        >>> from lora_ref import models
        >>> sentences = [{"sentence": "a warm film", "label": 1}, {"sentence": "a cold film", "label": 0}]
        >>> predict_logits(models.tiny_roberta(), sentences, models.tiny_tokenizer()).shape
        torch.Size([2, 2])
    """
    examples = tokenized(dataset, tokenizer, max_length)
    order = sorted(range(len(examples)), key=lambda i: length_first(examples[i]))
    in_order = _logits(model, [examples[i] for i in order], tokenizer, batch_size)
    logits = torch.empty_like(in_order)
    logits[order] = in_order
    return logits


@torch.inference_mode()
def _logits(model: nn.Module, examples: Sequence, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Tensor:
    if not examples:
        raise ValueError("no sentences to evaluate on")
    device = next(model.parameters()).device
    with evaluating(model):
        parts = []
        for start in range(0, len(examples), batch_size):
            batch = data.collate(examples[start : start + batch_size], tokenizer)
            output = model(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device))
            parts.append(output.logits.float().cpu())
    return torch.cat(parts)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout), and back to the mode that each module was in.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def tokenized(dataset: Any, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict[str, Any]]:
    """A list of ``input_ids``, ``attention_mask`` and ``label``; tokenised here unless it was before.

    A plain list, because `datasets` answers one index at a time about a hundred times slower.

    Example:
        >>> from lora_ref import models
        >>> tokenized([{"sentence": "a warm film", "label": 1}], models.tiny_tokenizer(), max_length=128)[0]["label"]
        1
    """
    if not isinstance(dataset, list):
        dataset = [dict(example) for example in dataset]
    if dataset and "input_ids" not in dataset[0]:
        if "sentence" not in dataset[0]:
            raise ValueError(f"an example needs 'sentence' or 'input_ids'; it has: {', '.join(map(repr, dataset[0]))}")
        tokens = data.tokenize({"sentence": [e["sentence"] for e in dataset]}, tokenizer, max_length)
        dataset = [
            {"input_ids": ids, "attention_mask": mask, "label": example.get("label", example.get("labels"))}
            for ids, mask, example in zip(tokens["input_ids"], tokens["attention_mask"], dataset, strict=True)
        ]
    return dataset


def length_first(example: Mapping[str, Any]) -> tuple[int, list[int]]:
    """Sorts by length, and equal lengths by their tokens, so that batches do not depend on the order given.

    Example:
        >>> length_first({"input_ids": [0, 7, 2]})
        (3, [0, 7, 2])
    """
    ids = [int(i) for i in example["input_ids"]]
    return len(ids), ids
