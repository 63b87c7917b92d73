"""``python -m autograder export``: fill in a platform's own table of grades, and pack the feedback for the way back.

A submission with a written answer that nobody has graded yet has no final grade: its row stays as it is. Whatever
else was in the table and is changed, is said. ``export course`` writes a table of the whole course instead.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.exercises import STAGES
from autograder.files import sentence, write_whole
from autograder.intake.register import Register
from autograder.results.fill import EXCUSED, fill, fill_sheet
from autograder.results.sheet import Sheet
from autograder.results.tables import ExportError, Final, comments, course_csv, feedback_zip, finals, too_many

__all__ = ["ExportError", "Final", "fill"]
COURSE = "course"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "stage", metavar="STAGE", choices=[*sorted(STAGES), COURSE], help=f"{', '.join(STAGES)}; {COURSE}"
    )
    parser.add_argument("--table", type=Path, metavar="CSV", help="Moodle's worksheet, Canvas's gradebook")
    parser.add_argument(
        "--graded", type=Path, default=Path("."), metavar="DIR", help="the graded course (default: here)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("upload"), metavar="DIR", help="folder to write (default: upload)"
    )
    parser.add_argument("--automatic", action="store_true", help="before marking: write the points earned so far")
    parser.add_argument("--above-maximum", action="store_true", help="allow more points than the stage has")
    parser.add_argument("--column", help="the title of the column, if it isn't found without")


def main(args: argparse.Namespace) -> int:
    """Exit status 0: every submission is in the table; 1: some are not, or wait for a person; 2: nothing written."""
    try:
        return course(args) if args.stage == COURSE else export(args)
    except (ValueError, OSError) as error:
        print(f"export: {sentence(error)}", file=sys.stderr)
        return 2


def course(args: argparse.Namespace) -> int:
    """Write ``course.csv``."""
    write_whole(args.out / "course.csv", course_csv(args.graded, args.automatic).encode())
    print(f"a row for each student, a column for each stage: {args.out / 'course.csv'}")
    return 0


def export(args: argparse.Namespace) -> int:
    """Fill in the table; exit status 0 or 1."""
    if args.table is None:
        raise ExportError("give the file to fill in, from Moodle or Canvas, with --table")
    results = finals(args.graded, args.stage, args.automatic)
    sheet, register = Sheet.read(args.table.read_bytes()), Register(args.graded)
    texts = comments(args.graded, args.stage)
    done = fill_sheet(sheet, args.stage, results, args.column, args.above_maximum, texts, register.numbers(args.stage))
    if not done.rows:
        raise ExportError(
            f"no row belongs to a student of {args.stage}: is this the table of another course or assignment?"
        )
    write_whole(args.out / "grades.csv", sheet.bytes)
    pages, unnamed = feedback_zip(args.graded, args.stage, done.rows, done.platform)
    if pages:
        write_whole(args.out / "feedback.zip", pages)
    open_rows = {student for student in done.rows if results[student].score is None}
    waiting = sorted(student for student in open_rows if results[student].graded)
    broken = sorted(open_rows - set(waiting))
    same = any("no grade is written" in what for what in done.said)
    absent = sorted(set(results) - set(done.rows))
    above = too_many({student: results[student] for student in done.rows})
    left = "more points than the stage has, not written (a bonus: --above-maximum)"
    notes = {
        "written answers to grade": waiting,
        "could not be graded (python -m autograder student zero gives 0)": broken,
        "no row in the table": absent,
        "feedback that cannot go back in a zip, since the file handed in has no name of the platform's": unnamed,
        "more points than the stage has" if args.above_maximum else left: above,
        **done.said,
    }
    for what, students in notes.items():
        if students:
            print(f"{what}: {', '.join(students)}")
    unwritten = len(open_rows) + (0 if args.above_maximum else len(above))
    written = len(done.rows) - unwritten - len(done.said.get(EXCUSED, ()))
    counts = f"{written} of {len(results)} grades for {done.platform.capitalize()}"
    counts += ", those that wait with their automatic points" if args.automatic else ""
    print(f"{args.stage}: {counts}, in {args.out}: grades.csv{', feedback.zip' if pages else ''}")
    return int(bool(unwritten or absent or same))
