"""Models that several test modules make: tiny ones, with random updates, and what they hold."""

from __future__ import annotations

import torch
from torch import nn

from lora_ref import data, inject, models
from lora_ref.training import ENCODER_LINEARS


def lora_roberta(seed=0, r=4, targets=ENCODER_LINEARS) -> nn.Module:
    """A tiny model with random updates."""
    torch.manual_seed(seed)
    model = inject.inject_lora(models.tiny_roberta(), targets, rank=r, alpha=2 * r)
    for layer in inject.lora_layers(model).values():
        nn.init.normal_(layer.lora.lora_A, std=0.1)
        nn.init.normal_(layer.lora.lora_B, std=0.1)
    return model


def batch(n=6) -> dict[str, torch.Tensor]:
    tokenizer = models.tiny_tokenizer()
    sentences = [sentence for sentence, _ in data.tiny_sentences()[:n]]
    tokens = data.tokenize({"sentence": sentences}, tokenizer)
    examples = [
        {"input_ids": i, "attention_mask": m, "label": 1}
        for i, m in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)
    ]
    return data.collate(examples, tokenizer)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of everything in the model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def title(figure) -> str:
    """A figure's title on one line."""
    return " ".join(figure.get_suptitle().split())
