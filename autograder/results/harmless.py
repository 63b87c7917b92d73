"""Markdown and LaTeX of a submission as they may stand in a page of nbgrader's, which trusts what it renders.

They could run code there, stop the page (a fence whose language is an entity for a blank, a picture that is not
attached) or hold it for a minute (tens of thousands of formulas that begin and do not end).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from autograder.intake.pictures import NAME as PICTURE

#: Most characters of one text, and of all texts of one notebook, that are rendered.
MAX_TEXT, MAX_TEXTS = 20_000, 200_000
#: Most openings of one kind of formula in a text: nbconvert looks for the end of each through the whole of it.
MAX_FORMULAS = 100
CUT = "\n\n[more text was cut off]\n"


def harmless(text: str) -> str:
    """Markdown or LaTeX without what could run code or lead elsewhere, nor more of it than a page can take.

    A word joiner, which no reader sees, goes where HTML, a picture, a link that leads elsewhere than to the web, or
    one of MathJax's commands that make links or attributes would begin. Code spans read as before.
    """
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + CUT
    text = re.sub(r"<(?=[A-Za-z/!?])", "<\u2060", text)
    text = re.sub(rf"!(?=\[)(?!\[[^\]\n]*\]\(attachment:{PICTURE}\))", "!\u2060", text)
    text = re.sub(rf"\](?=[(:]\s*(?!https?://)\S)(?!\(attachment:{PICTURE}\))", "]\u2060", text)
    text = re.sub(r"\\(?=(?:href|require|class|style|cssId|data|unicode|html)\w*)", "\\\\\u2060", text)
    for opening in (r"\\(", r"\\[", r"\begin{"):
        if text.count(opening) > MAX_FORMULAS:
            text = text.replace(opening, f"{opening[:-1]}\u2060{opening[-1]}")
    return text


class Page:
    """What of one notebook's texts nbgrader's pages can render."""

    def __init__(self) -> None:
        self.left = MAX_TEXTS

    def markdown(self, text: str, attachments: Mapping[str, Any] | None = None) -> str:
        """`harmless` Markdown, tried out: one that cannot be rendered, or is too much, is shown as it was typed."""
        safe = harmless(text)
        self.left -= len(safe)
        if self.left >= 0 and _renders(safe, attachments or {}):
            return safe
        return "".join(f"    {line}\n" for line in safe.splitlines())

    def output(self, output: dict[str, Any]) -> dict[str, Any]:
        """An output whose Markdown and LaTeX are harmless."""
        data = output.get("data") or {}
        rich = {mime: data[mime] for mime in ("text/markdown", "text/latex") if isinstance(data.get(mime), str)}
        if not rich:
            return output
        ways = {"text/markdown": self.markdown, "text/latex": harmless}
        return {**output, "data": {**data, **{mime: ways[mime](text) for mime, text in rich.items()}}}


def harmless_output(output: dict[str, Any]) -> dict[str, Any]:
    """An output as `Page` makes it, by itself."""
    return Page().output(output)


def _renders(text: str, attachments: Mapping[str, Any]) -> bool:
    """Whether nbconvert, with which nbgrader makes its pages, takes a text."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    try:
        MarkdownWithMath(renderer=IPythonRenderer(escape=False, attachments=dict(attachments))).render(text)
    except Exception:  # whatever it is, the page would end with it
        return False
    return True
