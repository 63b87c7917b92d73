"""A class over a term: names and marks that stay, a report on everything, runs that are taken back."""

from __future__ import annotations

import errno
import json
import sqlite3
from contextlib import closing

import pytest
from marked_course import STAGE, Course, results
from nbgrader.api import Gradebook

from autograder import __main__ as command_line
from autograder.engine.job import Row
from autograder.evaluation import result_from
from autograder.exercises import STAGES
from autograder.files import ignored_by_git, no_room
from autograder.intake.names import student_names
from autograder.intake.register import Register
from autograder.results import exchange, history, items, picture, report, roster
from autograder.results.fit import misfit
from autograder.results.gradebook import Book
from autograder.results.roster import Person
from autograder.results.sheet import Sheet
from autograder.results.tables import Final, finals
from lora_ref.checks.verdicts import Fault, Verdict


@pytest.fixture
def course(tmp_path):
    return Course(tmp_path / "graded")


# --- what a person did stays ----------------------------------------------------------------------------------------


def test_only_a_changed_written_answer_is_looked_at_again(course):
    course.grade("ann", "bob")
    course.mark("ann", 2.0)
    for key in ("the checks have changed", "and a library"):
        course.grade("ann", "bob", wrong="2.5", key=key)
        assert {course.marks("ann")[name][1:] for name in course.written} == {(2.0, False)}
    assert course.marks("ann")["check_2_5"][0] == 0
    course.grade("ann", key="again", written="Another answer.")
    assert {course.marks("ann")[name][1:] for name in course.written} == {(2.0, True)}
    assert all(course.marks("bob")[name][2] for name in course.written)  # nobody has read it


def test_a_file_that_breaks_and_comes_back_keeps_its_marks(course):
    course.grade("ann")
    course.mark("ann", 2.0)
    course.grade("ann", key="broken", problem="no notebook")
    course.grade("ann")
    assert {course.marks("ann")[name][1:] for name in course.written} == {(2.0, False)}


def test_a_course_graded_before_this_was_kept_asks_nobody_again(course):
    course.grade("ann")
    course.mark("ann", 2.0)
    with closing(sqlite3.connect(course.out / "gradebook.db")) as db, db:
        db.execute("DROP TABLE lora_read")
    course.grade("ann", key="new version")
    assert {course.marks("ann")[name][1:] for name in course.written} == {(2.0, False)}


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_student_who_is_called_otherwise_since_is_the_same(tmp_path):
    register = Register(tmp_path)
    before, after = ("id", "Ada Lovelace-1234567"), ("id", "Ada King-1234567")
    register.add(register.names([before]))
    register.save()
    assert Register(tmp_path).names([after]) == {after: "Ada-Lovelace-1234567"}
    two = [after, ("id", "Eve-1234567")]  # one batch says two names: then it tells neither
    assert len(set(Register(tmp_path).names(two).values()) - {"Ada-Lovelace-1234567"}) == 2


def moodles(stage: str, **numbers: str) -> dict:
    return {("id", f"{name.replace('_', ' ')}-{number}"): {stage} for name, number in numbers.items()}


def known(register: Register, keys: dict) -> set[str]:
    """What the students of a batch are called, as `discover` finds it."""
    same = register.same(keys)
    names = register.names(set(keys) - set(same))
    names |= {key: names.get(one) or register.keys[one] for key, one in same.items()}
    register.add(names)
    register.stages |= keys
    return set(names.values())


def test_moodle_numbers_a_student_anew_in_each_assignment(tmp_path):
    """Its numbers are of a student in one assignment, so that in the next one the name tells who it is."""
    first, second = "01_rank_theory", STAGE
    register = Register(tmp_path)
    one = moodles(first, Ada_L="111", Li_Wei="112") | {("id", "Li Wei-113"): {first}}
    assert known(register, one) == {"Ada-L-111", "Li-Wei-112", "Li-Wei-113"}
    register.save()
    register = Register(tmp_path)
    assert known(register, moodles(second, Ada_L="211", Li_Wei="212")) == {"Ada-L-111", "Li-Wei-212"}
    assert register.namesakes_of(("id", "Li Wei-212")) == {"Li-Wei-112", "Li-Wei-113"}
    assert not register.namesakes_of(("id", "Ada L-111"))
    assert known(register, moodles(second, Ada_L="299")) == {"Ada-L-299"}, "another of that name, in the same stage"
    assert known(register, moodles(second, Ada_King="211")) == {"Ada-L-111"}, "the number tells within an assignment"
    assert register.numbers(second) == {"111": "", "112": "", "113": "", "211": "Ada-L-111", "212": "Li-Wei-212",
                                        "299": "Ada-L-299"}  # fmt: skip
    register = Register(None)
    register.namesakes = {"ada l"}
    known(register, moodles(first, Ada_L="111"))
    assert known(register, moodles(second, Ada_L="211")) == {"Ada-L-211"}, "the class list has two"
    assert known(Register(None), moodles(first, Bo="1") | moodles(second, Bo="2")) == {"Bo-1"}, "two zips in one batch"


def test_nearly_equal_names_of_two_batches_are_two_students(tmp_path):
    register = Register(tmp_path)
    register.add(register.names([("name", "ann lee")]))
    names = register.names([("name", "ann-lee"), ("name", "ann lee")])
    assert names["name", "ann lee"] == "ann-lee"
    assert names["name", "ann-lee"].startswith("ann-lee-x")
    assert register.names([("name", "ann-lee")])["name", "ann-lee"] == names["name", "ann-lee"]
    assert student_names([("name", "a b")], others={"a-b"})["name", "a b"] != "a-b"


def test_a_folder_called_as_the_course_calls_a_platforms_student_is_that_student(tmp_path):
    register = Register(tmp_path)
    register.add(register.names([("id", "Ada L-123")]))
    assert register.names([("name", "Ada-L-123")])["name", "Ada-L-123"] == "Ada-L-123"


# --- everything graded so far ---------------------------------------------------------------------------------------


def test_a_late_batch_of_one_adds_a_row_and_changes_none(course):
    course.grade(*(f"s{n}" for n in range(6)))
    course.grade("late")
    assert set(course.table) == {*(f"s{n}" for n in range(6)), "late"}
    page = (course.out / "report.html").read_text(encoding="utf-8")
    assert "7 of 7" in page
    assert "1 new, 0" in page.replace("\n", " ")


def test_the_report_names_whose_points_changed_and_why(course):
    course.grade("ann", "bob")
    course.grade("ann", "bob", wrong="2.5", key="other checks")
    changes = history.last_changes(course.out)
    assert [change[1:3] for change in changes["changed"]] == [["ann", "2.5"], ["bob", "2.5"]]
    assert changes["new"] == []
    page = (course.out / "report.html").read_text(encoding="utf-8")
    assert "the course or its checks have changed" in page
    course.grade("ann", key="again", written="Another answer.")
    assert {change[-1] for change in history.last_changes(course.out)["changed"]} == {True}


def class_of(count: int) -> list[Row]:
    """Students of growing ability, of whom the better ones fail one check: a bad check."""
    rows = []
    bad = next(e for e in STAGES[STAGE] if len(e.hidden or ()) > 1).hidden[0].id
    for number in range(count):
        graded = results()
        for place, result in enumerate(graded):
            able = number >= (place + 1) * count / (len(graded) + 1)
            verdicts = [
                Verdict(v.id, v.contract, v.points, None if (able != (v.id == bad)) else Fault("seen", "likely"))
                for v in result.verdicts
            ]
            graded[place] = result_from(result.id, verdicts)
        rows.append(Row(f"student-{number}", STAGE, status="graded", results=graded))
    return rows


def test_a_bad_check_shows_itself():
    rows = class_of(40)
    bad = next(e for e in STAGES[STAGE] if len(e.hidden or ()) > 1).hidden[0].id
    assert [item.id for item in items.analyse(rows) if item.suspicious] == [bad]
    assert "1 check to look at" in report.page(rows, 1.0)
    assert not any(item.suspicious for item in items.analyse(rows[:8]))  # too few to tell


def test_a_correlation_is_the_one_of_the_textbooks():
    assert items.point_biserial([False, False, True, True], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(2 / 5**0.5)
    assert items.point_biserial([True, True], [1.0, 2.0]) is None
    assert items.point_biserial([True, False], [2.0, 2.0]) is None


@pytest.mark.parametrize("count", [1, 40, 300])
def test_the_picture_has_everybody_in_it(count):
    rows = class_of(count)
    of = picture.of([*rows, Row("nobody", "01_rank_theory", problem="a PDF", status="needs attention")],
                    ["01_rank_theory", STAGE])  # fmt: skip
    assert len(of["students"]) == count + 1
    assert of["students"][0]["points"] == max(row.score for row in rows)
    assert of["width"] <= picture.WIDTH + 1
    assert {"absent", "ungraded"} <= set(of["paths"])
    assert len(report.page(rows, 1.0)) < 1_000_000


def test_who_has_not_handed_in():
    rows = [Row("ann-7", STAGE, status="graded", results=results())]
    rows.append(Row("bob", "01_rank_theory", status="graded", results=results(stage="01_rank_theory")))
    stages = ["01_rank_theory", STAGE]
    assert report.not_handed_in(rows, stages, [], {}) == {"01_rank_theory": ["ann-7"], STAGE: ["bob"]}
    people = [Person("Ann A", "7", []), Person("Cy C", "9", ["cy"])]
    assert report.not_handed_in(rows, stages, people, {})[STAGE] == ["Cy C"]
    moved = [Person("Ann A", "17", []), Person("Bob B", "9", [])]  # Moodle's worksheet of another assignment
    assert report.not_handed_in([rows[1], Row("Ann-A-7", STAGE)], stages, moved, {"9": "bob"})[STAGE] == ["Bob B (bob)"]
    assert report.not_handed_in(rows, stages, people, {})["01_rank_theory"] == ["Ann A (ann-7)", "Cy C"]


# --- a wrong batch --------------------------------------------------------------------------------------------------


def test_a_batch_that_hardly_fits_is_doubted():
    bad = [Row(f"s{n}", STAGE, problem="names none of it") for n in range(9)]
    assert "1 of 10 submissions fit" in misfit([*bad, Row("ann", STAGE)], set(), [], {})
    assert misfit([Row(f"s{n}", STAGE) for n in range(9)] + bad, set(), [], {}) == ""
    assert misfit(bad[:2], set(), [], {}) == ""  # a late PDF or two
    strangers = [Row(f"s{n}", STAGE) for n in range(9)]
    assert "class list" in misfit(strangers, set(), [Person("Ann", "1", ["ann"])], {})
    assert misfit(strangers, set(), [Person(r.student, "", [r.student]) for r in strangers], {}) == ""


def test_a_dry_run_writes_nothing_and_a_wrong_zip_is_refused(tmp_path, capsys):
    for number in range(6):
        path = tmp_path / "in" / f"student-{number}" / "essay.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"cells": [], "nbformat": 4}), encoding="utf-8")
    line = ["grade", "--submissions", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--stage", STAGE]
    line += ["--sandbox", "none"]
    assert command_line.main([*line, "--dry-run"]) == 2
    assert "6 submissions, 6 of them cannot be graded" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert command_line.main(line) == 2
    assert "0 of 6 submissions fit" in capsys.readouterr().err
    assert not (tmp_path / "out" / "grades.csv").exists()


def students(course: Course) -> set[str]:
    with Gradebook(f"sqlite:///{course.out / 'gradebook.db'}") as book:
        return {student.id for student in book.students}


def run(course: Course, *words: str) -> int:
    return command_line.main([*words, "--graded", str(course.out)])


def test_a_ghost_is_taken_out_and_leaves_nothing(course, capsys):
    course.grade("ann", "ghost")
    assert run(course, "student", "remove", "ghost") == 0
    assert students(course) == set(course.table) == {"ann"}
    assert not [path for path in course.out.rglob("*ghost*") if not {"copies", "results"} & {*path.parts}]
    assert run(course, "student", "remove", "ghost") == 2
    assert "no student 'ghost'" in capsys.readouterr().err
    course.mark("ann", 2.0)
    assert run(course, "student", "remove", "ann", STAGE) == 2
    assert "given by hand" in capsys.readouterr().err
    assert set(course.table) == {"ann"}
    assert run(course, "student", "remove", "ann", STAGE, "--marked") == 0
    assert students(course) == set(course.table) == set()
    assert len(list((course.out / ".grading" / "copies").glob("*.db"))) >= 1


def test_one_student_under_two_names_becomes_one(course):
    course.grade("ada-l-7")
    course.mark("ada-l-7", 2.0)
    course.grade("ada-k-7")
    assert run(course, "student", "merge", "ada-l-7", "ada-k-7") == 0
    assert students(course) == set(course.table) == {"ada-k-7"}
    assert {course.marks("ada-k-7")[name][1:] for name in course.written} == {(2.0, False)}  # the same answer
    assert Register(course.out).names([("name", "ada-l-7")]) == {("name", "ada-l-7"): "ada-k-7"}


def test_a_stage_that_only_one_of_the_names_has_moves_as_it_is(course):
    course.grade("old")
    course.mark("old", 2.0)
    with Gradebook(f"sqlite:///{course.out / 'gradebook.db'}") as book:
        book.add_student("new")
    assert run(course, "student", "merge", "old", "new") == 0
    assert students(course) == set(course.table) == {"new"}
    assert {course.marks("new")[name][1:] for name in course.written} == {(2.0, False)}
    assert (course.out / "autograded" / "new" / STAGE / f"{STAGE}.ipynb").is_file()
    assert (course.out / "feedback" / "new" / STAGE / f"{STAGE}.html").is_file()


def test_what_cannot_be_graded_can_be_given_nothing(course, capsys):
    course.grade("ann", "pdf")
    course.grade("pdf", key="a PDF", problem="no notebook")
    assert finals(course.out, STAGE)["pdf"] == Final(None, 25, graded=False)
    assert run(course, "student", "zero", "ann", STAGE) == 2
    assert "formgrader" in capsys.readouterr().err
    assert run(course, "student", "zero", "pdf", STAGE) == 0
    course.grade("pdf", key="another PDF", problem="no notebook")
    assert finals(course.out, STAGE)["pdf"].score == 0
    course.grade("pdf", key="a notebook after all")
    assert finals(course.out, STAGE, automatic=True)["pdf"] == Final(22, 25)
    assert all(course.marks("pdf")[name] == (None, None, True) for name in course.written)


def test_a_run_is_taken_back(course, capsys):
    course.grade("ann")
    course.grade("ann", *(f"ghost-{n}" for n in range(5)), wrong="2.5", key="wrong zip")
    assert run(course, "student", "undo") == 0
    said = capsys.readouterr().out
    assert "5 submissions that were new" in said
    assert "ann, 02_lora_layer" in said
    assert students(course) == set(course.table) == {"ann"}
    course.mark("ann", 2.0)
    assert run(course, "student", "undo") == 2
    assert "by hand" in capsys.readouterr().err


def test_the_class_list_is_taken_in(course, tmp_path, capsys):
    course.grade("Ada-L-7", "stranger")
    table = tmp_path / "roster.csv"
    table.write_text("Student;ID;SIS Login ID;Section\nLöwe, Ada;7;ada;S1\nM, Bo;8;bo;S1\n", encoding="cp1252")
    assert run(course, "roster", str(table)) == 1
    said = capsys.readouterr().out
    assert "2 people; 1 have handed in something, 1 nothing" in said
    assert "nothing from: Bo M\nnot in the list: stranger" in said
    page = (course.out / "report.html").read_text(encoding="utf-8")
    assert "this run" not in page  # none was
    assert "Not handed in:\nM, Bo" in page or "Not handed in:\nBo M" in page
    with Gradebook(f"sqlite:///{course.out / 'gradebook.db'}") as book:
        assert book.find_student("Ada-L-7").last_name == "Löwe"


def test_a_comments_letter_that_the_tables_encoding_lacks_is_written_as_html_has_it():
    sheet = Sheet.read("Identifier;Löwe".encode("cp1252"))
    sheet.rows.append(["1", "α / r"])
    assert sheet.bytes.decode("cp1252").splitlines() == ["Identifier;Löwe", "1;&#945; / r"]


def test_the_exchange_gets_what_it_needs_to_give_feedback_back(course, tmp_path):
    home = tmp_path / "submitted" / "ann" / STAGE
    home.mkdir(parents=True)
    (home / "timestamp.txt").write_text("2027-03-01 17:00:00 UTC")
    (home / "submission_secret.txt").write_text("secret")
    rows = [Row(student, STAGE, str(home / f"{STAGE}.ipynb"), status=status)
            for student, status in (("ann", "graded"), ("pdf", "needs attention"))]  # fmt: skip
    exchange.keep(course.out, rows)
    for folder in ("autograded", "feedback"):
        assert (course.out / folder / "ann" / STAGE / "submission_secret.txt").read_text() == "secret"
        assert not (course.out / folder / "pdf").exists()


# --- the folder -----------------------------------------------------------------------------------------------------


def test_git_does_not_see_what_students_handed_in(tmp_path):
    ignored_by_git(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*\n"


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch, capsys):
    assert "disk is full" in no_room(OSError(errno.ENOSPC, "No space left on device"))
    assert no_room(OSError(errno.EACCES, "no")) == ""
    monkeypatch.setattr(
        "autograder.grade.grade", lambda *_: (_ for _ in ()).throw(RuntimeError("database or disk is full"))
    )
    line = ["grade", "--submissions", str(tmp_path), "--out", str(tmp_path / "out"), "--sandbox", "none"]
    assert command_line.main(line) == 2
    assert "disk is full" in capsys.readouterr().err


def test_a_full_disk_is_a_sentence_for_every_command(course, monkeypatch, capsys):
    """What is in the gradebook stays, and no half of a file is left."""
    course.grade("ann")
    course.grade("pdf", key="a PDF", problem="no notebook")
    course.mark("ann", 2.0)
    table, up = course.out.parent / "list.csv", course.out.parent / "up"
    table.write_text(f"Student,ID,SIS Login ID,Section,{STAGE} (7)\nL A,7,ann,S,\n", encoding="utf-8")

    def no_more(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_database(*arguments, connect=sqlite3.connect, **options):
        db = connect(*arguments, **options)
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
        return db

    monkeypatch.setattr("tempfile.mkstemp", no_more)
    monkeypatch.setattr(sqlite3, "connect", full_database)
    before = course.marks("ann")
    for line in (
        "student remove ann --marked", f"student zero pdf {STAGE}", f"roster {table}", "feedback", "mark",
        f"extension {STAGE} ann --days 1", f"export {STAGE} --table {table} --out {up}", f"export course --out {up}",
    ):  # fmt: skip
        assert run(course, *line.split()) == 2, line
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert "the disk is full" in said, line
        assert course.marks("ann") == before, line
        assert all(copy.stat().st_size for copy in (course.out / ".grading" / "copies").glob("*"))


def test_copies_of_one_second_are_two(course):
    course.grade("ann", "bob", "cy")
    for student in ("ann", "bob"):
        assert run(course, "student", "remove", student) == 0
    kept = sorted((course.out / ".grading" / "copies").glob("*.db"))
    counts = set()
    for path in kept:
        with closing(sqlite3.connect(path)) as db:
            counts.add(db.execute("SELECT count(*) FROM student").fetchone()[0])
    assert counts == {2, 3}


def test_an_extension_without_a_due_date_and_for_nobody_is_said(course, capsys):
    course.grade("ann-lee")
    assert run(course, "extension", STAGE, "an-lee", "--days", "1") == 0
    assert "nobody here is called 'an-lee' so far; there are ann-lee" in capsys.readouterr().out
    assert run(course, "extension", STAGE, "ann-lee", "--days", "1") == 0
    assert run(course, "late") == 0
    said = capsys.readouterr().out
    assert "nobody" not in said
    assert f"no due date, so nothing is late: {STAGE}" in said


def test_a_course_begins_with_its_class_list_where_one_says_and_nowhere_by_chance(tmp_path, monkeypatch, capsys):
    table = tmp_path / "list.csv"
    table.write_text("id,first_name,last_name,email\nann,Ann,Lee,\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for line in (["roster", str(table)], ["extension", STAGE, "ann", "--days", "1"]):
        assert command_line.main(line) == 2
        assert "--graded" in capsys.readouterr().err
    assert command_line.main(["extension"]) == 0
    assert f"no extensions in {tmp_path}" in capsys.readouterr().out
    assert command_line.main(["roster", "lost.csv", "--graded", "new"]) == 2
    assert "roster: lost.csv: no such file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["list.csv"]
    assert command_line.main(["roster", str(table), "--graded", "new"]) == 0
    assert "a new course folder: new" in capsys.readouterr().out
    assert (tmp_path / "new" / ".gitignore").read_text() == "*\n"
    assert command_line.main(["extension", STAGE, "ann", "--days", "1", "--graded", "new"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_a_damaged_zip_of_a_class_is_no_student(tmp_path, capsys):
    (tmp_path / "submissions.zip").write_bytes(b"PK\x03\x04 half of it")
    for where, more in (("submissions.zip", []), (".", ["--dry-run"]), (".", ["--anyway"])):
        line = ["grade", "--submissions", str(tmp_path / where), "--out", str(tmp_path / "out"), *more]
        assert command_line.main([*line, "--stage", STAGE, "--sandbox", "none"]) == 2
        assert "download it again" in capsys.readouterr().err
    assert not (tmp_path / "out" / "grades.csv").exists()


def test_real_names_reach_formgrader(course):
    course.grade("ann-7")
    roster.save(course.out, [Person("Ann Mary Lee", "7", ["ann@example.org"])])
    roster.name_students(course.out)
    with Gradebook(f"sqlite:///{course.out / 'gradebook.db'}") as book:
        student = book.find_student("ann-7")
        assert (student.first_name, student.last_name, student.email) == ("Ann Mary", "Lee", "ann@example.org")


def test_the_gradebook_is_nbgraders_still(course):
    course.grade("ann")
    with Book(course.out) as book:
        assert book.url.endswith("gradebook.db")
