"""A folder in PEFT's format that does not fit, or holds what it may not: refused before anything changes."""

import pytest
import torch
from peft_models import CONFIG, TENSORS, difference, edit_config, made_here, perturbed, state, tiny, unchanged
from safetensors.torch import load, save_file
from torch import nn

from lora_ref import (
    load_adapter,
    merge_lora,
    save_adapter,
    unmerge_lora,
)
from lora_ref.models import tiny_roberta
from lora_ref.peft_format import MAX_PATTERN, from_peft, to_peft


@pytest.fixture
def folder(tmp_path):
    return save_adapter(made_here(), tmp_path / "adapter", format="peft")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 5, "alpha": 10}, r"shape of .*lora_A: file \(4, 32\), model \(5, 32\)"),
        ({"alpha": 9}, "scaling of .*: file 2, model 2.25"),
        ({"train_head": False}, "unexpected: classifier.dense.weight"),
        ({"targets": ["query"]}, "unexpected: .*key.lora.lora_A"),
    ],
)
def test_a_model_that_was_injected_otherwise(folder, options, message):
    model = perturbed(made_here(**options), seed=2)
    before = state(model)
    with pytest.raises(ValueError, match=message) as caught:
        load_adapter(model, folder)
    assert "adapter does not fit this model" in str(caught.value)
    assert unchanged(model, before)


def test_parameters_stay_the_same_objects(folder):
    model = perturbed(made_here(), seed=2)
    before = {name: id(p) for name, p in model.named_parameters()}
    load_adapter(model, folder)
    assert {name: id(p) for name, p in model.named_parameters()} == before, "an optimiser holds these"
    assert difference(model, made_here()) == 0


def test_a_merged_model_is_refused(folder):
    model = merge_lora(perturbed(made_here(), seed=2))
    for path in (folder, save_adapter(made_here(), folder / "native")):
        with pytest.raises(ValueError, match=r"12 LoRA layers are merged .*unmerge_lora"):
            load_adapter(model, path)
    load_adapter(unmerge_lora(model), folder)


def test_a_base_of_another_size(folder):
    model = nn.ModuleDict({"query": nn.Linear(3, 3), "classifier": nn.Linear(3, 3)})
    with pytest.raises(ValueError, match=r"target_modules in adapter_config.json do not agree"):
        load_adapter(model, folder)
    wide = tiny_roberta(seed=7, num_labels=3)
    before = state(wide)
    with pytest.raises(ValueError, match=r"shape of classifier.out_proj.weight: file \(2, 32\), model \(3, 32\)"):
        load_adapter(wide, folder)
    assert unchanged(wide, before)


REFUSED = [
    ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA'"),
    ({"peft_type": "XLORA"}, "peft_type is 'XLORA'"),
    ({"peft_type": ["LORA"]}, "peft_type is"),
    ({"peft_type": None}, "peft_type is None"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out is True.*needs fan_in_fan_out=False"),
    ({"trainable_token_indices": [1, 2]}, "trainable_token_indices is"),
    ({"target_parameters": ["x"]}, "target_parameters is"),
    ({"layer_replication": [[0, 1]]}, "layer_replication is"),
    ({"invented_in_2030": {"x": 1}}, "invented_in_2030 is"),
    *(
        ({"init_lora_weights": v}, "init_lora_weights is")
        for v in ("pissa_niter_4", "corda", "loftq", "lora_ga", 1, {})
    ),
    *(({"r": value}, "r must be a whole number from 1") for value in (0, -1, "8", True, 2.5, [8], 2**40)),
    *(
        ({"lora_alpha": v}, "lora_alpha must be a finite number")
        for v in ("16", float("nan"), float("inf"), [], 10**400)
    ),
    *(({"lora_dropout": value}, "lora_dropout must be a number from 0 to 1") for value in (2, -0.1, "0", True)),
    ({"use_rslora": 1}, "use_rslora must be true or false"),
    ({"bias": None}, "bias is None"),
    ({"target_modules": None}, "target_modules is missing"),
    ({"target_modules": []}, "which target_modules does not mean"),
    ({"target_modules": "("}, "target_modules: '\\(' is not a regular expression"),
    ({"target_modules": "a" * (MAX_PATTERN + 1)}, "target_modules has an expression of 10,001 characters"),
    ({"target_modules": [1]}, "target_modules must be names"),
    ({"target_modules": {"query": 1}}, "target_modules must be names"),
    ({"target_modules": ["query"]}, "do not agree:\n  an update of .*which target_modules does not mean"),
    ({"target_modules": ["dense", "query", "key", "value"], "modules_to_save": None, "task_type": None}, "classifier"),
    ({"target_modules": ".*(dense|query|key|value|pooler)", "exclude_modules": ".*key"}, "key, which target_modules"),
    ({"exclude_modules": "["}, "exclude_modules: .* is not a regular expression"),
    ({"modules_to_save": "classifier"}, "modules_to_save must be a list of names"),
    ({"modules_to_save": ["classifier", "LayerNorm"]}, "no tensors for .*LayerNorm"),
    ({"modules_to_save": None, "task_type": None}, "a whole tensor classifier.dense.bias, which modules_to_save"),
    ({"rank_pattern": {"key": 0}}, "rank_pattern must hold whole numbers from 1"),
    ({"rank_pattern": ["key"]}, "rank_pattern must be an object"),
    ({"rank_pattern": {"key": 7}}, r"rank of .*key: adapter_config.json says 7 .*, its tensor 4"),
    ({"rank_pattern": {"*": 4}}, "rank_pattern: .* is not a regular expression"),
    ({"alpha_pattern": {"key": "1"}}, "alpha_pattern must hold finite numbers"),
    ({"alpha_pattern": {"(": 1}}, "alpha_pattern: .* is not a regular expression"),
    ({"layers_to_transform": "0"}, "layers_to_transform must be"),
    ({"layers_to_transform": [0]}, "layer.1.*which target_modules does not mean"),
    ({"layers_to_transform": [0], "layers_pattern": "("}, "layers_pattern: .* is not a regular expression"),
    ({"task_type": 3}, "task_type must be a name"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_a_configuration_that_is_refused_changes_nothing(folder, fields, message):
    edit_config(folder, **fields)
    model = tiny()
    before = state(model)
    with pytest.raises(ValueError, match=message) as caught:
        load_adapter(model, folder)
    assert unchanged(model, before)
    assert len(str(caught.value)) < 1500


def test_a_base_of_another_name_is_said(folder):
    edit_config(folder, base_model_name_or_path="somebody/large")
    model = tiny()
    model.name_or_path = "elsewhere/small"
    with pytest.warns(UserWarning, match=r"trained on 'somebody/large', and this model is 'elsewhere/small'"):
        load_adapter(model, folder)


def test_fields_that_are_off_or_say_nothing_of_the_adapter(folder):
    edit_config(folder, invented_in_2030=False, use_dora=False, megatron_core="megatron.core", peft_version="9", x=None)
    edit_config(
        folder, eva_config=None, loftq_config={}, qalora_group_size=16, layers_to_transform=None, rank_pattern={}
    )
    assert difference(load_adapter(tiny(), folder), made_here()) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("[" * 100_000, "is not JSON"),
        ("\ud800".encode("utf-8", "surrogatepass"), "is not JSON"),
        ('{"peft_type": "LORA", "x": "' + "x" * 1_000_000 + '"}', "is larger than 1,000,000 bytes"),
    ],
)
def test_a_file_that_is_not_a_configuration(folder, text, message):
    (folder / CONFIG).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        load_adapter(tiny(), folder)


def test_missing_files_are_named(folder):
    (folder / TENSORS).rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no adapter file at .*adapter_model.safetensors"):
        load_adapter(tiny(), folder)
    (folder / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=r"no adapter configuration at .*adapter_config.json"):
        load_adapter(tiny(), folder)


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_is_never_read(folder, tmp_path):
    (folder / TENSORS).unlink()
    torch.save({"x": Trap(tmp_path / "unpickled")}, folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model.bin, a pickle.*safe_serialization=True"):
        load_adapter(tiny(), folder)
    assert not (tmp_path / "unpickled").exists()


LAYER = "base_model.model.roberta.encoder.layer.1.output.dense"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(f"{LAYER}.lora_B.weight"), "missing: .*layer.1.output.dense.lora.lora_B"),
        (lambda t: t.pop(f"{LAYER}.lora_A.weight"), "missing: .*layer.1.output.dense.lora.lora_A"),
        (lambda t: t.pop("base_model.model.classifier.dense.bias"), "no tensors for classifier.dense.bias"),
        (lambda t: t.update({f"{LAYER}.lora_magnitude_vector": torch.ones(32)}), "lora_magnitude_vector is not part"),
        (lambda t: t.update({f"{LAYER}.lora_B.bias": torch.ones(32)}), "lora_B.bias is not part"),
        (lambda t: t.update({f"{LAYER}.bias": torch.ones(32)}), "a whole tensor .*output.dense.bias, which modules"),
        (lambda t: t.update({f"{LAYER}.lora_A.weight": torch.ones(4, 40, 1, 1)}), "lora_A has 4 dimensions"),
        (lambda t: t.update({f"{LAYER}.lora_A.weight": torch.ones(4, 41)}), r"file \(4, 41\), model \(4, 40\)"),
        (lambda t: t.update({f"{LAYER}.lora_B.weight": torch.ones(32, 5)}), r"file \(32, 5\), model \(32, 4\)"),
        (lambda t: t.update({LAYER.removeprefix("base_model.model.") + ".lora_A.weight": torch.ones(4, 40)}), "twice"),
        (lambda t: t.update({f"{LAYER}.lora_A.weight": torch.ones(0, 40)}), "says 4 .*, its tensor 0"),
    ],
)
def test_tensors_that_do_not_fit_change_nothing(folder, edit, message):
    tensors = load((folder / TENSORS).read_bytes())  # not load_file: Windows writes over no file that is mapped
    edit(tensors)
    save_file(tensors, folder / TENSORS)
    model = tiny()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        load_adapter(model, folder)
    assert unchanged(model, before)


def test_reading_needs_no_peft_and_changes_nothing():
    model = made_here()
    config, tensors = to_peft(model)
    fresh = tiny()
    before = state(fresh)
    ours, scaling, dropout = from_peft(fresh, config, tensors)
    assert unchanged(fresh, before)
    parameters = dict(model.named_parameters())
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in ours.items())
    assert set(scaling.values()) == {2.0}
    assert dropout == 0
