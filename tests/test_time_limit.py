"""Whose time it is: what a process computes and sleeps is its own, what others take from it is not."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lora_ref.checks import clock as clocks
from lora_ref.checks import probing
from lora_ref.checks.clock import Clock, starved
from lora_ref.checks.probing import observe
from lora_ref.checks.verdicts import Check, Fault, run_checks

needs_linux = pytest.mark.skipif(starved("self") is None, reason="only Linux says what waits for a processor")


def probe_call(names):
    return {"value": names.answer()}


def loop_forever():
    while True:
        pass


def sleep_forever():
    while True:
        time.sleep(0.02)


def seen_from(answer, seconds=0.5):
    return observe(probe_call, {"answer": answer}, {}, seconds=seconds)


def text_from(answer, seconds=0.5):
    return seen_from(answer, seconds)["error"]["text"]


def clock_over(seconds, looks):
    """When a clock is over that is looked at after each (time passed, computed, ready), and what it says."""
    now, clock = (0.0, 0.0, 0.0), Clock(seconds, probe_call.__code__)
    clock._last, clock._now = now, lambda: now
    for passed, computed, ready in looks:
        now = (now[0] + passed, now[1] + computed, None if ready is None else now[2] + ready)
        if not clock.wait(None):
            return now[0], clock.over
    return None


@pytest.mark.parametrize(
    ("look", "over"),
    [
        ((0.5, 0.5, 0.0), (10.0, "still running after 10 s of processor time")),
        ((0.5, 4.0, 0.0), (10.0, "still running after 10 s of processor time")),  # eight threads
        ((0.5, 0.0, 0.0), (10.0, "still running after 10 s, most of them asleep")),
        ((0.5, 0.25, 0.25), (20.0, "still running after 10 s of processor time")),  # half a processor
        ((0.5, 0.0, 0.5), (100.0, "still running after 100 s")),  # none at all
        ((0.5, 0.0, None), (100.0, "still running after 100 s")),  # asleep, where the system does not say
        ((0.5, 0.05, None), (100.0, "still running after 10 s of processor time")),
        ((30.0, 30.0, 0.0), (30.0, "still running after 10 s of processor time")),  # in C, which no look interrupts
    ],
)
def test_when_the_time_is_up(look, over):
    assert clock_over(10, [look] * 500) == over


def test_a_stopped_process_loses_nothing():
    """The lid of a laptop, a virtual machine that is moved: nobody looked at the clock."""
    assert clock_over(10, [(0.5, 0.1, 0.4), (3600.0, 0.0, 0.0), (0.5, 0.1, 0.4)]) is None


def elsewhere(monkeypatch):
    """As on Windows: no timer that sends signals, and nobody says what waits for a processor."""
    monkeypatch.delattr(signal, "setitimer", raising=False)
    monkeypatch.setattr(clocks, "starved", lambda task: None)


@pytest.mark.parametrize("there", ["here", "in a thread", "elsewhere"])
def test_a_loop_and_a_sleeper_end(there, monkeypatch):
    if there == "elsewhere":
        elsewhere(monkeypatch)
    texts = []

    def both():
        texts.extend([text_from(loop_forever), text_from(sleep_forever, 0.2)])

    if there == "in a thread":
        thread = threading.Thread(target=both)
        thread.start()
        thread.join()
    else:
        both()
    tells = there != "elsewhere" and starved("self") is not None
    asleep = "still running after 0.2 s, most of them asleep" if tells else "still running after 2 s"
    assert texts == ["still running after 0.5 s of processor time", asleep]


def test_who_waits_for_a_child_that_never_ends_is_stopped():
    children = []

    def answer():
        children.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        children[-1].wait()

    try:
        assert seen_from(answer)["error"]["type"] == "TimeLimit"
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_compiling_is_waited_for_as_importing_is():
    """torch.compile compiles at the first call, and not every machine does so in ten seconds."""
    compiler = os.path.join("site-packages", "torch", "_dynamo", "convert_frame.py")
    space = {"time": time}
    exec(compile("def first_call():\n    for _ in range(100): time.sleep(0.01)\n    return 7", compiler, "exec"), space)
    assert observe(probe_call, {"answer": space["first_call"]}, {}, seconds=0.2) == {"value": 7}


def test_what_hangs_once_is_asked_once_more():
    calls = []

    def answer():
        calls.append(1)
        return 7 if len(calls) > 1 else loop_forever()

    assert seen_from(answer) == {"value": 7}
    calls.clear()
    assert text_from(lambda: calls.append(1) or loop_forever()).startswith("still running")
    assert len(calls) == 2


def test_an_exercise_that_hangs_everywhere_costs_little_more_than_its_first_check(monkeypatch):
    limits = []

    class Written(Clock):
        def __init__(self, seconds, caller):
            super().__init__(seconds, caller)
            limits.append(seconds)

    monkeypatch.setattr(probing, "Clock", Written)
    monkeypatch.setattr(probing, "stand_ins", lambda probe, names, wanted: dict.fromkeys(wanted, int))
    carried = Check("9.1/x", "c", probe_call, lambda i, s: Fault("wrong"), builds_on=("helper",), seconds=0.5)
    checks = [carried, *[dataclasses.replace(carried, builds_on=())] * 3]
    verdicts = run_checks(checks, {"answer": loop_forever})
    assert limits == pytest.approx([0.5] * 2 + [0.05] * 8)
    assert all("still running after" in verdict.message for verdict in verdicts)


CHILD = """
import os, subprocess, sys, time
from lora_ref.checks.probing import observe

def compute():
    os.write(1, b"here\\n")
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    return 7

if sys.argv[1] == "starved":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
seen = observe(lambda names: {"value": names.answer()}, {"answer": compute}, {}, seconds=0.6)
if sys.argv[1] == "starved":
    for process in spinning:
        process.kill()
print(seen, flush=True)
"""


def child(how):
    return subprocess.Popen([sys.executable, "-c", CHILD, how], stdout=subprocess.PIPE, text=True)


@needs_linux
def test_neighbours_that_take_the_processor_cost_nothing():
    """A quarter of a processor: 0.3 seconds of computing take more than the 0.6 that are allowed."""
    out, _ = child("starved").communicate()
    assert out.split("\n")[-2] == "{'value': 7}"
    assert out.count("here") == 1  # at once, not because it was asked again


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no signal that stops a process")
def test_a_process_that_was_stopped_for_seconds_loses_nothing():
    process = child("stopped")
    assert process.stdout.readline() == "here\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2)  # far beyond its limit
    os.kill(process.pid, signal.SIGCONT)
    out, _ = process.communicate()
    assert out == "{'value': 7}\n"
