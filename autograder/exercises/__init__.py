"""What students may not have of the exercises: points, hidden checks, mutants, right answers written otherwise.

Exercise 2.5 is the file ``stage02/e5_merge.py``, here and at the same path under ``lora_ref/checks``, where the part is
that students have. Here it defines ``HIDDEN`` (checks with points) and ``MUTANTS``; a written one, ``POINTS``,
whose parts stand beside it in ``stage02/scheme_8.py``: what a mark scheme says grades nobody by itself.
An optional one is a file ``x8_...`` (`lora_ref.checks.numbering`): its hidden checks carry no points.
All that counts points or names exercises reads them from there: build, judges, reports, tests. No table lists them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from autograder.exercises.scheme import Part, Point, Scheme
from lora_ref.checks.numbering import is_optional, module_names

if TYPE_CHECKING:
    import lora_ref.checks.exercise
    from autograder.exercises.mutant import Mutant
    from lora_ref.checks.verdicts import Check

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Exercise:
    """One exercise. Its two files are read when something is asked of it: they import torch.

    Attributes:
        id: ``"2.1"``: stage, then number.
        module: of this package.
    """

    id: str
    module: str

    @functools.cached_property
    def _here(self) -> ModuleType:
        return importlib.import_module(self.module)

    @functools.cached_property
    def _student(self) -> lora_ref.checks.exercise.Exercise:
        from lora_ref.checks.exercise import find

        return find(self.id)

    def load(self) -> None:
        """Import its two files, before this process forks."""
        _ = self._here, self._student

    @property
    def title(self) -> str:
        """A few words, the same that the student's visible check prints."""
        return self._student.title

    @property
    def names(self) -> tuple[str, ...]:
        """What the student's notebook must define for it."""
        return self._student.names

    @property
    def optional(self) -> bool:
        """Whether it is checked as any other, and carries no points."""
        return is_optional(self.module)

    @property
    def manual(self) -> bool:
        """Graded by hand from a written answer."""
        return self._student.written

    @property
    def points(self) -> int:
        """The maximum."""
        return self._here.POINTS if self.manual else round(sum(check.points for check in self._here.HIDDEN))

    @functools.cached_property
    def _marking(self) -> ModuleType | None:
        stage, _, number = self.id.partition(".")
        name = f"{__name__}.stage{int(stage):02}.scheme_{number}"
        return importlib.import_module(name) if importlib.util.find_spec(name) else None

    @property
    def scheme(self) -> Scheme:
        """The parts of a written answer with their points; empty for one with automatic checks."""
        if not self.manual:
            return ()
        whole = Part("", self.points, (Point(self.points, "right"), Point(self.points / 2, "half right")))
        return getattr(self._marking, "SCHEME", (whole,))

    @property
    def evidence(self) -> tuple[str, ...]:
        """Phrases of the release's cells whose outputs a written answer may quote."""
        return getattr(self._marking, "EVIDENCE", ())

    @property
    def hidden(self) -> list[Check]:
        """The hidden checks; none for a written answer."""
        return [] if self.manual else self._student.completed(self._here.HIDDEN)

    @property
    def mutants(self) -> list[Mutant]:
        """The wrong answers that must lose points here."""
        return getattr(self._here, "MUTANTS", [])


def graded(
    room: ModuleType, check_id: str, points: float = 0.0, draw: Callable[..., dict[str, Any]] | None = None
) -> Check:
    """A visible check with drawn inputs and points.

    Args:
        room: the student's module of the exercise.
        check_id: the visible check's.
        points: its share of the exercise's; none in an optional one.
        draw: how inputs are drawn, where not as for the visible check.

    Raises:
        KeyError: the exercise has no such visible check.
    """
    visible = {check.id: check for check in room.EXERCISE.checks}
    if check_id not in visible:
        raise KeyError(f"no visible check {check_id!r}; there are {', '.join(visible)}")
    return replace(visible[check_id], points=points, draw=draw or visible[check_id].draw)


def _stages(optional: bool) -> dict[str, tuple[Exercise, ...]]:
    """Stage -> its exercises with points, or its optional ones: the folders of notebooks, and this package's files."""
    folders = {path.name for place in ("solutions", "notebooks") for path in (ROOT / place).glob("[0-9][0-9]_*")}
    files = module_names(__name__)
    return {
        stage: tuple(
            Exercise(id_, module)
            for id_, module in files.items()
            if int(id_.split(".")[0]) == int(stage[:2]) and is_optional(module) == optional
        )
        for stage in sorted(folders)
    }


#: Stage -> graded exercises, in the course's order.
STAGES: Mapping[str, tuple[Exercise, ...]] = _stages(optional=False)
#: Stage -> exercises without points.
OPTIONAL: Mapping[str, tuple[Exercise, ...]] = _stages(optional=True)


def exercise(exercise_id: str) -> Exercise:
    """The exercise with an id such as ``"2.5"``.

    Raises:
        KeyError: there is none; the message lists those there are.
    """
    known = {e.id: e for table in (STAGES, OPTIONAL) for exercises in table.values() for e in exercises}
    if exercise_id not in known:
        raise KeyError(f"no exercise {exercise_id!r}; there are {', '.join(known)}")
    return known[exercise_id]


def stage_of(exercise_id: str) -> str:
    """The stage's name for an exercise id (KeyError as `exercise`)."""
    number = exercise(exercise_id).id.partition(".")[0]
    return next(stage for stage in STAGES if int(stage[:2]) == int(number))


def mutants(stage: str) -> list[Mutant]:
    """The mutants of a stage's graded exercises."""
    return [mutant for e in STAGES[stage] for mutant in e.mutants]


def optional_mutants(stage: str) -> list[Mutant]:
    """The mutants of its optional ones."""
    return [mutant for e in OPTIONAL[stage] for mutant in e.mutants]


def alternates(stage: str) -> list[Path]:
    """Files of the right answers written otherwise; each answers all graded exercises of the stage."""
    return sorted((ROOT / "autograder" / "exercises" / f"stage{stage[:2]}" / "alternates").glob("*.py"))


def optional_alternates(exercise_id: str) -> list[Path]:
    """The same for an optional exercise: each defines its names alone."""
    folder = f"alternates/x{exercise_id.partition('.')[2]}"
    return sorted((ROOT / "autograder" / "exercises" / f"stage{stage_of(exercise_id)[:2]}" / folder).glob("*.py"))
