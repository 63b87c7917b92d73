"""Figures of the course. Each function returns a matplotlib figure whose title says what the numbers show.

The words are computed from the numbers, like everything else in the figure; `describe` gives a figure's text for
readers who do not see it. Colours are Okabe and Ito's, which colour-blind readers can tell apart; methods differ in
shape as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lora_ref.training import TrainingResult

#: Okabe and Ito (2008), "Color universal design": one colour a method, and a marker for prints without colour.
STYLES = {
    "head": ("#E69F00", "s", "head only"),
    "lora": ("#0072B2", "o", "LoRA"),
    "full": ("#009E73", "D", "full fine-tuning"),
}
_INK, _GREY = "#222222", "#6B6B6B"


def wilson_interval(accuracy: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Lower and upper end of the 95 % interval for an accuracy measured on ``n`` sentences (Wilson, 1927).

    Raises:
        ValueError: ``accuracy`` is not in [0, 1], or ``n`` is below 1.
    """
    if not 0 <= accuracy <= 1 or n < 1:
        raise ValueError(f"accuracy must be in [0, 1] and n at least 1, got {accuracy} and {n}")
    middle = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def describe(figure: Figure) -> str:
    """The figure in words, for an ``alt`` attribute or a screen reader."""
    return getattr(figure, "lora_alt", "")


def loss_curves(results: Sequence[TrainingResult]) -> Figure:
    """Training loss against the step, one line a run.

    Raises:
        ValueError: there are no results, or one has no losses.
    """
    _some(results)
    figure, axes = _figure(1, (7.2, 4.4))
    (ax,) = axes
    ends = []
    for result in results:
        if not result.losses:
            raise ValueError(f"the {result.method} run has no losses to draw")
        colour, marker, _ = STYLES[result.method]
        smooth = _smooth(result.losses)
        ax.plot(result.steps, result.losses, color=colour, linewidth=1, alpha=0.35)
        ax.plot(result.steps, smooth, color=colour, marker=marker, markersize=4, linewidth=2, markevery=(0.04, 0.12))
        ends.append((result, smooth[-1]))
    first, last = min(r.steps[0] for r in results), max(r.steps[-1] for r in results)
    ax.plot([first, last], [math.log(2)] * 2, color=_GREY, linewidth=1, linestyle=":")
    _end_labels(
        ax,
        [(last, math.log(2), "guessing, 0.69", _GREY)]
        + [(last, loss, f"{_name(r, results)}, {loss:.2f}", STYLES[r.method][0]) for r, loss in ends],
    )
    ax.set_xlabel(f"step (batches of {_profile(results[0]).train_batch_size} sentences)")
    ax.set_ylabel("training cross-entropy (nats a sentence)")
    ax.set_ylim(bottom=0)
    finding = _loss_finding([(_name(r, results), loss) for r, loss in ends])
    _title(
        figure, finding, f"{_profile(results[0]).name} profile. Thin: as logged; bold: running mean of the last five."
    )
    changes = "; ".join(f"{_name(r, results)} from {r.losses[0]:.2f} to {loss:.2f}" for r, loss in ends)
    figure.lora_alt = f"Line plot of training loss against step: {changes}. {_first_upper(finding)}."
    return figure


def compare_methods(results: Sequence[TrainingResult]) -> Figure:
    """Accuracy of LoRA, head only and full fine-tuning against what they cost: trainable parameters, and seconds.

    Filled: held-out test sentences, with the 95 % Wilson interval; hollow, beside it: validation. The interval is
    about which sentences were drawn, not about the seed.

    Raises:
        ValueError: there are no results.
    """
    _some(results)
    from matplotlib.transforms import ScaledTranslation  # validation beside test, not on it; 72 points are an inch

    figure, axes = _figure(2, (9.6, 4.6), sharey=True)
    accuracies = [accuracy for r in results for accuracy in (r.validation["accuracy"], r.test["accuracy"])]
    lows = [wilson_interval(r.test["accuracy"], r.test["n"])[0] for r in results]
    for ax, cost in zip(axes, (lambda r: r.trainable, lambda r: r.seconds), strict=True):
        for result in results:
            colour, marker, _ = STYLES[result.method]
            test, x = result.test["accuracy"], cost(result)
            low, high = wilson_interval(test, result.test["n"])
            ax.errorbar(
                x,
                test,
                yerr=[[test - low], [high - test]],
                color=colour,
                marker=marker,
                markersize=9,
                capsize=4,
                linewidth=1.8,
            )
            ax.plot(
                x,
                result.validation["accuracy"],
                marker=marker,
                markersize=9,
                markerfacecolor="white",
                markeredgecolor=colour,
                markeredgewidth=1.6,
                linestyle="none",
                transform=ax.transData + ScaledTranslation(12 / 72, 0, figure.dpi_scale_trans),
            )
            ax.annotate(
                _name(result, results).replace(" fine-tuning", ""),
                (x, low),
                xytext=(0, -6),
                textcoords="offset points",
                ha="center",
                va="top",
                color=colour,
                fontweight="bold",
            )
        ax.margins(x=0.22)
    left, right = axes
    left.set_xscale("log")
    left.set_xlim(min(r.trainable for r in results) / 4, max(r.trainable for r in results) * 4)
    left.set_xlabel("trainable parameters (log scale)")
    left.set_ylabel("accuracy (share of sentences)")
    right.set_xlim(0, 1.2 * max(r.seconds for r in results))
    right.set_xlabel("training time (seconds)")
    bottom = min(*accuracies, *lows)
    top = max(wilson_interval(r.test["accuracy"], r.test["n"])[1] for r in results)
    left.set_ylim(bottom - 0.16 * (top - bottom), max(top, *accuracies) + 0.06 * (top - bottom))
    finding = _finding(results)
    n = {r.test["n"] for r in results}
    sentences = f"{min(n):,}" if len(n) == 1 else f"{min(n):,} to {max(n):,}"
    _title(
        figure,
        finding,
        f"Filled: {sentences} held-out sentences, bars the 95 % interval; hollow, beside it: validation. "
        f"{_profile(results[0]).name} profile.",
    )
    points = "; ".join(
        f"{_name(r, results)} {r.test['accuracy']:.3f} on test and {r.validation['accuracy']:.3f} on validation with "
        f"{r.trainable:,} trainable parameters in {r.seconds:.0f} s"
        for r in results
    )
    figure.lora_alt = (
        f"Accuracy against trainable parameters and against training time: {points}. {_first_upper(finding)}."
    )
    return figure


# --- words ------------------------------------------------------------------------------------------------


def _finding(results: Sequence[TrainingResult]) -> str:
    """What the comparison says, on held-out sentences; with several runs of a method, its mean."""
    mean = {}
    for method in STYLES:
        runs = [r for r in results if r.method == method]
        if runs:
            mean[method] = sum(r.test["accuracy"] for r in runs) / len(runs)
    if "lora" not in mean:
        best = max(mean, key=lambda method: mean[method])
        return f"{STYLES[best][2]} reaches {mean[best]:.3f} on held-out sentences"
    lora = next(r for r in results if r.method == "lora")
    words = f"LoRA reaches {mean['lora']:.3f} by training {100 * lora.trainable / lora.total:.1f} % of the parameters"
    against = [
        _difference(mean["lora"], mean[other], lora.test["n"], name)
        for other, name in (("head", "the head alone"), ("full", "full fine-tuning"))
        if other in mean
    ]
    return words + (": " + ", ".join(against) if against else "")


def _difference(ours: float, theirs: float, n: int, name: str) -> str:
    """The difference in points; one that another draw of ``n`` sentences could turn round is called level."""
    points = 100 * (ours - theirs)
    if abs(ours - theirs) <= 1.96 * math.sqrt((ours * (1 - ours) + theirs * (1 - theirs)) / n):
        return f"level with {name} within sampling error ({points:+.1f} points)"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {name}"


def _loss_finding(ends: Sequence[tuple[str, float]]) -> str:
    """Who ends lowest; losses that read the same are level."""
    ends = sorted(ends, key=lambda pair: pair[1])
    lowest = f"{ends[0][1]:.2f}"
    best = [name for name, loss in ends if f"{loss:.2f}" == lowest]
    rest = ", ".join(f"{name} {loss:.2f}" for name, loss in ends[len(best) :])
    if len(ends) == 1:
        return f"{best[0]}: the training loss ends at {lowest}"
    if len(best) == 1:
        return f"{best[0]} ends with the lowest training loss, {lowest}; {rest}"
    level = f"{', '.join(best[:-1])} and {best[-1]} end level, with a training loss of {lowest}"
    return level + (f"; {rest}" if rest else "")


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _name(result: TrainingResult, results: Sequence[TrainingResult]) -> str:
    """The method's name, with the rank or the seed where several runs share it."""
    name = STYLES[result.method][2]
    same = [r for r in results if r.method == result.method]
    if len({r.rank for r in same}) > 1:
        name += f" r={result.rank}"
    if len({r.seed for r in same}) > 1:
        name += f" seed {result.seed}"
    return name


# --- layout -----------------------------------------------------------------------------------------------


def _some(results: Sequence[TrainingResult]) -> None:
    if not results:
        raise ValueError("no results to draw")


def _profile(result: TrainingResult):
    from lora_ref.profiles import get

    return get(result.profile)


def _figure(columns: int, size: tuple[float, float], **options) -> tuple[Figure, list[Axes]]:
    """A figure that is the caller's alone.

    It is made with pyplot, because that is what teaches a notebook to show figures, and closed there, because a
    notebook would show an open one twice.
    """
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(1, columns, figsize=size, dpi=120, layout="constrained", squeeze=False, **options)
    plt.close(figure)
    axes = list(grid[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, axes


def _title(figure: Figure, finding: str, note: str) -> None:
    import textwrap

    width = int(9.6 * figure.get_figwidth())
    figure.suptitle(
        "\n".join(textwrap.wrap(_first_upper(finding), width)),
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
        color=_INK,
    )
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5, color=_GREY)


def _smooth(values: Sequence[float], window: int = 5) -> list[float]:
    return [sum(part) / len(part) for i in range(len(values)) for part in [values[max(0, i + 1 - window) : i + 1]]]


def _end_labels(ax: Axes, labels: list[tuple[float, float, str, str]]) -> None:
    """Name each line at its end, moved apart where ends are near: a reader need not match colours with a legend."""
    top = max(ax.get_ylim()[1], *(y for _, y, _, _ in labels))
    gap, last = 0.06 * top, -math.inf
    for x, y, text, colour in sorted(labels, key=lambda label: label[1]):
        place = last = max(y, last + gap)
        ax.annotate(
            text,
            (x, y),
            xytext=(x * 1.02, place),
            textcoords="data",
            va="center",
            color=colour,
            fontweight="bold",
            fontsize=9,
            annotation_clip=False,
        )
