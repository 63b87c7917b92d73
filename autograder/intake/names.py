"""Students' names as folders of the output have them, and names from submissions as messages show them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from autograder.engine.assignment import digest

#: Who handed something in: how that is known ("id", "sid", "name"), and the name as it was given.
Key = tuple[str, str]
#: Most notes on one submission, or names in a message; characters of a name that are looked at, at each end.
MAX_NOTES, MAX_NAME = 8, 300


def student_names(keys: Iterable[Key], known: Mapping[Key, str] | None = None) -> dict[Key, str]:
    """What each student is called in the output: no two the same.

    Args:
        keys: the students.
        known: what some were called before; they keep that, and nobody else gets it.
    """
    known = known or {}
    names = {key: known[key] for key in set(keys) if key in known}
    groups: dict[str, list[Key]] = {}
    for key in sorted(set(keys) - set(names)):
        groups.setdefault(safe_name(key[1]), []).append(key)
    taken = set(known.values())
    used = set(groups) | taken
    for safe, group in groups.items():
        group.sort(key=lambda key: key[1] != safe)  # whoever is called exactly that keeps the name
        free = safe not in taken
        if free:
            names[group[0]] = safe
        alike = len(group) > 1 and group[0][1] != safe
        for key in group if alike or not free else group[1:]:
            new = f"{safe[:60]}-x{digest(repr(key).encode())[:6]}"
            while new in used:
                new += "x"
            used.add(new)
            names[key] = new
    return names


def safe_name(text: str) -> str:
    """A student's name as a folder of the output may be called: letters of every script, with their marks.

    A long one is cut in the middle, since a platform's number stands at its end.
    """
    text = unicodedata.normalize("NFC", text[:MAX_NAME] + text[MAX_NAME:][-MAX_NAME:])
    kept = (c if c in "_.@+-" or c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    name = re.sub(" +", "-", "".join(kept)).strip(".-")
    while len(name) > 80 or len(name.encode()) > 160:
        middle = min(len(name) // 2, 40)
        name = name[: middle - 1] + name[middle:]
    return name or "unnamed"


def shown(name: str) -> str:
    """A name from a submission, for a message: short, and plain text."""
    return "".join(c if c.isprintable() else "?" for c in name[:100]) + ("..." if len(name) > 100 else "")


def listed(names: Iterable[str]) -> str:
    """Some names for a message, and how many more there are."""
    return ", ".join(few(shown(name) for name in names))


def few(lines: Iterable[str]) -> list[str]:
    """The first lines, each once, and how many more there are."""
    lines = list(dict.fromkeys(lines))
    return lines[:MAX_NOTES] + ([f"and {len(lines) - MAX_NOTES:,} more"] if len(lines) > MAX_NOTES else [])
