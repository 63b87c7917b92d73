"""What LoRA costs and saves: the tables and counts that the notebooks compare with what was published."""

import pytest
import torch
from torch import nn
from toy_models import batch, lora_roberta

from autograder.exercises import ROOT
from lora_ref import costs, inject, models, rank
from lora_ref.training import ENCODER_LINEARS


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


@pytest.fixture(scope="module")
def roberta_base():
    """roberta-base's shapes."""
    return costs.meta_model(costs.roberta_base_config())


def test_roberta_base_has_the_published_counts(roberta_base):
    assert all(p.is_meta for p in roberta_base.parameters())
    frame = costs.cost_table(roberta_base, ENCODER_LINEARS, [8]).set_index("method")
    assert frame.loc["full", ["total", "trainable"]].tolist() == [124_647_170] * 2
    assert frame.loc["lora", "lora"] == 1_327_104
    assert frame.loc["lora", "trainable"] == 1_327_104 + 592_130
    assert frame.loc["head", "trainable"] == 592_130
    frame = costs.cost_table(roberta_base, ["query", "value"], [8]).set_index("method")
    assert frame.loc["lora", "lora"] == 294_912
    everywhere = costs.cost_table(roberta_base, [*ENCODER_LINEARS, "classifier.dense", "out_proj"], [8])
    assert everywhere.set_index("method").loc["lora", "lora"] == 1_345_552


def test_the_bytes_are_training_memorys(roberta_base):
    frame = costs.cost_table(roberta_base, ["query"], [1, 16])
    assert frame["rank"].tolist()[1:3] == [1, 16]
    for row in frame.itertuples():
        assert (
            row.memory == rank.training_memory(row.total, row.trainable) == row.weights + row.gradients + row.optimizer
        )
        assert row.share == row.trainable / row.total
    half = costs.cost_table(roberta_base, ["query"], [1], bytes_per_param=2, optimizer_states=0).iloc[0]
    assert half["memory"] == 2 * (half["total"] + half["trainable"])


def test_the_table_agrees_with_injection():
    frame = costs.cost_table(models.tiny_roberta(), ["query", "output.dense"], [3]).set_index("method")
    report = inject.trainable_report(inject.inject_lora(models.tiny_roberta(), ["query", "output.dense"], rank=3))
    assert frame.loc["lora", "trainable"] == report["trainable"]
    assert frame.loc["lora", "total"] == report["total"]
    with pytest.raises(ValueError, match="LoRA layers already"):
        costs.cost_table(lora_roberta(), ["query"])
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        costs.cost_table(models.tiny_roberta(), ["query"], [0])


@pytest.mark.parametrize(
    ("layer", "reductions"),
    [
        ("768x768", [96.1, 48.1, 24.0, 12.0, 6.0]),
        ("768x3072", [153.8, 76.9, 38.4, 19.2, 9.6]),
        ("1024x1024", [128.1, 64.1, 32.0, 16.0, 8.0]),
        ("1024x4096", [205.0, 102.5, 51.2, 25.6, 12.8]),
        ("2048x2048", [256.1, 128.1, 64.0, 32.0, 16.0]),
    ],
)
def test_reductions_of_the_courses_layers(layer, reductions):
    frame = costs.layer_table()
    assert frame[frame["layer"] == layer]["reduction"].round(1).tolist() == reductions


def test_reductions_of_the_courses_network():
    frame = costs.network_table()
    assert frame["reduction"].round(1).tolist() == [311.9, 155.9, 78.0, 39.0, 19.5]
    assert frame["rank"].tolist() == [2, 4, 8, 16, 32]
    assert frame["saved_percent"].iloc[0] == pytest.approx(100 * (1 - 1 / 311.891), rel=1e-4)


def test_activations_of_a_chain_are_counted_once_and_without_parameters():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(10, 4)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x)

    # the input, and the ReLU's output, which the ReLU and the second layer both keep
    assert costs.activation_bytes(Model(), {"x": x}) == 4 * (10 * 4 + 10 * 6)
    inject.freeze(model[0])
    assert costs.activation_bytes(Model(), {"x": x}) == 4 * 10 * 6, "nothing before the last layer needs a gradient"
    inject.freeze(model)
    assert costs.activation_bytes(Model(), {"x": x}) == 0


def test_activations_hardly_shrink_with_lora():
    full, lora, head = models.tiny_roberta(), lora_roberta(), inject.freeze(models.tiny_roberta())
    head.classifier.requires_grad_(True)
    found = {name: costs.activation_bytes(m, batch()) for name, m in (("full", full), ("lora", lora), ("head", head))}
    assert found["head"] < 0.1 * found["lora"]
    assert 0.5 * found["full"] < found["lora"] < 1.2 * found["full"]
    assert not full.training, "left as it was"


def test_merge_latency_measures_three_states_and_leaves_the_model_as_it_was():
    model = lora_roberta()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frame = costs.merge_latency(model, batch(), repeats=2, warmup=1)
    assert frame["state"].tolist() == ["base", "unmerged", "merged"]
    assert frame["ratio"].iloc[0] == 1
    assert (frame["fastest"] <= frame["milliseconds"]).all()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert model.training
    assert not any(layer.merged for layer in inject.lora_layers(model).values())
    with pytest.raises(ValueError, match="no LoRA layers"):
        costs.merge_latency(models.tiny_roberta(), batch())
    with pytest.raises(ValueError, match="unmerge it first"):
        costs.merge_latency(inject.merge_lora(model), batch())


def test_an_interrupted_measurement_leaves_the_model_as_it_was(monkeypatch):
    model, calls = lora_roberta(), []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def interrupted(*_):
        calls.append(len(inject.lora_layers(model)))
        if len(calls) == stop_at[0]:
            raise KeyboardInterrupt
        return 1.0

    monkeypatch.setattr(costs, "_seconds", interrupted)
    stop_at = [0]
    for _ in range(3):  # in each of the three states
        stop_at[0] += 1
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            costs.merge_latency(model, batch())
        after = model.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert calls == [0, 12, 12]
