"""Stage 02, a LoRA layer: what several of its exercises use.

Every probe gives B values of its own (a fresh B is zero, and hides any mistake), uses non-square layers, batches of at
least two, and compares with float64 NumPy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.calls import restore, settings
from lora_ref.checks.probing import Names, array
from lora_ref.checks.verdicts import Fault, Inputs, Observation, close, error_fault
from lora_ref.rounding import pair

#: The probes' own training step: large enough to be seen, small enough for float32.
LEARNING_RATE = 0.05
#: What is as good as zero where something must learn: an optimiser adds 1e-8 to what it divides by.
TINY = 1e-7


class ContractLoRALayer(nn.Module):
    """A LoRALayer with the contract's names and nothing else: stands in for a student's own that is not right yet."""

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(rank, in_features) / in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        self.scaling = alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaling * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)


@contextlib.contextmanager
def leaves_no_trace() -> Any:
    """Torch's settings and random numbers are afterwards as before: what an ``__init__`` does to them costs there."""
    before = settings()
    with torch.random.fork_rng(devices=[]):
        yield
        restore(before)


def layer_with_parts(names: Names) -> Any:
    """The student's LoRALayer with the contract's matrices and scale: what is left of its own are the methods.

    (A base class that is known at run time alone is beyond mypy.)
    """
    own = names.LoRALayer

    class LoRALayer(own):  # type: ignore[misc, valid-type]
        def __init__(self, in_features: int, out_features: int, rank: int, alpha: float, dropout: float = 0.0):
            if rank < 1:
                raise ValueError("rank must be at least 1")
            try:
                with leaves_no_trace():
                    super().__init__(in_features, out_features, rank, alpha, dropout)
            except Exception:
                nn.Module.__init__(self)
                self.rank, self.alpha, self.dropout = rank, alpha, nn.Dropout(dropout)
            put_parts(self, in_features, out_features, rank, alpha)

    return LoRALayer


class Weight(nn.Parameter):
    """A matrix that may also be used like the bias-free nn.Linear in whose place it is."""

    @property
    def weight(self) -> nn.Parameter:
        return self

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self)


def whole_layer(names: Names) -> Any:
    """As `layer_with_parts`, with the contract's forward too: other methods that a wrapper may call stay."""
    try:
        parts = layer_with_parts(names)
    except Exception:  # it is not a class, or not there
        return ContractLoRALayer

    class LoRALayer(parts):  # type: ignore[misc, valid-type]
        def __init__(self, in_features: int, out_features: int, rank: int, alpha: float, dropout: float = 0.0):
            super().__init__(in_features, out_features, rank, alpha, dropout)
            self.contract = rank, alpha, dropout
            for name in ("lora_A", "lora_B"):
                if isinstance(getattr(self, name), nn.Module):
                    values = factor(self, name)
                    delattr(self, name)
                    setattr(self, name, Weight(values))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rank, alpha, dropout = self.contract
            x = nn.functional.dropout(x, dropout, self.training)
            return alpha / rank * (x @ self.lora_A.T @ self.lora_B.T)

    return LoRALayer


def wrapper_with_parts(names: Names) -> Any:
    """The student's LinearWithLoRA with the given layer, frozen, and the contract's update inside."""
    own, update = names.LinearWithLoRA, whole_layer(names)

    class LinearWithLoRA(own):  # type: ignore[misc, valid-type]
        def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
            values = {name: value.clone() for name, value in linear.state_dict().items()}
            try:
                with leaves_no_trace():
                    super().__init__(linear, rank, alpha, dropout)
            except Exception:
                nn.Module.__init__(self)
                with contextlib.suppress(AttributeError):
                    self.merged = False
            # the very object, where it was kept: the wrapper may hold an alias of it elsewhere
            if getattr(self, "linear", None) is not linear or linear.state_dict().keys() != values.keys():
                self.linear = nn.Linear(linear.in_features, linear.out_features, bias="bias" in values)
            self.linear.load_state_dict(values)
            self.linear.requires_grad_(False)
            self.lora = update(linear.in_features, linear.out_features, rank, alpha, dropout)

    return LinearWithLoRA


#: See `lora_ref.checks.probing.stand_ins`.
STAND_INS: Mapping[str, Callable[[Names], Any]] = {
    "LoRALayer": whole_layer,
    "LoRALayer.__init__": layer_with_parts,
    "LinearWithLoRA.__init__": wrapper_with_parts,
}


def put_parts(layer: Any, in_features: int, out_features: int, rank: int, alpha: float) -> None:
    """Give a layer trainable float32 matrices of the contract's shapes, where it has none, and the right scale.

    A matrix that it has under another name, or inside a layer of its own, is used as it is: its forward reads that one.
    """
    for name, shape in (("lora_A", (rank, in_features)), ("lora_B", (out_features, rank))):
        if getattr(layer, name, None) is None and (found := unnamed(layer, shape)) is not None:
            setattr(layer, name, found)
        parameter = factor(layer, name)
        fits = isinstance(parameter, nn.Parameter) and tuple(parameter.shape) == shape
        if not fits or parameter.dtype != torch.float32:
            with contextlib.suppress(AttributeError):
                delattr(layer, name)
            parameter = nn.Parameter(torch.zeros(shape))
            setattr(layer, name, parameter)
        parameter.requires_grad_(True)
        nn.init.normal_(parameter) if name == "lora_A" else nn.init.zeros_(parameter)
    if isinstance(getattr(layer, "scaling", None), torch.Tensor):
        layer.scaling.data.fill_(alpha / rank)
    else:
        with contextlib.suppress(AttributeError):  # a property follows from what is stored elsewhere
            layer.scaling = alpha / rank


def factor(layer: Any, name: str) -> Any:
    """``lora_A`` or ``lora_B``; where that is a layer of its own, its weight: what it must be is exercise 2.1's."""
    value = getattr(layer, name, None)
    return getattr(value, "weight", None) if isinstance(value, nn.Module) else value


def unnamed(layer: nn.Module, shape: tuple[int, ...]) -> nn.Parameter | None:
    """A trainable matrix of this shape that is neither ``lora_A`` nor ``lora_B``: the contract's, by another name."""
    taken = [factor(layer, name) for name in ("lora_A", "lora_B")]
    free = [p for p in layer.parameters() if p.requires_grad and not any(p is other for other in taken)]
    return next((p for p in free if tuple(p.shape) == shape), None)


def draw_layer(rng: np.random.Generator) -> Inputs:
    """Sizes that are all different, values for A, B and x, and an alpha that is not a multiple of the rank."""
    in_features, out_features = (int(n) for n in rng.choice(np.arange(7, 15), size=2, replace=False))
    rank = int(rng.integers(2, 5))
    return {
        "in_features": in_features,
        "out_features": out_features,
        "rank": rank,
        "alpha": float(rng.integers(3, 30)) + 0.5,
        "A": rng.normal(size=(rank, in_features)),
        "B": rng.normal(size=(out_features, rank)),
        "x": rng.normal(size=(3, 4, in_features)),
    }


def draw_wrapped(rng: np.random.Generator) -> Inputs:
    """A layer's inputs, and the weight and bias of the frozen layer beside it."""
    inputs = draw_layer(rng)
    shape = (inputs["out_features"], inputs["in_features"])
    return {**inputs, "W": rng.normal(size=shape), "b": rng.normal(size=shape[0])}


def draw_with_gradients(draw: Callable[[np.random.Generator], Inputs]) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {**draw(rng), "gradients": True}


def rank_one(draw: Callable[[np.random.Generator], Inputs]) -> Callable[[np.random.Generator], Inputs]:
    """The same layer at rank 1, where an axis of length 1 is easily lost."""

    def draw_rank_one(rng: np.random.Generator) -> Inputs:
        inputs = draw(rng)
        return {**inputs, "rank": 1, "A": inputs["A"][:1], "B": inputs["B"][:, :1]}

    return draw_rank_one


@torch.no_grad()
def set_factors(layer: Any, inputs: Inputs) -> None:
    """Give lora_A and lora_B the inputs' values, whichever way round they are: their shape is exercise 2.1's."""
    for name, values in (("lora_A", inputs["A"]), ("lora_B", inputs["B"])):
        parameter = factor(layer, name)
        if parameter is None:
            raise AttributeError(f"the layer has no {name}")
        if tuple(parameter.shape) == values.shape[::-1] and tuple(parameter.shape) != values.shape:
            values = values.T
        in_memory_of_its_own(parameter).copy_(torch.as_tensor(values.copy(), dtype=parameter.dtype))


def in_memory_of_its_own(parameter: nn.Parameter) -> nn.Parameter:
    """The parameter, which can be written to now: one number shown many times, as `expand` does, is exercise 2.1's."""
    if 0 in parameter.stride():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return parameter


def build_linear(inputs: Inputs, bias: bool = True) -> nn.Linear:
    """A "pretrained" layer with the inputs' weight and bias, not frozen yet."""
    linear = nn.Linear(inputs["in_features"], inputs["out_features"], bias=bias)
    with torch.no_grad():
        linear.weight.copy_(tensor(inputs["W"]))
        if bias:
            linear.bias.copy_(tensor(inputs["b"]))
    return linear


def build_wrapper(names: Names, inputs: Inputs, bias: bool = True) -> Any:
    """The student's LinearWithLoRA around a layer with the inputs' values."""
    arguments = inputs["rank"], inputs["alpha"], inputs.get("dropout", 0.0)
    wrapper = names.LinearWithLoRA(build_linear(inputs, bias), *arguments)
    set_factors(wrapper.lora, inputs)
    return wrapper


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def oriented(parameter: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A gradient or value as the contract's shape has it; zeros where there is no gradient."""
    if parameter is None:
        return np.zeros(shape)
    values = array(parameter)
    return values.T if values.shape == shape[::-1] != shape else values


def factor_gradients(layer: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    return {
        "grad_A": oriented(factor(layer, "lora_A").grad, inputs["A"].shape),
        "grad_B": oriented(factor(layer, "lora_B").grad, inputs["B"].shape),
    }


@contextlib.contextmanager
def uninitialised_is_nan() -> Any:
    """Fill what torch.empty gives with NaN: such memory often happens to hold zeros, or an earlier layer's values."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports torch's compiler: over a second
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def transposed(x: np.ndarray) -> torch.Tensor:
    """The values as a tensor that is not contiguous, where it has three dimensions or more: attention's are such."""
    return tensor(x) if x.ndim < 3 else tensor(x.swapaxes(0, 1).copy()).transpose(0, 1)


def leading(x: np.ndarray) -> list[np.ndarray]:
    """``x`` of shape (3, 4, n) cut and stacked to one to four dimensions."""
    return [x[0, 0], x[0], x, np.stack([x, -x])]


def judge_shapes(inputs: Inputs, seen: Observation) -> Fault | None:
    expected = {"lora_A": [inputs["rank"], inputs["in_features"]], "lora_B": [inputs["out_features"], inputs["rank"]]}
    shapes = {name: seen["shapes"][name] for name in expected}
    shown = ", ".join(f"{name} {tuple(shape) if shape else 'missing'}" for name, shape in shapes.items())
    wanted = ", ".join(f"{name} {tuple(shape)}" for name, shape in expected.items())
    absent = [name for name, shape in shapes.items() if shape is None]
    if absent:
        likely = f"the layer has no {' and no '.join(absent)}"
        if seen["others"]:
            likely += f"; it has {' and '.join(seen['others'])}, but the names are part of the contract"
        return Fault(f"{shown}; expected {wanted}", likely, "section 2.1")
    modules = [f"{name} is an nn.{kind}" for name, kind in seen["modules"].items() if kind]
    if modules:
        return Fault(" and ".join(modules), "the contract asks for the matrix itself, an nn.Parameter", "section 2.1")
    plain = [name for name in expected if not seen["registered"][name]]
    if plain:
        return Fault(
            f"{' and '.join(plain)}: a tensor, but not a parameter of the layer",
            "it is not an nn.Parameter; nn.Parameter(...).to(...) and 2 * nn.Parameter(...) make plain tensors",
            "section 2.1",
        )
    if shapes != expected:
        likely = ""
        if all(shapes[name] == expected[name][::-1] for name in expected):
            likely = "both are transposed: the paper's A is (rank, in_features) and its B is (out_features, rank)"
        elif len(wrong := [name for name in expected if shapes[name] != expected[name]]) == 1:
            (name,) = wrong
            likely = f"{name} is transposed" if shapes[name] == expected[name][::-1] else ""
        elif shapes["lora_A"][:1] == expected["lora_A"][:1] and shapes["lora_A"][1:] == expected["lora_B"][:1]:
            likely = "in_features and out_features are swapped"
        return Fault(f"{shown}; expected {wanted}", likely, "section 2.1")
    if not all(seen["trainable"].values()):
        return Fault("requires_grad is off", "nothing would train", "section 2.1")
    other = [name for name, dtype in seen["dtypes"].items() if dtype != "torch.float32"]
    if other:
        return Fault(
            f"{other[0]} is {seen['dtypes'][other[0]]}",
            "float32 is torch's default, in which x comes; NumPy's is float64",
            "section 2.1",
        )
    if seen["others"]:
        return Fault(
            f"{', '.join(seen['others'])} trains too",
            "the update has two trainable matrices; make other tensors buffers",
            "section 2.1",
        )
    return None


def scaling_fault(alpha: float, rank: int, scaling: float) -> Fault | None:
    """Is ``found`` alpha / rank?"""
    expected = alpha / rank
    if close(scaling, expected):
        return None
    causes = {
        alpha: "the division by rank is missing",
        alpha / rank**0.5: "this is rsLoRA's alpha / sqrt(rank); the contract asks for the paper's alpha / rank",
        rank / alpha: "it is upside down",
    }
    likely = next((cause for value, cause in causes.items() if close(scaling, value)), "")
    shown, wanted = pair(scaling, expected, scale=expected)
    return Fault(f"scaling {shown} at rank {rank} and alpha {alpha:g}, expected {wanted}", likely, "section 2.1")


def forward_expected(inputs: Inputs, x: np.ndarray | None = None) -> np.ndarray:
    x = inputs["x"] if x is None else x
    return inputs["alpha"] / inputs["rank"] * (x @ inputs["A"].T @ inputs["B"].T)


def factor_of(y: np.ndarray, expected: np.ndarray) -> float | None:
    """The number c with y = c * expected, if there is one and it is not zero."""
    if y.shape != expected.shape or not np.isfinite(y).all():
        return None
    ratio = float((y * expected).sum() / (expected**2).sum())
    scale = np.abs(expected).max() * abs(ratio)
    return ratio if scale and np.abs(y - ratio * expected).max() <= 1e-4 * scale else None


def scale_cause(inputs: Inputs, ratio: float) -> str:
    """What makes an update ``ratio`` times too large."""
    causes = {
        inputs["rank"]: "the division by rank is missing",
        inputs["rank"] / inputs["alpha"]: "the scale is missing",
        1 / inputs["alpha"]: "alpha is missing from the scale",
        inputs["alpha"] / inputs["rank"]: "the scale is applied twice",
        inputs["rank"] ** 0.5: "the scale is alpha / sqrt(rank), which is rsLoRA's",
        1 / inputs["rank"]: "it is divided by rank twice",
        -1.0: "the sign is wrong",
    }
    return next((cause for value, cause in causes.items() if abs(ratio / value - 1) < 1e-3), "")


LEADING = "the code counts on a certain number of dimensions; x @ A.T works on the last one, whatever comes before"


#: What torch, an index or an unpacked shape raise where a tensor has another shape than the code expects.
OF_A_SHAPE = ("RuntimeError", "ValueError", "IndexError", "TypeError", "AssertionError")


def shape_error(error: Mapping[str, str], shown: str, otherwise: str) -> Fault:
    """What an error for a tensor of some shape means: ``otherwise``, unless it says itself what it has to do with."""
    fault = error_fault(error)
    if error.get("type") not in OF_A_SHAPE or "NoneType" in fault.seen:
        return fault
    return Fault(f"{shown}: {fault.seen}", fault.likely if "in memory" in fault.likely else otherwise)


def update_gradients(inputs: Inputs) -> dict[str, np.ndarray]:
    """Gradients of the sum of the update with respect to A, B and x."""
    A, B, scaling = inputs["A"], inputs["B"], inputs["alpha"] / inputs["rank"]
    x = inputs["x"].reshape(-1, A.shape[1])
    ones = np.ones((len(x), len(B)))
    return {
        "grad_A": scaling * (ones @ B).T @ x,
        "grad_B": scaling * ones.T @ (x @ A.T),
        "grad_x": (scaling * ones @ B @ A).reshape(inputs["x"].shape),
    }


def gradients_fault(factors: dict[str, float | None], seen: Observation) -> Fault | None:
    names = {"grad_A": "lora_A", "grad_B": "lora_B", "grad_x": "x"}
    lost = [names[key] for key in factors if not np.any(seen[key])]
    if lost:
        return Fault(
            f"no gradient reaches {' and '.join(lost)}",
            "the graph is cut: .data, .detach(), torch.no_grad() or .item() in the forward pass",
        )
    wrong = [names[key] for key, factor in factors.items() if factor is None]
    if wrong:
        return Fault(f"the gradient of {' and '.join(wrong)} is not the formula's", "")
    return None


def sum_expected(inputs: Inputs, x: np.ndarray | None = None) -> np.ndarray:
    """The adapted layer's output."""
    x = inputs["x"] if x is None else x
    return x @ inputs["W"].T + (inputs["b"] if inputs.get("bias", True) else 0.0) + forward_expected(inputs, x)
