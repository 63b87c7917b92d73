"""Stage 05, what a trained update looks like: hidden checks.

The probes and judges are the visible ones (`lora_ref.checks.stage05`), with drawn inputs and more behaviours: how
often run is called, layers bare and merged, rsLoRA's scale, rows turned within their space, layers left as they were.
"""

from __future__ import annotations

import functools

import numpy as np

from lora_ref.checks import stage05 as visible
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation

_draw_kinds = functools.partial(visible.draw_spectra, kinds=visible.KINDS)


def _draw_two_rules(rng: np.random.Generator) -> Inputs:
    """Layers scaled by alpha / rank and by alpha / sqrt(rank): only the layer itself knows which."""
    return {"updates": [*visible.draw_spectra(rng)["updates"], *visible.draw_spectra(rng, rslora=True)["updates"]]}


def _judge_similarity_type(inputs: Inputs, seen: Observation) -> Fault | None:
    """A type costs on its own only where there is a number to speak of."""
    fault = visible.judge_similarity_type(inputs, seen)
    return fault or next(
        (
            Fault(f"a {one['kind']} with no finite value", "", "section 5.3")
            for one in seen["outcomes"]
            if not np.isfinite(one["value"])
        ),
        None,
    )


_DIRECTIONS = "only directions count: not the size of A, and not how its rows are turned"

HIDDEN = [
    Check("5.1/columns", visible.SWEEP_COLUMNS, visible.probe_sweep, visible.judge_columns, visible.draw_sweep, 0.5),
    Check("5.1/rows", visible.SWEEP_ROWS, visible.probe_sweep, visible.judge_rows, visible.draw_sweep, 1),
    Check("5.1/calls", visible.SWEEP_CALLS, visible.probe_sweep, visible.judge_calls, visible.draw_sweep, 0.5),
    Check("5.2/values", visible.SPECTRUM, visible.probe_spectra, visible.judge_spectrum, visible.draw_spectra, 0.75),
    Check(
        "5.2/scaling",
        visible.SPECTRUM_SCALE,
        visible.probe_spectra,
        visible.judge_spectrum_scale,
        _draw_two_rules,
        0.5,
    ),
    Check("5.2/kinds", visible.SPECTRUM_KINDS, visible.probe_spectra, visible.judge_spectrum, _draw_kinds, 0.5),
    Check(
        "5.2/merged",
        visible.SPECTRUM_MERGED,
        visible.probe_spectra,
        visible.judge_spectrum_untouched,
        visible.draw_looked_at,
        0.25,
    ),
    Check(
        "5.3/values",
        visible.SIMILARITY,
        visible.probe_similarity,
        visible.judge_similarity,
        visible.draw_subspaces,
        1.5,
    ),
    Check(
        "5.3/limits",
        visible.SIMILARITY_LIMITS,
        visible.probe_similarity,
        visible.judge_similarity,
        visible.draw_limits,
        0.75,
    ),
    Check(
        "5.3/directions", _DIRECTIONS, visible.probe_similarity, visible.judge_similarity, visible.draw_same_space, 0.5
    ),
    Check(
        "5.3/float",
        visible.SIMILARITY_FLOAT,
        visible.probe_similarity,
        _judge_similarity_type,
        visible.draw_trained,
        0.25,
    ),
    Check("5.4/sum", visible.COMPOSE, visible.probe_compose, visible.judge_compose, visible.draw_same_ranks, 1),
    Check(
        "5.4/kinds", visible.COMPOSE_KINDS, visible.probe_compose, visible.judge_compose, visible.draw_every_kind, 0.25
    ),
    Check(
        "5.4/merged",
        visible.COMPOSE_MERGED,
        visible.probe_compose,
        visible.judge_compose_untouched,
        visible.draw_looked_at_together,
        0.25,
    ),
    Check("5.4/lengths", visible.LENGTHS, visible.probe_lengths, visible.judge_lengths, visible.draw_lengths, 0.5),
]
