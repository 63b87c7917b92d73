"""Exercise 4.9, optional, what students do not get: hidden checks, mutants."""

from __future__ import annotations

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage04 import x9_four_bit as room
from lora_ref.checks.verdicts import Check, Inputs


def _draw_large(rng: np.random.Generator) -> Inputs:
    """A weight of many blocks, so that each code turns up in each half of a byte."""
    return {"W": rng.normal(size=(40, 64)).astype(np.float32), "x": rng.normal(size=(2, 64)), "zeros": False}


HIDDEN = [
    graded(room, "4.9/bytes"),
    graded(room, "4.9/nearest"),
    Check(
        "4.9/every-code",
        "all 16 codes come back from either half of a byte",
        room.probe_quantise,
        room.judge_nearest,
        _draw_large,
    ),
    graded(room, "4.9/scales"),
    graded(room, "4.9/layer"),
]

_BLOCKS = "blocks = W.reshape(-1, 32)"
_SCALES = "scales = blocks.abs().amax(1, keepdim=True)"
_RATIOS = "ratios = blocks / scales.clamp_min(1e-30)"
_CODES = "codes = (ratios[..., None] - self.levels.to(W)).abs().argmin(-1).to(torch.uint8)"
_PACK = "return codes[:, ::2] * 16 + codes[:, 1::2], scales"
_UNPACK = "codes = torch.stack([packed // 16, packed % 16], -1).flatten(1).long()"
_RETURN = "return (self.levels.to(scales)[codes] * scales).reshape(self.shape)"

MUTANTS = [
    Mutant("4.9/unpacked", "a byte for each code", f"{_PACK}", "return codes, scales", "half a byte"),
    Mutant("4.9/int64", "eight bytes for two codes", _CODES, _CODES.replace("torch.uint8", "torch.int64"), "eight"),
    Mutant(
        "4.9/swapped",
        "the codes of a byte change places",
        _UNPACK,
        "codes = torch.stack([packed % 16, packed // 16], -1).flatten(1).long()",
        "wrong order",
    ),
    Mutant(
        "4.9/low-lost",
        "the low half is not read",
        _UNPACK,
        _UNPACK.replace("packed % 16", "packed // 16"),
        "packed % 16",
    ),
    Mutant(
        "4.9/below",
        "the level below, not the nearest",
        _CODES,
        "codes = (torch.bucketize(ratios, self.levels.to(W)) - 1).clamp_min(0).to(torch.uint8)",
        "not the one below",
    ),
    Mutant("4.9/no-scale", "levels alone", _RETURN, _RETURN.replace(" * scales)", ")"), "does not multiply"),
    Mutant(
        "4.9/one-scale",
        "one scale for the matrix",
        _SCALES,
        "scales = W.abs().max().expand(len(blocks), 1)",
        "not one for the whole matrix",
    ),
    Mutant(
        "4.9/largest",
        "the largest number, signs and all",
        _SCALES,
        _SCALES.replace(".abs()", ""),
        "largest absolute value, abs()",
    ),
    Mutant(
        "4.9/mean",
        "the mean of the absolute values",
        _SCALES,
        "scales = blocks.abs().mean(1, keepdim=True)",
        "not its mean",
    ),
    Mutant(
        "4.9/deviation",
        "the standard deviation",
        _SCALES,
        "scales = blocks.std(1, keepdim=True)",
        "not its standard deviation",
    ),
    Mutant(
        "4.9/least-scale",
        "a scale is at least 1, against zeros",
        _SCALES,
        f"{_SCALES}.clamp_min(1.0)",
        "something else",
    ),
    Mutant(
        "4.9/even-levels",
        "evenly spaced levels",
        "levels = levels / levels.max()",
        "levels = torch.linspace(-1, 1, 16)",
        "use the levels that are given",
    ),
    Mutant(
        "4.9/flat", "the weight's shape is lost", _RETURN, _RETURN.replace(".reshape(self.shape)", ""), "keep W's shape"
    ),
    Mutant(
        "4.9/remembered",
        "the first result is kept",
        _RETURN,
        "if not hasattr(self, 'kept'):\n"
        "            self.kept = (self.levels.to(scales)[codes] * scales).reshape(self.shape)\n"
        "        return self.kept",
        "from its arguments",
    ),
    Mutant("4.9/blocks-of-16", "blocks of 16", _BLOCKS, "blocks = W.reshape(-1, 16)", "a scale for each 32"),
    Mutant(
        "4.9/in-place",
        "the weight is divided in place",
        _RATIOS,
        "ratios = blocks.div_(scales.clamp_min(1e-30))",
        "not W /= scales",
    ),
]
