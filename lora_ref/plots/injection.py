"""Figures of stage 03. Each takes numbers, says in its title what they show, and has a text for `plots.describe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lora_ref.plots.base import BLUE, GREY, INK, ORANGE, new_figure, set_alt, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def audit(states: Mapping[str, Mapping[str, tuple[int, int]]]) -> Figure:
    """How many numbers of each part of a model are frozen and how many train, one panel a state of the model.

    Args:
        states: ``{state: {part: (frozen, training)}}``; all states have the same parts. The title compares the last
            with the one before it.

    Raises:
        ValueError: there is no state.

    Example:
        >>> before, after = {"encoder": (0, 900), "head": (0, 100)}, {"encoder": (900, 0), "head": (0, 100)}
        >>> print(audit({"base model": before, "frozen": after}).get_suptitle())
        After frozen, 10.0% of the model trains; before, 100%
    """
    if not states:
        raise ValueError("no states to draw")
    parts = list(next(iter(states.values())))
    figure, axes = new_figure(len(states), (1.6 + 2.9 * len(states), 1.7 + 0.5 * len(parts)), sharey=True, sharex=True)
    shares, details = {}, []
    for ax, (state, counts) in zip(axes, states.items(), strict=True):
        total = [sum(counts[part][i] for part in parts) for i in (0, 1)]
        shares[state] = total[1] / sum(total)
        for place, part in enumerate(parts):
            frozen, training = counts[part]
            for value, colour, hatch, label in (
                (frozen, "#B5B5B5", "", "frozen"),
                (training, BLUE, "//", "trains"),
            ):
                if not value:
                    continue
                # a part is nearly always one or the other: then its bar takes the whole row
                split = bool(frozen and training)
                y = place + (0 if not split else (-0.2 if label == "frozen" else 0.2))
                height = 0.36 if split else 0.62
                ax.barh(y, value, height=height, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
                ax.annotate(
                    _short(value),
                    (value, y),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                    color=INK,
                )
        ax.set_title(f"{state}: {_percent(shares[state])} trains", fontsize=10, loc="left")
        ax.set_xscale("log")
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        details.append(
            f"{state}: "
            + ", ".join(f"{part} {_state(*counts[part])}" for part in parts if sum(counts[part]))
            + f"; {_percent(shares[state])} trains"
        )
    largest = max(sum(counts[part]) for counts in states.values() for part in parts)
    smallest = min(n for counts in states.values() for part in parts for n in counts[part] if n)
    axes[0].set_xlim(smallest / 4, largest * 12)
    axes[0].set_ylim(len(parts) - 0.4, -0.6)
    axes[0].set_yticks(range(len(parts)), parts)
    axes[len(axes) // 2].set_xlabel("numbers (log scale)")
    names = list(shares)
    finding = f"After {names[-1]}, {_percent(shares[names[-1]])} of the model trains"
    if len(names) > 1:
        finding += f"; after the {names[-2]}, {_percent(shares[names[-2]])}" if len(names) > 2 else ""
        finding += f"; before, {_percent(shares[names[0]])}"
    set_title(figure, finding, "Blue and hatched: trains. Grey: frozen.")
    set_alt(figure, f"Bars of parameters by part of the model. {'. '.join(details)}.")
    return figure


def _state(frozen: int, training: int) -> str:
    words = [f"{frozen:,} frozen"] if frozen else []
    return " and ".join(words + ([f"{training:,} training"] if training else []))


def _short(value: int) -> str:
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}" if value < 1000 * unit else f"{value / unit:,.0f}{name}"
    return str(value)


def _percent(share: float) -> str:
    """A share in per cent; what is not quite 0 or 1 does not look so."""
    percent = 100 * share
    if percent in (0, 100):
        return f"{percent:.0f}%"
    return f"{percent:.2g}%" if percent < 1 else f"{percent:.1f}%"


def trainable_budget(updates: Mapping[str, int], heads: Mapping[str, int]) -> Figure:
    """What trains by choice of layers: LoRA's updates, and the new head beside them.

    Args:
        updates: numbers in the updates, by choice of layers.
        heads: numbers of the head that train with them, by the same choices; 0 where it is frozen.

    Raises:
        ValueError: there is nothing to draw, or the choices differ.

    Example:
        >>> print(trainable_budget({"query, value": 100}, {"query, value": 250}).get_suptitle())
        LoRA on query, value trains 100 numbers; the new head has 250, 2.5 times as many
    """
    if not updates or updates.keys() != heads.keys():
        raise ValueError("updates and heads must be of the same choices, at least one")
    figure, (ax,) = new_figure(1, (8.6, 1.6 + 0.55 * len(updates)))
    top = max(updates[choice] + heads[choice] for choice in updates)
    for place, (choice, lora) in enumerate(updates.items()):
        ax.barh(place, lora, height=0.6, color=BLUE, label="LoRA's updates" if place == 0 else None)
        head = heads[choice]
        label = "new head" if place == 0 else None
        ax.barh(
            place, head, left=lora, height=0.6, color=ORANGE, hatch="//", edgecolor="white", linewidth=0, label=label
        )
        ax.annotate(
            f"{lora:,}", (lora / 2, place), ha="center", va="center", fontsize=9, color="white", fontweight="bold"
        )
        if head:
            ax.annotate(
                f"{head:,}",
                (lora + head / 2, place),
                ha="center",
                va="center",
                fontsize=9,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )
        else:
            ax.annotate(
                "head frozen",
                (lora, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=GREY,
            )
    ax.set_yticks(range(len(updates)), list(updates))
    ax.set_ylim(len(updates) - 0.5, -0.5)
    ax.set_xlim(0, 1.14 * top)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    ax.xaxis.set_major_formatter(lambda value, _: _short(round(value)))
    ax.set_xlabel("trainable parameters")
    ax.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    first = next(iter(updates))
    finding = f"LoRA on {first} trains {updates[first]:,} numbers"
    if heads[first]:
        ratio = heads[first] / updates[first]
        finding += f"; the new head has {heads[first]:,}, {ratio:.1f} times as many"
    set_title(figure, finding, "Counted on a model without weights.")
    details = "; ".join(f"{c}: {updates[c]:,} in updates, {heads[c]:,} in a head that trains" for c in updates)
    set_alt(figure, f"Stacked bars of trainable parameters. {details}.")
    return figure


def new_head(results: Mapping[str, tuple[int, Sequence[float]]], n: int) -> Figure:
    """Accuracy of several ways to train a model whose head is new.

    Args:
        results: ``{method: (numbers that train, one accuracy per seed)}``; the title compares the first with the
            second, seed by seed.
        n: test images behind each accuracy.

    Raises:
        ValueError: there are fewer than two results, or they do not have the same number of seeds.

    Example:
        >>> print(new_head({"frozen": (1_000, [0.50, 0.60]), "trained": (1_100, [0.70, 0.80])}, n=1_000).get_suptitle())
        Trained reaches 0.750, frozen 0.550; the first is ahead in 2 of 2 seeds
    """
    seeds = {len(accuracies) for _, accuracies in results.values()}
    if len(results) < 2 or len(seeds) != 1 or seeds == {0}:
        raise ValueError("at least two results are needed to compare them, each with one accuracy per seed")
    figure, (ax,) = new_figure(1, (8.2, 1.6 + 0.6 * len(results)))
    styles = ((ORANGE, "s"), (BLUE, "o"), (GREY, "D"))
    details, means = [], {}
    for place, (method, (trainable, accuracies)) in enumerate(results.items()):
        colour, marker = styles[place % len(styles)]
        means[method] = mean = sum(accuracies) / len(accuracies)
        ax.plot([min(accuracies), max(accuracies)], [place, place], color=colour, linewidth=1.5, alpha=0.6)
        ax.plot(
            accuracies, [place] * len(accuracies), linestyle="", color=colour, marker=marker, markersize=8, alpha=0.75
        )
        ax.annotate(
            f"mean {mean:.3f}",
            (mean, place),
            xytext=(0, 10),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
        )
        shown = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        details.append(f"{method} ({trainable:,} numbers train) {shown}, mean {mean:.3f}")
    labels = [f"{method}\n{_short(trainable)} train" for method, (trainable, _) in results.items()]
    ax.set_yticks(range(len(results)), labels, fontsize=9)
    ax.set_ylim(len(results) - 0.5, -0.7)
    ax.set_xlim(0, 1)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    ax.set_xlabel("accuracy on the new task")
    one, other = list(results)[:2]
    pairs = list(zip(results[one][1], results[other][1], strict=True))
    better = sum(b > a for a, b in pairs)
    finding = f"{other} reaches {means[other]:.3f}, {one} {means[one]:.3f}; "
    finding += f"the first is ahead in {better} of {len(pairs)} seeds"
    set_title(figure, finding, f"One point for each seed; {n:,} test images, so one image is {1 / n:.2g}.")
    set_alt(figure, f"Accuracy with a new head: {'; '.join(details)}.")
    return figure
