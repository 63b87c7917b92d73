"""Exercise 2.5, merge and unmerge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt
from lora_ref.checks.stage02.merge_walk import draw_walk, judge_walk, probe_walk
from lora_ref.checks.stage02.shared import (
    LEARNING_RATE,
    build_wrapper,
    draw_wrapped,
    factor,
    factor_of,
    forward_expected,
    oriented,
    rank_one,
    scale_cause,
    sum_expected,
    tensor,
)
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close, error_fault
from lora_ref.rounding import number


def steps(*names: str, dropout: float = 0.0) -> Callable[[np.random.Generator], Inputs]:
    """Inputs of `probe_merge`: what to do, in order."""
    return lambda rng: {**draw_wrapped(rng), "steps": list(names), "dropout": dropout}


def probe_merge(names: Names, **inputs: Any) -> dict:
    """The wrapper's state before and after each of some steps: merge, unmerge, train."""

    def state(wrapper: Any) -> dict:
        weight, merged = wrapper.linear.weight, wrapper.merged
        with torch.no_grad():
            output = attempt(lambda: {"y": array(wrapper(tensor(inputs["x"])))}, gaps=True)
        return {
            "W": array(weight),
            "output": output,
            "A": oriented(factor(wrapper.lora, "lora_A"), inputs["A"].shape),
            "B": oriented(factor(wrapper.lora, "lora_B"), inputs["B"].shape),
            "merged": None if callable(merged) else bool(merged),
            "parameter": isinstance(weight, nn.Parameter),
            "leaf": bool(weight.is_leaf),
            "frozen": not weight.requires_grad,
            "dtype": str(weight.dtype),
        }

    def train(wrapper: Any) -> dict:
        factors = [factor(wrapper.lora, name) for name in ("lora_A", "lora_B")]
        for parameter in factors:
            parameter.grad = None
        wrapper(tensor(inputs["x"])).sum().backward()
        with torch.no_grad():
            for parameter in factors:
                if parameter.grad is not None:
                    parameter -= LEARNING_RATE * parameter.grad
        return {}

    wrapper = build_wrapper(names, inputs)
    states = [state(wrapper)]
    for step in inputs["steps"]:
        if step == "train":
            # an open forward is exercise 2.4's: the step then changes nothing
            attempt(lambda: train(wrapper), gaps=True)
        else:
            getattr(wrapper, step)()
            torch.set_grad_enabled(True)  # left switched off it is the walk's to tell
        states.append(state(wrapper))
    return {"states": states}


def probe_twice(names: Names, **inputs: Any) -> dict:
    """`probe_merge`, beside what one merge and one unmerge give."""
    once = probe_merge(names, **{**inputs, "steps": ["merge", "unmerge"]})
    return {**probe_merge(names, **inputs), "once": once}


def judge_merged(inputs: Inputs, seen: Observation) -> Fault | None:
    """After one merge: the weight, the flag, what kind of object the weight is."""
    before, after = seen["states"][0], seen["states"][1]
    if before["merged"] is None:
        return Fault("merged is a method", "read it as .merged: an attribute or a property")
    if before["merged"]:
        return Fault(".merged is True before the first merge", "")
    fault = weight_fault(inputs, after["W"], 1)
    if fault:
        likely = "lora(...) is asked for the update, and drops: merge B A itself"
        return Fault(fault.seen, likely, fault.read) if dropped_columns(inputs, after["W"]) else fault
    if not after["parameter"] or not after["leaf"]:
        return Fault(
            "the merged weight is not a leaf parameter any more: it hangs on the graph of A and B",
            "the merge was recorded by autograd; do it under torch.no_grad()",
        )
    if after["dtype"] != before["dtype"]:
        return Fault(f"the weight became {after['dtype']}", "")
    if not after["merged"]:
        return Fault(".merged is False after merge()", "the flag is not set")
    return None


def dropped_columns(inputs: Inputs, W: np.ndarray) -> bool:
    """Whether what was added to the weight is the update as dropout leaves it: columns of zeros, the others larger."""
    p, added = inputs["dropout"], W - inputs["W"]
    update = inputs["alpha"] / inputs["rank"] * inputs["B"] @ inputs["A"] / (1 - p)
    if added.shape != update.shape or not p or not np.any(np.abs(added) > 1e-3):
        return False
    kept = np.abs(added).max(axis=0) > 1e-4 * np.abs(update).max()
    return close(added, update * kept, 1e-4)


def weight_fault(inputs: Inputs, W: np.ndarray, times: int) -> Fault | None:
    """Is ``W`` the original plus the update, taken ``times`` times?"""
    update = inputs["alpha"] / inputs["rank"] * inputs["B"] @ inputs["A"]
    # what (W + D) - D loses in float32 grows with D; taking D away again instead of keeping W is allowed
    if close(W, inputs["W"] + times * update, 1e-5 if times else 1e-6 * max(1.0, float(np.abs(update).max()))):
        return None
    if W.shape != inputs["W"].shape:
        return Fault(f"weight of shape {W.shape}, expected {inputs['W'].shape}", "")
    ratio = factor_of(W - inputs["W"], update)
    if times == 0:
        likely = "what unmerge takes away is not what merge added"
        if ratio is not None and abs(ratio - 1) < 1e-3:
            likely = (
                "the update is still there: nothing was taken away, or W was kept without a copy and changed with it"
            )
        elif ratio is not None and abs(ratio + 1) < 1e-3:
            likely = "an update was taken away that is not there: check .merged first"
        off = number(np.abs(W - inputs["W"]).max(), 2, tolerance=0)
        return Fault(f"the weight differs from the original by up to {off}", likely)
    if close(W, inputs["W"]):
        return Fault("the weight is unchanged", "the sum is not written back into linear.weight")
    if ratio is not None:
        likely = (
            "the update was added twice: check .merged first" if abs(ratio - 2) < 1e-3 else scale_cause(inputs, ratio)
        )
        return Fault(f"{number(ratio)} times the update was added to the weight, expected once", likely)
    likely = "the weight is replaced, not added to" if close(W, update) else ""
    return Fault(
        f"the weight is not W + scaling * B A (largest difference {number(np.abs(W - inputs['W'] - update).max())})",
        likely,
    )


def judge_merged_forward(inputs: Inputs, seen: Observation) -> Fault | None:
    """Merging does not change what the layer computes."""
    output = seen["states"][-1]["output"]
    if "error" in output:
        return error_fault(output["error"])
    expected, y = sum_expected(inputs), output["y"]
    if close(y, expected, 1e-4):
        return None
    update = forward_expected(inputs)
    likely = ""
    if y.shape == expected.shape:
        if close(y, expected + update, 1e-4):
            likely = "the update counts twice: it is in the weight already, so forward must not add it when merged"
        elif close(y, expected - update, 1e-4):
            likely = "the update is lost: neither the weight nor forward has it"
        elif weight_fault(inputs, seen["states"][-1]["W"], 1):
            likely = "fix merge() first: the weight is not W + scaling * B A"
    return Fault("the output is not what it was before the merge", likely)


def judge_twice(inputs: Inputs, seen: Observation) -> Fault | None:
    """Steps: merge, merge, unmerge. The second merge changes nothing, nor what unmerge restores."""
    before, first, second = (state["W"] for state in seen["states"][:3])
    if not close(before, inputs["W"], 1e-6):  # beside a weight of 1e30 an update added twice would not show
        return Fault("the wrapped layer's weight is not the one it was given", "see exercise 2.3", "section 2.3")
    if close(first, inputs["W"]):
        return Fault("the first merge() leaves the weight as it was", "")
    if close(second, first, 1e-6):
        once, after = seen["once"], seen["states"][3]["W"]
        restores = "error" not in once and weight_fault(inputs, once["states"][-1]["W"], 0) is None
        if restores and weight_fault(inputs, after, 0):  # what one unmerge() does is another check's
            likely = "the second merge() keeps the merged weight as the original: check .merged before anything else"
            return Fault("after two merge() the weight is not restored by unmerge()", likely)
        return None
    update = inputs["alpha"] / inputs["rank"] * inputs["B"] @ inputs["A"]
    likely = (
        "the update was added twice: check .merged first"
        if close(second - first, update, 1e-4)
        else "check .merged first"
    )
    off = number(np.abs(second - first).max())
    return Fault(f"the second merge() changed the weight by up to {off}", likely)


def judge_merged_once(inputs: Inputs, seen: Observation) -> Fault | None:
    """Steps: merge, merge, unmerge."""
    return judge_merged(inputs, seen) or judge_twice(inputs, seen)


def judge_unmerged(inputs: Inputs, seen: Observation) -> Fault | None:
    """After unmerge the weight, the output and the flag are as at first."""
    after = seen["states"][-1]
    if close(seen["states"][1]["W"], inputs["W"]):
        return Fault("there is nothing to take back: merge() leaves the weight as it was", "")
    fault = weight_fault(inputs, after["W"], 0)
    if fault:
        return fault
    if after["merged"]:
        return Fault(".merged is True after unmerge()", "the flag is not set back")
    outputs = [state["output"] for state in (seen["states"][0], after)]
    if "error" not in outputs[0] and not ("y" in outputs[1] and close(outputs[1]["y"], outputs[0]["y"], 1e-4)):
        return Fault("the output after unmerge() is not the first one", lost_factors(after))
    return None


def judge_unmerged_only(inputs: Inputs, seen: Observation) -> Fault | None:
    """Steps: unmerge, merge, unmerge. The first one finds nothing to take away."""
    fault = weight_fault(inputs, seen["states"][1]["W"], 0)
    if fault:
        return Fault(f"unmerge() before any merge(): {fault.seen}", fault.likely, fault.read)
    return judge_unmerged(inputs, {"states": seen["states"][1:]})


def judge_continues(inputs: Inputs, seen: Observation) -> Fault | None:
    """Steps: train, merge, unmerge, train, merge."""
    before, trained, merged, unmerged, again, remerged = seen["states"]
    for name in "AB":
        if not close(unmerged[name], trained[name], 1e-6):
            likely = lost_factors(unmerged) or "merging must leave A and B as they are"
            return Fault(f"lora_{name} is changed by merge() and unmerge()", likely)
        trains = not np.array_equal(trained[name], before[name])  # if not, forward is at fault: exercise 2.4's
        if trains and close(again[name], unmerged[name], 1e-9):
            return Fault(
                f"a training step after unmerge() leaves lora_{name} unchanged",
                ".merged is still True, so forward leaves the update out"
                if unmerged["merged"]
                else "it gets no gradient any more",
            )
    for done, state in (("merge()", merged), ("merge() and unmerge()", unmerged)):
        if before["frozen"] and not state["frozen"]:
            return Fault(
                f"after {done} linear.weight can train",
                "a new nn.Parameter is trainable unless it is told requires_grad=False",
            )
    scaling = inputs["alpha"] / inputs["rank"]
    if not close(remerged["W"], inputs["W"] + scaling * again["B"] @ again["A"], 1e-4):
        likely = "the update of the first merge is used again: take B A as it is now"
        if not close(merged["W"], inputs["W"] + scaling * trained["B"] @ trained["A"], 1e-4):
            likely = "fix merge() first: the first one did not give W + scaling * B A either"
        elif not close(unmerged["W"], inputs["W"], 1e-4):
            likely = "fix unmerge() first: it did not restore the weight"
        return Fault("merged again after training, the weight is not W + scaling * B A", likely)
    return None


def lost_factors(state: Mapping[str, Any]) -> str:
    zero = [name for name in "AB" if not np.any(state[name])]
    if len(zero) == 2:
        return "A and B are zero now: the update is gone, and with both at zero nothing trains"
    return f"{zero[0]} is zero now: the update is gone" if zero else ""


EXERCISE = Exercise(
    "2.5",
    "merge and unmerge",
    names=("LinearWithLoRA",),
    builds_on=("LoRALayer", "LinearWithLoRA.__init__"),
    checks=[
        Check(
            "2.5/merge",
            "merge() adds scaling * B A to linear.weight and sets .merged; a second merge() changes nothing",
            probe_twice,
            judge_merged_once,
            steps("merge", "merge", "unmerge", dropout=0.2),
            seed=7,
        ),
        Check(
            "2.5/forward",
            "merging does not change the output",
            probe_merge,
            judge_merged_forward,
            steps("merge"),
            seed=8,
        ),
        Check(
            "2.5/unmerge",
            "unmerge() restores weight, output and .merged, and changes nothing where nothing is merged",
            probe_merge,
            judge_unmerged_only,
            rank_one(steps("unmerge", "merge", "unmerge")),
            seed=9,
        ),
        Check(
            "2.5/continues",
            "after unmerge() training goes on, and a new merge() takes the new update",
            probe_merge,
            judge_continues,
            steps("train", "merge", "unmerge", "train", "merge"),
            seed=9,
        ),
        Check(
            "2.5/walk",
            "several layers merge and unmerge in any order, each with its own values, loaded or copied in between",
            probe_walk,
            judge_walk,
            draw_walk,
            seed=9,
        ),
    ],
)
