"""Inside the sandbox: run a notebook's cells in an IPython shell and keep what they show, within bounds.

What comes out is what the student's process says it showed; nothing here decides a grade.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import getpass
import importlib
import pdb
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import IPython.display
from IPython import core
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.text import SList
from traitlets.config import Config
from wire import MIME_TYPES

#: Caps for one cell: characters of text, characters of pictures (base64), number of outputs.
MAX_TEXT = 100_000
MAX_PICTURES = 3_000_000
MAX_OUTPUTS = 200


class Outputs:
    """The outputs of one cell in nbformat's form, bounded."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.text, self.pictures = MAX_TEXT, MAX_PICTURES

    def stream(self, text: str) -> None:
        if self.text <= 0:
            return
        text = text[: self.text]
        self.text -= len(text)
        if self.text <= 0:
            text += "\n[more text was cut off]\n"
        last = self.items[-1] if self.items else {}
        if last.get("output_type") == "stream":
            last["text"] += text
        else:
            self._add({"output_type": "stream", "name": "stdout", "text": text})

    def data(self, bundle: dict[str, Any], count: int | None = None) -> None:
        kept = {}
        for mime in MIME_TYPES:
            value = bundle.get(mime)
            if not isinstance(value, str):
                continue
            if mime.startswith("image/"):
                self.pictures -= len(value)
                if self.pictures >= 0:
                    kept[mime] = value
            elif self.text > 0:
                kept[mime] = value[: self.text]
                self.text -= len(kept[mime])
        if not kept:
            return
        item: dict[str, Any] = {"data": kept, "metadata": {}}
        if count is None:
            self._add({"output_type": "display_data", **item})
        else:
            self._add({"output_type": "execute_result", "execution_count": count, **item})

    def error(self, kind: str, text: str, traceback: list[str]) -> None:
        lines = [line[:2000] for line in traceback[-20:]]
        text = plain_text(text)[:2000]
        self._add({"output_type": "error", "ename": kind[:200], "evalue": text, "traceback": lines})

    def _add(self, item: dict[str, Any]) -> None:
        if len(self.items) < MAX_OUTPUTS:
            self.items.append(item)


class _Stream:
    """Stands for sys.stdout; stderr goes nowhere, as under the course's nbgrader settings."""

    encoding, errors, closed = "utf-8", "replace", False

    def __init__(self, outputs: Outputs | None):
        self.outputs = outputs
        self.number, self.name = (2, "<stderr>") if outputs is None else (1, "<stdout>")

    def write(self, text: str) -> int:
        if self.outputs is not None:
            self.outputs.stream(str(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def reconfigure(self, **_: Any) -> None:
        pass

    def fileno(self) -> int:
        return self.number  # a kernel's streams have one; here nobody reads it


class _Publisher(DisplayPublisher):
    """Keeps what is displayed."""

    outputs: Outputs

    def publish(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        self.outputs.data(data)

    def clear_output(self, wait: bool = False) -> None:
        self.outputs.clear()


class _Hook(DisplayHook):
    """Keeps a cell's last value."""

    outputs: Outputs

    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: dict[str, Any], md_dict: Any = None) -> None:
        self.outputs.data(format_dict, 1)  # the grader numbers the cells

    def finish_displayhook(self) -> None:
        pass


#: Magics that need a person, a window, a network or a kernel that was used before, or would change the machine.
PASSED_OVER = {
    *("pip", "conda", "mamba", "micromamba", "uv", "gui", "debug", "pdb", "edit", "ed", "load_ext", "reload_ext"),
    *("connect_info", "qtconsole", "notebook", "history", "logstart", "page", "pastebin", "man", "less", "more"),
    "reset",  # above the imports it empties a kernel, and here it would empty the set-up that runs before it
}
#: Programs that change the machine or wait for a network.
INSTALLERS = re.compile(
    r"\s*(?:sudo\s+)?(?:[\w./-]*python[\d.]*\s+-m\s+)?(?:pip[\d.]*|conda|mamba|uv|apt(?:-get)?|brew)\b"
)
#: Cell magics whose cell is a shell's; one is Colab's.
SHELLS = {"bash", "sh", "shell", "system", "sx", "!"}
#: Seconds that a program of a ``!`` line may take.
PROGRAM_SECONDS = 20


def nobody_answers(prompt: Any = "", *_: Any, **__: Any) -> NoReturn:
    """Stands for ``input`` and ``getpass``."""
    raise EOFError(f"input({str(prompt)[:80]!r}) has nobody to answer it in grading: write the value into the code")


def passed_over(*_: Any, **__: Any) -> None:
    """Stands for what is set once in a process, or only says how pictures are drawn."""


def no_windows() -> None:
    """Make ``matplotlib.use("TkAgg")`` no error where there is no window: pictures are shown inline."""
    with contextlib.suppress(ImportError):
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
        switch = pyplot.switch_backend

        def switch_backend(backend: Any) -> None:
            with contextlib.suppress(ImportError):
                switch(backend)

        pyplot.switch_backend = switch_backend


def no_debugger(*_: Any, **__: Any) -> None:
    """Stands for ``breakpoint`` and ``pdb.set_trace``, which a student left in an answer: it goes on."""


#: Where older IPythons have what notebooks still import from there.
OF_OLD = (
    *((core.display, name, getattr(IPython.display, name)) for name in ("display", "clear_output")),
    *((IPython.display, f"set_matplotlib_{what}", passed_over) for what in ("formats", "close")),
)


class Shell(InteractiveShell):
    """An IPython shell without history, colours or a terminal, which does with a notebook's lines what a kernel does.

    What only helps an author at work (``%pip``, ``!apt-get``, ``%load_ext``, ``%gui``, a magic that is not installed)
    is passed over with a line that says so: it must not take the code below it along.
    """

    outputs: Outputs

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        try:
            text = str(evalue)
        except BaseException:
            text = ""
        self.outputs.error(getattr(etype, "__name__", str(etype)), text, [plain_text(line) for line in stb])

    def enable_gui(self, gui: Any = None) -> None:
        """No window, so no event loop."""

    def enable_matplotlib(self, gui: str | None = None) -> tuple[str | None, str]:
        """Pictures are shown inline, whatever is asked for."""
        return super().enable_matplotlib("inline")

    def enable_pylab(self, gui: Any = None, import_all: bool = True, **_: Any) -> Any:
        """`%pylab` without what would hide Python's own `sum`, `max` and others from answers."""
        done = super().enable_pylab(gui, import_all=import_all)
        for name in [name for name in self.user_ns if hasattr(builtins, name) and not name.startswith("_")]:
            del self.user_ns[name]
        return done

    def ask_exit(self) -> None:
        """``exit`` in a cell: the cells below run all the same."""

    def run_line_magic(self, magic_name: str, line: str, _stack_depth: int = 1) -> Any:
        """A line magic as in a kernel; one that is passed over or fails ends no cell."""
        if magic_name == "load_ext" and line.split()[:1] in (["autoreload"], ["storemagic"]):
            return super().run_line_magic(magic_name, line, _stack_depth + 1)
        if magic_name in PASSED_OVER:
            return print(f"[%{magic_name} is passed over in grading]")
        try:
            return super().run_line_magic(magic_name, line, _stack_depth + 1)
        except (Exception, SystemExit) as error:
            return print(f"[%{magic_name} is passed over in grading: {type(error).__name__}: {str(error)[:200]}]")

    def magic(self, arg_s: str) -> Any:
        """What older IPython calls `run_line_magic`."""
        name, _, line = arg_s.lstrip("%").partition(" ")
        return self.run_line_magic(name, line)

    def run_cell_magic(self, magic_name: str, line: str, cell: str) -> Any:
        """A cell magic as in a kernel; below one that is not installed, Python runs as it is."""
        if magic_name in SHELLS:
            kept = "\n".join(line for line in cell.splitlines() if not INSTALLERS.match(line))
            return print(program(kept)[0], end="")
        try:
            if self.find_cell_magic(magic_name) is not None:
                return super().run_cell_magic(magic_name, line, cell)
        except (Exception, SystemExit) as error:
            return print(f"[%%{magic_name} is passed over in grading: {type(error).__name__}: {str(error)[:200]}]")
        print(f"[%%{magic_name} is not there in grading]")
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            ast.parse(self.transform_cell(cell))
            self.run_cell(cell)
        return None

    def system(self, cmd: str) -> None:
        """A ``!`` line: what it prints is shown, for a bounded time; nothing is installed."""
        print(self.getoutput(cmd, split=False, depth=1), end="")

    system_piped = system_raw = system

    def getoutput(self, cmd: str, split: bool = True, depth: int = 0) -> Any:
        """What a program prints, as ``x = !ls`` wants it."""
        cmd = self.var_expand(cmd, depth=depth + 1)
        if INSTALLERS.match(cmd):
            text, status = f"[passed over in grading: {cmd.strip()[:80]}]\n", 0
        else:
            text, status = program(cmd)
        self.user_ns["_exit_code"] = status
        return SList(text.splitlines()) if split else text


def program(command: str) -> tuple[str, int]:
    """What a shell's command prints, and its status."""
    try:
        done = subprocess.run(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROGRAM_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"[stopped after {PROGRAM_SECONDS} s: {command[:80]}]\n", 1
    except OSError as error:
        return f"[{error}]\n", 1
    return done.stdout[:MAX_TEXT].decode("utf-8", "replace"), done.returncode


def plain_text(line: Any) -> str:
    """A line without terminal colours, and without where the grader's machine has its Python."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(line))
    return text if sys.prefix == "/usr" else text.replace(f"{sys.prefix}/", "")


def make_shell() -> Shell:
    """The shell, made once in the warm process; a fork runs one notebook in it.

    Pictures come from matplotlib's inline backend, named by ``MPLBACKEND``, which finds the shell when it is imported.
    """
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor" if "nocolor" in _color_names() else "NoColor"
    config.InteractiveShell.ast_node_interactivity = "last_expr"
    config.InteractiveShell.display_pub_class = _Publisher
    config.InteractiveShell.displayhook_class = _Hook
    shell = Shell.instance(config=config, display_pub_class=_Publisher, displayhook_class=_Hook)
    publisher, hook, formatter = shell.display_pub, shell.displayhook, shell.display_formatter
    assert isinstance(publisher, _Publisher)
    assert isinstance(hook, _Hook)
    assert formatter is not None
    shell.outputs = publisher.outputs = hook.outputs = Outputs()
    builtins.input = getpass.getpass = nobody_answers
    sys.breakpointhook = pdb.set_trace = no_debugger
    for module, name, value in OF_OLD:
        if not hasattr(module, name):
            setattr(module, name, value)
    shell.push({"display": display}, interactive=False)  # a kernel has it in builtins, while a cell runs
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working folder, where a cell may write a module
    for kind in formatter.formatters.values():
        kind.enabled = kind.format_type in MIME_TYPES
    return shell


def _color_names() -> tuple[str, ...]:
    """The names of colours; IPython 9 has an open list, in lower case."""
    return tuple(map(str, getattr(InteractiveShell.colors, "values", ("nocolor",))))


def run_cell(shell: Shell, source: str) -> list[dict[str, Any]]:
    """Run one cell and return its outputs; what it raises is one of them."""
    shell.outputs.clear()
    importlib.invalidate_caches()  # a cell may have written a module a moment ago
    if ".use(" in source or "switch_backend" in source:
        no_windows()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stream(shell.outputs), _Stream(None)
    try:
        error = shell.run_cell(source, store_history=True).error_in_exec
        if isinstance(error, ModuleNotFoundError) and COLAB.startswith(str(error.name)) and COLAB in source:
            shell.outputs.clear()
            with colab():
                shell.run_cell(source, store_history=True)
    finally:
        sys.stdout, sys.stderr = before
    return list(shell.outputs.items)


COLAB = "google.colab"


def _of_colab(name: str) -> Callable[..., None]:
    if name.startswith("__"):  # whoever looks through all modules, as inspect does, asks for __file__
        raise AttributeError(name)
    return passed_over


@contextlib.contextmanager
def colab() -> Iterator[None]:
    """What Colab alone has; nothing is done: mounting a drive must not take the code below it along.

    It is there once a cell has failed for the lack of it: a notebook that asks whether it is on Colab is not.
    """
    parts = ("drive", "files", "output", "userdata", "auth", "patches", "widgets", "data_table", "runtime")
    root = types.ModuleType(COLAB)
    root.__path__ = []
    made = {"google": types.ModuleType("google"), COLAB: root}
    for part in parts:
        module = made[f"{COLAB}.{part}"] = types.ModuleType(f"{COLAB}.{part}")
        module.__getattr__ = _of_colab  # type: ignore[method-assign]
        setattr(root, part, module)
    before = {name: sys.modules.get(name) for name in made}
    made["google"].__path__ = []
    made["google"].colab = root  # type: ignore[attr-defined]
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, known in before.items():
            sys.modules.pop(name) if known is None else sys.modules.update({name: known})
