"""Which file counts, and whose it is, where several have one name or none tells a student."""

from __future__ import annotations

import pytest
from grade_course import STAGE
from handed_in import NAME, by_student, graded, put

from autograder.intake import naming, notebook
from autograder.intake.discover import discover


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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"ann/draft/{NAME}", f"ann/final/{NAME}"),
        (f"ann/{NAME}", f"ann/{STAGE} (1).ipynb"),
        (f"ann/{NAME}", f"ann/Copy of {NAME}"),
        (f"ann/{NAME}", f"ann/backup/{NAME}"),
        ("ann/homework.ipynb", "ann/lab.ipynb"),
    ],
)
def test_where_nothing_tells_the_newest_a_person_looks(tmp_path, assignments, complete, half, one, other):
    found = by_student(put(tmp_path / "a", {one: half, other: complete, f"bo/{NAME}": half}), assignments)
    assert "nothing tells the newest" in found["ann"].problem
    assert not found["bo"].problem
    found = by_student(put(tmp_path / "b", {one: half, other: half, f"bo/{NAME}": half}), assignments)
    assert not found["ann"].problem, "what is the same is not a question"


def test_teams_and_google_classroom(tmp_path, assignments, complete, half):
    teams = {
        f"Submitted files/Ann A/Homework 2/Version 1/{NAME}": half,
        f"Submitted files/Ann A/Homework 2/Version 2/{NAME}": complete,
        "Submitted files/Bo B/Homework 2/Version 1/hw.ipynb": half,
    }
    found = by_student(put(tmp_path / "teams", teams), assignments)
    assert {student: s.problem for student, s in found.items()} == {"Ann-A": "", "Bo-B": ""}
    assert found["Ann-A"].fetch() == complete
    classroom = {f"Ann A - {NAME}": complete, f"Bo B-C - Copy of {NAME}": half, "Cy - hw.pdf": b"pdf"}
    found = graded(put(tmp_path / "classroom", classroom), assignments)
    assert found == {"Ann-A": True, "Bo-B-C": True, "Cy---hw": False}


def test_a_name_that_tells_no_student_is_none(tmp_path, assignments, complete, half):
    files = {f"{STAGE} (1).ipynb": complete, "bob.pdf": b"pdf", f"{STAGE}_final.ipynb": half}
    found = by_student(put(tmp_path, files), assignments)
    assert set(found) == {"unknown", "bob"}
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


def test_a_file_with_nothing_in_it_says_so(tmp_path, assignments):
    found = by_student(put(tmp_path, {"ann.ipynb": b"", "bo.ipynb": b" \n"}), assignments)
    assert {s.problem for s in found.values()} == {"no notebook: the file is empty"}
