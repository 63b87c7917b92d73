"""Exercise 4.2, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from functools import partial

import numpy as np

from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage04 import e2_compute_metrics as room
from lora_ref.checks.verdicts import Check, Inputs


def _more_classes(rng: np.random.Generator) -> Inputs:
    return room.draw_predictions(rng, classes=(3, 5, 2, 4), size=int(rng.integers(30, 60)))


HIDDEN = [
    Check(
        "4.2/accuracy",
        "accuracy is the share of rows whose largest logit is at the label",
        room.probe_metrics,
        partial(room.judge_metrics, tolerance=1e-4),
        partial(room.draw_predictions, large=False),
        points=1,
    ),
    Check(
        "4.2/classes",
        "accuracy for more than two classes and for large logits, not rounded",
        room.probe_metrics,
        room.judge_metrics,
        _more_classes,
        points=1,
    ),
]


_ACCURACY = '{"accuracy": float((predictions == labels).mean())}'


MUTANTS = [
    Mutant(
        "4.2/softmax",
        "a softmax whose exp overflows",
        "np.argmax(logits, axis=-1)",
        "np.argmax(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), axis=-1)",
        "exp() of a large logit is infinite",
    ),
    Mutant(
        "4.2/in-place",
        "the caller's logits are overwritten",
        "predictions = np.argmax(logits, axis=-1)",
        "logits -= logits.max(-1, keepdims=True)\n    predictions = np.argmax(logits, axis=-1)",
        "the array has other values",
    ),
    Mutant(
        "4.2/predictions",
        "the attributes of an EvalPrediction, which a tuple does not have",
        "logits, labels = eval_pred",
        "logits, labels = eval_pred.predictions, eval_pred.label_ids",
        "it unpacks",
    ),
    Mutant(
        "4.2/rounds",
        "four decimals",
        _ACCURACY,
        '{"accuracy": round(float((predictions == labels).mean()), 4)}',
        "is rounded",
    ),
    Mutant(
        "4.2/balanced",
        "the mean of each class's accuracy",
        _ACCURACY,
        '{"accuracy": float(np.mean([(predictions == labels)[labels == c].mean() for c in np.unique(labels)]))}',
        "every row counts the same",
    ),
    Mutant("4.2/percent", "a percentage", _ACCURACY, _ACCURACY.replace("float(", "100 * float("), "a percentage"),
    Mutant(
        "4.2/count",
        "the number of right answers",
        _ACCURACY,
        _ACCURACY.replace("mean", "sum"),
        "without the division by their count",
    ),
    Mutant("4.2/errors", "the error rate", _ACCURACY, _ACCURACY.replace("==", "!="), "the share of errors"),
    Mutant("4.2/bare-number", "no dict", _ACCURACY, "float((predictions == labels).mean())", "wants a dict"),
    Mutant("4.2/other-key", "another key", _ACCURACY, _ACCURACY.replace("accuracy", "acc"), 'the key is "accuracy"'),
    Mutant(
        "4.2/threshold",
        "the last logit's sign instead of the largest logit",
        "np.argmax(logits, axis=-1)",
        "(logits[:, -1] > 0).astype(int)",
        "a threshold on one logit",
    ),
]
