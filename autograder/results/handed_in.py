"""What students handed in, kept beside the results: marking and feedback need it when the files are elsewhere.

graded/.grading/cells/STAGE/STUDENT.json      the notebook that was graded
graded/.grading/evidence/STAGE/STUDENT.json   what their own notebook showed where a written answer may quote it
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autograder.engine.assignment import STUDENT, grade_id, source_of
from autograder.engine.job import Row
from autograder.files import write_whole

#: Exercise -> outputs, each ``{"png": base64}`` or ``{"text": ...}``.
Evidence = Mapping[str, Sequence[Mapping[str, str]]]


def keep_cells(out: Path, row: Row) -> None:
    """Write down what a row was graded on."""
    text = json.dumps({"key": row.key, "answers": row.answers, "cells": row.cells})
    write_whole(_file(out, "cells", row.stage, row.student), text.encode())


def cells(out: Path, stage: str, student: str) -> dict[str, Any]:
    """``key``, ``answers`` and ``cells`` of what was graded last; empty if it was graded before these were kept."""
    return _read(_file(out, "cells", stage, student))


def beside(cells: Sequence[Mapping[str, Any]], name: str) -> str:
    """What a student wrote in cells of their own right above and below an answer cell, where that is empty."""
    at = next((n for n, cell in enumerate(cells) if grade_id(cell) == name), None)
    if at is None:
        return ""
    own = [STUDENT in cell["metadata"].get("tags", ()) and cell["cell_type"] == "markdown" for cell in cells]
    first, last = at, at
    while first and own[first - 1]:
        first -= 1
    while last + 1 < len(cells) and own[last + 1]:
        last += 1
    return "\n\n".join(source_of(cell) for cell in [*cells[first:at], *cells[at + 1 : last + 1]])


def keep_evidence(out: Path, student: str, stage: str, evidence: Evidence) -> None:
    """Write down what a submission's own outputs are, if they have changed."""
    path, text = _file(out, "evidence", stage, student), json.dumps(evidence)
    if evidence and not (path.exists() and path.read_text(encoding="utf-8") == text):
        write_whole(path, text.encode())
    elif not evidence:
        path.unlink(missing_ok=True)


class Waiting:
    """Evidence that is kept once it is sure that a batch is the right one; on disk, for it may be a class's pictures.

    Use as a context manager.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def add(self, student: str, stage: str, evidence: Evidence) -> None:
        """Take one submission's."""
        self._file.write(json.dumps([student, stage, evidence]) + "\n")

    def keep(self, out: Path) -> None:
        """`keep_evidence` for all of them."""
        self._file.seek(0)
        for line in self._file:
            keep_evidence(out, *json.loads(line))


def evidence(out: Path, stage: str, student: str) -> Evidence:
    """Exercise -> the student's own outputs; empty if there are none."""
    return _read(_file(out, "evidence", stage, student))


def _file(out: Path, kind: str, stage: str, student: str) -> Path:
    return out / ".grading" / kind / stage / f"{student}.json"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
