"""Whose a file is, on each learning platform."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from grade_course import STAGE
from handed_in import EMPTY, MOODLE, NAME, by_student, graded, put, zipped

from autograder.intake import identity, names, platforms, walk
from autograder.intake.platforms import gradescope
from autograder.intake.register import Register

METADATA = b"---\nsubmission_66:\n  :submitters:\n  - :name: Jane\n    :sid: 's66'\n    :email: j@example.org\n"


@pytest.mark.parametrize(
    ("path", "student"),
    [
        ("doejane_123456_789012_02_lora_layer.ipynb", "doejane-123456"),
        ("doejane_LATE_123456_789012_02_lora_layer-1.ipynb", "doejane-123456"),
        ("doejane_late_123456_789012_02_lora_layer.ipynb", "doejane-123456"),
        ("j+d@x.edu+02_lora_layer+2027-03-01 12:00:00.000000 UTC+aGFzaA/02_lora_layer.ipynb", "j+d@x.edu"),
        ("Jane Q. Doe_1234567_assignsubmission_file_/02_lora_layer.ipynb", "Jane-Q.-Doe-1234567"),
        ("Jane Q. Doe_1234567_assignsubmission_file_my work.ipynb", "Jane-Q.-Doe-1234567"),
        ("assignment_55_export/submission_66/02_lora_layer.ipynb", "s66"),
        ("assignment_55_export/submission_67/02_lora_layer.ipynb", "submission_67"),
        ("gradebook_CS_02_lora_layer_jane_attempt_2027-03-01-12-00-00_02_lora_layer.ipynb", "jane"),
        ("gradebook_CS_1_2_jane_attempt_2027-03-01-12-00-00.txt", "jane"),
        ("12345-67890 - Jane Doe - 01 March, 2027 1159 PM - 02_lora_layer.ipynb", "Jane-Doe-12345"),
        ("12345-67890 - Ann-M - Li - Mar 1, 2027 901 AM/x - Mar 2, 2027 901 AM/a.ipynb", "Ann-M---Li-12345"),
        ("12345-67890 - Jane - 1 mars 2027 2359/a.ipynb", "Jane-12345"),
        ("jane.ipynb", "jane"),
        ("jane_02_lora_layer.ipynb", "jane"),
        ("jane/02_lora_layer.ipynb", "jane"),
        ("../../../etc/..ipynb", "etc"),
        ("..\\..\\evil_02_lora_layer.ipynb", "evil"),
    ],
)
def test_students_names_in_exports(path, student):
    metadata = walk.File((*PurePosixPath(path).parts[:-2], gradescope.RULE.roster), "", lambda: METADATA)
    work = walk.File(walk.parts_of(path), "", bytes)
    files = [metadata, work] if "export" in path else [work]
    assert [names.safe_name(place.name) for place, _ in identity.places(files)] == [student]


@pytest.mark.parametrize(
    ("text", "people"),
    [
        (METADATA, {"submission_66": ["s66"]}),
        (b"submission_1:\n  :submitters:\n  - :name: Jane\nsubmission_2:\n  :name: Jo\n",
         {"submission_1": ["Jane"], "submission_2": ["Jo"]}),
        (b"submission_1:\n  :submitters:\n  - :name: Jane\n    :sid: ''\n  - :name: Jo\n    :sid: j2\n",
         {"submission_1": ["Jane", "j2"]}),
        (b"submission_1:\n  :submitters:\n  - :sid: a\n  :results:\n    :tests:\n    - :name: b\n      :sid: b\n",
         {"submission_1": ["a"]}),
        (b"submission_1:\n" + b" " * 2_000_000, {}),
    ],
)  # fmt: skip
def test_gradescope_metadata(text, people):
    found = gradescope.people(text)
    assert {folder: [name for _, name in of] for folder, of in found.items() if of} == people


TOY = r"""
import re
from autograder.intake.rule import Rule

RULE = Rule("Toy", file=re.compile(r"toy~(?P<id>[0-9]+)~(?P<who>[^~]+)~(?P<file>.+)"))
"""


def test_a_new_platform_is_one_file(tmp_path, assignments, complete, half, monkeypatch):
    before = [rule.name for rule in platforms.RULES]
    assert before == sorted(before)
    files = {f"toy~7~Ann A~{NAME}": complete, f"toy~8~Bo~ann_1_2_{NAME}": half, "toy~9~Cy~hw.pdf": b"pdf"}
    files[f"di_4_400_toy~7~Ann A~{NAME}"] = complete  # a student of another platform
    put(tmp_path / "class", files)
    put(tmp_path / "rules", {"toy.py": TOY.encode()})
    monkeypatch.setattr(platforms, "__path__", [*platforms.__path__, str(tmp_path / "rules")])
    monkeypatch.setattr(platforms, "RULES", platforms.rules())
    assert {rule.name for rule in platforms.RULES} == {*before, "Toy"}
    found = by_student(tmp_path / "class", assignments)
    assert set(found) == {"Ann-A-7", "Bo-8", "Cy-9", "di-4"}
    assert found["Bo-8"].fetch() == half
    assert "hw.pdf" in found["Cy-9"].problem


def people(*names: str) -> bytes:
    """Gradescope's metadata: submission_66 is the first's, and so on."""
    return b"".join(
        f"submission_{66 + n}:\n  :submitters:\n  - :name: {name}\n    :sid: {name.lower()}1\n".encode()
        for n, name in enumerate(names)
    )


@pytest.mark.parametrize("pack", [False, True])
def test_a_gradescope_student_cannot_be_another(tmp_path, assignments, complete, half, pack):
    files = {
        "ex/submission_metadata.yml": people("Ann", "Zed"),
        f"ex/submission_66/{NAME}": complete,
        f"ex/submission_67/{NAME}": half,
        "ex/submission_67/submission_metadata.yml": people("Zed", "Ann"),
        f"ex/submission_67/submission_66/{NAME}": EMPTY,
    }
    put(tmp_path, {"e.zip": zipped(files)} if pack else files)
    found = by_student(tmp_path, assignments)
    assert set(found) == {"ann1", "zed1"}
    assert found["ann1"].fetch() == complete
    assert found["zed1"].fetch() == half


def test_a_gradescope_group_shares_its_grade(tmp_path, assignments, complete):
    group = b"submission_66:\n  :submitters:\n  - :name: Ann\n    :sid: a1\n  - :name: Bob\n    :sid: b1\n"
    put(tmp_path, {"ex/submission_metadata.yml": group, f"ex/submission_66/{NAME}": complete})
    assert graded(tmp_path, assignments) == {"a1": True, "b1": True}


def test_two_of_one_name_and_no_number_have_two_rows(tmp_path, assignments, complete, half):
    one = b"  :submitters:\n  - :name: Li Wei\n    :sid: \n"
    metadata = b"submission_66:\n" + one + b"submission_67:\n" + one
    files = {f"ex/submission_66/{NAME}": complete, f"ex/submission_67/{NAME}": half}
    found = by_student(put(tmp_path, {"ex/submission_metadata.yml": metadata, **files}), assignments)
    assert sorted(s.fetch() for s in found.values()) == sorted([complete, half])


def test_a_folder_in_the_metadata_s_place(tmp_path, assignments, complete):
    put(tmp_path, {f"ex/submission_66/{NAME}": complete, "ex/submission_metadata.yml/x": b""})
    put(tmp_path, {"ex/submission_66/submission_metadata.yml/x": b""})
    assert graded(tmp_path, assignments)["submission_66"]


def test_a_moodle_student_cannot_be_another(tmp_path, assignments, complete, half):
    files = {
        MOODLE("Ann A_1") + NAME: complete,
        MOODLE("Zed Z_9") + MOODLE("Ann A_1") + NAME: EMPTY,
        MOODLE("Zed Z_9") + NAME: half,
        "Yan Y_8_assignsubmission_file_Ann A_1_assignsubmission_file_.ipynb": half,
        "Xi X_7_assignsubmission_file_Ann A_1_2_x.ipynb": half,
    }
    found = by_student(put(tmp_path, files), assignments)
    assert set(found) == {"Ann-A-1", "Zed-Z-9", "Yan-Y-8", "Xi-X-7"}
    assert found["Ann-A-1"].fetch() == complete
    assert found["Zed-Z-9"].fetch() == half


def test_a_canvas_student_cannot_be_another(tmp_path, assignments, complete, half):
    files = {
        f"ann_1_100_{NAME}": complete,
        "zed_9_900_hw.zip": zipped({f"ann_1_100_{NAME}": half, "submission_metadata.yml": people("ann")}),
        f"yan_8_800_x_1_assignsubmission_file_{NAME}": half,
    }
    for place in (put(tmp_path / "a", files), put(tmp_path / "b", {"submissions.zip": zipped(files)})):
        found = by_student(place, assignments)
        assert set(found) == {"ann-1", "zed-9", "yan-8"}
        assert found["ann-1"].fetch() == complete


def test_one_folder_of_nbgraders_form_hides_nobody(tmp_path, assignments, complete, half):
    files = {
        MOODLE("Ann A_1") + NAME: complete,
        MOODLE("Bob B_2") + f"{STAGE}/{NAME}": half,
        MOODLE("Cy C_3") + NAME: complete,
    }
    assert set(graded(put(tmp_path / "moodle", files), assignments)) == {"Ann-A-1", "Bob-B-2", "Cy-C-3"}
    metadata = {"submission_metadata.yml": people("Ann", "Zed")}
    files = {f"submission_66/{NAME}": complete, f"submission_67/{STAGE}/{NAME}": half}
    assert set(graded(put(tmp_path / "gradescope", metadata | files), assignments)) == {"ann1", "zed1"}
    mixed = {
        f"ann/{STAGE}/{NAME}": complete,
        "bob.ipynb": half,
        "moodle.zip": zipped({MOODLE("Cy C_3") + NAME: complete}),
        f"dy/another/{NAME}": half,
    }
    assert graded(put(tmp_path / "mixed", mixed), assignments) == dict.fromkeys(("ann", "bob", "Cy-C-3", "dy"), True)


BLACKBOARD = "gradebook_2027_12_cs_{}_attempt_2027-03-{:02}-12-00-00".format


def test_of_blackboards_attempts_the_newest_counts(tmp_path, assignments, complete, half):
    files = {
        BLACKBOARD("ann", 1) + f"_{NAME}": half,
        BLACKBOARD("ann", 5) + f"_{STAGE} (1).ipynb": complete,
        BLACKBOARD("ann", 5) + ".txt": b"Name: Ann (ann)",
        BLACKBOARD("bob", 9) + f"_ann_attempt_2027-03-20-12-00-00_{NAME}": half,
        BLACKBOARD("cy", 1) + "_hw.zip": zipped({NAME: half}),
        BLACKBOARD("cy", 2) + "_hw.zip": zipped({"x.ipynb": complete}),
        BLACKBOARD("cy", 3) + "_hw.pdf": b"pdf",
        BLACKBOARD("di", 1) + ".txt": b"nothing",
    }
    whole = "gradebook_2027_12_cs_2027-03-21-12-00-00"  # Canvas's form, but for the first word
    for place in (
        put(tmp_path / "a", files),
        put(tmp_path / "b", {f"{whole}.zip": zipped(files)}),
        put(tmp_path / "c", {f"{whole}/{name}": data for name, data in files.items()}),
    ):
        found = by_student(place, assignments)
        assert {student: not s.problem for student, s in found.items()} == {
            "ann": True,
            "bob": True,
            "cy": True,
            "di": False,
        }
        assert found["ann"].fetch() == found["cy"].fetch() == complete
        assert "2027-03-01" in " ".join(found["ann"].notes)
        assert "newest attempt has no notebook" in " ".join(found["cy"].notes)
        assert not found["bob"].notes


def test_of_what_nbgraders_exchange_holds_the_newest_counts(tmp_path, assignments, complete, half):
    at = f"{{}}+{STAGE}+2027-03-0{{}} 12:00:00.000000 UTC{{}}/{NAME}".format
    files = {at("ann", 1, "+YQ"): half, at("ann", 2, "+Yg"): complete, at("bo", 1, ""): half}
    found = by_student(put(tmp_path, {"inbound.zip": zipped(files)}), assignments)
    assert {student: (s.problem, s.fetch()) for student, s in found.items()} == {
        "ann": ("", complete),
        "bo": ("", half),
    }


def test_blackboards_logins_that_end_alike_are_not_one_student(tmp_path, assignments, complete):
    put(tmp_path, {BLACKBOARD(login, 1) + f"_{NAME}": complete for login in ("a_doe", "b_doe", "cy")})
    put(tmp_path, {"gradebook_CS_1_2_2027-03-21-12-00-00.zip": zipped({BLACKBOARD("ed", 1) + f"_{NAME}": complete})})
    found = by_student(tmp_path, assignments)
    assert {student: s.problem[:22] for student, s in found.items()} == {
        "doe": "may be several student",
        "cy": "",
        "ed": "",
    }


def test_of_brightspaces_attempts_the_newest_counts(tmp_path, assignments, complete, half):
    ann, bo, cy = "1-10 - Ann A - Mar {}", "2-20 - Bo - {} mars 2027 2359", "3-30 - Cy - 0{} March, 2027 {} PM - "
    folders = {
        ann.format("9, 2027 1159 PM") + "/z.ipynb": half,
        ann.format("10, 2027 1201 AM") + "/a.ipynb": complete,
        bo.format(1) + "/hw.ipynb": half,
        bo.format(2) + "/hw.ipynb": complete,
        "index.html": b"",
    }
    flat = {cy.format(1, 1159) + NAME: half, cy.format(2, 1205) + "hw.ipynb": half, cy.format(2, 101) + NAME: complete}
    for place in (
        put(tmp_path / "a", folders | flat),
        put(tmp_path / "b", {"Homework Download Mar 11, 2027 1 PM.zip": zipped(folders | flat)}),
    ):
        found = by_student(place, assignments)
        assert {student: not s.problem for student, s in found.items()} == {
            "Ann-A-1": True,
            "Bo-2": False,
            "Cy-3": True,
        }
        assert found["Ann-A-1"].fetch() == found["Cy-3"].fetch() == complete
        assert "several attempts" in found["Bo-2"].problem


def test_a_file_in_canvas_is_known_by_its_own_name(tmp_path, assignments, complete, half):
    put(tmp_path, {"ann_1_100_a.ipynb": half, f"ann_1_101_{STAGE}-1.ipynb": complete, "ann_1_102_z.pdf": b""})
    found = by_student(tmp_path, assignments)
    assert {student: s.fetch() for student, s in found.items()} == {"ann-1": complete}


def test_names_in_a_students_own_zip_are_not_other_students(tmp_path, assignments, complete, half):
    forged = {f"{name}_{n}_{n}0_{NAME}": EMPTY for n, name in enumerate(("ann", "absent", "dan"), 1)}
    for how, inside in {
        "canvas": forged,
        "moodle": {MOODLE(f"Ann_{n}") + NAME: EMPTY for n in (1, 2)},
        "plain": {f"{name}_{NAME}": EMPTY for name in ("ann", "absent")},
    }.items():
        place = put(tmp_path / how, {"ann.ipynb": complete, "bob.ipynb": half, "eve.zip": zipped(inside)})
        assert set(by_student(place, assignments)) == {"ann", "bob", "eve"}, how


def test_a_name_like_moodles_own_text_takes_nobodys_place(tmp_path, assignments, complete, half):
    folders = {MOODLE("Ann_1") + NAME: complete, MOODLE("Ann_1_assignsubmission_file__2") + NAME: half}
    found = by_student(put(tmp_path / "folders", folders), assignments)
    assert {student for student in found if student.endswith("-1")} == {"Ann-1"}
    assert found["Ann-1"].fetch() == complete
    assert len(found) == 2
    files = {f"Ann_1_assignsubmission_file_{NAME}": complete}
    files[f"Ann_1_assignsubmission_file__2_assignsubmission_file_{NAME}"] = half
    found = by_student(put(tmp_path / "files", files), assignments)
    assert found["Ann-1"].fetch() == complete
    assert not found["Ann-1"].notes
    assert len(found) == 2


@pytest.mark.parametrize("name", ['"Eve\n      :sid: s1"', '"Eve\\n:sid: s1"', "|\n      Eve\n      :sid: s1"])
def test_a_name_that_yaml_folds_takes_nobodys_number(name):
    text = f"submission_1:\n  :submitters:\n  - :name: {name}\n    :sid: 0077\n    :email: e@x.org\n"
    assert gradescope.people(text.encode()) == {"submission_1": [("sid", "0077")]}


def test_who_came_first_keeps_the_row():
    register = Register(None)
    register.add(register.names([("name", "ann lee")]))
    later = register.names([("name", "ann lee"), ("name", "ann-lee")])
    assert later["name", "ann lee"] == "ann-lee"
    assert later["name", "ann-lee"].startswith("ann-lee-x")
