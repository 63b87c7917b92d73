"""``python -m autograder COMMAND``: the instructor's command line."""

from __future__ import annotations

import argparse
import gc
import importlib
import sys

from autograder.files import no_room
from lora_ref.files import print_anything

#: Each command is a module with ``add_arguments(parser)`` and ``main(args) -> exit status``.
COMMANDS = {
    "build": "make the notebooks from the masters",
    "check": "judge one file and print the points",
    "demo": "run the worked solutions, grade a sample class, print the gradebook",
    "messages": "write the table of what is said about each mistake in the bank",
    "grade": "grade a class in parallel, in a sandbox",
    "mark": "show how far marking has got, and write the notebook to do it in",
    "feedback": "make the feedback pages again, with points and comments given by hand",
    "late": "work out what being late costs",
    "roster": "take in the class list: real names, and who is missing",
    "extension": "give a student more time",
    "student": "take a student's work out, make it another's, give 0; take a run back",
    "export": "fill in Canvas's or Moodle's table of grades",
    "gradescope": "make the autograder zip of a stage for Gradescope",
    "release": "make the students' bundle",
}


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m autograder", description="The instructor's command line.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {}
    wanted = (sys.argv[1:] if argv is None else argv)[:1]
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if wanted == [name]:  # only the module that is needed is imported
            modules[name] = importlib.import_module(f"autograder.{name}")
            modules[name].add_arguments(sub)
    args = parser.parse_args(argv)
    try:
        return modules[args.command].main(args)
    except Exception as error:
        if not (why := no_room(error)):
            raise
        print(f"{args.command}: {why}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    # jsonschema, under nbformat, would spend more than a second of each start on a grammar of internationalised
    # addresses, a format that no notebook's schema has; without this package it leaves that format unchecked
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # importing it is an ImportError
    print_anything()
    status = main()
    gc.freeze()  # else the collector looks at all modules again before they go, for a quarter of a second
    sys.exit(status)
