"""Finding submissions, and reading them as untrusted files."""

from __future__ import annotations

import io
import json
import random
import unicodedata
import zipfile
from pathlib import PurePosixPath

import grade_course
import pytest
from grade_course import STAGE

from autograder.engine.assignment import STUDENT, Assignment
from autograder.exercises import STAGES
from autograder.intake import identity, names, notebook, platforms, walk
from autograder.intake.discover import discover
from autograder.intake.platforms import gradescope
from autograder.intake.submission import Submission

NAME = f"{STAGE}.ipynb"
MOODLE = "{}_assignsubmission_file_/".format
EMPTY = b'{"cells": []}'
METADATA = b"---\nsubmission_66:\n  :submitters:\n  - :name: Jane\n    :sid: 's66'\n    :email: j@example.org\n"


@pytest.fixture(scope="module")
def assignments():
    return {STAGE: Assignment.load(STAGE)}


@pytest.fixture(scope="module")
def complete():
    return grade_course.sample("complete")


@pytest.mark.parametrize(
    ("path", "student"),
    [
        ("doejane_123456_789012_02_lora_layer.ipynb", "doejane-123456"),
        ("doejane_LATE_123456_789012_02_lora_layer-1.ipynb", "doejane-123456"),
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
    found = taken(tmp_path / "class", assignments)
    assert set(found) == {"Ann-A-7", "Bo-8", "Cy-9", "di-4"}
    assert found["Bo-8"].fetch() == half
    assert "hw.pdf" in found["Cy-9"].problem


def test_a_zip_of_every_kind(tmp_path, assignments, complete):
    with zipfile.ZipFile(tmp_path / "submissions.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("doejane_1_2_02_lora_layer.ipynb", complete)
        archive.writestr("Jo Doe_7_assignsubmission_file_/renamed.ipynb", complete)
        archive.writestr("../../outside_02_lora_layer.ipynb", complete)
        archive.writestr("bomb_02_lora_layer.ipynb", b" " * 200_000_000)
        link = zipfile.ZipInfo("link_02_lora_layer.ipynb")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("notes.txt", "x")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and nothing more")
    found = discover(tmp_path, assignments)
    problems = {}
    for submission in found:
        answers = notebook.answers(submission, assignments[STAGE])
        problems[submission.student] = submission.problem
        assert bool(answers) != bool(submission.problem)
    assert set(problems) == {"doejane-1", "Jo-Doe-7", "outside", "bomb", "link", "broken"}
    good = {student for student, problem in problems.items() if not problem}
    assert good == {"doejane-1", "Jo-Doe-7", "outside"}
    assert any("more than" in problem for problem in problems.values())
    assert any("is a link" in problem for problem in problems.values())
    assert any("no readable zip" in problem for problem in problems.values())
    assert not (tmp_path.parent / "outside_02_lora_layer.ipynb").exists()


def test_nbgraders_layout(tmp_path, assignments, complete):
    grade_course.hand_in(tmp_path, "jane", complete)
    wrong = grade_course.hand_in(tmp_path, "jo", complete)
    wrong.rename(wrong.with_name("homework.ipynb"))
    secret = tmp_path / "secret.ipynb"
    secret.write_bytes(complete)
    linked = grade_course.hand_in(tmp_path, "link", b"")
    linked.unlink()
    linked.symlink_to(secret)
    found = {s.student: s for s in discover(tmp_path, assignments)}
    for submission in found.values():
        notebook.answers(submission, assignments[STAGE])
    assert {student: bool(s.problem) for student, s in found.items()} == {"jane": False, "jo": True, "link": True}
    assert "homework.ipynb" in found["jo"].problem


def test_an_empty_folder_is_a_submission_unless_grading_made_it_for_formgrader(tmp_path, assignments, complete):
    (tmp_path / "submitted" / "ada" / STAGE).mkdir(parents=True)
    (submission,) = discover(tmp_path, assignments)
    notebook.answers(submission, assignments[STAGE])
    assert "is missing" in submission.problem

    (tmp_path / ".grading").mkdir()  # notebooks were graded into their own folder
    (tmp_path / "ada.ipynb").write_bytes(complete)
    (submission,) = discover(tmp_path, assignments)
    notebook.answers(submission, assignments[STAGE])
    assert (submission.student, submission.problem) == ("ada", "")


def test_what_is_taken(tmp_path, assignments):
    release, _ = grade_course.notebooks()
    cells = {c["metadata"]["nbgrader"]["grade_id"]: c for c in release["cells"] if "nbgrader" in c["metadata"]}
    cells["layer"]["source"] = ["class LoRALayer:\n", "    x = helper()"]
    cells["setup"]["source"] = "raise SystemExit"
    demonstration = next(c for c in release["cells"] if c["cell_type"] == "code" and "nbgrader" not in c["metadata"])
    demonstration["source"] = "edited = 1"
    place = release["cells"].index(cells["layer"])
    release["cells"].insert(place, {"cell_type": "code", "source": "def helper(): pass", "metadata": {}})
    release["cells"].insert(0, {"cell_type": "code", "source": ["import math\n", "%time"], "metadata": {"nbgrader": 3}})
    forged = {"grade_id": "check_2_1", "grade": True, "locked": True, "points": 99}
    release["cells"].append({"cell_type": "code", "source": "99", "metadata": {"nbgrader": forged}})
    release["cells"].append({"cell_type": "markdown", "source": "my notes", "metadata": {}})
    grade_course.hand_in(tmp_path, "jane", json.dumps(release).encode())
    (submission,) = discover(tmp_path, assignments)
    answers = notebook.answers(submission, assignments[STAGE])
    assert set(answers) == {"layer", "wrapper", "parametrization", "bugs", "written_2_8"}
    rebuilt = assignments[STAGE].rebuilt(answers, submission.own)
    sources = [cell["source"] for cell in rebuilt]
    layer = sources.index("class LoRALayer:\n    x = helper()")
    assert sources[0] == "import math\n%time"
    assert "edited = 1" in sources
    assert layer - 3 < sources.index("def helper(): pass") < layer  # only prose may stand between
    assert len(rebuilt) == len(assignments[STAGE].release["cells"]) + 2
    for foreign in ("raise SystemExit", "99", "my notes"):
        assert foreign not in sources
    tagged = [cell["source"] for cell in rebuilt if STUDENT in cell["metadata"].get("tags", ())]
    assert tagged == ["import math\n%time", "edited = 1", "def helper(): pass"]


def test_an_editor_that_gives_new_ids_makes_no_cell_the_students_own(tmp_path, assignments):
    release, _ = grade_course.notebooks()
    for number, cell in enumerate(release["cells"]):
        cell["id"] = f"new-{number}"
    grade_course.hand_in(tmp_path, "jane", json.dumps(release).encode())
    (submission,) = discover(tmp_path, assignments)
    notebook.answers(submission, assignments[STAGE])
    assert submission.own == []


def test_own_cells_are_bounded(assignments):
    release, _ = grade_course.notebooks()
    release["cells"] += [{"cell_type": "code", "source": f"x{n} = 1", "metadata": {}} for n in range(1000)]
    release["cells"].append({"cell_type": "code", "source": "x" * 300_000, "metadata": {}})
    submission = Submission("s", STAGE, "", lambda: json.dumps(release).encode())
    notebook.answers(submission, assignments[STAGE])
    assert len(submission.own) == notebook.MAX_OWN_CELLS
    assert any("too many" in note for note in submission.notes)


def test_damaged_notebooks_never_raise(assignments, complete):
    generator = random.Random(0)
    kinds = {True: 0, False: 0}
    for number in range(300):
        data = bytearray(complete)
        for _ in range(generator.choice([1, 3, 30])):
            at = generator.randrange(len(data))
            action = generator.randrange(3)
            if action == 0:
                data[at] = generator.randrange(256)
            elif action == 1:
                del data[at : at + generator.randrange(1, 2000)]
            else:
                data[at:at] = data[at : at + 50]
        submission = Submission(f"s{number}", STAGE, "", lambda data=bytes(data): data)
        answers = notebook.answers(submission, assignments[STAGE])
        assert all(type(source) is str for source in answers.values())
        assert answers or submission.problem
        kinds[bool(answers)] += 1
    assert min(kinds.values()) > 10


@pytest.fixture(scope="module")
def half():
    return grade_course.sample("half-done")


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def put(root, files: dict[str, bytes]):
    """Write files below a folder."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def taken(folder, assignments) -> dict[str, Submission]:
    """The submissions in a folder, read, by student; each student has one."""
    found = discover(folder, assignments)
    for submission in found:
        notebook.answers(submission, assignments[submission.stage])
    assert len({(s.student, s.stage) for s in found}) == len(found)
    return {s.student: s for s in found}


def graded(folder, assignments) -> dict[str, bool]:
    """Student -> whether the submission can be graded."""
    return {student: not s.problem for student, s in taken(folder, assignments).items()}


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
    found = taken(tmp_path, assignments)
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
    found = taken(put(tmp_path, {"ex/submission_metadata.yml": metadata, **files}), assignments)
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
    found = taken(put(tmp_path, files), assignments)
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
        found = taken(place, assignments)
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


def test_a_folder_that_is_no_stage_is_the_student_s(tmp_path, assignments, complete):
    grade_course.hand_in(tmp_path, "ann", complete)
    put(tmp_path, {f"submitted/cy/wrong/{NAME}": complete, "submitted/bo/x/x.ipynb": b"damaged"})
    assert graded(tmp_path, assignments) == {"ann": True, "bo": False, "cy": True}


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
        found = taken(place, assignments)
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


def test_blackboards_logins_that_end_alike_are_not_one_student(tmp_path, assignments, complete):
    put(tmp_path, {BLACKBOARD(login, 1) + f"_{NAME}": complete for login in ("a_doe", "b_doe", "cy")})
    put(tmp_path, {"gradebook_CS_1_2_2027-03-21-12-00-00.zip": zipped({BLACKBOARD("ed", 1) + f"_{NAME}": complete})})
    found = taken(tmp_path, assignments)
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
        found = taken(place, assignments)
        assert {student: not s.problem for student, s in found.items()} == {
            "Ann-A-1": True,
            "Bo-2": False,
            "Cy-3": True,
        }
        assert found["Ann-A-1"].fetch() == found["Cy-3"].fetch() == complete
        assert "several attempts" in found["Bo-2"].problem


def test_a_file_in_canvas_is_known_by_its_own_name(tmp_path, assignments, complete, half):
    put(tmp_path, {"ann_1_100_a.ipynb": half, f"ann_1_101_{STAGE}-1.ipynb": complete, "ann_1_102_z.pdf": b""})
    found = taken(tmp_path, assignments)
    assert {student: s.fetch() for student, s in found.items()} == {"ann-1": complete}


def test_all_stages_at_once(tmp_path, complete, half):
    everything = {stage: Assignment.load(stage) for stage in STAGES}
    first = grade_course.sample("complete", "01_rank_theory")
    put(
        tmp_path,
        {"ann.ipynb": complete, "ann_01_rank_theory.ipynb": first, f"bo/{STAGE}/x.ipynb": half, "cy.ipynb": EMPTY},
    )
    put(tmp_path, {MOODLE("Di D_1") + "a.ipynb": first, MOODLE("Di D_1") + "b.ipynb": half})
    found = discover(tmp_path, everything)
    for submission in found:
        notebook.answers(submission, everything[submission.stage])
    assert {(s.student, s.stage) for s in found if not s.problem} == {
        *((student, stage) for student in ("ann", "Di-D-1") for stage in ("01_rank_theory", STAGE))
    }
    assert {s.student: "names none of" in s.problem or "missing" in s.problem for s in found if s.problem} == {
        "bo": True,
        "cy": True,
    }


def test_another_course_s_assignments_are_none(tmp_path, assignments, complete):
    grade_course.hand_in(tmp_path, "ann", complete)
    put(tmp_path, {f"submitted/{student}/ps1/ps1.ipynb": EMPTY for student in ("ann", "bo")})
    put(tmp_path, {"submitted/ann/01_rank_theory/01_rank_theory.ipynb": EMPTY, "submitted/ann/ps1/data.csv": b""})
    found = taken(tmp_path, assignments)
    assert set(found) == {"ann"}
    assert not found["ann"].notes


def test_names_that_a_folder_cannot_tell_apart(tmp_path, assignments, complete, half):
    for student, data in (("ann lee", complete), ("ann-lee", half), ("ann+lee", half)):
        grade_course.hand_in(tmp_path, student, data)
    found = taken(tmp_path, assignments)
    assert len(found) == 3
    assert found["ann-lee"].fetch() == half
    other = next(s for student, s in found.items() if student.startswith("ann-lee-"))
    assert other.fetch() == complete
    assert any("ann lee" in note for note in other.notes)


def test_names_in_every_script(tmp_path, assignments, complete, half):
    composed, apart = "Jos\u00e9", unicodedata.normalize("NFD", "Jos\u00e9")
    put(
        tmp_path,
        {f"{apart}.ipynb": complete, "Jose.ipynb": half, "\u0915\u093f.ipynb": half, "\u0915\u0941.ipynb": half},
    )
    assert set(graded(tmp_path, assignments)) == {composed, "Jose", "\u0915\u093f", "\u0915\u0941"}
    assert len((names.safe_name("\u0915\u093f" * 200) + ".json").encode()) < 200
    assert names.safe_name("x" * 100 + "-1") != names.safe_name("x" * 100 + "-2")
    assert names.safe_name("a\udce9\nb") == "a-b"


def test_work_without_a_notebook(tmp_path, assignments, complete):
    files = {
        MOODLE("Ann A_1") + "hw.zip": zipped({NAME: complete}),
        MOODLE("Cy C_3") + "hw.pdf": b"pdf",
        MOODLE("Dy D_4") + f"{STAGE}.IPYNB": complete,
        MOODLE("Ed E_5") + "hw.zip": zipped({"deep.zip": zipped({"x/" + NAME: complete})}),
        MOODLE("Fi F_6") + "hw.zip": zipped({"hw.docx": b""}),
        MOODLE("Gi G_7") + "hw.zip": b"no zip",
        MOODLE("Hy H_8") + NAME: complete,
        MOODLE("Hy H_8") + "picture.png": b"",
        "Io I_9_assignsubmission_onlinetext_/onlinetext.html": b"",
    }
    for place in (put(tmp_path / "a", files), put(tmp_path / "b", {"all.zip": zipped(files)})):
        found = taken(place, assignments)
        good = {student for student, s in found.items() if not s.problem}
        assert good == {"Ann-A-1", "Dy-D-4", "Ed-E-5", "Hy-H-8"}
        assert set(found) == good | {"Cy-C-3", "Fi-F-6", "Gi-G-7", "Io-I-9"}
        assert "hw.pdf" in found["Cy-C-3"].problem
    for name in ("cy_3_300_hw.pdf", "bo.pdf", "di/hw.pdf", "ed.ipynb.txt", f"fi_{STAGE}.html", "README.md"):
        put(tmp_path / "c", {name: b""})
    put(tmp_path / "c", {"ann.ipynb": complete})
    assert {s for s, good in graded(tmp_path / "c", assignments).items() if not good} == {
        "cy-3",
        "bo",
        "di",
        "ed",
        "fi",
    }


def test_a_pdf_is_listed_under_the_stage_of_the_others(tmp_path, complete):
    everything = {stage: Assignment.load(stage) for stage in STAGES}
    put(tmp_path, {MOODLE("Ann A_1") + "hw.ipynb": complete, MOODLE("Bob B_2") + "hw.pdf": b""})
    assert {s.stage for s in discover(tmp_path, everything)} == {STAGE}


def test_a_folder_or_a_zip_for_each_student(tmp_path, assignments, complete, half):
    names = {"ann": f"{STAGE} (1)", "bob": "homework", "cy": f"{STAGE}-1", "dy": f"Copy of {STAGE}", "ed": STAGE}
    put(tmp_path / "a", {f"{student}/{name}.ipynb": half for student, name in names.items()})
    assert graded(tmp_path / "a", assignments) == dict.fromkeys(names, True)
    put(tmp_path / "b", {f"{student}.zip": zipped({f"{n}.ipynb": half}) for student, n in names.items()})
    assert graded(tmp_path / "b", assignments) == dict.fromkeys(names, True)
    put(tmp_path / "c", {"all.zip": zipped({f"all/{s}/{STAGE}/{STAGE}.ipynb": half for s in names})})
    assert graded(tmp_path / "c", assignments) == dict.fromkeys(names, True)
    put(tmp_path / "d", {"only/homework.ipynb": half})
    assert graded(tmp_path / "d", assignments) == {"only": True}


def test_a_flat_folder(tmp_path, assignments, complete, half):
    flat = {f"bob {STAGE} (2).ipynb": half, f"Copy of ann_{STAGE}.ipynb": half, "cy.ipynb": complete}
    flat |= {f"{STAGE} (1).ipynb": complete, f"{STAGE} (2).ipynb": half}
    students = {"bob", "ann", "cy", f"{STAGE}-1", f"{STAGE}-2"}
    assert set(graded(put(tmp_path / "a", flat), assignments)) == students
    assert set(
        graded(put(tmp_path / "b", {"week.zip": zipped({"x.ipynb": half, "y.ipynb": complete})}), assignments)
    ) == {
        "x",
        "y",
    }


def test_of_several_notebooks_the_named_one_counts_and_then_the_one_with_the_cells(
    tmp_path, assignments, complete, half
):
    files = {
        MOODLE("Ann A_1") + NAME: complete,
        MOODLE("Ann A_1") + f"{STAGE}_old.ipynb": half,
        MOODLE("Ann A_1") + "scratch.ipynb": EMPTY,
        MOODLE("Bob B_2") + "a work.ipynb": complete,
        MOODLE("Bob B_2") + "scratch.ipynb": EMPTY,
    }
    found = taken(put(tmp_path, files), assignments)
    assert found["Ann-A-1"].fetch() == found["Bob-B-2"].fetch() == complete
    assert "scratch.ipynb" in " ".join(found["Ann-A-1"].notes)
    assert "scratch.ipynb" in " ".join(found["Bob-B-2"].notes)


def test_two_that_may_be_two_students_share_no_grade(tmp_path, assignments, complete, half):
    put(tmp_path, {"g/cy.ipynb": half, "g/di.ipynb": complete, f"ed/{NAME}": complete})
    found = taken(tmp_path, assignments)
    assert not found["ed"].problem
    assert "cy.ipynb" in found["g"].problem
    twice = {"1.zip": zipped({MOODLE("Ann A_1") + NAME: half}), "2.zip": zipped({MOODLE("Ann A_1") + NAME: complete})}
    (submission,) = taken(put(tmp_path / "twice", twice), assignments).values()
    assert "1.zip" in submission.problem
    twice["1.zip"] = twice["2.zip"]
    (submission,) = taken(put(tmp_path / "same", twice), assignments).values()
    assert not submission.problem


def test_what_systems_leave_behind_is_nobodys(tmp_path, assignments, complete):
    files = {MOODLE("Ann A_1") + NAME: complete, "__MACOSX/" + MOODLE("Ann A_1") + f"._{NAME}": b"\0"}
    files |= {f"._{NAME}": b"\0", ".DS_Store": b"", MOODLE("Ann A_1") + f".ipynb_checkpoints/{NAME}": b"\0"}
    files |= {MOODLE("Bob B_2") + ".DS_Store": b""}
    for place in (put(tmp_path / "a", files), put(tmp_path / "b", {"all.zip": zipped(files)})):
        found = taken(place, assignments)
        assert [(student, s.problem, s.notes) for student, s in found.items()] == [("Ann-A-1", "", [])]


def test_what_grading_wrote_is_nobodys(tmp_path, assignments, complete):
    outputs = [f"{folder}/{NAME}" for folder in ("solutions/" + STAGE, "notebooks/" + STAGE, f"autograded/x/{STAGE}")]
    outputs += ["grades.csv", "report.html", "nbgrader_config.py", "upload/feedback.zip", ".grading/lock"]
    for out in ("a/", "b/graded/"):
        put(tmp_path, {out + name: complete for name in outputs})
        put(tmp_path, {out[:2] + "ada.ipynb": complete})
        (tmp_path / out / "submitted" / "ada" / STAGE).mkdir(parents=True)
    for place in ("a", "b"):
        assert graded(tmp_path / place, assignments) == {"ada": True}


def test_names_and_archives_are_bounded(tmp_path, assignments, complete):
    put(tmp_path, {"a.ipynb": complete, "b.zip": zipped({"_" * 60_000 + ".ipynb": complete, "/x" * 30_000: b""})})
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c.zip", zipped({f"{n}.ipynb": bytes(10_000) for n in range(1000)}))
    put(tmp_path, {"c_1_2_x.zip": bomb.getvalue()})
    found = taken(tmp_path, assignments)
    assert {"a", "c-1"} < set(found)
    assert found["c-1"].problem
    assert all(len(s.problem) + len(" ".join(s.notes)) < 2000 and len(s.student) <= 80 for s in found.values())


def test_a_zip_with_too_much_in_it_is_read_as_far_as_it_goes(tmp_path, assignments, complete, monkeypatch):
    monkeypatch.setattr(walk, "MAX_MEMBERS", 3)
    put(tmp_path, {"all.zip": zipped({MOODLE(f"S_{n}") + NAME: complete for n in range(5)})})
    assert graded(tmp_path, assignments) == {"S-0": True, "S-1": True, "S-2": True, "all.zip": False}


def test_damaged_zip_files_never_raise(tmp_path, assignments):
    generator = random.Random(0)
    good = zipped({f"{n}.ipynb": EMPTY for n in range(3)} | {"x.zip": zipped({NAME: EMPTY})})
    for _ in range(300):
        data = bytearray(good)
        for _ in range(generator.choice([1, 3, 30])):
            data[generator.randrange(len(data) // 2 * generator.randrange(2), len(data))] = generator.randrange(256)
        put(tmp_path, {"ann_1_2_a.zip": bytes(data), "bob.ipynb": EMPTY})
        assert {"ann-1", "bob"} == set(taken(tmp_path, assignments))


def test_notes_are_bounded(assignments):
    content = json.loads(grade_course.sample("complete"))
    copies = [{"metadata": {"nbgrader": {"grade_id": "layer"}}}] * 50_000
    odd = [{"cell_type": "code", "source": "x" * (300_000 + n)} for n in range(20)]
    content["cells"][:0] = copies + odd
    submission = Submission("s", STAGE, "", lambda: json.dumps(content).encode())
    notebook.answers(submission, assignments[STAGE])
    assert 0 < len(submission.notes) <= names.MAX_NOTES + 1
    assert "more" in submission.notes[-1]


def test_names_in_messages_are_plain_text(tmp_path, assignments):
    put(tmp_path, {"a/x\n\x1b[31m needs attention: b.pdf": b"", "b.ipynb": EMPTY})
    assert all(s.problem.isprintable() for s in taken(tmp_path, assignments).values())
