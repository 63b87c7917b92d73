"""What is shown while something takes long: a training, a download, the rows of a grid.

A bar where it can be drawn over itself, in a terminal or a notebook; lines in a log. And of several processes
(`accelerate launch`, torchrun), the main one alone speaks.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from transformers import Trainer


def is_live(stream: TextIO) -> bool:
    """True where a bar can be drawn over itself: ``stream`` is a terminal, or this is a notebook.

    Example:
        >>> import io
        >>> is_live(io.StringIO())
        False
    """
    return stream.isatty() or type(sys.stdout).__module__.startswith("ipykernel")


def is_main_process() -> bool:
    """True but for the other processes of `accelerate launch` or torchrun: all train, and one prints and writes.

    Example:
        >>> is_main_process()
        True
    """
    return int(os.environ.get("RANK", "0") or 0) == 0


# --- a download -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def download(name: str, total: int, folder: Path, progress: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a download; yields the function to call with the bytes there are so far.

    A bar in a terminal and in a notebook, a line for each quarter in a log.

    Args:
        name: what is downloaded.
        total: bytes.
        folder: where it will be.
        progress: False shows nothing.

    Example:
        >>> with download("encoder", 4_000_000, Path("cache")) as show:
        ...     show(2_000_000)
        fetching the encoder (4.0 MB, once) into cache
          encoder: 50% of 4.0 MB
    """
    if not progress:
        yield lambda _: None
    elif is_live(sys.stdout):
        from tqdm import tqdm  # the plain one, on stdout: it is right in a terminal, a notebook and its HTML export

        with tqdm(
            total=total, unit="B", unit_scale=True, file=sys.stdout, desc=f"{name} (once)", mininterval=0.2
        ) as bar:

            def show(size: int) -> None:
                bar.update(max(0, size - bar.n))

            yield show
    else:
        quarters = 0
        print(f"fetching the {name} ({total / 1e6:.1f} MB, once) into {folder}", flush=True)

        def line(size: int) -> None:
            nonlocal quarters
            if 4 * size // total > quarters:
                quarters = 4 * size // total
                print(f"  {name}: {25 * quarters}% of {total / 1e6:.1f} MB", flush=True)

        yield line


# --- a training -------------------------------------------------------------------------------------------


class TrainerProgress:
    """Progress where it belongs: Trainer's own bar or table, without its printed dicts; lines in a log file.

    Example:
        >>> TrainerProgress("lora").method  # its add_to takes a Trainer
        'lora'
    """

    def __init__(self, method: str):
        self.method = method

    def add_to(self, trainer: Trainer) -> None:
        from transformers import TrainerCallback
        from transformers.trainer_callback import ProgressCallback

        method, start = self.method, time.perf_counter()

        class Bar(ProgressCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                super().on_train_begin(args, state, control, **kwargs)
                if self.training_bar is not None:
                    self.training_bar.set_description(method)

            def on_log(self, args, state, control, logs=None, **kwargs):
                if self.training_bar is not None and "loss" in logs:
                    self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

        class Lines(TrainerCallback):
            loss = math.nan

            def on_log(self, args, state, control, logs=None, **kwargs):
                self.loss = float(logs.get("loss", self.loss))

            def on_evaluate(self, args, state, control, metrics=None, **kwargs):
                print(
                    f"{method}: epoch {state.epoch:.2g} of {args.num_train_epochs:g}, step {state.global_step} of "
                    f"{state.max_steps}, loss {self.loss:.3f}, validation accuracy {metrics['eval_accuracy']:.3f}, "
                    f"{time.perf_counter() - start:.0f} s",
                    flush=True,
                )

        if not is_live(sys.stderr):
            trainer.add_callback(Lines())
        elif trainer.pop_callback(ProgressCallback) is not None:  # in a notebook it is another one, which stays
            trainer.add_callback(Bar())


@contextlib.contextmanager
def only_our_progress() -> Iterator[None]:
    """Two things of transformers' own would be written through what is being shown.

    5 draws a bar each time that it writes a checkpoint; 4.46 groups by length with a property that it deprecates, and
    says so.

    Example:
        >>> with only_our_progress():
        ...     print("nothing else is written")
        nothing else is written
    """
    from transformers.utils import logging

    def not_to_itself(record: Any) -> bool:
        return not record.getMessage().startswith("Trainer.tokenizer is now deprecated")

    shown = logging.is_progress_bar_enabled()
    trainers: Any = logging.get_logger("transformers.trainer")  # a function may be a filter too
    if shown:
        logging.disable_progress_bar()
    trainers.addFilter(not_to_itself)
    try:
        yield
    finally:
        trainers.removeFilter(not_to_itself)
        if shown:
            logging.enable_progress_bar()


# --- the rows of a grid -----------------------------------------------------------------------------------


def in_words(values: Mapping[str, Any]) -> str:
    """Names and values on one line.

    Example:
        >>> in_words({"rank": 8, "loss": 0.123456})
        'rank=8, loss=0.1235'
    """
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())


def row_line(number: int, of: int, point: Mapping, result: Mapping, seconds: float) -> str:
    """One row's line: its place, what was run, what came of it, how long the rest may take.

    Example:
        >>> row_line(1, 2, {"rank": 8}, {"accuracy": 0.5}, seconds=30.0)
        'row 1 of 2: rank=8: accuracy=0.5 (about 30 s left)'
    """
    line = f"row {number} of {of}: {in_words(point)}"
    result_words = {name: result[name] for name in ("accuracy", "loss", "seconds") if name in result}
    if result_words:
        line += f": {in_words(result_words)}"
    if number < of:
        left = (of - number) * seconds / number
        line += f" (about {left:.0f} s left)" if left < 120 else f" (about {left / 60:.0f} min left)"
    return line
