"""The class list: real names, and who is missing. ``.grading/roster.json``."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from autograder.files import write_whole
from autograder.intake.names import safe_name
from autograder.intake.register import Register


@dataclass
class Person:
    """One row of the class list.

    Attributes:
        name: "First Last", as the platform shows it.
        number: the platform's own, or "".
        logins: login, address, other numbers: whatever else may name the student in a file.
    """

    name: str
    number: str
    logins: list[str]

    @property
    def keys(self) -> set[str]:
        """What the student may be called in the course, in small letters."""
        plain = {key.casefold() for key in [*self.logins, self.number] if key}
        return plain | {key.partition("@")[0] for key in plain}


def load(out: Path) -> list[Person]:
    """The class list of a course folder, empty if there is none."""
    path = out / ".grading" / "roster.json"
    return [Person(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def save(out: Path, people: Sequence[Person]) -> None:
    """Write it down."""
    text = json.dumps([asdict(person) for person in people], ensure_ascii=False, indent=0)
    write_whole(out / ".grading" / "roster.json", text.encode())


def namesakes(people: Sequence[Person]) -> set[str]:
    """Names, in small letters, that several people have."""
    return {name for name, count in Counter(person.name.casefold() for person in people).items() if count > 1}


def match(
    people: Sequence[Person], students: Collection[str], numbers: Mapping[str, str]
) -> tuple[dict[str, Person], list[Person]]:
    """Who of the class list is which student.

    Args:
        people: the class list.
        students: as the course calls them.
        numbers: the platform's number -> student (`autograder.intake.register.Register.numbers`).

    Returns:
        student -> person; the people whom no student is.
    """
    by_name = {student.casefold(): student for student in students}
    by_end = {student.rpartition("-")[2]: student for student in students if student.rpartition("-")[2].isdigit()}
    by_whole = _once((safe_name(student.rpartition("-")[0]).casefold(), student) for student in by_end.values())
    names = _once((safe_name(person.name).casefold(), person.number) for person in people)
    known: dict[str, Person] = {}
    missing = []
    for person in people:
        student = numbers.get(person.number) or by_end.get(person.number)
        if student not in students:
            student = next((by_name[key] for key in sorted(person.keys) if key in by_name), None)
            name = safe_name(person.name).casefold()
            if student is None and name in names:  # of another assignment of Moodle's, with another number
                student = by_whole.get(name)
        if student is None or student in known:
            missing.append(person)
        else:
            known[student] = person
    return known, missing


def _once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The pairs whose first is that of no other."""
    listed = list(pairs)
    often = Counter(name for name, _ in listed)
    return {name: what for name, what in listed if often[name] == 1}


def name_students(out: Path) -> None:
    """Bring the class list's names and addresses into nbgrader's gradebook, for formgrader."""
    people, database = load(out), out / "gradebook.db"
    if not people or not database.is_file():
        return
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        students = {row[0] for row in db.execute("SELECT id FROM student")}
        for student, person in match(people, students, Register(out).numbers())[0].items():
            first, _, last = person.name.rpartition(" ")
            mail = next((login for login in person.logins if "@" in login), None)
            names = (first or last, last if first else None, mail, student)
            db.execute(
                "UPDATE student SET first_name = ?, last_name = ?, email = coalesce(?, email) WHERE id = ?", names
            )
