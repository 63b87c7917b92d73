"""A control group of its own for each submission, where this process may make one: the kernel then counts, not we.

It takes version 2 of control groups and a group that was given to this process alone, such as
``systemd-run --user --scope -p Delegate=yes python -m autograder grade ...`` has. Groups are made below that one and
removed again; no other is touched. Where it cannot be had there is none, and `inside.watch` looks after a submission.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
#: What is limited in each group.
CONTROLLERS = ("cpu", "memory", "pids")
#: Every submission has the same share of the processors, however many processes it starts.
WEIGHT = 100


class Group:
    """One submission's group. `close` removes it.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: Path, memory: int, processes: int):
        self.path = path
        path.mkdir()
        for name, value in (("memory.max", memory), ("pids.max", processes), ("cpu.weight", WEIGHT)):
            if name.partition(".")[0] in CONTROLLERS:
                (path / name).write_text(str(value))
        for name, value in (("memory.swap.max", 0), ("memory.oom.group", 1)):  # not on every kernel
            with contextlib.suppress(OSError):
                (path / name).write_text(str(value))

    def door(self) -> int:
        """A descriptor with which whoever writes "0" to it enters the group: it has this process's right to."""
        return os.open(self.path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def over(self) -> str:
        """``"memory"`` if the kernel killed it for that, or ""."""
        with contextlib.suppress(OSError, ValueError):
            events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
            return "memory" if int(events.get("oom_kill", 0)) else ""
        return ""

    def close(self) -> None:
        """End what is still in it, and remove it."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")
        for _ in range(200):  # what is killed takes a moment to be gone
            try:
                return self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.005)


class Groups:
    """Makes groups below ``own``, which was given to this process.

    Attributes:
        own: the folder.
    """

    _numbers = itertools.count()

    def __init__(self, own: Path):
        self.own = own

    def new(self, memory: int, processes: int) -> Group | None:
        """A group with these limits, in bytes and processes; None if the kernel refuses it."""
        path = self.own / f"lora-{os.getpid()}-{next(self._numbers)}"
        try:
            return Group(path, memory, processes)
        except OSError:
            with contextlib.suppress(OSError):
                path.rmdir()
            return None


def probe() -> Groups | None:
    """Groups, if this process may make them; None otherwise.

    The group that this process is in must be version 2's, writable, with all of `CONTROLLERS`, and hold no process but
    this one and what it started. They move into a group beside the submissions', since one with groups below it may
    hold no process itself.
    """
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
        own = ROOT / lines[0].removeprefix("0::/") if len(lines) == 1 and lines[0].startswith("0::/") else None
        if own is None or own == ROOT or not os.access(own, os.W_OK):
            return None
        if own.name.startswith("lora-"):  # made by an earlier call: this process is in it
            return Groups(own.parent)
        if not set(CONTROLLERS) <= set((own / "cgroup.controllers").read_text().split()):
            return None
        leaf = own / f"lora-{os.getpid()}"
        if not all(map(_is_ours, _processes(own))):
            return None
        leaf.mkdir()
    except (OSError, ValueError):
        return None
    try:
        for _ in range(5):  # one may be started meanwhile
            for pid in _processes(own):
                (leaf / "cgroup.procs").write_text(str(pid))
        (own / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in CONTROLLERS))
        return Groups(own)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            for pid in _processes(leaf):
                (own / "cgroup.procs").write_text(str(pid))
            leaf.rmdir()
        return None


def _processes(group: Path) -> list[int]:
    return [int(word) for word in (group / "cgroup.procs").read_text().split()]


def _is_ours(pid: int) -> bool:
    """Whether a process is this one or was started by it, at whatever distance."""
    while pid > 1:
        if pid == os.getpid():
            return True
        stat = (PROC / str(pid) / "stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return False


def allowed_memory() -> int | None:
    """Bytes that the group of this process, a container's, may take together; None where nothing says so."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int((ROOT / name).read_text())
    return None
