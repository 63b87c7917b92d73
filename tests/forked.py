"""`python -m autograder`, run in a fork of this process: it has imported already what the command would for seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from autograder.__main__ import main
from lora_ref.files import print_anything


def run(
    arguments: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run a command to its end.

    Args:
        arguments: what stands after ``python -m autograder``.
        cwd: the folder to run it in; by default this process's.
        env: all of its environment; by default this process's. What a module reads when it is imported is not new.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error, open(os.devnull, "rb") as nothing:
        child = os.fork()
        if not child:
            status = 70
            try:
                for descriptor, file in enumerate((nothing, out, error)):
                    os.dup2(file.fileno(), descriptor)
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
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return subprocess.CompletedProcess(["autograder", *arguments], status, *texts)
