"""Figures of training: what goes into a batch, the schedule, losses, methods compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lora_ref.plots.base import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    STYLES,
    VERMILION,
    end_labels,
    for_text,
    new_figure,
    set_alt,
    set_title,
    smooth,
    wilson_interval,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lora_ref.training import TrainingResult

# Okabe and Ito's colours, and a line style each for prints without colour
_LINES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."))


def padding(fixed: int, dynamic: int, text: int, width: int) -> Figure:
    """Tokens that a model reads in one pass: padded to ``width``, padded batch by batch, and the text's own.

    Example:
        >>> print(padding(fixed=512_000, dynamic=31_000, text=24_000, width=512).get_suptitle())
        Padded to 512, the model reads 16.5 times as many tokens as padded
        batch by batch
    """
    figure, (ax,) = new_figure(1, (7.2, 2.6))
    bars = [(f"padded to {width}", fixed), ("padded to each\nbatch's longest", dynamic), ("without padding", text)]
    for place, (_, tokens) in enumerate(bars):
        ax.barh(place, tokens, color=GREY, height=0.6)
        ax.barh(place, text, color=_LINES[0][0], height=0.6)
        ax.annotate(f" {tokens:,}", (tokens, place), va="center", color=INK)
    ax.set_yticks(range(len(bars)), [name for name, _ in bars])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.18 * fixed)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.xaxis.set_major_locator(_few_ticks())
    ax.set_xlabel("tokens in one pass over the training sentences")
    ax.grid(False)
    finding = f"Padded to {width}, the model reads {fixed / dynamic:.1f} times as many tokens as padded batch by batch"
    share = 1 - text / dynamic
    set_title(
        figure,
        finding,
        f"Blue: the sentences' own tokens; grey: padding. Batch by batch, {100 * share:.0f}% is padding.",
    )
    set_alt(
        figure,
        f"Three bars of tokens in one pass: {fixed:,} padded to {width}, {dynamic:,} padded to the longest of each "
        f"batch, {text:,} without padding.",
    )
    return figure


def schedules(multipliers: Mapping[str, Sequence[float]]) -> Figure:
    """The learning rate's multiplier at each step of a run, one line a schedule.

    Example:
        >>> from lora_ref.training import linear_schedule
        >>> figure = schedules({"warm-up of 10": [linear_schedule(step, 100, 10) for step in range(101)]})
        >>> figure.axes[0].get_xlabel()
        'step'
    """
    figure, (ax,) = new_figure(1, (7.2, 3.4))
    details = []
    for (name, values), (colour, style) in zip(multipliers.items(), _LINES, strict=False):
        ax.plot(range(len(values)), values, color=colour, linestyle=style, linewidth=2, label=name)
        peak = max(values)
        at = list(values).index(peak)
        ax.plot(at, peak, color=colour, marker="o", linestyle="none", clip_on=False)
        details.append((name, peak, at))
    ax.set_xlabel("step")
    ax.set_ylabel("share of the learning rate")
    ax.set_ylim(0, 1.05)
    ax.legend(frameon=False)
    steps = max(len(values) for values in multipliers.values()) - 1
    name, peak, _ = min(details, key=lambda line: line[1])
    finding = f"With a {name}, a run of {steps} steps never exceeds {100 * peak:.0f}% of its learning rate"
    set_title(figure, finding, "Dots: each schedule's largest value.")
    lines = "; ".join(f"{name}: largest value {peak:.2f}, at step {at}" for name, peak, at in details)
    set_alt(figure, f"Line plot of the learning rate's multiplier over {steps} steps. {lines}.")
    return figure


def own_loop(losses: Sequence[float], batch_size: int) -> Figure:
    """Losses of a loop that somebody wrote by hand.

    Example:
        >>> print(own_loop([0.7] * 5 + [0.3] * 15, batch_size=16).get_suptitle())
        In 20 steps the loss falls from 0.70 to 0.30
    """
    figure, (ax,) = new_figure(1, (7.2, 3.4))
    trend = smooth(losses)
    colour = _LINES[0][0]
    ax.plot(losses, color=colour, linewidth=1, alpha=0.35, marker=".", label="each batch")
    ax.plot(trend, color=colour, linewidth=2.4, label="mean of the last five")
    ax.axhline(math.log(2), color=GREY, linewidth=1, linestyle=":", label="guessing, 0.69")
    ax.set_xlabel(f"step (batches of {batch_size} sentences)")
    ax.set_ylabel("cross-entropy (nats per sentence)")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(_few_ticks())
    ax.legend(frameon=False, loc="lower left")
    start = sum(losses[:5]) / len(losses[:5])
    word = "falls" if trend[-1] < start else "does not fall:"
    finding = f"In {len(losses)} steps the loss {word} from {start:.2f} to {trend[-1]:.2f}"
    set_title(figure, finding, "Numbers in the title: means of the first and of the last five steps.")
    set_alt(
        figure,
        f"Line plot of training loss, batch by batch: first {losses[0]:.2f}, last {losses[-1]:.2f}, lowest "
        f"{min(losses):.2f}; guessing would be 0.69.",
    )
    return figure


def variations(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Losses of several variations of one training on the same batches; the first is the plain one.

    Example:
        >>> falling, flat = [0.7, 0.5, 0.3, 0.2, 0.2, 0.2, 0.2], [0.7] * 7
        >>> print(variations({"LoRA": falling, "LoRA+": flat}).get_suptitle())
        Clearly below guessing after 7 steps: LoRA (0.22)
    """
    figure, (ax,) = new_figure(1, (7.2, 4.0))
    markers = ("o", "s", "^", "D", "v")
    trends = {name: smooth(losses) for name, losses in curves.items()}
    for (name, trend), colour, marker in zip(
        trends.items(), (BLUE, ORANGE, GREEN, VERMILION, PURPLE), markers, strict=False
    ):
        ax.plot(trend, color=colour, marker=marker, markevery=0.1, markersize=5, linewidth=2, label=name)
    ax.axhline(math.log(2), color=GREY, linewidth=1, linestyle=":", label="guessing, 0.69")
    ax.set_xlabel("step")
    ax.set_ylabel("cross-entropy (nats per sentence)")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, ncols=2)
    steps = max(len(trend) for trend in trends.values())
    ends = ", ".join(f"{name} {trend[-1]:.2f}" for name, trend in trends.items())
    learned = [f"{name} ({trend[-1]:.2f})" for name, trend in trends.items() if trend[-1] < math.log(2) - 0.05]
    if len(learned) == len(trends):
        last = [trend[-1] for trend in trends.values()]
        finding = f"All {len(trends)} learn: losses from {min(last):.2f} to {max(last):.2f} after {steps} steps"
    else:
        finding = f"Clearly below guessing after {steps} steps: {', '.join(learned) or 'none'}"
    set_title(figure, finding, "Means over five steps; the same batches in the same order. One seed.")
    set_alt(figure, f"Line plot of training losses. Ends: {ends}.")
    return figure


def loss_curves(results: Sequence[TrainingResult]) -> Figure:
    """Training loss against the step, one line a run.

    Raises:
        ValueError: there are no results, or one has no losses.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> from lora_ref.training import fine_tune
        >>> result = fine_tune("lora", TINY, max_steps=10, progress=False)
        >>> loss_curves([result]).axes[0].get_xlabel()
        'step (batches of 16 sentences)'
    """
    _some(results)
    figure, axes = new_figure(1, (7.2, 4.4))
    (ax,) = axes
    ends = []
    for result in results:
        if not result.losses:
            raise ValueError(f"the {result.method} run has no losses to draw")
        colour, marker, _ = STYLES[result.method]
        trend = smooth(result.losses)
        ax.plot(result.steps, result.losses, color=colour, linewidth=1, alpha=0.35)
        ax.plot(result.steps, trend, color=colour, marker=marker, markersize=4, linewidth=2, markevery=(0.04, 0.12))
        ends.append((result, trend[-1]))
    first, last = min(r.steps[0] for r in results), max(r.steps[-1] for r in results)
    ax.plot([first, last], [math.log(2)] * 2, color=GREY, linewidth=1, linestyle=":")
    end_labels(
        ax,
        [(last, math.log(2), "guessing, 0.69", GREY)]
        + [(last, loss, f"{_name(r, results)}, {loss:.2f}", STYLES[r.method][0]) for r, loss in ends],
    )
    ax.set_xlabel(f"step (batches of {_profile(results[0]).train_batch_size} sentences)")
    ax.set_ylabel("training cross-entropy (nats per sentence)")
    ax.set_ylim(bottom=0)
    finding = _loss_finding([(_name(r, results), loss) for r, loss in ends])
    set_title(figure, finding, f"Profile {results[0].profile}. Thin: as logged; bold: running mean of the last five.")
    changes = "; ".join(f"{_name(r, results)} from {r.losses[0]:.2f} to {loss:.2f}" for r, loss in ends)
    set_alt(figure, f"Line plot of training loss against step: {changes}.")
    return figure


def compare_methods(results: Sequence[TrainingResult]) -> Figure:
    """Accuracy of LoRA, head only and full fine-tuning against what they cost: trainable parameters, and seconds.

    Filled: held-out test sentences, with the 95% Wilson interval; hollow, beside it: validation. The interval is
    about which sentences were drawn, not about the seed.

    Raises:
        ValueError: there are no results.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> from lora_ref.training import fine_tune
        >>> result = fine_tune("head", TINY, max_steps=1, progress=False)
        >>> [ax.get_xlabel() for ax in compare_methods([result]).axes]
        ['trainable parameters (log scale)', 'training time (seconds)']
    """
    _some(results)
    from matplotlib.transforms import ScaledTranslation  # validation beside test, not on it; 72 points are an inch

    figure, axes = new_figure(2, (9.6, 4.6), sharey=True)
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
                color=for_text(colour),
                fontweight="bold",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
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
    set_title(
        figure,
        finding,
        f"Filled: {sentences} held-out sentences, bars the 95% interval; hollow, beside it: validation. "
        f"Profile {results[0].profile}.",
    )
    points = "; ".join(
        f"{_name(r, results)} {r.test['accuracy']:.3f} on test and {r.validation['accuracy']:.3f} on validation with "
        f"{r.trainable:,} trainable parameters in {r.seconds:.0f} s"
        for r in results
    )
    set_alt(figure, f"Accuracy against trainable parameters and against training time: {points}.")
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
    words = f"LoRA reaches {mean['lora']:.3f} by training {100 * lora.trainable / lora.total:.1f}% of the parameters"
    against = [
        _difference(mean["lora"], mean[other], lora.test["n"], name)
        for other, name in (("head", "the head alone"), ("full", "full fine-tuning"))
        if other in mean
    ]
    return words + (": " + ", ".join(against) if against else "")


def _difference(ours: float, theirs: float, n: float, name: str) -> str:
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


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, integer=True)
