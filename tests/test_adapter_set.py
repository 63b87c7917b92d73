"""Several adapters on one base: switching is exact both ways, the base never changes, a composition is the sum."""

import json
import os

import pytest
import torch
from foreign_models import llama
from peft_models import logits, perturbed, tiny
from safetensors.torch import save_file
from torch import nn

from lora_ref import (
    LinearWithLoRA,
    inject_lora,
    load_adapter,
    lora_disabled,
    lora_layers,
    merge_and_unload,
    merge_lora,
    save_adapter,
    unmerge_lora,
)
from lora_ref.adapter_set import AdapterSet
from lora_ref.adapters import FORMAT
from lora_ref.models import tiny_roberta
from lora_ref.training import ENCODER_LINEARS

QUERY = "roberta.encoder.layer.0.attention.self.query"


def deltas(model):
    return {name: layer.lora.delta_weight().detach().double() for name, layer in lora_layers(model).items()}


def head(model):
    return model.classifier.out_proj.weight.detach().clone()


def base_weights(model):
    """What the base consists of, head aside, by the names that it has without LoRA."""
    return {
        name.replace(".linear.", "."): p.detach().clone()
        for name, p in model.named_parameters()
        if ".lora." not in name and not name.startswith("classifier")
    }


@pytest.fixture
def adapters():
    """Three that differ in targets, rank, scaling and head; "c" is active."""
    adapters = AdapterSet(tiny())
    adapters.add("a", ["query", "value"], rank=4, alpha=8)
    perturbed(adapters.model, seed=1)
    adapters.add("b", ENCODER_LINEARS, rank=2, alpha=3, rslora=True)
    perturbed(adapters.model, seed=2)
    adapters.add("c", ["query"], rank=1, alpha=1, train_head=False)
    perturbed(adapters.model, seed=3)
    return adapters


def test_switching_back_gives_the_same_logits_and_the_base_stays(adapters):
    base, weights = logits(tiny()), base_weights(tiny())
    seen = {}
    for name in ("a", "b", "c", None, "b", "a", None, "c", "a"):
        adapters.activate(name)
        assert adapters.active == name
        now = logits(adapters.model)
        assert torch.equal(seen.setdefault(name, now), now)
        kept = base_weights(adapters.model)
        assert kept.keys() == weights.keys()
        assert all(torch.equal(kept[key], weights[key]) for key in weights)
    assert torch.equal(seen[None], base)
    assert len({tuple(value.flatten().tolist()) for value in seen.values()}) == 4


def test_each_adapter_is_what_it_is_alone(adapters):
    alone = perturbed(inject_lora(tiny(), ["query", "value"], rank=4, alpha=8), seed=1)
    adapters.activate("a")
    assert torch.equal(logits(adapters.model), logits(alone))
    assert adapters.model.state_dict().keys() == alone.state_dict().keys()
    adapters.activate(None)
    assert adapters.model.state_dict().keys() == tiny().state_dict().keys()
    assert not any(isinstance(module, LinearWithLoRA) for module in adapters.model.modules())


def test_a_layer_without_an_update_is_the_bases_own(adapters):
    adapters.activate("a")
    assert isinstance(adapters.model.roberta.encoder.layer[0].output.dense, nn.Linear)
    linear = adapters.model.get_submodule(QUERY).linear
    adapters.activate(None)
    assert adapters.model.get_submodule(QUERY) is linear


def test_what_trains_is_the_active_adapter(adapters):
    counts = {}
    for name in adapters.names:
        adapters.activate(name)
        counts[name] = {n for n, p in adapters.model.named_parameters() if p.requires_grad}
    assert all(".lora." in n or n.startswith("classifier.") for n in counts["a"])
    assert len(counts["a"]) == 4 * 2 + 4
    assert len(counts["b"]) == 12 * 2 + 4
    assert len(counts["c"]) == 2 * 2, "its head is the base's, frozen"


def test_training_one_leaves_the_others_and_the_base(adapters):
    before = {}
    for name in ("b", "c", None, "a"):
        adapters.activate(name)
        before[name] = logits(adapters.model)
    optimizer = torch.optim.AdamW([p for p in adapters.model.parameters() if p.requires_grad], lr=0.01)
    ids = torch.randint(4, 40, (5, 9))

    def step():
        optimizer.zero_grad()
        adapters.model(input_ids=ids, labels=torch.tensor([0, 1, 0, 1, 1])).loss.backward()
        optimizer.step()

    step()
    trained = logits(adapters.model)
    assert not torch.equal(trained, before["a"])
    for name in ("b", "c", None):
        adapters.activate(name)
        assert torch.equal(logits(adapters.model), before[name])
    adapters.activate("a")
    assert torch.equal(logits(adapters.model), trained)
    step()  # the optimiser still holds its parameters
    assert not torch.equal(logits(adapters.model), trained)


def test_an_injected_model_is_the_first_adapter():
    model = perturbed(inject_lora(tiny(), ["query"], rank=2), seed=1)
    expected, parameters = logits(model), {name: id(p) for name, p in model.named_parameters()}
    adapters = AdapterSet(model, name="first")
    assert (adapters.names, adapters.active) == (["first"], "first")
    adapters.activate(None)
    assert torch.equal(head(model), head(perturbed(inject_lora(tiny(), ["query"], rank=2), seed=1)))
    adapters.activate("first")
    assert torch.equal(logits(model), expected)
    assert {name: id(p) for name, p in model.named_parameters()} == parameters, "an optimiser holds these"


def test_a_copy_starts_equal_and_goes_its_own_way(adapters):
    adapters.activate("a")
    expected = logits(adapters.model)
    adapters.add("a2")
    assert adapters.active == "a2"
    assert torch.equal(logits(adapters.model), expected)
    perturbed(adapters.model, seed=9)
    assert not torch.equal(logits(adapters.model), expected)
    adapters.activate("a")
    assert torch.equal(logits(adapters.model), expected)


def test_a_fresh_adapter_starts_as_the_base(adapters):
    adapters.add("d", ["key"], rank=2)
    assert torch.equal(logits(adapters.model), logits(tiny()))


def test_modes_switches_and_dropout_follow():
    adapters = AdapterSet(tiny())
    adapters.add("a", ["query"], dropout=0.5)
    adapters.add("b", ["value"], dropout=0.5)
    adapters.model.train()
    adapters.activate("a")
    assert all(module.training for module in adapters.model.modules())
    adapters.model.eval()
    adapters.activate("b")
    assert not any(module.training for module in adapters.model.modules())
    with lora_disabled(adapters.model):
        adapters.activate("a")
        assert all(layer.enabled for layer in lora_layers(adapters.model).values())


def test_dtype_follows_the_model(adapters):
    adapters.activate("a")
    adapters.model.to(torch.float64)
    for name in ("b", None, "c", "a"):
        adapters.activate(name)
        assert {p.dtype for p in adapters.model.parameters()} == {torch.float64}
        assert logits(adapters.model).isfinite().all()


def test_an_update_inside_a_head_that_another_adapter_trains(adapters):
    adapters.activate("a")
    expected = logits(adapters.model)
    adapters.add("d", ["classifier.dense", "query"], rank=2)
    perturbed(adapters.model, seed=4)
    inside = logits(adapters.model)
    assert not adapters.model.classifier.dense.linear.weight.requires_grad
    for name, value in (("a", expected), ("d", inside), ("a", expected), (None, logits(tiny())), ("d", inside)):
        adapters.activate(name)
        assert torch.equal(logits(adapters.model), value)


# --- composition ----------------------------------------------------------------------------------------------------


def test_a_composition_is_the_weighted_sum_of_the_updates(adapters):
    weights = {"a": 0.7, "b": 0.6, "c": -2.0}
    parts, heads = {}, {}
    for name in weights:
        adapters.activate(name)
        parts[name], heads[name] = deltas(adapters.model), head(adapters.model)
    adapters.compose(weights, name="mixed")
    assert adapters.active == "mixed"
    total = deltas(adapters.model)
    assert total.keys() == parts["b"].keys()
    for layer, delta in total.items():
        expected = sum(w * parts[name][layer] for name, w in weights.items() if layer in parts[name])
        assert (delta - expected).abs().max() < 1e-7
    update = adapters.model.get_submodule(QUERY).lora
    assert (tuple(update.lora_A.shape), tuple(update.lora_B.shape), update.scaling) == ((7, 32), (32, 7), 1.0)
    base = head(tiny())
    expected = base + sum(w * (heads[name] - base) for name, w in weights.items())  # c has the base's own head
    assert torch.allclose(head(adapters.model), expected, atol=1e-6)


def test_the_composed_model_computes_what_the_merged_sum_computes(adapters):
    adapters.compose({"a": 0.7, "b": 0.3}, name="mixed")
    composed, sums, heads = logits(adapters.model), deltas(adapters.model), adapters.model.classifier.state_dict()
    model = tiny()
    with torch.no_grad():
        for name, delta in sums.items():
            model.get_submodule(name).weight += delta.float()
    model.classifier.load_state_dict(heads)
    assert torch.allclose(logits(model), composed, atol=1e-5)


def test_heads_of_a_composition(adapters):
    adapters.activate("a")
    expected, of_a = logits(adapters.model), head(adapters.model)
    adapters.activate("b")
    of_b = head(adapters.model)

    adapters.compose({"a": 1.0}, name="same")
    assert torch.equal(head(adapters.model), of_a)
    assert torch.allclose(logits(adapters.model), expected, atol=1e-6)
    adapters.compose({"a": 0.25, "b": 0.75}, name="mean")
    assert torch.allclose(head(adapters.model), 0.25 * of_a + 0.75 * of_b, atol=1e-7)
    adapters.compose({"a": 0.5, "b": 0.5}, name="a's", head="a")
    assert torch.equal(head(adapters.model), of_a)
    adapters.compose({"a": 0.5}, name="the base's", head="c")
    assert torch.equal(head(adapters.model), head(tiny()))
    adapters.compose({"c": 3.0}, name="no head")
    assert torch.equal(head(adapters.model), head(tiny()))


def test_a_composition_trains_and_leaves_its_parts_and_the_random_state(adapters):
    adapters.activate("a")
    expected = logits(adapters.model)
    state = torch.random.get_rng_state()
    adapters.compose({"a": 1, "b": 1}, name="mixed")
    assert torch.equal(torch.random.get_rng_state(), state)
    trained = [n for n, p in adapters.model.named_parameters() if p.requires_grad]
    assert len(trained) == 12 * 2 + 4
    perturbed(adapters.model, seed=5)
    adapters.activate("a")
    assert torch.equal(logits(adapters.model), expected)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["lora_ref", "peft"])
def test_each_has_its_own_file(adapters, tmp_path, format):
    expected = {}
    for name in ("a", "b", "c"):
        adapters.activate(name)
        expected[name] = logits(adapters.model)
    adapters.model.requires_grad_(False)  # does not make the head a part of the base
    for name in expected:
        assert adapters.save(name, tmp_path / name, format) == tmp_path / name
    assert adapters.active == "c"
    assert torch.equal(logits(adapters.model), expected["c"])
    assert not any(p.requires_grad for p in adapters.model.parameters())

    fresh = AdapterSet(tiny())
    for name in expected:
        fresh.load(name, tmp_path / name)
        assert fresh.active == name
    for name, value in expected.items():
        fresh.activate(name)
        assert torch.equal(logits(fresh.model), value)
    fresh.activate(None)
    assert torch.equal(logits(fresh.model), logits(tiny())), "the base's head is not the file's"
    fresh.add("again", ["query"])
    assert torch.equal(logits(fresh.model), logits(tiny()))


def test_its_files_are_ordinary_ones(adapters, tmp_path):
    model = load_adapter(inject_lora(tiny(), ["query", "value"], rank=4, alpha=8), adapters.save("a", tmp_path / "a"))
    adapters.activate("a")
    assert torch.equal(logits(adapters.model), logits(model))


def test_saving_keeps_the_switches(adapters, tmp_path):
    with lora_disabled(adapters.model):
        off = logits(adapters.model)
        adapters.save("a", tmp_path / "a")
        assert torch.equal(logits(adapters.model), off)


# --- refusals -------------------------------------------------------------------------------------------------------


def files(tmp_path):
    save_adapter(inject_lora(tiny_roberta(num_labels=3), ["query"]), tmp_path / "three labels")
    (tmp_path / "noise").write_bytes(os.urandom(100))
    save_file({f"{QUERY}.lora.lora_A": torch.ones(2, 32)}, tmp_path / "foreign")
    save_file(
        {f"{QUERY}.lora_A": torch.ones(2, 32), f"{QUERY}.lora_B": torch.ones(32, 2)},
        tmp_path / "strange",
        metadata={"format": FORMAT, "scaling": json.dumps({QUERY: 1})},
    )
    return tmp_path


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda s, f: s.activate("d"), ValueError, "no adapter 'd'; there are: 'a', 'b', 'c'"),
        (lambda s, f: s.remove("d"), ValueError, "no adapter 'd'"),
        (lambda s, f: s.save("d", f / "d"), ValueError, "no adapter 'd'"),
        (lambda s, f: s.add("a", ["query"]), ValueError, "there is an adapter 'a' already"),
        (lambda s, f: s.add("a"), ValueError, "there is an adapter 'a' already"),
        (lambda s, f: s.add(""), ValueError, "a string with something in it"),
        (lambda s, f: s.add("d", ["qurey"]), ValueError, "no linear layer matches 'qurey'"),
        (lambda s, f: s.add("d", ["query"], rank=0), ValueError, "rank must be at least 1"),
        (lambda s, f: s.add("d", "query"), TypeError, "list of names"),
        (lambda s, f: s.load("a", f / "noise"), ValueError, "there is an adapter 'a' already"),
        (lambda s, f: s.load("d", f / "noise"), ValueError, "is not a safetensors file"),
        (lambda s, f: s.load("d", f / "nothing"), FileNotFoundError, "no adapter file"),
        (lambda s, f: s.load("d", f / "three labels"), ValueError, "shape of classifier.out_proj.weight"),
        (lambda s, f: s.load("d", f / "foreign"), ValueError, "foreign does not say its layers' scaling"),
        (lambda s, f: s.load("d", f / "strange"), ValueError, "it has no linear layer 'roberta"),
        (lambda s, f: s.compose({"a": 1}, "b"), ValueError, "there is an adapter 'b' already"),
        (lambda s, f: s.compose({}, "d"), ValueError, "nothing to compose"),
        (lambda s, f: s.compose({"x": 1}, "d"), ValueError, "no adapter 'x'"),
        (lambda s, f: s.compose({"a": float("nan")}, "d"), ValueError, "the weight of 'a' is nan"),
        (lambda s, f: s.compose({"a": "1"}, "d"), ValueError, "the weight of 'a' is '1'"),
        (lambda s, f: s.compose(["a", "b"], "d"), TypeError, "weights are a dict by adapter name"),
        (lambda s, f: s.activate(["a"]), ValueError, r"no adapter \['a'\]"),
        (lambda s, f: s.compose({"a": 1}, "d", head="x"), ValueError, "no adapter 'x'"),
    ],
)
def test_what_is_refused_changes_nothing(adapters, tmp_path, act, error, message):
    adapters.activate("a")
    before = {name: (id(p), p.requires_grad) for name, p in adapters.model.named_parameters()}
    expected = logits(adapters.model)
    with pytest.raises(error, match=message):
        act(adapters, files(tmp_path))
    assert (adapters.names, adapters.active) == (["a", "b", "c"], "a")
    assert {name: (id(p), p.requires_grad) for name, p in adapters.model.named_parameters()} == before
    assert torch.equal(logits(adapters.model), expected)


@pytest.mark.parametrize(
    "act",
    [
        lambda s, f: s.activate("b"),
        lambda s, f: s.activate(None),
        lambda s, f: s.add("d"),
        lambda s, f: s.add("d", ["query"]),
        lambda s, f: s.load("d", f),
        lambda s, f: s.compose({"a": 1}, "d"),
        lambda s, f: s.remove("c"),
        lambda s, f: s.save("a", f / "file"),
        lambda s, f: AdapterSet(s.model),
    ],
)
def test_a_merged_model_is_refused(adapters, tmp_path, act):
    expected = logits(adapters.model)
    merge_lora(adapters.model)
    with pytest.raises(ValueError, match=r"are merged .*unmerge_lora"):
        act(adapters, tmp_path)
    assert (adapters.names, adapters.active) == (["a", "b", "c"], "c")
    assert torch.equal(logits(unmerge_lora(adapters.model)), expected)


def replaced(model):
    model.roberta.encoder.layer[0].attention.self.query = nn.Linear(32, 32)


@pytest.mark.parametrize(
    ("change", "says"), [(merge_and_unload, "was merged and taken out since"), (replaced, "is another module since")]
)
def test_layers_that_somebody_else_took_are_missed(adapters, change, says):
    """Or another adapter's update would stay in the weights, or this one's would be nowhere."""
    change(adapters.model)
    for act in (lambda: adapters.activate("b"), lambda: adapters.compose({"a": 1}, "d")):
        with pytest.raises(ValueError, match=says):
            act()
    assert adapters.names == ["a", "b", "c"]


def test_a_vocabulary_that_was_resized_since():
    adapters = AdapterSet(inject_lora(llama(), ["lm_head"], rank=2), name="a")
    adapters.add("b", ["lm_head"], rank=2)
    adapters.model.resize_token_embeddings(40)
    with pytest.raises(ValueError, match=r"'lm_head' has 40 outputs now and had 50 when 'a' was added"):
        adapters.activate("a")
    assert adapters.active == "b"


def test_remove(adapters):
    adapters.activate("b")
    expected = logits(adapters.model)
    adapters.remove("a")
    assert (adapters.names, adapters.active) == (["b", "c"], "b")
    assert torch.equal(logits(adapters.model), expected)
    adapters.remove("b")
    assert (adapters.names, adapters.active) == (["c"], None)
    assert torch.equal(logits(adapters.model), logits(tiny()))
    adapters.add("a", ["query"])
    assert adapters.names == ["c", "a"]


def test_nothing_to_copy():
    with pytest.raises(ValueError, match="name the targets of a fresh one"):
        AdapterSet(tiny()).add("a")


def test_a_layer_that_also_trains_itself():
    with pytest.raises(ValueError, match=r"'classifier.dense' has an update and trains itself"):
        AdapterSet(inject_lora(tiny(), ["query", "classifier.dense"]))
