"""A submission's processes are bounded together: each alone may take what a notebook needs."""

from __future__ import annotations

import os
import sys
import time

import pytest

from autograder.engine import oracle
from autograder.engine.cgroup import Group, Groups
from autograder.engine.sandbox import Gone, Sandbox

FORKS = """
import os, time
for _ in range(12):
    if os.fork() == 0:
        held = bytearray({each})
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(600)
        os._exit(0)
time.sleep({seconds})
print("still here")
"""

#: Shared mappings of nothing outlive their place in a process: given back, they are in nobody's account.
SHARED = """
import mmap
def of_zero():
    with open("/dev/zero", "r+b") as file:
        return mmap.mmap(file.fileno(), 1_000_000)
for make in (lambda: mmap.mmap(-1, 1_000_000), of_zero):
    try:
        print("had", make())
    except (OSError, ValueError) as error:
        print("refused", error)
"""
#: What takes memory that is in no process's account, makes room for more, or leads out: arguments of libc's calls.
REFUSED = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
calls = {
    "memfd_create": (b"x", 0), "shmget": (0, 1 << 20, 0o1600), "msgget": (0, 0o1600), "semget": (0, 1, 0o1600),
    "inotify_init1": (0,), "unshare": (0x10000000,),
    "mount": (b"tmpfs", b"/tmp", b"tmpfs", 0, None), "ptrace": (0, 0, 0, 0),
    "klogctl": (3, None, 0), "socketpair": (30, 1, 0, None), "socket": (40, 1, 0),  # of a virtual machine and its host
}
for name, arguments in calls.items():
    result = getattr(libc, name)(*arguments)
    print(name, "refused" if result == -1 and ctypes.get_errno() in (errno.EPERM, errno.EAFNOSUPPORT) else result)
"""
#: What a notebook does all the time.
ALLOWED = """
import subprocess, sys, threading
threading.Thread(target=print, args=["thread"]).start()
print(subprocess.run([sys.executable, "-S", "-c", "print('process')"], capture_output=True, text=True).stdout)
import torch
half, brain = torch.ones(3).half(), torch.ones(2, 2).bfloat16()
print(half.float().sum().item(), (brain @ brain).sum().item())
print([int(x) for x in torch.utils.data.DataLoader(range(4), num_workers=2)])
"""


@pytest.fixture(scope="module")
def box(bubblewrap):
    with Sandbox("bwrap", modules=["torch"]) as made:
        yield made


def shown_by(box, source):
    session = oracle.Session(box, time.monotonic() + 600, cpu=4)
    outputs = session.ask({"do": "cell", "source": source}, 500)["outputs"]
    session.close()
    return "".join(one.get("text", str(one)) for one in outputs)


def test_a_traceback_does_not_say_where_the_grader_works(box):
    source = "import torch\ntorch.nn.Linear(3, 2)(torch.zeros(4))"
    session = oracle.Session(box, time.monotonic() + 600, cpu=4)
    (error,) = session.ask({"do": "cell", "source": source}, 500)["outputs"]
    session.close()
    told = "\n".join(error["traceback"])
    assert "site-packages/torch/nn/modules" in told
    assert sys.prefix not in told


def test_memory_that_outlives_its_mappings_is_refused(box, tmp_path, monkeypatch):
    (tmp_path / "door").write_text("")
    monkeypatch.setattr(Sandbox, "groups", Groups(tmp_path))  # a folder stands for the kernel's
    monkeypatch.setattr(Group, "door", lambda self: os.open(tmp_path / "door", os.O_WRONLY))
    told = shown_by(box, SHARED)
    assert (tmp_path / "door").read_text() == "0"  # it went into its control group before it ran anything
    assert [line.split()[0] for line in told.splitlines()] == ["refused"] * 2, told


SPINNING = """
import os
for _ in range({processes}):
    if os.fork() == 0:
        while True: pass
while True: pass
"""
SOCKETS = """
import os, socket, time
for _ in range(6):
    if os.fork() == 0:
        kept = [socket.socketpair() for _ in range(200)]
        time.sleep(600)
time.sleep(600)
"""


@pytest.mark.parametrize(("source", "what"), [(SOCKETS, "sockets"), (SPINNING.format(processes=20), "processor time")])
def test_what_is_in_no_process_s_account_is_counted(source, what, box):
    session = oracle.Session(box, time.monotonic() + 600, cpu=2)
    with pytest.raises(Gone):
        session.ask({"do": "cell", "source": source}, 500)
    session.close()
    assert session.over == what


def test_what_would_take_memory_from_elsewhere_is_refused(box):
    told = shown_by(box, REFUSED)
    assert [line.split()[1] for line in told.splitlines()] == ["refused"] * 11, told
    told = shown_by(box, ALLOWED)
    assert "thread" in told, told
    assert "process" in told, told
    assert "[0, 1, 2, 3]" in told, told
    assert "3.0 8.0" in told, told


@pytest.mark.parametrize("kind", ["bwrap", "none"])
def test_the_sum_of_many_processes(kind, bubblewrap):
    with Sandbox(kind, modules=["torch"]) as box:
        session = oracle.Session(box, time.monotonic() + 600, total=600_000_000)
        source = FORKS.format(each=100_000_000, seconds=200)
        with pytest.raises(Gone):
            session.ask({"do": "cell", "source": source}, 500)
        session.close()
        assert session.over == "memory"
        # what the processes share with the warm one counts once, and the next submission starts again
        session = oracle.Session(box, time.monotonic() + 600, total=600_000_000)
        shown = session.ask({"do": "cell", "source": FORKS.format(each=1_000_000, seconds=1)}, 500)["outputs"]
        session.close()
        assert "still here" in shown[0]["text"]
        assert session.over == ""
