"""``python -m autograder student``: take a student's work out, make it another's, give 0, or take a whole run back.

Before anything is changed, the gradebook is copied into ``.grading/copies`` of the course.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.engine.store import locked
from autograder.exercises import STAGES
from autograder.files import sentence
from autograder.results import students


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    made = {
        name: kinds.add_parser(name, help=text, description=text)
        for name, text in {
            "remove": "take a student's work out of the course",
            "merge": "make one student's work another's, now and in later batches",
            "zero": "give 0 to what cannot be graded; a later file that can is graded as any other",
            "undo": "take out what the last grading run brought in",
        }.items()
    }
    for name in ("remove", "merge", "zero"):
        made[name].add_argument("student", help="as the course calls the student")
    made["merge"].add_argument("into", help="the student whose work it is")
    made["remove"].add_argument("stage", nargs="?", choices=sorted(STAGES), help="default: all stages, and the student")
    made["zero"].add_argument("stage", choices=sorted(STAGES))
    for name in ("remove", "undo"):
        made[name].add_argument("--marked", action="store_true", help="even if a person has given points for it")
    for sub in made.values():
        sub.add_argument("--graded", type=Path, default=Path("."), metavar="DIR", help="the course (default: here)")


def main(args: argparse.Namespace) -> int:
    """Exit status 0, or 2 if nothing was changed."""
    out = args.graded.resolve()
    try:
        if not (out / "gradebook.db").is_file():
            raise students.StudentError(
                f"no gradebook.db in {out}: give the folder that `autograder grade --out` wrote"
            )
        with locked(out):
            if args.kind == "remove":
                gone = students.remove(out, args.student, args.stage, args.marked)
                print(f"taken out: {args.student}, {', '.join(gone) or 'who had handed in nothing'}")
            elif args.kind == "merge":
                print("\n".join(students.merge(out, args.student, args.into)))
            elif args.kind == "zero":
                students.zero(out, args.student, args.stage)
                print(f"{args.student}, {args.stage}: 0 points")
            else:
                what, gone, again = students.undo(out, args.marked)
                print(f"taken back: {what}: {len(gone)} submissions that were new")
                if again:
                    print(f"was graded before, and stays as the run left it: {', '.join(again[:20])}")
                    print("To put that back, grade the earlier files again; nothing that is known runs twice.")
    except (students.StudentError, OSError) as error:
        print(f"student: {sentence(error)}", file=sys.stderr)
        return 2
    return 0
