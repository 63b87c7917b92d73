"""What holds of stage 05's checks alone; of all stages' alike: ``test_exercises.py``."""

import numpy as np
import pandas as pd
import pytest
import torch
from hostile_answers import Always, stub
from stage_answers import hidden, names_of, worked

from autograder import evaluate
from autograder.evaluation import evaluate_exercise
from lora_ref.checks.stage05 import e1_rank_sweep, e2_delta_spectrum, shared
from lora_ref.checks.verdicts import judge

STAGE = "05_analysis"


def ordered_rows(run, ranks, columns):
    return pd.DataFrame([run(rank) | {"rank": rank} for rank in ranks])[list(columns)]


def test_the_order_of_columns_and_the_index_are_free():
    """The contract names the columns and orders the rows, and says nothing else."""

    def rank_sweep(run, ranks):
        frame = ordered_rows(run, ranks, ("seconds", "rank", "accuracy", "trainable"))
        return frame.set_axis([f"r{rank}" for rank in ranks])

    assert evaluate_exercise("5.1", {**worked(STAGE).namespace, "rank_sweep": rank_sweep}, 0).earned == 2


def test_cells_of_any_numeric_type_pass():
    def rank_sweep(run, ranks):
        return ordered_rows(run, ranks, e1_rank_sweep.COLUMNS).astype({"rank": "Int64", "accuracy": object})

    assert evaluate_exercise("5.1", {**worked(STAGE).namespace, "rank_sweep": rank_sweep}, 0).earned == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda A1, A2, i, j: 1.0,
        lambda A1, A2, i, j: max(i, j) / A1.shape[1],
        lambda A1, A2, i, j: float(torch.cosine_similarity(A1[0], A2[0], dim=0) ** 2),
    ],
)
def test_a_constant_or_a_guess_is_not_a_similarity(wrong):
    result = evaluate_exercise("5.3", {**worked(STAGE).namespace, "subspace_similarity": wrong}, 0)
    assert result.earned <= 0.25, result.message  # it is a float


def test_a_compose_that_refuses_everything_has_no_points():
    def compose(layers, weights):
        raise ValueError("no")

    assert evaluate_exercise("5.4", {**worked(STAGE).namespace, "compose": compose}, 0).earned == 0


def test_a_compose_that_never_refuses_loses_the_lengths_alone():
    def compose(layers, weights):
        return worked(STAGE).namespace["compose"](*zip(*zip(layers, weights, strict=False), strict=True))

    result = evaluate_exercise("5.4", {**worked(STAGE).namespace, "compose": compose}, 0)
    assert result.earned == 1.5, result.message


def test_rank_values_or_all_values_pass():
    """A spectrum may stop at the rank, or end in zeros."""
    for cut in (slice(None), "rank"):

        def delta_spectrum(layer, cut=cut):
            values = worked(STAGE).namespace["delta_spectrum"](layer)
            return values[: len(getattr(layer, "lora", layer).lora_A)] if cut == "rank" else values[cut]

        assert evaluate_exercise("5.2", {**worked(STAGE).namespace, "delta_spectrum": delta_spectrum}, 0).earned == 2


def test_a_layer_may_be_changed_if_it_comes_back_as_it_was():
    def delta_spectrum(layer):
        lora = getattr(layer, "lora", layer)
        layer.eval()
        layer.requires_grad_(False)
        if lora is layer:
            values = worked(STAGE).namespace["delta_spectrum"](layer)
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

    result = evaluate_exercise("5.2", {**worked(STAGE).namespace, "delta_spectrum": delta_spectrum}, 0)
    assert result.earned == 2, result.message


@pytest.mark.parametrize(
    ("value", "at_most"),
    [
        ("0.5", 0),
        (0.5, 0.25),  # it is a float
        (Always(0.5), 0.25),
        (torch.full((13, 8), torch.nan), 0),
        (torch.zeros(8), 0),
        (pd.DataFrame(columns=e1_rank_sweep.COLUMNS), 0.5),  # they are the columns
        (pd.DataFrame(np.nan, index=range(5), columns=e1_rank_sweep.COLUMNS), 0.5),
    ],
)
def test_the_right_form_alone_earns_hardly_anything(value, at_most):
    report = evaluate(STAGE, dict.fromkeys(names_of(STAGE), stub(value)), 0)
    assert report.score <= at_most, str(report)


@pytest.mark.parametrize("check", hidden(STAGE), ids=lambda check: check.id)
def test_no_judge_passes_a_table_that_a_sandbox_made_up(check):
    inputs = check.draw(np.random.default_rng(0))
    for seen in (
        {"spectra": []},
        {"sums": []},
        {"columns": [], "index": "", "rows": 5, "cells": {}, "calls": []},
        {"equal": {"raised": None}},
    ):
        assert not judge(check, inputs, seen).passed, f"{seen} passes"


@pytest.mark.parametrize("seed", range(3))
def test_the_drawn_layers_are_what_the_judges_think(seed):
    rng = np.random.default_rng(seed)
    for options in ({}, {"merged": True}, {"rslora": True}):
        for update in e2_delta_spectrum.draw_spectra(rng, shared.KINDS, **options)["updates"]:
            layer = shared.build(update)
            lora = getattr(layer, "lora", layer)
            np.testing.assert_allclose(lora.delta_weight().detach(), shared.delta_of(update), rtol=1e-4, atol=1e-5)


def test_the_drawn_ranks_never_come_in_order():
    """A sorted table must differ from the right one, whichever way it is sorted."""
    for seed in range(200):
        inputs = e1_rank_sweep.draw_sweep(np.random.default_rng(seed))
        columns = [inputs["ranks"], *([r[k] for r in inputs["results"]] for k in e1_rank_sweep.COLUMNS[1:])]
        assert inputs["ranks"] not in (sorted(inputs["ranks"]), sorted(inputs["ranks"])[::-1])
        assert all(len(set(column)) == 5 for column in columns)
