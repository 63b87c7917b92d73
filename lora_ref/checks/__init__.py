"""Visible checks: what a student runs after each exercise.

    from lora_ref.checks import check
    check("2.1", globals())

`visible` runs them. An exercise is a file ``stageNN/eN_word.py`` (`exercise`), with the probe that records what the
student's object does (`probing`) and the judge that says what it means (`verdicts`). As in `lora_ref`, a name's module
is imported at first use: who only counts exercises (`numbering`) does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_ref.checks.visible import check, title, visible_checks

__all__ = ["check", "title", "visible_checks"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from lora_ref.checks import visible

        return getattr(visible, name)
    raise AttributeError(f"module 'lora_ref.checks' has no attribute {name!r}")
