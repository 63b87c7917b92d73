"""Visible checks: what a student runs after each exercise.

from lora_ref.checks import check
check("2.1", globals())
"""

from __future__ import annotations

import importlib

from lora_ref.checks.probing import Namespace
from lora_ref.checks.verdicts import Check, run_checks, summary

__all__ = ["check", "title", "visible_checks"]

_STAGES = {str(number): f"lora_ref.checks.stage0{number}" for number in range(1, 6)}


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

    Example:
        >>> title("2.5")
        'merge and unmerge'
    """
    module = _STAGES.get(exercise.partition(".")[0])
    titles = importlib.import_module(module).TITLES if module else {}
    if exercise not in titles:
        known = [name for m in _STAGES.values() for name in importlib.import_module(m).TITLES]
        raise KeyError(f"no exercise {exercise!r}; there are {', '.join(known)}")
    return titles[exercise]


def visible_checks(exercise: str) -> list[Check]:
    """The visible checks of an exercise such as ``"2.1"`` (KeyError as `title`); none if it is graded by hand.

    Example:
        >>> [c.contract for c in visible_checks("2.4")][:1]
        ['the output is linear(x) + lora(x), and A, B and x get its gradients']
    """
    title(exercise)
    module = importlib.import_module(_STAGES[exercise.partition(".")[0]])
    return [c for c in module.VISIBLE if c.exercise == exercise]


def check(exercise: str, namespace: Namespace) -> NotYet | None:
    """Run the visible checks of one exercise on a notebook's ``globals()`` and print the report.

    Returns:
        None if all visible checks passed. They do not see everything: hidden checks use other inputs.

    Example:
        >>> from lora_ref.layers import LoRALayer
        >>> _ = check("2.1", {"LoRALayer": LoRALayer})
        2.1 LoRALayer: two matrices and a scale: visible checks passed.
          ok    lora_A is a parameter of shape (rank, in_features), lora_B one of shape (out_features, rank)
          ok    A starts random with mean zero, B at zero
          ok    scaling is alpha / rank
          ok    a rank below 1 is a ValueError
    """
    verdicts = run_checks(visible_checks(exercise), namespace)
    print(summary(verdicts, f"{exercise} {title(exercise)}"))
    return None if all(v.passed for v in verdicts) else NotYet(0.0)
