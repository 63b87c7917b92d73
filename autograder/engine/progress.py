"""Grading as whoever started it sees it: a line that says how far it is, and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def stop_between() -> Iterator[Callable[[], None]]:
    """Ctrl-C takes effect where the function it gives is called, so that no result is half written; twice, at once."""
    interrupted = False

    def interrupt(*_: Any) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    def check() -> None:
        if interrupted:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


class Progress:
    """A line that says how far it is: done, rate, time left, failures."""

    def __init__(self, total: int, known: int):
        self.total, self.known, self.done, self.failures = total, known, 0, 0
        self.first = self.last = 0.0
        self.tty = sys.stderr.isatty()

    def add(self, failed: bool) -> None:
        """Count one more result."""
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.done += 1
        self.failures += failed
        if not self.tty and self.done % 25 == 0:
            print(self.text(), file=sys.stderr)

    def text(self) -> str:
        """The line."""
        # the first result marks the end of warming up; from there on the rate says what one more submission costs
        rate = (self.done - 1) / max(self.last - self.first, 1e-6) if self.done > 1 else 0.0
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate else "warming up"
        width = 24
        bar = "#" * (width * self.done // max(self.total, 1))
        return (
            f"[{bar:<{width}}] {self.done}/{self.total} graded, {60 * rate:.0f} a minute, {left}, "
            f"{self.failures} with failures, {self.known} not graded again"
        )

    def show(self) -> None:
        """On a terminal, draw it over the last one."""
        if self.tty:
            print(f"\r{self.text()}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave it there."""
        print(("\r" if self.tty else "") + self.text(), file=sys.stderr)
