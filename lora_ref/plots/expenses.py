"""Figures of what a method costs: bytes, parameters, milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_ref.plots.base import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LINES,
    ORANGE,
    VERMILION,
    first_upper,
    log2_axis,
    new_figure,
    set_alt,
    set_title,
    short_count,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


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
    names = [
        f"LoRA r={rank}" if method == "lora" else str(method)
        for method, rank in zip(frame["method"], frame["rank"], strict=True)
    ]
    figure, (ax,) = new_figure(1, (8.4, 1.7 + 0.5 * len(names)))
    parts = [("weights", GREY), ("gradients", VERMILION), ("optimizer", ORANGE)]
    columns = {name: frame[name].to_numpy(float) for name, _ in parts}
    if activations:
        parts.append(("activations", BLUE))
        columns["activations"] = np.array(
            [
                activations.get(name, activations.get(method, 0))
                for name, method in zip(names, frame["method"].astype(str), strict=True)
            ],
            float,
        )
    total = np.sum(list(columns.values()), axis=0)
    units = ((1e9, 9, "GB", 2), (1e7, 6, "MB", 1), (0, 3, "kB", 1))  # from how many bytes on
    _, power, amount, digits = next(unit for unit in units if total.max() >= unit[0])
    unit, start = 10.0**power, np.zeros(len(names))
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
    ax.set_xlabel(f"{amount} ($10^{power}$ bytes)")
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    ax.grid(visible=False, axis="y")
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    finding = _cost_finding(frame, names, total)
    note = "Activations measured for one batch." if activations else "Without activations, which depend on the batch."
    set_title(figure, finding, f"{note} {int(frame['total'].min()):,} parameters in the base model.")
    states = columns["gradients"] + columns["optimizer"]
    numbers = "; ".join(
        f"{name} {value / unit:,.{digits}f}, {state / unit:,.{digits}f}"
        for name, value, state in zip(names, total, states, strict=True)
    )
    set_alt(figure, f"Stacked bars of {amount} kept, in all and for gradients and optimiser states: {numbers}.")
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
    for name, (colour, marker, style) in zip(names, LINES, strict=False):
        rows = frame[frame["layer"] == name].sort_values("rank")
        for ax, column in ((grid[0, 0], "reduction"), (grid[0, 1], "lora_mb")):
            ax.plot(rows["rank"], rows[column], color=colour, marker=marker, linestyle=style, linewidth=1.8, label=name)
    for ax, label in ((grid[0, 0], "full / LoRA parameters (log)"), (grid[0, 1], "MB of LoRA weights (log)")):
        log2_axis(ax, ranks)
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
    grid[1, 1].bar_label(bars, [short_count(value) for value in heights], fontsize=9)
    grid[1, 1].set_ylabel(f"parameters of a {layer} layer")
    grid[1, 1].yaxis.set_major_formatter(short_count)
    low, high = str(at["reduction"].idxmin()), str(at["reduction"].idxmax())
    finding = (
        f"At rank {rank} LoRA trains {at['reduction'][low]:.0f} ({low}) to {at['reduction'][high]:.0f} ({high}) times "
        f"fewer parameters; twice the rank halves that"
    )
    set_title(figure, finding, "Counted from shapes, with the layer's bias on the full side; float32.")
    numbers = "; ".join(f"{name} {value:.1f}" for name, value in at["reduction"].items())
    set_alt(figure, f"Four plots of parameters by layer size and rank. Reduction at rank {rank}: {numbers}.")
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
    row: Any
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
    spread = (frame["slowest"] / frame["fastest"]).max()
    if spread > 2:  # a busy machine: the differences of interest are of some per cent
        finding += f"; but one and the same pass varied {spread:.1f}-fold, so this tells little"
    set_title(figure, finding, "Bars: medians; lines: fastest to slowest. The title's ratios: medians over the turns.")
    numbers = "; ".join(f"{row.state} {row.milliseconds:.1f}" for row in frame.itertuples())
    set_alt(figure, f"Bars of milliseconds for one forward pass: {numbers}.")
    return figure
