"""Stage 03, LoRA in a whole model: hidden checks.

The probes are the visible checks', with drawn models, targets and arguments; here come also the names that nearly
match, the defaults, targets inside the head, and second calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from lora_ref.checks import stage03 as visible
from lora_ref.checks.stage03 import CARRY, draw_freeze, draw_inject, draw_match, draw_replace, draw_report
from lora_ref.checks.verdicts import Check, Inputs

_ENDS = "a target of several parts, or of a part that other names end in"
_MORE = "a second call with more targets keeps what the first has made"
_PLAIN_HEAD = "train_head=True trains a head that is a single layer, too"
_ALL_FROZEN = "a model that is all frozen"


def drawn(draw: Callable[..., Inputs], **choices: Any) -> Callable[[np.random.Generator], Inputs]:
    return partial(draw, **choices)


def draw_again(rng: np.random.Generator, more: bool = False) -> Inputs:
    """Two calls; the second with one target more, or with the same."""
    inputs = draw_inject(rng)
    return {**inputs, "more": ["gate"]} if more else inputs


_inject = partial(Check, carry=CARRY)

HIDDEN = [
    Check("3.1/frozen", visible.FROZEN, visible.probe_freeze, visible.judge_frozen, draw_freeze, 0.75),
    Check("3.1/all", visible.ALL, visible.probe_freeze, visible.judge_frozen, drawn(draw_freeze, wrapped=True), 0.5),
    Check("3.1/returned", visible.RETURNED, visible.probe_freeze, visible.judge_returned, draw_freeze, 0.5),
    Check(
        "3.1/kept", visible.KEPT, visible.probe_freeze, visible.judge_unchanged, drawn(draw_freeze, wrapped=True), 0.25
    ),
    Check(
        "3.2/parts", visible.MATCHED, visible.probe_match, visible.judge_match, drawn(draw_match, kind="parts"), 0.75
    ),
    Check("3.2/ends", _ENDS, visible.probe_match, visible.judge_match, drawn(draw_match, kind="ends"), 0.5),
    Check(
        "3.2/linear", visible.LINEAR, visible.probe_match, visible.judge_match, drawn(draw_match, kind="linear"), 0.25
    ),
    Check("3.2/order", visible.ORDER, visible.probe_match, visible.judge_match, drawn(draw_match, kind="order"), 0.5),
    Check("3.2/once", visible.ONCE, visible.probe_match, visible.judge_match, drawn(draw_match, kind="once"), 0.25),
    Check(
        "3.2/missing",
        visible.MISSING,
        visible.probe_match,
        visible.judge_match,
        drawn(draw_match, kind="missing"),
        0.5,
    ),
    Check(
        "3.2/nearly", visible.NEARLY, visible.probe_match, visible.judge_match, drawn(draw_match, kind="nearly"), 0.25
    ),
    Check(
        "3.3/deep", visible.DEEP, visible.probe_replace, visible.judge_replaced, drawn(draw_replace, where="deep"), 1
    ),
    Check("3.3/top", visible.TOP, visible.probe_replace, visible.judge_replaced, drawn(draw_replace, where="top"), 0.5),
    Check(
        "3.3/containers",
        visible.CONTAINERS,
        visible.probe_replace,
        visible.judge_replaced,
        drawn(draw_replace, where="containers"),
        0.5,
    ),
    _inject("3.4/wrapped", visible.WRAPPED, visible.probe_inject, visible.judge_wrapped, draw_inject, 1),
    _inject("3.4/sizes", visible.SIZES, visible.probe_inject, visible.judge_sizes, draw_inject, 0.5),
    _inject(
        "3.4/default-alpha",
        visible.DEFAULT_ALPHA,
        visible.probe_updates,
        visible.judge_update,
        drawn(draw_inject, defaults=True),
        0.25,
    ),
    _inject(
        "3.4/default-rank",
        visible.DEFAULT_RANK,
        visible.probe_inject,
        visible.judge_sizes,
        drawn(draw_inject, defaults=True),
        0.25,
    ),
    _inject("3.4/update", visible.UPDATE, visible.probe_updates, visible.judge_update, draw_inject, 0.5),
    _inject(
        "3.4/dropout",
        visible.DROPPED,
        visible.probe_updates,
        visible.judge_update,
        drawn(draw_inject, dropout=True),
        0.25,
    ),
    _inject("3.4/untouched", visible.UNTOUCHED, visible.probe_inject, visible.judge_untouched, draw_inject, 0.75),
    _inject("3.4/start", visible.START, visible.probe_inject, visible.judge_start, draw_inject, 0.25),
    _inject("3.4/frozen", visible.BASE, visible.probe_inject, visible.judge_frozen_base, draw_inject, 0.5),
    _inject(
        "3.4/head",
        visible.HEAD,
        visible.probe_inject,
        visible.judge_head,
        drawn(draw_inject, plain_head=False, head_targets=True),
        0.25,
    ),
    _inject(
        "3.4/head-asked",
        _PLAIN_HEAD,
        visible.probe_inject,
        visible.judge_head,
        drawn(draw_inject, head=True, plain_head=True),
        0.25,
    ),
    _inject(
        "3.4/no-head",
        visible.NO_HEAD,
        visible.probe_inject,
        visible.judge_no_head,
        drawn(draw_inject, head=False, head_targets=True, plain_head=False),
        0.25,
    ),
    _inject("3.4/returned", visible.RETURNED, visible.probe_inject, visible.judge_inject_returned, draw_inject, 0.25),
    _inject("3.4/again", visible.AGAIN, visible.probe_again, visible.judge_again, draw_again, 0.25),
    _inject("3.4/more", _MORE, visible.probe_again, visible.judge_again, drawn(draw_again, more=True), 0.25),
    _inject("3.4/typo", visible.TYPO, visible.probe_typo, visible.judge_typo, visible.draw_typo, 0.25),
    Check("3.5/counts", visible.COUNTS, visible.probe_report, visible.judge_whole_counts, draw_report, 0.75),
    Check(
        "3.5/shared", visible.SHARED, visible.probe_report, visible.judge_counts, drawn(draw_report, shared=True), 0.25
    ),
    Check(
        "3.5/frozen", _ALL_FROZEN, visible.probe_report, visible.judge_counts, drawn(draw_report, state="none"), 0.25
    ),
    Check("3.5/ratio", visible.RATIO, visible.probe_report, visible.judge_ratio, draw_report, 0.75),
    Check("3.6/unfreeze_blocks", visible.BLOCKS, visible.probe_blocks, visible.judge_blocks, visible.draw_blocks, 0.5),
    Check("3.6/add_dropout", visible.DROPOUT, visible.probe_dropout, visible.judge_dropout, visible.draw_dropout, 0.5),
    Check(
        "3.6/as_convolution",
        visible.CONVOLUTION,
        visible.probe_convolution,
        visible.judge_convolution,
        visible.draw_convolution,
        0.5,
    ),
    Check("3.6/train_prompt", visible.PROMPT, visible.probe_prompt, visible.judge_prompt, visible.draw_model, 0.5),
]
