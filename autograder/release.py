"""``python -m autograder release``: pack what students get into one zip (`autograder.publish.release`)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.files import sentence
from autograder.publish.notebooks import BuildError
from autograder.publish.release import LeakError, release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m autograder release`."""
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the zip (default: dist)")
    parser.add_argument("--root", type=Path, default=Path("."), help="the project's root (default: here)")


def main(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    try:
        path = release(args.root, args.out)
    except (BuildError, LeakError, RuntimeError) as error:
        print(f"release: {sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("release: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB): no solution, hidden test or mark scheme in it")
    return 0
