"""The learning platforms: each file here is one, and its `RULE` says what the platform's export looks like.

A new platform is a new file. Of two rules that fit a name, the one counts whose text begins first in it: what follows
is the student's, who may have called a file like another platform's.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import defaultdict
from collections.abc import Collection, Mapping

from autograder.intake.names import MAX_NAME, Key
from autograder.intake.rule import Label, Rule
from autograder.intake.walk import File, Unreadable


def rules() -> tuple[Rule, ...]:
    """The rule of each file here, in the order of the files' names."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return tuple(module.RULE for module in modules)


#: All platforms.
RULES = rules()


#: What people call a whole class's files.
WHOLE = ("submissions", "submitted", "export", "download", "class", "section", "group", "all", "ex")


def label(name: str, folder: bool) -> Label | None:
    """What a name in an export says, or None: no platform wrote it, or it is a whole class's."""
    if any(rule.export and rule.export.fullmatch(name[:MAX_NAME]) for rule in RULES):
        return None
    labels = (rule.label(name, folder) for rule in RULES)
    return min(filter(None, labels), key=lambda label: label.at, default=None)


def holds_class(name: str, files: Collection[str], folders: Collection[str], alone: bool) -> bool:
    """Whether a folder is a class as a platform exports it (see `Rule.holds_class`)."""
    return any(rule.holds_class(name, files, folders, alone) for rule in RULES)


def holds_students(name: str) -> bool:
    """Whether each folder in a class's is a student's, whatever it has in it."""
    return any(rule.students and rule.students.fullmatch(name[:MAX_NAME]) for rule in RULES)


def says_class(name: str) -> bool:
    """Whether a folder's or zip file's own name says that it is a class's, not a student's."""
    if any(rule.export and rule.export.fullmatch(name[:MAX_NAME]) for rule in RULES):
        return True
    words = set(re.findall("[a-z]+", name[:MAX_NAME].lower().removesuffix(".zip")))
    return bool(words & {*WHOLE, *(rule.name.lower() for rule in RULES)})


def roster(files: Mapping[str, File]) -> tuple[dict[str, list[Key]], str]:
    """Who is who by the rosters among the files of a folder: folder -> students; and why one cannot be read, or ""."""
    people: dict[str, list[Key]] = defaultdict(list)
    note = ""
    for rule in RULES:
        if rule.roster in files:
            try:
                for folder, students in rule.people(files[rule.roster].fetch()).items():
                    people[folder] += students
            except Unreadable as error:
                note = str(error)
    return people, note
