"""Whose a file is: the outermost name in the tree that tells a student decides.

The tree is read from the outside in, a zip file being a folder. Nothing below the name that tells a student, which may
be the student's own, can tell another. Names are a platform's (`autograder.intake.platforms`) or plain
(`autograder.intake.plain`).
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from autograder.exercises import STAGES
from autograder.intake import plain
from autograder.intake.names import NOBODY, Key
from autograder.intake.platforms import holds_class, holds_students, label, roster, says_class
from autograder.intake.rule import Label
from autograder.intake.walk import File


@dataclass(frozen=True)
class Place:
    """What one student handed in, as far as the tree tells.

    Attributes:
        kind, name: who: a platform's number or login ("id"), Gradescope's ("sid"), a name ("name"), or that no name
            tells it ("nobody").
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

    def below(self, file: File) -> tuple[str, ...]:
        """The part of a file's path that is the student's own."""
        return file.parts[len(self.at) :]

    def label(self, file: File) -> Label | None:
        """What the platform wrote into the outermost name, of this file or of the folder or zip file that it is in."""
        name = file.parts[len(self.at) - 1]
        return label(name, folder=bool(self.below(file)) and not _is_zip(name))


def places(files: list[File], depth: int = 0, students: bool = False) -> Iterator[tuple[Place, list[File]]]:
    """Sorts files by whose they are, in a folder whose entries are students' or hold a class themselves.

    Args:
        files, depth: how many of the names of their paths lead to the folder.
        students: a folder that no platform named is known to be a student's.
    """
    entries: dict[str, list[File]] = defaultdict(list)
    for file in files:
        entries[file.parts[depth]].append(file)
    rostered, note = roster({name: of[0] for name, of in entries.items() if len(of[0].parts) == depth + 1})
    often = Counter(key for keys in rostered.values() for key in keys)
    folders = {name for name, inside in entries.items() if any(len(f.parts) > depth + 1 for f in inside)}
    labels = {name: label(name, name in folders and not _is_zip(name)) for name in entries}
    work = [name for name, inside in entries.items() if name in folders or inside[0].notebook]
    alone = len(work) == 1 and not students
    bundles = not students and all(
        _flat(entries[name], depth + 1)
        for name in folders
        if not labels[name] and any(f.notebook for f in entries[name])
    )
    classes = {
        name
        for name in folders
        if not labels[name]
        and _is_class(name, entries[name], depth + 1, alone, bundles and _flat(entries[name], depth + 1))
    }
    # beside a student's, what looks like a class is a student's as well, who may have put others' names into a zip,
    # unless its own name says what it is
    if any(_is_a_students(name, entries[name], depth + 1) for name in work if name not in classes):
        classes = {name for name in classes if says_class(name)}
    stems = {unicodedata.normalize("NFC", plain.stem(name)) for name in work if name not in folders}
    sure = {said.key for said in labels.values() if said and not _doubtful(said)}
    by_place: dict[Place, list[File]] = defaultdict(list)
    for name, inside in entries.items():
        at, said = inside[0].parts[: depth + 1], labels[name]
        if said and name not in folders and _doubtful(said) and said.key in sure:
            by_place[Place("name", plain.stem(name), at)] += inside
        elif said and said.key:
            by_place[Place(*said.key, (*at[:-1], said.place))] += inside
        elif said:
            for kind, who in rostered.get(name) or [("name", name)]:
                # without a number two may have one name: then the folder is part of who it is
                full = f"{who}-{name}" if kind == "name" and often[kind, who] > 1 else who
                by_place[Place(kind, full, at, note)] += inside
        elif name in classes:
            yield from places([f for f in inside if len(f.parts) > depth + 1], depth + 1, holds_students(name))
            if failed := [f for f in inside if len(f.parts) == depth + 1]:  # a zip file that is not read to its end
                by_place[Place("name", name, at)] += failed
        elif name in folders:
            by_place[Place("name", plain.stem(name) if _is_zip(name) else name, at)] += inside
        elif inside[0].notebook or plain.looks_like_work(name):
            who = plain.student(name, inside[0].notebook, stems)
            known = Place("name", who, (*at[:-1], who))
            by_place[known if who else Place("nobody", NOBODY, at[:-1])] += inside
    for place, inside in by_place.items():
        yield replace(place, name=unicodedata.normalize("NFC", place.name)), inside


def _is_a_students(name: str, files: list[File], depth: int) -> bool:
    """Whether an entry that is not a class is a student's work: a notebook, or what has one in it, no broken zip."""
    direct = len(files[0].parts) == depth
    return not _is_zip(name) if direct else any(f.notebook for f in files)


def _doubtful(said: Label) -> bool:
    """Whether a platform's text is in a name twice: it may be in a student's name, or in what a student called a file.

    The first counts, unless it tells somebody who has handed in under a name that leaves no doubt.
    """
    return bool(said.file and label(f"x{said.file}", folder=False))


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _flat(files: list[File], depth: int) -> bool:
    """Whether several notebooks are in a folder, none with a stage's bare name."""
    direct = [f.parts[depth] for f in files if len(f.parts) == depth + 1 and f.notebook]
    return len(direct) > 1 and not any(plain.bare(name).lower() in STAGES for name in direct)


def _is_class(name: str, files: list[File], depth: int, alone: bool, bundles: bool) -> bool:
    """Whether a folder holds a class, rather than what one student handed in.

    Args:
        depth: of what is in it.
        alone: nothing else is beside it.
        bundles: it and all like it beside it are `_flat`.
    """
    direct = {f.parts[depth] for f in files if len(f.parts) == depth + 1}
    below = {f.parts[depth] for f in files if len(f.parts) > depth + 1}
    if holds_class(name, direct, below, alone):
        return True
    notebooks = {n for n in direct if n.lower().endswith(".ipynb")}
    labels = [label(n, folder=False) for n in notebooks | {n for n in direct | below if _is_zip(n)}]
    if all(labels) and len({said.id or said.who for said in labels if said}) > 1 - alone:
        return True
    if len({who for n in notebooks if (who := plain.before_stage(n))}) > 1 - alone or bundles:
        return True
    return alone and not notebooks and any(b.lower() not in STAGES for b in below)
