"""Stage 05's checks against the bank: right answers pass whatever their style, wrong ones lose points and learn why."""

import contextlib
import dataclasses
import io
import json
import sys
import time

import jupytext
import numpy as np
import pandas as pd
import pytest
import torch
from autograder.judges import stage05 as judges
from stage_answers import POINTS, earned, faults_of_visible, release

from autograder import evaluate
from autograder.answers import load_answer, run_cells
from autograder.evaluation import evaluate_exercise
from autograder.exercises import ROOT, STAGES, alternates, mutants
from autograder.exercises.mutant import worked_cells
from lora_ref import analysis
from lora_ref.checks import stage05 as visible
from lora_ref.checks import visible_checks
from lora_ref.checks.probing import observe
from lora_ref.checks.verdicts import judge

STAGE = "05_analysis"
AUTOMATIC = [e.id for e in STAGES[STAGE] if not e.manual]
NAMES = [name for e in STAGES[STAGE] for name in e.names]
MASTER = ROOT / "solutions" / STAGE / f"{STAGE}.py"


@pytest.fixture(scope="module")
def worked():
    with contextlib.redirect_stdout(io.StringIO()):
        answer = run_cells(worked_cells(STAGE))
    assert answer.errors == []
    return answer.namespace


# --- right answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_worked_solution_has_full_marks(worked, seed):
    report = evaluate(STAGE, worked, seed)
    assert report.score == report.max_score == 9, str(report)


def test_worked_solution_passes_the_visible_checks(worked):
    assert [fault for exercise in AUTOMATIC for fault in faults_of_visible(exercise, worked)] == []


@pytest.mark.parametrize("path", alternates(STAGE), ids=lambda path: path.stem)
def test_alternates_have_full_marks(path):
    answer = load_answer(path)
    assert answer.errors == []
    for seed in range(5):
        report = evaluate(STAGE, answer.namespace, seed)
        assert report.score == report.max_score, str(report)
    assert [fault for exercise in AUTOMATIC for fault in faults_of_visible(exercise, answer.namespace)] == []


def test_the_reference_package_passes_its_own_checks():
    report = evaluate(STAGE, {name: getattr(analysis, name) for name in NAMES}, 0)
    assert report.score == report.max_score, str(report)


# --- wrong answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", mutants(STAGE), ids=lambda mutant: mutant.id)
def test_mutant_loses_points_where_it_is_wrong_and_learns_why(mutant):
    with contextlib.redirect_stdout(io.StringIO()):
        answer = mutant.answer(STAGE)
    assert answer.errors == []
    for seed in (0, 1):
        report = evaluate(STAGE, answer.namespace, seed)
        points = earned(report)
        assert points.pop(mutant.exercise) < POINTS[mutant.exercise], "survives"
        assert points == {exercise: POINTS[exercise] for exercise in points}, str(report)
        hidden = next(result.message for result in report.results if result.id == mutant.exercise)
        assert mutant.says in hidden, hidden
    # the visible checks alone let a reader mend it
    seen = "\n".join(faults_of_visible(mutant.exercise, answer.namespace))
    assert mutant.says in seen, seen


def test_every_exercise_and_every_published_mistake_has_mutants():
    assert {mutant.exercise for mutant in mutants(STAGE)} == set(AUTOMATIC)
    assert {"S0", "S3"} <= {mutant.seed for mutant in mutants(STAGE)}
    assert len(mutants(STAGE)) >= 20
    assert len({mutant.id for mutant in mutants(STAGE)}) == len(mutants(STAGE))


def test_untouched_notebook_scores_nothing():
    with contextlib.redirect_stdout(io.StringIO()):
        answer = run_cells([release(cell) for cell in worked_cells(STAGE)])
    assert answer.errors == []
    report = evaluate(STAGE, answer.namespace, 0)
    assert report.score == 0, str(report)
    assert all(not verdict.passed for result in report.results for verdict in result.verdicts)
    for exercise in AUTOMATIC:
        assert len(faults_of_visible(exercise, answer.namespace)) == len(visible_checks(exercise))


@pytest.mark.parametrize("name", NAMES)
def test_one_open_gap_costs_its_own_exercise_alone(worked, name):
    def gap(*_, **__):
        raise NotImplementedError("Exercise")

    points = earned(evaluate(STAGE, {**worked, name: gap}, 0))
    lost = {e.id for e in STAGES[STAGE] if name in e.names}
    assert points == {exercise: 0 if exercise in lost else POINTS[exercise] for exercise in points}


# --- answers that are nearly right ----------------------------------------------------------------------------------


def ordered_rows(run, ranks, columns):
    return pd.DataFrame([run(rank) | {"rank": rank} for rank in ranks])[list(columns)]


def test_the_order_of_columns_and_the_index_are_free(worked):
    """The contract names the columns and orders the rows, and says nothing else."""

    def rank_sweep(run, ranks):
        frame = ordered_rows(run, ranks, ("seconds", "rank", "accuracy", "trainable"))
        return frame.set_axis([f"r{rank}" for rank in ranks])

    assert evaluate_exercise("5.1", {**worked, "rank_sweep": rank_sweep}, 0).earned == 2


def test_cells_of_any_numeric_type_pass(worked):
    def rank_sweep(run, ranks):
        return ordered_rows(run, ranks, visible.COLUMNS).astype({"rank": "Int64", "accuracy": object})

    assert evaluate_exercise("5.1", {**worked, "rank_sweep": rank_sweep}, 0).earned == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda A1, A2, i, j: 1.0,
        lambda A1, A2, i, j: max(i, j) / A1.shape[1],
        lambda A1, A2, i, j: float(torch.cosine_similarity(A1[0], A2[0], dim=0) ** 2),
    ],
)
def test_a_constant_or_a_guess_is_no_similarity(worked, wrong):
    result = evaluate_exercise("5.3", {**worked, "subspace_similarity": wrong}, 0)
    assert result.earned <= 0.25, result.message  # it is a float


def test_a_compose_that_refuses_everything_has_no_points(worked):
    def compose(layers, weights):
        raise ValueError("no")

    assert evaluate_exercise("5.4", {**worked, "compose": compose}, 0).earned == 0


def test_a_compose_that_never_refuses_loses_the_lengths_alone(worked):
    def compose(layers, weights):
        return worked["compose"](*zip(*zip(layers, weights, strict=False), strict=True))

    result = evaluate_exercise("5.4", {**worked, "compose": compose}, 0)
    assert result.earned == 1.5, result.message


def test_rank_values_or_all_values_pass(worked):
    """A spectrum may stop at the rank, or end in zeros."""
    for cut in (slice(None), "rank"):

        def delta_spectrum(layer, cut=cut):
            values = worked["delta_spectrum"](layer)
            return values[: len(getattr(layer, "lora", layer).lora_A)] if cut == "rank" else values[cut]

        assert evaluate_exercise("5.2", {**worked, "delta_spectrum": delta_spectrum}, 0).earned == 2


def test_a_layer_may_be_changed_if_it_comes_back_as_it_was(worked):
    def delta_spectrum(layer):
        lora = getattr(layer, "lora", layer)
        layer.eval()
        layer.requires_grad_(False)
        if lora is layer:
            values = worked["delta_spectrum"](layer)
        else:
            was_merged = layer.merged
            layer.merge()
            merged = layer.linear.weight.clone()
            layer.unmerge()
            values = torch.linalg.svdvals(merged - layer.linear.weight)
            if was_merged:
                layer.merge()
        lora.requires_grad_(True)
        layer.train()
        return values

    result = evaluate_exercise("5.2", {**worked, "delta_spectrum": delta_spectrum}, 0)
    assert result.earned == 2, result.message


# --- hostile answers ------------------------------------------------------------------------------------------------


class Strange:
    """Answers every question with another strange thing, and each comparison with yes."""

    def __getattr__(self, name):
        return Strange()

    def __eq__(self, other):
        return True

    __hash__ = None

    def __call__(self, *args, **kwargs):
        return Strange()


class Liar(torch.Tensor):
    """A tensor that claims to equal, and to be close to, everything."""

    def __eq__(self, other):
        return True

    __hash__ = torch.Tensor.__hash__

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return True if func in (torch.allclose, torch.equal) else super().__torch_function__(func, types, args, kwargs)


class Always(float):
    """A float that equals everything."""

    def __eq__(self, other):
        return True

    __hash__ = float.__hash__


def stub(value):
    return lambda *args, **kwargs: value


@pytest.mark.parametrize(
    ("answer", "at_most"),
    [
        (stub(None), 0),
        (stub({}), 0),
        (stub([]), 0),
        (stub(True), 0),
        (stub("0.5"), 0),
        (stub(float("nan")), 0),
        (stub(0.5), 0.25),  # it is a float
        (stub(Always(0.5)), 0.25),
        (stub(torch.full((13, 8), torch.nan)), 0),
        (stub(torch.zeros(8)), 0),
        (stub(torch.zeros(8).as_subclass(Liar)), 0),
        (stub(pd.DataFrame(columns=visible.COLUMNS)), 0.5),  # they are the columns
        (stub(pd.DataFrame(np.nan, index=range(5), columns=visible.COLUMNS)), 0.5),
        (stub(Strange()), 0),
        (Strange(), 0),
        (lambda *args: sys.exit(0), 0),
        (7, 0),
        (None, 0),
    ],
)
def test_evaluate_survives_what_students_write(answer, at_most):
    report = evaluate(STAGE, dict.fromkeys(NAMES, answer), 0)
    assert report.score <= at_most, str(report)
    json.dumps(report.to_dict())
    assert evaluate(STAGE, {}, 0).score == 0


def test_a_hang_becomes_a_verdict(monkeypatch):
    def forever(*args, **kwargs):
        while True:
            time.sleep(0.01)

    first = {check.exercise: dataclasses.replace(check, seconds=0.3) for check in reversed(judges.HIDDEN)}
    monkeypatch.setattr(judges, "HIDDEN", list(first.values()))
    report = evaluate(STAGE, dict.fromkeys(NAMES, forever), 0)
    assert report.score == 0
    assert all("still running" in result.message for result in report.results)


# --- the checks themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", judges.HIDDEN, ids=lambda check: check.id)
def test_no_judge_passes_an_observation_that_a_sandbox_made_up(check, worked):
    inputs = check.draw(np.random.default_rng(0))
    seen = observe(check.probe, worked, inputs)
    assert "error" not in observe(lambda names: inputs, {}, {}), "inputs are plain data"
    assert check.judge(inputs, seen) is None
    for made_up in (
        {},
        {"error": {}},
        {"spectra": []},
        {"sums": []},
        {"outcomes": []},
        {"columns": [], "index": "", "rows": 5, "cells": {}, "calls": []},
        {"equal": {"raised": None}},
        dict.fromkeys(seen),
        {key: [] for key in seen},
    ):
        fault = judge(check, inputs, made_up)
        assert fault is not None, f"{made_up} passes"
        assert str(fault)


@pytest.mark.parametrize("seed", range(3))
def test_the_drawn_layers_are_what_the_judges_think(seed):
    rng = np.random.default_rng(seed)
    for options in ({}, {"merged": True}, {"rslora": True}):
        for update in visible.draw_spectra(rng, visible.KINDS, **options)["updates"]:
            layer = visible.build(update)
            lora = getattr(layer, "lora", layer)
            np.testing.assert_allclose(lora.delta_weight().detach(), visible.delta_of(update), rtol=1e-4, atol=1e-5)


def test_the_drawn_ranks_never_come_in_order():
    """A sorted table must differ from the right one, whichever way it is sorted."""
    for seed in range(200):
        inputs = visible.draw_sweep(np.random.default_rng(seed))
        columns = [inputs["ranks"], *([r[k] for r in inputs["results"]] for k in visible.COLUMNS[1:])]
        assert inputs["ranks"] not in (sorted(inputs["ranks"]), sorted(inputs["ranks"])[::-1])
        assert all(len(set(column)) == 5 for column in columns)


# --- the notebook ---------------------------------------------------------------------------------------------------


def test_every_figure_is_described():
    for cell in jupytext.read(MASTER, fmt="py:percent").cells:
        if "figure = plots." in cell.source:
            assert "display(figure)\n" in cell.source
            assert "print(describe(figure))" in cell.source


def test_the_report_asks_for_the_students_own_figures():
    """A published course accepted "1" for an answer."""
    written = next(c for c in jupytext.read(MASTER, fmt="py:percent").cells if "written" in c.metadata)
    scheme = written.source.partition("### BEGIN MARK SCHEME")[2]
    assert "own figures" in scheme
    assert all(f"({part})" in scheme for part in "abcd")
