"""Submissions as learning platforms export them, zipped or unpacked, and flat folders of notebooks.

    Canvas      lastfirst_123456_789012_02_lora_layer.ipynb   (lastfirst_LATE_123456_...)
    Moodle      First Last_1234567_assignsubmission_file_/02_lora_layer.ipynb   (or without the folder)
    Gradescope  assignment_55_export/submission_66/02_lora_layer.ipynb, beside submission_metadata.yml
    flat        student.ipynb, student_02_lora_layer.ipynb

A zip file is read in place: nothing is unpacked, so no name in it can lead anywhere, and no more bytes are read of a
member than a notebook may have, whatever its header says.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from autograder.run.assignment import Assignment, grade_id
from autograder.run.intake import MAX_NOTEBOOK, Submission, Unreadable, cells_of, read_file, safe_name

#: Most entries that are looked at in one zip file.
MAX_MEMBERS = 50_000
CANVAS = re.compile(r"^(?P<who>.+?)_(?:LATE_)?(?P<id>\d+)_(?P<number>\d+)_(?P<file>.+)$")
MOODLE = re.compile(r"^(?P<who>.+)_(?P<id>\d+)_assignsubmission_file_?(?P<file>.*)$")
GRADESCOPE = re.compile(r"^submission_(?P<id>\d+)$")


def submissions(source: Path, assignments: Mapping[str, Assignment]) -> list[Submission]:
    """All notebooks in a folder or zip file, with the student's name taken from the path.

    Of several notebooks of one student for one stage the last by name is graded and the others are noted. A zip file
    that cannot be read is a submission that needs attention.
    """
    found: dict[tuple[str, str], Submission] = {}
    stages = list(assignments)
    for origin, name, fetch, names in _members(source):
        student, file = who(name, names)
        stage = _stage(file, stages) or (stages[0] if len(stages) == 1 else _stage_inside(fetch, assignments))
        submission = Submission(student, stage or stages[0], origin, fetch)
        if not stage:
            submission.problem = f"{file} names none of {', '.join(stages)} and has no cell of them"
        before = found.get((student, submission.stage))
        if before is not None:
            submission.notes.append(f"more than one notebook; {os.path.basename(before.origin)} was left out")
        found[student, submission.stage] = submission
    return list(found.values())


def _members(source: Path) -> Iterator[tuple[str, str, Callable[[], bytes], dict[str, str]]]:
    """(origin, path inside, fetch, Gradescope's names) of each notebook under a folder, or in a zip file."""
    if source.is_file():
        yield from _zipped(source)
        return
    names: dict[str, str] = {}
    for path in source.rglob("submission_metadata.yml"):
        names |= gradescope_names(path.read_bytes()[:MAX_NOTEBOOK])
    for path in sorted(source.rglob("*")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        if path.suffix == ".ipynb":
            yield str(path), path.relative_to(source).as_posix(), functools.partial(read_file, path), names
        elif path.suffix == ".zip" and path.is_file() and not path.is_symlink():
            yield from _zipped(path)


def _zipped(path: Path) -> Iterator[tuple[str, str, Callable[[], bytes], dict[str, str]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()[:MAX_MEMBERS]
            listed = [m for m in members if m.filename.endswith("submission_metadata.yml")]
            names = {key: value for m in listed for key, value in gradescope_names(_read(path, m)).items()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, Unreadable) as error:
        yield str(path), path.name, functools.partial(_refuse, f"{path.name} is no readable zip file: {error}"), {}
        return
    for member in sorted(members, key=lambda m: m.filename):
        pure = PurePosixPath(member.filename)
        if pure.suffix == ".ipynb" and not {".ipynb_checkpoints", "__MACOSX"} & set(pure.parts):
            yield f"{path}!{member.filename}", member.filename, functools.partial(_read, path, member), names


def _refuse(why: str) -> bytes:
    raise Unreadable(why)


def _read(path: Path, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes (Unreadable: too large, a link, encrypted, damaged)."""
    if stat.S_ISLNK(member.external_attr >> 16):
        raise Unreadable(f"{member.filename[:200]} is a link")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            data = file.read(MAX_NOTEBOOK + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise Unreadable(f"{member.filename[:200]} cannot be read: {error}") from None
    if len(data) > MAX_NOTEBOOK:
        raise Unreadable(f"{member.filename[:200]} has more than {MAX_NOTEBOOK:,} bytes")
    return data


def who(name: str, names: Mapping[str, str]) -> tuple[str, str]:
    """(student, file name) for a path in an export; ``names`` are Gradescope's, by folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for folder in reversed(parts[:-1]):
        if GRADESCOPE.match(folder):
            return safe_name(names.get(folder, folder)), parts[-1]
        if found := MOODLE.match(folder):
            return safe_name(f"{found['who']}-{found['id']}"), parts[-1]
    if found := MOODLE.match(parts[-1]) or CANVAS.match(parts[-1]):
        return safe_name(f"{found['who']}-{found['id']}"), found["file"]
    stem = PurePosixPath(parts[-1]).stem
    bare = re.sub(r"[\s_-]*\d\d_[a-z0-9_]+$", "", stem)  # student_02_lora_layer
    if not bare and len(parts) > 1:
        return safe_name(parts[-2]), parts[-1]
    return safe_name(bare or stem), parts[-1]


def gradescope_names(text: bytes) -> dict[str, str]:
    """Folder -> student, from Gradescope's submission_metadata.yml; read line by line, as text."""
    names: dict[str, str] = {}
    folder = ""
    for line in text.decode("utf-8", "replace").splitlines():
        if found := re.match(r"^\"?(submission_\d+)\"?:", line):
            folder = found[1]
        elif folder and (found := re.match(r"^\s*-?\s*:(sid|email|name):\s*['\"]?([^'\"]+)", line)):
            better = found[1] == "sid" or folder not in names
            names[folder] = found[2].strip() if better else names[folder]
    return names


def _stage(file: str, stages: list[str]) -> str:
    return next((stage for stage in stages if stage in file), "")


def _stage_inside(fetch: Callable[[], bytes], assignments: Mapping[str, Assignment]) -> str:
    """The stage whose cells a notebook has, or ""."""
    try:
        inside = {grade_id(cell) for cell in cells_of(fetch())}
    except (Unreadable, ValueError, RecursionError):
        return ""
    counts = {stage: len(inside & set(a.answer_cells())) for stage, a in assignments.items()}
    best = max(counts, key=lambda stage: counts[stage])
    return best if counts[best] else ""
