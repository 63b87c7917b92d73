"""Save an adapter without its base model, and load it into a fresh copy.

An adapter is the LoRA tensors and whatever else trains (the head). It goes into one safetensors file, or into a folder
as the PEFT library writes it. Files are read as safetensors and JSON only: nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_ref.adapter_file import (
    ADAPTER_FILE,
    FORMAT,
    adapter_parameters,
    is_finite,
    refuse_buffers,
    refuse_non_finite,
    write_adapter,
)
from lora_ref.adapter_file import scalings as _scalings
from lora_ref.files import whole_file
from lora_ref.inject import lora_layers, put_layers, refuse_injected
from lora_ref.layers import LinearWithLoRA
from lora_ref.peft_format import PREFIX, from_peft, to_peft
from lora_ref.places import plain_name, unwrapped
from lora_ref.stand_in import same_numbers, update_options

FORMATS = ("lora_ref", "peft")

PEFT_CONFIG, PEFT_TENSORS, PEFT_PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
#: What Trainer and ``save_pretrained`` call a model's weights.
MODEL_FILE = "model.safetensors"
#: Real configurations have a few kilobytes; a file from elsewhere may have any size.
MAX_CONFIG_BYTES = 1_000_000


class SavedAdapter(NamedTuple):
    """What a file holds: tensors by parameter name, each `LoRALayer`'s scale (if the file says it), and dropout.

    Example:
        >>> import tempfile
        >>> from lora_ref import inject_lora
        >>> model = inject_lora(nn.Sequential(nn.Linear(4, 2)), ["0"], rank=1, alpha=2)
        >>> path = save_adapter(model, Path(tempfile.mkdtemp()) / "adapter.safetensors")
        >>> saved = read_adapter(model, path)
        >>> saved.scaling, saved.dropout
        ({'0.lora': 2.0}, 0.0)
    """

    tensors: dict[str, Tensor]
    scaling: dict[str, float]
    dropout: float


# --- save -----------------------------------------------------------------------------------------------------------


def save_adapter(model: nn.Module, path: str | os.PathLike, format: str = "lora_ref") -> Path:
    """Write the model's adapter to ``path``; returns the path.

    A file appears whole or not at all.

    Args:
        model: has LoRA layers; what else trains in it is the head.
        path: with ``"lora_ref"`` one safetensors file; with ``"peft"`` a folder, made if need be, with the two files
            that ``PeftModel.from_pretrained`` loads.
        format: ``"lora_ref"`` or ``"peft"``.

    Raises:
        ValueError: the model has no LoRA layers, there is no such format, a tensor holds NaN or infinity, or PEFT's
            format cannot hold this adapter.
        OSError: the file can't be written, or ``path`` is a folder where a file should be.

    Example:
        >>> import tempfile
        >>> from lora_ref import inject_lora
        >>> from lora_ref.models import tiny_roberta
        >>> model, folder = inject_lora(tiny_roberta(), ["query", "value"], rank=4), Path(tempfile.mkdtemp())
        >>> save_adapter(model, folder / "adapter.safetensors").name
        'adapter.safetensors'
        >>> sorted(path.name for path in save_adapter(model, folder / "for_peft", format="peft").iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    if format not in FORMATS:
        raise ValueError(f"no format {format!r}; there are {', '.join(map(repr, FORMATS))}")
    if not _scalings(model):
        raise ValueError(f"{type(model).__name__} has no LoRA layers: inject them before saving")
    for name, scaling in _scalings(model).items():
        if not math.isfinite(scaling):
            raise ValueError(f"the scaling of {name} is {scaling}")
    path = Path(path)
    if format == "peft":
        config, tensors = to_peft(model)
        refuse_non_finite(tensors)
        path.mkdir(parents=True, exist_ok=True)
        with whole_file(path / PEFT_TENSORS) as unfinished:
            save_file(tensors, unfinished, metadata={"format": "pt"})
        with whole_file(path / PEFT_CONFIG) as unfinished:
            unfinished.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")
        return path
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it, or write PEFT's with format='peft'")
    refuse_buffers(model)
    write_adapter(model, path, save_file)
    return path


# --- load -----------------------------------------------------------------------------------------------------------


def load_adapter(model: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Load an adapter into ``model``, which has been injected as the saved one was; returns the model.

    Everything is checked before the first tensor changes. ``path`` is a file of `save_adapter`'s, a folder that PEFT
    (or ``save_adapter(..., format="peft")``) wrote, or a checkpoint: a folder of ``save_pretrained``'s, Trainer's or
    `fine_tune`'s, or its ``model.safetensors``. With a folder, a model without LoRA layers is injected as the files
    say, and is frozen but for the adapter.

    Raises:
        FileNotFoundError: there is no such file, or one is missing in the folder.
        ValueError: the file is not safetensors; a tensor is missing, unexpected, not finite or has another shape; a
            layer's scaling differs, with which the same tensors would give other outputs; a checkpoint has another base
            model; the model is merged; or PEFT's configuration asks for what is not supported here (the message names
            the field). The model is then as it was.

    Example:
        >>> import tempfile
        >>> from lora_ref import inject_lora
        >>> from lora_ref.models import tiny_roberta
        >>> trained = inject_lora(tiny_roberta(seed=0), ["query"], rank=2)
        >>> path = save_adapter(trained, Path(tempfile.mkdtemp()) / "adapter.safetensors")
        >>> fresh = load_adapter(inject_lora(tiny_roberta(seed=0), ["query"], rank=2), path)
        >>> all(torch.equal(p, adapter_parameters(fresh)[name]) for name, p in adapter_parameters(trained).items())
        True
        >>> load_adapter(inject_lora(tiny_roberta(), ["query"], rank=3), path)
        Traceback (most recent call last):
            ...
        ValueError: adapter.safetensors does not fit this model:
          shape of roberta.encoder.layer.0.attention.self.query.lora.lora_A: file (2, 32), model (3, 32)
          ...
    """
    path, inner = Path(path), unwrapped(model)
    refuse_merged(inner)
    saved = read_adapter(inner, path)
    if path.is_dir() and not lora_layers(inner):
        inject_saved(inner, saved, path.name)
        return model
    expected = adapter_parameters(inner)
    updates = [name for name in saved.tensors if name.endswith(("lora_A", "lora_B"))]
    if updates and not _scalings(inner) and expected.keys().isdisjoint(updates):
        raise ValueError(
            f"{path.name} does not fit this model, which has no LoRA layers (unexpected: {updates[0]}): inject them as "
            "in the saved model, then load it"
        )
    _check_fits(expected, _scalings(inner), saved, path.name)
    _copy(saved, inner)
    return model


def read_adapter(model: nn.Module, path: str | os.PathLike) -> SavedAdapter:
    """Read a file of either format, in the names that ``model`` has, or would have once it is injected.

    Nothing is changed. Errors as in `load_adapter`, except that whether the tensors fit is not looked at yet.

    Example:
        >>> import tempfile
        >>> from lora_ref import inject_lora
        >>> model = inject_lora(nn.Sequential(nn.Linear(4, 2)), ["0"], rank=1)
        >>> path = save_adapter(model, Path(tempfile.mkdtemp()) / "adapter.safetensors")
        >>> {name: tuple(tensor.shape) for name, tensor in read_adapter(model, path).tensors.items()}
        {'0.lora.lora_A': (1, 4), '0.lora.lora_B': (2, 1)}
    """
    path = Path(path)
    if path.is_dir() and not (path / PEFT_CONFIG).exists() and (path / ADAPTER_FILE).exists():
        path = path / ADAPTER_FILE  # beside the plain model, in a folder of `lora_ref.pretrained.save_pretrained`
    elif path.is_dir() and not (path / PEFT_CONFIG).exists() and (path / MODEL_FILE).exists() and lora_layers(model):
        path = path / MODEL_FILE  # Trainer's, of a model that is not transformers'
    if path.is_dir():
        config = _read_config(path / PEFT_CONFIG)
        if not (path / PEFT_TENSORS).is_file() and (path / PEFT_PICKLE).is_file():
            raise ValueError(
                f"{path.name} holds {PEFT_PICKLE}, a pickle, which could run anything when it is read: save it again "
                "with PEFT's `save_pretrained(..., safe_serialization=True)`"
            )
        tensors, _ = _read_tensors(path / PEFT_TENSORS)
        return SavedAdapter(*from_peft(model, config, tensors))
    tensors, metadata = _read_tensors(path)
    if tensors and all(name.startswith(PREFIX) for name in tensors):
        raise ValueError(f"{path.name} is PEFT's: give its folder, where {PEFT_CONFIG} says what the tensors mean")
    if metadata.get("format") != FORMAT:
        tensors = _of_the_adapter(model, tensors, path.name)
    return SavedAdapter(tensors, _saved_scalings(metadata), 0.0)


def _of_the_adapter(model: nn.Module, tensors: dict[str, Tensor], title: str) -> dict[str, Tensor]:
    """The adapter's tensors out of a checkpoint's, which has the whole model's.

    A layer's weight is in it as ``NAME.linear.weight``; where `lora_ref.pretrained.plain_state` wrote it, as
    ``NAME.weight`` too, with the update added.

    Raises:
        ValueError: a weight is not this model's.
    """
    inner = unwrapped(model)
    layers = {plain_name(name): layer for name, layer in lora_layers(inner).items()}
    merged = {f"{name}.weight" for name in layers if f"{name}.weight" in tensors}
    for name in (weight.removesuffix(".weight") for weight in merged):
        A, B = (tensors.get(f"{name}.lora.lora_{letter}") for letter in "AB")
        if A is None or B is None:
            raise ValueError(f"{title} is a whole model, and {name!r} has no A and B of its own in it: nothing to load")
        linear, scaling = layers[name].linear, layers[name].lora.scaling
        if (*B.shape[:1], *A.shape[1:]) != linear.weight.shape or B.shape[1:] != A.shape[:1]:
            continue  # the shapes are looked at later
        if not same_numbers(
            tensors[f"{name}.weight"], linear.weight.cpu() + scaling * (B @ A).to("cpu", linear.weight.dtype)
        ):
            raise ValueError(
                f"{title} does not fit this model:\n  {name}.weight: the file's is not this model's with the update in "
                f"it; the base model differs, or the scaling, which is {scaling:g} here"
            )
    own = adapter_parameters(inner)
    base = {plain_name(name): t for name, t in inner.state_dict().items() if plain_name(name) not in own}
    for name in base.keys() & tensors.keys():
        if not merged and not same_numbers(tensors[name], base[name]):
            raise ValueError(f"{title} does not fit this model:\n  {name} differs: it is of another base model")
    outside = base.keys() | {name.replace(".linear.", ".") for name in base}
    return {name: tensor for name, tensor in tensors.items() if name not in outside}


def inject_saved(model: nn.Module, saved: SavedAdapter, title: str) -> nn.Module:
    """Freeze ``model``, give it the LoRA layers that ``saved`` has tensors for, and load them; returns the model.

    Raises:
        ValueError: as in `load_adapter`; the message starts with ``title``, and the model is as it was.

    Example:
        >>> import tempfile
        >>> from lora_ref import inject_lora
        >>> model = inject_lora(nn.Sequential(nn.Linear(4, 2)), ["0"], rank=1)
        >>> saved = read_adapter(model, save_adapter(model, Path(tempfile.mkdtemp()) / "adapter.safetensors"))
        >>> inject_saved(nn.Sequential(nn.Linear(4, 2)), saved, "adapter.safetensors")[0].lora
        LoRALayer(
          in_features=4, out_features=2, rank=1, scaling=16
          (dropout): Dropout(p=0.0, inplace=False)
        )
    """
    refuse_injected(model)
    if not saved.scaling:
        raise ValueError(f"{title} does not say its layers' scaling: inject them yourself, then load it")
    linears = {plain_name(name): m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    names = {layer: layer.removesuffix(".lora") for layer in saved.scaling}
    expected: dict[str, Tensor] = {}
    ranks = {}
    for layer, name in names.items():
        if name not in linears or name == layer:
            raise ValueError(f"{title} does not fit this model: it has no linear layer {name!r}")
        A = saved.tensors.get(f"{layer}.lora_A", torch.empty(1, 0))
        ranks[name] = max(1, len(A)) if A.ndim == 2 else 1  # another shape is found below
        options = update_options(linears[name])
        expected[f"{layer}.lora_A"] = torch.empty(ranks[name], linears[name].in_features, **options)
        expected[f"{layer}.lora_B"] = torch.empty(linears[name].out_features, ranks[name], **options)
    head = {plain_name(name): p for name, p in model.named_parameters() if plain_name(name) in saved.tensors}
    expected |= head
    _check_fits(expected, saved.scaling, saved, title)

    adapted_layers = {}
    for layer, name in names.items():
        new = LinearWithLoRA(linears[name], ranks[name], saved.scaling[layer] * ranks[name], saved.dropout)
        new.lora.scaling = saved.scaling[layer]  # (s * r) / r may miss s by the last bit
        adapted_layers[name] = new
    put_layers(model, adapted_layers)
    for parameter in head.values():
        parameter.requires_grad_(True)
    return _copy(saved, model)


def refuse_merged(model: nn.Module) -> None:
    """Raise a ValueError while an update is part of its weight: a new one would come on top of it.

    Example:
        >>> from lora_ref import inject_lora, merge_lora
        >>> refuse_merged(inject_lora(nn.Sequential(nn.Linear(4, 2)), ["0"], rank=1))
        >>> refuse_merged(merge_lora(inject_lora(nn.Sequential(nn.Linear(4, 2)), ["0"], rank=1)))
        Traceback (most recent call last):
            ...
        ValueError: 1 LoRA layers are merged (0 and on): call unmerge_lora(model) first
    """
    merged = [name for name, layer in lora_layers(model).items() if layer.merged]
    if merged:
        raise ValueError(f"{len(merged)} LoRA layers are merged ({merged[0]} and on): call unmerge_lora(model) first")


def _check_fits(expected: Mapping[str, Tensor], scaling: Mapping[str, float], saved: SavedAdapter, title: str) -> None:
    """Raise a ValueError that lists what differs between the tensors that a model has and those of a file."""
    problems = [f"missing: {name}" for name in expected if name not in saved.tensors]
    problems += [f"unexpected: {name}" for name in saved.tensors if name not in expected]
    for name, own in expected.items():
        tensor, dtype = saved.tensors.get(name), own.dtype
        if tensor is None:
            continue
        if tensor.shape != own.shape:
            problems.append(f"shape of {name}: file {tuple(tensor.shape)}, model {tuple(own.shape)}")
        elif own.is_meta:
            problems.append(f"{name} is on the meta device in the model, which holds no numbers")
        elif not (tensor.is_floating_point() or tensor.is_complex()) or (tensor.is_complex() and not dtype.is_complex):
            problems.append(f"type of {name}: file {tensor.dtype}, model {dtype}")
        elif is_finite(tensor) and not is_finite(tensor.to(dtype)):
            problems.append(f"{name} holds numbers that are too large for the model's {dtype}")
    problems += [f"{name} holds NaN or infinity" for name, t in saved.tensors.items() if not is_finite(t)]
    problems += [
        f"scaling of {name}: file {saved.scaling[name]:g}, model {value:g}"
        for name, value in scaling.items()
        # PEFT's file has alpha, and alpha / rank may miss our scaling by the last bit
        if name in saved.scaling and not math.isclose(saved.scaling[name], value, rel_tol=1e-12)
    ]
    if problems:
        shown = "\n  ".join(problems[:8]) + (f"\n  and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ValueError(f"{title} does not fit this model:\n  {shown}")


@torch.no_grad()
def _copy(saved: SavedAdapter, model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if plain_name(name) in saved.tensors:
            parameter.copy_(saved.tensors[plain_name(name)])
    return model


# --- files ----------------------------------------------------------------------------------------------------------


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    if not path.is_file():
        raise FileNotFoundError(f"no adapter file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            # copies: what safetensors gives is mapped to the file, which Windows then neither replaces nor removes
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, and nothing else is read: {error}") from None


def _read_config(path: Path) -> dict:
    """PEFT's configuration, still to be checked."""
    if not path.is_file():
        inside = sorted(config.parent.name for config in path.parent.glob(f"*/{PEFT_CONFIG}"))
        note = f"; there is one in each of its folders {', '.join(map(repr, inside))}: name one" if inside else ""
        raise FileNotFoundError(f"no adapter configuration at {path}{note}")
    with path.open("rb") as file:
        text = file.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_CONFIG_BYTES:,} bytes")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return config


def _saved_scalings(metadata: dict[str, str]) -> dict[str, float]:
    """What a file of `save_adapter` says of its layers' scales; nothing for a file from elsewhere.

    Raises:
        ValueError: it does not say it as `save_adapter` writes it.
    """
    if metadata.get("format") != FORMAT:
        return {}
    try:
        scalings = json.loads(metadata.get("scaling", ""))
    except (ValueError, RecursionError):
        scalings = None
    if not isinstance(scalings, dict) or not all(
        isinstance(value, (int, float)) and math.isfinite(value) for value in scalings.values()
    ):
        raise ValueError("the file's metadata does not give its layers' scaling as a JSON object of numbers")
    return scalings
