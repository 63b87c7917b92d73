"""``python -m autograder late``: what being late costs, by nbgrader's own plug-in, in a course that is graded.

Due dates are nbgrader's (`nbgrader db assignment add STAGE --duedate ...`, or formgrader). Times of submissions are
``submitted/STUDENT/STAGE/timestamp.txt``, which nbgrader's collect writes, or those in Moodle's grading worksheet. Run
it after the written answers are graded, because a share of the points needs to know the points; run it again after any
change, of an extension too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.exercises import STAGES
from autograder.files import sentence
from autograder.results.late import PerDay, apply, late_without_a_time, stages_without_a_date

__all__ = ["PerDay"]  # the path that a course's settings name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--graded", type=Path, required=True, metavar="DIR", help="the graded course")
    parser.add_argument("--submitted", type=Path, metavar="DIR", help="STUDENT/STAGE/timestamp.txt")
    parser.add_argument("--table", type=Path, metavar="CSV", help="Moodle's grading worksheet of --stage")
    parser.add_argument("--stage", choices=sorted(STAGES), help="the worksheet's stage")
    parser.add_argument(
        "--timezone", metavar="ZONE", help="the worksheet's, such as Europe/London (default: the machine's)"
    )


def main(args: argparse.Namespace) -> int:
    """Exit status 0, or 2 if there is nothing to work on."""
    try:
        if (args.table is None) != (args.stage is None):
            raise ValueError("--table and --stage belong together")
        late = apply(args.graded, args.submitted, args.stage, args.table, args.timezone)
    except (OSError, ValueError) as error:
        print(f"late: {sentence(error)}", file=sys.stderr)
        return 2
    for stage, student, hours, points in late:
        print(f"{student}, {stage}: {hours:.1f} h late, {points:g} points off")
    known = {(stage, student) for stage, student, *_ in late}
    unknown = [
        f"{student}, {stage}" for stage, student in late_without_a_time(args.graded) if (stage, student) not in known
    ]
    if unknown:
        print(f"late, says Canvas, which tells no time (its Late Policies can take points off): {'; '.join(unknown)}")
    if undated := stages_without_a_date(args.graded):
        print(f"no due date, so nothing is late: {', '.join(undated)} (nbgrader db assignment add STAGE --duedate=...)")
    print(f"{len(late)} late")
    return 0
