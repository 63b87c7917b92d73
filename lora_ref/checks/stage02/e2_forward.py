"""Exercise 2.2, LoRALayer.forward."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt
from lora_ref.checks.stage02.dropout import draw_dropout, judge_dropout
from lora_ref.checks.stage02.shared import (
    LEADING,
    draw_layer,
    draw_with_gradients,
    factor_gradients,
    factor_of,
    forward_expected,
    gradients_fault,
    leading,
    oriented,
    rank_one,
    scale_cause,
    set_factors,
    shape_error,
    tensor,
    transposed,
    update_gradients,
)
from lora_ref.checks.stage02.walks import ROWS, Calls, act, draw_calls
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation, close, error_fault
from lora_ref.checks.walk import Step, first_parting, take
from lora_ref.rounding import number


def draw_large(rng: np.random.Generator) -> Inputs:
    """A layer on which B A is by far the largest tensor: few tokens, small rank."""
    in_features, out_features = (int(n) for n in rng.choice(np.arange(300, 400), size=2, replace=False))
    rank = 2
    return {
        "in_features": in_features,
        "out_features": out_features,
        "rank": rank,
        "alpha": 7.0,
        "A": rng.normal(size=(rank, in_features)),
        "B": rng.normal(size=(out_features, rank)),
        "x": rng.normal(size=(1, 3, in_features)),
    }


def build_layer(names: Names, inputs: Inputs, dropout: float = 0.0) -> Any:
    """The student's LoRALayer with the inputs' A and B in place of its own."""
    layer = names.LoRALayer(inputs["in_features"], inputs["out_features"], inputs["rank"], inputs["alpha"], dropout)
    set_factors(layer, inputs)
    return layer


def probe_forward(names: Names, **inputs: Any) -> dict:
    """The layer's output in both modes and its gradients for known A and B."""
    layer = build_layer(names, inputs)
    seen: dict[str, Any] = {"y": array(layer(tensor(inputs["x"])))}
    seen["eval"] = array(layer.eval()(tensor(inputs["x"])))
    if inputs.get("gradients"):
        seen["gradients"] = attempt(lambda: gradients(layer, inputs))
    return seen


def gradients(layer: Any, inputs: Inputs) -> dict:
    x = tensor(inputs["x"]).requires_grad_(True)
    layer.train()(x.clone()).sum().backward()  # the caller's x is another check's
    return {**factor_gradients(layer, inputs), "grad_x": oriented(x.grad, inputs["x"].shape)}


def probe_leading(names: Names, **inputs: Any) -> dict:
    """Outputs for x of one, two, three and four dimensions."""
    layer = build_layer(names, inputs)
    return {str(x.ndim): attempt(lambda x: {"y": array(layer(transposed(x)))}, x) for x in leading(inputs["x"])}


def probe_dropout(names: Names, **inputs: Any) -> dict:
    """Outputs in training and in evaluation mode of a layer with dropout, made before one without."""
    layer = build_layer(names, inputs, inputs["dropout"])
    build_layer(names, inputs)  # its dropout is its own
    x = tensor(inputs["x"])
    layer.train()
    seen = {"train": array(layer(x)), "kept": bool(torch.equal(x, tensor(inputs["x"])))}
    seen["again"] = array(layer(tensor(inputs["x"])))
    layer.eval()
    return {**seen, **{key: array(layer(tensor(inputs["x"]))) for key in ("eval", "eval again")}}


def probe_calls(names: Names, **inputs: Any) -> dict:
    """Several layers, called and trained in turn (`lora_ref.checks.walk`)."""
    made: dict[str, Any] = {}

    def one_step(one: Step) -> dict:
        if one["do"] == "make":
            layer = inputs["layers"][one["on"]]
            sizes = layer["in_features"], layer["out_features"], layer["rank"], layer["alpha"]
            made[one["on"]] = names.LoRALayer(*sizes)
            return {}
        return act(made, one)

    return take(inputs["steps"], one_step)


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns."""

    elements, operation = 0, ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch's compiler is imported to be told to leave this class alone: over a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor) and one.numel() > self.elements:
                self.elements, self.operation = one.numel(), str(func)
        return out


def probe_intermediates(names: Names, **inputs: Any) -> dict:
    """The largest tensor that the forward makes on its way."""
    layer = build_layer(names, inputs)
    x = tensor(inputs["x"])
    with _Largest() as largest:
        for mode in (True, False):
            layer.train(mode)(x)
        layer.train()(x[:, :1].expand(-1, ROWS, -1).contiguous())
    y = layer.train()(x)
    return {"elements": largest.elements, "operation": largest.operation, "y": array(y)}


def judge_forward(inputs: Inputs, seen: Observation) -> Fault | None:
    expected, y = forward_expected(inputs), seen["y"]
    if close(y, expected):
        if close(seen["eval"], expected):
            return None
        return Fault("in evaluation mode the output is different", "the mode may switch dropout, and nothing else")
    if y.shape != expected.shape:
        return Fault(f"output of shape {y.shape}, expected {expected.shape}", "x has shape (..., in_features)")
    if not np.any(y):
        return Fault("the output is zero although B is not", "")
    ratio = factor_of(y, expected)
    if ratio is not None:
        return Fault(f"the update is {number(ratio)} times what alpha / rank asks for", scale_cause(inputs, ratio))
    if close(y, inputs["alpha"] / inputs["rank"] ** 0.5 * forward_expected({**inputs, "alpha": inputs["rank"]}), 1e-4):
        return Fault("scaled by alpha / sqrt(rank)", "that is rsLoRA's scale")
    off = number(np.abs(y - expected).max())
    return Fault(f"largest difference {off} from scaling * (x A^T) B^T", "")


def judge_leading(inputs: Inputs, seen: Observation) -> Fault | None:
    """x of one to four dimensions; a wrong scale is another check's, and so is what is wrong for all of them alike."""
    found = [fault_at(x, inputs, seen[str(x.ndim)]) for x in leading(inputs["x"])]
    faults = [fault for fault in found if fault]
    if len(faults) == len(found):
        errors = [seen[str(x.ndim)].get("error") for x in leading(inputs["x"])]
        if all(errors):
            fault = error_fault(errors[2])
            likely = fault.likely
            if inputs["rank"] == 1:
                likely += "; where other ranks work, squeeze() has taken the rank's axis away, which has size 1 here"
            return replace(fault, seen=f"rank {inputs['rank']}: {fault.seen}", likely=likely.removeprefix("; "))
        return replace(faults[2], likely=ELSEWHERE, read="")
    return faults[0] if faults else None


def fault_at(x: np.ndarray, inputs: Inputs, outcome: Observation) -> Fault | None:
    """What is wrong for an x of one number of dimensions, where others are right."""
    expected, shown = forward_expected(inputs, x), f"x of shape {x.shape}"
    if "error" in outcome:
        return shape_error(outcome["error"], shown, LEADING)
    if outcome["y"].shape != expected.shape:
        return Fault(f"{shown} gives {outcome['y'].shape}, expected {expected.shape}", LEADING)
    if factor_of(outcome["y"], expected) is None:
        return Fault(f"{shown}: the output is not a multiple of (x A^T) B^T", LEADING)
    return None


def judge_gradients(inputs: Inputs, seen: Observation) -> Fault | None:
    """A, B and x get the gradients of the formula; a common factor is the scale's."""
    if factor_of(seen["y"], forward_expected(inputs)) is None:
        return Fault("the output whose gradients are asked for is wrong itself", ELSEWHERE, "")
    expected = update_gradients(inputs)
    found = seen["gradients"]
    if "error" in found:
        return error_fault(found["error"])
    factors = {name: factor_of(found[name], value) for name, value in expected.items()}
    return gradients_fault(factors, found)


def judge_forward_backward(inputs: Inputs, seen: Observation) -> Fault | None:
    return judge_forward(inputs, seen) or judge_gradients(inputs, seen)


def judge_intermediates(inputs: Inputs, seen: Observation) -> Fault | None:
    """No tensor as large as B A is made. Even products written with broadcasting stay below a hundredth of it."""
    full = inputs["out_features"] * inputs["in_features"]
    if factor_of(seen["y"], forward_expected(inputs)) is None:
        return Fault("the output is not a multiple of (x A^T) B^T", ELSEWHERE, "")
    if seen["elements"] < full // 2:
        return None
    size = f"{inputs['out_features']} x {inputs['in_features']}"
    return Fault(
        f"on a layer of {size} the forward makes a tensor of {seen['elements']:,} elements ({seen['operation']})",
        "the matrix B A is built; apply A to x first, then B: (x A^T) B^T",
    )


def judge_calls(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each call gives what A and B, as they are then, and x say."""
    return first_parting(inputs["steps"], seen, Calls(inputs, base=False))


EXERCISE = Exercise(
    "2.2",
    "LoRALayer.forward",
    names=("LoRALayer",),
    builds_on=("LoRALayer.__init__",),
    checks=[
        Check(
            "2.2/forward",
            "with B != 0 the output is scaling * (x A^T) B^T, and A, B and x get its gradients",
            probe_forward,
            judge_forward_backward,
            draw_with_gradients(draw_layer),
            seed=3,
        ),
        Check(
            "2.2/leading",
            "x may have any number of leading dimensions",
            probe_leading,
            judge_leading,
            rank_one(draw_layer),
            seed=3,
            after=("2.2/forward",),
        ),
        Check(
            "2.2/dropout",
            "dropout acts on x, in training mode alone, and scales what it keeps",
            probe_dropout,
            judge_dropout,
            draw_dropout,
            seed=4,
        ),
        Check(
            "2.2/small", "the forward never builds B A", probe_intermediates, judge_intermediates, draw_large, seed=4
        ),
        Check(
            "2.2/calls",
            "each call computes with its own layer's A and B as they are then, whatever came before",
            probe_calls,
            judge_calls,
            partial(draw_calls, still=True),
            seed=4,
            after=("2.2/forward",),
        ),
    ],
)
