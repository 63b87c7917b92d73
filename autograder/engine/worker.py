"""A grading process: takes jobs over a socket and returns records.

It holds the judges and drives a copy of the warm process. A hostile observation that made a judge hang or fall over
would cost this process, which the pool replaces.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence

from autograder.engine import oracle
from autograder.engine.inside import wire
from autograder.engine.sandbox import MODULES, Sandbox, SandboxError


def main(
    channel: socket.socket,
    kind: str,
    number: int,
    control: socket.socket | None,
    modules: Sequence[str] = MODULES,
) -> int:
    """Serve until the socket closes; ``control`` and ``modules`` as for `Sandbox`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pool's
    os.environ["OMP_NUM_THREADS"] = "1"
    if torch := sys.modules.get("torch"):  # judges' models are tiny, and all threads would wait for the slowest
        torch.set_num_threads(1)
    try:
        sandbox = Sandbox(kind, number, control, modules)
    except SandboxError as error:
        wire.send(channel, {"unable": str(error)})
        return 1
    gc.freeze()  # what the pool imported need not be looked through after each submission
    with sandbox:
        wire.send(channel, {"ready": True, "nested": sandbox.nested})
        while True:
            try:
                job = wire.receive(channel)
            except wire.Closed:
                return 0
            try:
                record = oracle.grade(job, sandbox)
            except SandboxError as error:
                wire.send(channel, {"unable": str(error)})
                return 1
            except Exception:  # a bug here must not cost the submission in silence
                record = {"failed": traceback.format_exc()[-2000:]}
            try:
                wire.send(channel, record)
            except wire.WireError as error:  # its submission alone is to pay for a record that cannot be sent
                wire.send(channel, {"failed": f"its record cannot be kept: {error}"[:500]})
            gc.collect()


if __name__ == "__main__":  # a Dask worker's; the pool forks its own
    sys.exit(main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3]), None))
