"""Which of several files of a student is the newest, as far as their names say: by a date, or by a number.

A date is read in every order that people write it in; where two orders lead to two files, nothing is told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from autograder.exercises import STAGES
from autograder.intake.dates import date_in
from autograder.intake.names import MAX_NAME
from autograder.intake.plain import stem
from autograder.intake.rule import numbers

#: Words that a number of a version stands behind; one with no number behind it is the first where another has one.
NUMBERED = re.compile(
    r"(?<![^\W\d_])(version|vers|ver|v|revision|rev|r|attempt|try|take|submission|final|draft|update"
    r"|versuch|fassung|entwurf|abgabe|stand|essai|rendu|entrega|versión|versão|versione|consegna|versie|版本?|第)"
    r"[ _.#-]*([0-9]{1,4}(?:\.[0-9]{1,3}){0,2})?[版次回稿]?(?![^\W\d_])",
    re.IGNORECASE,
)
#: Of a name that says so: it is not the newest.
OLDER = re.compile(
    r"(?<![^\W\d_])(?:old|older|outdated|obsolete|previous|alt|alte|veraltet|checkpoint|ancien|vieux|viejo|vecchio|oud|旧)(?![^\W\d_])",
    re.IGNORECASE,
)


def newest(paths: Sequence[Sequence[str]]) -> int | None:
    """The number of the newest file, by the names on the path of each; None where they do not tell it."""
    places = set()
    for day_first in (True, False):
        orders = [[_told(part, day_first) for part in (stem(path[-1]), *reversed(path[:-1]))] for path in paths]
        places.add(_last(orders))
    places.discard(-1)
    return places.pop() if len(places) == 1 and None not in places else None


def older(path: Sequence[str]) -> bool:
    """Whether a name on a path says that there is a newer one."""
    return any(OLDER.search(part[:MAX_NAME]) for part in path)


def _last(orders: list[list[dict[str, tuple[int, ...]]]]) -> int | None:
    """The one whose date or number is the greatest; None: nothing tells; -1: a date cannot be in this order."""
    if any("impossible" in part for parts in orders for part in parts):
        return -1
    words = {word for parts in orders for part in parts for word in part}
    for word in sorted(words, key=lambda word: word != "date"):
        values = [next((part[word] for part in parts if word in part), None) for parts in orders]
        given = [value for value in values if value is not None]
        if len(given) < len(values):
            continue
        best = max(given)
        if given.count(best) == 1:
            return given.index(best)
        if len(set(given)) > 1:
            return None
    return None


def _told(part: str, day_first: bool) -> dict[str, tuple[int, ...]]:
    """What a name says: of each word, and of the date, its numbers."""
    text = part[:MAX_NAME]
    for stage in STAGES:
        text = re.sub(re.escape(stage), " ", text, flags=re.IGNORECASE)
    said: dict[str, tuple[int, ...]] = {}
    date, text = date_in(text, day_first)
    if date is not None:
        said["date" if date else "impossible"] = date
    for word, number in NUMBERED.findall(text):
        said[word.lower()] = numbers(number) or (1,)
    return said
