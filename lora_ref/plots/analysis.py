"""Figures of trained updates: spectra, shared directions, sums of several. Each says in its title what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lora_ref.plots.base import (
    GREY,
    INK,
    LINES,
    first_upper,
    listed,
    new_figure,
    set_alt,
    set_title,
    wilson_interval,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# --- spectra ----------------------------------------------------------------------------------------------


def spectra(frames: Mapping[str, pd.DataFrame], energy: float = 0.9) -> Figure:
    """Energy in the leading directions of updates, and their size: by name, frames of `analysis.spectra` or
    `analysis.update_spectra`.

    Left, the median over layers, with a band that leaves out a tenth at either end; right, a point per layer.

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
    firsts: list[str] = []
    for place, ((name, frame), (colour, marker, style)) in enumerate(zip(frames.items(), LINES, strict=False)):
        length = max(len(values) for values in frame["singular_values"])
        curves = []
        for values in frame["singular_values"]:
            squares = np.zeros(length)
            squares[: len(values)] = np.square(values)
            curves.append(np.cumsum(squares) / max(squares.sum(), np.finfo(float).tiny))
        shares = np.array(curves)
        index = np.arange(1, length + 1)
        left.plot(index, np.median(shares, axis=0), color=colour, linestyle=style, linewidth=2, label=name)
        low, high = np.quantile(shares, [0.1, 0.9], axis=0)
        left.fill_between(index, low, high, color=colour, alpha=0.15, linewidth=0)
        firsts.append(f"{name} {np.median(shares[:, 0]):.0%}")
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
    right.set_ylabel("update / frozen weight, norms (log)")
    directions = ", ".join(f"{_directions(count)} for {name}" for name, count in needed.items())
    finding = f"In the median layer, {energy:.0%} of the update's squared norm lies in {directions}"
    note = f"Left: median over layers, band: 80% of them; dotted: {energy:.0%}. Right: one mark for each layer."
    set_title(figure, finding, note)
    sizes = "; ".join(f"{name} {frame['relative'].median():.2g}" for name, frame in frames.items())
    set_alt(
        figure,
        f"Left, cumulative share of the squared norm; in the first direction alone (medians): {'; '.join(firsts)}. "
        f"Right, size of the updates relative to the weights (medians): {sizes}.",
    )
    return figure


def _directions(count: float) -> str:
    return f"{count:g} direction{'' if count == 1 else 's'}"


def similarity(grids: Mapping[str, np.ndarray], n: int | Mapping[str, int]) -> Figure:
    """Shared directions of two updates as heat maps in one colour scale, as in the paper's section 7.2.

    Args:
        grids: by name, what `analysis.similarity_grid` returns.
        n: width of the space, for the comparison with random subspaces; one number, or one per grid.

    Example:
        >>> import torch
        >>> from lora_ref.analysis import similarity_grid
        >>> A = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> print(similarity({"twice the same": similarity_grid(A, A).numpy()}, n=3).get_suptitle())
        The two leading directions overlap by 1.00
        (twice the same; random 0.333)
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(len(grids), (1.6 + 3.4 * len(grids), 4.0))
    widths = dict(n) if isinstance(n, Mapping) else dict.fromkeys(grids, n)
    overlaps = []
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
        overlaps.append((name, float(grid[0, 0]), random))
        ax.set_title(f"{name} (random at 1, 1: {random:.3f})", fontsize=9.5)
        ax.set_xlabel("j, directions of the second")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
        ax.grid(False)
    axes[0].set_ylabel("i, directions of the first")
    figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01, label="similarity (0 to 1)")
    parts = [f"{value:.2f} ({name}; random {random:.3f})" for name, value, random in overlaps]
    finding = f"The two leading directions overlap by {listed(parts)}"
    set_title(figure, finding, "Similarity of the leading i and j directions: 1 where one space contains the other.")
    corners = "; ".join(f"{name}: {np.asarray(grid)[-1, -1]:.2f} for all directions" for name, grid in grids.items())
    set_alt(figure, f"Heat maps of subspace similarity. {first_upper(corners)}.")
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
        to 1.000, for random directions 0.125
    """
    figure, (ax,) = new_figure(1, (7.6, 4.0))
    labels: list[str] = []
    overlaps = []
    for pair, frame in frames.items():
        for side, (colour, marker, _) in zip(("input", "output"), LINES, strict=False):
            place = len(labels)
            spread = place + np.linspace(-0.2, 0.2, len(frame))
            ax.plot(spread, frame[side], linestyle="", marker=marker, color=colour, alpha=0.6, markersize=5)
            median, random = float(frame[side].median()), float(frame[f"random_{side}"].median())
            ax.plot([place - 0.3, place + 0.3], [median] * 2, color=INK, linewidth=2)
            ax.plot([place - 0.3, place + 0.3], [random] * 2, color=GREY, linewidth=1.5, linestyle=":")
            labels.append(f"{side} side\n{pair}")
            overlaps.append(
                (f"{side} side of {' '.join(pair.split())}", median, random, int((frame[side] > 0.5).sum()), len(frame))
            )
    ax.set_xticks(range(len(labels)), labels)
    top = max(float(frame[side].max()) for frame in frames.values() for side in ("input", "output"))
    ax.set_ylim(-0.03 * top, min(1.03, 1.1 * top))
    ax.set_ylabel("similarity of leading directions")
    medians = [median for _, median, *_ in overlaps]
    random = max(random for _, _, random, *_ in overlaps)
    above, of = sum(t[3] for t in overlaps), sum(t[4] for t in overlaps)
    finding = (
        f"{above or 'None'} of {of} overlaps of leading directions {'exceeds' if above < 2 else 'exceed'} 0.5; the "
        f"medians are {min(medians):.3f} to {max(medians):.3f}, for random directions {random:.3f}"
    )
    set_title(figure, finding, "One mark for each layer; line: median; dotted: two random subspaces.")
    each = " ".join(f"{first_upper(name)}: median {m:.3f}, random {random:.3f}." for name, m, random, *_ in overlaps)
    set_alt(figure, f"Dots by pair and side. {each}")
    return figure


# --- composition ------------------------------------------------------------------------------------------


def mixing(frame: pd.DataFrame, counts: Mapping[str, int]) -> Figure:
    """Accuracy on two tasks against the weight of the second task's adapter, the first one's being 1 - weight.

    Args:
        frame: the columns ``weight``, ``task`` and ``accuracy``; the first task is the one of weight 0.
        counts: test examples by task, for the 95% intervals.

    Example:
        >>> import pandas as pd
        >>> rows = [(0, "films", 0.9), (1, "films", 0.5), (0, "books", 0.5), (1, "books", 0.8)]
        >>> frame = pd.DataFrame(rows, columns=["weight", "task", "accuracy"])
        >>> print(mixing(frame, {"films": 500, "books": 500}).get_suptitle())
        With weights 1 and 0, films reaches 0.900 (alone 0.900) and books 0.500
        (alone 0.800)
    """
    figure, (ax,) = new_figure(1, (7.6, 4.2))
    first, second = dict.fromkeys(frame["task"])
    curves = {}
    for task, (colour, marker, style) in zip((first, second), LINES, strict=False):
        curve = frame[frame["task"] == task].sort_values("weight")
        low, high = zip(*(wilson_interval(accuracy, counts[task]) for accuracy in curve["accuracy"]), strict=True)
        ax.fill_between(curve["weight"], low, high, color=colour, alpha=0.15, linewidth=0)
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
        f"With weights {1 - best:.3g} and {best:.3g}, {first} reaches {at[0]:.3f} (alone {own[0]:.3f}) and {second} "
        f"{at[1]:.3f} (alone {own[1]:.3f})"
    )
    set_title(figure, finding, "Bands: 95% intervals from the test examples alone; dotted: a coin.")
    numbers = "; ".join(
        f"{task}: " + ", ".join(f"{weight:.3g} {accuracy:.3f}" for weight, accuracy in curve.items())
        for task, curve in curves.items()
    )
    set_alt(figure, f"Line plot of accuracy by weight of {second}. {numbers}.")
    return figure
