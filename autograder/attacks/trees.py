"""Attacks by what is handed in instead of a notebook: zip files, names, and folders that are somebody else's.

Each writes into the folder of a class as ``python -m autograder grade --submissions`` reads it.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autograder.attacks import STAGE, Notebook, as_bytes
from autograder.attacks.files import solved

NAME = f"{STAGE}.ipynb"


@dataclass(frozen=True)
class Tree:
    """One attack.

    Attributes:
        id: a short name, also the student's.
        write: ``write(folder, solved, untouched)``: puts it there; the notebooks are files' bytes.
        earns: ``"all"`` where a right notebook of the student's own counts, 0 where an untouched one does, ``"some"``
            where either may, None where a person must look.
    """

    id: str
    write: Callable[[Path, bytes, bytes], object]
    earns: float | str | None = None


def write_all(folder: Path, release: Notebook, worked: Notebook) -> None:
    """Put all of them into a folder."""
    right, untouched = as_bytes(solved(release, worked)), as_bytes(release)
    for tree in TREES:
        tree.write(folder, right, untouched)


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def _handed(student: str, make: Callable[[bytes, bytes], bytes]) -> Callable[[Path, bytes, bytes], object]:
    """Hands in a zip file as ``STUDENT.zip``."""
    return lambda folder, right, untouched: (folder / f"{student}.zip").write_bytes(make(right, untouched))


def _entries(count: int) -> bytes:
    """A zip file whose list has ``count`` entries, all of one empty member."""
    data = _zip({"a": b""}, zipfile.ZIP_STORED)
    at = data.index(b"PK\x01\x02")
    entry, end = data[at : data.index(b"PK\x05\x06")], data[data.index(b"PK\x05\x06") :]
    few = min(count, 65_535)
    tail = end[:8] + struct.pack("<HHII", few, few, len(entry) * count, at) + end[20:]
    return data[:at] + entry * count + tail


def _bomb(right: bytes, untouched: bytes) -> bytes:
    """Zeros in zip files in zip files: kilobytes that would be gigabytes."""
    data = _zip({NAME: bytes(21_000_000)})
    for level in range(4):
        data = _zip({f"{level}-{n}.zip": data for n in range(8)})
    return data


def _link(right: bytes, untouched: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        member = zipfile.ZipInfo(NAME)
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return out.getvalue()


def _lies(right: bytes, untouched: bytes) -> bytes:
    """A list that says another size and another name than what stands before the member."""
    data = bytearray(_zip({NAME: right}, zipfile.ZIP_STORED))
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 2**31)
    return bytes(data)


def _surrogates(right: bytes, untouched: bytes) -> bytes:
    """Names that are no UTF-8, that turn text around, and that give a terminal orders."""
    data = _zip({"\u202e\x1b]0;x\x07" + NAME: right, "xxxx.ipynb": untouched})
    return data.replace(b"xxxx.ipynb", b"\xed\xa0\x80\x9b.ipynb")


def _linked(folder: Path, right: bytes, untouched: bytes) -> None:
    """A link to a neighbour's notebook, in place of one's own."""
    place = folder / "tree-symlink" / STAGE
    place.mkdir(parents=True)
    (place / NAME).symlink_to(folder / "victim" / STAGE / NAME)


def _twin(folder: Path, right: bytes, untouched: bytes) -> None:
    """A folder whose name looks like the victim's: its third letter is Cyrillic."""
    place = folder / "vi\u0441tim" / STAGE
    place.mkdir(parents=True)
    (place / NAME).write_bytes(untouched)


def _names(right: bytes, untouched: bytes) -> bytes:
    """Names in which a copy's ending, or a copy of a copy, begins again and again."""
    endings = (" " * 280, " - 1" * 70, "copy " * 55)
    return _zip({f"{ending}{n}.ipynb": right for n in range(300) for ending in endings})


def _old_letters(folder: Path, right: bytes, untouched: bytes) -> None:
    """A folder whose name is no UTF-8: what a zip file of an old program is unpacked to, or made on purpose."""
    place = folder / os.fsdecode(b"M\x81ller") / STAGE
    place.mkdir(parents=True)
    (place / NAME).write_bytes(right)


def _deep(right: bytes, untouched: bytes) -> bytes:
    return _zip({"x/" * 1_500 + NAME: right})


TREES = [
    Tree("tree-bzip2", _handed("tree-bzip2", lambda r, u: _zip({NAME: r}, zipfile.ZIP_BZIP2))),
    Tree("tree-lzma", _handed("tree-lzma", lambda r, u: _zip({NAME: r}, zipfile.ZIP_LZMA))),
    Tree("tree-million", _handed("tree-million", lambda r, u: _entries(1_000_000))),
    Tree("tree-entries", _handed("tree-entries", lambda r, u: _entries(150_000))),
    Tree("tree-bomb", _handed("tree-bomb", _bomb)),
    Tree("tree-zeros", _handed("tree-zeros", lambda r, u: _zip({NAME: bytes(60_000_000)}))),
    Tree("tree-deep", _handed("tree-deep", _deep), "all"),
    Tree("tree-link", _handed("tree-link", _link)),
    Tree("tree-lies", _handed("tree-lies", _lies), "all"),
    Tree("tree-surrogates", _handed("tree-surrogates", _surrogates), "some"),
    Tree("tree-symlink", _linked),
    Tree("tree-traversal", _handed("tree-traversal", lambda r, u: _zip({f"../victim/{STAGE}/{NAME}": r})), "all"),
    Tree(
        "tree-neighbour",
        _handed("tree-neighbour", lambda r, u: _zip({f"victim/{STAGE}/{NAME}": u, f"absent/{STAGE}/{NAME}": r})),
        "all",  # its own: what is as released does not count
    ),
    Tree(
        "tree-platform",
        _handed(
            "tree-platform",
            lambda r, u: _zip({f"victim_1234567_assignsubmission_file_/{NAME}": u, f"absent_12_34_{NAME}": r}),
        ),
        "some",
    ),
    Tree("vi\u0441tim", _twin, 0),
    Tree("tree-names", _handed("tree-names", _names), "all"),
    Tree("M\u00fcller", _old_letters, "all"),
    Tree("tree-cut", _handed("tree-cut", lambda r, u: _zip({NAME: r})[:-30])),
    Tree("tree-empty", _handed("tree-empty", lambda r, u: b"")),
]
