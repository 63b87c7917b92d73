"""Figures of many trainings: accuracy by rank, by alpha, by what is adapted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lora_ref.plots.base import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    first_upper,
    listed,
    log2_axis,
    new_figure,
    set_alt,
    set_title,
    short_count,
    wilson_interval,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def rank_sweep(frame: pd.DataFrame, n: int | None = None) -> Figure:
    """Accuracy and trainable parameters against the rank.

    Args:
        frame: as `sweeps.sweep_ranks` returns it.
        n: test sentences; with them, each mean has the 95% interval that so many sentences leave.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"rank": [1, 8], "seed": 0, "trainable": [1_000, 8_000], "accuracy": [0.80, 0.84]})
        >>> print(rank_sweep(frame, n=1_000).get_suptitle())
        Rank 8 reaches 0.840, 4.0 points above rank 1; with one seed each, that may be chance; rank
        8 trains 8.0 times what rank 1 trains
    """
    figure, (left, right) = new_figure(2, (9.6, 4.2))
    finding, numbers = _sweep_axes(left, frame, "rank", "rank r", n)
    by_rank = frame.groupby("rank")["trainable"].first()
    right.plot(by_rank.index, by_rank, color=VERMILION, marker="s", linewidth=2)
    log2_axis(right, by_rank.index)
    right.set_xlabel("rank r")
    right.set_ylabel("trainable parameters")
    right.set_ylim(bottom=0)
    right.yaxis.set_major_formatter(short_count)
    if len(by_rank) > 1:
        growth = by_rank.iloc[-1] / by_rank.iloc[0]
        grown = f"{growth:.0f}" if growth >= 9.5 else f"{growth:.1f}"
        finding += f"; rank {by_rank.index[-1]} trains {grown} times what rank {by_rank.index[0]} trains"
    set_title(figure, finding, _seed_note(frame, n=n))
    counts = ", ".join(f"rank {rank} {count:,}" for rank, count in by_rank.items())
    set_alt(figure, f"Left, accuracy against rank: {numbers}. Right, trainable parameters: {counts}.")
    return figure


def alpha_ablation(frame: pd.DataFrame) -> Figure:
    """Accuracy against alpha at one rank; ``frame`` as `sweeps.ablate_alpha` returns it.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"rank": 8, "alpha": [1, 16], "seed": 0, "trainable": 8_000, "accuracy": [0.70, 0.84]})
        >>> print(alpha_ablation(frame).get_suptitle())
        Alpha 16 reaches 0.840, 14.0 points above alpha 1; with one seed
        each, that may be chance
    """
    figure, (ax,) = new_figure(1, (7.2, 4.0))
    rank = int(frame["rank"].iloc[0])
    finding, numbers = _sweep_axes(ax, frame, "alpha", f"alpha (rank {rank}: the update is scaled by alpha / {rank})")
    set_title(figure, finding, _seed_note(frame))
    set_alt(figure, f"Accuracy against alpha at rank {rank}: {numbers}.")
    return figure


def target_ablation(frame: pd.DataFrame, n: int | None = None) -> Figure:
    """Accuracy by group of adapted layers; ``frame`` is `sweeps.ablate_targets`'s, ``n`` as in `rank_sweep`.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"targets": ["query+value", "all"], "rank": 8, "seed": 0, "accuracy": [0.8, 0.9]})
        >>> frame["trainable"] = [2_000, 8_000]
        >>> print(target_ablation(frame).get_suptitle())
        All reaches 0.900, 10.0 points above query+value; with one seed each, that
        may be chance
    """
    groups = list(dict.fromkeys(frame["targets"]))
    figure, (ax,) = new_figure(1, (8.0, 1.5 + 0.62 * len(groups)))
    means = frame.groupby("targets")["accuracy"].mean()
    for place, group in enumerate(groups):
        rows = frame[frame["targets"] == group]
        ax.plot(rows["accuracy"], [place] * len(rows), linestyle="", marker="o", color=BLUE, markersize=7, alpha=0.5)
        ax.plot(means[group], place, marker="|", markersize=22, markeredgewidth=2.5, color=INK)
        if n is not None:
            ax.hlines(place, *wilson_interval(means[group], n), color=GREY, linewidth=1.5, zorder=0)
        note = f"rank {rows['rank'].iloc[0]}, {rows['trainable'].iloc[0]:,} trained"
        ax.annotate(
            note, (1.01, place), xycoords=("axes fraction", "data"), va="center", color=GREY, fontsize=9,
            annotation_clip=False,
        )  # fmt: skip
    ax.set_yticks(range(len(groups)), groups)
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.margins(x=0.12)
    ax.set_xlabel("accuracy (share of held-out sentences)")
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    ax.grid(visible=False, axis="y")
    finding = _best_finding({group: list(frame.loc[frame["targets"] == group, "accuracy"]) for group in groups})
    set_title(figure, finding, _seed_note(frame, "upright line", n))
    numbers = "; ".join(f"{g} {means[g]:.3f}" for g in groups)
    set_alt(figure, f"Accuracy by adapted layers, mean over seeds: {numbers}.")
    return figure


def _sweep_axes(ax: Axes, frame: pd.DataFrame, column: str, label: str, n: int | None = None) -> tuple[str, str]:
    """Accuracy against one column: a point per seed, a line through the means; returns the finding and the numbers."""
    values: dict[float, list[float]] = {}
    for key, accuracy in zip(frame[column], frame["accuracy"], strict=True):
        values.setdefault(key, []).append(accuracy)
    values = dict(sorted(values.items()))
    keys, means = list(values), [float(np.mean(v)) for v in values.values()]
    for key, accuracies in values.items():
        spread = [key] * len(accuracies)
        ax.plot(spread, accuracies, linestyle="", marker="o", color=BLUE, markersize=7, alpha=0.45)
    ax.plot(keys, means, color=BLUE, linewidth=2)
    if n is not None:
        ax.vlines(
            keys, *zip(*(wilson_interval(mean, n) for mean in means), strict=True), color=GREY, linewidth=1.5, zorder=0
        )
    log2_axis(ax, keys)
    ax.set_xlabel(label)
    ax.set_ylabel("accuracy (share of held-out sentences)")
    ax.margins(y=0.15)
    named = {f"{column} {key:g}": accuracies for key, accuracies in values.items()}
    numbers = "; ".join(f"{name} {mean:.3f}" for name, mean in zip(named, means, strict=True))
    return _best_finding(named), numbers


def _best_finding(values: Mapping[str, Sequence[float]]) -> str:
    """Which is best, and which others the seeds do not tell from it.

    Two or three seeds of one setting may agree by chance, so no setting's spread counts as smaller than the median
    setting's.
    """
    means = {name: float(np.mean(v)) for name, v in values.items()}
    best = max(means, key=lambda name: means[name])
    words = f"{first_upper(best)} reaches {means[best]:.3f}"
    others = [name for name in values if name != best]
    if not others:
        return words
    if max(means.values()) - min(means.values()) < 5e-4:  # none is ahead in what is shown
        return f"{first_upper(listed(list(values)))} all reach {means[best]:.3f}"
    seeds = min(len(v) for v in values.values())
    if seeds < 2:
        worst = min(others, key=lambda name: means[name])
        gap = 100 * (means[best] - means[worst])
        repeated = {name: max(v) - min(v) for name, v in values.items() if len(v) > 1}
        if not repeated:
            return f"{words}, {gap:.1f} points above {worst}; with one seed each, that may be chance"
        widest = max(repeated, key=lambda name: repeated[name])
        return f"{words}, {gap:.1f} points above {worst}; seeds of {widest} differ by {100 * repeated[widest]:.1f}"
    variance = {name: float(np.var(v, ddof=1)) for name, v in values.items()}
    usual = float(np.median(list(variance.values())))

    def differs(name: str) -> bool:
        """The means differ by more than two standard errors of their difference."""
        squares = max(variance[best], usual) + max(variance[name], usual)
        return means[best] - means[name] > 2 * math.sqrt(squares / seeds)

    level = [name for name in others if not differs(name)]
    if not level:
        second = max(others, key=lambda name: means[name])
        gap = 100 * (means[best] - means[second])
        return f"{words}, {gap:.1f} points above {second}: more than two standard errors"
    if len(level) == len(others):
        return f"{words}, but {seeds} seeds tell no other from it"
    return f"{words}; {seeds} seeds do not tell {listed(level)} from it"


def _seed_note(frame: pd.DataFrame, mean: str = "line", n: int | None = None) -> str:
    seeds = frame["seed"].nunique()
    words = f"Dots: one for each seed (up to {seeds}); {mean}: their mean." if seeds > 1 else "One seed."
    if seeds > 1 and frame.groupby("seed").size().nunique() == 1:
        words = words.replace("up to ", "")
    return words + (f" Grey: the 95% interval for {n:,} test sentences." if n is not None else "")
