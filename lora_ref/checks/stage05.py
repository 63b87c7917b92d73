"""Stage 05, what a trained update looks like: probes and visible checks.

Layers are the package's own, with drawn A, B and frozen weight: non-square, of several ranks and scales, B never zero.
Every expected value is float64 NumPy's. A judge that finds a wrong number tries the mistakes that are likely and names
the one that gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lora_ref.checks.probing import Names, NotDefined, array, describe_error, raised
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close, error_fault
from lora_ref.layers import LinearWithLoRA, LoRALayer
from lora_ref.rounding import number, pair, row

TITLES = {
    "5.1": "rank_sweep: a table of trainings",
    "5.2": "delta_spectrum",
    "5.3": "subspace_similarity",
    "5.4": "compose",
    "5.5": "four questions, your figures",
}

COLUMNS = ("rank", "trainable", "accuracy", "seconds")

#: How closely singular values, beside the largest, and similarities are compared: a root of an eigenvalue (of
#: B^T B A A^T, say) keeps half of float32's digits.
SAME = 2e-3

#: The two kinds of layers that the contracts name.
KINDS = ("LoRALayer", "LinearWithLoRA")


def fixed(seed: int, draw: Callable[..., Inputs], **choices: Any) -> Callable[[np.random.Generator], Inputs]:
    """The same inputs every time, as visible checks have them."""
    return lambda rng: draw(np.random.default_rng(seed), **choices)


# --- 5.1 rank_sweep -------------------------------------------------------------------------------------------------


def out_of_order(rng: np.random.Generator, values: Sequence[float]) -> list[float]:
    """A permutation that neither rises nor falls throughout: a table sorted by it must show."""
    while True:
        permuted = rng.permutation(values).tolist()
        if permuted not in (sorted(permuted), sorted(permuted)[::-1]):
            return permuted


def draw_sweep(rng: np.random.Generator, extra: bool = True) -> Inputs:
    """Ranks in no order, and results in which neither accuracy nor time follows the order of the ranks.

    They have so many decimals that rounding shows in each.
    """
    ranks = out_of_order(rng, rng.permutation([1, 2, 3, 4, 6, 8, 16, 32, 64])[:5])
    accuracies, times = ((np.linspace(*ends, 5).round(3) + 0.000345678).round(9) for ends in ((0.55, 0.9), (3.5, 60)))
    slope, head = int(rng.integers(1_000, 50_000)), int(rng.integers(100, 200_000))
    results = []
    for rank, accuracy, seconds in zip(ranks, out_of_order(rng, accuracies), out_of_order(rng, times), strict=True):
        result = {"accuracy": accuracy, "seconds": seconds, "trainable": slope * rank + head}
        if extra:
            result |= {"loss": float(rng.uniform(0.2, 0.7)), "seed": 3, "method": "lora"}
        results.append(result)
    return {"ranks": ranks, "results": results}


def probe_sweep(names: Names, **inputs: Any) -> dict:
    """The table's columns and cells, and the ranks that run was called with."""
    import pandas as pd

    by_rank, calls = dict(zip(inputs["ranks"], inputs["results"], strict=True)), []

    def run(rank: int) -> dict[str, Any]:
        calls.append(int(rank))
        return dict(by_rank[int(rank)])

    frame = names.rank_sweep(run, list(inputs["ranks"]))
    if not isinstance(frame, pd.DataFrame):
        return {"kind": type(frame).__name__, "calls": calls}
    columns = [str(column) for column in frame.columns]
    cells = {column: [_cell(value) for value in frame.iloc[:, i]] for i, column in enumerate(columns)}
    return {"columns": columns, "index": str(frame.index.name), "rows": len(frame), "cells": cells, "calls": calls}


def _cell(value: Any) -> float | str:
    try:
        return float(value) if not isinstance(value, str) else value[:40]
    except (TypeError, ValueError):
        return type(value).__name__


def _no_frame(seen: Observation) -> Fault | None:
    if "kind" in seen:
        return Fault(
            f"rank_sweep returned a {seen['kind']}",
            "a pandas DataFrame is asked for: pd.DataFrame(list of dicts, one a row)",
            "section 5.1",
        )
    return None


def judge_columns(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := _no_frame(seen):
        return fault
    absent = [name for name in COLUMNS if name not in seen["columns"]]
    extra = [name for name in seen["columns"] if name not in COLUMNS]
    if not absent and not extra and len(seen["columns"]) == len(COLUMNS):
        return None
    likely = "name the columns: pd.DataFrame(rows, columns=[...])"
    if extra and {name.strip().lower() for name in extra} & set(absent):
        likely = "a column's name is its spelling, capitals too: rank, trainable, accuracy and seconds"
    elif absent == ["rank"]:
        likely = "run's result does not hold the rank: put it into the row yourself"
        if seen["index"] == "rank":
            likely = "rank became the index: it is a column, so no set_index"
    elif extra and not absent:
        likely = "what else run's result holds is left out: choose the four columns"
        if {"level_0", "index"} & set(extra):
            likely = "reset_index keeps the old index as a column unless drop=True"
    elif sorted(absent + extra) and len(seen["columns"]) == len(seen["calls"]):
        likely = "rows and columns are exchanged: one row a rank (transpose)"
    return Fault(f"columns {seen['columns']}, expected {list(COLUMNS)}", likely, "section 5.1")


def judge_rows(inputs: Inputs, seen: Observation) -> Fault | None:
    """Every cell, row by row; which columns there are is another check's."""
    if fault := _no_frame(seen):
        return fault
    ranks, results = inputs["ranks"], inputs["results"]
    if seen["rows"] != len(ranks):
        return Fault(f"rows: {seen['rows']}, ranks: {len(ranks)}", "one row for each rank", "section 5.1")
    wanted = {"rank": ranks} | {name: [result[name] for result in results] for name in COLUMNS[1:]}
    here = [name for name in COLUMNS if name in seen["cells"]]
    if not [name for name in here if name != "rank"]:
        return Fault(f"columns {seen['columns']}", "nothing of what run measured is in the table", "section 5.1")
    wrong = [name for name in here if not _numbers(seen["cells"][name], wanted[name])]
    if not wrong:
        return None
    order = _reordering({name: seen["cells"][name] for name in here}, {name: wanted[name] for name in here})
    if order is not None:
        likely = "the rows are sorted: they come in the order given"
        if order == list(range(len(ranks)))[::-1]:
            likely = "the rows stand in reverse: they come in the order given"
        shown = [ranks[i] for i in order]
        return Fault(f"rows in the order of ranks {shown}, given were {ranks}", likely, "section 5.1")
    name = wrong[0]
    likely = "each row holds what run(rank) returned for that very rank"
    if name == "seconds":
        likely = "seconds are those that run measured, as it returned them"
    if not any(isinstance(value, str) for value in seen["cells"][name]) and close(
        seen["cells"][name], wanted[name], 5e-3
    ):
        likely = "the numbers are rounded: the table keeps what run returned, and is rounded where it is shown"
    if any(isinstance(value, str) for value in seen["cells"][name]):
        likely = "the cells hold numbers: what run returned, as it is"
    if len(set(map(str, seen["cells"][name]))) == 1:
        likely = "every row holds the same result: run is called with each rank, and a new dict made for each row"
    return Fault(f"{name}: {seen['cells'][name]}, expected {wanted[name]}", likely, "section 5.1")


def _numbers(found: list, wanted: list) -> bool:
    # float32 holds them closely enough
    return not any(isinstance(value, str) for value in found) and close(found, wanted, 2e-7)


def _reordering(cells: Mapping[str, list], wanted: Mapping[str, list]) -> list[int] | None:
    """The order in which the rows of ``wanted`` stand in ``cells``, if it is one."""
    key = next(name for name in cells if name != "rank")
    if any(isinstance(value, str) for value in cells[key]):
        return None
    order = [int(np.argmin(np.abs(np.array(wanted[key]) - value))) for value in cells[key]]
    same = all(_numbers(cells[name], [wanted[name][i] for i in order]) for name in cells)
    return order if same and sorted(order) == list(range(len(order))) else None


def judge_calls(inputs: Inputs, seen: Observation) -> Fault | None:
    calls, ranks = seen["calls"], inputs["ranks"]
    if sorted(calls) == sorted(ranks):
        return None
    likely = "each call is a whole training: call run once a rank and take all columns from that one dict"
    if set(ranks) - set(calls):
        likely = "run is called with every rank, each once"
    return Fault(f"run was called with {calls}, expected {ranks}, each once", likely, "section 5.1")


# --- layers with known updates --------------------------------------------------------------------------------------


def draw_update(
    rng: np.random.Generator, shape: tuple[int, int], rank: int, kind: str = "LinearWithLoRA", **options: Any
) -> dict[str, Any]:
    """What `build` makes a layer of: A, B with clearly separate singular values, a frozen weight and bias, alpha."""
    out_features, in_features = shape
    return {
        "kind": kind,
        "rank": rank,
        "alpha": float(rng.integers(2, 9)) * rank / 2 + 0.5,
        "A": separated(rng, rank, in_features),
        "B": separated(rng, rank, out_features, 0.5).T,
        "W": rng.normal(size=shape),
        "b": rng.normal(size=out_features),
        "merged": False,
        "rslora": False,
        **options,
    }


def separated(rng: np.random.Generator, rank: int, width: int, fall: float = 0.66) -> np.ndarray:
    """A (rank, width) matrix whose singular values fall by this factor each: its directions are well determined."""
    U, _, Vh = np.linalg.svd(rng.normal(size=(rank, width)), full_matrices=False)
    return (U * (3.0 * fall ** np.arange(len(Vh)))) @ Vh


def scaling_of(update: Mapping[str, Any]) -> float:
    return update["alpha"] / (update["rank"] ** 0.5 if update["rslora"] else update["rank"])


def delta_of(update: Mapping[str, Any]) -> np.ndarray:
    return scaling_of(update) * update["B"] @ update["A"]


@torch.no_grad()
def build(update: Mapping[str, Any]) -> LinearWithLoRA | LoRALayer:
    """The package's layer with these values."""
    out_features, in_features = update["W"].shape
    linear = torch.nn.Linear(in_features, out_features)
    linear.weight.copy_(torch.as_tensor(update["W"]))
    linear.bias.copy_(torch.as_tensor(update["b"]))
    layer = LinearWithLoRA(linear, update["rank"], update["alpha"], rslora=update["rslora"])
    layer.lora.lora_A.copy_(torch.as_tensor(update["A"]))
    layer.lora.lora_B.copy_(torch.as_tensor(update["B"]))
    if update["merged"]:
        layer.merge()
    return layer.lora if update["kind"] == "LoRALayer" else layer


def state_of(layer: Any) -> dict[str, Any]:
    """What looking at a layer must leave as it is."""
    named, lora = list(layer.named_parameters()), getattr(layer, "lora", layer)
    state = {name.rpartition(".")[2]: array(parameter) for name, parameter in named}
    state["scaling"] = float(lora.scaling)
    if lora is not layer:
        state |= {"merged": layer.merged, "enabled": layer.enabled}
    return state | {
        "requires_grad": [parameter.requires_grad for _, parameter in named],
        "dtype": [str(parameter.dtype) for _, parameter in named],
        "training": [module.training for module in layer.modules()],
        "grad": [parameter.grad is not None for _, parameter in named],
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name in before if not np.array_equal(before[name], after.get(name))]


def touched_fault(names: list[str], which: str, otherwise: str, read: str) -> Fault:
    """What is other than before on ``which``; ``otherwise`` is the likely cause of other values."""
    likely = {
        "requires_grad": "requires_grad_(False) and detach_() act on the layer itself, which would not train any more; "
        ".detach() gives a new tensor",
        "dtype": "a layer's .double() converts the layer itself: convert what .detach() gives, or the product",
        "training": "eval() acts on the layer itself, and B A has no dropout to switch off",
        "grad": "backward() leaves gradients in the layer: nothing is trained here",
    }
    cause = next((likely[name] for name in likely if name in names), otherwise)
    return Fault(f"afterwards {which} another {' and '.join(names)}", cause, read)


def attempt(run: Callable[[], dict]) -> dict:
    """What ``run()`` records, or the error it raised; an open gap or a missing name is the whole probe's."""
    try:
        return run()
    except (NotImplementedError, NotDefined):
        raise
    except Exception as error:
        return {"error": describe_error(error)}


def value_of(result: Any) -> dict[str, Any]:
    """A tensor's values, or the type that was returned in its place."""
    return {"value": array(result)} if isinstance(result, torch.Tensor) else {"kind": type(result).__name__}


def told(error: Mapping[str, str], kind: str, read: str) -> Fault:
    """An error on one kind of layer, with what it means in this stage."""
    fault = error_fault(error)
    text, likely = str(error.get("text")), fault.likely
    if "has no attribute 'lora'" in text or "has no attribute 'linear'" in text:
        likely = "a LoRALayer is the update itself, a LinearWithLoRA has it as .lora: take either"
    elif "has no attribute 'lora_" in text or "has no attribute 'scaling'" in text:
        likely = "a LinearWithLoRA keeps its update as .lora; only a LoRALayer has lora_A itself"
    elif "has no attribute 'alpha'" in text or "has no attribute 'rank'" in text:
        likely = "the layer knows its scale: read .scaling"
    elif "must match the size" in text or "shapes cannot be multiplied" in text or "same size" in text:
        likely = "A is (rank, in), B is (out, rank), and ranks differ between layers: only B A has one shape"
    elif "requires grad" in text:
        likely = "the factors are trainable: .detach() before NumPy"
    return Fault(f"on a {kind}: {fault.seen}", likely, fault.read or read)


# --- 5.2 delta_spectrum ---------------------------------------------------------------------------------------------

_TALL, _WIDE = (13, 8), (7, 12)


def draw_spectra(rng: np.random.Generator, kinds: tuple[str, ...] = ("LinearWithLoRA",), **options: Any) -> Inputs:
    """Updates of a tall and of a wide layer, of two ranks, for each kind of layer."""
    ranks = [int(r) for r in rng.choice([2, 3, 4, 5], size=2, replace=False)]
    return {
        "updates": [
            draw_update(rng, shape, rank, kind, **options)
            for kind in kinds
            for shape, rank in zip((_TALL, _WIDE), ranks, strict=True)
        ]
    }


def draw_looked_at(rng: np.random.Generator) -> Inputs:
    """Merged layers, and layers of both kinds that are not: none may be other afterwards."""
    return {"updates": [*draw_spectra(rng, merged=True)["updates"], *draw_spectra(rng, KINDS)["updates"]]}


def probe_spectra(names: Names, **inputs: Any) -> dict:
    """The spectrum of each layer's update, and which parts of the layer are other than before."""
    seen = []
    for update in inputs["updates"]:
        layer = build(update)
        before = state_of(layer)
        one = attempt(lambda layer=layer: value_of(names.delta_spectrum(layer)))
        seen.append({**one, "changed": changed(before, state_of(layer))})
    return {"spectra": seen}


def _spectrum(update: Mapping[str, Any], one: Mapping[str, Any]) -> Fault | np.ndarray:
    """The values as an array of the length of the expected ones, or what is wrong with their form."""
    read = "section 5.2"
    if "error" in one:
        return told(one["error"], update["kind"], read)
    if "kind" in one:
        return Fault(f"delta_spectrum returned a {one['kind']}", "a tensor is asked for", read)
    found, (out_features, in_features) = one["value"], update["W"].shape
    if found.dtype.kind == "b" or found.ndim != 1:
        likely = "the singular values alone, a vector: torch.linalg.svdvals(M), or the middle part of the SVD"
        return Fault(f"a result of shape {found.shape}, expected a vector", likely, read)
    most = min(out_features, in_features)
    if len(found) not in (update["rank"], most):
        likely = "all of them: some may be small, or zero, and they belong to the spectrum"
        if len(found) > most:
            likely = "a matrix of shape (out, in) has min(out, in) singular values"
        return Fault(
            f"{len(found)} values for a layer of {out_features} x {in_features} at rank {update['rank']}, "
            f"expected {most} or {update['rank']}",
            likely,
            read,
        )
    if not np.isfinite(found).all():
        return Fault(
            "NaN or infinity among the singular values", "a root of a number that rounding made negative", read
        )
    return np.pad(found.astype(float), (0, most - len(found)))


def judge_spectrum(inputs: Inputs, seen: Observation) -> Fault | None:
    """The right values up to one factor, largest first; the factor is `judge_spectrum_scale`'s."""
    for update, one in zip(inputs["updates"], seen["spectra"], strict=True):
        found = _spectrum(update, one)
        if isinstance(found, Fault):
            return found
        wanted = np.linalg.svd(delta_of(update), compute_uv=False)
        if not found[0] or not _proportional(found, wanted):
            return Fault(
                f"{_shown(found)}, expected {_shown(wanted)}", _spectrum_cause(update, found, wanted), "section 5.2"
            )
    return None


def _proportional(found: np.ndarray, wanted: np.ndarray) -> bool:
    if np.abs(found).max() == 0 or found.max() <= 0:
        return False
    return bool(np.abs(found / found.max() - wanted / wanted.max()).max() < SAME)


def _spectrum_cause(update: Mapping[str, Any], found: np.ndarray, wanted: np.ndarray) -> str:
    if not found.any():
        return "the update is B A of the layer as it is now, and B is not zero"
    if _proportional(found, wanted[::-1]) or _proportional(found[: update["rank"]], wanted[: update["rank"]][::-1]):
        return "smallest first: eigvalsh and sort() count upwards"
    if _proportional(found, wanted**2):
        return "these are squares: eigenvalues of D^T D, whose roots are the singular values"
    if _proportional(found, np.sqrt(wanted)):
        return "these are roots of the singular values: one square root too many"
    A, B, W = (update[name] for name in "ABW")
    for matrix, likely in (
        (A, "these are the values of A alone; the update is B A"),
        (B, "these are the values of B alone; the update is B A"),
        (W, "these are the values of the weight, not of its update"),
        (W + delta_of(update), "these are the values of W + scaling * B A: the update alone is asked for"),
        (W - delta_of(update), "the update is taken from a weight that does not hold it"),
    ):
        values = np.linalg.svd(matrix, compute_uv=False)
        other = np.pad(values, (0, max(0, len(found) - len(values))))[: len(found)]
        if _proportional(found, other):
            return likely
    products = np.linalg.svd(A, compute_uv=False) * np.linalg.svd(B, compute_uv=False)
    if _proportional(found[: len(products)], products):
        return "the values of a product are not the products of the values"
    if _proportional(np.sort(found)[::-1], wanted):
        return "they are not in order: largest first"
    return "torch.linalg.svdvals of scaling * B A gives them, largest first"


def judge_spectrum_scale(inputs: Inputs, seen: Observation) -> Fault | None:
    """The factor, where the values are right up to one; where they are not, `judge_spectrum` says so."""
    for update, one in zip(inputs["updates"], seen["spectra"], strict=True):
        found = _spectrum(update, one)
        if isinstance(found, Fault):
            return found
        wanted = np.linalg.svd(delta_of(update), compute_uv=False)
        if not _proportional(found, wanted):
            return Fault(f"{_shown(found)} is no multiple of {_shown(wanted)}", "", "section 5.2")
        ratio = float(found[0] / wanted[0])
        if abs(ratio - 1) > SAME:
            return Fault(
                f"values {number(ratio)} times those of scaling * B A",
                scale_cause(ratio, update, float(1 / wanted[0]), float(1 / wanted.sum())),
                "section 5.2",
            )
    return None


def scale_cause(ratio: float, update: Mapping[str, Any], by_largest: float = 0.0, by_sum: float = 0.0) -> str:
    scaling, rank = scaling_of(update), update["rank"]
    for value, likely in (
        (by_largest, "divided by the largest: the size of the update is part of its spectrum"),
        (by_sum, "divided by their sum: the size of the update is part of its spectrum"),
        (1 / scaling, "the scale is missing: the update is scaling * B A"),
        (scaling, "the scale is applied twice"),
        (update["alpha"] / scaling, "multiplied by alpha: the division by rank is missing"),
        (update["alpha"] / rank / scaling, "alpha / rank is computed anew; .scaling holds the layer's own rule"),
        (1 / rank / scaling, "divided by the rank in place of multiplied by .scaling"),
        (0.5, "half of it"),
    ):
        if value and abs(ratio / value - 1) < 3e-3:
            return likely
    return "the update is scaling * B A, with the layer's own scaling"


def judge_spectrum_untouched(inputs: Inputs, seen: Observation) -> Fault | None:
    """Layers of every kind as they were; the values are judged of the merged ones, the others' are other checks'."""
    looked_at = list(zip(inputs["updates"], seen["spectra"], strict=True))
    for update, one in looked_at:
        if one["changed"] and "error" not in one:
            likely = "looking at an update must not merge, unmerge or scale anything in place"
            return touched_fault(one["changed"], f"the {update['kind']} has", likely, "section 5.2")
    merged = [pair for pair in looked_at if pair[0]["merged"]]
    return judge_spectrum({"updates": [update for update, _ in merged]}, {"spectra": [one for _, one in merged]})


def _shown(values: np.ndarray) -> str:
    return row(values, tolerance=SAME)


# --- 5.3 subspace_similarity ----------------------------------------------------------------------------------------


def draw_subspaces(rng: np.random.Generator, pairs: int = 5) -> Inputs:
    """Two matrices of different ranks over one space, with some directions nearly shared, and several (i, j)."""
    r1, r2 = (int(r) for r in rng.permutation([4, 6]))
    n = int(rng.integers(13, 18))
    A1 = separated(rng, r1, n)
    A2 = separated(rng, r2, n)
    A2[: min(r1, r2)] += 0.8 * A1[: min(r1, r2)]  # so that the similarities are far from those of random spaces
    mixed = [(i, j) for i in range(1, r1 + 1) for j in range(1, r2 + 1) if i != j]
    chosen = [mixed[k] for k in rng.choice(len(mixed), size=pairs, replace=False)]
    chosen += [(2, 3), (3, 2), (1, 1), (3, 3), (r1, r2)]
    return {"cases": [{"A1": A1, "A2": A2, "i": i, "j": j} for i, j in chosen]}


def draw_limits(rng: np.random.Generator) -> Inputs:
    """Pairs whose similarity is known beforehand: the same space, one inside the other, orthogonal ones, parts."""
    r, n = 4, int(rng.integers(11, 15))
    A = separated(rng, r, n)
    _, s, Vh = np.linalg.svd(A, full_matrices=True)

    def with_directions(*which: int) -> np.ndarray:
        turn = np.linalg.qr(rng.normal(size=(len(which), len(which))))[0]
        return turn @ np.diag(s[: len(which)]) @ Vh[list(which)]

    other, exchanged, half = with_directions(4, 5, 6), with_directions(1, 0, 4), with_directions(0, 5, 6)
    aslant = s[:1, None] * (0.5 * Vh[0] + 0.75**0.5 * Vh[4])
    return {
        "cases": [
            {"A1": A, "A2": A, "i": i, "j": j, "is": 1.0, "what": "of one matrix with itself"}
            for i, j in ((1, 1), (2, 2), (4, 4), (2, 4), (4, 1))
        ]
        + [
            {"A1": A, "A2": other, "i": i, "j": j, "is": 0.0, "what": "of orthogonal spaces"}
            for i, j in ((1, 1), (4, 3), (2, 3))
        ]
        + [
            {
                "A1": A,
                "A2": exchanged,
                "i": i,
                "j": j,
                "is": float(i > 1 or j > 1),
                "what": "where A2's first is A1's second",
            }
            for i, j in ((1, 1), (2, 2), (2, 1), (1, 2))
        ]
        + [{"A1": A, "A2": half, "i": 2, "j": j, "is": 0.5, "what": "where one of two is shared"} for j in (2, 3)]
        # without the square this is 0.5 or -0.5, whatever signs the directions come with
        + [{"A1": A, "A2": aslant, "i": 1, "j": 1, "is": 0.25, "what": "of directions at 60 degrees"}]
    }


def draw_same_space(rng: np.random.Generator) -> Inputs:
    """Matrices with the same right-singular directions, but other sizes and other rows."""
    while True:
        first = draw_subspaces(rng, pairs=2)["cases"][0]
        A1, A2 = first["A1"], first["A2"]
        if abs(similarity_of(A1, A2, 2, 3) - similarity_of(A1, A2, 3, 2)) > 0.02:  # exchanged must show
            break
    turn = np.linalg.qr(rng.normal(size=(len(A1), len(A1))))[0]
    return {
        "cases": [
            {"A1": one, "A2": two, "i": i, "j": j}
            for one, two in ((A1, A2), (25 * A1, A2), (turn @ A1, A2), (-A1, 0.04 * A2))
            for i, j in ((2, 3), (3, 2))
        ]
    }


def draw_trained(rng: np.random.Generator) -> Inputs:
    """As `draw_subspaces`, and the matrices are parameters, as a trained `lora_A` is."""
    return {"cases": [case | {"trained": True} for case in draw_subspaces(rng, pairs=2)["cases"]]}


def similarity_of(A1: np.ndarray, A2: np.ndarray, i: int, j: int) -> float:
    V1, V2 = (np.linalg.svd(A, full_matrices=False)[2] for A in (A1, A2))
    return float((V1[:i] @ V2[:j].T).__pow__(2).sum() / min(i, j))


def probe_similarity(names: Names, **inputs: Any) -> dict:
    """The similarity of each pair, and its type."""

    def one(case: Mapping[str, Any]) -> dict:
        A1, A2 = (torch.tensor(case[name], dtype=torch.float32) for name in ("A1", "A2"))
        if case.get("trained"):
            A1, A2 = torch.nn.Parameter(A1), torch.nn.Parameter(A2)
        result = names.subspace_similarity(A1, A2, case["i"], case["j"])
        seen = {"kind": type(result).__name__, "is_float": isinstance(result, float)}
        if isinstance(result, torch.Tensor) and result.numel() > 1:
            return {**seen, "shape": list(result.shape)}
        if result is None or isinstance(result, (bool, str)):
            return {**seen, "shape": None}
        return {**seen, "value": float(result)}

    return {"outcomes": [attempt(lambda case=case: one(case)) for case in inputs["cases"]]}


def judge_similarity(inputs: Inputs, seen: Observation) -> Fault | None:
    read = "section 5.3"
    wrong = []
    for case, one in zip(inputs["cases"], seen["outcomes"], strict=True):
        at = f"i={case['i']}, j={case['j']}"
        if "error" in one:
            return _similarity_error(case, one["error"], at)
        if "value" not in one:
            likely = "one number is asked for: the sum of all squared products over min(i, j)"
            if one.get("shape") is None:
                likely = "the function returns nothing that is a number"
            return Fault(
                f"{at}: a {one['kind']}{' of shape ' + str(one['shape']) if one['shape'] else ''}", likely, read
            )
        wanted = case.get("is", similarity_of(case["A1"], case["A2"], case["i"], case["j"]))
        if not np.isfinite(one["value"]) or abs(one["value"] - wanted) > SAME:
            wrong.append((at, case, one["value"], wanted))
    if not wrong:
        return None
    at, case, value, wanted = wrong[0]
    what = f" {case['what']}" if "what" in case else ""
    cases = [(c, o["value"]) for c, o in zip(inputs["cases"], seen["outcomes"], strict=True)]
    shown, asked = pair(value, wanted, tolerance=SAME)
    return Fault(f"{at}{what}: {shown}, expected {asked}", _similarity_cause(cases), read)


def _similarity_error(case: Mapping[str, Any], error: Mapping[str, str], at: str) -> Fault:
    fault = error_fault(error)
    r1, r2, n = len(case["A1"]), len(case["A2"]), case["A1"].shape[1]
    likely, text = fault.likely, str(error.get("text"))
    if "in-place operation" in text:
        likely = "A1 and A2 may be parameters, and are the caller's: A / A.norm() is a new tensor, A /= ... is not"
    elif "requires grad" in text:
        likely = "a trained lora_A requires grad: .detach() before NumPy"
    elif error.get("type") in ("RuntimeError", "ValueError", "IndexError"):
        likely = (
            f"right-singular directions have n = {n} entries and are the rows of Vh; left-singular ones have the "
            f"rank's ({r1} and {r2}), and do not fit together"
        )
    return Fault(f"{at}: {fault.seen}", likely, fault.read or "section 5.3")


def _bases(case: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What may be taken for the two bases, rows as directions."""
    i, j = case["i"], case["j"]
    (U1, _, V1), (U2, _, V2) = (np.linalg.svd(case[name], full_matrices=False) for name in ("A1", "A2"))
    F1, F2 = (np.linalg.svd(case[name], full_matrices=True)[2] for name in ("A1", "A2"))
    Q1, Q2 = (np.linalg.qr(case[name].T)[0].T for name in ("A1", "A2"))
    N1, N2 = (case[name] / np.linalg.norm(case[name], axis=1, keepdims=True) for name in ("A1", "A2"))
    return {
        "right": (V1[:i], V2[:j]),
        "whole": (V1, V2),
        "smallest": (V1[::-1][:i], V2[::-1][:j]),
        "columns": (V1.T[:i] if len(V1) == len(V2) else F1.T[:i], V2.T[:j] if len(V1) == len(V2) else F2.T[:j]),
        "left": (U1.T[:i], U2.T[:j]),
        "same count": (V1[: min(i, j)], V2[: min(i, j)]),
        "exchanged": (V1[:j], V2[:i]),
        "qr": (Q1[:i], Q2[:j]),
        "rows": (N1[:i], N2[:j]),
        "raw": (case["A1"][:i], case["A2"][:j]),
    }


_BASIS_CAUSES = {
    "whole": "i and j are not used: only the leading directions count",
    "smallest": "the smallest directions are taken: eigh counts upwards",
    "columns": "the columns of Vh are taken; its rows are the right-singular directions",
    "left": "the left-singular directions are taken; they say how the rows of A mix, not which inputs it reads",
    "same count": "i and j may differ: i directions of A1, j of A2",
    "exchanged": "i belongs to A1 and j to A2",
    "qr": "that is the space of A's first rows (A cut before the SVD, or QR, which takes the rows as they stand): the "
    "leading directions are those of the whole A",
    "rows": "the rows of A are no orthonormal basis: their directions overlap, take the SVD's",
    "raw": "A itself is taken for a basis: take the right-singular vectors of its SVD",
}


def _similarity_cause(cases: list[tuple[Mapping[str, Any], float]]) -> str:
    def explains(rule: Callable[[np.ndarray, int, int], float], basis: str = "right") -> bool:
        for case, value in cases:
            one, two = _bases(case)[basis]
            if one.shape[1] != two.shape[1]:
                return False
            if not abs(rule(one @ two.T, case["i"], case["j"]) - value) <= SAME:
                return False
        return True

    def square(P: np.ndarray) -> float:
        return float((P**2).sum())

    for rule, likely in (
        (lambda P, i, j: square(P) / max(i, j), "divided by max(i, j): then a space inside another does not give 1"),
        (lambda P, i, j: square(P) / i, "divided by i: the smaller of the two counts"),
        (lambda P, i, j: square(P) / j, "divided by j: the smaller of the two counts"),
        (lambda P, i, j: square(P) / (i * j), "divided by i * j: that is the mean, which falls as the spaces grow"),
        (lambda P, i, j: square(P) / (i + j), "divided by i + j: the smaller of the two counts"),
        (lambda P, i, j: square(P), "not divided by min(i, j)"),
        (lambda P, i, j: square(P) ** 0.5 / min(i, j), "the norm is not squared"),
        (lambda P, i, j: (square(P) / min(i, j)) ** 0.5, "a root too many: the norm is squared in the formula"),
        (lambda P, i, j: np.abs(P).sum() / min(i, j), "absolute values in place of squares"),
        (lambda P, i, j: P.sum() / min(i, j), "the products are not squared, and their signs mean nothing"),
        (lambda P, i, j: P.sum() ** 2 / min(i, j), "the sum is squared, not each product"),
        (lambda P, i, j: np.trace(P**2) / min(i, j), "only the k-th with the k-th direction: all pairs count"),
        (lambda P, i, j: np.linalg.norm(P, 2) ** 2 / min(i, j), "the spectral norm; the Frobenius norm is asked for"),
        (lambda P, i, j: np.linalg.norm(P, 2) ** 2, "the largest cosine alone; all pairs count"),
        (lambda P, i, j: np.linalg.norm(P, "nuc") / min(i, j), "the nuclear norm; Frobenius' is asked for"),
        (lambda P, i, j: square(P) / min(P.shape), "divided by something else than min(i, j)"),
        (lambda P, i, j: 1 - square(P) / min(i, j), "a distance, 1 minus the similarity"),
    ):
        if explains(rule):
            return likely
    for basis, likely in _BASIS_CAUSES.items():
        for rule in (
            lambda P, i, j: square(P) / min(i, j),
            lambda P, i, j: square(P) / min(P.shape),
        ):
            if explains(rule, basis):
                return likely
    return (
        "the sum of all products squared, over min(i, j); the directions are the first i and the first j rows of each "
        "Vh (not its columns, and not scaled)"
    )


def judge_similarity_type(inputs: Inputs, seen: Observation) -> Fault | None:
    for case, one in zip(inputs["cases"], seen["outcomes"], strict=True):
        if "error" in one:
            return _similarity_error(case, one["error"], f"i={case['i']}, j={case['j']}")
        if not one["is_float"]:
            return Fault(
                f"a {one['kind']}, expected a float",
                "a tensor of one element is no number: float(...) or .item()",
                "section 5.3",
            )
    return None


# --- 5.4 compose ----------------------------------------------------------------------------------------------------


def draw_composition(
    rng: np.random.Generator, kinds: tuple[str, ...] = ("LinearWithLoRA",), count: int = 3, merged: bool = False
) -> Inputs:
    """Sets of updates of one shape, of different ranks and scales, with weights of both signs that do not sum to 1."""
    sets = []
    for kind in kinds:
        shape = _TALL if rng.random() < 0.5 else _WIDE
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
    return {"sets": sets}


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
    for one in inputs["sets"]:
        layers = [build(update) for update in one["updates"]]
        before = [state_of(layer) for layer in layers]
        result = attempt(lambda layers=layers, one=one: value_of(names.compose(layers, list(one["weights"]))))
        after = [state_of(layer) for layer in layers]
        touched = sorted({name for b, a in zip(before, after, strict=True) for name in changed(b, a)})
        seen.append({**result, "changed": touched})
    return {"sums": seen}


def judge_compose(inputs: Inputs, seen: Observation) -> Fault | None:
    read = "section 5.4"
    for one, result in zip(inputs["sets"], seen["sums"], strict=True):
        weights, deltas = one["weights"], [delta_of(update) for update in one["updates"]]
        if "error" in result:
            return _compose_error(one, result["error"], read)
        if "kind" in result:
            likely = "sum() of no terms is the number 0" if result["kind"] == "int" else "a tensor is asked for"
            return Fault(f"compose returned a {result['kind']}", likely, read)
        wanted, found = sum(w * d for w, d in zip(weights, deltas, strict=True)), result["value"]
        if found.shape != wanted.shape:
            likely = "B A is (out, in), like the weight"
            if found.shape == wanted.shape[::-1]:
                likely = "transposed: B A has the weight's shape, (out, in)"
            elif found.ndim == 3:
                likely = "the updates are stacked, not summed: sum over the first axis"
            return Fault(f"shape {found.shape}, expected {wanted.shape}", likely, read)
        if not close(found, wanted, 1e-4):
            # the judge compares with what was drawn, so the cause is looked for in the same numbers
            off = np.abs(found - wanted).max() / np.abs(wanted).max()
            return Fault(
                f"off by up to {number(off, 2)} times the largest entry", _compose_cause(one, deltas, found), read
            )
    return None


def _compose_error(one: Mapping[str, Any], error: Mapping[str, str], read: str) -> Fault:
    kinds, text = {update["kind"] for update in one["updates"]}, str(error.get("text"))
    fault = told(error, kinds.pop() if len(kinds) == 1 else "list of both kinds", read)
    if kinds and "has no attribute" in text:  # one kind was taken out above, if it was the only one
        likely = "a list may hold both kinds: each layer is asked for itself, not the first for all"
        return Fault(fault.seen, likely, read)
    whole = all(isinstance(weight, int) for weight in one["weights"])
    if whole and ("dtype" in text or "scalar type" in text):
        likely = "whole numbers are weights too, and torch.tensor makes int64 of them: give it a dtype"
        return Fault(f"{fault.seen}; the weights are {one['weights']}", likely, read)
    return fault


def _compose_cause(one: Mapping[str, Any], deltas: list[np.ndarray], found: np.ndarray) -> str:
    updates, w = one["updates"], np.array(one["weights"])
    scales = np.array([scaling_of(u) for u in updates])
    products = [u["B"] @ u["A"] for u in updates]

    def total(weights: Any, terms: list[np.ndarray]) -> np.ndarray:
        return sum(float(weight) * term for weight, term in zip(weights, terms, strict=True))

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
    for one, result in looked_at:
        if result["changed"] and "error" not in result:
            likely = "the sum is a new tensor: nothing of the layers is merged or added to in place"
            which = f"the {one['updates'][0]['kind']}s have"
            return touched_fault(result["changed"], which, likely, "section 5.4")
    merged = [pair for pair in looked_at if pair[0]["updates"][0]["merged"]]
    return judge_compose({"sets": [one for one, _ in merged]}, {"sums": [result for _, result in merged]})


def draw_lengths(rng: np.random.Generator) -> Inputs:
    one = draw_same_ranks(rng)["sets"][0]
    return {"updates": one["updates"], "weights": one["weights"]}


def probe_lengths(names: Names, **inputs: Any) -> dict:
    """What too few and too many weights raise, and that equal lengths raise nothing."""
    layers, weights = [build(update) for update in inputs["updates"]], inputs["weights"]
    cases = {"equal": (layers, weights), "too few": (layers, weights[:-1]), "too many": (layers[:-1], weights)}
    cases |= {"none": (layers, []), "one": (layers[:1], weights)}
    return {
        name: {"layers": len(some), "weights": len(w), "raised": raised(lambda some=some, w=w: names.compose(some, w))}
        for name, (some, w) in cases.items()
    }


def judge_lengths(inputs: Inputs, seen: Observation) -> Fault | None:
    read = "section 5.4"
    equal = seen["equal"]["raised"]
    if equal:
        fault = told({**equal, "line": ""}, inputs["updates"][0]["kind"], read)
        return Fault(f"with as many weights as layers, {fault.seen}", fault.likely, read)
    for name in ("too few", "too many", "none", "one"):
        case = seen[name]
        shown = f"{case['layers']} layers, {case['weights']} weights"
        if case["raised"] is None:
            return Fault(
                f"{shown}: no error",
                "zip ends with the shorter of the two in silence: compare the lengths, or zip(..., strict=True)",
                read,
            )
        if "ValueError" not in case["raised"]["bases"]:
            return Fault(f"{shown}: {case['raised']['type']}", "unequal lengths are a ValueError", read)
    return None


# --- visible checks -------------------------------------------------------------------------------------------------

SWEEP_COLUMNS = "a DataFrame with the columns rank, trainable, accuracy and seconds"
SWEEP_ROWS = "one row a rank, in the order given, with what run returned for it"
SWEEP_CALLS = "run is called once for each rank"
SPECTRUM = "the update's singular values, largest first"
SPECTRUM_SCALE = "the update is scaling * B A"
SPECTRUM_KINDS = "a LoRALayer and a LinearWithLoRA both have a spectrum"
SPECTRUM_MERGED = "a merged layer has the same spectrum, and every layer stays as it was"
SIMILARITY = "the similarity of the leading i and j right-singular directions"
SIMILARITY_FLOAT = "the result is a float, of a trained lora_A as well"
SIMILARITY_LIMITS = "1 where one space contains the other, 0 where they are orthogonal, and what is known between"
COMPOSE = "the weighted sum of scaling * B A"
COMPOSE_KINDS = "LoRALayers, LinearWithLoRAs and both in one list compose, and whole numbers are weights too"
COMPOSE_MERGED = "merged layers have the same updates, and all layers stay as they were"
LENGTHS = "unequal lengths are a ValueError"

VISIBLE = [
    Check("5.1/columns", SWEEP_COLUMNS, probe_sweep, judge_columns, fixed(1, draw_sweep)),
    Check("5.1/rows", SWEEP_ROWS, probe_sweep, judge_rows, fixed(1, draw_sweep)),
    Check("5.1/calls", SWEEP_CALLS, probe_sweep, judge_calls, fixed(1, draw_sweep)),
    Check("5.2/values", SPECTRUM, probe_spectra, judge_spectrum, fixed(1, draw_spectra)),
    Check("5.2/scaling", SPECTRUM_SCALE, probe_spectra, judge_spectrum_scale, fixed(1, draw_spectra)),
    Check("5.2/kinds", SPECTRUM_KINDS, probe_spectra, judge_spectrum, fixed(2, draw_spectra, kinds=KINDS)),
    Check("5.2/merged", SPECTRUM_MERGED, probe_spectra, judge_spectrum_untouched, fixed(3, draw_looked_at)),
    Check("5.3/values", SIMILARITY, probe_similarity, judge_similarity, fixed(1, draw_subspaces)),
    Check("5.3/limits", SIMILARITY_LIMITS, probe_similarity, judge_similarity, fixed(1, draw_limits)),
    Check("5.3/float", SIMILARITY_FLOAT, probe_similarity, judge_similarity_type, fixed(1, draw_trained)),
    Check("5.4/sum", COMPOSE, probe_compose, judge_compose, fixed(1, draw_same_ranks)),
    Check("5.4/kinds", COMPOSE_KINDS, probe_compose, judge_compose, fixed(2, draw_every_kind)),
    Check("5.4/merged", COMPOSE_MERGED, probe_compose, judge_compose_untouched, fixed(3, draw_looked_at_together)),
    Check("5.4/lengths", LENGTHS, probe_lengths, judge_lengths, fixed(1, draw_lengths)),
]
