"""Stage 02, a LoRA layer: hidden checks.

Probes and most judges are the visible checks', with drawn inputs. The judges here see what visible checks leave out: a
layer without bias, repeated unmerging, defaults, and a parametrization at work in a frozen layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lora_ref.checks import stage02 as visible
from lora_ref.checks.stage02 import (
    CARRY,
    draw_dropout,
    draw_layer,
    draw_wrapped,
    draw_wrapped_dropout,
    either,
    rank_one,
    steps,
)
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close

# --- 2.4 ------------------------------------------------------------------------------------------------------------


def draw_sum(bias: bool) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {**draw_wrapped(rng), "bias": bias}


def judge_sum_no_bias(inputs: Inputs, seen: Observation) -> Fault | None:
    return visible.judge_sum({**inputs, "b": np.zeros_like(inputs["b"])}, seen)


# --- 2.5 ------------------------------------------------------------------------------------------------------------


def judge_idle(inputs: Inputs, seen: Observation) -> Fault | None:
    """Steps: unmerge, merge, unmerge, unmerge."""
    _, unmerged, merged, _, last = seen["states"]
    for state in (unmerged, last):
        fault = visible.weight_fault(inputs, state["W"], 0)
        if fault:
            return fault
        if state["merged"]:
            return Fault(".merged is True after unmerge()", "the flag is not taken back", "section 2.5")
    if close(merged["W"], inputs["W"]):
        return Fault("merge() leaves the weight as it was", "", "section 2.5")
    return None


# --- 2.6 ------------------------------------------------------------------------------------------------------------


def judge_defaults(inputs: Inputs, seen: Observation) -> Fault | None:
    if seen["found"] != ["A", "B"]:
        return Fault(
            "built with two sizes alone it has no factors of rank 1", "the default of rank is 1", "section 2.6"
        )
    if not close(seen["W"], inputs["W"] + inputs["B"][:, :1] @ inputs["A"][:1]):
        return Fault("with the defaults, forward(W) is not W + B A", "the default of alpha is 1", "section 2.6")
    return None


def judge_registered(inputs: Inputs, seen: Observation) -> Fault | None:
    """In a frozen layer: output, gradients of A and B alone, original untouched, off exactly as before."""
    if "raised" in seen:
        return visible.explained(seen["raised"])
    x, A, B = inputs["x"], inputs["A"], inputs["B"]
    if seen["found"] != ["A", "B"] or len(seen["trains"]) != 2:
        return Fault(f"in the layer {len(seen['trains'])} parameters train, expected A and B", "", "section 2.6")
    if not np.any(seen["gradients"]["A"]) or not np.any(seen["gradients"]["B"]):
        return Fault(
            "no gradient reaches the factors", "the graph is cut: .data, .detach() or torch.no_grad()", "section 2.6"
        )
    ratio = visible.factor_of(seen["y"] - x @ inputs["W"].T - inputs["b"], x @ A.T @ B.T)
    if ratio is None:
        return Fault("the layer's output is not x (W + c B A)^T + b for any c", "", "section 2.6")
    if not close(seen["original"], inputs["W"], 1e-6):
        return Fault(
            "the original weight changed",
            "forward adds to W in place: write W + update, not W += update",
            "section 2.6",
        )
    if close(seen["trained"], seen["y"], 1e-9):
        return Fault(
            "a training step of A and B changes nothing", "the update is computed once and kept", "section 2.6"
        )
    if not np.array_equal(seen["off"], seen["before"]):
        return Fault(
            "switched off, the layer's output is not the original's, bit for bit", "return W itself", "section 2.6"
        )
    return None


# --- hidden checks --------------------------------------------------------------------------------------------------

_GRADIENTS = "A, B and x get the formula's gradients"
_NO_BIAS = "a layer without bias works as well"
_IDLE = "unmerge() without a merge changes nothing"
_DEFAULTS = "rank and alpha are 1 by default"
_REGISTERED = "registered on a frozen layer, A and B train and the original never changes"


def _ranks(rng: np.random.Generator) -> Inputs:
    """Wrong and right ones in a drawn order: an error for whatever is asked is no answer."""
    return {"ranks": rng.permutation([0, -rng.integers(1, 5), 1, rng.integers(2, 6)]).tolist()}


def _kinds(rng: np.random.Generator) -> Inputs:
    """As `_ranks`, for what is wrapped."""
    return {"kinds": rng.permutation([*visible.NOT_LINEAR_KINDS, visible.LINEAR_KIND, visible.LINEAR_KIND]).tolist()}


_HIDDEN = [
    Check("2.1/shapes", visible.SHAPES, visible.probe_initial, visible.judge_shapes, draw_layer, 1),
    Check("2.1/A", "A starts random with mean zero", visible.probe_random, visible.judge_A, draw_layer, 1),
    Check("2.1/B", "B starts at zero", visible.probe_initial, visible.judge_B, draw_layer, 0.5),
    Check("2.1/scaling", visible.SCALING, visible.probe_scaling, visible.judge_scaling, draw_layer, 1),
    Check("2.1/rank", visible.BAD_RANK, visible.probe_bad_rank, visible.judge_bad_rank, _ranks, 0.5),
    Check("2.2/forward", visible.FORWARD, visible.probe_forward, either(visible.judge_forward), draw_layer, 1.5),
    Check(
        "2.2/leading", visible.LEADING, visible.probe_leading, either(visible.judge_leading), rank_one(draw_layer), 0.5
    ),
    Check(
        "2.2/gradients",
        _GRADIENTS,
        visible.probe_forward,
        either(visible.judge_gradients),
        visible.draw_with_gradients(draw_layer),
        0.5,
    ),
    Check("2.2/dropout", visible.DROPOUT, visible.probe_dropout, either(visible.judge_dropout), draw_dropout, 1),
    Check(
        "2.2/small",
        visible.SMALL,
        visible.probe_intermediates,
        either(visible.judge_intermediates),
        visible.draw_large,
        0.5,
    ),
    Check("2.3/kept", visible.WRAP, visible.probe_wrap, visible.judge_wrap, draw_wrapped, 1, CARRY),
    Check("2.3/frozen", visible.FROZEN, visible.probe_wrap, visible.judge_frozen, draw_wrapped, 1, CARRY),
    Check("2.3/update", visible.UPDATE, visible.probe_update, visible.judge_update, draw_wrapped, 0.5, CARRY),
    Check("2.3/type", visible.NOT_LINEAR, visible.probe_not_linear, visible.judge_not_linear, _kinds, 0.5, CARRY),
    Check("2.4/sum", visible.SUM, visible.probe_sum, either(visible.judge_sum), draw_sum(True), 1, CARRY),
    Check("2.4/no-bias", _NO_BIAS, visible.probe_sum, either(judge_sum_no_bias), draw_sum(False), 0.25, CARRY),
    Check(
        "2.4/fresh", visible.FRESH, visible.probe_fresh, either(visible.judge_fresh), draw_wrapped_dropout, 0.25, CARRY
    ),
    Check(
        "2.4/gradients",
        "A, B and x get gradients",
        visible.probe_sum,
        either(visible.judge_sum_gradients),
        visible.draw_with_gradients(draw_wrapped),
        0.5,
        CARRY,
    ),
    Check(
        "2.5/merge",
        visible.MERGE,
        visible.probe_merge,
        either(visible.judge_merged),
        steps("merge", dropout=0.2),
        1,
        CARRY,
    ),
    Check(
        "2.5/forward",
        visible.MERGED_FORWARD,
        visible.probe_merge,
        either(visible.judge_merged_forward),
        steps("merge"),
        0.75,
        CARRY,
    ),
    Check(
        "2.5/twice",
        visible.TWICE,
        visible.probe_twice,
        either(visible.judge_twice),
        steps("merge", "merge", "unmerge"),
        0.5,
        CARRY,
    ),
    Check(
        "2.5/unmerge",
        visible.UNMERGE,
        visible.probe_merge,
        either(visible.judge_unmerged),
        steps("merge", "unmerge"),
        0.75,
        CARRY,
    ),
    Check(
        "2.5/idle",
        _IDLE,
        visible.probe_merge,
        either(judge_idle),
        rank_one(steps("unmerge", "merge", "unmerge", "unmerge")),
        0.25,
        CARRY,
    ),
    Check(
        "2.5/continues",
        visible.CONTINUES,
        visible.probe_merge,
        either(visible.judge_continues),
        steps("train", "merge", "unmerge", "train", "merge"),
        0.75,
        CARRY,
    ),
    Check(
        "2.6/value",
        visible.PARAMETRIZED,
        visible.probe_parametrization,
        visible.judge_parametrized,
        draw_wrapped,
        1,
        CARRY,
    ),
    Check("2.6/start", visible.START, visible.probe_parametrization, visible.judge_start, draw_wrapped, 0.5, CARRY),
    Check("2.6/switch", visible.SWITCH, visible.probe_parametrization, visible.judge_switch, draw_wrapped, 0.5, CARRY),
    Check("2.6/defaults", _DEFAULTS, visible.probe_defaults, judge_defaults, draw_wrapped, 0.25, CARRY),
    Check("2.6/registered", _REGISTERED, visible.probe_registered, judge_registered, draw_wrapped, 0.75, CARRY),
    Check(
        "2.7/project_up",
        visible.PROJECT_UP,
        visible.probe_project_up,
        visible.judge_project_up,
        visible.draw_project_up,
        0.75,
    ),
    Check("2.7/fold_in", visible.FOLD_IN, visible.probe_fold_in, either(visible.judge_fold_in), draw_wrapped, 0.75),
    Check(
        "2.7/make_factors",
        visible.MAKE_FACTORS,
        visible.probe_make_factors,
        visible.judge_make_factors,
        draw_layer,
        0.5,
    ),
]
HIDDEN = [replace(check, seconds=visible.SECONDS) for check in _HIDDEN]
