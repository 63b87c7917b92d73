"""Stage 02, a LoRA layer: probes and visible checks.

Every probe gives B values of its own (a fresh B is zero, and hides any mistake), uses non-square layers, batches of at
least two, and compares with float64 NumPy.

What an exercise builds on may still be wrong, and must not cost its points again. So a probe makes two attempts: with
the student's object as it is ("own"), and with those parts of it put right that earlier exercises answer for
("mended"). `either` passes an answer that is right in one of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_ref.checks.probing import Names, array, describe_error, raised
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close, error_fault
from lora_ref.rounding import number, pair

TITLES = {
    "2.1": "LoRALayer: two matrices and a scale",
    "2.2": "LoRALayer.forward",
    "2.3": "LinearWithLoRA: wrap a frozen layer",
    "2.4": "LinearWithLoRA.forward",
    "2.5": "merge and unmerge",
    "2.6": "LoRA as a weight parametrization",
    "2.7": "spot the bug",
    "2.8": "why B is zero and A is not",
}

#: Seconds for one probe of this stage; a right answer needs milliseconds, and there are many probes.
SECONDS = 10.0
#: The probes' own training step: large enough to be seen, small enough for float32.
LEARNING_RATE = 0.05


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


CARRY: Mapping[str, Any] = {"LoRALayer": ContractLoRALayer}


# --- inputs ---------------------------------------------------------------------------------------------------------


def draw_layer(rng: np.random.Generator) -> Inputs:
    """Sizes that are all different, values for A, B and x, and an alpha that is no multiple of the rank."""
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


def draw_dropout(rng: np.random.Generator) -> Inputs:
    """Factors that can be undone, so that what dropout did to x can be read off the output.

    A (rank > in_features) and B (out_features > rank) have orthonormal columns: x is y B A up to the scale.
    """
    in_features, rank, out_features = 6, 8, 11
    return {
        "in_features": in_features,
        "out_features": out_features,
        "rank": rank,
        "alpha": float(rng.integers(3, 30)) + 0.5,
        "A": np.linalg.qr(rng.normal(size=(rank, in_features)))[0],
        "B": np.linalg.qr(rng.normal(size=(out_features, rank)))[0],
        "x": rng.uniform(1, 2, size=(10, 20, in_features)) * rng.choice([-1, 1], size=(10, 20, in_features)),
        "dropout": float(rng.choice([0.2, 0.25, 0.3])),
    }


def draw_wrapped_dropout(rng: np.random.Generator) -> Inputs:
    """As `draw_dropout`, with a frozen layer beside it."""
    inputs = draw_dropout(rng)
    shape = (inputs["out_features"], inputs["in_features"])
    return {**inputs, "W": rng.normal(size=shape), "b": rng.normal(size=shape[0])}


def draw_large(rng: np.random.Generator) -> Inputs:
    """A layer on which B A is by far the largest tensor: few tokens, small rank."""
    in_features, out_features = (int(n) for n in rng.choice(np.arange(300, 400), size=2, replace=False))
    rank = 2
    return {
        "in_features": in_features,
        "out_features": out_features,
        "rank": rank,
        "alpha": 7.0,
        "A": rng.normal(size=(rank, in_features)),
        "B": rng.normal(size=(out_features, rank)),
        "x": rng.normal(size=(1, 3, in_features)),
    }


def draw_with_gradients(draw: Callable[[np.random.Generator], Inputs]) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {**draw(rng), "gradients": True}


def rank_one(draw: Callable[[np.random.Generator], Inputs]) -> Callable[[np.random.Generator], Inputs]:
    """The same layer at rank 1, where an axis of length 1 is easily lost."""

    def drawn(rng: np.random.Generator) -> Inputs:
        inputs = draw(rng)
        return {**inputs, "rank": 1, "A": inputs["A"][:1], "B": inputs["B"][:, :1]}

    return drawn


def steps(*names: str, dropout: float = 0.0) -> Callable[[np.random.Generator], Inputs]:
    """Inputs of `probe_merge`: what to do, in order."""
    return lambda rng: {**draw_wrapped(rng), "steps": list(names), "dropout": dropout}


def fixed(seed: int, draw: Callable[[np.random.Generator], Inputs] = draw_layer) -> Callable[..., Inputs]:
    """The same inputs every time, as visible checks have them."""
    return lambda rng: draw(np.random.default_rng(seed))


# --- two attempts ---------------------------------------------------------------------------------------------------


def attempt(run: Callable[[], dict]) -> dict:
    """What ``run()`` records, or the error it raised."""
    try:
        return run()
    except Exception as error:  # not TimeLimit: when the time is up, it is up for the whole probe
        return {"error": describe_error(error)}


def both(run: Callable[[Any], dict], own: Callable[[], Any], mended: Callable[[], Any]) -> dict:
    """What ``run`` records of the student's object, and of the same with earlier exercises' parts put right."""
    return {"own": attempt(lambda: run(own())), "mended": attempt(lambda: run(mended()))}


#: Parts of torch's messages, and what they mean in this stage.
_MEANS = {
    "annot assign non-leaf": "the merge was recorded by autograd: do it under torch.no_grad()",
    "a leaf Variable that requires grad": "a parameter is changed in place while autograd records: torch.no_grad()",
    "does not require grad and does not have": "the graph is cut: .data, .detach(), torch.no_grad() or NumPy",
    "modified by an inplace": "W is changed in place: write W + update, not W += update",
    "cannot assign 'torch.FloatTensor' as parameter": "change the parameter in place, under torch.no_grad()",
    "view size is not compatible": "x may lie otherwise in memory, as a transposed tensor does: no view of it",
}


def explained(error: Mapping[str, str]) -> Fault:
    """`error_fault`, with this stage's meaning of torch's message."""
    fault = error_fault(error)
    likely = next((means for part, means in _MEANS.items() if part in str(error.get("text"))), fault.likely)
    return Fault(fault.seen, likely, fault.read)


def either(judge: Callable[[Inputs, Observation], Fault | None]) -> Callable[[Inputs, Observation], Fault | None]:
    """The judge of a probe with two attempts: right if one of them is."""

    def one(inputs: Inputs, seen: Observation) -> Fault | None:
        return explained(seen["error"]) if "error" in seen else judge(inputs, seen)

    def judged(inputs: Inputs, seen: Observation) -> Fault | None:
        own = one(inputs, seen["own"])
        mended = own and one(inputs, seen["mended"])
        if mended is None:
            return None
        # The mended object's fault is this exercise's own. An error may only mean that it could not be mended, but
        # "not done yet" in the own object is an earlier exercise's gap if the mended one gets further.
        own_is_gap = seen["own"].get("error", {}).get("type") == "NotImplementedError"
        return own if "error" in seen["mended"] and not own_is_gap else mended

    return judged


def build_layer(names: Names, inputs: Inputs, dropout: float = 0.0) -> Any:
    """The student's LoRALayer with the inputs' A and B in place of its own."""
    layer = names.LoRALayer(inputs["in_features"], inputs["out_features"], inputs["rank"], inputs["alpha"], dropout)
    set_factors(layer, inputs)
    return layer


def mended_layer(names: Names, inputs: Inputs, dropout: float = 0.0) -> Any:
    """The student's LoRALayer, its matrices and scale replaced by the contract's: what is left is its forward."""
    kind = names.LoRALayer
    try:
        layer = kind(inputs["in_features"], inputs["out_features"], inputs["rank"], inputs["alpha"], dropout)
    except Exception:
        layer = kind.__new__(kind)
        nn.Module.__init__(layer)
        layer.rank, layer.alpha, layer.dropout = inputs["rank"], inputs["alpha"], nn.Dropout(dropout)
    put_parts(layer, inputs)
    return layer


def put_parts(layer: Any, inputs: Inputs) -> None:
    """Give a layer parameters of the contract's shapes with the inputs' values, and the right scale."""
    for name, values in (("lora_A", inputs["A"]), ("lora_B", inputs["B"])):
        parameter = getattr(layer, name, None)
        fits = isinstance(parameter, nn.Parameter) and tuple(parameter.shape) == values.shape
        if fits and parameter.dtype == torch.float32:
            parameter.requires_grad_(True)
            continue
        with contextlib.suppress(AttributeError):
            delattr(layer, name)
        setattr(layer, name, nn.Parameter(tensor(values)))
    set_factors(layer, inputs)
    scaling = inputs["alpha"] / inputs["rank"]
    if isinstance(getattr(layer, "scaling", None), torch.Tensor):
        layer.scaling.data.fill_(scaling)
    else:
        with contextlib.suppress(AttributeError):  # a property follows from what is stored elsewhere
            layer.scaling = scaling


@torch.no_grad()
def set_factors(layer: Any, inputs: Inputs) -> None:
    """Give lora_A and lora_B the inputs' values, whichever way round they are: their shape is exercise 2.1's."""
    for name, values in (("lora_A", inputs["A"]), ("lora_B", inputs["B"])):
        parameter = getattr(layer, name)
        if tuple(parameter.shape) == values.shape[::-1]:
            values = values.T
        parameter.copy_(torch.as_tensor(values.copy(), dtype=parameter.dtype))


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


def mended_wrapper(names: Names, inputs: Inputs, bias: bool = True) -> Any:
    """The student's LinearWithLoRA with the contract's parts inside: what is left are its methods."""
    kind, linear = names.LinearWithLoRA, build_linear(inputs, bias)
    try:
        wrapper = kind(linear, inputs["rank"], inputs["alpha"], inputs.get("dropout", 0.0))
    except Exception:
        wrapper = kind.__new__(kind)
        nn.Module.__init__(wrapper)
        with contextlib.suppress(AttributeError):
            wrapper.merged = False
    fresh = build_linear(inputs, bias).requires_grad_(False)
    kept = getattr(wrapper, "linear", None)
    if kept is linear and kept.state_dict().keys() == fresh.state_dict().keys():
        kept.load_state_dict(fresh.state_dict())  # the very object: the wrapper may hold an alias of it elsewhere
        kept.requires_grad_(False)
    else:
        wrapper.linear = fresh
    sizes = inputs["in_features"], inputs["out_features"], inputs["rank"], inputs["alpha"], inputs.get("dropout", 0.0)
    try:
        wrapper.lora = names.LoRALayer(*sizes)  # anew: what its constructor was given is exercise 2.3's
        put_parts(wrapper.lora, inputs)
    except Exception:
        wrapper.lora = ContractLoRALayer(*sizes)
        put_parts(wrapper.lora, inputs)
    return wrapper


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def oriented(parameter: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A gradient or value as the contract's shape has it; zeros where there is no gradient."""
    if parameter is None:
        return np.zeros(shape)
    values = array(parameter)
    return values.T if values.shape == shape[::-1] else values


def factor_gradients(layer: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    return {
        "grad_A": oriented(layer.lora_A.grad, inputs["A"].shape),
        "grad_B": oriented(layer.lora_B.grad, inputs["B"].shape),
    }


# --- probes ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def uninitialised_is_nan() -> Any:
    """Fill what torch.empty gives with NaN: such memory often happens to hold zeros, or an earlier layer's values."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports torch's compiler: over a second
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def probe_initial(names: Names, **inputs: Any) -> dict:
    """Names, shapes and values of several fresh layers."""
    sizes = inputs["in_features"], inputs["out_features"], inputs["rank"], inputs["alpha"]
    with uninitialised_is_nan():
        layers = [names.LoRALayer(*sizes) for _ in range(20)]
    layer = layers[0]
    parameters = list(layer.parameters())
    factors = {name: getattr(layer, name, None) for name in ("lora_A", "lora_B")}
    return {
        "shapes": {name: list(p.shape) if isinstance(p, torch.Tensor) else None for name, p in factors.items()},
        "registered": {name: any(p is q for q in parameters) for name, p in factors.items()},
        "trainable": {name: bool(getattr(p, "requires_grad", False)) for name, p in factors.items()},
        "others": [
            name
            for name, p in layer.named_parameters()
            if p.requires_grad and not any(p is q for q in factors.values())
        ],
        "dtypes": {name: str(getattr(p, "dtype", None)) for name, p in factors.items()},
        "A": np.stack([array(one.lora_A) for one in layers]) if factors["lora_A"] is not None else None,
        "B": np.stack([array(one.lora_B) for one in layers]) if factors["lora_B"] is not None else None,
    }


def probe_random(names: Names, **inputs: Any) -> dict:
    """`probe_initial`, and a layer with enough values in A to see a mean that is nearly zero."""
    seen = probe_initial(names, **inputs)
    if seen["A"] is not None:
        values = array(names.LoRALayer(4096, 8, 64, 16).lora_A)
        seen["large"] = {"mean": float(values.mean()), "std": float(values.std()), "size": values.size}
    return seen


def probe_scaling(names: Names, **inputs: Any) -> dict:
    """The scale at two ranks."""
    sizes = inputs["in_features"], inputs["out_features"]
    ranks = inputs["rank"], inputs["rank"] + 3
    return {"scaling": [float(names.LoRALayer(*sizes, rank, inputs["alpha"]).scaling) for rank in ranks]}


def probe_bad_rank(names: Names, **inputs: Any) -> dict:
    """What ranks below 1 raise, and whether a right one builds."""
    names.LoRALayer(6, 5, 2, 8)
    return {str(rank): raised(lambda rank=rank: names.LoRALayer(6, 5, rank, 8)) for rank in inputs["ranks"]}


def probe_forward(names: Names, **inputs: Any) -> dict:
    """The layer's output and its gradients for known A and B."""

    def run(layer: Any) -> dict:
        x = tensor(inputs["x"]).requires_grad_(True)
        y = layer(x)
        seen = {"y": array(y)}
        if inputs.get("gradients"):
            y.sum().backward()
            seen |= {**factor_gradients(layer, inputs), "grad_x": oriented(x.grad, inputs["x"].shape)}
        return seen

    return both(run, lambda: build_layer(names, inputs), lambda: mended_layer(names, inputs))


def probe_leading(names: Names, **inputs: Any) -> dict:
    """Outputs for x of one, two, three and four dimensions."""

    def run(layer: Any) -> dict:
        return {str(x.ndim): attempt(lambda x=x: {"y": array(layer(transposed(x)))}) for x in leading(inputs["x"])}

    return both(run, lambda: build_layer(names, inputs), lambda: mended_layer(names, inputs))


def transposed(x: np.ndarray) -> torch.Tensor:
    """The values as a tensor that is not contiguous, where it has three dimensions or more: attention's are such."""
    return tensor(x) if x.ndim < 3 else tensor(x.swapaxes(0, 1).copy()).transpose(0, 1)


def leading(x: np.ndarray) -> list[np.ndarray]:
    """``x`` of shape (3, 4, n) cut and stacked to one to four dimensions."""
    return [x[0, 0], x[0], x, np.stack([x, -x])]


def probe_dropout(names: Names, **inputs: Any) -> dict:
    """Outputs in training and in evaluation mode of a layer with dropout."""

    def run(layer: Any) -> dict:
        x = tensor(inputs["x"])
        layer.train()
        seen = {"train": array(layer(x)), "kept": bool(torch.equal(x, tensor(inputs["x"])))}
        seen["again"] = array(layer(tensor(inputs["x"])))
        layer.eval()
        return {**seen, "eval": array(layer(tensor(inputs["x"])))}

    p = inputs["dropout"]
    return both(run, lambda: build_layer(names, inputs, p), lambda: mended_layer(names, inputs, p))


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns."""

    elements, operation = 0, ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch's compiler is imported to be told to leave this class alone: over a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor) and one.numel() > self.elements:
                self.elements, self.operation = one.numel(), str(func)
        return out


def probe_intermediates(names: Names, **inputs: Any) -> dict:
    """The largest tensor that the forward makes on its way."""

    def run(layer: Any) -> dict:
        x = tensor(inputs["x"])
        with _Largest() as largest:
            for mode in (True, False):
                y = layer.train(mode)(x)
        return {"elements": largest.elements, "operation": largest.operation, "y": array(y)}

    return both(run, lambda: build_layer(names, inputs), lambda: mended_layer(names, inputs))


def probe_wrap(names: Names, **inputs: Any) -> dict:
    """What the wrapper keeps, changes, freezes and trains."""
    seen: dict[str, Any] = {}
    for bias in (True, False):
        linear = build_linear(inputs, bias)
        parameters = dict(linear.named_parameters())
        wrapper = names.LinearWithLoRA(linear, inputs["rank"], inputs["alpha"])
        kept = wrapper.linear
        lora = [getattr(wrapper.lora, name) for name in ("lora_A", "lora_B")]
        trains = [(name, p) for name, p in wrapper.named_parameters() if p.requires_grad]
        seen["bias" if bias else "no bias"] = {
            "same": kept is linear,
            "kind": type(kept).__name__,
            "W": array(kept.weight),
            "b": None if kept.bias is None else array(kept.bias),
            "parameters": {name: getattr(kept, name) is p for name, p in parameters.items()},
            "frozen": {
                name: not getattr(kept, name).requires_grad
                for name in ("weight", "bias")
                if getattr(kept, name) is not None
            },
            "trains": [name for name, p in trains if not any(p is q for q in lora)],
            "lora_trains": [any(p is q for _, q in trains) for p in lora],
        }
    return seen


def probe_update(names: Names, **inputs: Any) -> dict:
    """Sizes, scale and dropout of the wrapper's update."""
    arguments = inputs["rank"], inputs["alpha"]
    wrapper = names.LinearWithLoRA(build_linear(inputs), *arguments)
    lora = wrapper.lora
    seen = {"A": list(lora.lora_A.shape), "B": list(lora.lora_B.shape), "scaling": float(lora.scaling)}
    wrappers = [wrapper, *(names.LinearWithLoRA(build_linear(inputs), *arguments, p) for p in ASKED[1:])]
    return {**seen, "dropped": [attempt(lambda one=one: share_dropped(one, inputs["in_features"])) for one in wrappers]}


#: Probabilities of dropout that `probe_update` asks for: none given, and two that are not each other's complement.
ASKED = (0.0, 0.2, 0.5)
ROWS = 6000


@torch.no_grad()
def share_dropped(wrapper: Any, in_features: int) -> dict:
    """Of rows of x with one entry that is not zero, those of which nothing reaches the update."""
    lora = wrapper.train().lora
    lora.lora_A.fill_(1.0)
    lora.lora_B.fill_(1.0)
    x = torch.eye(in_features).repeat(ROWS // in_features + 1, 1)[:ROWS]
    return {"share": float((lora(x)[:, 0] == 0).double().mean())}


LINEAR_KIND = "an nn.Linear"
NOT_LINEAR_KINDS = ("an nn.LayerNorm", "an nn.Embedding", "a module with in_features and weight", "None")


class LooksLinear(nn.Module):
    """Has all that an nn.Linear has, and is none."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = 6, 5
        self.weight, self.bias = nn.Parameter(torch.ones(5, 6)), nn.Parameter(torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def probe_not_linear(names: Names, **inputs: Any) -> dict:
    """What wrapping this and that raises."""
    names.LinearWithLoRA(nn.Linear(6, 5), 2, 8)
    made = dict(zip(NOT_LINEAR_KINDS, (nn.LayerNorm(6), nn.Embedding(5, 6), LooksLinear(), None), strict=True))
    made[LINEAR_KIND] = nn.Linear(6, 5)
    kinds = inputs.get("kinds", NOT_LINEAR_KINDS)
    return {"raised": [raised(lambda one=made[kind]: names.LinearWithLoRA(one, 2, 8)) for kind in kinds]}


def probe_sum(names: Names, **inputs: Any) -> dict:
    """The wrapper's output, with and without bias, and its gradients."""
    bias = inputs.get("bias", True)

    def run(wrapper: Any) -> dict:
        x = tensor(inputs["x"]).requires_grad_(True)
        y = wrapper(x)
        seen = {"y": array(y)}
        if inputs.get("gradients"):
            y.sum().backward()
            seen |= {**factor_gradients(wrapper.lora, inputs), "grad_x": oriented(x.grad, inputs["x"].shape)}
        return {**seen, "eval": array(wrapper.eval()(x))}

    return both(run, lambda: build_wrapper(names, inputs, bias), lambda: mended_wrapper(names, inputs, bias))


def probe_fresh(names: Names, **inputs: Any) -> dict:
    """A wrapper nobody has trained, beside the layer it wraps, for x of one and of three dimensions.

    In training mode and with dropout, which must not reach the frozen layer. Then what B's values add to it.
    """
    zero = {**inputs, "B": np.zeros_like(inputs["B"])}
    xs = [tensor(x) for x in (inputs["x"][0, 0], inputs["x"])]

    def run(wrapper: Any) -> dict:
        base = build_linear(inputs, bias=False)
        seen = {str(x.dim()): {"y": array(wrapper(x)), "base": array(base(x))} for x in xs}
        set_factors(wrapper.lora, inputs)
        added = {key: array(wrapper(xs[1])) - seen["3"]["base"] for key in ("train", "again")}
        return {**seen, "added": {**added, "eval": array(wrapper.eval()(xs[1])) - seen["3"]["base"], "kept": True}}

    return both(run, lambda: build_wrapper(names, zero, False), lambda: mended_wrapper(names, zero, False))


def probe_merge(names: Names, **inputs: Any) -> dict:
    """The wrapper's state before and after each of some steps: merge, unmerge, train."""

    def state(wrapper: Any) -> dict:
        weight, merged = wrapper.linear.weight, wrapper.merged
        with torch.no_grad():
            output = attempt(lambda: {"y": array(wrapper(tensor(inputs["x"])))})
        return {
            "W": array(weight),
            "output": output,
            "A": oriented(wrapper.lora.lora_A, inputs["A"].shape),
            "B": oriented(wrapper.lora.lora_B, inputs["B"].shape),
            "merged": None if callable(merged) else bool(merged),
            "parameter": isinstance(weight, nn.Parameter),
            "leaf": bool(weight.is_leaf),
            "frozen": not weight.requires_grad,
            "dtype": str(weight.dtype),
        }

    def train(wrapper: Any) -> dict:
        factors = [wrapper.lora.lora_A, wrapper.lora.lora_B]
        for factor in factors:
            factor.grad = None
        wrapper(tensor(inputs["x"])).sum().backward()
        with torch.no_grad():
            for factor in factors:
                if factor.grad is not None:
                    factor -= LEARNING_RATE * factor.grad
        return {}

    def run(wrapper: Any) -> dict:
        states = [state(wrapper)]
        for step in inputs["steps"]:
            if step == "train":
                attempt(lambda: train(wrapper))  # an open forward is exercise 2.4's: the step then changes nothing
            else:
                getattr(wrapper, step)()
            states.append(state(wrapper))
        return {"states": states}

    return both(run, lambda: build_wrapper(names, inputs), lambda: mended_wrapper(names, inputs))


def probe_twice(names: Names, **inputs: Any) -> dict:
    """`probe_merge`, beside what one merge and one unmerge give."""
    once = probe_merge(names, **{**inputs, "steps": ["merge", "unmerge"]})
    return {which: {**seen, "once": once[which]} for which, seen in probe_merge(names, **inputs).items()}


def find_factors(module: Any, inputs: Inputs) -> dict[str, nn.Parameter]:
    """The parameters that have the shape of A or of B, either way round: the contract does not name them."""
    wanted = {"A": inputs["A"].shape, "B": inputs["B"].shape}
    found = {}
    for parameter in module.parameters():
        for name, shape in wanted.items():
            if tuple(parameter.shape) in (shape, shape[::-1]):
                found[name] = parameter
    return found


@torch.no_grad()
def fill_factors(module: Any, inputs: Inputs) -> dict[str, nn.Parameter]:
    found = find_factors(module, inputs)
    for name, parameter in found.items():
        values = inputs[name] if tuple(parameter.shape) == inputs[name].shape else inputs[name].T
        parameter.copy_(torch.as_tensor(values.copy(), dtype=parameter.dtype))
    return found


def build_parametrization(names: Names, inputs: Inputs) -> Any:
    return names.LoRAParametrization(inputs["out_features"], inputs["in_features"], inputs["rank"], inputs["alpha"])


def probe_parametrization(names: Names, **inputs: Any) -> dict:
    """A parametrization as it starts, with known factors, switched off and on again."""
    W = tensor(inputs["W"])
    with uninitialised_is_nan():
        module = build_parametrization(names, inputs)
    seen = {
        "shapes": [list(p.shape) for p in module.parameters() if p.requires_grad],
        "enabled": bool(module.enabled),
        "start": attempt(lambda: {"W": array(module(W.clone()))}),
        "start_gradients": attempt(lambda: start_gradients(module, W.clone())),
    }
    seen["found"] = sorted(fill_factors(module, inputs))
    given = W.clone()
    seen["on"] = attempt(lambda: {"W": array(module(given))})
    seen["given"] = array(given)
    seen["on_eval"] = attempt(lambda: {"W": array(module.eval()(W.clone()))})
    module.train()
    module.enabled = False
    off = module(W)
    seen["off"] = {"same": off is W, "W": array(off)}
    module.enabled = True
    seen["on_again"] = attempt(lambda: {"W": array(module(W.clone()))})
    return seen


def start_gradients(module: Any, W: torch.Tensor) -> dict:
    """The largest gradient of any parameter of a fresh parametrization."""
    weights = torch.linspace(-1, 2, W.numel()).reshape(W.shape)
    (module(W) * weights).sum().backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return {"largest": max((float(g.abs().max()) for g in gradients), default=0.0)}


def probe_defaults(names: Names, **inputs: Any) -> dict:
    """A parametrization built with its two sizes alone: rank 1, alpha 1."""
    one = {**inputs, "rank": 1, "A": inputs["A"][:1], "B": inputs["B"][:, :1]}
    module = names.LoRAParametrization(inputs["out_features"], inputs["in_features"])
    found = sorted(fill_factors(module, one))
    return {"found": found, "W": array(module(tensor(inputs["W"])))}


def probe_registered(names: Names, **inputs: Any) -> dict:
    """A frozen nn.Linear whose weight is parametrized: outputs, gradients, one training step, off."""
    seen = attempt(lambda: registered(names, inputs))
    return {"raised": seen["error"]} if "error" in seen else seen


def registered(names: Names, inputs: Inputs) -> dict:
    x, linear = tensor(inputs["x"]), build_linear(inputs).requires_grad_(False)
    before = array(linear(x))
    module = build_parametrization(names, inputs)
    parametrize.register_parametrization(linear, "weight", module)
    original = linear.parametrizations.weight.original
    factors = fill_factors(module, inputs)
    y = linear(x)
    y.sum().backward()
    seen = {
        "before": before,
        "found": sorted(factors),
        "y": array(y),
        "gradients": {name: oriented(p.grad, inputs[name].shape) for name, p in factors.items()},
        "trains": [name for name, p in linear.named_parameters() if p.requires_grad],
    }
    with torch.no_grad():
        for parameter in linear.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter -= LEARNING_RATE * parameter.grad
    seen["original"] = array(original)
    seen["trained"] = array(linear(x))
    module.enabled = False
    return {**seen, "off": array(linear(x))}


def probe_project_up(names: Names, **inputs: Any) -> dict:
    """project_up where rank and out_features differ, and where they are the same; h of one to four dimensions."""

    def outputs(B: np.ndarray) -> list[dict]:
        return [
            attempt(lambda h=h: {"y": array(names.project_up(transposed(h), tensor(B)))}) for h in leading(inputs["h"])
        ]

    return {"h": outputs(inputs["B"]), "square": outputs(inputs["square"])}


def draw_project_up(rng: np.random.Generator) -> Inputs:
    rank, out_features = (int(n) for n in rng.choice(np.arange(3, 9), size=2, replace=False))
    return {
        "h": rng.normal(size=(2, 5, rank)),
        "B": rng.normal(size=(out_features, rank)),
        "square": rng.normal(size=(rank, rank)),
    }


def probe_fold_in(names: Names, **inputs: Any) -> dict:
    """The layer and its adapter after fold_in, and whether the adapter can still train.

    With the student's own LoRALayer, which may have methods that fold_in uses, and with one that has the contract's
    names alone.
    """
    sizes = inputs["in_features"], inputs["out_features"], inputs["rank"], inputs["alpha"]
    x = tensor(inputs["x"])

    def run(lora: Any) -> dict:
        set_factors(lora, inputs)
        linear = build_linear(inputs).requires_grad_(False)
        with torch.no_grad():
            before = array(lora(x))
        names.fold_in(linear, lora)
        with torch.no_grad():
            seen = {"W": array(linear.weight), "b": array(linear.bias), "update": array(lora(x)), "before": before}
        (lora(x) * torch.linspace(-1, 2, inputs["out_features"])).sum().backward()
        gradients = [p.grad for p in (lora.lora_A, lora.lora_B) if p.grad is not None]
        return {**seen, "gradient": max((float(g.abs().max()) for g in gradients), default=0.0)}

    return both(run, lambda: names.LoRALayer(*sizes), lambda: ContractLoRALayer(*sizes))


def probe_make_factors(names: Names, **inputs: Any) -> dict:
    """What make_factors registers beside layers of two dtypes, twice, and what it asks a layer's parameters for."""
    sizes, seen = (inputs["in_features"], inputs["out_features"]), {}
    for dtype in (torch.float32, torch.float64):
        linear = nn.Linear(*sizes).to(dtype)
        with uninitialised_is_nan():
            factors, others = (names.make_factors(linear, inputs["rank"]) for _ in range(2))
        seen[str(dtype).removeprefix("torch.")] = {
            "registered": {name: list(p.shape) for name, p in factors.named_parameters() if p.requires_grad},
            "dtypes": {name: str(getattr(factors, name).dtype) for name in ("lora_A", "lora_B")},
            "A": array(factors.lora_A),
            "again": array(others.lora_A),
            "B": array(factors.lora_B),
        }
    linear, asked = nn.Linear(*sizes), []
    for name, parameter in list(linear.named_parameters()):
        setattr(linear, name, watched(parameter, asked))
    asked.clear()  # registering asks too
    names.make_factors(linear, inputs["rank"])
    return {**seen, "asked": sorted(set(asked))}


def watched(parameter: nn.Parameter, asked: list[str]) -> nn.Parameter:
    """A parameter that writes down what it is asked for.

    A grader's machine has no second device on which a forgotten one would show: torch's own stand-in, `meta`, takes
    more than a second to be loaded.
    """

    class Watched(nn.Parameter):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.__name__
            asked.append(func.__self__.__name__ if name == "__get__" else name)
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))

    return torch.Tensor._make_subclass(Watched, parameter.data, parameter.requires_grad)


# --- judges ---------------------------------------------------------------------------------------------------------


def judge_shapes(inputs: Inputs, seen: Observation) -> Fault | None:
    expected = {
        "lora_A": [inputs["rank"], inputs["in_features"]],
        "lora_B": [inputs["out_features"], inputs["rank"]],
    }
    found = {name: seen["shapes"][name] for name in expected}
    shown = ", ".join(f"{name} {tuple(shape) if shape else 'missing'}" for name, shape in found.items())
    wanted = ", ".join(f"{name} {tuple(shape)}" for name, shape in expected.items())
    absent = [name for name, shape in found.items() if shape is None]
    if absent:
        return Fault(f"{shown}; expected {wanted}", f"the layer has no {' and no '.join(absent)}", "section 2.1")
    plain = [name for name in expected if not seen["registered"][name]]
    if plain:
        return Fault(
            f"{' and '.join(plain)}: a tensor, but no parameter of the layer",
            "it is not an nn.Parameter; nn.Parameter(...).to(...) and 2 * nn.Parameter(...) make plain tensors",
            "section 2.1",
        )
    if found != expected:
        likely = ""
        if all(found[name] == expected[name][::-1] for name in expected):
            likely = "both are transposed: the paper's A is (rank, in_features) and its B is (out_features, rank)"
        elif found["lora_A"][:1] == expected["lora_A"][:1] and found["lora_A"][1:] == expected["lora_B"][:1]:
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


def judge_A(inputs: Inputs, seen: Observation) -> Fault | None:
    A = seen["A"]
    if A is None:
        return Fault("there is no lora_A")
    if not np.isfinite(A).all() or np.abs(A).max() > 1e4:
        return Fault("lora_A is never given values", "torch.empty is uninitialised memory", "section 2.1")
    if not np.any(A != 0):
        return Fault(
            "lora_A starts at zero",
            "with A and B both zero, both gradients are zero and nothing ever learns",
            "section 2.1",
        )
    if (A[0] == A[1]).all() or np.ptp(A[0]) == 0:
        return Fault("lora_A is the same in each new layer", "A must be random, and unseeded", "section 2.1")
    # the mean of n values with standard deviation s lies within 6 s / sqrt(n) of zero but for one case in 10^8
    for one in ({"mean": A.mean(), "std": A.std(), "size": A.size}, seen["large"]):
        if abs(one["mean"]) > 6 * one["std"] / np.sqrt(one["size"]):
            mean, deviation = number(one["mean"], 2), number(one["std"], 2)
            return Fault(
                f"lora_A has mean {mean}, standard deviation {deviation} over {one['size']:,} values",
                "the distribution is not centred at zero (torch.rand draws from 0 to 1; normal_ takes the mean first)",
                "section 2.1",
            )
    return None


def judge_B(inputs: Inputs, seen: Observation) -> Fault | None:
    B = seen["B"]
    if B is None:
        return Fault("there is no lora_B")
    if not np.isfinite(B).all():
        return Fault("lora_B is never given values", "torch.empty is uninitialised memory", "section 2.1")
    if np.any(B != 0):
        return Fault(
            f"lora_B starts with values up to {number(np.abs(B).max(), tolerance=0)}",
            "B must start at zero, or the update changes the pretrained model before the first step",
            "section 2.1",
        )
    return None


def judge_initial(inputs: Inputs, seen: Observation) -> Fault | None:
    return judge_A(inputs, seen) or judge_B(inputs, seen)


def judge_scaling(inputs: Inputs, seen: Observation) -> Fault | None:
    ranks = inputs["rank"], inputs["rank"] + 3
    faults = (scaling_fault(inputs["alpha"], rank, found) for rank, found in zip(ranks, seen["scaling"], strict=True))
    return next(filter(None, faults), None)


def scaling_fault(alpha: float, rank: int, found: float) -> Fault | None:
    """Is ``found`` alpha / rank?"""
    expected = alpha / rank
    if close(found, expected):
        return None
    causes = {
        alpha: "the division by rank is missing",
        alpha / rank**0.5: "this is rsLoRA's alpha / sqrt(rank); the contract asks for the paper's alpha / rank",
        rank / alpha: "it is upside down",
    }
    likely = next((cause for value, cause in causes.items() if close(found, value)), "")
    shown, wanted = pair(found, expected, scale=expected)
    return Fault(f"scaling {shown} at rank {rank} and alpha {alpha:g}, expected {wanted}", likely, "section 2.1")


def judge_bad_rank(inputs: Inputs, seen: Observation) -> Fault | None:
    for rank in inputs["ranks"]:
        outcome = seen[str(rank)]
        if rank >= 1:
            if outcome is not None:
                return Fault(f"rank {rank} raised {outcome['type']}", "the check for rank < 1 refuses too much")
        elif outcome is None:
            return Fault(f"rank {rank} raised nothing", "the check for rank < 1 is missing", "the docstring")
        elif "ValueError" not in outcome["bases"]:
            return Fault(
                f"rank {rank} raised {outcome['type']}",
                "the check for rank < 1 is missing or comes too late; the contract asks for a ValueError",
                "the docstring",
            )
    return None


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


def judge_forward(inputs: Inputs, seen: Observation) -> Fault | None:
    expected, y = forward_expected(inputs), seen["y"]
    if close(y, expected):
        return None
    if y.shape != expected.shape:
        return Fault(
            f"output of shape {y.shape}, expected {expected.shape}", "x has shape (..., in_features)", "section 2.2"
        )
    if not np.any(y):
        return Fault("the output is zero although B is not", "the result of the second product is lost", "section 2.2")
    ratio = factor_of(y, expected)
    if ratio is not None:
        return Fault(
            f"the update is {number(ratio)} times what alpha / rank asks for", scale_cause(inputs, ratio), "section 2.2"
        )
    if close(y, inputs["alpha"] / inputs["rank"] ** 0.5 * forward_expected({**inputs, "alpha": inputs["rank"]}), 1e-4):
        return Fault("scaled by alpha / sqrt(rank)", "that is rsLoRA's scale", "section 2.2")
    half = np.isclose(y, 0).mean()
    if half > 0.1:
        likely = "dropout is on although its probability is 0, or something cuts values off (ReLU)"
        return Fault(f"{half:.0%} of the output is zero", likely, "section 2.2")
    return Fault(
        f"largest difference {number(np.abs(y - expected).max())} from scaling * (x A^T) B^T",
        "A or B is used the wrong way round, dropout is on although its probability is 0, or something is added",
        "section 2.2",
    )


_LEADING = "the code counts on a certain number of dimensions; x @ A.T works on the last one, whatever comes before"


def shape_error(error: Mapping[str, str], shown: str, otherwise: str, read: str) -> Fault:
    """What an error for a tensor of some shape means: ``otherwise``, unless it says itself what it has to do with."""
    fault = explained(error)
    if error.get("type") in ("NotDefined", "NotImplementedError") or "NoneType" in fault.seen:
        return fault
    return Fault(f"{shown}: {fault.seen}", fault.likely if "in memory" in fault.likely else otherwise, read)


def judge_leading(inputs: Inputs, seen: Observation) -> Fault | None:
    """x of one to four dimensions; a wrong scale is another check's."""
    for x in leading(inputs["x"]):
        one, expected = seen[str(x.ndim)], forward_expected(inputs, x)
        shown = f"x of shape {x.shape}"
        if "error" in one:
            return shape_error(one["error"], shown, _LEADING, "section 2.2")
        if one["y"].shape != expected.shape:
            return Fault(f"{shown} gives {one['y'].shape}, expected {expected.shape}", _LEADING, "section 2.2")
        if factor_of(one["y"], expected) is None:
            return Fault(f"{shown}: the output is no multiple of (x A^T) B^T", "the axes are mixed up", "section 2.2")
    return None


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


def judge_gradients(inputs: Inputs, seen: Observation) -> Fault | None:
    """A, B and x get the gradients of the formula; a common factor is the scale's."""
    expected = update_gradients(inputs)
    factors = {name: factor_of(seen[name], value) for name, value in expected.items()}
    return gradients_fault(factors, seen, "section 2.2")


def gradients_fault(factors: dict[str, float | None], seen: Observation, read: str) -> Fault | None:
    names = {"grad_A": "lora_A", "grad_B": "lora_B", "grad_x": "x"}
    lost = [names[key] for key in factors if not np.any(seen[key])]
    if lost:
        return Fault(
            f"no gradient reaches {' and '.join(lost)}",
            "the graph is cut: .data, .detach(), torch.no_grad() or .item() in the forward pass",
            read,
        )
    wrong = [names[key] for key, factor in factors.items() if factor is None]
    if wrong:
        return Fault(f"the gradient of {' and '.join(wrong)} is not the formula's", "", read)
    return None


def judge_forward_backward(inputs: Inputs, seen: Observation) -> Fault | None:
    return judge_forward(inputs, seen) or judge_gradients(inputs, seen)


def judge_intermediates(inputs: Inputs, seen: Observation) -> Fault | None:
    """No tensor as large as B A is made. Even products written with broadcasting stay below a hundredth of it."""
    full = inputs["out_features"] * inputs["in_features"]
    if factor_of(seen["y"], forward_expected(inputs)) is None:
        return Fault("the output is no multiple of (x A^T) B^T", "", "section 2.2")
    if seen["elements"] < full // 2:
        return None
    size = f"{inputs['out_features']} x {inputs['in_features']}"
    return Fault(
        f"on a layer of {size} the forward makes a tensor of {seen['elements']:,} elements ({seen['operation']})",
        "the matrix B A is built; apply A to x first, then B: (x A^T) B^T",
        "section 2.2",
    )


def judge_dropout_off(inputs: Inputs, seen: Observation) -> Fault | None:
    """In evaluation mode dropout is off; in training mode it is not."""
    if not seen["kept"]:
        return Fault(
            "the layer changes the x that it is given", "in place: dropout(inplace=True), or *=", "section 2.2"
        )
    if factor_of(seen["eval"], forward_expected(inputs)) is None:
        return Fault(
            "in evaluation mode the output is not a multiple of (x A^T) B^T",
            "dropout is on in evaluation mode too: F.dropout needs training=self.training, nn.Dropout knows by itself",
            "section 2.2",
        )
    if np.array_equal(seen["train"], seen["again"]):
        return Fault(
            f"with dropout={inputs['dropout']:g} two outputs in training mode are equal",
            "dropout is never applied",
            "section 2.2",
        )
    return None


def judge_dropout(inputs: Inputs, seen: Observation) -> Fault | None:
    """Entries of x are dropped, each on its own, with the given probability; kept ones are divided by 1 - p."""
    fault = judge_dropout_off(inputs, seen)
    if fault:
        return fault
    p, x = inputs["dropout"], inputs["x"]
    scale = factor_of(seen["eval"], forward_expected(inputs))  # a wrong scale is another check's
    y = seen["train"] / (scale * inputs["alpha"] / inputs["rank"])
    kept = y @ inputs["B"] @ inputs["A"] / x  # the columns of A and B are orthonormal
    dropped = np.abs(kept) < 1e-3
    even = np.abs(kept[~dropped] - np.median(kept[~dropped])).max(initial=0.0) < 1e-2
    if not even or not dropped.any() or dropped.all():
        hidden = seen["train"] @ inputs["B"]
        where = "somewhere else than on x"
        if np.isclose(seen["train"], 0, atol=1e-6).mean() > p / 3:
            where = "on the output"
        elif np.isclose(hidden, 0, atol=1e-5 * np.abs(hidden).max()).mean() > p / 3:
            where = "between A and B"
        return Fault(
            "what is dropped are no entries of x", f"dropout acts {where}: apply it to x, before A", "section 2.2"
        )
    expected, factor = 1 / (1 - p), float(np.median(kept[~dropped]))
    if abs(factor - expected) > 1e-2:
        likely = "what is kept must be divided by 1 - p, or training and evaluation differ in size"
        if abs(factor - 1 / p) < 1e-2:
            likely = "p is the probability to drop, not to keep"
        return Fault(
            f"what is kept is multiplied by {number(factor)}, expected {number(expected)}", likely, "section 2.2"
        )
    share = dropped.mean()
    # six standard deviations of the share of n coin flips; fails by chance once in 10^8
    if abs(share - p) > 6 * (p * (1 - p) / dropped.size) ** 0.5:
        likely = "p is the probability to drop, not to keep" if abs(share - 1 + p) < 0.1 else ""
        return Fault(f"{share:.0%} of the entries are dropped, expected {p:.0%}", likely, "section 2.2")
    if any((dropped == dropped.take([0], axis)).all() for axis in range(x.ndim)):
        return Fault(
            "whole rows or columns of x are dropped together",
            "each entry is dropped on its own: the mask has x's whole shape",
            "section 2.2",
        )
    return None


def sum_expected(inputs: Inputs, x: np.ndarray | None = None) -> np.ndarray:
    """The adapted layer's output."""
    x = inputs["x"] if x is None else x
    return x @ inputs["W"].T + (inputs["b"] if inputs.get("bias", True) else 0.0) + forward_expected(inputs, x)


def judge_wrap(inputs: Inputs, seen: Observation) -> Fault | None:
    """The given layer is kept, with its values."""
    for case in ("bias", "no bias"):
        one = seen[case]
        if not close(one["W"], inputs["W"], 1e-6):
            return Fault(
                "wrapper.linear.weight is not the given layer's weight",
                "a new nn.Linear has new random values: the pretrained ones are lost",
                "section 2.3",
            )
        if (one["b"] is None) != (case == "no bias"):
            lost = one["b"] is None
            return Fault(
                f"a layer with{'' if lost else 'out'} bias comes back with{'out' if lost else ''} one",
                "a new layer was built instead of keeping the given one, and the bias was "
                + ("dropped" if lost else "added"),
                "section 2.3",
            )
        if one["b"] is not None and not close(one["b"], inputs["b"], 1e-6):
            return Fault("the bias has other values", "the pretrained bias is lost", "section 2.3")
        if not one["same"]:
            return Fault(
                "wrapper.linear is another object than the given layer",
                "the layer was copied: weights would be held twice, and ties to the model are cut",
                "section 2.3",
            )
        if not all(one["parameters"].values()):
            changed = [name for name, same in one["parameters"].items() if not same]
            return Fault(f"the layer's {' and '.join(changed)} was replaced", "freeze it, in place", "section 2.3")
    return None


def judge_frozen(inputs: Inputs, seen: Observation) -> Fault | None:
    """Exactly the update's two matrices train."""
    for case in ("bias", "no bias"):
        one = seen[case]
        loose = [name for name, frozen in one["frozen"].items() if not frozen]
        if loose:
            likely = (
                "the bias is not frozen: linear.requires_grad_(False) takes both"
                if loose == ["bias"]
                else "the pretrained layer is not frozen: requires_grad_(False)"
            )
            return Fault(f"linear.{' and linear.'.join(loose)} can train", likely, "section 2.3")
        if not all(one["lora_trains"]):
            return Fault(
                "lora_A or lora_B does not train",
                "the whole wrapper was frozen, or the update is no submodule of it (super().__init__() comes first)",
                "section 2.3",
            )
        if one["trains"]:
            return Fault(f"{', '.join(one['trains'])} trains too", "only lora_A and lora_B should", "section 2.3")
    return None


def judge_update(inputs: Inputs, seen: Observation) -> Fault | None:
    """The update has the layer's sizes and the given rank and alpha."""
    found = {"lora_A": seen["A"], "lora_B": seen["B"]}
    shapes = dict.fromkeys(found, True)
    same = {"registered": shapes, "trainable": shapes, "others": [], "dtypes": dict.fromkeys(found, "torch.float32")}
    fault = judge_shapes(inputs, {"shapes": found, **same})
    fault = fault or scaling_fault(inputs["alpha"], inputs["rank"], seen["scaling"])
    if fault:
        return Fault(
            f"wrapper.lora: {fault.seen}", fault.likely or "an argument is lost or in another's place", "section 2.3"
        )
    for p, one in zip(ASKED, seen["dropped"], strict=True):
        if "error" in one:
            return explained(one["error"])
        share = one["share"]
        if abs(share - p) > 6 * (p * (1 - p) / ROWS) ** 0.5:
            asked = f"although dropout={p:g} was given" if p else "although no dropout was given"
            likely = "dropout is not passed on as it was given" if p else "dropout is 0 by default"
            return Fault(f"wrapper.lora drops {share:.0%} of x {asked}", likely, "section 2.3")
    return None


def judge_not_linear(inputs: Inputs, seen: Observation) -> Fault | None:
    for name, outcome in zip(inputs.get("kinds", NOT_LINEAR_KINDS), seen["raised"], strict=True):
        if name == LINEAR_KIND:
            if outcome is not None:
                return Fault(f"{name} raised {outcome['type']}", "the check with isinstance refuses too much")
        elif outcome is None:
            return Fault(
                f"{name} was wrapped without an error", "the check with isinstance is missing", "the docstring"
            )
        elif "TypeError" not in outcome["bases"]:
            return Fault(
                f"{name} raised {outcome['type']}",
                "the check with isinstance is missing or comes too late; the contract asks for a TypeError",
                "the docstring",
            )
    return None


def judge_sum(inputs: Inputs, seen: Observation) -> Fault | None:
    expected, y = sum_expected(inputs), seen["y"]
    if close(y, expected):
        if close(seen["eval"], expected):
            return None
        return Fault(
            "in evaluation mode the output is not linear(x) + lora(x)", "forward does not ask the mode", "section 2.4"
        )
    if y.shape != expected.shape:
        return Fault(f"output of shape {y.shape}, expected {expected.shape}", "", "section 2.4")
    update = forward_expected(inputs)
    causes = [
        (update, "only the update is returned: the frozen layer's output is missing"),
        (expected - update, "only the frozen layer's output is returned: the update is missing"),
        (expected - inputs["b"], "the bias is missing"),
        (expected + inputs["b"], "the bias counts twice"),
        (expected + update, "the update counts twice"),
        (expected - 2 * update, "the update is subtracted"),
        (
            expected + (inputs["alpha"] / inputs["rank"] - 1) * update,
            "the scale is applied twice: the update has it already",
        ),
        ((expected - update) * (1 + update), "multiplied instead of added"),
    ]
    likely = next((cause for wrong, cause in causes if close(y, wrong, 1e-4)), "")
    off = number(np.abs(y - expected).max())
    return Fault(f"largest difference {off} from linear(x) + lora(x)", likely, "section 2.4")


def judge_fresh(inputs: Inputs, seen: Observation) -> Fault | None:
    for dimensions in ("1", "3"):
        one = seen[dimensions]
        if not close(one["y"], one["base"], 1e-6):
            likely = "something besides linear(x) + lora(x) is computed, or dropout reaches the frozen layer's input"
            if not np.any(one["y"]):
                likely = "only the update is returned: the frozen layer's output is missing"
            return Fault(
                "in training mode with dropout, a wrapper whose B is zero does not give the frozen layer's output",
                likely,
                "section 2.4",
            )
    added = seen["added"]
    if factor_of(added["eval"], forward_expected(inputs)) is None:
        return None  # what is added without dropout is another check's
    fault = judge_dropout(inputs, added)
    if fault:
        likely = "lora(x) has its dropout already: forward calls self.lora, on x itself, and nothing else drops"
        return Fault(f"what is added to linear(x): {fault.seen}", likely, "section 2.4")
    return None


def judge_sum_gradients(inputs: Inputs, seen: Observation) -> Fault | None:
    expected = update_gradients(inputs)
    expected["grad_x"] = expected["grad_x"] + np.ones_like(seen["y"]) @ inputs["W"]
    factors = {name: factor_of(seen[name], expected[name]) for name in ("grad_A", "grad_B")}
    factors["grad_x"] = 1.0 if close(seen["grad_x"], expected["grad_x"], 1e-4) else None
    fault = gradients_fault(factors, seen, "section 2.4")
    if fault and "of x " in fault.seen:
        return Fault(
            fault.seen,
            "the layers below need the frozen layer's gradient too: no torch.no_grad() around it",
            fault.read,
        )
    return fault


def judge_sum_backward(inputs: Inputs, seen: Observation) -> Fault | None:
    return judge_sum(inputs, seen) or judge_sum_gradients(inputs, seen)


def judge_merged(inputs: Inputs, seen: Observation) -> Fault | None:
    """After one merge: the weight, the flag, what kind of object the weight is."""
    before, after = seen["states"][0], seen["states"][1]
    if before["merged"] is None:
        return Fault("merged is a method", "read it as .merged: an attribute or a property", "section 2.5")
    if before["merged"]:
        return Fault(".merged is True before the first merge", "", "section 2.5")
    fault = weight_fault(inputs, after["W"], 1)
    if fault:
        likely = "lora(...) is asked for the update, and drops: merge B A itself"
        return Fault(fault.seen, likely, fault.read) if dropped_columns(inputs, after["W"]) else fault
    if not after["parameter"] or not after["leaf"]:
        return Fault(
            "the merged weight is no leaf parameter any more: it hangs on the graph of A and B",
            "the merge was recorded by autograd; do it under torch.no_grad()",
            "section 2.5",
        )
    if after["dtype"] != before["dtype"]:
        return Fault(f"the weight became {after['dtype']}", "", "section 2.5")
    if not after["merged"]:
        return Fault(".merged is False after merge()", "the flag is not set", "section 2.5")
    return None


def dropped_columns(inputs: Inputs, W: np.ndarray) -> bool:
    """Whether what was added to the weight is the update as dropout leaves it: columns of zeros, the others larger."""
    p, added = inputs["dropout"], W - inputs["W"]
    update = inputs["alpha"] / inputs["rank"] * inputs["B"] @ inputs["A"] / (1 - p)
    if added.shape != update.shape or not p or not np.any(np.abs(added) > 1e-3):
        return False
    kept = np.abs(added).max(axis=0) > 1e-4 * np.abs(update).max()
    return close(added, update * kept, 1e-4)


def weight_fault(inputs: Inputs, W: np.ndarray, times: int) -> Fault | None:
    """Is ``W`` the original plus the update, taken ``times`` times?"""
    update = inputs["alpha"] / inputs["rank"] * inputs["B"] @ inputs["A"]
    # what (W + D) - D loses in float32 grows with D; taking D away again instead of keeping W is allowed
    if close(W, inputs["W"] + times * update, 1e-5 if times else 1e-6 * max(1.0, float(np.abs(update).max()))):
        return None
    if W.shape != inputs["W"].shape:
        return Fault(f"weight of shape {W.shape}, expected {inputs['W'].shape}", "", "section 2.5")
    ratio = factor_of(W - inputs["W"], update)
    if times == 0:
        likely = "what unmerge takes away is not what merge added"
        if ratio is not None and abs(ratio - 1) < 1e-3:
            likely = (
                "the update is still there: nothing was taken away, or W was kept without a copy and changed with it"
            )
        elif ratio is not None and abs(ratio + 1) < 1e-3:
            likely = "an update was taken away that is not there: ask .merged first"
        off = number(np.abs(W - inputs["W"]).max(), 2, tolerance=0)
        return Fault(f"the weight differs from the original by up to {off}", likely, "section 2.5")
    if close(W, inputs["W"]):
        return Fault("the weight is unchanged", "the sum is not written back into linear.weight", "section 2.5")
    if ratio is not None:
        likely = (
            "the update was added twice: ask .merged first" if abs(ratio - 2) < 1e-3 else scale_cause(inputs, ratio)
        )
        return Fault(f"{number(ratio)} times the update was added to the weight, expected once", likely, "section 2.5")
    likely = "the weight is replaced, not added to" if close(W, update) else ""
    return Fault(
        f"the weight is not W + scaling * B A (largest difference {number(np.abs(W - inputs['W'] - update).max())})",
        likely,
        "section 2.5",
    )


def judge_merged_forward(inputs: Inputs, seen: Observation) -> Fault | None:
    """Merging does not change what the layer computes."""
    output = seen["states"][-1]["output"]
    if "error" in output:
        return error_fault(output["error"])
    expected, y = sum_expected(inputs), output["y"]
    if close(y, expected, 1e-4):
        return None
    update = forward_expected(inputs)
    likely = ""
    if y.shape == expected.shape:
        if close(y, expected + update, 1e-4):
            likely = "the update counts twice: it is in the weight already, so forward must not add it when merged"
        elif close(y, expected - update, 1e-4):
            likely = "the update is lost: neither the weight nor forward has it"
        elif weight_fault(inputs, seen["states"][-1]["W"], 1):
            likely = "mend merge() first: the weight is not W + scaling * B A"
    return Fault("the output is not what it was before the merge", likely, "section 2.5")


def judge_twice(inputs: Inputs, seen: Observation) -> Fault | None:
    """Steps: merge, merge, unmerge. The second merge changes nothing, nor what unmerge restores."""
    before, first, second = (state["W"] for state in seen["states"][:3])
    if not close(before, inputs["W"], 1e-6):  # beside a weight of 1e30 an update added twice would not show
        return Fault("the wrapped layer's weight is not the one it was given", "see exercise 2.3", "section 2.3")
    if close(first, inputs["W"]):
        return Fault("the first merge() leaves the weight as it was", "", "section 2.5")
    if close(second, first, 1e-6):
        once, after = seen["once"], seen["states"][3]["W"]
        restores = "error" not in once and weight_fault(inputs, once["states"][-1]["W"], 0) is None
        if restores and weight_fault(inputs, after, 0):  # what one unmerge() does is another check's
            likely = "the second merge() keeps the merged weight as the original: ask .merged before anything else"
            return Fault("after two merge() the weight is not restored by unmerge()", likely, "section 2.5")
        return None
    update = inputs["alpha"] / inputs["rank"] * inputs["B"] @ inputs["A"]
    likely = (
        "the update was added twice: ask .merged first" if close(second - first, update, 1e-4) else "ask .merged first"
    )
    off = number(np.abs(second - first).max())
    return Fault(f"the second merge() changed the weight by up to {off}", likely, "section 2.5")


def judge_merged_once(inputs: Inputs, seen: Observation) -> Fault | None:
    """Steps: merge, merge, unmerge."""
    return judge_merged(inputs, seen) or judge_twice(inputs, seen)


def judge_unmerged(inputs: Inputs, seen: Observation) -> Fault | None:
    """After unmerge the weight, the output and the flag are as at first."""
    after = seen["states"][-1]
    if close(seen["states"][1]["W"], inputs["W"]):
        return Fault("there is nothing to take back: merge() leaves the weight as it was", "", "section 2.5")
    fault = weight_fault(inputs, after["W"], 0)
    if fault:
        return fault
    if after["merged"]:
        return Fault(".merged is True after unmerge()", "the flag is not taken back", "section 2.5")
    outputs = [state["output"] for state in (seen["states"][0], after)]
    if "error" not in outputs[0] and not ("y" in outputs[1] and close(outputs[1]["y"], outputs[0]["y"], 1e-4)):
        return Fault("the output after unmerge() is not the first one", lost_factors(after), "section 2.5")
    return None


def judge_unmerged_only(inputs: Inputs, seen: Observation) -> Fault | None:
    """Steps: unmerge, merge, unmerge. The first one finds nothing to take away."""
    fault = weight_fault(inputs, seen["states"][1]["W"], 0)
    if fault:
        return Fault(f"unmerge() before any merge(): {fault.seen}", fault.likely, fault.read)
    return judge_unmerged(inputs, {"states": seen["states"][1:]})


def judge_continues(inputs: Inputs, seen: Observation) -> Fault | None:
    """Steps: train, merge, unmerge, train, merge."""
    before, trained, merged, unmerged, again, remerged = seen["states"]
    for name in "AB":
        if not close(unmerged[name], trained[name], 1e-6):
            likely = lost_factors(unmerged) or "merging must leave A and B as they are"
            return Fault(f"lora_{name} is changed by merge() and unmerge()", likely, "section 2.5")
        trains = not np.array_equal(trained[name], before[name])  # if not, forward is at fault: exercise 2.4's
        if trains and close(again[name], unmerged[name], 1e-9):
            return Fault(
                f"a training step after unmerge() leaves lora_{name} unchanged",
                ".merged is still True, so forward leaves the update out"
                if unmerged["merged"]
                else "it gets no gradient any more",
                "section 2.5",
            )
    for done, state in (("merge()", merged), ("merge() and unmerge()", unmerged)):
        if before["frozen"] and not state["frozen"]:
            return Fault(
                f"after {done} linear.weight can train",
                "a new nn.Parameter is trainable unless it is told requires_grad=False",
                "section 2.5",
            )
    scaling = inputs["alpha"] / inputs["rank"]
    if not close(remerged["W"], inputs["W"] + scaling * again["B"] @ again["A"], 1e-4):
        likely = "the update of the first merge is used again: take B A as it is now"
        if not close(merged["W"], inputs["W"] + scaling * trained["B"] @ trained["A"], 1e-4):
            likely = "mend merge() first: the first one did not give W + scaling * B A either"
        elif not close(unmerged["W"], inputs["W"], 1e-4):
            likely = "mend unmerge() first: it did not restore the weight"
        return Fault("merged again after training, the weight is not W + scaling * B A", likely, "section 2.5")
    return None


def lost_factors(state: Mapping[str, Any]) -> str:
    zero = [name for name in "AB" if not np.any(state[name])]
    if len(zero) == 2:
        return "A and B are zero now: the update is gone, and with both at zero nothing trains"
    return f"{zero[0]} is zero now: the update is gone" if zero else ""


def parametrized_expected(inputs: Inputs) -> np.ndarray:
    return inputs["W"] + inputs["alpha"] / inputs["rank"] * inputs["B"] @ inputs["A"]


def judge_parametrized(inputs: Inputs, seen: Observation) -> Fault | None:
    """With known factors, forward(W) is W + scaling B A."""
    fault = factors_fault(inputs, seen)
    if fault:
        return fault
    if "error" in seen["on"]:
        return product_fault(seen["on"]["error"])
    if not close(seen["given"], inputs["W"], 1e-6):
        return Fault(
            "forward changed the W it was given",
            "the original weight changed: write W + update, not W += update",
            "section 2.6",
        )
    found, expected = seen["on"]["W"], parametrized_expected(inputs)
    if close(found, expected):
        if "W" in seen["on_eval"] and close(seen["on_eval"]["W"], expected):
            return None
        return Fault("in evaluation mode forward(W) is another weight", "only self.enabled switches", "section 2.6")
    if found.shape != expected.shape:
        return Fault(
            f"a weight of shape {found.shape}, expected {expected.shape}",
            "B and A are multiplied in the wrong order",
            "section 2.6",
        )
    ratio = factor_of(found - inputs["W"], expected - inputs["W"])
    if ratio is not None:
        return Fault(f"{number(ratio)} times the update is added", scale_cause(inputs, ratio), "section 2.6")
    likely = "W is missing from the sum" if close(found, expected - inputs["W"], 1e-4) else ""
    likely = "the update is missing although enabled is True" if close(found, inputs["W"]) else likely
    return Fault("forward(W) is not W + (alpha / rank) * B A", likely, "section 2.6")


def product_fault(error: Mapping[str, str]) -> Fault:
    """What an error in the parametrization's forward means; shapes that do not fit are B's and A's."""
    fault = explained(error)
    if not fault.likely.startswith("shapes do not fit"):
        return fault
    return Fault(fault.seen, "B and A are multiplied in the wrong order: B A has the shape of W", "section 2.6")


def factors_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    """Two trainable factors of the right shapes, found by shape because the contract does not name them."""
    wanted = [list(inputs["A"].shape), list(inputs["B"].shape)]
    shown = ", ".join(str(tuple(shape)) for shape in seen["shapes"]) or "none"
    swapped = sorted([[wanted[0][0], wanted[1][0]], [wanted[0][1], wanted[1][1]]])
    expected = f"{tuple(wanted[0])} and {tuple(wanted[1])}"
    if sorted(seen["shapes"]) == swapped and "error" in seen["on"]:
        return Fault(
            f"trainable parameters {shown}; expected {expected}",
            "in_features and out_features are the wrong way round: W is (out_features, in_features)",
            "section 2.6",
        )
    if len(seen["shapes"]) != 2 or seen["found"] != ["A", "B"]:
        likely = "A is (rank, in_features), B is (out_features, rank)"
        if len(seen["shapes"]) < 2:
            likely = "what is missing is frozen or no nn.Parameter; nn.Parameter(...).to(...) makes a plain tensor"
        return Fault(f"trainable parameters {shown}; expected {expected}", likely, "section 2.6")
    return None


def judge_start(inputs: Inputs, seen: Observation) -> Fault | None:
    """A fresh parametrization changes nothing and can learn."""
    fault = factors_fault(inputs, seen)
    if fault:
        return fault
    for key in ("start", "start_gradients"):
        if "error" in seen[key]:
            return product_fault(seen[key]["error"])
    if not close(seen["start"]["W"], inputs["W"], 1e-6):
        return Fault(
            "a fresh parametrization changes the weight",
            "B must start at zero (torch.empty is uninitialised memory)",
            "section 2.6",
        )
    if not 0 < seen["start_gradients"]["largest"] < np.inf:
        return Fault("all gradients are zero at the start", "A and B are both zero: nothing ever learns", "section 2.6")
    return None


def judge_switch(inputs: Inputs, seen: Observation) -> Fault | None:
    """Enabled at first; off gives W itself; on again gives the update again."""
    if not seen["enabled"]:
        return Fault("enabled is False at first", "", "section 2.6")
    if not close(seen["off"]["W"], inputs["W"], 1e-6):
        return Fault(
            "with enabled = False forward(W) still adds something", "forward does not ask self.enabled", "section 2.6"
        )
    if not seen["off"]["same"]:
        return Fault(
            "with enabled = False forward(W) is an equal tensor, but not W itself",
            "a copy is made, or zero is added: return W",
            "section 2.6",
        )
    if "error" in seen["on_again"]:
        return factors_fault(inputs, seen) or product_fault(seen["on_again"]["error"])
    if close(seen["on_again"]["W"], inputs["W"]):
        return Fault(
            "switched on again, forward(W) is still W", "the update is lost when it is switched off", "section 2.6"
        )
    return None


def judge_project_up(inputs: Inputs, seen: Observation) -> Fault | None:
    for case, matrix in (("h", "B"), ("square", "square")):
        B = inputs[matrix]
        # three dimensions first: an error there is none of their number
        cases = sorted(zip(leading(inputs["h"]), seen[case], strict=True), key=lambda pair: pair[0].ndim != 3)
        for h, one in cases:
            expected = h @ B.T
            sizes = f"rank {B.shape[1]}, out_features {B.shape[0]}, h of shape {h.shape}"
            if "error" in one:
                likely = "F.linear(x, weight) computes x weight^T: it transposes its weight by itself"
                return shape_error(one["error"], sizes, likely if h.ndim == 3 else _LEADING, "section 2.7")
            if close(one["y"], expected):
                continue
            likely = ""
            if one["y"].shape == expected.shape and close(one["y"], h @ B):
                likely = "B is used transposed; where rank equals out_features nothing complains"
            return Fault(f"{sizes}: the result is not h B^T", likely, "section 2.7")
    return None


def judge_fold_in(inputs: Inputs, seen: Observation) -> Fault | None:
    if not close(seen["before"], forward_expected(inputs)):
        return Fault("lora(x) is not the update even before", "see exercise 2.2", "section 2.2")
    if not close(seen["b"], inputs["b"], 1e-6):
        return Fault("the bias changed", "", "section 2.7")
    update = inputs["alpha"] / inputs["rank"] * inputs["B"] @ inputs["A"]
    if not close(seen["W"], inputs["W"] + update):
        ratio = factor_of(seen["W"] - inputs["W"], update)
        likely = "" if ratio is None else scale_cause(inputs, ratio)
        if close(seen["W"], inputs["W"]):
            likely = "the factors are emptied before the weight gets them"
        return Fault("the weight is not W + scaling * B A", likely, "section 2.7")
    if not close(seen["update"], np.zeros_like(seen["update"]), 1e-6):
        return Fault(
            "afterwards lora(x) is not zero", "the update counts twice: in the weight and in the adapter", "section 2.7"
        )
    if not seen["gradient"] > 0:
        return Fault(
            "afterwards the gradients of A and of B are both zero",
            "A and B are both zero (or the scale is, or what is left does not train): the adapter can never train "
            "again; one zero factor is enough",
            "section 2.7",
        )
    return None


def judge_make_factors(inputs: Inputs, seen: Observation) -> Fault | None:
    expected = {
        "lora_A": [inputs["rank"], inputs["in_features"]],
        "lora_B": [inputs["out_features"], inputs["rank"]],
    }
    for dtype in ("float32", "float64"):
        one = seen[dtype]
        if one["registered"] != expected:
            shown = ", ".join(f"{name} {tuple(shape)}" for name, shape in one["registered"].items()) or "nothing"
            return Fault(
                f"beside a {dtype} layer {shown} is registered",
                "nn.Parameter(...).to(...) makes a plain tensor wherever it converts, and a module registers none",
                "section 2.7",
            )
        wrong = [name for name, kind in one["dtypes"].items() if kind != f"torch.{dtype}"]
        if wrong:
            return Fault(f"beside a {dtype} layer {wrong[0]} is {one['dtypes'][wrong[0]]}", "", "section 2.7")
        A = one["A"]
        if np.any(one["B"]) or not np.any(A) or not np.isfinite(A).all():
            likely = "torch.empty is uninitialised memory" if np.any(A) else "with A at zero too nothing ever learns"
            return Fault("A must start random and B at zero", likely, "section 2.1")
        if np.ptp(A) == 0 or np.array_equal(one["again"], A):
            return Fault("A is not random: it is the same again", "torch.randn draws new values", "section 2.1")
    asked = set(seen["asked"])
    if "dtype" in asked and asked <= {"dtype", "shape", "size", "ndim", "dim", "numel"}:
        return Fault(
            f"of the layer's weight it asks {' and '.join(sorted(asked))} alone",
            "take linear.weight's device as well as its dtype; on a GPU the product would fail",
            "section 2.7",
        )
    return None


# --- visible checks -------------------------------------------------------------------------------------------------

# The contracts' sentences; the hidden checks show the same.
SHAPES = "lora_A is a parameter of shape (rank, in_features), lora_B one of shape (out_features, rank)"
INITIAL = "A starts random with mean zero, B at zero"
SCALING = "scaling is alpha / rank"
BAD_RANK = "a rank below 1 is a ValueError"
FORWARD = "with B != 0 the output is scaling * (x A^T) B^T"
FORWARD_BACKWARD = f"{FORWARD}, and A, B and x get its gradients"
LEADING = "x may have any number of leading dimensions"
DROPOUT = "dropout acts on x, in training mode alone, and scales what it keeps"
SMALL = "the forward never builds B A"
WRAP = "the given layer itself is kept as .linear, weight and bias unchanged"
FROZEN = "weight and bias are frozen; lora_A and lora_B train, and nothing else"
UPDATE = ".lora is the update, with the layer's sizes and the given rank, alpha and dropout"
NOT_LINEAR = "what is not an nn.Linear is a TypeError"
SUM = "the output is linear(x) + lora(x)"
SUM_BACKWARD = f"{SUM}, and A, B and x get its gradients"
FRESH = "dropout acts in lora(x) alone: while B is zero the output is the frozen layer's"
MERGE = "merge() adds scaling * B A to linear.weight and sets .merged"
MERGED_FORWARD = "merging does not change the output"
TWICE = "merging twice is merging once"
MERGE_ONCE = f"{MERGE}; a second merge() changes nothing"
UNMERGE = "unmerge() restores weight, output and .merged"
UNMERGE_ONLY = f"{UNMERGE}, and changes nothing where nothing is merged"
CONTINUES = "after unmerge() training goes on, and a new merge() takes the new update"
START = "a fresh parametrization changes nothing and can learn"
PARAMETRIZED = "forward(W) is W + (alpha / rank) * B A"
SWITCH = "with enabled = False forward returns W itself"
PROJECT_UP = "project_up(h, lora_B) is h B^T at any rank"
FOLD_IN = "fold_in leaves W + update in the layer, a zero update in the adapter, and the adapter able to train"
MAKE_FACTORS = "make_factors registers both factors, in the layer's dtype and on its device"

_RANKS = {"ranks": [0, 1]}

_VISIBLE = [
    Check("2.1/shapes", SHAPES, probe_initial, judge_shapes, fixed(1)),
    Check("2.1/initial", INITIAL, probe_random, judge_initial, fixed(1)),
    Check("2.1/scaling", SCALING, probe_scaling, judge_scaling, fixed(2)),
    Check("2.1/rank", BAD_RANK, probe_bad_rank, judge_bad_rank, lambda rng: _RANKS),
    Check(
        "2.2/forward",
        FORWARD_BACKWARD,
        probe_forward,
        either(judge_forward_backward),
        fixed(3, draw_with_gradients(draw_layer)),
    ),
    Check("2.2/leading", LEADING, probe_leading, either(judge_leading), fixed(3, rank_one(draw_layer))),
    Check("2.2/dropout", DROPOUT, probe_dropout, either(judge_dropout), fixed(4, draw_dropout)),
    Check("2.2/small", SMALL, probe_intermediates, either(judge_intermediates), fixed(4, draw_large)),
    Check("2.3/kept", WRAP, probe_wrap, judge_wrap, fixed(5, draw_wrapped), carry=CARRY),
    Check("2.3/frozen", FROZEN, probe_wrap, judge_frozen, fixed(5, draw_wrapped), carry=CARRY),
    Check("2.3/update", UPDATE, probe_update, judge_update, fixed(5, draw_wrapped), carry=CARRY),
    Check("2.3/type", NOT_LINEAR, probe_not_linear, judge_not_linear, carry=CARRY),
    Check(
        "2.4/sum",
        SUM_BACKWARD,
        probe_sum,
        either(judge_sum_backward),
        fixed(6, draw_with_gradients(draw_wrapped)),
        carry=CARRY,
    ),
    Check("2.4/fresh", FRESH, probe_fresh, either(judge_fresh), fixed(6, draw_wrapped_dropout), carry=CARRY),
    Check(
        "2.5/merge",
        MERGE_ONCE,
        probe_twice,
        either(judge_merged_once),
        fixed(7, steps("merge", "merge", "unmerge", dropout=0.2)),
        carry=CARRY,
    ),
    Check(
        "2.5/forward", MERGED_FORWARD, probe_merge, either(judge_merged_forward), fixed(8, steps("merge")), carry=CARRY
    ),
    Check(
        "2.5/unmerge",
        UNMERGE_ONLY,
        probe_merge,
        either(judge_unmerged_only),
        fixed(9, rank_one(steps("unmerge", "merge", "unmerge"))),
        carry=CARRY,
    ),
    Check(
        "2.5/continues",
        CONTINUES,
        probe_merge,
        either(judge_continues),
        fixed(9, steps("train", "merge", "unmerge", "train", "merge")),
        carry=CARRY,
    ),
    Check("2.6/value", PARAMETRIZED, probe_parametrization, judge_parametrized, fixed(10, draw_wrapped), carry=CARRY),
    Check("2.6/start", START, probe_parametrization, judge_start, fixed(10, draw_wrapped), carry=CARRY),
    Check("2.6/switch", SWITCH, probe_parametrization, judge_switch, fixed(10, draw_wrapped), carry=CARRY),
    Check("2.7/project_up", PROJECT_UP, probe_project_up, judge_project_up, fixed(11, draw_project_up)),
    Check("2.7/fold_in", FOLD_IN, probe_fold_in, either(judge_fold_in), fixed(12, draw_wrapped)),
    Check("2.7/make_factors", MAKE_FACTORS, probe_make_factors, judge_make_factors, fixed(13)),
]
VISIBLE = [replace(check, seconds=SECONDS) for check in _VISIBLE]
