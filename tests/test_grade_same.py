"""The bank's answers get the same grades in the sandbox as from plain evaluation with the same seed."""

from __future__ import annotations

import time

import pytest

from autograder.answers import read_cells, run_cells
from autograder.engine import oracle
from autograder.engine.sandbox import Sandbox
from autograder.evaluation import evaluate_exercise
from autograder.exercises import STAGES, alternates, exercise, mutants
from autograder.exercises.mutant import worked_cells
from lora_ref.checks.verdicts import draw


@pytest.fixture(scope="module")
def box(bubblewrap):
    with Sandbox("bwrap") as made:
        yield made


def sandboxed(cells, stage, seed, box, only=None):
    """Points by exercise of plain cell sources, run and judged by the sandbox's route."""
    job = {"stage": stage, "seed": seed, "cell_seconds": 60, "seconds": 200}
    rows = [{"source": source, "exercise": None} for source in cells]
    rows += [{"source": "", "exercise": e.id} for e in STAGES[stage] if not e.manual and only in (None, e.id)]
    record = oracle.grade({**job, "cells": rows}, box)
    assert not record["stopped"]
    return {r["id"]: r["earned"] for r in record["results"]}


def assert_same(mutant, stage, seed, box):
    """A mistake's own exercise: what it costs the others is `test_exercises`' matter."""
    cells = [cell.replace(mutant.old, mutant.new) for cell in worked_cells(stage)]
    plain = evaluate_exercise(mutant.exercise, run_cells(cells).namespace, seed).earned
    assert sandboxed(cells, stage, seed, box, mutant.exercise)[mutant.exercise] == plain, mutant.id


@pytest.mark.parametrize("stage", STAGES)
def test_worked_solution_and_some_mistakes(stage, box):
    assert sandboxed(worked_cells(stage), stage, 3, box) == {e.id: e.points for e in STAGES[stage] if not e.manual}
    for number, mutant in enumerate(mutants(stage)[::100]):
        assert_same(mutant, stage, number, box)


REPLACING = """
import torch
class Any:
    __eq__ = lambda self, other: True
    __call__ = lambda self, *a, **k: True
torch.allclose = Any()
stack = torch.stack
del torch.stack, torch.vstack
torch.mine, torch.stack = torch.equal, stack
"""


def test_what_is_not_as_it_was_is_told_before_each_probe_and_put_back(box):
    session = oracle.Session(box, time.monotonic() + 600)
    for source in (REPLACING, "torch.equal = torch.allclose"):
        session.ask({"do": "cell", "source": source}, 60)
        first = exercise("2.1").hidden[0]
        session.observe_all([first], {first.id: draw(first, 1)})
    told = session.ask({"do": "cell", "source": "torch.vstack, torch.allclose"}, 60)["outputs"][0]["data"]
    session.close()
    assert session.replaced == ["torch.allclose", "torch.equal", "torch.vstack"]
    assert "Any" not in told["text/plain"]


MADE_OF = """
import functools, pydoc, torch
solved = pydoc.locate("_".join(["lora", "ref.layers.LoRALayer"]))
class Methods(torch.nn.Module):
    forward = solved.forward
class Property(torch.nn.Module):
    forward = property(lambda self: 1)
    rank = staticmethod(solved.forward)
def closure(called):
    return lambda *arguments: called(*arguments)
closed, part, own = closure(solved.forward), functools.partial(solved.forward), closure(len)
class Hostile(type):
    def __getattribute__(cls, name):
        raise RuntimeError(name)
class Own(torch.nn.Module):
    forward = torch.no_grad()(lambda self, x: x)
"""


def test_what_an_answer_is_made_of_is_told_however_it_came_there(box):
    session = oracle.Session(box, time.monotonic() + 600)
    session.ask({"do": "cell", "source": MADE_OF}, 60)
    names = ["Methods", "Property", "closed", "part", "own", "Hostile", "Own"]
    found = session.ask({"do": "inspect", "names": names}, 60)["origins"]
    session.close()
    assert found == {name: ["lora_ref"] * (name in names[:4]) for name in names}


#: One of each stage in the fast suite.
RIGHT = [
    pytest.param(stage, path, marks=[pytest.mark.slow] * (number > 0), id=f"{stage}-{path.stem}")
    for stage in STAGES
    for number, path in enumerate(alternates(stage))
]


@pytest.mark.parametrize(("stage", "path"), RIGHT)
def test_right_answers_written_otherwise(stage, path, box):
    assert sandboxed(read_cells(path), stage, 4, box) == {e.id: e.points for e in STAGES[stage] if not e.manual}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_mistake(stage, box):
    for number, mutant in enumerate(mutants(stage)):
        assert_same(mutant, stage, number, box)
