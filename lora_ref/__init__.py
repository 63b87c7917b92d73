"""LoRA from scratch: the reference package behind the notebooks.

Importing it costs torch and nothing else; what needs transformers, datasets or matplotlib is imported at first use.
"""

from __future__ import annotations

import importlib

from lora_ref.inject import (
    enable_lora,
    freeze,
    inject_lora,
    lora_disabled,
    lora_layers,
    match_targets,
    merge_lora,
    replace_module,
    trainable_report,
    unmerge_lora,
)
from lora_ref.layers import LinearWithLoRA, LoRALayer

__version__ = "0.1.0"

_LAZY = {
    "AdapterSet": "lora_ref.adapter_set",
    "load_adapter": "lora_ref.adapters",
    "save_adapter": "lora_ref.adapters",
}

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
    "merge_lora",
    "replace_module",
    "save_adapter",
    "trainable_report",
    "unmerge_lora",
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'lora_ref' has no attribute {name!r}")
