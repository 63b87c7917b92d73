"""Figures of the analysis: sweeps, spectra, shared directions, costs, latency. Each says in its title what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lora_ref.plots.base import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    VERMILION,
    first_upper,
    new_figure,
    set_title,
    wilson_interval,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# a marker and a line each, for prints without colour
_LINES = ((BLUE, "o", "-"), (VERMILION, "s", "--"), (GREEN, "D", "-."), (ORANGE, "^", ":"), (PURPLE, "v", "-"))


# --- sweeps -----------------------------------------------------------------------------------------------


def rank_sweep(frame: pd.DataFrame, n: int | None = None) -> Figure:
    """Accuracy and trainable parameters against the rank.

    Args:
        frame: as `sweeps.sweep_ranks` returns it.
        n: test sentences; with them, each mean has the 95 % interval that so many sentences leave.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"rank": [1, 8], "seed": 0, "trainable": [1_000, 8_000], "accuracy": [0.80, 0.84]})
        >>> print(rank_sweep(frame, n=1_000).get_suptitle())
        Rank 8 reaches 0.840, 4.0 points above rank 1; with one seed each, that may be chance; rank
        8 trains 8.0 times what rank 1 trains
    """
    figure, (left, right) = new_figure(2, (9.6, 4.2))
    finding, told = _sweep_axes(left, frame, "rank", "rank r", n)
    by_rank = frame.groupby("rank")["trainable"].first()
    right.plot(by_rank.index, by_rank, color=VERMILION, marker="s", linewidth=2)
    _log2(right, by_rank.index)
    right.set_xlabel("rank r")
    right.set_ylabel("trainable parameters")
    right.set_ylim(bottom=0)
    right.yaxis.set_major_formatter(_short_count)
    if len(by_rank) > 1:
        growth = by_rank.iloc[-1] / by_rank.iloc[0]
        grown = f"{growth:.0f}" if growth >= 9.5 else f"{growth:.1f}"
        finding += f"; rank {by_rank.index[-1]} trains {grown} times what rank {by_rank.index[0]} trains"
    set_title(figure, finding, _seed_note(frame, n=n))
    counts = ", ".join(f"rank {rank} {count:,}" for rank, count in by_rank.items())
    figure.lora_alt = f"Left, accuracy against rank: {told}. Right, trainable parameters: {counts}. {finding}."
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
    finding, told = _sweep_axes(ax, frame, "alpha", f"alpha (rank {rank}: the update is scaled by alpha / {rank})")
    set_title(figure, finding, _seed_note(frame))
    figure.lora_alt = f"Accuracy against alpha at rank {rank}: {told}. {finding}."
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
    told = "; ".join(f"{g} {means[g]:.3f}" for g in groups)
    figure.lora_alt = f"Accuracy by adapted layers, mean over seeds: {told}. {finding}."
    return figure


def _sweep_axes(ax: Axes, frame: pd.DataFrame, column: str, label: str, n: int | None = None) -> tuple[str, str]:
    """Accuracy against one column: a point a seed, a line through the means; returns the finding and the numbers."""
    values = {key: list(rows["accuracy"]) for key, rows in frame.groupby(column)}
    keys, means = list(values), [float(np.mean(v)) for v in values.values()]
    for key, accuracies in values.items():
        spread = [key] * len(accuracies)
        ax.plot(spread, accuracies, linestyle="", marker="o", color=BLUE, markersize=7, alpha=0.45)
    ax.plot(keys, means, color=BLUE, linewidth=2)
    if n is not None:
        ax.vlines(
            keys, *zip(*(wilson_interval(mean, n) for mean in means), strict=True), color=GREY, linewidth=1.5, zorder=0
        )
    _log2(ax, keys)
    ax.set_xlabel(label)
    ax.set_ylabel("accuracy (share of held-out sentences)")
    ax.margins(y=0.15)
    named = {f"{column} {key:g}": accuracies for key, accuracies in values.items()}
    told = "; ".join(f"{name} {mean:.3f}" for name, mean in zip(named, means, strict=True))
    return _best_finding(named), told


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

    def told_apart(name: str) -> bool:
        """The means differ by more than two standard errors of their difference."""
        squares = max(variance[best], usual) + max(variance[name], usual)
        return means[best] - means[name] > 2 * math.sqrt(squares / seeds)

    level = [name for name in others if not told_apart(name)]
    if not level:
        second = max(others, key=lambda name: means[name])
        return f"{words}, {100 * (means[best] - means[second]):.1f} points above {second}: more than seeds differ"
    if len(level) == len(others):
        return f"{words}, but {seeds} seeds tell no other from it"
    return f"{words}; {seeds} seeds do not tell {_listed(level)} from it"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _seed_note(frame: pd.DataFrame, mean: str = "line", n: int | None = None) -> str:
    seeds = frame["seed"].nunique()
    words = f"Dots: one a seed (up to {seeds}); {mean}: their mean." if seeds > 1 else "One seed."
    if seeds > 1 and frame.groupby("seed").size().nunique() == 1:
        words = words.replace("up to ", "")
    return words + (f" Grey: the 95 % interval that {n} test sentences leave." if n is not None else "")


def _log2(ax: Axes, ticks: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def _short_count(value: float, _: object = None) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


# --- spectra ----------------------------------------------------------------------------------------------


def spectra(frames: Mapping[str, pd.DataFrame], energy: float = 0.9) -> Figure:
    """Energy in the leading directions of updates, and their size: by name, frames of `analysis.spectra` or
    `analysis.update_spectra`.

    Left, the median over layers, with a band that leaves out a tenth at either end; right, a point a layer.

    Example:
        >>> from torch import nn
        >>> from lora_ref import analysis, inject_lora
        >>> model = inject_lora(nn.Sequential(nn.Linear(6, 6)), ["0"], rank=2)
        >>> _ = nn.init.ones_(model[0].lora.lora_B)
        >>> print(spectra({"LoRA": analysis.spectra(model)}).get_suptitle())
        In the median layer, 90% of the update's squared norm lies in 1 direction for LoRA
    """
    from matplotlib.ticker import LogLocator, NullLocator

    figure, (left, right) = new_figure(2, (9.6, 4.2))
    needed: dict[str, float] = {}
    for place, ((name, frame), (colour, marker, style)) in enumerate(zip(frames.items(), _LINES, strict=False)):
        length = max(len(values) for values in frame["singular_values"])
        curves = []
        for values in frame["singular_values"]:
            squares = np.zeros(length)
            squares[: len(values)] = np.square(values)
            curves.append(np.cumsum(squares) / max(squares.sum(), np.finfo(float).tiny))
        curves = np.array(curves)
        index = np.arange(1, length + 1)
        left.plot(index, np.median(curves, axis=0), color=colour, linestyle=style, linewidth=2, label=name)
        low, high = np.quantile(curves, [0.1, 0.9], axis=0)
        left.fill_between(index, low, high, color=colour, alpha=0.15, linewidth=0)
        needed[name] = float(frame["effective_rank"].median())
        spread = place + np.linspace(-0.18, 0.18, len(frame))
        right.plot(spread, frame["relative"], linestyle="", marker=marker, color=colour, markersize=5, alpha=0.6)
    left.axhline(energy, color=GREY, linewidth=1, linestyle=":")
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.set_xlabel("leading singular directions (log scale)")
    left.set_ylabel("share of the update's squared norm")
    left.set_ylim(0, 1.03)
    left.legend(frameon=False, loc="lower right")
    right.set_xticks(range(len(frames)), list(frames))
    right.set_xlim(-0.5, len(frames) - 0.5)
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.yaxis.set_minor_locator(NullLocator())
    right.set_ylabel("update's norm / frozen weight's norm (log)")
    told = ", ".join(f"{_directions(count)} for {name}" for name, count in needed.items())
    finding = f"In the median layer, {energy:.0%} of the update's squared norm lies in {told}"
    note = f"Left: median over layers, band: 80% of them; dotted: {energy:.0%}. Right: a mark a layer."
    set_title(figure, finding, note)
    sizes = "; ".join(f"{name} {frame['relative'].median():.2g}" for name, frame in frames.items())
    figure.lora_alt = (
        f"Left, cumulative energy of singular directions; right, relative size of updates (medians: {sizes}). "
        f"{first_upper(finding)}."
    )
    return figure


def _directions(count: float) -> str:
    return f"{count:g} direction{'' if count == 1 else 's'}"


def similarity(grids: Mapping[str, np.ndarray], n: int | Mapping[str, int]) -> Figure:
    """Shared directions of two updates as heat maps in one colour scale, as in the paper's section 7.2.

    Args:
        grids: by name, what `analysis.similarity_grid` returns.
        n: width of the space, for the comparison with random subspaces; one number, or one a grid.

    Example:
        >>> import torch
        >>> from lora_ref.analysis import similarity_grid
        >>> A = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> print(similarity({"twice the same": similarity_grid(A, A).numpy()}, n=3).get_suptitle())
        The two leading directions overlap by 1.00
        (twice the same; random 0.333)
    """
    figure, axes = new_figure(len(grids), (1.6 + 3.4 * len(grids), 4.0))
    widths = dict(n) if isinstance(n, Mapping) else dict.fromkeys(grids, n)
    told = []
    for ax, (name, grid) in zip(axes, grids.items(), strict=True):
        grid = np.asarray(grid)
        rows, columns = grid.shape
        image = ax.imshow(
            grid, cmap="viridis", vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest",
            extent=(0.5, columns + 0.5, 0.5, rows + 0.5),
        )  # fmt: skip
        if rows * columns <= 100:
            for i in range(rows):
                for j in range(columns):
                    colour = "white" if grid[i, j] < 0.6 else "black"
                    text = f"{grid[i, j]:.2f}".lstrip("0") if grid[i, j] < 0.995 else "1"
                    ax.text(j + 1, i + 1, text, ha="center", va="center", color=colour, fontsize=7.5)
        random = 1 / widths[name]
        told.append((name, float(grid[0, 0]), random))
        ax.set_title(f"{name} (random at 1, 1: {random:.3f})", fontsize=9.5)
        ax.set_xlabel("j, directions of the second")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.yaxis.get_major_locator().set_params(integer=True)
        ax.grid(False)
    axes[0].set_ylabel("i, directions of the first")
    figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01, label="similarity (0 to 1)")
    parts = [f"{value:.2f} ({name}; random {random:.3f})" for name, value, random in told]
    finding = f"The two leading directions overlap by {_listed(parts)}"
    set_title(figure, finding, "Similarity of the leading i and j directions: 1 where one space contains the other.")
    corners = "; ".join(f"{name}: {np.asarray(grid)[-1, -1]:.2f} for all directions" for name, grid in grids.items())
    figure.lora_alt = f"Heat maps of subspace similarity. {finding}. {first_upper(corners)}."
    return figure


def layer_overlaps(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Shared leading directions of two trainings, layer by layer: `analysis.overlaps` by name of the pair.

    Example:
        >>> from torch import nn
        >>> from lora_ref import analysis, inject_lora
        >>> first, second = (inject_lora(nn.Sequential(nn.Linear(8, 8)), ["0"], rank=1) for _ in range(2))
        >>> for model in (first, second):
        ...     _ = nn.init.ones_(model[0].lora.lora_A), nn.init.ones_(model[0].lora.lora_B)
        >>> print(layer_overlaps({"two seeds": analysis.overlaps(first, second)}).get_suptitle())
        2 of 2 overlaps of leading directions exceed 0.5; the medians are 1.000
        to 1.000, of random directions 0.125
    """
    figure, (ax,) = new_figure(1, (7.6, 4.0))
    labels, told = [], []
    for pair, frame in frames.items():
        for side, (colour, marker, _) in zip(("input", "output"), _LINES, strict=False):
            place = len(labels)
            spread = place + np.linspace(-0.2, 0.2, len(frame))
            ax.plot(spread, frame[side], linestyle="", marker=marker, color=colour, alpha=0.6, markersize=5)
            median, random = float(frame[side].median()), float(frame[f"random_{side}"].median())
            ax.plot([place - 0.3, place + 0.3], [median] * 2, color=INK, linewidth=2)
            ax.plot([place - 0.3, place + 0.3], [random] * 2, color=GREY, linewidth=1.5, linestyle=":")
            labels.append(f"{side} side\n{pair}")
            told.append(
                (f"{side} side of {' '.join(pair.split())}", median, random, int((frame[side] > 0.5).sum()), len(frame))
            )
    ax.set_xticks(range(len(labels)), labels)
    top = max(float(frame[side].max()) for frame in frames.values() for side in ("input", "output"))
    ax.set_ylim(-0.03 * top, min(1.03, 1.1 * top))
    ax.set_ylabel("similarity of leading directions")
    medians = [median for _, median, *_ in told]
    random = max(random for _, _, random, *_ in told)
    above, of = sum(t[3] for t in told), sum(t[4] for t in told)
    finding = (
        f"{above or 'None'} of {of} overlaps of leading directions {'exceeds' if above < 2 else 'exceed'} 0.5; the "
        f"medians are {min(medians):.3f} to {max(medians):.3f}, of random directions {random:.3f}"
    )
    set_title(figure, finding, "A mark a layer; line: median; dotted: two random subspaces.")
    each = " ".join(f"{first_upper(name)}: median {m:.3f}, random {random:.3f}." for name, m, random, *_ in told)
    figure.lora_alt = f"Dots by pair and side. {finding}. {each}"
    return figure


# --- composition ------------------------------------------------------------------------------------------


def mixing(frame: pd.DataFrame, counts: Mapping[str, int]) -> Figure:
    """Accuracy on two tasks against the weight of the second task's adapter, the first one's being 1 - weight.

    Args:
        frame: the columns ``weight``, ``task`` and ``accuracy``; the first task is the one of weight 0.
        counts: test examples by task, for the 95 % intervals.

    Example:
        >>> import pandas as pd
        >>> rows = [(0, "films", 0.9), (1, "films", 0.5), (0, "books", 0.5), (1, "books", 0.8)]
        >>> frame = pd.DataFrame(rows, columns=["weight", "task", "accuracy"])
        >>> print(mixing(frame, {"films": 500, "books": 500}).get_suptitle())
        With weights 1 and 0, films keeps 0.900 of 0.900 and books 0.500 of
        0.800
    """
    figure, (ax,) = new_figure(1, (7.6, 4.2))
    first, second = dict.fromkeys(frame["task"])
    curves = {}
    for task, (colour, marker, style) in zip((first, second), _LINES, strict=False):
        curve = frame[frame["task"] == task].sort_values("weight")
        ends = [wilson_interval(accuracy, counts[task]) for accuracy in curve["accuracy"]]
        ax.fill_between(curve["weight"], *zip(*ends, strict=True), color=colour, alpha=0.15, linewidth=0)
        ax.plot(
            curve["weight"], curve["accuracy"], color=colour, marker=marker, linestyle=style, linewidth=2, label=task
        )
        curves[task] = curve.set_index("weight")["accuracy"]
    ax.axhline(0.5, color=GREY, linewidth=1, linestyle=":")
    ax.set_xlabel(f"weight of {second}; that of {first} is 1 minus it")
    ax.set_ylabel("accuracy with the task's own head")
    ax.set_ylim(min(0.45, frame["accuracy"].min() - 0.05), 1.02)
    ax.legend(frameon=False, loc="center right")
    own = curves[first].iloc[0], curves[second].iloc[-1]
    # how much each task loses against its own adapter alone: where is the larger loss smallest?
    loss = (own[0] - curves[first]).combine(own[1] - curves[second], max)
    best = loss.idxmin()
    at = [float(curves[task][best]) for task in (first, second)]
    finding = (
        f"With weights {1 - best:.3g} and {best:.3g}, {first} keeps {at[0]:.3f} of {own[0]:.3f} and {second} "
        f"{at[1]:.3f} of {own[1]:.3f}"
    )
    set_title(figure, finding, "Bands: 95 % intervals from the test examples alone; dotted: a coin.")
    told = "; ".join(
        f"{task}: " + ", ".join(f"{weight:.3g} {accuracy:.3f}" for weight, accuracy in curve.items())
        for task, curve in curves.items()
    )
    figure.lora_alt = f"Line plot of accuracy by weight of {second}. {told}. {finding}."
    return figure


# --- costs ------------------------------------------------------------------------------------------------


def costs(frame: pd.DataFrame, activations: Mapping[str, int] | None = None) -> Figure:
    """Bytes that training keeps, by method.

    Args:
        frame: `costs.cost_table`.
        activations: measured bytes, by method (``"lora"``) or by bar (``"LoRA r=8"``).

    Example:
        >>> from lora_ref.costs import cost_table, meta_model, roberta_base_config
        >>> table = cost_table(meta_model(roberta_base_config()), ["query", "value"], ranks=[8])
        >>> print(costs(table).get_suptitle())
        For gradients and optimiser states LoRA r=8 needs 141 times less memory than
        full fine-tuning; in all, 3.9 times less
    """
    names = [f"LoRA r={row.rank}" if row.method == "lora" else row.method for row in frame.itertuples()]
    figure, (ax,) = new_figure(1, (8.4, 1.7 + 0.5 * len(names)))
    parts = [("weights", GREY), ("gradients", VERMILION), ("optimizer", ORANGE)]
    columns = {name: frame[name].to_numpy(float) for name, _ in parts}
    if activations:
        parts.append(("activations", BLUE))
        columns["activations"] = np.array(
            [
                activations.get(name, activations.get(method, 0))
                for name, method in zip(names, frame["method"], strict=True)
            ],
            float,
        )
    total, unit = sum(columns.values()), 1e9 if sum(columns.values()).max() >= 1e9 else 1e6
    start, digits = np.zeros(len(names)), 2 if unit == 1e9 else 1
    for (name, colour), hatch in zip(parts, ("", "//", "..", "xx"), strict=False):
        label = "optimiser states" if name == "optimizer" else name
        ax.barh(
            range(len(names)), columns[name] / unit, left=start / unit, color=colour, height=0.6, label=label,
            hatch=hatch, edgecolor="white", linewidth=0,
        )  # fmt: skip
        start = start + columns[name]
    for place, value in enumerate(total):
        ax.annotate(f" {value / unit:,.{digits}f}", (value / unit, place), va="center", color=INK)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.14 * total.max() / unit)
    ax.set_xlabel("GB ($10^9$ bytes)" if unit == 1e9 else "MB ($10^6$ bytes)")
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    ax.grid(visible=False, axis="y")
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    finding = _cost_finding(frame, names, total)
    note = "Activations measured for one batch." if activations else "Without activations, which depend on the batch."
    set_title(figure, finding, f"{note} {int(frame['total'].min()):,} parameters in the base model.")
    told = "; ".join(f"{name} {value / unit:,.{digits}f}" for name, value in zip(names, total, strict=True))
    figure.lora_alt = f"Stacked bars of bytes kept ({'GB' if unit == 1e9 else 'MB'}): {told}. {finding}."
    return figure


def _cost_finding(frame: pd.DataFrame, names: Sequence[str], total: np.ndarray) -> str:
    methods = list(frame["method"])
    if "full" not in methods or "lora" not in methods:
        return f"{first_upper(names[int(total.argmin())])} keeps the least"
    loras = [place for place, method in enumerate(methods) if method == "lora"]
    lora = next((place for place in loras if frame["rank"].iloc[place] == 8), loras[-1])  # the course's rank
    full = methods.index("full")
    both = (frame["gradients"] + frame["optimizer"]).to_numpy(float)
    return (
        f"For gradients and optimiser states {names[lora]} needs {both[full] / both[lora]:.0f} times less memory than "
        f"full fine-tuning; in all, {total[full] / total[lora]:.1f} times less"
    )


def layer_costs(frame: pd.DataFrame, rank: int = 16, layer: str = "1024x1024") -> Figure:
    """What LoRA saves in single layers, as in S2's four plots: `costs.layer_table`.

    Reduction by rank, memory by rank, reduction at one rank, and counts in one layer.

    Example:
        >>> from lora_ref.costs import layer_table
        >>> print(layer_costs(layer_table()).get_suptitle())
        At rank 16 LoRA trains 24 (768x768) to 64 (2048x2048) times fewer parameters; twice the rank
        halves that
    """
    import matplotlib.pyplot as plt

    if rank not in set(frame["rank"]) or layer not in set(frame["layer"]):
        raise ValueError(f"the table has no rank {rank} or no layer {layer!r}")
    figure, grid = plt.subplots(2, 2, figsize=(9.6, 7.2), dpi=120, layout="constrained")
    plt.close(figure)
    for ax in grid.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
        ax.set_axisbelow(True)
    names, ranks = list(dict.fromkeys(frame["layer"])), sorted(set(frame["rank"]))
    for name, (colour, marker, style) in zip(names, _LINES, strict=False):
        rows = frame[frame["layer"] == name].sort_values("rank")
        for ax, column in ((grid[0, 0], "reduction"), (grid[0, 1], "lora_mb")):
            ax.plot(rows["rank"], rows[column], color=colour, marker=marker, linestyle=style, linewidth=1.8, label=name)
    for ax, label in ((grid[0, 0], "full / LoRA parameters (log)"), (grid[0, 1], "MB of LoRA weights (log)")):
        _log2(ax, ranks)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_xlabel("rank r")
        ax.set_ylabel(label)
    grid[0, 0].legend(frameon=False, fontsize=8.5)
    at = frame[frame["rank"] == rank].set_index("layer").loc[names]
    bars = grid[1, 0].bar(names, at["reduction"], color=BLUE, width=0.6)
    grid[1, 0].bar_label(bars, [f"{value:.1f}" for value in at["reduction"]], fontsize=9)
    grid[1, 0].set_ylabel(f"full / LoRA parameters at rank {rank}")
    grid[1, 0].tick_params(axis="x", labelsize=8.5)
    one = frame[frame["layer"] == layer].sort_values("rank")
    labels = ["full", *(f"r={r}" for r in one["rank"])]
    heights = [one["full"].iloc[0], *one["lora"]]
    bars = grid[1, 1].bar(labels, heights, color=[GREEN, *[BLUE] * len(one)], width=0.6)
    grid[1, 1].bar_label(bars, [_short_count(value) for value in heights], fontsize=9)
    grid[1, 1].set_ylabel(f"parameters of a {layer} layer")
    grid[1, 1].yaxis.set_major_formatter(_short_count)
    low, high = at["reduction"].idxmin(), at["reduction"].idxmax()
    finding = (
        f"At rank {rank} LoRA trains {at['reduction'][low]:.0f} ({low}) to {at['reduction'][high]:.0f} ({high}) times "
        f"fewer parameters; twice the rank halves that"
    )
    set_title(figure, finding, "Counted from shapes, with the layer's bias on the full side; float32.")
    told = "; ".join(f"{name} {value:.1f}" for name, value in at["reduction"].items())
    figure.lora_alt = f"Four plots of parameters by layer size and rank. Reduction at rank {rank}: {told}. {finding}."
    return figure


def latency(frame: pd.DataFrame) -> Figure:
    """Forward time of base, unmerged and merged model: `costs.merge_latency`.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"state": ["base", "unmerged", "merged"], "milliseconds": [10.0, 12.0, 10.1]})
        >>> frame = frame.assign(fastest=frame.milliseconds, slowest=frame.milliseconds, ratio=[1.0, 1.2, 1.01])
        >>> print(latency(frame).get_suptitle())
        Unmerged, a forward pass takes 1.20 times the base model's; merged,
        1.01
    """
    figure, (ax,) = new_figure(1, (7.2, 2.7))
    colours = {"base": GREY, "unmerged": BLUE, "merged": GREEN}
    for place, row in enumerate(frame.itertuples()):
        ax.barh(place, row.milliseconds, color=colours[row.state], height=0.6)
        ax.errorbar(
            row.milliseconds, place, color=INK, capsize=3, linewidth=1.2,
            xerr=[[row.milliseconds - row.fastest], [row.slowest - row.milliseconds]],
        )  # fmt: skip
        ax.annotate(f"  {row.milliseconds:.1f}", (row.slowest, place), va="center", color=INK)
    ax.set_yticks(range(len(frame)), list(frame["state"]))
    ax.invert_yaxis()
    ax.set_xlim(0, 1.15 * frame["slowest"].max())
    ax.set_xlabel("milliseconds for one forward pass")
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    ax.grid(visible=False, axis="y")
    ratio = dict(zip(frame["state"], frame["ratio"], strict=True))
    finding = (
        f"Unmerged, a forward pass takes {ratio['unmerged']:.2f} times the base model's; merged, {ratio['merged']:.2f}"
    )
    set_title(figure, finding, "Bars: medians, measured in turns in one run; lines: fastest to slowest.")
    told = "; ".join(f"{row.state} {row.milliseconds:.1f}" for row in frame.itertuples())
    figure.lora_alt = f"Bars of milliseconds for one forward pass: {told}. {finding}."
    return figure
