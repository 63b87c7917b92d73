"""Injection: whole names match, pretrained weights stay bit for bit, a refusal leaves the model as it was."""

import copy

import pytest
import torch
from torch import nn

from lora_ref import LinearWithLoRA, freeze, inject_lora, match_targets, replace_module, trainable_report
from lora_ref.models import tiny_roberta
from lora_ref.training import ENCODER_LINEARS


class Ten(nn.Module):
    """Names that begin or end alike."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Linear(3, 4)
        self.layer10 = nn.Linear(4, 3)
        self.my_query = nn.Linear(3, 3)
        self.block = nn.ModuleDict(
            {"query": nn.Linear(3, 3), "norm": nn.LayerNorm(3), "deep": nn.Sequential(nn.Linear(3, 5))}
        )
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.block["query"](self.layer10(self.layer1(x))))


def state(model):
    parameters = {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    return parameters, [type(m).__name__ for m in model.modules()]


def same(before, after):
    if before[1] != after[1] or before[0].keys() != after[0].keys():
        return False
    return all(torch.equal(before[0][n][0], p) and before[0][n][1] == on for n, (p, on) in after[0].items())


# --- match_targets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["layer1"], ["layer1"]),
        (["layer10"], ["layer10"]),
        (["query"], ["block.query"]),
        (["block.query"], ["block.query"]),
        (["deep.0"], ["block.deep.0"]),
        (["0"], ["block.deep.0"]),
        (["head", "layer1"], ["layer1", "head"]),  # the model's order, not the caller's
        (["query", "block.query"], ["block.query"]),  # once, however many targets mean it
        (("my_query",), ["my_query"]),
        ((t for t in ("layer1", "layer10")), ["layer1", "layer10"]),
        ([], []),
    ],
)
def test_whole_parts_of_a_name_match(targets, names):
    assert match_targets(Ten(), targets) == names


@pytest.mark.parametrize("target", ["layer", "uery", "norm", "block", "deep", "", "layer1.weight", "Head"])
def test_a_target_that_matches_no_linear_layer_is_named(target):
    with pytest.raises(ValueError, match=f"no linear layer matches {target!r}; nearest: '"):
        match_targets(Ten(), ["layer1", target])


def test_the_nearest_name_is_suggested():
    with pytest.raises(ValueError, match=r"'qurey'; nearest: .*'query'"):
        match_targets(tiny_roberta(), ["qurey"])


def test_one_string_is_not_a_list_of_targets():
    with pytest.raises(TypeError, match=r"write \['query'\]"):
        match_targets(Ten(), "query")


def test_robertas_two_output_layers():
    model = tiny_roberta()
    assert len(match_targets(model, ["output.dense"])) == 4, "the attention's ends in output.dense, too"
    assert len(match_targets(model, ["attention.output.dense"])) == 2
    assert len(match_targets(model, ENCODER_LINEARS)) == 12
    assert not any(name.startswith("classifier") for name in match_targets(model, ENCODER_LINEARS))


# --- replace_module, freeze, trainable_report -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layer1", "block.query", "block.deep.0"])
def test_replace_module_at_any_depth(name):
    model, new = Ten(), nn.Identity()
    order = [n for n, _ in model.named_modules()]
    replace_module(model, name, new)
    assert model.get_submodule(name) is new
    assert [n for n, _ in model.named_modules()] == order


@pytest.mark.parametrize("name", ["layer2", "block.nothing", "nowhere.query"])
def test_replace_module_refuses_what_is_not_there(name):
    with pytest.raises(ValueError, match=f"Ten has no module '{name}'"):
        replace_module(Ten(), name, nn.Identity())


def test_freeze_returns_the_model():
    model = Ten()
    assert freeze(model) is model
    assert not any(p.requires_grad for p in model.parameters())


def test_report_counts_shared_parameters_once():
    model = Ten()
    freeze(model.block)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    assert trainable_report(model) == {"trainable": trainable, "total": total, "ratio": trainable / total}
    model.again = model.layer1
    assert trainable_report(model)["total"] == total
    assert trainable_report(nn.Identity()) == {"trainable": 0, "total": 0, "ratio": 0.0}


# --- inject_lora ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_head", [True, False])
def test_nothing_pretrained_changes(train_head):
    model = tiny_roberta(seed=3)
    before, tokens = copy.deepcopy(model), torch.randint(4, 40, (3, 7))
    layers = {name: model.get_submodule(name) for name in match_targets(model, ENCODER_LINEARS)}
    assert inject_lora(model, ENCODER_LINEARS, rank=4, alpha=8, train_head=train_head) is model
    for name, layer in layers.items():
        wrapper = model.get_submodule(name)
        assert isinstance(wrapper, LinearWithLoRA)
        assert wrapper.linear is layer, "the model's own layer, not a copy"
    after = {name.replace(".linear.", "."): p for name, p in model.named_parameters() if ".lora." not in name}
    assert after.keys() == dict(before.named_parameters()).keys()
    assert all(torch.equal(p, after[name]) for name, p in before.named_parameters())
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, before(tokens).logits)


@pytest.mark.parametrize("train_head", [True, False])
def test_lora_and_the_head_train_and_nothing_else(train_head):
    model = inject_lora(tiny_roberta(), ENCODER_LINEARS, rank=4, train_head=train_head)
    training = {name for name, p in model.named_parameters() if p.requires_grad}
    lora = {name for name, _ in model.named_parameters() if ".lora." in name}
    head = {name for name, _ in model.named_parameters() if name.startswith("classifier.")}
    assert training == (lora | head if train_head else lora)
    assert len(lora) == 24
    assert len(head) == 4


def test_adapted_layers_take_the_arguments():
    model = inject_lora(Ten(), ["query", "layer1"], rank=2, alpha=5, dropout=0.25)
    for layer in (model.layer1, model.block["query"]):
        assert layer.lora.scaling == 2.5
        assert layer.lora.lora_A.shape[0] == 2
        assert layer.lora.dropout.p == 0.25
    assert isinstance(model.layer10, nn.Linear)
    assert model.head.weight.requires_grad, "a head of another name"


def test_gradients_reach_lora_and_head_alone():
    model = inject_lora(tiny_roberta(), ENCODER_LINEARS, rank=2)
    tokens = torch.randint(4, 40, (4, 6))
    model(tokens, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name


def test_a_second_injection_is_refused_and_changes_nothing():
    model = inject_lora(tiny_roberta(), ["query"], rank=2)
    before = state(model)
    with pytest.raises(ValueError, match="LoRA layers already"):
        inject_lora(model, ["value"], rank=2)
    assert same(before, state(model))


@pytest.mark.parametrize(
    ("targets", "rank", "error"),
    [
        (["query"], 0, ValueError),
        (["query"], -3, ValueError),
        (["query", "qurey"], 2, ValueError),
        ("query", 2, TypeError),
    ],
)
def test_a_refusal_leaves_the_model_as_it_was(targets, rank, error):
    model = tiny_roberta()
    before = state(model)
    with pytest.raises(error):
        inject_lora(model, targets, rank=rank)
    assert same(before, state(model))
    assert all(p.requires_grad for p in model.parameters())


def test_a_dropout_that_is_none_leaves_the_model_as_it_was():
    model = tiny_roberta()
    before = state(model)
    with pytest.raises(ValueError):
        inject_lora(model, ["query"], rank=2, dropout=1.5)
    assert same(before, state(model))


def test_layers_keep_their_dtype():
    model = inject_lora(Ten().double(), ["layer1"], rank=2)
    assert model.layer1.lora.lora_A.dtype == torch.float64


def test_a_model_in_evaluation_mode_stays_in_it():
    model = inject_lora(tiny_roberta().eval(), ["query"], dropout=0.5)
    assert not any(module.training for module in model.modules())
