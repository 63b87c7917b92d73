"""Stage 01, rank and what it costs: hidden checks.

Probes and judges are the visible checks', with drawn inputs: students see every behaviour that is checked, but not the
matrices and numbers that decide.
"""

from __future__ import annotations

from lora_ref.checks import stage01 as visible
from lora_ref.checks.stage01 import carry, judge_ranks
from lora_ref.checks.verdicts import Check

_BEST, _COUNTED = carry("best_rank_k"), carry("lora_param_count")

HIDDEN = [
    Check("1.1/products", visible.RANK, visible.probe_ranks, judge_ranks(visible._COUNT), visible.draw_products, 0.5),
    Check("1.1/zero", visible.ZERO, visible.probe_ranks, judge_ranks(visible._COUNT), visible.draw_zero, 0.25),
    Check("1.1/scale", visible.SCALE, visible.probe_ranks, judge_ranks(visible._RELATIVE), visible.draw_scaled, 0.5),
    Check("1.1/rtol", visible.RTOL, visible.probe_ranks, judge_ranks(visible._RTOL), visible.draw_rtol, 0.25),
    Check(
        "1.1/default", visible.DEFAULT, visible.probe_ranks, judge_ranks(visible._DEFAULT), visible.draw_default, 0.25
    ),
    Check("1.1/int", visible.INT, visible.probe_ranks, visible.judge_rank_type, visible.draw_easy, 0.25),
    Check("1.2/best", visible.BEST, visible.probe_best, visible.judge_best, visible.draw_best, 1.25),
    Check("1.2/whole", visible.WHOLE, visible.probe_best, visible.judge_whole, visible.draw_whole, 0.5),
    Check("1.2/none", visible.NONE, visible.probe_best, visible.judge_none, visible.draw_none, 0.5),
    Check("1.2/negative", visible.NEGATIVE, visible.probe_best, visible.judge_negative, visible.draw_negative, 0.5),
    Check("1.2/dtype", visible.DTYPE, visible.probe_best, visible.judge_dtypes, visible.draw_dtypes, 0.25),
    Check(
        "1.3/shapes",
        visible.SHAPES,
        visible.probe_factors,
        visible.judge_factor_shapes,
        visible.draw_factors,
        0.5,
        _BEST,
    ),
    Check(
        "1.3/product",
        visible.PRODUCT,
        visible.probe_factors,
        visible.judge_factor_product,
        visible.draw_factors,
        1,
        _BEST,
    ),
    Check("1.3/beyond", visible.BEYOND, visible.probe_factors, visible.judge_beyond, visible.draw_beyond, 0.5, _BEST),
    Check("1.4/count", visible.COUNT, visible.probe_counts, visible.judge_counts, visible.draw_counts, 0.75),
    Check("1.4/even", visible.EVEN, visible.probe_even, visible.judge_even, visible.draw_even, 0.5, _COUNTED),
    Check("1.4/ties", visible.TIES, visible.probe_even, visible.judge_even, visible.draw_ties, 0.5, _COUNTED),
    Check("1.4/int", visible.INT, visible.probe_cost_types, visible.judge_cost_types, visible.draw_few, 0.25),
    Check("1.5/full", visible.FULL, visible.probe_memory, visible.judge_memory, visible.draw_memory("all"), 1),
    Check("1.5/part", visible.PART, visible.probe_memory, visible.judge_memory, visible.draw_memory("some"), 1),
    Check(
        "1.5/options", visible.OPTIONS, visible.probe_memory, visible.judge_memory, visible.draw_memory("options"), 0.75
    ),
    Check("1.5/int", visible.INT, visible.probe_memory, visible.judge_memory_type, visible.draw_memory("some"), 0.25),
]
