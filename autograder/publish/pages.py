"""Makes the course site's pages of the stages from the masters; `docs/conf.py` calls it for each build of the site.

A page is the worked notebook, arranged for reading: the gap as students get it, then the solution and the check, the
model answer folded up. Sphinx executes it. Hidden checks and mark schemes are taken out here, before anything is
written where the site is built from.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import nbformat
from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_markdown_cell

from autograder.exercises import OPTIONAL, STAGES, exercise
from autograder.files import write_whole
from autograder.publish.notebooks import NOTEBOOK_METADATA, BuildError, expand_master, find_masters
from autograder.publish.preprocessors import GAP, clear_gaps

HIDDEN = re.compile(r"\n*^### BEGIN HIDDEN TESTS\n.*?^### END HIDDEN TESTS$", re.MULTILINE | re.DOTALL)
HINT = re.compile(r"<details><summary>(?P<title>.*?)</summary>(?P<body>.*?)</details>", re.DOTALL)
BADGE = re.compile(r"^\[!\[.*\n?", re.MULTILINE)  # a picture that each reader's browser would fetch from elsewhere
BOX = re.compile(r"^> \*\*(?P<title>Exercise [\d.]+)\*\* (?P<rest>.+)\n>\n(?P<body>(?:>.*\n?)+)", re.MULTILINE)
#: What a reader is told at the top; `docs/conf.py` says what the profile is.
NOTE = """:::{{admonition}} The worked notebook, executed
:class: note
{{{{ profile }}}} Solutions and hints are folded up. To write it yourself, take the
{{download}}`notebook with gaps <../../notebooks/{stage}/{stage}.ipynb>`; [how to start](../start.md).
:::"""
#: What stands in no page, whatever a master holds.
PRIVATE = ("HIDDEN TESTS", "MARK SCHEME", "grade_cell", "autograder")


def page_of(master: Path) -> NotebookNode:
    """The page of one stage, not executed.

    Raises:
        BuildError: a master is at fault, or the page would show what only graders may see.
    """
    stage = master.stem
    cells = []
    for cell in expand_master(master, (*STAGES[stage], *OPTIONAL.get(stage, ()))).cells:
        cells += _arranged(cell, stage)
    page = nbformat.v4.new_notebook(cells=cells, metadata=copy.deepcopy(NOTEBOOK_METADATA))
    page.metadata["language_info"]["pygments_lexer"] = "ipython3"
    for number, cell in enumerate(page.cells):
        cell["id"] = f"{cell.cell_type}-{number}"
        if words := [word for word in PRIVATE if word in cell.source]:
            raise BuildError(f"{master.name}: a cell of its page would show {words[0]!r}: {cell.source[:60]!r}")
    return page


def _arranged(cell: NotebookNode, stage: str) -> list[NotebookNode]:
    """What a reader sees of one cell of the instructor's notebook."""
    grade_id = cell.metadata.pop("nbgrader", {}).get("grade_id", "")
    if grade_id.startswith("scheme_"):
        return []
    if grade_id.startswith("written_"):
        name = grade_id.removeprefix("written_").replace("_", ".")
        title = f"A model answer to exercise {name}, {exercise(name).points} points, graded by hand"
        return [new_markdown_cell(_folded(title, cell.source, "solution"))]
    if cell.cell_type == "markdown":
        cell.source = HINT.sub(lambda m: "\n" + _folded(m["title"], _one_line(m["body"]), "hint"), cell.source)
        cell.source = BOX.sub(_box, cell.source)
        cell.source = BADGE.sub("", cell.source)
        title, _, rest = cell.source.partition("\n")
        if title.startswith("# "):
            cell.source = f"{title}\n\n{NOTE.format(stage=stage)}\n{rest}"
        return [cell]
    cell.source = HIDDEN.sub("", cell.source)
    if GAP.search(cell.source):
        labels = dict.fromkeys(gap["label"] for gap in GAP.finditer(cell.source))
        gap = new_markdown_cell(f"```python\n{clear_gaps(cell.source)}\n```")
        cell.source = clear_gaps(cell.source, keep=labels)
        _fold(cell, f"Show the solution of {' and '.join(labels)}")
        return [gap, cell]
    if grade_id == "setup":
        _fold(cell, "Show the set-up")
    elif "with_controls(" in cell.source:  # without a kernel nothing would move; the figure above it stays
        cell.metadata["tags"] = ["skip-execution"]
        _fold(cell, "Show the code of the sliders, which move in the notebook")
    return [cell]


def _fold(cell: NotebookNode, text: str) -> None:
    """Hide a code cell's source, not its output, behind a line of text."""
    cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
    cell.metadata["mystnb"] = {"code_prompt_show": text, "code_prompt_hide": text.replace("Show", "Hide")}


def _one_line(html: str) -> str:
    return " ".join(html.split())


def _folded(title: str, body: str, kind: str) -> str:
    """A block that opens at a click; its body is Markdown."""
    return f"::::{{dropdown}} {title}\n:class-container: {kind}\n\n{body}\n::::"


def _box(match: re.Match) -> str:
    body = re.sub(r"(?m)^> ?", "", match["body"]).rstrip("\n")
    return f":::{{admonition}} {match['title']}\n:class: exercise\n*{match['rest'].lstrip('· ')}*\n\n{body}\n:::\n"


def write_pages(root: Path, folder: Path) -> list[Path]:
    """Write the stages' pages into ``folder``; one that has not changed is left alone, so that Sphinx need not read it.

    Returns:
        The pages, in the course's order.
    """
    pages = []
    for master in find_masters(root):
        path = folder / f"{master.stem}.ipynb"
        data = (nbformat.writes(page_of(master)) + "\n").encode()
        if not path.is_file() or path.read_bytes() != data:
            write_whole(path, data)
        pages.append(path)
    for old in set(folder.glob("*.ipynb")) - set(pages):
        old.unlink()
    return pages
