"""Demonstrations never stop a run: a notebook gets to its end with any mixture of right, wrong and open answers."""

import os
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

from autograder.exercises import ROOT, STAGES, mutants
from lora_ref.checks.gaps import passed
from lora_ref.inject import trainable_report

#: Runs a stage in the slow test: each takes a whole notebook.
FIRST = 10
BUILDS = "This cell builds on exercise"
A = "self.lora_A = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(in_features))\n        self.lora_B"
B_AND_A = "B, A = M.new_zeros(M.shape[0], r), M.new_zeros(r, M.shape[1])"


def run_with(stage, *edits):
    """The outputs of the worked notebook with some of its answers changed, on the tiny profile; errors are kept."""
    notebook = nbformat.read(ROOT / "solutions" / stage / f"{stage}.ipynb", as_version=4)
    for old, new in edits:
        for cell in notebook.cells:  # none where another edit has taken the text
            if cell.cell_type == "code" and "### BEGIN SOLUTION" in cell.source:
                cell.source = cell.source.replace(old, new)
    client = NotebookClient(
        notebook,
        timeout=600,
        allow_errors=True,
        resources={"metadata": {"path": str(ROOT)}},
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), "LORA_PROFILE": "tiny", "OMP_NUM_THREADS": "1"})
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def stopped(outputs):
    return [f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def test_a_wrong_answer_shows_as_a_sentence_that_names_it():
    """Two at once, each named where it matters: a matrix_rank that raises, and factors of two dtypes."""
    outputs = run_with(
        "01_rank_theory",
        ("return int((values > rtol * values.max()).sum())", "return int((values > rtol * values.max()).sum()) / 0"),
        (B_AND_A, B_AND_A.replace("M.new_zeros(M.shape[0], r)", "torch.zeros(M.shape[0], r)")),
    )
    assert not stopped(outputs)
    text = printed(outputs)
    for exercise, seen in (("1.1", "ZeroDivisionError"), ("1.3", "B is float32 and A float64")):
        assert f"{BUILDS} {exercise} and could not finish" in text
        assert f"Fix exercise {exercise} first; its check says more." in text
        assert any(line.startswith(f"  {exercise}'s check: ") and seen in line for line in text.splitlines())


def test_later_cells_build_on_an_answer_once_its_check_passes(capsys):
    kernel = {"get_ipython": lambda: SimpleNamespace(kernel=None)}
    for wrong in (None, lambda model: {"trainable": 0, "total": 1, "ratio": 0.0}):
        assert not passed("3.5", {**kernel, "trainable_report": wrong})
        assert not passed("3.5", {**kernel, "trainable_report": wrong})
        assert capsys.readouterr().out.count("Exercise 3.5 does not pass its check yet") == 1
    assert passed("3.5", {**kernel, "trainable_report": trainable_report})
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_an_earlier_exercise_is_named_where_it_is_the_cause():
    """A and B both zero: nothing learns, and the package's own plot divides by zero."""
    zeros = A.replace("torch.randn(", "torch.zeros(")
    outputs = run_with("02_lora_layer", (A, zeros))
    assert not stopped(outputs)
    assert "This cell builds on exercises 2.1 and 2.2 and could not finish." in printed(outputs)
    assert "Fix exercise 2.1 first" in printed(outputs)


def mixture(stage, number):
    """One wrong answer for each exercise of a stage: its mutant of this number, counted round and round."""
    banks = {}
    for mutant in mutants(stage):
        banks.setdefault(mutant.exercise, []).append(mutant)
    return [bank[number % len(bank)] for bank in banks.values()]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(FIRST))
@pytest.mark.parametrize("stage", STAGES)
def test_no_mixture_of_wrong_answers_stops_a_run(stage, number):
    """The first ten mutants of every exercise: one of each at a time, since a notebook takes as long as ten checks."""
    chosen = mixture(stage, number)
    wrong = stopped(run_with(stage, *((mutant.old, mutant.new) for mutant in chosen)))
    assert not wrong, (wrong, [mutant.id for mutant in chosen])
