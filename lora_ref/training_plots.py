"""Figures of stage 04 beside those of `plots`. Each takes numbers, and says in its title what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lora_ref.plots import _GREY, _INK, _figure, _smooth, _title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, and a line style each for prints without colour
_LINES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."))


def padding(fixed: int, dynamic: int, text: int, width: int) -> Figure:
    """Tokens that a model reads in one pass: padded to ``width``, padded batch by batch, and the text's own."""
    figure, (ax,) = _figure(1, (7.2, 2.6))
    bars = [(f"padded to {width}", fixed), ("padded to each\nbatch's longest", dynamic), ("without padding", text)]
    for place, (_, tokens) in enumerate(bars):
        ax.barh(place, tokens, color=_GREY, height=0.6)
        ax.barh(place, text, color=_LINES[0][0], height=0.6)
        ax.annotate(f" {tokens:,}", (tokens, place), va="center", color=_INK)
    ax.set_yticks(range(len(bars)), [name for name, _ in bars])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.18 * fixed)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.xaxis.set_major_locator(_few_ticks())
    ax.set_xlabel("tokens in one pass over the training sentences")
    ax.grid(False)
    finding = f"Padded to {width}, the model reads {fixed / dynamic:.1f} times as many tokens as padded batch by batch"
    share = 1 - text / dynamic
    _title(
        figure,
        finding,
        f"Blue: the sentences' own tokens; grey: padding. Batch by batch, {100 * share:.0f} % is padding.",
    )
    figure.lora_alt = (
        f"Three bars of tokens in one pass: {fixed:,} padded to {width}, {dynamic:,} padded to the longest of each "
        f"batch, {text:,} without padding. {finding}."
    )
    return figure


def schedules(multipliers: Mapping[str, Sequence[float]]) -> Figure:
    """The learning rate's multiplier at each step of a run, one line a schedule."""
    figure, (ax,) = _figure(1, (7.2, 3.4))
    told = []
    for (name, values), (colour, style) in zip(multipliers.items(), _LINES, strict=False):
        ax.plot(range(len(values)), values, color=colour, linestyle=style, linewidth=2, label=name)
        peak = max(values)
        at = list(values).index(peak)
        ax.plot(at, peak, color=colour, marker="o", linestyle="none", clip_on=False)
        told.append((name, peak, at))
    ax.set_xlabel("step")
    ax.set_ylabel("share of the learning rate")
    ax.set_ylim(0, 1.05)
    ax.legend(frameon=False)
    steps = max(len(values) for values in multipliers.values()) - 1
    name, peak, _ = min(told, key=lambda line: line[1])
    finding = f"With a {name}, a run of {steps} steps never exceeds {100 * peak:.0f} % of its learning rate"
    _title(figure, finding, "Dots: each schedule's largest value.")
    lines = "; ".join(f"{name}: largest value {peak:.2f}, at step {at}" for name, peak, at in told)
    figure.lora_alt = f"Line plot of the learning rate's multiplier over {steps} steps. {lines}. {finding}."
    return figure


def own_loop(losses: Sequence[float], batch_size: int) -> Figure:
    """Losses of a loop that somebody wrote by hand."""
    figure, (ax,) = _figure(1, (7.2, 3.4))
    smooth = _smooth(losses)
    colour = _LINES[0][0]
    ax.plot(losses, color=colour, linewidth=1, alpha=0.35, marker=".", label="each batch")
    ax.plot(smooth, color=colour, linewidth=2.4, label="mean of the last five")
    ax.axhline(math.log(2), color=_GREY, linewidth=1, linestyle=":", label="guessing, 0.69")
    ax.set_xlabel(f"step (batches of {batch_size} sentences)")
    ax.set_ylabel("cross-entropy (nats a sentence)")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, loc="lower left")
    start = sum(losses[:5]) / len(losses[:5])
    word = "falls" if smooth[-1] < start else "does not fall:"
    finding = f"In {len(losses)} steps the loss {word} from {start:.2f} to {smooth[-1]:.2f}"
    _title(figure, finding, "Numbers in the title: means of the first and of the last five steps.")
    figure.lora_alt = f"Line plot of training loss over {len(losses)} steps. {finding}; guessing would be 0.69."
    return figure


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)
