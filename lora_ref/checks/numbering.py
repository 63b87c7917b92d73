"""Which exercises there are, by their file names alone: nothing large is imported to know it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path


def module_names(package: str) -> dict[str, str]:
    """Exercise -> module, for the files ``stageNN/eN_word.py`` of a package, in the course's order.

    Example:
        >>> module_names("lora_ref.checks")["2.5"]
        'lora_ref.checks.stage02.e5_merge'
    """
    modules = {}
    spec = importlib.util.find_spec(package)
    for root in (spec and spec.submodule_search_locations) or ():
        for file in Path(root).glob("stage[0-9][0-9]/e*_*.py"):
            stage, number = file.parent.name, re.match(r"e(\d+)_", file.name)
            if number:
                modules[int(stage[5:]), int(number[1])] = f"{package}.{stage}.{file.stem}"
    return {f"{stage}.{which}": modules[stage, which] for stage, which in sorted(modules)}
