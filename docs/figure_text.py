"""Gives each figure of an executed page its text: a Sphinx extension.

A cell that shows a figure prints `describe(figure)` after it. That line becomes the picture's alternative text, and a
caption in place of a line of output.
"""

from docutils import nodes


def name_figures(app, doctree: nodes.document) -> None:
    """For each picture in a cell's output that a line of text follows."""
    for output in doctree.findall(lambda n: isinstance(n, nodes.container) and "cell_output" in n["classes"]):
        for text in list(output.children):  # what was printed without a picture between is one block
            before = output.children[output.index(text) - 1] if output.index(text) else None
            if isinstance(before, nodes.literal_block) and isinstance(text, nodes.literal_block):
                before.rawsource = before.astext().rstrip("\n") + "\n" + text.astext()
                before.children = []
                before += nodes.Text(before.rawsource)
                output.remove(text)
        for shown, text in zip(output.children, output.children[1:], strict=False):
            pictures = list(shown.findall(nodes.image))
            if not pictures or not isinstance(text, nodes.literal_block):
                continue
            line, _, rest = text.astext().strip("\n").partition("\n")
            for picture in pictures:
                picture["alt"] = line
            caption = nodes.paragraph(line, line, classes=["figure-text"])
            text.replace_self([caption, nodes.literal_block(rest, rest, language="none")] if rest else caption)


def setup(app) -> dict:
    app.connect("doctree-read", name_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
