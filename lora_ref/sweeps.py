"""Train the same thing many times: over ranks, targets, alphas, seeds. It can be interrupted, and goes on where it was.

`run_grid` is the part that knows nothing of training: it calls a function for each point of a grid and appends a row to
a results file as soon as there is one.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lora_ref.inject import match_targets
from lora_ref.rank import lora_param_count
from lora_ref.training import ENCODER_LINEARS, _is_live, fine_tune

if TYPE_CHECKING:
    import pandas as pd

    from lora_ref.profiles import Profile

#: The column of a results file that says under which fixed settings a row was measured.
SETUP = "setup"

#: What `target_groups` knows.
GROUPS = ("query+value", "attention", "feed-forward", "all")


# --- the grid ---------------------------------------------------------------------------------------------


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
        results: a file, ``.csv`` or ``.jsonl``; it is made if it is not there. None keeps nothing.
        progress: print a line for each row.
        settings: what is the same for all points and decides the results (sizes, epochs, learning rate). It is
            kept with each row, and a file measured under other settings is refused.

    Returns:
        One column for each key of a point and of a result; as in the file, so that first and later calls give the same.

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
    done: dict[tuple[str, ...], dict[str, Any]] = file.rows() if file else {}
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
            print(_progress_line(number, len(todo), point, result, time.perf_counter() - start), flush=True)
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
            raise ValueError(f"the grid has this point twice: {_words(point)}")
        seen.add(_identity(point))
    return points


def _plain(name: str, value: Any) -> Any:
    """A value that a line of text can hold and give back."""
    value = value.item() if hasattr(value, "item") else value  # a NumPy number, a tensor of one element
    if not (value is None or isinstance(value, (bool, int, float, str))):
        raise ValueError(f"{name} is a {type(value).__name__}; a row holds numbers, strings, booleans and None")
    if isinstance(value, str) and ("\n" in value or "\r" in value):
        raise ValueError(f"{name} has a line break in it; a row is one line")
    return value


def _identity(point: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two points the same one: 16, 16.0 and "16" are the same in a file of text."""
    return tuple(_text(point[name]) for name in sorted(point))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())


def _progress_line(number: int, of: int, point: Mapping, result: Mapping, seconds: float) -> str:
    line = f"row {number} of {of}: {_words(point)}"
    told = {name: result[name] for name in ("accuracy", "loss", "seconds") if name in result}
    if told:
        line += f": {_words(told)}"
    if number < of:
        left = (of - number) * seconds / number
        line += f" (about {left:.0f} s left)" if left < 120 else f" (about {left / 60:.0f} min left)"
    return line


class _ResultsFile:
    """Rows of one table, a line each: CSV with a header, or JSON lines. Rows are only ever appended."""

    def __init__(self, path: Path, keys: list[str], setup: str):
        if path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"results go into a .csv or a .jsonl file, not {path.name!r}")
        self.path, self.keys, self.setup = path, keys, setup
        self.columns: list[str] | None = None  # of the file; known once there is a row

    def rows(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """What is there, by identity; of a point that is there twice (two processes), the first.

        A line that was being written when something ended the process is cut off, but only from a file that is ours.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        lines = content.decode("utf-8", errors="replace").split("\n")
        rest = lines.pop()  # what stands after the last line break
        if not self._starts_like_ours(lines[0] if lines else rest):
            raise self._foreign("its first line is another")
        first = 0
        if self.path.suffix == ".csv" and lines:
            (self.columns,) = csv.reader(lines[:1])
            if SETUP not in self.columns:
                raise self._foreign(f"it has no column {SETUP!r}")
            first = 1
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        whole = first
        for number, line in enumerate(lines[first:], start=first + 1):
            row = self._parse(line)
            if row is None and number == len(lines):
                break  # some file systems leave a line of zeros after a power cut
            if row is None:
                raise ValueError(
                    f"{self.path}, line {number} is damaged: {line.strip()[:60]!r}. Remove that line, or the file."
                )
            self._check(row)
            found.setdefault(_identity({key: row[key] for key in self.keys}), row)
            whole = number
        if (rest or whole < len(lines)) and _main_process():
            kept = sum(len(line) + 1 for line in content.split(b"\n")[:whole])
            with self.path.open("r+b") as stream:
                stream.truncate(kept)
        return found

    def _starts_like_ours(self, text: str) -> bool:
        starts = [f"{key}," if self.path.suffix == ".csv" else f'{{"{key}": ' for key in self.keys]
        return any(text.startswith(start) or start.startswith(text) for start in starts)  # it may be cut short

    def _foreign(self, why: str) -> ValueError:
        return ValueError(f"{self.path} is not a results file of this grid: {why}. Choose another file.")

    def _parse(self, line: str) -> dict[str, Any] | None:
        """The row that a line holds; None if it is damaged."""
        try:
            if self.path.suffix == ".jsonl":
                row = json.loads(line)
                return row if isinstance(row, dict) else None
            (cells,) = csv.reader([line], strict=True)
        except (ValueError, csv.Error):
            return None
        return dict(zip(self.columns, map(_value, cells), strict=True)) if len(cells) == len(self.columns) else None

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

    def append(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write one row to the disk; returns it as it will be read back."""
        full = {**row, SETUP: self.setup}
        if self.columns is not None and list(full) != self.columns:
            raise ValueError(f"{self.path} has the columns {self.columns}; the new row has {list(full)}")
        if self.path.suffix == ".jsonl":
            line = json.dumps(full) + "\n"
        else:
            line = _csv_line("" if value is None else str(value) for value in full.values())
            if self.columns is None:
                line = _csv_line(full) + line
            self.columns = list(full)
        read_back = self._parse(line.rstrip("\n").split("\n")[-1])
        if _main_process():  # with several processes, all train and one writes
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # one write of one whole line, at the end whoever else writes
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            try:
                os.write(descriptor, line.encode("utf-8"))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        read_back.pop(SETUP)
        return read_back


def _csv_line(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _value(text: str) -> Any:
    """What a cell of text was. Only what reads back as the same text is a number: "007" and "1_000" are not."""
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    for kind in (int, float):
        try:
            if str(kind(text)) == text:
                return kind(text)
        except ValueError:
            pass
    return text


def _differences(theirs: str, ours: str) -> str:
    try:
        old, new = json.loads(theirs), json.loads(ours)
        keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        return ", ".join(f"{key}: {old.get(key)} there, {new.get(key)} now" for key in keys)
    except (ValueError, AttributeError):
        return "unreadable ones"


def _main_process() -> bool:
    """True but for the other processes of `accelerate launch` or torchrun."""
    return int(os.environ.get("RANK", "0") or 0) == 0


# --- what to adapt ----------------------------------------------------------------------------------------


def target_groups(model: nn.Module) -> dict[str, list[str]]:
    """Targets of a RoBERTa (or BERT) by group, for `lora_ref.inject.inject_lora`: what an ablation compares.

    ``"query+value"``, ``"attention"`` (query, key, value and the attention's output), ``"feed-forward"`` (the two
    layers after it) and ``"all"`` (both). The names are whole ones, because both parts have a layer that ends in
    ``output.dense``, and a target matches from the end.

    Raises:
        ValueError: the model has no such layers.

    Example:
        >>> from lora_ref.models import tiny_roberta
        >>> {name: len(targets) for name, targets in target_groups(tiny_roberta()).items()}
        {'query+value': 4, 'attention': 8, 'feed-forward': 4, 'all': 12}
    """
    attention = match_targets(model, ["query", "key", "value", "attention.output.dense"])
    encoder = match_targets(model, ENCODER_LINEARS)
    return {
        "query+value": match_targets(model, ["query", "value"]),
        "attention": attention,
        "feed-forward": [name for name in encoder if name not in attention],
        "all": encoder,
    }


# --- sweeps -----------------------------------------------------------------------------------------------


def sweep_ranks(
    profile: Profile,
    ranks: Sequence[int] = (1, 2, 4, 8, 16),
    seeds: Sequence[int] = (0,),
    *,
    alpha: float | None = None,
    targets: Sequence[str] = ENCODER_LINEARS,
    results: str | os.PathLike | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """LoRA of several ranks, with every seed.

    Args:
        profile, targets: as in `lora_ref.training.fine_tune`.
        ranks, seeds: a row for each rank and seed.
        alpha: the same for all ranks; by default 2 * rank, so that the scaling is 2 for all and ranks alone differ.
        results, progress: as in `run_grid`.
        options: ``epochs``, ``max_steps``, ``learning_rate`` and ``dropout`` of `fine_tune`.

    Returns:
        The columns ``rank``, ``alpha``, ``targets``, ``seed``, ``trainable`` (parameters, with the head), ``accuracy``
        and ``loss`` (held-out test sentences), ``validation_accuracy``, ``seconds`` and ``peak_memory`` (bytes; the
        process's on the CPU, so later rows of one process start higher).

    Raises:
        ValueError: as in `run_grid` and `fine_tune`.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> frame = sweep_ranks(TINY, ranks=[4], max_steps=1, progress=False)
        >>> frame[["rank", "alpha", "trainable"]]
           rank  alpha  trainable
        0     4      8       4322
    """
    groups = {_group_name(targets): list(targets)}
    grid = [
        {"rank": rank, "alpha": 2 * rank if alpha is None else alpha, "targets": group, "seed": seed}
        for rank in ranks
        for group in groups
        for seed in seeds
    ]
    return _train_grid(profile, grid, groups, results, progress, options)


def ablate_targets(
    profile: Profile,
    groups: Sequence[str] | Mapping[str, Sequence[str]] = GROUPS,
    seeds: Sequence[int] = (0,),
    *,
    rank: int = 8,
    budget: int | None = None,
    results: str | os.PathLike | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """LoRA on several groups of layers: the same rank for all, or about the same number of parameters.

    Args:
        profile, seeds, results, progress, options: as in `sweep_ranks`. Alpha is 2 * rank.
        groups: names from `target_groups`, or names of your own with their targets.
        rank: of every group.
        budget: instead of the rank: LoRA parameters. Each group gets the largest rank that fits (the paper's table 5
            compares so), and the column ``rank`` says which.

    Returns:
        As in `sweep_ranks`.

    Raises:
        ValueError: there is no such group, a budget is too small for one, and as in `run_grid` and `fine_tune`.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> frame = ablate_targets(TINY, ["query+value"], budget=600, max_steps=1, progress=False)
        >>> frame[["targets", "rank", "trainable"]]  # rank 2 is the largest that 600 numbers allow; the head trains too
               targets  rank  trainable
        0  query+value     2       1634
    """
    from lora_ref import models

    model = models.base_model(profile)
    known = target_groups(model)
    if not isinstance(groups, Mapping):
        unknown = [name for name in groups if name not in known]
        if unknown:
            raise ValueError(f"no group {unknown[0]!r}; there are: {', '.join(map(repr, known))}")
        groups = {name: known[name] for name in groups}
    grid = []
    for name, targets in groups.items():
        r = rank if budget is None else _rank_within(model, name, targets, budget)
        grid += [{"rank": r, "alpha": 2 * r, "targets": name, "seed": seed} for seed in seeds]
    return _train_grid(profile, grid, dict(groups), results, progress, options)


def ablate_alpha(
    profile: Profile,
    alphas: Sequence[float] = (1, 4, 16, 64),
    seeds: Sequence[int] = (0,),
    *,
    rank: int = 8,
    targets: Sequence[str] = ENCODER_LINEARS,
    results: str | os.PathLike | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """LoRA of one rank with several alphas; arguments, columns and errors as in `sweep_ranks`.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> ablate_alpha(TINY, alphas=[16], rank=2, max_steps=1, progress=False)[["rank", "alpha", "seed"]]
           rank  alpha  seed
        0     2     16     0
    """
    groups = {_group_name(targets): list(targets)}
    grid = [
        {"rank": rank, "alpha": alpha, "targets": group, "seed": seed}
        for alpha in alphas
        for group in groups
        for seed in seeds
    ]
    return _train_grid(profile, grid, groups, results, progress, options)


def _group_name(targets: Sequence[str]) -> str:
    if isinstance(targets, str):
        raise TypeError(f"targets is a list of names; write [{targets!r}]")
    return "all" if tuple(targets) == ENCODER_LINEARS else "+".join(targets)


def _rank_within(model: nn.Module, name: str, targets: Sequence[str], budget: int) -> int:
    layers = [model.get_submodule(found) for found in match_targets(model, targets)]
    one = sum(lora_param_count(layer.out_features, layer.in_features, 1) for layer in layers)
    if one > budget:
        raise ValueError(f"rank 1 on {name!r} has {one:,} parameters; the budget is {budget:,}")
    return budget // one


def _train_grid(
    profile: Profile,
    grid: list[dict[str, Any]],
    groups: Mapping[str, Sequence[str]],
    results: str | os.PathLike | None,
    progress: bool,
    options: dict[str, Any],
) -> pd.DataFrame:
    allowed = {"epochs", "max_steps", "learning_rate", "dropout"}
    if unknown := sorted(options.keys() - allowed):
        raise TypeError(f"unexpected {', '.join(map(repr, unknown))}; options are {', '.join(sorted(allowed))}")

    def run(rank: int, alpha: float, targets: str, seed: int) -> dict[str, Any]:
        result = fine_tune(
            "lora",
            profile,
            rank=rank,
            alpha=alpha,
            targets=groups[targets],
            seed=seed,
            progress=progress and _is_live(),  # a bar within the row; a log gets the row's own line
            **options,
        )
        return {
            "trainable": result.trainable,
            "accuracy": result.test["accuracy"],
            "loss": result.test["loss"],
            "validation_accuracy": result.validation["accuracy"],
            "seconds": round(result.seconds, 3),
            "peak_memory": result.peak_memory,
        }

    settings = _settings(profile, options)
    if own := {name: targets for name, targets in groups.items() if name not in GROUPS and "+".join(targets) != name}:
        settings["groups"] = own  # a name alone does not say what was adapted
    return run_grid(run, grid, results, progress, settings)


#: Words, which change nothing that is measured.
_WORDS = ("base_model", "data", "purpose", "minutes", "notebook_minutes", "machine", "meaning")


def _settings(profile: Profile, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a row's result depends on besides its own columns; kept with it."""
    settings = {f.name: getattr(profile, f.name) for f in dataclasses.fields(profile) if f.name not in _WORDS}
    rate = settings.pop("learning_rates")["lora"]  # the other methods' rates are not this grid's
    given = {name: value for name, value in options.items() if value is not None}
    device = "cuda" if torch.cuda.is_available() else "cpu"  # seconds and memory of the two do not go into one table
    return {"profile": settings.pop("name"), **settings, "learning_rate": rate, "device": device, **given}
