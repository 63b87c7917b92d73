"""From observations to verdicts: what a check is, and how its result reads.

    student's object --probe--> observation (plain data) --judge--> verdict (points, message)

A judge is a pure function of a check's inputs and the observation. It returns None, or a `Fault` that teaches.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_ref.checks.probing import SECONDS, Namespace, Patience

Inputs = dict[str, Any]
Observation = Mapping[str, Any]


@dataclass(frozen=True)
class Fault:
    """Why an answer is not right yet.

    Attributes:
        seen: what was observed, beside what was expected.
        likely: the likely cause.
        read: where to look.
    """

    seen: str
    likely: str = ""
    read: str = ""

    def __str__(self) -> str:
        parts = [f"seen: {self.seen}"]
        parts += [f"Likely: {self.likely}"] if self.likely else []
        parts += [f"Read: {self.read}"] if self.read else []
        return "  ".join(part.rstrip(".") + "." for part in parts)


@dataclass(frozen=True)
class Check:
    """One behaviour of one exercise.

    Attributes:
        id: ``"2.2/scale"``: the exercise, then a word.
        contract: what must hold, as a sentence.
        probe: runs the student's object and records (`lora_ref.checks.probing.observe`).
        judge: ``judge(inputs, observation) -> Fault | None``; sees no student's object.
        draw: ``draw(rng) -> inputs``, plain data; fixed inputs ignore the generator.
        points: share of the exercise's points (hidden checks; visible ones carry none).
        carry: names that an earlier exercise defines, with a contract-only stand-in each. If the check fails with the
            student's own, it is run once more with the stand-ins, so that one mistake costs once.
        seconds: time limit of the probe (`lora_ref.checks.clock.Clock`).
    """

    id: str
    contract: str
    probe: Callable[..., dict]
    judge: Callable[[Inputs, Observation], Fault | None]
    draw: Callable[[np.random.Generator], Inputs] = field(default=lambda rng: {})
    points: float = 0.0
    carry: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = SECONDS

    @property
    def exercise(self) -> str:
        return self.id.partition("/")[0]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check.

    Attributes:
        check: the check.
        fault: what is wrong, if anything.
        printed: what the student's code printed meanwhile.
        quotes: errors that Python or a library worded, ``(type, text)`` each; the fault may quote them.
    """

    check: Check
    fault: Fault | None
    printed: str = ""
    quotes: tuple[tuple[str, str], ...] = ()

    @property
    def passed(self) -> bool:
        return self.fault is None

    @property
    def earned(self) -> float:
        return self.check.points if self.passed else 0.0

    @property
    def message(self) -> str:
        """The contract, and for a fault what was seen, the likely cause and where to look."""
        if self.fault is None:
            return f"ok    {self.check.contract}"
        return f"FAIL  {self.check.contract}\n      {self.fault}"


def draw(check: Check, seed: int) -> Inputs:
    """The check's inputs. They depend on the seed and the check's id alone: checks may be added or run in any order."""
    return check.draw(np.random.default_rng([seed, zlib.crc32(check.id.encode())]))


def run_checks(checks: Sequence[Check], namespace: Namespace, seed: int = 0) -> tuple[Verdict, ...]:
    """`run_check` for the checks of one exercise: where it hangs, the time for all of them has a bound."""
    patience = Patience()
    return tuple(run_check(check, namespace, seed, patience) for check in checks)


def run_check(check: Check, namespace: Namespace, seed: int = 0, patience: Patience | None = None) -> Verdict:
    """Draw the check's inputs from ``seed``, probe the student's object, judge what was seen.

    `autograder.run.oracle` does the same with a process in a sandbox between probe and judge.
    """
    inputs, patience = draw(check, seed), patience or Patience()
    seen = patience.observe(check.probe, namespace, inputs, seconds=check.seconds)
    fault = judge(check, inputs, seen)
    if fault and check.carry:
        again = patience.observe(check.probe, namespace, inputs, substitutes=check.carry, seconds=check.seconds)
        if judge(check, inputs, again) is None:
            fault = None
    return Verdict(check, fault, seen.get("printed", ""), tuple(_quotes(seen)))


def _quotes(seen: Any) -> Iterator[tuple[str, str]]:
    """The errors in an observation, at whatever depth, whose words are Python's or a library's."""
    if isinstance(seen, Mapping):
        if seen.get("quoted") is True:
            yield str(seen.get("type")), str(seen.get("text"))
        seen = list(seen.values())
    if isinstance(seen, list):
        for item in seen:
            yield from _quotes(item)


def judge(check: Check, inputs: Inputs, seen: Observation) -> Fault | None:
    """The check's judgement, or what an error in the student's code means."""
    if "error" in seen:
        return error_fault(seen["error"])
    try:
        return check.judge(inputs, seen)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        # an observation of another form than the probe's, such as one that a hostile sandbox made up
        return Fault(f"an answer of an unexpected form ({type(error).__name__}: {str(error)[:100]})")


def error_fault(error: Mapping[str, str]) -> Fault:
    """What to tell a student whose code raised, from the error as `lora_ref.checks.probing.describe_error` wrote it."""
    kind, text = str(error.get("type")), str(error.get("text"))
    where = f" ({error['line']})" if error.get("line") else ""
    if kind == "NotDefined":
        return Fault(f"{text} is not defined", "its cell has not been run, raised an error, or uses another name")
    if kind == "NotImplementedError":
        return Fault("not done yet", "the gap still raises NotImplementedError: replace that line with your code")
    if kind == "TimeLimit":
        return Fault(text, "a loop that never ends, or work that grows with something it should not")
    likely = {
        "AttributeError": "a name differs from the contract's, or super().__init__() is missing",
        "TypeError": "the signature or the type of an argument differs from the contract's",
        "RuntimeError": "shapes do not fit: write the shape of each tensor beside the line",
    }.get(kind, "")
    if text == "expected a tensor, got NoneType":
        likely = "nothing is returned: a return is missing"
    elif "dtype" in text or "scalar type" in text:
        likely = "dtypes differ: NumPy's numbers are float64, a tensor of whole numbers is int64, layers are float32"
    return Fault(f"{kind}: {text}{where}", likely)


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> bool:
    """Equal shapes, all finite, and equal to ``tolerance`` relative to the expected values' scale."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape or not np.isfinite(actual.astype(float)).all():
        return False
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return bool(np.abs(actual - expected).max(initial=0.0) <= tolerance * scale)


def messages(verdicts: Sequence[Verdict]) -> list[str]:
    """The verdicts' messages without repetition.

    Five checks that all find a gap unfilled say so once. Where one mistake breaks several contracts, the reason stands
    with the first, and the others are named below it.
    """
    by_reason: dict[Any, list[Verdict]] = {}
    for number, verdict in enumerate(verdicts):
        fault = verdict.fault
        by_reason.setdefault((fault.seen, fault.likely) if fault else number, []).append(verdict)
    kept = []
    for first, *others in by_reason.values():
        message = first.message
        if others and not first.fault.seen.endswith(("not done yet", "is not defined")):
            message += "\n      for the same reason: " + "; ".join(other.check.contract for other in others)
        kept.append("  " + message.replace("\n", "\n  "))
    return kept


def summary(verdicts: Sequence[Verdict], title: str) -> str:
    """A heading and a line or two for each check."""
    passed = sum(v.passed for v in verdicts)
    heading = (
        f"{title}: visible checks passed."
        if passed == len(verdicts)
        else f"{title}: {passed} of {len(verdicts)} visible checks passed."
    )
    printed = next((v.printed for v in verdicts if v.printed), "")
    lines = [heading, *messages(verdicts)]
    if printed:
        lines.append("  your code printed:\n    " + printed.rstrip().replace("\n", "\n    "))
    return "\n".join(lines)
