"""A class over five stages: graded, marked, graded again after a check has changed, exported, and given feedback back.

Small, two stages with recorded results, in the fast suite; in the slow one 300 students, whose notebooks run in the
sandbox.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from marked_course import Course
from nbgrader.api import Gradebook

from autograder import __main__ as command_line
from autograder.demo import fill, sample_answers
from autograder.exercises import ROOT, STAGES

SMALL, WHOLE = 2, int(os.environ.get("LORA_CLASS", "300"))
CHANGED = "02_lora_layer"
#: The platform's number of the first student.
NUMBER = 1_000_000
#: What becomes of a hidden check during the term: nobody passes it any more.
ROOM = "autograder/exercises/stage02/e5_merge.py"
EDITS = (
    ("import Check\n", "import Check, Fault\n"),
    ("room.judge_merged,", "lambda *_: Fault('as it is', 'a change'),"),
)


def names(count: int) -> list[str]:
    """As Canvas's or Moodle's students are called in a course: a name and the platform's number."""
    return [f"Student-{number:03}-{NUMBER + number}" for number in range(count)]


def mark(out: Path, points: float) -> int:
    """Give every written answer that waits some points, as nbgrader's own interface does; how many there were."""
    given = 0
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
        for assignment in book.assignments:
            for submission in assignment.submissions:
                for grade in submission.notebooks[0].grades:
                    if grade.needs_manual_grade:
                        grade.manual_score, grade.needs_manual_grade = points, False
                        given += 1
        book.db.commit()
    return given


def totals(out: Path) -> dict[tuple[str, str], float]:
    """(stage, student) -> points."""
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
        return {(a.name, one.student.id): one.score for a in book.assignments for one in a.submissions}


def to_look_at(out: Path) -> int:
    """How many answers wait for a person."""
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
        return sum(one.needs_manual_grade for assignment in book.assignments for one in assignment.submissions)


def recorded(out: Path, students: list[str], wrong: str = "") -> None:
    """Grade all stages without running anything."""
    for stage in ("01_rank_theory", CHANGED):
        Course(out, stage).grade(*students, wrong=wrong, key=f"{stage}-{len(wrong)}-")


def for_real(root: Path, out: Path, students: list[str]) -> None:
    """Grade all stages with the command, from a checkout of its own, in which a check may be changed."""
    submitted = root / "submitted"
    for stage in STAGES if not submitted.exists() else ():
        worked, release = (nbformat.read(ROOT / d / stage / f"{stage}.ipynb", 4) for d in ("solutions", "notebooks"))
        files = [nbformat.writes(fill(release, worked, answer)) for answer in sample_answers(stage).values()]
        for number, student in enumerate(students):
            path = submitted / student / stage / f"{stage}.ipynb"
            path.parent.mkdir(parents=True)
            path.write_text(files[number % len(files)], encoding="utf-8")
    if not (root / "course").exists():
        for name in ("autograder", "lora_ref", "solutions", "notebooks"):
            shutil.copytree(ROOT / name, root / "course" / name, ignore=shutil.ignore_patterns("__pycache__"))
    line = [sys.executable, "-m", "autograder", "grade", "--submissions", str(submitted), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(root / "course")}
    done = subprocess.run(line, cwd=root / "course", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def give_back(tmp_path: Path, out: Path, students: list[str], again: dict[tuple[str, str], float]) -> None:
    """Make the feedback again, fill in both platforms' tables of a stage, and the course's."""

    run = ["--graded", str(out)]
    assert command_line.main(["feedback", *run]) == 0
    for name, header, row in (
        ("canvas", ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", f"{CHANGED} (7)"], 5),
        ("moodle", ["Identifier", "Full name", "Email address", "Status", "Grade", "Maximum Grade",
                    "Grade can be changed", "Last modified (grade)", "Feedback comments"], 4),
    ):  # fmt: skip
        table = tmp_path / f"{name}.csv"
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            most = f"{sum(e.points for e in STAGES[CHANGED]):g}"
            if name == "canvas":
                writer.writerow(["    Points Possible", "", "", "", "", most])
            for number, student in enumerate(students):
                canvas = [student, str(NUMBER + number), "", student, "S", ""]
                moodle = [f"Participant {NUMBER + number}", student, "", "Submitted", "", most, "Yes", "-", ""]
                writer.writerow(canvas if name == "canvas" else moodle)
        upload = tmp_path / name
        assert command_line.main(["export", CHANGED, "--table", str(table), "--out", str(upload), *run]) == 0
        (filled,) = upload.glob("*.csv")
        with filled.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))[-len(students) :]
        assert [float(line[row]) for line in rows] == [again[CHANGED, student] for student in students]
        for packed in upload.glob("*.zip"):
            with zipfile.ZipFile(packed) as archive:
                assert sum(info.filename.endswith(".html") for info in archive.infolist()) == len(students)
    assert command_line.main(["export", "course", "--out", str(tmp_path / "all"), *run]) == 0
    with (tmp_path / "all" / "course.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(students)
    assert json.loads((out / ".grading" / "runs.json").read_text())


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["small", "whole"])
def test_a_term(tmp_path, real, request):
    students, out = names(WHOLE if real else SMALL), tmp_path / "graded"
    if real:
        request.getfixturevalue("bubblewrap")
    (for_real(tmp_path, out, students) if real else recorded(out, students))
    first = totals(out)
    assert len(first) == len(students) * (len(STAGES) if real else 2)

    assert mark(out, 1.0) > 0
    marked = totals(out)
    assert to_look_at(out) == 0
    if real:
        room = tmp_path / "course" / ROOM
        text = room.read_text(encoding="utf-8")
        for old, new in EDITS:
            assert text.count(old) == 1
            text = text.replace(old, new)
        room.write_text(text, encoding="utf-8")
        for_real(tmp_path, out, students)
    else:
        recorded(out, students, wrong="2.5")
    again = totals(out)
    assert to_look_at(out) == 0, "no code of ours asks a person again"
    assert {key: points for key, points in again.items() if key[0] != CHANGED} == {
        key: points for key, points in marked.items() if key[0] != CHANGED
    }
    lower = [key for key in marked if again[key] < marked[key]]
    assert lower
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "the course or its checks have changed" in page
    assert f"{len(first)} of {len(first)}" in page
    give_back(tmp_path, out, students, again)
