"""Exercise 4.3, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from functools import partial

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage04 import e3_linear_schedule as room
from lora_ref.checks.verdicts import Check

HIDDEN = [
    graded(room, "4.3/no-warmup", 0.5),
    Check(
        "4.3/warmup",
        "the multiplier rises from 0 to 1 over the warm-up, then falls to 0 at total_steps",
        room.probe_schedule,
        room.judge_schedule,
        room.draw_schedule,
        points=0.75,
    ),
    Check(
        "4.3/beyond",
        "after total_steps the multiplier stays 0",
        room.probe_schedule,
        room.judge_schedule,
        partial(room.draw_schedule, beyond=True),
        points=0.5,
    ),
    Check(
        "4.3/short-run",
        ("a warm-up as long as the run rises until its end; with a longer one the multiplier stays between 0 and 1"),
        room.probe_schedule,
        room.judge_short_runs,
        room.draw_short_runs,
        points=0.25,
    ),
]


_LINE = "max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))"


MUTANTS = [
    Mutant(
        "4.3/warmup-500",
        "a warm-up of 500 steps in a run that is shorter",
        "step < warmup_steps:\n        return step / warmup_steps",
        "step < 500:\n        return step / 500",
        "a warm-up of 500 steps, whatever was asked for",
        "S0",
    ),
    Mutant(
        "4.3/negative",
        "the line goes on below zero",
        _LINE,
        "(total_steps - step) / max(1, total_steps - warmup_steps)",
        "below zero",
    ),
    Mutant("4.3/no-warmup", "no warm-up", "if step < warmup_steps:", "if False:", "from 0 at step 0 to 1"),
    Mutant(
        "4.3/fall-from-zero",
        "the fall is measured from step 0, so the multiplier jumps at the end of the warm-up",
        _LINE,
        "max(0.0, 1 - step / total_steps)",
        "the fall is measured from step 0",
    ),
    Mutant(
        "4.3/one-ahead",
        "the first step has a multiplier above 0",
        "return step / warmup_steps",
        "return (step + 1) / warmup_steps",
        "one step ahead",
    ),
    Mutant(
        "4.3/divides-by-zero",
        "a warm-up as long as the run divides by zero",
        "/ max(1, total_steps - warmup_steps)",
        "/ (total_steps - warmup_steps)",
        "equally long",
    ),
    Mutant(
        "4.3/caps-the-warmup",
        "the warm-up takes half of the run at most",
        "if step < warmup_steps:",
        "warmup_steps = min(warmup_steps, total_steps // 2)\n    if step < warmup_steps:",
        "a share of the run, whatever was asked for",
    ),
    Mutant(
        "4.3/no-warmup-as-long-as-the-run",
        "a warm-up as long as the run is left out",
        "if step < warmup_steps:",
        "warmup_steps = warmup_steps if warmup_steps < total_steps else 0\n    if step < warmup_steps:",
        "rises until the end",
    ),
]
