"""The demo's sample class: written, graded, and shown; its notebooks are run by test_notebooks.py."""

from __future__ import annotations

from argparse import Namespace

import nbformat
import pytest
from markupsafe import escape

from autograder import demo
from autograder.publish.notebooks import find_masters

STAGE = "01_rank_theory"


def test_without_a_sandbox_the_sample_class_is_graded_too_and_that_is_said_at_both_ends(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(demo, "build", lambda root: None)
    monkeypatch.setattr(demo, "find_masters", lambda root: [p for p in find_masters(root) if p.stem == STAGE])
    monkeypatch.setattr(demo, "run_notebook", lambda path, profile: nbformat.read(path, as_version=4))
    monkeypatch.setattr(demo, "comparison_png", lambda notebooks: b"")
    assert demo.main(Namespace(out=tmp_path, all=False, profile="tiny")) == 0

    said = capfd.readouterr().out
    assert said.startswith("bubblewrap is missing")
    last = said.rpartition("\n== ")[2]
    assert last.startswith("Graded without a sandbox")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for text in (said.partition("\n== ")[0], last, page):
        assert "bubblewrap is missing: no bwrap on the PATH" in text
        assert "apt-get install bubblewrap" in text
    assert page.index("Graded without a sandbox") < page.index("<h2>Gradebook")

    grades = {grade.student: grade for grade in demo.gradebook(tmp_path / "course", [STAGE])}
    assert grades["complete"].earned == 12
    assert grades["untouched"].earned == 0
    assert 0 < grades["half-done"].earned < 12
    assert 0 < grades["buggy"].earned < 12
    assert (grades["untouched"].by_hand, grades["buggy"].by_hand) == (0, 3)  # an empty answer needs no person
    assert grades["complete"].failed is None
    fault = grades["buggy"].failed.failed[0].fault
    assert f"<dd>{escape(fault.seen)}</dd>" in page
    for name in ("report.html", "grades.csv", f"feedback/buggy/{STAGE}/{STAGE}.html"):
        assert (tmp_path / "course" / name).is_file()


def test_a_worked_solution_that_loses_points_fails_the_demo(capsys):
    grades = [
        demo.Grade("complete", STAGE, 11.5, 12, 3, failed=None),
        demo.Grade("untouched", STAGE, 0, 12, 0, failed=None),
    ]
    assert demo.exit_status(grades) == 1
    assert "bug in the checks" in capsys.readouterr().out


def test_a_command_that_fails_stops_the_demo(tmp_path):
    with pytest.raises(SystemExit, match="ended with status 2"):
        demo.grade(tmp_path / "nowhere", tmp_path / "course", "none")
