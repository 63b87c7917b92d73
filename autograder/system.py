"""``make system``: the programs that pip doesn't bring, where they are, and what goes without them.

It runs before there is an environment, so it imports nothing that pip would have to bring.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import invalidate_caches
from importlib.util import find_spec

from lora_ref.diagnosis import OLDEST_PYTHON

SECONDS = 60  # for a program to show that it runs, on a busy machine
#: Package manager -> who has it, and how it installs.
MANAGERS = {
    "apt-get": ("Debian, Ubuntu", "sudo apt-get install"),
    "dnf": ("Fedora", "sudo dnf install"),
    "pacman": ("Arch", "sudo pacman -S"),
    "brew": ("macOS", "brew install"),
}
USER_NAMESPACES = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


@dataclass(frozen=True)
class Program:
    """A program of the system's.

    Attributes:
        name: what people call it.
        commands: what it may be called on PATH, or where else it may lie.
        trial: arguments with which it shows that it works here.
        without: what is left out where it isn't there.
        broken: what is wrong when it is there and the trial fails.
        packages: package manager other than apt-get -> what it's called there.
        debian: names to try in turn with apt-get; Ubuntu's ``chromium-browser`` is not Debian's name.
        beside: what apt-get installs with it.
        linux: there is none for other systems.

    Example:
        >>> BUBBLEWRAP.commands
        ('bwrap',)
    """

    name: str
    commands: tuple[str, ...]
    trial: tuple[str, ...]
    without: str
    broken: str
    packages: dict[str, str] = field(hash=False)
    debian: tuple[str, ...]
    beside: tuple[str, ...] = ()
    linux: bool = False

    def possible(self) -> bool:
        """Whether this system could have it."""
        return not self.linux or sys.platform.startswith("linux")

    def path(self) -> str | None:
        """Where it is, or None."""
        return next(filter(None, map(shutil.which, self.commands)), None)

    def installed(self) -> bool:
        """Whether it is here, working or not."""
        return self.path() is not None

    def problem(self) -> str | None:
        """What is wrong with it here, in one line; None if it runs."""
        if not self.possible():
            return f"{self.name} needs Linux; this is {sys.platform}"
        path = self.path()
        if path is None:
            return f"{self.name} is missing: no {' or '.join(c for c in self.commands if '/' not in c)} on the PATH"
        try:
            done = subprocess.run([path, *self.trial], capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{self.broken}: {error}"
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            return f"{self.broken}: {said[-1] if said else f'{path} ended with status {done.returncode}'}"
        return None

    def remedy(self) -> str:
        """How to get it here: one line, or one for each system where this one's package manager is unknown."""
        if not self.possible():
            return "a Linux machine or container: docs/grading_in_a_container.md"
        if self.path() is None:
            packages = {"apt-get": " ".join((self.debian[0], *self.beside))} | self.packages
            ways = {name: f"{MANAGERS[name][1]} {package}" for name, package in packages.items()}
            here = [_allowed(line) for name, line in ways.items() if shutil.which(name)]
            return here[0] if here else ";  ".join(f"{MANAGERS[name][0]}: {line}" for name, line in ways.items())
        if self is not BUBBLEWRAP:
            return "start it by hand to see why. In a container, Ubuntu's snap does not run: take Google Chrome"
        if _text(USER_NAMESPACES) == "1":
            return _allowed(
                "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, which holds until the next start"
            )
        return "in a container, allow namespaces: docs/grading_in_a_container.md"


BUBBLEWRAP = Program(
    name="bubblewrap",
    commands=("bwrap",),
    trial=("--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "true"),
    without="the sandbox: its tests are skipped, the demo grades without it, and `grade` refuses to grade a class",
    broken="bubblewrap is installed but may not make namespaces here",
    packages={"dnf": "bubblewrap", "pacman": "bubblewrap"},
    debian=("bubblewrap",),
    linux=True,
)
CHROMIUM = Program(
    name="Chromium",
    commands=(
        *("chromium", "chromium-browser", "google-chrome", "chrome"),
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
    ),
    trial=("--version",),
    without="the browser: tests that work in Jupyter, or look at the site and at reports, are skipped",
    broken="Chromium is installed but does not run",
    packages={"dnf": "chromium", "pacman": "chromium", "brew": "--cask google-chrome"},
    debian=("chromium", "chromium-browser"),
    beside=("libatomic1",),  # of Playwright's own Node.js, which drives it; the smallest Debian has none
)
PROGRAMS = (BUBBLEWRAP, CHROMIUM)


def left_out(programs: Iterable[Program]) -> str:
    """One block: each program that doesn't run here, what goes without it, and how to get it; empty if all run."""
    blocks = []
    for program in programs:
        problem = program.problem()
        if problem:
            blocks.append(f"{problem}\n  left out   {program.without}\n  to get it  {program.remedy()}")
    return "\n".join(blocks)


def must_run(program: Program) -> bool:
    """Whether doing without it is a failure: with ``CI=true`` nothing is left out that this system could have."""
    return os.environ.get("CI", "").lower() in ("true", "1") and program.possible()


def main(arguments: list[str]) -> int:
    """Install what is missing, where that may be done, and say so; exit status 1 if something needed stays missing.

    Args:
        arguments: ``["venv"]`` for what ``python -m venv`` takes, which cannot be done without; none for `PROGRAMS`,
            without which there is only less (except with ``CI=true``).
    """
    if arguments == ["venv"]:
        return environments()
    for program in PROGRAMS:
        if program.possible() and not program.installed():
            install(program.debian, program.installed, program.beside)
    block = left_out(PROGRAMS)
    failing = [program.name for program in PROGRAMS if must_run(program) and program.problem()]
    if block:
        print(block, flush=True)
    if failing:
        print(f"CI=true: nothing may be left out, and {' and '.join(failing)} must run", flush=True)
    return int(bool(failing))


def environments() -> int:
    """See to it that this Python can make environments; Debian and Ubuntu keep a part of that in another package."""
    other = "use another Python: make PYTHON=/path/to/python3 ..."
    if sys.version_info < OLDEST_PYTHON:
        here, oldest = (".".join(map(str, version[:2])) for version in (sys.version_info, OLDEST_PYTHON))
        print(f"{sys.executable} is Python {here}, and the course needs {oldest} or newer: {other}", flush=True)
        return 1

    def able() -> bool:
        invalidate_caches()
        return find_spec("venv") is not None and find_spec("ensurepip") is not None

    package = f"python3.{sys.version_info[1]}-venv"
    if not able():
        install((package,), able)
    if able():
        return 0
    print(
        f"{sys.executable} cannot make an environment: it lacks the module ensurepip.\n"
        f"  Debian, Ubuntu: {_allowed('sudo apt-get install')} {package}\n"
        f"  or {other}",
        flush=True,
    )
    return 1


def install(packages: tuple[str, ...], done: Callable[[], bool], beside: tuple[str, ...] = ()) -> None:
    """Install the first of ``packages`` with which ``done()`` is true, where that takes no question to anybody."""
    rights = _rights()
    if rights is None:
        return
    apt = [*rights, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120"]
    for fresh in (False, True):  # a new machine has no lists of packages, and old lists name files that are gone
        if fresh:
            _run([*apt, "update"])  # one source of several may fail, and the package come from another
        for package in packages:
            if not fresh:
                print(f"apt-get install {package}", flush=True)
            output = _run([*apt, "install", "-y", "--no-install-recommends", *beside, package])
            if done():
                return
    print(output, flush=True)


def _rights() -> list[str] | None:
    """What goes before apt-get; None where there is no apt-get, or it would take a password."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    allowed = shutil.which("sudo") and not subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode
    return sudo if allowed else None


def _allowed(command: str) -> str:
    """The command as this user has to give it: root's machine may have no sudo."""
    return command.replace("sudo ", "", 1) if hasattr(os, "geteuid") and os.geteuid() == 0 else command


def _run(command: list[str]) -> str:
    """The end of what a command said."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return "\n".join(f"  {line}" for line in done.stdout.splitlines()[-5:])


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
