"""When a probe's time is up: when its process has used it, not while others have the processor."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import CodeType
from typing import Any

#: Seconds by which loading modules may delay the end of a probe.
LOADING = 60.0
#: Files in which modules are loaded, and in which torch.compile makes a function what it runs from then on.
LOADERS = ("<frozen importlib._bootstrap>", os.path.join("torch", "_dynamo", "convert_frame.py"))
#: Where the system does not tell a sleeper from one that waits for a processor, either has this many times the limit.
WALL = 10


class TimeLimit(BaseException):
    """Raised inside the student's code when its time is up; not an Exception, so ``except Exception`` lets it pass."""


def starved(task: str) -> float | None:
    """Seconds for which a thread was ready to run and had no processor; None where the system does not say.

    Args:
        task: its folder below /proc: ``"4711"`` for a process's first thread, ``"self/task/4712"`` for one's own.
    """
    try:
        with open(f"/proc/{task}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):  # not Linux, or a /proc that is not this process's
        return None


class Clock:
    """Says when the time of a probe in this thread is up.

    The time is used by what the process computes, all its threads together but never faster than time passes, and by
    what the thread sleeps. It is not used while the thread waits for a processor, nor while the whole process is
    stopped, when nobody looks at the clock.

    Torch and others import on first use: the first optimiser loads torch._dynamo, for seconds, and on a busy machine
    for many; and torch.compile compiles at the first call. An import that is cut in half leaves its modules broken for
    the whole process, so it is waited for; and its time is not the answer's, which is given its whole time once more.

    Args:
        seconds: the limit.
        caller: code of the function below which the student's frames begin.

    Attributes:
        look: seconds between two looks at it.
        over: what to say once the time is up; empty before.
    """

    def __init__(self, seconds: float, caller: CodeType):
        self.seconds, self.caller = seconds, caller
        self.look, self.over = max(seconds / 20, 0.005), ""
        self._task = f"self/task/{threading.get_native_id()}"
        self._again, self._loading = True, None
        self._start()

    def wait(self, frame: Any) -> float:
        """Seconds until the next look, with the frame that runs; 0 if the time is up."""
        self._add()
        if not self._used(self.seconds):
            return self.look
        outermost = None
        while frame is not None and frame.f_code is not self.caller:
            if frame.f_code.co_filename.endswith(LOADERS):
                outermost = frame
            frame = frame.f_back
        if outermost is not None and self._loading in (None, outermost) and not self._used(self.seconds + LOADING):
            self._loading = outermost
            return self.look
        if self._loading is not None and self._again:
            self._again, self._loading = False, None
            self._start()
            return self.look
        if self.computed + self.slept < self.seconds:
            self.over = f"still running after {WALL * self.seconds:g} s"
        elif self.computed >= self.slept:
            self.over = f"still running after {self.seconds:g} s of processor time"
        else:
            self.over = f"still running after {self.seconds:g} s, most of them asleep"
        return 0.0

    def _start(self) -> None:
        self.computed = self.slept = self.there = 0.0
        self._last = self._now()

    def _now(self) -> tuple[float, float, float | None]:
        return time.monotonic(), time.process_time(), starved(self._task)

    def _add(self) -> None:
        """Add what was used since the last look. A look that comes late finds time in which the process was stopped."""
        (wall, cpu, ready), self._last = self._last, self._now()
        passed = self._last[0] - wall
        computed = min(self._last[1] - cpu, passed)
        there = max(computed, min(passed, 2 * self.look))
        if ready is not None and self._last[2] is not None:
            self.slept += max(0.0, there - computed - (self._last[2] - ready))
        self.computed += computed
        self.there += there

    def _used(self, seconds: float) -> bool:
        return self.computed + self.slept >= seconds or self.there >= WALL * seconds


@contextlib.contextmanager
def time_limit(clock: Clock) -> Iterator[None]:
    """Raise `TimeLimit` in this thread when the clock's time is up, and again while the code swallows it.

    In the main thread of a POSIX system by a signal, which also interrupts sleeping; elsewhere by an asynchronous
    exception. Neither interrupts C code that never returns to Python, nor a loop of nothing but ``try`` and a bare
    ``except``: for those, a process must be killed from outside, as ``python -m autograder check`` does.
    """
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():

        def look(_signal: int, frame: Any) -> None:
            if wait := clock.wait(frame):
                signal.setitimer(signal.ITIMER_REAL, wait, 0.1)
                return
            raise TimeLimit

        before = signal.signal(signal.SIGALRM, look)
        try:
            signal.setitimer(signal.ITIMER_REAL, clock.look, 0.1)
            yield
        finally:
            stopped = False
            while not stopped:  # one more signal may be on its way
                with contextlib.suppress(TimeLimit):
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    signal.signal(signal.SIGALRM, before)
                    stopped = True
        return

    done, thread = threading.Event(), ctypes.c_ulong(threading.get_ident())

    def watch() -> None:
        wait = clock.look
        while not done.wait(wait):
            if wait := clock.wait(sys._current_frames().get(thread.value)):
                continue
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TimeLimit))
            wait = 0.1

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
