"""Gradescope: ``assignment_55_export/submission_66/...ipynb``; ``submission_metadata.yml`` says who 66 is."""

from __future__ import annotations

import re
from collections.abc import Mapping

from autograder.intake.names import Key
from autograder.intake.rule import Rule


def people(roster: bytes) -> dict[str, list[Key]]:
    """Folder -> who handed in, from Gradescope's metadata; read line by line, as text.

    A person is ("sid", number) or, without a number, ("name", name or address).
    """
    submitters: dict[str, list[dict[str, str]]] = {}
    folder, level, listing = "", -1, False
    for line in roster.decode("utf-8", "replace").splitlines():
        line = line[:1000].rstrip()
        words = line.lstrip()
        if start := re.match(r"[\"']?(submission_[0-9]+)[\"']?:", line):
            folder, level, listing = start[1], -1, False
            submitters[folder] = []
        elif folder and words:
            indent, item = len(line) - len(words), words.startswith("- ")
            level = indent if level < 0 else level
            if indent == level and not item:
                listing = words == ":submitters:"
            elif not listing:
                continue
            if not submitters[folder] or (listing and item):
                submitters[folder].append({})
            if entry := re.match(r":(sid|email|name):\s*(.*)", words.removeprefix("- ").lstrip()):
                submitters[folder][-1].setdefault(entry[1], entry[2].strip().strip("'\""))
    return {folder: list(dict.fromkeys(filter(None, map(_key, of)))) for folder, of in submitters.items()}


def _key(person: Mapping[str, str]) -> Key | None:
    given = {what: text for what, text in person.items() if text and text not in ("~", "null")}
    if "sid" in given:
        return "sid", given["sid"]
    name = given.get("name") or given.get("email")
    return ("name", name) if name else None


RULE = Rule(
    "Gradescope",
    folder=re.compile(r"submission_[0-9]+\Z"),
    export=re.compile(r"assignment_[0-9]+_export"),
    roster="submission_metadata.yml",
    people=people,
)
