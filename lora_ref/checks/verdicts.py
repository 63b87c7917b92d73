"""From observations to verdicts: what a check is, and how its result reads.

    student's object --probe--> observation (plain data) --judge--> verdict (points, message)

A judge is a pure function of a check's inputs and the observation. It returns None, or a `Fault` that teaches.

**A mistake costs once.** What an exercise builds on may still be wrong, and must not cost its points again. A check
says what that is in ``builds_on``, as names of stand-ins. It is run with the student's own code first. Where it fails,
it is run once more with a stand-in for each of those names (`lora_ref.checks.probing.stand_ins`), and passes if it
passes then; which of the two faults is shown otherwise, `second_chance` says. A kernel (`run_check`) and the sandbox
(`autograder.engine.oracle`) do the same.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lora_ref.checks.probing import SECONDS, Namespace, Patience, one_thread

Inputs = dict[str, Any]
Observation = Mapping[str, Any]
#: Errors that say something about the whole exercise, and nothing about the contract under which they come up.
WHOLE_EXERCISE = ("NotDefined", "NotImplementedError", "Stopped")
#: `Fault.raised` where the answer is right, and its calls change what is not their own, or can't be made again.
SIDE_EFFECT, NOT_AGAIN = "SideEffect", "NotAgain"
#: What such a fault breaks: it holds of every call (see `lora_ref.checks.calls`), whatever its exercise asks.
RULES = {
    SIDE_EFFECT: "arguments and torch's settings stay as they are",
    NOT_AGAIN: "the same arguments give the same result",
}
#: The likely cause of a fault that another check of the exercise explains.
ELSEWHERE = "see the other checks of this exercise"
#: The error in a fault's ``seen`` (`error_fault`): its type and the line of the student's code.
_LINE = re.compile(r"(\w*(?:Error|Exception)): .*(\(line \d+, in .*\))$", re.DOTALL)


@dataclass(frozen=True)
class Fault:
    """Why an answer is not right yet.

    Attributes:
        seen: what was observed, beside what was expected.
        likely: the likely cause.
        read: where to look; None for the exercise's own section.
        raised: the type of the error that ended the probe, if one did.
    """

    seen: str
    likely: str = ""
    read: str | None = None
    raised: str = ""

    def __str__(self) -> str:
        parts = [f"seen: {self.seen}"]
        parts += [f"Likely: {self.likely}"] if self.likely else []
        parts += [f"Read: {self.read}"] if self.read else []
        return "  ".join(part if part.endswith("...") else part.rstrip(".") + "." for part in parts)


@dataclass(frozen=True)
class Check:
    """One behaviour of one exercise.

    Attributes:
        id: ``"2.2/scale"``: the exercise, then a word.
        contract: what must hold, as a sentence.
        probe: runs the student's object and records (`lora_ref.checks.probing.observe`).
        judge: ``judge(inputs, observation) -> Fault | None``; sees no student's object.
        draw: ``draw(rng) -> inputs``, plain data.
        seed: from which a visible check draws its inputs, the same every time.
        points: share of the exercise's points (hidden checks; visible ones carry none).
        builds_on: what earlier exercises answer for, as names of their stage's stand-ins.
        seconds: time limit of the probe (`lora_ref.checks.clock.Clock`).
        after: ids of checks without which this one's values say little: where one of them fails, it names no cause.
    """

    id: str
    contract: str
    probe: Callable[..., dict]
    judge: Callable[[Inputs, Observation], Fault | None]
    draw: Callable[[np.random.Generator], Inputs] = field(default=lambda rng: {})
    seed: int = 0
    points: float = 0.0
    builds_on: tuple[str, ...] = ()
    seconds: float = SECONDS
    after: tuple[str, ...] = ()

    @property
    def exercise(self) -> str:
        return self.id.partition("/")[0]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check, in the words and numbers that every page and file about it shows.

    Attributes:
        id, contract, points: the check's.
        fault: None if it passed.
        printed: what the student's code printed.
        quotes: errors that Python or a library worded, ``(type, text)`` each; the fault may quote them.
        after: the check's.
    """

    id: str
    contract: str
    points: float = 0.0
    fault: Fault | None = None
    printed: str = ""
    quotes: tuple[tuple[str, str], ...] = ()
    after: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.fault is None

    @property
    def earned(self) -> float:
        return self.points if self.passed else 0.0

    @property
    def rule(self) -> str:
        """What a fault breaks: the contract, or one of `RULES`."""
        return RULES.get(self.fault.raised, self.contract) if self.fault else self.contract

    @property
    def beside(self) -> bool:
        """Whether it failed for what holds of every call, and not for its contract."""
        return self.fault is not None and self.fault.raised in RULES

    @property
    def message(self) -> str:
        """The rule, and for a fault what was seen, the likely cause and where to look."""
        return f"ok    {self.rule}" if self.fault is None else f"FAIL  {self.rule}\n      {self.fault}"

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-ready data."""
        fault = self.fault or Fault("", read="")
        return {
            "id": self.id,
            "contract": self.contract,
            "passed": self.passed,
            "seen": fault.seen,
            "likely": fault.likely,
            "read": fault.read or "",
            "raised": fault.raised,
            "points": self.points,
            "earned": self.earned,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """What `to_dict` wrote."""
        fault = None if data["passed"] else Fault(*(data[name] for name in ("seen", "likely", "read", "raised")))
        return cls(data["id"], data["contract"], data["points"], fault)


def draw(check: Check, seed: int | None = None) -> Inputs:
    """The check's inputs: without a seed those of the visible check.

    They depend on the seed and the check's id alone: checks may be added or run in any order.
    """
    mixed = check.seed if seed is None else [seed, zlib.crc32(check.id.encode())]
    return check.draw(np.random.default_rng(mixed))


def run_checks(checks: Sequence[Check], namespace: Namespace, seed: int | None = None) -> tuple[Verdict, ...]:
    """`run_check` for the checks of one exercise: where it hangs, the time for all of them has a bound."""
    patience = Patience()
    return once([run_check(check, namespace, seed, patience) for check in checks])


def once(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """The verdicts of one exercise; one mistake costs once.

    What breaks one of `RULES` is seen by every check that makes the call, and costs with the cheapest of them, the last
    of equals. What follows from a basic check's failure names no cause of its own (`Check.after`).
    """
    verdicts = list(verdicts)
    failed = {verdict.id for verdict in verdicts if not (verdict.passed or verdict.beside)}
    for number, verdict in enumerate(verdicts):
        fault = verdict.fault
        if (
            fault
            and fault.likely
            and not (fault.raised or _LINE.search(fault.seen))
            and failed.intersection(verdict.after)
        ):
            verdicts[number] = replace(verdict, fault=replace(fault, likely=ELSEWHERE))
    seen_by = [n for n, v in enumerate(verdicts) if v.beside]
    pays = min(reversed(seen_by), key=lambda n: verdicts[n].points, default=None)
    return tuple(replace(v, fault=None) if n in seen_by and n != pays else v for n, v in enumerate(verdicts))


#: What a call may do beside returning something, by the rule that it breaks, and the likely cause.
EFFECTS = {
    "again": "the result depends on more than the arguments: on something kept from call to call (a global, a default "
    "argument, an attribute) or on chance",
    "shared": "one object is handed out by each call, kept in a global or a default argument: make a new one",
    "model": "a model's modes and buffers are its owner's: leave train(), eval() and the buffers alone here",
    "attributes": "what only reads a model leaves nothing on it: what it keeps there goes stale when the model changes",
    "hooks": "how the model computes is its owner's to choose: forward and hooks stay as they are here",
    "seed": "torch.manual_seed is the notebook's to call: every layer, batch and dropout after it repeats",
    "setting": "the setting stays for all code that runs later: set it in a with block, or leave it out",
    "argument": "arguments are the caller's: make new objects (x / n, not x /= n; sorted(x), not x.sort())",
}


def effect_fault(rule: str, text: str) -> Fault:
    """What to tell a student whose code changed something that is not its own, or can't be called twice."""
    return Fault(text, EFFECTS[rule], None, NOT_AGAIN if rule in ("again", "shared") else SIDE_EFFECT)


def run_check(check: Check, namespace: Namespace, seed: int | None = None, patience: Patience | None = None) -> Verdict:
    """Draw the check's inputs from ``seed``, probe the student's object, judge what was seen.

    `autograder.engine.oracle` does the same with a process in a sandbox between probe and judge.
    """
    with one_thread():
        return _run_check(check, namespace, seed, patience or Patience())


def _run_check(check: Check, namespace: Namespace, seed: int | None, patience: Patience) -> Verdict:
    inputs = draw(check, seed)
    verdict = judge(check, inputs, patience.observe(check.probe, namespace, inputs, seconds=check.seconds))
    if verdict.passed or not check.builds_on:
        return verdict
    again = patience.observe(check.probe, namespace, inputs, builds_on=check.builds_on, seconds=check.seconds)
    return second_chance(verdict, judge(check, inputs, again))


def _quotes(seen: Any) -> Iterator[tuple[str, str]]:
    """The errors in an observation, at whatever depth, whose words are Python's or a library's."""
    if isinstance(seen, Mapping):
        if seen.get("quoted") is True:
            yield str(seen.get("type")), str(seen.get("text"))
        seen = list(seen.values())
    if isinstance(seen, list):
        for item in seen:
            yield from _quotes(item)


def judge(check: Check, inputs: Inputs, seen: Observation) -> Verdict:
    """The check's verdict on an observation. An error in the student's code is a fault, and so is an observation of
    another form than the probe's, such as one that a hostile sandbox made up."""
    try:
        fault = error_fault(seen["error"]) if "error" in seen else check.judge(inputs, seen)
        if fault is None and seen.get("effects"):
            effect = seen["effects"][0]
            fault = effect_fault(effect["rule"], str(effect["text"]))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        fault = Fault(f"an answer of an unexpected form ({type(error).__name__}: {str(error)[:100]})", read="")
    if fault is not None and fault.read is None:
        fault = replace(fault, read=f"section {check.exercise}")
    return Verdict(
        check.id, check.contract, check.points, fault, seen.get("printed", ""), tuple(_quotes(seen)), check.after
    )


def second_chance(own: Verdict, with_stand_ins: Verdict) -> Verdict:
    """The verdict on an answer that failed, and was asked again with stand-ins for what it builds on.

    What is still wrong then is this exercise's own mistake, so that fault is shown. An error may only mean that the
    answer does not go together with the stand-ins; but where the own one met an open gap, the gap is an earlier
    exercise's.
    """
    if with_stand_ins.fault is None or own.fault is None:
        return replace(own, fault=None)
    misfit = with_stand_ins.fault.raised not in ("", *RULES) and own.fault.raised != "NotImplementedError"
    return own if misfit else replace(own, fault=with_stand_ins.fault, quotes=with_stand_ins.quotes)


def a(kind: str) -> str:
    """A type's name with its article: "an ndarray"."""
    return f"{'an' if kind[:1].lower() in 'aeio' or kind.startswith('ndarray') else 'a'} {kind}"


#: Parts of torch's messages, and what they mean here.
_MEANS = {
    "annot assign non-leaf": "the merge was recorded by autograd: do it under torch.no_grad()",
    "a leaf Variable that requires grad": "a parameter is changed in place while autograd records: torch.no_grad()",
    "does not require grad and does not have": "the graph is cut: .data, .detach(), torch.no_grad() or NumPy",
    "Output 0 of": "a view is changed in place: make a new tensor, x = x + ..., not x += ...",
    "cannot assign 'torch.FloatTensor' as parameter": "change the parameter in place, under torch.no_grad()",
    "'tuple' object has no attribute 'requires_grad'": "named_parameters() yields pairs: for name, p in ...",
    "'tuple' object has no attribute": "what is handed over is a tuple: it unpacks, and has no attributes",
    "got some positional-only arguments passed as keyword": "it goes by position: call f(x), not f(name=x)",
    "multiple values for argument": "an argument is given by position and again by name",
    "before Module.__init__() call": "super().__init__() is missing, or comes after the first assignment",
    "has no attribute '_": "super().__init__() is missing",
    "missing 1 required positional argument": "the call passes one argument less than the function takes",
    "takes 1 positional argument but 2": "a method without self, or one argument too many",
    "Unable to create tensor": "return_tensors needs rows of one length: leave it out, or pad",
    "endswith first arg must be str": "endswith takes a string or a tuple of strings, not a list",
    "startswith first arg must be str": "startswith takes a string or a tuple of strings, not a list",
    "too many values to unpack": "what is unpacked has more parts: named_parameters() and items() yield pairs",
    "not enough values to unpack": "what is unpacked has fewer parts than there are names",
    "'NoneType' object has no attribute": "it is None: a bias or an optional argument may be, and a function without "
    "a return gives it",
    "object is not callable": "what is called is not a function: one pair of brackets too many, or a name used twice",
    "modified by an inplace operation": "what backward() needs was changed in place before: step() or += came first",
    "Missing key(s) in state_dict": "the file holds some of the model's tensors, and load_state_dict wants all of them",
    "Unexpected key(s) in state_dict": "the names are not this model's: compare the two sets of names",
    "shapes cannot be multiplied": "shapes do not fit: write the shape of each tensor beside the line (a .T missing?)",
    "view size is not compatible": "x may lie in memory in another order, as x.T does: reshape, not view",
}


#: What an error of this type mostly means, where its text says no more.
_BY_TYPE = {
    "RuntimeError": "shapes do not fit: write the shape of each tensor beside the line",
    "NameError": "the name is not defined: run the set-up cell, which imports, and look at the spelling",
    "UnboundLocalError": "it is assigned further down, or in a branch that did not run: give it a value first",
    "ModuleNotFoundError": "no such package here, nor where this is graded: the set-up cell imports what is needed",
    "ImportError": "the package has no such name: the set-up cell imports what is needed",
    "KeyError": "a dict has no such key: look at its keys",
    "IndexError": "an index runs past the end; a slice does not",
    "RecursionError": "the function calls itself without end",
    "ZeroDivisionError": "divided by a number that may be 0",
    "AssertionError": "an assert of your own: this input is allowed",
    "SyntaxError": "the cell's source is not Python",
}
#: Words of torch's where shapes do not fit.
_SHAPES = re.compile(r"shape|size|dimension|broadcast|mat1|must match", re.IGNORECASE)
#: Words of Python's where a call does not fit the function, and of torch's where a size is not a whole number.
_SIGNATURE = re.compile(r"(required|unexpected|positional|keyword).* argument")
_SIZE = re.compile(r"(empty|zeros|ones|randn|rand)\(\) (takes 1 positional|received an invalid combination .*float)")


def error_fault(error: Mapping[str, str]) -> Fault:
    """What to tell a student whose code raised, from the error as `lora_ref.checks.probing.describe_error` wrote it."""
    kind, text = str(error.get("type")), str(error.get("text"))
    where = f" ({error['line']})" if error.get("line") else ""
    if kind == "NotDefined":
        near = error.get("near")
        likely = "its cell has not been run, raised an error, or uses another name"
        return Fault(f"{text} is not defined", f"your notebook defines {near}" if near else likely, "", kind)
    if kind == "NotImplementedError" and 'is missing the required "forward"' in text:
        return Fault("the module has no forward", "the method's name is forward", "", kind)
    if kind == "NotImplementedError":
        return Fault(
            "not done yet", "the gap still raises NotImplementedError: replace that line with your code", "", kind
        )
    if kind == "TimeLimit":
        return Fault(text, "a loop that never ends, or work that grows with something it should not", "", kind)
    likely = _BY_TYPE.get(kind, "")
    missing = re.search(r"'(\w+)' object has no attribute '(\w+)'", text)
    if missing:
        likely = f"{a(missing[1])} has no .{missing[2]}: it is spelled differently, or nothing has assigned it"
    elif kind == "TypeError" and not where and _SIGNATURE.search(text):
        likely = "the signature differs from the contract's"
    if kind == "RuntimeError" and (not error.get("quoted", True) or not _SHAPES.search(text)):
        likely = ""  # the student's own raise, or one of torch's that says something else
    if kind == "RuntimeError" and not error.get("quoted", True):
        likely = "a raise of your own: the contract does not ask for it here"
    if text == "expected a tensor, got NoneType":
        likely = "nothing is returned: a return is missing"
    elif "dtype" in text or "scalar type" in text:
        likely = "dtypes differ: NumPy's numbers are float64, a tensor of whole numbers is int64, layers are float32"
    likely = next((meaning for part, meaning in _MEANS.items() if part in text), likely)
    if _SIZE.match(text):
        likely = "a size that is not a whole number: alpha in the place of rank, or the result of /"
    return Fault(f"{kind}: {text}{where}", likely, "", kind)


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> bool:
    """Equal shapes, all finite, and equal to ``tolerance`` relative to the expected values' scale."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape or not all(np.isfinite(a.astype(float)).all() for a in (actual, expected)):
        return False
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return bool(np.abs(actual - expected).max(initial=0.0) <= tolerance * scale)


def messages(verdicts: Sequence[Verdict]) -> list[str]:
    """The verdicts' messages without repetition (`by_reason`)."""
    kept = []
    for verdict, same in by_reason(verdicts):
        message = verdict.message
        if same:
            message += "\n      for the same reason: " + "; ".join(same)
        kept.append("  " + message.replace("\n", "\n  "))
    return kept


def by_reason(verdicts: Sequence[Verdict]) -> list[tuple[Verdict, list[str]]]:
    """Each reason once, in order: the first verdict with it, and the contracts of the others.

    Five checks that all find a gap unfilled say so once, and name no others. Where one mistake breaks several
    contracts, the reason stands with the first.
    """
    groups: dict[Any, list[Verdict]] = {}
    for number, verdict in enumerate(verdicts):
        fault = verdict.fault
        raised = _LINE.search(fault.seen) if fault else None  # one line that raises is one reason, whatever went in
        reason = (
            (*raised.groups(), fault.likely) if raised and fault else (fault.seen, fault.likely) if fault else number
        )
        groups.setdefault(reason, []).append(verdict)
    return [
        (first, [] if first.fault and first.fault.raised in WHOLE_EXERCISE else [other.contract for other in others])
        for first, *others in groups.values()
    ]


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
