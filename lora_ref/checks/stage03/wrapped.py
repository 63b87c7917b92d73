"""Wrapped layers in a model, whoever made them: what exercise 3.4 looks for after the injection."""

from __future__ import annotations

from typing import Any

from torch import nn

from lora_ref.checks.probing import Names
from lora_ref.checks.stage03.shared import at, build
from lora_ref.checks.verdicts import Inputs


def is_wrapper(module: Any) -> bool:
    """A module that holds a linear layer and an update of it, by the contract's names."""
    lora = getattr(module, "lora", None)
    return hasattr(module, "linear") and hasattr(lora, "lora_A") and hasattr(lora, "lora_B")


def wrappers(model: nn.Module) -> dict[str, Any]:
    """The wrapped layers by name."""
    return {name: module for name, module in model.named_modules() if is_wrapper(module) and at(model, name) is module}


def injected(names: Names, inputs: Inputs) -> tuple[nn.Module, Any]:
    """The model after the student's inject_lora, and what it returned."""
    model = build(inputs)
    result = names.inject_lora(model, list(inputs["targets"]), **inputs["options"])
    return model, result


def of_lora(name: str) -> bool:
    """Whether a parameter's name is that of an update's matrix."""
    return name.endswith(("lora_A", "lora_B"))
