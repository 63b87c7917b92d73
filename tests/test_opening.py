"""How notebooks open: one set-up for all, and badges and an installation with git once the course has an address."""

from __future__ import annotations

import re

import nbformat
import pytest
import toy_course
from toy_course import CONTRACT, ROOT, STAGE

from autograder.exercises import STAGES
from autograder.publish.notebooks import BuildError, build
from autograder.publish.opening import BOOTSTRAP, FIND, Repository, badge, repository, setup
from autograder.publish.release import start_page

FIRST = next(iter(STAGES))
ADDRESS = "https://github.com/somebody/lora-course"


def publish(root, address):
    """Gives a toy course a public address."""
    text = f'[project]\nname = "lora_ref"\n[project.urls]\nRepository = "{address}"\n'
    (root / "pyproject.toml").write_text(text, encoding="utf-8")


def first_code_cell(path):
    return next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


@pytest.mark.parametrize("side", ["solutions", "notebooks"])
def test_every_stage_begins_with_the_same_set_up(side):
    cells = [first_code_cell(ROOT / side / stage / f"{stage}.ipynb") for stage in STAGES]
    assert all(cell.source.startswith(setup(repository(ROOT)) + "\nimport ") for cell in cells)
    assert all(cell.metadata.nbgrader.locked and cell.metadata.nbgrader.grade_id == "setup" for cell in cells)
    for number, cell in enumerate(cells, start=1):
        assert cell.source.endswith(f"\nprofile = profiles.announce({number})")


def test_the_set_up_is_short_and_folded():
    lines = [line for line in setup(None).splitlines() if line]
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 120
    cell = first_code_cell(ROOT / "notebooks" / FIRST / f"{FIRST}.ipynb")
    assert cell.source.startswith("# @title ")  # what Colab shows of it
    assert cell.metadata.cellView == "form"
    assert cell.metadata.jupyter.source_hidden


def test_no_master_repeats_the_set_up():
    lines = {line for line in (BOOTSTRAP + FIND).splitlines() if len(line) > 50}
    for master in ROOT.glob("solutions/*/*.py"):
        assert not lines & set(master.read_text(encoding="utf-8").splitlines())


def test_without_an_address_there_is_no_badge(tmp_path):
    assert repository(tmp_path) is None
    toy_course.make(tmp_path)
    build(tmp_path, contract=CONTRACT)
    text = (tmp_path / "notebooks" / STAGE / f"{STAGE}.ipynb").read_text(encoding="utf-8")
    assert "colab.research" not in text
    assert "git+" not in text
    assert "put lora-from-scratch-*.zip" in text


def test_with_an_address_there_are_badges_and_an_installation_with_git(tmp_path):
    toy_course.make(tmp_path)
    publish(tmp_path, ADDRESS)
    build(tmp_path, contract=CONTRACT)
    for side in ("solutions", "notebooks"):
        nb = nbformat.read(tmp_path / side / STAGE / f"{STAGE}.ipynb", as_version=4)
        title, link = nb.cells[0].source.split("\n\n")
        assert title.startswith("# A toy stage")
        opens = f"/github/somebody/lora-course/blob/main/notebooks/{STAGE}/{STAGE}.ipynb"
        assert link.endswith(f"(https://colab.research.google.com{opens})")
        source = nb.cells[1].source
        assert f'"lora_ref @ git+{ADDRESS}@main"' in source
        assert "put lora-from-scratch-*.zip" not in source
        compile(source, "set-up", "exec")
    assert build(tmp_path, contract=CONTRACT, check=True) == []


def test_the_start_page_has_what_a_student_asks():
    page = start_page("lora_ref-1.whl", list(STAGES), None)
    for number, stage in enumerate(STAGES.values(), start=1):
        points = sum(exercise.points for exercise in stage)
        assert re.search(
            rf'<code>0{number}_\w+</code></td><td>[^<]+</td><td class="number">{points}</td><td>about ', page
        )
    block = page[page.index("<pre>") : page.index("</pre>")]
    assert "uv pip install lora_ref-1.whl jupyterlab --torch-backend cpu" in block, "else Linux gets CUDA"
    for words in (
        "python3 -m venv",
        "Set-ExecutionPolicy",
        "Jupyter extensions",
        "Next day",
        "87 MB",
        "not your answers",
    ):
        assert words in page, words
    assert '.ipynb"' not in page, "a browser shows a notebook's text"


def test_the_start_page_says_how_to_open_a_notebook_in_colab():
    without, public = (start_page("lora_ref-1.whl", ["01_a"], r) for r in (None, Repository(ADDRESS)))
    gpu, upload = without.index("Change runtime type, T4"), without.index("Drop the zip")
    assert gpu < upload, "a change of runtime drops what was uploaded"
    assert "(<code>lora_ref-1.whl</code> alone will do)" in without
    assert "badge" in public
    assert "Change runtime type, T4" in public
    assert "Drop the zip" not in public


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (ADDRESS, Repository(ADDRESS)),
        (f"{ADDRESS}.git", Repository(ADDRESS)),
        (f"{ADDRESS}/", Repository(ADDRESS)),
        (f"{ADDRESS}/tree/2027-spring", Repository(ADDRESS, "2027-spring")),
    ],
)
def test_addresses(tmp_path, written, expected):
    publish(tmp_path, written)
    assert repository(tmp_path) == expected


@pytest.mark.parametrize("wrong", ["github.com/somebody/course", "https://github.com/somebody", "https://a.b/c/d'+x"])
def test_a_wrong_address_is_named(tmp_path, wrong):
    toy_course.make(tmp_path)
    publish(tmp_path, wrong)
    with pytest.raises(BuildError, match=re.escape(wrong)):
        build(tmp_path, contract=CONTRACT)


def test_colab_opens_github_alone():
    elsewhere = Repository("https://gitlab.com/somebody/course")
    assert badge(elsewhere, STAGE) == ""
    assert "git+https://gitlab.com/somebody/course@main" in setup(elsewhere)
