"""Cells that show what an exercise makes possible, in a notebook where that exercise may be open or wrong."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any


@contextlib.contextmanager
def after(exercise: str, what: str) -> Iterator[None]:
    """Run a demonstration. It never stops a run: where an answer isn't there yet or is wrong, a sentence says so.

    An open gap prints what will be here. Any other error prints which exercise to fix, this one or an earlier one that
    its answer builds on, with what the visible check of that exercise saw.

    Args:
        exercise: what the demonstration needs, ``"2.2"``.
        what: what it shows, in a few words.

    Example:
        >>> with after("2.2", "the output's shape"):
        ...     raise NotImplementedError("Exercise 2.2")
        After exercise 2.2 this cell shows the output's shape.
        >>> with after("2.2", "a quotient"):  # no notebook around it, so no check to ask
        ...     print(1 / 0)
        This cell builds on exercise 2.2 and could not finish.
          raised: ZeroDivisionError: division by zero
          Fix exercise 2.2 first; its check says more.
    """
    try:
        yield
    except Exception as error:  # a student's answer may raise anything, and so may a plot of what it returned
        if isinstance(error, NotImplementedError) and re.match(r"Exercise|Lab|$", str(error)):
            print(f"After exercise {exercise} this cell shows {what}.")
            return
        culprit, seen = _culprit(exercise, _namespace(error.__traceback__))
        words = " ".join(f"{type(error).__name__}: {error}".split())
        builds = f"exercise {culprit}" if culprit == exercise else f"exercises {culprit} and {exercise}"
        print(f"This cell builds on {builds} and could not finish.")
        if seen:
            print(f"  {culprit}'s check: {seen}")
        print(f"  raised: {words if len(words) <= 200 else words[:197] + '...'}")
        print(f"  Fix exercise {culprit} first; its check says more.")


def passed(exercise: str, namespace: Mapping[str, Any]) -> bool:
    """Whether an answer passes its visible checks, so that later cells may build on it; if not, a sentence says so.

    It is asked once for each answer. Outside a notebook's kernel nothing is checked, and every answer passes.

    Example:
        >>> passed("2.2", {})
        True
    """
    from lora_ref.checks.exercise import find
    from lora_ref.checks.verdicts import run_checks
    from lora_ref.checks.visible import visible_checks

    if not _in_kernel(namespace):
        return True
    answers = [namespace.get(name) for name in find(exercise).names]
    if exercise not in _PASSED or any(a is not b for a, b in zip(answers, _PASSED[exercise][0], strict=True)):
        fine = all(verdict.passed for verdict in run_checks(visible_checks(exercise), dict(namespace)))
        _PASSED[exercise] = answers, fine
        if not fine:
            print(f"Exercise {exercise} does not pass its check yet: the course's own function takes its place here.")
    return _PASSED[exercise][1]


#: What `passed` found: an exercise's answers, and whether they pass.
_PASSED: dict[str, tuple[list[Any], bool]] = {}


def _in_kernel(namespace: Mapping[str, Any]) -> bool:
    """Whether these are the names of a notebook's kernel, and not of a grader's process."""
    try:
        return hasattr(namespace["get_ipython"](), "kernel")
    except Exception:
        return False


def _namespace(traceback: TracebackType | None) -> Mapping[str, Any]:
    """The notebook's globals: of the frame that holds the ``with``, next to this module's own."""
    while traceback is not None and traceback.tb_frame.f_globals is globals():
        traceback = traceback.tb_next
    return {} if traceback is None else traceback.tb_frame.f_globals


def _culprit(exercise: str, namespace: Mapping[str, Any]) -> tuple[str, str]:
    """The exercise whose visible check fails, and what that check saw: this one's own, else the stage's first.

    A check forgives what an earlier exercise got wrong, so the first that fails here is a cause and not a symptom.
    Only in a notebook's kernel: a grader judges answers by itself, and a demonstration must not cost it the time.
    """
    from lora_ref.checks.exercise import find, ids
    from lora_ref.checks.verdicts import run_checks
    from lora_ref.checks.visible import visible_checks

    stage = exercise.partition(".")[0]
    with contextlib.suppress(Exception):
        if not _in_kernel(namespace):
            return exercise, ""
        of_stage = [id_ for id_ in ids() if id_.partition(".")[0] == stage]
        earlier = [id_ for id_ in of_stage[: of_stage.index(exercise)] if not find(id_).optional]
        for candidate in [exercise, *earlier]:
            for verdict in run_checks(visible_checks(candidate), dict(namespace)):
                if verdict.fault is not None and verdict.fault.raised != "NotImplementedError":
                    return candidate, verdict.fault.seen
    return exercise, ""
