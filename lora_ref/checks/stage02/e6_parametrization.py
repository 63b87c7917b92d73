"""Exercise 2.6, LoRA as a weight parametrization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt
from lora_ref.checks.stage02.shared import (
    LEARNING_RATE,
    TINY,
    build_linear,
    draw_wrapped,
    factor_of,
    scale_cause,
    tensor,
    uninitialised_is_nan,
)
from lora_ref.checks.stage02.walks import SIZES, draw_layers, new_values
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation, close, error_fault
from lora_ref.checks.walk import Step, first_parting, step, take
from lora_ref.rounding import number

#: What a trainable parameter is: of A or of B, from which row (of A) or column (of B) on, how many of them, and whether
#: they are the parameter's columns.
Role = tuple[str, int, int, bool]


def roles(names: Names, module: Any, inputs: Inputs) -> dict[str, Role]:
    """What each trainable parameter is, by its shape: the contract names neither A and B nor their shapes.

    Each may be one matrix, either way round, or be kept in pieces. In a square layer the shapes don't tell: there a
    parameter is what it is, by its name, in a layer with one more output.
    """
    sizes = {"A": inputs["in_features"], "B": inputs["out_features"]}
    if sizes["A"] == sizes["B"]:
        more = {**inputs, "out_features": sizes["B"] + 1}
        return roles(names, build_parametrization(names, more), more)
    found: dict[str, Role] = {}
    taken = {"A": 0, "B": 0}
    for name, parameter in module.named_parameters():
        shape = tuple(parameter.shape)
        for key, size in sizes.items():
            count = parameter.numel() // size
            fits = shape in ((size,), (count, size), (size, count)) and taken[key] + count <= inputs["rank"]
            if parameter.requires_grad and fits and count:
                found[name] = key, taken[key], count, shape == (size, count) != (count, size)
                taken[key] += count
                break
    return {name: role for name, role in found.items() if taken[role[0]] == inputs["rank"]}


@torch.no_grad()
def fill_factors(names: Names, module: Any, inputs: Inputs) -> dict[str, list[nn.Parameter]]:
    """Give A and B the inputs' values, and return their parameters."""
    vectors = {"A": inputs["A"], "B": inputs["B"].T}
    parameters: dict[str, nn.Parameter] = dict(module.named_parameters())
    filled: dict[str, list[nn.Parameter]] = {}
    for name, (key, at, count, columns) in roles(names, module, inputs).items():
        parameter, piece = parameters[name], vectors[key][at : at + count]
        values = (piece.T if columns else piece).reshape(tuple(parameter.shape))
        parameter.copy_(torch.as_tensor(values.copy(), dtype=parameter.dtype))
        filled.setdefault(key, []).append(parameter)
    return filled


def build_parametrization(names: Names, inputs: Inputs) -> Any:
    return names.LoRAParametrization(inputs["out_features"], inputs["in_features"], inputs["rank"], inputs["alpha"])


def probe_parametrization(names: Names, **inputs: Any) -> dict:
    """A parametrization as it starts, with known factors, switched off and on again."""
    W = tensor(inputs["W"])
    with uninitialised_is_nan():
        module = build_parametrization(names, inputs)
    seen = {
        "shapes": [list(p.shape) for p in module.parameters() if p.requires_grad],
        "enabled": bool(module.enabled),
        "start": attempt(lambda: {"W": array(started(module)(W.clone()))}, gaps=True),
    }
    module.enabled = True
    seen["start_gradients"] = attempt(lambda: start_gradients(module, W.clone()), gaps=True)
    module = build_parametrization(names, inputs)  # not called yet
    module.enabled = True
    seen["found"] = sorted(fill_factors(names, module, inputs))
    given = W.clone()
    seen["on"] = attempt(lambda: {"W": array(module(given))}, gaps=True)
    seen["given"] = array(given)
    seen["to W"] = attempt(lambda: gradient_of(module, W.clone()), gaps=True)
    seen["on_eval"] = attempt(lambda: {"W": array(module.eval()(W.clone()))}, gaps=True)
    module.train()
    module.enabled = False
    off = module(W)
    seen["off"] = {"same": off is W, "W": array(off)}
    module.enabled = True
    seen["on_again"] = attempt(lambda: {"W": array(module(W.clone()))}, gaps=True)
    return seen


def started(module: Any) -> Any:
    """The module, switched on: that it is on at first is asked elsewhere."""
    module.enabled = True
    return module


def gradient_of(module: Any, W: torch.Tensor) -> dict:
    """The gradient that W gets where the weights of the sum are 1."""
    (gradient,) = torch.autograd.grad(module(W.requires_grad_()).sum(), W, allow_unused=True)
    return {"gradient": None if gradient is None else array(gradient)}


def start_gradients(module: Any, W: torch.Tensor) -> dict:
    """The largest gradient of any parameter of a fresh parametrization."""
    weights = torch.linspace(-1, 2, W.numel()).reshape(W.shape)
    (module(W) * weights).sum().backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return {"largest": max((float(g.abs().max()) for g in gradients), default=0.0)}


def probe_defaults(names: Names, **inputs: Any) -> dict:
    """A parametrization built with its two sizes alone: rank 1, alpha 1."""
    one = {**inputs, "rank": 1, "A": inputs["A"][:1], "B": inputs["B"][:, :1]}
    module = names.LoRAParametrization(inputs["out_features"], inputs["in_features"])
    found = sorted(fill_factors(names, started(module), one))
    return {"found": found, "W": array(module(tensor(inputs["W"])))}


def probe_registered(names: Names, **inputs: Any) -> dict:
    """A frozen nn.Linear whose weight is parametrized: outputs, gradients, one training step, off."""
    seen = attempt(lambda: registered(names, inputs), gaps=True)
    return {"raised": seen["error"]} if "error" in seen else seen


def registered(names: Names, inputs: Inputs) -> dict:
    x, linear = tensor(inputs["x"]), build_linear(inputs).requires_grad_(False)
    before = array(linear(x))
    module = started(build_parametrization(names, inputs))
    parametrize.register_parametrization(linear, "weight", module)
    original = linear.get_parameter("parametrizations.weight.original")
    factors = fill_factors(names, module, inputs)
    y = linear(x)
    y.sum().backward()
    seen = {
        "before": before,
        "found": sorted(factors),
        "y": array(y),
        "gradients": {
            name: all(p.grad is not None and bool(p.grad.any()) for p in pieces) for name, pieces in factors.items()
        },
        "trains": sum(p.numel() for p in linear.parameters() if p.requires_grad),
    }
    with torch.no_grad():
        for parameter in linear.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter.sub_(LEARNING_RATE * parameter.grad)
    seen["original"] = array(original)
    seen["trained"] = array(linear(x))
    module.enabled = False
    return {**seen, "off": array(linear(x))}


def parametrized_expected(inputs: Inputs) -> np.ndarray:
    return inputs["W"] + inputs["alpha"] / inputs["rank"] * inputs["B"] @ inputs["A"]


def judge_parametrized(inputs: Inputs, seen: Observation) -> Fault | None:
    """With known factors, forward(W) is W + scaling B A."""
    fault = factors_fault(inputs, seen)
    if fault:
        return fault
    if "error" in seen["on"]:
        return product_fault(seen["on"]["error"])
    if not close(seen["given"], inputs["W"], 1e-6):
        return Fault(
            "forward changed the W it was given", "the original weight changed: write W + update, not W += update"
        )
    found, expected = seen["on"]["W"], parametrized_expected(inputs)
    if close(found, expected):
        if "W" in seen["on_eval"] and close(seen["on_eval"]["W"], expected):
            gradient = seen["to W"].get("gradient")
            if gradient is not None and close(gradient, np.ones_like(expected)):
                return None
            shown = "no gradient comes back to W" if gradient is None else "the gradient of W is not the sum's"
            return Fault(shown, "where W trains, it is trained through the sum: no detach(), .data or no_grad()")
        return Fault("in evaluation mode forward(W) is a different weight", "only self.enabled switches")
    if found.shape != expected.shape:
        return Fault(
            f"a weight of shape {found.shape}, expected {expected.shape}", "B and A are multiplied in the wrong order"
        )
    ratio = factor_of(found - inputs["W"], expected - inputs["W"])
    if ratio is not None:
        return Fault(f"{number(ratio)} times the update is added", scale_cause(inputs, ratio))
    likely = "W is missing from the sum" if close(found, expected - inputs["W"], 1e-4) else ""
    if close(found, inputs["W"]):
        return Fault("with values in A and B, forward(W) is still W", "")
    return Fault("forward(W) is not W + (alpha / rank) * B A", likely)


def product_fault(error: Mapping[str, str]) -> Fault:
    """What an error in the parametrization's forward means; shapes that do not fit are B's and A's."""
    fault = error_fault(error)
    if not fault.likely.startswith("shapes do not fit"):
        return fault
    return Fault(fault.seen, "B and A are multiplied in the wrong order: B A has the shape of W")


def factors_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    """Trainable factors of the right shapes, found by shape because the contract does not name them."""
    shown = ", ".join(str(tuple(shape)) for shape in seen["shapes"]) or "none"
    A, B = inputs["A"].shape, inputs["B"].shape
    expected = f"A {A} and B {B}, in one piece each or in several"
    if sorted(seen["shapes"]) == sorted([[A[0], B[0]], [A[1], B[1]]]) and "error" in seen["on"]:
        return Fault(
            f"trainable parameters {shown}; expected {expected}",
            "in_features and out_features are the wrong way round: W is (out_features, in_features)",
        )
    count = sum(math.prod(shape) for shape in seen["shapes"])
    if seen["found"] != ["A", "B"] or count != inputs["A"].size + inputs["B"].size:
        likely = ""
        if count < inputs["A"].size + inputs["B"].size:
            likely = (
                "what is missing is frozen or is not an nn.Parameter; nn.Parameter(...).to(...) makes a plain tensor"
            )
        return Fault(f"trainable parameters {shown}; expected {expected}", likely)
    return None


def judge_start(inputs: Inputs, seen: Observation) -> Fault | None:
    """A fresh parametrization changes nothing and can learn."""
    fault = factors_fault(inputs, seen)
    if fault:
        return fault
    for key in ("start", "start_gradients"):
        if "error" in seen[key]:
            return product_fault(seen[key]["error"])
    if not close(seen["start"]["W"], inputs["W"], 1e-6):
        if not np.any(seen["start"]["W"]):
            return Fault("a fresh parametrization gives zero, not W", "W is missing from the sum")
        return Fault(
            "a fresh parametrization changes the weight", "B must start at zero (torch.empty is uninitialised memory)"
        )
    if not TINY < seen["start_gradients"]["largest"] < np.inf:
        likely = "A and B are both zero, or all but zero: nothing ever learns"
        return Fault("all gradients are zero at the start", likely)
    return None


def judge_switch(inputs: Inputs, seen: Observation) -> Fault | None:
    """Enabled at first; off gives W itself; on again gives the update again."""
    if not seen["enabled"]:
        return Fault("enabled is False at first", "")
    if not close(seen["off"]["W"], inputs["W"], 1e-6):
        return Fault("with enabled = False forward(W) still adds something", "forward does not check self.enabled")
    if not seen["off"]["same"]:
        return Fault(
            "with enabled = False forward(W) is an equal tensor, but not W itself",
            "a copy is made, or zero is added: return W",
        )
    if "error" in seen["on_again"]:
        return factors_fault(inputs, seen) or product_fault(seen["on_again"]["error"])
    on = seen["on"].get("W")
    if on is not None and close(seen["on_again"]["W"], inputs["W"]) and not close(on, inputs["W"]):
        return Fault("switched on again, forward(W) is still W", "the update is lost when it is switched off")
    return None


def draw_calls(rng: np.random.Generator) -> Inputs:
    """Two parametrizations, a square one and one whose rank is above its smaller side, in turn."""
    layers = {name: layer for name, layer in draw_layers(rng).items() if name != "b"}

    def call(on: str, **more: Any) -> Step:
        W = rng.normal(size=layers[on]["W"].shape)
        told = f"forward(W) of {W.shape[0]} x {W.shape[1]}"
        told += (f", of a size of {more['size']:g}," if "size" in more else "") + " without autograd" * (
            "quiet" in more
        )
        return step("call", on, told=f"{told} through", W=W * more.get("size", 1.0), **more)

    steps = [step("make", "a"), step("make", "c"), call("c"), call("a")]
    steps += [new_values(rng, layers, "c"), call("c"), new_values(rng, layers, "a"), call("a"), call("c")]
    steps += [
        new_values(rng, layers, "a"),
        call("a"),
        step("off", "a"),
        call("a"),
        call("c"),
        new_values(rng, layers, "a"),
    ]
    steps += [
        step("on", "a"),
        call("a", quiet=True),
        new_values(rng, layers, "a"),
        call("a", quiet=True),
        call("a"),
        step("learn", "a", told="an in-place change of A and B of"),
        call("a"),
    ]
    steps += [step("eval", "c", told="eval() of"), call("c"), new_values(rng, layers, "c"), call("c")]
    steps += [step("double", "c", told="double() of"), call("c"), call("c", size=SIZES[0])]
    return {"layers": layers, "steps": steps}


def probe_calls(names: Names, **inputs: Any) -> dict:
    """Two parametrizations, called in turn (`lora_ref.checks.walk`)."""
    made: dict[str, Any] = {}

    def one_step(one: Step) -> dict:
        name, do = one["on"], one["do"]
        if do == "make":
            with uninitialised_is_nan():
                made[name] = started(build_parametrization(names, inputs["layers"][name]))
        elif do == "set":
            values = {**inputs["layers"][name], "A": one["A"], "B": one["B"]}
            return {"found": sorted(fill_factors(names, made[name], values))}
        elif do in ("on", "off"):
            made[name].enabled = do == "on"
        elif do == "learn":
            with torch.no_grad():
                for parameter in made[name].parameters():
                    parameter.mul_(0.5 if parameter.requires_grad else 1.0)
        elif do in ("eval", "double"):
            getattr(made[name], do)()
        else:
            dtype = next(made[name].parameters()).dtype
            W = torch.tensor(one["W"], dtype=dtype)
            try:
                with torch.set_grad_enabled(not one.get("quiet")):
                    out = made[name](W)
            except RuntimeError:
                if dtype == torch.float32:
                    raise
                return {"refused": True}  # see lora_ref.checks.stage02.walks.act
            return {"W": array(out), "given": array(W), "dtype": str(out.dtype), "wanted": str(dtype)}
        return {}

    return take(inputs["steps"], one_step)


class Beside:
    """Judges `draw_calls`, step by step (`lora_ref.checks.walk.first_parting`)."""

    def __init__(self, inputs: Inputs):
        self.layers = {name: {**layer, "update": 0.0, "times": 0.0} for name, layer in inputs["layers"].items()}
        self.earlier: dict[str, list[Any]] = {name: [0.0] for name in self.layers}
        self.off: set[str] = set()
        self.added: set[str] = set()

    def __call__(self, one: Step, outcome: Observation) -> Fault | None:
        name, do = one["on"], one["do"]
        layer = self.layers[name]
        if do == "set":
            if outcome["found"] != ["A", "B"]:
                return Fault("A and B are not found among the trainable parameters", ELSEWHERE, "")
            self.earlier[name].append(layer["update"])
            layer["update"] = layer["alpha"] / layer["rank"] * one["B"] @ one["A"]
        elif do == "learn":
            self.earlier[name].append(layer["update"])
            layer["update"] = layer["update"] / 4
        elif do in ("on", "off"):
            (self.off.add if do == "off" else self.off.discard)(name)
        elif do == "call" and "refused" not in outcome:
            return self._call(one, outcome)
        return None

    def _call(self, one: Step, outcome: Observation) -> Fault | None:
        layer, W, found = self.layers[one["on"]], one["W"], outcome["W"]
        if found.shape != W.shape:
            return Fault(f"the result has shape {found.shape}, expected {W.shape}", "")
        if outcome["dtype"] != outcome["wanted"]:
            return Fault(f"the result is {outcome['dtype']}, and W {outcome['wanted']}", "the result is cast")
        if not close(outcome["given"], W, 1e-6):
            return Fault("forward has changed the W that it is given", "write W + update, not W += update")
        if not np.isfinite(found).all():
            likely = "float64 is computed in single precision on the way: leave the dtype as it is"
            return Fault("the result is not finite", likely if "size" in one else "")
        update = np.asarray(0.0 if one["on"] in self.off else layer["update"])
        if np.ndim(update) and not layer["times"]:  # what scales all of it is another check's matter
            layer["times"] = factor_of(found - W, update) or 1.0
        if close(found, W + (layer["times"] or 1.0) * update, 1e-4):
            self.added |= {one["on"]} if np.any(update) else set()
            return None
        likely = ""
        if close(found, W, 1e-4) and one["on"] in self.added:
            likely = "nothing is added, although enabled is True"
        elif any(close(found, W + (layer["times"] or 1.0) * before, 1e-4) for before in self.earlier[one["on"]]):
            likely = "the update of earlier values of A and B: it is computed once and kept"
        return Fault(f"the result is off by up to {number(np.abs(found - W - update).max())}", likely)


def judge_calls(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each call adds the update that A and B give then, or nothing while it is switched off."""
    return first_parting(inputs["steps"], seen, Beside(inputs))


EXERCISE = Exercise(
    "2.6",
    "LoRA as a weight parametrization",
    names=("LoRAParametrization",),
    builds_on=("LoRALayer",),
    checks=[
        Check(
            "2.6/value",
            "forward(W) is W + (alpha / rank) * B A",
            probe_parametrization,
            judge_parametrized,
            draw_wrapped,
            seed=10,
        ),
        Check(
            "2.6/start",
            "a fresh parametrization changes nothing and can learn",
            probe_parametrization,
            judge_start,
            draw_wrapped,
            seed=10,
        ),
        Check(
            "2.6/switch",
            "with enabled = False forward returns W itself",
            probe_parametrization,
            judge_switch,
            draw_wrapped,
            seed=10,
        ),
        Check(
            "2.6/calls",
            "each call adds to its own W what A and B give then, in W's dtype",
            probe_calls,
            judge_calls,
            draw_calls,
            seed=10,
        ),
    ],
)
