"""``python -m autograder export``: fill in a platform's own table of grades, and pack the feedback for the way back.

A submission with a written answer that nobody has graded yet has no final grade: its row stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.exercises import STAGES
from autograder.files import write_whole
from autograder.results.tables import ExportError, feedback_zip, fill, finals


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
    parser.add_argument("--column", help="Canvas: the title of the column, if the stage's name is not in it")


def main(args: argparse.Namespace) -> int:
    """Exit status 0: every submission is in the table; 1: some are not, or wait for a person; 2: nothing written."""
    try:
        results = finals(args.graded, args.stage)
        text, filled, platform = fill(args.table.read_text(encoding="utf-8-sig"), args.stage, results, args.column)
    except (ExportError, OSError, UnicodeDecodeError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    write_whole(args.out / "grades.csv", text.encode())
    written = ["grades.csv"]
    if platform == "moodle":
        write_whole(args.out / "feedback.zip", feedback_zip(args.graded, args.stage, filled))
        written.append("feedback.zip")
    waiting = sorted(s for s in filled if results[s].score is None)
    absent = sorted(set(results) - set(filled))
    for what, students in (("written answers to grade", waiting), ("no row in the table", absent)):
        if students:
            print(f"{what}: {', '.join(students)}")
    counts = f"{len(filled) - len(waiting)} of {len(results)} grades for {platform.capitalize()}"
    print(f"{args.stage}: {counts}, in {args.out}: {', '.join(written)}")
    return int(bool(waiting or absent))
