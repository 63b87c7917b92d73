"""Exercise 3.3, replace_module."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, raised
from lora_ref.checks.stage03.shared import at, build, draw_model, some
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation


def draw_replace(rng: np.random.Generator, where: str) -> Inputs:
    """A model and places in it."""
    inputs = draw_model(rng)
    layer = f"{inputs['prefix']}.layer.{int(rng.integers(0, inputs['layers']))}"
    places = {
        "deep": [f"{layer}.attention.self.query", f"{layer}.output.dense"],
        "top": ["my_query", "classifier", "classifier_norm"],
        "containers": ["mixer.0", "mixer.1", "extra.gate", f"{inputs['prefix']}.layer.1"],
    }[where]
    return {**inputs, "places": places}


#: Where the order of a module's children decides what it computes.
IN_ORDER = ("mixer.0", "mixer.1")


class Marker(nn.Linear):
    """What is put in: a layer of the old one's sizes, with a dtype and flags of its own."""

    def __init__(self, old: nn.Module | None):
        sizes = (old.in_features, old.out_features) if isinstance(old, nn.Linear) else (1, 1)
        super().__init__(*sizes, dtype=torch.float64)
        self.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def probe_replace(names: Names, **inputs: Any) -> dict:
    """For each place: whether the new module is there, and whether all others are where they were, in their order."""
    outcomes, replace = [], names.replace_module
    for place in inputs["places"]:
        twin = build(inputs)  # another model with the same names
        raised(replace, twin, place, Marker(at(twin, place)))
        model = build(inputs)
        old = at(model, place)
        new = Marker(old)
        watched = {"new": (new, _state(new)), "old": (old, _state(old))}
        model.extra["twin"] = model.my_query  # one layer in two places
        before = [(name, id(module)) for name, module in _places(model) if not _inside(name, place)]
        children = _child_order(model, place)
        error = raised(replace, model, place, new)
        after = dict(_places(model))
        outcomes.append(
            {
                "raised": error,
                "there": at(model, place) is new,
                "copy": isinstance(at(model, place), Marker),
                "dotted": "." in place
                and any(place.endswith(n) and "." in n for m in model.modules() for n in m._modules),
                "elsewhere": [name for name, module in after.items() if module is new and name != place],
                "moved": [name for name, number in before if id(after.get(name)) != number],
                "added": [name for name in after if name not in dict(before) and not _inside(name, place)],
                "order": children == _child_order(model, place),
                "twin": isinstance(at(twin, place), Marker),
                "touched": [what for what, (module, was) in watched.items() if _state(module) != was],
                "flags": [p.requires_grad for p in new.parameters()] == [flag for *_, flag in watched["new"][1]],
            }
        )
    nowhere = raised(replace, build(inputs), "no_such.layer.query", Marker(None))
    return {"outcomes": outcomes, "nowhere": nowhere is not None}


def _state(module: Any) -> list[tuple]:
    """A module's parameters: which they are, their dtype, their values, whether they train."""
    return [(id(p), str(p.dtype), p.detach().flatten().tolist(), p.requires_grad) for p in module.parameters()]


def _places(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every place with its module, those that are in two places twice."""
    return list(model.named_modules(remove_duplicate=False))


def _inside(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


def _child_order(model: nn.Module, place: str) -> list[str]:
    parent = at(model, place.rpartition(".")[0])
    return [] if parent is None else list(parent._modules)


def judge_replaced(inputs: Inputs, seen: Observation) -> Fault | None:
    """The new module is at the place, and nothing else changed."""
    if len(seen["outcomes"]) != len(inputs["places"]):
        return Fault("not every place was tried", "")
    for place, outcome in zip(inputs["places"], seen["outcomes"], strict=True):
        error = outcome["raised"]
        if error:
            likely = "the parts before the last dot lead to the parent (none: the model itself), the last is its child"
            return Fault(f"replacing {place} raised {error['type']}: {error['text'][:100]}", likely)
        if outcome["moved"] == ["extra.twin"]:
            likely = "the old module stands in two places, and the name means one of them"
            return Fault(f"replacing {place} changed extra.twin as well", likely)
        if outcome["moved"]:
            return Fault(
                f"replacing {place} changed {some(list(outcome['moved']), 2)} as well",
                "only the last part of the name is the child; the parts before it lead to its parent",
            )
        if not outcome["there"] and not outcome["copy"]:  # a copy is judge_given's
            likely = "the module at that name is still the old one: set it as an attribute of its parent"
            if outcome["twin"]:
                likely = "in a first model it was: something is kept from call to call, as in a global variable"
                return Fault(f"the module at {place} is not the new one", likely)
            if outcome["dotted"]:
                likely = (
                    "a child with a dot in its name was added: setattr takes one part of a name, find the parent first"
                )
                return Fault(f"the module at {place} is not the new one", likely)
            if any(name.startswith(place + ".") for name in outcome["elsewhere"]):
                likely = (
                    "put in new itself: it hangs at the wrong parent, or another module stands there with the new one "
                    "inside"
                )
            elif outcome["elsewhere"]:
                likely = "it hangs at the wrong parent: model.get_submodule of all parts but the last is the right one"
            return Fault(f"the module at {place} is not the new one", likely)
        if outcome["elsewhere"] or outcome["added"]:
            return Fault(
                f"replacing {place} added {some([*outcome['elsewhere'], *outcome['added']], 2)}",
                "a module is put in place of the old one, and nowhere else",
            )
        if place in IN_ORDER and not outcome["order"]:
            return Fault(
                f"replacing {place} changed the order of its parent's children",
                "a child that is deleted and added again comes last, and an nn.Sequential then runs in another order: "
                "setattr keeps the place",
            )
    return None


def judge_given(inputs: Inputs, seen: Observation) -> Fault | None:
    """Where something is put in, it is as its owner made it; where nothing can be, that shows."""
    if not any(outcome["copy"] for outcome in seen["outcomes"]):
        return Fault("nothing was put in", ELSEWHERE)
    for place, outcome in zip(inputs["places"], seen["outcomes"], strict=True):
        if outcome["copy"] and not outcome["there"]:
            likely = "a copy of new was put there: put in new itself, which is what the caller holds"
            return Fault(f"the module at {place} is not the new one", likely)
        if outcome["touched"]:
            which, what = outcome["touched"][0], "parameters" if outcome["flags"] else "requires_grad flags"
            likely = "put in new as it is: what it holds, and what of it trains, is its owner's to choose"
            if which == "old":
                what, likely = (
                    "parameters or flags",
                    "the old module stays as it is, too: new may hold it, as a wrapper does",
                )
            return Fault(f"replacing {place} changed the {which} module's {what}", likely)
    if not seen["nowhere"]:
        return Fault(
            "a name whose parent does not exist raised nothing",
            "a typo must show: put the module at that very place, or raise",
        )
    return None


EXERCISE = Exercise(
    "3.3",
    "replace_module",
    names=("replace_module",),
    keeps=("replace_module",),
    checks=[
        Check(
            "3.3/deep",
            "the new module stands at the dotted name, and all others stay",
            probe_replace,
            judge_replaced,
            partial(draw_replace, where="deep"),
            seed=5,
        ),
        Check(
            "3.3/top",
            "children of the model itself, too",
            probe_replace,
            judge_replaced,
            partial(draw_replace, where="top"),
            seed=19,
        ),
        Check(
            "3.3/containers",
            "inside lists, dicts and sequences as well, in the same order",
            probe_replace,
            judge_replaced,
            partial(draw_replace, where="containers"),
            seed=6,
        ),
        Check(
            "3.3/given",
            "the new module goes in as it is, and a name that leads nowhere is an error",
            probe_replace,
            judge_given,
            partial(draw_replace, where="deep"),
            seed=5,
        ),
    ],
)
