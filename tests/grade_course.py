"""Sample classes for the tests of ``python -m autograder grade``, and a way to run it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat

from autograder.bank.attacks import attacks
from autograder.demo import ROOT, fill, sample_answers

STAGE = "02_lora_layer"


def notebooks(stage: str = STAGE) -> tuple[dict, dict]:
    """The release and the worked solution, as plain data."""
    return tuple(
        json.loads((ROOT / folder / stage / f"{stage}.ipynb").read_text(encoding="utf-8"))
        for folder in ("notebooks", "solutions")
    )


def hand_in(folder: Path, student: str, data: bytes, stage: str = STAGE) -> Path:
    """Put a file where nbgrader's collect would."""
    path = folder / "submitted" / student / stage / f"{stage}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def sample(answer: str, stage: str = STAGE) -> bytes:
    """One of `autograder.demo.sample_answers` as a file."""
    release, worked = (nbformat.reads(json.dumps(n), as_version=4) for n in notebooks(stage))
    return nbformat.writes(fill(release, worked, sample_answers(stage)[answer])).encode()


def write_class(folder: Path, stage: str = STAGE) -> None:
    """The four honest submissions."""
    for answer in sample_answers(stage):
        hand_in(folder, answer, sample(answer, stage), stage)


def write_attacks(folder: Path) -> None:
    """Every attack of the bank as a student's submission."""
    for attack in attacks():
        hand_in(folder, attack.id, attack.make(*notebooks()))


def command(submissions: Path, out: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "autograder", "grade", "--submissions", str(submissions), "--out", str(out)),
        *("--stage", STAGE, "--cells", "needed", "--seed", "7", *options),
    ]


def grade(submissions: Path, out: Path, *options: str) -> subprocess.CompletedProcess:
    """Run the command to its end."""
    environment = {**os.environ, "A_SECRET": "of-the-instructor", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(submissions, out, *options), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def grades(out: Path) -> dict[str, dict[str, str]]:
    """``grades.csv``, by student."""
    with open(out / "grades.csv", encoding="utf-8", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}
