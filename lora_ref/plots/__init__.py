"""Figures of the course. Each function returns a matplotlib figure whose title says what the numbers show.

The words are computed from the numbers, like everything else in the figure; `describe` gives a figure's text for
readers who do not see it.
"""

from lora_ref.plots.analysis import (
    alpha_ablation,
    costs,
    latency,
    layer_costs,
    layer_overlaps,
    rank_sweep,
    similarity,
    spectra,
    target_ablation,
)
from lora_ref.plots.base import describe, wilson_interval
from lora_ref.plots.injection import audit, new_head, trainable_budget
from lora_ref.plots.layers import first_gradients, learned_updates, rank_and_spectrum, step_sizes
from lora_ref.plots.training import compare_methods, loss_curves, own_loop, padding, schedules, variations
from lora_ref.plots.vision import one_digit_figure, vit_figure

__all__ = [
    "alpha_ablation",
    "audit",
    "compare_methods",
    "costs",
    "describe",
    "first_gradients",
    "latency",
    "layer_costs",
    "layer_overlaps",
    "learned_updates",
    "loss_curves",
    "new_head",
    "one_digit_figure",
    "own_loop",
    "padding",
    "rank_and_spectrum",
    "rank_sweep",
    "schedules",
    "similarity",
    "spectra",
    "step_sizes",
    "target_ablation",
    "trainable_budget",
    "variations",
    "vit_figure",
    "wilson_interval",
]
