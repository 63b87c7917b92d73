"""Interrupted runs go on where they were; a sandbox that cannot be had is refused; hints and the report."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from pathlib import Path

import grade_course
import nbformat
import pytest

from autograder.demo import ROOT
from autograder.engine import sandbox
from autograder.engine.store import Store


def results(out):
    return sorted(path.name for path in (out / ".grading" / "results").glob("*.json"))


@pytest.fixture
def small_class(tmp_path):
    for number in range(5):
        grade_course.hand_in(tmp_path, f"s{number}", grade_course.sample("half-done"))
    return tmp_path


def test_kill_and_go_on(small_class, bubblewrap):
    out = small_class / "out"
    process = grade_course.start_held(small_class, out, 2)
    grade_course.wait_for(process, lambda: len(results(out)) == 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = results(out)
    process = grade_course.start_held(small_class, out, 1)
    grade_course.wait_for(process, lambda: len(results(out)) == 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    with sqlite3.connect(out / "gradebook.db") as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        assert db.execute("select count(*) from submitted_assignment").fetchone()[0] == len(results(out))
    waiting = {f"s{n}" for n in range(5)} - set(grade_course.grades(out))
    again = min(set(grade_course.grades(out)))
    assert waiting
    grade_course.hand_in(small_class, again, grade_course.sample("complete"))  # handed in once more
    last = grade_course.grade(small_class, out, "--workers", "2")
    assert last.returncode == 0, last.stderr
    assert set(before) <= set(results(out))
    assert len(results(out)) == 6  # nothing lost, nothing twice
    rows = grade_course.grades(out)
    assert {student: row["score"] for student, row in rows.items()} == {f"s{n}": "11" for n in range(5)} | {again: "22"}


def test_hints_and_report(tmp_path):
    nb = nbformat.reads(grade_course.sample("untouched").decode(), as_version=4)
    cells = {c.metadata.nbgrader.grade_id: c for c in nb.cells if "nbgrader" in c.metadata}
    cells["layer"].source = "from lora_ref.layers import LoRALayer"
    cells["wrapper"].source = "import lora_ref.layers\nLinearWithLoRA = lora_ref.layers.LinearWithLoRA"
    nb.cells.append(nbformat.v4.new_code_cell("import lora_ref.parametrize as ready"))
    grade_course.hand_in(tmp_path, "borrower", nbformat.writes(nb).encode())
    grade_course.hand_in(tmp_path, "one", grade_course.sample("buggy"))
    grade_course.hand_in(tmp_path, "two", grade_course.sample("buggy").replace(b"lora_B", b"lora_B"))
    grade_course.hand_in(tmp_path, "<b>", b"nothing")
    done = grade_course.grade(tmp_path, tmp_path / "out", "--sandbox", "none", "--workers", "1")
    assert done.returncode == 1
    assert "Unprotected are" in done.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for part in (
        "Where the class struggles",
        "LoRALayer comes from lora_ref",
        "uses lora_ref.layers.LoRALayer",
        "own uses lora_ref.parametrize",
        "the same code</td>",
        "one, two</td>",
        "<svg",
    ):
        assert part in page
    assert "division by rank is missing" in page
    assert "no notebook" in page
    assert "<b>nothing" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_no_bubblewrap_is_refused_with_a_way_out(tmp_path, monkeypatch, capsys):
    from autograder.__main__ import main

    grade_course.hand_in(tmp_path, "jane", b"")
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    assert main(["grade", "--submissions", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert "apt-get install bubblewrap" in errors
    assert "--sandbox none" in errors


def test_one_run_at_a_time(tmp_path):
    from autograder.engine.store import locked

    with locked(tmp_path), pytest.raises(BlockingIOError, match="another run"), locked(tmp_path):
        pass


def test_the_seed_is_recorded(tmp_path):
    seed = Store(tmp_path).seed()
    assert Store(tmp_path).seed() == seed
    assert Store(tmp_path).seed(5) == 5
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 5}


def test_nothing_of_the_caller_reaches_the_sandbox(monkeypatch):
    monkeypatch.setenv("A_SECRET", "x")
    line = sandbox.command(0)
    shown = [line[n + 1] for n, word in enumerate(line) if word in ("--ro-bind", "--bind", "--ro-bind-try")]
    # the last one says what the processor can do, and nothing of anybody's
    allowed = ("/usr", "/lib", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system/cpu")
    inside = {str(ROOT / "lora_ref"), *map(str, sandbox.INSIDE)}
    python = {os.path.realpath(p) for p in (sandbox.sys.prefix, sandbox.sys.base_prefix)}
    for path in shown:
        assert path.startswith(allowed) or path in inside or os.path.realpath(path) in python, path
    assert "--clearenv" in line
    assert "A_SECRET" not in line


def test_a_course_below_pythons_own_folder_is_hidden(tmp_path, monkeypatch, bubblewrap):
    """Whatever is in a folder that the sandbox shows: the course, the submissions, the gradebook, a zip file."""
    for name in ("course/solutions", "handed in", "lib"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("secret")
    (tmp_path / "all.zip").write_text("secret")
    monkeypatch.setattr(sandbox, "PRIVATE", [])
    sandbox.keep_out(*(tmp_path / name for name in ("course", "course/solutions", "handed in", "all.zip")))
    program = f"cd {tmp_path}; cat */file */*/file all.zip; touch course/new && echo written"
    line = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", *sandbox.masks([str(tmp_path)])]
    done = subprocess.run([*line, "/bin/sh", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "secret", done.stderr  # of lib alone
    assert sandbox.masks(["/usr"]) == []
    sandbox.keep_out(Path(os.path.realpath(sandbox.sys.executable)).parents[1])
    with pytest.raises(sandbox.SandboxError, match="what Python itself needs"):
        sandbox.masks([os.path.realpath(sandbox.sys.base_prefix)])


def test_two_runs_share_no_user(monkeypatch):
    firsts = []
    for number in (4711, 4712):
        monkeypatch.setattr(sandbox.os, "getpid", lambda number=number: number)
        firsts.append(sandbox.first_uid())
    few = firsts == [sandbox.FIRST_UID] * 2  # a container may have too few ids
    assert few or abs(firsts[1] - firsts[0]) >= sandbox.NUMBERS
