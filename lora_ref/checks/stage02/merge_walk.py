"""Exercise 2.5, a walk: several wrappers are merged and unmerged in turn, given new values, loaded and copied."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lora_ref.checks.probing import Names, array, attempt
from lora_ref.checks.stage02.shared import build_linear, factor, set_factors, sum_expected, tensor
from lora_ref.checks.stage02.walks import ROWS, draw_layers, new_values
from lora_ref.checks.verdicts import Fault, Inputs, Observation, close
from lora_ref.checks.walk import Step, first_parting, path, step, take
from lora_ref.rounding import number

MODES = {"eval": "evaluation", "train": "training"}


def draw_walk(rng: np.random.Generator) -> Inputs:
    """Three wrappers, merged and unmerged in turn, with new values, another weight loaded, and one of them copied."""
    layers = draw_layers(rng)
    layers["e"]["B"] = 0 * layers["e"]["B"]  # of a fresh layer
    a, b = (str(n) for n in rng.permutation(["a", "b"]))
    loaded = {key: rng.normal(size=layers[b][key].shape) for key in ("W", "b", "A", "B")}
    first, last = rng.permutation(["d", a]).tolist()
    steps = path(
        f"make a, make b, make c, unmerge {rng.choice([a, 'c'])}, merge {a}, merge {a}, merge {b}, unmerge {a}"
    )
    steps += [*path(f"merge c, unmerge {a}"), new_values(rng, layers, a), *path(f"merge {a}, unmerge {b}")]
    steps += [step("load", b, told="load_state_dict with other values into", **loaded)]
    steps += path(f"merge {b}, unmerge {b}, merge {b}")
    steps += [step("copy", "d", told=f"copy.deepcopy({b}) as", of=b)]
    steps += path(f"unmerge {first}, unmerge {last}, merge d, unmerge {b}, unmerge c, unmerge d")
    steps += [new_values(rng, layers, "c"), *path("merge c, unmerge c, make e, merge e, unmerge e")]
    steps += [mode("a", False), *path("merge a, unmerge a"), mode("a", True)]
    steps += [step("double", "c", told="double() of"), new_values(rng, layers, "c"), *path("merge c, unmerge c")]
    xs = {name: rng.normal(size=(ROWS, layer["in_features"])) for name, layer in layers.items()}
    return {"layers": layers, "steps": steps, "x": xs}


def mode(on: str, training: bool) -> Step:
    """A step that sets the mode, and calls neither train() nor eval(): a wrapper may merge in them."""
    return step("mode", on, told=f"{'training' if training else 'evaluation'} mode for", training=training)


def probe_walk(names: Names, **inputs: Any) -> dict:
    """Several wrappers on a walk (`lora_ref.checks.walk`): all of them are looked at after each step."""
    made: dict[str, Any] = {}
    x = {name: tensor(values) for name, values in inputs["x"].items()}

    def build(layer: Inputs) -> Any:
        wrapper = names.LinearWithLoRA(build_linear(layer, layer["bias"]), layer["rank"], layer["alpha"])
        set_factors(wrapper.lora, layer)
        return wrapper

    def one_step(one: Step) -> dict:
        name = one["on"]
        if one["do"] == "make":
            made[name] = build(inputs["layers"][name])
        elif one["do"] == "copy":
            with contextlib.suppress(Exception):  # what cannot be copied is left out
                made[name], x[name] = copy.deepcopy(made[one["of"]]), x[one["of"]]
        elif name not in made:
            pass
        elif one["do"] == "set":
            set_factors(made[name].lora, one)
        elif one["do"] == "load":
            other = build({**inputs["layers"][name], **{key: one[key] for key in ("W", "b", "A", "B")}})
            made[name].load_state_dict(other.state_dict(), strict=False)
        elif one["do"] == "mode":
            for module in made[name].modules():
                module.training = one["training"]
        elif one["do"] == "double":
            made[name].double()
            x[name] = x[name].double()
        else:
            getattr(made[name], one["do"])()
        recording = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        looks = {key: look(wrapper, x[key], key == name) for key, wrapper in made.items()}
        return {"looks": looks, "recording": recording}

    return take(inputs["steps"], one_step)


def look(wrapper: Any, x: torch.Tensor, output: bool) -> dict:
    """One wrapper as it is; with its output in both modes, if that is wanted."""
    seen: dict[str, Any] = {
        "W": array(wrapper.linear.weight),
        "dtype": str(wrapper.linear.weight.dtype).removeprefix("torch."),
        "b": None if wrapper.linear.bias is None else array(wrapper.linear.bias),
        "A": array(factor(wrapper.lora, "lora_A")),
        "B": array(factor(wrapper.lora, "lora_B")),
        "merged": None if callable(wrapper.merged) else bool(wrapper.merged),
        "training": bool(wrapper.training),
    }
    if output:
        with torch.no_grad():
            for mode in MODES:
                seen[mode] = attempt(lambda mode: {"y": array(wrapper.train(mode == "train")(x))}, mode, gaps=True)
        wrapper.train(seen["training"])
    return seen | {"trains": [name for name, p in wrapper.named_parameters() if p.requires_grad]}


class Walk:
    """Judges `draw_walk`, step by step (`lora_ref.checks.walk.first_parting`)."""

    def __init__(self, inputs: Inputs):
        self.inputs = inputs
        self.models: dict[str, Inputs] = {}
        self.first: dict[str, Observation] = {}

    def __call__(self, one: Step, outcome: Observation) -> Fault | None:
        name = one["on"]
        if one["do"] == "make":
            more = {
                "merged": False,
                "unsure": set(),
                "training": outcome["looks"][name]["training"],
                "dtype": "float32",
            }
            self.models[name] = {**self.inputs["layers"][name], **more}
            self.models[name]["x"] = self.inputs["x"][name]
            self.first[name] = outcome["looks"][name]
        elif one["do"] == "copy":
            if name in outcome["looks"]:
                self.models[name], self.first[name] = dict(self.models[one["of"]]), self.first[one["of"]]
        elif one["do"] in ("set", "load"):
            self.models[name] |= {key: one[key] for key in ("W", "b", "A", "B") if key in one}
        elif one["do"] == "mode":
            self.models[name]["training"] = one["training"]
        elif one["do"] == "double":
            self.models[name]["dtype"] = outcome["looks"][name]["dtype"]  # nobody promises that double() works
        elif name in self.models:
            self.models[name]["merged"] = one["do"] == "merge"
        if not outcome["recording"]:
            likely = "torch.set_grad_enabled(False) lasts; `with torch.no_grad():` ends with its block"
            return Fault("autograd is switched off", likely)
        for key in self.models:
            if fault := self._fault(key, outcome["looks"][key], key == name):
                if key != name and not fault.likely:
                    likely = "what belongs to one layer is kept on self, not on the class or in a global"
                    return replace(fault, likely=f"a call of {name} changes {key}: {likely}")
                return fault
        return None

    def _fault(self, name: str, seen: Observation, called: bool) -> Fault | None:
        model, first = self.models[name], self.first[name]
        update = model["alpha"] / model["rank"] * model["B"] @ model["A"]
        wanted = model["W"] + model["merged"] * update
        if not close(seen["W"], wanted, 1e-5 * max(1.0, float(np.abs(update).max()))):
            off = number(np.abs(seen["W"] - wanted).max()) if seen["W"].shape == wanted.shape else "another shape"
            return Fault(f"the weight of {name} is off by up to {off}", self._cause(name, seen["W"]))
        if seen["dtype"] != model["dtype"]:
            return Fault(
                f"the weight of {name} is {seen['dtype']}, it was {model['dtype']}", "leave the dtype as it is"
            )
        if seen["b"] is not None and not np.allclose(seen["b"], model["b"], 1e-6, 1e-6):
            return Fault(f"the bias of {name} has changed", "the update is the weight's alone")
        for key in "AB":
            found = seen[key].T if seen[key].shape == model[key].shape[::-1] != model[key].shape else seen[key]
            if not close(found, model[key]):
                return Fault(f"lora_{key} of {name} has changed", "A and B stay as they are, so training can go on")
        if seen["merged"] is not None and seen["merged"] != model["merged"]:
            return Fault(f".merged of {name} is {seen['merged']}", "")
        if not model["merged"] and seen["training"] != model["training"]:
            shown = f"{name} is in {MODES['train' if seen['training'] else 'eval']} mode"
            return Fault(shown, "whether it drops is the caller's to choose: train(), eval()")
        more = [key for key in seen["trains"] if key not in first["trains"]]
        if more:
            likely = (
                "a tensor kept aside is not an nn.Parameter: a clone, without gradients, is neither trained nor counted"
            )
            return Fault(f"{' and '.join(more)} of {name} trains now", likely)
        return self._output_fault(name, seen) if called else None

    def _output_fault(self, name: str, seen: Observation) -> Fault | None:
        """The output while it is merged. What is wrong of it before is exercise 2.4's, from then on."""
        model = self.models[name]
        for mode in sorted(set(MODES) - model["unsure"]):
            right = "y" in seen[mode] and close(seen[mode]["y"], sum_expected(model), 1e-4)
            if not right and not model["merged"]:
                model["unsure"] = model["unsure"] | {mode}
            elif not right:
                return Fault(f"the output of {name} in {MODES[mode]} mode is wrong", "")
        return None

    def _cause(self, name: str, W: np.ndarray) -> str:
        for other, model in self.models.items():
            if other != name and model["W"].shape == W.shape and close(W, model["W"]):
                return f"it is {other}'s: what one layer keeps of its weight belongs on self"
        original = self.inputs["layers"].get(name)
        if original and original["W"] is not self.models[name]["W"] and close(W, original["W"]):
            return "it is the weight from before the load: keep a copy at each merge"
        return ""


def judge_walk(inputs: Inputs, seen: Observation) -> Fault | None:
    """After each step every weight, flag and output is what the steps of its own wrapper make it."""
    return first_parting(inputs["steps"], seen, Walk(inputs))
