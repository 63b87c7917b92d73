"""Item analysis: how hard each check is, and how well it separates those who know from those who do not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autograder.engine.job import Row

if TYPE_CHECKING:  # it imports torch
    from autograder.evaluation import Result
    from lora_ref.checks.verdicts import Verdict

#: With fewer submissions a correlation is mostly chance.
ENOUGH = 20
#: As many must pass, and as many fail.
EACH = 5
#: `Fault.raised` of a check whose gap is open.
OPEN = ("NotDefined", "NotImplementedError")
#: A check that separates less than this is one to look at.
WEAK = 0.1


@dataclass(frozen=True)
class Item:
    """A check, as the class met it.

    Attributes:
        id, contract: which one.
        share: of the class, that passes it (its difficulty, as test theory calls it).
        separates: point-biserial correlation of passing it with the points of all other exercises of the stage; None
            where all pass or all fail, or where the others' points are all the same.
        students: how many it was asked of.
    """

    id: str
    contract: str
    share: float
    separates: float | None
    students: int

    @property
    def suspicious(self) -> bool:
        """Whether those who do well elsewhere fail it as often as the others, which a bad check does."""
        fewer = min(self.share, 1 - self.share) * self.students
        return self.separates is not None and self.students >= ENOUGH and fewer >= EACH - 0.5 and self.separates < WEAK


def analyse(rows: Sequence[Row]) -> list[Item]:
    """Each check of the graded rows of one stage, in the order of the exercises."""
    passed: dict[str, list[bool]] = defaultdict(list)
    others: dict[str, list[float]] = defaultdict(list)
    contracts: dict[str, str] = {}
    for row in rows:
        score = row.score
        for result in row.results:
            rest = score - result.earned  # its own exercise's points would make every check look good
            for verdict in result.verdicts:
                contracts[verdict.id] = verdict.contract
                passed[verdict.id].append(verdict.passed)
                others[verdict.id].append(rest)
    return [
        Item(
            name, contract, sum(passed[name]) / len(passed[name]), point_biserial(passed[name], others[name]), len(rows)
        )
        for name, contract in contracts.items()
    ]


@dataclass(frozen=True)
class Optional:
    """An exercise without points, as the class met it: who tried it and who solved it, and each check among those."""

    id: str
    title: str
    tried: int
    solved: int
    checks: tuple[tuple[str, float], ...]


def optional(rows: Sequence[Row]) -> list[Optional]:
    """Each optional exercise of the graded rows of one stage. Who left the gap open has not tried it."""
    results: dict[str, list[Result]] = defaultdict(list)
    for row in rows:
        for result in row.optional:
            results[result.id].append(result)
    exercises = []
    for name, asked in results.items():
        tried = [result for result in asked if any(not _open(verdict) for verdict in result.verdicts)]
        passed: dict[str, list[bool]] = defaultdict(list)
        for verdict in (verdict for result in tried for verdict in result.verdicts):
            passed[verdict.contract].append(verdict.passed)
        checks = tuple((contract, sum(yes) / len(yes)) for contract, yes in passed.items())
        solved = sum(not result.failed for result in tried)
        exercises.append(Optional(name, asked[0].title, len(tried), solved, checks))
    return exercises


def _open(verdict: Verdict) -> bool:
    return verdict.fault is not None and verdict.fault.raised in OPEN


def point_biserial(passed: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Pearson's correlation of a yes or no with a number; None where one of them never varies.

    Example:
        >>> point_biserial([False, False, True, True], [1.0, 2.0, 3.0, 4.0])
        0.894427190999916
    """
    yes = [score for score, ok in zip(scores, passed, strict=True) if ok]
    no = [score for score, ok in zip(scores, passed, strict=True) if not ok]
    mean = math.fsum(scores) / len(scores) if scores else 0.0
    spread = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores)) if scores else 0.0
    if not yes or not no or spread < 1e-9:
        return None
    share = len(yes) / len(scores)
    return (math.fsum(yes) / len(yes) - math.fsum(no) / len(no)) / spread * math.sqrt(share * (1 - share))
