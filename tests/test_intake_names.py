"""Which file counts, and whose it is, where several have one name or none tells a student."""

from __future__ import annotations

import json
import os

import grade_course
import pytest
from grade_course import STAGE
from handed_in import NAME, by_student, graded, put, zipped

from autograder.intake import naming, notebook
from autograder.intake.discover import discover
from autograder.intake.register import Register


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (f"ann/2027-03-01/{NAME}", f"ann/2027-03-05/{NAME}"),
        (f"ann/2027-03-09 10-15/{NAME}", f"ann/2027-03-10 09-15/{NAME}"),
        (f"ann/Version 1/{NAME}", f"ann/Version 2/{NAME}"),
        (f"ann/Version 9/{NAME}", f"ann/version 10/{NAME}"),
        (f"ann_1_100_{NAME}", f"ann_1_200_{STAGE}-1.ipynb"),
        (f"ann_1_900_{STAGE}-9.ipynb", f"ann_1_200_{STAGE}-10.ipynb"),
    ],
)
def test_of_equal_names_the_newest_counts(tmp_path, assignments, complete, half, older, newer):
    found = by_student(put(tmp_path, {older: half, newer: complete, f"zed_9_900_{NAME}": half}), assignments)
    (ann,) = [s for student, s in found.items() if student.startswith("ann")]
    assert (ann.problem, ann.fetch()) == ("", complete)
    assert "left out" in " ".join(ann.notes)


#: What a student's folder holds: the older, then the newer, as numbers or dates tell.
NEWER = (
    (f"v9/{NAME}", f"v10/{NAME}"),
    (f"{STAGE}_v9.ipynb", f"{STAGE}_v10.ipynb"),
    (f"{STAGE} v1.ipynb", f"{STAGE} V2.ipynb"),
    (f"{STAGE}_final.ipynb", f"{STAGE}_FINAL2.ipynb"),
    (f"{STAGE}_final_v2.ipynb", f"{STAGE}_final_v10.ipynb"),
    (f"{STAGE}-rev1.2.ipynb", f"{STAGE}-rev1.10.ipynb"),
    (f"{STAGE}_alt.ipynb", NAME),
    (f"{STAGE}_old.ipynb", f"{STAGE}_new.ipynb"),
    (f"alt/{NAME}", f"neu/{NAME}"),
    (f"{STAGE}-checkpoint.ipynb", NAME),
    (f"{STAGE} 2027-03-01.ipynb", f"{STAGE} 2027-03-05.ipynb"),
    (f"{STAGE}_20270301.ipynb", f"{STAGE}_20270305.ipynb"),
    (f"20270301120000_{NAME}", f"20270301130000_{NAME}"),
    (f"{STAGE} 31.01.2027.ipynb", f"{STAGE} 01.02.2027.ipynb"),
    (f"{STAGE} 04-01-2027.ipynb", f"{STAGE} 05-03-2027.ipynb"),  # in either order
    (f"{STAGE} 28-02-2027.ipynb", f"{STAGE} 01-03-2027.ipynb"),  # which only one order can be
    (f"{STAGE} 02-28-2027.ipynb", f"{STAGE} 03-01-2027.ipynb"),
    (f"9 March 2027/{NAME}", f"10 March 2027/{NAME}"),
    (f"28. Februar 2027/{NAME}", f"1. März 2027/{NAME}"),
    (f"28 févr. 2027/{NAME}", f"1 mars 2027/{NAME}"),
    (f"2027年2月28日/{NAME}", f"2027年3月1日/{NAME}"),
    (f"March 9, 2027 9.15 AM/{NAME}", f"March 9, 2027 1.10 PM/{NAME}"),
    (f"2027-03-09T09_15/{NAME}", f"2027-03-09T10_05/{NAME}"),
    (f"Attempt #2/{NAME}", f"Attempt #11/{NAME}"),
    (f"Versuch 9/{NAME}", f"Versuch 10/{NAME}"),
    (f"版本1/{NAME}", f"版本2/{NAME}"),
    ("第1版.ipynb", "第2版.ipynb"),
    ("try1.ipynb", "try2.ipynb"),
)
#: Two that nothing tells apart.
EITHER = (
    *((f"draft/{NAME}", f"final/{NAME}"), (NAME, f"{STAGE} (1).ipynb"), (NAME, f"Copy of {NAME}")),
    *((NAME, f"backup/{NAME}"), ("homework.ipynb", "lab.ipynb"), (NAME, "homework.ipynb"), (NAME, f"{STAGE}_v2.ipynb")),
    *((NAME, f"{STAGE}_final.ipynb"), (NAME, f"{STAGE}-Copy1.ipynb"), (NAME, f"{STAGE} - Kopie.ipynb")),
    *((NAME, f"Copie de {NAME}"), (NAME, f"{STAGE} - 副本.ipynb"), (NAME, f"{STAGE} - コピー.ipynb")),
    *((f"{STAGE} (1).ipynb", f"{STAGE} (2).ipynb"), (f"Version 2/{NAME}", f"2027-03-01/{NAME}")),
    *((f"{STAGE} 03-05-2027.ipynb", f"{STAGE} 04-01-2027.ipynb"), ("Untitled.ipynb", "Untitled1.ipynb")),
)


def test_of_names_that_number_or_date_the_newest_counts(tmp_path, assignments, complete, half):
    files = {
        f"s{n}/{name}": data for n, two in enumerate(NEWER) for name, data in zip(two, (half, complete), strict=True)
    }
    found = by_student(put(tmp_path, files), assignments)
    for n, two in enumerate(NEWER):
        assert (found[f"s{n}"].problem, found[f"s{n}"].fetch() == complete) == ("", True), two


def test_where_nothing_tells_the_newest_a_person_looks(tmp_path, assignments, complete, half):
    files = {
        f"s{n}/{name}": data for n, two in enumerate(EITHER) for name, data in zip(two, (half, complete), strict=True)
    }
    found = by_student(put(tmp_path / "a", files | {f"bo/{NAME}": half}), assignments)
    assert not found["bo"].problem
    for n, two in enumerate(EITHER):
        assert "nothing tells the newest" in found[f"s{n}"].problem, two
    run_again = complete.replace(
        b'"outputs": []', b'"outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}]'
    )
    assert run_again != complete
    for n, same in enumerate((complete, run_again)):
        files = {
            path: same if path.endswith(two[1]) else complete
            for two in EITHER
            for path in (f"ann/{two[0]}", f"ann/{two[1]}")
        }
        found = by_student(put(tmp_path / f"b{n}", files), assignments)
        assert not found["ann"].problem, "what would be graded alike is no question"


@pytest.mark.parametrize("released", [NAME, f"original/{NAME}", f"v2/{NAME}", f"{STAGE}_final.ipynb"])
def test_the_released_notebook_beside_an_answer_is_none(tmp_path, assignments, complete, released):
    blank = json.dumps(grade_course.notebooks()[0]).encode()
    files = {f"ann/{released}": blank, f"ann/{STAGE}_v1.ipynb": complete, f"bo/{NAME}": complete}
    found = by_student(put(tmp_path, files), assignments)
    assert (found["ann"].problem, found["ann"].fetch() == complete) == ("", True)
    assert released.rpartition("/")[2] in " ".join(found["ann"].notes)


def test_an_attempt_without_answers_after_one_with_some_is_looked_at(tmp_path, assignments, complete):
    blank = json.dumps(grade_course.notebooks()[0]).encode()
    files = {f"ann_1_100_{NAME}": complete, f"ann_1_200_{STAGE}-1.ipynb": blank, f"bo_2_300_{NAME}": complete}
    found = by_student(put(tmp_path, files), assignments)
    assert "has no answer, and others have" in found["ann-1"].problem


#: The names in a flat folder or an export, and whose they are.
WHOSE = (
    (f"ann_{STAGE} - Kopie.ipynb", "ann"),
    (f"Kopie von bo_{NAME}", "bo"),
    (f"cy_2027-03-05_{NAME}", "cy"),
    (f"di_final_{NAME}", "di"),
    (f"20210512_{NAME}", "20210512"),  # a number that could be a date
    (f"{STAGE}_Müller.ipynb", "Müller"),
    (f"李雷_{STAGE}_最终版.ipynb", "李雷"),
    (f"Bo B - Kopie von {NAME}", "Bo-B"),
    (f"Eva E - 12.03.2027 - {NAME}", "Eva-E"),
    (f"anon_x8Gh2_1234567_{NAME}", "anon_x8Gh2"),
    ("fi - Kopie.ipynb", "fi"),
    (f"{STAGE} (1) - Ho H.ipynb", "Ho-H"),
    (f"{STAGE} 1_Ij I.ipynb", "Ij-I"),
    ("gu.ipynb.zip", "gu"),
    *(
        (f"{name}.ipynb", "unknown")
        for name in (f"副本 {STAGE}", f"{STAGE} - 副本", f"{STAGE}_FINAL2", f"final_{STAGE}")
    ),
    *(
        (f"{name}.ipynb", "unknown")
        for name in (f"2027-03-05_{STAGE}", f"{STAGE}_2027-03-05 12.30", f"{STAGE} Abgabe v2")
    ),
)


def test_copies_dates_and_words_are_nobodys_name(tmp_path, assignments, complete):
    files = {name: zipped({NAME: complete}) if name.endswith(".zip") else complete for name, _ in WHOSE}
    found = by_student(put(tmp_path, files), assignments)
    assert set(found) == {student for _, student in WHOSE}
    assert all(bool(s.problem) == (student == "unknown") for student, s in found.items())


@pytest.mark.parametrize("same", [True, False])
def test_a_copy_beside_the_original_is_no_second_student(tmp_path, assignments, complete, half, same):
    files = {
        "ann.ipynb": complete,
        "ann (1).ipynb": complete if same else half,
        "s (1).ipynb": half,
        "s (2).ipynb": half,
    }
    found = by_student(put(tmp_path, files), assignments)
    assert set(found) == {"ann", "s-1", "s-2"}
    assert bool(found["ann"].problem) == (not same)


#: What a file may be that is called a notebook, and what its student is told.
NO_NOTEBOOKS = {
    b"PK\x03\x04rest": "it is a zip file",
    b"%PDF-1.7": "it is a PDF",
    b"<!DOCTYPE html><html>": "it is a web page",
    b"\xef\xbb\xbf\n<html>": "it is a web page",
    b"\x1f\x8b\x08": "it is a compressed file",
    b'{"cells": [\n<<<<<<< HEAD\n': "it has a merge conflict",
    b'{"cells": [{"cell_type": "co': "the file ends in the middle",
    b"import torch\nx = 1\n": "it is a text of Python",
    b'{"worksheets": []}': "it is in an old format",
    b"version https://git-lfs.github.com/spec/v1\n": "it is what Git LFS has",
}


@pytest.mark.parametrize("data", NO_NOTEBOOKS)
def test_what_is_no_notebook_is_named(data):
    with pytest.raises(ValueError, match=NO_NOTEBOOKS[data]):
        notebook.cells_of(data)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom"])
def test_a_notebook_in_each_encoding_of_windows(encoding):
    text = '{\r\n"cells": [{"source": "größe"}]\r\n}'
    data = b"\xfe\xff" + text.encode("utf-16-be") if encoding.endswith("bom") else text.encode(encoding)
    assert notebook.cells_of(data) == [{"source": "größe"}]


def test_teams_and_google_classroom(tmp_path, assignments, complete, half):
    teams = {
        f"Submitted files/Ann A/Homework 2/Version 1/{NAME}": half,
        f"Submitted files/Ann A/Homework 2/Version 2/{NAME}": complete,
        "Submitted files/Bo B/Homework 2/Version 1/hw.ipynb": half,
    }
    found = by_student(put(tmp_path / "teams", teams), assignments)
    assert {student: s.problem for student, s in found.items()} == {"Ann-A": "", "Bo-B": ""}
    assert found["Ann-A"].fetch() == complete
    teams = {name: data for name, data in teams.items() if "Ann" in name}  # alone, and with what was not turned in
    teams |= {f"Working files/{who}/Homework 2/{NAME}": half for who in ("Ann A", "Bo B")}
    found = by_student(put(tmp_path / "working", teams), assignments)
    assert {student: (s.problem, s.fetch()) for student, s in found.items()} == {
        "Ann-A": ("", complete),
        "Bo-B": ("", half),
    }
    assert "was not turned in" in " ".join(found["Bo-B"].notes)
    classroom = {f"Ann A - {NAME}": complete, f"Bo B-C - Copy of {NAME}": half, "Cy - hw.pdf": b"pdf"}
    found = graded(put(tmp_path / "classroom", classroom), assignments)
    assert found == {"Ann-A": True, "Bo-B-C": True, "Cy---hw": False}


def test_a_name_that_tells_no_student_is_none(tmp_path, assignments, complete, half):
    files = {f"{STAGE} (1).ipynb": complete, "bob.pdf": b"pdf", f"{STAGE}_final.ipynb": half, "index.html": b""}
    files |= {"cy.html": b"<html>", "di.ipynb.crdownload": complete, "ed.jpg": b""}
    found = by_student(put(tmp_path, files), assignments)
    assert set(found) == {"unknown", "bob", "cy", "di", "ed"}
    assert f"{STAGE} (1).ipynb" in found["unknown"].problem
    assert "bob.pdf" in found["bob"].problem


def read(folder, assignments, names):
    found = discover(folder, assignments, names)
    for submission in found:
        notebook.answers(submission, assignments[submission.stage])
    return {s.student: (s.problem, s.fetch()) for s in found}


def test_a_form_of_the_names(tmp_path, assignments, complete, half):
    files = {
        f"week3-Ann A-{NAME}": complete,
        f"week3-Bo-{NAME}": half,
        f"week3-Bo-{STAGE}.pdf": b"pdf",
        "x.ipynb": half,
    }
    found = read(put(tmp_path / "a", files), assignments, "week3-{student}-{any}")
    assert {student: answer[1] for student, answer in found.items() if not answer[0]} == {"Ann-A": complete, "Bo": half}
    assert "x.ipynb" in found["unknown"][0]
    deep = {f"g1/hw_ann/a/{NAME}": complete, f"g2/hw_bo/a/{NAME}": half}
    found = read(put(tmp_path / "b", deep), assignments, "hw_{student}/{any}/{any}.ipynb")
    assert {student: answer[1] for student, answer in found.items()} == {"ann": complete, "bo": half}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_of_the_names(tmp_path, assignments, complete, half, encoding):
    put(tmp_path / "in", {"7f3a.ipynb": complete, f"team/{NAME}": half, "odd-2.ipynb": half, "rest.ipynb": half})
    table = tmp_path / "names.csv"
    table.write_text("7F3A.ipynb;Ann A\nteam;Bo\nodd-*;Cy\n", encoding=encoding)
    found = read(tmp_path / "in", assignments, str(table))
    assert {student for student, (problem, _) in found.items() if not problem} == {"Ann-A", "Bo", "Cy"}
    assert "rest.ipynb" in found["unknown"][0]


@pytest.mark.parametrize(
    ("names", "why"),
    [("{student}_{student}", "once"), ("{student}_{x}", "only {any}"), ("nowhere.csv", "give a form")],
)
def test_names_that_cannot_be(names, why):
    with pytest.raises(naming.NamesError, match=why):
        naming.rule(names)


def test_a_table_with_a_hole_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("a.ipynb,Ann\nb.ipynb\n")
    with pytest.raises(naming.NamesError, match="row 2"):
        naming.rule(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("name", "read"),
    [(b"M\x81ller", "M\u00fcller"), (b"M\xfcller", "M\u00fcller"), ("Mü".encode(), "Mü"), (b"\xff", "\xff")],
)
def test_names_in_the_letters_of_old_programs(tmp_path, assignments, complete, name, read):
    put(tmp_path, {f"{os.fsdecode(name)}.ipynb": complete, f"bo/{os.fsdecode(name)}.zip": b"no zip"})
    register = Register(tmp_path / "out")
    found = {s.student: s for s in discover(tmp_path, assignments, register=register)}
    assert set(found) == {read, "bo"}
    (tmp_path / "out" / ".grading").mkdir(parents=True)
    register.save()
    for submission in found.values():
        assert f"{submission.origin} {submission.problem}".encode()


def test_a_file_with_nothing_in_it_says_so(tmp_path, assignments):
    found = by_student(put(tmp_path, {"ann.ipynb": b"", "bo.ipynb": b" \n"}), assignments)
    assert {s.problem for s in found.values()} == {"no notebook: the file is empty"}


@pytest.mark.parametrize("mark", ["\u200d", "\u00ad", "\u034f", "\u3164", "\ufe0f", "\u202e", "\U000e0041"])
def test_what_a_reader_cannot_see_makes_no_other_name(mark, tmp_path, assignments, complete, half):
    put(tmp_path, {f"an{mark}n/{NAME}": complete, f"ann/{NAME}": half})
    notes = {submission.student: submission.notes for submission in discover(tmp_path, assignments)}
    assert "ann" in notes
    assert len(notes) == 2
    assert all("others have nearly that name" in " ".join(lines) for lines in notes.values())
