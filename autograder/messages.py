"""``python -m autograder messages``: what a reader is told about every mistake in the bank, as a table.

A message teaches if somebody who sees nothing else can fix the mistake; the table is there to be read with that in
mind. A test holds it to what the checks say now.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterable
from pathlib import Path

from autograder.exercises import STAGES, mutants, optional_mutants
from autograder.exercises.mutant import Mutant
from autograder.files import write_whole
from lora_ref.checks import visible_checks
from lora_ref.checks.probing import Namespace
from lora_ref.checks.verdicts import Verdict, messages, run_checks

TABLE = Path(__file__).parent / "exercises" / "MESSAGES.md"
#: In the table, for what Python or a library says: the next release may say it in other words.
THEIR_WORDS = "(Python's or a library's own words)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the table is stale")


def main(args: argparse.Namespace) -> int:
    """Write the table; with ``--check``, exit status 1 if it is not what the checks say."""
    text = table()
    fresh = TABLE.exists() and TABLE.read_text(encoding="utf-8") == text
    if args.check:
        print(f"{TABLE.name} is {'fresh' if fresh else 'stale: run `python -m autograder messages`'}")
        return int(not fresh)
    write_whole(TABLE, text.encode())
    print(f"wrote {TABLE.name}: {sum(len(mutants(stage) + optional_mutants(stage)) for stage in STAGES)} mistakes")
    return 0


def table() -> str:
    """The table of all stages, in Markdown."""
    parts = [
        "# What is said about each mistake",
        "Made by `python -m autograder messages`: the messages of the visible checks, which alone must let a reader "
        "find and fix each mistake. An error that Python or a library raised is quoted to the reader in full; here "
        "its words are left out, because they change from release to release.",
    ]
    for stage in STAGES:
        rows = [row(mutant, of_mutant(stage, mutant)) for mutant in mutants(stage) + optional_mutants(stage)]
        parts.append("\n".join([f"## {stage}", "", "| mistake | what a reader sees |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def row(mutant: Mutant, seen: str) -> str:
    """One mistake: its name and what it is, and what `of_mutant` gives about it."""
    return f"| `{mutant.id}`<br>{mutant.what} | {cell(seen)} |"


def cell(seen: str) -> str:
    """A message as a cell of the table."""
    return seen.replace("|", "\\|").replace("\n", "<br>")


def of_mutant(stage: str, mutant: Mutant) -> str:
    """Messages of the exercise's visible checks about a mistake; "" if they all pass."""
    with contextlib.redirect_stdout(io.StringIO()):  # a set-up cell greets
        return visible_messages(mutant.exercise, mutant.answer(stage).namespace)


def visible_messages(exercise: str, namespace: Namespace) -> str:
    """Messages of the exercise's visible checks that these names fail; "" if they all pass."""
    return words(run_checks(visible_checks(exercise), namespace))


def words(verdicts: Iterable[Verdict]) -> str:
    """Messages of the verdicts that did not pass, without what Python or a library said."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    text = "\n".join(line.strip() for message in messages(failed) for line in message.splitlines())
    for kind, words in sorted({quote for verdict in failed for quote in verdict.quotes}, key=lambda q: -len(q[1])):
        text = text.replace(f"{kind}: {words.rstrip('.')}", f"{kind}: {THEIR_WORDS}")
    return text
