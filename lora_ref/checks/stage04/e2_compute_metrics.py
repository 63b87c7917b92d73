"""Exercise 4.2, compute_metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close
from lora_ref.rounding import pair


def draw_predictions(
    rng: np.random.Generator, classes: Sequence[int] = (2, 2, 2), size: int = 37, large: bool = True
) -> Inputs:
    """Logits of which about two in three are right. Each row is shifted, so only the comparison within a row tells.

    ``large``: in the last set exp of them is infinite.
    """
    logits, labels = [], []
    for count in classes:
        truth = rng.integers(0, count, size=size)
        scores = rng.normal(size=(size, count)) + 1.2 * np.eye(count)[truth]
        logits.append((scores + rng.normal(scale=3.0, size=(size, 1))).astype(np.float32))
        if large and len(logits) == len(classes):
            logits[-1] += 200
        labels.append(truth)
    return {"logits": logits, "labels": labels}


def probe_metrics(names: Names, **inputs: Any) -> dict:
    """The metrics of each set of predictions, given as the Trainer gives them."""
    from transformers import EvalPrediction

    values = []
    for number, (logits, labels) in enumerate(zip(inputs["logits"], inputs["labels"], strict=True)):
        given: Any = EvalPrediction(predictions=logits.copy(), label_ids=labels.copy())
        if number == 1:  # it is unpacked: the two arrays are all that is promised
            given = (logits.copy(), labels.copy())
        metrics = names.compute_metrics(given)
        if not isinstance(metrics, Mapping):
            return {"kind": type(metrics).__name__}
        if "accuracy" not in metrics:
            return {"keys": [str(key) for key in metrics]}
        if isinstance(metrics["accuracy"], (bool, str)) or metrics["accuracy"] is None:
            return {"accuracy_kind": type(metrics["accuracy"]).__name__}
        values.append(float(metrics["accuracy"]))
    return {"accuracy": values}


def judge_metrics(inputs: Inputs, seen: Observation, tolerance: float = 1e-6) -> Fault | None:
    if "kind" in seen:
        return Fault(f"compute_metrics returned a {seen['kind']}", 'the Trainer wants a dict: {"accuracy": ...}')
    if "keys" in seen:
        return Fault(f"keys {seen['keys']}", 'the key is "accuracy"; the Trainer turns it into "eval_accuracy"')
    if "accuracy_kind" in seen:
        return Fault(f"accuracy is a {seen['accuracy_kind']}", "it must be a number")
    pairs = list(zip(inputs["logits"], inputs["labels"], strict=True))
    wanted = np.array([np.mean(logits.argmax(axis=1) == labels) for logits, labels in pairs])
    accuracy = np.array(seen["accuracy"])
    if close(accuracy, wanted, tolerance):
        return None
    size = len(pairs[0][1])
    with np.errstate(all="ignore"):
        shares = [np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) for logits, _ in pairs]
    balanced = [
        np.mean([(logits.argmax(1) == labels)[labels == c].mean() for c in np.unique(labels)])
        for logits, labels in pairs
    ]
    guesses = {
        "a percentage: the contract is a share between 0 and 1": 100 * wanted,
        "the share of errors, not of right answers": 1 - wanted,
        "the number of right answers, without the division by their count": size * wanted,
        "a threshold on one logit: compare the classes of a row with each other (argmax over the last axis)": np.array(
            [np.mean((logits[:, -1] > 0) == labels) for logits, labels in pairs]
        ),
        "exp() of a large logit is infinite: argmax of the logits needs no softmax": np.array(
            [np.mean(share.argmax(1) == labels) for share, (_, labels) in zip(shares, pairs, strict=True)]
        ),
        "the mean of each class's accuracy: every row counts the same": np.array(balanced),
        "divided by one less than the number of rows": wanted * size / (size - 1),
        "the number is rounded: return the share as it is": next(
            (wanted.round(d) for d in (4, 3, 2, 1) if close(accuracy, wanted.round(d), 1e-9)), wanted
        ),
    }
    likely = next((cause for cause, value in guesses.items() if close(accuracy, value, 1e-6)), "")
    wrong = int(np.argmax(~(np.abs(accuracy - wanted) <= 1e-6)))
    shown, asked = pair(accuracy[wrong], wanted[wrong], tolerance=0)
    return Fault(
        f"accuracy {shown}, expected {asked} ({size} examples, {pairs[wrong][0].shape[1]} classes)",
        likely,
    )


EXERCISE = Exercise(
    "4.2",
    "compute_metrics",
    names=("compute_metrics",),
    pure=("compute_metrics",),
    checks=[
        Check(
            "4.2/accuracy",
            "accuracy is the share of rows whose largest logit is at the label",
            probe_metrics,
            judge_metrics,
            draw_predictions,
            seed=3,
        )
    ],
)
