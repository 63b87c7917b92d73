"""PEFT's files both ways, for architectures and tasks other than the course's: the same tensors, the same logits.

Run by hand against another PEFT or transformers, too: put them first on PYTHONPATH.
"""

import warnings

import pytest
import torch
from foreign_models import IDS, classifier, inputs, llama, t5
from peft_models import by_peft, perturbed
from safetensors.torch import load_file

from lora_ref import inject_lora, load_adapter, save_adapter

TENSORS = "adapter_model.safetensors"
#: What each calls its head, where PEFT does not know it.
HEADS = {"T5": ["classification_head"], "ViT": ["classifier"], "DistilBERT": ["pre_classifier", "classifier"]}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_by_peft(model, folder):
    import peft

    return peft.PeftModel.from_pretrained(model, folder).eval()


def logits(model, kind):
    with torch.no_grad():
        return model.eval()(**inputs(kind)).logits


@pytest.mark.parametrize("labels", [1, 2, 3])  # one output is regression
@pytest.mark.parametrize("kind", ["BERT", "DistilBERT", "LLaMA", "T5", "ViT"])
def test_a_classifier_both_ways(tmp_path, kind, labels):
    _, targets = classifier(kind)
    options = {"modules_to_save": HEADS[kind]} if kind in HEADS else {"task_type": "SEQ_CLS"}
    theirs = by_peft(classifier(kind, labels)[0], tmp_path / "theirs", target_modules=targets, **options)
    right = logits(theirs, kind)
    assert right.shape == (2, labels)
    for fresh in (classifier(kind, labels)[0], inject_lora(classifier(kind, labels)[0], targets, rank=2, alpha=4)):
        torch.testing.assert_close(logits(load_adapter(fresh, tmp_path / "theirs"), kind), right)

    ours = perturbed(inject_lora(classifier(kind, labels)[0], targets, rank=2, alpha=4), seed=2)
    right = logits(ours, kind)
    save_adapter(ours, tmp_path / "ours", format="peft")
    again = read_by_peft(classifier(kind, labels)[0], tmp_path / "ours")
    torch.testing.assert_close(logits(again, kind), right)
    again.save_pretrained(tmp_path / "again", safe_serialization=True)
    first, second = (load_file(tmp_path / folder / TENSORS) for folder in ("ours", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(logits(load_adapter(classifier(kind, labels)[0], tmp_path / "again"), kind), right)


@pytest.mark.parametrize(("make", "targets"), [(llama, ["q_proj", "v_proj", "down_proj"]), (t5, ["q", "v", "wo"])])
def test_a_language_model_both_ways(tmp_path, make, targets):
    words = {"input_ids": IDS} if make is llama else {"input_ids": IDS, "decoder_input_ids": IDS}
    theirs = by_peft(make(), tmp_path / "theirs", target_modules=targets).eval()
    torch.testing.assert_close(load_adapter(make(), tmp_path / "theirs")(**words).logits, theirs(**words).logits)
    ours = perturbed(inject_lora(make(), targets, rank=2, alpha=4))
    save_adapter(ours, tmp_path / "ours", format="peft")
    torch.testing.assert_close(read_by_peft(make(), tmp_path / "ours")(**words).logits, ours(**words).logits)


@pytest.mark.parametrize("fan_in_fan_out", [True, False])
def test_gpt2s_conv1d_is_refused_by_name(tmp_path, fan_in_fan_out):
    import json

    by_peft(classifier("GPT-2")[0], tmp_path, target_modules=["c_attn"], fan_in_fan_out=True, task_type="SEQ_CLS")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "fan_in_fan_out": fan_in_fan_out}))
    model = classifier("GPT-2")[0]
    message = "fan_in_fan_out is True.*Conv1D" if fan_in_fan_out else r"transformer.h.0.attn.c_attn is a Conv1D"
    with pytest.raises(ValueError, match=message):
        load_adapter(model, tmp_path)
    assert not any("lora" in name for name, _ in model.named_parameters())
