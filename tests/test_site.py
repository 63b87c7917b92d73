"""The course's site: it builds without a warning, asks nothing of the network, and shows nothing that graders keep."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jupytext
import nbformat
import pytest
from course_site import make_site

from autograder.exercises import ROOT, STAGES
from autograder.publish.notebooks import SCHEME, BuildError, find_masters
from autograder.publish.pages import page_of, write_pages
from lora_ref.checks import visible_checks

TEXT = {".html", ".js", ".ipynb", ".txt", ".json", ".md", ".css"}
VISIBLE = {check.id for exercises in STAGES.values() for e in exercises for check in visible_checks(e.id)}


class Page(HTMLParser):
    """What a page links to and loads, and the names in it that can be linked to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.ids, self.pictures = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag != "a":
            self.loads += [found[key] for key in ("src", "href", "data", "action", "poster") if found.get(key)]
        if tag == "img":
            self.pictures.append(found.get("alt") or "")


def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def flat(text: str) -> str:
    """Words alone, so that the same sentence is found in Markdown, HTML and JSON."""
    return " ".join(re.findall(r"\w+", html.unescape(re.sub(r"<[^>]*>", "", text))))


def scheme_lines() -> set[str]:
    """The sentences of all mark schemes, as words."""
    cells = [cell for m in find_masters(ROOT) for cell in jupytext.read(m, fmt="py:percent").cells]
    lines = [line for cell in cells for scheme in SCHEME.findall(cell.source) for line in scheme.splitlines()]
    return {flat(line) for line in lines if len(flat(line).split()) >= 6}


def test_every_link_between_pages_leads_somewhere(site):
    found = pages(site)
    assert len(found) > 15
    for path, page in found.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.relative_to(site)} leads to {link}"
            if parts.fragment and target in found:
                assert unquote(parts.fragment) in found[target].ids, f"{path.relative_to(site)} leads to {link}"


def test_no_page_loads_anything_from_elsewhere(site):
    for path, page in pages(site).items():
        for address in page.loads:
            assert not re.match(r"(\w+:)?//", address), f"{path.relative_to(site)} loads {address}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_nothing_that_graders_keep_is_on_the_site(site):
    schemes, hidden = scheme_lines(), set()
    for stage in STAGES:
        hidden |= {check.id for exercise in STAGES[stage] for check in exercise.hidden}
    hidden -= VISIBLE
    assert len(schemes) > 30
    assert len(hidden) > 20
    words = {"grade_cell", "HIDDEN TESTS", "MARK SCHEME"}  # what a guide may name is the files' place
    words |= {f"autograder.exercises.stage{stage[:2]}" for stage in STAGES}
    for path in site.rglob("*"):
        if path.suffix not in TEXT or "_static" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        found = [word for word in words | hidden if re.search(re.escape(word) + r"(?![\w-])", text)]
        found += [line for line in schemes if line in flat(text)]
        assert not found, f"{path.relative_to(site)} shows {found[0]!r}"


def test_the_search_for_mark_schemes_finds_what_is_there(site):
    text = flat((site / "stages" / "02_lora_layer.html").read_text(encoding="utf-8"))
    model_answer = "With B 0 the update scaling B A is the zero matrix so the adapted model computes"
    assert model_answer in text


@pytest.mark.parametrize("master", find_masters(ROOT), ids=lambda path: path.stem)
def test_a_page_folds_up_what_it_gives_away(master):
    page = page_of(master)
    nbformat.validate(page)
    solutions = [c for c in page.cells if c.cell_type == "code" and "solution" in str(c.metadata.get("mystnb"))]
    gaps = [c for c in page.cells if c.cell_type == "markdown" and c.source.startswith("```python\n")]
    assert len(solutions) == len(gaps) > 0
    for cell in solutions:
        assert "hide-input" in cell.metadata.tags
        assert "NotImplementedError" not in cell.source
    text = "\n".join(cell.source for cell in page.cells)
    for exercise in STAGES[master.stem]:
        assert f"{{admonition}} Exercise {exercise.id}" in text
        if exercise.manual:
            assert f"{{dropdown}} A model answer to exercise {exercise.id}" in text
        else:
            assert f'check("{exercise.id}", globals())' in text


def test_a_page_that_would_show_a_hidden_check_is_not_made(tmp_path):
    folder = tmp_path / "solutions" / "01_rank_theory"
    folder.mkdir(parents=True)
    text = find_masters(ROOT)[0].read_text(encoding="utf-8")
    (folder / "01_rank_theory.py").write_text(text + "\n# %%\nimport autograder\n", encoding="utf-8")
    with pytest.raises(BuildError, match="would show 'autograder'"):
        write_pages(tmp_path, tmp_path / "pages")
    assert not list(tmp_path.glob("pages/*"))


def test_a_page_that_has_not_changed_is_left_alone(tmp_path):
    first = write_pages(ROOT, tmp_path)
    times = [path.stat().st_mtime_ns for path in first]
    (tmp_path / "06_gone.ipynb").write_text("{}", encoding="utf-8")
    assert [path.stat().st_mtime_ns for path in write_pages(ROOT, tmp_path)] == times
    assert {path.name for path in tmp_path.iterdir()} == {f"{stage}.ipynb" for stage in STAGES}


@pytest.mark.slow
def test_the_executed_site(site_source, tmp_path):
    site = make_site(site_source, tmp_path / "site")
    test_nothing_that_graders_keep_is_on_the_site(site)
    test_no_page_loads_anything_from_elsewhere(site)
    for stage, exercises in STAGES.items():
        path = site / "stages" / f"{stage}.html"
        text = flat(path.read_text(encoding="utf-8"))
        assert "Traceback" not in text
        assert text.count("visible checks passed") >= len([e for e in exercises if not e.manual])
        assert "ran on the tiny profile" in text
        pictures = Page(path).pictures
        assert len(pictures) >= 3
        assert all(len(alt.split()) > 5 for alt in pictures), f"{stage}: a figure has no text"


def test_the_search_index_knows_the_stages(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    names = json.loads(index[index.index("(") + 1 : index.rindex(")")])["docnames"]
    assert {f"stages/{stage}" for stage in STAGES} <= set(names)
