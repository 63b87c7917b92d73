"""What the doctors report with, the student's (`lora_ref.doctor`) and the instructor's (`autograder.doctor`).

It imports nothing beyond Python's own library.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BROKEN", "MISSING", "OK", "OLDEST_PYTHON", "Line"]

OK, MISSING, BROKEN = "ok", "missing", "broken"
OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: ``"ok"``, ``"missing"`` or ``"broken"``.
        found: a version, a place, or what is wrong.
        fix: what to do, where it is not ok.
        needed: a student cannot work without it; otherwise it serves instructors, or makes something faster.

    Example:
        >>> Line("JupyterLab", MISSING, "not installed", "python -m pip install jupyterlab", needed=False).status
        'missing'
    """

    name: str
    status: str
    found: str
    fix: str = ""
    needed: bool = True
