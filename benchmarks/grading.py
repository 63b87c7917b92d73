"""Submissions per minute: ``nbgrader autograde`` beside ``python -m autograder grade`` in its sandbox.

The same honest submissions of stage 02 for both; nbgrader grades the first of them, one after the other, and its rate
is taken from those. The second rate of a line leaves out the start-up, which a class of hundreds does not notice.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from autograder.demo import ROOT, fill, sample_answers

STAGE = "02_lora_layer"
SUBMISSIONS, WITH_NBGRADER, WORKERS = 24, 4, 2
LIMIT = 20.0


def run() -> bool:
    """Print both rates and their ratio; True if the claim holds."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        root = Path(folder)
        students = write(root, SUBMISSIONS)
        plain = nbgrader(root, students[:WITH_NBGRADER])
        print(f"   nbgrader autograde: {60 * WITH_NBGRADER / plain:.1f} a minute ({WITH_NBGRADER} in {plain:.0f} s)")
        ratios = {}
        for cells in ("all", "graded"):
            seconds, steady = grade(root, root / cells, cells)
            whole = SUBMISSIONS / seconds / (WITH_NBGRADER / plain)
            ratios[cells] = whole
            warm = float(steady) / 60 / (WITH_NBGRADER / plain)
            rate = 60 * SUBMISSIONS / seconds
            print(
                f"   grade --cells {cells}, {WORKERS} workers: {SUBMISSIONS} in {seconds:.0f} s, {rate:.0f} a minute "
                f"with start-up, ratio {whole:.1f}; once warm {steady} a minute, ratio {warm:.1f}"
            )
    return ratios["all"] >= LIMIT


def write(root: Path, count: int) -> list[str]:
    """A class of ``count`` honest submissions under ``root/submitted``; returns the students."""
    worked, release = (
        nbformat.read(ROOT / folder / STAGE / f"{STAGE}.ipynb", as_version=4) for folder in ("solutions", "notebooks")
    )
    answers = list(sample_answers(STAGE).items())
    students = []
    for number in range(count):
        name, answer = answers[number % len(answers)]
        students.append(f"{number:03}-{name}")
        path = root / "submitted" / students[-1] / STAGE / f"{STAGE}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(fill(release, worked, answer), path)
    target = root / "solutions" / STAGE
    target.mkdir(parents=True)
    shutil.copy(ROOT / "solutions" / STAGE / f"{STAGE}.ipynb", target)
    return students


def nbgrader(root: Path, students: list[str]) -> float:
    """Seconds of ``nbgrader autograde`` on some students."""
    line = [sys.executable, "-m", "nbgrader"]
    common = [f"--CourseDirectory.root={root}", "--log-level=ERROR"]
    subprocess.run([*line, "generate_assignment", STAGE, *common], cwd=ROOT, check=True, capture_output=True)
    others = sorted({path.name for path in (root / "submitted").iterdir()} - set(students))
    aside = root / "aside"
    aside.mkdir()
    for student in others:
        (root / "submitted" / student).rename(aside / student)
    started = time.perf_counter()
    subprocess.run([*line, "autograde", STAGE, *common], cwd=ROOT, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    for student in others:
        (aside / student).rename(root / "submitted" / student)
    return seconds


def grade(root: Path, out: Path, cells: str) -> tuple[float, str]:
    """Seconds of the whole command, and the rate that its progress line ends with."""
    line = [sys.executable, "-m", "autograder", "grade", "--submissions", str(root), "--out", str(out)]
    line += ["--workers", str(WORKERS), "--stage", STAGE, "--cells", cells]
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, re.findall(r"(\d+) a minute", done.stderr)[-1]
