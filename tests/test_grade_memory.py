"""A submission's processes are bounded together: each alone may take what a notebook needs."""

from __future__ import annotations

import time

import pytest

from autograder.run import oracle
from autograder.run.sandbox import Gone, Sandbox

FORKS = """
import os, time
for _ in range(12):
    if os.fork() == 0:
        held = bytearray({each})
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(60)
        os._exit(0)
time.sleep({seconds})
print("still here")
"""


@pytest.mark.parametrize("kind", ["bwrap", "none"])
def test_the_sum_of_many_processes(kind, bubblewrap):
    with Sandbox(kind, modules=["torch"]) as box:
        session = oracle.Session(box, time.monotonic() + 60, total=600_000_000)
        source = FORKS.format(each=100_000_000, seconds=20)
        with pytest.raises(Gone):
            session.ask({"do": "cell", "source": source}, 30)
        session.close()
        assert session.used["over"] == 1
        # what the processes share with the warm one counts once, and the next submission starts anew
        session = oracle.Session(box, time.monotonic() + 60, total=600_000_000)
        shown = session.ask({"do": "cell", "source": FORKS.format(each=1_000_000, seconds=1)}, 30)["outputs"]
        session.close()
        assert "still here" in shown[0]["text"]
        assert session.used["over"] == 0
