"""Submissions per minute: ``nbgrader autograde`` beside ``python -m autograder grade`` in its sandbox.

The same honest submissions of stage 02 for both. Start-up is counted unless a figure says otherwise. Then larger
classes, for what a submission more costs and whether memory grows.

Most of the start-up is one thing, torch's import in the sandbox. Beside it, on another processor, the command imports
nbgrader, opens the gradebook and reads the pages' templates; its judges need no torch (`autograder.engine.judging`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil

from autograder.demo import ROOT, fill, sample_answers

STAGE = "02_lora_layer"
SUBMISSIONS, WORKERS = 24, 2
LARGER = (300, 1000)
LIMIT, LIMIT_WARM, MORE_COST, MORE_MEMORY, MEMORY = 30.0, 60.0, 1.15, 1.15, 1200


@dataclass
class Run:
    """One run of the command.

    Attributes:
        count: of submissions.
        seconds: from its start to its end.
        warm: seconds from the first result to the last, for each result but the first.
        peak: most memory of all its processes together, in MiB; what they share, as forks do, is counted once.
    """

    count: int
    seconds: float
    warm: float
    peak: float

    def __str__(self) -> str:
        return (
            f"{self.count} in {self.seconds:.1f} s, {60 * self.count / self.seconds:.0f} a minute; a submission "
            f"{self.seconds / self.count:.3f} s with start-up, {self.warm:.3f} s without; start-up and end "
            f"{self.seconds - self.count * self.warm:.1f} s; memory {self.peak:.0f} MiB"
        )


def run() -> bool:
    """Print the rates, their ratio, cost and memory of larger classes; True if the claims hold."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        root = Path(folder)
        write(root, SUBMISSIONS)
        plain = nbgrader(root)
        print(f"   nbgrader autograde: {SUBMISSIONS} in {plain:.0f} s, {60 * SUBMISSIONS / plain:.1f} a minute")
        first = grade(root, SUBMISSIONS)
        ratio, warm = plain / first.seconds, plain / SUBMISSIONS / first.warm
        print(f"   grade, {WORKERS} workers, sandbox: {first}")
        print(f"   ratio {ratio:.1f} with start-up, {warm:.1f} without (at least {LIMIT:g} and {LIMIT_WARM:g})")
        every = grade(root, SUBMISSIONS, "--cells", "all")
        print(f"   grade --cells all: {every}; ratio {plain / every.seconds:.1f}")
        print(f"   memory {first.peak:.0f} MiB (less than {MEMORY})")
        holds = ratio >= LIMIT and warm >= LIMIT_WARM and first.peak < MEMORY
        for count in LARGER:
            larger = Path(folder) / str(count)
            write(larger, count)
            there = grade(larger, count)
            print(f"   grade: {there}")
            cost, memory = there.warm / first.warm, there.peak / first.peak
            print(
                f"   a submission more costs {cost:.2f} times what it does among {SUBMISSIONS} (at most {MORE_COST:g})"
            )
            print(f"   and all take {memory:.2f} times the memory (at most {MORE_MEMORY:g})")
            holds = holds and cost <= MORE_COST and memory <= MORE_MEMORY
    return holds


def write(root: Path, count: int) -> None:
    """A class of honest submissions under ``root/submitted``: complete, half done, with mistakes, untouched."""
    worked, release = (
        nbformat.read(ROOT / folder / STAGE / f"{STAGE}.ipynb", as_version=4) for folder in ("solutions", "notebooks")
    )
    files = [nbformat.writes(fill(release, worked, answer)) for answer in sample_answers(STAGE).values()]
    for number in range(count):
        path = root / "submitted" / f"s{number:04}" / STAGE / f"{STAGE}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(files[number % len(files)], encoding="utf-8", newline="\n")
    target = root / "solutions" / STAGE
    target.mkdir(parents=True)
    shutil.copy(ROOT / "solutions" / STAGE / f"{STAGE}.ipynb", target)


def nbgrader(root: Path) -> float:
    """Seconds of ``nbgrader autograde`` with the course's settings."""
    line = [sys.executable, "-m", "nbgrader"]
    common = [f"--CourseDirectory.root={root}", "--log-level=ERROR"]
    subprocess.run([*line, "generate_assignment", STAGE, *common], cwd=ROOT, check=True, capture_output=True)
    started = time.perf_counter()
    subprocess.run([*line, "autograde", STAGE, *common], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def grade(root: Path, count: int, *options: str) -> Run:
    """Run the command on a new output folder."""
    line = [sys.executable, "-m", "autograder", "grade", "--submissions", str(root / "submitted"), "--stage", STAGE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        tempfile.TemporaryDirectory(prefix="bench-out-") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        started = time.perf_counter()
        process = subprocess.Popen(
            [*line, "--out", out, "--workers", str(WORKERS), *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(psutil.Process(process.pid)))
            time.sleep(0.4)  # looking through the machine's processes costs time too
        seconds = time.perf_counter() - started
        errors.seek(0)
        text = errors.read()
        if process.returncode or len((Path(out) / "grades.csv").read_text(encoding="utf-8").splitlines()) != count + 1:
            raise RuntimeError(f"grade ended with {process.returncode}: {text[-2000:]}")
    return Run(count, seconds, 60 / float(re.findall(r"(\d+) a minute", text)[-1]), peak / 2**20)


def resident(process: psutil.Process) -> int:
    """Bytes of memory that a process and all that come from it take, each page once."""
    total = 0
    try:
        for each in [process, *process.children(recursive=True)]:
            try:
                total += each.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied:  # another user's: what it shares is counted with it
                total += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total
