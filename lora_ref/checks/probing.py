"""Run a probe on a student's object and write down what happened, as plain data.

A probe calls what the student wrote and records shapes, values, gradients, flags and errors. It judges nothing. What it
returns is plain data of exact types (`plain`), so that a judge can sit in another process and need not trust it.
"""

from __future__ import annotations

import contextlib
import difflib
import dis
import importlib
import io
import logging
import os
import random
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any

import numpy as np
import torch

from lora_ref.checks.calls import Calls, Effect, restore, settings
from lora_ref.checks.clock import Clock, TimeLimit, time_limit

#: Largest number of array elements, and of characters of text, that one observation may hold.
MAX_ELEMENTS = 4_000_000
MAX_TEXT = 2_000
#: Seconds one probe may take. The probes' inputs are tiny: a right answer needs milliseconds.
SECONDS = 10.0
#: Where torch's random numbers begin in each probe: whoever seeds them takes another number.
SEED = 210_609_685
#: How often a probe that hangs is asked.
TRIES = 2

Namespace = dict[str, Any]


class NotDefined(Exception):
    """The student's notebook does not define a name.

    Args:
        name: the name.
        near: one that the notebook does define and that is spelled nearly the same.
    """

    def __init__(self, name: str, near: str = ""):
        super().__init__(name)
        self.near = near


class Names:
    """The student's names; a missing one is a `NotDefined` that says so, not a KeyError.

    Args:
        namespace: what the student's notebook defines.
        instead: stand-ins that come before it.
        calls: watches the student's functions.
    """

    def __init__(self, namespace: Namespace, instead: Namespace | None = None, calls: Calls | None = None):
        self._namespace, self._instead, self._calls = namespace, instead or {}, calls

    def __getattr__(self, name: str) -> Any:
        if name in self._instead:
            return self._instead[name]
        try:
            value = self._namespace[name]
        except KeyError:
            raise NotDefined(name, self._near(name)) from None
        return value if self._calls is None else self._calls.watched(name, value)

    def _near(self, name: str) -> str:
        home = self._namespace.get("__name__")
        own = {key.lower(): key for key, value in self._namespace.items() if getattr(value, "__module__", 0) == home}
        return own.get(next(iter(difflib.get_close_matches(name.lower(), own, 1, 0.8)), ""), "")


def observe(
    probe: Callable[..., dict],
    namespace: Namespace,
    inputs: Mapping[str, Any],
    *,
    builds_on: Iterable[str] = (),
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Run ``probe(names, **inputs)`` and return its observation as plain data.

    Args:
        probe: records what it sees in a dict.
        namespace: the student's names, usually the notebook's ``globals()``.
        inputs: keyword arguments of the probe.
        builds_on: names to replace by their stand-ins (`stand_ins`), so that an earlier exercise's mistake does not
            cost twice.
        seconds: time limit; a probe that reaches it is asked once more.

    Returns:
        The probe's dict, with ``"printed"`` added if the student's code printed, and ``"effects"`` if it changed what
        is not its own (`lora_ref.checks.calls`); or, where it raised,
        ``{"error": {"type": ..., "text": ..., "line": ...}}``. Nothing that the student's code does makes this raise,
        except the reader's own Ctrl-C.
    """
    for _ in range(TRIES):
        printed, clock = _Bounded(), Clock(seconds, observe.__code__)
        exercise = getattr(sys.modules.get(probe.__module__), "EXERCISE", None)
        calls = Calls(getattr(exercise, "pure", ()), getattr(exercise, "keeps", ()))
        with _isolated(printed):
            try:
                with time_limit(clock):
                    instead = stand_ins(probe, namespace, builds_on)
                    everywhere = {name: value for name, value in instead.items() if "." not in name}
                    with _substituted(namespace, everywhere):
                        own = {name.partition(".")[0]: value for name, value in instead.items()}
                        before = settings()
                        seen = plain(probe(Names(namespace, own, calls), **inputs))
                        known = " ".join(effect.text for effect in calls.effects)  # a seed is not put back: seen twice
                        left = [effect for effect in restore(before) if effect.text not in known]
                        calls.effects += [Effect(rule, f"your code left {how}") for rule, how in left]
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                seen = {"error": describe_error(TimeLimit(clock.over) if clock.over else error)}
        if not clock.over:
            break
    if printed.text:
        seen["printed"] = printed.text
    if calls.effects and "error" not in seen:
        seen["effects"] = plain([effect._asdict() for effect in calls.effects[:5]])
    return seen


def stand_ins(probe: Callable[..., dict], namespace: Namespace, wanted: Iterable[str]) -> dict[str, Any]:
    """What stands in for names that a check builds on.

    A stage's ``shared.py`` has them in ``STAND_INS`` (why: `lora_ref.checks.verdicts`). Each is called with the
    student's `Names` and returns the object. ``"LoRALayer"`` takes the place of the student's wherever that is used.
    ``"LoRALayer.__init__"``, with a dot, is for a check of the rest of that class: its stand-in is the student's class
    with this one part put right, and the probe alone is given it.
    """
    wanted = list(wanted)
    if not wanted:
        return {}
    shared = importlib.import_module(f"{probe.__module__.rpartition('.')[0]}.shared")
    return {name: shared.STAND_INS[name](Names(namespace)) for name in wanted}


class Patience:
    """How long the probes of one exercise may take.

    After one that hung, the others have a tenth of their time: what never ends mostly is in all of them, and whoever
    waits for the report should not wait for each.
    """

    def __init__(self) -> None:
        self._share = 1.0

    def observe(self, *asked: Any, seconds: float = SECONDS, **options: Any) -> dict[str, Any]:
        """As the function `observe`."""
        seen = observe(*asked, seconds=seconds * self._share, **options)
        error = seen.get("error")
        if isinstance(error, dict) and error.get("type") == "TimeLimit":
            self._share = 0.1
        return seen


def array(tensor: Any) -> np.ndarray:
    """The values of a tensor as a float64 (or int64, bool) array.

    Raises:
        TypeError: it is not a tensor.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"expected a tensor, got {type(tensor).__name__}")
    with torch._C.DisableTorchFunctionSubclass():  # a subclass cannot answer for its values
        tensor = tensor.detach().cpu()
        if tensor.dtype == torch.bool:
            return np.array(tensor.tolist(), dtype=bool).reshape(tuple(tensor.shape))
        wide = torch.float64 if tensor.is_floating_point() else torch.int64
        return tensor.to(wide).contiguous().numpy().copy()


def result_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, dict[str, Any] | None]:
    """What ``call(*arguments, **options)`` returns, and what it raises; one of the two is None.

    An error is ``{"type", "text", "quoted"}`` (`describe_error`) with its base classes in ``"bases"``.
    """
    try:
        return call(*arguments, **options), None
    except (TimeLimit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, (NotImplementedError, NotDefined)):
            raise  # the gap itself, or no name at all: never an answer
        return None, {**describe_error(error), "bases": [base.__name__ for base in type(error).__mro__]}


def raised(call: Callable[..., Any], *arguments: Any) -> dict[str, Any] | None:
    """What ``call(*arguments)`` raises, as `result_of` writes it down, or None."""
    return result_of(call, *arguments)[1]


def attempt(run: Callable[..., dict], *arguments: Any, gaps: bool = False) -> dict:
    """What ``run(*arguments)`` records, or ``{"error": ...}`` (`describe_error`).

    Args:
        run: a part of a probe, after which the probe goes on.
        arguments: what it is called with.
        gaps: record an open gap or a missing name too, where it may be another exercise's; otherwise it is the whole
            probe's.
    """
    try:
        return run(*arguments)
    except Exception as error:  # not TimeLimit: when the time is up, it is up for the whole probe
        if isinstance(error, (NotImplementedError, NotDefined)) and not gaps:
            raise
        return {"error": describe_error(error)}


def to_float(value: Any) -> float | None:
    """A number's value; None for what is not a number, such as text or True."""
    return None if value is None or isinstance(value, (bool, str)) else float(value)


def plain(value: Any, _budget: list[int] | None = None) -> Any:
    """A copy of ``value`` in exact built-in types and NumPy arrays.

    Raises:
        TypeError: it holds anything else.
        ValueError: it is too large.
    """
    budget = _budget if _budget is not None else [MAX_ELEMENTS]
    kind = type(value)
    budget[0] -= value.size if kind is np.ndarray else 1
    if budget[0] < 0:
        raise ValueError("the observation is too large")
    if kind is np.ndarray:
        if value.dtype.kind not in "biuf":
            raise TypeError(f"an array of {value.dtype} in an observation")
        return np.array(value)
    if kind is str:
        return value[:MAX_TEXT]
    if value is None or kind in (bool, int, float):
        return value
    if kind in (list, tuple):
        return [plain(item, budget) for item in value]
    if kind is dict:
        return {str(key)[:MAX_TEXT]: plain(item, budget) for key, item in value.items()}
    if isinstance(value, np.generic):
        return plain(value.item(), budget)
    raise TypeError(f"an observation cannot hold {kind.__name__}")


def describe_error(error: BaseException) -> dict[str, Any]:
    """Type, text and last line of the student's own code for an error, as plain data.

    ``"quoted"`` says that the text is Python's or a library's: each release words it as it likes. What a ``raise`` in
    the student's code or in this package says is not.
    """
    if isinstance(error, TimeLimit):
        return {"type": "TimeLimit", "text": str(error), "line": "", "quoted": False}
    if isinstance(error, NotDefined):
        return {"type": "NotDefined", "text": str(error), "line": "", "near": error.near, "quoted": False}
    line = ""
    with contextlib.suppress(Exception):
        here = os.path.dirname(os.path.abspath(__file__))
        site = os.path.dirname(os.path.dirname(os.path.abspath(torch.__file__)))
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((here, site))]
        if frames:
            # from Python 3.12 on, a comprehension has no frame of its own
            named = [f.name for f in frames if f.name not in ("<listcomp>", "<dictcomp>", "<setcomp>")]
            line = f"line {frames[-1].lineno}, in {(named or ['<module>'])[-1]}"
            line += f": {frames[-1].line}" if frames[-1].line else ""
    text = _short(error)
    return {"type": type(error).__name__[:100], "text": text, "line": line[:300], "quoted": _quoted(error)}


def _quoted(error: BaseException) -> bool:
    """Whether an error's text is worded by Python or a library."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return True
    code = step.tb_frame.f_code
    if code.co_code[step.tb_lasti] != dis.opmap["RAISE_VARARGS"]:
        return True  # nobody wrote a raise there: it comes from inside an operation
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    theirs = (sysconfig.get_path("stdlib"), os.path.dirname(os.path.dirname(os.path.abspath(torch.__file__))))
    file = os.path.abspath(code.co_filename)
    return file.startswith(theirs) and not file.startswith(ours)


def _short(error: BaseException) -> str:
    try:
        lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
        told = 2 if "state_dict" in lines[0] else 1  # below the first line torch adds lists of signatures, or the names
        return " ".join(lines[:told])[:300]
    except BaseException:  # an exception whose __str__ raises
        return "(no text)"


class _Bounded(io.TextIOBase):
    """Keeps the first characters of what is written and forgets the rest."""

    def __init__(self) -> None:
        self.text = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if len(self.text) < MAX_TEXT:
            self.text += text[: MAX_TEXT - len(self.text)]
        return len(text)


@contextlib.contextmanager
def _isolated(printed: _Bounded) -> Iterator[None]:
    """Seeded randomness, default dtype, gradients on, nothing on stderr; all as it was afterwards.

    Anything on stderr would cost the whole cell in nbgrader, whoever wrote it: a library's warning, a log line, C code.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    loud = logging.root.manager.disable < logging.CRITICAL
    disabled = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":  # set for the whole notebook; the inputs are on the CPU
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(_stderr_to_nowhere())
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(_Bounded()))
        warnings.simplefilter("ignore")
        if loud:  # each call walks all loggers
            logging.disable(logging.CRITICAL)
        torch.set_default_dtype(torch.float32)
        if torch.cuda.is_initialized():
            torch.manual_seed(SEED)
        else:  # the same for the CPU; the other writes down, for each kind of device, where it was called
            torch.default_generator.manual_seed(SEED)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 (a student's code may use it)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            if loud:
                logging.disable(disabled)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch: a probe's tensors are tiny, and where the machine is busy a second one waits many times as
    long as the work takes, which counts as time that the answer used."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _stderr_to_nowhere() -> Iterator[None]:
    """Send file descriptor 2 to the null device: what C code writes there never passes through ``sys.stderr``."""
    try:
        sys.stderr.flush()
        saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError, AttributeError):  # no such descriptor (some embedded kernels)
        yield
        return
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@contextlib.contextmanager
def _substituted(namespace: Namespace, substitutes: Mapping[str, Any]) -> Iterator[None]:
    """Replace names in the student's namespace, and in the globals that their functions really read."""
    if not substitutes:
        yield
        return
    spaces = {id(namespace): namespace}
    for value in list(namespace.values()):
        for function in (value, *(vars(value).values() if isinstance(value, type) else ())):
            if not isinstance(function, FunctionType) or str(function.__module__).startswith(("lora_ref", "torch")):
                continue
            if any(name in function.__globals__ for name in substitutes):
                spaces[id(function.__globals__)] = function.__globals__
    missing = object()
    before = [(space, {name: space.get(name, missing) for name in substitutes}) for space in spaces.values()]
    try:
        for space, _ in before:
            space.update(substitutes)
        yield
    finally:
        for space, old in before:
            for name, value in old.items():
                if value is missing:
                    space.pop(name, None)
                else:
                    space[name] = value
