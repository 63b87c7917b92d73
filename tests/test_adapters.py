"""Adapters on the disk: exact, whole or absent, never unpickled, refused before anything changes."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file

from lora_ref import adapters, inject_lora, load_adapter, profiles, save_adapter
from lora_ref.checks.stage04.adapter_files import Trap
from lora_ref.checks.stage04.e5_adapter_file import changed, snapshot
from lora_ref.models import base_model, tiny_roberta
from lora_ref.training import ENCODER_LINEARS

ROOT = Path(__file__).resolve().parents[1]


def adapted(seed=0, rank=3, alpha=6, train_head=True, model=None):
    """The same base each time, with an adapter of its own whose B is not zero."""
    model = tiny_roberta(seed=7) if model is None else model
    inject_lora(model, ENCODER_LINEARS, rank=rank, alpha=alpha, train_head=train_head)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(torch.randn(p.shape, generator=generator) / 10)
    return model.eval()


def tokens(high=40):
    return torch.randint(4, high, (5, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model, high=40):
    return model.eval()(input_ids=tokens(high)).logits


@pytest.fixture
def saved(tmp_path):
    return save_adapter(adapted(seed=1), tmp_path / "adapter.safetensors")


# --- save and load --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_head", [True, False])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_fresh_model_gives_equal_logits(tmp_path, kind, train_head):
    model, fresh = adapted(seed=1, train_head=train_head), adapted(seed=2, train_head=train_head)
    path = kind(tmp_path / "a.safetensors")
    assert save_adapter(model, path) == Path(path)
    assert not torch.equal(logits(model), logits(fresh))
    assert load_adapter(fresh, path) is fresh
    assert torch.equal(logits(model), logits(fresh))
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_the_file_holds_lora_and_the_head_and_nothing_else(saved):
    names = set(load_file(saved))
    assert {n for n in names if ".lora." not in n} == {
        f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")
    }
    assert len(names) == 4 + 2 * 12
    with safe_open(saved, "pt") as file:
        assert file.metadata()["format"] == adapters.FORMAT


def test_a_frozen_head_stays_out(tmp_path):
    path = save_adapter(adapted(train_head=False), tmp_path / "a")
    assert all(".lora." in name for name in load_file(path))


def test_lora_is_saved_from_a_model_that_was_frozen_since(tmp_path):
    model = adapted(seed=1, train_head=False).requires_grad_(False)
    fresh = adapted(seed=2, train_head=False)
    load_adapter(fresh, save_adapter(model, tmp_path / "a"))
    assert torch.equal(logits(model), logits(fresh))


def test_saving_changes_nothing_and_saving_again_gives_the_same_bytes(tmp_path):
    model = adapted()
    before = snapshot(model)
    first, second = (save_adapter(model, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second
    assert changed(model, before) == []


def test_loading_keeps_parameters_and_flags(saved):
    fresh = adapted(seed=2)
    ids = {name: (id(p), p.requires_grad) for name, p in fresh.named_parameters()}
    load_adapter(fresh, saved)
    assert {name: (id(p), p.requires_grad) for name, p in fresh.named_parameters()} == ids, "an optimiser holds these"


FRESH_PROCESS = """
import sys
import torch
from lora_ref import inject_lora, load_adapter, profiles
from lora_ref.models import base_model, tiny_roberta
from lora_ref.training import ENCODER_LINEARS

name, path, out, rank, alpha, high = sys.argv[1:]
model = tiny_roberta(seed=7) if name == "tiny" else base_model(profiles.get(name), seed=5)
inject_lora(model, ENCODER_LINEARS, rank=int(rank), alpha=float(alpha))
load_adapter(model, path)
torch.set_num_threads(1)
ids = torch.randint(4, int(high), (5, 9), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    open(out, "wb").write(model.eval()(input_ids=ids).logits.numpy().tobytes())
"""


def logits_of_a_fresh_process(name, path, rank, alpha, high):
    out = path.with_suffix(".logits")
    arguments = [name, str(path), str(out), str(rank), str(alpha), str(high)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", FRESH_PROCESS, *arguments], check=True, env=environment, timeout=300)
    return np.frombuffer(out.read_bytes(), dtype=np.float32).reshape(5, 2)


def test_a_fresh_process_gives_equal_logits(tmp_path):
    model = adapted(seed=1)
    path = save_adapter(model, tmp_path / "a.safetensors")
    assert np.array_equal(logits_of_a_fresh_process("tiny", path, 3, 6, 40), logits(model).numpy())


@pytest.mark.laptop
def test_the_real_encoder_in_a_fresh_process_and_the_adapters_size(tmp_path, laptop_assets):
    model = adapted(seed=1, rank=8, alpha=16, model=base_model(profiles.get("laptop"), seed=0))
    path = save_adapter(model, tmp_path / "a.safetensors")
    assert np.array_equal(logits_of_a_fresh_process("laptop", path, 8, 16, 20_000), logits(model, 20_000).numpy())
    base = laptop_assets["encoder"] / "model.safetensors"
    assert path.stat().st_size < 0.03 * base.stat().st_size


# --- whole or absent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["save_file", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, name):
    path = save_adapter(adapted(seed=1), tmp_path / "a.safetensors")
    before = path.read_bytes()

    def fails(tensors, target, **options):
        if name == "save_file":
            Path(target).write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapters if name == "save_file" else adapters.os, name, fails)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(adapted(seed=2), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_missing_folder_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match="nowhere"):
        save_adapter(adapted(), tmp_path / "nowhere" / "a.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_model_without_lora_is_refused(tmp_path):
    with pytest.raises(ValueError, match="RobertaForSequenceClassification has no LoRA layers"):
        save_adapter(tiny_roberta(), tmp_path / "a")
    assert os.listdir(tmp_path) == []


# --- refusals -------------------------------------------------------------------------------------------------------

FIRST, LAST = "classifier.dense.bias", "roberta.encoder.layer.1.output.dense.lora.lora_B"


def edited(path, edit, metadata=None):
    tensors = load(path.read_bytes())  # not load_file: Windows writes over no file that tensors are mapped to
    edit(tensors)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() if metadata is None else metadata
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata=metadata)
    return path


@pytest.mark.parametrize("name", [FIRST, LAST])
@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda t, name: t.pop(name), "missing: {name}"),
        (lambda t, name: t.update({f"{name}.more": torch.ones(2)}), "unexpected: {name}.more"),
        (lambda t, name: t.update({name: torch.cat([t[name], t[name][:1]])}), "shape of {name}: file ("),
        (lambda t, name: t.update({name: t[name][:1]}), "shape of {name}: file (1"),  # copy_ would broadcast it
        (lambda t, name: t.update({name: t[name][None]}), "shape of {name}: file (1, "),
        (lambda t, name: t.update({"other": t.pop(name)}), "missing: {name}"),
        (
            lambda t, name: t.update({name: t[name].to(torch.int8)}),
            "type of {name}: file torch.int8, model torch.float",
        ),
        pytest.param(
            lambda t, name: t.update({name: t[name] + 0j}),
            "type of {name}: file torch.complex64, model torch.float32",
            marks=pytest.mark.skipif(
                torch.complex64 not in safetensors.torch._SIZE, reason="this safetensors writes no complex numbers"
            ),
        ),
        (lambda t, name: t.update({name: t[name].double() + 1e300}), "{name} holds numbers that are too large for"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(saved, name, edit, problem):
    edited(saved, lambda tensors: edit(tensors, name))
    model = adapted(seed=2)
    before = snapshot(model)
    with pytest.raises(ValueError) as caught:
        load_adapter(model, saved)
    assert "adapter.safetensors does not fit this model" in str(caught.value)
    assert problem.format(name=name) in str(caught.value)
    assert changed(model, before) == []


def test_many_problems_are_counted_not_listed(saved):
    with pytest.raises(ValueError, match=r"and \d+ more") as caught:
        load_adapter(adapted(rank=5), saved)
    assert len(str(caught.value).splitlines()) == 10


def test_another_scaling_is_refused(saved):
    """The same tensors with another alpha give other outputs, and no shape would tell."""
    model = adapted(seed=2, alpha=9)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"scaling of .*: file 2, model 3"):
        load_adapter(model, saved)
    assert changed(model, before) == []


def test_a_base_without_lora_is_refused(saved):
    for model in (tiny_roberta(seed=7), tiny_roberta(seed=7).requires_grad_(False)):
        with pytest.raises(
            ValueError, match=r"has no LoRA layers \(unexpected: .*lora_A\): inject them as in the saved"
        ):
            load_adapter(model, saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no adapter file at .*nothing.safetensors"):
        load_adapter(adapted(), tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("kind", ["noise", "empty", "half", "huge header", "torch.save", "pickle"])
def test_what_is_not_safetensors_is_refused_and_never_unpickled(tmp_path, saved, kind):
    marker = tmp_path / "unpickled"
    if kind == "torch.save":
        torch.save({FIRST: Trap(marker)}, saved)
    else:
        saved.write_bytes(
            {
                "noise": os.urandom(500),
                "empty": b"",
                "half": saved.read_bytes()[:2000],
                "huge header": (2**62).to_bytes(8, "little") + b"{}",
                "pickle": pickle.dumps({FIRST: Trap(marker)}),
            }[kind]
        )
    model = adapted(seed=2)
    before = snapshot(model)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_adapter(model, saved)
    assert changed(model, before) == []
    assert not marker.exists()


@pytest.mark.parametrize(
    "scaling", ["", "nonsense", "[]", "5", "null", '{"%s": {}}', '{"%s": "2"}', '{"%s": null}', "[" * 9999]
)
def test_strange_metadata_is_refused(saved, scaling):
    layer = LAST.removesuffix(".lora_B")
    edited(saved, lambda tensors: None, {"format": adapters.FORMAT, "scaling": scaling.replace("%s", layer)})
    model = adapted(seed=2)
    before = snapshot(model)
    with pytest.raises(ValueError):
        load_adapter(model, saved)
    assert changed(model, before) == []


def test_a_file_from_elsewhere_with_the_right_tensors_is_taken(saved):
    expected = load(saved.read_bytes())
    edited(saved, lambda tensors: None, {"format": "pt"})
    model = load_adapter(adapted(seed=2), saved)
    assert all(torch.equal(dict(model.named_parameters())[name], t) for name, t in expected.items())
    assert json.dumps(adapters._scalings(model))
