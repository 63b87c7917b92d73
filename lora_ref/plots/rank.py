"""Figures of stage 01: rank in pictures, the closest matrix of a rank, predicted and measured memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_ref.plots.base import BLUE, GREEN, GREY, INK, ORANGE, VERMILION, new_figure, set_alt, set_title
from lora_ref.rounding import TOLERANCE, at_most, number, within

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# a marker and a line style each, for prints without colour
_LINES = ((BLUE, "o", "-"), (VERMILION, "s", "--"), (GREEN, "D", "-."))


# --- one update, read by eye --------------------------------------------------------------------------------


def rank_one(column: Sequence[float], row: Sequence[float], outputs: Sequence[str], inputs: Sequence[str]) -> Figure:
    """A rank-1 change of a weight, as a column times a row, with every number in its place.

    Args:
        column, outputs: what the change adds to each output, and the outputs' names.
        row, inputs: how much each input calls for it, and the inputs' names.

    Example:
        >>> print(rank_one([2, 1], [1, 0, -1], ["positive", "sad"], ["plot", "cast", "length"]).get_suptitle())
        2 + 3 numbers say all 6: every row is a multiple of one row
    """
    update = np.outer(column, row)
    m, n = update.shape
    ratios = [1.4, n * 0.95, n * 0.95]
    figure, axes = new_figure(3, (2.4 + 1.5 * n, 1.5 + 0.55 * m), width_ratios=ratios)
    tables = (
        (np.reshape(column, (m, 1)), "column b: outputs", [""], outputs),
        (np.reshape(row, (1, n)), "row a: inputs", inputs, [""]),
        (update, "change of the weight: b times a", inputs, [""] * m),
    )
    largest = float(np.abs(update).max()) or 1.0
    for ax, (table, title, columns, rows) in zip(axes, tables, strict=True):
        ax.imshow(table, cmap="PuOr", vmin=-2.2 * largest, vmax=2.2 * largest)
        for (i, j), value in np.ndenumerate(table):
            ax.annotate(f"{value:g}", (j, i), ha="center", va="center", color=INK)
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(len(columns)), columns)
        ax.set_yticks(range(len(rows)), rows)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    finding = f"{m} + {n} numbers say all {m * n}: every row is a multiple of one row"
    set_title(figure, finding, "Purple adds, orange takes away.")

    def said(names: Sequence[str], values: Sequence[float]) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True))

    ties = "; ".join(f"{name}: {said(inputs, values)}" for name, values in zip(outputs, update.tolist(), strict=True))
    set_alt(
        figure,
        f"A column with a number for each output ({said(outputs, column)}), a row with a number for each input "
        f"({said(inputs, row)}), and their product, row by row: {ties}.",
    )
    return figure


# --- pictures ---------------------------------------------------------------------------------------------


def picture_parts(height: int = 120, width: int = 160) -> dict[str, np.ndarray]:
    """What the course's picture is made of: matrices of brightness from 0 to 1, drawn by formula.

    Example:
        >>> {name: int(np.linalg.matrix_rank(part)) for name, part in picture_parts().items()}
        {'sky': 1, 'fence': 1, 'windows': 1, 'roof': 31, 'sun': 16}
    """
    y, x = np.mgrid[0:height, 0:width] / height  # x runs to width / height
    return {
        "sky": 0.55 + 0.35 * (1 - y),
        "fence": 1.0 * (((y > 0.80) & (y < 0.93)) * (np.floor(24 * x) % 2 == 0)),
        "windows": 1.0 * (_stripes(x, 0.46, 0.83, 0.14) & _stripes(y, 0.52, 0.74, 0.13)),
        "roof": 1.0 * ((y > 0.22 + 0.9 * np.abs(x - 0.64)) & (y < 0.48)),
        "sun": 1.0 * ((x - 1.12) ** 2 + (y - 0.22) ** 2 < 0.13**2),
    }


def _stripes(place: np.ndarray, start: float, end: float, period: float) -> np.ndarray:
    return (place > start) & (place < end) & ((place - start) % period < 0.08)


def picture(height: int = 120, width: int = 160) -> np.ndarray:
    """A house on a hill under the sun: a matrix of brightness from 0 (black) to 1, drawn by formula.

    Example:
        >>> picture().shape, float(picture().min()) >= 0, float(picture().max()) <= 1
        ((120, 160), True, True)
    """
    parts = picture_parts(height, width)
    y, x = np.mgrid[0:height, 0:width] / height
    scene = parts["sky"].copy()
    layers = (
        (parts["sun"] > 0, 1.0),
        (y > 0.70 + 0.08 * np.sin(5.0 * x + 0.6), 0.42 + 0.12 * np.sin(9 * x + 7 * y)),  # the hill
        ((x > 0.36) & (x < 0.92) & (y > 0.46) & (y < 0.84), 0.78),  # the wall
        (parts["windows"] > 0, 0.25),
        (parts["roof"] > 0, 0.12),
        (parts["fence"] > 0, 0.95),
    )
    for where, brightness in layers:
        scene = np.where(where, brightness, scene)
    return scene


def _show(ax: Axes, image: np.ndarray, title: str) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title, fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(True)


def parts_and_ranks(parts: Mapping[str, np.ndarray], ranks: Mapping[str, int]) -> Figure:
    """Simple pictures with the rank of each.

    Example:
        >>> parts = picture_parts()
        >>> ranks = {name: int(np.linalg.matrix_rank(part)) for name, part in parts.items()}
        >>> print(parts_and_ranks(parts, ranks).get_suptitle())
        Sky, fence and windows have rank 1, the roof rank 31
    """
    figure, axes = new_figure(len(parts), (1.95 * len(parts), 2.6))
    for ax, (name, image) in zip(axes, parts.items(), strict=True):
        _show(ax, image, f"{name}: rank {ranks[name]}")
    ones = [name for name in parts if ranks[name] == 1]
    most = max(ranks, key=lambda name: ranks[name])
    finding = f"{_listed(ones)} {'have' if len(ones) > 1 else 'has'} rank 1, the {most} rank {ranks[most]}"
    set_title(figure, finding, "Black is 0, white is 1. Rank 1: every row is a multiple of one row.")
    details = ", ".join(f"{name} {rank}" for name, rank in ranks.items())
    set_alt(figure, f"Grey pictures in a row, each with its rank as a matrix: {details}.")
    return figure


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else "No part"


def images_at_rank(image: np.ndarray, ranks: Sequence[int]) -> Figure:
    """A picture beside its closest matrices of some ranks, with the share of its squared norm that they miss.

    Example:
        >>> print(images_at_rank(picture(), [1, 16]).get_suptitle())
        Rank 16 keeps 99.88% of this picture's squared norm in 23% of its
        numbers
    """
    U, S, Vh = np.linalg.svd(image, full_matrices=False)
    m, n = image.shape
    columns = len(ranks) + 1
    figure, axes = new_figure(columns, (max(5.6, 2.3 * columns), 2.95 if columns > 2 else 3.4))
    _show(axes[0], image, f"original\n{m} x {n} = {m * n:,} numbers")
    missed = {}
    for ax, k in zip(axes[1:], ranks, strict=True):
        missed[k] = float((S[k:] ** 2).sum() / (S**2).sum())
        stored = f"{k * (m + n):,} numbers ({k * (m + n) / (m * n):.0%})"
        _show(ax, np.clip((U[:, :k] * S[:k]) @ Vh[:k], 0, 1), f"rank {k}, misses {missed[k]:.2%}\n{stored}")
    k = ranks[-1]
    share = k * (m + n) / (m * n)
    finding = f"Rank {k} keeps {1 - missed[k]:.2%} of this picture's squared norm in {share:.0%} of its numbers"
    set_title(figure, finding, "Missed: squared Frobenius distance, as a share of the picture's squared norm.")
    details = "; ".join(f"rank {k} misses {share:.2%}" for k, share in missed.items())
    set_alt(
        figure,
        f"A grey picture of a house beside its closest matrices of low rank. Of its squared norm, {details}.",
    )
    return figure


# --- singular values --------------------------------------------------------------------------------------


def rounding(values: Sequence[float], threshold: float) -> Figure:
    """Singular values of a matrix on a logarithmic scale, and the threshold below which they are rounding.

    Example:
        >>> print(rounding([3.0, 2.0, 1e-7, 1e-8], threshold=1e-6).get_suptitle())
        2 singular values count; rounding alone left the other 2
    """
    array = np.asarray(values, dtype=float)
    figure, (ax,) = new_figure(1, (7.4, 3.7))
    index, above = np.arange(1, len(array) + 1), array > threshold
    ax.plot(index[above], array[above], linestyle="", color=BLUE, marker="o", label="counted")
    ax.plot(index[~above], array[~above], linestyle="", color=VERMILION, marker="x", label="rounding")
    ax.axhline(threshold, color=INK, linestyle="--", linewidth=1.2, label="rtol times the largest")
    ax.set_yscale("log")
    ax.set_xlabel("index of the singular value")
    ax.set_ylabel("singular value (log)")
    ax.legend(frameon=False, fontsize=9)
    most = array[~above].max(initial=0.0)
    finding = f"{above.sum()} singular values count; rounding alone left the other {(~above).sum()}"
    set_title(
        figure, finding, f"The others are at most {at_most(most / array[0])} of the largest of all, and not zero."
    )
    set_alt(
        figure,
        f"Dots on a logarithmic scale: {above.sum()} singular values from {number(array[0], tolerance=0)} to "
        f"{number(array[above][-1], tolerance=0)} above a line at {threshold:.1g}, {(~above).sum()} below it, at most "
        f"{at_most(most)}.",
    )
    return figure


def truncation_errors(errors: Mapping[str, Mapping[int, float]], tail: Mapping[int, float]) -> Figure:
    """Distance from a matrix by rank, for several ways to choose a matrix of that rank.

    Args:
        errors: by method, ``{k: Frobenius distance as a share of the norm}``; the first is the SVD's.
        tail: by k, the root of the sum of the squared singular values left out, as a share of the norm.

    Example:
        >>> best = {1: 0.5, 2: 0.2}
        >>> print(truncation_errors({"SVD": best, "columns": {1: 0.6, 2: 0.4}}, tail=best).get_suptitle())
        At every rank the SVD is closest; at rank 2 it misses 20.0% of the norm,
        columns 40.0%
    """
    figure, (ax,) = new_figure(1, (7.6, 4.1))
    for (name, by_k), (colour, marker, line) in zip(errors.items(), _LINES, strict=False):
        ax.plot(
            list(by_k), list(by_k.values()), color=colour, marker=marker, linestyle=line, linewidth=1.8, markersize=5,
            label=name,
        )  # fmt: skip
    ax.plot(
        list(tail), list(tail.values()), linestyle="", marker="o", markersize=11, fillstyle="none", color=INK,
        label="from the singular values left out",
    )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(tail), [str(k) for k in tail])
    ax.set_yscale("log")
    low = min(min(by_k.values()) for by_k in errors.values())
    ticks = [tick for tick in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if tick > 0.6 * low]
    ax.set_yticks(ticks, [f"{tick:.1%}" if tick < 0.01 else f"{tick:.0%}" for tick in ticks])
    ax.minorticks_off()
    ax.set_ylim(0.7 * low, 1.3)
    ax.set_xlabel("rank k")
    ax.set_ylabel("distance / norm of M (log)")
    ax.legend(frameon=False, fontsize=9)
    first, *others = errors
    k = sorted(tail)[len(tail) // 2]
    rival = min(others, key=lambda name: errors[name][k])
    close = [j for j in tail if all(errors[first][j] <= errors[name][j] + TOLERANCE for name in others)]
    misses = f"misses {errors[first][k]:.1%} of the norm, {rival} {errors[rival][k]:.1%}"
    if 2 * len(close) > len(tail):
        where = "At every rank" if len(close) == len(tail) else "At most ranks"
        finding = f"{where} the SVD is closest; at rank {k} it {misses}"
    else:
        finding = f"The matrix called {first} is not the closest here, so it is not the SVD's: at rank {k} it {misses}"
    off = max(abs(errors[first][j] - tail[j]) for j in tail)
    differs = "every distance agrees" if off <= TOLERANCE else f"distances differ from it by up to {off:.1%}"
    set_title(figure, finding, f"Circles: what the singular values left out predict; {differs}.")
    points = "; ".join(
        f"{name}: " + ", ".join(f"{j}: {v:.1%}" for j, v in by_k.items()) for name, by_k in errors.items()
    )
    set_alt(figure, f"Line plot of the relative distance by rank. {points}.")
    return figure


# --- memory -----------------------------------------------------------------------------------------------


def memory_check(frame: pd.DataFrame) -> Figure:
    """Predicted beside measured bytes of training.

    Args:
        frame: the columns ``method``, ``predicted`` (bytes), and measured bytes: ``weights``, ``gradients``,
            ``optimizer`` and ``activations``, which the prediction leaves out.

    Example:
        >>> import pandas as pd
        >>> columns = ["method", "predicted", "weights", "gradients", "optimizer", "activations"]
        >>> rows = [("full", 16e6, 4e6, 4e6, 8e6, 5e6), ("LoRA", 5e6, 4e6, 3e5, 7e5, 5e6)]
        >>> print(memory_check(pd.DataFrame(rows, columns=columns)).get_suptitle())
        The formula agrees with real AdamW steps to the byte. From full to LoRA gradients and
        states shrink to 1/12 of their size, activations to 100%
    """
    unit = 1e6 if frame["predicted"].min() >= 1e6 else 1e3
    figure, (ax,) = new_figure(1, (9.2, 1.9 + 0.95 * len(frame)))
    parts = (
        ("weights", GREY, "", "weights"),
        ("gradients", VERMILION, "//", "gradients"),
        ("optimizer", ORANGE, "..", "optimiser states"),
        ("activations", BLUE, "xx", "activations (no part of the formula)"),
    )
    names, ticks = [], []
    row: Any
    for place, row in enumerate(frame.itertuples()):
        top, low = 2.4 * place, 2.4 * place + 0.9
        ax.barh(top, row.predicted / unit, height=0.75, facecolor="white", edgecolor=INK, linewidth=1.4)
        ax.annotate(f" {row.predicted / unit:,.1f}", (row.predicted / unit, top), va="center", color=INK)
        start = 0.0
        for name, colour, hatch, label in parts:
            size = getattr(row, name) / unit
            ax.barh(
                low, size, left=start, height=0.75, color=colour, hatch=hatch, edgecolor="white", linewidth=0,
                label=label if not place else None,
            )  # fmt: skip
            start += size
        kept = start - row.activations / unit
        ax.annotate(f" {kept:,.1f} + {row.activations / unit:,.1f}", (start, low), va="center", color=INK)
        names += [f"{row.method}, predicted", f"{row.method}, measured"]
        ticks += [top, low]
    ax.set_yticks(ticks, names)
    ax.invert_yaxis()
    ax.set_xlim(
        0, 1.2 * max(frame["predicted"].max(), frame.drop(columns=["method", "predicted"]).sum(axis=1).max()) / unit
    )
    ax.set_xlabel("MB ($10^6$ bytes)" if unit == 1e6 else "kB ($10^3$ bytes)")
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    ax.grid(visible=False, axis="y")
    ax.legend(frameon=False, fontsize=9, ncols=2, loc="upper left", bbox_to_anchor=(0, -0.16))
    measured = frame["weights"] + frame["gradients"] + frame["optimizer"]
    off = float(((measured - frame["predicted"]).abs() / frame["predicted"]).max())
    gap = within(off) if off else "to the byte"
    first, last = frame.iloc[0], frame.iloc[-1]
    shrunk = (first["gradients"] + first["optimizer"]) / (last["gradients"] + last["optimizer"])
    finding = (
        f"The formula agrees with real AdamW steps {gap}. From {first['method']} to {last['method']} gradients and "
        f"states shrink to 1/{shrunk:.0f} of their size, activations to "
        f"{last['activations'] / first['activations']:.0%}"
    )
    set_title(
        figure, finding, "White bars: the formula. Coloured: tensors in memory after the steps; then activations."
    )
    numbers = "; ".join(
        f"{row['method']}: predicted {row['predicted'] / unit:,.1f}, measured {m / unit:,.1f}, "
        f"activations {row['activations'] / unit:,.1f}"
        for row, m in zip(frame.to_dict("records"), measured, strict=True)
    )
    set_alt(figure, f"Bars of {'MB' if unit == 1e6 else 'kB'} kept in training. {numbers}.")
    return figure
