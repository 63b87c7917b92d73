"""Save an adapter without its base model, and load it into a fresh copy.

An adapter is the LoRA tensors and whatever else trains (the head); it goes into one safetensors file. Files are read as
safetensors only: nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_ref.layers import LoRALayer

FORMAT = "lora_ref adapter 1"


def adapter_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters an adapter consists of, by name: LoRA's, and all others that train."""
    lora = {id(p) for m in model.modules() if isinstance(m, LoRALayer) for p in m.parameters()}
    return {name: p for name, p in model.named_parameters() if p.requires_grad or id(p) in lora}


def save_adapter(model: nn.Module, path: str | os.PathLike) -> Path:
    """Write the model's adapter to ``path``, one safetensors file; returns the path.

    The file appears whole or not at all.

    Raises:
        ValueError: the model has no LoRA layers.
    """
    if not _scalings(model):
        raise ValueError(f"{type(model).__name__} has no LoRA layers: inject them before saving")
    path = Path(path)
    tensors = {name: p.detach().cpu().contiguous() for name, p in adapter_parameters(model).items()}
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, unfinished, metadata={"format": FORMAT, "scaling": json.dumps(_scalings(model))})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def load_adapter(model: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Load an adapter into ``model``, which has been injected as the saved one was; returns the model.

    Everything is checked before the first tensor changes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not safetensors; a tensor is missing, unexpected or has another shape; or a layer's
            scaling differs, with which the same tensors would give other outputs. The model is then as it was.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no adapter file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    expected = adapter_parameters(model)
    problems = [f"missing: {name}" for name in expected if name not in saved]
    problems += [f"unexpected: {name}" for name in saved if name not in expected]
    problems += [
        f"shape of {name}: file {tuple(saved[name].shape)}, model {tuple(p.shape)}"
        for name, p in expected.items()
        if name in saved and saved[name].shape != p.shape
    ]
    ours = _scalings(model)
    theirs = json.loads(metadata["scaling"]) if metadata.get("format") == FORMAT else ours
    problems += [
        f"scaling of {name}: file {theirs[name]:g}, model {value:g}"
        for name, value in ours.items()
        if name in theirs and theirs[name] != value
    ]
    if problems:
        shown = "\n  ".join(problems[:8]) + (f"\n  and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ValueError(f"{path.name} does not fit this model:\n  {shown}")
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(saved[name])
    return model


def _scalings(model: nn.Module) -> dict[str, float]:
    return {name: float(m.scaling) for name, m in model.named_modules() if isinstance(m, LoRALayer)}
