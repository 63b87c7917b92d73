"""Exercise 2.3, LinearWithLoRA: wrap a frozen layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt, raised
from lora_ref.checks.stage02.shared import (
    build_linear,
    draw_wrapped,
    judge_shapes,
    scaling_fault,
    uninitialised_is_nan,
)
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close, error_fault


def probe_wrap(names: Names, **inputs: Any) -> dict:
    """What the wrapper keeps, changes, freezes and trains."""
    seen: dict[str, Any] = {}
    for bias in (True, False):
        linear = build_linear(inputs, bias)
        parameters = dict(linear.named_parameters())
        with uninitialised_is_nan():
            wrapper = names.LinearWithLoRA(linear, inputs["rank"], inputs["alpha"])
        kept = wrapper.linear
        lora = [getattr(wrapper.lora, name) for name in ("lora_A", "lora_B")]
        trains = [(name, p) for name, p in wrapper.named_parameters() if p.requires_grad]
        seen["bias" if bias else "no bias"] = {
            "same": kept is linear,
            "kind": type(kept).__name__,
            "W": array(kept.weight),
            "b": None if kept.bias is None else array(kept.bias),
            "parameters": {name: getattr(kept, name) is p for name, p in parameters.items()},
            "frozen": {
                name: not getattr(kept, name).requires_grad
                for name in ("weight", "bias")
                if getattr(kept, name) is not None
            },
            "trains": [name for name, p in trains if not any(p is q for q in lora)],
            "lora_trains": [any(p is q for _, q in trains) for p in lora],
        }
    return seen


def probe_update(names: Names, **inputs: Any) -> dict:
    """Sizes, scale and dropout of the wrapper's update."""
    arguments = inputs["rank"], inputs["alpha"]
    wrapper = names.LinearWithLoRA(build_linear(inputs), *arguments)
    lora = wrapper.lora
    seen = {"A": list(lora.lora_A.shape), "B": list(lora.lora_B.shape), "scaling": float(lora.scaling)}
    wrappers = [wrapper, *(names.LinearWithLoRA(build_linear(inputs), *arguments, p) for p in ASKED[1:])]
    return {
        **seen,
        "dropped": [
            attempt(lambda adapted=adapted: share_dropped(adapted, inputs["in_features"]), gaps=True)
            for adapted in wrappers
        ],
    }


#: Probabilities of dropout that `probe_update` asks for: none given, and two that are not each other's complement.
ASKED = (0.0, 0.2, 0.5)


ROWS = 6000


@torch.no_grad()
def share_dropped(wrapper: Any, in_features: int) -> dict:
    """Of rows of x with one entry that is not zero, those of which nothing reaches the update."""
    lora = wrapper.train().lora
    lora.lora_A.fill_(1.0)
    lora.lora_B.fill_(1.0)
    x = torch.eye(in_features).repeat(ROWS // in_features + 1, 1)[:ROWS]
    return {"share": float((lora(x)[:, 0] == 0).double().mean())}


LINEAR_KIND = "an nn.Linear"


NOT_LINEAR_KINDS = ("an nn.LayerNorm", "an nn.Embedding", "a module with in_features and weight", "None")


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
    made = dict(zip(NOT_LINEAR_KINDS, (nn.LayerNorm(6), nn.Embedding(5, 6), LooksLinear(), None), strict=True))
    made[LINEAR_KIND] = nn.Linear(6, 5)
    kinds = inputs.get("kinds", NOT_LINEAR_KINDS)
    return {"raised": [raised(lambda one=made[kind]: names.LinearWithLoRA(one, 2, 8)) for kind in kinds]}


def judge_wrap(inputs: Inputs, seen: Observation) -> Fault | None:
    """The given layer is kept, with its values."""
    for case in ("bias", "no bias"):
        wrapper = seen[case]
        if not close(wrapper["W"], inputs["W"], 1e-6):
            return Fault(
                "wrapper.linear.weight is not the given layer's weight",
                "a new nn.Linear has new random values: the pretrained ones are lost",
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
                "wrapper.linear is another object than the given layer",
                "the layer was copied: weights would be held twice, and ties to the model are cut",
            )
        if not all(wrapper["parameters"].values()):
            changed = [name for name, same in wrapper["parameters"].items() if not same]
            return Fault(f"the layer's {' and '.join(changed)} was replaced", "freeze it, in place")
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
    return None


def judge_update(inputs: Inputs, seen: Observation) -> Fault | None:
    """The update has the layer's sizes and the given rank and alpha."""
    found = {"lora_A": seen["A"], "lora_B": seen["B"]}
    shapes = dict.fromkeys(found, True)
    same = {"registered": shapes, "trainable": shapes, "others": [], "dtypes": dict.fromkeys(found, "torch.float32")}
    fault = judge_shapes(inputs, {"shapes": found, **same})
    fault = fault or scaling_fault(inputs["alpha"], inputs["rank"], seen["scaling"])
    if fault:
        return Fault(f"wrapper.lora: {fault.seen}", fault.likely or "an argument is lost or in another's place")
    for p, one in zip(ASKED, seen["dropped"], strict=True):
        if "error" in one:
            return error_fault(one["error"])
        share = one["share"]
        if abs(share - p) > 6 * (p * (1 - p) / ROWS) ** 0.5:
            asked = f"although dropout={p:g} was given" if p else "although no dropout was given"
            likely = "dropout is not passed on as it was given" if p else "dropout is 0 by default"
            return Fault(f"wrapper.lora drops {share:.0%} of x {asked}", likely)
    return None


def judge_not_linear(inputs: Inputs, seen: Observation) -> Fault | None:
    for name, outcome in zip(inputs.get("kinds", NOT_LINEAR_KINDS), seen["raised"], strict=True):
        if name == LINEAR_KIND:
            if outcome is not None:
                return Fault(f"{name} raised {outcome['type']}", "the check with isinstance refuses too much")
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
    return None


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
        Check("2.3/type", "what is not an nn.Linear is a TypeError", probe_not_linear, judge_not_linear),
    ],
)
