"""What grades a submission: found by following imports, hidden rooms without their mutants."""

from __future__ import annotations

import ast
import importlib

import pytest

from autograder.engine.assignment import ROOT, environment_parts
from autograder.engine.sources import rooms, sources, without_mutants
from autograder.exercises import STAGES

SOURCE = '''\
"""A room."""
import math
import re
from autograder.exercises import graded
from autograder.exercises.mutant import Mutant, other

LIMIT = 3
_GAP = "return alpha / rank"  # the worked solution
_WRONG = _GAP.replace("/", "*")


def draw(rng):
    return {"limit": LIMIT, "root": math.sqrt(2)}


def _edit(text: str) -> str:
    return re.sub("x", "y", text) if text else _edit(_WRONG)


HIDDEN = [graded(None, "2.1/scale", 1, draw=draw)]
# as somebody published it
MUTANTS = [Mutant("2.1/product", "a product", _GAP, _edit(_GAP), "multiplied", str(LIMIT))]
MUTANTS += [other("2.1/more")]
'''


def test_mutants_go_with_what_only_they_use():
    text = without_mutants(SOURCE)
    assert [ast.unparse(statement).partition("\n")[0] for statement in ast.parse(text).body] == [
        "'A room.'",
        "import math",
        "from autograder.exercises import graded",
        "LIMIT = 3",
        "def draw(rng):",
        "HIDDEN = [graded(None, '2.1/scale', 1, draw=draw)]",
    ]
    assert "published" not in text


def test_an_import_of_two_names_keeps_the_one_in_use():
    text = without_mutants("from a import b, c\nHIDDEN = [b]\nMUTANTS = [c]\n")
    assert text == "from a import b\nHIDDEN = [b]\n"


def test_mutants_alone_change_no_hash():
    more = SOURCE.replace("MUTANTS = [", 'MUTANTS = [Mutant("2.1/new", "new", _GAP, "", ""), ')
    assert without_mutants(more) == without_mutants(SOURCE)
    assert without_mutants(SOURCE.replace("LIMIT = 3", "LIMIT = 4")) != without_mutants(SOURCE)


@pytest.mark.parametrize("stage", STAGES)
def test_rooms_without_mutants_have_the_same_hidden_checks(stage):
    for name in rooms(ROOT, stage):
        whole = importlib.import_module(name)
        file = f"{name.replace('.', '/')}.py"
        text = sources(ROOT, [name])[file]
        assert "Mutant" not in text
        room: dict = {"__name__": name}
        exec(compile(text, file, "exec"), room)
        for kind in ("HIDDEN", "POINTS"):
            assert hasattr(whole, kind) == (kind in room)
        stripped = [(check.id, check.contract, check.points) for check in room.get("HIDDEN", [])]
        assert stripped == [(check.id, check.contract, check.points) for check in getattr(whole, "HIDDEN", [])]


def test_a_module_brings_what_it_imports_and_no_command():
    files = sources(ROOT, ["autograder.in_gradescope"])
    assert {"autograder/engine/oracle.py", "autograder/evaluation.py", "autograder/exercises/__init__.py"} <= set(files)
    assert not {"autograder/grade.py", "autograder/engine/cluster.py", "autograder/exercises/mutant.py"} & set(files)


def test_the_hash_is_of_hidden_rooms_the_sandbox_and_the_package():
    named = {part.split()[0] for part in environment_parts()}
    rooms_ = {f"{name.replace('.', '/')}.py" for name in rooms(ROOT)}
    assert rooms_ | {"autograder/engine/inside/zygote.py", "lora_ref/layers.py", "torch"} <= named
    assert not [name for name in named if "alternates" in name or "mutant" in name]
