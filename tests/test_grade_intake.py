"""Finding submissions, and reading them as untrusted files."""

from __future__ import annotations

import json
import random
import zipfile

import grade_course
import pytest
from grade_course import STAGE

from autograder.run import intake
from autograder.run.assignment import STUDENT, Assignment
from autograder.run.exports import gradescope_names, who


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
        ("jane.ipynb", "jane"),
        ("jane_02_lora_layer.ipynb", "jane"),
        ("jane/02_lora_layer.ipynb", "jane"),
        ("../../../etc/..ipynb", "unnamed"),
        ("..\\..\\evil_02_lora_layer.ipynb", "evil"),
    ],
)
def test_students_names_in_exports(path, student):
    assert who(path, {"submission_66": "s66"})[0] == student


def test_gradescope_metadata():
    text = b"---\nsubmission_1:\n  :submitters:\n  - :name: Jane\n    :sid: 's1'\nsubmission_2:\n  :name: Jo\n"
    assert gradescope_names(text) == {"submission_1": "s1", "submission_2": "Jo"}


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
    found = intake.discover(tmp_path, assignments)
    problems = {}
    for submission in found:
        answers = intake.answers(submission, assignments[STAGE])
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
    found = {s.student: s for s in intake.discover(tmp_path, assignments)}
    for submission in found.values():
        intake.answers(submission, assignments[STAGE])
    assert {student: bool(s.problem) for student, s in found.items()} == {"jane": False, "jo": True, "link": True}
    assert "homework.ipynb" in found["jo"].problem


def test_an_empty_folder_is_a_submission_unless_grading_made_it_for_formgrader(tmp_path, assignments, complete):
    (tmp_path / "submitted" / "ada" / STAGE).mkdir(parents=True)
    (submission,) = intake.discover(tmp_path, assignments)
    intake.answers(submission, assignments[STAGE])
    assert "is missing" in submission.problem

    (tmp_path / ".grading").mkdir()  # notebooks were graded into their own folder
    (tmp_path / "ada.ipynb").write_bytes(complete)
    (submission,) = intake.discover(tmp_path, assignments)
    intake.answers(submission, assignments[STAGE])
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
    (submission,) = intake.discover(tmp_path, assignments)
    answers = intake.answers(submission, assignments[STAGE])
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
    (submission,) = intake.discover(tmp_path, assignments)
    intake.answers(submission, assignments[STAGE])
    assert submission.own == []


def test_own_cells_are_bounded(assignments):
    release, _ = grade_course.notebooks()
    release["cells"] += [{"cell_type": "code", "source": f"x{n} = 1", "metadata": {}} for n in range(1000)]
    release["cells"].append({"cell_type": "code", "source": "x" * 300_000, "metadata": {}})
    submission = intake.Submission("s", STAGE, "", lambda: json.dumps(release).encode())
    intake.answers(submission, assignments[STAGE])
    assert len(submission.own) == intake.MAX_OWN_CELLS
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
        submission = intake.Submission(f"s{number}", STAGE, "", lambda data=bytes(data): data)
        answers = intake.answers(submission, assignments[STAGE])
        assert all(type(source) is str for source in answers.values())
        assert answers or submission.problem
        kinds[bool(answers)] += 1
    assert min(kinds.values()) > 10
