"""A LoRA layer where a linear layer stood: models that read its weight, merging, states, tied and shared weights."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from foreign_models import IDS, learned, llama, net, t5
from torch import nn
from torch.nn.utils import parametrize, prune

from lora_ref import enable_lora, inject_lora, lora_disabled, lora_layers, merge_and_unload, merge_lora, unload_lora
from lora_ref import unmerge_lora as unmerge
from lora_ref.adapters import load_adapter, save_adapter
from lora_ref.layers import LinearWithLoRA, LoRALayer
from lora_ref.pretrained import plain_state

X = torch.linspace(-1, 1, 40).reshape(5, 8)


# --- what a linear layer has ----------------------------------------------------------------------------------------


def test_it_has_a_linear_layers_attributes_and_its_weight_has_the_update():
    layer = net("0")[0]
    assert (layer.in_features, layer.out_features, layer.bias) == (8, 12, layer.linear.bias)
    torch.testing.assert_close(nn.functional.linear(X, layer.weight, layer.bias), layer(X))
    layer.weight.sum().backward()
    assert layer.lora.lora_A.grad.any()
    W = layer.linear.weight
    layer.enabled = False
    with torch.no_grad():
        assert torch.equal(layer.weight, W)
        layer.enabled = True
        layer.merge()
        assert torch.equal(layer.weight, layer.linear.weight)
        layer.enabled = False
        assert torch.equal(layer.weight, W)


@pytest.mark.parametrize("targets", [["wo"], ["q", "v", "wi", "wo"], ["lm_head", "wo"]])
def test_t5_reads_wo(targets):
    model = inject_lora(t5(), targets, rank=2)
    before = model(input_ids=IDS, labels=IDS).logits
    torch.testing.assert_close(before, t5()(input_ids=IDS, labels=IDS).logits)
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(layer.lora.lora_B.grad.any() for layer in lora_layers(model).values())


@pytest.mark.parametrize("targets", [["out_proj"], ["linear1", "linear2"], ["out_proj", "linear1", "linear2"]])
@pytest.mark.parametrize("merged", [False, True])
def test_torchs_transformer_layer_with_and_without_its_fast_path(targets, merged):
    torch.manual_seed(0)
    base = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    x, plain = torch.randn(2, 3, 8), copy.deepcopy(base)
    model = learned(inject_lora(base, targets, rank=2, train_head=False))
    slow = model(x)  # with gradients there is no fast path
    slow.pow(3).sum().backward()
    assert all(layer.lora.lora_A.grad.any() for layer in lora_layers(model).values())
    if merged:
        merge_lora(model)
    with torch.no_grad():
        torch.testing.assert_close(model(x), slow)
        assert not torch.allclose(plain(x), slow)
        with lora_disabled(model):
            torch.testing.assert_close(model(x), plain(x))


def test_attention_by_hand():
    torch.manual_seed(0)
    model = learned(inject_lora(nn.MultiheadAttention(8, 2), ["out_proj"], rank=2, train_head=False))
    y, _ = model(X[None], X[None], X[None])
    y.sum().backward()
    assert model.out_proj.lora.lora_A.grad.any()
    with pytest.raises(ValueError, match=r"'self_attn' is a MultiheadAttention, which holds .*'self_attn.out_proj'"):
        inject_lora(nn.TransformerEncoderLayer(8, 2, 16), ["self_attn"], rank=2)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [60, 40])
def test_resizing_the_vocabulary_keeps_the_update(tied, size):
    model = learned(inject_lora(llama(tied), ["lm_head", "q_proj"], rank=2))
    ids = IDS % 40
    before = model(ids).logits
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.resize_token_embeddings(size)
    assert any("embeddings of 10 new words are made up, and frozen" in str(w.message) for w in caught) == (size > 50)
    kept = min(size, 50)
    torch.testing.assert_close(model(ids).logits[..., :kept], before[..., :kept])
    head = model.lm_head
    assert head.lora.lora_B.shape == (size, 2)
    assert not head.lora.lora_B[kept:].any()
    assert head.lora.lora_B.requires_grad
    assert not head.linear.weight.requires_grad
    assert (head.linear.weight is model.get_input_embeddings().weight) == tied
    merge_lora(model)
    with pytest.raises(ValueError, match="unmerge_lora"):
        model.resize_token_embeddings(70)


def test_tying_again_sets_the_weight_inside():
    model = learned(inject_lora(llama(tied=True), ["lm_head"], rank=2))
    before = model(IDS).logits
    model.tie_weights()
    assert torch.equal(model(IDS).logits, before)
    assert model.lm_head.linear.weight is model.get_input_embeddings().weight
    with pytest.raises(ValueError, match=r"shape \(3, 3\) doesn't fit"):
        model.lm_head.weight = nn.Parameter(torch.ones(3, 3))
    merge_lora(model)
    with pytest.raises(RuntimeError, match="unmerge it first"):
        model.lm_head.weight = nn.Parameter(torch.ones(50, 16))


# --- merging --------------------------------------------------------------------------------------------------------


def test_merging_a_tied_output_leaves_the_embedding():
    model = learned(inject_lora(llama(tied=True), ["lm_head", "q_proj"], rank=2))
    embedding = model.get_input_embeddings().weight
    before, kept = model(IDS).logits, embedding.clone()
    merge_lora(model)
    torch.testing.assert_close(model(IDS).logits, before, atol=1e-4, rtol=1e-4)
    assert torch.equal(embedding, kept)
    unmerge(model)
    assert model.lm_head.linear.weight is model.get_input_embeddings().weight
    assert torch.equal(model(IDS).logits, before)


def test_a_parameter_of_two_linear_layers_and_one_that_trains_while_merged():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = learned(inject_lora(nn.Sequential(first, second), ["0"], rank=2, train_head=False))
    before = model(X[:, :4])
    merge_lora(model)
    torch.testing.assert_close(model(X[:, :4]), before)
    with torch.no_grad():
        second.weight += 1
    unmerge(model)
    assert model[0].linear.weight is second.weight
    assert torch.equal(model[0].linear.weight, second.weight)


def test_a_merged_weight_that_was_trained_is_not_taken_away_in_silence():
    model = merge_lora(net("0"))
    with torch.no_grad():
        model[0].linear.weight.mul_(2)
    with pytest.warns(UserWarning, match="trained or edited while LoRA was merged"):
        unmerge(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unmerge(merge_lora(model).double())


def test_a_shared_layer_is_adapted_wherever_it_is_or_nowhere():
    shared = nn.Linear(8, 8)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": nn.Linear(8, 8)})
    for targets in (["a"], ["c", "a"], ["b.0"]):
        with pytest.raises(ValueError, match=r"'a' and 'b.0' are one layer: name them all, or none"):
            inject_lora(model, targets, rank=2)
    assert all(p.requires_grad for p in model.parameters())
    learned(inject_lora(model, ["a", "0"], rank=2, train_head=False))
    assert model["a"] is model["b"][0]
    before = model["b"](X)
    merge_lora(model)
    torch.testing.assert_close(model["b"](X), before)
    unload_lora(model)
    assert model["a"] is shared
    assert model["b"][0] is shared


def refusing():
    """Linear layers that no number can be added to, and a word of the message."""
    parametrized = nn.Linear(8, 4)
    parametrize.register_parametrization(parametrized, "weight", nn.Identity())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old_weight_norm = nn.utils.weight_norm(nn.Linear(8, 4))
    quantised = nn.Linear(8, 4)
    quantised.weight = nn.Parameter(torch.ones(4, 8, dtype=torch.int8), requires_grad=False)
    quantised.forward = lambda x: nn.functional.linear(x, quantised.weight.to(x), quantised.bias)
    doubled = nn.Linear(8, 4)
    doubled.forward = lambda x: 2 * nn.functional.linear(x, doubled.weight, doubled.bias)
    hooked, fed = nn.Linear(8, 4), nn.Linear(8, 4)
    hooked.register_forward_hook(lambda module, args, y: 2 * y)
    fed.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4)).eval()  # it changes as it trains
    pruned = prune.l1_unstructured(nn.Linear(8, 4), "weight", amount=0.5)
    return {
        "parametrized": (parametrized, "parametrization"),
        "weight_norm": (nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), "weight_norm"),
        "old weight_norm": (old_weight_norm, "weight_norm"),
        "spectral_norm": (spectral, "computed from other tensors"),
        "pruned": (pruned, "pruning"),
        "quantised": (quantised, "quantised .torch.int8."),
        "meta": (nn.Linear(8, 4, device="meta"), "meta device"),
        "own forward": (doubled, "forward of its own"),
        "hook": (hooked, "hook of its own"),
        "pre-hook": (fed, "hook of its own"),
    }


@pytest.mark.parametrize("kind", refusing())
def test_a_weight_that_is_not_plain_works_and_is_not_merged(kind):
    linear, message = refusing()[kind]
    model = inject_lora(nn.Sequential(nn.Linear(8, 8), linear), ["0", "1"], rank=2, train_head=False)
    if kind != "meta":
        y = learned(model)(X)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for merge in (merge_lora, merge_and_unload):
        with pytest.raises(ValueError, match=f"^1: this LoRA layer can't be merged: .*{message}"):
            merge(model)
        assert [layer.merged for layer in lora_layers(model).values()] == [False, False], "all or none"
    if kind != "meta":
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        torch.testing.assert_close(model(X), y)


def test_a_hook_that_only_looks_is_no_hindrance():
    model, outputs = net("0"), []
    model[0].linear.register_forward_hook(lambda module, args, y: outputs.append(y.shape))
    y = model(X)
    torch.testing.assert_close(merge_lora(model)(X), y)


def tripling(layer):
    layer.lora.register_forward_hook(lambda module, args, y: 3 * y)


def another_update(layer):
    class Doubled(LoRALayer):
        def forward(self, x):
            return 2 * super().forward(x)

    layer.lora.__class__ = Doubled


def another_dropout(layer):
    layer.lora.dropout = nn.ReLU()


@pytest.mark.parametrize("change", [tripling, another_update, another_dropout])
def test_an_update_that_is_not_scaling_b_a_is_not_merged(change, tmp_path):
    model = net("0")
    change(model[0])
    y = model(X)
    with pytest.raises(ValueError, match="has a forward, a dropout or a hook of its own"):
        merge_lora(model)
    with pytest.raises(ValueError, match="has a forward, a dropout or a hook of its own"):
        save_adapter(model, tmp_path / "peft", format="peft")
    torch.testing.assert_close(model(X), y)
    assert model[0].lora.training


def test_an_update_whose_factors_are_computed(tmp_path):

    model = net("0")
    prune.l1_unstructured(model[0].lora, "lora_A", amount=0.5)
    model[0].lora.scaling = nn.Parameter(torch.tensor(3.0))
    assert "scaling=3" in repr(model)
    W = plain_state(model)["0.weight"]
    torch.testing.assert_close(W, model[0].weight)
    torch.testing.assert_close(merge_lora(model)[0].linear.weight, W)
    del model[0].lora.scaling
    model[0].lora.scaling = 8.0
    fresh = load_adapter(net("0"), save_adapter(model, tmp_path / "computed"))
    torch.testing.assert_close(fresh[0].lora.delta_weight(), model[0].lora.delta_weight())
    model[0].lora.scaling = nn.Parameter(torch.tensor(3.0))
    model[0].lora.scaling.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the scaling of 0.lora is nan"):
        save_adapter(model, tmp_path / "a")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_update_in_float32_beside_a_weight_in_half_precision(dtype):
    """What trains with mixed precision: a gradient scaler takes no gradients in float16."""
    model = net("0").to(dtype)
    right = model(X.to(dtype))
    model[0].lora.float()
    y = model(X.to(dtype))
    assert (y.dtype, model[0].weight.dtype) == (dtype, dtype)
    y.sum().backward()
    assert model[0].lora.lora_B.grad.dtype == torch.float32
    for seen in (y, merge_lora(model)(X.to(dtype))):
        torch.testing.assert_close(seen, right, rtol=0.02, atol=0.05)


def test_what_is_for_the_linear_layer_inside_says_so():
    with pytest.raises(ValueError, match=r"a LoRA layer's weight is its linear layer's: change layer.linear"):
        prune.l1_unstructured(net("0")[0], "weight", amount=0.5)
    with pytest.raises(TypeError, match=r"torch.jit.script can't read a LoRA layer: merge_and_unload"):
        torch.jit.script(net("0"))
    with torch.device("meta"):
        empty = net("0")
    with pytest.raises(RuntimeError, match=r"0.lora is on the meta device and would stay there: load the weights"):
        empty.load_state_dict(net().state_dict(), assign=True, strict=False)


def test_a_quantised_copy_is_not_merged_unmerged_or_written():
    def quantise(model):
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)

    with pytest.raises(ValueError, match=r"can't be unmerged: its linear layer is a .*quantized.*, and the update is"):
        unmerge(quantise(merge_lora(net("0"))))
    for refuse in (merge_lora, plain_state):
        with pytest.raises(ValueError, match=r"it is a .*quantized.*Linear, which is quantised"):
            refuse(quantise(net("0")))


@pytest.mark.parametrize("take_out", [merge_and_unload, unload_lora])
def test_what_hangs_on_the_wrapper_is_not_lost_in_silence(take_out):
    model = net("0")
    handle = model[0].register_forward_hook(lambda module, args, y: 2 * y)
    y = model(X)
    with pytest.raises(ValueError, match=r"^0: this LoRA layer can't be taken out: it has hooks"):
        take_out(model)
    torch.testing.assert_close(model(X), y)
    handle.remove()
    assert type(take_out(model)[0]) is nn.Linear


def test_a_subclass_that_computes_the_same_is_merged():
    class Logged(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    layer = LinearWithLoRA(Logged(8, 4), 2, 4)
    nn.init.ones_(layer.lora.lora_B)
    before = layer(X)
    layer.merge()
    torch.testing.assert_close(layer(X), before)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m[2].lora.lora_B.fill_(torch.nan), "2: .*lora.lora_B hold numbers that are not finite"),
        (lambda m: m[2].lora.lora_A[0, 0].fill_(torch.inf), "2: .*lora.lora_A hold"),
        (lambda m: m[2].linear.weight[0, 0].fill_(torch.nan), "2: .*linear.weight hold"),
        (lambda m: m.half()[2].lora.lora_B.fill_(60_000), "2: .*W . scaling B A, in torch.float16, has"),
    ],
)
def test_what_is_not_finite_is_not_merged(spoil, message):
    model = net("0", "2")
    with torch.no_grad():
        spoil(model)
    with pytest.raises(ValueError, match=message):
        merge_lora(model)
    assert not any(layer.merged for layer in lora_layers(model).values())


def test_the_original_moves_with_the_model():
    model = net("0")
    before = model(X)
    merge_lora(model).double()
    assert model[0]._weight_before_merge.dtype == torch.float64
    with lora_disabled(model), torch.no_grad():
        model(X.double())
    unmerge(model)
    assert model[0].linear.weight.dtype == torch.float64
    torch.testing.assert_close(model(X.double()).float(), before)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_merged_model_unmerges(again):
    model = learned(inject_lora(llama(tied=True), ["lm_head", "q_proj"], rank=2))
    before = model(IDS).logits
    other = unmerge(again(merge_lora(model)))
    assert torch.equal(other(IDS).logits, before)
    assert other.lm_head.linear.weight is other.get_input_embeddings().weight
    assert other.save_pretrained.__self__ is other


# --- state ----------------------------------------------------------------------------------------------------------


def test_the_state_is_the_unmerged_one():
    model = net("0")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merge_lora(model)
    for state in (
        model.state_dict(),
        {f"0.{k}": v for k, v in model[0].state_dict().items()},
        model.state_dict(prefix=""),
    ):
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())
    assert isinstance(model.state_dict(keep_vars=True)["0.linear.weight"], nn.Parameter)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    with pytest.raises(RuntimeError, match="0 is merged: call unmerge_lora"):
        model.load_state_dict(before)
    assert not unmerge(model).load_state_dict(torch.load(file)).missing_keys


def test_a_plain_models_state_is_the_bases():
    model, plain = net("0"), net()
    state = {name: tensor + 1 for name, tensor in plain.state_dict().items()}
    report = model.load_state_dict(state, strict=False)
    assert sorted(report.missing_keys) == ["0.lora.lora_A", "0.lora.lora_B"]
    assert not report.unexpected_keys
    assert torch.equal(model[0].linear.weight, state["0.weight"])
    with pytest.raises(RuntimeError, match="lora_A"):
        model.load_state_dict(state)


# --- training while merged or switched off --------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["merged", "switched off", "merged and switched off"])
@pytest.mark.parametrize("wants", [True, False])
def test_an_update_that_is_not_there_does_not_train_in_silence(state, wants):
    model = net("0")
    model[2].requires_grad_(True)  # a head: without it, torch itself would say that nothing trains
    merge_lora(model) if state.startswith("merged") else None
    enable_lora(model, "off" not in state)
    with torch.no_grad():
        assert not model(X).requires_grad
    if not wants:
        model[0].lora.requires_grad_(False)
        model(X).sum().backward()
        assert model[2].weight.grad.any()
        return
    with pytest.raises(RuntimeError, match=f"can't train while .* {state.split(' and ')[0]}: call"):
        model(X).sum().backward()
    with pytest.raises(RuntimeError, match="can't train"):
        nn.functional.linear(X, model[0].weight).sum().backward()
    x = X.clone().requires_grad_()  # the input's gradient has nothing to do with it
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(gradient[0], (model[0].weight.T @ (model[2].weight.sum(0) * (model[0](x)[0] > 0))))
    unmerge(enable_lora(model))(X).sum().backward()
    assert model[0].lora.lora_A.grad.any()


# --- out again ------------------------------------------------------------------------------------------------------


def test_merge_and_unload_and_unload():
    model, plain = net("0", "2").eval(), net()
    y = model(X)
    bare = merge_and_unload(copy.deepcopy(model))
    assert [type(m) for m in bare] == [nn.Linear, nn.ReLU, nn.Linear]
    assert bare.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(bare(X), y)
    assert not any(m.training for m in bare.modules())
    for state in (model, merge_lora(copy.deepcopy(model))):
        assert torch.equal(unload_lora(state)(X), plain(X))
    inject_lora(bare, ["0"], rank=2, train_head=False)  # it is a plain model again


def test_the_model_itself_is_a_linear_layer():
    with pytest.raises(ValueError, match="no linear layer matches 'weight'"):
        inject_lora(nn.Linear(4, 4), ["weight"], rank=2)
    with pytest.raises(ValueError, match="wrap it, LinearWithLoRA"):
        inject_lora(nn.Linear(4, 4), [""], rank=2)
    for take_out in (merge_and_unload, unload_lora):
        assert type(take_out(LinearWithLoRA(nn.Linear(4, 4), rank=2, alpha=2))) is nn.Linear
