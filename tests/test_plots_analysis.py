"""Stage 05's figures: their titles say no more than the numbers allow."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from toy_models import lora_roberta, title

from lora_ref import analysis, costs, models, plots
from lora_ref.plots.base import alt_text


def sweep_frame(column, values, accuracies) -> pd.DataFrame:
    """Made-up results, to see what the titles make of them."""
    rows = [
        {"rank": 8, "alpha": 16, "targets": "all", "seed": seed, "trainable": 1000, "accuracy": accuracy}
        | {column: key}
        for key, seeds in zip(values, accuracies, strict=True)
        for seed, accuracy in enumerate(seeds)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("accuracies", "finding"),
    [
        (
            [[0.70, 0.71], [0.80, 0.81], [0.90, 0.91]],
            "Rank 16 reaches 0.905, 10.0 points above rank 4: more than two standard errors",
        ),
        ([[0.70, 0.71], [0.805, 0.815], [0.80, 0.81]], "Rank 4 reaches 0.810; 2 seeds do not tell rank 16 from it"),
        (
            [[0.70, 0.80], [0.75, 0.81], [0.80, 0.72]],
            "Rank 4 reaches 0.780, but 2 seeds tell no other from it",
        ),
        ([[0.70], [0.75], [0.80]], "Rank 16 reaches 0.800, 10.0 points above rank 1; with one seed each, that may be"),
        ([[0.70], [0.70], [0.70]], "Rank 1, rank 4 and rank 16 all reach 0.700"),
        (
            [[0.70, 0.78], [0.75, 0.76], [0.80]],
            "Rank 16 reaches 0.800, 6.0 points above rank 1; seeds of rank 1 differ by 8.0",
        ),
    ],
)
def test_the_title_of_a_sweep_says_no_more_than_its_seeds_allow(accuracies, finding):
    figure = plots.rank_sweep(sweep_frame("rank", [1, 4, 16], accuracies))
    assert title(figure).startswith(finding)


def test_the_note_says_what_the_marks_are():
    uneven = plots.rank_sweep(sweep_frame("rank", [1, 8], [[0.7, 0.72], [0.8]]), 500)
    note = "Dots: one for each seed (up to 2); line: their mean. Grey: the 95% interval for 500 test sentences."
    assert uneven.get_supxlabel() == note
    assert plots.target_ablation(sweep_frame("targets", ["all"], [[0.7]])).get_supxlabel() == "One seed."


def mixing_frame(first, second) -> pd.DataFrame:
    return pd.DataFrame(
        {"weight": weight, "task": task, "accuracy": accuracy}
        for weight, pair in zip((0.0, 0.5, 1.0), zip(first, second, strict=True), strict=True)
        for task, accuracy in zip(("tone", "film"), pair, strict=True)
    )


@pytest.mark.parametrize(
    ("first", "second", "finding"),
    [
        (
            [0.8, 0.7, 0.5],
            [0.5, 0.85, 0.9],
            "With weights 0.5 and 0.5, tone reaches 0.700 (alone 0.800) and film 0.850 (alone 0.900)",
        ),
        (
            [0.8, 0.5, 0.5],
            [0.8, 0.5, 0.9],
            "With weights 1 and 0, tone reaches 0.800 (alone 0.800) and film 0.800 (alone 0.900)",
        ),
    ],
)
def test_the_title_of_a_mixture_names_the_weights_at_which_both_tasks_lose_least(first, second, finding):
    figure = plots.mixing(mixing_frame(first, second), {"tone": 200, "film": 180})
    assert title(figure) == finding
    assert "tone: 0 0.800" in plots.describe(figure)


def test_every_figure_is_drawn_and_described(tmp_path):
    first, second = lora_roberta(0), lora_roberta(1)
    full = models.tiny_roberta()
    for parameter in full.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    A1, A2 = (m.roberta.encoder.layer[0].attention.self.query.lora.lora_A for m in (first, second))
    accuracies = [[0.7, 0.72], [0.8, 0.83]]
    table = costs.cost_table(models.tiny_roberta(), ["query"], [1, 8])
    frame = pd.DataFrame(
        {"state": ["base", "unmerged", "merged"], "milliseconds": [10.0, 12.0, 10.1], "fastest": [9.0, 11.0, 9.5],
         "slowest": [11.0, 14.0, 12.0], "ratio": [1.0, 1.2, 1.01]}
    )  # fmt: skip
    mixes = mixing_frame([0.8, 0.7, 0.5], [0.5, 0.85, 0.9])
    figures = [
        plots.rank_sweep(sweep_frame("rank", [1, 8], accuracies)),
        plots.rank_sweep(sweep_frame("rank", [1, 8], accuracies), 500),
        plots.target_ablation(sweep_frame("targets", ["query+value", "all"], accuracies), 500),
        plots.alpha_ablation(sweep_frame("alpha", [1, 16], accuracies)),
        plots.target_ablation(sweep_frame("targets", ["query+value", "all"], accuracies)),
        plots.spectra({"LoRA": analysis.spectra(first), "full": analysis.update_spectra(full, models.tiny_roberta())}),
        plots.similarity({"two seeds": analysis.similarity_grid(A1, A2).numpy()}, 32),
        plots.layer_overlaps({"two seeds": analysis.overlaps(first, second)}),
        plots.costs(table),
        plots.costs(table, {"head": 1000, "lora": 50_000, "full": 60_000}),
        plots.layer_costs(costs.layer_table()),
        plots.mixing(mixes, {"tone": 200, "film": 180}),
        plots.latency(frame),
    ]
    for figure in figures:
        figure.savefig(tmp_path / "figure.png", dpi=30)
        assert len(title(figure)) > 30
        assert "nan" not in alt_text(figure)
    assert title(figures[-1]) == "Unmerged, a forward pass takes 1.20 times the base model's; merged, 1.01"
    assert "this tells little" in title(plots.latency(frame.assign(slowest=90.0)))
    with pytest.raises(ValueError, match="no rank 5"):
        plots.layer_costs(costs.layer_table(), rank=5)
