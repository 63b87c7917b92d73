"""Exercise 5.4, compose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, attempt, raised
from lora_ref.checks.stage05.shared import (
    KINDS,
    TALL,
    WIDE,
    build,
    changed,
    delta_of,
    draw_update,
    error_on,
    scaling_of,
    state_of,
    touched_fault,
    value_of,
)
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, a, close
from lora_ref.rounding import number


def draw_composition(
    rng: np.random.Generator, kinds: tuple[str, ...] = ("LinearWithLoRA",), count: int = 3, merged: bool = False
) -> Inputs:
    """Sets of updates of one shape, of different ranks and scales, with weights of both signs that do not sum to 1."""
    sets = []
    for kind in kinds:
        shape = TALL if rng.random() < 0.5 else WIDE
        ranks = rng.choice([1, 2, 3, 4, 5], size=count, replace=False)
        weights = rng.permutation([rng.uniform(0.3, 0.9), rng.uniform(1.2, 2.0), -rng.uniform(0.4, 1.0)])[:count]
        sets.append(
            {
                "updates": [draw_update(rng, shape, int(r), kind, merged=merged) for r in ranks],
                "weights": [float(weight) for weight in weights],
            }
        )
    return {"sets": sets}


def draw_every_kind(rng: np.random.Generator) -> Inputs:
    """Bare layers, wrappers, both in one list, and weights that are whole numbers."""
    sets = draw_composition(rng, (*KINDS, "LinearWithLoRA", "LoRALayer"))["sets"]
    sets[2]["updates"][1]["kind"] = "LoRALayer"
    sets[3]["weights"] = [int(weight) for weight in rng.permutation([2, -3, 1])]
    one, other, _ = sets[0]["updates"]
    return {"sets": [*sets, {"updates": [one, other, one], "weights": sets[0]["weights"], "same": True}]}


def draw_looked_at_together(rng: np.random.Generator) -> Inputs:
    """As `draw_looked_at`: a set of merged layers, and one of each kind that is not."""
    return {"sets": [*draw_composition(rng, merged=True)["sets"], *draw_composition(rng, KINDS)["sets"]]}


def draw_same_ranks(rng: np.random.Generator, **options: Any) -> Inputs:
    """As `draw_composition`, but all ranks equal: here sums of A's and of B's have a product, and a wrong one."""
    inputs, rank = draw_composition(rng), int(rng.integers(2, 5))
    updates = [draw_update(rng, u["W"].shape, rank, **options) for u in inputs["sets"][0]["updates"]]
    return {"sets": [{**inputs["sets"][0], "updates": updates}, *draw_composition(rng)["sets"]]}


def probe_compose(names: Names, **inputs: Any) -> dict:
    """The composed update of each set, and which parts of its layers are other than before."""
    seen = []
    for case in inputs["sets"]:
        layers = [build(update) for update in case["updates"]]
        if case.get("same"):  # the last layer is the first one
            layers[-1] = layers[0]
        before = [state_of(layer) for layer in layers]
        result = attempt(lambda *given: value_of(names.compose(*given)), layers, list(case["weights"]))
        after = [state_of(layer) for layer in layers]
        touched = sorted({name for b, a in zip(before, after, strict=True) for name in changed(b, a)})
        seen.append({**result, "changed": touched})
    return {"sums": seen}


def judge_compose(inputs: Inputs, seen: Observation) -> Fault | None:
    for case, result in zip(inputs["sets"], seen["sums"], strict=True):
        weights, deltas = case["weights"], [delta_of(update) for update in case["updates"]]
        if "error" in result:
            return _compose_error(case, result["error"])
        if "kind" in result:
            likely = "sum() of no terms is the number 0" if result["kind"] == "int" else "a tensor is asked for"
            return Fault(f"compose returned {a(result['kind'])}", likely)
        wanted, total = sum(w * d for w, d in zip(weights, deltas, strict=True)), result["value"]
        if total.shape != wanted.shape:
            likely = "B A is (out, in), like the weight"
            if total.shape == wanted.shape[::-1]:
                likely = "transposed: B A has the weight's shape, (out, in)"
            elif total.ndim == 3:
                likely = "the updates are stacked, not summed: sum over the first axis"
            return Fault(f"shape {total.shape}, expected {wanted.shape}", likely)
        if not close(total, wanted, 1e-4):
            # the judge compares with what was drawn, so the cause is looked for in the same numbers
            off = np.abs(total - wanted).max() / np.abs(wanted).max()
            likely = _compose_cause(case, deltas, total)
            if case.get("same"):
                likely = "a layer that is in the list twice counts with both of its weights"
            return Fault(f"off by up to {number(off, 2)} times the largest entry", likely)
    return None


def _compose_error(case: Mapping[str, Any], error: Mapping[str, str]) -> Fault:
    kinds, text = {update["kind"] for update in case["updates"]}, str(error.get("text"))
    fault = error_on(error, kinds.pop() if len(kinds) == 1 else "list of both kinds")
    if kinds and "has no attribute" in text:  # one kind was taken out above, if it was the only one
        likely = "a list may hold both kinds: each layer is asked for itself, not the first for all"
        return Fault(fault.seen, likely)
    whole = all(isinstance(weight, int) for weight in case["weights"])
    if whole and ("dtype" in text or "scalar type" in text):
        likely = "whole numbers are weights too, and torch.tensor makes int64 of them: give it a dtype"
        return Fault(f"{fault.seen}; the weights are {case['weights']}", likely)
    return fault


def _compose_cause(case: Mapping[str, Any], deltas: list[np.ndarray], found: np.ndarray) -> str:
    updates, w = case["updates"], np.array(case["weights"])
    scales = np.array([scaling_of(u) for u in updates])
    products = [u["B"] @ u["A"] for u in updates]

    def total(weights: Any, terms: list[np.ndarray]) -> np.ndarray:
        return np.sum([float(weight) * term for weight, term in zip(weights, terms, strict=True)], axis=0)

    tried = [
        (total(w, products), "the scale is missing: each update is scaling * B A"),
        (total(w * scales, deltas), "the scale is applied twice"),
        (
            total(w * [u["rank"] for u in updates], deltas),
            "multiplied by alpha: the division by rank is missing; .scaling has it",
        ),
        (0 * deltas[0], "every update is zero: take A and B as they are now, and B is not zero in a trained layer"),
        (total(w * scales[0], products), "every update has its own scaling: it is not the first layer's"),
        (total(w * scales[-1], products), "every update has its own scaling: it is not the last layer's"),
        (total(w / w.sum(), deltas), "the weights are divided by their sum: they count as they are given"),
        (total(w / np.abs(w).sum(), deltas), "the weights are divided by their sum: they count as they are given"),
        (total(np.exp(w) / np.exp(w).sum(), deltas), "a softmax of the weights: they count as they are given"),
        (total(w / len(w), deltas), "a mean in place of a sum: divided by the number of layers"),
        (total(np.ones_like(w), deltas), "the weights are not used"),
        (total(np.abs(w), deltas), "a weight may be negative: that takes an update away"),
        (total(np.maximum(w, 0), deltas), "a weight may be negative: that takes an update away"),
        (total(w**2, deltas), "each weight counts twice (squared): it belongs to B A, once, not to both B and A"),
        (total(w[::-1], deltas), "the weights are in the wrong order: the first belongs to the first layer"),
        (w[0] * deltas[0], "only the first update is there"),
        (w[-1] * deltas[-1], "only the last update is there: add to the sum, do not replace it"),
    ]
    if len({u["rank"] for u in updates}) == 1:
        A, B = (sum(u[name] for u in updates) for name in "AB")
        wA, wB = (sum(x * u[name] for x, u in zip(w, updates, strict=True)) for name in "AB")
        sB = sum(x * s * u["B"] for x, s, u in zip(w, scales, updates, strict=True))
        mixed = "the A's and the B's are summed apart: a product of sums has terms B_1 A_2 that belong to nobody"
        tried += [
            (factor * left @ right, mixed)
            for left, right in ((wB, wA), (wB, A), (B, wA), (sB, A), (sB, wA))
            for factor in (1.0, scales[0], scales[-1])
        ]
    W = [u["W"] for u in updates]
    tried += [
        (total(w, [a + b for a, b in zip(W, deltas, strict=True)]), "the frozen weights are summed too"),
        (total(w, W), "the frozen weights are summed: the updates are asked for"),
        (W[0] + total(w, deltas), "the frozen weight is in the sum: the updates alone are asked for"),
    ]
    return next((likely for value, likely in tried if close(found, value, 1e-4)), "sum_i w_i * scaling_i * B_i A_i")


def judge_compose_untouched(inputs: Inputs, seen: Observation) -> Fault | None:
    """Layers of every kind as they were; the sum is judged of the merged ones, the others' are other checks'."""
    looked_at = list(zip(inputs["sets"], seen["sums"], strict=True))
    for case, result in looked_at:
        if result["changed"] and "error" not in result:
            likely = "the sum is a new tensor: nothing of the layers is merged or added to in place"
            which = f"the {case['updates'][0]['kind']}s have"
            return touched_fault(result["changed"], which, likely)
    merged = [pair for pair in looked_at if pair[0]["updates"][0]["merged"]]
    return judge_compose({"sets": [case for case, _ in merged]}, {"sums": [result for _, result in merged]})


def draw_lengths(rng: np.random.Generator) -> Inputs:
    case = draw_same_ranks(rng)["sets"][0]
    return {"updates": case["updates"], "weights": case["weights"]}


def probe_lengths(names: Names, **inputs: Any) -> dict:
    """What too few and too many weights raise, and that equal lengths raise nothing."""
    layers, weights = [build(update) for update in inputs["updates"]], inputs["weights"]
    cases = {"equal": (layers, weights), "too few": (layers, weights[:-1]), "too many": (layers[:-1], weights)}
    cases |= {"none": (layers, []), "one": (layers[:1], weights)}
    return {
        name: {"layers": len(some), "weights": len(w), "raised": raised(names.compose, some, w)}
        for name, (some, w) in cases.items()
    }


def judge_lengths(inputs: Inputs, seen: Observation) -> Fault | None:
    equal = seen["equal"]["raised"]
    if equal:
        fault = error_on({**equal, "line": ""}, inputs["updates"][0]["kind"])
        return Fault(f"with as many weights as layers, {fault.seen}", fault.likely)
    for name in ("too few", "too many", "none", "one"):
        case = seen[name]
        shown = f"{case['layers']} layers, {case['weights']} weights"
        if case["raised"] is None:
            return Fault(
                f"{shown}: no error",
                "zip ends with the shorter of the two in silence: compare the lengths, or zip(..., strict=True)",
            )
        if "ValueError" not in case["raised"]["bases"]:
            return Fault(f"{shown}: {case['raised']['type']}", "unequal lengths are a ValueError")
    return None


EXERCISE = Exercise(
    "5.4",
    "compose",
    names=("compose",),
    pure=("compose",),
    checks=[
        Check("5.4/sum", "the weighted sum of scaling * B A", probe_compose, judge_compose, draw_same_ranks, seed=1),
        Check(
            "5.4/kinds",
            "LoRALayers, LinearWithLoRAs and both in one list compose, and whole numbers are weights too",
            probe_compose,
            judge_compose,
            draw_every_kind,
            seed=2,
        ),
        Check(
            "5.4/merged",
            "merged layers have the same updates, and all layers stay as they were",
            probe_compose,
            judge_compose_untouched,
            draw_looked_at_together,
            seed=3,
        ),
        Check("5.4/lengths", "unequal lengths are a ValueError", probe_lengths, judge_lengths, draw_lengths, seed=1),
    ],
)
