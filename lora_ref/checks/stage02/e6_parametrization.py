"""Exercise 2.6, LoRA as a weight parametrization."""

from __future__ import annotations

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
    build_linear,
    draw_wrapped,
    factor_of,
    oriented,
    scale_cause,
    tensor,
    uninitialised_is_nan,
)
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close, error_fault
from lora_ref.rounding import number


def find_factors(module: Any, inputs: Inputs) -> dict[str, nn.Parameter]:
    """The parameters that have the shape of A or of B, either way round: the contract does not name them."""
    wanted = {"A": inputs["A"].shape, "B": inputs["B"].shape}
    found = {}
    for parameter in module.parameters():
        for name, shape in wanted.items():
            if tuple(parameter.shape) in (shape, shape[::-1]):
                found[name] = parameter
    return found


@torch.no_grad()
def fill_factors(module: Any, inputs: Inputs) -> dict[str, nn.Parameter]:
    found = find_factors(module, inputs)
    for name, parameter in found.items():
        values = inputs[name] if tuple(parameter.shape) == inputs[name].shape else inputs[name].T
        parameter.copy_(torch.as_tensor(values.copy(), dtype=parameter.dtype))
    return found


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
        "start": attempt(lambda: {"W": array(module(W.clone()))}, gaps=True),
        "start_gradients": attempt(lambda: start_gradients(module, W.clone()), gaps=True),
    }
    seen["found"] = sorted(fill_factors(module, inputs))
    given = W.clone()
    seen["on"] = attempt(lambda: {"W": array(module(given))}, gaps=True)
    seen["given"] = array(given)
    seen["on_eval"] = attempt(lambda: {"W": array(module.eval()(W.clone()))}, gaps=True)
    module.train()
    module.enabled = False
    off = module(W)
    seen["off"] = {"same": off is W, "W": array(off)}
    module.enabled = True
    seen["on_again"] = attempt(lambda: {"W": array(module(W.clone()))}, gaps=True)
    return seen


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
    found = sorted(fill_factors(module, one))
    return {"found": found, "W": array(module(tensor(inputs["W"])))}


def probe_registered(names: Names, **inputs: Any) -> dict:
    """A frozen nn.Linear whose weight is parametrized: outputs, gradients, one training step, off."""
    seen = attempt(lambda: registered(names, inputs), gaps=True)
    return {"raised": seen["error"]} if "error" in seen else seen


def registered(names: Names, inputs: Inputs) -> dict:
    x, linear = tensor(inputs["x"]), build_linear(inputs).requires_grad_(False)
    before = array(linear(x))
    module = build_parametrization(names, inputs)
    parametrize.register_parametrization(linear, "weight", module)
    original = linear.parametrizations.weight.original
    factors = fill_factors(module, inputs)
    y = linear(x)
    y.sum().backward()
    seen = {
        "before": before,
        "found": sorted(factors),
        "y": array(y),
        "gradients": {name: oriented(p.grad, inputs[name].shape) for name, p in factors.items()},
        "trains": [name for name, p in linear.named_parameters() if p.requires_grad],
    }
    with torch.no_grad():
        for parameter in linear.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter -= LEARNING_RATE * parameter.grad
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
            return None
        return Fault("in evaluation mode forward(W) is another weight", "only self.enabled switches")
    if found.shape != expected.shape:
        return Fault(
            f"a weight of shape {found.shape}, expected {expected.shape}", "B and A are multiplied in the wrong order"
        )
    ratio = factor_of(found - inputs["W"], expected - inputs["W"])
    if ratio is not None:
        return Fault(f"{number(ratio)} times the update is added", scale_cause(inputs, ratio))
    likely = "W is missing from the sum" if close(found, expected - inputs["W"], 1e-4) else ""
    likely = "the update is missing although enabled is True" if close(found, inputs["W"]) else likely
    return Fault("forward(W) is not W + (alpha / rank) * B A", likely)


def product_fault(error: Mapping[str, str]) -> Fault:
    """What an error in the parametrization's forward means; shapes that do not fit are B's and A's."""
    fault = error_fault(error)
    if not fault.likely.startswith("shapes do not fit"):
        return fault
    return Fault(fault.seen, "B and A are multiplied in the wrong order: B A has the shape of W")


def factors_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    """Two trainable factors of the right shapes, found by shape because the contract does not name them."""
    wanted = [list(inputs["A"].shape), list(inputs["B"].shape)]
    shown = ", ".join(str(tuple(shape)) for shape in seen["shapes"]) or "none"
    swapped = sorted([[wanted[0][0], wanted[1][0]], [wanted[0][1], wanted[1][1]]])
    expected = f"{tuple(wanted[0])} and {tuple(wanted[1])}"
    if sorted(seen["shapes"]) == swapped and "error" in seen["on"]:
        return Fault(
            f"trainable parameters {shown}; expected {expected}",
            "in_features and out_features are the wrong way round: W is (out_features, in_features)",
        )
    if len(seen["shapes"]) != 2 or seen["found"] != ["A", "B"]:
        likely = "A is (rank, in_features), B is (out_features, rank)"
        if len(seen["shapes"]) < 2:
            likely = "what is missing is frozen or no nn.Parameter; nn.Parameter(...).to(...) makes a plain tensor"
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
        return Fault(
            "a fresh parametrization changes the weight", "B must start at zero (torch.empty is uninitialised memory)"
        )
    if not 0 < seen["start_gradients"]["largest"] < np.inf:
        return Fault("all gradients are zero at the start", "A and B are both zero: nothing ever learns")
    return None


def judge_switch(inputs: Inputs, seen: Observation) -> Fault | None:
    """Enabled at first; off gives W itself; on again gives the update again."""
    if not seen["enabled"]:
        return Fault("enabled is False at first", "")
    if not close(seen["off"]["W"], inputs["W"], 1e-6):
        return Fault("with enabled = False forward(W) still adds something", "forward does not ask self.enabled")
    if not seen["off"]["same"]:
        return Fault(
            "with enabled = False forward(W) is an equal tensor, but not W itself",
            "a copy is made, or zero is added: return W",
        )
    if "error" in seen["on_again"]:
        return factors_fault(inputs, seen) or product_fault(seen["on_again"]["error"])
    if close(seen["on_again"]["W"], inputs["W"]):
        return Fault("switched on again, forward(W) is still W", "the update is lost when it is switched off")
    return None


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
    ],
)
