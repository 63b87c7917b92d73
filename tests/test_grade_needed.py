"""Which cells run: an answer has what it uses, and nothing that it does not use costs time."""

from __future__ import annotations

import json

import grade_course
import pytest
from grade_course import FULL, STAGE

from autograder.engine import oracle
from autograder.engine.assignment import Assignment
from autograder.engine.job import Row, job_of
from autograder.engine.needed import needed
from autograder.engine.sandbox import Sandbox
from autograder.intake.notebook import answers as answers_in
from autograder.intake.submission import Submission
from autograder.results import integrity


@pytest.mark.parametrize(
    ("answer", "runs"),
    [
        ("def f(x):\n    return x + 1", ""),
        ("def f(x):\n    return x + width", "abc"),  # a demonstration's variable, and who else could change it
        ("def f(x):\n    return x + doubled", "abc"),  # and what that is made of
        ("def f(x):\n    return x + helped(x)", "f"),  # a demonstration's function
        ("def f(x):\n    width = 2\n    return x + width", ""),  # a local name
        ("def f(self, width):\n    return self.width + width", ""),
        ("def f(x):\n    global width\n    width = x", ""),
        ("class C:\n    size = width", "abc"),
        ("g = [width for _ in range(3)]", "abc"),
        ("def f(x):\n    return table[x]", "abc"),  # a name of the set-up that a demonstration changes
        ("def f(x):\n    return np.helper(x)", "d"),  # an attribute set on an import
        ("def f(x):\n    return globals()['width']", "abcdef"),
        ("def f(x):\n    return eval('wid' + 'th')", "abcdef"),
        ("import sys\nhere = sys.modules['__main__']", "abcdef"),
        ("from helpers import *", "abcdef"),
        ("%run other.py", "abcdef"),
        ("x = !ls", "abcdef"),
        ("%reset -f\nimport gc\ngc.collect()\ndef f(x):\n    return x", ""),
        ("import gc as g\nfound = g.get_objects()", "abcdef"),
        ("from gc import get_objects", "abcdef"),
        ("def f(x:", ""),  # a mistake: nothing of it runs
    ],
)
def test_needed(answer, runs):
    cells = {
        "setup": ("import numpy as np\ntable = {}", "always"),
        "a": ("width = 3", "maybe"),
        "b": ("doubled = 2 * width", "maybe"),
        "c": ("table['a'] = width", "maybe"),
        "answer": (answer, "answer"),
        "d": ("np.helper = abs", "maybe"),
        "e": ("print(f(1))", "maybe"),
        "f": ("def helped(x):\n    return x", "maybe"),
    }
    found = needed(list(cells.values()), ["f"])
    assert "".join(name for name, run in zip(cells, found, strict=True) if run and len(name) == 1) == runs


@pytest.mark.parametrize(
    "source",
    [
        "def f(a):\n    return a" + ".b" * 2000,
        "x = a" + ".b()" * 2000,
        "x = " + "-" * 20_000 + "1",
        "\n" * 100_000 + "(",
    ],
    ids=["attributes", "calls", "signs", "newlines"],
)
def test_code_that_is_hard_to_follow_stops_nothing(source):
    assert needed([(source, "maybe"), ("def g(): pass", "answer")], ["g"]) == [False, True]


def test_a_cell_that_binds_what_is_graded_runs():
    assert needed([("pass", "answer"), ("def f(): pass", "maybe"), ("f()", "maybe")], ["f"]) == [True, True, False]


@pytest.fixture(scope="module")
def box(bubblewrap):
    with Sandbox("bwrap", modules=Assignment.load(STAGE).modules()) as made:
        yield made


def points(notebook, which, box):
    """Points by exercise of a notebook, with the cells that the command runs for ``--cells which``; and what ran."""
    assignment = Assignment.load(STAGE)
    submission = Submission("s", STAGE, "", lambda: json.dumps(notebook).encode())
    answers = answers_in(submission, assignment)
    row = Row("s", STAGE, answers=answers, cells=submission.cells, seed=1)
    job = job_of(row, assignment, which)
    record = oracle.grade({**job, "cell_seconds": 60, "seconds": 300}, box)
    return {r["id"]: r["earned"] for r in record["results"]}, len(record["outputs"])


def worked():
    """The complete answer, and its solution cells by name."""
    notebook = json.loads(grade_course.sample("complete"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    named = {c["metadata"]["nbgrader"]["grade_id"]: c for c in notebook["cells"] if "nbgrader" in c["metadata"]}
    return notebook, named


def own(source):
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}


def with_a_helper(notebook, named):
    """The scale is computed by a function in a cell of the student's own, which uses an import of another."""
    layer = named["layer"]
    place = notebook["cells"].index(layer)
    notebook["cells"][place:place] = [
        own("import operator as op"),
        own("def scale(a, r):\n    return op.truediv(a, r)"),
    ]
    layer["source"] = layer["source"].replace("self.scaling = alpha / rank", "self.scaling = scale(alpha, rank)")


def with_an_edited_demonstration(notebook, named):
    """The helper stands in a demonstration's cell."""
    place = next(c for c in notebook["cells"] if "in_features, out_features, rank = 768" in c["source"])
    place["source"] += "\nscale = lambda a, r: a / r"
    named["layer"]["source"] = named["layer"]["source"].replace("alpha / rank", "scale(alpha, rank)")


def in_two_cells(notebook, named):
    """The method is attached to the class afterwards, from a cell below."""
    layer = named["layer"]
    source = layer["source"].replace("def forward", "def unused")
    layer["source"] = source
    forward = "def forward(self, x):\n    return self.scaling * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)"
    place = notebook["cells"].index(layer) + 1
    notebook["cells"].insert(place, own(f"{forward}\nLoRALayer.forward = forward"))


def with_a_global_of_a_demonstration(notebook, named):
    """``out_features`` is a demonstration's 768 by mistake: the answer runs, and is wrong, whatever runs."""
    layer = named["layer"]
    layer["source"] = layer["source"].replace(
        "def __init__(self, in_features, out_features,", "def __init__(self, n, m,"
    )


CHANGES = (
    with_a_helper,
    with_an_edited_demonstration,
    in_two_cells,
    with_a_global_of_a_demonstration,
)


@pytest.mark.parametrize("change", [pytest.param(c, marks=[pytest.mark.slow] * (c in CHANGES[1:])) for c in CHANGES])
def test_the_same_grades_as_with_all_cells(change, box):
    notebook, named = worked()
    change(notebook, named)
    few, ran = points(notebook, "needed", box)
    everything, ran_then = points(notebook, "all", box)
    assert few == everything
    assert ran < ran_then
    wrong = change is with_a_global_of_a_demonstration
    assert (sum(few.values()) == FULL) is not wrong


@pytest.mark.slow
def test_a_name_that_only_running_shows_makes_all_cells_run(box):
    notebook, named = worked()
    named["layer"]["source"] = named["layer"]["source"].replace(
        "self.scaling = alpha / rank", "self.scaling = alpha / rank + 0 * hidden(self)"
    )
    # code that reads a demonstration's `full`, though its source does not say so
    code = "def hidden(self):\n    return unnamed\n\nhidden.__code__ = hidden.__code__.replace(co_names=('f' + 'ull',))"
    notebook["cells"].insert(notebook["cells"].index(named["layer"]) + 1, own(code))
    few, ran = points(notebook, "needed", box)
    everything, ran_then = points(notebook, "all", box)
    assert few == everything
    assert sum(few.values()) == FULL
    assert ran == ran_then


@pytest.mark.parametrize("source", ["x = (\n" + " \n" * 95_000, "x\n" + "\n" * 190_000 + "(", "%time " * 30_000])
def test_no_pattern_looks_through_all_that_follows_again_for_each_line(source):
    """Such a one would take minutes of these sources, in the process that the whole class waits for."""
    assert needed([(source, "own"), (source, "answer")], ["x"]) == [False, True]
    assert integrity.odd(source) == frozenset()


@pytest.mark.parametrize(
    ("source", "error", "runs"),
    [
        ("print(later)", "name 'later' is not defined", False),  # an answer below its use: no demonstration helps
        ("later = 1", "name 'later' is not defined", True),
        ("exec('later = 1')", "name 'later' is not defined", True),
        ("open('later.py', 'w').write('x = 1')", "No module named 'later'", True),
        ("print(1)", "No module named 'later'", False),
    ],
)
def test_demonstrations_run_where_one_may_have_what_is_missing(source, error, runs):
    job = {"stage": STAGE, "cells": [{"source": source, "exercise": None, "spare": True}]}
    run = oracle._Run(job, 0.0)
    run.miss([error])
    assert run.missed_a_spare_name() == runs
