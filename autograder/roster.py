"""``python -m autograder roster``: take in the class list, from Canvas's or Moodle's table or one of nbgrader's form.

It gives formgrader and the report real names, says who has not handed in, and lets grading ask when a batch is not
this class's. Take it in again whenever it has changed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.engine.store import Store, locked
from autograder.files import course_folder, sentence
from autograder.intake.register import Register
from autograder.results import history, roster
from autograder.results.fill import people
from autograder.results.sheet import Sheet
from autograder.results.writer import rewrite_tables

#: Names of people without a submission that are printed; the report has all, by stage.
MOST = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table",
        type=Path,
        metavar="CSV",
        help="Moodle's, Canvas's, or one with id,first_name,last_name,email",
    )
    parser.add_argument("--graded", type=Path, default=Path("."), metavar="DIR", help="the course (default: here)")


def main(args: argparse.Namespace) -> int:
    """Exit status 0: everybody in the course is in the list; 1: some are not; 2: nothing was taken in."""
    try:
        listed = people(Sheet.read(args.table.read_bytes()))
        if not listed:
            raise ValueError(f"nobody is in {args.table}")
        out = course_folder(args.graded)
        with locked(out):
            roster.save(out, listed)
            roster.name_students(out)
            if (out / "gradebook.db").is_file():
                rewrite_tables(out, Store(out / ".grading"))
    except (ValueError, OSError) as error:
        print(f"roster: {sentence(error)}", file=sys.stderr)
        return 2
    students = {student for _, student in history.stamps(out)}
    known, missing = roster.match(listed, students, Register(out).numbers())
    print(f"{len(listed)} people; {len(known)} have handed in something, {len(missing)} nothing")
    if missing:
        more = f" and {len(missing) - MOST} more" if len(missing) > MOST else ""
        print(f"nothing from: {', '.join(person.name for person in missing[:MOST])}{more}")
    strangers = sorted(students - set(known))
    if strangers:
        print(f"not in the list: {', '.join(strangers)}")
    return int(bool(strangers))
