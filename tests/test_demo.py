"""The demo's sample class: written, graded, and shown; its notebooks are run by test_notebooks.py."""

from __future__ import annotations

from argparse import Namespace

import nbformat
import pytest

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

    book = demo.gradebook(tmp_path / "course", [STAGE])
    earned = dict(zip(book.student, book.earned, strict=True))
    assert earned["complete"] == 12
    assert earned["untouched"] == 0
    assert 0 < earned["half-done"] < 12
    assert 0 < earned["buggy"] < 12
    messages = dict(zip(book.student, book["first failing message"], strict=True))
    assert messages["complete"] == ""
    assert "FAIL" in messages["buggy"]
    for name in ("report.html", "grades.csv", f"feedback/buggy/{STAGE}/{STAGE}.html"):
        assert (tmp_path / "course" / name).is_file()


def test_a_worked_solution_that_loses_points_fails_the_demo(capsys):
    import pandas as pd

    rows = [("complete", 11.5, 12.0), ("untouched", 0.0, 12.0)]
    assert demo.verdict(pd.DataFrame(rows, columns=["student", "earned", "of"])) == 1
    assert "bug in the checks" in capsys.readouterr().out


def test_a_command_that_fails_stops_the_demo(tmp_path):
    with pytest.raises(SystemExit, match="ended with status 2"):
        demo.grade(tmp_path / "nowhere", tmp_path / "course", "none")
