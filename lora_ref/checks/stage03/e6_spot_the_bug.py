"""Exercise 3.6, spot the bug."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt, raised, result_of
from lora_ref.checks.stage03.shared import build, draw_model, layer_names, modules, some
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close, error_fault


def draw_blocks(rng: np.random.Generator) -> Inputs:
    """Blocks whose names begin like others'."""
    inputs = draw_model(rng, layers=int(rng.integers(12, 14)))
    start = f"{inputs['prefix']}.layer."
    blocks = [[f"{start}1"], [f"{start}1", f"{start}{int(rng.integers(2, 9))}"], [f"{start}11"], ["classifier"]]
    return {**inputs, "blocks": blocks}


def blocks_model(inputs: Inputs) -> nn.Module:
    """The inputs' model, with other blocks in it whose names end like the encoder's."""
    model = build(inputs)
    for holder, name in ((model, f"sub{inputs['prefix']}"), (model.extra, inputs["prefix"])):
        holder.add_module(name, modules(layer=nn.ModuleList(nn.Linear(2, 2) for _ in range(12))))
    return model


def held(model: nn.Module) -> list[tuple]:
    """The model's parameters, their names, values and flags."""
    return [(p, name, p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()]


def touched(model: nn.Module, before: Sequence[tuple], flags: bool = True) -> list[str]:
    """What was `held` and is other now, in words: another parameter, other values, with ``flags`` whether it trains."""
    after, found = {id(p) for p in model.parameters()}, []
    for parameter, name, value, trains in before:
        if id(parameter) not in after:
            found.append(f"another parameter stands in the place of {name}")
        elif not torch.equal(parameter, value):
            found.append(f"{name} has other values")
        elif flags and parameter.requires_grad != trains:
            found.append(f"requires_grad of {name} has changed")
    return found[:1]


def touched_fault(seen: Observation, task: str) -> Fault | None:
    """A function that may do one thing to a model has done another."""
    found = list(seen["touched"])
    return Fault(found[0], f"{task}, and all else of the model stays as it is") if found else None


def probe_blocks(names: Names, **inputs: Any) -> dict:
    """What trains after each call on a fresh model, of which all trains, or nothing."""
    trains, changes = [], []
    for blocks, before in itertools.product(inputs["blocks"], (True, False)):
        model = blocks_model(inputs).requires_grad_(before)
        was = held(model)
        names.unfreeze_blocks(model, list(blocks))
        trains.append([name for name, p in model.named_parameters() if p.requires_grad])
        changes += touched(model, was, flags=False)
    return {"trains": trains, "touched": changes[:1]}


def judge_blocks(inputs: Inputs, seen: Observation) -> Fault | None:
    """Exactly the named blocks' parameters train."""
    every = [name for name, _ in blocks_model(inputs).named_parameters()]
    if len(seen["trains"]) != 2 * len(inputs["blocks"]):
        return Fault("not every list of blocks was tried", "")
    cases = itertools.product(inputs["blocks"], (True, False))
    for (blocks, before), trains in zip(cases, seen["trains"], strict=True):
        wanted = [name for name in every if any(name.startswith(block + ".") for block in blocks)]
        extra, missing = [n for n in trains if n not in wanted], [n for n in wanted if n not in trains]
        if extra:
            others = sorted({".".join(name.split(".")[:3]) for name in extra})
            likely = "layer.1 is the beginning of layer.10, too: compare with the dot that ends the name"
            if all(name.startswith(("sub", "extra.")) for name in extra):
                likely = "the name stands in the middle of theirs: compare the beginning, with startswith"
            elif any(inputs["prefix"] not in name for name in extra):
                likely = "all other parameters must be frozen"
            return Fault(f"blocks {blocks}: parameters of {some(others)} train as well", likely)
        if missing:
            likely = "a block is named from the model on: all that begins with the name and a dot belongs to it"
            if not before and not trains:
                likely = "the model was frozen before, and its blocks must train now: set the flag to True as well"
            return Fault(
                f"blocks {blocks}: {some(missing, 2)} should train, and {'does' if len(missing) == 1 else 'do'} not",
                likely,
            )
    return touched_fault(seen, "set the flags")


def draw_dropout(rng: np.random.Generator) -> Inputs:
    return draw_model(rng, p=float(rng.choice([0.2, 0.3, 0.4])), kinds=True)


def probe_dropout(names: Names, **inputs: Any) -> dict:
    """What stands where each linear layer stood."""
    model = build(inputs).train()
    model.embeddings.eval()
    model.my_query.requires_grad_(False)
    before = {name: id(m) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    was = held(model)
    raised(names.add_dropout, nn.Sequential(nn.Linear(2, 2)), 0.9)  # another model, and another p
    result, error = result_of(names.add_dropout, model, inputs["p"])
    if error:
        return {"raised": error}
    places = {}
    for name in before:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            continue
        parts = list(module) if isinstance(module, nn.Sequential) else []
        places[name] = {
            "kind": "Linear" if isinstance(module, nn.Linear) else type(module).__name__,
            "parts": ["Linear" if isinstance(part, nn.Linear) else type(part).__name__ for part in parts],
            "p": [float(part.p) for part in parts if isinstance(part, nn.Dropout)],
            "inplace": [bool(part.inplace) for part in parts if isinstance(part, nn.Dropout)],
            "same": bool(parts) and id(parts[-1]) == before[name],
        }
    dropouts = sum(isinstance(m, nn.Dropout) for m in model.modules())
    return {"places": places, "dropouts": dropouts, "same": result is model, "touched": touched(model, was)}


def judge_dropout(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each linear layer stands once, behind one dropout."""
    names = layer_names(inputs)
    if "raised" in seen:
        error = seen["raised"]
        likely = ""
        if error["type"] == "RecursionError":
            likely = (
                "the walk goes on into what it has put in, without end: collect the modules before the first change"
            )
        return Fault(f"add_dropout raised {error['type']}: {error['text']}", likely)
    for name in names:
        place = seen["places"].get(name)
        if place is None:
            return Fault(f"{name} is gone", "")
        if place["parts"] != ["Dropout", "Linear"]:
            shown = f"{place['kind']}({', '.join(place['parts'])})" if place["parts"] else place["kind"]
            likely = "the walk goes on into what it has put in"
            if place["parts"] == ["Linear", "Dropout"]:
                likely = "the dropout comes first, and the layer behind it"
            if place["kind"] == "Linear":
                likely = "the walk does not get there: model.modules() meets every depth"
                if name == "extra.own":
                    likely = "a class that inherits from nn.Linear is one: ask isinstance, not type()"
            return Fault(f"{name} is {shown}, expected Sequential(Dropout, Linear)", likely)
        if not place["same"]:
            return Fault(f"{name}: another layer than the model's own", "keep the layer that was there")
        if place["p"] != [inputs["p"]]:
            return Fault(f"{name}: Dropout({place['p'][0]:g}), expected {inputs['p']:g}", "p is not passed on")
        if any(place["inplace"]):
            likely = "it drops from x itself, which goes into other layers too: nn.Dropout(p) makes a new tensor"
            return Fault(f"{name}: Dropout(inplace=True)", likely)
    if seen["dropouts"] != len(names):
        return Fault(f"{seen['dropouts']} dropouts for {len(names)} linear layers", "one each")
    if not seen["same"]:
        return Fault("add_dropout does not return the model", "")
    return touched_fault(seen, "put the dropouts in")


def draw_convolution(rng: np.random.Generator) -> Inputs:
    out_features, in_features, length = (int(n) for n in rng.choice(np.arange(3, 10), size=3, replace=False))
    return {
        "W": rng.normal(size=(out_features, in_features)),
        "b": rng.normal(size=out_features),
        "x": rng.normal(size=(2, in_features, length)),
        "square": rng.normal(size=(in_features, in_features)),
    }


CASES = {"bias": "a layer with bias", "no bias": "a layer with no bias", "square": "a square layer"}


def probe_convolution(names: Names, **inputs: Any) -> dict:
    """The convolution's output for a layer with a bias, for one without, and for a square one."""
    return {case: attempt(convolved, names, inputs, case) for case in CASES}


def convolved(names: Names, inputs: Inputs, case: str) -> dict:
    W = inputs["square" if case == "square" else "W"]
    linear = nn.Linear(W.shape[1], W.shape[0], bias=case == "bias")
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(W))
        if case == "bias":
            linear.bias.copy_(torch.tensor(inputs["b"]))
    was = held(linear)
    conv = names.as_convolution(linear)
    return {
        "kind": [base.__name__ for base in type(conv).__mro__],
        "y": array(conv(torch.tensor(inputs["x"], dtype=torch.float32))),
        "touched": touched(linear, was),
    }


def judge_convolution(inputs: Inputs, seen: Observation) -> Fault | None:
    """At each position the convolution gives what the linear layer gives."""
    for case, shown in CASES.items():
        outcome, W = seen[case], inputs["square" if case == "square" else "W"]
        if "error" in outcome:
            fault = error_fault(outcome["error"])
            likely = "linear.bias is None there: ask for it first" if case != "bias" else fault.likely
            return replace(fault, seen=f"{shown}: {fault.seen}", likely=likely)
        bare = np.einsum("oi,bil->bol", W, inputs["x"])
        wanted = bare + inputs["b"][:, None] if case == "bias" else bare
        if "Conv1d" not in outcome["kind"]:
            return Fault(f"as_convolution returned a {outcome['kind'][0]}", "the docstring says nn.Conv1d")
        if changed := touched_fault(outcome, "copy out of the layer"):
            return replace(changed, seen=f"the given layer: {changed.seen}")
        if close(outcome["y"], wanted, 1e-4):
            continue
        likely = ""
        if outcome["y"].shape != wanted.shape:
            likely = "its weight has the shape (out_features, in_features, 1)"
        elif close(outcome["y"], bare, 1e-4):
            likely = "the bias was dropped"
        elif np.ptp(outcome["y"] - wanted, axis=(0, 2)).max() < 1e-4:
            likely = "the same number is added at each position: a bias of its own, which nn.Conv1d has unless told"
        elif case == "square" and close(outcome["y"], np.einsum("io,bil->bol", W, inputs["x"]), 1e-4):
            likely = "the weight is transposed"
        elif case == "bias":
            likely = "the weight is new: torch.empty is whatever was in memory, and nobody copies the pretrained one"
        return Fault(f"{shown}: the convolution gives something else", likely)
    return None


class Prompted(nn.Module):
    """Something pretrained, a new prompt and a new head."""

    def __init__(self, inputs: Inputs):
        super().__init__()
        inner = build({**inputs, "plain_head": True})
        del inner.classifier, inner.pre_classifier, inner.classifier_norm
        self.encoder = inner.train()
        self.prompt = nn.Embedding(4, inputs["width"])
        self.classifier = nn.Sequential(nn.Linear(inputs["width"], 5), nn.LayerNorm(5))


def probe_prompt(names: Names, **inputs: Any) -> dict:
    """What trains of a model with a prompt and a new head, of which all trained before, or nothing."""
    trains, same, changes = [], True, []
    for before in (True, False):
        model = Prompted(inputs).requires_grad_(before)
        was = held(model)
        same = names.train_prompt(model) is model and same
        trains.append([name for name, p in model.named_parameters() if p.requires_grad])
        changes += touched(model, was, flags=False)
    return {"trains": trains, "same": same, "touched": changes[:1]}


def judge_prompt(inputs: Inputs, seen: Observation) -> Fault | None:
    """The prompt and the head train, the encoder does not."""
    every = [name for name, _ in Prompted(inputs).named_parameters()]
    wanted = [name for name in every if not name.startswith("encoder.")]
    if len(seen["trains"]) != 2:
        return Fault("not every model was tried", "")
    for before, trains in zip((True, False), seen["trains"], strict=True):
        extra, missing = [n for n in trains if n not in wanted], [n for n in wanted if n not in trains]
        if missing:
            likely = "the new prompt must train as well as the new head: ask for the beginning of the name"
            if all(name.startswith("classifier.") for name in missing):
                likely = "a freeze by name that knows only one name: the new head is random, and stays so"
            if not before and len(missing) == len(wanted):
                likely = "the model was frozen before, and its new parts must train now: set the flag to True as well"
            return Fault(f"{some(missing, 2)} should train, and {'does' if len(missing) == 1 else 'do'} not", likely)
        if extra:
            return Fault(f"{some(extra, 2)} train", "the encoder is pretrained and must stay frozen")
    if not seen["same"]:
        return Fault("train_prompt does not return the model", "")
    return touched_fault(seen, "set the flags")


EXERCISE = Exercise(
    "3.6",
    "spot the bug",
    names=("unfreeze_blocks", "add_dropout", "as_convolution", "train_prompt"),
    keeps=("unfreeze_blocks", "add_dropout", "as_convolution", "train_prompt"),
    checks=[
        Check(
            "3.6/unfreeze_blocks",
            "unfreeze_blocks lets the named blocks train, and no others",
            probe_blocks,
            judge_blocks,
            draw_blocks,
            seed=13,
        ),
        Check(
            "3.6/add_dropout",
            "add_dropout puts one dropout before each linear layer",
            probe_dropout,
            judge_dropout,
            draw_dropout,
            seed=14,
        ),
        Check(
            "3.6/as_convolution",
            "as_convolution computes what the linear layer computes",
            probe_convolution,
            judge_convolution,
            draw_convolution,
            seed=15,
        ),
        Check(
            "3.6/train_prompt",
            "train_prompt trains the prompt and the new head",
            probe_prompt,
            judge_prompt,
            draw_model,
            seed=16,
        ),
    ],
)
