"""Exercise 1.5, training_memory: weights, gradients, optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names
from lora_ref.checks.stage01.shared import Mistakes, number, numbers_fault, tried, type_fault
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation


def draw_memory(share: str) -> Callable[[np.random.Generator], Inputs]:
    """Numbers of parameters, all or some of which train; ``"options"`` gives the other two arguments as well."""

    def draw(rng: np.random.Generator) -> Inputs:
        cases: list[dict[str, Any]] = []
        for _ in range(3):
            n = int(rng.integers(10_000_000, 100_000_000))  # in float32 with Adam, its bytes still fit in 32 bits
            if share == "options":
                n = int(rng.integers(1_000_000_000, 200_000_000_000))  # as large language models are
            t = n if share == "all" else int(rng.integers(100, n // 3))
            if share != "options":
                cases.append({"arguments": [n, t], "options": {}})
                continue
            cases += [
                {"arguments": [n, t], "options": {"bytes_per_param": 2}},
                {"arguments": [n, t], "options": {"optimizer_states": int(rng.integers(4, 7))}},
                {"arguments": [n, t], "options": {"optimizer_states": 0}},
                {"arguments": [n, t, 2, 1], "options": {}},
            ]
        if share == "some":
            cases.append({"arguments": [1_000_000, 0], "options": {}})
        return {"cases": cases}

    return draw


def probe_memory(names: Names, **inputs: Any) -> dict:
    return {
        "bytes": [
            tried(number, names.training_memory, *case["arguments"], **case["options"]) for case in inputs["cases"]
        ]
    }


def memory_call(case: Mapping[str, Any]) -> tuple[str, int, Mistakes]:
    """The call as text, the right number of bytes, and what plausible mistakes give."""
    n, t, *rest = case["arguments"]
    settings = {"bytes_per_param": 4, "optimizer_states": 2, **case["options"]}
    settings |= dict(zip(("bytes_per_param", "optimizer_states"), rest, strict=False))
    b, s = settings["bytes_per_param"], settings["optimizer_states"]
    right = b * (n + t * (1 + s))
    given = "".join(f", {name}={value}" for name, value in case["options"].items())
    call = f"training_memory({', '.join(map(str, case['arguments']))}{given})"
    mistakes = [
        (b * (n + n + s * t), "gradients are counted for all parameters: only trainable ones have one"),
        (b * (n + t + s * n), "optimiser states are counted for all parameters: only trainable ones have them"),
        (b * (n + n * (1 + s)), "gradients and states are counted for all parameters: only trainable ones have them"),
        (b * (n + s * t), "the gradients are missing"),
        (b * (n + t), "the optimiser's states are missing"),
        (b * (n + t + t), "only one state is counted for each parameter: there are optimizer_states of them"),
        (b * t * (1 + 1 + s), "the frozen weights are missing: they are in memory too"),
        (b * t * (1 + s), "the weights are missing"),
        (b * (n + t * (2 + s)), "the weights of the trainable parameters are counted twice: n_params has them already"),
        (n + t * (1 + s), "that is a number of parameters, not of bytes: times bytes_per_param"),
        (8 * right, "that is bits: bytes_per_param is in bytes"),
        ((right + 2**31) % 2**32 - 2**31, "that is what 32 bits can hold of it: compute with Python's own int"),
        (right / 1e6, "that is megabytes: the contract asks for bytes"),
        (right / 2**20, "that is mebibytes: the contract asks for bytes"),
        (right / 1e9, "that is gigabytes: the contract asks for bytes"),
        (right / 2**30, "that is gibibytes: the contract asks for bytes"),
        (4 * (n + t * (1 + s)), "4 bytes are counted whatever bytes_per_param says"),
        (b * (n + t * 3), "two states are counted whatever optimizer_states says"),
        (b * n + t * (1 + s), "only the weights are multiplied by bytes_per_param"),
        (b * (n + t) + 4 * s * t, "the states are counted in 4 bytes whatever bytes_per_param says"),
        (b * n + 4 * t * (1 + s), "only gradients and states are counted in 4 bytes: all are bytes_per_param"),
        (b * (n + t + s), "one plus states belongs in brackets: t * (1 + states)"),
    ]
    if s == 0:
        mistakes.append((b * (n + t * 3), "optimizer_states=0 is a number too: `optimizer_states or 2` drops it"))
    if "bytes_per_param" not in case["options"] and not rest:
        mistakes.append((right / 2, "half of it: bytes_per_param is 4 by default"))
    if "optimizer_states" not in case["options"] and not rest:
        mistakes += [
            (b * (n + 2 * t), "optimizer_states is 2 by default"),
            (b * (n + t), "optimizer_states is 2 by default"),
        ]
    return call, right, mistakes


def judge_memory(inputs: Inputs, seen: Observation) -> Fault | None:
    rows = []
    for case, result in zip(inputs["cases"], seen["bytes"], strict=True):
        call, right, mistakes = memory_call(case)
        rows.append((call, result, right, mistakes))
    return numbers_fault(rows, "bytes_per_param * (n_params + n_trainable * (1 + optimizer_states))")


def judge_memory_type(inputs: Inputs, seen: Observation) -> Fault | None:
    calls, expected = zip(*(memory_call(case)[:2] for case in inputs["cases"]), strict=True)
    return type_fault(calls, seen["bytes"], expected)


EXERCISE = Exercise(
    "1.5",
    "training_memory: weights, gradients, optimiser",
    names=("training_memory",),
    pure=("training_memory",),
    checks=[
        Check(
            "1.5/full",
            "with everything trained: weights, gradients and optimiser states",
            probe_memory,
            judge_memory,
            draw_memory("all"),
            seed=17,
        ),
        Check(
            "1.5/part",
            "only trainable parameters have a gradient and optimiser states",
            probe_memory,
            judge_memory,
            draw_memory("some"),
            seed=18,
        ),
        Check(
            "1.5/options",
            "bytes_per_param and optimizer_states count",
            probe_memory,
            judge_memory,
            draw_memory("options"),
            seed=19,
        ),
        Check("1.5/int", "the result is an int", probe_memory, judge_memory_type, draw_memory("some"), seed=20),
    ],
)
