"""The pages that people read: Jinja2 templates on one base, code coloured by Pygments.

A page is one file: its style is in it, it runs no script and asks for nothing from elsewhere. What students wrote is
escaped, as everything is.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder.engine import border

if TYPE_CHECKING:  # grading starts with this module
    from jinja2 import Environment
    from markupsafe import Markup

FOLDER = Path(__file__).parent
#: Longer code stays black: some sources take Pygments a time that grows faster than they do.
LONGEST = 20_000


def render(template: str, **values: Any) -> str:
    """A page, from a file of this folder.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not there.
    """
    page = _environment().get_template(template).render(values)
    return border.text(page, len(page))  # what students wrote is in it: no control character, nothing turned around


def read(template: str) -> None:
    """Read and compile a file of this folder, so that `render` need not."""
    _environment().get_template(template)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(python=python, points="{:g}".format, markdown=markdown, lines=lines)
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    environment.globals["style"] = re.sub(r"\s+", " ", style).strip()
    return environment


def markdown(text: str) -> Markup:
    """A written answer (`autograder.results.texts.markdown`)."""
    from autograder.results import texts

    return texts.markdown(text)


def lines(text: str) -> Markup:
    """A comment, whose lines are a marker's: each stays one."""
    return markdown(re.sub(r"\n(?!\n)", "\n\n", text))


@functools.lru_cache(maxsize=500)  # a cell that nobody has changed stands on every page
def python(source: str) -> Markup:
    """Python code with its keywords, strings, numbers and comments marked for the style sheet."""
    from markupsafe import Markup, escape
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    if len(source) > LONGEST:
        return escape(source)
    return Markup(highlight(source, PythonLexer(stripnl=False, ensurenl=False), HtmlFormatter(nowrap=True)))
