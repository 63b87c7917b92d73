"""In the sandbox, too, a submission's time is its own: neighbours that take the processor cost it nothing."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time

import psutil
import pytest

from autograder.engine import oracle
from autograder.engine.sandbox import Sandbox
from autograder.exercises import exercise
from lora_ref.checks.clock import starved
from lora_ref.checks.verdicts import draw

pytestmark = pytest.mark.skipif(starved("self") is None, reason="only Linux says what waits for a processor")

#: `LoRALayer` takes 0.1 seconds of computing before it gives up: told as an error, if it may.
SLOW = """
import time

def compute(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

class LoRALayer:
    def __init__(self, *arguments, **options):
        compute(0.1)
        raise ValueError("computed to the end")
"""


@pytest.fixture
def crowded(bubblewrap):
    """A sandbox on one processor that four others want as well, of whom each gets as much as it does."""
    here, spinning = min(os.sched_getaffinity(0)), []
    with Sandbox("bwrap", modules=["torch", "lora_ref.checks.stage02.e1_layer"]) as box:
        try:
            for process in psutil.Process(box._warm.process.pid).children(recursive=True):
                os.sched_setaffinity(process.pid, {here})
            spin = f"import os\nos.sched_setaffinity(0, {{{here}}})\nwhile True: pass"
            spinning += [subprocess.Popen([sys.executable, "-c", spin], start_new_session=True) for _ in range(4)]
            yield box
        finally:
            for process in spinning:
                process.kill()
                process.wait()


def session(box):
    opened = oracle.Session(box, time.monotonic() + 600)
    opened.ask({"do": "cell", "source": SLOW}, 120)
    return opened


def test_a_slow_answer_is_heard_to_its_end(crowded, monkeypatch):
    checks = [dataclasses.replace(c, seconds=0.2) for c in exercise("2.1").hidden]
    monkeypatch.setattr(oracle, "GRACE", 0.1)  # what the grader waits beyond the limit
    opened = session(crowded)
    monkeypatch.setattr(oracle, "TRIES", 1)
    texts = {str(seen) for seen in opened.observe_all(checks[:1] * 3, {checks[0].id: draw(checks[0], 1)})}
    opened.close()
    assert all("computed to the end" in text for text in texts), texts


def test_a_cell_has_its_whole_time_and_no_more(crowded):
    opened = session(crowded)
    assert "late" not in opened.ask({"do": "cell", "source": "compute(0.5)"}, 1.5)
    answer = opened.ask({"do": "cell", "source": "while True: pass"}, 1)
    opened.close()
    assert answer["late"]
    assert opened.used["cpu"] > 0.5
