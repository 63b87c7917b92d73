"""Exercises 2.2 and 2.4: what dropout did to x, read off the output of a layer that has it."""

from __future__ import annotations

import numpy as np

from lora_ref.checks.stage02.shared import factor_of, forward_expected, scale_cause
from lora_ref.checks.verdicts import ELSEWHERE, SIDE_EFFECT, Fault, Inputs, Observation
from lora_ref.rounding import number


def draw_dropout(rng: np.random.Generator) -> Inputs:
    """Factors that can be undone, so that what dropout did to x can be read off the output.

    A (rank > in_features) and B (out_features > rank) have orthonormal columns: x is y B A up to the scale.
    """
    in_features, rank, out_features = 6, 8, 11
    return {
        "in_features": in_features,
        "out_features": out_features,
        "rank": rank,
        "alpha": float(rng.integers(3, 30)) + 0.5,
        "A": np.linalg.qr(rng.normal(size=(rank, in_features)))[0],
        "B": np.linalg.qr(rng.normal(size=(out_features, rank)))[0],
        "x": rng.uniform(1, 2, size=(10, 20, in_features)) * rng.choice([-1, 1], size=(10, 20, in_features)),
        "dropout": float(rng.choice([0.2, 0.25, 0.3])),
    }


#: Seen by several checks; it costs once.
CHANGES_X = Fault(
    "forward has changed the x that it is given",
    "in place, as dropout(inplace=True) or x *= ... do it: x is the caller's",
    "section 2.2",
    SIDE_EFFECT,
)


def judge_dropout_off(inputs: Inputs, seen: Observation) -> Fault | None:
    """In evaluation mode dropout is off; in training mode it is not."""
    if not seen["kept"]:
        return CHANGES_X
    if factor_of(seen["eval"], forward_expected(inputs)) is None:
        if not np.array_equal(seen["eval"], seen["eval again"]):
            return Fault(
                "two outputs for the same x differ in evaluation mode",
                "dropout is on in evaluation mode too: F.dropout needs training=self.training, nn.Dropout knows by "
                "itself",
                "section 2.2",
            )
        return Fault("in evaluation mode the output is not a multiple of (x A^T) B^T", ELSEWHERE, "")
    if np.array_equal(seen["train"], seen["again"]):
        return Fault(
            f"with dropout={inputs['dropout']:g} two outputs in training mode are equal",
            "dropout is never applied",
            "section 2.2",
        )
    return None


def judge_dropout(inputs: Inputs, seen: Observation) -> Fault | None:
    """Entries of x are dropped, each on its own, with the given probability; kept ones are divided by 1 - p."""
    fault = judge_dropout_off(inputs, seen)
    scale = factor_of(seen["eval"], forward_expected(inputs))  # a wrong scale is another check's
    if fault or scale is None:
        return fault
    p, x = inputs["dropout"], inputs["x"]
    y = seen["train"] / (scale * inputs["alpha"] / inputs["rank"])
    kept = y @ inputs["B"] @ inputs["A"] / x  # the columns of A and B are orthonormal
    dropped = np.abs(kept) < 1e-3
    even = np.abs(kept[~dropped] - np.median(kept[~dropped])).max(initial=0.0) < 1e-2
    if not even or not dropped.any() or dropped.all():
        hidden = seen["train"] @ inputs["B"]
        where = ""
        if np.isclose(seen["train"], 0, atol=1e-6).mean() > p / 3:
            where = "on the output"
        elif np.isclose(hidden, 0, atol=1e-5 * np.abs(hidden).max()).mean() > p / 3:
            where = "between A and B"
        likely = f"dropout acts {where}: apply it to x, before A" if where else ""
        return Fault("in training mode entries of x are not dropped or kept, all to one factor", likely, "section 2.2")
    expected, factor = 1 / (1 - p), float(np.median(kept[~dropped]))
    if abs(scale - 1) > 1e-2 and abs(factor * scale - expected) < 1e-2:
        shown = f"in evaluation mode alone the update is {number(scale)} times what alpha / rank asks for"
        return Fault(shown, scale_cause(inputs, scale), "section 2.2")
    if not abs(factor - expected) <= 1e-2:
        likely = "what is kept must be divided by 1 - p, or training and evaluation differ in size"
        if abs(factor - 1 / p) < 1e-2:
            likely = "p is the probability to drop, not to keep"
        elif abs(factor - 1) > 1e-2:
            likely = ""
        return Fault(
            f"what is kept is multiplied by {number(factor)}, expected {number(expected)}", likely, "section 2.2"
        )
    if any((dropped == dropped.take([0], axis)).all() for axis in range(x.ndim)):
        return Fault(
            "whole rows or columns of x are dropped together",
            "each entry is dropped on its own: the mask has x's whole shape",
            "section 2.2",
        )
    share = dropped.mean()
    # six standard deviations of the share of n coin flips; fails by chance once in 10^8
    if not abs(share - p) <= 6 * (p * (1 - p) / dropped.size) ** 0.5:
        likely = "p is the probability to drop, not to keep" if abs(share - 1 + p) < 0.1 else ""
        return Fault(f"{share:.0%} of the entries are dropped, expected {p:.0%}", likely, "section 2.2")
    return None
