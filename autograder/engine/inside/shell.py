"""Inside the sandbox: run a notebook's cells in an IPython shell and keep what they show, within bounds.

What comes out is what the student's process says it showed; nothing here decides a grade.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

#: Caps for one cell: characters of text, characters of pictures (base64), number of outputs.
MAX_TEXT = 100_000
MAX_PICTURES = 3_000_000
MAX_OUTPUTS = 200
#: What a reader's page shows. HTML and JavaScript of a submission would run in the grader's browser; of Markdown and
#: LaTeX, in which they may stand, the gradebook's notebooks have a harmless form (`results.gradebook.harmless`).
MIME_TYPES = ("text/plain", "text/markdown", "text/latex", "image/png", "image/jpeg")


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
        self._add({"output_type": "error", "ename": kind[:200], "evalue": text[:2000], "traceback": lines})

    def _add(self, item: dict[str, Any]) -> None:
        if len(self.items) < MAX_OUTPUTS:
            self.items.append(item)


class _Stream:
    """Stands for sys.stdout; stderr goes nowhere, as under the course's nbgrader settings."""

    encoding, errors, closed = "utf-8", "replace", False

    def __init__(self, outputs: Outputs | None):
        self.outputs = outputs

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

    def fileno(self) -> int:
        raise OSError("this stream has no file descriptor")


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


class Shell(InteractiveShell):
    """An IPython shell without history, colours or a terminal."""

    outputs: Outputs

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        try:
            text = str(evalue)
        except BaseException:
            text = ""
        self.outputs.error(getattr(etype, "__name__", str(etype)), text, [plain_text(line) for line in stb])


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
    outputs = Outputs()
    shell.outputs = shell.display_pub.outputs = shell.displayhook.outputs = outputs
    for formatter in shell.display_formatter.formatters.values():
        formatter.enabled = formatter.format_type in MIME_TYPES
    return shell


def _color_names() -> tuple[str, ...]:
    try:
        return tuple(str(v) for v in InteractiveShell.colors.values)
    except AttributeError:  # IPython 9 has an open list, in lower case
        return ("nocolor",)


def run_cell(shell: Shell, source: str) -> list[dict[str, Any]]:
    """Run one cell and return its outputs; what it raises is one of them."""
    shell.outputs.clear()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stream(shell.outputs), _Stream(None)
    try:
        shell.run_cell(source, store_history=True)
    finally:
        sys.stdout, sys.stderr = before
    return list(shell.outputs.items)
