"""Exercise 5.1, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage05 import e1_rank_sweep as room

HIDDEN = [graded(room, "5.1/columns", 0.5), graded(room, "5.1/rows", 1), graded(room, "5.1/calls", 0.5)]


_ROWS = 'rows = [run(rank) | {"rank": rank} for rank in ranks]'
_FRAME = 'return pd.DataFrame(rows, columns=["rank", "trainable", "accuracy", "seconds"])'


MUTANTS = [
    Mutant(
        "5.1/passes-over-errors",
        "a training that breaks off is left out",
        'rows = [run(rank) | {"rank": rank} for rank in ranks]',
        'rows = []\n    for rank in ranks:\n        try:\n            rows.append(run(rank) | {"rank": rank})\n'
        "        except RuntimeError as error:\n            print(error)",
        "the table lacks that rank",
    ),
    Mutant(
        "5.1/by-rank",
        "a dict by rank keeps one of two that are given alike",
        _ROWS,
        'kept = {rank: run(rank) for rank in ranks}\n    rows = [row | {"rank": rank} for rank, row in kept.items()]',
        "given twice",
    ),
    Mutant(
        "5.1/rows-by-rank",
        "rows under their rank, of which one is overwritten",
        f"{_ROWS}\n    {_FRAME}",
        'table = pd.DataFrame(columns=["rank", "trainable", "accuracy", "seconds"])\n    for rank in ranks:\n'
        '        row = run(rank)\n        table.loc[rank] = [rank, row["trainable"], row["accuracy"], row["seconds"]]\n'
        "    return table",
        "given twice",
    ),
    Mutant("5.1/by-keyword", "run gets the rank by a name", "run(rank) |", "run(rank=rank) |", "by position"),
    Mutant(
        "5.1/run-overrides",
        "a rank in run's result wins",
        'run(rank) | {"rank": rank}',
        '{"rank": rank} | run(rank)',
        "a rank of its own",
    ),
    Mutant(
        "5.1/sorted",
        "rows sorted by rank",
        _ROWS,
        'rows = [run(rank) | {"rank": rank} for rank in sorted(ranks)]',
        "the rows are sorted",
    ),
    Mutant(
        "5.1/best-first",
        "rows sorted by accuracy",
        _FRAME,
        f'{_FRAME}.sort_values("accuracy", ascending=False)',
        "the rows are sorted",
    ),
    Mutant(
        "5.1/no-rank",
        "the rank is not in the row",
        _FRAME,
        'return pd.DataFrame([run(r) for r in ranks])[["trainable", "accuracy", "seconds"]]',
        "does not hold the rank",
    ),
    Mutant(
        "5.1/all-columns",
        "everything that run returned",
        _FRAME,
        "return pd.DataFrame(rows)",
        "what else run's result holds is left out",
    ),
    Mutant("5.1/rank-is-index", "the rank becomes the index", _FRAME, f'{_FRAME}.set_index("rank")', "it is a column"),
    Mutant("5.1/a-list", "a list of dicts", _FRAME, "return rows", "a pandas DataFrame is asked for"),
    Mutant("5.1/transposed", "a column a rank", _FRAME, f"{_FRAME}.T", "rows and columns are exchanged"),
    Mutant(
        "5.1/trains-thrice",
        "run is called for every column",
        _ROWS,
        'rows = [{"rank": r} | {k: run(r)[k] for k in ("trainable", "accuracy", "seconds")} for r in ranks]',
        "each call is a whole training",
    ),
    Mutant(
        "5.1/own-clock",
        "a clock of its own, run's seconds are not used",
        _ROWS,
        # counts for seconds: a real clock's numbers would differ in each table of messages
        'rows = [run(rank) | {"rank": rank, "seconds": float(n)} for n, rank in enumerate(ranks)]',
        "seconds are those that run measured",
    ),
    Mutant(
        "5.1/one-run",
        "one training for the whole table",
        _ROWS,
        'result = run(ranks[0])\n    rows = [result | {"rank": rank} for rank in ranks]',
        "run is called with every rank, each once",
    ),
    Mutant(
        "5.1/one-dict",
        "one dict, filled again for each row",
        _ROWS,
        "rows, row = [], {}\n    for rank in ranks:\n"
        "        row.update(run(rank), rank=rank)\n        rows.append(row)",
        "a new dict made for each row",
    ),
    Mutant(
        "5.1/formatted",
        "numbers turned into text",
        _ROWS,
        'rows = [run(rank) | {"rank": rank} for rank in ranks]\n    for row in rows:\n'
        '        row["accuracy"] = f"{row[\'accuracy\']:.1%}"',
        "the cells hold numbers",
    ),
    Mutant(
        "5.1/first-row-only",
        "returns inside the loop",
        _ROWS,
        'rows = [run(rank) | {"rank": rank} for rank in ranks[:1]]',
        "one row for each rank",
    ),
    Mutant(
        "5.1/reversed",
        "the largest rank first, by turning the list round",
        _ROWS,
        'rows = [run(rank) | {"rank": rank} for rank in reversed(ranks)]',
        "the rows stand in reverse",
    ),
    Mutant(
        "5.1/capital",
        "a column's name with a capital",
        _FRAME,
        f'{_FRAME}.rename(columns={{"rank": "Rank"}})',
        "a column's name is its spelling",
    ),
    Mutant("5.1/rounded", "the frame is rounded", _FRAME, f"{_FRAME}.round(4)", "the numbers are rounded"),
    Mutant(
        "5.1/rounded-seconds",
        "the seconds are rounded",
        _ROWS,
        'rows = [run(rank) | {"rank": rank} for rank in ranks]\n    for row in rows:\n'
        '        row["seconds"] = round(row["seconds"], 3)',
        "the numbers are rounded",
    ),
    Mutant(
        "5.1/catches-a-key-error",
        "where run raises a KeyError, the row is left out",
        'rows = [run(rank) | {"rank": rank} for rank in ranks]',
        "rows = []\n    for rank in ranks:\n        try:\n"
        '            rows.append(run(rank) | {"rank": rank})\n        except KeyError:\n            pass',
        "the table lacks that rank",
    ),
]
