"""``python -m autograder feedback``: make the students' pages again, with the points and comments given by hand.

Run it after marking; nothing is graded again. Students whose page does not change keep the file as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.engine import judging
from autograder.engine.store import locked
from autograder.exercises import STAGES
from autograder.files import sentence, write_whole
from autograder.results.feedback import again, file_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--graded", type=Path, default=Path("."), metavar="DIR", help="the graded course (default: here)"
    )
    parser.add_argument("--stage", nargs="+", choices=sorted(STAGES), metavar="STAGE", help="default: all there are")
    parser.add_argument("--student", nargs="+", default=[], metavar="NAME", help="default: everybody")


def main(args: argparse.Namespace) -> int:
    """Exit status 0: every page is as it should be; 1: some could not be made; 2: there is no graded course."""
    out = args.graded.resolve()
    if not (out / ".grading").is_dir():
        print(
            f"feedback: {out} is not a graded course: give the folder that `autograder grade --out` wrote",
            file=sys.stderr,
        )
        return 2
    judging.load((), args.stage or STAGES)
    pages, changed, missing = 0, 0, []
    try:
        with locked(out):
            for row, page in again(out, args.stage or list(STAGES), args.student):
                path = file_of(out, row)
                if not page:
                    missing.append(f"{row.student}, {row.stage}")
                    continue
                pages += 1
                if not path.is_file() or path.read_text(encoding="utf-8") != page:
                    write_whole(path, page.encode())
                    changed += 1
    except OSError as error:
        print(f"feedback: {sentence(error)}", file=sys.stderr)
        return 2
    for name in missing:
        print(f"not made: {name}: graded before answers were kept, or by another version; run `grade --regrade`")
    if args.student and not pages + len(missing):
        print(f"feedback: no graded submission of {', '.join(args.student)}", file=sys.stderr)
        return 2
    print(f"{pages} pages, {changed} of them new or changed, in {out / 'feedback'}")
    return int(bool(missing))
