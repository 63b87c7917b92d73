"""What a submission says its cells showed, cut down to what nbformat, a page and a terminal can take."""

from __future__ import annotations

import json
from typing import Any

from autograder.engine import border
from autograder.engine.inside.wire import MIME_TYPES

#: Bytes of JSON that all outputs of a submission may have, and outputs and pictures of one cell.
MAX_SHOWN, MAX_ITEMS, MAX_PICTURES = 5_000_000, 200, 20


def error(kind: str, text: str) -> dict[str, Any]:
    return {"output_type": "error", "ename": kind, "evalue": text, "traceback": [f"{kind}: {text}"]}


def hidden(output: dict[str, Any]) -> dict[str, Any]:
    """An error of a cell of the student's own that ran after hidden checks had asked: its type alone goes back."""
    return error(output["ename"][:60], "(not shown: the cell ran after hidden checks)")


def clean_outputs(value: Any, count: int) -> list[dict[str, Any]]:
    """What a submission says its cell showed, cut down to nbformat's outputs of text and pictures."""
    kept: list[dict[str, Any]] = []
    left, pictures = MAX_SHOWN, MAX_PICTURES
    for item in value[:MAX_ITEMS] if type(value) is list else []:
        kind = item.get("output_type") if type(item) is dict else None
        if kind == "stream" and type(item.get("text")) is str:
            new: dict[str, Any] = {"output_type": "stream", "name": "stdout", "text": _printable(item["text"])}
        elif kind in ("display_data", "execute_result") and type(item.get("data")) is dict:
            data = {m: item["data"][m] for m in MIME_TYPES if type(item["data"].get(m)) is str}
            pictures -= any(mime.startswith("image/") for mime in data)
            shown = {
                mime: (border.picture(text, mime) if pictures >= 0 else None)
                if mime.startswith("image/")
                else _printable(text)
                for mime, text in data.items()
            }
            numbered = {"execution_count": count} if kind == "execute_result" else {}
            shown = {mime: text for mime, text in shown.items() if text is not None}
            new = {"output_type": kind, "data": shown, "metadata": {}, **numbered}
        elif kind == "error":
            lines = item.get("traceback")
            lines = [border.text(line) for line in (lines[:50] if type(lines) is list else ()) if type(line) is str]
            named = {key: item.get(key) for key in ("ename", "evalue")}
            named = {key: border.text(text) if type(text) is str else "" for key, text in named.items()}
            new = {"output_type": "error", **named, "traceback": lines}
        else:
            continue
        left -= len(json.dumps(new))
        if left < 0:
            return [*kept, error("OutputLimit", "the cell shows too much; what follows was dropped")]
        kept.append(new)
    return kept


def _printable(text: str) -> str:
    return border.text(text, 120_000)
