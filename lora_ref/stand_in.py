"""What lets a LoRA layer stand in other people's models, where an ``nn.Linear`` stood.

Some models don't call a linear layer but read its weight (T5, ``nn.MultiheadAttention``), some tie it to an embedding
or assign it; checkpoints name it. `StandsForLinear` answers all these as the linear layer would. `lora_ref.layers` has
the idea alone, and is shorter for it.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from lora_ref.fused import FORWARDS, in_plain_eager_mode, is_itself

if TYPE_CHECKING:
    from lora_ref.layers import LoRALayer

#: What torch multiplies matrices of: a weight in another dtype is quantised, and its numbers are codes.
ARITHMETIC = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)

#: Attributes of an ``nn.Linear`` that code outside reads or sets.
OF_A_LINEAR = ("weight", "bias", "in_features", "out_features")


class StandsForLinear(nn.Module):
    """The part of `lora_ref.layers.LinearWithLoRA` that other people's code meets.

    Merging doesn't write into ``W``: another layer may use the same parameter. A new one takes its place, and the
    original stays as a buffer, which moves with the model and is in no file. ``state_dict`` gives the original.

    Example:
        >>> from lora_ref.layers import LinearWithLoRA
        >>> layer = LinearWithLoRA(nn.Linear(4, 2), rank=1, alpha=1)
        >>> layer.weight.shape, layer.in_features  # as the linear layer's; `weight` has the update in it
        (torch.Size([2, 4]), 4)
    """

    linear: nn.Linear
    lora: LoRALayer
    enabled: bool
    _weight_before_merge: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_weight_before_merge", None, persistent=False)
        self._parameter_before_merge: tuple[nn.Parameter, ...] = ()  # in a tuple, or torch would list it
        self._version_at_merge = (0, 0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _let_the_writers_know()

    def train(self, mode: bool = True) -> StandsForLinear:
        """As torch's. Training loops come here, so this meets a library that was imported after the layer was made."""
        _let_the_writers_know()
        return super().train(mode)

    # --- what a linear layer has ---

    @property
    def weight(self) -> Tensor:
        """``W + scaling B A``, computed on each access and differentiable; ``W`` where LoRA is off.

        Without the update's dropout. A quantised weight, and one that lies on ``meta``, is given as it is. What is
        written into it is lost with it: write into ``linear.weight``, or assign a parameter.
        """
        W = self.linear.weight
        if self._weight_before_merge is not None:
            return self.refuse_training(W if self.enabled else self._weight_before_merge)
        if not self.enabled:
            return self.refuse_training(W)
        if not isinstance(W, Tensor) or W.dtype not in ARITHMETIC or W.is_meta:
            return W
        return (W + self.lora.delta_weight()).to(W.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The linear layer's own."""
        return self.linear.bias

    @property
    def in_features(self) -> int:
        """The linear layer's own."""
        return self.linear.in_features

    @property
    def out_features(self) -> int:
        """The linear layer's own."""
        return self.linear.out_features

    def __setattr__(self, name: str, value: Any) -> None:
        """Tying and resizing set a linear layer's attributes: the one inside gets them."""
        if name not in OF_A_LINEAR:
            super().__setattr__(name, value)
            return
        if self._weight_before_merge is not None:
            raise RuntimeError(f"this LoRA layer is merged, and its {name} can't be set: unmerge it first")
        if name == "weight" and value.shape != self.linear.weight.shape:
            raise ValueError(
                f"a weight of shape {tuple(value.shape)} doesn't fit a LoRA layer for {tuple(self.linear.weight.shape)}"
            )
        setattr(self.linear, name, value)

    def __prepare_scriptable__(self) -> nn.Module:
        raise TypeError("torch.jit.script can't read a LoRA layer: merge_and_unload(model) first, or torch.jit.trace")

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As torch's, but pruning, weight norm and the like are for the linear layer inside."""
        if name.startswith(("weight_", "bias_")):
            raise ValueError(f"a LoRA layer's {name.partition('_')[0]} is its linear layer's: change layer.linear")
        super().register_parameter(name, param)

    # --- merging ---

    def add_to_weight(self, delta: Tensor) -> None:
        """Let ``W + delta`` be the linear layer's weight, and keep ``W``.

        Raises:
            ValueError: the weight is not one that a number can be added to, or the sum is not finite.
        """
        problem = merge_problem(self.linear)
        if delta.is_meta and not problem:
            problem = "its A and B are on the meta device, which holds no numbers"
        problem = problem or update_problem(self.lora, delta)
        if problem:
            raise ValueError(f"this LoRA layer can't be merged: {problem}")
        W: Any = self.linear.weight
        merged = (W + delta).to(W)
        if not merged.isfinite().all():
            names = [n for n, p in self.named_parameters() if not p.isfinite().all()]
            where = f"{' and '.join(names)} hold" if names else f"W + scaling B A, in {W.dtype}, has"
            raise ValueError(f"this LoRA layer can't be merged: {where} numbers that are not finite (NaN or infinity)")
        self._parameter_before_merge, self._weight_before_merge = (W,), W.detach()
        self.linear.weight = nn.Parameter(merged, requires_grad=W.requires_grad)
        self._version_at_merge = self._weight_version()

    def take_weight_back(self) -> None:
        """Undo `add_to_weight`: the very parameter comes back, and with it whatever shares it."""
        if "weight" not in self.linear._parameters:
            kind = type(self.linear)
            raise ValueError(
                f"this LoRA layer can't be unmerged: its linear layer is a {kind.__module__}.{kind.__name__} now, and "
                "the update is in it; quantise after unmerge_lora(model), or start from the base model again"
            )
        W: Any = self._parameter_before_merge[0]
        original = self._weight_before_merge
        assert original is not None
        (merged, version), (weight, now) = self._version_at_merge, self._weight_version()
        if merged == weight and version != now:  # a copy of the model counts from 0 again
            warnings.warn(
                "a weight was trained or edited while LoRA was merged into it, and that is lost now: merge_and_unload "
                "keeps it",
                stacklevel=4,
            )
        if (W.device, W.dtype) != (original.device, original.dtype):
            W.data = original  # the model was moved meanwhile
        self._parameter_before_merge, self._weight_before_merge = (), None
        self.linear.weight = W

    def _weight_version(self) -> tuple[int, int]:
        W = self.linear.weight
        return id(W), 0 if W.is_inference() else W._version

    def refuse_training(self, y: Tensor) -> Tensor:
        """``y``, which has no update in it that could train: a backward pass that wants its gradient is an error."""
        A: Tensor = self.lora.lora_A
        if not isinstance(y, Tensor):  # torch.fx traces, or a quantised layer's weight is a method
            return y
        if not (torch.is_grad_enabled() and A.requires_grad and in_plain_eager_mode()):
            return y
        A = A.view_as(A)
        A.register_hook(self._no_gradient)
        return _Watched.apply(y, A)

    def _no_gradient(self, _: Tensor) -> None:
        merged = self._weight_before_merge is not None
        state, cure = ("merged", "unmerge_lora(model)") if merged else ("switched off", "enable_lora(model)")
        raise RuntimeError(
            f"A and B can't train while their LoRA layer is {state}: call {cure} before training, or run this part of "
            "the model under torch.no_grad()"
        )

    # --- state ---

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """As torch's, with the original weight where the layer is merged."""
        state = super().state_dict(*args, **options)
        if self._weight_before_merge is not None:
            prefix = options.get("prefix", args[1] if len(args) > 1 else "")
            keep = options.get("keep_vars", args[2] if len(args) > 2 else False)
            state[f"{prefix}linear.weight"] = (
                self._parameter_before_merge[0] if keep else self._weight_before_merge.detach()
            )
        return state

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take a plain model's state too: its weight is W, but for one beside A and B (`plain_state` writes those)."""
        if self._weight_before_merge is not None and any(key.startswith(prefix) for key in state):
            raise RuntimeError(f"{prefix.rstrip('.') or 'the LoRA layer'} is merged: call unmerge_lora(model) first")
        for name in self.linear.state_dict():
            plain = state.pop(f"{prefix}{name}", None)
            if plain is not None and f"{prefix}lora.lora_A" not in state:
                state.setdefault(f"{prefix}linear.{name}", plain)
        if f"{prefix}linear.weight" in state and f"{prefix}lora.lora_A" not in state and self.lora.lora_A.is_meta:
            errors: list[str] = rest[-1]
            errors.append(f"{prefix}lora is on the meta device and would stay there: load the weights before injection")
        super()._load_from_state_dict(state, prefix, *rest)


def _let_the_writers_know() -> None:
    """By its name, because it is made of what is here: whoever saves a model meets this layer without having asked."""
    importlib.import_module("lora_ref.pretrained").teach()


class _Watched(torch.autograd.Function):
    """``y``, with a second parent whose hook says that it should not be asked for a gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, A: Tensor) -> Tensor:
        ctx.save_for_backward(A)
        return y.clone()  # a view could not be changed in place afterwards

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        return dy, torch.zeros_like(ctx.saved_tensors[0])


def update_options(linear: nn.Linear) -> dict[str, Any]:
    """Device and dtype of an update for ``linear``: its weight's, where that is a weight to compute with.

    A quantised layer says in its bias, or else its ``compute_dtype``, what it computes in. One that accelerate offloads
    has its weight on ``meta`` and says in its hook where it runs.

    Example:
        >>> update_options(nn.Linear(4, 2).half())
        {'device': device(type='cpu'), 'dtype': torch.float16}
    """
    W, bias = linear.weight, linear.bias
    candidates = [W.dtype, None if bias is None else bias.dtype, getattr(linear, "compute_dtype", None)]
    dtype = next((d for d in candidates if d in ARITHMETIC), torch.get_default_dtype())
    device = W.device
    if W.is_meta:
        device = getattr(getattr(linear, "_hf_hook", None), "execution_device", None) or device
    return {"device": device, "dtype": dtype}


def merge_problem(linear: nn.Linear) -> str | None:
    """Why an update can't be added to this layer's weight; None where it can.

    Example:
        >>> merge_problem(nn.Linear(4, 2)) is None
        True
        >>> merge_problem(nn.Linear(4, 2, device="meta"))
        'its weight is on the meta device, which holds no numbers'
    """
    W = linear.weight
    if callable(W):
        return f"it is a {type(linear).__module__}.{type(linear).__name__}, which is quantised: use the base model"
    if parametrize.is_parametrized(linear, "weight") or "weight" not in linear._parameters:
        return "its weight is computed from other tensors (a parametrization, weight_norm, pruning): remove that first"
    if W.is_meta:
        return "its weight is on the meta device, which holds no numbers"
    if W.dtype not in ARITHMETIC:
        return f"its weight is quantised ({W.dtype}): dequantise the base model first"
    if type(W) is not nn.Parameter:
        return f"its weight is a {type(W).__name__}, not a plain parameter"
    own = getattr(linear, "_old_forward", linear.forward)  # accelerate keeps the forward that its hook replaced
    is_patched = getattr(own, "__func__", None) is not FORWARDS[nn.Linear]
    if (is_patched or linear._forward_hooks or linear._forward_pre_hooks) and not _computes(linear, W, linear.bias):
        what = "a forward" if is_patched else "a hook"
        return f"this {type(linear).__name__} has {what} of its own, so its output is not x W^T + b"
    return None


def update_problem(lora: LoRALayer, delta: Tensor) -> str | None:
    """Why ``delta`` is not what the update computes; None where it is.

    Example:
        >>> from lora_ref.layers import LoRALayer
        >>> lora = LoRALayer(4, 2, rank=1, alpha=1)
        >>> update_problem(lora, lora.delta_weight()) is None
        True
    """
    if is_itself(lora) and is_itself(lora.dropout):
        return None
    modes = [(module, module.training) for module in lora.modules()]
    try:
        if _computes(lora.eval(), delta):
            return None
    finally:
        for module, mode in modes:
            module.training = mode
    return f"its {type(lora).__name__} has a forward, a dropout or a hook of its own, so it is not scaling B A"


@torch.no_grad()
def _computes(module: nn.Module, W: Tensor, bias: Tensor | None = None) -> bool:
    x = torch.linspace(-1, 1, 3 * W.shape[1], device=W.device).to(W.dtype).view(3, -1)
    try:
        return same_numbers(module(x), functional.linear(x, W, bias))
    except Exception:  # a hook may want another shape
        return False


def unload_problem(layer: StandsForLinear) -> str | None:
    """What would be lost if only the linear layer stayed; None where nothing would.

    Example:
        >>> from lora_ref.layers import LinearWithLoRA
        >>> unload_problem(LinearWithLoRA(nn.Linear(4, 2), rank=1, alpha=1)) is None
        True
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    if any(hooks):
        return "it has hooks, which would be lost: remove them first, and register them again afterwards"
    if "forward" in vars(layer) and not hasattr(layer, "_old_forward"):
        return "its forward was replaced, which would be lost"
    return None


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal but for rounding in the coarser of their dtypes.

    Example:
        >>> same_numbers(torch.ones(2), torch.tensor([1.0, 1.001]))
        False
        >>> same_numbers(torch.ones(2).bfloat16(), torch.tensor([1.0, 1.001]))
        True
    """
    if a.shape != b.shape or a.is_meta or b.is_meta:
        return False
    if a.dtype not in ARITHMETIC or b.dtype not in ARITHMETIC:
        return torch.equal(a.cpu(), b.cpu())
    eps = max(torch.finfo(t.dtype).eps for t in (a, b))
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float64)
    difference = (a.to("cpu", wide) - b.to("cpu", wide)).abs().max() if a.numel() else torch.zeros(())
    return bool(difference <= 32 * eps * max(1e-6, float(b.abs().max()) if b.numel() else 0.0))
