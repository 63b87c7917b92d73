"""Windows' rules on Linux: what the student's side is run under, in processes of its own, where there is no Windows.

A process that `environment` starts, and each Python that it starts in turn, has

- Windows' files: what is open or mapped into memory can't be removed, renamed or replaced; some names can't be given;
  links can't be made; text is written with CRLF and in cp1252 unless the code says otherwise;
- Windows' calls: for the course's own code and a student's, `os`, `signal` and others lack what Windows lacks, `fcntl`
  and its like can't be imported, and `sys.platform` is "win32". Libraries choose their way by what they find, and keep
  Linux's: they have their own tests on Windows.

What it can't show: drive letters and backslashes, how long Windows takes, and libraries' own faults there.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

#: Of a module, all that Windows has too; a name in capitals is looked for in the second list.
OS = """abc abort access altsep chdir chmod close closerange cpu_count curdir defpath device_encoding devnull dup dup2
environ error execl execle execlp execlpe execv execve execvp execvpe extsep fdopen fsdecode fsencode fspath fstat fsync
ftruncate get_exec_path get_inheritable get_terminal_size getcwd getcwdb getenv getlogin getpid getppid isatty kill
linesep link listdir lseek lstat makedirs mkdir name open pardir path pathsep pipe popen putenv read readlink remove
removedirs rename renames replace rmdir scandir sep set_inheritable spawnl spawnle spawnv spawnve st stat stat_result
statvfs_result strerror supports_bytes_environ supports_dir_fd supports_effective_ids supports_fd
supports_follow_symlinks symlink sys system terminal_size times times_result truncate umask uname_result unlink unsetenv
urandom utime waitpid waitstatus_to_exitcode walk write
DirEntry EX_OK F_OK GenericAlias Mapping MutableMapping O_APPEND O_CREAT O_EXCL O_RDONLY O_RDWR O_TRUNC O_WRONLY
P_NOWAIT P_NOWAITO P_WAIT PathLike R_OK SEEK_CUR SEEK_END SEEK_SET TMP_MAX W_OK X_OK"""
SIGNAL = """default_int_handler getsignal raise_signal set_wakeup_fd signal strsignal valid_signals
Handlers NSIG SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM SIG_DFL SIG_IGN Signals"""
#: Of a module, what Windows lacks.
LACKS = {
    "time": "tzset pthread_getcpuclockid clock_getres clock_gettime clock_gettime_ns clock_settime",
    "select": "poll epoll PIPE_BUF",
    "socket": "AF_UNIX SO_REUSEPORT send_fds recv_fds CMSG_LEN CMSG_SPACE",
}
NO_MODULES = {"curses", "fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment for a process under these rules; `folder` is empty, and must stay while such processes run."""
    from lora_ref.assets import cache_dir

    source = f"import runpy\nrunpy.run_path({str(Path(__file__).resolve())!r})['install']()\n"
    (folder / "sitecustomize.py").write_text(source, encoding="utf-8")
    paths = [str(folder), str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONIOENCODING": "cp1252",  # of what is piped or sent to a file
        "LORA_CACHE": str(cache_dir()),  # what is there already, instead of Windows' own place
    }
    return os.environ | settings | more


def allowed(path: str) -> bool:
    """Whether Windows has files of this name."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return not any(
        set(part) & set('<>:"|?*\\') or part[-1] in ". " or min(part) < " " or part.split(".")[0].lower() in DEVICES
        for part in parts
    )


def install() -> None:
    """Put the rules on this process, for as long as it lives."""
    _change_open()  # before any library keeps the other
    _hide_calls()
    _change_processes()
    sys.addaudithook(_file_rules)


# --- files ----------------------------------------------------------------------------------------------------------


class _Open:
    """`open` as on Windows: CRLF and cp1252 where the caller leaves them open. (An instance: no class binds it.)"""

    def __init__(self, original):
        self.original = original

    def __call__(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest, **more):
        if "b" not in mode and not str(file).startswith(("/proc/", "/sys/")):
            encoding = "cp1252" if encoding in (None, "locale") else encoding
            newline = "\r\n" if newline is None and "r" not in mode else newline
        return self.original(file, mode, buffering, encoding, errors, newline, *rest, **more)


def _change_open() -> None:
    import builtins
    import io

    builtins.open = io.open = _Open(io.open)


def _file_rules(event: str, arguments: tuple) -> None:
    """The audit hook: Python asks it before each of these, in whatever code."""
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, (str, bytes, os.PathLike)) and flags & (os.O_CREAT | os.O_TRUNC):
            _may_write(_absolute(path))
    elif event == "os.remove":
        caller = sys._getframe(1).f_code
        if caller.co_name in ("close", "cleanup") and caller.co_filename.endswith("tempfile.py"):
            return  # Windows removes a NamedTemporaryFile by itself, when the last handle is closed
        _must_be_free(_absolute(*arguments), 32, "The file is being used by another process")
    elif event == "os.rename":
        source, target, at_source, at_target = arguments
        _may_be_named(_absolute(target, at_target))
        _must_be_free(_absolute(source, at_source), 32, "The file is being used by another process")
        _must_be_free(_absolute(target, at_target), 5, "Access is denied")
    elif event == "os.mkdir":
        _may_be_named(_absolute(arguments[0], arguments[2]))
    elif event == "os.rmdir":
        _must_be_free(_absolute(*arguments), 32, "The file is being used by another process")
    elif event == "os.symlink":
        raise OSError(22, "[WinError 1314] A required privilege is not held by the client", _absolute(arguments[1]))


def _absolute(path, folder: int = -1) -> str:
    """Where a name is, its own last part not followed."""
    path = os.path.join(os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd(), os.fsdecode(path))
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _may_be_named(path: str) -> None:
    if not allowed(path) and not path.startswith(("/proc/", "/dev/", "/sys/")):
        raise OSError(22, "[WinError 123] The filename, directory name, or volume label syntax is incorrect", path)


def _may_write(path: str) -> None:
    _may_be_named(path)
    if path in _mapped(os.getpid()):
        raise OSError(22, "[WinError 1224] The file has a user-mapped section open", path)


def _must_be_free(path: str, number: int, why: str) -> None:
    held = set()
    for process in _family():
        held |= _mapped(process) | _opened(process)
    if path in held or any(name.startswith(f"{path}/") for name in held):
        raise PermissionError(13, f"[WinError {number}] {why}", path)


def _family() -> list[int]:
    """This process and those that it started."""
    family = [os.getpid()]
    for process in family:
        try:
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children", encoding="ascii") as file:
                    family += map(int, file.read().split())
        except OSError:  # it has ended
            continue
    return family


def _opened(process: int) -> set[str]:
    """Files that a process has open, and the folder it is in."""
    try:
        places = [f"/proc/{process}/fd/{name}" for name in os.listdir(f"/proc/{process}/fd")]
    except OSError:
        return set()
    found = set()
    for place in places:
        with contextlib.suppress(OSError):
            found.add(os.readlink(place))
    found = {name for name in found if not os.path.isdir(name)}  # a folder that is being listed goes all the same
    with contextlib.suppress(OSError):
        found.add(os.readlink(f"/proc/{process}/cwd"))
    return found


def _mapped(process: int) -> set[str]:
    try:
        with open(f"/proc/{process}/maps", encoding="utf-8", errors="surrogateescape") as file:
            return {parts[5].rstrip("\n") for parts in (line.split(None, 5) for line in file) if len(parts) == 6}
    except OSError:
        return set()


# --- calls ----------------------------------------------------------------------------------------------------------

LIBRARIES = ("<frozen", os.path.dirname(os.__file__), __file__)


def _from_a_library(depth: int) -> bool:
    name = sys._getframe(depth + 1).f_code.co_filename
    return name.startswith(LIBRARIES) or "site-packages" in name


def _hide_calls() -> None:
    import builtins
    import select
    import signal
    import socket
    import time

    hidden = {os: _other_than(os, OS), signal: _other_than(signal, SIGNAL), sys: set()}
    hidden |= {module: set(LACKS[module.__name__].split()) for module in (select, socket, time)}
    other = {os: {"name": "nt", "linesep": "\r\n"}, sys: {"platform": "win32"}}
    for module, names in hidden.items():
        here = {name: (vars(module)[name],) for name in names if name in vars(module)}
        _hide(module, here | {name: (vars(module)[name], there) for name, there in other.get(module, {}).items()})
    original = builtins.__import__

    def importing(name, *arguments, **more):
        if name.partition(".")[0] in NO_MODULES and not _from_a_library(1):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *arguments, **more)

    builtins.__import__ = importing


def _other_than(module, names: str) -> set[str]:
    return {name for name in vars(module) if not name.startswith("_")} - set(names.split())


def _hide(module, attributes: dict[str, tuple]) -> None:
    """Let libraries see each attribute's first value, and others the second, or nothing if there is none."""

    def missing(name: str):
        if name in attributes:
            first, *other = attributes[name]
            if _from_a_library(1):
                return first
            if other:
                return other[0]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    for name in attributes:
        delattr(module, name)
    module.__getattr__ = missing


def _change_processes() -> None:
    import multiprocessing.context
    import shutil
    import subprocess

    import safetensors

    shutil._use_fd_functions = False
    for method in ("fork", "forkserver"):
        multiprocessing.context._concrete_contexts.pop(method)
    multiprocessing.set_start_method("spawn")
    subprocess.CREATE_NEW_PROCESS_GROUP = 0x200
    start, serialize = subprocess.Popen.__init__, safetensors.serialize_file

    def starting(self, *arguments, **options):
        depth = 1
        while sys._getframe(depth).f_code.co_filename == subprocess.__file__:
            depth += 1
        if not _from_a_library(depth):
            if options.get("preexec_fn") or options.get("pass_fds"):
                raise ValueError("preexec_fn and pass_fds are not supported on Windows platforms")
            options["start_new_session"] = False  # Windows takes it, and does nothing
            options["creationflags"] = 0
        start(self, *arguments, **options)

    def writing(tensors, filename, *more, **options):
        _may_write(_absolute(filename))
        return serialize(tensors, filename, *more, **options)

    subprocess.Popen.__init__, safetensors.serialize_file = starting, writing
