"""``python -m autograder grade``: grade a class in parallel, in a sandbox, into nbgrader's gradebook.

Run it again after an interruption, or with more submissions: what is graded already is not graded again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autograder.engine import cluster, judging
from autograder.engine.assignment import ROOT, Assignment
from autograder.engine.job import Row, job_of
from autograder.engine.progress import Progress, stop_between
from autograder.engine.sandbox import UNPROTECTED, SandboxError, Warm, keep_out, require
from autograder.engine.store import Store, locked
from autograder.exercises import STAGES
from autograder.files import ignored_by_git, sentence
from autograder.intake.discover import discover
from autograder.intake.plan import plan, unreadable
from autograder.intake.register import Register
from autograder.intake.submission import Submission
from autograder.marking import page
from autograder.results import exchange, handed_in, history, integrity, roster
from autograder.results.fit import misfit
from autograder.results.writer import Writer, write_tables

#: What demonstrations import on their way; torch's compiler comes with any optimiser, and takes over a second.
DEMONSTRATIONS = ("matplotlib.pyplot", "pandas", "torch._dynamo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--submissions", type=Path, required=True, metavar="DIR", help="what the students handed in")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the course folder to write")
    parser.add_argument(
        "--names",
        metavar="FORM",
        help="who handed in what: a pattern of file names, '{student}_{any}.ipynb', or a table of files and students",
    )
    parser.add_argument("--stage", nargs="+", choices=sorted(STAGES), metavar="STAGE", help="default: all there are")
    parser.add_argument("--workers", type=int, default=processors(), help="default: one a processor, %(default)s")
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="grade on the workers of this Dask scheduler (tcp://host:8786); see docs/grading_on_a_cluster.md",
    )
    parser.add_argument("--seed", type=int, help="draw the inputs from this seed (default: the recorded ones, or new)")
    parser.add_argument("--regrade", action="store_true", help="grade again what has been graded")
    parser.add_argument("--dry-run", action="store_true", help="say who would be graded, and write nothing")
    parser.add_argument("--anyway", action="store_true", help="grade a batch that hardly fits the stage or the class")
    parser.add_argument("--sandbox", choices=["bwrap", "none"], default="bwrap", help="default: %(default)s")
    parser.add_argument(
        "--cells",
        choices=["needed", "all"],
        default="needed",
        help="needed: of the demonstrations, those that an answer uses; the grades are the same (default: %(default)s)",
    )
    parser.add_argument("--cell-seconds", type=float, default=120, help="time limit of a cell (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="time limit of a submission (default: %(default)s)")


def processors() -> int:
    """How many this process may use: a container or a job of a cluster may have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(args: argparse.Namespace) -> int:
    """Exit status 0: every submission has a grade; 1: some need attention; 2: nothing could be done; 130: Ctrl-C."""
    try:
        if args.dry_run:
            return dry_run(args, args.out.resolve())
        require("none" if args.scheduler else args.sandbox)  # a cluster's workers look for their own
        if args.sandbox == "none":
            print(UNPROTECTED, file=sys.stderr)
        out = args.out.resolve()
        keep_out(args.submissions, out)
        with locked(out):
            ignored_by_git(out)
            return grade(args, out)
    except (SandboxError, cluster.ClusterError, OSError) as error:
        print(f"grade: {sentence(error)}", file=sys.stderr)
        return 2


def stages_of(args: argparse.Namespace) -> dict[str, Assignment]:
    """The stages that are asked for and built."""
    assignments: dict[str, Assignment] = {}
    for stage in args.stage or STAGES:
        with contextlib.suppress(FileNotFoundError):
            assignments[stage] = Assignment.load(stage, ROOT)
    return assignments


def register_of(out: Path) -> Register:
    """Who is who in the course, and which names tell nobody."""
    register = Register(out)
    register.namesakes = roster.namesakes(roster.load(out))
    return register


def dry_run(args: argparse.Namespace, out: Path) -> int:
    """Say what a run would find; exit status 0, or 2 if it would ask first."""
    assignments, register, before = stages_of(args), register_of(out), history.stamps(out)
    submissions = discover(args.submissions, assignments, args.names, register)
    judging.load((), {submission.stage for submission in submissions})
    rows = [plan(submission, assignments[submission.stage], 0, args.cells) for submission in submissions]
    for row in rows:
        known = "again" if (row.stage, row.student) in before else "new"
        print(f"{row.stage}  {known:<5}  {row.student}  {'; '.join(row.attention)[:200] or 'fits'}")
    doubt = misfit(rows, set(before), roster.load(out), register.numbers())
    problems = sum(bool(row.problem) for row in rows)
    print(f"{len(rows)} submissions, {problems} of them cannot be graded; nothing is written. {doubt}".strip())
    return 2 if doubt else 0


def sure(doubt: str) -> bool:
    """Ask whether to go on; where nobody can answer, no."""
    print(f"grade: {doubt}", file=sys.stderr)
    print("A wrong or damaged zip? --dry-run lists all; --anyway grades them.", file=sys.stderr)
    return sys.stdin is not None and sys.stdin.isatty() and input("Grade them? [y/N] ").strip().lower() == "y"


def job_for(row: Row, assignment: Assignment, cells: str) -> dict[str, Any] | None:
    """A row's job, with a doubt in it where its sources do what only forging needs; None: it is a problem now."""
    try:
        return job_of(row, assignment, cells) | {"doubt": integrity.suspicious(row, assignment)}
    except Exception as error:  # whatever it is, it is this submission's alone
        row.problem = unreadable(error)
        return None


def warming(
    args: argparse.Namespace, submissions: Sequence[Submission], assignments: dict[str, Assignment]
) -> contextlib.closing[Warm]:
    """The warm process for a run, which gets warm while this one reads on."""
    modules = list(DEMONSTRATIONS) if args.cells == "all" else []
    for stage in {submission.stage: None for submission in submissions}:
        modules += assignments[stage].modules()
    count = min(max(1, args.workers), len(submissions))
    return contextlib.closing(Warm(args.sandbox, 0, count, list(dict.fromkeys(modules))))


def grade(args: argparse.Namespace, out: Path) -> int:
    """Plan, run, write; what was done when it is interrupted stays done."""
    started = time.monotonic()
    assignments, register, before = stages_of(args), register_of(out), history.stamps(out)
    submissions = discover(args.submissions, assignments, args.names, register)
    if not submissions:
        raise FileNotFoundError(f"no submission of {', '.join(assignments)} in {args.submissions}")
    store = Store(out / ".grading")
    seed = store.seed(args.seed)
    rows: list[Row] = []
    known: list[Row] = []
    todo: list[Row] = []
    with contextlib.ExitStack() as stack:
        warm: Warm | None = None
        new = args.regrade or any((submission.stage, submission.student) not in before for submission in submissions)
        if new and not args.scheduler:
            warm = stack.enter_context(warming(args, submissions, assignments))
        judging.load({submission.stage for submission in submissions}, {stage for stage, _ in before})
        evidence = stack.enter_context(handed_in.Waiting())
        for submission in submissions:
            row = plan(submission, assignments[submission.stage], seed, args.cells)
            rows.append(row)
            evidence.add(submission.student, submission.stage, submission.evidence)
            submission.cells, submission.evidence = [], {}  # the row has them, for as long as they are needed
            if row.problem or (row.key in store and not args.regrade):
                known.append(row)
                continue
            todo.append(row)
            if warm is None and not args.scheduler:
                warm = stack.enter_context(warming(args, submissions, assignments))
        doubt = misfit(rows, set(before), roster.load(out), register.numbers())
        if doubt and not args.anyway and not sure(doubt):
            return 2
        register.save()
        evidence.keep(out)
        from autograder.engine import pool  # with the judges: not before the warm process is on its way

        writer = stack.enter_context(Writer(out, store, assignments, {row.stage for row in todo}))
        writer.waiting += known
        line = Progress(len(todo), len(known))
        waiting = {row.key: row for row in todo}

        def on_result(job: dict[str, Any], record: dict[str, Any]) -> None:
            store.put(job["key"], record)
            writer.waiting.append(waiting.pop(job["key"]))
            line.add(failed="failed" in record or bool(record.get("stopped")))

        def on_tick() -> None:
            check()
            writer.some()
            line.show()

        limits = {"cell_seconds": args.cell_seconds, "seconds": args.seconds}

        def jobs() -> Iterator[dict[str, Any]]:
            for row in todo:
                if job := job_for(row, assignments[row.stage], args.cells):
                    yield job | limits
                    continue
                writer.waiting.append(waiting.pop(row.key))
                line.add(failed=True)

        status = 0
        try:
            with stop_between() as check:
                if args.scheduler:
                    cluster.run(jobs(), args.scheduler, args.sandbox, on_result, on_tick)
                else:
                    pool.run(jobs(), max(1, args.workers), args.sandbox, on_result, on_tick, warm)
        except KeyboardInterrupt:
            print("\ngrade: interrupted; run the same command to go on", file=sys.stderr)
            status = 130
            writer.waiting += [row for row in waiting.values() if row.key in store]  # what it had before stays
        writer.all()
        line.end()
    hashes = {(s.stage, s.student): s.hash for s in submissions}
    rows = [row for row in rows if row.status]
    history.record(out, store, before, rows, hashes, str(args.submissions))
    roster.name_students(out)
    exchange.keep(out, rows)
    graded_stages = {stage: assignments[stage] for stage in {submission.stage: None for submission in submissions}}
    write_tables(out, store, rows, graded_stages, time.monotonic() - started)
    page.write(out)
    attention = [row for row in rows if row.status != "graded"]
    for row in attention:
        print(f"needs attention: {row.student}, {row.stage}: {row.problem[:300]}")
    print(f"{len(rows) - len(attention)} graded, {len(attention)} need attention; seed {seed}; {out / 'grades.csv'}")
    return status or int(bool(attention))
