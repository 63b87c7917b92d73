"""Run as a program: what the bank's answers get and what is said about them, on the processor that this process sees.

Prints JSON: ``messages`` (a mistake's id -> what a reader sees), ``points`` (its id -> points by seed), ``right`` (a
right answer -> points lost by seed) and ``stale`` (notebooks that `build` would make otherwise).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys

import torch
from other_rounding import OtherRounding

from autograder import evaluate, messages
from autograder.answers import load_answer
from autograder.evaluation import evaluate_exercise
from autograder.exercises import ROOT, STAGES, alternates, mutants
from autograder.publish.notebooks import build


def answers(stage: str, seeds: int, share: int) -> dict[str, dict]:
    """One stage's messages and points; of the mistakes and alternates every ``share``-th."""
    found: dict[str, dict] = {"messages": {}, "points": {}, "right": {}}
    for mutant in mutants(stage)[::share]:
        namespace = mutant.answer(stage).namespace
        found["messages"][mutant.id] = messages.visible_messages(mutant.exercise, namespace)
        results = [evaluate_exercise(mutant.exercise, namespace, seed) for seed in range(seeds)]
        found["points"][mutant.id] = [result.earned for result in results]
    for path in [ROOT / "solutions" / stage / f"{stage}.py", *alternates(stage)[::share]]:
        namespace = load_answer(path).namespace
        reports = [evaluate(stage, namespace, seed) for seed in range(seeds)]
        found["right"][f"{stage}/{path.name}"] = [report.max_score - report.score for report in reports]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", nargs="+", default=list(STAGES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounding", type=int, help="round as no processor does (`OtherRounding`); which way")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found: dict[str, dict] = {"messages": {}, "points": {}, "right": {}}
    rounding = contextlib.nullcontext() if args.rounding is None else OtherRounding(args.rounding)
    with rounding, contextlib.redirect_stdout(io.StringIO()):
        for stage in args.stages:
            for part, rows in answers(stage, args.seeds, args.share).items():
                found[part] |= rows
        stale = [path.name for path in build(ROOT, args.stages, check=True)]
    json.dump(found | {"stale": stale}, sys.stdout)


if __name__ == "__main__":
    main()
