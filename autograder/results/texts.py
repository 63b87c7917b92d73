"""Markdown with formulae as HTML that may stand in any page: written answers, comments, mark schemes.

Students write it, so nothing of theirs but text reaches the page: HTML is shown as text, pictures and links by their
words, and whatever the Markdown and LaTeX libraries make goes through `clean`, which knows a few elements and nothing
else. Formulae become MathML, which browsers show and screen readers read without a script.
"""

from __future__ import annotations

import functools
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from mistune import Markdown

#: Longer texts are shown as they are.
LONGEST, LONGEST_FORMULA = 20_000, 2_000
VOID = {"br", "hr"}
HTML = {
    *("p", "strong", "em", "code", "pre", "ul", "ol", "li", "blockquote", "del", "div"),
    *("table", "thead", "tbody", "tr", "th", "td", *VOID),
}
MATHML = {
    *("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup"),
    *("munder", "mover", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "menclose"),
}
ATTRIBUTES = {
    *("display", "stretchy", "fence", "separator", "form", "mathvariant", "accent", "displaystyle", "scriptlevel"),
    *("linethickness", "columnalign", "rowspacing", "lspace", "rspace", "minsize", "maxsize", "movablelimits"),
    *("largeop", "width", "height", "depth", "notation"),
}


def markdown(text: str) -> Markup:
    """Markdown of a student's or a marker's as harmless HTML.

    Example:
        >>> print(markdown("**B** is zero <b>"))
        <p><strong>B</strong> is zero &lt;b&gt;</p>
    """
    if len(text) <= LONGEST:
        try:
            return clean(str(_reader()(text))).strip()
        except (RecursionError, ValueError, LookupError, TypeError):  # a text that was made to break it
            pass
    return Markup('<pre class="output">{}</pre>').format(text)


def formula(latex: str, display: str = "inline") -> Markup:
    """LaTeX as MathML; as code where it cannot be read."""
    from latex2mathml.converter import convert

    if len(latex) <= LONGEST_FORMULA:
        try:
            return clean(convert(latex, display=display))
        except Exception:  # its errors have no base of their own, and some are the parser's accidents
            pass
    return Markup("<code>{}</code>").format(latex)


def clean(html: str) -> Markup:
    """Known elements without attributes that could load or run anything; of all others, their text."""
    cleaner = _Cleaner()
    cleaner.feed(html)
    cleaner.close()
    return Markup("".join([*cleaner.parts, *(f"</{tag}>" for tag in reversed(cleaner.open))]))


class _Cleaner(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in HTML | MATHML:
            return
        known = ' tabindex="0"' if tag == "div" else ""  # of a formula, which may be wide: keys can scroll it
        if tag in MATHML:
            kept = [(name, value) for name, value in attributes if name in ATTRIBUTES and value]
            known = "".join(f' {name}="{value}"' for name, value in kept if re.fullmatch(r"[\w.% -]{1,40}", value))
        self.parts.append(f"<{tag}{known}>")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.parts.append(f"</{self.open.pop()}>")

    def handle_data(self, data: str) -> None:
        self.parts.append(escape(data))


@functools.cache
def _reader() -> Markdown:
    import mistune

    class Renderer(mistune.HTMLRenderer):
        def heading(self, text: str, level: int, **_: Any) -> str:
            return f"<p><strong>{text}</strong></p>\n"  # the page has headings of its own

        def link(self, text: str, url: str, title: str | None = None) -> str:
            return text if text == escape(url) else f"{text} ({escape(url)})"

        def image(self, text: str, url: str, title: str | None = None) -> str:
            return f"(picture: {text})"

        def block_code(self, code: str, info: str | None = None) -> str:
            return f"<pre>{escape(code)}</pre>\n"

    renderer = Renderer(escape=True)
    reader = mistune.create_markdown(renderer=renderer, plugins=["math", "table", "strikethrough"])
    renderer.register("inline_math", lambda _, text: formula(text))
    renderer.register("block_math", lambda _, text: f"<div>{formula(text, 'block')}</div>\n")
    return reader
