"""Visible checks: what a student runs after each exercise.

from lora_ref.checks import check
check("2.1", globals())
"""

from __future__ import annotations

import importlib

from lora_ref.checks.probing import Namespace
from lora_ref.checks.verdicts import Check, run_check, summary

__all__ = ["check", "title", "visible_checks"]

_STAGES = {"2": "lora_ref.checks.stage02", "3": "lora_ref.checks.stage03", "4": "lora_ref.checks.stage04"}


class NotYet(float):
    """The value of a check cell that failed: 0.0, which nbgrader's Validate reads as "no points yet".

    A check that passes returns None, which leaves no value. Notebooks show the report that was printed instead.
    """

    def _repr_html_(self) -> str:
        return "<small>not yet: the report above says why</small>"


def title(exercise: str) -> str:
    """An exercise's title in a few words.

    Raises:
        KeyError: there is no such exercise; the message lists those there are.
    """
    module = _STAGES.get(exercise.partition(".")[0])
    titles = importlib.import_module(module).TITLES if module else {}
    if exercise not in titles:
        known = [name for m in _STAGES.values() for name in importlib.import_module(m).TITLES]
        raise KeyError(f"no exercise {exercise!r}; there are {', '.join(known)}")
    return titles[exercise]


def visible_checks(exercise: str) -> list[Check]:
    """The visible checks of an exercise such as ``"2.1"`` (KeyError as `title`); none if it is graded by hand."""
    title(exercise)
    module = importlib.import_module(_STAGES[exercise.partition(".")[0]])
    return [c for c in module.VISIBLE if c.exercise == exercise]


def check(exercise: str, namespace: Namespace) -> NotYet | None:
    """Run the visible checks of one exercise on a notebook's ``globals()`` and print the report.

    Returns:
        None if all visible checks passed. They do not see everything: hidden checks use other inputs.
    """
    verdicts = [run_check(c, namespace) for c in visible_checks(exercise)]
    print(summary(verdicts, f"{exercise} {title(exercise)}"))
    return None if all(v.passed for v in verdicts) else NotYet(0.0)
