"""Formulae as MathML, which browsers show and screen readers read without a script, a font or a network.

A Sphinx extension: `html_math_renderer = "mathml"`.
"""

from docutils import nodes
from latex2mathml.converter import convert


def visit_inline(self, node: nodes.math) -> None:
    """A formula in a line of text; the word joiner keeps the comma or full stop after it on its line."""
    self.body.append(f"{convert(node.astext())}&#8288;")
    raise nodes.SkipNode


def visit_display(self, node: nodes.math_block) -> None:
    """A formula on a line of its own; a narrow screen scrolls it and not the page."""
    self.body.append(f'<div class="math" tabindex="0">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
