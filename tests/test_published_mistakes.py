"""Each mistake that running the published pieces showed is a wrong answer of the bank, or is shown in a notebook.

The rows are those of the digest of published teaching pieces that the course was asked for.
"""

import re

import jupytext
import pytest

from autograder.exercises import ROOT, STAGES, mutants

#: The piece, its mistake, and where it is: ids of mutants, or a stage and words of one of its cells.
MISTAKES = [
    ("S0", "alpha is not divided by rank", ["2.1/alpha-not-divided", "3.4/alpha-undivided"]),
    ("S0", "the random head is frozen and only adapted", ["3.4/head-frozen", ("03", "The homework **freezes** its")]),
    ("S0", "500 steps of warm-up in a run of 626", ["4.3/warmup-500", ("04", "626 steps"), ("04", '"warm-up of 500"')]),
    ("S0", "logging_dir is a TypeError in transformers 5", [("04", 'logging_dir="logs"')]),
    ("S0", "a raise left after the equality check", ["4.6/leftover-raise"]),
    ("S0", "the equality check compares eval_runtime", ["4.6/compares-runtime", ("04", "first == second")]),
    ("S0", "!export sets nothing", [("04", "!export")]),
    ("S0", 'written answers are accepted when they are "1"', [("05", '"1", one sentence')]),
    ("S0", "rows are taken in order, without a shuffle", [("04", "range(10_000)")]),
    ("S0", "every sentence is padded to 512 tokens", ["4.1/pads-to-512", ("04", "plots.padding(512")]),
    ("S1", "a Parameter that is moved registers nothing", ["2.1/to-unregisters", "2.7/make-factors"]),
    ("S1", "the optimiser is given frozen parameters", ["4.4/all-parameters"]),
    ("S1", "alpha / r is said to keep the update's size", [("02", "plots.step_sizes")]),
    ("S1", "input and output features the wrong way round", ["2.1/features-swapped", "2.6/features-swapped"]),
    ("S1", "one digit alone is trained, the rest forgotten", [("02", "vision.PUBLISHED"), ("02", "vision.BETTER")]),
    ("S2", "F.linear gets a transposed weight", ["2.7/project-up"]),
    ("S2", "a test that passes with the scale times 999", [("02", "alpha=999 * 8")]),
    ("S2", "merge then forward counts twice", ["2.5/counts-twice"]),
    ("S2", "names by substring", ["3.2/substring", "3.6/substring", ("03", "any(target in name for target in")]),
    ("S2", "the tree is changed while it is walked over", ["3.6/walks-on", ("03", "second call")]),
    ("S2", "what is not a target goes on training", ["3.4/not-frozen", ("03", "pretrained numbers still train")]),
    ("S2", "invented memory figures", [("01", "plots.memory_check")]),
    ("S2", "random labels as a training demonstration", [("04", "what a model learns from random labels")]),
    ("S3", "merging zeroes A and B", ["2.5/zeroes-factors", "2.7/fold-in"]),
    ("S3", "a random frozen base and random targets", [("02", "unscaled random network")]),
    ("S3", "the composed adapters are untrained", ["5.4/untrained", ("05", "three untrained updates")]),
    ("S4", "uninitialised memory for the weight", ["2.3/empty-weight", "3.4/empty-layers", "3.6/uninitialised"]),
    ("S4", "the bias is dropped", ["2.3/drops-bias", "3.4/drops-bias", ("03", '"+ its bias"')]),
    ("S4", "rank k as a sum of two rank-1 matrices", ["1.2/two-terms", ("01", "**two** rank-1")]),
    ("S4", "the freeze by name freezes the new head", ["3.1/by-name", "3.4/head-by-name", "3.6/freezes-head"]),
]


@pytest.fixture(scope="module")
def masters():
    """Stage's number -> its notebook's cells."""
    texts = {}
    for stage in STAGES:
        cells = jupytext.read(ROOT / "solutions" / stage / f"{stage}.py", fmt="py:percent").cells
        texts[stage[:2]] = [re.sub(r"\s+", " ", cell.source) for cell in cells]
    return texts


@pytest.mark.parametrize(("piece", "mistake", "places"), MISTAKES, ids=[f"{m[0]}: {m[1]}" for m in MISTAKES])
def test_a_published_mistake_is_caught_or_shown(piece, mistake, places, masters):
    bank = {mutant.id for stage in STAGES for mutant in mutants(stage)}
    for place in places:
        if isinstance(place, str):
            assert place in bank
        else:
            stage, words = place
            assert any(words in cell for cell in masters[stage]), f"no cell of stage {stage} has {words!r}"
