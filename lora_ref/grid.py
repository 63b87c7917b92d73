"""Call a function for each point of a grid, a row each. It can be interrupted, and goes on where it was."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ref.progress import in_words, is_main_process, row_line

if TYPE_CHECKING:
    import pandas as pd

#: The key of a results file's rows that says under which fixed settings they were measured.
SETUP = "setup"

_Identity = tuple[tuple[str, Any], ...]


def run_grid(
    run: Callable[..., Mapping[str, Any]],
    grid: Mapping[str, Sequence[Any]] | Iterable[Mapping[str, Any]],
    results: str | os.PathLike | None = None,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Call ``run(**point)`` for each point of a grid; one row each, in the grid's order.

    With a results file, each row is in it, whole and on the disk, before the next run starts. An interrupted grid
    (Ctrl-C, a lost session) raises as usual and loses only the run it was in; the same call later goes on from there,
    and a larger grid runs only what is new. A line that a crash has cut short at the end of the file is dropped and
    its point run again.

    Args:
        run: returns a dict of plain values (numbers, strings, booleans, None), the same keys each time.
        grid: points as dicts of plain values with the same keys; or a dict of lists, of which all combinations are
            taken, the last varying fastest.
        results: a ``.jsonl`` file, an object a line; it is made if it is not there. None keeps nothing.
        progress: print a line for each row.
        settings: what is the same for all points and decides the results (sizes, epochs, learning rate). It is
            kept with each row, and a file measured under other settings is refused.

    Returns:
        One column for each key of a point and of a result; as in the file, so that first and later calls give the same.
        ``frame.to_csv(path, index=False)`` makes a table for others of it, once it is whole.

    Raises:
        ValueError: the file was measured with other settings or columns, is damaged in the middle, or is of another
            kind; the grid is empty or has a point twice; a value is not plain.

    Example:
        >>> run_grid(lambda rank, seed: {"trainable": 100 * rank}, {"rank": [1, 2], "seed": [0]}, progress=False)
           rank  seed  trainable
        0     1     0        100
        1     2     0        200
    """
    import pandas as pd

    points = _points(grid)
    setup = json.dumps(dict(settings or {}), sort_keys=True, default=str)
    file = None if results is None else _ResultsFile(Path(results), list(points[0]), setup)
    done: dict[_Identity, dict[str, Any]] = file.rows() if file else {}
    todo = [point for point in points if _identity(point) not in done]
    if progress and file and len(todo) < len(points):
        print(f"{len(points) - len(todo)} of {len(points)} rows are in {file.path.name} already", flush=True)
    start = time.perf_counter()
    for number, point in enumerate(todo, start=1):
        result = dict(run(**point))
        clash = sorted(result.keys() & (point.keys() | {SETUP}))
        if clash:
            raise ValueError(f"run returned {', '.join(map(repr, clash))}, which the grid has already")
        row = {name: _plain(name, value) for name, value in {**point, **result}.items()}
        done[_identity(point)] = file.append(row) if file else row
        if progress:
            print(row_line(number, len(todo), point, result, time.perf_counter() - start), flush=True)
    return pd.DataFrame([done[_identity(point)] for point in points])


def _points(grid: Mapping[str, Sequence[Any]] | Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(grid, Mapping):
        points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    else:
        points = [dict(point) for point in grid]
    if not points or not points[0]:
        raise ValueError("the grid has no points")
    seen = set()
    for point in points:
        if point.keys() != points[0].keys():
            raise ValueError(f"points of one grid have the same keys: {list(points[0])} and {list(point)}")
        for name, value in point.items():
            _plain(name, value)
        if _identity(point) in seen:
            raise ValueError(f"the grid has this point twice: {in_words(point)}")
        seen.add(_identity(point))
    return points


def _plain(name: str, value: Any) -> Any:
    """A value that a line of text can hold and give back."""
    value = value.item() if hasattr(value, "item") else value  # a NumPy number, a tensor of one element
    if not (value is None or isinstance(value, (bool, int, float, str))):
        raise ValueError(f"{name} is a {type(value).__name__}; a row holds numbers, strings, booleans and None")
    return value


def _identity(point: Mapping[str, Any]) -> _Identity:
    """What makes two points the same one, whatever the order of their keys; 16 and 16.0 are equal in Python."""
    return tuple(sorted(point.items()))


class _ResultsFile:
    """Rows of one table, a JSON object a line. Rows are only ever appended."""

    def __init__(self, path: Path, keys: list[str], setup: str):
        if path.suffix != ".jsonl":
            raise ValueError(f"results go into a .jsonl file, not {path.name!r}; the frame's to_csv writes a table")
        self.path, self.keys, self.setup = path, keys, setup
        self.columns: list[str] | None = None  # of the file; known once there is a row

    def rows(self) -> dict[_Identity, dict[str, Any]]:
        """What is there, by identity; of a point that is there twice (two processes), the first.

        A line that was being written when something ended the process is cut off, but only from a file that is ours.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        *lines, rest = content.split(b"\n")  # what stands after the last line break was being written
        start = (lines[0] if lines else rest)[:100].decode("utf-8", errors="replace")
        ours = [f'{{"{key}": ' for key in self.keys]
        if not any(start.startswith(key) or key.startswith(start) for key in ours):  # it may be cut short
            raise self._foreign("its first line is another")
        rows: dict[_Identity, dict[str, Any]] = {}
        whole = 0
        for number, line in enumerate(lines, start=1):
            row = _parse(line)
            if row is None and number == len(lines):
                break  # some file systems leave a line of zeros after a power cut
            if row is None:
                text = line.decode("utf-8", errors="replace").strip()[:60]
                raise ValueError(f"{self.path}, line {number} is damaged: {text!r}. Remove that line, or the file.")
            self._check(row)
            rows.setdefault(_identity({key: row[key] for key in self.keys}), row)
            whole = number
        if (rest or whole < len(lines)) and is_main_process():
            with self.path.open("r+b") as stream:
                stream.truncate(sum(len(line) + 1 for line in lines[:whole]))
        return rows

    def _foreign(self, why: str) -> ValueError:
        return ValueError(f"{self.path} is not a results file of this grid: {why}. Choose another file.")

    def _check(self, row: dict[str, Any]) -> None:
        """Refuse rows that are not this grid's; takes the settings out of the row."""
        missing = [key for key in (*self.keys, SETUP) if key not in row]
        if missing:
            raise self._foreign(f"it has no column {', '.join(map(repr, missing))}")
        theirs = row.pop(SETUP)
        if theirs != self.setup:
            raise ValueError(
                f"{self.path} was measured with other settings ({_differences(theirs, self.setup)}). "
                "Choose another file, or remove this one."
            )
        self.columns = self.columns or list(row)

    def append(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write one row to the disk; returns it as it will be read back."""
        if self.columns is not None and list(row) != self.columns:
            raise ValueError(f"{self.path} has the columns {self.columns}; the new row has {list(row)}")
        self.columns = list(row)
        line = json.dumps({**row, SETUP: self.setup}) + "\n"
        if is_main_process():  # with several processes, all train and one writes
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # one write of one whole line, at the end whoever else writes
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            try:
                os.write(descriptor, line.encode("utf-8"))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return row


def _parse(line: bytes) -> dict[str, Any] | None:
    """The row that a line holds; None if it is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _differences(theirs: str, ours: str) -> str:
    try:
        old, new = json.loads(theirs), json.loads(ours)
        keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        return ", ".join(f"{key}: {old.get(key)} there, {new.get(key)} now" for key in keys)
    except (ValueError, AttributeError):
        return "unreadable ones"
