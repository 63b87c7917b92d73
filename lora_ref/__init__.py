"""LoRA from scratch: the reference package behind the notebooks.

Importing it costs nothing: a name's module, and with it torch, transformers or matplotlib, is imported at first use. So
``python -m lora_ref doctor`` also runs where one of them is missing or broken.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors; at run time `__getattr__` does it
    from lora_ref.adapter_set import AdapterSet
    from lora_ref.adapters import load_adapter, save_adapter
    from lora_ref.inject import (
        enable_lora,
        freeze,
        inject_lora,
        lora_disabled,
        lora_layers,
        match_targets,
        merge_and_unload,
        merge_lora,
        replace_module,
        trainable_report,
        unload_lora,
        unmerge_lora,
    )
    from lora_ref.layers import LinearWithLoRA, LoRALayer

__version__ = "0.1.0"

__all__ = [
    "AdapterSet",
    "LinearWithLoRA",
    "LoRALayer",
    "enable_lora",
    "freeze",
    "inject_lora",
    "load_adapter",
    "lora_disabled",
    "lora_layers",
    "match_targets",
    "merge_and_unload",
    "merge_lora",
    "replace_module",
    "save_adapter",
    "trainable_report",
    "unload_lora",
    "unmerge_lora",
]

_MODULES = {
    "AdapterSet": "adapter_set",
    "LinearWithLoRA": "layers",
    "LoRALayer": "layers",
    "load_adapter": "adapters",
    "save_adapter": "adapters",
}  # the others are inject's


def __getattr__(name: str):
    if name in __all__:
        return getattr(importlib.import_module(f"lora_ref.{_MODULES.get(name, 'inject')}"), name)
    raise AttributeError(f"module 'lora_ref' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
