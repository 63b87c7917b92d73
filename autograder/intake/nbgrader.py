"""nbgrader's own layout, STUDENT/STAGE/STAGE.ipynb, which counts before anything beside it."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Collection
from pathlib import Path

from autograder.exercises import STAGES
from autograder.intake.names import Key, listed, readable, shown
from autograder.intake.platforms import label
from autograder.intake.submission import Submission
from autograder.intake.walk import OUTPUTS, is_output, read_file


def submitted(folder: Path, stages: Collection[str]) -> tuple[dict[tuple[Key, str], Submission], set[Path], bool]:
    """STUDENT/STAGE/STAGE.ipynb; a folder with no notebook in it is a submission that needs attention.

    Returns:
        The submissions, by student and stage; the folders that need not be looked into again; whether any folder is of
        this layout.
    """
    submissions: dict[tuple[Key, str], Submission] = {}
    folders, renamed = set(), False
    written = (folder.parent / ".grading").is_dir()  # by grading, which leaves empty folders for formgrader
    for place in sorted(folder.glob("*/*")):
        student, stage = readable(place.parent.name), place.name
        if stage not in STAGES or student.startswith(".") or not place.is_dir() or label(student, folder=True):
            continue
        if is_output(place.parent) or ((folder / ".grading").is_dir() and student in OUTPUTS):
            continue
        if stage not in stages or (written and all(p.name == "timestamp.txt" for p in place.glob("*"))):
            folders.add(place)
            continue
        if _renamed(place):
            renamed = True  # what is in it is looked at as everywhere else
            continue
        folders.add(place)
        path = place / f"{stage}.ipynb"
        submission = Submission(student, stage, readable(str(path)), functools.partial(read_file, path))
        try:
            others = sorted(p.name for p in place.iterdir() if p.name != "timestamp.txt")
            if others and path.name not in others:
                submission.problem = f"{path.name} is missing; there is {listed(others)}"
        except OSError as error:
            submission.problem = f"{shown(student)}/{stage} cannot be read: {error.strerror}"
        key = _key(student)
        if (key, stage) in submissions:  # of one name in two ways of writing it
            submissions[key, stage].problem = f"two folders have the name {shown(student)}"
        submissions.setdefault((key, stage), submission)
    return submissions, folders, bool(folders) or renamed


def _renamed(place: Path) -> bool:
    """Whether a stage's folder has a notebook, or a zip file, under another name than the stage's alone."""
    try:
        names = [path.name for path in place.iterdir() if not path.name.startswith(".")]
    except OSError:
        return False
    return f"{place.name}.ipynb" not in names and any(n.lower().endswith((".ipynb", ".zip")) for n in names)


def folder_keys(folder: Path) -> list[Key]:
    """Whose folders there are."""
    return [_key(readable(p.name)) for p in folder.iterdir() if p.is_dir()]


def _key(student: str) -> Key:
    return "name", unicodedata.normalize("NFC", student)
