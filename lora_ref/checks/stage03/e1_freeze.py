"""Exercise 3.1, freeze."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref import inject
from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, raised
from lora_ref.checks.stage03.shared import build, draw_model, matches, not_the_model, some
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation
from lora_ref.layers import LinearWithLoRA


def draw_freeze(rng: np.random.Generator, wrapped: bool = False) -> Inputs:
    """A model, some of it frozen already; ``wrapped``: with LoRA in some of its layers."""
    return draw_model(rng, wrapped=wrapped)


def frozen_model(inputs: Inputs) -> nn.Module:
    """The model that `freeze` is given."""
    model = build(inputs)
    model.mixer.requires_grad_(False)
    # of no layer, one of them a single number
    model.extra["prompts"] = nn.ParameterList([torch.ones(()), torch.ones(2, 3)])
    model.extra["precise"] = nn.LayerNorm(3).double()
    if inputs["wrapped"]:
        for number, name in enumerate(matches(inputs, ["query"])):
            linear = model.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            layer = LinearWithLoRA(linear, 2, 4)
            with torch.no_grad():
                layer.lora.lora_A.fill_(0.1 * number)
            inject.replace_module(model, name, layer)
    return model


def probe_freeze(names: Names, **inputs: Any) -> dict:
    """What still trains afterwards, what was returned, what has other values; of the second model of two."""
    model, twin = frozen_model(inputs), frozen_model(inputs)
    names.freeze(twin)
    before = {name: array(p) for name, p in model.named_parameters()}
    first = dict(model.named_parameters())
    result = names.freeze(model)
    after = dict(model.named_parameters())
    trains = [name for name, p in after.items() if p.requires_grad]
    return {
        "same": result is model,
        "kind": type(result).__name__,
        "trains": trains,
        "twin": [name for name, p in twin.named_parameters() if p.requires_grad],
        "lost": [name for name in before if name not in after],
        "changed": [name for name in before if name in after and not np.array_equal(array(after[name]), before[name])],
        "replaced": [name for name in first if name in after and after[name] is not first[name]],
        "attribute": "requires_grad" in vars(model),
        "again": raised(names.freeze, model),
        "thawed": _thawed(names, model),
        "empty": raised(names.freeze, nn.Sequential(nn.Tanh())),
    }


def _thawed(names: Names, model: nn.Module) -> list[str]:
    """What still trains once a frozen model was made to train, and frozen again."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    raised(names.freeze, model)
    return [name for name, p in model.named_parameters() if p.requires_grad]


def judge_frozen(inputs: Inputs, seen: Observation) -> Fault | None:
    """Nothing trains."""
    trains = list(seen["trains"])
    if seen["lost"]:
        return Fault(f"the model has no {some(seen['lost'])} any more", "freeze changes no module")
    if not trains:
        if seen["thawed"]:
            likely = "whether it was frozen before is kept, on the model or in a global: set every flag in each call"
            return Fault(f"frozen, made to train, and frozen again: {some(list(seen['thawed']))} train", likely)
        return None
    all_names = [name for name, _ in frozen_model(inputs).named_parameters()]
    able = [name for name, p in frozen_model(inputs).named_parameters() if p.requires_grad]
    likely = ""
    if trains != list(seen["twin"]):
        likely = "one model was frozen, the next is not: something is kept from call to call, as in a global variable"
    elif trains == able:
        likely = "requires_grad is set nowhere: eval() and torch.no_grad() freeze no parameter"
        if seen["attribute"]:
            likely = "requires_grad was set on the module, which has no such flag: model.requires_grad_(False)"
        if seen["kind"] == "Classifier" and not seen["same"]:
            likely = "a copy was frozen, and the model itself was not"
    elif trains == able[1:]:
        likely = (
            "the model's own first parameter alone is frozen: a return, or a break, inside the loop ends it, or some "
            "depths are left out"
        )
    elif not set(trains) & set(able):
        likely = "the flag is turned round, so that what was frozen trains: set it to False, whatever it was"
    elif all("lora_" in name for name in trains):
        likely = "freeze goes by names and leaves out lora_...: it means every parameter, whatever its name"
    elif all("classifier" in name for name in trains):
        likely = "freeze goes by names and leaves out the head: it means every parameter"
    elif trains == ["extra.prompts.0"]:
        likely = "a parameter that is a single number, of no dimension, is left out: ask model.parameters()"
    elif any(n.endswith("bias") for n in trains) and not any(n.endswith("weight") for n in trains):
        likely = "weights are frozen and biases are not"
    elif set(trains) <= {"extra.prompts.0", "extra.prompts.1"}:
        likely = "a ParameterList is no layer, and its parameters have numbers for names: ask model.parameters()"
    elif trains == ["scale"]:
        likely = "a parameter of the model itself, outside all of its layers, is forgotten: ask model.parameters()"
    elif all(name.startswith("extra.precise.") for name in trains):
        likely = "a parameter in double precision is left out: set the flag whatever the dtype"
    elif trains == ["embeddings.word.weight"]:
        likely = "embeddings are left out: ask model.parameters(), which gives those of every kind of layer"
    elif not any(inputs["prefix"] in name for name in trains):
        likely = "only a part of the model is frozen: ask model.parameters(), which reaches every depth"
    elif len(trains) < len(all_names):
        likely = "some kinds of layers or some depths are left out: ask model.parameters()"
    return Fault(f"{len(trains)} of {len(all_names)} parameters still train: {some(trains)}", likely)


def judge_returned(inputs: Inputs, seen: Observation) -> Fault | None:
    """The model itself comes back. From a function that does nothing else, that is worth nothing."""
    if not seen["same"]:
        return not_the_model(seen)
    if len(seen["trains"]) == sum(p.requires_grad for p in frozen_model(inputs).parameters()):
        return Fault("nothing is frozen", "")
    if seen["again"]:
        error = seen["again"]
        likely = "a frozen model may be frozen again: nothing is left to do then"
        return Fault(f"a second freeze(model) raised {error['type']}: {error['text']}", likely)
    if seen["empty"]:
        error = seen["empty"]
        return Fault(f"a model without parameters raised {error['type']}: {error['text']}", "there is nothing to do")
    return None


def judge_unchanged(inputs: Inputs, seen: Observation) -> Fault | None:
    """No value changes. Only what was frozen is asked, so an open gap gets nothing for leaving all as it is."""
    if seen["trains"] and len(seen["trains"]) == sum(p.requires_grad for p in frozen_model(inputs).parameters()):
        return Fault("nothing is frozen", "")
    names = [*seen["changed"], *seen["lost"]]
    if names:
        return Fault(f"other values in {some(names)}", "freezing keeps every value: it only sets requires_grad")
    if seen["replaced"]:
        likely = "in place: who shares these parameters still has the old ones; set requires_grad and nothing else"
        return Fault(f"new parameters stand in the place of {some(list(seen['replaced']))}", likely)
    return None


EXERCISE = Exercise(
    "3.1",
    "freeze",
    names=("freeze",),
    keeps=("freeze",),
    checks=[
        Check(
            "3.1/frozen",
            "no parameter trains any more, at whatever depth",
            probe_freeze,
            judge_frozen,
            draw_freeze,
            seed=1,
        ),
        Check(
            "3.1/all",
            "every parameter, LoRA's in a wrapped model as well",
            probe_freeze,
            judge_frozen,
            partial(draw_freeze, wrapped=True),
            seed=22,
        ),
        Check(
            "3.1/kept", "no value changes", probe_freeze, judge_unchanged, partial(draw_freeze, wrapped=True), seed=22
        ),
        Check("3.1/returned", "it returns the model it was given", probe_freeze, judge_returned, draw_freeze, seed=1),
    ],
)
