"""Figures of the vision labs. Each takes results, says in its title what they show, and has a text for `describe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_ref.plots.base import BLUE, GREY, INK, STYLES, VERMILION, new_figure, set_alt, set_title, wilson_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lora_ref.vision import OneDigitResult, VitResult

# Okabe and Ito's colours, and a marker each for prints without colour
_ON, _OFF = VERMILION, BLUE


def one_digit_figure(result: OneDigitResult) -> Figure:
    """Errors on each digit: before, with LoRA on, and with LoRA off again; the one digit stands out.

    Example:
        >>> from lora_ref import vision
        >>> from lora_ref.data import mnist
        >>> from lora_ref.profiles import TINY
        >>> import dataclasses
        >>> data = mnist(TINY, train_size=100, test_size=40)
        >>> recipe = dataclasses.replace(vision.PUBLISHED, batches=3)
        >>> result = vision.one_digit(recipe, data=data, progress=False)
        >>> one_digit_figure(result).axes[0].get_xlabel()
        'digit'
    """
    figure, (ax,) = new_figure(1, (9.2, 4.4))
    digits, digit = range(10), result.digit
    before, on, off = result.before, result.on, result.off
    ax.axvspan(digit - 0.45, digit + 0.45, color="#F0E442", alpha=0.3, linewidth=0)
    ax.bar([d - 0.2 for d in digits], before.errors, width=0.36, color=GREY, label="before")
    ax.bar([d + 0.2 for d in digits], on.errors, width=0.36, color=_ON, hatch="//", edgecolor="white", label="LoRA on")
    ax.plot(
        [d - 0.2 for d in digits],
        off.errors,
        linestyle="none",
        marker="o",
        markersize=8,
        markerfacecolor="white",
        markeredgecolor=_OFF,
        markeredgewidth=2,
        label="LoRA off again",
        clip_on=False,
        zorder=4,
    )
    ax.set_xlim(-0.6, 9.6)
    for d in digits:
        for x, count in ((d - 0.2, before.errors[d]), (d + 0.2, on.errors[d])):
            ax.annotate(
                str(count),
                (x, count),
                xytext=(0, 7 if x < d else 3),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                color=INK,
            )
    ax.set_xticks(digits, [str(d) for d in digits])
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("digit")
    images = sorted(set(result.images_per_digit))
    each = f"{images[0]:,}" if len(images) == 1 else f"{images[0]:,} to {images[-1]:,}"
    ax.set_ylabel(f"test images named wrong (of {each} each)")
    ax.set_ylim(0, 1.12 * max(1, *before.errors, *on.errors))
    handles, names = ax.get_legend_handles_labels()
    order = [names.index(name) for name in ("before", "LoRA on", "LoRA off again")]
    ax.legend(
        [handles[i] for i in order],
        [names[i] for i in order],
        frameon=False,
        ncols=3,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
    )
    finding = (
        f"LoRA takes the errors on {digit} from {before.errors[digit]} to {on.errors[digit]}; overall accuracy "
        f"{_moves(before.accuracy, on.accuracy)}"
    )
    switched = (
        "Switched off, the logits are the base model's bit for bit."
        if result.off_is_identical
        else (f"Switched off, accuracy is {off.accuracy:.3f}, and the logits are not the base model's.")
    )
    set_title(
        figure,
        finding,
        f"Recipe: {result.recipe.name}. Other digits called {digit}: {before.false_positives} before, "
        f"{on.false_positives} with LoRA. {switched}",
    )
    details = "; ".join(f"{d}: {before.errors[d]}, {on.errors[d]}, {off.errors[d]}" for d in digits)
    set_alt(
        figure,
        f"Bars of test errors by digit: before LoRA, with it on, with it off again. {details}. Accuracy: "
        f"{before.accuracy:.3f}, {on.accuracy:.3f}, {off.accuracy:.3f}.",
    )
    return figure


def _moves(before: float, after: float) -> str:
    old, new = f"{before:.3f}", f"{after:.3f}"
    if old == new:
        return f"stays at {new}"
    return f"{'rises' if after > before else 'falls'} from {old} to {new}"


def vit_figure(results: Sequence[VitResult]) -> Figure:
    """Accuracy on the new task by method, and on the original task once the adapter is off.

    Raises:
        ValueError: there are no results.

    Example:
        >>> from lora_ref import vision
        >>> from lora_ref.data import mnist
        >>> from lora_ref.profiles import TINY
        >>> data = mnist(TINY, train_size=40, test_size=20)
        >>> options = {"epochs": 1, "adapt_epochs": 1, "adapt_images": 20, "progress": False}
        >>> results = vision.rotated_digits(vision.SMALL_METHODS[:1], data=data, **options)
        >>> len(vit_figure(results).axes)
        2
    """
    if not results:
        raise ValueError("no results to draw")
    both = all(result.original is not None for result in results)
    size = (9.8 if both else 7.2, 1.7 + 0.5 * len(results))
    figure, axes = new_figure(2 if both else 1, size, sharey=True)
    places = range(len(results))
    for ax, originals in zip(axes, (False, True), strict=False):
        for place, result in zip(places, results, strict=True):
            colour, marker, _ = STYLES[result.method.kind]
            value = result.original if originals else result.adapted
            assert value is not None  # the second panel is drawn only where all have it
            low, high = wilson_interval(value, result.n)
            ax.errorbar(
                value,
                place,
                xerr=[[value - low], [high - value]],
                color=colour,
                marker=marker,
                markersize=8,
                capsize=4,
                linewidth=1.8,
                clip_on=False,
            )
            ax.annotate(
                f"{value:.3f}",
                (value, place),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
        start = results[0].original_before if originals else results[0].before
        if start is not None:
            ax.axvline(start, color=GREY, linestyle=":", linewidth=1.4)
            ax.annotate(
                f"before: {start:.3f}",
                (start, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-4, 2) if start > 0.5 else (4, 2),
                textcoords="offset points",
                ha="right" if start > 0.5 else "left",
                fontsize=9,
                color=GREY,
            )
        ax.set_xlim(0 if both else max(0.0, 0.95 * min(r.adapted for r in results) - 0.05), 1)
        ax.set_ylim(len(results) - 0.5, -0.7)
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        ax.tick_params(axis="y", length=0)
    percent = [f"{100 * result.trainable / result.total:.1f}" for result in results]
    axes[0].set_yticks(
        places, [f"{r.method.name}\n{share}% trainable" for r, share in zip(results, percent, strict=True)], fontsize=9
    )
    axes[0].set_xlabel("accuracy on the new task")
    if both:
        axes[1].set_xlabel("accuracy on the original task, adapter off")
    finding = _vit_finding(results)
    note = f"Bars: 95% interval over {results[0].n:,} test images, one seed."
    if both:
        note += " Head only and full fine-tuning have no adapter to switch off."
    set_title(figure, finding, note)
    details = "; ".join(
        f"{r.method.name} ({share}% trainable) {r.adapted:.3f} on the new task"
        + (f" and {r.original:.3f} on the original one" if both else "")
        for r, share in zip(results, percent, strict=True)
    )
    set_alt(figure, f"Accuracy by method: {details}.")
    return figure


def _vit_finding(results: Sequence[VitResult]) -> str:
    """LoRA against full fine-tuning: of the adapters that come off without a trace the best, where there are any."""
    loras = [r for r in results if r.method.kind == "lora"]
    clean = [r for r in loras if r.original is not None and r.original == r.original_before]
    full = next((r for r in results if r.method.kind == "full"), None)
    best = max(clean or loras or results, key=lambda r: r.adapted)
    words = f"{best.method.name} reaches {best.adapted:.3f}"
    if clean:
        words += f", and {best.original:.3f} on the original task once it is off"
    if full is None or full is best:
        return words
    words += f"; {full.method.name} {full.adapted:.3f}"
    return words + (f" and {full.original:.3f}" if clean and full.original is not None else "")
