"""Outside the sandbox: run a submission there, ask it questions, judge the answers, write down the points.

The process inside is asked, one order at a time: run this cell; call this probe on these inputs. Inputs are drawn here
from the submission's seed. What a cell prints, returns or raises is kept for a reader and decides nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autograder.contract import STAGES, exercise
from autograder.evaluation import Result, hidden_checks, result_from
from autograder.run import wire
from autograder.run.sandbox import LIMITS, Gone, Sandbox
from lora_ref.checks.verdicts import Check, Fault, Observation, Verdict, run_check

#: Seconds that a cell has to end after its KeyboardInterrupt.
GRACE = 3.0
#: How often a submission is run again without the cell that ended its process.
RUNS = 4
#: Bytes of JSON that one cell's outputs may have.
MAX_OUTPUTS = 5_000_000
#: Bytes of JSON that all outputs of a submission may have.
MAX_SHOWN = 5_000_000


class Session:
    """One run of a submission in the sandbox.

    Args:
        sandbox: where.
        deadline: ``time.monotonic()`` at which the whole submission must be over.
        limits: see `autograder.run.sandbox.LIMITS`.
    """

    def __init__(self, sandbox: Sandbox, deadline: float, limits: Mapping[str, int] = LIMITS):
        self.sandbox, self.deadline = sandbox, deadline
        self.used: dict[str, Any] = {}
        self._channel = sandbox.start()
        self.ask({"do": "limits", "limits": dict(limits)}, 30)

    def ask(self, order: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send an order and return the answer; ``"late"`` in it says that it was interrupted for being late.

        Raises:
            Gone: the process ended, did not answer even when interrupted, or answered something that is no answer.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Gone("the submission's time is up")
        late = False
        try:
            wire.send(self._channel, order, 30)
            try:
                answer = wire.receive(self._channel, min(seconds, left), MAX_OUTPUTS)
            except TimeoutError:
                late = True
                self.sandbox.interrupt()
                answer = wire.receive(self._channel, GRACE, MAX_OUTPUTS)
        except TimeoutError:
            raise Gone(f"stopped after {min(seconds, left):.0f} s, which did not help") from None
        except wire.Closed:
            raise Gone("the process ended") from None
        except wire.WireError as error:
            raise Gone(f"the process sent something unreadable ({error})") from None
        if type(answer) is not dict or "broken" in answer:
            raise Gone(f"the process could not be set up or is broken: {str(answer)[:200]}")
        if late:
            answer["late"] = True
        return answer

    def observe(
        self,
        probe: Callable[..., dict],
        namespace: Any,
        inputs: Mapping[str, Any],
        *,
        substitutes: Mapping[str, Any] | None = None,
        seconds: float,
    ) -> Observation:
        """`lora_ref.checks.probing.observe`, in the sandbox; ``namespace`` is the notebook's, whatever is given."""
        carry = {name: [value.__module__, value.__qualname__] for name, value in (substitutes or {}).items()}
        order = {"do": "probe", "probe": [probe.__module__, probe.__qualname__], "inputs": dict(inputs)}
        answer = self.ask({**order, "carry": carry, "seconds": seconds}, seconds + 2 * GRACE)
        self.replaced = sorted({*getattr(self, "replaced", ()), *_texts(answer.get("replaced"))})
        seen = answer.get("seen")
        if type(seen) is not dict:
            return {"error": {"type": "TimeLimit", "text": f"still running after {seconds:g} s", "line": ""}}
        return seen

    def close(self) -> None:
        """End the submission's process and all it started."""
        self._channel.close()
        for name, value in self.sandbox.kill().items():
            if isinstance(value, (int, float)):
                self.used[name] = value


def grade(job: dict[str, Any], sandbox: Sandbox) -> dict[str, Any]:
    """Grade one submission.

    Args:
        job: ``stage``, ``seed``, ``cells`` (each: ``source``, ``exercise`` or None), ``cell_seconds``, ``seconds``.
        sandbox: where it runs.

    Returns:
        ``results`` (`Result.to_dict` of each exercise), ``outputs`` (by the cell's number, as text), ``replaced`` (what
        the submission patched), ``origins`` (of the names it defines), ``used``, ``seconds``, ``stopped`` (what ended
        its process, if something did).
    """
    started = time.monotonic()
    deadline = started + job["seconds"]
    record: dict[str, Any] = {"outputs": {}, "replaced": [], "origins": {}, "used": {}, "stopped": []}
    results: dict[str, Result] = {}
    lost: dict[int, str] = {}
    for _ in range(RUNS):
        session, number = Session(sandbox, deadline), -1
        try:
            for number, cell in enumerate(job["cells"]):
                _run(cell, number, session, job, lost, results, record)
            names = sorted({name for row in STAGES[job["stage"]] for name in row.names})
            origins = session.ask({"do": "inspect", "names": names}, 10).get("origins")
            record["origins"] = {n: _texts(origins.get(n)) for n in names} if type(origins) is dict else {}
            break
        except Gone as gone:
            lost[number] = str(gone)
            record["stopped"].append({"cell": number, "why": str(gone)})
            if time.monotonic() >= deadline:
                break
        finally:
            session.close()
            record["replaced"] = sorted({*record["replaced"], *getattr(session, "replaced", ())})
            record["used"] = {k: record["used"].get(k, 0) + v for k, v in session.used.items()}
    for number, cell in enumerate(job["cells"]):
        if number in lost:
            record["outputs"][str(number)] = [_error("Stopped", lost[number])]
            if cell["exercise"]:
                results[cell["exercise"]] = failed(cell["exercise"], lost[number])
    ended = "; ".join(lost.values()) or "the notebook was not run to its end"
    rows = [row for row in STAGES[job["stage"]] if not row.manual]
    record["results"] = [(results.get(row.id) or failed(row.id, ended)).to_dict() for row in rows]
    return {**record, "seconds": round(time.monotonic() - started, 3)}


def _run(
    cell: dict[str, Any],
    number: int,
    session: Session,
    job: dict[str, Any],
    lost: dict[int, str],
    results: dict[str, Result],
    record: dict[str, Any],
) -> None:
    """One cell: what it shows, and if it is graded, its exercise's checks."""
    if number in lost or not (cell["source"] or cell["exercise"]):
        return
    answer = session.ask({"do": "cell", "source": cell["source"]}, job["cell_seconds"])
    outputs = clean_outputs(answer.get("outputs"), number + 1)
    if answer.get("late"):
        outputs.append(_error("CellTimeoutError", f"stopped after {job['cell_seconds']:g} s"))
    record["shown"] = record.get("shown", 0) + len(json.dumps(outputs))
    if record["shown"] > MAX_SHOWN:
        outputs = [_error("OutputLimit", "the notebook shows too much; this cell's outputs were dropped")]
    record["outputs"][str(number)] = outputs
    if cell["exercise"]:
        verdicts = tuple(_verdict(check, session, job["seed"]) for check in hidden_checks(cell["exercise"]))
        results[cell["exercise"]] = result_from(exercise(cell["exercise"]), verdicts)


def _verdict(check: Check, session: Session, seed: int) -> Verdict:
    try:
        with np.errstate(all="ignore"):
            return run_check(check, {}, seed, session.observe)
    except (Gone, KeyboardInterrupt):
        raise
    except Exception as error:  # an observation that no probe makes: the judge's complaint is no pass
        return Verdict(check, Fault(f"an answer of an unexpected form ({type(error).__name__})"))


def failed(exercise_id: str, why: str) -> Result:
    """No points for an exercise that could not be judged."""
    verdicts = tuple(Verdict(check, Fault(why)) for check in hidden_checks(exercise_id))
    row = exercise(exercise_id)
    heading = f"{row.id} {row.title}: 0 of {row.points:g} points"
    return Result(row.id, row.title, 0.0, row.points, f"{heading}\n  FAIL  {why} before this was judged", verdicts)


def _error(kind: str, text: str) -> dict[str, Any]:
    return {"output_type": "error", "ename": kind, "evalue": text, "traceback": [f"{kind}: {text}"]}


def _texts(value: Any) -> list[str]:
    items = value if type(value) is list else []
    return [item[:200] for item in items if type(item) is str][:50]


def clean_outputs(value: Any, count: int) -> list[dict[str, Any]]:
    """What a submission says its cell showed, cut down to nbformat's outputs of text and pictures."""
    from autograder.run.shell import MIME_TYPES

    kept = []
    for item in value if type(value) is list else []:
        kind = item.get("output_type") if type(item) is dict else None
        if kind == "stream" and type(item.get("text")) is str:
            kept.append({"output_type": "stream", "name": "stdout", "text": _printable(item["text"])})
        elif kind in ("display_data", "execute_result") and type(item.get("data")) is dict:
            data = {m: item["data"][m] for m in MIME_TYPES if type(item["data"].get(m)) is str}
            data = {m: text if m.startswith("image/") else _printable(text) for m, text in data.items()}
            numbered = {"execution_count": count} if kind == "execute_result" else {}
            kept.append({"output_type": kind, "data": data, "metadata": {}, **numbered})
        elif kind == "error":
            lines = [_printable(line) for line in item.get("traceback", ()) if type(line) is str]
            named = {key: _printable(str(item.get(key, "")))[:2000] for key in ("ename", "evalue")}
            kept.append({"output_type": "error", **named, "traceback": lines[:50]})
    return kept[:200]


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()[:120_000]
