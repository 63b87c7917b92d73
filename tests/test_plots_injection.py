"""Stage 03's figures say what their numbers say."""

import pytest

from lora_ref import plots

BEFORE = {"embeddings": (0, 900), "attention": (0, 90), "head": (0, 10), "LoRA": (0, 0)}
HELPER = {"embeddings": (0, 900), "attention": (45, 45), "head": (0, 10), "LoRA": (0, 20)}
AFTER = {"embeddings": (900, 0), "attention": (90, 0), "head": (0, 10), "LoRA": (0, 20)}


def _title(figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def test_the_audits_title_follows_the_counts():
    figure = plots.audit({"base model": BEFORE, "published helper": HELPER, "inject_lora": AFTER})
    expected = "After inject_lora, 2.9% of the model trains; after the published helper, 95.6%; before, 100%"
    assert _title(figure) == expected
    description = plots.describe(figure)
    assert "attention 45 frozen and 45 training" in description
    assert "embeddings 900 frozen" in description
    assert [ax.get_title(loc="left") for ax in figure.axes][2] == "inject_lora: 2.9% trains"


def test_an_audit_of_one_state():
    figure = plots.audit({"base model": BEFORE})
    assert _title(figure) == "After base model, 100% of the model trains"
    with pytest.raises(ValueError, match="no states"):
        plots.audit({})


def test_the_budget_names_the_heads_share():
    figure = plots.trainable_budget({"query, value": 100, "all": 400}, {"query, value": 250, "all": 0})
    assert _title(figure) == "LoRA on query, value trains 100 numbers; the new head has 250, 2.5 times as many"
    assert "all: 400 in updates, 0 in a head" in plots.describe(figure)
    for updates, heads in (({}, {}), ({"a": 1}, {"b": 1})):
        with pytest.raises(ValueError, match="same choices"):
            plots.trainable_budget(updates, heads)


@pytest.mark.parametrize(
    ("frozen", "trained", "words"),
    [
        ([0.5, 0.6], [0.7, 0.8], "Trained reaches 0.750, frozen 0.550; the first is ahead in 2 of 2 seeds"),
        ([0.5, 0.9], [0.7, 0.8], "Trained reaches 0.750, frozen 0.700; the first is ahead in 1 of 2 seeds"),
    ],
)
def test_the_new_heads_title_counts_seeds(frozen, trained, words):
    figure = plots.new_head({"frozen": (1_000, frozen), "trained": (1_100, trained)}, 1_000)
    assert _title(figure) == words
    assert "trained (1,100 numbers train) 0.700, 0.800, mean 0.750" in plots.describe(figure)


def test_one_method_is_not_a_comparison():
    for results in ({"one": (1, [0.5])}, {"one": (1, [0.5]), "two": (1, [])}, {"one": (1, []), "two": (1, [])}):
        with pytest.raises(ValueError, match="at least two results"):
            plots.new_head(results, 10)


def test_figures_can_be_written(tmp_path):
    plots.audit({"base model": BEFORE, "inject_lora": AFTER}).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
