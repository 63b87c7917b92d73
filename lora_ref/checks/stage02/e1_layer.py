"""Exercise 2.1, LoRALayer: two matrices and a scale."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt, raised
from lora_ref.checks.stage02.shared import (
    TINY,
    draw_layer,
    factor,
    judge_shapes,
    scaling_fault,
    set_factors,
    tensor,
    uninitialised_is_nan,
    unnamed,
)
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation
from lora_ref.rounding import number


def draw_sizes(rng: np.random.Generator) -> Inputs:
    """A layer, and the sizes and rank of another whose rank is above its smaller side."""
    small, large = int(rng.integers(3, 5)), int(rng.integers(9, 12))
    sizes = [int(n) for n in rng.permutation([small, large])]
    return {**draw_layer(rng), "wide": [*sizes, small + 2]}


def probe_initial(names: Names, **inputs: Any) -> dict:
    """Names, shapes and values of several fresh layers, and of one whose rank is above its smaller side."""
    sizes = inputs["in_features"], inputs["out_features"], inputs["rank"], inputs["alpha"]
    with uninitialised_is_nan():
        layers = [names.LoRALayer(*sizes) for _ in range(20)]
        wide = names.LoRALayer(*inputs["wide"], inputs["alpha"])
        kinds = {kind: names.LoRALayer(*sizes, inputs["alpha"]) for kind, sizes in kinds_of(inputs).items()}
    return {
        **parts(layers[0]),
        "wide": parts(wide),
        "kinds": {kind: starts(layer, kinds_of(inputs)[kind]) for kind, layer in kinds.items()},
        "A": values_of(layers, "lora_A", (inputs["rank"], inputs["in_features"])),
        "B": values_of(layers, "lora_B", (inputs["out_features"], inputs["rank"])),
    }


def kinds_of(inputs: Inputs) -> dict[str, tuple[int, int, int]]:
    """Sizes and rank of layers that a formula may take for another case than the rest."""
    small, rank = min(inputs["wide"][:2]), inputs["rank"]
    return {
        "a square layer": (inputs["in_features"],) * 2 + (rank,),
        "a layer of rank 1": (inputs["in_features"], inputs["out_features"], 1),
        "a layer with a rank above its smaller side": tuple(inputs["wide"]),
        "a layer with a rank above 8": (20 + small, 30, 16),
    }


def starts(layer: Any, sizes: tuple[int, int, int]) -> dict:
    """How many rows of a fresh A are zero, and how many values of a fresh B are not."""
    in_features, out_features, rank = sizes
    A = values_of([layer], "lora_A", (rank, in_features))
    B = values_of([layer], "lora_B", (out_features, rank))
    return {
        "A": 0 if A is None or A[0].ndim != 2 else int((~A[0].any(axis=1)).sum()),
        "B": 0 if B is None else int(np.count_nonzero(B)),
    }


def parts(layer: Any) -> dict:
    """What the layer has as its two matrices, and what else of it trains."""
    parameters, named = list(layer.parameters()), {name: getattr(layer, name, None) for name in ("lora_A", "lora_B")}
    factors = {name: factor(layer, name) for name in named}
    others = [(n, p) for n, p in layer.named_parameters() if not any(p is q for q in factors.values())]
    return {
        "shapes": {name: list(p.shape) if isinstance(p, torch.Tensor) else None for name, p in factors.items()},
        "modules": {name: type(value).__name__ if value is not factors[name] else "" for name, value in named.items()},
        "registered": {name: any(p is q for q in parameters) for name, p in factors.items()},
        "trainable": {name: bool(getattr(p, "requires_grad", False)) for name, p in factors.items()},
        "others": [name for name, p in others if p.requires_grad],
        "repeated": [name for name, p in factors.items() if isinstance(p, torch.Tensor) and 0 in p.stride()],
        "dtypes": {name: str(getattr(p, "dtype", None)) for name, p in factors.items()},
    }


def values_of(layers: list[Any], name: str, shape: tuple[int, ...]) -> Any:
    """A matrix's values in each of the layers, whatever it is called there; None if it is not found."""
    found = [
        layer_values if (layer_values := factor(layer, name)) is not None else unnamed(layer, shape) for layer in layers
    ]
    return None if any(one is None for one in found) else np.stack([array(one) for one in found])


def probe_random(names: Names, **inputs: Any) -> dict:
    """`probe_initial`, and a layer with enough values in A to see a mean that is nearly zero."""
    seen = probe_initial(names, **inputs)
    if seen["A"] is not None:
        values = values_of([names.LoRALayer(4096, 8, 64, 16)], "lora_A", (64, 4096))[0]
        seen["large"] = {"mean": float(values.mean()), "std": float(values.std()), "size": values.size}
        alike = [np.array_equal(values.take(0, axis), values.take(1, axis)) for axis in (0, 1)]
        seen["large"]["alike"] = [name for name, same in zip(("rows", "columns"), alike, strict=True) if same]
    return seen


def probe_no_dropout(names: Names, **inputs: Any) -> dict:
    """Whether a layer's two modes differ: built without a word of dropout, and with dropout=0.0."""
    arguments = inputs["in_features"], inputs["out_features"], inputs["rank"], inputs["alpha"]
    with uninitialised_is_nan():
        alone = names.LoRALayer(*arguments)
    x = tensor(np.ones((200, inputs["in_features"])))

    def differ(layer: Any) -> dict:
        set_factors(layer, inputs)
        return {"differ": not torch.equal(layer.train()(x), layer.eval()(x))}

    matrices = [values_of([alone], name, inputs[key].shape) for name, key in (("lora_A", "A"), ("lora_B", "B"))]
    said = attempt(lambda: differ(names.LoRALayer(*arguments, 0.0)), gaps=True)
    seen = {"alone": attempt(lambda: differ(alone), gaps=True), "said": said}
    real = [one is not None and bool(np.isfinite(one).all()) for one in matrices]
    return {**seen, "matrices": sum(real) if real[0] and matrices[0].any() else 0}


def probe_scaling(names: Names, **inputs: Any) -> dict:
    """The scale at several ranks, asked when all the layers are there."""
    layers = [names.LoRALayer(*one) for one in scaled(inputs)]
    return {"scaling": [float(layer.scaling) for layer in layers]}


def scaled(inputs: Inputs) -> list[tuple]:
    """Arguments of the layers whose scale is asked for."""
    sizes, alpha = (inputs["in_features"], inputs["out_features"]), inputs["alpha"]
    ranks = (inputs["rank"], inputs["rank"] + 3)
    return [*((*sizes, rank, alpha) for rank in ranks), (*inputs["wide"], 1), (96, 80, 64, 16), (96, 80, 64, 1)]


def probe_bad_rank(names: Names, **inputs: Any) -> dict:
    """What ranks below 1 raise, and whether a right one builds."""
    names.LoRALayer(6, 5, 2, 8)
    return {str(rank): raised(names.LoRALayer, 6, 5, rank, 8) for rank in inputs["ranks"]}


def judge_both_shapes(inputs: Inputs, seen: Observation) -> Fault | None:
    """The matrices' shapes, at a rank above the smaller side too: nothing forbids it."""
    fault = judge_shapes(inputs, seen)
    if fault:
        return fault
    if seen["repeated"]:
        likely = (
            "expand() shows one number many times, and no optimiser can change them: make them, as torch.zeros does"
        )
        return Fault(f"all entries of {seen['repeated'][0]} lie at the same place in memory", likely)
    wide = dict(zip(("in_features", "out_features", "rank"), inputs["wide"], strict=True))
    fault = judge_shapes(wide, seen["wide"])
    return fault and replace(fault, likely="a rank above the smaller side is allowed: it is taken as it is given")


def judge_no_dropout(inputs: Inputs, seen: Observation) -> Fault | None:
    """Without an argument for it, nothing is dropped. A forward that is open or wrong is exercise 2.2's."""
    if seen["alone"].get("differ") and seen["said"].get("differ") is False:
        return Fault("built without dropout, training mode drops some of x", "the default of dropout is 0.0")
    if seen["matrices"] != 2:
        return Fault("without two matrices, and an A that is not zero, no dropout would show", ELSEWHERE, "")
    return None if "error" in seen["alone"] or isinstance(seen["alone"]["differ"], bool) else Fault("no answer", "")


def judge_A(inputs: Inputs, seen: Observation) -> Fault | None:
    A = seen["A"]
    if A is None:
        return Fault("there is no lora_A")
    if not np.isfinite(A).all() or not np.abs(A).max() <= 1e4:
        return Fault("lora_A is never given values", "torch.empty is uninitialised memory")
    if not np.any(A != 0):
        return Fault("lora_A starts at zero", "with A and B both zero, both gradients are zero and nothing ever learns")
    if np.abs(A).max() < TINY:
        shown = f"the largest value that lora_A starts with is {number(np.abs(A).max(), 1, tolerance=0)}"
        return Fault(shown, "B's gradient is a multiple of A: from one that is all but zero nothing is learned")
    if any((one == other).all() for one, other in itertools.pairwise(A)) or np.ptp(A[0]) == 0:
        return Fault("lora_A is the same in each new layer", "A must be random, and unseeded")
    if seen["large"]["alike"]:
        which = seen["large"]["alike"][0]
        return Fault(f"all {which} of lora_A are the same", "each of its values is drawn on its own")
    # the mean of n values with standard deviation s lies within 6 s / sqrt(n) of zero but for one case in 10^8
    for one in ({"mean": A.mean(), "std": A.std(), "size": A.size}, seen["large"]):
        if not abs(one["mean"]) <= 6 * one["std"] / np.sqrt(one["size"]) < np.inf:
            mean, deviation = number(one["mean"], 2), number(one["std"], 2)
            return Fault(
                f"lora_A has mean {mean}, standard deviation {deviation} over {one['size']:,} values",
                "the distribution is not centred at zero (torch.rand draws from 0 to 1; normal_ takes the mean first)",
            )
    for kind, start in seen["kinds"].items():
        if start["A"]:
            return Fault(f"of {kind}, {start['A']} rows of lora_A are zero", "each of its values is drawn on its own")
    return None


def judge_B(inputs: Inputs, seen: Observation) -> Fault | None:
    B = seen["B"]
    if B is None:
        return Fault("there is no lora_B")
    if not np.isfinite(B).all():
        return Fault("lora_B is never given values", "torch.empty is uninitialised memory")
    if np.any(B != 0):
        return Fault(
            f"lora_B starts with values up to {number(np.abs(B).max(), tolerance=0)}",
            "B must start at zero, or the update changes the pretrained model before the first step",
        )
    for kind, start in seen["kinds"].items():
        if start["B"]:
            return Fault(f"of {kind}, lora_B does not start at zero", "B starts at zero whatever the sizes")
    return None


def judge_initial(inputs: Inputs, seen: Observation) -> Fault | None:
    return judge_A(inputs, seen) or judge_B(inputs, seen)


def judge_scaling(inputs: Inputs, seen: Observation) -> Fault | None:
    asked = zip(scaled(inputs), seen["scaling"], strict=True)
    faults = (scaling_fault(alpha, rank, scaling) for (*_, rank, alpha), scaling in asked)
    return next(filter(None, faults), None)


def judge_bad_rank(inputs: Inputs, seen: Observation) -> Fault | None:
    for rank in inputs["ranks"]:
        outcome = seen[str(rank)]
        if rank >= 1:
            if outcome is not None:
                return Fault(f"rank {rank} raised {outcome['type']}", "the check for rank < 1 refuses too much")
        elif outcome is None:
            return Fault(f"rank {rank} raised nothing", "the check for rank < 1 is missing", "the docstring")
        elif "ValueError" not in outcome["bases"]:
            return Fault(
                f"rank {rank} raised {outcome['type']}",
                "the check for rank < 1 is missing or comes too late; the contract asks for a ValueError",
                "the docstring",
            )
    return None


_RANKS = {"ranks": [0, 1]}


EXERCISE = Exercise(
    "2.1",
    "LoRALayer: two matrices and a scale",
    names=("LoRALayer",),
    checks=[
        Check(
            "2.1/shapes",
            "lora_A is a parameter of shape (rank, in_features), lora_B one of shape (out_features, rank)",
            probe_initial,
            judge_both_shapes,
            draw_sizes,
            seed=1,
        ),
        Check(
            "2.1/initial", "A starts random with mean zero, B at zero", probe_random, judge_initial, draw_sizes, seed=1
        ),
        Check("2.1/scaling", "scaling is alpha / rank", probe_scaling, judge_scaling, draw_sizes, seed=2),
        Check("2.1/rank", "a rank below 1 is a ValueError", probe_bad_rank, judge_bad_rank, lambda rng: _RANKS),
        Check(
            "2.1/no-dropout",
            "nothing is dropped unless it is asked for",
            probe_no_dropout,
            judge_no_dropout,
            draw_layer,
        ),
    ],
)
