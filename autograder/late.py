"""``python -m autograder late``: what being late costs, by nbgrader's own plug-in, in a course that is graded.

Due dates are nbgrader's (`nbgrader db assignment add STAGE --duedate ...`, or formgrader), and so are the times of
submissions: ``submitted/STUDENT/STAGE/timestamp.txt``, which nbgrader's collect writes. Run it after the written
answers are graded, because a share of the points needs to know the points; run it again after any change.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.results.late import PerDay, apply

__all__ = ["PerDay"]  # the path that a course's settings name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--graded", type=Path, required=True, metavar="DIR", help="the graded course")
    parser.add_argument("--submitted", type=Path, required=True, metavar="DIR", help="STUDENT/STAGE/timestamp.txt")


def main(args: argparse.Namespace) -> int:
    """Exit status 0, or 2 if there is nothing to work on."""
    try:
        late = apply(args.graded, args.submitted)
    except (OSError, ValueError) as error:
        print(f"late: {error}", file=sys.stderr)
        return 2
    for stage, student, hours, points in late:
        print(f"{student}, {stage}: {hours:.1f} h late, {points:g} points off")
    print(f"{len(late)} late")
    return 0
