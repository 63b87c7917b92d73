"""What a student may have of an exercise, and where it is found.

Exercise 2.5 is the file ``stage02/e5_merge.py`` beside this one, and there its ``EXERCISE``: the title, the names that
a notebook must define, the visible checks with their probes and judges. What a student may not have of it stands at
the same path under ``autograder/exercises``. A new file is a new exercise; no table lists them. One named ``x8_...`` is
optional (`lora_ref.checks.numbering`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lora_ref.checks.numbering import is_optional, module_names
from lora_ref.checks.verdicts import Check


@dataclass(frozen=True)
class Exercise:
    """One exercise of the course.

    Attributes:
        id: ``"2.5"``: stage, then number.
        title: a few words, which its checks print.
        names: what the notebook must define; none for a written answer, which a person grades.
        checks: the visible checks.
        builds_on: what its checks need of earlier exercises, unless a check says otherwise (`Check.builds_on`).
        pure: those of the names that give the same for the same arguments, and can so be called again
            (`lora_ref.checks.calls`).
        keeps: those that leave the modes, hooks and buffers of a model as they are.
    """

    id: str
    title: str
    names: tuple[str, ...] = ()
    checks: Sequence[Check] = ()
    builds_on: tuple[str, ...] = ()
    pure: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()

    @property
    def written(self) -> bool:
        """Whether the answer is text, which a person grades."""
        return not self.names

    @property
    def optional(self) -> bool:
        """Whether it is checked as any other, and carries no points."""
        return is_optional(module_names("lora_ref.checks")[self.id])

    def completed(self, checks: Sequence[Check]) -> list[Check]:
        """Checks of this exercise, visible or hidden, with what the exercise says for all of them."""
        return [check if check.builds_on else replace(check, builds_on=self.builds_on) for check in checks]


@functools.cache
def ids() -> tuple[str, ...]:
    """All exercises, in the course's order."""
    return tuple(module_names("lora_ref.checks"))


@functools.cache
def find(exercise_id: str) -> Exercise:
    """The exercise with an id such as ``"2.5"``.

    Raises:
        KeyError: there is none; the message lists those there are.

    Example:
        >>> find("2.5").names
        ('LinearWithLoRA',)
    """
    if exercise_id not in ids():
        raise KeyError(f"no exercise {exercise_id!r}; there are {', '.join(ids())}")
    return importlib.import_module(module_names("lora_ref.checks")[exercise_id]).EXERCISE
