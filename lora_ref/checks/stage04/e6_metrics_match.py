"""Exercise 4.6, metrics_match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, result_of
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, error_fault
from lora_ref.checks.verdicts import a as a_kind


def draw_metrics(rng: np.random.Generator, prefix: str = "eval") -> dict[str, Any]:
    """What Trainer.evaluate returns."""
    return {
        f"{prefix}_loss": float(rng.uniform(0.3, 0.7)),
        f"{prefix}_accuracy": float(rng.uniform(0.5, 0.9)),
        f"{prefix}_model_preparation_time": float(rng.uniform(0.001, 0.01)),
        f"{prefix}_runtime": float(rng.uniform(1, 9)),
        f"{prefix}_samples_per_second": float(rng.uniform(100, 900)),
        f"{prefix}_steps_per_second": float(rng.uniform(1, 9)),
        "epoch": 2.0,
    }


def retimed(rng: np.random.Generator, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The same metrics, measured another time."""
    timing = ("runtime", "per_second", "preparation_time")
    return {k: v * float(rng.uniform(1.1, 3)) if k.endswith(timing) else v for k, v in metrics.items()}


def draw_timing(rng: np.random.Generator, prefix: str = "eval") -> Inputs:
    """Evaluations that differ in their timing alone, and one that does in accuracy as well."""
    a = draw_metrics(rng, prefix)
    worse = retimed(rng, a) | {f"{prefix}_accuracy": a[f"{prefix}_accuracy"] - 0.01}
    return {"pairs": [[a, dict(a), True], [a, retimed(rng, a), True], [a, worse, False], [worse, a, False]]}


def draw_missing_key(rng: np.random.Generator) -> Inputs:
    prefix = str(rng.choice(["eval", "test"]))
    a = draw_metrics(rng, prefix)
    b = retimed(rng, a)
    absent = {key: value for key, value in b.items() if key != f"{prefix}_accuracy"}
    more, zero = b | {f"{prefix}_f1": 0.75}, b | {f"{prefix}_f1": 0.0}
    pairs = [[a, b, True], [a, absent, False], [absent, a, False], [a, more, False], [more, a, False]]
    pairs += [[absent, absent, True], [a, zero, False], [zero, a, False]]
    # the same keys in another order, other keys with the same values, the same keys with each other's values
    # the Trainer measures the preparation in its first evaluation alone
    later = {key: value for key, value in b.items() if not key.endswith("preparation_time")}
    pairs += [
        [a, later, True],
        [later, a, True],
        [{}, {}, True],
        [{}, {"runtime": 1.0}, True],
        [{}, {"f1": 0.0}, False],
    ]
    turned = dict(reversed(a.items()))
    renamed = {key.replace("accuracy", "f1"): value for key, value in a.items()}
    swapped = a | {"epoch": a[f"{prefix}_accuracy"], f"{prefix}_accuracy": a["epoch"]}
    return {"pairs": [*pairs, [a, renamed, False], [a, swapped, False], [a, turned, True]]}


def draw_tolerances(rng: np.random.Generator) -> Inputs:
    def around(value: float, *factors: tuple[float, bool]) -> list:
        one = {"eval_loss": value, "epoch": 2.0}
        pairs = []
        for by, equal in factors:
            for other in (one | {"eval_loss": value * (1 + by)}, one | {"eval_loss": value * (1 - by)}):
                pairs += [[one, other, equal], [other, one, equal]]
        return pairs

    digits = round(float(rng.uniform(1, 1.9)), 5) - 1e-6
    pairs = [[{"eval_loss": digits}, {"eval_loss": digits * (1 + 2e-6)}, False]]  # alike to six digits
    # an absolute 1e-6 is too wide for small numbers and too narrow for large ones, and so is NumPy's 1e-8
    pairs += [[{"eval_loss": 1e-9}, {"eval_loss": 9e-9}, False], [{"eval_loss": 1e-9}, {"eval_loss": 1e-9}, True]]
    pairs += [[{"eval_loss": 1e-30}, {"eval_loss": 2e-30}, False]]
    for odd in (float("nan"), float("inf")):  # what diverged equals no number
        pairs += [
            [{"eval_loss": odd}, {"eval_loss": digits}, False],
            [{"eval_loss": digits}, {"eval_loss": odd}, False],
        ]
    pairs += around(float(rng.uniform(0.005, 0.015)), (8e-7, True), (5e-6, False))
    pairs += around(float(rng.uniform(1, 9)), (8e-7, True), (2e-6, False))
    pairs += around(float(1e6 * rng.uniform(1, 9)), (8e-7, True), (2e-6, False))
    zero = {"eval_accuracy": 0.0, "eval_steps": 5}
    return {
        "pairs": [
            *pairs,
            [zero, dict(zero), True],
            [zero, zero | {"eval_accuracy": 0.5}, False],
            [zero, zero | {"eval_steps": 6}, False],
        ]
    }


def draw_only_timing(rng: np.random.Generator) -> Inputs:
    """Names that hold the letters of a timing key's and mean something else."""
    pairs = []
    names = ("eval_sentiment_accuracy", "eval_second_best_accuracy", "eval_samples", "eval_times_retried")
    for key in (*names, "eval_settling_time", "eval_best_second", "epoch", "eval_runtime_errors", "per_second_loss"):
        a = draw_metrics(rng) | {key: float(rng.uniform(0.1, 0.9))}
        pairs += [[a, retimed(rng, a), True], [a, retimed(rng, a) | {key: a[key] / 2}, False]]
    bare = {
        "accuracy": 0.5,
        "runtime": 1.0,
        "train_runtime": 5.0,
        "train_samples_per_second": 7.0,
        "preparation_time": 0.1,
    }
    return {"pairs": [*pairs, [bare, retimed(rng, bare), True]]}


def draw_all_timing(rng: np.random.Generator) -> Inputs:
    """What timing keys say, and names that only look like theirs."""
    return {"pairs": draw_timing(rng)["pairs"] + draw_only_timing(rng)["pairs"]}


def probe_match(names: Names, **inputs: Any) -> dict:
    """The answer for each pair."""
    answers: list[Any] = []
    for a, b, _ in inputs["pairs"]:
        value, error = result_of(names.metrics_match, dict(a), dict(b))
        if error:
            answers.append(error)
        else:
            answers.append(bool(value) if isinstance(value, (bool, np.bool_)) else a_kind(type(value).__name__))
    return {"answers": answers}


def judge_match(inputs: Inputs, seen: Observation) -> Fault | None:
    if all(found is True for found in seen["answers"]):
        return Fault("True for any two metrics", "a difference in one value is enough: all of them must be equal")
    for (a, b, wanted), found in zip(inputs["pairs"], seen["answers"], strict=True):
        if found is wanted:
            continue
        differ = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
        real = [key for key in differ if not _timing(key)]
        likely = ""
        if isinstance(found, (str, Mapping)):
            likely = "the answer is True or False, for any two dicts"
            if isinstance(found, Mapping):
                likely = (
                    error_fault(found).likely if found["quoted"] else "a raise left in after a check stops what follows"
                )
            if isinstance(found, Mapping) and found["type"] == "KeyError":
                likely = "a key that only one side has is a difference: compare the two sets of keys"
        elif wanted and differ and not real:
            likely = (
                "timing keys are compared: no two runs take equally long. "
                "Leave out keys that end in runtime, per_second or preparation_time"
            )
        elif wanted and not real and len(a) == len(b) and list(a) != list(b):
            likely = "a dict is the same whatever the order of its keys"
        elif wanted and real:
            likely = "floats are equal up to a relative 1e-6: the difference divided by their size"
        elif len(real) > 1 and sorted(a.values()) == sorted(b.values()):
            likely = "the values are the same, and their keys are not: compare each value by its key"
        elif any(key not in a or key not in b for key in real):
            likely = "a key that only one side has is a difference: compare the two sets of keys"
        elif any(part in key for part in ("runtime", "per_second") for key in real):
            likely = "keys that end in runtime, per_second or preparation_time are left out: endswith, not in"
        elif any("time" in key or "second" in key for key in real):
            likely = (
                "more than the timing keys is left out: match runtime, per_second, preparation_time and nothing shorter"
            )
        elif any(not np.isfinite(side[key]) for side in (a, b) for key in real):
            likely = "whether nan or inf differ by more than a tolerance is answered no: ask whether they are close"
        elif real:
            likely = (
                "an absolute tolerance hides differences between small numbers: divide the difference by their size"
                if abs(a[real[0]]) < 0.1
                else "a real difference goes unnoticed: floats may differ by a relative 1e-6, other values not at all"
            )
        shown = [f"{key} ({_shown(a, key)}, {_shown(b, key)})" for key in (real or differ)[:2]]
        answer = f"{found['type']}: {found['text']}" if isinstance(found, Mapping) else found
        return Fault(
            f"{answer}, for metrics that differ in {' and '.join(shown) or 'nothing'}; expected {wanted}", likely
        )
    return None


def _shown(metrics: Mapping[str, Any], key: str) -> str:
    return f"{metrics[key]:.8g}" if key in metrics else "not there"


def _timing(key: str) -> bool:
    return key.endswith(("runtime", "per_second", "preparation_time"))


EXERCISE = Exercise(
    "4.6",
    "metrics_match",
    names=("metrics_match",),
    pure=("metrics_match",),
    checks=[
        Check(
            "4.6/timing",
            "the timing keys are left out, and no others",
            probe_match,
            judge_match,
            draw_all_timing,
            seed=9,
        ),
        Check(
            "4.6/missing-key",
            "values are compared key by key; a key that only one side has is a difference, whichever side",
            probe_match,
            judge_match,
            draw_missing_key,
            seed=9,
            after=("4.6/timing",),
        ),
        Check(
            "4.6/tolerance",
            "floats may differ by a millionth of their size, other values not at all",
            probe_match,
            judge_match,
            draw_tolerances,
            seed=9,
            after=("4.6/timing", "4.6/missing-key"),
        ),
    ],
)
