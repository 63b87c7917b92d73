"""Stage 04, training on SST-2: probes and visible checks.

Probes build what they need on the spot: a word-level tokenizer, a classifier of a few dozen numbers whose gradients fit
in six lines of NumPy, a tiny RoBERTa with LoRA. No assets, no network, milliseconds each.
"""

from __future__ import annotations

from typing import Any


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, str)) or value is None:
        return None
    return float(value)
