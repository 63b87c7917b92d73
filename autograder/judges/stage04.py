"""Stage 04, training on SST-2: hidden checks.

The probes and judges are the visible ones (`lora_ref.checks.stage04`), with drawn inputs and more behaviours: the
default length, several batches, more than two classes, a loader that must start again, files with one thing changed.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from lora_ref.checks import stage04 as visible
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation


def _long_sentences(rng: np.random.Generator) -> Inputs:
    return visible.draw_sentences(rng, max_length=None, longest=int(rng.integers(140, 200)))


def _some_max_length(rng: np.random.Generator) -> Inputs:
    return visible.draw_sentences(rng, max_length=int(rng.integers(6, 25)), longest=int(rng.integers(140, 200)))


def _more_classes(rng: np.random.Generator) -> Inputs:
    return visible.draw_predictions(rng, classes=(3, 5, 2, 4), size=int(rng.integers(30, 60)))


def _second_epoch(rng: np.random.Generator) -> Inputs:
    return visible.draw_training(rng, steps=int(rng.integers(7, 11)), length=3, passes=4)


def _adapter_edits(*edits: tuple[str, str]) -> Any:
    return functools.partial(visible.draw_adapter, edits=edits)


def _without_one_key(rng: np.random.Generator) -> Inputs:
    prefix = str(rng.choice(["eval", "test"]))
    a = visible.draw_metrics(rng, prefix)
    b = visible.retimed(rng, a)
    absent = {key: value for key, value in b.items() if key != f"{prefix}_accuracy"}
    more = b | {f"{prefix}_f1": 0.75}
    pairs = [[a, b, True], [a, absent, False], [absent, a, False], [a, more, False], [more, a, False]]
    return {"pairs": [*pairs, [absent, absent, True]]}


def _tolerances(rng: np.random.Generator) -> Inputs:
    pairs = []
    for size in (1.0, 1e-2, 1e6):  # an absolute 1e-6 is too wide for small numbers and too narrow for large ones
        value = float(size * rng.uniform(1, 9))
        for factor, equal in ((1 + 1e-7, True), (1 - 1e-7, True), (1 + 5e-6, False), (1 - 5e-6, False)):
            pair = [{"eval_loss": value, "epoch": 2.0}, {"eval_loss": value * factor, "epoch": 2.0}]
            pairs += [[*pair, equal], [*pair[::-1], equal]]
    zero = {"eval_accuracy": 0.0, "eval_steps": 5}
    return {
        "pairs": [
            *pairs,
            [zero, dict(zero), True],
            [zero, zero | {"eval_accuracy": 0.5}, False],
            [zero, zero | {"eval_steps": 6}, False],
        ]
    }


def _names_like_timing(rng: np.random.Generator) -> Inputs:
    """Names that hold the letters of a timing key's and mean something else."""
    pairs = []
    for key in ("eval_sentiment_accuracy", "eval_second_best_accuracy", "eval_samples", "eval_times_retried"):
        a = visible.draw_metrics(rng) | {key: float(rng.uniform(0.1, 0.9))}
        pairs += [[a, visible.retimed(rng, a), True], [a, visible.retimed(rng, a) | {key: a[key] / 2}, False]]
    bare = {
        "accuracy": 0.5,
        "runtime": 1.0,
        "train_runtime": 5.0,
        "train_samples_per_second": 7.0,
        "preparation_time": 0.1,
    }
    return {"pairs": [*pairs, [bare, visible.retimed(rng, bare), True]]}


def _judge_unchanged(inputs: Inputs, seen: Observation) -> Fault | None:
    batches = visible.judge_padding(inputs, seen) or visible._batches(inputs, seen)
    if isinstance(batches, Fault):
        return batches
    if all(batch["unchanged"] for _, batch in batches):
        return None
    return Fault(
        "the examples have changed",
        "pop, append or an assignment works on the caller's own dicts, and the next epoch meets what is left of them",
        "section 4.1",
    )


def _judge_short_runs(inputs: Inputs, seen: Observation) -> Fault | None:
    short = [rise < total for _, total, rise in inputs["cases"]]
    ordinary = {"cases": [c for c, keep in zip(inputs["cases"], short, strict=True) if keep]}
    inside = {"outcomes": [o for o, keep in zip(seen["outcomes"], short, strict=True) if keep]}
    if fault := visible.judge_schedule(ordinary, inside):
        return fault
    for (step, total, rise), value, fault in visible._schedule_values(inputs, seen):
        at = f"linear_schedule({step}, {total}, {rise})"
        if fault:
            refused = seen["outcomes"][inputs["cases"].index([step, total, rise])]["raised"]
            if rise > total and refused and "ValueError" in refused["bases"]:
                continue  # the contract is silent here; refusing a warm-up that never ends is as good as a low peak
            if refused and refused["type"] == "ZeroDivisionError":
                return Fault(
                    f"{at} raised ZeroDivisionError",
                    "warm-up and run are equally long: total_steps - warmup_steps is 0",
                    "section 4.3",
                )
            return fault
        if not 0 <= value <= 1:
            return Fault(
                f"{at} = {value:.4g}",
                "a multiplier lies between 0 and 1, also where the warm-up outlasts the run",
                "section 4.3",
            )
    return None


def _draw_short_runs(rng: np.random.Generator) -> Inputs:
    """Warm-ups as long as the run or longer, such as 500 steps in a run of 64; after one that is short enough."""
    total = int(rng.integers(20, 100))
    runs = [(total, 4), (total, total), (total, total + 1), (64, 500), (total, 7 * total)]
    return {"cases": [[step, t, w] for t, w in runs for step in (0, 1, t // 2, t - 1, t, t + 1, 2 * t)]}


def _judge_counts(inputs: Inputs, seen: Observation) -> Fault | None:
    runs = list(zip(inputs["runs"], seen["runs"], strict=True))
    return next((fault for run in runs if (fault := visible._form_fault(*run))), None)


def _draw_counts(rng: np.random.Generator) -> Inputs:
    """Runs of no step, one, a pass less one, a pass, a pass and one, two passes."""
    return {"runs": [visible.draw_training(rng, steps, length=3, passes=3) for steps in (0, 1, 2, 3, 4, 6)]}


def _judge_mode(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := visible._order_fault(inputs, seen):
        return fault
    if all(forward["training"] for forward in seen["forwards"][: inputs["steps"]]):
        return None
    return Fault(
        "the model was switched to evaluation mode",
        "model.eval() turns dropout off; training wants model.train()",
        "section 4.4",
    )


_LENGTH = "tokenize keeps max_length tokens of a longer sentence and pads none"
_DEFAULT = "tokenize keeps 128 tokens unless told otherwise, and pads none"
_UNCHANGED = "collate leaves the examples as they are"
_CLASSES = "accuracy for more than two classes"
_BEYOND = "after total_steps the multiplier stays 0"
_SHORT = "the multiplier stays between 0 and 1 where the warm-up is as long as the run, or longer"
_COUNT = "train returns exactly as many floats as steps, be it none, one, or more than the loader has"
_RESTART = "when the loader ends it is started again, and its new pass is used"
_MODE = "the model is in training mode at each step"
_FROZEN_HEAD = "with a frozen head the LoRA tensors are saved and loaded alone"
_UNEXPECTED = "an unexpected tensor is a ValueError, and nothing has changed"
_MISSHAPEN = "a tensor of another shape is a ValueError, and nothing has changed"
_FOREIGN = "a file that is not safetensors is refused, never unpickled, and nothing has changed"
_MISSING_KEY = "a key that only one side has is a difference, whichever side"
_TOLERANCE = "floats may differ by a millionth of their size, other values not at all"
_ONLY_TIMING = "the timing keys are left out, and no others"

HIDDEN = [
    Check("4.1/max-length", _LENGTH, visible.probe_tokenize, visible.judge_tokenize, _some_max_length, 0.75),
    Check("4.1/default-length", _DEFAULT, visible.probe_tokenize, visible.judge_tokenize, _long_sentences, 0.5),
    Check(
        "4.1/padding",
        visible.PADDING,
        visible.probe_collate,
        visible.judge_padding,
        functools.partial(visible.draw_examples, batches=4),
        0.75,
    ),
    Check(
        "4.1/labels",
        visible.LABELS,
        visible.probe_collate,
        visible.judge_labels,
        functools.partial(visible.draw_examples, batches=4),
        0.5,
    ),
    Check(
        "4.1/unchanged",
        _UNCHANGED,
        visible.probe_collate,
        _judge_unchanged,
        functools.partial(visible.draw_examples, batches=2),
        0.5,
    ),
    Check("4.2/accuracy", visible.METRICS, visible.probe_metrics, visible.judge_metrics, visible.draw_predictions, 1),
    Check("4.2/classes", _CLASSES, visible.probe_metrics, visible.judge_metrics, _more_classes, 1),
    Check(
        "4.3/no-warmup",
        visible.NO_WARMUP,
        visible.probe_schedule,
        visible.judge_schedule,
        functools.partial(visible.draw_schedule, warmup=False),
        0.5,
    ),
    Check("4.3/warmup", visible.WARMUP, visible.probe_schedule, visible.judge_schedule, visible.draw_schedule, 0.75),
    Check(
        "4.3/beyond",
        _BEYOND,
        visible.probe_schedule,
        visible.judge_schedule,
        functools.partial(visible.draw_schedule, beyond=True),
        0.5,
    ),
    Check("4.3/short-run", _SHORT, visible.probe_schedule, _judge_short_runs, _draw_short_runs, 0.25),
    Check(
        "4.4/losses",
        visible.LOSSES,
        visible.probe_train,
        visible.judge_losses,
        visible.draw_training,
        1,
        seconds=visible.TRAINING_SECONDS,
    ),
    Check("4.4/count", _COUNT, visible.probe_counts, _judge_counts, _draw_counts, 1, seconds=visible.TRAINING_SECONDS),
    Check(
        "4.4/restart",
        _RESTART,
        visible.probe_train,
        visible.judge_restart,
        _second_epoch,
        1,
        seconds=visible.TRAINING_SECONDS,
    ),
    Check(
        "4.4/adamw",
        visible.ADAMW,
        visible.probe_train,
        visible.judge_adamw,
        visible.draw_training,
        1.5,
        seconds=visible.TRAINING_SECONDS,
    ),
    Check(
        "4.4/frozen",
        visible.ALONE,
        visible.probe_train,
        visible.judge_trainable_alone,
        functools.partial(visible.draw_training, stale=True),
        1,
        seconds=visible.TRAINING_SECONDS,
    ),
    Check(
        "4.4/mode",
        _MODE,
        visible.probe_train,
        _judge_mode,
        visible.draw_training,
        0.5,
        seconds=visible.TRAINING_SECONDS,
    ),
    Check("4.5/file", visible.FILE, visible.probe_save, visible.judge_file, visible.draw_adapter, 1),
    Check(
        "4.5/round-trip",
        visible.ROUND_TRIP,
        visible.probe_round_trip,
        visible.judge_round_trip,
        visible.draw_adapter,
        1.5,
    ),
    Check(
        "4.5/frozen-head",
        _FROZEN_HEAD,
        visible.probe_round_trip,
        visible.judge_round_trip,
        functools.partial(visible.draw_adapter, train_head=False),
        0.5,
    ),
    Check(
        "4.5/missing",
        visible.MISSING,
        visible.probe_refusal,
        visible.judge_refusal,
        _adapter_edits(("missing", "first"), ("missing", "last"), ("renamed", "last")),
        0.75,
    ),
    Check(
        "4.5/unexpected",
        _UNEXPECTED,
        visible.probe_refusal,
        visible.judge_refusal,
        _adapter_edits(("unexpected", "first"), ("unexpected", "last")),
        0.75,
    ),
    Check(
        "4.5/misshapen",
        _MISSHAPEN,
        visible.probe_refusal,
        visible.judge_refusal,
        _adapter_edits(
            *(
                (kind, place)
                for kind in ("one row more", "one row", "one dimension more")
                for place in ("first", "last")
            )
        ),
        1,
    ),
    Check(
        "4.5/foreign",
        _FOREIGN,
        visible.probe_refusal,
        visible.judge_refusal,
        _adapter_edits(*((kind, "") for kind in visible.FOREIGN)),
        0.5,
    ),
    Check(
        "4.6/timing",
        visible.TIMING,
        visible.probe_match,
        visible.judge_match,
        functools.partial(visible.draw_timing, prefix="test"),
        0.5,
    ),
    Check("4.6/missing-key", _MISSING_KEY, visible.probe_match, visible.judge_match, _without_one_key, 0.5),
    Check("4.6/tolerance", _TOLERANCE, visible.probe_match, visible.judge_match, _tolerances, 0.5),
    Check("4.6/only-timing", _ONLY_TIMING, visible.probe_match, visible.judge_match, _names_like_timing, 0.5),
]
