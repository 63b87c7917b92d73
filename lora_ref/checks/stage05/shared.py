"""Stage 05, what a trained update looks like: what several of its exercises use.

Layers are the package's own, with drawn A, B and frozen weight: non-square, of several ranks and scales, B never zero.
Every expected value is float64 NumPy's. A judge that finds a wrong number tries the mistakes that are likely and names
the one that gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lora_ref.checks.probing import array
from lora_ref.checks.verdicts import Fault, error_fault
from lora_ref.layers import LinearWithLoRA, LoRALayer

#: How closely singular values, beside the largest, and similarities are compared: a root of an eigenvalue (of
#: B^T B A A^T, say) keeps half of float32's digits.
SAME = 2e-3


#: The two kinds of layers that the contracts name.
KINDS = ("LoRALayer", "LinearWithLoRA")


def draw_update(
    rng: np.random.Generator, shape: tuple[int, int], rank: int, kind: str = "LinearWithLoRA", **options: Any
) -> dict[str, Any]:
    """What `build` makes a layer of: A, B with clearly separate singular values, a frozen weight and bias, alpha."""
    out_features, in_features = shape
    return {
        "kind": kind,
        "rank": rank,
        "alpha": float(rng.integers(2, 9)) * rank / 2 + 0.5,
        "A": separated(rng, rank, in_features),
        "B": separated(rng, rank, out_features, 0.5).T,
        "W": rng.normal(size=shape),
        "b": rng.normal(size=out_features),
        "merged": False,
        "rslora": False,
        **options,
    }


def separated(rng: np.random.Generator, rank: int, width: int, fall: float = 0.66) -> np.ndarray:
    """A (rank, width) matrix whose singular values fall by this factor each: its directions are well determined."""
    U, _, Vh = np.linalg.svd(rng.normal(size=(rank, width)), full_matrices=False)
    return (U * (3.0 * fall ** np.arange(len(Vh)))) @ Vh


def scaling_of(update: Mapping[str, Any]) -> float:
    return update["alpha"] / (update["rank"] ** 0.5 if update["rslora"] else update["rank"])


def delta_of(update: Mapping[str, Any]) -> np.ndarray:
    return scaling_of(update) * update["B"] @ update["A"]


@torch.no_grad()
def build(update: Mapping[str, Any]) -> LinearWithLoRA | LoRALayer:
    """The package's layer with these values."""
    out_features, in_features = update["W"].shape
    linear = torch.nn.Linear(in_features, out_features)
    linear.weight.copy_(torch.as_tensor(update["W"]))
    linear.bias.copy_(torch.as_tensor(update["b"]))
    layer = LinearWithLoRA(linear, update["rank"], update["alpha"], rslora=update["rslora"])
    layer.lora.lora_A.copy_(torch.as_tensor(update["A"]))
    layer.lora.lora_B.copy_(torch.as_tensor(update["B"]))
    if update["merged"]:
        layer.merge()
    return layer.lora if update["kind"] == "LoRALayer" else layer


def state_of(layer: Any) -> dict[str, Any]:
    """What looking at a layer must leave as it is."""
    named, lora = list(layer.named_parameters()), getattr(layer, "lora", layer)
    state: dict[str, Any] = {name.rpartition(".")[2]: array(parameter) for name, parameter in named}
    state["scaling"] = float(lora.scaling)
    if lora is not layer:
        state |= {"merged": layer.merged, "enabled": layer.enabled}
    return state | {
        "requires_grad": [parameter.requires_grad for _, parameter in named],
        "dtype": [str(parameter.dtype) for _, parameter in named],
        "training": [module.training for module in layer.modules()],
        "grad": [parameter.grad is not None for _, parameter in named],
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name in before if name not in after or not np.array_equal(before[name], after[name])]


def touched_fault(names: list[str], which: str, otherwise: str) -> Fault:
    """What is other than before on ``which``; ``otherwise`` is the likely cause of other values."""
    likely = {
        "requires_grad": "requires_grad_(False) and detach_() act on the layer itself, which would not train any more; "
        ".detach() gives a new tensor",
        "dtype": "a layer's .double() converts the layer itself: convert what .detach() gives, or the product",
        "training": "eval() acts on the layer itself, and B A has no dropout to switch off",
        "grad": "backward() leaves gradients in the layer: nothing is trained here",
    }
    cause = next((likely[name] for name in likely if name in names), otherwise)
    return Fault(f"afterwards {which} a different {' and '.join(names)}", cause)


def value_of(result: Any) -> dict[str, Any]:
    """A tensor's values, or the type that was returned in its place."""
    return {"value": array(result)} if isinstance(result, torch.Tensor) else {"kind": type(result).__name__}


def error_on(error: Mapping[str, str], kind: str) -> Fault:
    """An error on one kind of layer, with what it means in this stage."""
    fault = error_fault(error)
    text, likely = str(error.get("text")), fault.likely
    if "has no attribute 'lora'" in text or "has no attribute 'linear'" in text:
        likely = "a LoRALayer is the update itself, a LinearWithLoRA has it as .lora: take either"
    elif "has no attribute 'lora_" in text or "has no attribute 'scaling'" in text:
        likely = "a LinearWithLoRA keeps its update as .lora; only a LoRALayer has lora_A itself"
    elif "has no attribute 'alpha'" in text or "has no attribute 'rank'" in text:
        likely = "the layer knows its scale: read .scaling"
    elif "must match the size" in text or "shapes cannot be multiplied" in text or "same size" in text:
        likely = "A is (rank, in), B is (out, rank), and ranks differ between layers: only B A has one shape"
    elif "requires grad" in text:
        likely = "the factors are trainable: .detach() before NumPy"
    return Fault(f"on a {kind}: {fault.seen}", likely)


TALL, WIDE = (13, 8), (7, 12)
