"""A walk beside a model: a student's objects take a row of steps, and the judge takes the same steps in NumPy.

What keeps state goes wrong in sequences: the second merge, the other layer, the call after a training step. A probe for
each of those would have no end. So one probe takes a walk (`take`) and writes down what is seen after each step; the
judge takes it beside a model of its own (`first_parting`) and names the first step after which the two differ.

A step is plain data: ``{"do": "merge", "on": "a", ...}``. The next kind of mistake is one more step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lora_ref.checks.probing import attempt
from lora_ref.checks.verdicts import Fault, Observation, error_fault

Step = dict[str, Any]
#: How many of the steps before it a message tells.
TOLD = 6


def step(do: str, on: str = "", **more: Any) -> Step:
    """One step: what is done, to which object, and whatever else it needs."""
    return {"do": do, "on": on, **more}


def path(text: str) -> list[Step]:
    """``"merge a, unmerge a"`` as steps."""
    return [step(*words.split()) for words in text.split(", ")]


def take(steps: Sequence[Step], act: Callable[[Step], dict]) -> dict:
    """Take the steps in order; ``act`` takes one and returns what is seen after it. An error ends the walk."""
    seen: list[dict] = []
    for one in steps:
        seen.append(attempt(act, one))
        if "error" in seen[-1]:
            break
    return {"walk": seen}


def first_parting(
    steps: Sequence[Step], seen: Observation, beside: Callable[[Step, Observation], Fault | None]
) -> Fault | None:
    """The first step after which the student's objects and the model differ, as a fault that tells the way there.

    Args:
        steps: the walk.
        seen: what `take` wrote down.
        beside: takes one step with the model, compares, and returns what differs.
    """
    outcomes = seen["walk"]
    for number, one in enumerate(steps):
        if number >= len(outcomes):
            return Fault("not every step of the walk was taken", "")
        outcome = outcomes[number]
        fault = error_fault(outcome["error"]) if "error" in outcome else beside(one, outcome)
        if fault:
            return replace(fault, seen=f"after {tell(steps[: number + 1])}: {fault.seen}")
    return None


def tell(steps: Sequence[Step]) -> str:
    """The last steps in words."""
    shown = [one for one in steps if one["do"] != "make"] or steps[-1:]
    words = [" ".join(filter(None, (one.get("told") or one["do"], one["on"]))) for one in shown]
    return ", ".join((["..."] if len(words) > TOLD else []) + words[-TOLD:])
