"""Walk what was handed in: folders and zip files, within bounds, with no idea of who handed a file in.

A zip file is read in place, as if it were a folder: nothing is unpacked, so no name in it can lead anywhere, and no
more bytes are read of a member than a notebook may have, whatever its header says.
"""

from __future__ import annotations

import contextlib
import functools
import io
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder.intake.names import readable, shown

#: Larger files are not read, in bytes: a notebook with outputs has a few megabytes.
MAX_NOTEBOOK = 20_000_000
TOO_LARGE = f"at most {MAX_NOTEBOOK:,} are read: clear its outputs, and hand it in again"
#: Most entries that are looked at in one zip file, most notebooks and zip files of one inside another, and how deep.
MAX_MEMBERS, MAX_INSIDE, MAX_DEPTH = 50_000, 50, 2
#: Bytes of the list of what is in a zip file: in Python's hands it takes thirty times as many.
MAX_DIRECTORY = 10_000_000
#: Ways of compressing that are read. The others take memory that the file itself asks for: gigabytes for a kilobyte.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: A zip file in another hardly gets smaller; one that does more than this is not opened.
MAX_RATIO = 10
#: Folders of a path whose names are looked at, and folders one inside another that are opened.
MAX_PARTS, MAX_FOLDERS = 8, 40
#: Lists and objects, and values or texts, that the JSON of a notebook may have.
MAX_LISTS, MAX_VALUES = 300_000, 3_000_000
#: What reading a damaged zip file may raise.
BAD_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, RuntimeError, EOFError, ValueError, ArithmeticError, LookupError),
)
#: What systems and editors leave behind.
JUNK = {"__MACOSX", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db", "desktop.ini", "nbgrader_config.py"}
#: What grading and exporting write into the course folder, which may be the submissions' own.
OUTPUTS = (
    *(".grading", "submitted", "solutions", "notebooks", "autograded", "feedback", "upload"),
    *(".gitignore", "gradebook.db", "grades.csv", "report.html", "mark.ipynb", "nbgrader_config.py"),
    "nbgrader_grades.csv",
)
#: Returns a file's bytes, or raises `Unreadable`.
Fetch = Callable[[], bytes]


class Unreadable(Exception):
    """A submitted file cannot be read; the message is for the instructor."""


@dataclass(frozen=True)
class File:
    """A file in the tree.

    Attributes:
        parts: its path, as names; a zip file on it counts as a folder.
        origin: where it is, for a person to find it.
        fetch: returns its bytes (Unreadable: why not).
    """

    parts: tuple[str, ...]
    origin: str
    fetch: Fetch

    @property
    def notebook(self) -> bool:
        """Whether it is one, or a zip file that cannot be opened: there may be one in it."""
        return self.parts[-1].lower().endswith((".ipynb", ".zip"))

    @property
    def path(self) -> str:
        """Its path, for a message."""
        return "/".join(self.parts)


def files_in(source: Path, skip: Collection[Path]) -> Iterator[File]:
    """Every file under a folder or in a zip file, and in the zip files there, but those in the folders to skip."""
    if source.is_file():
        yield from _zipped(source, lambda: source, (), readable(str(source)), 0)
        return
    todo = [source]  # not os.walk, which on Python 3.10 and 3.11 calls itself for each level
    while todo:
        here = todo.pop()
        where = here.relative_to(source)
        if len(where.parts) > MAX_FOLDERS:
            yield _closed(here, where, f"is more than {MAX_FOLDERS} folders deep")
            continue
        try:
            with os.scandir(here) as entries:
                names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError as error:
            yield _closed(here, where, f"cannot be read: {error.strerror}")
            continue
        outputs = OUTPUTS if here == source and (here / ".grading").is_dir() else ()
        wanted = [(name, folder) for name, folder in names if name not in outputs and not _is_junk(name)]
        folders = [here / name for name, folder in wanted if folder]
        todo += reversed([path for path in folders if path not in skip and not is_output(path)])
        for path in (here / name for name, folder in wanted if not folder):
            parts, origin = parts_of(readable(path.relative_to(source).as_posix())), readable(str(path))
            if path.suffix.lower() == ".zip" and path.is_file() and not path.is_symlink():
                yield from _zipped(path, functools.partial(Path, path), parts, origin, 0)
            else:
                yield File(parts, origin, functools.partial(read_file, path))


def _closed(folder: Path, where: Path, why: str) -> File:
    """What stands for a folder that is not looked into."""
    parts = (*(parts_of(readable(where.as_posix())) if where.parts else ()), "unreadable.zip")
    return File(parts, readable(str(folder)), functools.partial(_refuse, f"{shown(readable(folder.name))} {why}"))


def is_output(folder: Path) -> bool:
    """Whether grading wrote a folder."""
    return (folder / ".grading" / "lock").is_file()


def parts_of(name: str) -> tuple[str, ...]:
    """A path's names; those of a very deep one together at its end."""
    parts = [p for p in re.split(r"[\\/]", name) if p not in ("", ".", "..")] or ["unnamed.ipynb"]
    return (*parts[:MAX_PARTS], f"{len(parts)} folders deep {parts[-1]}") if len(parts) > MAX_PARTS else tuple(parts)


def read_file(path: Path) -> bytes:
    """An ordinary file's bytes; links and special files are not followed.

    Raises:
        Unreadable: it is not one, too large, or not there.
    """
    name = shown(readable(path.name))
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or path.parent.is_symlink():
            raise Unreadable(f"{name} is not an ordinary file")
        if status.st_size > MAX_NOTEBOOK:
            raise Unreadable(f"{name} has {status.st_size:,} bytes; {TOO_LARGE}")
        with path.open("rb") as file:
            return file.read(MAX_NOTEBOOK)
    except FileNotFoundError:
        raise Unreadable(f"{name} is missing") from None
    except OSError as error:
        raise Unreadable(f"{name} cannot be read: {error.strerror}") from None


def weigh(data: bytes) -> None:
    """Refuse JSON of so many small things that Python's objects for them would take a hundred times its bytes.

    Raises:
        ValueError: it has too many lists and objects, values or texts.
    """
    if len(data) < MAX_LISTS:
        return
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > MAX_VALUES:
        raise ValueError("it has too many texts: clear its outputs, and hand it in again")
    bare = re.sub(rb'"[^"]*"', b"", bare)
    if bare.count(b"[") + bare.count(b"{") > MAX_LISTS or bare.count(b",") > MAX_VALUES:
        raise ValueError("it has too many lists or values: clear its outputs, and hand it in again")


def _is_junk(part: str) -> bool:
    return part in JUNK or part.startswith("._")


def _zipped(file: Any, opened: Callable[[], Any], parts: tuple[str, ...], origin: str, depth: int) -> Iterator[File]:
    """The files in a zip file: ``file`` is open or a path, ``opened`` gives it again; a failure is a file as well."""
    own = parts or (Path(origin).name,)

    def failed(why: str) -> File:
        return File(own, origin, functools.partial(_refuse, f"{shown(own[-1])} {why}"))

    notebooks = zips = others = 0
    try:
        if why := _too_long(file):
            yield failed(why)
            return
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
        yield failed(f"is not a readable zip file: {str(error)[:200]}")
        return
    if not notebooks + zips + others:
        yield failed("is an empty zip file")


def _too_long(file: Any) -> str:
    """Why a zip file's list of entries is too long to be read, or ""; counted before any of it is taken apart."""
    with contextlib.ExitStack() as stack:
        data = file if hasattr(file, "read") else stack.enter_context(open(file, "rb"))
        inner: Any = zipfile
        record = inner._EndRecData(data)  # what ZipFile itself goes by, so that the two cannot differ
        data.seek(0)
        if not record:
            return ""  # no zip file: ZipFile says so
        size, at = record[inner._ECD_SIZE], record[inner._ECD_LOCATION]
        if size > MAX_DIRECTORY:
            return f"has a list of entries of {size:,} bytes; at most {MAX_DIRECTORY:,} are read"
        data.seek(max(0, at - size - 100))
        entries = data.read(min(size, at) + 100).count(b"PK\x01\x02")
        data.seek(0)
        return f"has {entries:,} entries; at most {MAX_MEMBERS:,} are read" if entries > 2 * MAX_MEMBERS else ""


def _nested(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    read: Fetch,
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
    if member.compress_type not in METHODS:
        raise Unreadable(f"{name} is compressed in a way that is not read: make an ordinary zip file of it")
    try:
        with archive.open(member) as file:
            data = file.read(MAX_NOTEBOOK + 1)
    except BAD_ZIP as error:
        raise Unreadable(f"{name} cannot be read: {str(error)[:200]}") from None
    if len(data) > MAX_NOTEBOOK:
        raise Unreadable(f"{name} has more than {MAX_NOTEBOOK:,} bytes; {TOO_LARGE}")
    return data
