"""The diagram on README and the site's first page is the one that the package draws, light and dark, with a text."""

import re

from autograder.exercises import ROOT
from lora_ref.plots.schematics import front_page

STATIC = ROOT / "docs" / "_static"


def outlines(path):
    """How many shapes a drawing has; their digits depend on matplotlib's version."""
    return len(re.findall(r"<(?:path|use)\b", path.read_text(encoding="utf-8")))


def test_the_committed_drawings_are_what_the_code_draws(tmp_path):
    front_page(tmp_path)
    for name in ("lora.svg", "lora-dark.svg"):
        assert outlines(tmp_path / name) == outlines(STATIC / name), "run lora_ref.plots.schematics.front_page"


def test_both_pages_show_it_with_a_text():
    for page in ("README.md", "docs/index.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in ("lora.svg", "lora-dark.svg"):
            assert f"_static/{name}" in text, page
        assert "through two thin matrices" in text
