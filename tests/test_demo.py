"""The demo's sample class: written, graded, and shown; its notebooks are run by test_notebooks.py."""

from __future__ import annotations

import pytest

from autograder import demo
from autograder.run.sandbox import SandboxError

STAGE = "01_rank_theory"


@pytest.fixture
def refused(monkeypatch):
    """A machine without bubblewrap."""

    def require(kind):
        raise SandboxError("bubblewrap is missing")

    monkeypatch.setattr(demo, "require", require)


def test_the_sample_class_is_graded_without_a_sandbox_too_and_that_is_said(refused, tmp_path, capfd):
    demo.write_class(tmp_path / "submitted", [STAGE])
    demo.grade(tmp_path / "submitted", tmp_path / "course")
    assert (
        "Without the sandbox, since the sample class is this program's own: bubblewrap is missing"
        in capfd.readouterr().out
    )

    book = demo.gradebook(tmp_path / "course", [STAGE])
    earned = dict(zip(book.student, book.earned, strict=True))
    assert earned["complete"] == 12
    assert earned["untouched"] == 0
    assert 0 < earned["half-done"] < 12
    assert 0 < earned["buggy"] < 12
    messages = dict(zip(book.student, book["first failing message"], strict=True))
    assert messages["complete"] == ""
    assert "FAIL" in messages["buggy"]
    assert demo.verdict(book) == 0
    for name in ("report.html", "grades.csv", f"feedback/buggy/{STAGE}/{STAGE}.html"):
        assert (tmp_path / "course" / name).is_file()


def test_a_worked_solution_that_loses_points_fails_the_demo(capsys):
    import pandas as pd

    rows = [("complete", 11.5, 12.0), ("untouched", 0.0, 12.0)]
    assert demo.verdict(pd.DataFrame(rows, columns=["student", "earned", "of"])) == 1
    assert "bug in the checks" in capsys.readouterr().out


def test_a_command_that_fails_stops_the_demo(refused, tmp_path):
    with pytest.raises(SystemExit, match="ended with status 2"):
        demo.grade(tmp_path / "nowhere", tmp_path / "course")
