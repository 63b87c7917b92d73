"""``python -m autograder gradescope STAGE``: write a stage's autograder zip (`autograder.publish.gradescope`)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autograder.exercises import STAGES
from autograder.files import sentence, write_whole
from autograder.publish.gradescope import SHOW, bundle
from autograder.publish.notebooks import BuildError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m autograder gradescope``."""
    parser.add_argument("stage", choices=sorted(STAGES), metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="draw the inputs from this seed (default: a new one, in the zip)")
    parser.add_argument(
        "--show",
        choices=SHOW,
        default="after_due_date",
        help="when students see the checks that they cannot run themselves, and the total (default: %(default)s)",
    )
    parser.add_argument("--cell-seconds", type=float, default=60, help="time limit of a cell (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=300, help="time limit of a submission (default: %(default)s)")
    parser.add_argument(
        "--torch-index",
        default="",
        metavar="URL",
        help='an index of CPU builds of torch for pip, as PyTorch\'s "Get Started" page names it: spares gigabytes',
    )


def main(args: argparse.Namespace) -> int:
    """Write the zip; returns the exit status."""
    limits = {"cell_seconds": args.cell_seconds, "seconds": args.seconds}
    try:
        data = bundle(args.stage, seed=args.seed, show=args.show, torch_index=args.torch_index, **limits)
    except (BuildError, ValueError, FileNotFoundError) as error:
        print(f"gradescope: {sentence(error)}", file=sys.stderr)
        return 1
    path = args.out / f"gradescope-{args.stage}.zip"
    write_whole(path, data)
    print(
        f"wrote {path} ({len(data) / 1e6:.1f} MB): upload it as the autograder; it holds the hidden checks of the stage"
    )
    return 0
