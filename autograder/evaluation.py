"""Judge a student's names: hidden checks, points and messages."""

from __future__ import annotations

import importlib
import os
import secrets
from dataclasses import dataclass
from typing import Any

from autograder.contract import STAGES, Exercise, exercise, stage_of
from lora_ref.checks.probing import Namespace
from lora_ref.checks.verdicts import Check, Verdict, messages, run_checks

#: The seed from which plain nbgrader draws inputs, so that grading again gives the same grade; an instructor sets it.
SEED_VARIABLE = "LORA_GRADE_SEED"


@dataclass(frozen=True)
class Result:
    """One exercise's outcome: points and a message, with the single verdicts it comes from."""

    id: str
    title: str
    earned: float
    points: float
    message: str
    verdicts: tuple[Verdict, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        checks = [
            {"id": v.check.id, "earned": v.earned, "points": v.check.points, "message": v.message}
            for v in self.verdicts
        ]
        return {
            "id": self.id,
            "title": self.title,
            "earned": self.earned,
            "points": self.points,
            "message": self.message,
            "checks": checks,
        }


@dataclass(frozen=True)
class Report:
    """A stage's outcome: one `Result` for each exercise that is graded automatically."""

    stage: str
    seed: int
    results: tuple[Result, ...]

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
        }

    def __str__(self) -> str:
        lines = [result.message for result in self.results]
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
    return Report(stage, seed, results)


def evaluate_exercise(exercise_id: str, namespace: Namespace, seed: int) -> Result:
    """Run one exercise's hidden checks (KeyError: there is no such exercise, or it is graded by hand)."""
    row = exercise(exercise_id)
    return result_from(row, run_checks(hidden_checks(row.id), namespace, seed))


def result_from(row: Exercise, verdicts: tuple[Verdict, ...]) -> Result:
    """Add verdicts up to an exercise's points and message."""
    earned = sum(v.earned for v in verdicts)
    earned = row.points if all(v.passed for v in verdicts) else round(earned, 6)
    heading = f"{row.id} {row.title}: {earned:g} of {row.points:g} points"
    faults = messages([v for v in verdicts if not v.passed])
    return Result(row.id, row.title, earned, row.points, "\n".join([heading, *faults]), verdicts)


def hidden_checks(exercise_id: str) -> list[Check]:
    """The hidden checks of an exercise.

    Raises:
        KeyError: there is no such exercise, or it is graded by hand.
    """
    stage = stage_of(exercise_id)
    module = importlib.import_module(f"autograder.judges.stage{stage[:2]}")
    checks = [check for check in module.HIDDEN if check.exercise == exercise_id]
    if not checks:
        raise KeyError(f"exercise {exercise_id!r} has no automatic checks")
    return checks


def grade_cell(exercise_id: str, namespace: Namespace) -> float:
    """What a hidden-test cell calls: print the messages, return the points (nbgrader's partial credit).

    Prints on stdout alone and never raises for what a student wrote.
    """
    result = evaluate_exercise(exercise_id, namespace, int(os.environ.get(SEED_VARIABLE, "0")))
    print(result.message)
    return float(result.earned)
