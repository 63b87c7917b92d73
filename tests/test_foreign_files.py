"""Files that other code reads and writes: transformers' folders, wrapped models, what is not finite."""

import copy
import dataclasses
import logging
import pickle
from pathlib import Path

import pytest
import torch
from foreign_models import IDS, learned, llama, net
from peft_models import CONFIG, TENSORS, by_peft, logits, perturbed, tiny
from safetensors.torch import load_file, save_file
from torch import nn

from lora_ref import (
    AdapterSet,
    LinearWithLoRA,
    enable_lora,
    inject_lora,
    load_adapter,
    lora_layers,
    merge_and_unload,
    merge_lora,
    save_adapter,
)
from lora_ref.profiles import TINY
from lora_ref.training import ENCODER_LINEARS, fine_tune

X = torch.linspace(-1, 1, 40).reshape(5, 8)
close = torch.testing.assert_close  # compiled, a layer is the plain path, which rounds once more


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """transformers reports what it leaves out of a file."""
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "level", logging.ERROR)


def from_pretrained(folder, kind=None):
    """The model, and what the file lacked; nothing may be drawn at random."""
    import transformers

    kind = transformers.AutoModelForSequenceClassification if kind is None else kind
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    return model.eval()


# --- transformers' folders ------------------------------------------------------------------------------------------


def test_a_checkpoint_of_fine_tune_is_a_plain_model_and_an_adapter(tmp_path):
    short = dataclasses.replace(TINY, epochs=2)
    result = fine_tune("lora", short, output_dir=tmp_path, progress=False)
    torch.testing.assert_close(logits(from_pretrained(result.checkpoint)), logits(result.model))
    base = short.model(num_labels=2, seed=3)
    base.load_state_dict(from_pretrained_base(result.model))
    for path in (
        result.checkpoint,
        f"{result.checkpoint}/model.safetensors",
        f"{result.checkpoint}/adapter.safetensors",
    ):
        adapted = inject_lora(copy.deepcopy(base), ENCODER_LINEARS, rank=8, alpha=16)
        assert torch.equal(logits(load_adapter(adapted, path)), logits(result.model))
    assert torch.equal(logits(load_adapter(copy.deepcopy(base), result.checkpoint)), logits(result.model))


def from_pretrained_base(model):
    """The state of the model without its updates, and with a head of zeros."""
    return {
        name.replace(".linear.", "."): torch.zeros_like(tensor) if name.startswith("classifier") else tensor
        for name, tensor in model.state_dict().items()
        if ".lora." not in name
    }


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("state", ["apart", "merged", "unloaded", "wrapped"])
def test_save_pretrained(tmp_path, tied, state):
    from transformers import LlamaForCausalLM

    model = learned(inject_lora(llama(tied), ["lm_head", "q_proj"], rank=2))
    right = model(IDS).logits
    if state == "merged":
        merge_lora(model)
    elif state == "unloaded":
        merge_and_unload(model)
    elif state == "wrapped":
        model = torch.compile(model, backend="eager")
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(from_pretrained(tmp_path, LlamaForCausalLM)(IDS).logits, right, rtol=1e-4, atol=1e-4)
    assert model.config.tie_word_embeddings == (tied and state != "unloaded")
    if state == "unloaded":
        assert set(load_file(tmp_path / "model.safetensors")) == set(llama(False).state_dict())
        return
    assert torch.equal(load_adapter(llama(tied), tmp_path)(IDS).logits, right)
    inside = load_adapter(inject_lora(llama(tied), ["lm_head", "q_proj"], rank=2), tmp_path / "model.safetensors")
    assert torch.equal(inside(IDS).logits, right)


def test_save_pretrained_of_the_encoder_alone(tmp_path):
    from transformers import RobertaModel

    model = perturbed(inject_lora(tiny(), ["query"], rank=2))
    model.roberta.save_pretrained(tmp_path)
    alone = RobertaModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    right, seen = (encoder(IDS).last_hidden_state for encoder in (model.roberta, alone))
    torch.testing.assert_close(seen, right, rtol=1e-4, atol=1e-4)


def by_hand(model):
    layer = model.roberta.encoder.layer[0].attention.self
    layer.query = LinearWithLoRA(layer.query, rank=2, alpha=4)


def into(part):
    return lambda model: inject_lora(model.get_submodule(part), ["query"], rank=2, train_head=False)


@pytest.mark.parametrize(
    ("inject", "copied"),
    [
        (into("roberta"), lambda model: model),
        (into("roberta.encoder.layer.0"), copy.deepcopy),
        (by_hand, lambda model: pickle.loads(pickle.dumps(model))),
    ],
    ids=["encoder", "layer, deep copy", "by hand, pickled"],
)
def test_save_pretrained_of_a_model_with_lora_in_a_part(tmp_path, inject, copied):
    model = tiny()
    inject(model)
    model = copied(perturbed(model))
    right = logits(model)
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b", True, model.state_dict())
    model.save_pretrained(tmp_path / "c", state_dict=model.state_dict())
    for folder in "abc":
        torch.testing.assert_close(logits(from_pretrained(tmp_path / folder)), right)
        close(logits(load_adapter(tiny(), tmp_path / folder)), right)


def test_a_library_that_is_imported_after_injection(monkeypatch):
    from transformers import PreTrainedModel

    model = net("0")
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", PreTrainedModel.save_pretrained.__wrapped__)
    model.eval()
    assert PreTrainedModel.save_pretrained.knows_lora


def test_a_part_of_a_state_is_not_written_as_a_model(tmp_path):
    model = inject_lora(tiny(), ["query"], rank=2)
    updates = {name: tensor for name, tensor in model.state_dict().items() if "lora_" in name}
    with pytest.raises(ValueError, match=r"query' .*the given state_dict has no weight for it.*save_adapter"):
        model.save_pretrained(tmp_path, state_dict=updates)


def test_the_hubs_own_mixin_asks_the_model_for_its_state(tmp_path):
    from huggingface_hub import PyTorchModelHubMixin

    class Net(nn.Module, PyTorchModelHubMixin):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return self.net(x)

    model, x = Net(), torch.randn(3, 8)
    learned(inject_lora(model.net, ["0"], rank=2, train_head=False))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(Net.from_pretrained(tmp_path)(x), model(x))
    assert "state_dict" not in vars(model)


def bert():
    """Its output layer has its bias twice: in the layer, and beside it."""
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=50, **sizes)).eval(), "decoder"


def bart():
    """Its output layer, its encoder and its decoder have one embedding."""
    import transformers

    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    config = transformers.BartConfig(vocab_size=50, **sizes, **heads, init_std=0.5, dropout=0.0)
    return transformers.BartForConditionalGeneration(config).eval(), "lm_head"


@pytest.mark.parametrize("make", [bert, bart])
@pytest.mark.parametrize("unload", [False, True])
def test_save_pretrained_with_an_output_layer_that_is_tied_to_more(tmp_path, make, unload):
    model, target = make()
    model = learned(inject_lora(model, [target], rank=2))
    right = model(IDS).logits
    (merge_and_unload(model) if unload else model).save_pretrained(tmp_path)
    torch.testing.assert_close(from_pretrained(tmp_path, type(model))(IDS).logits, right, rtol=1e-4, atol=1e-4)


def test_pefts_folder_for_a_model_that_is_compiled_in_part(tmp_path):
    right = logits(by_peft(tiny(), tmp_path, target_modules=["query"], modules_to_save=["classifier"]))
    model = tiny()
    model.roberta.encoder.layer[0] = torch.compile(model.roberta.encoder.layer[0], backend="eager")
    close(logits(load_adapter(model, tmp_path)), right)


def test_trainers_own_loading_brings_the_update_back(tmp_path):
    """What `load_best_model_at_end` and `resume_from_checkpoint` do."""
    model = perturbed(inject_lora(tiny(), ["query"], rank=2))
    model.save_pretrained(tmp_path)
    fresh = inject_lora(tiny(), ["query"], rank=2)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert torch.equal(logits(fresh), logits(model))


@pytest.mark.parametrize("other", ["base", "scaling"])
def test_a_checkpoint_of_another_base_or_scaling_is_refused(tmp_path, other):
    from lora_ref.models import tiny_roberta

    perturbed(inject_lora(tiny(), ["query"], rank=2)).save_pretrained(tmp_path)
    base, alpha = (tiny_roberta(seed=8), 16) if other == "base" else (tiny(), 8)
    model = inject_lora(base, ["query"], rank=2, alpha=alpha)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="not this model's with the update in it"):
        load_adapter(model, tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_trainers_checkpoint_of_a_model_that_is_not_transformers(tmp_path):
    """Trainer writes the state as it is: all of the base, with the adapted layers' names."""
    model = net("0")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.testing.assert_close(load_adapter(net("0"), tmp_path)(X), model(X))
    assert torch.equal(load_adapter(inject_lora(net(), ["0"], rank=2, train_head=False), tmp_path)(X), model(X))
    other = net("0")
    nn.init.ones_(other[2].weight)
    with pytest.raises(ValueError, match=r"2.weight differs: it is of another base model"):
        load_adapter(other, tmp_path)


def test_a_plain_models_file_is_not_an_adapter(tmp_path):
    merge_and_unload(perturbed(inject_lora(tiny(), ["query"], rank=2))).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a whole model, and .*query' has no A and B of its own in it"):
        load_adapter(inject_lora(tiny(), ["query"], rank=2), tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"adapter_config.json"):
        load_adapter(tiny(), tmp_path)


def test_a_model_that_is_off_or_cannot_be_merged_is_not_written_by_halves(tmp_path):
    model = inject_lora(tiny(), ["query"], rank=2)
    with pytest.raises(ValueError, match=r"query' can't be written as a plain layer: LoRA is switched off"):
        enable_lora(model, False).save_pretrained(tmp_path / "a")
    layer = next(iter(lora_layers(enable_lora(model)).values()))
    layer.linear.weight = nn.Parameter(layer.linear.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"quantised \(torch.int8\).*save_adapter writes the updates alone"):
        model.save_pretrained(tmp_path / "a")
    assert not list(tmp_path.glob("*/*.safetensors"))


def test_an_adapter_sets_model_is_saved_as_it_is_now(tmp_path):
    adapters = AdapterSet(perturbed(inject_lora(tiny(), ["query"], rank=2)), name="a")
    right = logits(adapters.model)
    adapters.model.save_pretrained(tmp_path / "a")
    adapters.activate(None)
    base = logits(adapters.model)
    adapters.model.save_pretrained(tmp_path / "base")
    torch.testing.assert_close(logits(from_pretrained(tmp_path / "a")), right)
    torch.testing.assert_close(logits(from_pretrained(tmp_path / "base")), base)


# --- torch.compile, DataParallel ------------------------------------------------------------------------------------


def compiled_part(model):
    model[0] = torch.compile(model[0], backend="eager")
    return model


def checkpointed_part(model):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model[0] = checkpoint_wrapper(model[0])
    return model


WRAPPERS = {
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "DataParallel": nn.DataParallel,
    "both": lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
    "a compiled part": compiled_part,
    "a checkpointed part": checkpointed_part,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("format", ["lora_ref", "peft"])
def test_names_are_those_of_the_model_inside(tmp_path, wrapper, format):
    def deep():
        return nn.Sequential(net(), nn.Linear(3, 2))

    def injected(model):
        return inject_lora(model, ["0.0"], rank=2, train_head=["1"])

    wrap = WRAPPERS[wrapper]
    right = learned(injected(deep()))
    path = save_adapter(wrap(right), tmp_path / "a", format=format)
    names = load_file(path / TENSORS if format == "peft" else path)
    assert not any("_orig_mod" in name or "module." in name.removeprefix("base_model.model.") for name in names)
    close(load_adapter(deep() if format == "peft" else injected(deep()), path)(X), right(X))
    wrapped = wrap(injected(deep()))
    assert load_adapter(wrapped, path) is wrapped, "into a wrapped model too"
    close(wrapped(X), right(X))
    learned(injected(wrap(deep())))  # and injected after it was wrapped


def test_an_adapter_set_on_a_compiled_model(tmp_path):
    plain = perturbed(inject_lora(tiny(), ["query"], rank=2))
    path, right, base = save_adapter(plain, tmp_path / "a"), logits(plain), logits(tiny())
    adapters = AdapterSet(torch.compile(tiny(), backend="eager"))
    adapters.load("films", path)
    close(logits(adapters.model), right)
    adapters.activate(None)
    close(logits(adapters.model), base)
    assert load_file(adapters.save("films", tmp_path / "b")).keys() == load_file(path).keys()


# --- NaN and infinity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("format", ["lora_ref", "peft"])
@pytest.mark.parametrize("part", ["lora.lora_A", "lora.lora_B", "head"])
def test_an_adapter_that_is_not_finite_is_neither_saved_nor_loaded(tmp_path, value, format, part):
    model = perturbed(inject_lora(tiny(), ["query"], rank=2))
    name = "classifier.dense.bias" if part == "head" else f"roberta.encoder.layer.1.attention.self.query.{part}"
    path = save_adapter(model, tmp_path / "good", format=format)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = value
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        save_adapter(model, tmp_path / "bad", format=format)
    assert not [file for file in tmp_path.rglob("*") if "bad" in file.name and file.is_file()]
    file = path / TENSORS if format == "peft" else path
    tensors = {n: t.clone() for n, t in load_file(file).items()}
    key = f"base_model.model.{name.replace('.lora.lora_', '.lora_')}" if format == "peft" else name
    key = key if key in tensors else f"{key}.weight"
    tensors[key].view(-1)[0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    fresh = inject_lora(tiny(), ["query"], rank=2)
    before = logits(fresh)
    with pytest.raises(ValueError, match=f"{name} holds NaN or infinity"):
        load_adapter(fresh, path)
    assert torch.equal(logits(fresh), before)


def test_a_composition_that_is_not_finite_is_refused():
    adapters = AdapterSet(perturbed(inject_lora(tiny(), ["query"], rank=2)), name="a")
    before = logits(adapters.model)
    with pytest.raises(ValueError, match=r"the sum of 'a' holds numbers that are not finite"):
        adapters.compose({"a": 1e300}, "b")
    assert adapters.names == ["a"]
    assert torch.equal(logits(adapters.model), before)


# --- PEFT's keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("targets", [["lm_head"], ["q_proj", "lm_head"]])
def test_pefts_adapter_on_the_output_layer(tmp_path, tied, targets):
    theirs = by_peft(llama(tied), tmp_path, target_modules=targets)
    right = theirs(IDS).logits
    for ours in (llama(tied), inject_lora(llama(tied), targets, rank=2, alpha=4)):
        torch.testing.assert_close(load_adapter(ours, tmp_path)(IDS).logits, right)


def test_a_copy_of_another_base_is_refused(tmp_path):
    by_peft(llama(), tmp_path, target_modules=["q_proj", "lm_head"])
    other = llama()
    nn.init.normal_(other.lm_head.weight)
    with pytest.raises(ValueError, match=r"lm_head.base_layer.weight: the file has a copy of the base model's tensor"):
        load_adapter(other, tmp_path)
    assert not lora_layers(other)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_a_copy_of_a_tied_module_is_refused_both_ways(tmp_path, module):
    """PEFT trains the copy alone, and what was tied keeps its old weight."""
    by_peft(llama(tied=True), tmp_path, target_modules=["q_proj"], modules_to_save=[module])
    fresh = llama(tied=True)
    with pytest.raises(ValueError, match=r"'model.embed_tokens.weight' is 'lm_head.weight' too"):
        load_adapter(fresh, tmp_path)
    assert not lora_layers(fresh)
    ours = inject_lora(llama(tied=True), ["q_proj"], rank=2, train_head=[module])
    with pytest.raises(ValueError, match=r"'model.embed_tokens.weight' is 'lm_head.weight' too"):
        save_adapter(ours, tmp_path / "ours", format="peft")


def test_the_folders_of_named_adapters_are_named(tmp_path):
    by_peft(tiny(), tmp_path / "films", target_modules=["query"])
    with pytest.raises(FileNotFoundError, match="there is one in each of its folders 'films': name one"):
        load_adapter(tiny(), tmp_path)


@pytest.mark.parametrize("format", ["lora_ref", "peft"])
def test_an_offloaded_update_is_named(tmp_path, format):
    model = inject_lora(tiny(), ["query"], rank=2)
    lora = next(iter(lora_layers(model).values())).lora
    A, in_parts = lora.lora_A, nn.Parameter(torch.ones(2, 32))
    in_parts.full_tensor = None  # as torch's DTensor has it
    for part in (nn.Parameter(torch.ones(3)), nn.Parameter(torch.empty(0)), in_parts):  # FSDP's, DeepSpeed's
        lora.lora_A = part
        with pytest.raises(ValueError, match=r"query.lora.lora_A is in parts, one on each process"):
            save_adapter(model, tmp_path / "a")
    lora.lora_A = A
    model.to("meta")
    model.to("meta")
    with pytest.raises(ValueError, match="is on the meta device, which holds no numbers"):
        save_adapter(model, tmp_path / "adapter", format=format)
    assert not list(tmp_path.iterdir())
    path = save_adapter(inject_lora(tiny(), ["query"], rank=2), tmp_path / "adapter", format=format)
    for target in (model, tiny().to("meta")) if format == "peft" else (model,):
        with pytest.raises(ValueError, match="is on the meta device in the model, which holds no numbers"):
            load_adapter(target, path)


def test_running_statistics_are_in_no_adapter_and_it_is_said(tmp_path):
    def model():
        return nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))

    with pytest.warns(UserWarning, match="'1' is a BatchNorm1d: in training mode its running statistics change"):
        frozen = inject_lora(model(), ["0"], rank=2, train_head=False)
    save_adapter(frozen, tmp_path / "a")
    with pytest.warns(UserWarning, match="BatchNorm1d"):
        trained = inject_lora(model(), ["0"], rank=2, train_head=["1"])
    for format in ("lora_ref", "peft"):
        with pytest.raises(ValueError, match="'1' trains and has buffers"):
            save_adapter(trained, tmp_path / "b", format=format)
    assert not (tmp_path / "b").exists()


def test_a_folder_for_a_file_and_a_file_for_a_folder(tmp_path):
    model = inject_lora(tiny(), ["query"], rank=2)
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        save_adapter(model, tmp_path)
    save_adapter(model, tmp_path, format="peft")
    with pytest.raises(ValueError, match=r"adapter_model.safetensors is PEFT's: give its folder"):
        load_adapter(model, tmp_path / TENSORS)


def test_keys_with_an_adapters_name_and_a_wrappers(tmp_path):
    theirs = by_peft(tiny(), tmp_path, target_modules=["query"], modules_to_save=["classifier"])
    right = logits(theirs)
    state = {n: t.clone() for n, t in theirs.state_dict().items() if "lora_" in n or "classifier" in n}
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        save_file({prefix + name: tensor for name, tensor in state.items()}, tmp_path / TENSORS)
        close(logits(load_adapter(tiny(), tmp_path)), right)
    state |= {n.replace(".default.", ".other."): t.clone() for n, t in state.items() if "lora_" in n}
    save_file(state, tmp_path / TENSORS)
    with pytest.raises(ValueError, match=r"tensors of several adapters \(default, other\)|is there twice"):
        load_adapter(tiny(), tmp_path)
    assert Path(tmp_path / CONFIG).exists()
