"""What the figures share: colours, layout, the finding in the title, the text for readers who do not see them.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; what differs in colour differs in shape as well.
"""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito (2008), "Color universal design".
BLUE, VERMILION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
INK, GREY = "#222222", "#6B6B6B"
#: One colour per method, and a marker for prints without colour.
STYLES = {
    "head": (ORANGE, "s", "head only"),
    "lora": (BLUE, "o", "LoRA"),
    "full": (GREEN, "D", "full fine-tuning"),
}
# a marker and a line style each, for prints without colour
LINES = ((BLUE, "o", "-"), (VERMILION, "s", "--"), (GREEN, "D", "-."), (ORANGE, "^", ":"), (PURPLE, "v", "-"))


def wilson_interval(accuracy: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """Lower and upper end of the 95% interval for an accuracy measured on ``n`` sentences (Wilson, 1927).

    Raises:
        ValueError: ``accuracy`` is not in [0, 1], or ``n`` is below 1.

    Example:
        >>> low, high = wilson_interval(0.85, n=1_000)
        >>> f"{low:.3f} to {high:.3f}"
        '0.827 to 0.871'
    """
    if not 0 <= accuracy <= 1 or n < 1:
        raise ValueError(f"accuracy must be in [0, 1] and n at least 1, got {accuracy} and {n}")
    middle = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def describe(figure: Figure) -> str:
    """What the figure shows, in words: the numbers behind its title, which it does not repeat.

    Example:
        >>> from lora_ref.plots import rounding
        >>> describe(rounding([3.0, 2.0, 1e-7], threshold=1e-6))[:64]
        'Dots on a logarithmic scale: 2 singular values from 3 to 2 above'
    """
    return getattr(figure, "lora_alt", "")


def set_alt(figure: Figure, text: str) -> None:
    """Say a figure in words; `describe` gives them back."""
    figure.lora_alt = text  # type: ignore[attr-defined]  # ours, on matplotlib's object


def alt_text(figure: Figure) -> str:
    """Title, description and caption, for an ``alt`` attribute: a reader who does not see the picture gets all three.

    Example:
        >>> from lora_ref.plots import rounding
        >>> alt_text(rounding([3.0, 2.0, 1e-7], threshold=1e-6))[:61]
        '2 singular values count; rounding alone left the other 1. Dot'
    """
    title, caption = getattr(figure, "lora_heading", ("", ""))
    return " ".join(part for part in (title and f"{title}.", describe(figure), caption) if part)


def _with_alt(figure: Figure, **_: object) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The picture with its alternative text, as a notebook asks for it."""
    from IPython.core.pylabtools import print_figure

    return {"image/png": print_figure(figure, base64=True)}, {"image/png": {"alt": alt_text(figure)}}


def first_upper(text: str) -> str:
    """The text with its first letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def new_figure(columns: int, size: tuple[float, float], **options) -> tuple[Figure, list[Axes]]:
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


def set_title(figure: Figure, finding: str, note: str) -> None:
    """The finding above the figure, and a small note on how to read it below."""
    figure.lora_heading = first_upper(finding), note  # type: ignore[attr-defined]  # ours, as in `set_alt`
    figure._repr_mimebundle_ = functools.partial(_with_alt, figure)  # type: ignore[attr-defined]
    width = int(9.6 * figure.get_figwidth())
    figure.suptitle(
        "\n".join(textwrap.wrap(first_upper(finding), width)),
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
        color=INK,
    )
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5, color=GREY)


def for_text(colour: str) -> str:
    """The colour, darkened until words in it stand out from a white page (WCAG 2.2: a contrast of 4.5 to 1)."""
    srgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    while True:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in srgb]
        if 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05) >= 4.6:
            return "#" + "".join(f"{round(255 * c):02X}" for c in srgb)
        srgb = [0.97 * c for c in srgb]


def smooth(values: Sequence[float], window: int = 5) -> list[float]:
    """Means over each value and those before it, ``window`` in all."""
    return [sum(part) / len(part) for i in range(len(values)) for part in [values[max(0, i + 1 - window) : i + 1]]]


def end_labels(ax: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
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
            color=for_text(colour),
            fontweight="bold",
            fontsize=9,
            annotation_clip=False,
        )


def log2_axis(ax: Axes, ticks: Iterable[float]) -> None:
    """A logarithmic axis of base 2, with these ticks alone."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def short_count(value: float, _: object = None) -> str:
    """A count with its unit, as a tick's formatter."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
