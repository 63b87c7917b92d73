"""``python -m autograder export``: fill in a platform's own table of grades, and pack the feedback for the way back.

A submission with a written answer that nobody has graded yet has no final grade: its row stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.exercises import STAGES
from autograder.files import write_whole
from autograder.results.tables import ExportError, Final, feedback_zip, fill, finals, text_of, too_many

__all__ = ["ExportError", "Final", "fill"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", metavar="STAGE", choices=sorted(STAGES), help=", ".join(STAGES))
    parser.add_argument(
        "--table", type=Path, required=True, metavar="CSV", help="Moodle's worksheet, Canvas's gradebook"
    )
    parser.add_argument(
        "--graded", type=Path, default=Path("."), metavar="DIR", help="the graded course (default: here)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("upload"), metavar="DIR", help="folder to write (default: upload)"
    )
    parser.add_argument("--above-maximum", action="store_true", help="write more points than the stage has, too")
    parser.add_argument("--column", help="Canvas: the title of the column, if the stage's name is not in it")


def main(args: argparse.Namespace) -> int:
    """Exit status 0: every submission is in the table; 1: some are not, or wait for a person; 2: nothing written."""
    try:
        results = finals(args.graded, args.stage)
        table = text_of(args.table.read_bytes())
        text, filled, platform = fill(table, args.stage, results, args.column, args.above_maximum)
    except (ExportError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    write_whole(args.out / "grades.csv", text.encode())
    written = ["grades.csv"]
    if platform == "moodle":
        write_whole(args.out / "feedback.zip", feedback_zip(args.graded, args.stage, filled))
        written.append("feedback.zip")
    waiting = sorted(s for s in filled if results[s].score is None)
    absent = sorted(set(results) - set(filled))
    above = too_many({student: results[student] for student in filled})
    left = "more points than the stage has, not written (a bonus: --above-maximum)"
    left = "more points than the stage has" if args.above_maximum else left
    for what, students in (("written answers to grade", waiting), ("no row in the table", absent), (left, above)):
        if students:
            print(f"{what}: {', '.join(students)}")
    unwritten = len(waiting) + (0 if args.above_maximum else len(above))
    counts = f"{len(filled) - unwritten} of {len(results)} grades for {platform.capitalize()}"
    print(f"{args.stage}: {counts}, in {args.out}: {', '.join(written)}")
    return int(bool(unwritten or absent))
