"""Figures of the course. Each function returns a matplotlib figure whose title says what the numbers show.

The words are computed from the numbers, like everything else in the figure; `describe` gives a figure's text for
readers who do not see it.
"""

from lora_ref.plots.analysis import (
    layer_overlaps,
    mixing,
    similarity,
    spectra,
)
from lora_ref.plots.base import describe, wilson_interval
from lora_ref.plots.expenses import (
    costs,
    latency,
    layer_costs,
)
from lora_ref.plots.injection import audit, new_head, trainable_budget
from lora_ref.plots.layers import first_gradients, learned_updates, rank_and_spectrum, step_sizes
from lora_ref.plots.rank import (
    images_at_rank,
    memory_check,
    parts_and_ranks,
    picture,
    picture_parts,
    rank_one,
    rounding,
    truncation_errors,
)
from lora_ref.plots.schematics import (
    adapter_file,
    memory_parts,
    merging,
    model_parts,
    transformer_block,
    weight_and_update,
)
from lora_ref.plots.sweeps import (
    alpha_ablation,
    rank_sweep,
    target_ablation,
)
from lora_ref.plots.training import compare_methods, loss_curves, own_loop, padding, schedules, variations
from lora_ref.plots.vision import one_digit_figure, vit_figure
from lora_ref.plots.widgets import as_html, folded_source, with_controls

__all__ = [
    "adapter_file",
    "alpha_ablation",
    "as_html",
    "audit",
    "compare_methods",
    "costs",
    "describe",
    "first_gradients",
    "folded_source",
    "images_at_rank",
    "latency",
    "layer_costs",
    "layer_overlaps",
    "learned_updates",
    "loss_curves",
    "memory_check",
    "memory_parts",
    "merging",
    "mixing",
    "model_parts",
    "new_head",
    "one_digit_figure",
    "own_loop",
    "padding",
    "parts_and_ranks",
    "picture",
    "picture_parts",
    "rank_and_spectrum",
    "rank_one",
    "rank_sweep",
    "rounding",
    "schedules",
    "similarity",
    "spectra",
    "step_sizes",
    "target_ablation",
    "trainable_budget",
    "transformer_block",
    "truncation_errors",
    "variations",
    "vit_figure",
    "weight_and_update",
    "wilson_interval",
    "with_controls",
]
