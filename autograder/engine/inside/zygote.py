"""Inside the sandbox: a warm process that forks once for each submission. It holds no judge and sees no grade.

Started as ``python zygote.py FD,FD UID,UID NESTED MODULE,MODULE`` with control sockets; beside this file stand only
`orders`, `wire`, `shell`, `syscalls`, `watch` and `lora_ref`. Warm, it forks a copy for each control socket, which
obeys what comes over it, one submission at a time:

    start BYTES SECONDS (with a socket of the submission's own, and a door to its control group if it has one)
    interrupt | starved | kill

Each is answered. A submission whose processes together take more than BYTES of memory or SECONDS of processor time, or
too many sockets, is killed (see `watch`).

Each fork gets namespaces of its own (user, process ids, mounts, ipc, network), so that what runs in it can neither see
nor signal this process, and leaves nothing behind: when its first process ends, the kernel kills the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

gc.disable()  # imports make hardly any garbage; `orders.warm` enables it

import orders  # noqa: E402
import syscalls  # noqa: E402
import watch  # noqa: E402
import wire  # noqa: E402

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x08000000, 0x10000000, 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 24, 36, 38
#: Folders that a submission may write to, each a memory file system of its own: (path, bytes).
SCRATCH = {"/tmp": 200_000_000, "/box": 200_000_000, "/dev/shm": 64_000_000}

#: Seconds between two looks at what a submission takes.
WATCH = 0.2
#: ioctl(2)'s words for a network interface's flags, and the flag that it is up.
SIOCSIFFLAGS, IFF_UP = 0x8914, 1

libc = ctypes.CDLL(None, use_errno=True)


def main(controls: list[socket.socket], uids: list[int], nested: bool, modules: list[str]) -> None:
    """Get warm once, then obey each control socket in a copy, as a user of its own, until all are closed."""
    may_nest = [nested and _can_nest(uid) for uid in uids]  # while a fork costs little
    warmed = orders.warm(modules)
    for control, uid, nests in zip(controls, uids, may_nest, strict=True):
        if os.fork() == 0:
            for other in controls:
                if other is not control:
                    other.close()
            obey(warmed, control, uid, nests)
            os._exit(0)
    for control in controls:
        control.close()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0):
            pass


def obey(warmed: orders.Warmed, control: socket.socket, uid: int, nested: bool) -> None:
    """Obey a control socket until it closes."""
    if uid:
        become(uid)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wire.send(control, {"ready": True, "nested": nested, "threads": len(os.listdir("/proc/self/task"))})
    submission, most, seconds, over = 0, 0, 0, ""
    while True:
        try:
            ready, _, _ = select.select([control], [], [], WATCH if submission and not over else None)
            if not ready:
                over = watch.too_much(submission, most, seconds, nested)
                if over:
                    _kill_group(submission, nested)
                continue
            order, channel, door = _receive_order(control)
        except wire.Closed:
            _kill(submission, nested)
            break
        order, _, argument = order.partition(" ")
        if order == "start":
            if channel is None:
                continue
            (most, seconds), over = map(int, argument.split()), ""
            submission = _start(warmed, channel, control, nested, door)
            wire.send(control, {"started": submission})
        elif order == "interrupt":
            if submission:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(submission, signal.SIGINT)
            wire.send(control, {})
        elif order == "starved":
            wire.send(control, {"seconds": watch.starved(submission) if submission else 0.0})
        elif order == "kill":
            used = _kill(submission, nested)
            submission = 0
            wire.send(control, used | {"over": over})


def _receive_order(control: socket.socket) -> tuple[str, socket.socket | None, int]:
    """One word, and the socket and the descriptor that came with it (None and -1: none did)."""
    control.settimeout(None)
    try:
        data, ancillary, *_ = control.recvmsg(64, socket.CMSG_SPACE(8))
    except OSError as error:
        raise wire.Closed(str(error)) from None
    if not data:
        raise wire.Closed
    channel, door = None, -1
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            channel = socket.socket(fileno=int.from_bytes(payload[:4], sys.byteorder))
            door = int.from_bytes(payload[4:8], sys.byteorder) if len(payload) >= 8 else -1
    return data.decode().strip(), channel, door


def _start(warmed: orders.Warmed, channel: socket.socket, control: socket.socket, nested: bool, door: int = -1) -> int:
    """Fork; return the process id of the submission's first process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        channel.close()
        if door >= 0:
            os.close(door)
        written = os.read(reader, 32)
        os.close(reader)
        if not nested:
            return child
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        return int(written or b"0")
    try:
        os.close(reader)
        control.close()
        if door >= 0:
            os.write(door, b"0")  # what it starts from here on is counted there
            os.close(door)
        if nested:
            _own_namespaces()
            inner = os.fork()  # the first process of the new process-id namespace
            if inner:
                os.write(writer, str(inner).encode())
                os._exit(0)
            _own_folders()
            _drop_rights()
        else:
            os.setsid()
        os.close(writer)
        syscalls.refuse()
        orders.serve(*warmed, channel)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            wire.send(channel, {"broken": f"{type(error).__name__}: {error}"[:500]})
    finally:
        os._exit(0)


def _kill(submission: int, nested: bool) -> dict[str, Any]:
    """End the submission and everything it started; returns its use of the machine: CPU seconds, peak memory in KiB."""
    if submission:
        _kill_group(submission, nested)
    used, patience = {"cpu": 0.0, "peak_kib": 0}, 0 if submission and nested else os.WNOHANG
    while True:
        try:
            pid, _, usage = os.wait4(-1, patience)  # own namespace: its first process is reaped last of all
        except ChildProcessError:
            return used
        if pid:
            used["cpu"] += usage.ru_utime + usage.ru_stime
            used["peak_kib"] = max(used["peak_kib"], usage.ru_maxrss)
            patience = os.WNOHANG
            continue
        for orphan in watch.children():  # a subreaper inherits what a submission left running
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(orphan, signal.SIGKILL)
        time.sleep(0.001)


def _kill_group(submission: int, nested: bool) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(submission, signal.SIGKILL) if nested else os.killpg(submission, signal.SIGKILL)


# --- what a fork does before it runs anything -----------------------------------------------------------------------


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _own_namespaces() -> None:
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNET
    _check(libc.unshare(flags), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, contextlib.suppress(OSError):
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))  # 127.0.0.1, its own


def _own_folders() -> None:
    _check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount /")
    for path, size in SCRATCH.items():
        if not os.path.ismount(path):
            continue  # the sandbox left it out (`sandbox.scratch`)
        options = f"size={size},nr_inodes=20000,mode=0700".encode()
        _check(libc.mount(b"tmpfs", path.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options), f"mount {path}")
    # pseudo-terminals of its own: in those of the sandbox two submissions could talk
    options = b"newinstance,ptmxmode=0666,mode=0600"
    if os.path.isdir("/dev/pts") and libc.mount(b"devpts", b"/dev/pts", b"devpts", MS_NOSUID, options) != 0:
        _check(libc.mount(b"tmpfs", b"/dev/pts", b"tmpfs", MS_NOSUID, b"size=4096,mode=0555"), "mount /dev/pts")
    # the outer /proc shows the warm process; a fresh one is not always allowed, and then there is none
    if libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV, None) != 0:
        _check(libc.mount(b"tmpfs", b"/proc", b"tmpfs", MS_NOSUID | MS_NODEV, b"size=4096,mode=0555"), "mount /proc")
    os.chdir("/box")


def _drop_rights() -> None:
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    _check(libc.capset(head, (ctypes.c_uint32 * 6)()), "capset")
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _can_nest(uid: int) -> bool:
    """Try in a process of its own whether that user can have the namespaces."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if uid:
                become(uid)
            _own_namespaces()
            inner = os.fork()
            if inner == 0:
                _own_folders()
                _drop_rights()
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
        except BaseException as error:
            os.write(2, f"own namespaces: {error}\n".encode())
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def become(uid: int) -> None:
    """Leave root for a user id that owns nothing; capabilities go with it."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self belongs to root, and no namespace can be mapped


if __name__ == "__main__":
    # an editable install of the course would put the instructor's checkout on the path
    sys.path[:] = [p for p in sys.path if not os.path.isfile(os.path.join(p, "autograder", "__init__.py"))]
    sockets = [socket.socket(fileno=int(word)) for word in sys.argv[1].split(",")]
    uids = [int(word) for word in sys.argv[2].split(",")]
    main(sockets, uids, sys.argv[3] == "nested", sys.argv[4].split(","))
