"""Figures that follow sliders and menus, and code that folds up."""

from __future__ import annotations

import ast
import base64
import html
import inspect
import io
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lora_ref.plots.base import alt_text, describe

if TYPE_CHECKING:
    from IPython.display import HTML
    from ipywidgets import VBox
    from matplotlib.figure import Figure


def with_controls(draw: Callable[..., Figure], **controls: Any) -> VBox:
    """Controls above the figure ``draw(name=value, ...)``, which is drawn again whenever one of them moves.

    The controls are reached with the Tab key and moved with the arrow keys; the figure carries its text as ``alt``, and
    below for everybody. Not `ipywidgets.interact`: its output widget makes nbclient, and so nbgrader, write to the
    socket that it is waiting on, and on a busy machine the wait then lasts until the cell's time limit.

    Args:
        draw: returns a figure of this package for the controls' values.
        controls: an ipywidgets control for each argument of ``draw``, with a description.

    Raises:
        ValueError: a control has no description.

    Example:
        >>> import ipywidgets
        >>> from lora_ref.plots import images_at_rank, picture
        >>> slider = ipywidgets.IntSlider(8, 1, 80, description="rank k")
        >>> box = with_controls(lambda k: images_at_rank(picture(), [k]), k=slider)
        >>> len(box.children)  # the slider, and the figure that follows it
        2
    """
    import ipywidgets

    if any(not control.description for control in controls.values()):
        raise ValueError("each control needs a description: a screen reader reads it")
    picture = ipywidgets.HTML()

    def redraw(_: object = None) -> None:
        picture.value = as_html(draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*controls.values(), picture])


def as_html(figure: Figure) -> str:
    """The figure as an image with its text as ``alt``, and the text below it.

    Example:
        >>> from lora_ref.plots import rounding
        >>> as_html(rounding([3.0, 2.0, 1e-7], threshold=1e-6))[:9]
        '<img alt='
    """
    file = io.BytesIO()
    figure.savefig(file, format="png")
    text, alt = (html.escape(words, quote=True) for words in (describe(figure), alt_text(figure)))
    image = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img alt="{alt}" style="max-width: 100%" src="data:image/png;base64,{image}"><p>{text}</p>'


def folded_source(function: Callable[..., Any]) -> HTML:
    """A function's source, without its docstring, to unfold in a notebook.

    Example:
        >>> from lora_ref.plots import describe
        >>> folded_source(describe).data[:54]
        '<details><summary>The code of describe, from lora_ref.'
    """
    from IPython.display import HTML

    source = textwrap.dedent(inspect.getsource(function))
    lines, body = source.splitlines(), ast.parse(source).body[0]
    assert isinstance(body, ast.FunctionDef)
    if ast.get_docstring(body, clean=False) is not None:
        lines[body.body[0].lineno - 1 : body.body[0].end_lineno] = []
    title = html.escape(f"The code of {function.__name__}, from {function.__module__}")
    return HTML(f"<details><summary>{title}</summary><pre>{html.escape(chr(10).join(lines))}</pre></details>")
