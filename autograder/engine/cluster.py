"""The same jobs on a Dask cluster: ``python -m autograder grade --scheduler ADDRESS``.

    this process: plan, one writer <-- text --> Dask worker: `grade_job` <-- socket --> `worker`: judges, sandbox

A Dask worker keeps a grading process with a warm sandbox of its own, as the pool of one machine does, from job to job.
Dask moves what it is given as pickles, between machines that are all the instructor's. What a student wrote is in it
only as a piece of JSON text, which is parsed and never unpickled; what comes back is what the grading process wrote.

Which worker a job goes to, and that the job of a lost worker goes to another one, is Dask's business.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from autograder.engine.assignment import ROOT, environment_parts
from autograder.engine.inside import wire
from autograder.engine.sandbox import SLACK, TRIES, WARM_SECONDS, SandboxError

if TYPE_CHECKING:
    from distributed import Client, Future

#: Seconds in which a scheduler must answer.
CONNECT_SECONDS = 10
#: Seconds after which the cluster's threads are counted again.
LOOK_SECONDS = 1.0
#: Jobs that wait on the scheduler beyond those that run: workers find the next one there, and a cluster that grows with
#: its load sees that there is some.
AHEAD = 50
GUIDE = "docs/grading_on_a_cluster.md"
#: Sandboxes of Dask workers have user ids from 100 on, so that they share no limit with a pool on the same machine.
NUMBERS = range(100, 4000)


class ClusterError(RuntimeError):
    """The cluster cannot be used; the message says why and what to do."""


# --- on the instructor's machine ------------------------------------------------------------------------------------


def run(
    jobs: Iterable[dict[str, Any]],
    address: str,
    kind: str,
    on_result: Callable[[dict[str, Any], dict[str, Any]], None],
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """`autograder.engine.pool.run` with a cluster's workers: ``on_result(job, record)`` is called in this process.

    Dask gives the job of a lost worker to another one, as often as its scheduler allows (``allowed-failures``); then,
    or where it ended the grading process of its worker twice, its record is ``{"failed": reason}``.

    Args:
        address: of the scheduler, as ``tcp://host:8786`` or ``tls://host:8786``.
        kind: of sandbox, on the workers.

    Raises:
        ClusterError: there is no scheduler, or a worker has no copy or another version of the course, or no sandbox.
    """
    coming = iter(jobs)
    first = next(coming, None)
    if first is None:
        return
    coming = itertools.chain([first], coming)
    client = connect(address)
    running: dict[str, tuple[Future, dict[str, Any]]] = {}
    done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def give(job: dict[str, Any]) -> None:
        text = json.dumps({"job": job, "kind": kind, "environment": environment_parts()})
        key = f"grade-{secrets.token_hex(12)}"  # another one each time: Dask keeps the results of those it knows
        future = client.submit(grade_job, text, key=key, pure=False)
        running[key] = future, job
        future.add_done_callback(lambda future: done.put((future.key, _outcome(future))))

    try:
        threads, counted_at, warned = 0, 0.0, False
        while True:
            if time.monotonic() > counted_at + LOOK_SECONDS:
                threads, counted_at = _threads(client, address), time.monotonic()
                if not threads and not warned:
                    warned = True
                    print(f"grade: {address} has no worker; the jobs wait until one joins", file=sys.stderr)
            for job in itertools.islice(coming, max(0, threads + AHEAD - len(running))):
                give(job)
            if not running:
                return
            try:
                key, outcome = done.get(timeout=0.25)
            except queue.Empty:
                on_tick()
                continue
            _, job = running.pop(key)
            on_result(job, _record(outcome, address))
            on_tick()
    finally:
        _leave(client, [future for future, _ in running.values()])


def connect(address: str) -> Client:
    """A client of the scheduler (ClusterError: there is none, or Dask is not installed)."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ClusterError(
            f"--scheduler needs Dask ({error}): pip install -c constraints.txt -e '.[cluster]'"
        ) from None
    logging.getLogger("distributed").setLevel(logging.ERROR)  # no word on the progress line of a worker that is lost
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # of many kinds: no such host, nobody there, another protocol, TLS settings
        why = str(error) or type(error).__name__
        raise ClusterError(
            f"no scheduler answers at {address}: {why}\nStart one (dask scheduler) and see {GUIDE}."
        ) from None


def _threads(client: Client, address: str) -> int:
    try:
        return sum(client.nthreads().values())
    except Exception as error:
        raise ClusterError(f"the scheduler at {address} is gone ({type(error).__name__}): start it and go on") from None


def _outcome(future: Future) -> Any:
    """What a future came to: the text of its result, or the exception. Called in a thread of Dask's."""
    try:
        return future.result()
    except BaseException as error:
        return error


def _record(outcome: Any, address: str) -> dict[str, Any]:
    """The record in what came back.

    Raises:
        ClusterError: nothing came back for a reason that would hold for the next job too.
    """
    from distributed import CancelledError, KilledWorker

    if isinstance(outcome, KilledWorker):
        return {"failed": f"{outcome.allowed_failures + 1} workers were lost while they graded it"}
    if isinstance(outcome, (CancelledError, OSError)):
        raise ClusterError(f"the scheduler at {address} is gone ({type(outcome).__name__}): start it and go on")
    if isinstance(outcome, BaseException):
        raise ClusterError(
            f"a worker cannot grade: {type(outcome).__name__}: {str(outcome)[:500]}\n"
            f"Each worker's Python must have this checkout of the course installed; see {GUIDE}."
        )
    reply = json.loads(outcome)
    if "refused" in reply:
        raise ClusterError(reply["refused"])
    return reply["record"]


def _leave(client: Client, futures: list[Future]) -> None:
    """Drop what has not come back: the cluster forgets it, and a worker that is at it ends it in vain."""
    try:
        if futures:
            client.cancel(futures, force=True)
    except Exception:  # the scheduler may be what was lost
        pass
    finally:
        client.close(timeout=CONNECT_SECONDS)


# --- on a Dask worker -----------------------------------------------------------------------------------------------


class Lost(Exception):
    """A grading process ended or gave no answer in time."""


class Judge:
    """A grading process of this Dask worker, with a sandbox of its own. It ends when the socket to it closes.

    Raises:
        SandboxError: it cannot have its sandbox.
    """

    def __init__(self, kind: str):
        self.channel, other = socket.socketpair()
        number = secrets.choice(NUMBERS)
        line = [sys.executable, "-m", "autograder.engine.worker", str(other.fileno()), kind, str(number)]
        with other:
            self.process = subprocess.Popen(line, cwd=ROOT, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL)
        try:
            answer = wire.receive(self.channel, WARM_SECONDS + SLACK)
        except (wire.Closed, wire.WireError, TimeoutError) as error:
            self.close()
            raise SandboxError(f"the grading process ended before it was ready ({type(error).__name__})") from None
        if "unable" in answer:
            self.close()
            raise SandboxError(answer["unable"])

    def grade(self, job: dict[str, Any]) -> dict[str, Any]:
        """A job's record.

        Raises:
            Lost: there is none, and this process is of no more use.
            wire.WireError: the job is too large to be sent.
        """
        try:
            wire.send(self.channel, job, 30)
        except (wire.Closed, TimeoutError) as error:
            raise Lost(f"the grading process ended ({type(error).__name__})") from None
        try:
            answer = wire.receive(self.channel, job["seconds"] + SLACK)
        except TimeoutError:
            raise Lost("no result in time; the grading process was stopped") from None
        except (wire.Closed, wire.WireError) as error:
            raise Lost(f"the grading process ended ({type(error).__name__})") from None
        if "unable" in answer:
            raise Lost(answer["unable"])
        return answer

    def close(self) -> None:
        """End it, and its sandbox with it."""
        self.channel.close()
        self.process.kill()
        self.process.wait()


#: Grading processes that wait for a job, by the kind of their sandbox: one for each thread of this Dask worker.
_idle: dict[str, list[Judge]] = {}


def grade_job(text: str) -> str:
    """The task that Dask runs: a job as JSON text; returns ``{"record": ...}`` or ``{"refused": why}``, as text too."""
    order = json.loads(text)
    if why := difference(order["environment"], environment_parts()):
        return json.dumps({"refused": f"the worker on {socket.gethostname()} has another version of the course: {why}"})
    try:
        return json.dumps({"record": _grade(order["job"], order["kind"])})
    except SandboxError as error:
        return json.dumps({"refused": f"the worker on {socket.gethostname()} has no sandbox: {error}"})


def _grade(job: dict[str, Any], kind: str) -> dict[str, Any]:
    """The record; a job whose grading process is lost is tried again in a new one."""
    idle, why = _idle.setdefault(kind, []), ""
    for _ in range(TRIES):
        try:
            judge = idle.pop()
        except IndexError:
            judge = Judge(kind)
        try:
            record = judge.grade(job)
        except Lost as error:
            judge.close()
            why = str(error)
        except wire.WireError as error:  # nothing was sent: the process is as good as before
            idle.append(judge)
            return {"failed": f"the notebook is too large: {error}"}
        else:
            idle.append(judge)
            return record
    return {"failed": why}


def difference(ours: Iterable[str], theirs: Iterable[str]) -> str:
    """What distinguishes two environments (see `environment_parts`), or "" if nothing does."""
    mine, other = set(ours), set(theirs)
    if mine == other:
        return ""
    there, here = (", ".join(sorted(some)[:4]) or "nothing of it" for some in (other - mine, mine - other))
    return f"there {there}; here {here}.\nPut the same commit and the same packages there, and start the worker again."
