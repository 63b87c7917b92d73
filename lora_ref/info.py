"""What ``python -m lora_ref info`` and ``doctor`` say: a profile, an adapter file, this machine. Nothing trains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from torch import nn

__all__ = ["doctor", "info"]


def info(options: argparse.Namespace) -> int:
    """Say what a profile has and needs, or what an adapter file holds; returns the exit status.

    Example::

        python -m lora_ref info --profile laptop
    """
    if options.adapter:
        return _adapter_info(options.adapter)
    from lora_ref import assets, profiles

    profile = profiles.get(options.profile or os.environ.get("LORA_PROFILE") or "laptop")
    print(f"profile {profile.name}: {profile.purpose}")
    print(f"  model: {profile.base_model}")
    sizes = f"{profile.train_size:,} / {profile.validation_size:,} / {profile.test_size:,}"
    print(f"  data: {profile.data}; {sizes} sentences (training / validation / test)")
    rates = ", ".join(f"{method} {rate:g}" for method, rate in profile.learning_rates.items())
    print(f"  training: {profile.epochs} epochs, batches of {profile.train_batch_size}, learning rates {rates}")
    model = profile.model_shapes()
    if model is None:
        print("  parameters: the encoder is not here yet; python -m lora_ref.assets fetches it")
    else:
        _print_counts(model)
    print(f"assets, in {assets.cache_dir()}:")
    for name, asset in assets.ASSETS.items():
        state = "here" if assets.cached(name) else f"not here ({asset.size / 1e6:.1f} MB to fetch)"
        print(f"  {name}: {state}; {asset.requirement}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Say what works on this machine; returns the exit status.

    Example::

        python -m lora_ref doctor --json
    """
    from lora_ref import doctor

    return doctor.main(options.json)


def _read_adapter(path: Path) -> dict[str, Any]:
    """What a safetensors file holds, by its header: the tensors are not even read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    file = path / "adapter_model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no adapter file at {file}")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
            shapes = {name: tuple(s.get_shape()) for name, s in slices.items()}
            dtypes = sorted({s.get_dtype() for s in slices.values()})
    except SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file: {error}") from None
    ours = {name.removeprefix("base_model.model."): shape for name, shape in shapes.items()}
    for peft, own in ((".lora_A.weight", ".lora.lora_A"), (".lora_B.weight", ".lora.lora_B")):
        ours = {name.removesuffix(peft) + own if name.endswith(peft) else name: s for name, s in ours.items()}
    return {"file": file, "shapes": ours, "metadata": metadata, "dtypes": dtypes}


def _adapter_info(path: Path) -> int:
    import json
    import math

    held = _read_adapter(path)
    shapes, file = held["shapes"], held["file"]
    count, size = sum(map(math.prod, shapes.values())), file.stat().st_size / 1e6
    print(f"{file}: {size:.2f} MB, {len(shapes)} tensors ({', '.join(held['dtypes'])}), {count:,} parameters")
    print(
        f"  format: {'PEFT, with adapter_config.json' if path.is_dir() else held['metadata'].get('format', 'not said')}"
    )
    try:
        scalings = dict(json.loads(held["metadata"].get("scaling", "{}")))
    except (ValueError, TypeError):
        scalings = {}
    groups: dict[tuple, int] = {}
    for name, shape in shapes.items():
        if name.endswith(".lora.lora_A") and len(shape) == 2:
            module = name.removesuffix(".lora.lora_A")
            out = shapes.get(f"{module}.lora.lora_B", ("?",))[0]
            key = (_family(module), *shape, out, str(scalings.get(f"{module}.lora", "not in this file")))
            groups[key] = groups.get(key, 0) + 1
    for (family, rank, into, out, scaling), number in groups.items():
        print(f"  LoRA on {number} x {family} ({into} -> {out}): rank {rank}, scaling {scaling}")
    for name, shape in shapes.items():
        if ".lora.lora_" not in name:
            print(f"  {name}: {' x '.join(map(str, shape))}")
    return 0


def _family(name: str) -> str:
    """A layer's name with a star for its number, so that a model's blocks are one line."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _print_counts(model: nn.Module) -> None:
    from torch import nn

    from lora_ref.costs import cost_table
    from lora_ref.training import ENCODER_LINEARS

    print("  parameters, and bytes of weights, gradients and AdamW's states (activations come on top):")
    for row in cost_table(model, ENCODER_LINEARS, [8]).to_dict("records"):
        name = "LoRA r=8, all linears" if row["method"] == "lora" else row["method"]
        print(f"    {name}: {row['trainable']:,} of {row['total']:,} train, {row['memory'] / 1e6:,.1f} MB")
    print("  linear layers, for --targets:")
    numbers: dict[tuple, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            key = (_family(name), module.in_features, module.out_features)
            numbers[key] = numbers.get(key, 0) + 1
    for (family, into, out), number in numbers.items():
        print(f"    {number} x {family} ({into} -> {out})")
