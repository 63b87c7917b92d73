"""What a learning platform's export looks like, as data: `Rule`; and what a name in one says: `Label`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from autograder.intake.names import MAX_NAME, Key


@dataclass(frozen=True)
class Label:
    """What a platform wrote into the name of a file or folder.

    Attributes:
        who, id: the student's name, and number or login; "" where the name does not tell. With neither, the platform's
            roster tells who it is.
        file: the name that the student gave the file, or "".
        place: the text that tells the student, the same for all that one handed in.
        attempt: which of several attempts, as numbers that grow: a count, or a date's year, month, day and so on; empty
            where the platform has none in its names, and None where it has but they cannot be read.
        at: where in the name the platform's own text begins.
    """

    who: str = ""
    id: str = ""
    file: str = ""
    place: str = ""
    attempt: tuple[int, ...] | None = ()
    at: int = 0

    @property
    def key(self) -> Key | None:
        """The student; None where the name does not tell."""
        name = "-".join(filter(None, (self.who, self.id)))
        return ("id" if self.id else "name", name) if name else None


def numbers(text: str) -> tuple[int, ...]:
    """The numbers in a text, from left to right: 2027-03-01-12-00 is (2027, 3, 1, 12, 0)."""
    return tuple(int(number) for number in re.findall("[0-9]{1,9}", text))


def nobody(roster: bytes) -> dict[str, list[Key]]:
    """The people in a roster, for a platform that has none."""
    return {}


@dataclass(frozen=True)
class Rule:
    """A learning platform: how the outermost names of its export look, and which student each name tells.

    Attributes:
        name: the platform's, for people.
        file, folder: the names of files (zip files too) and of folders, matched from their beginning. Groups: ``who``
            and ``id`` of the student, ``file`` as the student called it, ``attempt``; ``place``, if more than ``who``
            and ``id`` tells students apart; ``mark``, where the platform's own text begins, if what stands before it
            could be anything.
        export: the name that the platform gives the folder or zip file of a whole class. It tells no student.
        students: of these, the folders in which each is a student's, whatever it has in it.
        roster: a file beside the folders that tells who they are.
        people: reads it: folder -> the students, several where a group handed in together.
        attempt: reads the text of the group ``attempt``; see `Label`.
    """

    name: str
    file: re.Pattern[str] | None = None
    folder: re.Pattern[str] | None = None
    export: re.Pattern[str] | None = None
    students: re.Pattern[str] | None = None
    roster: str = ""
    people: Callable[[bytes], Mapping[str, list[Key]]] = nobody
    attempt: Callable[[str], tuple[int, ...] | None] = numbers

    def label(self, name: str, folder: bool) -> Label | None:
        """What a name says, or None: it is not this platform's."""
        pattern = self.folder if folder else self.file
        match = pattern.match(name[:MAX_NAME]) if pattern else None
        if not match:
            return None
        said = {group: text or "" for group, text in match.groupdict().items()}
        label = Label(said.get("who", ""), said.get("id", ""), said.get("file", ""), said.get("place", ""))
        at = match.start("mark") if "mark" in said else 0
        attempt = self.attempt(said["attempt"]) if "attempt" in said else ()
        return replace(label, place=label.place or (label.key or ("", ""))[1], attempt=attempt, at=at)

    def holds_class(self, name: str, files: Collection[str], folders: Collection[str], alone: bool) -> bool:
        """Whether a folder is a class as this platform exports it, by the names of what is in it.

        Names of a platform with a roster are such as a student could give a folder too: they also need the roster, the
        export's own name, or that nothing else is beside the folder.
        """
        named = bool(self.export and self.export.fullmatch(name[:MAX_NAME]))
        inside = any(self.label(inner, folder=True) for inner in folders)
        if self.roster:
            return inside and (named or alone or self.roster in files)
        return named or inside
