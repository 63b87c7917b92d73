"""Exercise 3.4, a walk: two models are injected, trained, copied, merged, saved and loaded in turn.

The judge takes the same walk with the package's own injection (`lora_ref.checks.walk`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref import inject
from lora_ref.checks.probing import Names, array
from lora_ref.checks.stage03.shared import build, draw_model, some
from lora_ref.checks.stage03.wrapped import of_lora, wrappers
from lora_ref.checks.verdicts import Fault, Inputs, Observation, close
from lora_ref.checks.walk import Step, first_parting, path, step, take
from lora_ref.rounding import number

LEARNING_RATE = 0.02
REMEMBERED = 4
MODES = {"eval": "evaluation", "train": "training"}


def draw_walk(rng: np.random.Generator) -> Inputs:
    """Two models, the same targets in both, other ranks; one is copied, and loaded into a third that is like it."""
    kinds = [["query"], ["key", "value"], ["intermediate.dense", "output.dense"], ["mixer.2"]]
    targets = [str(t) for t in rng.permutation([rng.choice(kind) for kind in kinds])]
    models: dict[str, Inputs] = {}
    for name, prefix in zip("mn", rng.permutation(["encoder", "backbone"]), strict=True):
        options = {"rank": 2 + len(models), "alpha": float(rng.integers(2, 6)) + 0.5, "dropout": 0.0}
        models[name] = draw_model(rng, layers=2, prefix=str(prefix), targets=targets, options=options)
    models["o"] = models["d"] = models["m"]

    def new_values(on: str) -> Step:
        return step("set", on, told="new values in every A and B of", seed=int(rng.integers(2**31)))

    def learn(on: str) -> Step:
        return step("learn", on, told="a training step of", weights=rng.normal(size=(3, 3)))

    first, second = (str(name) for name in rng.permutation(["m", "n"]))
    steps = [*path(f"inject {first}, inject {second}"), new_values("m"), new_values("n")]
    steps += [learn(first), learn(second), step("copy", "d", told="copy.deepcopy(m) as", of="m"), new_values("d")]
    steps += [learn("m"), *path("merge n, unmerge n"), learn("n"), *path("inject o")]
    steps += [step("load", "o", told="m's state_dict into", of="m"), new_values("m"), learn("o")]
    return {"models": models, "steps": steps}


class Walker:
    """Takes the steps with one injection, the student's or the package's, and looks at all models after each."""

    def __init__(self, inputs: Inputs, inject_lora: Callable[..., Any]):
        self.inputs, self.inject_lora = inputs, inject_lora
        self.made: dict[str, nn.Module] = {}

    def __call__(self, one: Step) -> dict:
        name, alone = one["on"], {}
        if one["do"] == "inject":
            given = self.inputs["models"][name]
            self.made[name] = build(given)
            self.inject_lora(self.made[name], list(given["targets"]), **given["options"])
        elif one["do"] == "copy":
            self.made[name] = copy.deepcopy(self.made[one["of"]])
        elif one["do"] == "load":
            self.made[name].load_state_dict(self.made[one["of"]].state_dict())
        elif one["do"] == "set":
            alone = _set(self.made[name], one["seed"])
        elif one["do"] == "learn":
            _learn(self.made[name], self.inputs["models"][name], one["weights"])
        else:
            for layer in wrappers(self.made[name]).values():
                getattr(layer, one["do"], lambda: None)()  # the contract of 3.4 asks for no merge
        return {"alone": alone, "looks": {key: self.look(key, key == name) for key in self.made}}

    def look(self, name: str, both: bool) -> dict:
        """A model as it is, with its logits in evaluation mode, or in ``both``."""
        model, ids = self.made[name], torch.tensor(self.inputs["models"][name]["ids"])
        with torch.no_grad():
            logits = {mode: array(model.train(mode == "train")(ids)) for mode in MODES if both or mode == "eval"}
        trains = [key for key, p in model.named_parameters() if p.requires_grad]
        return {"wrapped": list(wrappers(model)), "trains": trains, **logits}


def _set(model: nn.Module, seed: int) -> dict:
    """Give every layer values, and ask each for its output at once."""
    rng, alone = np.random.default_rng(seed), {}
    for name, layer in wrappers(model).items():
        A, B = layer.lora.lora_A, layer.lora.lora_B
        with torch.no_grad():
            for factor in (A, B):
                factor.copy_(torch.tensor(rng.normal(size=tuple(factor.shape)) / factor.shape[1] ** 0.5))
            alone[name] = array(layer.eval()(torch.linspace(-1, 2, A.shape[1])))
    return alone


def _learn(model: nn.Module, given: Inputs, weights: np.ndarray) -> None:
    """A step of plain gradient descent for LoRA's matrices."""
    output = model.train()(torch.tensor(given["ids"]))
    (output * torch.tensor(weights, dtype=torch.float32)).sum().backward()
    with torch.no_grad():
        for layer in wrappers(model).values():
            for factor in (layer.lora.lora_A, layer.lora.lora_B):
                if factor.grad is not None:
                    factor -= LEARNING_RATE * factor.grad
    for parameter in model.parameters():
        parameter.grad = None


def probe_walk(names: Names, **inputs: Any) -> dict:
    return take(inputs["steps"], Walker(inputs, names.inject_lora))


def own_walk(inputs: Inputs) -> list[dict]:
    """What the package's own injection gives, step by step; the last few walks are remembered."""
    key = tuple(given["seed"] for given in inputs["models"].values())
    if key not in _OWN:
        if len(_OWN) == REMEMBERED:
            del _OWN[next(iter(_OWN))]
        with torch.random.fork_rng(devices=[]):
            walker = Walker(inputs, inject.inject_lora)
            _OWN[key] = [walker(one) for one in inputs["steps"]]
    return _OWN[key]


_OWN: dict[tuple, list[dict]] = {}


class Beside:
    """Compares with the package's own injection. Of a model whose layers are wrong by themselves, or do not train,
    nothing more is asked: that is other checks' matter.

    Attributes:
        trains: what trains of each model, right after it was made.
        sure: the models whose logits are compared.
    """

    def __init__(self, inputs: Inputs):
        self.own = iter(own_walk(inputs))
        self.trains: dict[str, list[str]] = {}
        self.sure: set[str] = set()

    def __call__(self, one: Step, outcome: Observation) -> Fault | None:
        wanted, on = next(self.own), one["on"]
        look = outcome["looks"][on]
        if not look["wrapped"]:
            return Fault("no layer is wrapped", "")
        if one["do"] in ("inject", "copy"):
            self.trains[on] = look["trains"]
        if one.get("of") in self.sure or (one["do"] == "set" and self._right(look, outcome, wanted)):
            self.sure.add(on)
        for key, seen in outcome["looks"].items():
            if fault := self._fault(key, on, seen, wanted["looks"][key], one):
                return fault
        return None

    def _right(self, look: Observation, outcome: Observation, wanted: Observation) -> bool:
        """Whether the layers are the right ones, each is right by itself, and trains."""
        awake = sum(of_lora(name) for name in look["trains"]) == 2 * len(look["wrapped"])
        alone, other = outcome["alone"], wanted["alone"]
        return awake and alone.keys() == other.keys() and all(close(alone[name], other[name], 1e-3) for name in other)

    def _fault(self, key: str, on: str, seen: Observation, wanted: Observation, one: Step) -> Fault | None:
        likely = ""
        if "d" in (key, on):
            likely = (
                "a copy of the model computes with the original's matrices, or the other way round: keep them in it"
            )
        if key != on:
            likely = likely or f"what is done to {on} changes {key}: what belongs to a layer is kept in that layer"
        stopped = [name for name in self.trains[key] if name not in seen["trains"]]
        if stopped:
            return Fault(f"{some(stopped, 2)} of {key} do not train any more", likely)
        if key not in self.sure:
            return None
        for mode, shown in MODES.items():
            if mode in wanted and not close(seen[mode], wanted[mode], 1e-3):
                off = number(np.abs(seen[mode] - wanted[mode]).max())
                likely = likely or "each layer has an update of its own, read again in each call"
                return Fault(f"the logits of {key} in {shown} mode are off by up to {off}", likely)
        return None


def judge_walk(inputs: Inputs, seen: Observation) -> Fault | None:
    """After each step every model computes what the package's own does."""
    return first_parting(inputs["steps"], seen, Beside(inputs))
