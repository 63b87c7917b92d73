"""The bank's answers get the same grades in the sandbox as from plain evaluation with the same seed."""

from __future__ import annotations

import pytest

from autograder.answers import read_cells, run_cells
from autograder.engine import oracle
from autograder.engine.sandbox import Sandbox
from autograder.evaluation import evaluate
from autograder.exercises import STAGES, alternates, mutants
from autograder.exercises.mutant import worked_cells


@pytest.fixture(scope="module")
def box(bubblewrap):
    with Sandbox("bwrap") as made:
        yield made


def sandboxed(cells, stage, seed, box):
    """Points by exercise of plain cell sources, run and judged by the sandbox's route."""
    job = {"stage": stage, "seed": seed, "cell_seconds": 60, "seconds": 200}
    rows = [{"source": source, "exercise": None} for source in cells]
    rows += [{"source": "", "exercise": e.id} for e in STAGES[stage] if not e.manual]
    record = oracle.grade({**job, "cells": rows}, box)
    assert not record["stopped"]
    return {r["id"]: r["earned"] for r in record["results"]}


def plain(cells, stage, seed):
    return {r.id: r.earned for r in evaluate(stage, run_cells(cells).namespace, seed).results}


@pytest.mark.parametrize("stage", STAGES)
def test_worked_solution_and_some_mistakes(stage, box):
    worked = worked_cells(stage)
    assert sandboxed(worked, stage, 3, box) == {e.id: e.points for e in STAGES[stage] if not e.manual}
    for number, mutant in enumerate(mutants(stage)[::6]):
        cells = [cell.replace(mutant.old, mutant.new) for cell in worked]
        assert sandboxed(cells, stage, number, box) == plain(cells, stage, number), mutant.id


@pytest.mark.parametrize("stage", STAGES)
def test_right_answers_written_otherwise(stage, box):
    full = {e.id: e.points for e in STAGES[stage] if not e.manual}
    for path in alternates(stage):
        assert sandboxed(read_cells(path), stage, 4, box) == full, path.name


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_mistake(stage, box):
    worked = worked_cells(stage)
    for number, mutant in enumerate(mutants(stage)):
        cells = [cell.replace(mutant.old, mutant.new) for cell in worked]
        assert sandboxed(cells, stage, number, box) == plain(cells, stage, number), mutant.id
