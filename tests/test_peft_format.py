"""PEFT's format both ways, against PEFT itself: the same tensors, the same logits, and clear refusals."""

import warnings

import pytest
import torch
from peft_models import CONFIG, TENSORS, difference, edit_config, made_here, perturbed, state, tiny, unchanged
from safetensors.torch import load_file
from torch import nn

from lora_ref import (
    inject_lora,
    layers,
    load_adapter,
    lora_layers,
    merge_lora,
    profiles,
    replace_module,
    save_adapter,
)
from lora_ref.layers import LinearWithLoRA
from lora_ref.models import base_model
from lora_ref.peft_format import to_peft
from lora_ref.training import ENCODER_LINEARS


@pytest.fixture
def written_out(monkeypatch):
    """The layer as two modules and a sum, which is what PEFT computes; the fused one rounds once less."""
    monkeypatch.setattr(layers, "can_fuse", lambda *_: False)


@pytest.fixture(scope="module")
def peft():
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield peft


def by_peft(peft, folder, model=None, task_type="SEQ_CLS", scale=0.1, **config):
    """A PEFT model with an adapter of its own, and the folder that PEFT wrote it to."""
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], "task_type": task_type, **config}
    model = peft.get_peft_model(tiny() if model is None else model, peft.LoraConfig(**config))
    perturbed(model, scale=scale).save_pretrained(folder)
    return model


# --- PEFT -> ours ---------------------------------------------------------------------------------------------------

MADE_BY_PEFT = {
    "plain": {},
    "float alpha": {"lora_alpha": 6.0, "r": 3},
    "rslora": {"use_rslora": True, "r": 3},
    "no head": {"task_type": None},
    "head by name": {"task_type": None, "modules_to_save": ["classifier"]},
    "dropout": {"lora_dropout": 0.3},
    "regex": {"target_modules": r".*layer\.[0-9]\.(attention\.self\.key|.*dense)|roberta\.enc"},  # of a whole name
    "all-linear": {"target_modules": "all-linear"},
    "all-linear, no head": {"target_modules": "all-linear", "task_type": None},
    "excluded": {"target_modules": ["dense", "query"], "exclude_modules": ["attention.output.dense"]},
    "excluded by regex": {"target_modules": ["query"], "exclude_modules": r".*layer\.0\..*"},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "layer"},
    "one layer": {"layers_to_transform": 0},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "patterns": {
        "target_modules": ["query", "key", "dense"],
        "rank_pattern": {"key": 2, r"layer\.1\..*dense": 8, "query": 1},
        "alpha_pattern": {r"(.*\.)?layer.0.*intermediate.dense": 16, "key": 4},
    },
    "rslora patterns": {"use_rslora": True, "rank_pattern": {"query": 9}, "alpha_pattern": {"value": 3}},
}


@pytest.mark.parametrize("case", MADE_BY_PEFT)
def test_what_peft_wrote(peft, tmp_path, written_out, case):
    theirs = by_peft(peft, tmp_path / "theirs", **MADE_BY_PEFT[case])
    ours = load_adapter(tiny(), tmp_path / "theirs")
    assert not any(module.training for module in ours.modules())

    scaling = {name: layer.lora.scaling for name, layer in lora_layers(ours).items()}
    wrapped = {n: m for n, m in theirs.base_model.model.named_modules() if isinstance(m, peft.tuners.lora.Linear)}
    assert scaling == {name: module.scaling["default"] for name, module in wrapped.items()}
    exact = all(float(s).hex().startswith("0x1.0000000000000p") for s in scaling.values())
    assert difference(theirs, ours) <= (0 if exact else 5e-7)
    assert difference(theirs.double(), ours.double()) < 1e-14  # the same function, whatever float32 rounds
    assert {layer.lora.dropout.p for layer in lora_layers(ours).values()} == {MADE_BY_PEFT[case].get("lora_dropout", 0)}
    assert bool(heads(ours)) == (case not in ("no head", "all-linear, no head"))

    ours.float()
    again = load_adapter(inject_as(ours), tmp_path / "theirs")
    assert difference(ours, again) == 0
    save_adapter(ours, tmp_path / "ours", format="peft")
    assert difference(theirs.float(), peft.PeftModel.from_pretrained(tiny(), tmp_path / "ours")) == 0


def heads(model):
    return [name for name, p in model.named_parameters() if p.requires_grad and ".lora." not in name]


def inject_as(model):
    """A fresh model with layers like those of ``model``."""
    like = lora_layers(model)
    return inject_lora(
        tiny(),
        list(like),
        rank_pattern={name: len(layer.lora.lora_A) for name, layer in like.items()},
        alpha_pattern={name: layer.lora.scaling * len(layer.lora.lora_A) for name, layer in like.items()},
        train_head=model.classifier.out_proj.weight.requires_grad
        if hasattr(model.classifier.out_proj, "weight")
        else 0,
    )


def test_the_fused_layer_differs_by_rounding_alone(peft, tmp_path):
    theirs = by_peft(peft, tmp_path)
    ours = load_adapter(tiny(), tmp_path)
    assert difference(theirs, ours) < 5e-7  # a few units in the last place of logits around 1


def test_all_linear_in_the_file_itself(peft, tmp_path):
    """PEFT writes the names that it found; other tools leave the word."""
    theirs = by_peft(peft, tmp_path, target_modules="all-linear")
    edit_config(tmp_path, target_modules="all-linear")
    assert difference(theirs.double(), load_adapter(tiny(), tmp_path).double()) < 1e-14


def test_plain_lora_made_of_pissa(peft, tmp_path):
    """PiSSA changes the base weights; converted when it is saved, it is LoRA of twice the rank on the old ones."""
    config = {"r": 4, "lora_alpha": 4, "target_modules": ["query"], "init_lora_weights": "pissa"}
    model = peft.get_peft_model(tiny(), peft.LoraConfig(**config))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p += 0.1
    model.save_pretrained(tmp_path / "end")
    with pytest.raises(ValueError, match=r"init_lora_weights is 'pissa'.*path_initial_model_for_weight_conversion"):
        load_adapter(tiny(), tmp_path / "end")
    model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    ours = load_adapter(tiny(), tmp_path / "plain")
    assert {len(layer.lora.lora_A) for layer in lora_layers(ours).values()} == {8}
    assert difference(model, ours) < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"target_modules": ["query", "word_embeddings"]}, "lora_embedding_A is not part of a linear layer's update"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
    ],
)
def test_what_peft_wrote_and_is_not_supported(peft, tmp_path, options, message):
    by_peft(peft, tmp_path, **options)
    model = tiny()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        load_adapter(model, tmp_path)
    assert unchanged(model, before)


def test_another_tuner(peft, tmp_path):
    config = peft.IA3Config(task_type="SEQ_CLS", target_modules=["key"], feedforward_modules=[])
    peft.get_peft_model(tiny(), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="peft_type is 'IA3'; only 'LORA'"):
        load_adapter(tiny(), tmp_path)


# --- ours -> PEFT ---------------------------------------------------------------------------------------------------

MADE_HERE = {
    "plain": {},
    "rslora": {"rslora": True, "rank": 3},
    "odd alpha": {"rank": 3, "alpha": 0.7},
    "no head": {"train_head": False},
    "query and value": {"targets": ["query", "value"]},
    "one layer": {"targets": ["layer.1.output.dense"]},
    "patterns": {"rank_pattern": {"key": 5, "layer.0.output.dense": 1}, "alpha_pattern": {"value": 3, "layer.1": 9}},
    "rslora patterns": {"rslora": True, "rank_pattern": {"key": 5}, "alpha_pattern": {"value": 3}},
    "dropout": {"dropout": 0.25},
}


@pytest.mark.parametrize("case", MADE_HERE)
def test_what_peft_reads(peft, tmp_path, written_out, case):
    ours = made_here(**MADE_HERE[case])
    assert save_adapter(ours, tmp_path / "a", format="peft") == tmp_path / "a"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # unexpected keyword arguments, missing adapter keys
        theirs = peft.PeftModel.from_pretrained(tiny(), tmp_path / "a")
    wrapped = {n: m for n, m in theirs.base_model.model.named_modules() if isinstance(m, peft.tuners.lora.Linear)}
    scaling = {name: layer.lora.scaling for name, layer in lora_layers(ours).items()}
    assert {name: module.scaling["default"] for name, module in wrapped.items()} == pytest.approx(scaling, rel=1e-15)
    exact = all(float(s).hex().startswith("0x1.0000000000000p") for s in scaling.values())
    assert difference(ours, theirs) <= (0 if exact else 5e-7)
    assert difference(ours, load_adapter(tiny(), tmp_path / "a")) == 0

    theirs.save_pretrained(tmp_path / "b")
    assert difference(ours, load_adapter(tiny(), tmp_path / "b")) == 0
    first, second = (load_file(tmp_path / folder / TENSORS) for folder in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert difference(ours.double(), theirs.double()) < 1e-14


def test_the_configuration_is_short_and_as_old_as_can_be(tmp_path):
    config, _ = to_peft(made_here())
    assert config == {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ["intermediate.dense", "key", "output.dense", "query", "value"],
        "modules_to_save": ["classifier"],
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    assert isinstance(config["lora_alpha"], int)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rank": 3, "alpha": 16}, {"lora_alpha": 16}),
        ({"rank": 3, "alpha": 16, "rslora": True}, {"lora_alpha": 16, "use_rslora": True}),
        ({"rank": 4, "alpha": 16, "rslora": True}, {"lora_alpha": 32}),  # the same scaling, 8
        ({"rank": 3, "alpha": 0.5}, {"lora_alpha": 0.5}),
        ({"rank_pattern": {"layer.0.output.dense": 2}}, {"rank_pattern": {"roberta.encoder.layer.0.output.dense": 2}}),
    ],
)
def test_alpha_is_worked_out_from_the_scaling(options, expected):
    config, _ = to_peft(made_here(**options))
    assert {**config, **expected} == config
    assert config.get("use_rslora", False) == expected.get("use_rslora", False)


def test_saving_leaves_the_model_alone_merged_or_not(tmp_path):
    model = made_here()
    before = state(model)
    save_adapter(model, tmp_path / "a", format="peft")
    assert unchanged(model, before)
    save_adapter(merge_lora(model), tmp_path / "b", format="peft")
    for name in (CONFIG, TENSORS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [CONFIG, TENSORS]


class TwoDense(nn.Module):
    """One layer's name is the end of the other's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.ModuleDict({"dense": nn.Linear(3, 3)})
        self.dense = nn.Linear(3, 3)
        self.pre_classifier = nn.Linear(3, 3)
        self.classifier = nn.Linear(3, 2)

    def forward(self, x):
        return self.classifier(self.pre_classifier(self.dense(self.inner["dense"](x).tanh())))


@pytest.mark.parametrize("ranks", [{"dense": 2}, {"dense": 2, "inner.dense": 3}])
def test_a_name_that_ends_another_and_a_head_that_ends_another(peft, tmp_path, written_out, ranks):
    """PEFT means "pre_classifier" too when it is told to save "classifier", so it needs both."""
    ours = TwoDense().requires_grad_(False)
    for name, rank in ranks.items():
        replace_module(ours, name, LinearWithLoRA(ours.get_submodule(name), rank, 2 * rank))
    ours.classifier.requires_grad_(True)
    perturbed(ours)
    save_adapter(ours, tmp_path, format="peft")
    x = torch.randn(4, 3)
    theirs = peft.PeftModel.from_pretrained(TwoDense(), tmp_path)
    assert torch.equal(theirs(x), ours(x))
    assert torch.equal(load_adapter(TwoDense(), tmp_path)(x), ours(x))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda m: m.roberta.encoder.layer[0].output.LayerNorm.bias.requires_grad_(True),
            "LayerNorm.bias' trains",
        ),
        (
            lambda m: m.roberta.encoder.layer[0].output.dense.linear.requires_grad_(True),
            "dense' has a LoRA layer",
        ),
        (lambda m: m.classifier.register_buffer("mean", torch.zeros(1)), "'classifier' trains and has buffers"),
        (lambda m: m.classifier.add_module("more", layers.LoRALayer(2, 2, 1, 1)), "outside of a LinearWithLoRA"),
    ],
)
def test_what_peft_cannot_hold(tmp_path, spoil, message):
    model = made_here()
    spoil(model)
    with pytest.raises(ValueError, match=message):
        save_adapter(model, tmp_path / "a", format="peft")
    assert not (tmp_path / "a").exists()


def test_an_update_inside_the_head(tmp_path):
    model = inject_lora(tiny(), ["query", "classifier.dense"])
    with pytest.raises(ValueError, match=r"'classifier.dense' has a LoRA layer and trains itself as well"):
        save_adapter(model, tmp_path / "a", format="peft")
    model.classifier.dense.linear.requires_grad_(False)
    save_adapter(perturbed(model), tmp_path / "a", format="peft")  # classifier.out_proj alone trains whole
    assert difference(model, load_adapter(tiny(), tmp_path / "a")) == 0


def test_no_such_format(tmp_path):
    with pytest.raises(ValueError, match="no format 'pt'; there are 'lora_ref', 'peft'"):
        save_adapter(made_here(), tmp_path / "a", format="pt")


# --- the real encoder -----------------------------------------------------------------------------------------------


@pytest.mark.laptop
@pytest.mark.parametrize("rslora", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_real_encoder_both_ways(peft, tmp_path, laptop_assets, written_out, monkeypatch, rslora):
    profile = profiles.get("laptop")

    def base():
        return base_model(profile, seed=0)

    config = {"r": 8, "lora_alpha": 16, "use_rslora": rslora, "target_modules": list(ENCODER_LINEARS)}
    theirs = by_peft(peft, tmp_path / "theirs", model=base(), scale=0.02, **config)
    ours = load_adapter(base(), tmp_path / "theirs")
    assert difference(theirs, base(), high=20_000) > 0.01
    rounding = 2e-6 if rslora else 0  # 16 / 8 is exact wherever it is multiplied, 16 / sqrt(8) is rounded
    assert difference(theirs, ours, high=20_000) <= rounding

    back = peft.PeftModel.from_pretrained(base(), save_adapter(ours, tmp_path / "ours", format="peft"))
    assert difference(theirs, back, high=20_000) == 0
    assert difference(ours, load_adapter(base(), tmp_path / "ours"), high=20_000) == 0
    monkeypatch.undo()
    assert difference(theirs, ours, high=20_000) < 2e-6  # the fused layer rounds once less
