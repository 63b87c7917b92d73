"""``python -m autograder extension``: give a student more time for a stage, before or after it has come in.

Run ``python -m autograder late`` afterwards: it works out every penalty again.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from autograder.engine.store import locked
from autograder.exercises import STAGES
from autograder.files import course_folder, sentence
from autograder.results import history, roster
from autograder.results.late import extend, extensions

#: Ten years: beyond is a slip of the keyboard, and more than a date can be put off by.
MOST_HOURS = 87_600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", nargs="?", choices=sorted(STAGES), help="without one: list all extensions")
    parser.add_argument("student", nargs="?", help="as the course calls the student")
    parser.add_argument("--days", type=float, default=0)
    parser.add_argument("--hours", type=float, default=0, help="with neither, the extension is taken back")
    parser.add_argument("--graded", type=Path, default=Path("."), metavar="DIR", help="the course (default: here)")


def main(args: argparse.Namespace) -> int:
    """Exit status 0, or 2 if it could not be written down."""
    hours = 24 * args.days + args.hours
    if args.stage is None:
        for stage, student, given in extensions(args.graded):
            print(f"{stage}  {student}  {f'{given:g} hours' if given else 'taken back'}")
        if not extensions(args.graded):
            print(f"no extensions in {args.graded.resolve()}")
        return 0
    try:
        if args.student is None or not 0 <= hours <= MOST_HOURS:
            raise ValueError(f"give a stage, a student and --days or --hours, at most {MOST_HOURS:,} hours")
        out = course_folder(args.graded)
        with locked(out):
            extend(out, args.stage, args.student, hours)
        students = {student for _, student in history.stamps(out)}
        listed = {key for person in roster.load(out) for key in person.keys}
        if args.student not in students and args.student.casefold() not in listed:
            near = ", ".join(difflib.get_close_matches(args.student, sorted(students), 3))
            print(f"nobody here is called {args.student!r} so far{f'; there are {near}' if near else ''}")
    except (ValueError, OSError) as error:
        print(f"extension: {sentence(error)}", file=sys.stderr)
        return 2
    print(f"{args.student}, {args.stage}: {f'{hours:g} hours more' if hours else 'no extension'}; now run late again")
    return 0
