"""`python -m autograder`, run in a fork of this process: it has imported already what the command would for seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autograder.__main__ import main
from lora_ref.files import print_anything


def run(
    arguments: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run a command to its end; the arguments are those of `Started`."""
    started = Started(arguments, cwd, env)
    texts = started.communicate()
    return subprocess.CompletedProcess(["autograder", *arguments], started.returncode, *texts)


class Started:
    """A command that runs, with what `subprocess.Popen` has.

    Args:
        arguments: what stands after ``python -m autograder``.
        cwd: the folder to run it in; by default this process's.
        env: all of its environment; by default this process's. What a module reads when it is imported is not new.
        first: what the fork calls before.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        first: Callable[[], object] = lambda: None,
    ):
        self.returncode: int | None = None
        self._files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115  # closed when they are read
        self._texts: list[str] = []
        self.pid = os.fork()
        if not self.pid:
            status = 70
            try:
                nothing = open(os.devnull, "rb")  # noqa: SIM115
                for descriptor, file in enumerate((nothing, *self._files)):
                    os.dup2(file.fileno(), descriptor)
                first()
                sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # as long as the process
                sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
                sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
                if cwd is not None:
                    os.chdir(cwd)
                if env is not None:
                    os.environ.clear()
                    os.environ.update(env)
                print_anything()
                status = main(list(map(str, arguments)))
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
                status = 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        return self._wait(os.WNOHANG)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for its end; what it wrote to stdout and to stderr."""
        self._wait(0)
        while self._files:
            with self._files.pop(0) as file:
                file.seek(0)
                self._texts.append(file.read().decode("utf-8", "replace"))
        return self._texts[0], self._texts[1]

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode
