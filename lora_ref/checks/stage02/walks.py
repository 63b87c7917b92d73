"""Walks with several layers at once: three of two sizes, their steps, and the same layers in NumPy.

``a`` and ``b`` are square and alike in all but their values, so that state which is kept for both shows; ``c`` has no
bias, and a rank above its smaller side; ``e`` has sizes of 1, which are easily lost.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from lora_ref.checks.probing import array, describe_error
from lora_ref.checks.stage02.dropout import CHANGES_X
from lora_ref.checks.stage02.shared import LEARNING_RATE, factor, factor_of, set_factors, tensor
from lora_ref.checks.verdicts import Fault, Inputs, Observation, close, error_fault
from lora_ref.checks.walk import Step, step
from lora_ref.rounding import number

#: More than one block of 64, which is as many rows as some loops and caches expect.
ROWS = 70
#: How often those rows are repeated in the longest x.
COPIES = 16
#: What float64 holds, and nothing else: float32 has neither, and a bound or a rounding on the way shows.
SIZES = (1e60, 1e-60)


def draw_layers(rng: np.random.Generator) -> dict[str, Inputs]:
    """Sizes, scale and first values of the three layers."""
    square = int(rng.integers(5, 9))
    small, large = int(rng.integers(3, 5)), int(rng.integers(9, 12))
    sizes = {"a": (square, square, 2), "b": (square, square, 2), "c": (*rng.permutation([small, large]), small + 2)}
    sizes["e"] = (1, 1, 1)
    alpha, layers = float(rng.integers(3, 8)) + 0.5, {}
    for name, (in_features, out_features, rank) in sizes.items():
        layers[name] = {
            "in_features": int(in_features),
            "out_features": int(out_features),
            "rank": int(rank),
            "alpha": alpha if name != "c" else alpha + 1,
            "bias": name != "c",
            "W": rng.normal(size=(out_features, in_features)),
            "b": rng.normal(size=out_features),
            **draw_factors(rng, int(in_features), int(out_features), int(rank)),
        }
    return layers


def draw_factors(rng: np.random.Generator, in_features: int, out_features: int, rank: int) -> Inputs:
    return {"A": rng.normal(size=(rank, in_features)), "B": rng.normal(size=(out_features, rank))}


def new_values(rng: np.random.Generator, layers: dict[str, Inputs], on: str) -> Step:
    """A step that gives a layer other factors, as an optimiser does: in place."""
    layer = layers[on]
    values = draw_factors(rng, layer["in_features"], layer["out_features"], layer["rank"])
    return step("set", on, told="new values in A and B of", **values)


def call(
    rng: np.random.Generator, layers: dict[str, Inputs], on: str, *leading: int, mode: str = "train", **more: Any
) -> Step:
    """A step that calls a layer in one of its modes.

    More: ``size``, a factor of x; ``copies``, how many of x stand below each other; ``quiet``, without autograd.
    """
    x = rng.normal(size=(*leading, layers[on]["in_features"]))
    shown = f"x of shape {(len(x) * more.get('copies', 1), *x.shape[1:]) if x.ndim > 1 else x.shape}"
    shown += f", of a size of {more['size']:g}," if "size" in more else ""
    shown += (" in evaluation mode" if mode == "eval" else "") + (" without autograd" if more.get("quiet") else "")
    return step("call", on, told=f"{shown} through", x=x, mode=mode, **more)


def learn(rng: np.random.Generator, layers: dict[str, Inputs], on: str) -> Step:
    """A training step: backward from the sum of the output times some weights, then A and B move."""
    x, out_features = rng.normal(size=(ROWS, layers[on]["in_features"])), layers[on]["out_features"]
    return step("learn", on, told="a training step of", x=x, weights=rng.normal(size=(ROWS, out_features)) / ROWS)


def load(rng: np.random.Generator, layers: dict[str, Inputs], on: str) -> Step:
    """A step that gives the frozen layer other values, as a load does: in place."""
    W, b = (rng.normal(size=layers[on][key].shape) for key in ("W", "b"))
    return step("load", on, told="other values loaded into", W=W, b=b)


def draw_calls(rng: np.random.Generator, still: bool = False, base: bool = False) -> Inputs:
    """Layers and a row of calls, training steps and new values: for exercises 2.2 and 2.4.

    ``still``: with new values between two calls in evaluation mode; a wrapper may merge when eval() is called.
    ``base``: with other values of a frozen layer.
    """
    layers = draw_layers(rng)
    first, second = (str(n) for n in rng.permutation(["a", "b"]))
    one = call(rng, layers, first, ROWS)
    rest = [learn(rng, layers, first), one, new_values(rng, layers, first), one, learn(rng, layers, first), one]
    shapes: list[tuple[int, ...]] = [(), (2, 3), (0,), (1,), (2, 1)]
    others = [call(rng, layers, "c", *shape, mode=str(rng.choice(["train", "eval"]))) for shape in shapes]
    others += [new_values(rng, layers, "e"), call(rng, layers, "e", 4)]
    quiet = call(rng, layers, second, 4, quiet=True)
    others += [quiet, new_values(rng, layers, second), quiet, call(rng, layers, second, ROWS, copies=COPIES)]
    steps = [step("make", name) for name in "abce"]
    steps += [call(rng, layers, name, 4) for name in "cab"]
    steps += [new_values(rng, layers, name) for name in "abc"]
    steps += [call(rng, layers, name, 4) for name in "cab"]
    steps += [one, one, call(rng, layers, second, ROWS, mode="eval"), *rest, *others, learn(rng, layers, second)]
    steps += [one, {**one, "mode": "eval"}]
    steps += [new_values(rng, layers, first), {**one, "mode": "eval"}] * still
    steps += [load(rng, layers, first), one] * base
    steps += [step("copy", first, told="copy.deepcopy of")] * base
    steps += [step("double", "c", told="double() of"), call(rng, layers, "c", 4)]
    steps += [call(rng, layers, "c", 4, size=size) for size in SIZES]
    return {"layers": layers, "steps": steps}


def act(made: dict[str, Any], one: Step, lora: Any = lambda layer: layer) -> dict:
    """Take one of the steps that a layer and a wrapper have in common.

    Args:
        made: the layers so far.
        one: the step.
        lora: where the update is in one of them.
    """
    layer = made[one["on"]]
    if one["do"] == "set":
        set_factors(lora(layer), one)
        return {}
    if one["do"] == "double":
        layer.double()
        return {}
    if one["do"] == "copy":
        copy.deepcopy(layer)
        return {}
    if one["do"] == "load":
        with torch.no_grad():
            for parameter, key in ((layer.train().linear.weight, "W"), (layer.linear.bias, "b")):
                parameter.copy_(torch.tensor(one[key]))
        return {}
    A, B = (factor(lora(layer), name) for name in ("lora_A", "lora_B"))
    dtype, copies, size = A.dtype, one.get("copies", 1), one.get("size", 1.0)
    x = torch.tensor(one["x"] * size, dtype=dtype)
    if copies > 1:
        x = x.repeat(copies, 1)
    if one["do"] == "call":
        given = x.clone()
        try:
            if layer.training != (one["mode"] == "train"):  # or whoever keeps something until train() starts again
                layer.train(one["mode"] == "train")
            with torch.set_grad_enabled(not one.get("quiet")):
                layer(x.zero_())  # the same tensor, which then has other values
                y = layer(x.copy_(given))
        except RuntimeError as error:
            if not x.numel():
                return {"empty": describe_error(error)}
            if dtype == torch.float32:
                raise
            return {"refused": True}  # nobody promises that double() works; only that nothing is cast in silence
        kept, rows = bool(torch.equal(x, given)), len(one["x"]) if copies > 1 else None
        seen = {} if rows is None else {"rows": len(y), "apart": float((y[rows:] - y[:-rows]).detach().abs().max())}
        return seen | {
            "y": array(y[:rows] if rows else y) / size,
            "dtype": str(y.dtype),
            "wanted": str(dtype),
            "kept": kept,
            "mode": "training" if layer.training else "evaluation",
            "graph": bool(y.requires_grad),
        }
    A.grad = B.grad = None
    (layer.train()(x) * tensor(one["weights"])).sum().backward()
    gradients = {}
    for name, parameter in (("A", A), ("B", B)):
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradients[name] = array(grad)
    with torch.no_grad():
        for parameter in (A, B):
            if parameter.grad is not None:
                parameter -= LEARNING_RATE * parameter.grad
    return gradients


class Beside:
    """The same layer in NumPy.

    Attributes:
        base: whether the frozen layer's output is part of it.
        times: the factor by which its update is off, where another check has said so.
    """

    def __init__(self, layer: Inputs, base: bool):
        self.W, self.b = layer["W"], layer["b"] if layer["bias"] else np.zeros(layer["out_features"])
        self.A: Any = None
        self.B: Any = None
        self.base, self.times = base, 1.0
        self.scaling = layer["alpha"] / layer["rank"]

    def output(self, x: np.ndarray, A: Any = None, B: Any = None) -> np.ndarray:
        """What comes out, with factors of another time if they are given."""
        A, B = (self.A, self.B) if A is None else (A, B)
        y = np.zeros((*x.shape[:-1], len(self.W)))
        if A is not None:  # nobody has set it: B is zero
            y = y + self.times * self.scaling * (x @ A.T @ B.T)
        return y + self.frozen(x)

    def frozen(self, x: np.ndarray) -> np.ndarray:
        return x @ self.W.T + self.b if self.base else np.zeros((*x.shape[:-1], len(self.W)))

    def gradients(self, x: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        scale = self.times * self.scaling
        return {"A": scale * (weights @ self.B).T @ x, "B": scale * weights.T @ (x @ self.A.T)}


class Calls:
    """Judges `draw_calls`, step by step (`lora_ref.checks.walk.first_parting`)."""

    def __init__(self, inputs: Inputs, base: bool):
        self.layers = {name: Beside(layer, base) for name, layer in inputs["layers"].items()}
        self.earlier: dict[str, list[tuple[Any, Any]]] = {name: [] for name in self.layers}
        self.called: set[str] = set()
        self.loaded: set[str] = set()

    def __call__(self, one: Step, outcome: Observation) -> Fault | None:
        if one["do"] == "set":
            self._move(one["on"], one["A"], one["B"])
        elif one["do"] == "load":
            layer = self.layers[one["on"]]
            layer.W, layer.b = one["W"], one["b"]
            self.loaded.add(one["on"])
        elif one["do"] == "learn":
            return self._learn(one, outcome)
        elif one["do"] == "call" and "refused" not in outcome:
            return self._call(one, outcome)
        return None

    def _move(self, name: str, A: np.ndarray, B: np.ndarray) -> None:
        layer = self.layers[name]
        if layer.A is not None:
            self.earlier[name].append((layer.A, layer.B))
        layer.A, layer.B = A, B

    def _learn(self, one: Step, outcome: Observation) -> Fault | None:
        layer, moved = self.layers[one["on"]], {}
        for name, wanted in layer.gradients(one["x"], one["weights"]).items():
            found = outcome[name]
            found = found.T if found.shape == wanted.shape[::-1] != wanted.shape else found
            if not np.any(found):
                return Fault(f"no gradient reaches lora_{name}", "")
            if not close(found, wanted, 1e-3):
                return Fault(f"the gradient of lora_{name} is not the formula's", "")
            moved[name] = getattr(layer, name) - LEARNING_RATE * found
        self._move(one["on"], **moved)
        return None

    def _call(self, one: Step, outcome: Observation) -> Fault | None:
        if "empty" in outcome:
            return Fault(error_fault(outcome["empty"]).seen, "a batch may be empty, and the output then is, too")
        name, x, y = one["on"], one["x"], outcome["y"]
        layer = self.layers[name]
        if layer.A is not None and name not in self.called:
            self.called.add(name)
            times = factor_of(y - layer.frozen(x), layer.output(x) - layer.frozen(x))
            layer.times = 1.0 if times is None else times  # what scales all of it is another check's matter
        wanted = layer.output(x)
        if not outcome["kept"]:
            return CHANGES_X
        if y.shape != wanted.shape:
            return Fault(f"the output has shape {y.shape}, expected {wanted.shape}", "")
        if outcome["dtype"] != outcome["wanted"]:
            shown = f"the output is {outcome['dtype']}, where x and the layer are {outcome['wanted']}"
            return Fault(shown, "the result is cast: leave the dtype as it is")
        if not np.isfinite(y).all():
            likely = "float64 is computed in single precision on the way: leave the dtype as it is"
            return Fault("the output is not finite", likely if "size" in one else "")
        if "rows" in outcome and close(y, wanted, 1e-4):
            rows, apart = len(y) * one["copies"], outcome["apart"]
            if outcome["rows"] != rows or not apart <= 1e-4 * max(1.0, float(np.abs(wanted).max())):
                shown = f"the first {len(y)} rows of the output are right, and those below them are not"
                return Fault(shown, "large inputs are handled differently: are all rows computed?")
        if close(y, wanted, 1e-4):
            if (
                outcome["graph"] or one.get("quiet") or not x.size or (layer.base and outcome["mode"] == "evaluation")
            ):  # merged, perhaps
                return None
            likely = ""
            if outcome["mode"] == "evaluation":
                likely = "autograd is switched off in evaluation mode: leave that to the caller"
            elif layer.A is None:
                likely = "while B is zero the output must depend on it all the same, or B never learns"
            return Fault(f"in {outcome['mode']} mode no gradient can come back from the output", likely)
        if layer.A is None:
            wanted_of = "the frozen layer's" if layer.base else "zero"
            return Fault(f"B is zero, and the output is not {wanted_of}", self._cause(name, x, y))
        return Fault(f"the output is off by up to {number(np.abs(y - wanted).max())}", self._cause(name, x, y))

    def _cause(self, name: str, x: np.ndarray, y: np.ndarray) -> str:
        if name in self.loaded:
            return f"{name} computes with a copy of the weight or the bias: ask self.linear in each call"
        layer = self.layers[name]
        if layer.base and close(y, layer.output(x) - layer.frozen(x) + layer.frozen(0 * x), 1e-4):
            return "what the frozen layer gave for the same tensor is kept, and the tensor has other values by now"
        if any(close(y, self.layers[name].output(x, A, B), 1e-4) for A, B in self.earlier[name]):
            return f"{name} still computes with earlier values of lora_A or lora_B: read them again in each call"
        if not self.layers[name].base and not np.any(y):  # of a fresh layer
            return f"{name} still computes with earlier values of lora_A or lora_B: read them again in each call"
        for other, layer in self.layers.items():
            alike = layer.A is not None and layer.A.shape[1] == x.shape[-1]
            if other != name and alike and close(y, layer.output(x), 1e-4):
                return f"{name} computes with {other}'s values: what belongs to one layer is kept on self"
        return ""
