"""Exercise 2.3, LinearWithLoRA: wrap a frozen layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt, raised
from lora_ref.checks.stage02.shared import (
    build_linear,
    draw_wrapped,
    factor,
    in_memory_of_its_own,
    judge_shapes,
    scaling_fault,
    set_factors,
    uninitialised_is_nan,
)
from lora_ref.checks.stage02.walks import draw_layers, new_values
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close, error_fault
from lora_ref.checks.walk import Step, first_parting, step, take


def probe_wrap(names: Names, **inputs: Any) -> dict:
    """What the wrapper keeps, changes, freezes and trains."""
    seen: dict[str, Any] = {}
    for bias in (True, False):
        linear = build_linear(inputs, bias)
        parameters = dict(linear.named_parameters())
        with uninitialised_is_nan():
            wrapper = names.LinearWithLoRA(linear, inputs["rank"], inputs["alpha"])
        kept = wrapper.linear
        lora = [factor(wrapper.lora, name) for name in ("lora_A", "lora_B")]
        trains = trainable(wrapper)
        seen["bias" if bias else "no bias"] = {
            "same": kept is linear,
            "kind": type(kept).__name__,
            "W": array(kept.weight),
            "b": None if kept.bias is None else array(kept.bias),
            "parameters": {name: shares(getattr(kept, name), p) for name, p in parameters.items()},
            "frozen": {
                name: not getattr(kept, name).requires_grad
                for name in ("weight", "bias")
                if getattr(kept, name) is not None
            },
            "trains": [name for name, p in trains if not any(p is q for q in lora)],
            "lora_trains": [any(p is q for _, q in trains) for p in lora],
            "by mode": attempt(modes, wrapper, gaps=True),
        }
    return seen


def trainable(wrapper: Any) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in wrapper.named_parameters() if p.requires_grad]


def modes(wrapper: Any) -> dict:
    """What trains after eval(), and after train()."""
    return {mode: [name for name, _ in trainable(getattr(wrapper, mode)())] for mode in ("eval", "train")}


def shares(now: Any, before: torch.Tensor) -> bool:
    """The same parameter, or another on the same memory: as good, wherever the layer is used."""
    return now is before or (isinstance(now, nn.Parameter) and now.data_ptr() == before.data_ptr())


def probe_update(names: Names, **inputs: Any) -> dict:
    """Sizes, scale and dropout of the wrapper's update."""
    arguments = inputs["rank"], inputs["alpha"]
    wrapper = names.LinearWithLoRA(build_linear(inputs), *arguments)
    lora = wrapper.lora
    seen: dict[str, Any] = {key: list(factor(lora, f"lora_{key}").shape) for key in "AB"}
    seen["scaling"] = float(lora.scaling)
    wrappers = [wrapper, *(names.LinearWithLoRA(build_linear(inputs), *arguments, p) for p in ASKED[1:])]
    return {
        **seen,
        "dropped": [attempt(share_dropped, adapted, inputs["in_features"], gaps=True) for adapted in wrappers],
    }


#: Probabilities of dropout that `probe_update` asks for: none given, and two that are not each other's complement.
ASKED = (0.0, 0.2, 0.5)


ROWS = 6000


@torch.no_grad()
def share_dropped(wrapper: Any, in_features: int) -> dict:
    """Of rows of x with one entry that is not zero, those of which nothing reaches the update."""
    lora = wrapper.train().lora
    for name in ("lora_A", "lora_B"):
        in_memory_of_its_own(factor(lora, name)).fill_(1.0)
    x = torch.eye(in_features).repeat(ROWS // in_features + 1, 1)[:ROWS]
    return {"share": float((lora(x)[:, 0] == 0).double().mean())}


LINEAR_KIND = "an nn.Linear"
#: What may be wrapped.
LINEAR_KINDS = (LINEAR_KIND, "a subclass of nn.Linear")
NOT_LINEAR_KINDS = ("an nn.LayerNorm", "an nn.Embedding", "a module with in_features and weight", "None")


class OwnLinear(nn.Linear):
    """An nn.Linear, by inheritance."""


class LooksLinear(nn.Module):
    """Has all that an nn.Linear has, and is none."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = 6, 5
        self.weight, self.bias = nn.Parameter(torch.ones(5, 6)), nn.Parameter(torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def probe_not_linear(names: Names, **inputs: Any) -> dict:
    """What wrapping this and that raises."""
    names.LinearWithLoRA(nn.Linear(6, 5), 2, 8)
    parts: tuple[nn.Module | None, ...] = (nn.LayerNorm(6), nn.Embedding(5, 6), LooksLinear(), None)
    made = dict(zip(NOT_LINEAR_KINDS + LINEAR_KINDS, (*parts, nn.Linear(6, 5), OwnLinear(6, 5)), strict=True))
    outcomes = [raised(names.LinearWithLoRA, made[kind], 2, 8) for kind in inputs["kinds"]]
    others = {kind: module for kind in NOT_LINEAR_KINDS if (module := made[kind]) is not None}
    frozen = [kind for kind, module in others.items() if not all(p.requires_grad for p in module.parameters())]
    return {"raised": outcomes, "frozen": frozen, "kind": type(made[LINEAR_KINDS[1]]).__name__}


def draw_several(rng: np.random.Generator) -> Inputs:
    """Wrappers one after another, two of them alike, and one around a layer in double precision."""
    layers = draw_layers(rng)
    first, second = (str(n) for n in rng.permutation(["a", "b"]))
    steps = [step("make", first, told="wrapping"), step("make", second, told="wrapping")]
    steps += [new_values(rng, layers, first), step("make", "c", told="wrapping"), new_values(rng, layers, "c")]
    steps += [step("make", "d", told="wrapping the float64 layer", like="c", dtype="float64")]
    return {"layers": layers, "steps": steps}


def probe_several(names: Names, **inputs: Any) -> dict:
    """Several wrappers, of which some get values; and what a rank below 1 raises."""
    made: dict[str, Any] = {}

    def one_step(one: Step) -> dict:
        if one["do"] == "set":
            set_factors(made[one["on"]].lora, one)
        else:
            layer = inputs["layers"][one.get("like", one["on"])]
            linear = build_linear(layer, layer["bias"]).to(getattr(torch, one.get("dtype", "float32")))
            made[one["on"]] = names.LinearWithLoRA(linear, layer["rank"], layer["alpha"])
        return {name: look(wrapper) for name, wrapper in made.items()}

    walk = take(inputs["steps"], one_step)
    layer = nn.Linear(6, 5)
    one, other = (names.LinearWithLoRA(layer, 2, 8).lora for _ in range(2))
    shared = any(factor(one, name) is factor(other, name) for name in ("lora_A", "lora_B"))
    return {**walk, "raised": raised(lambda: names.LinearWithLoRA(nn.Linear(6, 5), 0, 8)), "shared": shared}


def look(wrapper: Any) -> dict:
    B = factor(wrapper.lora, "lora_B")
    return {
        "zero": not bool(array(B).any()),
        "dtype": str(wrapper.linear.weight.dtype),
        "training": bool(wrapper.training and wrapper.lora.training),
    }


def judge_wrap(inputs: Inputs, seen: Observation) -> Fault | None:
    """The given layer is kept, with its values."""
    for case in ("bias", "no bias"):
        wrapper = seen[case]
        if not close(wrapper["W"], inputs["W"], 1e-6):
            return Fault(
                "wrapper.linear.weight is not the given layer's weight",
                "keep the layer that is given: in a new one the pretrained values are lost",
            )
        if (wrapper["b"] is None) != (case == "no bias"):
            lost = wrapper["b"] is None
            return Fault(
                f"a layer with{'' if lost else 'out'} bias comes back with{'out' if lost else ''} one",
                "a new layer was built instead of keeping the given one, and the bias was "
                + ("dropped" if lost else "added"),
            )
        if wrapper["b"] is not None and not close(wrapper["b"], inputs["b"], 1e-6):
            return Fault("the bias has other values", "the pretrained bias is lost")
        if not wrapper["same"]:
            return Fault(
                "wrapper.linear is not the given layer but another object",
                "the layer was copied: weights would be held twice, and ties to the model are cut",
            )
        if not all(wrapper["parameters"].values()):
            changed = [name for name, same in wrapper["parameters"].items() if not same]
            return Fault(f"the layer's {' and '.join(changed)} was replaced", "freeze it, in place")
    return None


def judge_several(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each wrapper has an update of its own, zero until it gets values, and its layer as it was given."""
    given: set[str] = set()
    dtypes: dict[str, str] = {}

    def beside(one: Step, outcome: Observation) -> Fault | None:
        if one["do"] == "set":
            given.add(one["on"])
        else:
            dtypes[one["on"]] = f"torch.{one.get('dtype', 'float32')}"
        for name, dtype in dtypes.items():
            wrapper = outcome[name]
            if wrapper["dtype"] != dtype:
                shown = f"linear.weight of {name} is {wrapper['dtype']}, that of the given layer {dtype}"
                return Fault(shown, "keep the given layer, in its own dtype")
            if not wrapper["training"]:
                return Fault(f"{name} is in evaluation mode", "a new module is in training mode, or dropout never acts")
            if name not in given and not wrapper["zero"]:
                likely = "two wrappers share one update: make one in each __init__, and keep it on self"
                return Fault(f"lora_B of {name} is not zero", likely if one["do"] == "set" else "")
        return None

    if fault := first_parting(inputs["steps"], seen, beside):
        return fault
    if seen["shared"]:
        likely = "an update is made in each __init__, and kept on self: not looked up in a dict of layers"
        return Fault("two wrappers around one layer share their update", likely)
    if seen["raised"] is None or "ValueError" not in seen["raised"]["bases"]:
        what = "nothing" if seen["raised"] is None else seen["raised"]["type"]
        return Fault(f"rank 0 raised {what}", "rank is as in LoRALayer: let its ValueError pass")
    return None


def judge_frozen(inputs: Inputs, seen: Observation) -> Fault | None:
    """Exactly the update's two matrices train."""
    for case in ("bias", "no bias"):
        wrapper = seen[case]
        loose = [name for name, frozen in wrapper["frozen"].items() if not frozen]
        if loose:
            likely = (
                "the bias is not frozen: linear.requires_grad_(False) takes both"
                if loose == ["bias"]
                else "the pretrained layer is not frozen: requires_grad_(False)"
            )
            return Fault(f"linear.{' and linear.'.join(loose)} can train", likely)
        if not all(wrapper["lora_trains"]):
            return Fault(
                "lora_A or lora_B does not train",
                "the whole wrapper was frozen, or the update is not a submodule of it (super().__init__() comes first)",
            )
        if wrapper["trains"]:
            return Fault(f"{', '.join(wrapper['trains'])} trains too", "only lora_A and lora_B should")
        modes = wrapper["by mode"]
        for mode in ("eval", "train"):
            if mode in modes and len(modes[mode]) != len(wrapper["lora_trains"]):
                shown = ", ".join(modes[mode]) or "nothing"
                likely = "the mode switches dropout; what trains stays, whatever the mode"
                return Fault(f"after {mode}() of the wrapper {shown} trains", likely)
    return None


def judge_update(inputs: Inputs, seen: Observation) -> Fault | None:
    """The update has the layer's sizes and the given rank and alpha."""
    found = {"lora_A": seen["A"], "lora_B": seen["B"]}
    shapes = dict.fromkeys(found, True)
    same = {
        "registered": shapes,
        "trainable": shapes,
        "others": [],
        "modules": {},
        "dtypes": dict.fromkeys(found, "torch.float32"),
    }
    fault = judge_shapes(inputs, {"shapes": found, **same})
    fault = fault or scaling_fault(inputs["alpha"], inputs["rank"], seen["scaling"])
    if fault:
        return Fault(f"wrapper.lora: {fault.seen}", fault.likely or "an argument is lost or in another's place")
    for p, one in zip(ASKED, seen["dropped"], strict=True):
        if "error" in one:
            return error_fault(one["error"])
        share = one["share"]
        if not abs(share - p) <= 6 * (p * (1 - p) / ROWS) ** 0.5:
            asked = f"although dropout={p:g} was given" if p else "although no dropout was given"
            likely = "dropout is not passed on as it was given" if p else "dropout is 0 by default"
            return Fault(f"wrapper.lora drops {share:.0%} of x {asked}", likely)
    return None


def judge_not_linear(inputs: Inputs, seen: Observation) -> Fault | None:
    for name, outcome in zip(inputs["kinds"], seen["raised"], strict=True):
        if name in LINEAR_KINDS:
            if outcome is not None:
                likely = "the check with isinstance refuses too much"
                if name != LINEAR_KIND:
                    likely = "a subclass is an nn.Linear too: ask isinstance(linear, nn.Linear), not its type"
                return Fault(f"{name} raised {outcome['type']}", likely)
        elif outcome is None:
            return Fault(
                f"{name} was wrapped without an error", "the check with isinstance is missing", "the docstring"
            )
        elif "TypeError" not in outcome["bases"]:
            return Fault(
                f"{name} raised {outcome['type']}",
                "the check with isinstance is missing or comes too late; the contract asks for a TypeError",
                "the docstring",
            )
    if seen["frozen"]:
        return Fault(f"{seen['frozen'][0]} raised a TypeError, and is frozen now", "check first, then change")
    if seen["kind"] != OwnLinear.__name__:
        return Fault(f"{LINEAR_KINDS[1]} is now of the class {seen['kind']}", "keep the given layer as it is")
    return None


def every_kind(rng: np.random.Generator) -> Inputs:
    return {"kinds": [*NOT_LINEAR_KINDS, *LINEAR_KINDS]}


EXERCISE = Exercise(
    "2.3",
    "LinearWithLoRA: wrap a frozen layer",
    names=("LinearWithLoRA",),
    builds_on=("LoRALayer",),
    checks=[
        Check(
            "2.3/kept",
            "the given layer itself is kept as .linear, weight and bias unchanged",
            probe_wrap,
            judge_wrap,
            draw_wrapped,
            seed=5,
        ),
        Check(
            "2.3/frozen",
            "weight and bias are frozen; lora_A and lora_B train, and nothing else",
            probe_wrap,
            judge_frozen,
            draw_wrapped,
            seed=5,
        ),
        Check(
            "2.3/update",
            ".lora is the update, with the layer's sizes and the given rank, alpha and dropout",
            probe_update,
            judge_update,
            draw_wrapped,
            seed=5,
        ),
        Check(
            "2.3/type",
            "an nn.Linear of any kind is taken, and anything else is a TypeError",
            probe_not_linear,
            judge_not_linear,
            every_kind,
        ),
        Check(
            "2.3/several",
            "each wrapper has an update of its own, zero at first, beside its layer as it was given",
            probe_several,
            judge_several,
            draw_several,
            seed=5,
            after=("2.3/kept",),
        ),
    ],
)
