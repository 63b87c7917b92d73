"""Exercise 5.1, rank_sweep: a table of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, result_of
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, a, close

COLUMNS = ("rank", "trainable", "accuracy", "seconds")


def out_of_order(rng: np.random.Generator, values: Sequence[float] | np.ndarray) -> list:
    """A permutation that neither rises nor falls throughout: a table sorted by it must show."""
    while True:
        permuted = rng.permutation(values).tolist()
        if permuted not in (sorted(permuted), sorted(permuted)[::-1]):
            return permuted


def draw_sweep(rng: np.random.Generator, extra: bool = True) -> Inputs:
    """Ranks in no order, and results in which neither accuracy nor time follows the order of the ranks.

    They have so many decimals that rounding shows in each.
    """
    ranks = out_of_order(rng, rng.permutation([1, 2, 3, 4, 6, 8, 16, 32, 64])[:5])
    accuracies, times = ((np.linspace(a, b, 5).round(3) + 0.000345678).round(9) for a, b in ((0.55, 0.9), (3.5, 60)))
    slope, head = int(rng.integers(1_000, 50_000)), int(rng.integers(100, 200_000))
    results = []
    for rank, accuracy, seconds in zip(ranks, out_of_order(rng, accuracies), out_of_order(rng, times), strict=True):
        result: dict[str, Any] = {"accuracy": accuracy, "seconds": seconds, "trainable": slope * rank + head}
        if extra:
            result |= {"loss": float(rng.uniform(0.2, 0.7)), "seed": 3, "method": "lora", "rank": -1}
        results.append(result)
    return {"ranks": ranks, "results": results}


def draw_repeated(rng: np.random.Generator) -> Inputs:
    """As `draw_sweep`, with the first rank a second time at the end."""
    inputs = draw_sweep(rng)
    return {name: [*values, values[0]] for name, values in inputs.items()}


class Broken(RuntimeError, ValueError, KeyError):
    """Whichever of these is caught by a sweep, it is not its to catch."""


def probe_sweep(names: Names, **inputs: Any) -> dict:
    """The table's columns and cells, and the ranks that run was called with."""
    import pandas as pd

    by_rank, calls = dict(zip(inputs["ranks"], inputs["results"], strict=True)), []

    def run(rank: int, /) -> dict[str, Any]:
        calls.append(int(rank))
        return dict(by_rank[int(rank)])

    def broken(rank: int, /) -> dict[str, Any]:
        if int(rank) == int(inputs["ranks"][-1]):
            raise Broken("this training broke off")
        return dict(by_rank[int(rank)])

    frame = names.rank_sweep(run, list(inputs["ranks"]))
    short, error = result_of(names.rank_sweep, broken, list(inputs["ranks"]))
    hidden = error is None and isinstance(short, pd.DataFrame) and len(short) < len(inputs["ranks"])
    if not isinstance(frame, pd.DataFrame):
        return {"kind": type(frame).__name__, "calls": calls}
    columns = [str(column) for column in frame.columns]
    cells = {column: [_cell(value) for value in frame.iloc[:, i]] for i, column in enumerate(columns)}
    seen = {"columns": columns, "index": str(frame.index.name), "rows": len(frame), "cells": cells, "calls": calls}
    return seen | {"hidden": hidden}


def _cell(value: Any) -> float | str:
    try:
        return float(value) if not isinstance(value, str) else value[:40]
    except (TypeError, ValueError):
        return type(value).__name__


def _no_frame(seen: Observation) -> Fault | None:
    if "kind" in seen:
        return Fault(
            f"rank_sweep returned {a(seen['kind'])}",
            "a pandas DataFrame is asked for: pd.DataFrame(list of dicts, one a row)",
        )
    return None


def judge_columns(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := _no_frame(seen):
        return fault
    absent = [name for name in COLUMNS if name not in seen["columns"]]
    extra = [name for name in seen["columns"] if name not in COLUMNS]
    if not absent and not extra and len(seen["columns"]) == len(COLUMNS):
        return None
    likely = "name the columns: pd.DataFrame(rows, columns=[...])"
    if extra and {name.strip().lower() for name in extra} & set(absent):
        likely = "a column's name is its spelling, capitals too: rank, trainable, accuracy and seconds"
    elif absent == ["rank"]:
        likely = "run's result does not hold the rank: put it into the row yourself"
        if seen["index"] == "rank":
            likely = "rank became the index: it is a column, so no set_index"
    elif extra and not absent:
        likely = "what else run's result holds is left out: choose the four columns"
        if {"level_0", "index"} & set(extra):
            likely = "reset_index keeps the old index as a column unless drop=True"
    elif sorted(absent + extra) and len(seen["columns"]) == len(seen["calls"]):
        likely = "rows and columns are exchanged: one row a rank (transpose)"
    return Fault(f"columns {seen['columns']}, expected {list(COLUMNS)}", likely)


def judge_rows(inputs: Inputs, seen: Observation) -> Fault | None:
    """Every cell, row by row; which columns there are is another check's."""
    if fault := _no_frame(seen):
        return fault
    ranks, results = inputs["ranks"], inputs["results"]
    if seen["rows"] != len(ranks):
        return Fault(f"rows: {seen['rows']}, ranks: {len(ranks)}", "one row for each rank")
    wanted = {"rank": ranks} | {name: [result[name] for result in results] for name in COLUMNS[1:]}
    here = [name for name in COLUMNS if name in seen["cells"]]
    if not [name for name in here if name != "rank"]:
        return Fault(f"columns {seen['columns']}", "nothing of what run measured is in the table")
    wrong = [name for name in here if not _numbers(seen["cells"][name], wanted[name])]
    if not wrong:
        return None
    order = _reordering({name: seen["cells"][name] for name in here}, {name: wanted[name] for name in here})
    if order is not None:
        likely = "they come in the order given"
        if shown_sorted(ranks, inputs, order):
            likely = "the rows are sorted: they come in the order given"
        if order == list(range(len(ranks)))[::-1]:
            likely = "the rows stand in reverse: they come in the order given"
        shown = [ranks[i] for i in order]
        return Fault(f"rows in the order of ranks {shown}, given were {ranks}", likely)
    name = wrong[0]
    if name == "rank" and set(map(str, seen["cells"][name])) == {"-1.0"}:
        likely = "run's result may have a rank of its own: the one that was given counts"
        return Fault(f"rank: {seen['cells'][name]}, expected {ranks}", likely)
    likely = "each row holds what run(rank) returned for that very rank"
    if name == "seconds":
        likely = "seconds are those that run measured, as it returned them"
    if not any(isinstance(value, str) for value in seen["cells"][name]) and close(
        seen["cells"][name], wanted[name], 5e-3
    ):
        likely = "the numbers are rounded: the table keeps what run returned, and is rounded where it is shown"
    if any(isinstance(value, str) for value in seen["cells"][name]):
        likely = "the cells hold numbers: what run returned, as it is"
    if len(set(map(str, seen["cells"][name]))) == 1:
        likely = "every row holds the same result: run is called with each rank, and a new dict made for each row"
    return Fault(f"{name}: {seen['cells'][name]}, expected {wanted[name]}", likely)


def _numbers(cells: list, wanted: list) -> bool:
    # float32 holds them closely enough
    return not any(isinstance(value, str) for value in cells) and close(cells, wanted, 2e-7)


def _reordering(cells: Mapping[str, list], wanted: Mapping[str, list]) -> list[int] | None:
    """The order in which the rows of ``wanted`` stand in ``cells``, if it is one."""
    key = next(name for name in cells if name != "rank")
    if any(isinstance(value, str) for value in cells[key]):
        return None
    order = [int(np.argmin(np.abs(np.array(wanted[key]) - value))) for value in cells[key]]
    same = all(_numbers(cells[name], [wanted[name][i] for i in order]) for name in cells)
    return order if same and sorted(order) == list(range(len(order))) else None


def shown_sorted(ranks: Sequence[float], inputs: Inputs, order: Sequence[int]) -> bool:
    """Whether rows in this order rise or fall in one of the columns."""
    columns = [ranks, *([result[name] for result in inputs["results"]] for name in COLUMNS[1:])]
    rows = [[column[i] for i in order] for column in columns]
    return any(row in (sorted(row), sorted(row)[::-1]) for row in rows)


def judge_calls(inputs: Inputs, seen: Observation) -> Fault | None:
    calls, ranks = seen["calls"], inputs["ranks"]
    if sorted(calls) == sorted(ranks) and seen.get("hidden"):
        likely = (
            "an error in a training is the caller's: a row that is missing in silence looks like a rank never asked"
        )
        return Fault("where run raises an error, the table lacks that rank and nothing is raised", likely)
    if sorted(calls) == sorted(ranks):
        if seen.get("rows", len(ranks)) == len(set(ranks)) < len(ranks):
            return Fault(f"rows: {seen['rows']}, ranks: {ranks}", _TWICE)
        return None
    likely = "each call is a whole training: call run once a rank and take all columns from that one dict"
    if set(ranks) - set(calls):
        likely = "run is called with every rank, each once"
    elif sorted(calls) == sorted(set(ranks)):
        likely = _TWICE
    return Fault(f"run was called with {calls}, expected {ranks}, each once", likely)


_TWICE = "a rank that is given twice is trained twice and has two rows: a dict or an index by rank keeps one of them"


EXERCISE = Exercise(
    "5.1",
    "rank_sweep: a table of trainings",
    names=("rank_sweep",),
    checks=[
        Check(
            "5.1/columns",
            "a DataFrame with the columns rank, trainable, accuracy and seconds",
            probe_sweep,
            judge_columns,
            draw_sweep,
            seed=1,
        ),
        Check(
            "5.1/rows",
            "one row a rank, in the order given, with what run returned for it",
            probe_sweep,
            judge_rows,
            draw_sweep,
            seed=1,
        ),
        Check("5.1/calls", "run is called once for each rank", probe_sweep, judge_calls, draw_repeated, seed=1),
    ],
)
