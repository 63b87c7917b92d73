"""Find submissions and read them as what they are: untrusted files.

A submission gives the sources of its solution cells and its written answers, by ``grade_id``; of two copies the last
one counts, as in `publish.preprocessors.RestoreCells`. It also gives the student's own code cells, and ordinary
cells that the student edited: an honest answer may rest on a helper or an import there. They run, and are never
graded. Everything else comes from the release, so tags, schema versions, retyped, reordered, deleted or edited cells
do not matter.
"""

from __future__ import annotations

import functools
import json
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autograder.engine.assignment import MAX_SOURCE, Assignment, Own, digest, grade_id, nbgrader, source_of
from autograder.exercises import STAGES

#: Larger files are not read, in bytes: a notebook with outputs has a few megabytes.
MAX_NOTEBOOK = 20_000_000
#: Most of a student's own cells that run, and characters of all of them.
MAX_OWN_CELLS, MAX_OWN = 200, MAX_SOURCE
#: Most notes on one submission, or names in a message; characters of a name that are looked at, at each end.
MAX_NOTES, MAX_NAME = 8, 300
#: What grading and exporting write into the course folder, which may be the submissions' own.
OUTPUTS = (
    *(".grading", "submitted", "solutions", "notebooks", "autograded", "feedback", "upload"),
    *("gradebook.db", "grades.csv", "report.html", "nbgrader_config.py", "nbgrader_grades.csv"),
)
#: Whose a submission is: how that is known, and the name as it was given.
Key = tuple[str, str]


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
            learning platform exports (see `autograder.intake.exports`), as zip files or unpacked; or notebooks with the
            students' names. What lies in no folder of nbgrader's form is looked at as an export.
        assignments: the stages to look for.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    from autograder.intake import exports

    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    inner = folder / "submitted"
    for root in (inner, folder) if inner.is_dir() else (folder,):
        claimed, taken = from_nbgrader(root, list(assignments)) if root.is_dir() else ({}, set())
        found = [(key, submission) for (key, _), submission in claimed.items()]
        found += exports.submissions(root, assignments, claimed, taken)
        if found:
            break
    names = student_names([key for key, _ in found] + (folder_keys(root) if claimed else []))
    shared = Counter(safe_name(name) for _, name in {key for key, _ in found})
    for key, submission in found:
        submission.student = names[key]
        if shared[safe_name(key[1])] > 1:
            submission.notes.append(f"called {submission.student}, for {shown(key[1])!r}: others have nearly that name")
    return sorted((submission for _, submission in found), key=lambda s: (s.stage, s.student))


def from_nbgrader(folder: Path, stages: list[str]) -> tuple[dict[tuple[Key, str], Submission], set[Path]]:
    """STUDENT/STAGE/STAGE.ipynb; a folder with another file name in it is a submission that needs attention.

    Returns:
        The submissions, by student and stage; the folders of all stages, also of those that are not asked for.
    """
    from autograder.intake import exports

    found, taken = {}, set()
    written = (folder.parent / ".grading").is_dir()  # by grading, which leaves empty folders for formgrader
    for place in sorted(folder.glob("*/*")):
        student, stage = place.parent.name, place.name
        if stage not in STAGES or student.startswith(".") or not place.is_dir() or exports.is_platforms(student):
            continue
        if is_output(place.parent) or ((folder / ".grading").is_dir() and student in OUTPUTS):
            continue
        taken.add(place)
        if stage not in stages or (written and not any(place.glob("*"))):
            continue
        path = place / f"{stage}.ipynb"
        submission = Submission(student, stage, str(path), functools.partial(read_file, path))
        try:
            others = sorted(p.name for p in place.iterdir() if p.name != "timestamp.txt")
            if others and path.name not in others:
                submission.problem = f"{path.name} is missing; there is {listed(others)}"
        except OSError as error:
            submission.problem = f"{shown(student)}/{stage} cannot be read: {error.strerror}"
        key = ("name", unicodedata.normalize("NFC", student))
        if (key, stage) in found:  # of one name in two ways of writing it
            found[key, stage].problem = f"two folders have the name {shown(student)}"
        found.setdefault((key, stage), submission)
    return found, taken


def is_output(folder: Path) -> bool:
    """Whether grading wrote a folder."""
    return (folder / ".grading" / "lock").is_file()


def folder_keys(folder: Path) -> list[Key]:
    """Whose folders there are, in nbgrader's layout."""
    return [("name", unicodedata.normalize("NFC", p.name)) for p in folder.iterdir() if p.is_dir()]


def student_names(keys: Iterable[Key]) -> dict[Key, str]:
    """What each student is called in the output: no two the same."""
    groups: dict[str, list[Key]] = {}
    for key in sorted(set(keys)):
        groups.setdefault(safe_name(key[1]), []).append(key)
    names = {}
    used = set(groups)
    for safe, group in groups.items():
        group.sort(key=lambda key: key[1] != safe)  # the one that is called so keeps the name
        names[group[0]] = safe
        for key in group if len(group) > 1 and group[0][1] != safe else group[1:]:
            new = f"{safe[:60]}-x{digest(repr(key).encode())[:6]}"
            while new in used:
                new += "x"
            used.add(new)
            names[key] = new
    return names


def safe_name(text: str) -> str:
    """A student's name as a folder of the output may be called: letters of every script, with their marks.

    A long one is cut in the middle, since a platform's number stands at its end.
    """
    text = unicodedata.normalize("NFC", text[:MAX_NAME] + text[MAX_NAME:][-MAX_NAME:])
    kept = (c if c in "_.@+-" or c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    name = re.sub(" +", "-", "".join(kept)).strip(".-")
    while len(name) > 80 or len(name.encode()) > 160:
        middle = min(len(name) // 2, 40)
        name = name[: middle - 1] + name[middle:]
    return name or "unnamed"


def shown(name: str) -> str:
    """A name from a submission, for a message: short, and nothing in it but text."""
    return "".join(c if c.isprintable() else "?" for c in name[:100]) + ("..." if len(name) > 100 else "")


def listed(names: Iterable[str]) -> str:
    """Some names for a message, and how many more there are."""
    return ", ".join(few(shown(name) for name in names))


def few(lines: Iterable[str]) -> list[str]:
    """The first lines, each once, and how many more there are."""
    lines = list(dict.fromkeys(lines))
    return lines[:MAX_NOTES] + ([f"and {len(lines) - MAX_NOTES:,} more"] if len(lines) > MAX_NOTES else [])


def read_file(path: Path) -> bytes:
    """An ordinary file's bytes; links and special files are not followed.

    Raises:
        Unreadable: it is none, too large, or not there.
    """
    name = shown(path.name)
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or path.parent.is_symlink():
            raise Unreadable(f"{name} is no ordinary file")
        if status.st_size > MAX_NOTEBOOK:
            raise Unreadable(f"{name} has {status.st_size:,} bytes; at most {MAX_NOTEBOOK:,} are read")
        with path.open("rb") as file:
            return file.read(MAX_NOTEBOOK)
    except FileNotFoundError:
        raise Unreadable(f"{name} is missing") from None
    except OSError as error:
        raise Unreadable(f"{name} cannot be read: {error.strerror}") from None


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
