"""Stage 03, LoRA in a whole model: what several of its exercises use.

The probes' model is a small encoder with RoBERTa's shape of names and some traps among them: where names are matched,
twelve and more layers, so that ``layer.1`` begins like ``layer.10``; a ``my_query``; an ``output_dense`` beside
``output.dense``; a LayerNorm that is called ``value``; beside the head a ``pre_classifier`` and a ``classifier_norm``,
which are not of it. Its weights follow from the inputs' seed, so a judge makes the
same model for itself and needs no word of the student's about it.

A wrapped layer is any module with an ``nn.Linear`` as ``.linear`` and ``lora_A`` and ``lora_B`` in ``.lora``: the
package's own `LinearWithLoRA`, the student's of stage 2, or another one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref import inject
from lora_ref.checks.copies import copied
from lora_ref.checks.probing import array
from lora_ref.checks.verdicts import Fault, Inputs, Observation
from lora_ref.layers import LinearWithLoRA

#: See `lora_ref.checks.probing.stand_ins`.
STAND_INS = {
    "freeze": lambda names: inject.freeze,
    "match_targets": lambda names: inject.match_targets,
    "replace_module": lambda names: inject.replace_module,
    "LinearWithLoRA": lambda names: LinearWithLoRA,
}


def modules(**children: nn.Module) -> Any:
    """A module that only holds others, as its attributes."""
    holder = nn.Module()
    for name, child in children.items():
        holder.add_module(name, child)
    return holder


class Block(nn.Module):
    """One layer of the encoder, with RoBERTa's names; a ``short`` one lacks key, value and the inner layer."""

    def __init__(self, width: int, inner: int, short: bool):
        super().__init__()
        parts = {"query": nn.Linear(width, width)}
        if not short:
            parts |= {"key": nn.Linear(width, width, bias=False), "value": nn.Linear(width, width)}
            self.intermediate = modules(dense=nn.Linear(width, inner))
        self.attention = modules(self=modules(**parts), output=modules(dense=nn.Linear(width, width)))
        self.output = modules(dense=nn.Linear(width if short else inner, width), LayerNorm=nn.LayerNorm(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = dict(self.attention.get_submodule("self").named_children())
        hidden = parts["query"](x)
        if "key" in parts:
            hidden = torch.softmax(hidden @ parts["key"](x).mT, dim=-1) @ parts["value"](x)
        hidden = torch.tanh(self.attention.output.dense(hidden))
        if hasattr(self, "intermediate"):
            hidden = torch.tanh(self.intermediate.dense(hidden))
        return self.output.LayerNorm(x + self.output.dense(hidden))


class LinearWithGain(nn.Module):
    """What looks like a linear layer by its class's name and its attributes, and holds one."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.gain = nn.Parameter(torch.ones(()))


class OwnLinear(nn.Linear):
    """An `nn.Linear`, by inheritance."""


class Classifier(nn.Module):
    """The probes' model: embeddings, an encoder of blocks, a few layers with names that mislead, a head.

    ``kinds``: with modules that are almost linear layers, and one that is by inheritance; no forward meets them.
    """

    def __init__(self, prefix: str, layers: int, width: int, inner: int, plain_head: bool, kinds: bool = False):
        super().__init__()
        self.prefix = prefix
        self.scale = nn.Parameter(torch.ones(width))
        self.embeddings = modules(word=nn.Embedding(11, width), value=nn.LayerNorm(width))
        self.add_module(
            prefix, modules(layer=nn.ModuleList(Block(width, inner, short=1 < n < layers - 2) for n in range(layers)))
        )
        self.my_query = nn.Linear(width, width)
        self.output_dense = nn.Linear(width, width, bias=False)
        self.mixer = nn.Sequential(nn.Linear(width, inner), nn.Tanh(), nn.Linear(inner, width))
        self.extra = nn.ModuleDict({"gate": nn.Linear(width, width)})
        self.register_buffer("seen", torch.zeros(width + 1))
        if kinds:
            self.gained = LinearWithGain(nn.Linear(width, width))
            self.pair = nn.Bilinear(width, width, width)
            self.extra["own"] = OwnLinear(width, width)
        self.pre_classifier = nn.Linear(width, width)
        self.classifier: nn.Module = nn.Linear(width, 3) if plain_head else nn.Sequential()
        if not plain_head:
            self.classifier.add_module("dense", nn.Linear(width, width))
            self.classifier.add_module("norm", nn.LayerNorm(width))
            self.classifier.add_module("out_proj", nn.Linear(width, 3))
        self.classifier_norm = nn.LayerNorm(3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embeddings.value(self.embeddings.word(ids) * self.scale)
        for block in self.get_submodule(f"{self.prefix}.layer").children():
            x = block(x)
        x = x + self.my_query(x) + self.output_dense(x) + self.mixer(x) + self.extra["gate"](x)
        x = self.classifier(torch.tanh(self.pre_classifier(x.mean(dim=1))))
        return x + self.classifier_norm(x)


def draw_model(rng: np.random.Generator, **more: Any) -> Inputs:
    """Sizes, names and a seed for the weights."""
    width, inner = (int(n) for n in rng.choice([4, 6, 8, 10], size=2, replace=False))
    return {
        "prefix": str(rng.choice(["encoder", "backbone", "body"])),
        "layers": int(rng.integers(4, 6)),
        "width": width,
        "inner": inner,
        "plain_head": bool(rng.integers(2)),
        "kinds": False,
        "seed": int(rng.integers(2**31)),
        "ids": rng.integers(0, 11, size=(3, 5)),
        **more,
    }


def build(inputs: Inputs) -> Classifier:
    """The inputs' model, in evaluation mode; the same each time, and each time a copy of its own."""
    return copied(_built(*(inputs[name] for name in (*SIZES, "seed"))))


SIZES = ("prefix", "layers", "width", "inner", "plain_head", "kinds")


@functools.lru_cache(maxsize=8)
def _built(prefix: str, layers: int, width: int, inner: int, plain_head: bool, kinds: bool, seed: int) -> Classifier:
    model = Classifier(prefix, layers, width, inner, plain_head, kinds)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        shape = tuple(parameter.shape)
        # matrices keep the size of what they multiply: a model that amplifies rounding would fail right answers
        value = rng.normal(size=shape) / (shape[-1] ** 0.5 if len(shape) > 1 else 1.0)
        parameter.data.copy_(torch.tensor(value, dtype=torch.float32))
    return model.eval()


def layer_names(inputs: Inputs) -> list[str]:
    """Dotted names of the model's linear layers, in the model's order."""
    return list(_layer_names(inputs["prefix"], inputs["layers"], inputs["plain_head"], inputs["kinds"]))


@functools.lru_cache(maxsize=32)
def _layer_names(prefix: str, layers: int, plain_head: bool, kinds: bool) -> tuple[str, ...]:
    model = Classifier(prefix, layers, 2, 2, plain_head, kinds)
    return tuple(name for name, module in model.named_modules() if isinstance(module, nn.Linear))


def at(model: nn.Module, name: str) -> nn.Module | None:
    """The module that the path of names leads to; `named_modules` would also give one that is *called* ``"a.b"``."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def matches(inputs: Inputs, targets: Sequence[str]) -> list[str]:
    """What the targets mean, by the contract's own words."""
    names = layer_names(inputs)
    return [name for name in names if any(name == target or name.endswith("." + target) for target in targets)]


def numpy_parameters(inputs: Inputs) -> dict[str, np.ndarray]:
    return {name: array(parameter) for name, parameter in build(inputs).named_parameters()}


def some(names: Sequence[str], count: int = 3) -> str:
    """A few names, and how many more there are."""
    shown = ", ".join(names[:count])
    return shown + (f" and {len(names) - count} more" if len(names) > count else "")


def not_the_model(seen: Observation) -> Fault:
    if seen["kind"] == "NoneType":
        return Fault("it returns None", "return model is missing")
    likely = "a copy: change the model in place" if seen["kind"] == "Classifier" else "return the model"
    return Fault(f"it returns another object, a {seen['kind']}", likely)
