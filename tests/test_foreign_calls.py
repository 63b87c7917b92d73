"""The fused function is taken only where nobody could tell: autograd, torch.func, tracing, hooks, other layers."""

import functools
import io
import warnings

import pytest
import torch
from foreign_models import IDS, learned, llama, net, written_out
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn.utils import parametrize

from lora_ref import enable_lora, inject_lora, merge_lora
from lora_ref.fused import FrozenLinearPlusLoRA, can_fuse
from lora_ref.layers import LinearWithLoRA, LoRALayer

X = torch.linspace(-1, 1, 40).reshape(5, 8)


def fuses(layer, x=X):
    return can_fuse(layer.linear, layer.lora, x)


def same_as_written_out(use):
    """``use`` gives the same for a fused model as for one by the plain path."""
    seen, right = use(net("0")), use(written_out(net("0")))
    torch.testing.assert_close(seen, right)


# --- autograd -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 40])  # the two ways to compute it
def test_first_and_second_derivatives(rows):
    torch.manual_seed(0)
    layer = LinearWithLoRA(nn.Linear(5, 4).double(), 2, 4)
    nn.init.normal_(layer.lora.lora_B)
    x = torch.randn(rows, 5, dtype=torch.double, requires_grad=True)
    assert fuses(layer, x)

    def fused(x, A, B):
        return FrozenLinearPlusLoRA.apply(x, layer.linear.weight, layer.linear.bias, A, B, layer.lora.scaling)

    factors = (x, layer.lora.lora_A, layer.lora.lora_B)
    assert torch.autograd.gradcheck(fused, factors)
    assert torch.autograd.gradgradcheck(fused, factors)


@pytest.mark.parametrize("target", ["0", "2"])
def test_a_gradient_penalty(target):
    def penalty(model):
        x = X.clone().requires_grad_()
        loss = model(x).sum()
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + ((slope.norm(dim=1) - 1) ** 2).mean()).backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    for seen, right in zip(penalty(net(target)), penalty(written_out(net(target))), strict=True):
        torch.testing.assert_close(seen, right)


def test_a_scale_that_trains_has_its_gradient():
    def gradient(model):
        model[0].lora.scaling = torch.tensor(2.0, requires_grad=True)
        model(X).pow(2).sum().backward()
        return model[0].lora.scaling.grad

    same_as_written_out(gradient)


def test_a_weight_that_changes_before_the_backward_pass():
    """As on the plain path: nothing is wrong where the weight is not needed, and torch says so where it is."""
    model = net("0", "2")

    def change_and_go_back(layer):
        loss = model(X).sum()
        with torch.no_grad():
            layer.linear.weight.add_(1)
        loss.backward()

    change_and_go_back(model[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        change_and_go_back(model[2])


def test_gradients_for_several_outputs_at_once():
    def batched(model):
        y = model(X)
        wanted = [p for p in model.parameters() if p.requires_grad]
        return torch.autograd.grad(y, wanted, torch.eye(15).reshape(15, 5, 3), is_grads_batched=True)

    same_as_written_out(batched)


@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 3, 8), (64, 8)])
def test_what_comes_after_may_work_in_place(shape):
    """A custom function's output is a view or not, and what is a view can't be changed in place."""
    model = nn.Sequential(*net("0")[:1], nn.ReLU(inplace=True))
    y = model(torch.ones(shape, requires_grad=True))
    y.sum().backward()
    assert model[0].lora.lora_A.grad.any()


# --- torch.func, tracing, compiling ---------------------------------------------------------------------------------


def trained(model):
    return {name: p.detach() for name, p in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("kind", ["per-sample gradients", "jvp", "forward mode", "jacrev", "hessian", "vmap"])
def test_torch_func(kind):
    def loss(model, params, x):
        return functional_call(model, params, (x[None],)).pow(2).sum()

    def forward_mode(model):
        with torch.autograd.forward_ad.dual_level():
            y = model(torch.autograd.forward_ad.make_dual(X, X))
            return torch.autograd.forward_ad.unpack_dual(y).tangent.clone()

    same_as_written_out(
        {
            "per-sample gradients": lambda m: vmap(grad(functools.partial(loss, m)), in_dims=(None, 0))(trained(m), X),
            "jvp": lambda m: jvp(m, (X,), (X,)),
            "forward mode": forward_mode,
            "jacrev": lambda m: jacrev(m)(X[0]),
            "hessian": lambda m: hessian(lambda x: m(x).pow(2).sum())(X[0]),
            "vmap": lambda m: vmap(m)(X),
        }[kind]
    )


@pytest.mark.parametrize("no_grad", [True, False])
@pytest.mark.parametrize("state", ["apart", "merged", "off"])
def test_a_traced_model_can_be_saved(no_grad, state):
    model = net("0").eval()
    for layer in (model[0],):
        layer.merge() if state == "merged" else setattr(layer, "enabled", state != "off")
    with torch.set_grad_enabled(not no_grad), warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(model, X)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    again = torch.jit.load(file)
    for x in (X, X.repeat(40, 1)):  # the fused function has another way for so many rows
        torch.testing.assert_close(again(x), model(x))


def test_an_export_with_any_number_of_rows():
    model = net("0").eval()
    program = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim("rows", min=2, max=1000)},))
    assert "FrozenLinearPlusLoRA" not in program.graph_module.code
    for rows in (2, 700):
        x = X[:1].expand(rows, 8)
        torch.testing.assert_close(program.module()(x), model(x))


def test_a_compiled_model_is_one_graph():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    model = net("0")
    y = torch.compile(model, backend=backend, fullgraph=True)(X)
    torch.testing.assert_close(y, model(X))
    assert len(graphs) == 1


@pytest.mark.parametrize("state", ["on", "merged", "off"])
def test_torch_fx(state):
    model = net("0")
    merge_lora(model) if state == "merged" else enable_lora(model, state == "on")
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(X), model(X))


def test_a_symbolic_trace_and_a_dispatch_mode_see_the_plain_operations():
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils.flop_counter import FlopCounterMode

    model = net("0")
    torch.testing.assert_close(make_fx(model)(X)(X), model(X))
    counts = []
    for m in (model, written_out(net("0"))):
        with FlopCounterMode(display=False) as counter:
            m(X.repeat(50, 1))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


# --- hooks and other forwards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["linear", "lora", "lora.dropout"])
@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_hook_is_called(part, hook):
    layer, calls = net("0")[0], []
    handle = getattr(layer.get_submodule(part), f"register_{hook}_hook")(lambda *_: calls.append(1))
    layer(X.clone().requires_grad_()).sum().backward()
    assert calls
    handle.remove()
    assert fuses(layer)


def test_a_hook_on_every_module_sees_the_linear_layer_too():
    layer, seen = net("0")[0], []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        layer(X)
    finally:
        handle.remove()
    assert {"Linear", "LoRALayer"} <= set(seen)


def test_a_forward_set_on_the_instance_is_kept():
    linear = nn.Linear(8, 4)
    own = linear.forward
    linear.forward = lambda x: 2 * own(x)
    model = nn.Sequential(linear)
    before = model(X)
    inject_lora(model, ["0"], rank=2, train_head=False)
    torch.testing.assert_close(model(X), before)


def test_a_forward_patched_on_the_class_is_kept(monkeypatch):
    for cls in (nn.Linear, LoRALayer):
        layer, own = net("0")[0], cls.forward
        right = layer.linear(X) * (1 + (cls is nn.Linear)) + layer.lora(X) * (1 + (cls is LoRALayer))
        with monkeypatch.context() as patch:
            patch.setattr(cls, "forward", functools.wraps(own)(lambda self, x, own=own: 2 * own(self, x)))
            torch.testing.assert_close(layer(X), right)


def test_a_subclass_of_the_update_and_another_dropout_are_kept():
    class Doubled(LoRALayer):
        def forward(self, x):
            return 2 * super().forward(x)

    layer = LinearWithLoRA(nn.Linear(8, 4), 2, 4)
    layer.lora = Doubled(8, 4, 2, 4)
    assert not fuses(layer)
    layer = LinearWithLoRA(nn.Linear(8, 4), 2, 4)
    layer.lora.dropout = nn.Sequential(nn.ReLU())
    assert not fuses(layer)


def test_dropout_that_is_on_in_evaluation_mode_acts():
    """Monte Carlo dropout: `eval()`, and then the dropout modules alone in training mode."""
    layer = LinearWithLoRA(nn.Linear(8, 4), 2, 4, dropout=0.5).eval()
    nn.init.ones_(layer.lora.lora_B)
    assert torch.equal(layer(X), layer(X))
    layer.lora.dropout.train()
    assert not torch.equal(layer(X), layer(X))


class Quantised(nn.Linear):
    """As bitsandbytes' layers are: a subclass whose weight holds packed integers."""

    def __init__(self, i, o, bias=True):
        super().__init__(i, o, bias)
        self.scale = float(self.weight.detach().abs().max()) / 127
        self.weight = nn.Parameter((self.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


class Codes(torch.Tensor):
    """A tensor of a class of its own, as torchao's quantised weights are: some operations are not there."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.addmm, torch.Tensor.addmm_):
            raise NotImplementedError("addmm")
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("rows", [3, 600])
def test_a_weight_of_another_class(rows):
    linear = nn.Linear(64, 64)
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Codes), requires_grad=False)
    layer = learned(inject_lora(nn.Sequential(linear), ["0"], rank=2, train_head=False))
    assert layer(torch.randn(rows, 64)).shape == (rows, 64)


@pytest.mark.parametrize("bias", [True, False])
def test_a_quantised_layer_gets_an_update_in_floating_point(bias):
    model = inject_lora(nn.Sequential(Quantised(8, 4, bias)), ["0"], rank=2, train_head=False)
    before = model(X)
    assert model[0].lora.lora_A.dtype == torch.float32
    assert not torch.equal(before, learned(model)(X))
    half = Quantised(8, 4).bfloat16()
    assert inject_lora(nn.Sequential(half), ["0"], rank=2, train_head=False)[0].lora.lora_A.dtype == torch.bfloat16


@pytest.mark.parametrize("how", ["parametrized", "weight_norm", "complex", "meta", "training"])
def test_weights_that_are_not_plain_take_the_plain_path(how):
    linear = nn.Linear(8, 4, dtype=torch.complex64 if how == "complex" else None)
    if how == "parametrized":
        parametrize.register_parametrization(linear, "weight", nn.Identity())
    elif how == "weight_norm":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            linear = nn.utils.weight_norm(linear)
    elif how == "meta":
        linear = linear.to("meta")
    layer = LinearWithLoRA(linear, 2, 4)
    if how == "training":
        linear.weight.requires_grad_(True)
    x = X.to(torch.complex64) if how == "complex" else X.to("meta") if how == "meta" else X
    assert not fuses(layer, x)
    assert layer(x).shape == (5, 4)
    if how != "meta":
        layer(x).abs().sum().backward()
        assert layer.lora.lora_B.grad.any()


@pytest.mark.parametrize("order", ["offload, then inject", "inject, then offload"])
def test_layers_that_accelerate_offloads(order):
    from accelerate import cpu_offload

    model, right = llama(), learned(inject_lora(llama(), ["q_proj"], rank=2))
    if order.startswith("offload"):
        cpu_offload(model, execution_device="cpu")
    inject_lora(model, ["q_proj"], rank=2)
    layers = [m for m in model.modules() if isinstance(m, LinearWithLoRA)]
    assert [layer.lora.lora_A.device.type for layer in layers] == ["cpu", "cpu"], "where the layer runs"
    with torch.no_grad():
        for mine, theirs in zip(layers, (m for m in right.modules() if isinstance(m, LinearWithLoRA)), strict=True):
            mine.lora.lora_A.copy_(theirs.lora.lora_A)
            mine.lora.lora_B.copy_(theirs.lora.lora_B)
        if order.startswith("inject"):
            cpu_offload(model, execution_device="cpu")
        torch.testing.assert_close(model(IDS).logits, right(IDS).logits)


def test_gradient_checkpointing_and_a_nested_input():
    from torch.utils.checkpoint import checkpoint

    model = net("0")
    checkpoint(model, X.clone().requires_grad_(), use_reentrant=False).sum().backward()
    assert model[0].lora.lora_A.grad.any()
    nested = torch.nested.nested_tensor([X[:2], X[2:]], layout=torch.jagged)
    torch.testing.assert_close(model(nested).values(), model(X))
