"""``graded/mark.ipynb``: the marking page in the JupyterLab that is open there anyway."""

from __future__ import annotations

from pathlib import Path

from autograder.engine.assignment import ROOT
from autograder.files import write_whole

NAME = "mark.ipynb"
TEXT = """\
# Marking

Run the cell below (*Shift+Enter*). Then the keys do it: `1` to `9` turn the mark scheme's points on and off, `Enter`
saves and goes on, `u` takes back, `t` writes to this student and `Esc` ends that, `g` shows answers that are nearly the
same. Every button says its key.

Several people can mark at once, each in their own browser: an answer that one reads is not offered to another. Points
and comments go into the gradebook, where formgrader, `python -m autograder export` and `python -m autograder feedback`
find them."""
AFTER = """\
When the answers are marked, in the folder above this one: `python -m autograder feedback --graded graded` makes the
students' pages again, with points and comments in them, and `python -m autograder export` fills in the platform's
table."""
CODE = """\
import sys
sys.path.insert(0, {root!r})
from autograder.marking.panel import show
show()"""


def write(out: Path) -> Path:
    """Write the notebook into a graded course, if it is not as it should be; returns its path."""
    import nbformat

    code = nbformat.v4.new_code_cell(CODE.format(root=str(ROOT)), id="marking")
    code.metadata["jupyter"] = {"source_hidden": True}
    texts = [nbformat.v4.new_markdown_cell(text, id=name) for name, text in (("about", TEXT), ("after", AFTER))]
    notebook = nbformat.v4.new_notebook(cells=[texts[0], code, texts[1]])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path = out / NAME
    data = (nbformat.writes(notebook) + "\n").encode()
    if not path.is_file() or path.read_bytes() != data:
        write_whole(path, data)
    return path
