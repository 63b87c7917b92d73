"""Attacks by the file: damaged, disguised or oversized notebooks, and tampering with what is not the student's."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from autograder.attacks import Attack, Notebook, as_bytes, solution_cells
from autograder.publish.preprocessors import clear_gaps


class _Every:
    """Contains every label."""

    def __contains__(self, item: object) -> bool:
        return True


def solved(release: Notebook, worked: Notebook) -> Notebook:
    """A release with the worked solutions in its solution cells."""
    notebook = copy.deepcopy(release)
    right = {c["metadata"]["nbgrader"]["grade_id"]: "".join(c["source"]) for c in solution_cells(worked)}
    for cell in solution_cells(notebook):
        source = right[cell["metadata"]["nbgrader"]["grade_id"]]
        cell["source"] = clear_gaps(source, keep=_Every()) if cell["cell_type"] == "code" else source
    return notebook


def changed(change: Callable[[Notebook], Any], right: bool = True) -> Callable[[Notebook, Notebook], bytes]:
    """A solved (or untouched) notebook after ``change``."""

    def make(release: Notebook, worked: Notebook) -> bytes:
        notebook = solved(release, worked) if right else copy.deepcopy(release)
        change(notebook)
        return as_bytes(notebook)

    return make


def _marked(notebook: Notebook) -> list[dict[str, Any]]:
    return [c for c in notebook["cells"] if "nbgrader" in c["metadata"]]


def edit_checks(notebook: Notebook) -> None:
    """Numbers for checks, tags that skip them, flags and points of one's own."""
    for cell in _marked(notebook):
        if cell["metadata"]["nbgrader"]["grade"] and cell["cell_type"] == "code":
            cell["source"] = "25.0"
            cell["metadata"]["tags"] = ["skip-execution", "raises-exception"]
            cell["metadata"]["nbgrader"] |= {"points": 99, "locked": False, "solution": True}
            result = {"output_type": "execute_result", "data": {"text/plain": "25.0"}, "metadata": {}}
            cell["outputs"] = [{**result, "execution_count": 1}]


def deep_chain(notebook: Notebook) -> None:
    """A cell of one's own that no tool can walk through without care."""
    source = "def deep(a):\n    return a" + ".b" * 400
    notebook["cells"].insert(3, {"cell_type": "code", "id": "deep", "metadata": {}, "source": source})
    notebook["cells"][3] |= {"outputs": [], "execution_count": None}


def deep_set_up(notebook: Notebook) -> None:
    """Code in the set-up cell that Python parses, and whose tree nothing that calls itself can walk through."""
    cell = next(c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == "setup")
    cell["source"] = "".join(cell["source"]) + "\nif 0: pass\n" + "elif 0: pass\n" * 1_500 + "a = [0]" + "[0]" * 1_500


def duplicate(notebook: Notebook) -> None:
    notebook["cells"] += copy.deepcopy(_marked(notebook))


def untouched_first(notebook: Notebook) -> None:
    """A copy of each solution cell before the real one: the last counts."""
    copies = copy.deepcopy(solution_cells(notebook))
    for cell in copies:
        cell["source"] = "raise SystemError"
    notebook["cells"][:0] = copies


def retype(notebook: Notebook) -> None:
    for cell in _marked(notebook):
        cell["cell_type"] = "raw" if cell["cell_type"] == "code" else "code"


def schema(notebook: Notebook) -> None:
    for cell in _marked(notebook):
        cell["metadata"]["nbgrader"]["schema_version"] = 99
    notebook["nbformat"] = 99


def reorder(notebook: Notebook) -> None:
    notebook["cells"].reverse()


def remove_checks(notebook: Notebook) -> None:
    notebook["cells"] = solution_cells(notebook)


def nonsense(notebook: Notebook) -> None:
    """Metadata and cells of every wrong type beside the right ones."""
    odd: list[Any] = [None, 3, [], "x", {}, {"cell_type": []}, {"metadata": 3}, {"metadata": {"nbgrader": []}}]
    odd += [{"metadata": {"nbgrader": {"grade_id": {}}}, "source": 3}, {"metadata": {"nbgrader": {"grade_id": "x"}}}]
    notebook["cells"] = odd + notebook["cells"] + odd
    notebook["metadata"] = {"kernelspec": {"name": "../../bin/sh", "argv": ["touch", "/tmp/was-run"]}}


def pictures(notebook: Notebook) -> None:
    """Texts in which ten thousands of pictures begin, with names that are looked for in each."""
    for number in range(60):
        cell = {"cell_type": "markdown", "id": f"p{number}", "metadata": {}, "source": "![" * 90_000 + "base64,"}
        attached = {f"{n}.png": {"image/png": "iVBOR"} for n in range(12)}
        notebook["cells"].append(cell | {"attachments": attached})


def prose(notebook: Notebook) -> None:
    for cell in solution_cells(notebook):
        cell["source"] = ["\ud800\u202e", "\x00", "[" * 5000]


ATTACKS = [
    Attack("edited-checks", changed(edit_checks, right=False)),
    Attack("edited-checks-right", changed(edit_checks), "all"),
    Attack("deep-set-up", changed(deep_set_up), "all"),
    Attack("duplicated", changed(duplicate), "all"),
    Attack("deep-chain", changed(deep_chain), "all"),
    Attack("untouched-first", changed(untouched_first), "all"),
    Attack("retyped", changed(retype), "all"),
    Attack("schema-99", changed(schema), "all"),
    Attack("reordered", changed(reorder), "all"),
    Attack("checks-removed", changed(remove_checks), "all"),
    Attack("nonsense", changed(nonsense), "all"),
    Attack("pictures", changed(pictures), "all"),
    Attack("prose", changed(prose, right=False)),
    Attack("invalid-json", lambda release, worked: as_bytes(release)[:-100], None),
    Attack("empty", lambda release, worked: b"", None),
    Attack("binary", lambda release, worked: bytes(range(256)) * 100, None),
    Attack("nested", lambda release, worked: b"[" * 200_000, None),
    Attack("long-number", lambda release, worked: b'{"cells": ' + b"9" * 100_000 + b"}", None),
    Attack("no-cells", lambda release, worked: b'{"cells": []}', None),
    Attack(
        "another", lambda release, worked: json.dumps({"cells": [{"cell_type": "code", "source": "1"}]}).encode(), None
    ),
    Attack("too-large", lambda release, worked: b" " * 21_000_000, None),
    Attack("long-cell", changed(lambda n: solution_cells(n)[0].update(source="#" * 300_000), right=False)),
]
