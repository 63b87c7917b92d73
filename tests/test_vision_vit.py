"""The vision lab: LoRA in a vision transformer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from toy_models import same, title, weights

from lora_ref import data, plots, vision
from lora_ref.data import Images
from lora_ref.inject import inject_lora, lora_disabled, match_targets, trainable_report
from lora_ref.plots import describe
from lora_ref.profiles import TINY
from lora_ref.vision import SMALL_METHODS, VitMethod, VitResult, WideMLP


@pytest.fixture(scope="module")
def blocks():
    """Made-up digits: 800 and 200."""
    return data.mnist(TINY)


@pytest.fixture(scope="module")
def digits():
    """Real digits: 4,000 and 1,000."""
    return data.mnist()


def _old_vit() -> nn.Module:
    """Linear layers as transformers 4.46 names them."""
    return _tree(
        *(
            f"vit.encoder.layer.{layer}.{name}"
            for layer in range(2)
            for name in (
                *("attention.attention.query", "attention.attention.key", "attention.attention.value"),
                *("attention.output.dense", "intermediate.dense", "output.dense"),
            )
        ),
        "classifier",
    )


def _new_vit() -> nn.Module:
    """Linear layers as transformers 5.23 names them."""
    names = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")
    return _tree(*(f"vit.layers.{layer}.{name}" for layer in range(2) for name in names), "classifier")


def _tree(*names: str) -> nn.Module:
    root = nn.Module()
    for name in names:
        module = root
        *parents, last = name.split(".")
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.add_module(last, nn.Linear(2, 2))
    return root


@pytest.mark.parametrize(
    ("model", "which", "expected"),
    [
        (_old_vit, "query-value", ["query", "value"]),
        (_new_vit, "query-value", ["q_proj", "v_proj"]),
        (_old_vit, "mlp", ["intermediate.dense", "0.output.dense", "1.output.dense"]),
        (_new_vit, "mlp", ["fc1", "fc2"]),
        (_old_vit, "attention output", ["attention.output.dense"]),
        (_new_vit, "attention", ["q_proj", "k_proj", "v_proj", "o_proj"]),
        (_old_vit, "all", ["query", "key", "value", "dense"]),
        (_new_vit, "all", ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]),
    ],
)
def test_targets_are_read_off_the_model(model, which, expected):
    assert vision.vit_targets(model(), which) == sorted(expected)


@pytest.mark.parametrize(
    ("which", "layers"),
    [("query", 4), ("query-value", 8), ("attention", 16), ("mlp", 8), ("all", 24), ("attention output", 4)],
)
def test_targets_fit_the_transformers_that_is_here(which, layers):
    model = vision.small_vit()
    names = match_targets(model, vision.vit_targets(model, which))
    assert len(names) == layers
    assert "classifier" not in names


def test_targets_say_what_is_wrong():
    with pytest.raises(ValueError, match="no group of layers 'qurey'; there are: 'query'"):
        vision.vit_targets(vision.small_vit(), "qurey")
    with pytest.raises(ValueError, match="WideMLP has no linear layer that a vision transformer calls its query"):
        vision.vit_targets(WideMLP())


def test_injection_into_the_small_vit_changes_no_logit():
    model, images = vision.small_vit(seed=2), torch.randn(3, 1, 28, 28)
    assert trainable_report(model)["total"] == 306_826
    with torch.no_grad():
        before = model(images).logits
        inject_lora(model, vision.vit_targets(model, "all"), rank=4, train_head=False)
        assert torch.equal(model(images).logits, before)
    assert trainable_report(model)["trainable"] == 4 * 4 * (4 * 2 * 96 + 2 * (96 + 192))


def test_a_quarter_turn():
    images = torch.zeros(1, 28, 28)
    images[0, 0, 27] = 1  # top right
    turned = vision.quarter_turn(Images(images, torch.tensor([6])))
    assert turned.images[0, 0, 0] == 1  # top left
    assert turned.images.sum() == 1
    assert turned.labels.tolist() == [6]


@pytest.fixture(scope="module")
def small_results(blocks):
    base = vision.base_vit(blocks, epochs=4, progress=False)
    before = weights(base)
    options = {"data": blocks, "base": base, "adapt_epochs": 2, "adapt_images": 200, "progress": False}
    results = vision.rotated_digits(**options)
    assert same(weights(base), before)
    assert vision.rotated_digits(SMALL_METHODS[3:4], **options) == results[3:4]  # seeded, and of no order
    return base, results


def test_the_original_task_is_whole_where_the_head_was_not_trained(small_results, blocks):
    base, results = small_results
    assert [r.method for r in results] == list(SMALL_METHODS)
    images = blocks["test"].images
    before = vision.predict(base, images, prepare=vision.one_channel)
    for result in results:
        if result.method.kind == "lora" and not result.method.train_head:
            assert result.original == result.original_before
            with lora_disabled(result.model):
                assert torch.equal(vision.predict(result.model, images, prepare=vision.one_channel), before)
        assert len(result.losses) == 2 * 7
        assert result.before == results[0].before
    trainable = [r.trainable for r in results]
    assert trainable == [970, 6_144, 7_114, 21_504, 43_978, 306_826]
    table = vision.table(results)
    assert table["method"].tolist() == [m.name for m in SMALL_METHODS]
    assert table["trainable %"].iloc[-1] == 100


def test_unknown_methods_and_sizes_are_named(blocks):
    base = vision.small_vit()
    options = {"data": blocks, "base": base, "progress": False}
    with pytest.raises(ValueError, match=r"method\.kind 'lorra' is none of"):
        vision.rotated_digits([VitMethod("typo", "lorra", 1e-3)], adapt_images=10, **options)
    with pytest.raises(ValueError, match="the train split has 800 images, 1,000 were asked for"):
        vision.rotated_digits(**options)
    with pytest.raises(ValueError, match="adapt_epochs must be a whole number"):
        vision.rotated_digits(adapt_epochs=0, **options)


@pytest.mark.slow
@pytest.mark.laptop
@pytest.mark.usefixtures("all_threads")
def test_rotated_digits_on_real_ones(digits):
    results = {r.method.name: r for r in vision.rotated_digits(data=digits)}
    head, bare, every, full = (results[SMALL_METHODS[i].name] for i in (0, 1, 3, 5))
    assert head.original_before > 0.92
    assert head.before < 0.3
    assert head.adapted < bare.adapted < every.adapted
    assert every.adapted > full.adapted - 0.1
    assert bare.original == every.original == head.original_before
    assert full.original < 0.5


@pytest.fixture
def hub_vit(monkeypatch):
    """A hub whose ViT-base is small, in colour, and has lost its head."""
    import transformers

    asked = []

    def from_pretrained(name, num_labels, output_loading_info):
        asked.append(name)
        config = transformers.ViTConfig(
            image_size=32,
            patch_size=16,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=12,
        )
        config.num_labels = num_labels
        report = {
            "missing_keys": ["classifier.weight", "classifier.bias"],
            "mismatched_keys": [],
            "unexpected_keys": [],
        }
        return transformers.ViTForImageClassification(config), report

    monkeypatch.setattr(transformers.ViTForImageClassification, "from_pretrained", from_pretrained)
    return asked


def test_photographs_take_vit_base_and_cifar10_from_the_hub(hub_vit, monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def cifar10(seed):
        return {
            split: Images(torch.rand(n, 3, 32, 32, generator=generator), torch.arange(n) % 10)
            for split, n in (("train", 40), ("test", 20))
        }

    monkeypatch.setattr(data, "cifar10", cifar10)
    results = vision.photographs(epochs=1, progress=False)
    assert hub_vit == ["google/vit-base-patch16-224-in21k"] * 3
    assert [r.method.kind for r in results] == ["head", "lora", "full"]
    head, lora, full = (r.trainable for r in results)
    assert (head, lora - head) == (10 * 8 + 10, 2 * 4 * (8 + 8))
    assert full == results[2].total
    assert all(r.original is None and r.before is None for r in results)
    starts = [r.losses[0] for r in results]
    assert max(starts) - min(starts) < 1e-5  # the same head, the same first batch, and LoRA changes nothing at first
    figure = plots.vit_figure(results)
    assert len(figure.axes) == 1


def test_vit_base_that_cannot_be_had(monkeypatch):
    import transformers

    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(transformers.ViTForImageClassification, "from_pretrained", unreachable)
    with pytest.raises(RuntimeError, match="the hub does not give google/vit-base-patch16-224-in21k: no route"):
        vision.vit_base()

    def other(*_, **__):
        return vision.small_vit(), {"missing_keys": ["vit.x"], "mismatched_keys": []}

    monkeypatch.setattr(transformers.ViTForImageClassification, "from_pretrained", other)
    with pytest.raises(RuntimeError, match=r"do not fit: missing \['vit\.x'\]"):
        vision.vit_base()


def test_pixels_are_resized_as_pillow_does():
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR)) / 127.5 - 1
    found = vision.vit_pixels(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    assert found.shape == (1, 3, 224, 224)
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), expected, atol=2.1 / 255)  # Pillow rounds twice


def test_each_published_mistake_shows():
    model, images = vision.small_vit(), torch.randn(3, 1, 28, 28)
    targets = vision.vit_targets(model)
    for layer in match_targets(model, targets):
        nn.init.normal_(model.get_submodule(layer).bias)  # a fresh model's are zero, a trained one's are not
    before, pretrained = vision.predict(model, images), weights(model)

    def logits(**fixed):
        return vision.predict(vision.published_injection(model, targets, **fixed), images)

    for _ in range(3):  # not in nine tries of ten: each time
        assert logits().isnan().all()
    assert logits(keep_bias=True).isnan().all()
    without_bias = logits(keep_weight=True)
    assert without_bias.isfinite().all()
    assert (without_bias - before).abs().max() > 1e-3
    assert torch.equal(logits(keep_weight=True, keep_bias=True), before)
    assert same(weights(model), pretrained)
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ValueError, match="no linear layer matches 'qurey'"):
        vision.published_injection(model, ["qurey"])
    assert not torch.are_deterministic_algorithms_enabled()


def _vit_result(index: int, adapted: float, original: float | None) -> VitResult:
    trainable = (970, 6_144, 7_114, 21_504, 43_978, 306_826)[index]
    return VitResult(
        method=SMALL_METHODS[index],
        seed=0,
        trainable=trainable,
        total=306_826 + trainable,
        before=0.166,
        adapted=adapted,
        original_before=0.952,
        original=original,
        n=1_000,
        losses=(1.0,),
        seconds=10.0,
        model=nn.Identity(),
    )


def test_the_vit_figure_says_what_is_left_of_the_original_task():
    results = [_vit_result(0, 0.718, 0.2), _vit_result(3, 0.883, 0.952), _vit_result(5, 0.895, 0.305)]
    figure = plots.vit_figure(results)
    assert title(figure) == (
        "LoRA all r=4 reaches 0.883, and 0.952 on the original task once it is off; full fine-tuning 0.895 and 0.305"
    )
    assert "head only (0.3% trainable) 0.718 on the new task and 0.200 on the original one" in describe(figure)
    plain = [dataclasses.replace(r, before=None, original_before=None, original=None) for r in results]
    assert title(plots.vit_figure(plain)) == "LoRA all r=4 reaches 0.883; full fine-tuning 0.895"
    assert title(plots.vit_figure(results[2:])) == "Full fine-tuning reaches 0.895"
    with pytest.raises(ValueError, match="no results"):
        plots.vit_figure([])
