"""The grading process judges without torch, where no judge makes a model."""

import json
import subprocess
import sys
import textwrap

import pytest

from autograder.engine.judging import MODELS
from autograder.exercises import ROOT, STAGES

#: Prints each stage with the names by which its judges and draws, or what they call, would reach torch.
REACHED = """
import functools, json, sys, types
from autograder.engine import judging
from autograder.exercises import OPTIONAL, STAGES

judging.load((), STAGES)
assert "torch" not in sys.modules

def names(code):
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names(constant)

def reached(waiting):
    done = set()
    for thing in waiting:
        if id(thing) in done:
            continue
        done.add(id(thing))
        if isinstance(thing, (judging.Later, judging.StandIn)):
            yield repr(thing)
        elif isinstance(thing, types.FunctionType):
            waiting += [thing.__globals__.get(name) for name in names(thing.__code__)]
            waiting += [cell.cell_contents for cell in thing.__closure__ or ()]
        elif isinstance(thing, functools.partial):
            waiting += [thing.func, *thing.args, *thing.keywords.values()]
        elif isinstance(thing, type) and thing.__module__.startswith(("lora_ref", "autograder")):
            waiting += vars(thing).values()
        elif type(thing).__module__.startswith(("lora_ref", "autograder")):
            waiting += [type(thing), *getattr(thing, "__dict__", {}).values()]

print(json.dumps({
    stage: list(reached([f for e in (*STAGES[stage], *OPTIONAL[stage]) for c in e.hidden for f in (c.judge, c.draw)]))
    for stage in STAGES
}))
"""
USED = """
import sys
from autograder.engine import judging

judging.load(["02_lora_layer"])
assert "torch" not in sys.modules
from lora_ref.checks.stage02 import shared

print(shared.torch.ones(2).sum().item(), shared.nn.Linear(2, 3), sys.modules["torch"].__name__)
assert shared.torch.Tensor is sys.modules["torch"].Tensor
class Own(shared.nn.Linear):
    pass
print(Own(1, 1))
"""


def python(code):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def reached():
    return json.loads(python(REACHED))


@pytest.mark.parametrize("stage", STAGES)
def test_judges_make_models_in_the_stages_that_are_named_and_in_no_other(reached, stage):
    assert bool(reached[stage]) == (stage in MODELS), reached[stage]


def test_what_stands_for_torch_is_torch_as_soon_as_something_uses_it():
    assert python(USED).splitlines() == [
        "2.0 Linear(in_features=2, out_features=3, bias=True) torch",
        "Own(in_features=1, out_features=1, bias=True)",
    ]
