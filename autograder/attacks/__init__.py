"""Submissions that try to get points they should not, to learn what they should not, or to stop the others.

Each is made from the release and the worked solution of stage 02. `earns` is what it may get: 0 where nothing is
solved, "all" where the answers are right and only the file was tampered with, None where there is nothing to grade.
`trees` has those that hand in something else than a notebook.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

STAGE = "02_lora_layer"
Notebook = dict[str, Any]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        id: a short name, also the student's.
        make: ``make(release, worked) -> bytes`` of the submitted file.
        earns: 0, ``"all"`` or None (see above); ``"some"`` where it may get points, and the report says how.
        hint: what the report says of it, or "".
    """

    id: str
    make: Callable[[Notebook, Notebook], bytes]
    earns: float | str | None = 0
    hint: str = ""


def attacks() -> list[Attack]:
    """All of them."""
    from autograder.attacks import code, files, forging

    return [*code.ATTACKS, *files.ATTACKS, *forging.ATTACKS]


def solution_cells(notebook: Notebook) -> list[dict[str, Any]]:
    """The cells that students fill."""
    return [c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("solution")]


def as_bytes(notebook: Notebook) -> bytes:
    """A notebook file."""
    return json.dumps(notebook).encode()
