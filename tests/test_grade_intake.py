"""Finding submissions, and reading them as untrusted files."""

from __future__ import annotations

import io
import json
import random
import unicodedata
import zipfile

import grade_course
import pytest
from grade_course import STAGE
from handed_in import EMPTY, MOODLE, NAME, by_student, graded, put, zipped

from autograder.engine.assignment import STUDENT, Assignment
from autograder.exercises import STAGES
from autograder.intake import names, notebook, walk
from autograder.intake.discover import discover
from autograder.intake.submission import Submission


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
    assert any("not a readable zip" in problem for problem in problems.values())
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
    assert {student: bool(s.problem) for student, s in found.items()} == {"jane": False, "jo": False, "link": True}


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
    sources = ["".join(cell["source"]) for cell in submission.cells]
    layer = sources.index("class LoRALayer:\n    x = helper()")
    assert sources.index("".join(grade_course.notebooks()[0]["cells"][1]["source"])) == 0  # the released set-up
    assert sources[1] == "import math\n%time"
    assert "edited = 1" in sources
    assert layer - 3 < sources.index("def helper(): pass") < layer  # only prose may stand between
    assert len(submission.cells) == len(assignments[STAGE].release["cells"]) + 3
    for foreign in ("raise SystemExit", "99"):
        assert foreign not in sources
    tagged = [cell["source"] for cell in submission.cells if STUDENT in cell["metadata"].get("tags", ())]
    assert tagged == ["import math\n%time", "edited = 1", "def helper(): pass", "my notes"]


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


def test_a_folder_that_is_not_a_stage_is_the_student_s(tmp_path, assignments, complete):
    grade_course.hand_in(tmp_path, "ann", complete)
    put(tmp_path, {f"submitted/cy/wrong/{NAME}": complete, "submitted/bo/x/x.ipynb": b"damaged"})
    assert graded(tmp_path, assignments) == {"ann": True, "bo": False, "cy": True}


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
        *((student, stage) for student in ("ann", "Di-D-1") for stage in ("01_rank_theory", STAGE)),
        ("bo", STAGE),  # renamed
    }
    assert {s.student: "names none of" in s.problem or "missing" in s.problem for s in found if s.problem} == {
        "cy": True,
    }


def test_another_course_s_assignments_are_none(tmp_path, assignments, complete):
    grade_course.hand_in(tmp_path, "ann", complete)
    put(tmp_path, {f"submitted/{student}/ps1/ps1.ipynb": EMPTY for student in ("ann", "bo")})
    put(tmp_path, {"submitted/ann/01_rank_theory/01_rank_theory.ipynb": EMPTY, "submitted/ann/ps1/data.csv": b""})
    found = by_student(tmp_path, assignments)
    assert set(found) == {"ann"}
    assert not found["ann"].notes


def test_names_that_a_folder_cannot_tell_apart(tmp_path, assignments, complete, half):
    for student, data in (("ann lee", complete), ("ann-lee", half), ("ann+lee", half)):
        grade_course.hand_in(tmp_path, student, data)
    found = by_student(tmp_path, assignments)
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


def test_names_that_a_reader_takes_for_another_s_get_a_note(tmp_path, assignments, complete):
    mixed, whole = "\u0430nn", "\u0441\u043e\u0440\u0430"  # Cyrillic letters, one of them or all
    put(
        tmp_path,
        {
            f"{name}.ipynb": complete
            for name in ("ann", mixed, "copa", whole, "Jose", "Jos\u00e9", "\u0418\u0432\u0430\u043d")
        },
    )
    notes = {student: "; ".join(s.notes) for student, s in by_student(tmp_path, assignments).items()}
    assert "looks like another student's: ann" in notes[mixed]
    assert "Latin and Cyrillic" in notes[mixed]
    assert "looks like another student's: copa" in notes[whole]
    assert {student for student, said in notes.items() if said} == {"ann", mixed, "copa", whole}


@pytest.mark.parametrize("name", ["@SUM(1)", "+1", "=1+2", "-3", "\t=4", "+-@x", "@"])
def test_no_name_is_a_formula_in_nbgraders_own_export(name):
    assert names.safe_name(name)[0] not in "=+-@\t\r"


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
        found = by_student(place, assignments)
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
    flat |= {f"{STAGE}_dy.ipynb": half, f"Eva E - {STAGE}.ipynb": half, "fi.pdf": b""}
    found = by_student(put(tmp_path / "a", flat), assignments)
    assert {student for student, s in found.items() if not s.problem} == {"bob", "ann", "cy", "dy", "Eva-E"}
    assert set(found) == {"bob", "ann", "cy", "dy", "Eva-E", "fi", "unknown"}
    assert "tells no student: " + f"{STAGE} (1).ipynb, {STAGE} (2).ipynb" in found["unknown"].problem
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
    found = by_student(put(tmp_path, files), assignments)
    assert found["Ann-A-1"].fetch() == found["Bob-B-2"].fetch() == complete
    assert "scratch.ipynb" in " ".join(found["Ann-A-1"].notes)
    assert "scratch.ipynb" in " ".join(found["Bob-B-2"].notes)


def test_two_that_may_be_two_students_share_no_grade(tmp_path, assignments, complete, half):
    put(tmp_path, {"g/cy.ipynb": half, "g/di.ipynb": complete, f"ed/{NAME}": complete})
    found = by_student(tmp_path, assignments)
    assert not found["ed"].problem
    assert "cy.ipynb" in found["g"].problem
    twice = {"1.zip": zipped({MOODLE("Ann A_1") + NAME: half}), "2.zip": zipped({MOODLE("Ann A_1") + NAME: complete})}
    (submission,) = by_student(put(tmp_path / "twice", twice), assignments).values()
    assert "1.zip" in submission.problem
    twice["1.zip"] = twice["2.zip"]
    (submission,) = by_student(put(tmp_path / "same", twice), assignments).values()
    assert not submission.problem


def test_what_systems_leave_behind_is_nobodys(tmp_path, assignments, complete):
    files = {MOODLE("Ann A_1") + NAME: complete, "__MACOSX/" + MOODLE("Ann A_1") + f"._{NAME}": b"\0"}
    files |= {f"._{NAME}": b"\0", ".DS_Store": b"", MOODLE("Ann A_1") + f".ipynb_checkpoints/{NAME}": b"\0"}
    files |= {MOODLE("Bob B_2") + ".DS_Store": b""}
    for place in (put(tmp_path / "a", files), put(tmp_path / "b", {"all.zip": zipped(files)})):
        found = by_student(place, assignments)
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
    found = by_student(tmp_path, assignments)
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
        assert {"ann-1", "bob"} == set(by_student(tmp_path, assignments))


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
    assert all(s.problem.isprintable() for s in by_student(tmp_path, assignments).values())


def test_zips_that_ask_for_memory_or_time_are_refused(tmp_path, assignments, complete):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / f"m{method}.zip", "w", method) as archive:
            archive.writestr(NAME, complete)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for n in range(2 * walk.MAX_MEMBERS + 1):
            archive.writestr(f"{n}", b"")
    put(tmp_path, {"heavy.ipynb": b'{"cells": [' + b"[]," * 6_000_000 + b"[]]}", "x/" * 60 + NAME: complete})
    found = by_student(tmp_path, assignments)
    assert all(submission.problem for submission in found.values()), found
    assert "entries" in found["many"].problem
    assert "too many" in found["heavy"].problem
