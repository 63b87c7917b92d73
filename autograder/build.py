"""``python -m autograder build``: make both sets of notebooks from the masters (`autograder.publish.notebooks`)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.files import sentence
from autograder.publish.notebooks import BuildError, build


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m autograder build`."""
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="such as 02_lora_layer; default: every master")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name what is out of date")
    parser.add_argument("--root", type=Path, default=Path("."), help="the project's root (default: here)")


def main(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    try:
        paths = build(args.root, args.stages or None, check=args.check)
    except BuildError as error:
        print(f"build: {sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("build: interrupted; every file is whole, old or new", file=sys.stderr)
        return 130
    for path in paths:
        print(f"{'out of date' if args.check else 'wrote'}: {path}")
    if args.check and paths:
        print("Run `make build` and commit what it writes (a notebook without a master: delete it).")
        return 1
    if not paths:
        print("Both sets of notebooks are what the masters make.")
    return 0
