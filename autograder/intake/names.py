"""Students' names as folders of the output have them, and names from submissions as messages show them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterable

from autograder.engine.assignment import digest

#: Who handed something in: how that is known ("id", "sid", "name"), and the name as it was given.
Key = tuple[str, str]
#: What files are listed under whose names tell no student.
NOBODY = "unknown"
#: Most notes on one submission, or names in a message; characters of a name that are looked at, at each end.
MAX_NOTES, MAX_NAME = 8, 300


def student_names(keys: Iterable[Key], others: Collection[str] = ()) -> dict[Key, str]:
    """What each student is called in the output: no two the same, and none as those of ``taken``."""
    groups: dict[str, list[Key]] = {}
    for key in sorted(set(keys)):
        groups.setdefault(safe_name(key[1]), []).append(key)
    names = {}
    used = {*groups, *others}
    for safe, group in groups.items():
        group.sort(key=lambda key: key[1] != safe)  # whoever is called exactly that keeps the name
        names[group[0]] = safe
        nobodys = safe in others or (len(group) > 1 and group[0][1] != safe)
        for key in group if nobodys else group[1:]:
            new = f"{safe[:60]}-x{digest(repr(key).encode())[:6]}"
            while new in used:
                new += "x"
            used.add(new)
            names[key] = new
    return names


#: Letters and marks that show nothing (Unicode's default ignorables): names that differ in them look the same.
_NOT_SEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)


def safe_name(text: str) -> str:
    """A student's name as a folder of the output may be called: letters of every script, with their marks.

    A long one is cut in the middle, since a platform's number stands at its end. None begins with what a spreadsheet
    takes for a formula: nbgrader's own export writes names as they are.
    """
    text = unicodedata.normalize("NFC", _NOT_SEEN.sub("", text[:MAX_NAME] + text[MAX_NAME:][-MAX_NAME:]))
    kept = (c if c in "_.@+-" or c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    name = re.sub(" +", "-", "".join(kept)).strip(".-").lstrip("@+.-")
    while len(name) > 80 or len(name.encode()) > 160:
        middle = min(len(name) // 2, 40)
        name = name[: middle - 1] + name[middle:]
    return name or "unnamed"


#: Letters of other scripts that a reader takes for these Latin ones.
_LIKE = str.maketrans(
    "\u0430\u0432\u0435\u0451\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0455\u0456\u0457\u0458\u0501\u051b\u051d\u04bb\u04cf\u044c\u0433"
    "\u03b1\u03b2\u03b5\u03b9\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7\u03b6\u03b7\u03bc\u03f2\u03f3\u0131\u0237\u0251\u0261\u217c\u1d0f\u057d\u0585\u0570\u0578",
    "abeekmhopctyxsiijdqwhlbrabeikvoptuxznmcjijaglouohn",
)
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN")


def skeleton(name: str) -> str:
    """What a name looks like, so that two which a reader could take for one have the same."""
    plain = unicodedata.normalize("NFKC", name).casefold().translate(_LIKE)
    return plain.replace("rn", "m").replace("1", "l").replace("0", "o").replace("vv", "w")


def scripts(name: str) -> list[str]:
    """The scripts of a word in a name that has letters of more than one whose letters look alike; [] of others."""
    for word in re.findall(r"[^\W\d_]+", name):
        first = {unicodedata.name(letter, "").partition(" ")[0] for letter in word}
        if len(mixed := [script for script in _SCRIPTS if script in first]) > 1:
            return [script.capitalize() for script in mixed]
    return []


def readable(name: str) -> str:
    """A file's path as text: names that are no UTF-8, as an old zip program leaves them, by their letters."""
    if name.isascii():
        return name
    data = os.fsencode(name)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp437" if re.search(b"[\x80-\x9f]", data) else "latin-1")


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
