"""``python -m autograder check STAGE FILE``: judge one file and print the points.

The answer runs in a process of its own, which reports one exercise at a time. If that process hangs in C code, is
killed or exits early, what it had reported stands and the rest earns nothing. This is for an instructor's own files and
for trying an answer out: the answer runs with the rights of whoever called, and could forge its report.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from autograder.engine import border
from autograder.evaluation import stopped
from autograder.exercises import STAGES

#: Seconds for the whole answer: imports, its cells, and the checks of its stage.
SECONDS = 300
#: Characters of one text of a report.
MAX_MESSAGE = 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", metavar="STAGE", choices=sorted(STAGES), help=", ".join(STAGES))
    parser.add_argument("file", metavar="FILE", type=Path, help="a .ipynb or .py file")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--seed", type=int, default=None, help="draw the inputs from this seed (default: a new one)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="time limit for all of it (default: %(default)s)"
    )


def main(args: argparse.Namespace) -> int:
    """Print the report. Exit status 0: full marks in all automatic exercises; 1: not; 2: the file cannot be read."""
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    if not args.file.is_file():
        print(f"no such file: {args.file}", file=sys.stderr)
        return 2
    report = check_file(args.stage, args.file, seed, args.seconds)
    if "unreadable" in report:
        print(report["unreadable"], file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        for error in report["errors"]:
            print(f"note: {error}")
        for result in report["results"]:
            print(result["message"])
        print(f"{args.stage}: {report['score']:g} of {report['max_score']:g} points (seed {seed})")
    return 0 if report["score"] == report["max_score"] else 1


def check_file(stage: str, path: Path, seed: int, seconds: float = SECONDS) -> dict:
    """Judge ``path`` in another process.

    Returns:
        `autograder.Report.to_dict`'s keys and ``"errors"``, one line for each cell that raised; or ``{"unreadable":
        reason}``.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.jsonl"
        command = [sys.executable, "-m", "autograder.check", stage, str(path.resolve()), str(seed), str(out)]
        ended, started = f"the process was stopped after {seconds:g} s", time.time()
        try:
            # its own folder, so that what an answer writes lands nowhere near the caller's files
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": _import_path()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                ended = f"the process ended early (status {_wait(process, seconds)})"
            finally:
                end_all(process, started)
        except subprocess.TimeoutExpired:
            pass
        text = out.read_text(encoding="utf-8") if out.exists() else ""
        lines = [border.clean(json.loads(line), MAX_MESSAGE) for line in text.split("\n") if line]
    if lines and "unreadable" in lines[0]:
        return lines[0]
    errors = next((line["errors"] for line in lines if "errors" in line), [])
    reported = {line["id"]: line for line in lines if "id" in line}
    results = [reported.get(e.id) or stopped(e.id, ended).to_dict() for e in STAGES[stage] if not e.manual]
    return {
        "stage": stage,
        "seed": seed,
        "score": sum(r["earned"] for r in results),
        "max_score": sum(r["points"] for r in results),
        "results": results,
        "errors": errors,
    }


def _wait(process: subprocess.Popen, seconds: float) -> int:
    """`Popen.wait`; while the process is ready to run and others have the processor, its time stands still."""
    from lora_ref.checks.clock import WALL, starved

    began, back = time.monotonic(), 0.0
    while True:
        try:
            return process.wait(max(0.0, began + seconds + back - time.monotonic()))
        except subprocess.TimeoutExpired:
            before, back = back, min(starved(str(process.pid)) or 0.0, (WALL - 1) * seconds)
            if back - before < seconds / 100:
                raise


def end_all(process: subprocess.Popen, started: float) -> None:
    """Kill a process that leads a session, and whatever it started.

    Windows has no sessions, but there a process keeps its parent's number, also when the parent has ended.

    Args:
        started: the time just before the process began: a number may have been another's before.
    """
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        running = [p.info for p in psutil.process_iter(["pid", "ppid", "create_time"])]
        later = [info for info in running if (info["create_time"] or 0) > started - 1]
        family = [process.pid]
        for parent in family:  # it grows on the way
            family += [i["pid"] for i in later if i["ppid"] == parent and i["pid"] not in family]
        killed = []
        for pid in family:
            with contextlib.suppress(psutil.Error):
                killed.append(psutil.Process(pid))
                killed[-1].kill()
        psutil.wait_procs(killed, timeout=10)  # until then their folder can't be removed
    process.wait()


def _import_path() -> str:
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))


def _child(stage: str, path: str, seed: str, out: str) -> None:
    """What the other process does: run the answer, judge exercise by exercise, append each result at once."""
    from autograder.answers import load_answer
    from autograder.evaluation import evaluate_exercise

    with open(out, "a", encoding="utf-8") as report:

        def tell(line: dict) -> None:
            print(json.dumps(line), file=report, flush=True)

        try:
            answer = load_answer(path)
        except (ValueError, OSError) as error:
            tell({"unreadable": str(error)})
            return
        tell({"errors": answer.errors})
        for row in STAGES[stage]:
            if not row.manual:
                tell(evaluate_exercise(row.id, answer.namespace, int(seed)).to_dict())


if __name__ == "__main__":
    _child(*sys.argv[1:])
