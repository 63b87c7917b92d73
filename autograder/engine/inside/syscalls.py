"""Inside the sandbox: calls to the kernel that no notebook needs, refused for a submission and all that it starts.

They are those with which a process takes memory that is in no process's account (`memfd_create`, shared mappings of
nothing, System V's shared memory, semaphores and queues); hears of or locks files that other submissions read as well
(inotify, leases; `flock` and record locks say that they are done and do nothing, as each submission is alone); opens
sockets of a kind that network namespaces do not keep apart (a virtual machine's to its host, for one); makes further
namespaces or mounts in which limits are its own to set; or reaches the parts of the kernel in which holes have been
found most. Containers refuse most of them for the same reasons (seccomp(2), bpf(4)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
#: Machine -> its number in the kernel's audit.h, and the place of its numbers below.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
#: What is refused, with its number on each machine.
REFUSED = {
    # memory that no process accounts for
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "userfaultfd": (323, 282),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "io_setup": (206, 0),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    # files that others read too
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    # the rest of the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "ptrace": (101, 117),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "syslog": (103, 116),
}
#: Of one machine alone: older forms of the above.
OLDER = {"x86_64": {"inotify_init": 253}, "aarch64": {}}
#: Locks: of whole files, and what fcntl(2) does: 0 answers them without doing them, 1 refuses.
FLOCK, FCNTL = (73, 32), (72, 25)
COMMANDS = {"F_SETLK": (6, 0), "F_SETLKW": (7, 0), "F_OFD_SETLK": (37, 0), "F_OFD_SETLKW": (38, 0)}
COMMANDS |= {"F_GETLK": (5, 1), "F_OFD_GETLK": (36, 1), "F_SETLEASE": (1024, 1), "F_NOTIFY": (1026, 1)}
#: mmap(2), and the flags that together ask for memory that outlives its mappings in a process.
MMAP, SHARED, ANONYMOUS = (9, 222), 0x01, 0x20
#: socket(2) and socketpair(2), and the families of which each namespace has its own: Unix, IPv4, IPv6, netlink.
SOCKETS, FAMILIES = ((41, 198), (53, 199)), (1, 2, 10, 16)
CLONE, CLONE3 = (56, 220), (435, 435)
#: Flags of clone(2) that ask for a namespace: mounts, control groups, names, ipc, users, process ids, network.
NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # the few instructions that are used
#: Offsets in struct seccomp_data.
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT, FOURTH_ARGUMENT = 0, 4, 16, 24, 40
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def program(machine: str) -> bytes:
    """The filter for a machine, as instructions of (code, jump if true, jump if false, number)."""
    architecture, place = MACHINES[machine]
    lines = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    lines += [(LOAD, 0, 0, NUMBER)]
    # another way of calling with numbers of its own (x32)
    lines += [(AT_LEAST, 0, 1, 0x4000_0000), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    for number in [*(numbers[place] for numbers in REFUSED.values()), *OLDER[machine].values()]:
        lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    lines += [(EQUAL, 0, 1, FLOCK[place]), (RETURN, 0, 0, REFUSE)]  # an error of the number 0 is success
    lines += [(EQUAL, 0, 2 + 2 * len(COMMANDS), FCNTL[place]), (LOAD, 0, 0, SECOND_ARGUMENT)]
    for command, refused in COMMANDS.values():
        lines += [(EQUAL, 0, 1, command), (RETURN, 0, 0, REFUSE | (errno.EPERM if refused else 0))]
    lines += [(RETURN, 0, 0, ALLOW)]
    lines += [(EQUAL, 0, 5, MMAP[place]), (LOAD, 0, 0, FOURTH_ARGUMENT), (ANY_BIT, 0, 2, SHARED)]
    lines += [(ANY_BIT, 0, 1, ANONYMOUS), (RETURN, 0, 0, REFUSE | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    for numbers in SOCKETS:
        lines += [(EQUAL, 0, 3 + len(FAMILIES), numbers[place]), (LOAD, 0, 0, FIRST_ARGUMENT)]
        lines += [(EQUAL, len(FAMILIES) - n, 0, family) for n, family in enumerate(FAMILIES)]
        lines += [(RETURN, 0, 0, REFUSE | errno.EAFNOSUPPORT), (RETURN, 0, 0, ALLOW)]
    # clone3's flags lie in memory, where a filter cannot look; where it is not there, libc takes clone
    lines += [(EQUAL, 0, 1, CLONE3[place]), (RETURN, 0, 0, REFUSE | errno.ENOSYS)]
    lines += [(EQUAL, 0, 3, CLONE[place]), (LOAD, 0, 0, FIRST_ARGUMENT), (ANY_BIT, 0, 1, NEW)]
    lines += [(RETURN, 0, 0, REFUSE | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def refuse() -> None:
    """Put the filter before this process, for good; nothing where the system or the machine has none."""
    machine = os.uname().machine
    if not sys.platform.startswith("linux") or machine not in MACHINES or sys.maxsize < 2**32:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    code = program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head, 0, 0)
