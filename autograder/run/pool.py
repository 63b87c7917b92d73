"""Several worker processes, each with a sandbox; jobs go to whichever is free, and lost workers are replaced."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from autograder.run import wire
from autograder.run.assignment import ROOT
from autograder.run.sandbox import WARM_SECONDS, SandboxError

#: How often a job is tried when its worker dies under it.
TRIES = 2
#: Seconds beyond a submission's own limit after which its worker is given up.
SLACK = 60.0


class Worker:
    """One `autograder.run.worker` process and what it is doing."""

    def __init__(self, kind: str, number: int):
        self.kind, self.number = kind, number
        self.channel, other = socket.socketpair()
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autograder.run.worker", str(other.fileno()), kind, str(number)],
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        other.close()
        self.job: dict[str, Any] | None = None
        self.until = time.monotonic() + WARM_SECONDS + SLACK
        self.ready = False

    def give(self, job: dict[str, Any]) -> None:
        self.job, self.until = job, time.monotonic() + job["seconds"] + SLACK
        wire.send(self.channel, job, 30)

    def end(self) -> None:
        """Close its socket, at which it ends by itself and takes its sandbox along; a stuck one is killed."""
        self.channel.close()
        if self.job is not None or not self.ready:
            self.process.send_signal(signal.SIGTERM)  # bubblewrap dies with it
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
            return
        self.process.kill()
        self.process.wait()


def run(
    jobs: Iterable[dict[str, Any]],
    workers: int,
    kind: str,
    on_result: Callable[[dict[str, Any], dict[str, Any]], None],
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Run jobs (see `autograder.run.oracle.grade`), and call ``on_result(job, record)`` for each in this process.

    A job whose worker dies twice gets ``{"failed": reason}``. ``on_tick`` is called about four times a second.

    Raises:
        SandboxError: a worker cannot have its sandbox.
    """
    waiting = deque((job, 1) for job in jobs)
    tries: dict[int, int] = {}
    pool = selectors.DefaultSelector()
    alive: dict[socket.socket, Worker] = {}

    def hire(number: int) -> None:
        worker = Worker(kind, number)
        alive[worker.channel] = worker
        pool.register(worker.channel, selectors.EVENT_READ)

    def dismiss(worker: Worker) -> None:
        pool.unregister(worker.channel)
        del alive[worker.channel]
        worker.end()

    def lost(worker: Worker, why: str) -> None:
        job = worker.job
        dismiss(worker)
        if job is not None:
            if tries[id(job)] < TRIES:
                waiting.appendleft((job, tries[id(job)] + 1))
            else:
                on_result(job, {"failed": why})
        if waiting:
            hire(worker.number)

    def feed(worker: Worker) -> None:
        worker.job = None
        if not waiting:
            return
        job, tried = waiting.popleft()
        tries[id(job)] = tried
        try:
            worker.give(job)
        except (wire.Closed, TimeoutError):
            lost(worker, "the worker died")
        except wire.WireError as error:
            worker.job = None
            on_result(job, {"failed": f"the notebook is too large: {error}"})
            feed(worker)

    try:
        for number in range(min(workers, len(waiting))):
            hire(number)
        while waiting or any(worker.job for worker in alive.values()):
            for key, _ in pool.select(0.25):
                worker = alive.get(key.fileobj)
                if worker is None:
                    continue
                try:
                    told = wire.receive(worker.channel, 60)
                except (wire.Closed, wire.WireError, TimeoutError) as error:
                    if not worker.ready:
                        raise SandboxError("a worker process ended before it was ready") from error
                    lost(worker, f"the grading process ended ({type(error).__name__})")
                    continue
                if "unable" in told:
                    if not worker.ready:
                        raise SandboxError(told["unable"])
                    lost(worker, told["unable"])
                elif not worker.ready:
                    worker.ready = True
                    feed(worker)
                else:
                    job = worker.job
                    feed(worker)  # first, so that it works while this process writes
                    on_result(job, told)
            for worker in list(alive.values()):
                if worker.job is not None and time.monotonic() > worker.until:
                    lost(worker, "no result in time; the grading process was stopped")
            on_tick()
    finally:
        for worker in list(alive.values()):
            dismiss(worker)
        pool.close()
