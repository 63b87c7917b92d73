"""What leaves a graded course: late penalties, Canvas's and Moodle's tables, Moodle's zip of feedback."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest
from nbgrader.api import Gradebook

from autograder import __main__ as command_line
from autograder.exercises import ROOT
from autograder.results.late import PerDay, apply, settings
from autograder.results.tables import ExportError, Final, fill, finals

STAGE = "02_lora_layer"
MOODLE = [
    ["Identifier", "Full name", "Email address", "Status", "Grade", "Maximum Grade", "Grade can be changed",
     "Last modified (grade)", "Feedback comments"],
    ["Participant 1234567", "Ada L", "ada@example.org", "Submitted", "", "25.00", "Yes", "-", 'said "hello", twice'],
    ["Participant 2345678", "Bo M", "bo@example.org", "Submitted", "", "25.00", "Yes", "-", ""],
    ["Participant 3456789", "Cy N", "cy@example.org", "No submission", "", "25.00", "Yes", "-", ""],
]  # fmt: skip
CANVAS = [
    ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "01_rank_theory (77)", "Homework 02_lora_layer (78)"],
    ["    Points Possible", "", "", "", "", "15", "25"],
    ["L, Ada", "1234567", "u1", "ada", "S1", "12", ""],
    ["M, Bo", "2345678", "u2", "bo", "S1", "", ""],
]
RESULTS = {"Ada-L-1234567": Final(19.5, 25), "Bo-M-2345678": Final(None, 25)}


def text_of(rows) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue()


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def changed(before, after) -> dict[tuple[int, int], str]:
    """(row, column) -> the new text, of each cell that is not as it was."""
    assert [len(row) for row in before] == [len(row) for row in after]
    return {(i, j): a for i, (x, y) in enumerate(zip(before, after, strict=True))
            for j, (b, a) in enumerate(zip(x, y, strict=True)) if a != b}  # fmt: skip


def test_moodles_table_gets_the_final_grades_and_nothing_else():
    text, filled, platform = fill(text_of(MOODLE), STAGE, RESULTS)
    assert platform == "moodle"
    assert changed(MOODLE, rows_of(text)) == {(1, 4): "19.5"}  # Bo's written answer waits for a person
    assert set(filled) == set(RESULTS)


def test_canvas_table_gets_the_final_grades_in_the_stages_column():
    text, filled, platform = fill(text_of(CANVAS), STAGE, {**RESULTS, "Bo-M-2345678": Final(0.0, 25)})
    assert platform == "canvas"
    assert changed(CANVAS, rows_of(text)) == {(2, 6): "19.5", (3, 6): "0"}
    assert set(filled) == set(RESULTS)


@pytest.mark.parametrize("table", [MOODLE, CANVAS], ids=["moodle", "canvas"])
def test_students_of_nbgraders_own_layout_are_found_by_login(table):
    text, filled, _ = fill(text_of(table), STAGE, {"ada": Final(25, 25)})
    assert list(filled) == ["ada"]
    assert list(changed(table, rows_of(text)).values()) == ["25"]


def test_a_number_inside_another_is_no_match():
    _, filled, _ = fill(text_of(MOODLE), STAGE, {"someone-234567": Final(1, 25), "x-12345678": Final(1, 25)})
    assert filled == {}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("table", "number"), [(MOODLE, "1234567"), (CANVAS, "1234567")], ids=["moodle", "canvas"])
def test_a_number_of_two_students_is_refused(table, number, order):
    results = dict([(f"ann-{number}", Final(25, 25)), (f"zed_9_900_x-{number}", Final(3, 25))][::order])
    with pytest.raises(ExportError, match=r"ann-.*zed_9_900_x-.*same number"):
        fill(text_of(table), STAGE, results)
    others = [row for row in table if number not in "".join(row)]
    assert fill(text_of(others), STAGE, results)[1] == {}  # no row needs it


def test_a_number_is_the_platforms_own_and_no_other():
    table = [CANVAS[0], ["A, Ann", "101", "202", "ann", "S", "", ""], ["B, Bob", "303", "404", "bob", "S", "", ""]]
    assert fill(text_of(table), STAGE, {"bob-202": Final(3, 25)})[1] == {}
    assert list(fill(text_of(table), STAGE, {"ann-101": Final(3, 25)})[1]) == ["ann-101"]


@pytest.mark.parametrize(
    ("table", "results", "column", "message"),
    [
        ([["a", "b"], ["1", "2"]], RESULTS, None, "neither Moodle's grading worksheet"),
        ([], RESULTS, None, "empty"),
        (CANVAS, RESULTS, "03", "0 columns for 03.*01_rank_theory"),
        ([CANVAS[0] + ["more 02_lora_layer (79)"]], RESULTS, None, "2 columns for 02_lora_layer"),
        (MOODLE, {"Ada-L-1234567": Final(1, 20)}, None, "counts 25 points and the stage has 20"),
        (CANVAS, {"Ada-L-1234567": Final(1, 20)}, None, "counts 25 points and the stage has 20"),
        (MOODLE, {"ada": Final(1, 25), "Ada-1234567": Final(1, 25)}, None, "by number and by name"),
    ],
)
def test_what_cannot_be_filled_in_is_refused(table, results, column, message):
    with pytest.raises(ExportError, match=message):
        fill(text_of(table), STAGE, results, column)


@pytest.mark.parametrize(
    ("seconds", "points"),
    [(0, 0), (15 * 60, 0), (15 * 60 + 1, 2), (86_400, 2), (86_401, 4), (10 * 86_400, 10)],
)
def test_a_share_for_each_day_that_has_begun(seconds, points):
    plugin = PerDay(percent=10, grace_minutes=15, at_most=50)
    assert plugin.late_submission_penalty("ada", 20.0, seconds) == pytest.approx(points)


@pytest.fixture
def graded(tmp_path):
    """A graded course of two students, one of them late, with the settings that the guide shows."""
    course = tmp_path / "graded"
    course.mkdir()
    settings(course)  # the course's own, which also puts nbgrader's helper commands on the path
    policy = (
        'c.AssignLatePenalties.plugin_class = "autograder.late.PerDay"\n'
        "c.PerDay.percent, c.PerDay.grace_minutes, c.PerDay.at_most = 10, 15, 50\n"
    )
    guide = (ROOT / "docs" / "course_week.md").read_text(encoding="utf-8")
    assert policy in guide
    (course / "nbgrader_config.py").write_text(f"c = get_config()\n{policy}", encoding="utf-8")
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        book.add_assignment(STAGE, duedate="2027-03-01 17:00 UTC")
        book.add_notebook(STAGE, STAGE)
        book.add_grade_cell("check_2_1", STAGE, STAGE, max_score=22, cell_type="code")
        book.add_grade_cell("written_2_8", STAGE, STAGE, max_score=3, cell_type="markdown")
        for student in ("Ada-L-1234567", "Bo-M-2345678"):
            book.add_student(student)
            book.add_submission(STAGE, student)
            for grade in book.find_submission_notebook(STAGE, STAGE, student).grades:
                grade.auto_score = 20.0 if grade.name == "check_2_1" else None
                grade.manual_score = None if grade.name == "check_2_1" or student.startswith("Bo") else 2.0
                grade.needs_manual_grade = grade.name != "check_2_1" and student.startswith("Bo")
            page = course / "feedback" / student / STAGE / f"{STAGE}.html"
            page.parent.mkdir(parents=True)
            page.write_text(f"<p>{student}</p>", encoding="utf-8")
        book.db.commit()
    for student, time in (("Ada-L-1234567", "2027-03-02 20:00:00 UTC"), ("Bo-M-2345678", "2027-03-01 17:14:00 UTC")):
        path = tmp_path / "submitted" / student / STAGE / "timestamp.txt"
        path.parent.mkdir(parents=True)
        path.write_text(time, encoding="utf-8")
    return SimpleNamespace(course=course, submitted=tmp_path / "submitted", tmp=tmp_path)


def test_late_penalties_are_the_policys_and_the_same_each_time(graded):
    for _ in range(2):
        late = apply(graded.course, graded.submitted)
        assert [(student, points) for _, student, _, points in late] == [
            ("Ada-L-1234567", pytest.approx(4.4)),  # 22 points, a day and three hours: two days have begun
            ("Bo-M-2345678", 0.0),  # within the grace period
        ]
    assert finals(graded.course, STAGE)["Ada-L-1234567"] == Final(pytest.approx(17.6), 25)


def test_late_times_are_each_students_own(graded):
    other = graded.submitted / "Bo M 2345678" / STAGE / "timestamp.txt"  # intake calls it otherwise
    other.parent.mkdir(parents=True)
    other.write_text("2027-03-09 20:00:00 UTC", encoding="utf-8")
    assert {s: points for _, s, _, points in apply(graded.course, graded.submitted)}["Bo-M-2345678"] == 0


def test_without_a_policy_being_late_costs_nothing(graded):
    (graded.course / "nbgrader_config.py").write_text("c = get_config()\n", encoding="utf-8")
    assert [points for *_, points in apply(graded.course, graded.submitted)] == [0.0, 0.0]


def test_a_time_that_is_none_is_named(graded, capsys):
    (graded.submitted / "Bo-M-2345678" / STAGE / "timestamp.txt").write_text("soon", encoding="utf-8")
    arguments = ["late", "--graded", str(graded.course), "--submitted", str(graded.submitted)]
    assert command_line.main(arguments) == 2
    assert "holds no time" in capsys.readouterr().err


def test_the_export_command_writes_a_table_and_the_feedback(graded, monkeypatch, capsys):
    table = graded.tmp / "worksheet.csv"
    table.write_text("\ufeff" + text_of(MOODLE), encoding="utf-8", newline="")
    out = graded.tmp / "upload"
    arguments = ["export", STAGE, "--graded", str(graded.course), "--table", str(table), "--out", str(out)]
    assert command_line.main(arguments) == 1
    said = capsys.readouterr().out
    assert "written answers to grade: Bo-M-2345678" in said
    assert "1 of 2 grades for Moodle" in said
    assert changed(MOODLE, rows_of((out / "grades.csv").read_text(encoding="utf-8"))) == {(1, 4): "22"}
    with zipfile.ZipFile(out / "feedback.zip") as archive:
        assert archive.namelist() == [
            f"feedback_{number}_assignsubmission_file_/{STAGE}.html" for number in (1234567, 2345678)
        ]
        assert archive.read(archive.namelist()[0]) == b"<p>Ada-L-1234567</p>"


def test_a_folder_without_a_gradebook_is_refused(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(text_of(MOODLE), encoding="utf-8")
    arguments = ["export", STAGE, "--graded", str(tmp_path), "--table", str(tmp_path / "t.csv")]
    assert command_line.main(arguments) == 2
    assert "no gradebook.db" in capsys.readouterr().err


def test_plain_nbgrader_knows_the_plug_in(tmp_path):
    """The setting that the guide shows, read by nbgrader's own command line."""
    (tmp_path / "nbgrader_config.py").write_text(
        'c = get_config()\nc.AssignLatePenalties.plugin_class = "autograder.late.PerDay"\nc.PerDay.percent = 25\n'
    )
    code = (
        "from nbgrader.apps import AutogradeApp; a = AutogradeApp(); a.initialize([]);"
        "from nbgrader.preprocessors import AssignLatePenalties as A; p = A(parent=a); p.init_plugin();"
        "print(type(p.plugin_inst).__name__, p.plugin_inst.percent)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "PerDay 25.0" in done.stdout, done.stderr
