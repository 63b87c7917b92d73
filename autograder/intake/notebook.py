"""Read a notebook as what it is, an untrusted file, and tell what is wrong with it; `rebuild` makes what is graded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from autograder.engine.assignment import Assignment, digest, source_of
from autograder.exercises import STAGES
from autograder.intake.names import few
from autograder.intake.rebuild import MAX_OWN, MAX_OWN_CELLS, rebuild
from autograder.intake.submission import Submission
from autograder.intake.walk import Unreadable, weigh

__all__ = ["MAX_OWN", "MAX_OWN_CELLS", "answers", "cells_of", "evidence"]

#: Of a cell that a written answer may quote: outputs that are kept, characters of a picture, characters of a text.
MAX_SHOWN, MAX_PICTURE, MAX_TEXT = 6, 1_500_000, 6_000


def answers(submission: Submission, assignment: Assignment) -> dict[str, str]:
    """grade_id -> source, of the solution cells and written answers in a submission.

    The notebook that is graded goes into ``submission.cells``, what is odd into ``submission.notes``, what makes
    grading impossible into ``submission.problem``.
    """
    if submission.problem:
        return {}
    try:
        data = submission.fetch()
        submission.hash = digest(data)
        cells = cells_of(data)
    except Unreadable as error:
        submission.problem = str(error)
        return {}
    except (ValueError, RecursionError) as error:
        submission.problem = f"no notebook: {str(error)[:200]}"
        return {}
    rebuilt = rebuild(cells, assignment, submission.notes)
    if not rebuilt.of_this_stage:
        submission.problem = f"none of the cells of {submission.stage} is in it (another notebook?)"
        return {}
    submission.cells, submission.open, submission.waits = rebuilt.cells, rebuilt.open, rebuilt.waits
    submission.evidence = evidence(cells, assignment)
    submission.notes = few(submission.notes)
    return rebuilt.answers


def evidence(cells: Iterable[dict[str, Any]], assignment: Assignment) -> dict[str, list[dict[str, str]]]:
    """Exercise -> what the student's own notebook showed in the cells that its written answer may quote.

    Each output is ``{"png": base64}`` or ``{"text": ...}``, cut to size. Nothing is decoded here.
    """
    kept: dict[str, list[dict[str, str]]] = {}
    for exercise in STAGES[assignment.stage]:
        for phrase in exercise.evidence:
            ids = {c.get("id") for c in assignment.release["cells"] if phrase in source_of(c)}
            shows = [c for c in cells if _is_code_with(c, phrase, ids)]
            outputs = [shown for output in _outputs(shows[-1:]) if (shown := _plain(output))]
            kept.setdefault(exercise.id, []).extend(outputs[:MAX_SHOWN])
    return {name: outputs for name, outputs in kept.items() if outputs}


def _is_code_with(cell: dict[str, Any], phrase: str, ids: set[Any]) -> bool:
    if cell.get("cell_type") != "code":
        return False
    try:
        return (isinstance(cell.get("id"), str) and cell["id"] in ids) or phrase in source_of(cell)
    except ValueError:
        return False


def _outputs(cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    lists = [cell.get("outputs") for cell in cells]
    return [output for outputs in lists if isinstance(outputs, list) for output in outputs if isinstance(output, dict)]


def _plain(output: dict[str, Any]) -> dict[str, str] | None:
    """A picture or a text of an output, whatever else it holds; None for what is too large or neither."""
    data = output.get("data")
    data = data if isinstance(data, dict) else {}
    picture = _joined(data.get("image/png")).replace("\n", "")
    if picture:
        return {"png": picture} if len(picture) <= MAX_PICTURE else {"text": "(a picture too large to be kept)"}
    text = _joined(output.get("text")) or _joined(data.get("text/plain"))
    return {"text": text[:MAX_TEXT]} if text.strip() else None


def _joined(value: Any) -> str:
    """Text of a notebook file, which holds it whole or as a list of lines; "" for anything else."""
    lines = value if isinstance(value, list) else [value]
    text = "".join(lines) if all(isinstance(line, str) for line in lines) else ""
    return text.encode("utf-8", "replace").decode()


def cells_of(data: bytes) -> list[dict[str, Any]]:
    """A notebook file's cells.

    Raises:
        ValueError, RecursionError: it is not a notebook.
    """
    if not data.strip():
        raise ValueError("the file is empty")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # Windows' "Unicode"
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    weigh(data)
    try:
        notebook = json.loads(data.decode("utf-8-sig", "replace"))
    except json.JSONDecodeError as error:
        raise ValueError(_instead(data) or str(error)) from None
    if not isinstance(notebook, dict):
        raise ValueError("it is JSON, but not a notebook")
    inner = notebook.get("content")  # as Jupyter's own server sends a notebook
    cells = (inner if isinstance(inner, dict) else notebook).get("cells")
    if not isinstance(cells, list):
        if isinstance(notebook.get("worksheets"), list):
            raise ValueError("it is in an old format (nbformat 3): open and save it in Jupyter")
        raise ValueError("it has no list of cells")
    return [cell for cell in cells if isinstance(cell, dict)]


#: What a file may be that is called a notebook and is none: a sentence for each, by what it begins with or has in it.
BEGINS = {
    b"PK\x03\x04": "it is a zip file (a folder or a package of several?) under another name: hand in what is in it",
    b"%PDF": "it is a PDF under another name: hand in the notebook itself",
    b"\x1f\x8b": "it is a compressed file (gzip) under another name: hand in what is in it",
    b"<": "it is a web page, perhaps of GitHub or Colab: download the notebook itself (File > Download)",
    b"version https://git-lfs": "it is what Git LFS has in a notebook's place: hand in the notebook itself",
}


def _instead(data: bytes) -> str:
    """What a file is that is no JSON, if that can be told."""
    begins = data[:200].lstrip(b"\xef\xbb\xbf \r\n\t")
    for start, sentence in BEGINS.items():
        if begins.startswith(start):
            return sentence
    if re.search(rb"^(?:<{7}|>{7}) ", data, re.MULTILINE):
        return "it has a merge conflict of Git's in it (<<<<<<<): solve it, and hand the notebook in again"
    if begins.startswith(b"{") and b'"cells"' in data[:100_000] and not data.rstrip().endswith(b"}"):
        return "the file ends in the middle, as a broken upload does: hand it in again"
    if re.search(rb"^(?:#|import |from |def |class |%)", begins, re.MULTILINE):
        return "it is a text of Python, no notebook: hand in the .ipynb file"
    return ""
