"""The adapter's own file: which tensors it consists of, and how they are written. To import this needs torch alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from lora_ref.files import whole_file
from lora_ref.layers import LoRALayer
from lora_ref.places import plain_name, unwrapped

FORMAT = "lora_ref adapter 1"
#: Beside ``model.safetensors`` in a folder that `lora_ref.pretrained.save_pretrained` wrote.
ADAPTER_FILE = "adapter.safetensors"
#: A `LoRALayer`'s parameters, both matrices.
LORA_NAMES = ("lora_A", "lora_B")


def adapter_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters an adapter consists of, by name: LoRA's, and all others that train.

    Names are those inside ``torch.compile``'s and ``DataParallel``'s wrappers.

    Example:
        >>> from lora_ref import inject_lora
        >>> from lora_ref.models import tiny_roberta
        >>> names = adapter_parameters(inject_lora(tiny_roberta(), ["query"], rank=2))
        >>> [name.removeprefix("roberta.encoder.") for name in names][:2]
        ['layer.0.attention.self.query.lora.lora_A', 'layer.0.attention.self.query.lora.lora_B']
        >>> len(names)  # two layers of A and B, and the head's four
        8
    """
    model = unwrapped(model)
    lora = {id(p) for m in model.modules() if isinstance(m, LoRALayer) for p in m.parameters()}
    return {plain_name(name): p for name, p in model.named_parameters() if p.requires_grad or id(p) in lora}


def scalings(model: nn.Module) -> dict[str, float]:
    """The scale of each `LoRALayer`, by name.

    Example:
        >>> from lora_ref import inject_lora
        >>> scalings(inject_lora(nn.ModuleDict({"fc": nn.Linear(4, 2)}), ["fc"], rank=1, alpha=2))
        {'fc.lora': 2.0}
    """
    layers = unwrapped(model).named_modules()
    return {plain_name(name): float(m.scaling) for name, m in layers if isinstance(m, LoRALayer)}


def write_adapter(model: nn.Module, path: Path, save_file: Callable) -> None:
    """Write the adapter as one safetensors file, whole or not at all; ``save_file`` is safetensors'.

    Raises:
        ValueError: a tensor is not finite, or is offloaded; the message names it.

    Example:
        >>> import tempfile
        >>> from lora_ref import inject_lora
        >>> from safetensors.torch import save_file
        >>> path = Path(tempfile.mkdtemp()) / "adapter.safetensors"
        >>> write_adapter(inject_lora(nn.ModuleDict({"fc": nn.Linear(4, 2)}), ["fc"], rank=1), path, save_file)
        >>> path.exists()
        True
    """
    tensors = on_cpu(_as_numbers(model, adapter_parameters(model)))
    refuse_non_finite(tensors)
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished, metadata={"format": FORMAT, "scaling": json.dumps(scalings(model))})
        _sort_metadata(unfinished)


def _as_numbers(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with A and B where they are computed from others (pruned, parametrized) in place of those."""
    for raw_name, layer in unwrapped(model).named_modules():
        if isinstance(layer, LoRALayer) and not layer._parameters.keys() >= set(LORA_NAMES):
            prefix = f"{plain_name(raw_name)}."
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
            tensors |= {prefix + name: getattr(layer, name) for name in LORA_NAMES}
    return tensors


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as a file takes them.

    Raises:
        ValueError: one is on the meta device, or in parts on several processes; the message names it.

    Example:
        >>> import torch
        >>> on_cpu({"A": torch.ones(1, device="meta")})
        Traceback (most recent call last):
            ...
        ValueError: A is on the meta device, which holds no numbers: load the model, or save it before it is offloaded
    """
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(
                f"{name} is on the meta device, which holds no numbers: load the model, or save it before it is "
                "offloaded"
            )
        leaf = name.rpartition(".")[2]
        is_flat = leaf == "_flat_param" or (leaf in LORA_NAMES and tensor.ndim != 2)  # FSDP's
        if hasattr(tensor, "full_tensor") or is_flat or not tensor.numel():  # DeepSpeed leaves an empty one
            raise ValueError(
                f"{name} is in parts, one on each process (FSDP, DeepSpeed, tensor parallelism): gather the whole "
                "state_dict, load it into a model that was injected in the same way, and save that"
            )
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def refuse_buffers(model: nn.Module) -> None:
    """Raise a ValueError that names a module that trains and has buffers of its own: an adapter holds parameters.

    Example:
        >>> refuse_buffers(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)))
        Traceback (most recent call last):
            ...
        ValueError: '1' trains and has buffers (num_batches_tracked, ...), which ...: save the model's state_dict
    """
    for name, module in unwrapped(model).named_modules():
        persistent = sorted(key for key in module._buffers.keys() - module._non_persistent_buffers_set)
        if isinstance(module, LoRALayer):
            continue  # pruned: its A and B are written as they are now
        if persistent and any(p.requires_grad for p in module.parameters(recurse=False)):
            buffers = ", ".join(persistent)
            raise ValueError(
                f"{plain_name(name)!r} trains and has buffers ({buffers}), which an adapter does not hold: save the "
                "model's state_dict"
            )


def refuse_non_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise a ValueError that names a tensor with NaN or infinity in it.

    Example:
        >>> import torch
        >>> refuse_non_finite({"A": torch.ones(2), "B": torch.tensor([float("nan")])})
        Traceback (most recent call last):
            ...
        ValueError: B holds NaN or infinity: the training that made it diverged
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ValueError(f"{name} holds NaN or infinity: the training that made it diverged")


def is_finite(tensor: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in it, whatever its dtype.

    Example:
        >>> import torch
        >>> is_finite(torch.ones(2).to(torch.float8_e4m3fn)), is_finite(torch.tensor([1, float("inf")]))
        (True, False)
    """
    return bool((tensor.double() if tensor.element_size() == 1 else tensor).isfinite().all())


def _sort_metadata(path: Path) -> None:
    """Make equal adapters equal files: safetensors writes the metadata's entries in an order that it draws."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # what follows stays where it is; spaces at the end are part of the format
            file.seek(8)
            file.write(text.ljust(size))
