"""Hints at work that is alike: a row for each group of students, also across batches."""

from __future__ import annotations

import pytest
from marked_course import STAGE, Course

from autograder import __main__ as command_line
from autograder.engine.assignment import Assignment
from autograder.exercises import ROOT, STAGES
from autograder.results import copies, history

OWN = "My own words: if both were zero there would be nothing that either of them could learn from."
#: Names of the worked solution's, and what somebody who copies it calls them.
NEW_NAMES = {
    "down": "h",
    "(self, x)": "(self, inputs)",
    "(x)": "(inputs)",
    "rank must be at least": "too small a rank:",
}


@pytest.fixture(scope="module")
def stage():
    return Assignment.load(STAGE)


@pytest.fixture
def course(tmp_path):
    return Course(tmp_path / "graded")


def worked(stage) -> dict[str, str]:
    """The worked solution's code as a student copies it, without its comments."""
    public = copies._worked(stage)
    code = {name: public[name] for name, cell in stage.answer_cells().items() if cell["cell_type"] == "code"}
    return {name: "\n".join(line.partition("  #")[0] for line in text.splitlines()) for name, text in code.items()}


def renamed(code: dict[str, str], names: dict[str, str] = NEW_NAMES) -> dict[str, str]:
    for old, new in names.items():
        code = {name: source.replace(old, new) for name, source in code.items()}
    return code


def other(code: dict[str, str]) -> dict[str, str]:
    """Code of nobody else's: each expression that is returned has a sum around it, and each cell a table."""
    table = "\nTABLE = [sum(range(n)) * n - n ** 2 for n in range(9) if n % 2]" * 6
    return {name: source.replace("return ", "return 0 + ") + table for name, source in code.items()}


def batch(course: Course, *handed_in: tuple[str, dict[str, str]]) -> None:
    """Grade a batch: (student, answers) each; no written answer: words of one's own, no two the same."""
    own = dict.fromkeys(course.written, OWN)
    rows = [course.row(s, {**{k: f"{s}: {v}" for k, v in own.items()}, **answers}, f"k{s}") for s, answers in handed_in]
    copies.keep(course.out, rows, {STAGE: course.assignment})


def found(course: Course, *students: str) -> list[tuple[str, list[str]]]:
    return [(group.what, group.students) for group in copies.groups(course.out, {(STAGE, s) for s in students})]


def test_equal_code_is_one_row_for_all_of_them_whatever_batch_they_came_in(course, stage):
    mine = other(worked(stage))
    batch(course, ("ann", mine), ("bob", {name: f"# mine\n\n{source}" for name, source in mine.items()}))
    batch(course, ("cy", renamed(mine)), ("dot", dict.fromkeys(mine, "x = 1")), ("eve", {"layer": "y = 2"}))
    assert found(course, "ann", "bob", "dot", "eve") == [("the same code", ["ann", "bob"])]
    everybody = found(course, "ann", "bob", "cy", "dot", "eve")
    assert everybody == [("the same code, in parts or with other names", ["ann", "bob", "cy"])]
    history.forget(course.out, STAGE, "bob")
    assert found(course, "ann", "bob") == []


@pytest.mark.parametrize(
    ("change", "what"),
    [(dict, "the code of the worked solution"),
     (renamed, "the code of the worked solution, in parts or with other names")],
)  # fmt: skip
def test_a_copy_of_the_worked_solution_is_named(course, stage, change, what):
    batch(course, ("ann", change(worked(stage))), ("bob", other(worked(stage))))
    assert (what, ["ann"]) in found(course, "ann", "bob")


def test_its_comments_tell_even_where_the_code_is_changed(course, stage):
    public = copies._worked(stage)
    code = {name: public[name] for name in worked(stage)}
    batch(course, ("ann", other(code)), ("bob", {"layer": "x = 1"}))
    assert found(course, "ann", "bob") == [("comments of the worked solution", ["ann"])]


def test_equal_texts_and_copies_of_the_model_answer(course, stage):
    (cell,) = course.written
    model = copies._worked(stage)[cell]
    texts = {"ann": OWN, "bob": OWN.upper().replace(" ", "\n"), "cy": f"I think so. {model}", "dot": "No idea.",
             "eve": "No idea."}  # fmt: skip
    batch(course, *((student, {cell: text}) for student, text in texts.items()))
    assert found(course, *texts) == [("2.8: the same text", ["ann", "bob"]), ("2.8: the model answer", ["cy"])]


@pytest.mark.parametrize("stage", STAGES)
def test_right_answers_of_different_people_are_not_alike(stage):
    """The alternates of the bank and the worked solution: nobody's code is another's by chance."""
    assignment = Assignment.load(stage)
    public = copies._worked(assignment)
    code = {"": copies._print(assignment, public, public)["code"]}
    for path in (ROOT / "autograder" / "exercises" / f"stage{stage[:2]}" / "alternates").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        code[path.stem] = copies._print(assignment, public, dict.fromkeys(assignment.answer_cells(), source))["code"]
    assert all(len(group) == 1 for group in copies._of_equal_code(code))


def test_the_report_has_a_row_for_each_group_and_forgets_whom_the_course_forgets(course, stage):
    mine = other(worked(stage))
    rows = [course.row(student, mine, f"k{student}") for student in ("ann", "bob", "cy")]
    course.grade("ann", "bob", "cy")
    copies.keep(course.out, rows, {STAGE: course.assignment})
    for student, left in (("cy", "ann, bob</td>"), ("bob", "<td>None")):
        assert command_line.main(["student", "remove", student, "--graded", str(course.out)]) == 0
        page = (course.out / "report.html").read_text(encoding="utf-8")
        assert (left in page) == (student == "cy")
        assert f"{student}</td>" not in page
