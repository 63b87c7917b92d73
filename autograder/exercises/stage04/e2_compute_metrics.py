"""Exercise 4.2, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage04 import e2_compute_metrics as room
from lora_ref.checks.verdicts import Check, Inputs


def _more_classes(rng: np.random.Generator) -> Inputs:
    return room.draw_predictions(rng, classes=(3, 5, 2, 4), size=int(rng.integers(30, 60)))


HIDDEN = [
    graded(room, "4.2/accuracy", 1),
    Check(
        "4.2/classes",
        "accuracy for more than two classes",
        room.probe_metrics,
        room.judge_metrics,
        _more_classes,
        points=1,
    ),
]


_ACCURACY = '{"accuracy": float((predictions == labels).mean())}'


MUTANTS = [
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
