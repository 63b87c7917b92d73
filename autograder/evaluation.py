"""Judge a student's names: hidden checks, points and messages."""

from __future__ import annotations

import functools
import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autograder.exercises import OPTIONAL, STAGES, exercise
from lora_ref.checks.probing import Namespace
from lora_ref.checks.verdicts import Check, Fault, Verdict, by_reason, messages, once, run_checks

#: The seed from which plain nbgrader draws inputs, so that grading again gives the same grade; an instructor sets it.
SEED_VARIABLE = "LORA_GRADE_SEED"


@dataclass(frozen=True)
class Result:
    """One exercise's outcome: its checks' verdicts and the points that follow from them."""

    id: str
    title: str
    points: float
    verdicts: tuple[Verdict, ...]

    @property
    def earned(self) -> float:
        """All points if every check passed, whatever the shares' rounding."""
        return self.points if all(v.passed for v in self.verdicts) else round(sum(v.earned for v in self.verdicts), 6)

    @property
    def message(self) -> str:
        """Points, and what is wrong."""
        return "\n".join([self.heading, *messages(self.failed)])

    @property
    def heading(self) -> str:
        """The exercise and its points, on one line; of an optional one, whether it is solved."""
        if not self.points:
            return f"{self.id} {self.title} (optional): {'not yet' if self.failed else 'solved'}"
        return f"{self.id} {self.title}: {self.earned:g} of {self.points:g} points"

    @property
    def failed(self) -> list[Verdict]:
        """The verdicts of the checks that did not pass."""
        return [verdict for verdict in self.verdicts if not verdict.passed]

    @property
    def reasons(self) -> list[tuple[Verdict, list[str]]]:
        """What is wrong, each reason once (`lora_ref.checks.verdicts.by_reason`)."""
        return by_reason(self.failed)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "id": self.id,
            "title": self.title,
            "earned": self.earned,
            "points": self.points,
            "message": self.message,
            "checks": [verdict.to_dict() for verdict in self.verdicts],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """What `to_dict` wrote, now or before verdicts had fields: a course may be graded with two versions."""
        unknown = {"contract": "", "seen": "", "likely": "", "read": "", "raised": ""}
        checks = [{**unknown, "passed": check["earned"] == check["points"], **check} for check in data["checks"]]
        verdicts = tuple(_shared(Verdict.from_dict(check)) for check in checks)
        return cls(sys.intern(data["id"]), sys.intern(data["title"]), data["points"], verdicts)


@functools.lru_cache(maxsize=10_000)
def _shared(verdict: Verdict) -> Verdict:
    """The same object for equal verdicts: in a class of a thousand most are, and all results are held at once."""
    return verdict


@dataclass(frozen=True)
class Report:
    """A stage's outcome: one `Result` for each exercise that is graded automatically, and for each optional one."""

    stage: str
    seed: int
    results: tuple[Result, ...]
    optional: tuple[Result, ...] = ()

    @property
    def score(self) -> float:
        return sum(result.earned for result in self.results)

    @property
    def max_score(self) -> float:
        return sum(result.points for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "stage": self.stage,
            "seed": self.seed,
            "score": self.score,
            "max_score": self.max_score,
            "results": [result.to_dict() for result in self.results],
            "optional": [result.to_dict() for result in self.optional],
        }

    def __str__(self) -> str:
        lines = [result.message for result in self.results]
        lines += [result.heading for result in self.optional]
        return "\n".join([*lines, f"{self.stage}: {self.score:g} of {self.max_score:g} points (seed {self.seed})"])


def evaluate(stage: str, namespace: Namespace, seed: int | None = None) -> Report:
    """Run a stage's hidden checks on a dict of names.

    Args:
        stage: ``"02_lora_layer"`` and so on.
        namespace: what the student's notebook defines.
        seed: from which the checks' inputs are drawn; None draws one, which the report names.

    Returns:
        The report. Exceptions, wrong types, NaN and hangs in the student's code become verdicts.

    Raises:
        KeyError: there is no such stage.
    """
    if stage not in STAGES:
        raise KeyError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
    seed = secrets.randbelow(2**31) if seed is None else seed
    results = tuple(evaluate_exercise(e.id, namespace, seed) for e in STAGES[stage] if not e.manual)
    optional = tuple(evaluate_exercise(e.id, namespace, seed) for e in OPTIONAL[stage])
    return Report(stage, seed, results, optional)


def evaluate_exercise(exercise_id: str, namespace: Namespace, seed: int) -> Result:
    """Run one exercise's hidden checks (KeyError: there is no such exercise, or it is graded by hand)."""
    return result_from(exercise_id, run_checks(hidden_checks(exercise_id), namespace, seed))


def result_from(exercise_id: str, verdicts: Iterable[Verdict]) -> Result:
    """An exercise's outcome from its checks'."""
    row = exercise(exercise_id)
    return Result(row.id, row.title, row.points, once(verdicts))


def stopped(exercise_id: str, why: str) -> Result:
    """No points for an exercise that could not be judged."""
    fault = Fault(f"{why} before this was judged", read="", raised="Stopped")
    return result_from(exercise_id, [Verdict(c.id, c.contract, c.points, fault) for c in hidden_checks(exercise_id)])


def hidden_checks(exercise_id: str) -> list[Check]:
    """The hidden checks of an exercise.

    Raises:
        KeyError: there is no such exercise, or it is graded by hand.
    """
    checks = exercise(exercise_id).hidden
    if not checks:
        raise KeyError(f"exercise {exercise_id!r} has no automatic checks")
    return checks


def grade_cell(exercise_id: str, namespace: Namespace) -> float | None:
    """What a hidden-test cell calls: print the messages, return the points (nbgrader's partial credit).

    An optional exercise's cell has no points: the message says whether it is solved, and nothing is returned.

    Prints on stdout alone and never raises for what a student wrote.
    """
    result = evaluate_exercise(exercise_id, namespace, int(os.environ.get(SEED_VARIABLE, "0")))
    print(result.message)
    return float(result.earned) if result.points else None
