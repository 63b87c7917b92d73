"""The vision lab: what LoRA does to one digit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from toy_models import same, title, weights

from lora_ref import data, plots, vision
from lora_ref.data import Images
from lora_ref.inject import trainable_report
from lora_ref.plots import describe
from lora_ref.profiles import TINY
from lora_ref.vision import BETTER, PUBLISHED, REPLAY_ONLY, Recipe, WideMLP
from lora_ref.vision.mnist import _seen_and_new

QUICK = Recipe("quick", 5, 0.5, 2, 4, 0.05, 1e-3, 6, 8)


@pytest.fixture(scope="module")
def blocks():
    """Made-up digits: 800 and 200."""
    return data.mnist(TINY)


@pytest.fixture(scope="module")
def few():
    """Made-up digits, where any will do: 200 and 200."""
    return data.mnist(TINY, train_size=200)


@pytest.fixture(scope="module")
def digits():
    """Real digits: 4,000 and 1,000."""
    return data.mnist()


# --- train and predict ------------------------------------------------------------------------------------


def test_the_same_seed_trains_the_same_model(blocks):
    models = [WideMLP(1), WideMLP(1)]
    before = torch.random.get_rng_state()
    losses = [vision.train_classifier(m, blocks["train"], batch_size=50, seed=3, progress=False) for m in models]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 16
    assert same(weights(models[0]), weights(models[1]))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert vision.accuracy(models[0], blocks["test"]) > 0.5


def test_what_does_not_train_does_not_change(blocks):
    model = WideMLP()
    model.linear1.requires_grad_(False)
    before = weights(model)
    vision.train_classifier(model, blocks["train"].take(slice(0, 20)), progress=False)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"linear2.weight", "linear2.bias", "linear3.weight", "linear3.bias"}


def test_progress_is_a_few_lines_in_a_log(blocks, capsys):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    vision.train_classifier(model, blocks["train"], name="a straight line", epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("a straight line: step 160 of 160, loss ")
    vision.train_classifier(model, blocks["train"], progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number from 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number from 1, got 2.5"),
        ({"learning_rate": math.nan}, "learning_rate must be a positive number"),
        ({"images": Images(torch.zeros(0, 28, 28), torch.zeros(0).long())}, "as many labels as images, got 0 and 0"),
        ({"images": Images(torch.zeros(3, 28, 28), torch.zeros(2).long())}, "as many labels as images, got 2 and 3"),
        ({"model": WideMLP().requires_grad_(False)}, "nothing trains in this WideMLP"),
    ],
)
def test_training_says_what_is_wrong(blocks, options, message):
    arguments = {"model": WideMLP(), "images": blocks["test"], "progress": False} | options
    with pytest.raises(ValueError, match=message):
        vision.train_classifier(**arguments)


def test_predict_leaves_the_model_in_its_mode(blocks):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10)).train()
    images = blocks["test"].images
    first, second = vision.predict(model, images), vision.predict(model, images, batch_size=7)
    assert first.shape == (200, 10)
    torch.testing.assert_close(first, second)
    assert model[1].training
    with pytest.raises(ValueError, match="no images"):
        vision.predict(model, images[:0])


# --- one digit --------------------------------------------------------------------------------------------


def test_the_wide_mlp_has_the_parameters_of_the_published_one():
    model = vision.parametrize_lora(WideMLP())
    total = trainable_report(WideMLP())["total"]
    added = trainable_report(model)["trainable"]
    assert (total, added) == (2_807_010, 6_794)
    assert f"{100 * added / total:.3f}" == "0.242"


def test_the_mlp_takes_images_of_any_of_three_shapes():
    model, images = WideMLP(), torch.rand(4, 28, 28)
    logits = model(images)
    assert logits.shape == (4, 10)
    assert torch.equal(model(images.unsqueeze(1)), logits)
    assert torch.equal(model(images.reshape(4, 784)), logits)


def test_a_new_parametrization_changes_nothing_but_what_trains():
    base = WideMLP()
    model = vision.parametrize_lora(WideMLP(), rank=3, alpha=6, std=0.05)
    images = torch.rand(5, 28, 28)
    assert torch.equal(model(images), base(images))
    trainable = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"lora_A", "lora_B"}
    for update in vision.parametrized_lora(model).values():
        assert update.scaling == 2
        assert update.lora_A.std().item() == pytest.approx(0.05, rel=0.1)
    again = vision.parametrize_lora(WideMLP(), rank=3, alpha=6, std=0.05)
    assert same(weights(model), weights(again))


def test_parametrizing_says_what_is_wrong():
    model = vision.parametrize_lora(WideMLP())
    with pytest.raises(ValueError, match="LoRA already"):
        vision.parametrize_lora(model)
    with pytest.raises(ValueError, match="ReLU has no linear layer"):
        vision.parametrize_lora(nn.ReLU())
    plain = WideMLP()
    with pytest.raises(ValueError, match="rank must be at least 1"):
        vision.parametrize_lora(plain, rank=0)
    assert all(p.requires_grad for p in plain.parameters())


def test_the_switch_goes_back_to_where_it_was():
    model = vision.parametrize_lora(WideMLP())
    updates = list(vision.parametrized_lora(model).values())
    for update in updates:
        nn.init.ones_(update.lora_B)
    updates[1].enabled = False
    images = torch.rand(3, 28, 28)
    on = model(images)
    with contextlib.suppress(KeyError), vision.lora_off(model) as same:
        assert same is model
        assert torch.equal(model(images), WideMLP()(images))
        raise KeyError  # the way out that must put the switches back as well
    assert [update.enabled for update in updates] == [True, False, True]
    assert torch.equal(model(images), on)
    assert all(update.enabled for update in vision.parametrized_lora(vision.switch_lora(model, True)).values())


def test_score_counts_by_digit():
    labels = torch.tensor([0, 0, 4, 4, 9, 9, 9])
    named = torch.tensor([0, 9, 4, 9, 9, 4, 3])
    found = vision.score(nn.functional.one_hot(named, 10).float(), labels, digit=9)
    assert found.errors == (1, 0, 0, 0, 1, 0, 0, 0, 0, 2)
    assert found.false_positives == 2
    assert found.accuracy == pytest.approx(3 / 7)


def test_one_digit_trains_lora_and_nothing_else(few):
    base = vision.base_classifier(few, seen=5, progress=False)
    before = weights(base)
    result = vision.one_digit(QUICK, data=few, base=base, progress=False)
    assert result.base is base
    assert same(weights(base), before)
    assert result.off_is_identical
    assert result.off == result.before
    assert len(result.losses) == 6
    assert (result.added, result.total) == (2 * 6_794, 2_807_010)
    for name in ("linear1", "linear2", "linear3"):
        layer = result.model.get_submodule(name)
        original, update = layer.parametrizations.weight.original, layer.parametrizations.weight[0]
        assert torch.equal(original, before[f"{name}.weight"])
        assert torch.equal(layer.bias, before[f"{name}.bias"])
        assert update.lora_B.abs().max() > 0
        A, B = (t.detach().double().numpy() for t in (update.lora_A, update.lora_B))
        np.testing.assert_allclose(layer.weight.detach(), original.double().numpy() + 2 * B @ A, atol=1e-6)


def test_one_digit_is_seeded(few):
    first, again = (vision.one_digit(QUICK, data=few, seed=1, progress=False) for _ in range(2))
    assert first == again
    assert first.losses != vision.one_digit(QUICK, data=few, seed=2, progress=False).losses


def test_the_base_sees_few_images_of_the_digit(blocks):
    train = blocks["train"]
    old, new = _seen_and_new(train, 9, 5, 0)
    assert torch.bincount(old.labels).tolist() == [80] * 9 + [5]
    assert new.labels.tolist() == [9] * 75
    assert len(torch.cat([old.images, new.images]).unique(dim=0)) == 800
    old, new = _seen_and_new(train, 9, None, 0)
    assert (len(old.labels), len(new.labels)) == (800, 80)


@pytest.mark.parametrize(
    ("changes", "digit", "message"),
    [
        ({"seen": 81}, 9, "there are 80 training images of 9, seen=81"),
        ({"seen": 80}, 9, r"seen all images of 9: recipe\.seen=80"),
        ({"new_share": 1.5}, 9, "new_share must be from 0 to 1, got 1.5"),
        ({"batches": 0}, 9, "batches must be a whole number from 1"),
        ({"rank": 0}, 9, "rank must be a whole number from 1"),
        ({}, 11, "no training image of the digit 11"),
    ],
)
def test_one_digit_says_what_is_wrong(blocks, changes, digit, message):
    recipe = dataclasses.replace(QUICK, **changes)
    with pytest.raises(ValueError, match=message):
        vision.one_digit(recipe, data=blocks, base=WideMLP(), digit=digit, progress=False)


def test_a_result_is_a_table(few):
    result = vision.one_digit(dataclasses.replace(QUICK, new_share=0.0), data=few, progress=False)
    table = result.table()
    assert list(table.columns) == ["before", "LoRA on", "LoRA off", "images"]
    assert table.index.name == "digit"
    assert tuple(table["before"]) == result.before.errors
    assert table["images"].tolist() == [20] * 10
    row = vision.table([result]).iloc[0]
    assert row["recipe"] == "quick"
    assert row["digit 9 errors on"] == result.on.errors[9]
    assert row["accuracy off"] == result.before.accuracy
    nothing = dataclasses.replace(result, before=dataclasses.replace(result.before, errors=(0,) * 10))
    assert math.isnan(nothing.removed)


@pytest.fixture(scope="module")
def known(digits):
    """A base model that has seen all digits."""
    return vision.base_classifier(digits, progress=False)


@pytest.fixture(scope="module")
def lacking(digits):
    """A base model that has seen 20 nines."""
    return vision.base_classifier(digits, seen=20, progress=False)


def _check_published(result):
    assert result.before.accuracy > 0.85
    assert result.on.errors[9] <= result.before.errors[9] / 2
    assert result.on.accuracy < result.before.accuracy - 0.2
    assert result.on.false_positives > 200
    assert result.off_is_identical


def _check_better(result):
    assert result.before.errors[9] >= 50
    assert result.removed >= 0.8
    assert result.on.accuracy >= result.before.accuracy - 0.005
    assert result.on.accuracy > result.before.accuracy
    assert result.off_is_identical


@pytest.mark.laptop
def test_the_published_recipe_fixes_the_digit_and_breaks_the_rest(digits, known):
    result = vision.one_digit(PUBLISHED, data=digits, base=known, progress=False)
    _check_published(result)
    for name in ("linear1", "linear2", "linear3"):
        layer = result.model.get_submodule(name)
        original, update = layer.parametrizations.weight.original, layer.parametrizations.weight[0]
        assert torch.equal(original, known.get_submodule(name).weight)
        A, B = (t.detach().double().numpy() for t in (update.lora_A, update.lora_B))
        np.testing.assert_allclose(layer.weight.detach(), original.double().numpy() + B @ A, atol=1e-6)


@pytest.mark.slow
@pytest.mark.laptop
def test_the_better_recipe_fixes_the_digit_and_the_rest(digits, lacking):
    _check_better(vision.one_digit(BETTER, data=digits, base=lacking, progress=False))


@pytest.mark.slow
@pytest.mark.laptop
def test_replay_alone_does_not_fix_the_digit(digits, lacking):
    result = vision.one_digit(REPLAY_ONLY, data=digits, base=lacking, progress=False)
    assert result.removed < 0.3
    assert result.off_is_identical


@pytest.mark.slow
@pytest.mark.laptop
@pytest.mark.parametrize("seed", [1, 2])
def test_both_recipes_over_more_seeds(digits, seed):
    _check_published(vision.one_digit(PUBLISHED, data=digits, seed=seed, progress=False))
    _check_better(vision.one_digit(BETTER, data=digits, seed=seed, progress=False))


# --- figures ----------------------------------------------------------------------------------------------


def test_the_one_digit_figure_says_what_happened(few):
    result = vision.one_digit(QUICK, data=few, progress=False)
    result = dataclasses.replace(
        result,
        before=vision.Score(0.91, (4, 4, 4, 12, 7, 2, 4, 10, 8, 14), 20),
        off=vision.Score(0.91, (4, 4, 4, 12, 7, 2, 4, 10, 8, 14), 20),
        on=vision.Score(0.301, (79, 24, 68, 97, 66, 90, 76, 100, 96, 0), 696),
    )
    figure = plots.one_digit_figure(result)
    assert title(figure) == "LoRA takes the errors on 9 from 14 to 0; overall accuracy falls from 0.910 to 0.301"
    assert "696 with LoRA" in figure.get_supxlabel()
    assert "bit for bit" in figure.get_supxlabel()
    assert "7: 10, 100, 10" in describe(figure)
    result = dataclasses.replace(result, on=result.before, off_is_identical=False)
    figure = plots.one_digit_figure(result)
    assert "stays at 0.910" in title(figure)
    assert "not the base model's" in figure.get_supxlabel()


def test_importing_vision_leaves_the_random_state_alone():
    state = random.getstate()
    WideMLP(), vision.small_vit()
    assert random.getstate() == state
