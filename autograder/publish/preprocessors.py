"""The places where the course needs nbgrader to do something else than it does by itself.

Each class replaces one of nbgrader's preprocessors; `nbgrader_config.py` puts them in their places. `make
build` runs the same list, so `nbgrader generate_assignment` and the build give the same release.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import (
    ClearHiddenTests,
    ClearMarkScheme,
    ClearSolutions,
    Execute,
    OverwriteCells,
)

ROOT = Path(__file__).resolve().parents[2]

GAP = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION (?P<label>\S[^\n]*?)[ \t]*\n"
    r"(?P<body>.*?)^[ \t]*### END SOLUTION[ \t]*$",
    re.MULTILINE | re.DOTALL,
)


def gap_stub(label: str) -> str:
    """The line that stands in a gap: an exercise is named as such, all else ("Lab") by its label alone."""
    return f'raise NotImplementedError("{"Exercise " if label[0].isdigit() else ""}{label}")'


GIVEN = re.compile(r"^[ \t]*### GIVEN[ \t]*\n", re.MULTILINE)


def clear_gaps(source: str, keep: Container[str] = ()) -> str:
    """A solution cell's source with its gaps opened, but for those labelled in ``keep``.

    A gap becomes a line that raises and names its exercise; a "spot the bug" gap becomes the wrong code, which stands
    after the line ``### GIVEN`` as comments.

    Raises:
        RuntimeError: a gap is not written as it must be.
    """

    def opened(gap: re.Match) -> str:
        if "BEGIN SOLUTION" in gap["body"]:
            raise RuntimeError(f"gap {gap['label']}: no END SOLUTION before the next gap")
        right, *given = GIVEN.split(gap["body"])
        if gap["label"] in keep:
            return right.rstrip("\n")
        if given:
            return re.sub(r"(?m)^([ \t]*)# ?", r"\1", given[0]).rstrip("\n")
        return f"{gap['indent']}# Your code here\n{gap['indent']}{gap_stub(gap['label'])}"

    source = GAP.sub(opened, source)
    if "BEGIN SOLUTION" in source or "END SOLUTION" in source:
        raise RuntimeError(
            "a gap is written '### BEGIN SOLUTION 2.1' ... '### END SOLUTION', each on its own line:\n" + source
        )
    return source


class ClearGaps(ClearSolutions):
    """Opens the gaps as `clear_gaps` does; nbgrader's own stub is the same everywhere."""

    def _replace_solution_region(self, cell: NotebookNode, language: str) -> bool:
        if cell.cell_type != "code":
            return super()._replace_solution_region(cell, language)
        before, cell.source = cell.source, clear_gaps(cell.source)
        return cell.source != before


class RestoreCells(OverwriteCells):
    """Brings the graded and the locked cells of a submission back, whatever happened to them.

    nbgrader's own step stops the whole class's batch at a cell that a student copied (its metadata with it)
    or that carries a newer schema, drops a submission whose flags were changed, and fails to restore a cell
    where the one before it is gone too. Here the gradebook alone says what a cell is; the submission says
    only where it stands.
    """

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        """Sets cells' metadata from the gradebook, adds missing cells, then lets nbgrader restore sources."""
        where = resources["nbgrader"]["notebook"], resources["nbgrader"]["assignment"]
        with Gradebook(resources["nbgrader"]["db_url"]) as gradebook:
            notebook = gradebook.find_notebook(*where)
            points = {cell.name: float(cell.max_score) for cell in notebook.grade_cells}
            solutions = {cell.name for cell in notebook.solution_cells}
            released = {}  # grade_id -> the cell as the gradebook has it, in the order of the release
            for source in notebook.source_cells:
                new = new_code_cell if source.cell_type == "code" else new_markdown_cell
                released[source.name] = cell = new(source.source)
                cell.metadata["nbgrader"] = {
                    "schema_version": 3,
                    "grade_id": source.name,
                    "grade": source.name in points,
                    "solution": source.name in solutions,
                    "locked": source.locked,
                    "task": False,
                    "cell_type": source.cell_type,
                    "checksum": source.checksum,
                    **({"points": points[source.name]} if source.name in points else {}),
                }
        self._set_metadata(nb, released)
        self._add_missing(nb, released)
        return super().preprocess(nb, resources)

    def _set_metadata(self, nb: NotebookNode, released: dict[str, NotebookNode]) -> None:
        restored = set()
        for cell in reversed(nb.cells):  # of two copies nbgrader keeps the last, and so do we
            claimed = cell.metadata.pop("nbgrader", None)
            name = claimed.get("grade_id") if isinstance(claimed, dict) else None
            if not isinstance(name, str) or name not in released or name in restored:
                continue
            restored.add(name)
            if released[name].metadata.nbgrader.locked:
                cell.metadata.clear()  # a tag such as skip-execution would turn a check into full marks
            cell.metadata["nbgrader"] = released[name].metadata.nbgrader

    def _add_missing(self, nb: NotebookNode, released: dict[str, NotebookNode]) -> None:
        after = -1  # a missing cell goes after all that stand before it in the release
        for name, cell in released.items():
            ids = [other.metadata.get("nbgrader", {}).get("grade_id") for other in nb.cells]
            if name in ids:
                after = max(after, ids.index(name))
            elif cell.metadata.nbgrader.locked or cell.metadata.nbgrader.grade:
                self.log.warning("Cell %s is missing from the submission, adding it", name)
                if nb.nbformat_minor < 5:
                    del cell["id"]  # Colab writes an older format, which knows no ids
                after += 1
                nb.cells.insert(after, cell)


def grading_environment() -> dict[str, str]:
    """The environment of a kernel that grades: this process's own, and defaults where nothing is set."""
    defaults = {
        "LORA_PROFILE": "tiny",  # checks need no real model: seconds instead of minutes
        "TRANSFORMERS_VERBOSITY": "error",  # keep warnings out of the feedback
        "TOKENIZERS_PARALLELISM": "false",  # tokenizers warn after a fork
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # bars fill the feedback with lines
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    # The hidden cell imports `autograder`; the kernel stands in autograded/<student>/<assignment>.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**defaults, **os.environ, "PYTHONPATH": path}


class ExecuteForGrading(Execute):
    """Runs a submission in a kernel with the grading environment.

    The kernel gets it, not this process: under formgrader this process is the instructor's Jupyter server,
    whose other notebooks must keep their own profile.
    """

    def setup_kernel(self, **kwargs: Any) -> Any:
        """Starts the kernel (a context manager), as nbclient does, with our environment."""
        kwargs.setdefault("env", grading_environment())
        return super().setup_kernel(**kwargs)


class HideTestsInFeedback(ClearHiddenTests):
    """Takes hidden tests out of the feedback: from the sources of check cells and from their tracebacks.

    Only locked cells are touched: a student who writes the marker into a cell of their own must not stop the
    feedback.
    """

    def preprocess_cell(
        self, cell: NotebookNode, resources: dict[str, Any], cell_index: int
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Leaves the visible call, the messages and, of an error, its last line."""
        if not utils.is_locked(cell):
            return cell, resources
        for output in cell.get("outputs", []):
            if output.output_type == "error":  # a traceback quotes the lines around the failing one
                output.traceback = [f"{output.ename}: {output.evalue}"]
        return super().preprocess_cell(cell, resources, cell_index)


class HideMarkSchemesInFeedback(ClearMarkScheme):
    """Takes mark schemes out of the feedback, as above; graders read them in formgrader."""

    def preprocess_cell(
        self, cell: NotebookNode, resources: dict[str, Any], cell_index: int
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Removes the mark scheme region of a locked cell."""
        return super().preprocess_cell(cell, resources, cell_index) if utils.is_locked(cell) else (cell, resources)
