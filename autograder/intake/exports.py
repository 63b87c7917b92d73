"""Submissions as learning platforms export them, zipped or unpacked, and folders of notebooks or of students.

    Canvas      lastfirst_123456_789012_02_lora_layer.ipynb   (lastfirst_LATE_123456_...)
    Moodle      First Last_1234567_assignsubmission_file_/02_lora_layer.ipynb   (or without the folder)
    Gradescope  assignment_55_export/submission_66/02_lora_layer.ipynb, beside submission_metadata.yml
    folders     student/02_lora_layer.ipynb, student.zip
    flat        student.ipynb, student_02_lora_layer.ipynb

The tree is read from the outside in, a zip file being a folder. The outermost name that tells a student does; nothing
below it, which may be a student's own, can tell another.

A zip file is read in place: nothing is unpacked, so no name in it can lead anywhere, and no more bytes are read of a
member than a notebook may have, whatever its header says.
"""

from __future__ import annotations

import functools
import io
import lzma
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autograder.engine.assignment import Assignment, digest, grade_id
from autograder.exercises import STAGES
from autograder.intake.submissions import (
    MAX_NAME,
    MAX_NOTEBOOK,
    OUTPUTS,
    Key,
    Submission,
    Unreadable,
    cells_of,
    is_output,
    listed,
    read_file,
    shown,
)

#: Most entries that are looked at in one zip file, most notebooks and zip files of one inside another, and how deep.
MAX_MEMBERS, MAX_INSIDE, MAX_DEPTH = 50_000, 50, 2
#: A zip file in another hardly gets smaller; one that does more than this is not opened.
MAX_RATIO = 10
#: Folders of a path that are looked at; notebooks of one student that are read to choose one.
MAX_PARTS, MAX_LOOKED = 8, 20
#: What reading a damaged zip file may raise.
BAD_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, RuntimeError, EOFError, ValueError, ArithmeticError, LookupError),
)
METADATA = "submission_metadata.yml"
CANVAS = re.compile(r"(?P<who>.+?)_(?:LATE_)?(?P<id>[0-9]{1,20})_[0-9]+_(?P<file>.+)")
MOODLE = re.compile(r"(?P<who>.+?)_(?P<id>[0-9]{1,20})_assignsubmission_(?:file|onlinetext)_?(?P<file>.*)")
GRADESCOPE = re.compile(r"submission_[0-9]+")
EXPORT = re.compile(r"assignment_[0-9]+_export")
#: What a browser or a person puts around the name of a copy.
COPY = re.compile(r"^(?:copy of\s+)+|(?:\s*\([0-9]+\)|\s*-\s*[0-9]+|[\s_-]+copy)$", re.IGNORECASE)
#: Files in a flat folder that are work though no notebook.
WORK = (".pdf", ".doc", ".docx", ".odt", ".py", ".rar", ".7z", ".tar", ".gz", ".tgz", ".ipynb.txt", ".ipynb.json")
#: What systems and editors leave behind.
JUNK = {"__MACOSX", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db", "desktop.ini", "nbgrader_config.py"}


@dataclass(frozen=True)
class File:
    """A file in the tree.

    Attributes:
        parts: its path, as names; a zip file on it counts as a folder.
        origin: where it lies, for a person to find it.
        fetch: returns its bytes (Unreadable: why not).
    """

    parts: tuple[str, ...]
    origin: str
    fetch: Callable[[], bytes]

    @property
    def notebook(self) -> bool:
        """Whether it is one, or a zip file that cannot be opened: there may be one in it."""
        return self.parts[-1].lower().endswith((".ipynb", ".zip"))


@dataclass(frozen=True)
class Place:
    """What one student handed in, as far as the tree tells.

    Attributes:
        kind, name: who: a platform's number ("id"), Gradescope's ("sid") or a name ("name").
        at: the path that tells it.
        note: what a person should know.
    """

    kind: str
    name: str
    at: tuple[str, ...]
    note: str = ""

    @property
    def key(self) -> Key:
        return self.kind, self.name


def submissions(
    source: Path, assignments: Mapping[str, Assignment], claimed: Mapping[tuple[Key, str], Submission], taken: Any = ()
) -> list[tuple[Key, Submission]]:
    """All submissions in a folder or zip file, each with whose it is.

    Of several notebooks of one student for one stage the one with the stage's name is graded, or else the one that has
    its cells, and the others are noted. Whoever handed in no notebook, or something that cannot be read, has a
    submission that needs attention.

    Args:
        claimed: what is known already, as a folder of nbgrader's; it counts, and what lies beside it is noted.
        taken: the folders it lies in, which are not looked at.
    """
    looked = functools.cache(lambda fetch: _stage_inside(fetch, assignments))
    found: dict[tuple[Key, str], list[tuple[Place, File, list[File]]]] = defaultdict(list)
    empty: list[tuple[Place, list[File]]] = []
    known = {key for key, _ in claimed}
    for place, files in places(list(_files(source, taken)), students=bool(taken)):
        notebooks = [f for f in files if f.notebook]
        if not notebooks and place.key not in known:
            empty.append((place, files))
        if taken:
            notebooks = [f for f in notebooks if not _of_another_course(f, looked)]
        if not notebooks:
            continue
        by_stage: dict[str, list[File]] = defaultdict(list)
        for number, file in enumerate(notebooks):
            by_stage[_stage(place, file, assignments, looked if number < MAX_LOOKED else None)].append(file)
        wanted = [stage for stage in by_stage if stage in assignments]
        if not wanted:
            empty.append((place, notebooks))
        others = [f for stage in by_stage if not stage for f in by_stage[stage]] if wanted else []
        for stage in wanted:
            ranked = sorted(by_stage[stage], key=lambda f: _rank(place, f, stage, looked, len(by_stage[stage])))
            found[place.key, stage].append((place, ranked[0], ranked[1:] + others))
    made: dict[tuple[Key, str], Submission] = {}
    for (key, stage), choices in found.items():
        before = claimed.get((key, stage))
        if before is not None:
            before.notes.append(f"left out: {listed(_path(f) for _, first, rest in choices for f in [first, *rest])}")
            continue
        made[key, stage] = _one(stage, choices, looked)
    usual = Counter(stage for _, stage in [*found, *claimed]).most_common(1)
    for place, files in empty:
        stage = next((s for s in assignments for f in files if s in _path(f)), usual[0][0] if usual else "")
        new = Submission("", stage or next(iter(assignments)), files[0].origin, files[0].fetch)
        names = listed("/".join(f.parts[len(place.at) :]) or f.parts[-1] for f in files)
        if any(f.notebook for f in files):
            new.problem = f"{names} names none of {', '.join(assignments)} and has no cell of them"
            try:
                files[0].fetch()
            except Unreadable as error:
                new.problem = str(error)
        else:
            new.problem = f"no notebook; there is {names}"
        other = claimed.get((place.key, new.stage)) or made.get((place.key, new.stage))
        if other is None:
            made[place.key, new.stage] = new
        else:
            other.notes.append(f"left out: {listed(map(_path, files))}")
    return [(key, submission) for (key, _), submission in made.items()]


def _one(
    stage: str,
    choices: list[tuple[Place, File, list[File]]],
    looked: Callable[[Callable[[], bytes]], str],
) -> Submission:
    """The submission of one student for one stage, from what was handed in at one or more places."""
    place, file, rest = choices[0]
    made = Submission("", stage, file.origin, file.fetch)
    if place.note:
        made.notes.append(place.note)
    if len(choices) > 1 and (len(choices) > MAX_LOOKED or len({_content(f) for _, f, _ in choices}) > 1):
        made.problem = (
            f"handed in at several places, and differently; keep one of {listed(_path(f) for _, f, _ in choices)}"
        )
    elif rest:
        made.notes.append(f"more than one notebook; left out: {listed(_path(f) for f in rest)}")
        second = rest[0]
        tied = place.kind == "name" and _title(place, file, stage) == _title(place, second, stage)
        plain = [_plain(f.parts[-1]) for f in (file, second)]
        if tied and (plain[0] != plain[1]) and looked(second.fetch) == stage and _content(file) != _content(second):
            made.problem = (
                f"several notebooks, and none has the stage's name; keep one of {listed(map(_path, [file, *rest]))}"
            )
    return made


def _name(place: Place, file: File) -> str:
    """A file's name, without what a platform wrote in front of it."""
    told = _platform(file.parts[-1], True) if len(file.parts) == len(place.at) else None
    return told["file"] if told else file.parts[-1]


def _content(file: File) -> str:
    try:
        return digest(file.fetch())
    except Unreadable as error:
        return str(error)


def _path(file: File) -> str:
    return "/".join(file.parts)


def _of_another_course(file: File, looked: Callable[[Callable[[], bytes]], str]) -> bool:
    """Whether it is ann/ps1/ps1.ipynb, as nbgrader keeps other assignments, and none of this course's."""
    if len(file.parts) != 3 or file.parts[2] != f"{file.parts[1]}.ipynb":
        return False
    try:
        cells_of(file.fetch())
    except (Unreadable, ValueError, RecursionError):
        return False  # then a person looks at it
    return not looked(file.fetch)


def _stage(place: Place, file: File, assignments: Mapping[str, Assignment], looked: Any) -> str:
    """The stage that a notebook is for: its name or folder says so, or its cells; another stage's name, or ""."""
    own = [*file.parts[len(place.at) :], _name(place, file)]
    named = [stage for part in reversed(own) for stage in STAGES if stage in part.lower()]
    if named and named[0] in assignments:
        return named[0]
    if len(assignments) == 1:
        return "" if named and looked and not looked(file.fetch) else next(iter(assignments))
    inside = looked(file.fetch) if looked else ""
    return inside or next((s for part in reversed(file.parts) for s in assignments if s in part.lower()), "")


def _stage_inside(fetch: Callable[[], bytes], assignments: Mapping[str, Assignment]) -> str:
    """The stage whose cells a notebook has, or ""."""
    try:
        inside = {grade_id(cell) for cell in cells_of(fetch())}
    except (Unreadable, ValueError, RecursionError):
        return ""
    counts = {stage: len(inside & set(a.answer_cells())) for stage, a in assignments.items()}
    best = max(counts, key=lambda stage: counts[stage])
    return best if counts[best] else ""


def _title(place: Place, file: File, stage: str) -> int:
    """How near a notebook's name is to the stage's: 0 is the same."""
    stem = _stem(_name(place, file)).lower()
    plain = _plain(stem)
    return [stem == stage, plain == stage, stem.endswith(stage), plain.endswith(stage), True].index(True)


def _rank(place: Place, file: File, stage: str, looked: Callable[[Callable[[], bytes]], str], count: int) -> Any:
    """The first is graded: by name, by its cells, the least deep, the last copy."""
    cells = 1 < count <= MAX_LOOKED and looked(file.fetch) == stage
    numbers = [int(n[:9]) for n in re.findall("[0-9]+", file.parts[-1][:MAX_NAME])]
    return _title(place, file, stage), not cells, len(file.parts), [-n for n in numbers], file.parts


def _stem(name: str) -> str:
    return re.sub(r"\.(?:ipynb|zip)$", "", name[-MAX_NAME:], flags=re.IGNORECASE)


def _plain(name: str) -> str:
    """A file's name without its end and what makes it a copy's."""
    name, before = _stem(name), ""
    while name != before:
        name, before = COPY.sub("", name).strip(), name
    return name


def _person(name: str) -> str:
    """The student in the name of a file, student_02_lora_layer; "" where it has no stage in it, or nothing before."""
    plain = _plain(name)
    at = next((plain.lower().find(stage) for stage in STAGES if stage in plain.lower()), 0)
    return plain[: max(at, 0)].strip(" _-.")


def places(files: list[File], depth: int = 0, students: bool = False) -> Iterator[tuple[Place, list[File]]]:
    """Sorts files by whose they are, in a folder whose entries are students' or hold a class themselves.

    Args:
        files, depth: how many of the names of their paths lead to the folder.
        students: a folder of no platform's form is known to be a student's.
    """
    note = ""
    entries: dict[str, list[File]] = defaultdict(list)
    for file in files:
        entries[file.parts[depth]].append(file)
    names: dict[str, list[tuple[str, str]]] = {}
    for file in entries.get(METADATA, [])[:1]:
        if len(file.parts) == depth + 1:
            try:
                names = gradescope_people(file.fetch())
            except Unreadable as error:
                note = str(error)
    often = Counter(person for people in names.values() for person in people)
    folders = {name for name, inside in entries.items() if any(len(f.parts) > depth + 1 for f in inside)}
    unknown = [n for n in folders if not is_platforms(n) and not _platform(n, n.lower().endswith(".zip"))]
    work = [name for name, inside in entries.items() if name in folders or inside[0].notebook]
    alone = len(work) == 1 and not students
    bundles = not students and all(
        _flat(entries[name], depth + 1) for name in unknown if any(f.notebook for f in entries[name])
    )
    found: dict[Place, list[File]] = defaultdict(list)
    for name, inside in entries.items():
        at = inside[0].parts[: depth + 1]
        told = _platform(name, name not in folders or name.lower().endswith(".zip"))
        if name in folders and GRADESCOPE.fullmatch(name):
            for kind, who in names.get(name) or [("name", name)]:
                # without a number two may have one name: then the folder is part of who it is
                full = f"{who}-{name}" if kind == "name" and often[kind, who] > 1 else who
                found[Place(kind, full, at, note)] += inside
        elif told:
            found[Place("id", f"{told['who']}-{told['id']}", (*at[:-1], f"{told['who']}_{told['id']}"))] += inside
        elif name in folders and _is_class(name, inside, depth + 1, alone, bundles and _flat(inside, depth + 1)):
            yield from places([f for f in inside if len(f.parts) > depth + 1], depth + 1)
            if failed := [f for f in inside if len(f.parts) == depth + 1]:  # a zip file that is not read to its end
                found[Place("name", name, at)] += failed
        elif name in folders:
            found[Place("name", _stem(name) if name.lower().endswith(".zip") else name, at)] += inside
        elif inside[0].notebook or _looks_like_work(name):
            who = _person(name) or (_stem(name) if inside[0].notebook else name.partition(".")[0]) or name
            whose = (*at[:-1], who)
            found[Place("name", who, whose)] += inside
    for place, inside in found.items():
        yield replace(place, name=unicodedata.normalize("NFC", place.name)), inside


def _platform(name: str, file: bool) -> re.Match[str] | None:
    """What a platform wrote in front of a name; Canvas only does so with files."""
    found = [pattern.match(name[:MAX_NAME]) for pattern in ((CANVAS, MOODLE) if file else (MOODLE,))]
    return min(filter(None, found), key=lambda match: match.start("id"), default=None)


def is_platforms(folder: str) -> bool:
    """Whether a platform gave a folder its name."""
    return bool(GRADESCOPE.fullmatch(folder) or _platform(folder, file=False))


def _looks_like_work(name: str) -> bool:
    low = name.lower()
    return low.endswith(WORK) or any(stage in low for stage in STAGES)


def _flat(files: list[File], depth: int) -> bool:
    """Whether several notebooks lie in a folder, none with a stage's bare name."""
    direct = [f.parts[depth] for f in files if len(f.parts) == depth + 1 and f.notebook]
    return len(direct) > 1 and not any(_plain(name).lower() in STAGES for name in direct)


def _is_class(name: str, files: list[File], depth: int, alone: bool, bundles: bool) -> bool:
    """Whether a folder holds a class, rather than what one student handed in.

    Args:
        depth: of what lies in it.
        alone: nothing else is beside it.
        bundles: it and all like it beside it are `_flat`.
    """
    direct = {f.parts[depth] for f in files if len(f.parts) == depth + 1}
    below = {f.parts[depth] for f in files if len(f.parts) > depth + 1}
    if any(MOODLE.match(b[:MAX_NAME]) for b in below):
        return True
    if any(GRADESCOPE.fullmatch(b) for b in below) and (alone or METADATA in direct or EXPORT.fullmatch(name)):
        return True
    notebooks = {n for n in direct if n.lower().endswith(".ipynb")}
    zips = {n for n in direct | below if n.lower().endswith(".zip")}
    told = [_platform(n, True) for n in notebooks | zips]
    if all(told) and len({match["id"] for match in told}) > 1 - alone:
        return True
    if len({who for n in notebooks if (who := _person(n))}) > 1 - alone or bundles:
        return True
    return alone and not notebooks and any(b.lower() not in STAGES for b in below)


def gradescope_people(text: bytes) -> dict[str, list[tuple[str, str]]]:
    """Folder -> who handed in, from Gradescope's submission_metadata.yml; read line by line, as text.

    A person is ("sid", number) or, without a number, ("name", name or address).
    """
    people: dict[str, list[dict[str, str]]] = {}
    folder, level, listing = "", -1, False
    for line in text.decode("utf-8", "replace").splitlines():
        line = line[:1000].rstrip()
        words = line.lstrip()
        if found := re.match(r"[\"']?(submission_[0-9]+)[\"']?:", line):
            folder, level, listing = found[1], -1, False
            people[folder] = []
        elif folder and words:
            indent, item = len(line) - len(words), words.startswith("- ")
            level = indent if level < 0 else level
            if indent == level and not item:
                listing = words == ":submitters:"
            elif not listing:
                continue
            if not people[folder] or (listing and item):
                people[folder].append({})
            if found := re.match(r":(sid|email|name):\s*(.*)", words.removeprefix("- ").lstrip()):
                people[folder][-1].setdefault(found[1], found[2].strip().strip("'\""))
    return {folder: list(dict.fromkeys(filter(None, map(_known, of)))) for folder, of in people.items()}


def _known(person: Mapping[str, str]) -> tuple[str, str] | None:
    told = {what: text for what, text in person.items() if text and text not in ("~", "null")}
    if "sid" in told:
        return "sid", told["sid"]
    name = told.get("name") or told.get("email")
    return ("name", name) if name else None


def parts_of(name: str) -> tuple[str, ...]:
    """A path's names; those of a very deep one together at its end."""
    parts = [p for p in re.split(r"[\\/]", name) if p not in ("", ".", "..")] or ["unnamed.ipynb"]
    return (*parts[:MAX_PARTS], f"{len(parts)} folders deep {parts[-1]}") if len(parts) > MAX_PARTS else tuple(parts)


def _is_junk(part: str) -> bool:
    return part in JUNK or part.startswith("._")


def _files(source: Path, taken: Collection[Path]) -> Iterator[File]:
    """Every file under a folder, or in a zip file, also in those it holds."""
    if source.is_file():
        yield from _zipped(source, lambda: source, (), str(source), 0)
        return
    failed: list[OSError] = []
    for place, folders, names in os.walk(source, onerror=failed.append):
        here = Path(place)
        made = OUTPUTS if here == source and (here / ".grading").is_dir() else ()
        links = [name for name in folders if (here / name).is_symlink()]
        ours = {*made, *links, *(name for name in folders if here / name in taken or is_output(here / name))}
        folders[:] = sorted(name for name in folders if name not in ours and not _is_junk(name))
        for path in (here / name for name in sorted([*names, *links]) if name not in made and not _is_junk(name)):
            parts = parts_of(path.relative_to(source).as_posix())
            if path.suffix.lower() == ".zip" and path.is_file() and not path.is_symlink():
                yield from _zipped(path, functools.partial(Path, path), parts, str(path), 0)
            else:
                yield File(parts, str(path), functools.partial(read_file, path))
    for error in failed:
        path = Path(error.filename)
        why = f"{shown(path.name)} cannot be read: {error.strerror}"
        parts = (*parts_of(path.relative_to(source).as_posix()), "unreadable.zip")
        yield File(parts, str(path), functools.partial(_refuse, why))


def _zipped(file: Any, opened: Callable[[], Any], parts: tuple[str, ...], origin: str, depth: int) -> Iterator[File]:
    """The files in a zip file: ``file`` is open or a path, ``opened`` gives it again; a failure is a file as well."""
    own = parts or (Path(origin).name,)

    def failed(why: str) -> File:
        return File(own, origin, functools.partial(_refuse, f"{shown(own[-1])} {why}"))

    notebooks = zips = others = 0
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                yield failed(f"has {len(members):,} entries; the first {MAX_MEMBERS:,} are read")
            for member in sorted(members[:MAX_MEMBERS], key=lambda m: m.filename):
                inside = parts_of(member.filename)
                if member.is_dir() or any(map(_is_junk, inside)):
                    continue
                where = f"{origin}!{shown(member.filename)}"
                read = functools.partial(_read, opened, member)
                name = inside[-1].lower()
                if name.endswith(".zip") and depth < MAX_DEPTH and (depth == 0 or zips < MAX_INSIDE):
                    zips += 1
                    yield from _nested(archive, member, read, parts + inside, where, depth + 1)
                elif name.endswith((".ipynb", ".zip")):
                    notebooks += 1
                    if depth and notebooks > MAX_INSIDE:
                        yield failed(f"has more than {MAX_INSIDE} notebooks; the first are read")
                        return
                    yield File(parts + inside, where, read)
                elif depth == 0 or others < MAX_INSIDE:
                    others += 1
                    yield File(parts + inside, where, read)
    except BAD_ZIP as error:
        yield failed(f"is no readable zip file: {str(error)[:200]}")
        return
    if not notebooks + zips + others:
        yield failed("is an empty zip file")


def _nested(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    read: Callable[[], bytes],
    parts: tuple[str, ...],
    origin: str,
    depth: int,
) -> Iterator[File]:
    """The files in a zip file inside another."""
    try:
        if member.file_size > MAX_RATIO * max(member.compress_size, 1000):
            raise Unreadable(f"{shown(member.filename)} is a zip file that hides its size")
        data = _member(archive, member)
    except Unreadable as error:
        yield File(parts, origin, functools.partial(_refuse, str(error)))
        return
    yield from _zipped(io.BytesIO(data), lambda: io.BytesIO(read()), parts, origin, depth)


def _refuse(why: str) -> bytes:
    raise Unreadable(why)


def _read(opened: Callable[[], Any], member: zipfile.ZipInfo) -> bytes:
    """A member's bytes (Unreadable: too large, a link, encrypted, damaged)."""
    try:
        with zipfile.ZipFile(opened()) as archive:
            return _member(archive, member)
    except BAD_ZIP as error:
        raise Unreadable(f"{shown(member.filename)} cannot be read: {str(error)[:200]}") from None


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    name = shown(member.filename)
    if stat.S_ISLNK(member.external_attr >> 16):
        raise Unreadable(f"{name} is a link")
    try:
        with archive.open(member) as file:
            data = file.read(MAX_NOTEBOOK + 1)
    except BAD_ZIP as error:
        raise Unreadable(f"{name} cannot be read: {str(error)[:200]}") from None
    if len(data) > MAX_NOTEBOOK:
        raise Unreadable(f"{name} has more than {MAX_NOTEBOOK:,} bytes")
    return data
