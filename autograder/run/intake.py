"""Find submissions and read them as what they are: untrusted files.

A submission gives the sources of its solution cells and its written answers, by ``grade_id``; of two copies the last
one counts, as in `autograder.preprocessors.RestoreCells`. It also gives the student's own code cells, and ordinary
cells that the student edited: an honest answer may rest on a helper or an import there. They run, and are never
graded. Everything else comes from the release, so tags, schema versions, retyped, reordered, deleted or edited cells
do not matter.
"""

from __future__ import annotations

import functools
import json
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autograder.run.assignment import MAX_SOURCE, Assignment, Own, digest, grade_id, nbgrader, source_of

#: Larger files are not read, in bytes: a notebook with outputs has a few megabytes.
MAX_NOTEBOOK = 20_000_000
#: Most of a student's own cells that run, and characters of all of them.
MAX_OWN_CELLS, MAX_OWN = 200, MAX_SOURCE


class Unreadable(Exception):
    """A submitted file cannot be read; the message is for the instructor."""


@dataclass
class Submission:
    """What one student handed in for one stage.

    Attributes:
        student, stage: who and what.
        origin: where it lies, for a person to find it.
        fetch: returns the file's bytes (Unreadable: why not).
        problem: why it cannot be graded, or "".
        notes: what a person should know though it can be graded.
        hash: of the bytes, once `answers` has read them.
        own: the student's own code cells, in the order they have in the file, once `answers` has read them.
    """

    student: str
    stage: str
    origin: str
    fetch: Callable[[], bytes]
    problem: str = ""
    notes: list[str] = field(default_factory=list)
    hash: str = ""
    own: list[Own] = field(default_factory=list)


def discover(folder: Path, assignments: Mapping[str, Assignment]) -> list[Submission]:
    """All submissions in a folder or a zip file, in the order of stage and student.

    Args:
        folder: nbgrader's ``submitted`` folder (STUDENT/STAGE/STAGE.ipynb) or the one that holds it; or what a
            learning platform exports (see `autograder.run.exports`), as zip files or unpacked; or notebooks with the
            students' names.
        assignments: the stages to look for.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    from autograder.run import exports

    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    found: list[Submission] = []
    if folder.is_dir():
        found = from_nbgrader(folder / "submitted" if (folder / "submitted").is_dir() else folder, list(assignments))
    if not found:
        found = exports.submissions(folder, assignments)
    return sorted(found, key=lambda s: (s.stage, s.student))


def from_nbgrader(folder: Path, stages: list[str]) -> list[Submission]:
    """STUDENT/STAGE/STAGE.ipynb; a folder with another file name in it is a submission that needs attention."""
    found = []
    written = (folder.parent / ".grading").is_dir()  # by grading, which leaves empty folders for formgrader
    for place in sorted(folder.glob("*/*")):
        student, stage = place.parent.name, place.name
        if stage not in stages or student.startswith(".") or not place.is_dir():
            continue
        if written and not any(place.glob("*")):
            continue
        path = place / f"{stage}.ipynb"
        found.append(Submission(safe_name(student), stage, str(path), functools.partial(read_file, path)))
        others = sorted(p.name for p in place.glob("*.ipynb") if p != path)
        if others and not path.exists():
            found[-1].problem = f"{path.name} is missing; there is {', '.join(others)[:300]}"
    return found


def safe_name(text: str) -> str:
    """A student's name as a folder of the output may be called."""
    return re.sub(r"[^\w.@+-]+", "-", text).strip(".-")[:80] or "unnamed"


def read_file(path: Path) -> bytes:
    """An ordinary file's bytes; links and special files are not followed.

    Raises:
        Unreadable: it is none, too large, or not there.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or path.parent.is_symlink():
            raise Unreadable(f"{path.name} is no ordinary file")
        if status.st_size > MAX_NOTEBOOK:
            raise Unreadable(f"{path.name} has {status.st_size:,} bytes; at most {MAX_NOTEBOOK:,} are read")
        with path.open("rb") as file:
            return file.read(MAX_NOTEBOOK)
    except FileNotFoundError:
        raise Unreadable(f"{path.name} is missing") from None
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be read: {error.strerror}") from None


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
    return given


def cells_of(data: bytes) -> list[dict[str, Any]]:
    """A notebook file's cells.

    Raises:
        ValueError, RecursionError: it is no notebook.
    """
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
