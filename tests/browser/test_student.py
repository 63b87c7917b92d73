"""A student's hour in a minute: open a stage in JupyterLab, run all, read what fails, fix it, move a slider."""

from __future__ import annotations

import re
import shutil

import pytest
from playwright.sync_api import expect
from toy_course import ROOT

STAGE = "01_rank_theory"
GAP = 'raise NotImplementedError("Exercise 1.1")'
ANSWER = (
    "values = torch.linalg.svdvals(M)",
    "rtol = max(M.shape) * torch.finfo(M.dtype).eps if rtol is None else rtol",
    "return int((values > rtol * values[0]).sum())",
)


@pytest.fixture(scope="module")
def lab(jupyter, tmp_path_factory):
    """JupyterLab in a folder with the released notebook."""
    folder = tmp_path_factory.mktemp("student")
    shutil.copy(ROOT / "notebooks" / STAGE / f"{STAGE}.ipynb", folder)
    return jupyter(folder)


@pytest.mark.usefixtures("widgets")
def test_open_run_all_read_fix_pass_and_move_a_slider(lab, page, shot):
    page.goto(f"{lab.url}lab/tree/{STAGE}.ipynb")
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    expect(cells.first).to_be_visible()
    expect(page.get_by_text("| Idle")).to_be_visible()  # run sooner, the cells would find no kernel

    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    check = cells.filter(has_text='check("1.1", globals())')
    seen = check.locator(".jp-Cell-outputArea")
    expect(seen).to_contain_text("0 of 6 visible checks passed")
    expect(seen).to_contain_text("the gap still raises NotImplementedError")
    numbers = page.locator(".jp-CodeCell .jp-InputPrompt")
    expect(numbers.last).to_have_text(re.compile(r"\[\d+\]:"), timeout=120_000)  # the last cell has run
    check.scroll_into_view_if_needed()
    shot(page, "student-1-fails")

    gap = cells.filter(has_text="def matrix_rank(M")
    gap.locator(".cm-line", has_text=GAP).click()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+End")
    page.keyboard.type("\n".join(ANSWER))
    expect(gap).not_to_contain_text(GAP)
    expect(gap).to_contain_text(ANSWER[-1])
    page.keyboard.press("Shift+Enter")
    expect(check).to_have_class(re.compile(r"\bjp-mod-active\b"))  # the next cell is the check
    page.keyboard.press("Shift+Enter")
    expect(seen).to_contain_text(": visible checks passed")
    check.scroll_into_view_if_needed()
    shot(page, "student-2-passes")

    slider = cells.filter(has_text='description="rank k"')
    picture = slider.locator("img")
    before, alt = picture.get_attribute("src"), picture.get_attribute("alt")
    handle = slider.get_by_role("slider")
    handle.focus()
    page.keyboard.press("ArrowRight")
    expect(slider.locator(".widget-readout")).to_have_text("9")
    expect(picture).not_to_have_attribute("src", before)
    expect(picture).not_to_have_attribute("alt", alt)
    slider.scroll_into_view_if_needed()
    shot(page, "student-3-slider")
