"""Stage 02, a LoRA layer: hidden checks.

The probes are the visible checks', with drawn inputs; the judges here see what visible checks leave out: other shapes
of x, gradients, where dropout acts, what is built on the way, and long sequences of merging and training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lora_ref.checks import stage02 as visible
from lora_ref.checks.stage02 import CARRY, draw_dropout, draw_layer, draw_wrapped, either, steps
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close, error_fault

# --- 2.2 ------------------------------------------------------------------------------------------------------------


def judge_leading(inputs: Inputs, seen: Observation) -> Fault | None:
    """x of one to four dimensions; a wrong scale is another check's."""
    for x in visible.leading(inputs["x"]):
        one, expected = seen[str(x.ndim)], visible.forward_expected(inputs, x)
        shown = f"x of shape {x.shape}"
        if "error" in one:
            fault = error_fault(one["error"])
            return fault if "not done yet" in fault.seen else Fault(f"{shown}: {fault.seen}", _LEADING, "section 2.2")
        if one["y"].shape != expected.shape:
            return Fault(f"{shown} gives {one['y'].shape}, expected {expected.shape}", _LEADING, "section 2.2")
        if visible.factor_of(one["y"], expected) is None:
            return Fault(f"{shown}: the output is no multiple of (x A^T) B^T", "the axes are mixed up", "section 2.2")
    return None


_LEADING = "the code counts on a certain number of dimensions; x @ A.T works on the last one, whatever comes before"


def draw_with_gradients(draw: Callable[[np.random.Generator], Inputs]) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {**draw(rng), "gradients": True}


def update_gradients(inputs: Inputs) -> dict[str, np.ndarray]:
    """Gradients of the sum of the update with respect to A, B and x."""
    A, B, scaling = inputs["A"], inputs["B"], inputs["alpha"] / inputs["rank"]
    x = inputs["x"].reshape(-1, A.shape[1])
    ones = np.ones((len(x), len(B)))
    return {
        "grad_A": scaling * (ones @ B).T @ x,
        "grad_B": scaling * ones.T @ (x @ A.T),
        "grad_x": (scaling * ones @ B @ A).reshape(inputs["x"].shape),
    }


def judge_gradients(inputs: Inputs, seen: Observation) -> Fault | None:
    """A, B and x get the gradients of the formula; a common factor is the scale's."""
    expected = update_gradients(inputs)
    factors = {name: visible.factor_of(seen[name], value) for name, value in expected.items()}
    return gradients_fault(factors, seen, "section 2.2")


def gradients_fault(factors: dict[str, float | None], seen: Observation, read: str) -> Fault | None:
    names = {"grad_A": "lora_A", "grad_B": "lora_B", "grad_x": "x"}
    lost = [names[key] for key in factors if not np.any(seen[key])]
    if lost:
        return Fault(
            f"no gradient reaches {' and '.join(lost)}",
            "the graph is cut: .data, .detach(), torch.no_grad() or .item() in the forward pass",
            read,
        )
    wrong = [names[key] for key, factor in factors.items() if factor is None]
    if wrong:
        return Fault(f"the gradient of {' and '.join(wrong)} is not the formula's", "", read)
    return None


def judge_dropout(inputs: Inputs, seen: Observation) -> Fault | None:
    """Entries of x are dropped, each on its own, with the given probability; kept ones are divided by 1 - p."""
    fault = visible.judge_dropout_off(inputs, seen)
    if fault:
        return fault
    p, x = inputs["dropout"], inputs["x"]
    scale = visible.factor_of(seen["eval"], visible.forward_expected(inputs))  # a wrong scale is another check's
    y = seen["train"] / (scale * inputs["alpha"] / inputs["rank"])
    kept = y @ inputs["B"] @ inputs["A"] / x  # the columns of A and B are orthonormal
    dropped = np.abs(kept) < 1e-3
    even = np.abs(kept[~dropped] - np.median(kept[~dropped])).max(initial=0.0) < 1e-2
    if not even or not dropped.any() or dropped.all():
        hidden = seen["train"] @ inputs["B"]
        where = "somewhere else than on x"
        if np.isclose(seen["train"], 0, atol=1e-6).mean() > p / 3:
            where = "on the output"
        elif np.isclose(hidden, 0, atol=1e-5 * np.abs(hidden).max()).mean() > p / 3:
            where = "between A and B"
        return Fault("what is dropped are no entries of x", f"dropout acts {where}", "section 2.2")
    expected, factor = 1 / (1 - p), float(np.median(kept[~dropped]))
    if abs(factor - expected) > 1e-2:
        likely = "what is kept must be divided by 1 - p, or training and evaluation differ in size"
        if abs(factor - 1 / p) < 1e-2:
            likely = "p is the probability to drop, not to keep"
        return Fault(f"what is kept is multiplied by {factor:.3g}, expected {expected:.3g}", likely, "section 2.2")
    share = dropped.mean()
    # six standard deviations of the share of n coin flips; fails by chance once in 10^8
    if abs(share - p) > 6 * (p * (1 - p) / dropped.size) ** 0.5:
        likely = "p is the probability to drop, not to keep" if abs(share - 1 + p) < 0.1 else ""
        return Fault(f"{share:.0%} of the entries are dropped, expected {p:.0%}", likely, "section 2.2")
    dropped = dropped.reshape(-1, x.shape[-1])
    if (dropped == dropped[0]).all() or (dropped == dropped[:, :1]).all():
        return Fault(
            "whole rows or columns of x are dropped together", "each entry is dropped on its own", "section 2.2"
        )
    return None


def draw_large(rng: np.random.Generator) -> Inputs:
    """A layer on which B A is by far the largest tensor: few tokens, small rank."""
    in_features, out_features = (int(n) for n in rng.choice(np.arange(300, 400), size=2, replace=False))
    rank = 2
    return {
        "in_features": in_features,
        "out_features": out_features,
        "rank": rank,
        "alpha": 7.0,
        "A": rng.normal(size=(rank, in_features)),
        "B": rng.normal(size=(out_features, rank)),
        "x": rng.normal(size=(1, 3, in_features)),
    }


def judge_intermediates(inputs: Inputs, seen: Observation) -> Fault | None:
    """No tensor as large as B A is made. Even products written with broadcasting stay below a hundredth of it."""
    full = inputs["out_features"] * inputs["in_features"]
    if visible.factor_of(seen["y"], visible.forward_expected(inputs)) is None:
        return Fault("the output is no multiple of (x A^T) B^T", "", "section 2.2")
    if seen["elements"] < full // 2:
        return None
    size = f"{inputs['out_features']} x {inputs['in_features']}"
    return Fault(
        f"on a layer of {size} the forward makes a tensor of {seen['elements']:,} elements ({seen['operation']})",
        "the matrix B A is built; apply A to x first, then B: (x A^T) B^T",
        "section 2.2",
    )


# --- 2.4 ------------------------------------------------------------------------------------------------------------


def draw_sum(bias: bool) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {**draw_wrapped(rng), "bias": bias}


def judge_sum_no_bias(inputs: Inputs, seen: Observation) -> Fault | None:
    return visible.judge_sum({**inputs, "b": np.zeros_like(inputs["b"])}, seen)


def judge_fresh(inputs: Inputs, seen: Observation) -> Fault | None:
    for dimensions in ("1", "3"):
        one = seen[dimensions]
        if not close(one["y"], one["base"], 1e-6):
            return Fault(
                "a wrapper whose B is zero does not give the frozen layer's output",
                "something besides linear(x) + lora(x) is computed, or dropout reaches the frozen layer's input",
                "section 2.4",
            )
    return None


def judge_sum_gradients(inputs: Inputs, seen: Observation) -> Fault | None:
    expected = update_gradients(inputs)
    expected["grad_x"] = expected["grad_x"] + np.ones_like(seen["y"]) @ inputs["W"]
    factors = {name: visible.factor_of(seen[name], expected[name]) for name in ("grad_A", "grad_B")}
    factors["grad_x"] = 1.0 if close(seen["grad_x"], expected["grad_x"], 1e-4) else None
    fault = gradients_fault(factors, seen, "section 2.4")
    if fault and "of x " in fault.seen:
        return Fault(
            fault.seen,
            "the layers below need the frozen layer's gradient too: no torch.no_grad() around it",
            fault.read,
        )
    return fault


# --- 2.5 ------------------------------------------------------------------------------------------------------------


def judge_continues(inputs: Inputs, seen: Observation) -> Fault | None:
    """Steps: train, merge, unmerge, train, merge."""
    before, trained, _, unmerged, again, remerged = seen["states"]
    for name in "AB":
        if not close(unmerged[name], trained[name], 1e-6):
            likely = visible.lost_factors(unmerged) or "merging must leave A and B as they are"
            return Fault(f"lora_{name} is changed by merge() and unmerge()", likely, "section 2.5")
        trains = not np.array_equal(trained[name], before[name])  # if not, forward is at fault: exercise 2.4's
        if trains and close(again[name], unmerged[name], 1e-9):
            return Fault(
                f"a training step after unmerge() leaves lora_{name} unchanged",
                "it gets no gradient any more",
                "section 2.5",
            )
    if before["frozen"] and not unmerged["frozen"]:
        return Fault(
            "after merge() and unmerge() linear.weight can train",
            "a new nn.Parameter is trainable unless it is told requires_grad=False",
            "section 2.5",
        )
    update = inputs["alpha"] / inputs["rank"] * again["B"] @ again["A"]
    if not close(remerged["W"], inputs["W"] + update, 1e-4):
        return Fault(
            "merged again after training, the weight is not W + scaling * B A",
            "the update of the first merge is used again, or was never taken away",
            "section 2.5",
        )
    return None


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


def judge_start(inputs: Inputs, seen: Observation) -> Fault | None:
    """A fresh parametrization changes nothing and can learn."""
    fault = visible.factors_fault(inputs, seen)
    if fault:
        return fault
    for key in ("start", "start_gradients"):
        if "error" in seen[key]:
            return visible.explained(seen[key]["error"])
    if not close(seen["start"]["W"], inputs["W"], 1e-6):
        return Fault(
            "a fresh parametrization changes the weight",
            "B must start at zero (torch.empty is uninitialised memory)",
            "section 2.6",
        )
    if not 0 < seen["start_gradients"]["largest"] < np.inf:
        return Fault("all gradients are zero at the start", "A and B are both zero: nothing ever learns", "section 2.6")
    return None


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

_LEADING_X = "x may have any number of leading dimensions"
_GRADIENTS = "A, B and x get the formula's gradients"
_DROPOUT = "dropout acts on x, in training mode alone, and scales what it keeps"
_SMALL = "the forward never builds B A"
_NO_BIAS = "a layer without bias works as well"
_FRESH = "while B is zero the output is the frozen layer's"
_CONTINUES = "after unmerge() training goes on, and a new merge() takes the new update"
_IDLE = "unmerge() without a merge changes nothing"
_START = "a fresh parametrization changes nothing and can learn"
_DEFAULTS = "rank and alpha are 1 by default"
_REGISTERED = "registered on a frozen layer, A and B train and the original never changes"


def _ranks(rng: np.random.Generator) -> Inputs:
    return {"ranks": [0, -int(rng.integers(1, 5))]}


_HIDDEN = [
    Check("2.1/shapes", visible.SHAPES, visible.probe_initial, visible.judge_shapes, draw_layer, 1),
    Check("2.1/A", "A starts random with mean zero", visible.probe_initial, visible.judge_A, draw_layer, 1),
    Check("2.1/B", "B starts at zero", visible.probe_initial, visible.judge_B, draw_layer, 0.5),
    Check("2.1/scaling", visible.SCALING, visible.probe_scaling, visible.judge_scaling, draw_layer, 1),
    Check("2.1/rank", visible.BAD_RANK, visible.probe_bad_rank, visible.judge_bad_rank, _ranks, 0.5),
    Check("2.2/forward", visible.FORWARD, visible.probe_forward, either(visible.judge_forward), draw_layer, 1.5),
    Check("2.2/leading", _LEADING_X, visible.probe_leading, either(judge_leading), draw_layer, 0.5),
    Check(
        "2.2/gradients",
        _GRADIENTS,
        visible.probe_forward,
        either(judge_gradients),
        draw_with_gradients(draw_layer),
        0.5,
    ),
    Check("2.2/dropout", _DROPOUT, visible.probe_dropout, either(judge_dropout), draw_dropout, 1),
    Check("2.2/small", _SMALL, visible.probe_intermediates, either(judge_intermediates), draw_large, 0.5),
    Check("2.3/kept", visible.WRAP, visible.probe_wrap, visible.judge_wrap, draw_wrapped, 1, CARRY),
    Check("2.3/frozen", visible.FROZEN, visible.probe_wrap, visible.judge_frozen, draw_wrapped, 1, CARRY),
    Check("2.3/update", visible.UPDATE, visible.probe_update, visible.judge_update, draw_wrapped, 0.5, CARRY),
    Check("2.3/type", visible.NOT_LINEAR, visible.probe_not_linear, visible.judge_not_linear, points=0.5, carry=CARRY),
    Check("2.4/sum", visible.SUM, visible.probe_sum, either(visible.judge_sum), draw_sum(True), 1, CARRY),
    Check("2.4/no-bias", _NO_BIAS, visible.probe_sum, either(judge_sum_no_bias), draw_sum(False), 0.25, CARRY),
    Check("2.4/fresh", _FRESH, visible.probe_fresh, either(judge_fresh), draw_wrapped, 0.25, CARRY),
    Check(
        "2.4/gradients",
        "A, B and x get gradients",
        visible.probe_sum,
        either(judge_sum_gradients),
        draw_with_gradients(draw_wrapped),
        0.5,
        CARRY,
    ),
    Check("2.5/merge", visible.MERGE, visible.probe_merge, either(visible.judge_merged), steps("merge"), 1, CARRY),
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
        visible.probe_merge,
        either(visible.judge_twice),
        steps("merge", "merge"),
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
        steps("unmerge", "merge", "unmerge", "unmerge"),
        0.25,
        CARRY,
    ),
    Check(
        "2.5/continues",
        _CONTINUES,
        visible.probe_merge,
        either(judge_continues),
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
    Check("2.6/start", _START, visible.probe_parametrization, judge_start, draw_wrapped, 0.5, CARRY),
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
    Check("2.7/fold_in", visible.FOLD_IN, visible.probe_fold_in, visible.judge_fold_in, draw_wrapped, 0.75),
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
