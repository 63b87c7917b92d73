"""Inside the sandbox: what a submission's processes take of the machine, as the warm process sees them in /proc.

It looks a few times a second. What is over a limit is for the caller to end; what only takes others' turn is made to
wait: beside more than a few busy tasks, all but the first process's first thread get the lowest priority.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

#: Tasks that may be busy at once at the priority they were started with.
MAX_BUSY = 4
#: Sockets a submission may have; and bytes that the kernel may hold for each, in no process's account.
MAX_SOCKETS, SOCKET_BYTES = 2_000, 400_000
#: Bytes of memory that the machine keeps available; below it, a submission that takes a good part of it is ended.
KEEP_FREE, GOOD_PART = 300_000_000, 2_000_000_000
TICKS = os.sysconf("SC_CLK_TCK")
#: Fields of /proc/PID/stat, from the state on.
STATE, PARENT, THREADS, CPU_TIMES = 0, 1, 17, slice(11, 15)

Stats = Mapping[int, list[str]]


def too_much(submission: int, most: int, seconds: float, nested: bool) -> str:
    """What a submission has taken too much of, or "".

    Args:
        submission: its first process.
        most, seconds: bytes of memory, and CPU seconds, that all its processes may take together.
        nested: it has a network of its own, whose sockets can be counted.
    """
    family = descendants()
    behind(submission, family)
    if sum(cpu(stat) for stat in family.values()) > seconds:
        return "processor time"
    count = sockets(submission) if nested else 0
    if count > MAX_SOCKETS:
        return "sockets"
    used = memory(list(family), most) + count * SOCKET_BYTES
    return "memory" if used > most or (used > GOOD_PART and available() < KEEP_FREE) else ""


def descendants() -> dict[int, list[str]]:
    """This process's descendants: for each, its /proc/PID/stat from the state on."""
    family = [os.getpid()]
    stats: dict[int, list[str]] = {}
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8") as file:
            stats[int(name)] = file.read().rpartition(")")[2].split()
            children.setdefault(int(stats[int(name)][PARENT]), []).append(int(name))
    for pid in family:
        family += children.get(pid, ())
    return {pid: stats[pid] for pid in family[1:]}


def children() -> list[int]:
    """This process's children."""
    with open("/proc/self/task/" + str(os.getpid()) + "/children", encoding="utf-8") as file:
        return [int(word) for word in file.read().split()]


def cpu(stat: list[str]) -> float:
    """CPU seconds of a process, and of its children that ended."""
    return sum(map(int, stat[CPU_TIMES])) / TICKS


def starved(submission: int) -> float:
    """Seconds that others took from a submission: for which its first process waited for a processor, less those that
    all its processes together had one."""
    from lora_ref.checks.clock import starved

    had = sum(map(cpu, descendants().values()))
    return max(0.0, (starved(str(submission)) or 0.0) - had)


def behind(submission: int, family: Stats) -> None:
    """Put a submission's processes and threads behind everybody else's, but its first, if many of them are busy."""
    busy = sum(int(stat[THREADS]) for stat in family.values() if stat[STATE] == "R" or int(stat[THREADS]) > MAX_BUSY)
    if busy <= MAX_BUSY:
        return
    for pid, stat in family.items():
        tasks = [pid]
        if int(stat[THREADS]) > 1:
            with contextlib.suppress(OSError):
                tasks = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
        for task in tasks:
            if task != submission:
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, task, 19)


def sockets(submission: int) -> int:
    """How many sockets there are in a submission's network."""
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open(f"/proc/{submission}/net/sockstat", encoding="utf-8") as file,
    ):
        return int(file.readline().split()[2])
    return 0


def available() -> int:
    """Bytes of memory that the machine could still give."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo", encoding="utf-8") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    return KEEP_FREE


def memory(family: list[int], enough: int) -> int:
    """Bytes that processes take; where a quick look says more than ``enough``, exactly."""
    total = 0
    for read in (unshared, proportional):  # a fork's pages that it shares with this process are counted in the first
        total = 0
        for pid in family:
            with contextlib.suppress(OSError, ValueError, StopIteration):
                total += read(pid)
        if total <= enough:
            break
    return total


def unshared(pid: int) -> int:
    """Its own pages and page tables, and shared memory that it has touched; what several share counts for each."""
    wanted = ("RssAnon:", "RssShmem:", "VmPTE:")
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return sum(1024 * int(line.split()[1]) for line in file if line.startswith(wanted))


def proportional(pid: int) -> int:
    """Its pages, each divided by the number of processes that have it."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("Pss:"))
