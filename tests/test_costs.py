"""What LoRA costs and saves: the tables and counts that the notebooks compare with what was published."""

import pytest
import torch

from autograder.exercises import ROOT
from lora_ref import costs, inject, rank


def test_the_notebooks_tables_are_the_published_ones():
    """The digest's figures for the second and third piece, to the digit that they give."""
    published = {
        "768x768": [96.1, 48.1, 24.0, 12.0, 6.0],
        "768x3072": [153.8, 76.9, 38.5, 19.2, 9.6],
        "1024x1024": [128.1, 64.1, 32.0, 16.0, 8.0],
        "1024x4096": [205.0, 102.5, 51.2, 25.6, 12.8],
        "2048x2048": [256.1, 128.1, 64.0, 32.0, 16.0],
    }
    table = costs.layer_table(ranks=(4, 8, 16, 32, 64))
    for layer, figures in published.items():
        assert table[table["layer"] == layer]["reduction"].tolist() == pytest.approx(figures, abs=0.0501)
    network = costs.network_table()
    assert network["reduction"].tolist() == pytest.approx([311.9, 155.9, 78.0, 39.0, 19.5], abs=0.0501)
    text = (ROOT / "solutions/01_rank_theory/01_rank_theory.py").read_text(encoding="utf-8")
    assert "costs.layer_table(ranks=(4, 8, 16, 32, 64))" in text
    assert "costs.network_table()" in text


def test_training_bytes_are_what_adamw_keeps():
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    assert costs.training_bytes(model, optimizer) == {"weights": 4 * 26, "gradients": 0, "optimizer": 0}
    model(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    kept = costs.training_bytes(model, optimizer)
    assert kept == {
        "weights": 4 * 26,
        "gradients": 4 * 8,
        "optimizer": 4 * (2 * 8 + 2),
    }  # and a counter for each tensor
    assert sum(kept.values()) == rank.training_memory(26, 8) + 4 * 2


def test_known_figures_of_roberta_base():
    """The counts that the notebook compares with: the homework's, the paper's table 2, the new head's."""
    meta = costs.meta_model(costs.roberta_base_config())
    assert inject.trainable_report(meta)["total"] == 124_647_170
    assert inject.trainable_report(meta.classifier)["total"] == 592_130
    every = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
    for targets, updates in (
        (["query", "value"], 294_912),
        (every, 1_327_104),
        ([*every, "classifier.dense", "classifier.out_proj"], 1_345_552),
    ):
        model = costs.meta_model(costs.roberta_base_config())
        inject.inject_lora(model, targets, rank=8, train_head=False)
        assert inject.trainable_report(model)["trainable"] == updates
