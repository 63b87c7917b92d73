"""Figures of stage 02. Each takes numbers, says in its title what they show, and has a text for `plots.describe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lora_ref.plots.base import BLUE, GREEN, VERMILION, first_upper, new_figure, set_alt, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours; a marker for each as well, for prints without colour
_A, _B, _THIRD = (BLUE, "o"), (VERMILION, "s"), (GREEN, "D")


def first_gradients(norms_A: Sequence[float], norms_B: Sequence[float]) -> Figure:
    """Gradient norms of A and B over the first steps of training.

    Example:
        >>> print(first_gradients([0.0, 0.02, 0.03], [0.12, 0.06, 0.04]).get_suptitle())
        At step 0 the gradient of A is exactly 0, that of B is not
    """
    figure, (ax,) = new_figure(1, (7.2, 3.6))
    steps = range(len(norms_A))
    for norms, name, (colour, marker) in ((norms_B, "gradient of B", _B), (norms_A, "gradient of A", _A)):
        ax.plot(steps, norms, color=colour, marker=marker, linewidth=2, label=name, clip_on=False)
    ax.set_xlabel("step")
    ax.set_ylabel("Frobenius norm of the gradient")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    if norms_A[0] == 0 < norms_B[0]:
        finding = "At step 0 the gradient of A is exactly 0, that of B is not"
    else:
        finding = f"At step 0 the gradients of A and B have norms {norms_A[0]:.2g} and {norms_B[0]:.2g}"
    set_title(figure, finding, "One LoRA layer, plain gradient descent.")
    last = len(norms_A) - 1
    set_alt(
        figure,
        f"Line plot of two gradient norms over {last + 1} steps. At step 0 they are {norms_A[0]:.2g} (A) and "
        f"{norms_B[0]:.2g} (B), at step {last} {norms_A[last]:.2g} (A) and {norms_B[last]:.2g} (B).",
    )
    return figure


def step_sizes(sizes: Mapping[str, Mapping[int, Sequence[float]]]) -> Figure:
    """The update's size after one optimiser step by rank, one line per rule: ``{rule: {rank: [one value per seed]}}``.

    Example:
        >>> rules = {"alpha / r": {1: [0.02], 64: [0.003]}, "alpha / sqrt(r)": {1: [0.02], 64: [0.024]}}
        >>> print(step_sizes(rules).get_suptitle())
        The update after one Adam step is 0.15 times (alpha / r) and 1.2
        times (alpha / sqrt(r)) as large at rank 64 as at rank 1
    """
    figure, (ax,) = new_figure(1, (7.2, 4.0))
    details, shown = [], []
    for (rule, by_rank), (colour, marker) in zip(sizes.items(), (_A, _B, _THIRD), strict=False):
        ranks, mean = list(by_rank), [float(np.mean(values)) for values in by_rank.values()]
        ax.plot(ranks, mean, color=colour, marker=marker, linewidth=2, label=rule)
        ax.fill_between(
            ranks, [min(v) for v in by_rank.values()], [max(v) for v in by_rank.values()], color=colour, alpha=0.2
        )
        details.append((rule, mean[-1] / mean[0]))
        shown.append(f"{rule}: " + ", ".join(f"{rank}: {size:.2g}" for rank, size in zip(ranks, mean, strict=True)))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(ranks, [str(rank) for rank in ranks])
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    ax.set_xlabel("rank r")
    ax.set_ylabel("Frobenius norm of scaling * B A")
    ax.legend(frameon=False)
    changes = " and ".join(f"{ratio:.2g} times ({rule})" for rule, ratio in details)
    finding = f"The update after one Adam step is {changes} as large at rank {ranks[-1]} as at rank {ranks[0]}"
    seeds = len(next(iter(next(iter(sizes.values())).values())))
    set_title(figure, finding, f"Logarithmic axes. Line: mean of {seeds} seeds; band (narrow): smallest to largest.")
    set_alt(figure, f"Line plot of the update's size after one step, by rank. {'; '.join(shown)}.")
    return figure


def learned_updates(target: np.ndarray, learned: Mapping[int, np.ndarray]) -> Figure:
    """The wanted update beside what LoRA of several ranks learned, as heat maps in one colour scale.

    Example:
        >>> wanted = np.outer([1.0, 2.0], [1.0, 1.0, 1.0]) + np.outer([1.0, 0.0], [0.0, 1.0, -1.0])
        >>> print(learned_updates(wanted, {1: np.outer([1.0, 2.0], [1.0, 1.0, 1.0]), 2: wanted}).get_suptitle())
        Rank 2 learns all but 0.0% of this update; rank 1 misses 12%
    """
    figure, axes = new_figure(1 + len(learned), (1.0 + 2.1 * (1 + len(learned)), 3.1), sharey=True)
    top = float(np.abs(target).max())
    errors = {rank: float(((found - target) ** 2).sum() / (target**2).sum()) for rank, found in learned.items()}
    pictures = [("wanted", target)] + [(f"rank {r}, error {errors[r]:.1%}", found) for r, found in learned.items()]
    for ax, (name, matrix) in zip(axes, pictures, strict=True):
        image = ax.imshow(matrix, cmap="PuOr", vmin=-top, vmax=top, aspect="auto", interpolation="nearest")
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("input feature")
        ax.grid(False)
    axes[0].set_ylabel("output feature")
    figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01, label="entry")
    good = [rank for rank, error in errors.items() if error < 0.05]
    finding = (
        f"Rank {good[0]} learns all but {errors[good[0]]:.1%} of this update; "
        f"rank {min(errors)} misses {errors[min(errors)]:.0%}"
        if good
        else f"No rank up to {max(errors)} learns this update"
    )
    set_title(figure, finding, "Error: squared Frobenius distance, as a share of the wanted update's squared norm.")
    details = "; ".join(f"rank {rank}: {error:.1%}" for rank, error in errors.items())
    set_alt(figure, f"Heat maps of the wanted update and of learned ones in one colour scale. Errors: {details}.")
    return figure


def rank_and_spectrum(
    errors: Mapping[str, Sequence[float]], floor: Mapping[str, float], spectra: Mapping[str, np.ndarray]
) -> Figure:
    """Left: what each method leaves unlearned, beside the least possible. Right: singular values of learned updates.

    Args:
        errors: by method, one value per seed.
        floor: by method, the least that any update of its rank leaves.
        spectra: singular values of some of the methods' updates, largest first.

    Example:
        >>> errors = {"rank 1": [0.31], "rank 2": [0.02], "full": [0.05]}
        >>> floor = {"rank 1": 0.30, "rank 2": 0.0, "full": 0.0}
        >>> values = {"rank 2": np.array([3.0, 2.0]), "full": np.array([3.0, 2.0, 0.4])}
        >>> print(rank_and_spectrum(errors, floor, values).get_suptitle())
        Rank 2 misses 2.0% of the update, with 2 singular values above zero; full misses 5.0% of
        the update, with 3 singular values above zero
    """
    figure, (left, right) = new_figure(2, (9.4, 3.9))
    places = range(len(errors))
    for place, values in zip(places, errors.values(), strict=True):
        label = "measured, one point for each seed" if place == 0 else None
        spread = [place] * len(values)
        left.plot(spread, values, linestyle="", color=_A[0], marker=_A[1], markersize=8, alpha=0.6, label=label)
    label = "least possible at that rank (SVD)"
    left.plot(places, [floor[m] for m in errors], linestyle="", color="black", marker="_", markersize=22, label=label)
    left.set_xticks(places, list(errors))
    left.set_ylabel("share of the update missed")
    left.set_ylim(-0.02, 1.2 * max(max(v) for v in errors.values()))
    left.legend(frameon=False, fontsize=9)
    counts = {}
    for (name, spectrum), (colour, marker) in zip(spectra.items(), (_B, _A, _THIRD), strict=False):
        index = np.arange(1, len(spectrum) + 1)
        right.plot(index, spectrum, color=colour, marker=marker, markersize=5, linewidth=1.5, label=name)
        counts[name] = int((spectrum > 1e-3 * spectrum[0]).sum())
    right.set_xlabel("index of the singular value")
    right.set_ylabel("singular value")
    right.legend(frameon=False, fontsize=9)
    finding = "; ".join(
        f"{name} misses {np.mean(errors[name]):.1%} of the update, with {counts[name]} singular values above zero"
        for name in spectra
    )
    set_title(figure, first_upper(finding), "Above zero: more than a thousandth of the largest.")
    by_method = "; ".join(f"{m} {np.mean(v):.1%} (least possible {floor[m]:.1%})" for m, v in errors.items())
    sizes = "; ".join(f"{name} from {values[0]:.2g} down to {values[-1]:.2g}" for name, values in spectra.items())
    set_alt(figure, f"Left, dots and marks, share missed: {by_method}. Right, spectra: {sizes}.")
    return figure
