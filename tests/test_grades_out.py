"""What leaves a graded course: late penalties, Canvas's and Moodle's tables, Moodle's zip of feedback."""

from __future__ import annotations

import contextlib
import csv
import io
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

from autograder import __main__ as command_line
from autograder.exercises import ROOT
from autograder.results import database, tables
from autograder.results.fill import fill, fill_sheet, people
from autograder.results.late import apply, settings
from autograder.results.sheet import Sheet
from autograder.results.tables import ExportError, Final, finals

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


def test_a_number_inside_another_is_not_a_match():
    _, filled, _ = fill(text_of(MOODLE), STAGE, {"someone-234567": Final(1, 25), "x-12345678": Final(1, 25)})
    assert filled == {}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("table", "number"), [(MOODLE, "1234567"), (CANVAS, "1234567")], ids=["moodle", "canvas"])
def test_a_number_of_two_students_is_nobodys(table, number, order):
    results = dict([(f"ann-{number}", Final(25, 25)), (f"zed_9_900_x-{number}", Final(3, 25))][::order])
    sheet = Sheet.of(text_of(table))
    done = fill_sheet(sheet, STAGE, results)
    assert done.rows == {}
    assert changed(table, sheet.rows) == {}
    assert [("same number" in what, "ann-" in who[0], "zed_9" in who[0]) for what, who in done.said.items()] == [
        (True,) * 3
    ]
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
        (MOODLE, {"ada": Final(1, 25), "Ada-1234567": Final(1, 25)}, None, None),
    ],
)
def test_what_cannot_be_filled_in_is_refused(table, results, column, message):
    if message is None:  # by number and by name, two students of the gradebook fit one row
        assert fill(text_of(table), STAGE, results, column)[1] == {}
        return
    with pytest.raises(ExportError, match=message):
        fill(text_of(table), STAGE, results, column)


GERMAN = [
    ["ID", "Vollständiger Name", "E-Mail-Adresse", "Status", "Bewertung", "Bestwertung",
     "Bewertung kann geändert werden", "Zuletzt geändert (Bewertung)", "Feedback als Kommentar"],
    ["Teilnehmer/in1234567", "Ada Löwe", "ada@example.org", "Abgegeben", "12,50", "50,00", "Ja", "-", ""],
    ["Teilnehmer/in2345678", "Bo M", "bo@example.org", "Abgegeben", "", "50,00", "Ja", "-", "schon da"],
]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_table_stays_in_its_encoding_with_its_separator_and_quotes(encoding, separator, quoting):
    out = io.StringIO()
    csv.writer(out, delimiter=separator, quoting=quoting, lineterminator="\n").writerows(GERMAN)
    before = out.getvalue().encode(encoding)
    sheet = Sheet.read(before)
    assert sheet.bytes == before
    comments = {"Ada-L-1234567": "2.8: <half>\nand more", "Bo-M-2345678": "well done"}
    done = fill_sheet(sheet, STAGE, {**RESULTS, "Bo-M-2345678": Final(25, 25)}, comments=comments)
    assert changed(GERMAN, sheet.rows) == {(1, 4): "39", (2, 4): "50", (1, 8): "2.8: &lt;half&gt;<br>and more"}
    assert done.said == {
        "scaled": ["the platform counts 50 points and the stage has 25: all grades are multiplied by 2"],
        "another grade was there": ["Ada-L-1234567 (12,50 -> 39)"],
        "a comment was there, and stays": ["Bo-M-2345678"],
    }


def test_excels_first_line_stays():
    sheet = Sheet.of("sep=;\r\n" + text_of(MOODLE).replace(",", ";"))
    assert sheet.text.startswith("sep=;\r\nIdentifier;")
    assert list(fill_sheet(sheet, STAGE, RESULTS).rows) == list(RESULTS)


def test_canvas_is_known_by_its_assignments_whatever_language_the_other_titles_are_in():
    table = [["Studierende", "ID", "Abschnitt", f"{STAGE} (78)"], ["L, Ada", "1234567", "S1", ""]]
    assert fill(text_of(table), STAGE, RESULTS)[2] == "canvas"


def test_a_worksheet_of_blind_marking_has_no_names():
    table = [[row[0], *row[3:]] for row in MOODLE]
    person = people(Sheet.of(text_of(table)))[0]
    assert (person.name, person.number) == ("Participant 1234567", "1234567")
    assert list(fill(text_of(table), STAGE, RESULTS)[1]) == list(RESULTS)


def test_an_excused_student_stays_excused_and_other_grades_are_named():
    table = [row[:] for row in CANVAS]
    table[2][6], table[3][6] = "EX", "3"
    sheet = Sheet.of(text_of(table))
    done = fill_sheet(sheet, STAGE, {**RESULTS, "Bo-M-2345678": Final(20.0, 25)})
    assert changed(table, sheet.rows) == {(3, 6): "20"}
    assert done.said["excused on the platform, and stays so"] == ["Ada-L-1234567"]
    assert done.said["another grade was there"] == ["Bo-M-2345678 (3 -> 20)"]
    again = fill_sheet(sheet, STAGE, {"Bo-M-2345678": Final(20.0, 25)})
    assert not again.said  # the same grade is not news


def test_another_maximum_is_scaled_and_said():
    table = [row[:] for row in CANVAS]
    table[1][6] = "100"
    sheet = Sheet.of(text_of(table))
    done = fill_sheet(sheet, STAGE, RESULTS)
    assert changed(table, sheet.rows) == {(2, 6): "78"}
    assert "multiplied by 4" in done.said["scaled"][0]
    table[1][6] = "0"
    with pytest.raises(ExportError, match="0 points"):
        fill(text_of(table), STAGE, RESULTS)


def test_a_renamed_student_is_found_by_the_registers_number():
    sheet = Sheet.of(text_of(CANVAS))
    done = fill_sheet(sheet, STAGE, {"bride": Final(3, 25)}, numbers={"2345678": "bride"})
    assert done.rows["bride"][0] == "M, Bo"


def test_another_assignments_worksheet_of_moodles_is_not_filled_in():
    assert not fill_sheet(Sheet.of(text_of(MOODLE)), STAGE, RESULTS, numbers={"1234567": "", "2345678": ""}).rows


def test_what_stands_before_an_address_tells_a_student_only_where_all_are_of_one_domain():
    for domain, found in (("example.org", ["ada"]), ("elsewhere.example", [])):
        table = [row[:] for row in MOODLE]
        table[2][2] = f"bo@{domain}"
        assert list(fill(text_of(table), STAGE, {"ada": Final(1, 25)})[1]) == found


def test_points_above_the_maximum_are_not_written_unasked():
    for above, cells in ((False, {}), (True, {(2, 6): "30"})):
        sheet = Sheet.of(text_of(CANVAS))
        fill_sheet(sheet, STAGE, {"Ada-L-1234567": Final(30, 25)}, above=above)
        assert changed(CANVAS, sheet.rows) == cells


@pytest.mark.parametrize(
    ("table", "name", "logins"),
    [(MOODLE, "Ada L", ["Participant 1234567", "ada@example.org"]), (CANVAS, "Ada L", ["1234567", "u1", "ada"])],
    ids=["moodle", "canvas"],
)
def test_a_platforms_table_is_a_class_list(table, name, logins):
    person = people(Sheet.of(text_of(table)))[0]
    assert (person.name, person.number, person.logins) == (name, "1234567", logins)


def test_nbgraders_own_class_list_is_one_too():
    person = people(Sheet.of("id,first_name,last_name,email\nann,Ann Mary,Lee,ann@example.org\n"))[0]
    assert (person.name, person.keys) == ("Ann Mary Lee", {"ann", "ann@example.org"})


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


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_logins_in_capitals_and_tables_of_other_forms(separator, encoding):
    text = text_of([CANVAS[0], ["Lee, Ann", "1", "ANN", "Ann@UNI.EDU", "S1", "", ""]])
    if separator != ",":
        rows = list(csv.reader(io.StringIO(text)))
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=separator).writerows(rows)
        text = buffer.getvalue()
    sheet = Sheet.read(text.encode(encoding))
    assert list(fill_sheet(sheet, STAGE, {"ann": Final(20.0, 25.0)}).rows) == ["ann"]
    assert Sheet.read(sheet.bytes).rows[1][6] == "20"


def test_logins_that_differ_in_capitals_alone(tmp_path):
    table = text_of([CANVAS[0], ["Lee, Ann", "1", "ANN", "", "S1", "", ""]])
    _, filled, _ = fill(table, STAGE, {"ann": Final(20.0, 25.0), "Ann": Final(1.0, 25.0)})
    assert filled == {}, "either may be meant"
    _, filled, _ = fill(table, STAGE, {"ann": Final(20.0, 25.0), "ANN": Final(1.0, 25.0)})
    assert list(filled) == ["ANN"]


def test_more_points_than_there_are_stay_out_until_asked_for():
    table = text_of([CANVAS[0], ["Lee, Ann", "1", "ann", "ann", "S1", "", ""]])
    results = {"ann": Final(54.0, 25.0)}
    assert tables.too_many(results) == ["ann (54 of 25)"]
    assert rows_of(fill(table, STAGE, results)[0])[1][6] == ""
    assert rows_of(fill(table, STAGE, results, above=True)[0])[1][6] == "54"


def test_an_encoding_that_nobody_knows_is_named():
    with pytest.raises(ValueError, match="CSV UTF-8"):
        Sheet.read(b"J\x81rgen")


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
