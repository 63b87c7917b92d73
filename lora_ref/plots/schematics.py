"""Diagrams: what LoRA adds to a weight, a block, a model, a file, and a computer's memory.

They show how things hang together; the other modules draw what was measured. Grey is frozen, blue is LoRA, orange is
new and trained in full. ``dark`` draws for a dark page, on no background.
"""

from __future__ import annotations

import functools
import html
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lora_ref.plots.base import BLUE, GREY, INK, ORANGE, describe, set_alt

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Page(NamedTuple):
    """Colours of a page: of its words, of lesser words and lines, and of what is frozen."""

    ink: str
    note: str
    frozen: str
    paper: str


_LIGHT, _DARK = _Page(INK, GREY, "#D9D9D9", "#FFFFFF"), _Page("#EEEEEE", "#BBBBBB", "#5A5A5A", "none")
Point = tuple[float, float]


class _Sheet:
    """An empty drawing, one unit an inch, with a title in its upper left corner, and what is drawn on it."""

    def __init__(self, width: float, height: float, title: str, dark: bool):
        import matplotlib.pyplot as plt

        self.page = _DARK if dark else _LIGHT
        self.figure, self.ax = plt.subplots(figsize=(width, height), dpi=120, facecolor=self.page.paper)
        plt.close(self.figure)
        self.figure.subplots_adjust(0, 0, 1, 1)
        # what a notebook asks for
        self.figure._repr_svg_ = functools.partial(as_svg, self.figure)  # type: ignore[attr-defined]
        self.ax.set(xlim=(0, width), ylim=(0, height))
        self.ax.axis("off")
        self.words((0.15, height - 0.3), title, 12, fontweight="bold", ha="left")

    def box(
        self, at: Point, size: Point, text: str, kind: str = "frozen", note: str = "", fontsize: float = 10
    ) -> None:
        """A box with its name in the middle. ``at`` is its lower left corner; ``kind``: frozen, lora, new, empty."""
        from matplotlib.patches import Rectangle

        page = self.page
        colour = {"frozen": page.frozen, "lora": BLUE, "new": ORANGE, "empty": "none"}[kind]
        hatch = {"lora": "//", "new": ".."}.get(kind, "")
        words = {"lora": "#FFFFFF", "new": "#000000"}.get(kind, page.ink)
        self.ax.add_patch(Rectangle(at, *size, facecolor=colour, edgecolor=page.ink, linewidth=1.2))
        if hatch:
            shade: dict[str, Any] = {
                "facecolor": "none",
                "edgecolor": words,
                "hatch": hatch,
                "linewidth": 0,
                "alpha": 0.18,
            }
            self.ax.add_patch(Rectangle(at, *size, **shade))
        x, y = at[0] + size[0] / 2, at[1] + size[1] / 2
        self.words((x, y + (0.1 if note else 0)), text, fontsize, color=words)
        if note:
            self.words((x, y - 0.13), note, fontsize - 1.5, color=words)

    def arrow(self, *points: Point, bend: float = 0.0) -> None:
        """A line through some points with a head at the last."""
        ink = self.page.ink
        for start, end in itertools.pairwise(points[:-1]):
            self.ax.plot(*zip(start, end, strict=True), color=ink, linewidth=1.4, solid_capstyle="round")
        style: dict[str, Any] = {"arrowstyle": "-|>", "color": ink, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
        if bend:
            style["connectionstyle"] = f"arc3,rad={bend}"
        self.ax.annotate("", points[-1], points[-2], arrowprops=style)

    def words(self, at: Point, text: str, size: float = 9.5, note: bool = False, **options: Any) -> None:
        placed = {"ha": "center", "va": "center", "color": self.page.note if note else self.page.ink}
        self.ax.text(*at, text, fontsize=size, **(placed | options))

    def key(self, at: Point, kinds: Sequence[tuple[str, str]]) -> None:
        """What the colours mean, in a row."""
        x, y = at
        for kind, text in kinds:
            self.box((x, y - 0.08), (0.26, 0.16), "", kind)
            self.words((x + 0.34, y), text, 8.5, note=True, ha="left")
            x += 0.62 + 0.075 * len(text)

    def described(self, alt: str) -> Figure:
        """The figure, with the text for readers who do not see it."""
        set_alt(self.figure, alt)
        return self.figure


# --- one weight -------------------------------------------------------------------------------------------


def weight_and_update(dark: bool = False) -> Figure:
    """The frozen weight beside A and B, with their shapes, and the sum: figure 1 of the paper, with the code's names.

    Example:
        >>> from lora_ref.plots import describe
        >>> describe(weight_and_update())[:57]
        'The input x, of in_features numbers, goes two ways at onc'
    """
    sheet = _Sheet(7.4, 4.6, "The weight stays; two thin matrices learn beside it", dark)
    sheet.words((3.5, 0.3), "x   (in_features)")
    sheet.arrow((3.5, 0.45), (3.5, 0.68), (1.75, 0.68), (1.75, 1.0))
    sheet.arrow((3.5, 0.45), (3.5, 0.68), (5.3, 0.68), (5.3, 1.0))
    sheet.box((0.75, 1.0), (2.0, 2.0), "$W_0$", fontsize=15)
    sheet.words((1.75, 1.62), "linear.weight", 8.5)
    sheet.words((1.75, 1.36), "(out_features, in_features)", 8.5)
    sheet.words((1.75, 2.68), "frozen", 9)
    sheet.box((4.3, 1.0), (2.0, 0.52), "$A$   lora_A", "lora", "(rank, in_features), random")
    sheet.arrow((5.3, 1.52), (5.3, 2.02))
    sheet.words((5.42, 1.77), "rank numbers", 8.5, note=True, ha="left")
    sheet.box((4.3, 2.02), (2.0, 0.52), "$B$   lora_B", "lora", "(out_features, rank), zeros")
    sheet.arrow((5.3, 2.54), (5.3, 3.4), (3.66, 3.4))
    sheet.words((5.42, 2.95), "times scaling = alpha / rank", 8.5, note=True, ha="left")
    sheet.arrow((1.75, 3.0), (1.75, 3.4), (3.34, 3.4))
    sheet.words((3.5, 3.4), "+", 15, fontweight="bold", bbox={
        "boxstyle": "circle,pad=0.12", "facecolor": sheet.page.paper, "edgecolor": sheet.page.ink, "linewidth": 1.4,
    })  # fmt: skip
    sheet.arrow((3.5, 3.58), (3.5, 3.82))
    sheet.words((3.5, 3.97), "h = $W_0\\,x$ + scaling · $B\\,(A\\,x)$   (out_features)")
    sheet.key((0.2, 0.3), [("frozen", "frozen"), ("lora", "trains")])
    return sheet.described(
        "The input x, of in_features numbers, goes two ways at once. Left: the frozen weight W0, linear.weight, of "
        "shape (out_features, in_features). Right: A, lora_A, of shape (rank, in_features), random at the start, then "
        "B, lora_B, of shape (out_features, rank), zero at the start; the result is multiplied by scaling, which is "
        "alpha / rank. The two results are added to the output h. A and B train, W0 does not."
    )


def merging(dark: bool = False) -> Figure:
    """Merging an update into its weight, and the way back.

    Example:
        >>> from lora_ref.plots import describe
        >>> describe(merging())[:40]
        'Left, while training: the frozen weight '
    """
    sheet = _Sheet(7.8, 2.9, "Merged, a layer is an ordinary linear layer again", dark)
    sheet.words((1.5, 2.2), "to train: two paths", 9.5, note=True)
    sheet.box((0.35, 0.65), (1.25, 1.25), "$W_0$", fontsize=14)
    sheet.words((1.8, 1.27), "+", 14)
    sheet.box((2.0, 0.65), (0.3, 1.25), "$B$", "lora")
    sheet.box((2.38, 1.6), (1.05, 0.3), "$A$", "lora")
    sheet.arrow((3.45, 1.45), (4.75, 1.45), bend=-0.25)
    sheet.words((4.1, 1.8), "merge()", 9.5, family="monospace")
    sheet.arrow((4.75, 0.95), (3.45, 0.95), bend=-0.25)
    sheet.words((4.1, 0.58), "unmerge()", 9.5, family="monospace")
    sheet.words((5.6, 2.2), "to use: one matrix", 9.5, note=True)
    sheet.box((4.95, 0.65), (1.25, 1.25), "$W_0$ + scaling $B A$", fontsize=9)
    sheet.words((6.3, 1.27), "A and B are kept\nbeside it, so that\nthe way back exists", 8.5, note=True, ha="left")
    sheet.key((0.35, 0.28), [("frozen", "frozen"), ("lora", "trains")])
    return sheet.described(
        "Left, while training: the frozen weight W0 and, beside it, the tall matrix B and the wide matrix A. An arrow "
        "called merge leads to the right, to one matrix of W0's shape, W0 + scaling B A, which costs no extra "
        "work. An arrow called unmerge leads back. A and B are kept, so that the way back exists."
    )


# --- a block, a model -------------------------------------------------------------------------------------


def transformer_block(hidden: int = 768, inner: int = 3072, dark: bool = False) -> Figure:
    """One block of a RoBERTa's encoder, with its six linear layers by the names that targets use.

    Args:
        hidden, inner: widths, as in ``config.hidden_size`` and ``config.intermediate_size``.
        dark: for a dark page.

    Example:
        >>> from lora_ref.plots import describe
        >>> "intermediate.dense, 384 to 1,536" in describe(transformer_block(384, 1536))
        True
    """
    sheet = _Sheet(8.6, 3.5, "One block of the encoder: six linear layers, each a possible target", dark)
    same, up, down = f"{hidden:,} to {hidden:,}", f"{hidden:,} to {inner:,}", f"{inner:,} to {hidden:,}"
    for place, name in enumerate(("query", "key", "value")):
        y = 2.35 - 0.72 * place
        sheet.box((0.75, y), (1.35, 0.5), name, note=same)
        sheet.arrow((0.25, 1.88), (0.45, 1.88), (0.45, y + 0.25), (0.75, y + 0.25))
        sheet.arrow((2.1, y + 0.25), (2.4, y + 0.25))
    sheet.box((2.4, 0.91), (0.85, 1.94), "each word\nlooks at\nthe others", "empty", fontsize=9)
    sheet.arrow((3.25, 1.88), (3.5, 1.88))
    sheet.box((3.5, 1.63), (1.45, 0.5), "attention.\noutput.dense", fontsize=8.5)
    sheet.words((4.22, 1.45), same, 8.5)
    sheet.arrow((4.95, 1.88), (5.25, 1.88))
    sheet.box((5.25, 1.63), (1.25, 0.5), "intermediate\n.dense", fontsize=8.5)
    sheet.words((5.87, 1.45), up, 8.5)
    sheet.arrow((6.5, 1.88), (6.8, 1.88))
    sheet.box((6.8, 1.63), (1.25, 0.5), "output.dense", fontsize=8.5)
    sheet.words((7.42, 1.45), down, 8.5)
    sheet.arrow((8.05, 1.88), (8.45, 1.88))
    sheet.words((2.8, 0.55), "attention: four of them", 9.5, note=True)
    ratio = inner / (2 * hidden)  # 2 hidden inner numbers against 4 hidden hidden
    more = "twice the numbers" if ratio == 2 else f"{ratio:.2g} times the numbers"
    sheet.words((6.65, 0.55), f"feed-forward: two, with {more}", 9.5, note=True)
    for start, end in ((0.7, 5.0), (5.2, 8.1)):
        sheet.ax.plot([start, start, end, end], [0.8, 0.72, 0.72, 0.8], color=sheet.page.note, linewidth=1)
    sheet.words((4.3, 0.2), "Not drawn: sums and normalisations, which have no linear layer.", 8.5, note=True)
    return sheet.described(
        f"From left to right. The input goes into query, key and value, three linear layers, {same}; then each word "
        f"looks at the others; then attention.output.dense, {same}. These four are the attention. Then the "
        f"feed-forward part: intermediate.dense, {up}, and output.dense, {down}. Six linear "
        f"layers, each of which LoRA can adapt."
    )


def model_parts(blocks: int = 12, dark: bool = False) -> Figure:
    """What is frozen, wrapped and new in a RoBERTa after `lora_ref.inject_lora`.

    Example:
        >>> from lora_ref.plots import describe
        >>> describe(model_parts(6))[:44]
        'A column of boxes, from bottom to top. Token'
    """
    sheet = _Sheet(7.4, 4.4, "Frozen, wrapped, new: a RoBERTa with LoRA", dark)
    sheet.words((2.1, 0.32), "a sentence, as token numbers", 9.5)
    sheet.arrow((2.1, 0.45), (2.1, 0.7))
    sheet.box((0.7, 0.7), (2.8, 0.45), "embeddings")
    sheet.words((3.75, 0.92), "frozen: a vector for each token", 9, note=True, ha="left")
    sheet.arrow((2.1, 1.15), (2.1, 1.4))
    for place in (2, 1, 0):
        sheet.box((0.7 + 0.07 * place, 1.4 + 0.07 * place), (2.8, 1.1), "", "frozen")
    sheet.words((1.65, 1.95), f"encoder:\n{blocks} blocks", 10)
    sheet.box((2.55, 1.52), (0.28, 0.86), "$B$", "lora")
    sheet.box((2.88, 2.1), (0.56, 0.28), "$A$", "lora")
    sheet.words((3.75, 2.2), "frozen weights; each target is wrapped:", 9, note=True, ha="left")
    sheet.words((3.75, 1.98), "query becomes query.linear (frozen)", 9, note=True, ha="left")
    sheet.words((3.75, 1.76), "and query.lora (A and B, which train)", 9, note=True, ha="left")
    sheet.arrow((2.1, 2.64), (2.1, 2.92))
    sheet.box((0.7, 2.92), (2.8, 0.45), "head: classifier", "new")
    sheet.words((3.75, 3.14), "new and random, so all of it trains", 9, note=True, ha="left")
    sheet.arrow((2.1, 3.37), (2.1, 3.62))
    sheet.words((2.1, 3.77), "two logits: a score for each class", 9.5)
    sheet.key((4.5, 0.32), [("frozen", "frozen"), ("lora", "LoRA"), ("new", "new")])
    return sheet.described(
        f"A column of boxes, from bottom to top. Token numbers of a sentence go into the embeddings, frozen; then "
        f"through the encoder of {blocks} blocks, whose weights are frozen and whose targets are wrapped: query "
        f"becomes query.linear, frozen, and query.lora with A and B, which train; then into the head, classifier, "
        f"which is new and random, so all of it trains. Out come two logits, a score for each class."
    )


# --- files and memory -------------------------------------------------------------------------------------


def adapter_file(dark: bool = False) -> Figure:
    """What an adapter file holds, beside the base model that several adapters share.

    Example:
        >>> from lora_ref.plots import describe
        >>> describe(adapter_file())[:36]
        'Left, a tall box: the base model, st'
    """
    sheet = _Sheet(7.4, 3.3, "One base model, and a small file for each task", dark)
    sheet.box((0.35, 0.6), (1.9, 2.1), "base model", note="stored once, never changed")
    for place, task in enumerate(("film reviews", "e-mails")):
        y = 1.75 - 1.15 * place
        sheet.box((3.2, y), (1.7, 0.95), "", "empty")
        sheet.box((3.3, y + 0.5), (1.5, 0.34), "A and B, per target", "lora", fontsize=8.5)
        sheet.box((3.3, y + 0.1), (1.5, 0.34), "head", "new", fontsize=8.5)
        sheet.words((2.72, y + 0.47), "+", 14)
        sheet.words((5.05, y + 0.62), f"adapter for {task}", 9.5, ha="left", fontweight="bold")
        sheet.words((5.05, y + 0.36), "...query.lora.lora_A, lora_B, ...", 8.5, note=True, ha="left")
        sheet.words((5.05, y + 0.16), "classifier.dense.weight, ...", 8.5, note=True, ha="left")
    sheet.key((0.35, 0.28), [("frozen", "frozen"), ("lora", "LoRA"), ("new", "new head")])
    return sheet.described(
        "Left, a tall box: the base model, stored once and never changed. Right, two small files that are added to it, "
        "one adapter for film reviews and one for e-mails. Each holds two things: A and B of every target, with names "
        "such as query.lora.lora_A, and the head that trained with them, classifier. No pretrained weight is in it."
    )


def memory_parts(dark: bool = False) -> Figure:
    """Where gradients and optimiser states live, for the head alone, LoRA and full fine-tuning.

    Example:
        >>> from lora_ref.plots import describe
        >>> describe(memory_parts())[:43]
        'Three columns: head only, LoRA, full fine-t'
    """
    sheet = _Sheet(8.0, 3.5, "Gradients and optimiser states exist for what trains, and only there", dark)
    rows = ("weights", "gradients", "Adam: mean", "Adam: square")
    parts = {"head only": ("frozen", "", "new"), "LoRA": ("frozen", "lora", "new"), "full": ("full", "", "new")}
    for column, (method, kinds) in enumerate(parts.items()):
        x = 1.5 + 2.15 * column
        sheet.words((x + 0.9, 2.85), method.replace("full", "full fine-tuning"), 10, fontweight="bold")
        for place, row in enumerate(rows):
            y = 2.15 - 0.5 * place
            if not column:
                sheet.words((1.35, y + 0.18), row, 9.5, ha="right")
            for kind, left, width in zip(kinds, (0.0, 1.22, 1.5), (1.18, 0.24, 0.3), strict=True):
                trains = kind in ("lora", "new", "full")
                if kind and (trains or not place):
                    shown = {"full": "new"}.get(kind, kind)
                    text = "encoder" if left == 0 else ""
                    sheet.box((x + left, y), (width, 0.36), text, shown, fontsize=8.5)
                elif kind:
                    sheet.words((x + left + width / 2, y + 0.18), "none", 8.5, note=True)
    sheet.key((1.5, 0.28), [("frozen", "frozen"), ("lora", "A and B"), ("new", "trains in full (small box: the head)")])
    return sheet.described(
        "Three columns: head only, LoRA, full fine-tuning. Four rows: weights, gradients, and Adam's two averages. The "
        "encoder's weights are there in all three. Gradients and Adam's averages are there for the head alone in the "
        "first column, for A, B and the head in the second, and for the whole encoder and the head in the third."
    )


# --- files ------------------------------------------------------------------------------------------------


def as_svg(figure: Figure) -> str:
    """A diagram as SVG: the same text each time, words as outlines, which need no font, and its description in it.

    Example:
        >>> as_svg(merging())[:4], as_svg(merging()).count("<title>Left, while training")
        ('<svg', 1)
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lora", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata={"Date": None}, facecolor=figure.get_facecolor())
    svg = file.getvalue()
    head, _, rest = svg[svg.index("<svg") :].partition(">")
    return f'{head} role="img">\n <title>{html.escape(describe(figure), quote=False)}</title>{rest}'


def front_page(folder: str | Path) -> None:
    """Write the diagram of README and the site's first page, for light and for dark pages: ``docs/_static``.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> front_page(folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['lora-dark.svg', 'lora.svg']
    """
    for name, dark in (("lora.svg", False), ("lora-dark.svg", True)):
        (Path(folder) / name).write_text(as_svg(weight_and_update(dark=dark)), encoding="utf-8", newline="\n")
