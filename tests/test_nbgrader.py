"""Plain nbgrader with the shipped settings: what it makes, what it grades, and what its feedback shows.

A toy course of one stage goes once through nbgrader's own commands, with one submission for each thing a
student may do; the tests read what came out.
"""

from __future__ import annotations

import copy
import csv
import os
from types import SimpleNamespace

import nbformat
import nbgraders
import pytest
import toy_course
from nbgrader.api import Gradebook
from toy_course import CONTRACT, STAGE

from autograder.publish.notebooks import build

HALF = "return width * height + 1 if width == 0 else width * height"  # the grader finds one of two behaviours


def find(nb, grade_id: str):
    """The first cell with this grade_id."""
    return next(cell for cell in nb.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def solved(nb, double="return 2 * x", area="return width * height", before=""):
    """Fills both gaps; `before` stands at the top of the cell."""
    cell = find(nb, "numbers")
    cell.source = before + (
        cell.source.replace('raise NotImplementedError("Exercise 9.1")', double).replace(
            'raise NotImplementedError("Exercise 9.2")', area
        )
    )
    return nb


def code(source: str):
    """A cell of the student's own."""
    return nbformat.v4.new_code_cell(source)


def submissions(source, release) -> dict:
    """One notebook for each student."""
    made = {name: copy.deepcopy(release) for name in (
        "half", "warns", "edited", "deleted", "copied", "flags", "hangs", "bare",
    )}  # fmt: skip
    made["worked"] = copy.deepcopy(source)
    solved(made["half"], area=HALF)
    noisy = "def noisy():\n    warnings.warn('a warning')\n    print('progress', file=sys.stderr)\n\n"
    solved(made["warns"], double="noisy(); return 2 * x", before="import sys, warnings\n\n" + noisy)
    made["warns"].cells.append(code("# ### BEGIN HIDDEN TESTS\n# ### BEGIN MARK SCHEME"))  # must not stop the feedback
    for name in ("check_9_1", "check_9_2"):
        cell = find(made["edited"], name)
        cell.source, cell.metadata["tags"] = "4.0", ["skip-execution"]
    solved(made["deleted"]).cells = [
        cell for cell in made["deleted"].cells
        if cell.metadata.get("nbgrader", {}).get("grade_id") in (None, "numbers", "written_9_3")
    ]  # fmt: skip
    solved(made["copied"]).cells += [copy.deepcopy(find(made["copied"], name)) for name in ("check_9_1", "numbers")]
    for number, cell in enumerate(made["copied"].cells):
        cell["id"] = f"copy-{number}"
    find(made["copied"], "check_9_2").metadata.nbgrader["schema_version"] = 99
    cell = find(solved(made["flags"], double="return 0"), "check_9_1")
    cell.metadata.nbgrader.update(grade=False, solution=True, locked=False, points=2)
    find(made["flags"], "check_9_2").metadata.nbgrader["points"] = 99
    made["warns"].cells.insert(3, code("check = 3"))
    solved(made["hangs"], double="while True: pass")
    made["bare"].cells = [code("2.0")]
    made["bare"].nbformat_minor = 0  # as Colab writes it
    return made


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The toy course after one run of each of nbgrader's commands."""
    root = tmp_path_factory.mktemp("course")
    toy_course.make(root)
    build(root, contract=CONTRACT)
    built = {path: path.read_bytes() for path in root.glob("*/*/*.ipynb")}
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LORA_PROFILE")}
    environment |= {"JUPYTER_CONFIG_DIR": str(root / "none"), "JUPYTER_DATA_DIR": str(root / "none")}

    nbgraders.run(root, ["generate_assignment", STAGE], env=environment)
    source = nbformat.read(root / "solutions" / STAGE / f"{STAGE}.ipynb", as_version=4)
    release = nbformat.read(root / "notebooks" / STAGE / f"{STAGE}.ipynb", as_version=4)
    for student, nb in submissions(source, release).items():
        folder = root / "submitted" / student / STAGE
        folder.mkdir(parents=True)
        # A cell that prints what the kernel of a grading run sees.
        nb.cells.append(code("import os\nprint('profile', os.environ.get('LORA_PROFILE'))"))
        nbformat.write(nb, folder / f"{STAGE}.ipynb")
    (root / "submitted" / "half" / STAGE / "my_helper.py").write_text("x = 1\n", encoding="utf-8")
    grading = ["autograde", STAGE, "--Execute.timeout=6"]  # for the one that hangs; the others need milliseconds
    nbgraders.run(root, grading, ["generate_feedback", STAGE], ["export"], env=environment)

    scores, manual = {}, {}
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}") as gradebook:
        for submission in gradebook.assignment_submissions(STAGE):
            grades = {grade.name: grade for notebook in submission.notebooks for grade in notebook.grades}
            student = submission.student.id
            scores[student] = (grades["check_9_1"].auto_score, grades["check_9_2"].auto_score)
            manual[student] = (grades["written_9_3"].auto_score, grades["written_9_3"].needs_manual_grade)

    def autograded(student):
        return nbformat.read(root / "autograded" / student / STAGE / f"{STAGE}.ipynb", as_version=4)

    def feedback(student):
        return (root / "feedback" / student / STAGE / f"{STAGE}.html").read_text(encoding="utf-8")

    return SimpleNamespace(
        root=root, built=built, scores=scores, manual=manual, autograded=autograded, feedback=feedback
    )


def test_generate_assignment_writes_what_make_build_writes(graded):
    assert len(graded.built) == 2
    for path, data in graded.built.items():
        assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("student", "points"),
    [
        ("worked", (2, 4)),
        ("half", (2, 2)),  # partial credit: the cell's float
        ("warns", (2, 4)),  # stderr in a check cell costs nothing, nor `check = 3`: the check cell imports its own
        ("edited", (0, 0)),  # nothing is solved; the check is put back, and run
        ("deleted", (2, 4)),  # both checks are put back
        ("copied", (2, 4)),  # two copied cells and a schema from the future; nbgrader would stop the batch
        ("flags", (0, 4)),  # what the metadata claims about grading counts for nothing
        ("hangs", (0, 4)),  # stopped at the time limit; the rest of the notebook counts
        ("bare", (0, 0)),  # one cell of the student's own, and it ends in a number: gives nothing
    ],
)
def test_points(graded, student, points):
    assert graded.scores[student] == points


def test_all_students_are_graded_and_run_to_the_end(graded):
    assert len(graded.scores) == 9
    for student in graded.scores:
        last = graded.autograded(student).cells[-1]
        if student != "bare":  # its cells were put back after its own
            assert "".join(output.text for output in last.outputs) == "profile tiny\n", student


def test_written_answers_wait_for_a_person_unless_there_is_none(graded):
    assert graded.manual["worked"] == (None, True)
    assert graded.manual["edited"] == (0, False)


def test_graders_see_tests_and_mark_schemes(graded):
    nb = graded.autograded("edited")
    assert 'grade_cell("9.1", globals())' in find(nb, "check_9_1").source
    assert "successor function" in find(nb, "scheme_9_3").source
    assert "successor function" in find(graded.autograded("deleted"), "scheme_9_3").source


def test_feedback_shows_messages_and_neither_tests_nor_mark_schemes(graded):
    for student in graded.scores:
        html = graded.feedback(student)
        for secret in ("grade_cell", "END HIDDEN TESTS", "successor function", "END MARK SCHEME"):
            assert secret not in html, (student, secret)
    assert "message for 9.2: 2.0" in graded.feedback("half")
    assert "message for 9.1: NotImplementedError: Exercise 9.1" in graded.feedback("edited")
    assert "Score: 6.0 / 9.0" in graded.feedback("warns")
    assert "UserWarning" not in graded.feedback("warns")


def test_masters_travel_nowhere(graded):
    for folder in ("notebooks", "autograded", "feedback"):
        names = {path.name for path in (graded.root / folder).rglob("*") if path.is_file()}
        assert names <= {f"{STAGE}.ipynb", f"{STAGE}.html", "my_helper.py"}
    assert (graded.root / "autograded" / "half" / STAGE / "my_helper.py").exists()  # students' own files do


def test_export(graded):
    with open(graded.root / "grades.csv", encoding="utf-8", newline="") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    assert float(rows["half"]["score"]) == 4
    assert float(rows["worked"]["max_score"]) == 9
    assert {row["assignment"] for row in rows.values()} == {STAGE}


def test_the_kernel_alone_gets_the_grading_environment(monkeypatch):
    from autograder.publish.preprocessors import grading_environment

    monkeypatch.delenv("LORA_PROFILE", raising=False)
    assert grading_environment()["LORA_PROFILE"] == "tiny"
    assert "LORA_PROFILE" not in os.environ
    monkeypatch.setenv("LORA_PROFILE", "laptop")
    assert grading_environment()["LORA_PROFILE"] == "laptop"
