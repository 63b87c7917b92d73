"""Several worker processes, each with a sandbox; jobs go to whichever is free, and lost workers are replaced."""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from autograder.engine import cgroup, worker
from autograder.engine.inside import wire
from autograder.engine.sandbox import MODULES, SLACK, TRIES, WARM_SECONDS, Sandbox, SandboxError, Warm, fair_total

#: Most bytes of a job that is sent to a worker before it has finished the last one. They wait in a socket that holds
#: three times as many, so nobody waits to send.
AHEAD = 60_000
#: Seconds below which a job is short.
SHORT = 2.0


class Worker:
    """A fork of this process that runs `autograder.engine.worker`, and its jobs, of which the first is running."""

    def __init__(self, kind: str, number: int, control: socket.socket | None = None, modules: Sequence[str] = MODULES):
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
                status = worker.main(other, kind, number, control, modules)
            finally:
                os._exit(status)
        other.close()
        if control:
            control.close()
        self.jobs: deque[Waiting] = deque()
        self.until = time.monotonic() + WARM_SECONDS + SLACK
        self.ready = False

    def give(self, waiting: Waiting, frame: bytes) -> None:
        """Send a job (Closed, TimeoutError: it is not sent)."""
        wire.send_frame(self.channel, frame, 30)
        self.jobs.append(waiting)
        self.time_the_first()

    def time_the_first(self) -> None:
        if self.ready and self.jobs:
            self.until = time.monotonic() + self.jobs[0].job["seconds"] + SLACK

    def end(self) -> None:
        """Close its socket, at which it ends by itself; a busy or stuck one is killed, and its sandbox with it."""
        self.channel.close()
        until = time.monotonic() + 5
        while not self.jobs and self.ready and time.monotonic() < until:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Waiting:
    """A job that has no result yet, and how often a worker died under it."""

    def __init__(self, job: dict[str, Any]):
        self.job, self.deaths = job, 0


def run(
    jobs: Iterable[dict[str, Any]],
    workers: int,
    kind: str,
    on_result: Callable[[dict[str, Any], dict[str, Any]], None],
    on_tick: Callable[[], None] = lambda: None,
    warm: Warm | None = None,
) -> None:
    """Run jobs (see `autograder.engine.oracle.grade`), and call ``on_result(job, record)`` for each in this process.

    Jobs are taken from the iterable when a worker is free for them, and a small one before that. A job whose worker
    dies twice gets ``{"failed": reason}``. ``on_tick`` is called about four times a second, first when all workers have
    something to do.

    ``warm`` may have been started before; it is closed here.

    Raises:
        SandboxError: a worker cannot have its sandbox.
    """
    share = fair_total(workers)
    coming = ({**job, "memory": share} for job in jobs)
    waiting: deque[Waiting] = deque()
    pool = selectors.DefaultSelector()
    alive: dict[object, Worker] = {}  # by channel
    at_once = 1

    def more() -> bool:
        if not waiting:
            waiting.extend(Waiting(job) for job in itertools.islice(coming, 1))
        return bool(waiting)

    def hire(number: int, control: socket.socket | None = None) -> None:
        hired = Worker(kind, number, control, warm.modules if warm else MODULES)
        alive[hired.channel] = hired
        pool.register(hired.channel, selectors.EVENT_READ)
        feed(hired)

    def dismiss(worker: Worker) -> None:
        pool.unregister(worker.channel)
        del alive[worker.channel]
        worker.end()

    def lost(worker: Worker, why: str) -> None:
        dismiss(worker)
        if worker.jobs:
            worker.jobs[0].deaths += 1
            if worker.jobs[0].deaths >= TRIES:
                on_result(worker.jobs.popleft().job, {"failed": why})
        waiting.extendleft(reversed(worker.jobs))
        if more():
            hire(worker.number)

    def feed(worker: Worker) -> None:
        """Give it a job, and a small one for afterwards if jobs are short."""
        while len(worker.jobs) < at_once and more():
            try:
                frame = wire.encode(waiting[0].job)
                if (worker.jobs or not worker.ready) and len(frame) > AHEAD:
                    return
                worker.give(waiting[0], frame)
                waiting.popleft()
            except (wire.Closed, TimeoutError):
                lost(worker, "the worker died")
                return
            except wire.WireError as error:
                on_result(waiting.popleft().job, {"failed": f"the notebook is too large: {error}"})

    Sandbox.groups = Sandbox.groups or cgroup.probe()  # the workers inherit it
    try:
        if more():
            warm = warm or Warm(kind, 0, workers)
        for number, control in enumerate(list(warm.controls) if warm else ()):
            hire(number, control)
        at_once = 2
        for worker in list(alive.values()):
            feed(worker)
        while more() or any(worker.jobs for worker in alive.values()):
            on_tick()
            for key, _ in pool.select(0.25):
                if key.fileobj not in alive:
                    continue
                worker = alive[key.fileobj]
                try:
                    message = wire.receive(worker.channel, 60)
                except (wire.Closed, wire.WireError, TimeoutError) as error:
                    if not worker.ready:
                        raise SandboxError("a worker process ended before it was ready") from error
                    lost(worker, f"the grading process ended ({type(error).__name__})")
                    continue
                if "unable" in message:
                    if not worker.ready:
                        log = warm.log.read_text(errors="replace")[-1500:] if warm else ""
                        raise SandboxError(f"{message['unable']} {log}")
                    lost(worker, message["unable"])
                elif not worker.ready:
                    worker.ready = True
                    worker.time_the_first()
                    feed(worker)
                else:
                    job = worker.jobs.popleft().job
                    worker.time_the_first()
                    # a long job that waits for one worker while another is idle would cost more than it saves
                    at_once = 2 if message.get("seconds", 0) < SHORT else 1
                    feed(worker)  # first, so that it works while this process writes
                    on_result(job, message)
            for worker in list(alive.values()):
                if worker.jobs and time.monotonic() > worker.until:
                    lost(worker, "no result in time; the grading process was stopped")
        on_tick()
    finally:
        for worker in list(alive.values()):
            dismiss(worker)
        pool.close()
        if warm is not None:
            warm.close()
