"""Outside the sandbox: run a submission there, ask it questions, judge the answers, write down the points.

The process inside is asked, one order at a time: run this cell; call this probe on these inputs. Inputs are drawn here
from the submission's seed. What a cell prints, returns or raises is kept for a reader and decides nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import secrets
import select
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autograder.engine import border
from autograder.engine.inside import wire
from autograder.engine.needed import names_bound, names_in, uses
from autograder.engine.outputs import MAX_SHOWN, clean_outputs, error, hidden
from autograder.engine.sandbox import CPU, LIMITS, TOTAL, Gone, Process
from autograder.evaluation import Result, hidden_checks, result_from, stopped
from autograder.exercises import OPTIONAL, STAGES, Exercise
from lora_ref.checks.probing import TRIES
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, Verdict, draw, judge, second_chance
from lora_ref.checks.visible import visible_checks

#: Seconds that a cell has to end after its KeyboardInterrupt.
GRACE = 3.0
#: How often a submission is run again without the cell that ended its process.
RUNS = 4
#: Bytes of orders that may wait in the submission's socket, which holds about 200 kB before a sender has to wait.
AHEAD = 60_000
#: Bytes of JSON that one cell's outputs may have.
MAX_OUTPUTS = 5_000_000
#: A cell that runs an exercise's visible checks, whatever the notebook calls them; its value is a word if they pass.
VISIBLE = "__import__('lora_ref.checks').checks.check('{}', (lambda: 0).__globals__) is None and '{}'"
#: Errors whose text names what is not there; the second is a package's.
NOT_THERE = ("NameError", "ModuleNotFoundError", "FileNotFoundError")
#: Most texts of such errors, and characters of one message, that are kept.
MAX_NAMES, MAX_MESSAGE = 200, 5_000
#: Share of a probe's time limit below which it had hardly a processor; most probes of an exercise asked again for it.
LITTLE, MAX_AGAIN = 0.5, 3
#: Bytes that judging one check may take: shapes that were made up can ask NumPy for products of any size.
MAX_JUDGING = 1_000_000_000


class Session:
    """One run of a submission in the sandbox.

    Args:
        sandbox: where.
        deadline: ``time.monotonic()`` at which the whole submission must be over.
        limits, total, cpu: see `autograder.engine.sandbox.LIMITS`, ``TOTAL`` and ``CPU``.
    """

    def __init__(
        self, sandbox: Process, deadline: float, limits: Mapping[str, int] = LIMITS, total: int = TOTAL, cpu: int = CPU
    ):
        self.sandbox, self.deadline = sandbox, deadline
        self.used: dict[str, Any] = {}
        self.over = ""
        self.replaced: list[str] = []
        self._given_back = 0.0
        self._channel = sandbox.start(total, cpu)
        self.ask({"do": "limits", "limits": dict(limits)}, 30)

    def ask(self, order: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send an order and return the answer; ``"late"`` in it says that it was interrupted for being late.

        Raises:
            Gone: the process ended, did not answer even when interrupted, or sent something that is not an answer.
        """
        self._send(wire.encode(order))
        return self._answer(seconds)

    def ask_all(self, orders: Iterable[dict[str, Any]], seconds: float) -> Iterator[dict[str, Any]]:
        """`ask` for each order, but small ones are sent before the answer to the last: no side waits for the other."""
        waiting, ahead = deque(map(wire.encode, orders)), deque[int]()
        while waiting or ahead:
            while waiting and (not ahead or sum(ahead) + len(waiting[0]) <= AHEAD):
                ahead.append(len(waiting[0]))
                self._send(waiting.popleft())
            yield self._answer(seconds)
            ahead.popleft()

    def _send(self, frame: bytes) -> None:
        try:
            wire.send_frame(self._channel, frame, 30)
        except TimeoutError:
            raise Gone("it takes no orders any more") from None
        except wire.Closed:
            raise Gone("the process ended") from None

    def _answer(self, seconds: float) -> dict[str, Any]:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Gone("the submission's time is up")
        late = False
        try:
            try:
                answer = self._receive(seconds)
            except TimeoutError:
                late = True
                self.sandbox.interrupt()
                answer = self._receive(GRACE, GRACE)
        except TimeoutError:
            raise Gone(f"stopped after {min(seconds, left):.0f} s, which did not help") from None
        except wire.Closed:
            raise Gone("the process ended") from None
        except wire.WireError as error:
            raise Gone(f"the process sent something unreadable ({error})") from None
        if type(answer) is not dict:
            raise Gone("the process sent something that is not an answer")
        outputs = answer.pop("outputs", None)
        try:
            answer = border.clean(answer)
        except border.Malformed as error:
            text = f"an answer of an unexpected form ({error})"
            answer = {"seen": {"error": {"type": "Malformed", "text": text, "line": ""}}}
        if "broken" in answer:
            raise Gone(f"the process could not be set up or is broken: {str(answer)[:200]}")
        answer["outputs"] = outputs  # which have a border of their own, `clean_outputs`
        if late:
            answer["late"] = True
        return answer

    def _receive(self, seconds: float, beyond: float = 0.0) -> Any:
        """Wait ``seconds`` for a frame, and as long again as others took from the submission, within the deadline."""
        until, last = time.monotonic() + seconds, self.deadline + beyond
        while not select.select([self._channel], [], [], max(0.0, min(until, last) - time.monotonic()))[0]:
            back = self.sandbox.starved() - self._given_back
            if back < seconds / 100 or time.monotonic() >= last:
                raise TimeoutError
            self._given_back += back
            until = time.monotonic() + back
        return wire.receive(self._channel, max(GRACE, min(until, last) - time.monotonic()), MAX_OUTPUTS)

    def observe_all(
        self, checks: Sequence[Check], inputs: Mapping[str, Inputs], stand_ins: bool = False
    ) -> list[Observation]:
        """What `lora_ref.checks.probing.observe` sees for each check's inputs, in the sandbox.

        A probe that ran into its time limit and had hardly a processor for it is asked once more, by itself.

        Args:
            checks: of one time limit.
            inputs: of each check, by its id.
            stand_ins: with those for what each check builds on.
        """
        orders = []
        for check in checks:
            orders.append(
                {
                    "do": "probe",
                    "exercise": check.exercise,
                    "probe": [check.probe.__module__, check.probe.__qualname__],
                    "inputs": inputs[check.id],
                    "builds_on": list(check.builds_on) if stand_ins else [],
                    "seconds": check.seconds,
                }
            )
        longest = max((check.seconds for check in checks), default=0.0)
        patience = TRIES * longest + 2 * GRACE
        observations, slow = [], []
        for check, answer in zip(checks, self.ask_all(orders, patience), strict=True):
            observations.append(self._seen(check, answer))
            if _starved(check, answer, observations[-1]):
                slow.append(len(observations) - 1)
        for number in slow[:MAX_AGAIN]:
            order = {**orders[number], "exercise": f"{checks[number].exercise}, again"}  # with patience of its own
            observations[number] = self._seen(checks[number], self.ask(order, patience))
        return observations

    def _seen(self, check: Check, answer: dict[str, Any]) -> Observation:
        """The observation in an answer."""
        self.replaced = sorted({*self.replaced, *border.texts(answer.get("replaced"))})
        observation = answer.get("seen")
        if answer.get("interrupted") and not answer.get("late"):  # what it says it saw is dropped
            self.replaced = sorted({*self.replaced, "!raises KeyboardInterrupt where nobody interrupted it"})
            return {"error": {"type": "KeyboardInterrupt", "text": "nobody interrupted it", "line": ""}}
        if type(observation) is dict:
            return observation
        text = f"still running after {check.seconds:g} s"
        return {"error": {"type": "TimeLimit", "text": text, "line": ""}}

    def close(self) -> None:
        """End the submission's process and all it started; again does nothing."""
        if self._channel.fileno() < 0:
            return
        self._channel.close()
        for name, value in self.sandbox.kill().items():
            if isinstance(value, (int, float)):
                self.used[name] = value
            elif name == "over":
                self.over = border.text(str(value), 50)


def grade(job: dict[str, Any], sandbox: Process) -> dict[str, Any]:
    """Grade one submission.

    Args:
        job: ``stage``, ``seed``, ``cells`` (each: ``source``, ``exercise`` or None, and ``spare`` if its source need
            not run), ``cell_seconds``, ``seconds``;
            ``memory`` if it is to have less than `TOTAL`, ``doubt`` if its visible checks are to be compared.
        sandbox: where it runs.

    Returns:
        ``results`` and ``optional`` (`Result.to_dict` of each exercise, with points and without), ``outputs`` (by the
        cell's number, as text), ``replaced`` (what the submission patched), ``origins`` (of the names it defines),
        ``used``, ``seconds``, ``stopped`` (what ended its process, if something did).
    """
    started = time.monotonic()
    run = _Run(job, started + job["seconds"])
    run.all_cells(sandbox)
    if run.missed_a_spare_name():
        used = run.record["used"]
        run = _Run({**job, "cells": [{**cell, "spare": False} for cell in job["cells"]]}, run.deadline)
        run.record["used"] = used
        run.all_cells(sandbox)
    return {
        **run.record,
        "results": run.results_of(STAGES[job["stage"]]),
        "optional": run.results_of(OPTIONAL[job["stage"]]),
        "seconds": round(time.monotonic() - started, 3),
    }


class _Run:
    """One submission from its first cell to its last, again from the first where a cell ended its process."""

    def __init__(self, job: dict[str, Any], deadline: float):
        self.job, self.deadline = job, deadline
        self.cells: list[dict[str, Any]] = job["cells"]
        self.exercises = (*STAGES[job["stage"]], *OPTIONAL[job["stage"]])
        self.record: dict[str, Any] = {
            "outputs": {},
            "replaced": [],
            "origins": {},
            "used": {},
            "stopped": [],
            "notes": [],
        }
        self.results: dict[str, Result] = {}
        self.inputs: dict[str, Inputs] = {}  # drawn once of each check: asked with and judged by
        self.lost: dict[int, str] = {}
        self.shown, self.asked = 0, False
        self.unknown: set[str] = set()  # texts of errors that name what is not there
        self.undefined: set[str] = set()  # names that probes asked for
        self.raised: dict[int, tuple[str, str]] = {}  # of each cell that raised, the error's type and text
        self.missing: dict[str, set[str]] = {}  # what an exercise's probes did not find, by exercise

    def all_cells(self, sandbox: Process) -> None:
        record = self.record
        for _ in range(RUNS):
            session, number = Session(sandbox, self.deadline, total=self.job.get("memory", TOTAL)), -1
            try:
                for number, cell in enumerate(self.cells):
                    if number not in self.lost:
                        self.cell(number, cell, session)
                names = sorted({name for row in self.exercises for name in row.names})
                origins = session.ask({"do": "inspect", "names": names}, 10).get("origins")
                record["origins"] = {n: border.texts(origins.get(n)) for n in names} if type(origins) is dict else {}
                with contextlib.suppress(Gone):
                    self.once_more(session)
                    if self.job.get("doubt"):
                        self.compare(session)
                break
            except Gone as gone:
                session.close()
                why = f"its processes together took too much {session.over}" if session.over else str(gone)
                self.lost[number] = why
                record["stopped"].append({"cell": number, "why": why})
                if time.monotonic() >= self.deadline:
                    break
            finally:
                session.close()
                record["replaced"] = sorted({*record["replaced"], *session.replaced})
                record["used"] = {k: record["used"].get(k, 0) + v for k, v in session.used.items()}
        for number, cell in enumerate(self.cells):
            if number in self.lost:
                record["outputs"][str(number)] = [error("Stopped", self.lost[number])]
                if cell["exercise"]:
                    self.results[cell["exercise"]] = stopped(cell["exercise"], self.lost[number])

    def cell(self, number: int, cell: dict[str, Any], session: Session) -> None:
        """One cell: what it shows, and if it is graded, its exercise's checks."""
        if cell["source"] and not cell.get("spare"):
            limit = self.job["cell_seconds"]
            answer = session.ask({"do": "cell", "source": cell["source"]}, limit)
            outputs = clean_outputs(answer.get("outputs"), number + 1)
            if answer.get("late"):
                outputs.append(error("CellTimeoutError", f"stopped after {limit:g} s"))
            self.miss(o["evalue"] for o in outputs if o.get("ename") in NOT_THERE)
            self.raised.pop(number, None)
            for output in outputs:
                if output["output_type"] == "error":
                    self.raised[number] = output["ename"], output["evalue"]
            if cell.get("own") and self.asked:
                outputs = [hidden(output) for output in outputs if output["output_type"] == "error"]
            size = len(json.dumps(outputs))
            self.shown += size
            if self.shown > MAX_SHOWN:
                self.shown -= size
                outputs = [error("OutputLimit", "the notebook shows too much; this cell's outputs were dropped")]
            self.record["outputs"][str(number)] = outputs
        if cell["exercise"]:
            self.asked = True
            self.results[cell["exercise"]] = self.judge(cell["exercise"], session)

    def judge(self, exercise_id: str, session: Session) -> Result:
        """An exercise's verdicts as `lora_ref.checks.verdicts.run_check` gives them, the questions sent ahead."""
        checks = hidden_checks(exercise_id)
        self.inputs |= {check.id: draw(check, self.job["seed"]) for check in checks}
        observations = session.observe_all(checks, self.inputs)
        unknown = set(_texts_of(observations, NOT_THERE))
        self.miss(unknown)
        self.undefined |= set(_texts_of(observations, ("NotDefined",)))
        self.missing[exercise_id] = {name for text in unknown for name in names_in(text)}
        verdicts = {
            check.id: self.verdict(check, observation) for check, observation in zip(checks, observations, strict=True)
        }
        again = [check for check in checks if check.builds_on and not verdicts[check.id].passed]
        for check, observation in zip(again, session.observe_all(again, self.inputs, stand_ins=True), strict=True):
            verdicts[check.id] = second_chance(verdicts[check.id], self.verdict(check, observation))
        return result_from(exercise_id, map(self.with_cause, verdicts.values()))

    def with_cause(self, verdict: Verdict) -> Verdict:
        """A verdict on a name that is not defined, with the error of the cell that would have defined it."""
        fault = verdict.fault
        name = re.match(r"(?:NameError: name ')?(\w+)'? is not defined", fault.seen) if fault else None
        if fault is None or name is None:
            return verdict
        causes = [(n, f"its cell was stopped: {why}") for n, why in self.lost.items()]
        for number, (kind, text) in self.raised.items():
            line = (text.strip().splitlines() or [""])[0][:200]
            line += " (no such package where this is graded: leave the import out)" if kind == NOT_THERE[1] else ""
            causes.append((number, f"its cell raised {kind}: {line}".rstrip(": ")))
        ours = [cause for number, cause in causes if name[1] in names_bound(self.cells[number]["source"])]
        if not ours and self.lost:
            ours = [f"cell {number + 1} was stopped: {why}" for number, why in self.lost.items()]
        return replace(verdict, fault=replace(fault, likely=ours[-1])) if ours else verdict

    def once_more(self, session: Session) -> None:
        """What order alone decides: cells that used a name before it was there, exercises answered below their check.

        A student's own kernel had run the cells in another order; run from top to bottom, as a course asks, they fail.
        """
        bound = {n: names_bound(c["source"]) for n, c in enumerate(self.cells) if n not in self.lost and c["source"]}
        ran = {n: names for n, names in bound.items() if not self.cells[n].get("spare")}
        late: list[int] = []
        for number, (kind, text) in list(self.raised.items()):
            wanted = set(names_in(text)) if kind in NOT_THERE else set()
            later = [n for n in ran if n > number and n not in self.raised]
            files = "\n".join(self.cells[n]["source"] for n in later) if kind != "NameError" else ""
            if any(wanted & ran[n] for n in later) or any(name in files for name in wanted):
                late.append(number)
        for number in late:
            self.cell(number, {**self.cells[number], "exercise": None}, session)
        if late:
            cells = ", ".join(str(number + 1) for number in late)
            self.record["notes"].append(
                f"cell {cells} uses what a later cell defines, and ran again at the end: put it below that cell"
            )
        for number, cell in enumerate(self.cells):
            exercise_id = cell["exercise"]
            if not exercise_id or number in self.lost or not self.results[exercise_id].failed:
                continue
            wanted = {name for row in self.exercises if row.id == exercise_id for name in row.names}
            wanted |= self.missing.get(exercise_id, set())
            below = {n: names for n, names in ran.items() if n > number}
            # a %run, a star import: which names it brings, its text does not say
            opaque = any(self.cells[n].get("own") and uses(self.cells[n]["source"]).opaque for n in below)
            if late or opaque or any(wanted & names for names in below.values()):
                again = self.judge(exercise_id, session)
                if len(again.failed) < len(self.results[exercise_id].failed):
                    self.results[exercise_id] = again
                    self.record["notes"].append(
                        f"{exercise_id} was judged at the end: its answer, or what that uses, stands below its check"
                    )

    def compare(self, session: Session) -> None:
        """Run the visible checks, as the notebook's own cells do, of what the hidden ones find right.

        They look on a way that somebody who answers for a probe need not have thought of.
        """
        for exercise_id, result in self.results.items():
            if result.earned < result.points or not visible_checks(exercise_id):
                continue
            word = secrets.token_hex(8)  # which what the answer prints cannot be
            order = {"do": "cell", "source": VISIBLE.format(exercise_id, word)}
            shown: list[dict[str, Any]] = []
            with contextlib.suppress(Gone):  # where there is time, that is its own doing
                shown = clean_outputs(session.ask(order, self.job["cell_seconds"]).get("outputs"), 0)
            if time.monotonic() < self.deadline and not any(word in str(output.get("data")) for output in shown):
                hint = f"!a visible check of {exercise_id} fails, and the hidden ones pass"
                session.replaced = sorted({*session.replaced, hint})

    def verdict(self, check: Check, seen: Observation) -> Verdict:
        """The judge's, within the submission's time: an observation may be made so that judging it takes long."""
        if time.monotonic() >= self.deadline:
            raise Gone("the submission's time is up")
        return _verdict(check, self.inputs[check.id], seen)

    def miss(self, texts: Iterable[str]) -> None:
        """Keep the texts of errors that name what is not there, up to a number that no honest notebook reaches."""
        for text in texts:
            if len(self.unknown) >= MAX_NAMES:
                return
            self.unknown.add(text[:1000])

    def missed_a_spare_name(self) -> bool:
        """Whether an error names what a cell that did not run binds; a module or a file, what it has in it."""
        spares = [cell["source"] for cell in self.cells if cell.get("spare")]
        bound = {name for source in spares for name in names_bound(source)}
        text = {True: "\n".join(source for source in spares if uses(source).opaque), False: "\n".join(spares)}
        named = {(name, f"'{name}' is not defined" in error) for error in self.unknown for name in names_in(error)}
        return bool(bound & (self.undefined | {name for name, _ in named})) or any(
            re.search(rf"\b{re.escape(name)}\b", text[is_name]) for name, is_name in named
        )

    def results_of(self, exercises: Iterable[Exercise]) -> list[dict[str, Any]]:
        ended = "; ".join(self.lost.values()) or "the notebook was not run to its end"
        rows = [row for row in exercises if not row.manual]
        return [(self.results.get(row.id) or stopped(row.id, ended)).to_dict() for row in rows]


def _verdict(check: Check, inputs: Inputs, seen: Observation) -> Verdict:
    try:
        with np.errstate(all="ignore"), _bounded(MAX_JUDGING):
            verdict = judge(check, inputs, seen)
        if verdict.fault is None:
            return verdict
        fault = Fault(*(part and border.text(part, MAX_MESSAGE) for part in dataclasses.astuple(verdict.fault)))
        return dataclasses.replace(verdict, fault=fault)
    except Exception as error:  # an observation that no probe makes: the judge's complaint does not pass it
        fault = Fault(f"an answer of an unexpected form ({type(error).__name__})", read="")
        return Verdict(check.id, check.contract, check.points, fault)


def _starved(check: Check, answer: dict[str, Any], seen: Observation) -> bool:
    """Whether a probe ran into its time limit with little processor time used, as the inside says."""
    error = seen.get("error")
    limited = type(error) is dict and error.get("type") == "TimeLimit"
    used = answer.get("cpu")
    return limited and type(used) is float and used < LITTLE * check.seconds


@contextlib.contextmanager
def _bounded(extra: int) -> Iterator[None]:
    """Let this process take at most ``extra`` bytes more than it has, on Linux; beyond it is a MemoryError."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + extra
    except (ImportError, OSError):  # another system
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _texts_of(seen: Any, kinds: tuple[str, ...]) -> Iterator[str]:
    """The texts of errors of some types anywhere in observations."""
    if type(seen) is dict and seen.get("type") in kinds and type(seen.get("text")) is str:
        yield seen["text"]
    for item in seen.values() if type(seen) is dict else seen if type(seen) is list else ():
        if type(item) in (dict, list):
            yield from _texts_of(item, kinds)
