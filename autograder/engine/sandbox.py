"""Where submissions run: a bubblewrap sandbox around one warm process (`inside.zygote`), or, if asked for, none.

Inside there are the system's and Python's own files, read-only, `lora_ref`, and the files in `inside`. There is
no network, no environment variable of the caller, no judge, no gradebook and no other submission.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from autograder.engine import cgroup
from autograder.engine.inside import wire
from autograder.system import BUBBLEWRAP
from lora_ref.checks.numbering import module_names

ROOT = Path(__file__).resolve().parents[2]
#: What of this package enters the sandbox.
INSIDE = sorted(path for path in Path(__file__).with_name("inside").glob("*.py") if path.stem != "__init__")
SYSTEMS = {"win32": "Windows", "darwin": "macOS"}
UNPROTECTED = """\
--sandbox none: the submissions run with your own rights on this machine. Unprotected are
  files      everything that you may read or write: the gradebook, the judges, other submissions, your keys
  network    whatever this machine can reach
  processes  a submission can signal or trace the grader's and everybody's processes of your account
Limits on time, memory and file size still hold for each process. Use this for your own files, or in a container.
"""
#: Bytes of memory that all processes of a submission may take together.
TOTAL = 6_000_000_000
#: CPU seconds that all processes of a submission may use together.
CPU = 900
#: Share of the machine's memory that the submissions of all workers may take together, and the least that one needs.
SHARE, LEAST = 0.75, 1_500_000_000
#: Limits of each process inside (setrlimit): bytes of memory, CPU seconds, bytes of a file, open files, processes.
LIMITS = {"AS": 6_000_000_000, "CPU": 900, "FSIZE": 100_000_000, "NOFILE": 512, "NPROC": 128, "CORE": 0}
#: What a warm process imports where nobody says which stages it is for: what all five need.
MODULES: tuple[str, ...] = (
    *("matplotlib.pyplot", "pandas", "transformers:Trainer", "transformers:RobertaForSequenceClassification"),
    *(f"lora_ref.{name}" for name in ("checks.gaps", "data", "models", "plots", "training", "vision")),
    *module_names("lora_ref.checks").values(),
)
#: Seconds for the warm process to be ready: imports from a cold disk on a busy machine.
WARM_SECONDS = 180
#: Seconds for the warm process to obey, which takes it milliseconds: less only on a machine that is hardly its own.
ORDER_SECONDS = 60
#: How often a job is tried when its worker dies under it.
TRIES = 2
#: Seconds beyond a submission's own limit after which its worker is given up.
SLACK = 60.0
#: The user that submissions run as where the grader itself runs as root; worker n adds n.
FIRST_UID = 61_000
#: The same where all user ids may be had, of which no distribution gives these to anybody: `NUMBERS` for each process.
FIRST_OF_MANY, NUMBERS = 0x7000_0000, 5_000


def fair_total(workers: int) -> int:
    """Bytes of memory for a submission where ``workers`` of them run at once on this machine: at most `TOTAL`."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = min(machine, cgroup.allowed_memory() or machine)
    return min(TOTAL, max(LEAST, int(SHARE * machine / max(1, workers))))


#: What no submission may see, wherever it lies: the course, and what `keep_out` adds.
PRIVATE = [ROOT]


class SandboxError(RuntimeError):
    """The sandbox cannot be had; the message says what is missing and what to do."""


class Gone(Exception):
    """The submission's process ended, was stopped or talks nonsense."""


def not_here() -> str:
    """Why nothing is graded on another system than Linux, and what to do."""
    return (
        "grading runs submissions in a sandbox of Linux namespaces, and this is "
        f"{SYSTEMS.get(sys.platform, sys.platform)}: use {'WSL 2, ' if sys.platform == 'win32' else ''}a container "
        "(docs/grading_in_a_container.md), or plain `nbgrader autograde`, which has no sandbox"
    )


def require(kind: str) -> None:
    """Check that submissions can be graded here, and in this kind of sandbox.

    Raises:
        SandboxError: they cannot; the message says how to get what is missing.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxError(not_here())
    if kind == "none":
        return
    if kind == "user":
        if os.geteuid() != 0 or shutil.which("setpriv") is None:
            raise SandboxError("to run a submission as another user takes root and the command setpriv (util-linux)")
        return
    instead = "Or run on a machine or in a container that has it, or give --sandbox none and read what it prints."
    problem = BUBBLEWRAP.problem()
    if problem:
        raise SandboxError(f"{problem}\nTo get it: {BUBBLEWRAP.remedy()}\n{instead}")


def first_uid() -> int:
    """The first user id for this process's submissions.

    Two runs on one machine must not share one: a user's processes are counted together, and ended together.
    """
    with contextlib.suppress(OSError), open("/proc/self/uid_map") as file:
        if sum(int(line.split()[2]) for line in file) > 2**31:
            return FIRST_OF_MANY + NUMBERS * (os.getpid() % 10_000)
    return FIRST_UID


def scratch() -> list[str]:
    """Folders to write to: not /tmp where Python itself lies below it, which a file system mounted there would hide."""
    prefixes = [Path(sys.prefix), Path(sys.base_prefix)]
    return [f for f in ("/tmp", "/box", "/dev/shm") if not any(Path(f) in prefix.parents for prefix in prefixes)]


def keep_out(*paths: Path) -> None:
    """Keep what a run reads and writes from the sandboxes that are made from now on."""
    PRIVATE.extend(path.resolve() for path in paths)


def masks(shown: Sequence[str]) -> list[str]:
    """bubblewrap's arguments that hide `PRIVATE` where it lies below a folder that is shown.

    Raises:
        SandboxError: Python itself lies in it.
    """
    line: list[str] = []
    needed = [os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    needed += [os.path.dirname(os.path.realpath(sys.executable)), "/usr/bin", "/usr/lib"]
    hidden: list[Path] = []
    for private in sorted(set(PRIVATE)):
        again = [path for path in dict.fromkeys([sys.base_prefix, sys.prefix]) if private in Path(path).parents]
        bare = [path for path in needed if not any(Path(path).is_relative_to(os.path.realpath(a)) for a in again)]
        for folder in shown:
            real = Path(os.path.realpath(folder))
            if not private.is_relative_to(real) or any(private.is_relative_to(path) for path in hidden):
                continue
            if any(Path(path).is_relative_to(private) for path in bare):
                raise SandboxError(
                    f"{private} has in it what Python itself needs, so every submission could read it: move the "
                    "course, the submissions and --out to a folder of their own, outside of Python's"
                )
            place = str(Path(folder) / private.relative_to(real))
            if private.is_dir():
                line += ["--perms", "0555", "--tmpfs", place]
                line += [word for path in again for word in ("--ro-bind", path, path)]  # a course's own .venv
                line += ["--remount-ro", place]
                hidden += [] if again else [private]
            elif private.exists():
                line += ["--ro-bind", "/dev/null", place]
    return line


def environment() -> dict[str, str]:
    """The whole environment of a submission: nothing of the caller's."""
    return {
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), "/usr/bin", "/bin"]),
        "HOME": "/box",
        "TMPDIR": "/tmp" if "/tmp" in scratch() else "/box",
        "USER": "student",
        "LOGNAME": "student",
        "LANG": "C.UTF-8",
        "LORA_PROFILE": "tiny",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONDONTWRITEBYTECODE": "1",
        **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")},
    }


def command(uid: int) -> list[str]:
    """The bubblewrap command line, up to the program.

    As root the sandbox keeps the right to change to ``uid`` and nothing else, and the warm process uses it at once: as
    uid 0 it would be exempt from the limit on processes and could read whatever root may. Otherwise it is a user
    namespace of its own.
    """
    line = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    line += ["--cap-drop", "ALL"]
    if uid:
        line += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        line += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
    line += ["--ro-bind", "/usr", "/usr"]
    shown = ["/usr"]
    for folder in ("/lib", "/lib32", "/lib64", "/bin", "/sbin"):
        if os.path.islink(folder):
            line += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            line += ["--ro-bind", folder, folder]
            shown.append(folder)
    # the last one because torch looks what the processor can do before it converts to half precision
    for path in ("/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system/cpu"):
        line += ["--ro-bind-try", path, path]
    for path in dict.fromkeys([sys.base_prefix, sys.prefix]):
        if not path.startswith("/usr"):
            for parent in reversed(Path(path).parents[:-1]):  # else bubblewrap makes them for root alone
                line += ["--dir", str(parent)]
            line += ["--ro-bind", path, path]
            shown.append(path)
    line += masks(shown)
    line += ["--dir", "/course"]
    line += ["--ro-bind", str(ROOT / "lora_ref"), "/course/lora_ref"]
    for file in INSIDE:
        line += ["--ro-bind", str(file), f"/course/{file.name}"]
    line += ["--proc", "/proc", "--dev", "/dev"]
    line += ["--dev-bind", "/dev/null", "/dev/zero"]  # a shared mapping of it would be memory in no one's account
    for folder in scratch():
        line += ["--perms", "1777", "--tmpfs", folder]
    line += ["--remount-ro", "/", "--chdir", "/box", "--clearenv"]
    for name, value in environment().items():
        line += ["--setenv", name, value]
    return line


def as_user(uid: int) -> list[str]:
    """The command line, up to the program, that leaves root for a user who owns nothing and can become nobody else."""
    line = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--no-new-privs"]
    return [*line, "--inh-caps=-all", "--bounding-set=-all"]


def may_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN; root in a container often has not."""
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return bool(effective >> 21 & 1)


class Warm:
    """A sandbox with one warm process and a copy of it for each of ``count`` control sockets.

    ``modules`` are what it imports: see `autograder.engine.inside.zygote.warm`.

    Attributes:
        controls: the sockets; the copy says hello on its own when it is ready.
        modules: as given.
    """

    def __init__(self, kind: str, first: int = 0, count: int = 1, modules: Sequence[str] = MODULES):
        self.modules = modules
        uids = [first_uid() + n if kind != "none" and os.geteuid() == 0 else 0 for n in range(first, first + count)]
        self._uid = uids[0] if kind == "user" else 0
        self._folder = tempfile.TemporaryDirectory(prefix="grade-")
        self.log = Path(self._folder.name) / "zygote.log"
        pairs = [socket.socketpair() for _ in uids]
        self.controls = [mine for mine, _ in pairs]
        descriptors = [other.fileno() for _, other in pairs]
        program = [sys.executable, "-B"]
        # root that may not mount leaves root first and makes its namespaces as anybody does; kind "user" leaves it too
        leaves = as_user(uids[0]) if uids[0] and not (kind == "bwrap" and may_mount()) else []
        changes = [0 for _ in uids] if leaves else uids
        fields = ",".join(map(str, descriptors)), ",".join(map(str, changes))
        if kind == "bwrap":
            line = [*leaves, *command(changes[0]), *program, "/course/zygote.py", *fields, "nested", ",".join(modules)]
            variables, folder = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}, "/"
        else:
            zygote = str(self._plain_course() / "zygote.py")
            line = [*leaves, *program, zygote, *fields, "plain", ",".join(modules)]
            folder = str(Path(self._folder.name) / "home")
            os.mkdir(folder)
            if self._uid:
                self._let_in()
            variables = {**environment(), "HOME": folder, "TMPDIR": folder}
        with open(self.log, "wb") as errors:
            self.process = subprocess.Popen(
                line,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=variables,
                cwd=folder,
                start_new_session=True,
            )
        for _, other in pairs:
            other.close()

    def _plain_course(self) -> Path:
        """A folder with what the sandbox would show: `lora_ref` and `INSIDE`, and no hidden check on the path."""
        course = Path(self._folder.name) / "course"
        course.mkdir()
        (course / "lora_ref").symlink_to(ROOT / "lora_ref")
        for path in INSIDE:
            shutil.copy(path, course / path.name)
        return course

    def _let_in(self) -> None:
        """Let the other user read the course, in copies: the originals may lie where they cannot; give them a home."""
        folder = Path(self._folder.name)
        (folder / "course" / "lora_ref").unlink()
        shutil.copytree(ROOT / "lora_ref", folder / "course" / "lora_ref")
        for path in (folder / "course", *(folder / "course").rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        folder.chmod(0o711)
        os.chown(folder / "home", self._uid, self._uid)

    def close(self) -> None:
        """End everything in it and remove its folder; again does nothing."""
        if self.process.returncode is not None:
            return
        for control in self.controls:
            control.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, 9)
        if self._uid:  # whatever else runs as this user: there is no namespace that ends with it
            subprocess.run([*as_user(self._uid), "/bin/sh", "-c", "kill -9 -1"], check=False)
        self.process.wait()
        self._folder.cleanup()


class Process(Protocol):
    """Where one submission at a time runs: a `Sandbox`, or `autograder.engine.plain.Plain` without protection."""

    def start(self, total: int = ..., cpu: int = ...) -> socket.socket: ...

    def interrupt(self) -> None: ...

    def starved(self) -> float: ...

    def kill(self) -> dict[str, Any]: ...


class Sandbox:
    """One copy of a warm process, for one submission after the other.

    Use as a context manager. `start` begins a submission and returns the socket to it; `interrupt` and `kill`
    act on it.

    Args:
        kind: ``"bwrap"``, ``"none"``, or ``"user"``: what a container without namespaces allows, where a submission
            runs as a user who may read or signal nothing of root's. Its network and processes are the container's.
        number: of the worker; as root, each has a user id of its own.
        control: the control socket of a copy in a sandbox that several share; None makes a sandbox for this one alone.
        modules: what a sandbox made here imports before the first submission.

    Raises:
        SandboxError: the warm process does not come up; the message has the end of what it wrote.

    Attributes:
        groups: where submissions have control groups of their own; set before the workers fork.
    """

    groups: cgroup.Groups | None = None

    def __init__(
        self,
        kind: str = "bwrap",
        number: int = 0,
        control: socket.socket | None = None,
        modules: Sequence[str] = MODULES,
    ):
        self.kind, self.number, self.modules = kind, number, modules
        self._warm: Warm | None = None
        self._control = control
        self._fresh = False
        self._group: cgroup.Group | None = None
        if control is None:
            self._boot()
        else:
            self._hear(control, None)
            if kind == "bwrap" and not self.nested:  # then submissions of several workers could meet
                self._end()
                self._boot()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _boot(self) -> socket.socket:
        self._warm = Warm(self.kind, self.number, modules=self.modules)
        self._control = control = self._warm.controls[0]
        self._hear(control, self._warm.log)
        return control

    def _hear(self, control: socket.socket, log: Path | None) -> None:
        """Wait for the warm process's hello."""
        try:
            hello = wire.receive(control, WARM_SECONDS)
        except (wire.Closed, wire.WireError, TimeoutError) as error:
            output = log.read_text(errors="replace")[-1500:] if log else ""
            self._end()
            raise SandboxError(f"the warm process did not start ({type(error).__name__}): {output}") from None
        self.nested = bool(hello.get("nested"))
        self._fresh = True

    def start(self, total: int = TOTAL, cpu: int = CPU) -> socket.socket:
        """Fork for a submission; returns the socket to it.

        Args:
            total, cpu: bytes of memory and CPU seconds; it is killed if its processes together take more.

        Raises:
            SandboxError: the warm process is gone and does not come back.
        """
        control = self._control
        if control is None or (self.kind != "none" and not self.nested and not self._fresh):
            # without namespaces of its own a submission could have reached the warm process: take a new one
            self._end()
            control = self._boot()
        self._fresh = False
        mine, other = socket.socketpair()
        self._leave_group()
        self._group = self.groups.new(total, LIMITS["NPROC"]) if self.groups else None
        door: list[int] = []
        try:
            door = [self._group.door()] if self._group else []
            socket.send_fds(control, [b"start %d %d" % (total, cpu)], [other.fileno(), *door])
            if wire.receive(control, ORDER_SECONDS).get("started", 0) <= 0:
                raise wire.Closed
        except (OSError, wire.Closed, wire.WireError, TimeoutError):
            mine.close()
            self._end()
            raise SandboxError("the warm process is gone") from None
        finally:  # the warm process has its own
            other.close()
            for descriptor in door:
                os.close(descriptor)
        return mine

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in what the submission runs."""
        self._order(b"interrupt")

    def starved(self) -> float:
        """Seconds that others have taken from the submission since it began."""
        return float(self._order(b"starved").get("seconds", 0.0))

    def kill(self) -> dict[str, Any]:
        """End the submission with everything it started.

        Returns:
            ``cpu`` seconds, ``peak_kib``, and ``over`` (of what it took so much that it was killed, or ""), where they
            are known.
        """
        used = self._order(b"kill")
        if self._group is not None:
            used["over"] = self._group.over() or used.get("over", "")
        self._leave_group()
        return used

    def _leave_group(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None

    def _order(self, order: bytes) -> dict[str, Any]:
        """The warm process's answer to a word; empty if it is gone, or takes so long that it is given up."""
        control = self._control
        try:
            if control is None:
                raise wire.Closed
            control.sendall(order)
            return wire.receive(control, ORDER_SECONDS)
        except (OSError, wire.Closed, wire.WireError, TimeoutError):
            self._end()
            return {}

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()  # at which a copy in a shared sandbox ends
            self._control = None
        if self._warm is not None:
            self._warm.close()
            self._warm = None
        self._leave_group()

    def close(self) -> None:
        """End everything."""
        self._end()
