"""Figures say what their numbers say."""

from __future__ import annotations

import dataclasses
import math

import pytest

from lora_ref import plots
from lora_ref.plots.base import alt_text
from lora_ref.training import TrainingResult


def _result(method: str, test: float, n: int = 1000, loss: float = 0.3, seed: int = 0, **changes) -> TrainingResult:
    trainable = {"head": 148_610, "lora": 480_386, "full": 22_713_986}[method]
    result = TrainingResult(
        method=method,
        profile="laptop",
        seed=seed,
        rank=8 if method == "lora" else None,
        alpha=16 if method == "lora" else None,
        learning_rate=1e-3,
        steps=tuple(range(5, 126, 5)),
        losses=tuple(loss + 0.4 * math.exp(-i / 3) for i in range(25)),
        validation={"accuracy": test + 0.01, "loss": 0.4, "n": n},
        test={"accuracy": test, "loss": 0.4, "n": n},
        validation_accuracies=(test,),
        seconds=30.0 + trainable / 1e6,
        peak_memory=10**9,
        memory_increase=10**8,
        trainable=trainable,
        total=23_045_762,
    )
    return dataclasses.replace(result, **changes)


def _title(figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


@pytest.mark.parametrize(
    ("accuracy", "n", "low", "high"),
    # statsmodels.stats.proportion.proportion_confint(count, n, method="wilson")
    [(0.5, 100, 0.4038, 0.5962), (0.9, 1000, 0.8798, 0.9171), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)],
)
def test_wilson_interval(accuracy, n, low, high):
    assert plots.wilson_interval(accuracy, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_refuses_what_is_not_an_accuracy():
    for accuracy, n in ((1.2, 10), (math.nan, 10), (0.5, 0)):
        with pytest.raises(ValueError, match="accuracy must be"):
            plots.wilson_interval(accuracy, n)


@pytest.mark.parametrize(
    ("head", "lora", "full", "words"),
    [
        (0.68, 0.84, 0.83, ["reaches 0.840", "2.1%", "16.0 points above the head", "level with full fine-tuning"]),
        (0.68, 0.60, 0.83, ["reaches 0.600", "8.0 points below the head", "23.0 points below full fine-tuning"]),
    ],
)
def test_the_comparisons_title_follows_the_numbers(head, lora, full, words):
    figure = plots.compare_methods([_result("head", head), _result("lora", lora), _result("full", full)])
    assert all(word in _title(figure) for word in words), _title(figure)
    assert not any(word in plots.describe(figure) for word in words)  # the title has said it
    assert all(word in alt_text(figure) for word in words)
    assert "480,386 trainable parameters" in plots.describe(figure)
    assert [ax.get_xlabel() for ax in figure.axes] == ["trainable parameters (log scale)", "training time (seconds)"]


def test_a_small_difference_on_few_sentences_is_not_a_difference():
    few = plots.compare_methods([_result("head", 0.70, n=100), _result("lora", 0.76, n=100)])
    many = plots.compare_methods([_result("head", 0.70, n=10_000), _result("lora", 0.76, n=10_000)])
    assert "level with the head alone within sampling error (+6.0 points)" in _title(few)
    assert "6.0 points above the head alone" in _title(many)


def test_one_method_alone():
    assert _title(plots.compare_methods([_result("head", 0.7)])) == "Head only reaches 0.700 on held-out sentences"


@pytest.mark.parametrize(
    ("losses", "title"),
    [
        ((0.6, 0.3, 0.4), "LoRA ends with the lowest training loss, 0.30; full fine-tuning 0.40, head only 0.60"),
        ((0.6, 0.3, 0.3), "LoRA and full fine-tuning end level, with a training loss of 0.30; head only 0.60"),
        ((0.2, 0.3, 0.4), "Head only ends with the lowest training loss, 0.20; LoRA 0.30, full fine-tuning 0.40"),
    ],
)
def test_the_loss_curves_title_follows_the_numbers(losses, title):
    results = [_result(m, 0.8, loss=loss) for m, loss in zip(("head", "lora", "full"), losses, strict=True)]
    assert _title(plots.loss_curves(results)) == title


def test_several_runs_of_one_method_are_told_apart():
    figure = plots.loss_curves([_result("lora", 0.8, seed=0), _result("lora", 0.8, loss=0.5, seed=1)])
    assert "LoRA seed 0" in _title(figure)
    assert "LoRA seed 1" in _title(figure)


def test_figures_are_not_left_open_in_pyplot():
    import matplotlib.pyplot as plt

    plots.loss_curves([_result("lora", 0.8)])
    plots.compare_methods([_result("lora", 0.8)])
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", [plots.loss_curves, plots.compare_methods])
def test_nothing_to_draw(draw):
    with pytest.raises(ValueError, match="no results"):
        draw([])


def test_figures_can_be_written(tmp_path):
    results = [_result("head", 0.7), _result("lora", 0.85), _result("full", 0.86)]
    for draw in (plots.loss_curves, plots.compare_methods):
        draw(results).savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_variations_are_said_to_learn_only_below_guessing():
    falling, flat = [0.7, 0.5, 0.3, 0.2, 0.2, 0.2, 0.2], [0.7] * 7
    both = plots.variations({"LoRA": falling, "DoRA": falling})
    assert _title(both) == "All 2 learn: losses from 0.22 to 0.22 after 7 steps"
    assert (
        _title(plots.variations({"LoRA": falling, "LoRA+": flat}))
        == "Clearly below guessing after 7 steps: LoRA (0.22)"
    )
    assert "LoRA+ 0.70" in plots.describe(plots.variations({"LoRA": falling, "LoRA+": flat}))
