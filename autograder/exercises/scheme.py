"""The points of a written answer, as data: its parts, and what a marker switches on in each.

The sentences that explain them stand in the master's mark scheme, which markers read beside the switches. `Point.text`
is for the marker; `Point.comment` goes to the student when the point is switched on, until the marker words it better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One switch.

    Attributes:
        points: what it is worth; 0 for a common wrong answer, whose switch only carries its comment.
        text: what earns it, in a few words; for the marker.
        comment: what the student reads.
    """

    points: float
    text: str
    comment: str = ""


@dataclass(frozen=True)
class Part:
    """One part of a question.

    Attributes:
        name: ``"a"``; "" for a question without parts.
        points: its maximum. Its switches may add up to more, where there are several ways to earn it.
        switches: what earns points here, and what does not.
    """

    name: str
    points: float
    switches: tuple[Point, ...]


Scheme = Sequence[Part]


def keys(scheme: Scheme) -> dict[str, tuple[Part, Point]]:
    """The switches by a name that stays: ``"a1"`` is part (a)'s first.

    Example:
        >>> list(keys([Part("a", 1, (Point(0.5, "x"), Point(0.5, "y"))), Part("b", 1, (Point(1, "z"),))]))
        ['a1', 'a2', 'b1']
    """
    return {f"{part.name}{n}": (part, point) for part in scheme for n, point in enumerate(part.switches, start=1)}


def total(scheme: Scheme) -> float:
    """The points of all parts."""
    return sum(part.points for part in scheme)


def earned(scheme: Scheme, on: Iterable[str]) -> dict[str, float]:
    """Part -> points, for the switches that are on; no part earns more than it has.

    Raises:
        KeyError: a switch that the scheme does not have.

    Example:
        >>> earned([Part("a", 1, (Point(1, "x"), Point(0.5, "y")))], ["a1", "a2"])
        {'a': 1}
    """
    known = keys(scheme)
    points = {part.name: 0.0 for part in scheme}
    for key in set(on):
        part, point = known[key]
        points[part.name] += point.points
    return {part.name: min(part.points, points[part.name]) for part in scheme}
