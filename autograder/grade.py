"""``python -m autograder grade``: grade a class in parallel, in a sandbox, into nbgrader's gradebook.

Run it again after an interruption, or with more submissions: what is graded already is not graded again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from autograder.engine import cluster
from autograder.engine.assignment import ROOT, Assignment, environment_hash, grade_id, nbgrader
from autograder.engine.needed import needed
from autograder.engine.sandbox import UNPROTECTED, SandboxError, Warm, require
from autograder.engine.store import Store, key_of, seed_of
from autograder.exercises import STAGES
from autograder.files import write_whole
from autograder.intake.discover import discover
from autograder.intake.notebook import answers as answers_in
from autograder.intake.submission import Submission
from autograder.results import feedback, integrity, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--submissions", type=Path, required=True, metavar="DIR", help="what the students handed in")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the course folder to write")
    parser.add_argument("--stage", nargs="+", choices=sorted(STAGES), metavar="STAGE", help="default: all there are")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="default: the processors, %(default)s")
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="grade on the workers of this Dask scheduler (tcp://host:8786); see docs/grading_on_a_cluster.md",
    )
    parser.add_argument("--seed", type=int, help="draw the inputs from this seed (default: the recorded one, or a new)")
    parser.add_argument("--regrade", action="store_true", help="grade again what is graded already")
    parser.add_argument("--sandbox", choices=["bwrap", "none"], default="bwrap", help="default: %(default)s")
    parser.add_argument(
        "--cells",
        choices=["needed", "all"],
        default="needed",
        help="needed: of the demonstrations, those that an answer uses; the grades are the same (default: %(default)s)",
    )
    parser.add_argument("--cell-seconds", type=float, default=120, help="time limit of a cell (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="time limit of a submission (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Exit status 0: every submission has a grade; 1: some need attention; 2: nothing could be done; 130: Ctrl-C."""
    try:
        require("none" if args.scheduler else args.sandbox)  # a cluster's workers look for their own
        if args.sandbox == "none":
            print(UNPROTECTED, file=sys.stderr)
        out = args.out.resolve()
        with locked(out):
            return grade(args, out)
    except (SandboxError, cluster.ClusterError, OSError) as error:
        print(f"grade: {error}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """One run at a time writes ``out`` (BlockingIOError: another one does; OSError: it cannot be written)."""
    lock = FileLock(out / ".grading" / "lock")
    try:
        (out / ".grading").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"another run is writing {out}") from None
    except NotImplementedError:
        raise OSError(f"the file system of {out} has no locks: choose a folder on another") from None
    except OSError as error:
        raise OSError(f"cannot write {out}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def stop_between() -> Iterator[Callable[[], None]]:
    """Ctrl-C takes effect where the function it gives is called, so that no result is half written; twice, at once."""
    heard = False

    def hear(*_: Any) -> None:
        nonlocal heard
        if heard:
            raise KeyboardInterrupt
        heard = True

    def check() -> None:
        if heard:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def grade(args: argparse.Namespace, out: Path) -> int:
    """Plan, run, write; what was done when it is interrupted stays done."""
    started, assignments = time.monotonic(), {}
    for stage in args.stage or STAGES:
        with contextlib.suppress(FileNotFoundError):
            assignments[stage] = Assignment.load(stage, ROOT)
    submissions = discover(args.submissions, assignments)
    if not submissions:
        raise FileNotFoundError(f"no submission of {', '.join(assignments)} in {args.submissions}")
    store = Store(out / ".grading")
    seed = store.seed(args.seed)
    rows, known, todo = [], [], []
    with contextlib.ExitStack() as stack:
        warm = None
        for submission in submissions:
            row = plan(submission, assignments[submission.stage], seed, args.cells)
            rows.append(row)
            if row["problem"] or (row["key"] in store and not args.regrade):
                known.append(row)
                continue
            todo.append(row)
            if warm is None and not args.scheduler:  # it gets warm while this process reads on
                modules = list(DEMONSTRATIONS) if args.cells == "all" else []
                for stage in {submission.stage: None for submission in submissions}:
                    modules += assignments[stage].modules()
                count = min(max(1, args.workers), len(submissions))
                warm = Warm(args.sandbox, 0, count, list(dict.fromkeys(modules)))
                stack.callback(warm.close)
        from autograder.engine import pool
        from autograder.evaluation import hidden_checks  # with torch: not before the warm process is on its way

        for stage in {row["stage"]: None for row in todo}:
            hidden_checks(STAGES[stage][0].id)  # imports the judges, once, and not in each worker
        writer = stack.enter_context(Writer(out, store, assignments))
        writer.waiting += known
        line = Progress(len(todo), len(known))
        waiting = {row["key"]: row for row in todo}

        def on_result(job: dict[str, Any], record: dict[str, Any]) -> None:
            store.put(job["key"], record)
            writer.waiting.append(waiting.pop(job["key"]))
            line.one(failed="failed" in record or bool(record.get("stopped")))

        def on_tick() -> None:
            check()
            writer.some()
            line.show()

        limits = {"cell_seconds": args.cell_seconds, "seconds": args.seconds}
        jobs = ({**job_of(row, assignments[row["stage"]], args.cells), **limits} for row in todo)
        status = 0
        try:
            with stop_between() as check:
                if args.scheduler:
                    cluster.run(jobs, args.scheduler, args.sandbox, on_result, on_tick)
                else:
                    pool.run(jobs, max(1, args.workers), args.sandbox, on_result, on_tick, warm)
        except KeyboardInterrupt:
            print("\ngrade: interrupted; run the same command to go on", file=sys.stderr)
            status = 130
            writer.waiting += [row for row in waiting.values() if row["key"] in store]  # what it had before stays
        writer.all()
        line.end()
    rows = [row for row in rows if "status" in row]
    same = integrity.identical(rows, assignments)
    for row in rows:
        others = same.get((row["stage"], row["student"]))
        row["flags"] += [f"the same code as {', '.join(others[:10])}"] if others else []
    write_whole(out / "report.html", report.page(rows, time.monotonic() - started).encode())
    stages = {submission.stage for submission in submissions}
    earlier = [row for row in graded_before(out, store) if row["stage"] not in stages]
    table = report.table(sorted(earlier + rows, key=lambda row: (row["stage"], row["student"])))
    write_whole(out / "grades.csv", table.encode())
    attention = [row for row in rows if row["status"] != "graded"]
    for row in attention:
        print(f"needs attention: {row['student']}, {row['stage']}: {row['problem'][:300]}")
    print(f"{len(rows) - len(attention)} graded, {len(attention)} need attention; seed {seed}; {out / 'grades.csv'}")
    return status or int(bool(attention))


def graded_before(out: Path, store: Store) -> Iterator[dict[str, Any]]:
    """What `report.table` needs of everything that was written into this course folder."""
    for path in (out / ".grading" / "written").glob("*/*.json"):
        key, problem, _, *notes = json.loads(path.read_text(encoding="utf-8"))
        if path.parent.name in STAGES and (problem or key in store):
            record = {} if problem else store.get(key)
            row = {"student": path.stem, "stage": path.parent.name, "problem": problem, "notes": notes}
            yield {**record, **row, "status": "needs attention" if problem else "graded"}


def plan(submission: Submission, assignment: Assignment, seed: int, cells: str) -> dict[str, Any]:
    """A submission's row: who, what was taken from the file, and the key that its result will have."""
    answers = answers_in(submission, assignment)
    own_seed = seed_of(seed, submission.stage, submission.student)
    parts = [
        submission.student,
        submission.stage,
        submission.hash,
        assignment.hash,
        environment_hash(),
        own_seed,
        cells,
    ]
    return {
        "student": submission.student,
        "stage": submission.stage,
        "origin": submission.origin,
        "problem": submission.problem,
        "notes": list(submission.notes),
        "answers": answers,
        "own": submission.own,
        "flags": [],
        "seed": own_seed,
        "key": key_of(*parts),
    }


def job_of(row: dict[str, Any], assignment: Assignment, which: str) -> dict[str, Any]:
    """What a worker needs to grade a row.

    A cell that is no code has an empty source; one whose source no answer needs is ``spare``, unless ``which`` is
    ``"all"``. A check's own source is: the judge asks more than it does.
    """
    rebuilt = assignment.rebuilt(row["answers"], row["own"])
    sources = [cell["source"] if cell["cell_type"] == "code" else "" for cell in rebuilt]
    exercises = [assignment.exercise_of.get(grade_id(cell)) for cell in rebuilt]
    if which == "all":
        run = [True] * len(rebuilt)
    else:
        names = {name for exercise in STAGES[row["stage"]] for name in exercise.names}
        run = needed(list(zip(sources, map(kind_of, rebuilt), strict=True)), names)
    cells = [
        {"source": source, "exercise": exercise, "spare": not runs}
        for source, exercise, runs in zip(sources, exercises, run, strict=True)
    ]
    return {"key": row["key"], "stage": row["stage"], "seed": row["seed"], "cells": cells}


def kind_of(cell: dict[str, Any]) -> str:
    """What `autograder.engine.needed.needed` calls a cell."""
    known = nbgrader(cell)
    if known.get("solution"):
        return "answer"
    return "always" if known.get("locked") and not known.get("grade") else "maybe"


#: What demonstrations import on their way; torch's compiler comes with any optimiser, and takes over a second.
DEMONSTRATIONS = ("matplotlib.pyplot", "pandas", "torch._dynamo")
#: Rows that are written in one transaction.
BATCH = 10


class Writer:
    """Writes what follows from results: gradebook, executed notebooks, feedback. Use as a context manager.

    Attributes:
        waiting: rows (see `plan`) whose results are in the store and not written out yet; or that have a problem.
    """

    def __init__(self, out: Path, store: Store, assignments: dict[str, Assignment]):
        self.out, self.store, self.assignments = out, store, assignments
        self.waiting: list[dict[str, Any]] = []
        self._book: Any = None
        self._stages: set[str] = set()
        self._last = time.monotonic()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._book is not None:
            self._book.__exit__()

    def some(self) -> None:
        """Write what waits, if it is worth a transaction. The first call opens the gradebook, which takes a while."""
        self._open()
        if len(self.waiting) >= BATCH or (self.waiting and time.monotonic() - self._last > 1):
            self.all()

    def all(self) -> None:
        """Write what waits: a stamp for each row says that the rest is there."""
        self._open()
        rows, self.waiting = self.waiting, []
        for start in range(0, len(rows), BATCH):
            stamps = [self._row(row) for row in rows[start : start + BATCH]]
            self._book.commit()
            for path, text in filter(None, stamps):
                write_whole(path, text.encode())
        self._last = time.monotonic()

    def _open(self) -> None:
        if self._book is None:
            from autograder.results import gradebook  # with nbgrader and much else

            self._book = gradebook.Book(self.out).__enter__()

    def _row(self, row: dict[str, Any]) -> tuple[Path, str] | None:
        record = {} if row["problem"] else self.store.get(row["key"])
        assignment = self.assignments[row["stage"]]
        row |= {key: value for key, value in record.items() if key != "outputs"}
        row["flags"] = integrity.flags(row, record, assignment)
        row["problem"] = row["problem"] or record.get("failed", "")
        row["status"] = "needs attention" if row["problem"] else "graded"
        if record.get("stopped"):
            row["notes"].append("; ".join(f"cell {s['cell'] + 1}: {s['why']}" for s in record["stopped"]))
        stamp = self.out / ".grading" / "written" / row["stage"] / f"{row['student']}.json"
        what = [row["key"], row["problem"], self.store.number(row["key"])]
        written, before = json.dumps(what + row["notes"]), stamp.read_text() if stamp.exists() else "[]"
        if json.loads(before)[: len(what)] == what:
            return None if before == written else (stamp, written)
        if row["stage"] not in self._stages:
            self._book.add_assignment(assignment)
            self._stages.add(row["stage"])
        whole = row | {"outputs": record.get("outputs", {})}  # the row itself stays small: there may be thousands
        self._book.write(assignment, whole)
        target = self.out / "feedback" / row["student"] / row["stage"] / f"{row['stage']}.html"
        if row["status"] == "graded":
            write_whole(target, feedback.page(assignment, whole).encode())
        else:
            target.unlink(missing_ok=True)
        return stamp, written


class Progress:
    """A line that says how far it is: done, rate, time left, failures."""

    def __init__(self, total: int, known: int):
        self.total, self.known, self.done, self.failures = total, known, 0, 0
        self.first = self.last = 0.0
        self.tty = sys.stderr.isatty()

    def one(self, failed: bool) -> None:
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.done += 1
        self.failures += failed
        if not self.tty and self.done % 25 == 0:
            print(self.text(), file=sys.stderr)

    def text(self) -> str:
        # the first result marks the end of warming up; from there on the rate says what a submission more costs
        rate = (self.done - 1) / max(self.last - self.first, 1e-6) if self.done > 1 else 0.0
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate else "warming up"
        width = 24
        bar = "#" * (width * self.done // max(self.total, 1))
        return (
            f"[{bar:<{width}}] {self.done}/{self.total} graded, {60 * rate:.0f} a minute, {left}, "
            f"{self.failures} with failures, {self.known} not graded again"
        )

    def show(self) -> None:
        if self.tty:
            print(f"\r{self.text()}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        print(("\r" if self.tty else "") + self.text(), file=sys.stderr)
