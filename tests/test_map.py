"""CONTRIBUTING's map names what exists: a file that moves takes its line along."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
#: Each table's folder: "(all in `autograder/`" above it.
TABLES = re.findall(r"\(all in `([\w/]+/)`.*?\n\n(\|.*?)\n\n", TEXT, re.DOTALL)


def top_level(path):
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")}


def test_the_three_ways_have_a_table_each():
    assert [folder for folder, _ in TABLES] == ["lora_ref/checks/", "autograder/", "lora_ref/"]


@pytest.mark.parametrize(("folder", "table"), TABLES, ids=[folder for folder, _ in TABLES])
def test_who_calls_whom_names_modules_and_functions_that_exist(folder, table):
    for row in table.splitlines()[2:]:
        for name in re.findall(r"`([^`]+)`", row.split("|")[1]):
            module, _, function = name.partition(".")
            path = ROOT / folder / module
            if name.endswith("/"):
                assert path.is_dir(), name
            else:
                assert path.with_suffix(".py").is_file(), name
                assert not function or function in top_level(path.with_suffix(".py")), name


def test_paths_in_the_text_exist():
    names = re.findall(r"`((?:autograder|lora_ref|tests|solutions)/[\w./]+)`", TEXT)
    assert len(names) > 5
    for name in names:
        assert "NN" in name or (ROOT / name).exists(), name
