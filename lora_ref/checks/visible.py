"""Run the visible checks of an exercise on a notebook's names, and print the report."""

from __future__ import annotations

from lora_ref.checks.exercise import find
from lora_ref.checks.history import stale
from lora_ref.checks.probing import Namespace
from lora_ref.checks.verdicts import Check, run_checks, summary


class NotYet(float):
    """The value of a check cell that failed: 0.0, which nbgrader's Validate reads as "no points yet".

    A check that passes returns None, which leaves no value. Notebooks show the report that was printed instead.
    """

    def _repr_html_(self) -> str:
        return "<small>not yet: the report above says why</small>"


def title(exercise_id: str) -> str:
    """An exercise's title in a few words.

    Raises:
        KeyError: there is no such exercise; the message lists those there are.

    Example:
        >>> title("2.5")
        'merge and unmerge'
    """
    return find(exercise_id).title


def visible_checks(exercise_id: str) -> list[Check]:
    """The visible checks of an exercise such as ``"2.1"`` (KeyError as `title`); none if it is graded by hand.

    Example:
        >>> [c.contract for c in visible_checks("2.4")][:1]
        ['the output is linear(x) + lora(x), and A, B and x get its gradients']
    """
    exercise = find(exercise_id)
    return exercise.completed(exercise.checks)


def check(exercise_id: str, namespace: Namespace) -> NotYet | None:
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
          ok    nothing is dropped unless it is asked for
    """
    verdicts = run_checks(visible_checks(exercise_id), namespace)
    for note in stale(find(exercise_id).names, namespace):
        print(f"Note: {note}.")
    optional = " (optional)" if find(exercise_id).optional else ""
    print(summary(verdicts, f"{exercise_id} {title(exercise_id)}{optional}"))
    return None if all(v.passed for v in verdicts) else NotYet(0.0)
