"""Answers that no student hands in by mistake: what a grader must survive, for whatever name it is the answer."""

from __future__ import annotations

import sys

import torch
from torch import nn


def stub(value):
    """A function of any arguments that returns one value."""
    return lambda *args, **kwargs: value


def hangs(*_, **__):
    while True:
        pass


def quits(*_, **__):
    sys.exit(0)


def refuses(*_, **__):
    raise ValueError("no")


class Rude(Exception):
    def __str__(self):
        raise RuntimeError("no text for you")


def rude(*_, **__):
    raise Rude


class Liar(torch.Tensor):
    """A tensor that claims to equal, and to be close to, everything."""

    def __eq__(self, other):
        return True

    __hash__ = torch.Tensor.__hash__

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.allclose, torch.equal):
            return True
        return super().__torch_function__(func, types, args, kwargs or {})


class Always(float):
    """A float that equals everything."""

    def __eq__(self, other):
        return True

    __hash__ = float.__hash__


class NaNLayer(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        super().__init__()
        self.lora_A = nn.Parameter(torch.full((rank, in_features), float("nan")))
        self.lora_B = nn.Parameter(torch.full((out_features, rank), float("nan")))
        self.scaling = float("nan")

    def forward(self, x):
        return torch.full((*x.shape[:-1], len(self.lora_B)), float("nan"))


class LyingLayer(NaNLayer):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        super().__init__(in_features, out_features, rank, alpha)
        self.lora_A, self.lora_B = (nn.Parameter(p.data.as_subclass(Liar)) for p in (self.lora_A, self.lora_B))

    def forward(self, x):
        return super().forward(x).as_subclass(Liar)


class Itself:
    """Answers every attribute and every call with itself."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class Strange:
    """Answers every question with another strange thing, and each comparison with yes."""

    def __getattr__(self, name):
        return Strange()

    def __eq__(self, other):
        return True

    __hash__ = None

    def __call__(self, *args, **kwargs):
        return Strange()


HOSTILE = {
    "nothing": None,
    "a number": 7,
    "a text": "LoRALayer",
    "returns None": stub(None),
    "returns nan": stub(float("nan")),
    "returns 0.0": stub(0.0),
    "returns True": stub(True),
    "returns an empty dict": stub({}),
    "returns an empty list": stub([]),
    "returns a lying tensor": stub(torch.zeros(8).as_subclass(Liar)),
    "returns a strange thing": stub(Strange()),
    "rude exception": rude,
    "quits": quits,
    "refuses": refuses,
    "nan layer": NaNLayer,
    "lying layer": LyingLayer,
    "the class of itself": Itself,
    "a strange thing": Strange(),
    "the wrong class": nn.Linear,
}
