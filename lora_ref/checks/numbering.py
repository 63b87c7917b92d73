"""Which exercises there are, by their file names alone: nothing large is imported to know it.

``stage02/e5_merge.py`` is exercise 2.5, which is graded. ``stage04/x8_dora.py`` is 4.8, which is optional: it is
checked as any other, and carries no points.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path


def module_names(package: str) -> dict[str, str]:
    """Exercise -> module, for the files ``stageNN/eN_word.py`` and ``xN_word.py`` of a package, in the course's order.

    Example:
        >>> module_names("lora_ref.checks")["2.5"]
        'lora_ref.checks.stage02.e5_merge'
    """
    modules = {}
    spec = importlib.util.find_spec(package)
    for root in (spec and spec.submodule_search_locations) or ():
        for file in Path(root).glob("stage[0-9][0-9]/[ex]*_*.py"):
            stage, number = file.parent.name, re.match(r"[ex](\d+)_", file.name)
            if number:
                modules[int(stage[5:]), int(number[1])] = f"{package}.{stage}.{file.stem}"
    return {f"{stage}.{which}": modules[stage, which] for stage, which in sorted(modules)}


def is_optional(module: str) -> bool:
    """Whether an exercise's module, as `module_names` names it, is one without points.

    Example:
        >>> is_optional("lora_ref.checks.stage02.e5_merge")
        False
    """
    return module.rpartition(".")[2].startswith("x")
