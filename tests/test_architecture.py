"""The house as DESIGN and CONTRIBUTING draw it: arrows go one way, nothing goes in circles, and no file is too long."""

from pathlib import Path

import pytest
from import_graph import circles, graph, modules

from autograder.__main__ import COMMANDS
from autograder.exercises import ROOT

MOST_LINES = 500
FILES = modules(ROOT, ["lora_ref", "autograder"])
#: Lower floors know nothing of higher ones. What is named nowhere is on the top floor: the commands, and what runs
#: in nbgrader or in Gradescope's container.
FLOORS = (
    ("lora_ref",),
    ("autograder.answers", "autograder.evaluation", "autograder.exercises", "autograder.files", "autograder.system"),
    ("autograder.engine",),
    ("autograder.intake", "autograder.marking", "autograder.publish", "autograder.results"),
)
#: Circles that a call closes, and no import: a table of what is in the files beside it; profiles, and what they are
#: made of, which is asked for a profile.
CLOSED_BY_A_CALL = (
    {"autograder.attacks"},
    {"lora_ref.assets", "lora_ref.data", "lora_ref.doctor", "lora_ref.environment", "lora_ref.images"}
    | {"lora_ref.models", "lora_ref.profiles"},
)


@pytest.fixture(scope="module")
def ever():
    return graph(FILES, inside_functions=True)


def floor(module: str) -> int:
    return next((n for n, names in enumerate(FLOORS) if any(f"{module}.".startswith(f"{x}.") for x in names)), 4)


def test_no_import_closes_a_circle():
    assert circles(graph(FILES, inside_functions=False)) == []


def test_no_call_closes_a_circle_but_two_that_are_known(ever):
    for circle in circles(ever):
        packages = {".".join(name.split(".")[:2]) for name in circle}
        assert any(packages <= known for known in CLOSED_BY_A_CALL), circle


def test_arrows_go_one_way(ever):
    upwards = [f"{a} -> {b}" for a in ever for b in sorted(ever[a]) if floor(a) < floor(b)]
    assert upwards == []


def test_no_package_imports_a_command(ever):
    commands = {f"autograder.{name}" for name in COMMANDS}
    assert commands <= set(FILES)
    packages = ("autograder.engine", "autograder.intake", "autograder.publish", "autograder.results")
    assert {a: ever[a] & commands for a in ever if a.startswith(packages) and ever[a] & commands} == {}


def test_the_graph_shows_each_kind_of_import(tmp_path):
    for name, text in {
        "p/__init__.py": "",
        "p/a.py": "from p import b\nfrom . import c\nimport os",
        "p/b.py": "def f():\n    from p.a import x\n",
        "p/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import x\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    files = modules(tmp_path, ["p"])
    assert graph(files, inside_functions=False) == {"p": set(), "p.a": {"p.b", "p.c"}, "p.b": set(), "p.c": set()}
    assert circles(graph(files, inside_functions=False)) == []
    assert circles(graph(files, inside_functions=True)) == [["p.a", "p.b"]]


@pytest.mark.parametrize("folder", ["autograder", "benchmarks", "docs", "lora_ref", "tests"])
def test_no_file_is_too_long(folder):
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in Path(ROOT, folder).rglob("*.py")}
    assert lengths
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MOST_LINES} == {}
