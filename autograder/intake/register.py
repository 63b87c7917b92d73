"""Who is who in a course, from one batch to the next: a student keeps the name that the course gave first.

A platform's number tells a student, so that one who is called otherwise there since keeps row, grades and marks. A
plain name tells one too: ``ann-lee`` of a later batch is not the ``ann lee`` who is called ``ann-lee`` here. Moodle
numbers students anew in each assignment, so there a name that only one has tells who it is in the next one.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from autograder.files import write_whole
from autograder.intake.names import Key, student_names


class Register:
    """The students of a course folder, in ``.grading/students.json``; of None, those of one batch.

    Attributes:
        keys: who handed in -> what the course calls them.
        stages: of a key whose number is one assignment's alone, the stages that it handed in.
        namesakes: names, in small letters, that several in the class list have.
    """

    def __init__(self, out: Path | None):
        self.path = out / ".grading" / "students.json" if out else None
        listed = json.loads(self.path.read_text(encoding="utf-8")) if self.path and self.path.exists() else []
        self.keys: dict[Key, str] = {(kind, name): student for kind, name, student, *_ in listed}
        self.stages: dict[Key, set[str]] = {(kind, name): set(of[0]) for kind, name, _, *of in listed if of}
        self.namesakes: set[str] = set()

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
        return names | student_names(keys - set(names), others=set(self.keys.values()))

    def same(self, keys: Mapping[Key, set[str]]) -> dict[Key, Key]:
        """Key -> another one of the same student, for those whose number is one assignment's alone.

        It is the same if both have one name, no stage has two of that name, and the class list has not.

        Args:
            keys: those of a batch, and the stages that each handed in.
        """
        numbers = {number_of(key) for key in self.keys}
        by_name: dict[str, set[Key]] = defaultdict(set)
        for key in {*self.stages, *keys}:
            by_name[name_of(key)].add(key)
        same: dict[Key, Key] = {}
        for name, group in by_name.items():
            stages = Counter(stage for key in group for stage in self.stages.get(key, set()) | keys.get(key, set()))
            new = {key for key in group if key not in self.keys and number_of(key) not in numbers}
            old = sorted(group - new, key=lambda key: key not in self.keys)
            alone = max(stages.values()) == 1 and len({self.keys.get(key) for key in old}) <= 1
            if new and alone and name not in self.namesakes:
                first = old[0] if old else min(new, key=lambda key: (sorted(keys[key]), key))
                same |= dict.fromkeys(new - {first}, first)
        return same

    def namesakes_of(self, key: Key) -> set[str]:
        """Other students of its name who may be the same one in another assignment of Moodle's, if it has but one."""
        students: dict[str, set[str]] = defaultdict(set)
        for other, stages in self.stages.items():
            if name_of(other) == name_of(key):
                students[self.keys[other]] |= stages
        own = students.pop(self.keys[key], set())
        return {student for student, stages in students.items() if len(own) == 1 and not own & stages}

    def add(self, names: dict[Key, str]) -> None:
        """Remember them."""
        self.keys |= names

    def forget(self, student: str, instead: str | None = None) -> None:
        """Take a student out, or let what they hand in be another's."""
        gone = [key for key, name in self.keys.items() if name == student]
        for key in gone:
            del self.keys[key]
            if instead is None:
                self.stages.pop(key, None)
            else:
                self.keys[key] = instead
        if instead is not None:
            self.keys.setdefault(("name", student), instead)

    def numbers(self, stage: str = "") -> dict[str, str]:
        """The platform's number -> student; with a stage, "" where Moodle uses the number in another one."""
        students = {}
        for key, student in self.keys.items():
            elsewhere = stage and stage not in self.stages.get(key, {stage})
            if number := number_of(key):
                students[number] = "" if elsewhere else student
        return students

    def save(self) -> None:
        """Write it down."""
        listed = sorted(
            [kind, name, student, *([sorted(self.stages[kind, name])] if (kind, name) in self.stages else [])]
            for (kind, name), student in self.keys.items()
        )
        if self.path:
            write_whole(self.path, json.dumps(listed, ensure_ascii=False, indent=0).encode())


def name_of(key: Key) -> str:
    """What stands before the platform's number in a key, in small letters."""
    return key[1].rpartition("-")[0].casefold()


def number_of(key: Key) -> str:
    """The platform's number in a key, or ""."""
    number = re.search(r"(?:^|-)([0-9]+)$", key[1]) if key[0] == "id" else None
    return number[1] if number else ""
