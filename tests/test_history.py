"""The visible check says when what it checks is not what the notebook's cells say now; and never without reason."""

import textwrap

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from lora_ref.checks import check
from lora_ref.checks.history import stale

GOOD = '''
def matrix_rank(M, rtol=None):
    """The rank."""
    return 1
'''
BROKEN = GOOD.replace("return 1", "return (1")
STOPS = "scale = 1 / 0\n" + GOOD.replace("return 1", "return 2")
RENAMED = GOOD.replace("matrix_rank", "matrix_rnak")
LAYER = '''
class LoRALayer:
    """A layer."""
    def __init__(self):
        self.rank = 1
'''


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    monkeypatch.setattr(shell, "showtraceback", lambda *args, **kwargs: None)
    monkeypatch.setattr(shell, "showsyntaxerror", lambda *args, **kwargs: None)
    return shell


def notes(shell, cells, name="matrix_rank"):
    for cell in cells:
        shell.run_cell(textwrap.dedent(cell), store_history=True)
    return "; ".join(stale([name], shell.user_ns))


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ([GOOD, BROKEN], "not valid Python"),
        ([GOOD, BROKEN, "%who", "x = 1"], "an earlier version of it is checked"),
        ([BROKEN], "it is not defined"),
        ([GOOD, "return 3\n" + GOOD], "not valid Python"),
        ([GOOD, STOPS], "stopped with an error"),
        ([STOPS], "it is not defined"),
        ([GOOD, RENAMED], "defines `matrix_rnak`, so an earlier version"),
        (["import functools", "@functools.cache" + GOOD, STOPS], "stopped with an error"),
    ],
)
def test_an_old_definition_is_not_checked_in_silence(shell, cells, says):
    assert says in notes(shell, cells)


def test_a_class_too(shell):
    assert "stopped with an error" in notes(shell, [LAYER, "1 / 0\n" + LAYER + "    size = 3"], "LoRALayer")
    assert "defines `LoraLayer`" in notes(shell, [LAYER, LAYER.replace("LoRALayer", "LoraLayer")], "LoRALayer")


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [GOOD],
        [GOOD, GOOD],
        [GOOD, BROKEN, GOOD],
        [GOOD, STOPS, GOOD],
        [GOOD, "def helper(x: return", "helper = 3"],
        [GOOD, RENAMED.replace("matrix_rnak", "old_matrix_rank")],
        [GOOD, RENAMED.replace("The rank", "Another thing")],
        [GOOD, BROKEN, "from torch.linalg import matrix_rank"],
        [GOOD, BROKEN, "from math import *"],
        [GOOD, BROKEN, "exec('matrix_rank = len')"],
        [GOOD, "%%time" + GOOD.replace("1", "2")],
        [GOOD, "%%capture" + GOOD.replace("1", "2")],
        [GOOD, "matrix_rank = print"],
        [GOOD, "if False:" + textwrap.indent(GOOD.replace("1", "2"), "    ")],
        [GOOD, "del matrix_rank"],
        [GOOD, "import asyncio\nawait asyncio.sleep(0)", "!true", "matrix_rank?"],
        ["def twice(f):\n    def both(*a): return f(*a)\n    return both", "@twice" + GOOD],
        [LAYER, "def forward(self, x):\n    return x\nLoRALayer.forward = forward"],
        [GOOD, "raise ValueError"],
    ],
)
def test_honest_use_is_not_remarked_on(shell, cells):
    assert notes(shell, cells) == notes(shell, [], "LoRALayer") == ""


def test_what_a_file_defines_counts(shell, tmp_path):
    (tmp_path / "mine.py").write_text(GOOD)
    assert notes(shell, [GOOD, BROKEN, f"%run {tmp_path / 'mine.py'}"]) == ""


def test_the_check_prints_it_once(shell, capsys):
    shell.user_ns["check"] = check
    notes(shell, [GOOD, BROKEN])
    capsys.readouterr()
    shell.run_cell("_ = check('1.1', globals())", store_history=True)
    assert capsys.readouterr().out.startswith("Note: the cell that defines `matrix_rank` is not valid Python")


@pytest.mark.parametrize("namespace", [{}, {"get_ipython": lambda: None}, {"get_ipython": 3}])
def test_without_a_history_it_is_silent(namespace):
    assert stale(["matrix_rank"], {"matrix_rank": len, **namespace}) == []
