"""Exercise 3.9, optional: LoRA on `nn.MultiheadAttention`, whose query, key and value are one matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt, raised
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation, a, close, error_fault
from lora_ref.rounding import number

FACTORS = ("lora_A", "lora_B")


def draw_attention(rng: np.random.Generator) -> Inputs:
    """A packed weight, factors that change it much, and sentences."""
    heads = int(rng.integers(2, 4))
    size, rank = heads * int(rng.integers(2, 4)), int(rng.integers(2, 4))
    return {
        "heads": heads,
        "rank": rank,
        "alpha": float(rank * rng.choice([1.5, 2.5, 3.0])),
        "W": rng.normal(size=(3 * size, size)),
        "lora_A": rng.normal(size=(2, rank, size)),
        "lora_B": rng.normal(size=(2, size, rank)),
        "x": rng.normal(size=(2, 4, size)),
        "seed": int(rng.integers(2**31)),
    }


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


@torch.no_grad()
def fill(module: nn.Module, inputs: Inputs) -> None:
    for name in FACTORS:
        getattr(module, name).copy_(tensor(inputs[name]))


def attention_of(inputs: Inputs, W: np.ndarray, **options: Any) -> nn.MultiheadAttention:
    """torch's own, with this packed weight; two of one seed are alike."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(inputs["seed"])
        attention = nn.MultiheadAttention(W.shape[1], inputs["heads"], batch_first=True, **options)
        with torch.no_grad():
            attention.in_proj_weight.copy_(tensor(W))
            attention.in_proj_bias.normal_()
    return attention


def probe_parametrization(names: Names, **inputs: Any) -> dict:
    """A module as it starts, and with known factors."""
    size = inputs["W"].shape[1]
    module, again = (names.InProjLoRA(size, inputs["rank"], inputs["alpha"]) for _ in range(2))

    def start() -> dict:
        W = tensor(inputs["W"])
        out, zero = module(W), not module.lora_B.any()
        (out * torch.linspace(-1, 2, out.numel()).reshape(out.shape)).sum().backward()
        return {"W": array(out), "B": float(module.lora_B.grad.abs().max()), "zero": zero}

    seen = {
        "shapes": {name: list(p.shape) for name, p in module.named_parameters() if p.requires_grad},
        "A": [array(one.lora_A) if hasattr(one, "lora_A") else None for one in (module, again)],
        "start": attempt(start),
    }

    def filled() -> dict:
        fill(again, inputs)
        W = tensor(inputs["W"])
        return {"W": array(again(W)), "given": array(W)}

    return {**seen, "filled": attempt(filled)}


def probe_attention(names: Names, **inputs: Any) -> dict:
    """An attention layer that is adapted: outputs, what trains, a backward pass."""
    x, attention = tensor(inputs["x"]), attention_of(inputs, inputs["W"])
    before = array(attention(x, x, x)[0])
    returned = names.adapt_attention(attention, inputs["rank"], inputs["alpha"])
    seen: dict[str, Any] = {"before": before, "same": returned is attention, "kind": type(returned).__name__}
    seen["start"] = array(attention(x, x, x)[0])
    trains = {name: p for name, p in attention.named_parameters() if p.requires_grad}
    seen["trains"] = sorted(name.rpartition(".")[2] for name in trains)
    seen["count"] = sum(p.numel() for p in trains.values())
    for module in attention.modules():
        if all(isinstance(getattr(module, name, None), nn.Parameter) for name in FACTORS):
            fill(module, inputs)
    out = attention(x, x, x)[0]
    if out.requires_grad:
        out.square().sum().backward()
    seen["gradients"] = sorted(n.rpartition(".")[2] for n, p in trains.items() if p.grad is not None and p.grad.any())
    seen["out"] = array(out)
    with torch.no_grad():
        seen["evaluated"] = array(attention.eval()(x, x, x, need_weights=False)[0])
    expected = attention_of(inputs, packed(inputs))  # torch's own attention with the adapted weight
    seen["expected"] = array(expected(x, x, x)[0])
    return seen


def probe_refused(names: Names, **inputs: Any) -> dict:
    """A layer whose query, key and value are three matrices, and a second call."""
    size = inputs["W"].shape[1]
    apart = nn.MultiheadAttention(size, inputs["heads"], kdim=size + 1, vdim=size + 2)
    once = names.adapt_attention(attention_of(inputs, inputs["W"]), inputs["rank"], inputs["alpha"])
    return {
        "apart": raised(lambda: names.adapt_attention(apart, inputs["rank"], inputs["alpha"])),
        "twice": raised(lambda: names.adapt_attention(once, inputs["rank"], inputs["alpha"])),
        "trains": [name for name, p in apart.named_parameters() if not p.requires_grad],
    }


def packed(inputs: Inputs, scaling: float | None = None, places: tuple[int, int] = (0, 2)) -> np.ndarray:
    """The packed weight with each of the two updates in its place: 0 is query, 1 key, 2 value."""
    scaling = inputs["alpha"] / inputs["rank"] if scaling is None else scaling
    W, size = inputs["W"].copy(), inputs["W"].shape[1]
    for place, A, B in zip(places, inputs["lora_A"], inputs["lora_B"], strict=True):
        W[place * size : (place + 1) * size] += scaling * B @ A
    return W


def judge_start(inputs: Inputs, seen: Observation) -> Fault | None:
    size, rank = inputs["W"].shape[1], inputs["rank"]
    wanted = {"lora_A": [2, rank, size], "lora_B": [2, size, rank]}
    if seen["shapes"] != wanted:
        shown = ", ".join(f"{name} {tuple(shape)}" for name, shape in sorted(seen["shapes"].items())) or "none"
        likely = "two updates, query's and value's, in one parameter each: the first dimension is 2"
        return Fault(
            f"trainable parameters {shown}; expected lora_A {(2, rank, size)}, lora_B {(2, size, rank)}", likely
        )
    first, second = seen["A"]
    if not np.isfinite(first).all() or np.array_equal(first, second) or np.array_equal(first[0], first[1]):
        return Fault("lora_A is the same for query and value, or in two new modules", "A starts random")
    if "error" in seen["start"]:
        return error_fault(seen["start"]["error"])
    if not close(seen["start"]["W"], inputs["W"], 1e-6):
        likely = "with lora_B at zero the result must be W itself"
        return Fault(
            "a new module changes the weight", likely if seen["start"]["zero"] else "lora_B must start at zero"
        )
    if not 0 < seen["start"]["B"] < np.inf:
        return Fault("at the start no gradient reaches lora_B", "the graph is cut, or A is zero as well")
    return None


def judge_rows(inputs: Inputs, seen: Observation) -> Fault | None:
    if "error" in seen["filled"]:
        return error_fault(seen["filled"]["error"])
    if not close(seen["filled"]["given"], inputs["W"], 1e-6):
        likely = "writing into W[:size] changes W itself: build a new tensor, torch.cat, or clone first"
        return Fault("forward changed the W it was given", likely)
    found, expected = seen["filled"]["W"], packed(inputs)
    if found.shape != expected.shape:
        return Fault(f"a weight of shape {found.shape}, expected {expected.shape}", "query's, key's and value's rows")
    if close(found, expected):
        return None
    rank, alpha = inputs["rank"], inputs["alpha"]
    key = packed(inputs) + packed({**inputs, "lora_B": inputs["lora_B"] * [[[1.0]], [[0.0]]]}, places=(1, 1))
    causes = {
        "the rows are query, key, value: value's are the last third, W[2 * size :]": packed(inputs, places=(0, 1)),
        "lora_A[0] and lora_B[0] are query's, [1] are value's": packed(inputs, places=(2, 0)),
        "key's rows stay as they are": key - inputs["W"],
        "the scale alpha / rank is missing": packed(inputs, 1.0),
        "the division by rank is missing: the scale is alpha / rank": packed(inputs, alpha),
        "the scale is alpha / rank, not alpha / sqrt(rank)": packed(inputs, alpha / np.sqrt(rank)),
        "W is missing from the sum": expected - inputs["W"],
        "value's rows have no update": packed({**inputs, "lora_B": inputs["lora_B"] * [[[1.0]], [[0.0]]]}),
        "query's rows have no update": packed({**inputs, "lora_B": inputs["lora_B"] * [[[0.0]], [[1.0]]]}),
    }
    likely = next((cause for cause, wrong in causes.items() if close(found, wrong, 1e-4)), "")
    thirds = ("query", "key", "value")
    wrong = [
        name
        for name, one, other in zip(thirds, np.split(found, 3), np.split(expected, 3), strict=True)
        if not close(one, other)
    ]
    if not likely and "key" in wrong:
        likely = "key's rows stay as they are"
    off = number(np.abs(found - expected).max())
    return Fault(f"the rows of {' and '.join(wrong)} are off by up to {off}", likely)


def judge_attention(inputs: Inputs, seen: Observation) -> Fault | None:
    if not seen["same"]:
        return Fault(f"adapt_attention returned {a(seen['kind'])}", "return the layer that was given, adapted in place")
    if seen["trains"] != sorted(FACTORS):
        likely = "freeze the layer: the bias, out_proj and the packed weight stay as they are"
        if not seen["trains"]:
            likely = "the factors are frozen too: freeze first, then register"
        return Fault(f"{', '.join(seen['trains'])[:200] or 'nothing'} trains; expected lora_A and lora_B", likely)
    if seen["count"] != inputs["lora_A"].size + inputs["lora_B"].size:
        return Fault(f"{seen['count']} numbers train, expected {inputs['lora_A'].size + inputs['lora_B'].size}", "")
    if not close(seen["start"], seen["before"], 1e-6):
        return Fault("a new update changes the layer's output", ELSEWHERE)
    if not close(seen["out"], seen["expected"], 1e-4):
        likely = "register the module on in_proj_weight, with this rank and alpha"
        if close(seen["out"], seen["before"], 1e-6):
            likely = "the update does not reach it: register the module on in_proj_weight"
        return Fault("with values in A and B the output is not that of attention with the adapted weight", likely)
    if not close(seen["evaluated"], seen["expected"], 1e-4):
        return Fault("in evaluation mode without gradients the update is lost", "it must be in in_proj_weight itself")
    if seen["gradients"] != sorted(FACTORS):
        return Fault("no gradient reaches lora_A and lora_B through the attention", "the graph is cut")
    return None


def judge_refused(inputs: Inputs, seen: Observation) -> Fault | None:
    for key, what, likely in (
        (
            "apart",
            "a layer whose in_proj_weight is None",
            "with kdim or vdim there are three matrices: raise ValueError",
        ),
        (
            "twice",
            "a layer that is adapted already",
            "is_parametrized(attention, 'in_proj_weight') tells: raise ValueError",
        ),
    ):
        if seen[key] is None:
            return Fault(f"{what} is taken without an error", likely)
        if seen[key]["type"] != "ValueError":
            return Fault(f"{what} raises {seen[key]['type']}", likely)
    if seen["trains"]:
        return Fault("a layer that was refused is frozen afterwards", "ask first, then freeze")
    return None


EXERCISE = Exercise(
    "3.9",
    "LoRA on in_proj_weight",
    names=("InProjLoRA", "adapt_attention"),
    checks=[
        Check(
            "3.9/start",
            "lora_A and lora_B hold query's and value's factors; a new module changes nothing",
            probe_parametrization,
            judge_start,
            draw_attention,
            seed=39,
        ),
        Check(
            "3.9/rows",
            "query's and value's rows get (alpha / rank) B A, key's stay, W stays",
            probe_parametrization,
            judge_rows,
            draw_attention,
            seed=39,
        ),
        Check(
            "3.9/attention",
            "the adapted layer computes with the adapted weight, and nothing but A and B trains",
            probe_attention,
            judge_attention,
            draw_attention,
            seed=39,
            after=("3.9/rows",),
        ),
        Check(
            "3.9/refused",
            "a layer without a packed weight is refused, and so is a second call",
            probe_refused,
            judge_refused,
            draw_attention,
            seed=39,
        ),
    ],
)
