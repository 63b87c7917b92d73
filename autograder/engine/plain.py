"""A process of the caller's own for one submission, on any system: no sandbox, and nothing is kept from it.

It is a `autograder.engine.sandbox.Process` as `autograder.engine.sandbox.Sandbox` is, so that a file is judged by the
same code, cell for cell, whether a class is graded or one file is tried out.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from autograder.engine.inside import wire
from autograder.engine.sandbox import ROOT, WARM_SECONDS, SandboxError, environment
from lora_ref.checks.clock import starved

ALONE = Path(__file__).with_name("inside") / "alone.py"
#: Of a sandbox's environment, what any process may have that runs a notebook.
KEPT = ("LORA_PROFILE", "TRANSFORMERS_VERBOSITY", "TOKENIZERS_PARALLELISM", "MPLBACKEND", "PYTHONDONTWRITEBYTECODE")


class Plain:
    """Starts a process for each run of a submission. Use as a context manager.

    Args:
        modules: what it imports before the first cell.

    Raises:
        SandboxError: the process does not come up; the message has the end of what it wrote.
    """

    nested = False

    def __init__(self, modules: Sequence[str]):
        self.modules = modules
        self.process: subprocess.Popen | None = None
        self._started = 0.0
        self._folder = tempfile.TemporaryDirectory(prefix="check-", ignore_cleanup_errors=True)
        self._channel: socket.socket | None = self._boot()

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self, total: int = 0, cpu: int = 0) -> socket.socket:
        """The socket to a fresh process; its memory is not watched."""
        channel, self._channel = self._channel or self._boot(), None
        return channel

    def _boot(self) -> socket.socket:
        word, log = secrets.token_hex(16), Path(self._folder.name) / "log.txt"
        home = Path(tempfile.mkdtemp(dir=self._folder.name))
        variables = {name: value for name, value in environment().items() if name in KEPT}
        chosen = {"LORA_PROFILE": os.environ["LORA_PROFILE"]} if os.environ.get("LORA_PROFILE") else {}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        variables = {**os.environ, **variables, **chosen, "PYTHONPATH": path, "LORA_CHECK": word}
        with socket.create_server(("127.0.0.1", 0)) as server, open(log, "wb") as errors:
            self._started = time.time()
            self.process = subprocess.Popen(
                [sys.executable, "-B", str(ALONE), str(server.getsockname()[1]), ",".join(self.modules)],
                cwd=home,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            until = time.monotonic() + WARM_SECONDS
            server.settimeout(0.2)
            while time.monotonic() < until and self.process.poll() is None:
                with contextlib.suppress(TimeoutError, wire.Closed, wire.WireError, AttributeError):
                    channel, _ = server.accept()
                    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if wire.receive(channel, 30).get("word") == word:
                        return channel
        self.kill()
        raise SandboxError(f"the process did not start: {log.read_text(encoding='utf-8', errors='replace')[-1500:]}")

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in what the submission runs; Windows knows no such thing, and there it is ended."""
        if self.process is not None:
            with contextlib.suppress(OSError, ValueError):
                self.process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)

    def starved(self) -> float:
        """Seconds for which it had no processor, where the system tells."""
        return starved(str(self.process.pid)) or 0.0 if self.process is not None else 0.0

    def kill(self) -> dict[str, Any]:
        """End the process with everything it started."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        process, self.process = self.process, None
        if process is not None:
            end_all(process, self._started)
        return {}


def end_all(process: subprocess.Popen, started: float) -> None:
    """Kill a process that leads a session, and whatever it started.

    Windows has no sessions, but there a process keeps its parent's number, also when the parent has ended.

    Args:
        started: the time just before the process began: a number may have been another's before.
    """
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        running = [p.info for p in psutil.process_iter(["pid", "ppid", "create_time"])]
        later = [info for info in running if (info["create_time"] or 0) > started - 1]
        family = [process.pid]
        for parent in family:  # it grows on the way
            family += [i["pid"] for i in later if i["ppid"] == parent and i["pid"] not in family]
        killed = []
        for pid in family:
            with contextlib.suppress(psutil.Error):
                killed.append(psutil.Process(pid))
                killed[-1].kill()
        psutil.wait_procs(killed, timeout=10)  # until then their folder can't be removed
    process.wait()
