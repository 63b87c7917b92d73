"""Exercise 4.9, optional: a frozen weight in 4 bits."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation, a, close, error_fault
from lora_ref.rounding import number

#: Numbers that share a scale.
BLOCK = 32
_QUANTILES = np.array([NormalDist().inv_cdf(p) for p in np.linspace(0.02, 0.98, 16)])
#: What the 16 codes stand for, from -1 to 1; the notebook has the same.
LEVELS = _QUANTILES / _QUANTILES.max()


def draw_weight(rng: np.random.Generator) -> Inputs:
    """A weight whose blocks have other scales, and run across its rows; in some the largest number is negative."""
    rows, columns = [(6, 48), (10, 16), (4, 80)][int(rng.integers(3))]
    W = rng.normal(size=(rows * columns // BLOCK, BLOCK)) * 10 ** rng.uniform(-2, 1, size=(rows * columns // BLOCK, 1))
    W[0] = -np.abs(W[0])
    return {"W": W.reshape(rows, columns).astype(np.float32), "x": rng.normal(size=(3, columns)), "zeros": False}


def draw_zeros(rng: np.random.Generator) -> Inputs:
    """The same with a block of zeros, as pruned weights have them."""
    inputs = draw_weight(rng)
    W = inputs["W"].copy().reshape(-1, BLOCK)
    W[1] = 0
    return {**inputs, "W": W.reshape(inputs["W"].shape), "zeros": True}


def probe_quantise(names: Names, **inputs: Any) -> dict:
    """What is kept of a weight, and what is made of it again; also with other scales, and by a second module."""
    W = torch.tensor(inputs["W"])
    module = names.FourBit()
    kept = module.right_inverse(W)
    if not isinstance(kept, tuple) or len(kept) != 2 or not all(isinstance(one, torch.Tensor) for one in kept):
        return {"kind": type(kept).__name__}
    packed, scales = kept
    seen = {
        "kind": "",
        "packed": [str(packed.dtype).removeprefix("torch."), packed.numel()],
        "scales": [str(scales.dtype).removeprefix("torch."), scales.numel()],
        "floating": scales.is_floating_point(),
        "given": array(W),
    }
    seen["W"] = attempt(lambda: {"out": array(module(packed, scales))})
    other = names.FourBit()
    other.right_inverse(torch.zeros_like(W))
    seen["doubled"] = attempt(lambda: {"out": array(other(packed, 2 * scales))})
    seen["again"] = attempt(lambda: {"out": array(module(packed, 2 * scales))})
    return seen


def probe_layer(names: Names, **inputs: Any) -> dict:
    """A frozen nn.Linear whose weight is kept in 4 bits."""
    rows, columns = inputs["W"].shape
    linear = nn.Linear(columns, rows, bias=False).requires_grad_(False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(inputs["W"]))
    gap = names.FourBit()
    gap(*gap.right_inverse(torch.tensor(inputs["W"])))  # torch takes an open gap for a right_inverse that is not there
    parametrize.register_parametrization(linear, "weight", names.FourBit())
    x = torch.tensor(inputs["x"], dtype=torch.float32, requires_grad=True)
    y = linear(x)
    y.sum().backward()
    parameters = list(linear.named_parameters())
    return {
        "y": array(y),
        "W": array(linear.weight),
        "trains": [name for name, p in parameters if p.requires_grad],
        "bytes": sum(p.nbytes for _, p in parameters) + sum(b.nbytes for b in linear.buffers()),
        "reaches": x.grad is not None and bool(x.grad.any()),
    }


def rounded(W: np.ndarray, levels: np.ndarray = LEVELS, scales: np.ndarray | None = None) -> np.ndarray:
    """Each number as the nearest level times its block's scale."""
    blocks = W.astype(np.float64).reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) if scales is None else scales
    ratio = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales != 0)
    codes = np.abs(ratio[..., None] - levels).argmin(-1)
    return (levels[codes] * scales).reshape(W.shape)


def judge_bytes(inputs: Inputs, seen: Observation) -> Fault | None:
    if seen["kind"]:
        return Fault(f"right_inverse returned {a(seen['kind'])}", "a tuple of two tensors: the codes and the scales")
    count = inputs["W"].size
    dtype, size = seen["packed"]
    if (dtype, size) != ("uint8", count // 2):
        likely = ""
        if size == count:
            likely = "a code takes half a byte: two of them go into one, high * 16 + low"
        elif size == count // 2:
            likely = "a byte is torch.uint8; an int64 takes eight"
        return Fault(f"{size} codes of {dtype} for {count} numbers, expected {count // 2} of uint8", likely)
    dtype, size = seen["scales"]
    if size != count // BLOCK or not seen["floating"]:
        likely = "a scale for each 32 numbers in a row: W.reshape(-1, 32)"
        return Fault(f"{size} scales of {dtype} for {count} numbers, expected {count // BLOCK}", likely)
    return None


def judge_nearest(inputs: Inputs, seen: Observation) -> Fault | None:
    if seen["kind"]:
        return judge_bytes(inputs, seen)
    if "error" in seen["W"]:
        return error_fault(seen["W"]["error"])
    if not np.array_equal(seen["given"], inputs["W"]):
        return Fault("right_inverse changed the W it was given", "W / scales, not W /= scales")
    return _value_fault(inputs["W"], seen["W"]["out"])


def _value_fault(W: np.ndarray, found: np.ndarray) -> Fault | None:
    if found.shape != W.shape:
        return Fault(f"a weight of shape {found.shape}, expected {W.shape}", "keep W's shape in right_inverse")
    if not np.isfinite(found).all():
        likely = "a block of zeros has the scale 0: divide by scales.clamp_min(...), a tiny number"
        return Fault("a weight that is not finite", likely)
    expected, blocks = rounded(W), W.astype(np.float64).reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    off = np.abs(found - expected).reshape(blocks.shape)
    apart = off > 1e-4 * scale + 1e-9
    # where two levels are as near as each other, either is right
    apart &= (
        np.abs(found.reshape(blocks.shape) - blocks) > np.abs(expected.reshape(blocks.shape) - blocks) + 1e-4 * scale
    )
    if not apart.any():
        return None
    share = f"{apart.mean():.0%} of the numbers are not the nearest level times their block's scale"
    return Fault(share, _cause(W, found, expected))


def _cause(W: np.ndarray, found: np.ndarray, expected: np.ndarray) -> str:
    blocks = W.astype(np.float64).reshape(-1, BLOCK)
    lower = np.clip(
        np.searchsorted(LEVELS, blocks / np.maximum(np.abs(blocks).max(1, keepdims=True), 1e-30)) - 1, 0, 15
    )
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    swapped = expected.reshape(-1, 2)[:, ::-1].reshape(W.shape)
    pairs = expected.reshape(-1, 2)
    causes = {
        "the two codes of a byte come out in the wrong order": swapped,
        "both codes of a pair come out as the same one: packed // 16 and packed % 16": pairs[:, [0, 0]].reshape(
            W.shape
        ),
        "both codes of a pair come out the same: packed // 16 and packed % 16": pairs[:, [1, 1]].reshape(W.shape),
        "the nearest level, not the one below: argmin of the distance": (LEVELS[lower] * scale).reshape(W.shape),
        "forward does not multiply by the scales": (expected.reshape(blocks.shape) / np.maximum(scale, 1e-30)).reshape(
            W.shape
        ),
        "each block has its own scale, not one for the whole matrix": rounded(
            W, scales=np.full_like(scale, np.abs(W).max())
        ),
        "a scale is the block's largest absolute value, not its mean": rounded(
            W, scales=np.abs(blocks).mean(1, keepdims=True)
        ),
        "a scale is the block's largest absolute value, not its standard deviation": rounded(
            W, scales=blocks.std(1, ddof=1, keepdims=True)
        ),
        "use the levels that are given: they are as unevenly spaced as weights are": rounded(W, np.linspace(-1, 1, 16)),
    }
    negative = -blocks.min(axis=1) > blocks.max(axis=1)
    if close(found.reshape(blocks.shape)[~negative], expected.reshape(blocks.shape)[~negative], 1e-4):
        return "right where a block's largest number is positive: a scale is the largest absolute value, abs()"
    return next((cause for cause, wrong in causes.items() if close(found, wrong, 1e-4)), "")


def judge_scales(inputs: Inputs, seen: Observation) -> Fault | None:
    """A module makes the weight of what it is given, not of what it remembers; a block of zeros stays one."""
    if seen["kind"]:
        return judge_bytes(inputs, seen)
    for key in ("W", "doubled", "again"):
        if "error" in seen[key]:
            return error_fault(seen[key]["error"])
    fault = _value_fault(inputs["W"], seen["W"]["out"])
    if fault and (not np.isfinite(seen["W"]["out"]).all()):
        return fault
    if inputs["zeros"] and np.any(seen["W"]["out"].reshape(-1, BLOCK)[1]):
        return Fault("a block of zeros comes out as something else", "its scale is 0, and so is each level times it")
    for key in ("doubled", "again"):
        if not close(seen[key]["out"], 2 * seen["W"]["out"], 1e-4):
            likely = "forward takes codes and scales from its arguments, and keeps nothing of an earlier call"
            return Fault("with scales twice as large, it does not give twice the weight", likely)
    return None


def judge_layer(inputs: Inputs, seen: Observation) -> Fault | None:
    if seen["trains"]:
        return Fault(f"{', '.join(seen['trains'])} trains", "codes and scales of a frozen weight are frozen")
    if fault := _value_fault(inputs["W"], seen["W"]):
        return Fault("the layer's weight is not the rounded one", fault.likely or ELSEWHERE)
    if not close(seen["y"], inputs["x"] @ rounded(inputs["W"]).T, 1e-3):
        return Fault("the layer's output is not x W'^T with the rounded weight W'", ELSEWHERE)
    most = inputs["W"].size // 2 + 4 * inputs["W"].size // BLOCK
    if seen["bytes"] > most:
        likely = "nothing else is kept: not W, nor the codes one by one"
        return Fault(f"the layer keeps {number(seen['bytes'])} bytes, expected {most}", likely)
    if not seen["reaches"]:
        return Fault("no gradient reaches the layer's input", "torch.no_grad() around all of the layer")
    return None


EXERCISE = Exercise(
    "4.9",
    "a base in 4 bits",
    names=("FourBit",),
    checks=[
        Check(
            "4.9/bytes",
            "right_inverse keeps a byte for two numbers and a scale for each 32",
            probe_quantise,
            judge_bytes,
            draw_weight,
            seed=49,
        ),
        Check(
            "4.9/nearest",
            "forward gives each number's nearest level times its block's largest absolute value",
            probe_quantise,
            judge_nearest,
            draw_weight,
            seed=49,
        ),
        Check(
            "4.9/scales",
            "the weight is made of the codes and scales that forward is given; a block of zeros stays one",
            probe_quantise,
            judge_scales,
            draw_zeros,
            seed=49,
        ),
        Check(
            "4.9/layer",
            "a frozen layer keeps codes and scales alone, and computes with the rounded weight",
            probe_layer,
            judge_layer,
            draw_weight,
            seed=49,
        ),
    ],
)
