"""Read a notebook as what it is, an untrusted file: which of its cells are answers, and which are the student's own.

A submission gives the sources of its solution cells and its written answers, by ``grade_id``; of two copies the last
one counts, as in `publish.preprocessors.RestoreCells`. It also gives the student's own code cells, and ordinary
cells that the student edited: an honest answer may rest on a helper or an import there. They run, and are never
graded. Everything else comes from the release, so tags, schema versions, retyped, reordered, deleted or edited cells
do not matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from autograder.engine.assignment import MAX_SOURCE, Assignment, Own, digest, grade_id, nbgrader, source_of
from autograder.intake.names import few
from autograder.intake.submission import Submission
from autograder.intake.walk import Unreadable, weigh

#: Most of a student's own cells that run, and characters of all of them.
MAX_OWN_CELLS, MAX_OWN = 200, MAX_SOURCE


def answers(submission: Submission, assignment: Assignment) -> dict[str, str]:
    """grade_id -> source, of the solution cells and written answers in a submission.

    The student's own cells go into ``submission.own``, what is odd into ``submission.notes``, what makes grading
    impossible into ``submission.problem``.
    """
    if submission.problem:
        return {}
    try:
        data = submission.fetch()
        submission.hash = digest(data)
        cells = cells_of(data)
    except Unreadable as error:
        submission.problem = str(error)
        return {}
    except (ValueError, RecursionError) as error:
        submission.problem = f"no notebook: {str(error)[:200]}"
        return {}
    wanted = assignment.answer_cells()
    given: dict[str, str] = {}
    named = any(grade_id(cell) in wanted for cell in cells)
    for cell in reversed(cells):
        name = grade_id(cell)
        if name is None and not named:  # an editor that drops nbgrader's metadata may keep the cells' ids
            name = cell.get("id") if isinstance(cell.get("id"), str) else None
        try:
            if name not in wanted:
                continue
            if name in given:
                submission.notes.append(f"cell {name!r} is there more than once; the last copy counts")
            else:
                given[name] = source_of(cell)
        except ValueError as error:
            submission.notes.append(f"cell {name!r}: {error}")
    missing = [name for name in wanted if name not in given]
    if len(missing) == len(wanted):
        submission.problem = f"none of the cells of {submission.stage} is in it (another notebook?)"
    elif missing:
        submission.notes.append(f"missing cells: {', '.join(missing)}")
    submission.own = [] if submission.problem else own_cells(cells, assignment, submission.notes)
    submission.notes = few(submission.notes)
    return given


def cells_of(data: bytes) -> list[dict[str, Any]]:
    """A notebook file's cells.

    Raises:
        ValueError, RecursionError: it is not a notebook.
    """
    weigh(data)
    notebook = json.loads(data.decode("utf-8-sig", "replace"))
    if not isinstance(notebook, dict):
        raise ValueError("it is JSON, but no notebook")
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        raise ValueError("it has no list of cells")
    return [cell for cell in cells if isinstance(cell, dict)]


def own_cells(cells: Iterable[dict[str, Any]], assignment: Assignment, notes: list[str]) -> list[Own]:
    """A student's own code cells and edits of ordinary ones, each with its place among the release's cells.

    An ordinary cell is one that nbgrader knows nothing of, neither solution, check nor set-up. It is known by its id,
    or, where an editor gives new ids, by its source.
    """
    released = assignment.release["cells"]
    by_id = {cell["id"]: number for number, cell in enumerate(released) if "id" in cell}
    by_name = {grade_id(cell): number for number, cell in enumerate(released) if grade_id(cell)}
    by_source = {source_of(cell).strip(): number for number, cell in enumerate(released) if cell["cell_type"] == "code"}
    own: list[Own] = []
    place, size, edited = -1, 0, set()
    for cell in cells:
        name = grade_id(cell)
        known = by_name.get(name) if name else by_id.get(cell["id"]) if isinstance(cell.get("id"), str) else None
        if name and known is None:
            continue  # metadata of another notebook, or forged
        try:
            source = source_of(cell)
        except ValueError as error:
            notes.append(f"a cell of the student's own: {error}")
            continue
        if known is None and cell.get("cell_type") == "code":
            known = by_source.get(source.strip())
        place = place if known is None else known
        if cell.get("cell_type") != "code" or not source.strip():
            continue
        if known is not None:
            ordinary = released[known]["cell_type"] == "code" and not nbgrader(released[known])
            if not ordinary or source.strip() == source_of(released[known]).strip():
                continue
        size += len(source)
        if len(own) >= MAX_OWN_CELLS or size > MAX_OWN:
            notes.append("too many cells of the student's own; the rest do not run")
            break
        own.append((place, source, known is not None and known not in edited))
        edited.add(known)
    return own
