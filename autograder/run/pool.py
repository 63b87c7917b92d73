"""Several worker processes, each with a sandbox; jobs go to whichever is free, and lost workers are replaced."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from autograder.run import wire, worker
from autograder.run.sandbox import WARM_SECONDS, SandboxError, Warm

#: How often a job is tried when its worker dies under it.
TRIES = 2
#: Seconds beyond a submission's own limit after which its worker is given up.
SLACK = 60.0


class Worker:
    """A fork of this process that runs `autograder.run.worker`, and what it is doing."""

    def __init__(self, kind: str, number: int, control: socket.socket | None = None):
        self.kind, self.number = kind, number
        self.channel, other = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                keep = {other.fileno(), control.fileno() if control else -1}
                for descriptor in set(map(int, os.listdir("/proc/self/fd"))) - keep - {0, 1, 2}:
                    with contextlib.suppress(OSError):
                        os.close(descriptor)  # above all other workers' sockets, whose closing must be heard
                status = worker.main(other, kind, number, control)
            finally:
                os._exit(status)
        other.close()
        if control:
            control.close()
        self.job: dict[str, Any] | None = None
        self.until = time.monotonic() + WARM_SECONDS + SLACK
        self.ready = False

    def give(self, job: dict[str, Any]) -> None:
        self.job, self.until = job, time.monotonic() + job["seconds"] + SLACK
        wire.send(self.channel, job, 30)

    def end(self) -> None:
        """Close its socket, at which it ends by itself; a busy or stuck one is killed, and its sandbox with it."""
        self.channel.close()
        until = time.monotonic() + 5
        while self.job is None and self.ready and time.monotonic() < until:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def run(
    jobs: Iterable[dict[str, Any]],
    workers: int,
    kind: str,
    on_result: Callable[[dict[str, Any], dict[str, Any]], None],
    on_tick: Callable[[], None] = lambda: None,
    warm: Warm | None = None,
) -> None:
    """Run jobs (see `autograder.run.oracle.grade`), and call ``on_result(job, record)`` for each in this process.

    A job whose worker dies twice gets ``{"failed": reason}``. ``on_tick`` is called about four times a second.

    ``warm`` may have been started before; it is closed here.

    Raises:
        SandboxError: a worker cannot have its sandbox.
    """
    waiting = deque((job, 1) for job in jobs)
    tries: dict[int, int] = {}
    pool = selectors.DefaultSelector()
    alive: dict[socket.socket, Worker] = {}

    def hire(number: int, control: socket.socket | None = None) -> None:
        hired = Worker(kind, number, control)
        alive[hired.channel] = hired
        pool.register(hired.channel, selectors.EVENT_READ)

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

    count = min(workers, len(waiting))
    warm = warm or (Warm(kind, 0, count) if count else None)
    try:
        if warm is not None:
            for number, control in enumerate(list(warm.controls)):
                hire(number, control)
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
                        log = warm.log.read_text(errors="replace")[-1500:] if warm else ""
                        raise SandboxError(f"{told['unable']} {log}")
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
        if warm is not None:
            warm.close()
