"""Exercises 4.4 and 4.10: a small classifier in float64, its loader, and its sums in NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.probing import array
from lora_ref.checks.verdicts import Inputs

#: How much the head counts: little, so that the gradients' norm stays below 1, where clipping changes nothing.
HEAD = 0.2


class PooledClassifier(nn.Module):
    """Mean of frozen word vectors, a frozen linear layer, a low-rank update, and two biases as the head.

    It is called as RoBERTa is, and writes down each forward pass, so that a judge can redo the sums. In float64: then
    NumPy agrees to 1e-10.
    """

    def __init__(self, words: np.ndarray, weight: np.ndarray, A: np.ndarray, B: np.ndarray, head: np.ndarray):
        super().__init__()
        self.words = nn.Parameter(torch.tensor(words), requires_grad=False)
        self.weight = nn.Parameter(torch.tensor(weight), requires_grad=False)
        self.lora_A = nn.Parameter(torch.tensor(A))
        self.lora_B = nn.Parameter(torch.tensor(B))
        self.classifier = nn.Parameter(torch.tensor(head))
        # whose names tell nothing about what trains
        self.bias = nn.Parameter(torch.zeros(len(head), dtype=torch.float64))
        self.classifier_norm = nn.Parameter(torch.ones(len(head)), requires_grad=False)
        self.forwards: list[dict] = []

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **others: Any) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        if "memory" in others:
            raise RuntimeError("out of memory, as a GPU's")
        if "value" in others:
            raise ValueError("labels of another size than the batch")
        if others:
            raise TypeError(f"forward() got an unexpected keyword argument {next(iter(others))!r}")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if len(self.forwards) < 200:
            given = {"input_ids": input_ids, "attention_mask": attention_mask}
            given |= {"A": self.lora_A, "B": self.lora_B, "head": self.classifier + self.bias}
            given["classifier"] = self.classifier
            self.forwards.append({k: array(v) for k, v in given.items()} | {"training": bool(self.training)})
        mask = attention_mask.unsqueeze(-1).to(self.words.dtype)
        pooled = (self.words[input_ids] * mask).sum(1) / mask.sum(1)
        logits = pooled @ self.weight.T + (pooled @ self.lora_A.T) @ self.lora_B.T
        logits = logits + HEAD * (self.classifier + self.bias)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Passes(torch.utils.data.IterableDataset):
    """Each pass over it yields other batches, as a shuffled loader's do; it draws a number, as they do.

    It has no length: a stream has none. It sees whether its batches stay as they are while others have them.
    """

    def __init__(self, passes: Sequence[Sequence[Mapping[str, np.ndarray]]]):
        self.passes, self.started = passes, 0
        self.drawn: list[float] = []
        self.changed: list[str] = []

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        number, self.started = self.started, self.started + 1
        self.drawn.append(float(torch.rand(())))
        for batch in self.passes[number % len(self.passes)]:
            given = {key: torch.tensor(values) for key, values in batch.items()}
            try:
                yield given
            finally:
                for key, values in batch.items():
                    if key not in given or not np.array_equal(array(given[key]), values):
                        self.changed.append(f"train changed its argument loader: {key} of a batch is not what it was")


def draw_batch(rng: np.random.Generator, vocabulary: int, classes: int, size: int = 4) -> dict[str, np.ndarray]:
    """``size`` sentences of 2 to 7 tokens, padded to 7."""
    mask = (np.arange(7) < rng.integers(2, 8, size=(size, 1))).astype(np.int64)
    ids = rng.integers(1, vocabulary, size=(size, 7)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": rng.integers(0, classes, size=size)}


def forward_numpy(inputs: Inputs, batch: Mapping, at: Mapping) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """The loss on a batch and its gradients with respect to A, B and head, with the parameters of a recorded pass."""
    A, B = at["A"], at["B"]
    mask = batch["attention_mask"][..., None]
    pooled = (inputs["words"][batch["input_ids"]] * mask).sum(1) / mask.sum(1)
    logits = pooled @ (inputs["weight"] + B @ A).T + HEAD * at["head"]
    logits = logits - logits.max(axis=1, keepdims=True)
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows, labels = np.arange(len(pooled)), batch["labels"]
    loss = -np.mean(np.log(share[rows, labels]))
    error = share
    error[rows, labels] -= 1
    error /= len(rows)
    return float(loss), (error @ B).T @ pooled, error.T @ (pooled @ A.T), HEAD * error.sum(axis=0)
