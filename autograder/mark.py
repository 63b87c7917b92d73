"""``python -m autograder mark``: how far marking is, and the notebook in which it is done."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from autograder.engine import judging
from autograder.exercises import STAGES
from autograder.files import sentence
from autograder.marking import page
from autograder.marking.desk import Desk
from autograder.results.database import explained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--graded", type=Path, default=Path("."), metavar="DIR", help="the graded course (default: here)"
    )
    parser.add_argument("--open", action="store_true", help="start JupyterLab on the marking page")


def main(args: argparse.Namespace) -> int:
    """Exit status 0: every written answer is marked; 1: some are left; 2: there is no graded course."""
    out = args.graded.resolve()
    judging.load((), STAGES)
    try:
        with explained(out / "gradebook.db"):
            questions = Desk(out, "").questions()
            path = page.write(out)
    except OSError as error:
        print(f"mark: {sentence(error)}", file=sys.stderr)
        return 2
    for question in questions:
        blank = f", {question.blank} blank" if question.blank else ""
        print(f"{question.exercise.id:<5}{question.total - question.left:>5} of {question.total} marked{blank}")
    left = sum(question.left for question in questions)
    print(f"{left} left; mark them in {os.path.relpath(path)}: open it in JupyterLab, or give --open")
    if args.open:
        return subprocess.run([sys.executable, "-m", "jupyterlab", page.NAME], cwd=out, check=False).returncode
    return int(bool(left))
