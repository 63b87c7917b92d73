"""Exercise 2.4, LinearWithLoRA.forward."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array
from lora_ref.checks.stage02.dropout import draw_dropout, judge_dropout
from lora_ref.checks.stage02.shared import (
    build_linear,
    build_wrapper,
    draw_with_gradients,
    draw_wrapped,
    factor_gradients,
    factor_of,
    forward_expected,
    gradients_fault,
    oriented,
    set_factors,
    sum_expected,
    tensor,
    update_gradients,
)
from lora_ref.checks.stage02.walks import Calls, act, draw_calls
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation, close
from lora_ref.checks.walk import Step, first_parting, take
from lora_ref.rounding import number


def draw_wrapped_dropout(rng: np.random.Generator) -> Inputs:
    """As `draw_dropout`, with a frozen layer beside it."""
    inputs = draw_dropout(rng)
    shape = (inputs["out_features"], inputs["in_features"])
    return {**inputs, "W": rng.normal(size=shape), "b": rng.normal(size=shape[0])}


def probe_sum(names: Names, **inputs: Any) -> dict:
    """The wrapper's output, with and without bias, and its gradients."""
    bias = inputs.get("bias", True)

    wrapper = build_wrapper(names, inputs, bias)
    x = tensor(inputs["x"]).requires_grad_(True)
    y = wrapper(x)
    seen = {"y": array(y)}
    if inputs.get("gradients"):
        y.sum().backward()
        seen |= {**factor_gradients(wrapper.lora, inputs), "grad_x": oriented(x.grad, inputs["x"].shape)}
    return {**seen, "eval": array(wrapper.eval()(x))}


def probe_fresh(names: Names, **inputs: Any) -> dict:
    """A wrapper nobody has trained, beside the layer it wraps, for x of one and of three dimensions.

    In training mode and with dropout, which must not reach the frozen layer. Then what B's values add to it.
    """
    zero = {**inputs, "B": np.zeros_like(inputs["B"])}
    xs = [tensor(x) for x in (inputs["x"][0, 0], inputs["x"])]

    wrapper = build_wrapper(names, zero, False)
    base = build_linear(inputs, bias=False)
    seen = {}
    for x in xs:
        outputs = {key: array(wrapper(x)) for key in ("y", "again")}
        seen[str(x.dim())] = {**outputs, "base": array(base(x))}
    set_factors(wrapper.lora, inputs)
    added = {key: array(wrapper(xs[1])) - seen["3"]["base"] for key in ("train", "again")}
    wrapper.eval()
    added |= {key: array(wrapper(xs[1])) - seen["3"]["base"] for key in ("eval", "eval again")}
    return {**seen, "added": {**added, "kept": True}}


def probe_calls(names: Names, **inputs: Any) -> dict:
    """Several wrapped layers, called and trained in turn (`lora_ref.checks.walk`)."""
    made: dict[str, Any] = {}

    def one_step(one: Step) -> dict:
        if one["do"] == "make":
            layer = inputs["layers"][one["on"]]
            linear = build_linear(layer, layer["bias"])
            made[one["on"]] = names.LinearWithLoRA(linear, layer["rank"], layer["alpha"])
            return {}
        return act(made, one, lambda wrapper: wrapper.lora)

    return take(inputs["steps"], one_step)


def judge_sum(inputs: Inputs, seen: Observation) -> Fault | None:
    expected, y = sum_expected(inputs), seen["y"]
    if close(y, expected):
        if close(seen["eval"], expected):
            return None
        likely = "the update counts in both modes: forward does not depend on self.training"
        return Fault("in evaluation mode the output is not linear(x) + lora(x)", likely)
    if y.shape != expected.shape:
        return Fault(f"output of shape {y.shape}, expected {expected.shape}", "")
    update = forward_expected(inputs)
    causes = [
        (update, "only the update is returned: the frozen layer's output is missing"),
        (expected - update, "only the frozen layer's output is returned: the update is missing"),
        (expected - inputs["b"], "the bias is missing"),
        (expected + inputs["b"], "the bias counts twice"),
        (expected + update, "the update counts twice"),
        (expected - 2 * update, "the update is subtracted"),
        (
            expected + (inputs["alpha"] / inputs["rank"] - 1) * update,
            "the scale is applied twice: the update has it already",
        ),
        ((expected - update) * (1 + update), "multiplied instead of added"),
    ]
    likely = next((cause for wrong, cause in causes if close(y, wrong, 1e-4)), "")
    off = number(np.abs(y - expected).max())
    return Fault(f"largest difference {off} from linear(x) + lora(x)", likely)


def judge_fresh(inputs: Inputs, seen: Observation) -> Fault | None:
    for dimensions in ("1", "3"):
        outcome = seen[dimensions]
        if not close(outcome["y"], outcome["base"], 1e-6):
            likely = ""
            if not np.any(outcome["y"]):
                likely = "only the update is returned: the frozen layer's output is missing"
            elif not np.array_equal(outcome["y"], outcome["again"]):
                likely = "dropout reaches the frozen layer's input or output"
            return Fault(
                "in training mode with dropout, a wrapper whose B is zero does not give the frozen layer's output",
                likely,
            )
    added = seen["added"]
    if factor_of(added["eval"], forward_expected(inputs)) is None:
        return None  # what is added without dropout is another check's
    if not np.any(np.abs(added["train"]) > 1e-4):
        return Fault("in training mode nothing is added to linear(x)", "the update counts in both modes")
    fault = judge_dropout(inputs, added)
    if fault:
        likely = "lora(x) has its dropout already: forward calls self.lora, on x itself, and nothing else drops"
        return Fault(f"what is added to linear(x): {fault.seen}", likely)
    return None


def judge_sum_gradients(inputs: Inputs, seen: Observation) -> Fault | None:
    if not close(seen["y"], sum_expected(inputs), 1e-4):
        return Fault("the output whose gradients are asked for is wrong itself", ELSEWHERE, "")
    expected = update_gradients(inputs)
    update = expected["grad_x"]
    expected["grad_x"] = update + np.ones_like(seen["y"]) @ inputs["W"]
    factors = {name: factor_of(seen[name], expected[name]) for name in ("grad_A", "grad_B")}
    factors["grad_x"] = 1.0 if close(seen["grad_x"], expected["grad_x"], 1e-4) else None
    fault = gradients_fault(factors, seen)
    if fault and "of x " in fault.seen and close(seen["grad_x"], update, 1e-4):
        return Fault(
            fault.seen,
            "the layers below need the frozen layer's gradient too: no torch.no_grad() around it",
            fault.read,
        )
    return fault


def judge_sum_backward(inputs: Inputs, seen: Observation) -> Fault | None:
    return judge_sum(inputs, seen) or judge_sum_gradients(inputs, seen)


def judge_calls(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each call gives linear(x) + lora(x), with the values that both have then."""
    return first_parting(inputs["steps"], seen, Calls(inputs, base=True))


EXERCISE = Exercise(
    "2.4",
    "LinearWithLoRA.forward",
    names=("LinearWithLoRA",),
    builds_on=("LoRALayer", "LinearWithLoRA.__init__"),
    checks=[
        Check(
            "2.4/sum",
            "the output is linear(x) + lora(x), and A, B and x get its gradients",
            probe_sum,
            judge_sum_backward,
            draw_with_gradients(draw_wrapped),
            seed=6,
        ),
        Check(
            "2.4/fresh",
            "dropout acts in lora(x) alone: while B is zero the output is the frozen layer's",
            probe_fresh,
            judge_fresh,
            draw_wrapped_dropout,
            seed=6,
        ),
        Check(
            "2.4/calls",
            "each call gives linear(x) + lora(x) with the values that its own two layers have then",
            probe_calls,
            judge_calls,
            partial(draw_calls, base=True),
            seed=6,
            after=("2.4/sum",),
        ),
    ],
)
