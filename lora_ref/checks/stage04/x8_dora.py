"""Exercise 4.8, optional: DoRA as a weight parametrization."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation, close, error_fault
from lora_ref.rounding import number

FACTORS = ("lora_A", "lora_B", "lora_length")


def draw_weight(rng: np.random.Generator) -> Inputs:
    """A weight whose rows and columns have other lengths, factors that change it much, lengths that are not its own."""
    out, columns, rank = (int(n) for n in (rng.integers(5, 8), rng.integers(9, 12), rng.integers(2, 5)))
    return {
        "W": rng.normal(size=(out, columns)) * rng.uniform(0.5, 2, size=(out, 1)),
        "rank": rank,
        "alpha": float(rank * rng.choice([1.5, 2.5, 3.0])),
        "lora_A": rng.normal(size=(rank, columns)),
        "lora_B": rng.normal(size=(out, rank)),
        "lora_length": rng.uniform(0.5, 3, size=(out, 1)),
        "G": rng.normal(size=(out, columns)),
        "x": rng.normal(size=(3, columns)),
        "b": rng.normal(size=out),
    }


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def shapes_of(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(p.shape) for name, p in module.named_parameters() if p.requires_grad}


@torch.no_grad()
def fill(module: nn.Module, inputs: Inputs) -> None:
    """Give the three parameters the inputs' values."""
    for name in FACTORS:
        getattr(module, name).copy_(tensor(inputs[name]))


def probe_fresh(names: Names, **inputs: Any) -> dict:
    """A parametrization as it is built from a frozen weight, and its gradients at the start."""
    W = nn.Parameter(tensor(inputs["W"]), requires_grad=False)
    module = names.DoRA(W, inputs["rank"], inputs["alpha"])

    def start() -> dict:
        out = module(W)
        (out * tensor(inputs["G"])).sum().backward()
        return {"W": array(out), "zero": not module.lora_B.any()}

    out = attempt(start)
    gradients = {name: float(p.grad.abs().max()) for name, p in module.named_parameters() if p.grad is not None}
    again = names.DoRA(W, inputs["rank"], inputs["alpha"])
    return {
        "shapes": shapes_of(module),
        "length": array(getattr(module, "lora_length", torch.zeros(0))),
        "A": [array(one.lora_A) if hasattr(one, "lora_A") else None for one in (module, again)],
        "out": out,
        "gradients": gradients,
    }


def probe_forward(names: Names, **inputs: Any) -> dict:
    """With known values in A, B and the lengths: the weight that comes out, and each gradient."""
    W = tensor(inputs["W"])
    module = names.DoRA(W.clone(), inputs["rank"], inputs["alpha"])
    fill(module, inputs)
    given = W.clone()
    out = module(given)
    seen: dict[str, Any] = {"W": array(out), "given": array(given)}
    (out * tensor(inputs["G"])).sum().backward()
    seen["gradients"] = {
        name: None if p.grad is None else array(p.grad) for name, p in module.named_parameters() if name in FACTORS
    }
    return seen


def probe_layer(names: Names, **inputs: Any) -> dict:
    """In a frozen nn.Linear: output, what trains, and a training step."""
    out, columns = inputs["W"].shape
    linear: Any = nn.Linear(columns, out)  # a parametrization gives it attributes that nn.Linear has not
    with torch.no_grad():
        linear.weight.copy_(tensor(inputs["W"]))
        linear.bias.copy_(tensor(inputs["b"]))
    linear.requires_grad_(False)
    parametrize.register_parametrization(linear, "weight", names.DoRA(linear.weight, inputs["rank"], inputs["alpha"]))
    trains = [name.rpartition(".")[2] for name, p in linear.named_parameters() if p.requires_grad]
    fill(linear.parametrizations.weight[0], inputs)
    x = tensor(inputs["x"])
    y = linear(x)
    y.square().sum().backward()
    with torch.no_grad():
        for p in linear.parameters():
            if p.requires_grad and p.grad is not None:
                p -= 0.01 * p.grad
    original = array(linear.parametrizations.weight.original)
    return {"trains": sorted(trains), "y": array(y), "trained": array(linear(x)), "original": original}


def turned(inputs: Inputs, scaling: float | None = None) -> np.ndarray:
    scaling = inputs["alpha"] / inputs["rank"] if scaling is None else scaling
    return inputs["W"] + scaling * inputs["lora_B"] @ inputs["lora_A"]


def lengths(W: np.ndarray, axis: int = 1) -> np.ndarray:
    return np.linalg.norm(W, axis=axis, keepdims=True)


def weight_of(inputs: Inputs) -> np.ndarray:
    """A length for each row, times the direction of that row of W + scaling B A."""
    V = turned(inputs)
    return inputs["lora_length"] * V / lengths(V)


def gradients_of(inputs: Inputs, constant: bool = True) -> dict[str, np.ndarray]:
    """Of the sum of G times the weight; with the norm as a constant, or with its own part."""
    V, scaling = turned(inputs), inputs["alpha"] / inputs["rank"]
    norm, G = lengths(V), inputs["G"]
    to_V = inputs["lora_length"] * G / norm
    if not constant:
        to_V = to_V - inputs["lora_length"] * (G * V).sum(1, keepdims=True) * V / norm**3
    return {
        "lora_A": scaling * inputs["lora_B"].T @ to_V,
        "lora_B": scaling * to_V @ inputs["lora_A"].T,
        "lora_length": (G * V).sum(1, keepdims=True) / norm,
    }


def judge_parameters(inputs: Inputs, seen: Observation) -> Fault | None:
    out, columns = inputs["W"].shape
    wanted = {"lora_A": [inputs["rank"], columns], "lora_B": [out, inputs["rank"]], "lora_length": [out, 1]}
    shapes = seen["shapes"]
    if shapes != wanted:
        shown = ", ".join(f"{name} {tuple(shape)}" for name, shape in sorted(shapes.items())) or "none"
        likely = "each of the three is an nn.Parameter; W itself is frozen, and is none of them"
        if shapes.get("lora_length") in ([1, columns], [columns]):
            likely = "that is a length for each column: norm(dim=1, keepdim=True) has one for each row"
        elif shapes.get("lora_length") == [out]:
            likely = "keepdim=True keeps the second dimension, so that a length meets all of its row"
        asked = ", ".join(f"{name} {tuple(shape)}" for name, shape in wanted.items())
        return Fault(f"trainable parameters {shown}; expected {asked}", likely)
    if not close(seen["length"], lengths(inputs["W"])):
        likely = "norm() is the square root of the sum of squares" if (seen["length"] ** 2).any() else ""
        if close(seen["length"], lengths(inputs["W"]) ** 2):
            likely = "these are the squares of the lengths"
        elif close(seen["length"], np.ones((out, 1))):
            likely = "it starts at the lengths of W's own rows, not at 1"
        return Fault("lora_length is not the length of each row of W", likely)
    first, second = seen["A"]
    if not np.isfinite(first).all() or np.array_equal(first, second):
        return Fault("lora_A is the same in two new modules", "A starts random, as LoRA's does")
    return None


def judge_start(inputs: Inputs, seen: Observation) -> Fault | None:
    if "error" in seen["out"]:
        return error_fault(seen["out"]["error"])
    found = seen["out"]["W"]
    if not close(found, inputs["W"]):
        V = inputs["W"]
        likely = "with B at zero and lora_length the length of its rows the result must be W itself"
        if not seen["out"]["zero"]:
            likely = "B must start at zero"
        if found.shape == V.shape and close(found, V / lengths(V)):
            likely = "the direction alone: its rows have length 1, multiply by lora_length"
        elif found.shape == V.shape and close(found, V * lengths(V)):
            likely = "divide by the length of the rows before lora_length multiplies them"
        return Fault("a new parametrization changes the weight it is given", likely)
    if not 0 < seen["gradients"].get("lora_B", 0.0) < np.inf:
        return Fault("at the start no gradient reaches lora_B", "A and B both zero, or the graph is cut")
    return None


def judge_value(inputs: Inputs, seen: Observation) -> Fault | None:
    if not close(seen["given"], inputs["W"], 1e-6):
        return Fault("forward changed the W it was given", "write W + update, not W += update")
    found, expected = seen["W"], weight_of(inputs)
    if found.shape != expected.shape:
        return Fault(f"a weight of shape {found.shape}, expected {expected.shape}", "it has the shape of W")
    if close(found, expected):
        return None
    return Fault(f"the weight is off by up to {number(np.abs(found - expected).max())}", _value_cause(inputs, found))


def _value_cause(inputs: Inputs, found: np.ndarray) -> str:
    W, V, length = inputs["W"], turned(inputs), inputs["lora_length"]
    own = lengths(W)
    causes = {
        "divide by the length of W + scaling B A: its own, not that of W": length * V / own,
        "the rows are not divided by their length: turned / turned.norm(dim=1, keepdim=True)": length * V,
        "this divides by the length of columns: dim=1 runs along a row": length * V / lengths(V, 0),
        "this divides by the norm of the whole matrix: each row has its own, dim=1": length * V / np.linalg.norm(V),
        "lora_length is not used: it multiplies the rows' directions": V / lengths(V),
        "the lengths are those of W: forward reads lora_length, which trains": own * V / lengths(V),
        "W is missing from the sum W + scaling B A": length * (V - W) / lengths(V - W),
        "lora_length multiplies W alone: it scales the row of W + scaling B A": length * W / own + (V - W),
    }
    for scaling, cause in (
        (1.0, "the scale alpha / rank is missing"),
        (inputs["alpha"], "the division by rank is missing: the scale is alpha / rank"),
        (inputs["alpha"] / np.sqrt(inputs["rank"]), "the scale is alpha / rank, not alpha / sqrt(rank)"),
    ):
        other = turned(inputs, scaling)
        causes[cause] = length * other / lengths(other)
    return next((cause for cause, wrong in causes.items() if close(found, wrong, 1e-4)), "")


def judge_gradients(inputs: Inputs, seen: Observation) -> Fault | None:
    if not close(seen["W"], weight_of(inputs)):
        return Fault("the weight that comes out is another, so its gradients are too", ELSEWHERE)
    expected, full = gradients_of(inputs), gradients_of(inputs, constant=False)
    for name in FACTORS:
        found = seen["gradients"].get(name)
        if found is None:
            return Fault(f"no gradient reaches {name}", "the graph is cut too early: detach the norm alone")
        if not close(found, expected[name], 1e-4):
            likely = ""
            if close(found, full[name], 1e-4):
                likely = "the norm passes a gradient on; as a constant it needs detach() (DoRA's section 4.3)"
            elif not found.any():
                likely = "the graph is cut too early: detach the norm alone"
            return Fault(
                f"the gradient of {name} is off by up to {number(np.abs(found - expected[name]).max())}", likely
            )
    return None


def judge_layer(inputs: Inputs, seen: Observation) -> Fault | None:
    if seen["trains"] != sorted(FACTORS):
        return Fault(
            f"in a frozen layer {', '.join(seen['trains']) or 'nothing'} trains; expected {', '.join(FACTORS)}",
            "W must not become a parameter of the module: only its lengths are kept",
        )
    if not close(seen["y"], inputs["x"] @ weight_of(inputs).T + inputs["b"], 1e-4):
        return Fault("the layer's output is not x W'^T + b with DoRA's weight W'", ELSEWHERE)
    if not close(seen["original"], inputs["W"], 1e-6):
        return Fault("training changed the original weight", "write W + update, not W += update")
    if close(seen["trained"], seen["y"], 1e-6):
        return Fault("a training step changes nothing", "the weight is computed once and kept")
    return None


EXERCISE = Exercise(
    "4.8",
    "DoRA, as a parametrization",
    names=("DoRA",),
    checks=[
        Check(
            "4.8/parameters",
            "lora_A, lora_B and lora_length train; the lengths start as those of W's rows",
            probe_fresh,
            judge_parameters,
            draw_weight,
            seed=48,
        ),
        Check(
            "4.8/start", "a new parametrization gives W, and can learn", probe_fresh, judge_start, draw_weight, seed=48
        ),
        Check(
            "4.8/value",
            "each row has the direction of W + (alpha / rank) B A and the length in lora_length",
            probe_forward,
            judge_value,
            draw_weight,
            seed=48,
        ),
        Check(
            "4.8/gradients",
            "A, B and the lengths get their gradients, with the norm as a constant",
            probe_forward,
            judge_gradients,
            draw_weight,
            seed=48,
        ),
    ],
)
