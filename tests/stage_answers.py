"""What tests ask of the exercises' bank: answers, run once for each process, and what hidden and visible checks say."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterable
from pathlib import Path

from autograder.answers import Answer, load_answer, run_cells
from autograder.engine.needed import needed
from autograder.evaluation import Report
from autograder.exercises import OPTIONAL, STAGES, Exercise, alternates, stage_of
from autograder.exercises.mutant import Mutant, worked_cells
from autograder.publish.preprocessors import clear_gaps
from lora_ref.checks import visible_checks
from lora_ref.checks.verdicts import Check, run_check

#: Exercises that are graded automatically.
AUTOMATIC = [exercise for exercises in STAGES.values() for exercise in exercises if not exercise.manual]
#: Exercises without points.
WITHOUT_POINTS = [exercise for exercises in OPTIONAL.values() for exercise in exercises]
#: Exercise -> points, written answers included.
POINTS = {exercise.id: exercise.points for exercises in STAGES.values() for exercise in exercises}


def automatic(stage: str) -> list[Exercise]:
    """A stage's exercises that are graded automatically."""
    return [exercise for exercise in STAGES[stage] if not exercise.manual]


def names_of(stage: str) -> list[str]:
    """What a stage's notebook must define."""
    return list(dict.fromkeys(name for exercise in STAGES[stage] for name in exercise.names))


def full_marks(stage: str) -> dict[str, float]:
    """Points by exercise of an answer in which all is right."""
    return {exercise.id: exercise.points for exercise in automatic(stage)}


def hidden(stage: str) -> list[Check]:
    """A stage's hidden checks."""
    return [check for exercise in automatic(stage) for check in exercise.hidden]


def hidden_check(check_id: str) -> Check:
    """The hidden check with an id such as ``"2.5/twice"``."""
    stage = stage_of(check_id.partition("/")[0])
    return next(check for check in hidden(stage) if check.id == check_id)


def run(cells: list[str]) -> Answer:
    """Run cells, without what a set-up cell prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return run_cells(cells)


@functools.cache
def worked(stage: str) -> Answer:
    """The worked solution, run once. Change nothing in its namespace: make a dict with more."""
    return run(worked_cells(stage))


@functools.cache
def alternate(path: Path) -> Answer:
    """A right answer written otherwise, as `worked`."""
    with contextlib.redirect_stdout(io.StringIO()):
        return load_answer(path)


def right_answers(stage: str) -> dict[str, Answer]:
    """Every right answer in the bank by its name."""
    return {"worked": worked(stage)} | {path.stem: alternate(path) for path in alternates(stage)}


def released(stage: str, gaps: Iterable[str]) -> list[str]:
    """The worked solution's cells with these exercises' gaps as students get them."""
    keep = {*POINTS, *(exercise.id for exercise in WITHOUT_POINTS)} - {*gaps}
    return [clear_gaps(cell, keep=keep) for cell in worked_cells(stage)]


def touched(mutant: Mutant) -> list[Exercise]:
    """The exercises whose answers use the cell in which the mistake is: no other's verdicts can change."""
    stage = stage_of(mutant.exercise)
    cells = worked_cells(stage)
    where = next(number for number, cell in enumerate(cells) if mutant.old in cell)
    return [e for e in automatic(stage) if needed([(cell, "maybe") for cell in cells], e.names)[where]]


def failed_visible(exercise: str, namespace: dict) -> list[str]:
    """Messages of the exercise's visible checks that fail."""
    verdicts = [run_check(check, namespace) for check in visible_checks(exercise)]
    return [verdict.message for verdict in verdicts if not verdict.passed]


def earned(report: Report) -> dict[str, float]:
    """Points by exercise."""
    return {result.id: result.earned for result in report.results}
