"""The instructor's side of LoRA from scratch: hidden checks, mutants, publishing and grading."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Report", "Result", "evaluate", "grade_cell"]


def __getattr__(name: str) -> Any:
    # at first use: building notebooks needs no torch
    if name in __all__:
        return getattr(importlib.import_module("autograder.evaluation"), name)
    raise AttributeError(f"module 'autograder' has no attribute {name!r}")
