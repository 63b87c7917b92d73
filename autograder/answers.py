"""Read an answer (a notebook, a master or a Python file) and run it into a dict of names.

Only the set-up cell and the solution cells of a notebook are run: a check needs what the student defines, not the
minutes of training between.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_ref.checks.probing import describe_error

#: Larger files are refused unread: a notebook of text has no business being as large.
MAX_BYTES = 20_000_000


@dataclass
class Answer:
    """What running an answer's cells gave.

    Attributes:
        namespace: the names it defines.
        errors: one line for each cell that raised.
    """

    namespace: dict[str, Any]
    errors: list[str] = field(default_factory=list)


def read_cells(path: Path) -> list[str]:
    """The sources to run: set-up and solution cells of a notebook or master; a plain Python file as one.

    Raises:
        ValueError: the file is too large, not a notebook, or of an unknown kind.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    text = read_text(path)
    if path.suffix == ".py":
        if "# %%" not in text:
            return [text]
        import jupytext  # late, as nbformat: grading comes here for the mutants' module, and reads none

        return _wanted(jupytext.reads(text, fmt="py:percent"))
    import nbformat

    try:
        notebook = nbformat.reads(text, as_version=4)
    except Exception as error:  # nbformat raises many kinds for the many ways a file can be broken
        raise ValueError(f"{path.name} is not a notebook: {str(error)[:200]}") from None
    return _wanted(notebook)


def read_text(path: Path) -> str:
    """An answer's text.

    Raises:
        ValueError: the file is too large, or of an unknown kind.
        FileNotFoundError: there is no such file.
    """
    if path.suffix not in (".py", ".ipynb"):
        raise ValueError(f"{path.name}: expected a .py or .ipynb file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read")
    return path.read_text(encoding="utf-8", errors="replace")


def _wanted(notebook: Any) -> list[str]:
    """The code cells that a build marked as set-up or solution, in a master's short form or in nbgrader's."""
    code = [cell for cell in notebook.cells if cell.get("cell_type") == "code"]
    marked = []
    for cell in code:
        role = cell.get("metadata", {})
        nbgrader = role.get("nbgrader") if isinstance(role.get("nbgrader"), dict) else {}
        if "solution" in role or nbgrader.get("solution") or "setup" in (role.get("locked"), nbgrader.get("grade_id")):
            marked.append(cell.source)
    # a notebook that lost its metadata (some editors drop it) is run whole
    return marked or [cell.source for cell in code]


def run_cells(cells: list[str]) -> Answer:
    """Execute sources in one fresh namespace, each on its own, so that one cell's error leaves the others standing.

    A set-up cell chooses a profile: here it is ``tiny``, as in all grading, unless ``LORA_PROFILE`` names another.
    """
    # a module that can be found by name, and sources by file, as in a notebook: dataclasses look, torch.jit does
    sys.modules["__answer__"] = module = types.ModuleType("__answer__")
    answer = Answer(vars(module))
    chosen = os.environ.get("LORA_PROFILE")
    os.environ["LORA_PROFILE"] = chosen or "tiny"
    try:
        for number, source in enumerate(cells, start=1):
            source = _plain(source)
            name = f"<cell {number}>"
            linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
            try:
                exec(compile(source, name, "exec", dont_inherit=True), answer.namespace)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raised = describe_error(error)
                answer.errors.append(f"cell {number}: {raised['type']}: {raised['text']} {raised['line']}".rstrip())
    finally:
        if chosen is None:
            os.environ.pop("LORA_PROFILE", None)
    return answer


def _plain(source: str) -> str:
    """A source for plain Python, to which lines of IPython's own (%matplotlib, !pip) mean nothing."""
    try:
        compile(source, "<cell>", "exec", dont_inherit=True)
    except SyntaxError:
        return re.sub(r"(?m)^([ \t]*)[%!].*$", r"\1pass", source)
    except (ValueError, RecursionError, MemoryError):
        pass
    return source


def load_answer(path: str | Path) -> Answer:
    """`read_cells`, then `run_cells`."""
    return run_cells(read_cells(Path(path)))
