"""Exercise 5.2, delta_spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, attempt
from lora_ref.checks.stage05.shared import (
    KINDS,
    SAME,
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
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, a
from lora_ref.rounding import number, row


def draw_spectra(rng: np.random.Generator, kinds: tuple[str, ...] = ("LinearWithLoRA",), **options: Any) -> Inputs:
    """Updates of a tall and of a wide layer, of two ranks, for each kind of layer."""
    ranks = [int(r) for r in rng.choice([2, 3, 4, 5], size=2, replace=False)]
    return {
        "updates": [
            draw_update(rng, shape, rank, kind, **options)
            for kind in kinds
            for shape, rank in zip((TALL, WIDE), ranks, strict=True)
        ]
    }


def draw_small(rng: np.random.Generator) -> Inputs:
    """As `draw_spectra`, and two updates more: a very small one and none at all, as a fresh layer has."""
    updates = draw_spectra(rng)["updates"]
    small, none = ({**updates[0], "B": factor * updates[0]["B"]} for factor in (1e-4, 0.0))
    return {"updates": [*updates, small, none]}


def draw_looked_at(rng: np.random.Generator) -> Inputs:
    """Merged layers, and layers of both kinds that are not: none may be other afterwards."""
    return {"updates": [*draw_spectra(rng, merged=True)["updates"], *draw_spectra(rng, KINDS)["updates"]]}


def probe_spectra(names: Names, **inputs: Any) -> dict:
    """The spectrum of each layer's update, and which parts of the layer are other than before."""
    seen = []
    for update in inputs["updates"]:
        layer = build(update)
        before = state_of(layer)
        result = attempt(lambda layer: value_of(names.delta_spectrum(layer)), layer)
        seen.append({**result, "changed": changed(before, state_of(layer))})
    return {"spectra": seen}


def _spectrum(update: Mapping[str, Any], result: Mapping[str, Any]) -> Fault | np.ndarray:
    """The values as an array of the length of the expected ones, or what is wrong with their form."""
    if "error" in result:
        return error_on(result["error"], update["kind"])
    if "kind" in result:
        return Fault(f"delta_spectrum returned {a(result['kind'])}", "a tensor is asked for")
    spectrum, (out_features, in_features) = result["value"], update["W"].shape
    if spectrum.dtype.kind == "b" or spectrum.ndim != 1:
        likely = "the singular values alone, a vector: torch.linalg.svdvals(M), or the middle part of the SVD"
        return Fault(f"a result of shape {spectrum.shape}, expected a vector", likely)
    most = min(out_features, in_features)
    if len(spectrum) not in (update["rank"], most):
        likely = "all of them: some may be small, or zero, and they belong to the spectrum"
        if len(spectrum) > most:
            likely = "a matrix of shape (out, in) has min(out, in) singular values"
        return Fault(
            f"{len(spectrum)} values for a layer of {out_features} x {in_features} at rank {update['rank']}, "
            f"expected {most} or {update['rank']}",
            likely,
        )
    if not np.isfinite(spectrum).all():
        likely = "a root of a number that rounding made negative" if delta_of(update).any() else "0 / 0: B is zero here"
        return Fault("NaN or infinity among the singular values", likely)
    return np.pad(spectrum.astype(float), (0, most - len(spectrum)))


def judge_spectrum(inputs: Inputs, seen: Observation) -> Fault | None:
    """The right values up to one factor, largest first; the factor is `judge_spectrum_scale`'s."""
    for update, result in zip(inputs["updates"], seen["spectra"], strict=True):
        spectrum = _spectrum(update, result)
        if isinstance(spectrum, Fault):
            return spectrum
        wanted = np.linalg.svd(delta_of(update), compute_uv=False)
        if not wanted.any():
            if not np.abs(spectrum).max() <= 1e-12:
                return Fault(f"{_shown(spectrum)} for an update of zeros", "B A of a fresh layer is zero")
            continue
        if not spectrum[0] or not _proportional(spectrum, wanted):
            return Fault(f"{_shown(spectrum)}, expected {_shown(wanted)}", _spectrum_cause(update, spectrum, wanted))
    return None


def _proportional(spectrum: np.ndarray, wanted: np.ndarray) -> bool:
    if np.abs(spectrum).max() == 0 or spectrum.max() <= 0:
        return False
    return bool(np.abs(spectrum / spectrum.max() - wanted / wanted.max()).max() < SAME)


def _spectrum_cause(update: Mapping[str, Any], spectrum: np.ndarray, wanted: np.ndarray) -> str:
    if not spectrum.any():
        return "the update is B A of the layer as it is now, and B is not zero"
    if _proportional(spectrum, wanted[::-1]) or _proportional(
        spectrum[: update["rank"]], wanted[: update["rank"]][::-1]
    ):
        return "smallest first: eigvalsh and sort() count upwards"
    if _proportional(spectrum, wanted**2):
        return "these are squares: eigenvalues of D^T D, whose roots are the singular values"
    if _proportional(spectrum, np.sqrt(wanted)):
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
        other = np.pad(values, (0, max(0, len(spectrum) - len(values))))[: len(spectrum)]
        if _proportional(spectrum, other):
            return likely
    products = np.linalg.svd(A, compute_uv=False) * np.linalg.svd(B, compute_uv=False)
    if _proportional(spectrum[: len(products)], products):
        return "the values of a product are not the products of the values"
    if _proportional(np.sort(spectrum)[::-1], wanted):
        return "they are not in order: largest first"
    if np.abs(spectrum / spectrum.max() - wanted / wanted.max()).max() < 0.02:
        return "nearly right: computed in fewer digits than float32 has, as bfloat16"
    return ""


def judge_spectrum_scale(inputs: Inputs, seen: Observation) -> Fault | None:
    """The factor, where the values are right up to one; where they are not, `judge_spectrum` says so."""
    for update, result in zip(inputs["updates"], seen["spectra"], strict=True):
        spectrum = _spectrum(update, result)
        if isinstance(spectrum, Fault):
            return spectrum
        wanted = np.linalg.svd(delta_of(update), compute_uv=False)
        if not _proportional(spectrum, wanted):
            return Fault(f"{_shown(spectrum)} is not a multiple of {_shown(wanted)}", "")
        ratio = float(spectrum[0] / wanted[0])
        if not abs(ratio - 1) <= SAME:
            return Fault(
                f"values {number(ratio)} times those of scaling * B A",
                scale_cause(ratio, update, float(1 / wanted[0]), float(1 / wanted.sum())),
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
        (update["alpha"] / rank / scaling, "alpha / rank is computed again; .scaling holds the layer's own rule"),
        (1 / rank / scaling, "divided by the rank in place of multiplied by .scaling"),
        (0.5, "half of it"),
    ):
        if value and abs(ratio / value - 1) < 1e-4:
            return likely
    if abs(ratio - 1) < 0.02:
        return "nearly right: computed in fewer digits than float32 has, as bfloat16"
    return ""


def judge_spectrum_untouched(inputs: Inputs, seen: Observation) -> Fault | None:
    """Layers of every kind as they were; the values are judged of the merged ones, the others' are other checks'."""
    looked_at = list(zip(inputs["updates"], seen["spectra"], strict=True))
    for update, result in looked_at:
        if result["changed"] and "error" not in result:
            likely = "looking at an update must not merge, unmerge or scale anything in place"
            return touched_fault(result["changed"], f"the {update['kind']} has", likely)
    merged = [pair for pair in looked_at if pair[0]["merged"]]
    return judge_spectrum({"updates": [update for update, _ in merged]}, {"spectra": [result for _, result in merged]})


def _shown(values: np.ndarray) -> str:
    return row(values, tolerance=SAME)


EXERCISE = Exercise(
    "5.2",
    "delta_spectrum",
    names=("delta_spectrum",),
    pure=("delta_spectrum",),
    checks=[
        Check(
            "5.2/values",
            "the update's singular values, largest first",
            probe_spectra,
            judge_spectrum,
            draw_small,
            seed=1,
        ),
        Check("5.2/scaling", "the update is scaling * B A", probe_spectra, judge_spectrum_scale, draw_spectra, seed=1),
        Check(
            "5.2/kinds",
            "a LoRALayer and a LinearWithLoRA both have a spectrum",
            probe_spectra,
            judge_spectrum,
            partial(draw_spectra, kinds=KINDS),
            seed=2,
        ),
        Check(
            "5.2/merged",
            "a merged layer has the same spectrum, and every layer stays as it was",
            probe_spectra,
            judge_spectrum_untouched,
            draw_looked_at,
            seed=3,
        ),
    ],
)
