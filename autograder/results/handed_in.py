"""What students handed in, kept beside the results: marking and feedback need it when the files are elsewhere.

graded/.grading/answers/STAGE/STUDENT.json    sources of the answers and of the student's own cells, as graded
graded/.grading/evidence/STAGE/STUDENT.json   what their own notebook showed where a written answer may quote it
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autograder.engine.job import Row
from autograder.files import write_whole

#: Exercise -> outputs, each ``{"png": base64}`` or ``{"text": ...}``.
Evidence = Mapping[str, Sequence[Mapping[str, str]]]


def keep_answers(out: Path, row: Row) -> None:
    """Write down what a row was graded on."""
    text = json.dumps({"key": row.key, "answers": row.answers, "own": row.own})
    write_whole(_file(out, "answers", row.stage, row.student), text.encode())


def answers(out: Path, stage: str, student: str) -> dict[str, Any]:
    """``key``, ``answers`` and ``own`` of what was graded last; empty if it was graded before these were kept."""
    return _read(_file(out, "answers", stage, student))


def keep_evidence(out: Path, student: str, stage: str, evidence: Evidence) -> None:
    """Write down what a submission's own outputs are, if they have changed."""
    path, text = _file(out, "evidence", stage, student), json.dumps(evidence)
    if evidence and not (path.exists() and path.read_text(encoding="utf-8") == text):
        write_whole(path, text.encode())
    elif not evidence:
        path.unlink(missing_ok=True)


def evidence(out: Path, stage: str, student: str) -> Evidence:
    """Exercise -> the student's own outputs; empty if there are none."""
    return _read(_file(out, "evidence", stage, student))


def _file(out: Path, kind: str, stage: str, student: str) -> Path:
    return out / ".grading" / kind / stage / f"{student}.json"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
