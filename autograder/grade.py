"""``python -m autograder grade``: grade a class in parallel, in a sandbox, into nbgrader's gradebook.

Run it again after an interruption, or with more submissions: what is graded already is not graded again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autograder.contract import STAGES
from autograder.files import write_whole
from autograder.run import cluster, feedback, intake, integrity, pool, report
from autograder.run.assignment import ROOT, Assignment, environment_hash, grade_id
from autograder.run.cluster import ClusterError
from autograder.run.sandbox import UNPROTECTED, SandboxError, Warm, require
from autograder.run.store import Store, key_of, seed_of


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
        choices=["all", "graded"],
        default="all",
        help="graded: leave out the demonstrations between set-up, solutions and checks (default: %(default)s)",
    )
    parser.add_argument("--cell-seconds", type=float, default=120, help="time limit of a cell (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="time limit of a submission (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Exit status 0: every submission has a grade; 1: some need attention; 2: nothing could be done; 130: Ctrl-C."""
    try:
        if not args.scheduler:  # else the sandbox is the workers', and they look for it
            require(args.sandbox)
        if args.sandbox == "none":
            print(UNPROTECTED, file=sys.stderr)
        out = args.out.resolve()
        with locked(out):
            return grade(args, out)
    except (SandboxError, ClusterError, FileNotFoundError, BlockingIOError, BrokenPipeError) as error:
        print(f"grade: {error}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """One run at a time writes ``out`` (BlockingIOError: another one does)."""
    folder = out / ".grading"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another run is writing {out}") from None
        yield


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
    submissions = intake.discover(args.submissions, assignments)
    if not submissions:
        raise FileNotFoundError(f"no submission of {', '.join(assignments)} in {args.submissions}")
    store = Store(out / ".grading")
    seed = store.seed(args.seed)
    rows = [plan(submission, assignments[submission.stage], seed, args.cells) for submission in submissions]
    limits = {"cell_seconds": args.cell_seconds, "seconds": args.seconds}
    jobs, known = [], {}
    for row in rows:
        done = {} if row["problem"] else None if args.regrade else store.get(row["key"])
        if done is None:
            jobs.append({**job_of(row, assignments[row["stage"]], args.cells), **limits})
        else:
            known[row["key"]] = done
    count = min(max(1, args.workers), len(jobs))
    here = bool(jobs) and not args.scheduler
    warm = Warm(args.sandbox, 0, count) if here else None  # it gets warm while this process reads what it needs
    from autograder.run import gradebook

    with contextlib.ExitStack() as stack:
        if warm:
            stack.callback(warm.close)
        book = stack.enter_context(gradebook.Book(out))
        for stage in {row["stage"]: None for row in rows}:
            book.add_assignment(assignments[stage])
        for row in rows:
            if row["key"] in known:
                finish(row, known[row["key"]], assignments[row["stage"]], book, out)
        line = Progress(len(jobs), len(rows) - len(jobs))
        waiting = {row["key"]: row for row in rows}

        def on_result(job: dict[str, Any], record: dict[str, Any]) -> None:
            row = waiting[job["key"]]
            store.put(job["key"], record)
            finish(row, record, assignments[row["stage"]], book, out)
            line.one(failed="failed" in record or bool(record.get("stopped")))

        status = 0
        try:
            with stop_between() as check:
                if args.scheduler:
                    cluster.run(jobs, args.scheduler, args.sandbox, on_result, lambda: (check(), line.show()))
                else:
                    pool.run(jobs, count, args.sandbox, on_result, lambda: (check(), line.show()), warm)
        except KeyboardInterrupt:
            print("\ngrade: interrupted; run the same command to go on", file=sys.stderr)
            status = 130
        line.end()
    rows = [row for row in rows if "status" in row]
    same = integrity.identical(rows, assignments)
    for row in rows:
        others = same.get((row["stage"], row["student"]))
        row["flags"] += [f"the same code as {', '.join(others[:10])}"] if others else []
    write_whole(out / "report.html", report.page(rows, time.monotonic() - started).encode())
    write_whole(out / "grades.csv", gradebook.table(rows).encode())
    attention = [row for row in rows if row["status"] != "graded"]
    for row in attention:
        print(f"needs attention: {row['student']}, {row['stage']}: {row['problem'][:300]}")
    print(f"{len(rows) - len(attention)} graded, {len(attention)} need attention; seed {seed}; {out / 'grades.csv'}")
    return status or int(bool(attention))


def plan(submission: intake.Submission, assignment: Assignment, seed: int, cells: str) -> dict[str, Any]:
    """A submission's row: who, what was taken from the file, and the key that its result will have."""
    answers = intake.answers(submission, assignment)
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
        "flags": [],
        "seed": own_seed,
        "key": key_of(*parts),
    }


def job_of(row: dict[str, Any], assignment: Assignment, which: str) -> dict[str, Any]:
    """What a worker needs to grade a row; a cell that is no code, or not to be run, has an empty source."""
    cells = [
        {
            "source": cell["source"] if cell["cell_type"] == "code" and (which == "all" or grade_id(cell)) else "",
            "exercise": assignment.exercise_of.get(grade_id(cell)),
        }
        for cell in assignment.rebuilt(row["answers"])
    ]
    return {"key": row["key"], "stage": row["stage"], "seed": row["seed"], "cells": cells}


def finish(row: dict[str, Any], record: dict[str, Any], assignment: Assignment, book: Any, out: Path) -> None:
    """Put a result into its row and write everything that follows from it, unless it is written already."""
    row |= {key: value for key, value in record.items() if key != "outputs"}
    row["flags"] = integrity.flags(row, record, assignment)
    row["problem"] = row["problem"] or record.get("failed", "")
    row["status"] = "needs attention" if row["problem"] else "graded"
    if record.get("stopped"):
        row["notes"].append("; ".join(f"cell {s['cell'] + 1}: {s['why']}" for s in record["stopped"]))
    stamp = out / ".grading" / "written" / row["stage"] / f"{row['student']}.json"
    written = json.dumps([row["key"], row["problem"], record.get("graded_at")])
    if stamp.exists() and stamp.read_text() == written:
        return
    whole = row | {"outputs": record.get("outputs", {})}  # the row itself stays small: there may be thousands
    book.write(assignment, whole)
    target = out / "feedback" / row["student"] / row["stage"] / f"{row['stage']}.html"
    if row["status"] == "graded":
        write_whole(target, feedback.page(assignment, whole).encode())
    else:
        target.unlink(missing_ok=True)
    write_whole(stamp, written.encode())


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
