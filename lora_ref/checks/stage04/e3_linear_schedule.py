"""Exercise 4.3, linear_schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, result_of, to_float
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close
from lora_ref.rounding import number, pair


def draw_schedule(rng: np.random.Generator, warmup: bool = True, beyond: bool = False) -> Inputs:
    """Steps of three runs, the second and third with a warm-up of more than half: from 0 to the end, or after it."""
    cases = []
    for run, total in enumerate(rng.integers(40, 400, size=3)):
        rise = int(rng.integers(3, total // 3)) if warmup else 0
        if warmup and not beyond and run:
            rise = int(total) - 1 if run == 2 else int(rng.integers(2 * total // 3, total - 1))
        inside = [0, 1, rise // 2, rise, rise + 1, (rise + total) // 2, total - 1, total]
        if beyond:
            inside = [rise, (rise + total) // 2, total, total + 1, 3 * total]
        cases += [[int(step), int(total), rise] for step in inside]
    return {"cases": cases}


def draw_short_runs(rng: np.random.Generator) -> Inputs:
    """Warm-ups as long as the run or longer, such as 500 steps in a run of 64; after one that is short enough."""
    total = int(rng.integers(20, 100))
    runs = [(total, 4), (total, total), (total, total + 1), (64, 500), (total, 7 * total)]
    return {"cases": [[step, t, w] for t, w in runs for step in (0, 1, t // 2, t - 1, t, t + 1, 2 * t)]}


def draw_whole_schedule(rng: np.random.Generator) -> Inputs:
    """Steps from 0 to the end of a run, after it, and in runs no longer than their warm-up."""
    drawn = draw_schedule(rng), draw_schedule(rng, beyond=True), draw_short_runs(rng)
    return {"cases": [case for inputs in drawn for case in inputs["cases"]]}


def probe_schedule(names: Names, **inputs: Any) -> dict:
    """The multiplier at each step, or what was raised."""
    outcomes = []
    for case in inputs["cases"]:
        value, error = result_of(names.linear_schedule, *case)
        kind = "" if error else type(value).__name__
        outcomes.append({"raised": error, "kind": kind, "value": to_float(value)})
    return {"outcomes": outcomes}


def _schedule_values(inputs: Inputs, seen: Observation) -> Iterator[tuple[list[int], float, Fault | None]]:
    """Each case with its value, or with a fault and NaN."""
    for case, outcome in zip(inputs["cases"], seen["outcomes"], strict=True):
        at = "linear_schedule({}, {}, {})".format(*case)
        if outcome["raised"]:
            kind, text = outcome["raised"]["type"], outcome["raised"]["text"]
            likely = "a warm-up of 0 steps divides by zero" if kind == "ZeroDivisionError" else ""
            yield case, math.nan, Fault(f"{at} raised {kind}: {text}", likely)
        elif outcome["value"] is None:
            yield case, math.nan, Fault(f"{at} returned a {outcome['kind']}", "return a float")
        else:
            yield case, outcome["value"], None


def judge_schedule(inputs: Inputs, seen: Observation) -> Fault | None:
    for (step, total, rise), value, fault in _schedule_values(inputs, seen):
        if fault:
            return fault
        wanted = step / rise if step < rise else max(0.0, (total - step) / (total - rise))
        if close(value, wanted, 1e-6):
            continue
        likely = "after the warm-up the multiplier falls in a straight line, from 1 to 0 at total_steps"
        if value < 0:
            likely = "the line goes on below zero after total_steps: a negative learning rate climbs the loss"
        elif step < rise:
            likely = "during the warm-up the multiplier rises from 0 at step 0 to 1 at step warmup_steps"
            if close(value, 1 - step / total, 1e-6) or close(value, 1.0):
                likely = "the warm-up is missing"
            elif step and close(value, step / 500, 1e-6):
                likely = (
                    f"a warm-up of 500 steps, whatever was asked for: a run of {total} never gets to its learning rate"
                )
            elif step and any(close(value, step / (total // part), 1e-6) for part in (2, 3, 4, 5, 10)):
                likely = "a warm-up that is a share of the run, whatever was asked for"
            elif close(value, (step + 1) / rise, 1e-6):
                likely = "one step ahead: step 0 has the multiplier 0"
        elif close(value, 1 - step / total, 1e-6):
            likely = "the fall is measured from step 0: it starts at the end of the warm-up, at 1"
        elif step > total:
            likely = "after total_steps it stays 0"
        shown, asked = pair(value, wanted, tolerance=1e-6)
        return Fault(f"linear_schedule({step}, {total}, {rise}) = {shown}, expected {asked}", likely)
    return None


def judge_short_runs(inputs: Inputs, seen: Observation) -> Fault | None:
    short = [rise < total for _, total, rise in inputs["cases"]]
    ordinary = {"cases": [c for c, keep in zip(inputs["cases"], short, strict=True) if keep]}
    inside = {"outcomes": [o for o, keep in zip(seen["outcomes"], short, strict=True) if keep]}
    if fault := judge_schedule(ordinary, inside):
        return fault
    for (step, total, rise), value, fault in _schedule_values(inputs, seen):
        at = f"linear_schedule({step}, {total}, {rise})"
        if fault:
            refused = seen["outcomes"][inputs["cases"].index([step, total, rise])]["raised"]
            if rise > total and refused and "ValueError" in refused["bases"]:
                continue  # the contract is silent here; refusing a warm-up that never ends is as good as a low peak
            if refused and refused["type"] == "ZeroDivisionError":
                return Fault(
                    f"{at} raised ZeroDivisionError",
                    "warm-up and run are equally long: total_steps - warmup_steps is 0",
                )
            return fault
        # as long as the run: 1 at its end by one sentence of the contract, 0 by the next; elsewhere it is plain
        wanted = step / rise if step < total else 0.0
        if rise == total != step and not close(value, wanted, 1e-6):
            shown, asked = pair(value, wanted, tolerance=1e-6)
            return Fault(
                f"{at} = {shown}, expected {asked}",
                "a warm-up as long as the run rises until the end, and afterwards the multiplier is 0",
            )
        if not 0 <= value <= 1:
            return Fault(
                f"{at} = {number(value, tolerance=0)}",
                "a multiplier lies between 0 and 1, also where the warm-up outlasts the run",
            )
    return None


EXERCISE = Exercise(
    "4.3",
    "linear_schedule",
    names=("linear_schedule",),
    pure=("linear_schedule",),
    checks=[
        Check(
            "4.3/no-warmup",
            "without warm-up the multiplier falls from 1 at step 0 to 0 at total_steps",
            probe_schedule,
            judge_schedule,
            partial(draw_schedule, warmup=False),
            seed=4,
        ),
        Check(
            "4.3/warmup",
            (
                "the multiplier rises from 0 to 1 over the warm-up, then falls to 0 at total_steps and stays there; "
                "a warm-up as long as the run ends with it, a longer one keeps it between 0 and 1"
            ),
            probe_schedule,
            judge_short_runs,
            draw_whole_schedule,
            seed=5,
        ),
    ],
)
