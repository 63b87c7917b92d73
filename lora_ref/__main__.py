"""The command line: ``python -m lora_ref train | sweep | compare | merge | info | doctor``.

Training rests on Hugging Face's Trainer, so ``accelerate launch -m lora_ref train ...`` uses several GPUs: all
processes train, and the main one alone prints and writes.

Exit status: 0 done; 1 a merged model does not agree, or the doctor found that something needed is missing; 2 what was
asked for cannot be done, and the message says why; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from lora_ref import __version__, commands, info
from lora_ref.environment import make_usable
from lora_ref.files import print_anything
from lora_ref.profiles import METHODS, PROFILES
from lora_ref.progress import is_main_process

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status.

    Example:
        >>> main(["info", "no_such_file.safetensors"])  # what is wrong goes to stderr
        2
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    for line in make_usable():
        print(line, file=sys.stderr)
    with contextlib.ExitStack() as stack:
        if not is_main_process():
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        try:
            return options.command(options)
        except BrokenPipeError:  # `... | head` has read enough; Python would complain once more when it closes stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            print("\ninterrupted" + getattr(options, "kept", ""), file=sys.stderr)
            return 130
        except Exception as error:
            if not _is_the_callers(error):
                raise
            print(f"lora_ref {options.name}: {error}", file=sys.stderr)
            return 2


def _is_the_callers(error: Exception) -> bool:
    """True for what another call or another machine would fix; anything else is a bug and deserves its traceback."""
    from lora_ref.assets import AssetError
    from lora_ref.profiles import ProfileError

    hub = isinstance(error, RuntimeError) and isinstance(error.__cause__, (OSError, ValueError))
    return hub or isinstance(error, (ValueError, OSError, AssetError, ProfileError))


# --- arguments --------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lora_ref",
        description="Train, compare, merge and look into LoRA adapters.",
        epilog="several GPUs: accelerate launch -m lora_ref train ...",
    )
    parser.add_argument("--version", action="version", version=f"lora_ref {__version__}")
    subparsers = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(name: str, function: Any, words: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=words, description=words[:1].upper() + words[1:] + ".")
        sub.set_defaults(command=function)
        sub.add_argument(
            "--profile",
            choices=list(PROFILES),
            help="size of model and data (default: LORA_PROFILE, else what this machine can run)",
        )
        return sub

    sub = command("train", commands.train, "train one model; write its adapter, metrics (CSV) and loss curve (PNG)")
    sub.add_argument("--method", choices=METHODS, default="lora", help="what trains (default: %(default)s)")
    sub.add_argument("--rank", type=whole_number, default=8, help="LoRA's rank (default: %(default)s)")
    sub.add_argument("--alpha", type=positive_number, help="LoRA's alpha (default: 2 * rank)")
    _add_targets(sub)
    sub.add_argument("--format", choices=("lora_ref", "peft"), default="lora_ref", help="one file, or PEFT's folder")
    sub.add_argument("--seed", type=seed_number, default=0, help="of head, A and sentences (default: %(default)s)")
    _add_training(sub, "runs/train")

    sub = command(
        "sweep", commands.sweep, "train over ranks, alphas or groups of layers; keep each row, write a CSV and a PNG"
    )
    over = sub.add_mutually_exclusive_group()
    over.add_argument("--ranks", type=whole_number, nargs="+", metavar="R", help="ranks (default: 1 2 4 8 16)")
    over.add_argument("--alphas", type=positive_number, nargs="+", metavar="A", help="alphas instead, at --rank")
    over.add_argument("--groups", nargs="+", metavar="G", help="groups instead, at --rank: query+value attention ...")
    sub.add_argument(
        "--rank", type=whole_number, default=8, help="rank for --alphas and --groups (default: %(default)s)"
    )
    sub.add_argument("--alpha", type=positive_number, help="one alpha for all --ranks (default: 2 * rank)")
    sub.add_argument("--budget", type=whole_number, help="with --groups: LoRA parameters of each, instead of --rank")
    _add_targets(sub)
    sub.add_argument("--seed", type=seed_number, nargs="+", default=[0], metavar="N", help="one or more (default: 0)")
    _add_training(sub, "runs/sweep")

    sub = command("compare", commands.compare, "train head, LoRA and full; write a table (CSV) and a figure (PNG)")
    sub.add_argument("--rank", type=whole_number, default=8, help="LoRA's rank (default: %(default)s)")
    sub.add_argument("--alpha", type=positive_number, help="LoRA's alpha (default: 2 * rank)")
    _add_targets(sub)
    sub.add_argument("--seed", type=seed_number, default=0, help="(default: %(default)s)")
    _add_training(sub, "runs/compare", rate=False)

    sub = command(
        "merge", commands.merge, "merge an adapter into its base; write a plain model that needs no LoRA code"
    )
    sub.add_argument("adapter", type=Path, help="what `train` wrote: a safetensors file, or a folder in PEFT's format")
    sub.add_argument("--out", type=Path, default=Path("runs/merged"), help="folder (default: %(default)s)")
    sub.add_argument("--seed", type=seed_number, default=0, help="of the training; tiny's whole base is drawn from it")

    sub = command("info", info.info, "what a profile has and needs, or what an adapter file holds; trains nothing")
    sub.add_argument(
        "adapter", type=Path, nargs="?", help="safetensors file, or PEFT's folder, to look into: nothing in it is run"
    )

    words = "say what works on this machine, and what to do about the rest"
    sub = subparsers.add_parser("doctor", help=words, description=words[:1].upper() + words[1:] + ".")
    sub.set_defaults(command=info.doctor)
    sub.add_argument("--json", action="store_true", help="for programs")
    return parser


def _add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--targets",
        nargs="+",
        metavar="NAME",
        help="layers to adapt: names such as query value, or one group: query+value, attention, feed-forward, all "
        "(default: all linear layers of the encoder)",
    )


def _add_training(parser: argparse.ArgumentParser, out: str, rate: bool = True) -> None:
    parser.add_argument("--epochs", type=whole_number, help="instead of the profile's")
    parser.add_argument("--max-steps", type=whole_number, metavar="N", help="stop after this many steps")
    if rate:
        parser.add_argument("--learning-rate", type=positive_number, metavar="LR", help="instead of the profile's")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder for what is written (default: %(default)s)")


def whole_number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def seed_number(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, got {text}")
    return number


def positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return int(number) if number == int(number) else number


if __name__ == "__main__":
    print_anything()
    raise SystemExit(main())
