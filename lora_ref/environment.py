"""What a notebook needs around it before its first import: folders it may write to, and the packages of the course.

Importing it takes nothing but Python's own library, so it runs where torch or anything else is still missing.
"""

from __future__ import annotations

import functools
import getpass
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ref import packages

if TYPE_CHECKING:
    from packaging.version import Version

__all__ = ["home", "install_missing", "make_usable", "prepare"]


def prepare(wheel: Path | None = None, version: Version | None = None, installed: Version | None = None) -> None:
    """End the set-up of a notebook: quiet libraries, usable folders, the course's packages; a line for what is unusual.

    Args:
        wheel: the newest wheel, or zip with a wheel, that the set-up found; None if there was none.
        version: the wheel's. It is in use if it is newer than what was installed.
        installed: the version that was installed before; None if there was none.

    Example:
        >>> from packaging.version import Version
        >>> changed = make_usable()
        >>> prepare(Path("lora-from-scratch-0.9.0.zip"), Version("0.9.0"), installed=Version("0.10.0"))
        lora_ref 0.10.0, which is installed, is newer than lora-from-scratch-0.9.0.zip, and stays
    """
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # a library's warning below a graded cell would cost its points
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    lines = make_usable()
    if wheel and version and (installed is None or version > installed):
        folder = str(Path(__file__).parents[1])
        # for what the notebook starts: another Python, `!python -m lora_ref doctor`
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        lines.append(f"lora_ref {version} from {wheel}")
        if installed:
            lines[-1] += f" replaces {installed} in this notebook; run all cells again if some ran before"
        lines += install_missing()
    elif wheel and version and installed and version < installed:
        lines.append(f"lora_ref {installed}, which is installed, is newer than {wheel}, and stays")
    for line in lines:
        print(line, flush=True)


def make_usable() -> list[str]:
    """Give this process a home and a user's name if it has none, and a cache folder if it cannot write to its own.

    Libraries look for these in the environment variables ``HOME``, ``USER``, ``XDG_CACHE_HOME`` and ``MPLCONFIGDIR``,
    so call it before you import them.

    Returns:
        A line if something was changed.

    Example:
        >>> changed = make_usable()
        >>> make_usable()  # now all is well
        []
    """
    try:
        getpass.getuser()
    except (ImportError, KeyError, OSError):  # no entry for this user: a container started with `--user 12345`
        os.environ["USER"] = "student"
    folder = _own_home()
    if folder is None:
        os.environ["USERPROFILE" if os.name == "nt" else "HOME"] = str(_stand_in())
        return [f"there is no home folder here, so caches go to {_stand_in()}"]
    cache, changed = Path(os.environ.get("XDG_CACHE_HOME") or folder / ".cache"), False
    if not _can_write(cache):
        if any((cache / "lora_ref").glob("*/*")):  # what was fetched when it could be written to
            os.environ.setdefault("LORA_CACHE", str(cache / "lora_ref"))
        os.environ["XDG_CACHE_HOME"] = str(_stand_in() / ".cache")
        changed = True
    if not os.environ.get("MPLCONFIGDIR") and not _can_write(folder / ".config" / "matplotlib"):
        os.environ["MPLCONFIGDIR"] = str(_stand_in() / ".config" / "matplotlib")
        changed = True
    return [f"{folder} cannot be written to, so caches go to {_stand_in()}"] if changed else []


def home() -> Path:
    """The user's home folder; where there is none, a temporary folder that stands in for it.

    Example:
        >>> home().is_dir()
        True
    """
    return _own_home() or _stand_in()


def _own_home() -> Path | None:
    try:
        folder = Path.home()
    except RuntimeError:  # neither HOME nor an entry for this user
        return None
    return folder if folder.is_absolute() and os.path.isdir(folder) else None


@functools.cache
def _stand_in() -> Path:
    """The same folder for every process of this user, so that what is fetched serves the next; nobody else's."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"lora-from-scratch-{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
        if os.name == "nt" or (state.st_uid == user and state.st_mode & 0o777 == 0o700 and not folder.is_symlink()):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="lora-from-scratch-"))


def _can_write(folder: Path) -> bool:
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    return os.access(there, os.W_OK | os.X_OK)


def install_missing() -> list[str]:
    """Install those of the course's packages that are missing, and change none of those that are here.

    Returns:
        Lines that say what was installed, what could not be, and what is here in a version the course does not allow.

    Example:
        >>> install_missing()  # everything is here
        []
    """
    wanted = packages.requirements()
    here = {name: version for name in wanted if (version := packages.version_of(name))}
    missing = [wanted[name] for name in wanted if name not in here and importlib.util.find_spec(name) is None]
    lines = [
        f"{name} {version} is here; the course is made for {wanted[name]}, so some cells may fail"
        for name, version in here.items()
        if not packages.within(wanted[name], version)
    ]
    if not missing:
        return lines
    kept = [f"{name}=={version}" for name, version in here.items()]
    if packages.version_of("pip"):
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--retries=1"]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--python", sys.executable]
    else:
        return [*lines, f"missing, and there is no pip to install it: {', '.join(missing)}"]
    done = subprocess.run([*command, "--quiet", *missing, *kept], capture_output=True, text=True, check=False)
    importlib.invalidate_caches()
    if done.returncode == 0:
        return [*lines, f"installed {', '.join(missing)}"]
    said = next((line for line in done.stderr.splitlines() if line.lower().startswith("error")), "no network?").strip()
    return [*lines, f"missing: {', '.join(missing)} ({said}); to install: {packages.pip_install(*missing)}"]
