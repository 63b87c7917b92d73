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
    return visible.draw_training(rng, steps=int(rng.choice([7, 8, 10])), length=3, passes=4)  # in mid-pass


def _adapter_edits(*edits: tuple[str, str]) -> Any:
    return functools.partial(visible.draw_adapter, edits=edits)


def _judge_counts(inputs: Inputs, seen: Observation) -> Fault | None:
    runs = list(zip(inputs["runs"], seen["runs"], strict=True))
    return next((fault for run in runs if (fault := visible._form_fault(*run))), None)


def _draw_counts(rng: np.random.Generator) -> Inputs:
    """Runs of no step, one, a pass less one, a pass, a pass and one, two passes."""
    return {"runs": [visible.draw_training(rng, steps, length=3, passes=3) for steps in (0, 1, 2, 3, 4, 6)]}


_LENGTH = "tokenize keeps max_length tokens of a longer sentence and pads none"
_DEFAULT = "tokenize keeps 128 tokens unless told otherwise, and pads none"
_UNCHANGED = "collate leaves the examples as they are"
_CLASSES = "accuracy for more than two classes"
_BEYOND = "after total_steps the multiplier stays 0"
_COUNT = "train returns exactly as many floats as steps, be it none, one, or more than the loader has"
_RESTART = "when the loader ends it is started again, its new pass is used, and training goes on as before"
_FROZEN_HEAD = "with a frozen head the LoRA tensors are saved and loaded alone, and still train"
_UNEXPECTED = "an unexpected tensor is a ValueError, and nothing has changed"

HIDDEN = [
    Check("4.1/max-length", _LENGTH, visible.probe_tokenize, visible.judge_tokenize, _some_max_length, 0.75),
    Check("4.1/default-length", _DEFAULT, visible.probe_tokenize, visible.judge_tokenize, _long_sentences, 0.5),
    Check(
        "4.1/padding",
        visible.PADDING,
        visible.probe_collate,
        visible.judge_padding,
        functools.partial(visible.draw_examples, batches=3, single=True),
        0.75,
    ),
    Check(
        "4.1/labels",
        visible.LABELS,
        visible.probe_collate,
        visible.judge_labels,
        functools.partial(visible.draw_examples, batches=3, single=True),
        0.5,
    ),
    Check(
        "4.1/unchanged",
        _UNCHANGED,
        visible.probe_collate,
        visible.judge_unchanged,
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
    Check(
        "4.3/short-run", visible.SHORT, visible.probe_schedule, visible.judge_short_runs, visible.draw_short_runs, 0.25
    ),
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
        visible.MODE,
        visible.probe_train,
        visible.judge_mode,
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
        visible.judge_loaded,
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
        _adapter_edits(*(("unexpected", name) for name in ("first", "last", "foreign", "frozen"))),
        0.75,
    ),
    Check(
        "4.5/misshapen",
        visible.MISSHAPEN,
        visible.probe_refusal,
        visible.judge_refusal,
        _adapter_edits(
            *(
                (kind, place)
                for kind in ("one row more", "one row", "one dimension more")
                for place in ("first", "last")
            ),
            *((kind, "oblong") for kind in ("one column", "one column more", "transposed")),
        ),
        1,
    ),
    Check(
        "4.5/foreign",
        visible.FOREIGN_FILE,
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
    Check(
        "4.6/missing-key", visible.MISSING_KEY, visible.probe_match, visible.judge_match, visible.draw_missing_key, 0.5
    ),
    Check("4.6/tolerance", visible.TOLERANCE, visible.probe_match, visible.judge_match, visible.draw_tolerances, 0.5),
    Check(
        "4.6/only-timing", visible.ONLY_TIMING, visible.probe_match, visible.judge_match, visible.draw_only_timing, 0.5
    ),
]
