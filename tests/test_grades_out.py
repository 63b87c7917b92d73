"""What leaves a graded course: late penalties, Canvas's and Moodle's tables, Moodle's zip of feedback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest
from nbgrader.api import Gradebook
from nbgrader.apps.api import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from platform_tables import CANVAS, MOODLE, STAGE, changed, rows_of, text_of

from autograder import __main__ as command_line
from autograder.exercises import ROOT
from autograder.results import database, tables
from autograder.results.late import apply, settings
from autograder.results.tables import Final, finals


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """What `graded` is a copy of: making a gradebook takes seconds."""
    root = tmp_path_factory.mktemp("template")
    course = root / "graded"
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
        path = root / "submitted" / student / STAGE / "timestamp.txt"
        path.parent.mkdir(parents=True)
        path.write_text(time, encoding="utf-8")
    return root


@pytest.fixture
def graded(tmp_path, template):
    """A graded course of two students, one of them late, with the settings that the guide shows."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    course = tmp_path / "graded"
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


def test_more_time_for_one_student_counts_and_can_be_taken_back(graded):
    ada, line = "Ada-L-1234567", ["extension", STAGE, "Ada-L-1234567", "--graded", str(graded.course)]
    for hours, late in ((48, 0), (4, 23), (0, 27)):
        assert command_line.main([*line, "--hours", str(hours)]) == 0
        found = {s: hours for _, s, hours, _ in apply(graded.course, graded.submitted)}
        assert found.get(ada, 0) == pytest.approx(late)


@pytest.mark.parametrize("hours", ["nan", "1e30", "-1"])
def test_more_time_is_a_time(graded, capsys, hours):
    line = ["extension", STAGE, "Ada-L-1234567", "--graded", str(graded.course), f"--hours={hours}"]
    assert command_line.main(line) == 2
    assert "at most 87,600 hours" in capsys.readouterr().err
    assert "Ada" not in str(apply(graded.course, graded.submitted)[1:])


def test_a_file_that_is_not_there_is_a_sentence(graded, capsys):
    line = ["export", STAGE, "--graded", str(graded.course), "--table", str(graded.tmp / "nothing.csv")]
    assert command_line.main(line) == 2
    assert capsys.readouterr().err == f"export: {graded.tmp / 'nothing.csv'}: no such file or directory\n"


def test_formgrader_says_of_nobody_that_it_needs_autograding(graded):
    for student in ("Ada-L-1234567", "Bo-M-2345678"):
        (graded.course / "autograded" / student / STAGE).mkdir(parents=True)
        (graded.course / "submitted" / student / STAGE).mkdir(parents=True)
    apply(graded.course, graded.submitted)
    config = settings(graded.course)
    config.CourseDirectory.root = str(graded.course)
    api = NbGraderAPI(CourseDirectory(config=config), config=config)
    assert len(api.get_autograded_students(STAGE)) == 2


@pytest.mark.parametrize(
    ("title", "first", "second"),
    [
        ("Last modified (submission)", "Tuesday, 2 March 2027, 8:00 PM", "Monday, 1 March 2027, 5:14 PM"),
        ("Zuletzt geändert (Abgabe)", "Dienstag, 2. März 2027, 20:00", "Montag, 1. März 2027, 17:14"),
        ("Dernière modification (travail remis)", "mardi 2 mars 2027, 20:00", "lundi 1 mars 2027, 17:14"),
        ("Last modified (submission)", "2027-03-02 20:00", "-"),
    ],
)
def test_moodles_times_are_read(graded, title, first, second):
    rows = [[*row, text, ""] for row, text in zip(MOODLE, [title, first, second, "-"], strict=True)]
    rows[0][-1] = f"{title.partition('(')[0]}(note)"  # of the grade
    table = graded.tmp / "worksheet.csv"
    table.write_text(text_of(rows), encoding="utf-8", newline="")
    late = {s: hours for _, s, hours, _ in apply(graded.course, None, STAGE, table, "UTC")}
    assert late["Ada-L-1234567"] == pytest.approx(27)
    assert late.get("Bo-M-2345678", 0) == pytest.approx(0 if second == "-" else 14 / 60)
    berlin = {s: hours for _, s, hours, _ in apply(graded.course, None, STAGE, table, "Europe/Berlin")}
    assert berlin["Ada-L-1234567"] == pytest.approx(26)
    with pytest.raises(ValueError, match="no time zone is called 'Europe/Nowhere'"):
        apply(graded.course, None, STAGE, table, "Europe/Nowhere")


def test_what_canvas_calls_late_is_named(graded, capsys):
    files = {STAGE: {"Bo-M-2345678": ["hash", f"in.zip!mbo_LATE_2345678_98_{STAGE}.ipynb"]}}
    (graded.course / ".grading").mkdir()
    (graded.course / ".grading" / "handed_in.json").write_text(json.dumps(files), encoding="utf-8")
    assert command_line.main(["late", "--graded", str(graded.course)]) == 0
    assert "says Canvas" in capsys.readouterr().out


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
    assert changed(MOODLE, rows_of((out / "grades.csv").read_text(encoding="utf-8-sig"))) == {(1, 4): "22"}
    with zipfile.ZipFile(out / "feedback.zip") as archive:
        assert archive.namelist() == [
            f"feedback_{number}_assignsubmission_file_/{STAGE}.html" for number in (1234567, 2345678)
        ]
        assert archive.read(archive.namelist()[0]) == b"<p>Ada-L-1234567</p>"


def test_before_marking_the_automatic_points_are_there(graded):
    assert finals(graded.course, STAGE)["Bo-M-2345678"].score is None
    assert finals(graded.course, STAGE, automatic=True)["Bo-M-2345678"] == Final(20, 25)


def test_the_course_table_has_a_row_for_each_student(graded):
    line = ["export", "course", "--graded", str(graded.course), "--out", str(graded.tmp)]
    assert command_line.main(line) == 0
    rows = rows_of((graded.tmp / "course.csv").read_text(encoding="utf-8"))
    assert rows == [
        ["student", "name", STAGE, "total", "waits"],
        ["Ada-L-1234567", "", "22", "22", ""],
        ["Bo-M-2345678", "", "", "0", STAGE],
    ]
    assert rows_of(tables.course_csv(graded.course, automatic=True))[2] == ["Bo-M-2345678", "", "20", "20", STAGE]


def test_feedback_goes_back_to_canvas_under_the_names_that_it_gave(graded, capsys):
    table = graded.tmp / "canvas.csv"
    table.write_text(text_of(CANVAS), encoding="utf-8", newline="")
    files = {STAGE: {"Ada-L-1234567": ["hash", f"in.zip!lada_LATE_1234567_98_{STAGE}-1.ipynb"]}}
    (graded.course / ".grading").mkdir()
    (graded.course / ".grading" / "handed_in.json").write_text(json.dumps(files), encoding="utf-8")
    line = ["export", STAGE, "--graded", str(graded.course), "--table", str(table), "--out", str(graded.tmp)]
    assert command_line.main(line) == 1
    with zipfile.ZipFile(graded.tmp / "feedback.zip") as archive:
        assert archive.namelist() == [f"lada_LATE_1234567_98_{STAGE}.html"]
    assert "no name of the platform's: Bo-M-2345678" in capsys.readouterr().out
    inside = f"in.zip!lada_LATE_1234567_98_work.zip!{STAGE}.ipynb"  # the student handed in a zip
    assert tables.canvas_name(inside) == "lada_LATE_1234567_98_"


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


def break_column(path):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE student DROP COLUMN lms_user_id")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (break_column, "nbgrader db upgrade"),
        (lambda path: path.write_bytes(path.read_bytes()[:60_000]), "is damaged"),
        (lambda path: path.write_bytes(b"no database" * 1000), "is damaged"),
    ],
)
def test_a_gradebook_that_cannot_be_used_is_a_sentence(graded, capsys, harm, says):
    harm(graded.course / "gradebook.db")
    table = graded.tmp / "worksheet.csv"
    table.write_text(text_of(MOODLE), encoding="utf-8", newline="")
    for line in (
        ["export", STAGE, "--graded", str(graded.course), "--table", str(table), "--out", str(graded.tmp / "up")],
        ["late", "--graded", str(graded.course), "--submitted", str(graded.submitted)],
    ):
        assert command_line.main(line) == 2
        assert says in capsys.readouterr().err


def test_a_gradebook_in_use_is_a_sentence(graded, monkeypatch):
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    with contextlib.closing(sqlite3.connect(graded.course / "gradebook.db", isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(database.GradebookError, match="another program is using the gradebook"):
            database.look(graded.course / "gradebook.db")
