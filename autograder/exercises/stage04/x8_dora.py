"""Exercise 4.8, optional, what students do not get: hidden checks, mutants."""

from __future__ import annotations

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage04 import x8_dora as room
from lora_ref.checks.verdicts import Check, Inputs


def _draw_square(rng: np.random.Generator) -> Inputs:
    """A square weight: a length for each column would fit it as well."""
    inputs = room.draw_weight(rng)
    out = len(inputs["W"])
    return {**inputs, **{key: inputs[key][:, :out] for key in ("W", "lora_A", "G", "x")}}


HIDDEN = [
    graded(room, "4.8/parameters"),
    graded(room, "4.8/start"),
    graded(room, "4.8/value"),
    Check(
        "4.8/square",
        "in a square weight, too, the lengths are those of the rows",
        room.probe_forward,
        room.judge_value,
        _draw_square,
    ),
    graded(room, "4.8/gradients"),
    Check(
        "4.8/layer",
        "registered on a frozen layer, the three train and the original never changes",
        room.probe_layer,
        room.judge_layer,
        room.draw_weight,
    ),
]

_A = "self.lora_A = nn.Parameter(torch.randn(rank, W.shape[1]) / math.sqrt(W.shape[1]))\n        self.lora_B = nn"
_B = "self.lora_B = nn.Parameter(torch.zeros(W.shape[0], rank))\n        self.lora_length"
_LENGTH = "self.lora_length = nn.Parameter(W.detach().norm(dim=1, keepdim=True))"
_SCALING = f"{_LENGTH}\n        self.scaling = alpha / rank"
_TURNED = "turned = W + self.scaling * (self.lora_B @ self.lora_A)\n        return self.lora_length"
_RETURN = "return self.lora_length * turned / turned.norm(dim=1, keepdim=True).detach()"


MUTANTS = [
    Mutant("4.8/no-detach", "the norm passes gradients on", _RETURN, _RETURN.replace(".detach()", ""), "detach()"),
    Mutant(
        "4.8/detached-direction",
        "all of the direction is a constant",
        _RETURN,
        "return self.lora_length * (turned / turned.norm(dim=1, keepdim=True)).detach()",
        "detach the norm alone",
    ),
    Mutant(
        "4.8/column-lengths",
        "a length for each column, as the paper's transposed W has them",
        _LENGTH,
        _LENGTH.replace("dim=1", "dim=0"),
        "a length for each column",
    ),
    Mutant(
        "4.8/columns-divided",
        "columns are divided by their length",
        _RETURN,
        _RETURN.replace("dim=1", "dim=0"),
        "dim=1 runs along a row",
    ),
    Mutant(
        "4.8/whole-norm",
        "one norm for the whole matrix",
        _RETURN,
        _RETURN.replace("dim=1, keepdim=True", ""),
        "norm of the whole matrix",
    ),
    Mutant(
        "4.8/length-of-W",
        "divided by the lengths of W",
        _RETURN,
        _RETURN.replace("turned.norm", "W.norm"),
        "its own, not that of W",
    ),
    Mutant(
        "4.8/not-divided",
        "the rows keep their length",
        _RETURN,
        "return self.lora_length * turned",
        "not divided by their length",
    ),
    Mutant(
        "4.8/no-length",
        "the lengths are not used",
        _RETURN,
        _RETURN.replace("self.lora_length * ", ""),
        "multiply by lora_length",
    ),
    Mutant(
        "4.8/frozen-length",
        "the lengths do not train",
        _LENGTH,
        _LENGTH.replace("nn.Parameter(W.detach().norm(dim=1, keepdim=True))", "W.detach().norm(dim=1, keepdim=True)"),
        "each of the three is an nn.Parameter",
    ),
    Mutant(
        "4.8/lengths-of-one",
        "the lengths start at 1",
        _LENGTH,
        "self.lora_length = nn.Parameter(torch.ones(W.shape[0], 1))",
        "not at 1",
    ),
    Mutant(
        "4.8/squared-lengths",
        "sums of squares in place of lengths",
        _LENGTH,
        "self.lora_length = nn.Parameter(W.detach().square().sum(dim=1, keepdim=True))",
        "squares of the lengths",
    ),
    Mutant(
        "4.8/flat-lengths",
        "lengths of shape (out,)",
        _LENGTH,
        _LENGTH.replace("dim=1, keepdim=True", "dim=1"),
        "keepdim=True keeps",
    ),
    Mutant("4.8/random-B", "B starts random", _B, _B.replace("torch.zeros", "torch.randn"), "B must start at zero"),
    Mutant("4.8/zero-A", "A starts at zero", _A, _A.replace("torch.randn", "torch.zeros"), "A starts random"),
    Mutant("4.8/no-scale", "not scaled", _TURNED, _TURNED.replace("self.scaling * ", ""), "alpha / rank is missing"),
    Mutant(
        "4.8/alpha-only",
        "alpha is not divided by rank",
        _SCALING,
        _SCALING.replace("alpha / rank", "alpha"),
        "division by rank is missing",
        "S0",
    ),
    Mutant("4.8/no-W", "the update alone is turned", _TURNED, _TURNED.replace("W + ", ""), "W is missing"),
    Mutant(
        "4.8/in-place",
        "the given weight is added to",
        _TURNED,
        "turned = W.add_((self.scaling * self.lora_B @ self.lora_A).detach())\n        return self.lora_length",
        "not W += update",
    ),
]
