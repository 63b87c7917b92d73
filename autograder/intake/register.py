"""Who is who in a course, from one batch to the next: a student keeps the name that the course gave first.

A platform's number tells a student, so that one who is called otherwise there since keeps row, grades and marks. A
plain name tells one too: ``ann-lee`` of a later batch is not the ``ann lee`` who is called ``ann-lee`` here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from autograder.files import write_whole
from autograder.intake.names import Key, student_names


class Register:
    """The students of a course folder, in ``.grading/students.json``; of None, those of one batch.

    Attributes:
        keys: who handed in -> what the course calls them.
    """

    def __init__(self, out: Path | None):
        self.path = out / ".grading" / "students.json" if out else None
        listed = json.loads(self.path.read_text(encoding="utf-8")) if self.path and self.path.exists() else []
        self.keys: dict[Key, str] = {(kind, name): student for kind, name, student in listed}

    def names(self, keys: Iterable[Key]) -> dict[Key, str]:
        """What each of a batch is called: as before, or by a new name that nobody has."""
        keys = set(keys)
        by_number = {number: student for key, student in self.keys.items() if (number := number_of(key))}
        often = Counter(filter(None, map(number_of, keys)))
        platforms = {student for (kind, _), student in self.keys.items() if kind == "id"}
        names = {key: self.keys[key] for key in keys if key in self.keys}
        for key in keys - set(names):
            number = number_of(key)
            if number and often[number] == 1 and number in by_number:
                names[key] = by_number[number]
            elif key[0] == "name" and key[1] in platforms:  # a folder called as the course calls them
                names[key] = key[1]
        return names | student_names(keys - set(names), taken=set(self.keys.values()))

    def add(self, names: dict[Key, str]) -> None:
        """Remember them."""
        self.keys |= names

    def forget(self, student: str, instead: str | None = None) -> None:
        """Take a student out, or let what they hand in be another's."""
        gone = [key for key, name in self.keys.items() if name == student]
        for key in gone:
            del self.keys[key]
            if instead is not None:
                self.keys[key] = instead
        if instead is not None:
            self.keys.setdefault(("name", student), instead)

    def numbers(self) -> dict[str, str]:
        """The platform's number -> student."""
        return {number: student for key, student in self.keys.items() if (number := number_of(key))}

    def save(self) -> None:
        """Write it down."""
        listed = sorted([kind, name, student] for (kind, name), student in self.keys.items())
        if self.path:
            write_whole(self.path, json.dumps(listed, ensure_ascii=False, indent=0).encode())


def number_of(key: Key) -> str:
    """The platform's number in a key, or ""."""
    number = re.search(r"(?:^|-)([0-9]+)$", key[1]) if key[0] == "id" else None
    return number[1] if number else ""
