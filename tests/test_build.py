"""`make build`: the same bytes everywhere, and an error that says where the master is wrong."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
import toy_course
from toy_course import CONTRACT, MASTER, ROOT, STAGE

from autograder import build as build_module
from autograder.exercises import STAGES
from autograder.publish.notebooks import BuildError, build, find_masters
from autograder.publish.preprocessors import GAP, clear_gaps, gap_stub

MASTERS = sorted(path.stem for path in ROOT.glob("solutions/*/*.py"))


@pytest.fixture
def course(tmp_path):
    """A toy course; `course.master` is its master, `course.read(side)` a made notebook."""
    master = toy_course.make(tmp_path)

    def read(side: str) -> nbformat.NotebookNode:
        return nbformat.read(tmp_path / side / STAGE / f"{STAGE}.ipynb", as_version=4)

    return SimpleNamespace(root=tmp_path, master=master, read=read)


def cell_of(nb, grade_id: str):
    """The cell with this grade_id."""
    return next(cell for cell in nb.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def test_source_holds_everything_and_release_holds_stubs(course):
    assert len(build(course.root, contract=CONTRACT)) == 2
    source, release = course.read("solutions"), course.read("notebooks")

    check = cell_of(source, "check_9_1")
    assert check.source.splitlines() == [
        "from lora_ref.checks import check",
        'check("9.1", globals())',
        "### BEGIN HIDDEN TESTS",
        "from autograder import grade_cell",
        'grade_cell("9.1", globals())',
        "### END HIDDEN TESTS",
    ]
    assert check.metadata.nbgrader == {
        "schema_version": 3, "grade_id": "check_9_1", "grade": True, "locked": True,
        "solution": False, "task": False, "points": 2,
    }  # fmt: skip
    assert "successor function" in cell_of(source, "scheme_9_3").source
    assert cell_of(source, "written_9_3").source == "Because addition is what it is."

    assert cell_of(release, "check_9_1").source == 'from lora_ref.checks import check\ncheck("9.1", globals())'
    assert cell_of(release, "numbers").source.splitlines() == [
        "def double(x):",
        '    """Twice x."""',
        "    # Your code here",
        '    raise NotImplementedError("Exercise 9.1")',
        "",
        "",
        "class Box:",
        "    def area(self, width, height):",
        "        # Your code here",
        '        raise NotImplementedError("Exercise 9.2")',
    ]
    assert cell_of(release, "written_9_3").source == "YOUR ANSWER HERE"
    assert cell_of(release, "scheme_9_3").source.startswith("**Answer to exercise 9.3** (3 points")
    text = json.dumps(release)
    for secret in ("SOLUTION", "HIDDEN", "SCHEME", "grade_cell", "twice_as_much", "successor", "addition is"):
        assert secret not in text


def test_notebooks_carry_nothing_of_the_machine(course):
    build(course.root, contract=CONTRACT)
    for side in ("solutions", "notebooks"):
        path = course.root / side / STAGE / f"{STAGE}.ipynb"
        nb = course.read(side)
        assert path.read_bytes().endswith(b"}\n")
        assert (nb.nbformat, nb.nbformat_minor) == (4, 5)
        assert nb.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
        assert set(nb.metadata) == {"generated", "kernelspec", "language_info"}
        assert all(not cell.outputs and cell.execution_count is None for cell in nb.cells if cell.cell_type == "code")
        assert len({cell.id for cell in nb.cells}) == len(nb.cells)
        assert str(course.root) not in path.read_text(encoding="utf-8")
        assert path.stat().st_mode & 0o777 == 0o644
    assert cell_of(nb, "setup").metadata.tags == ["hide-input"]  # presentation passes through


def test_two_folders_and_two_hash_seeds_give_the_same_bytes(tmp_path):
    made = []
    for seed in ("1", "2"):
        root = tmp_path / f"folder{seed}"
        toy_course.make(root)
        code = f"import toy_course; from autograder.publish.notebooks import build; build({str(root)!r}, contract="
        code += "toy_course.CONTRACT)"
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            check=True,
        )
        made.append([(root / side / STAGE / f"{STAGE}.ipynb").read_bytes() for side in ("solutions", "notebooks")])
    assert made[0] == made[1]


def test_a_second_build_writes_nothing(course):
    build(course.root, contract=CONTRACT)
    assert build(course.root, contract=CONTRACT) == []
    assert not list(course.root.rglob("*.tmp"))


def test_check_names_what_is_out_of_date_and_writes_nothing(course):
    release = course.root / "notebooks" / STAGE / f"{STAGE}.ipynb"
    assert len(build(course.root, contract=CONTRACT, check=True)) == 2
    assert not release.exists()
    build(course.root, contract=CONTRACT)
    assert build(course.root, contract=CONTRACT, check=True) == []
    edited = release.read_text(encoding="utf-8").replace("multiply", "divide")
    release.write_text(edited, encoding="utf-8")
    orphan = course.root / "notebooks" / "08_gone" / "08_gone.ipynb"
    orphan.parent.mkdir()
    orphan.write_text("{}", encoding="utf-8")
    assert build(course.root, contract=CONTRACT, check=True) == [release, orphan]
    assert release.read_text(encoding="utf-8") == edited


def test_inserting_a_cell_changes_no_other_id(course):
    build(course.root, contract=CONTRACT)
    before = [cell.id for cell in course.read("notebooks").cells]
    text = MASTER.replace("# %%\npicture = 1\n", "# %%\ninserted = 1\n\n# %%\npicture = 1\n\n# %%\npicture = 1\n")
    course.master.write_text(text, encoding="utf-8")
    build(course.root, contract=CONTRACT)
    after = [cell.id for cell in course.read("notebooks").cells]
    assert [cell_id for cell_id in after if cell_id in before] == before
    assert len(set(after)) == len(after) == len(before) + 2


def test_an_error_leaves_every_file_as_it_was(course):
    other = course.root / "solutions" / "10_broken" / "10_broken.py"
    other.parent.mkdir()
    other.write_text('# %% check="7.7"\ncheck("7.7", globals())\n', encoding="utf-8")
    with pytest.raises(BuildError, match=r"10_broken/10_broken\.py, cell 1 .*7\.7.* not in the contract"):
        build(course.root, contract={**CONTRACT, "10_broken": ()})
    assert not list(course.root.rglob("*.ipynb"))


def test_an_interrupted_write_keeps_the_old_file(course, monkeypatch):
    build(course.root, contract=CONTRACT)
    release = course.root / "notebooks" / STAGE / f"{STAGE}.ipynb"
    release.write_text("old", encoding="utf-8")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(course.root, contract=CONTRACT)
    assert release.read_text(encoding="utf-8") == "old"
    assert [path.name for path in release.parent.iterdir()] == [release.name]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('locked="setup"', 'lockd="setup"', r"cell 2 \(lockd=\"setup\".*unknown option 'lockd'"),
        ('locked="setup"', 'locked="setup" check="9.1"', "both check and locked"),
        ('solution="numbers"', 'solution="two words"', "'two words' is not a name"),
        ('solution="numbers"', 'solution="setup"', "setup: a solution or locked cell needs a name"),
        ('# %%\npicture', '# %% solution="empty"\npicture', r"cell 5 .*needs gaps"),
        ('# %%\npicture', '# %% check="9.1"\ncheck("9.1", 0)', "check='9.1' is used twice"),
        ('# %%\npicture', '# %% check="9.5"\ncheck("9.5", 0)', "not in the contract; the stage has 9.1, 9.2"),
        ('# %%\npicture', '# %% check="9.3"\ncheck("9.3", 0)', "exercise 9.3 is graded by hand"),
        ('# %%\npicture', "# %%\n### BEGIN HIDDEN TESTS\npicture", "'HIDDEN TESTS' has no place"),
        ('# %%\npicture', '# %% [raw]\n# picture\n\n# %%\npicture', "a raw cell"),
        ('check("9.2", globals())', 'check("9.1", globals())', r'never calls check\("9.2", globals\(\)\)'),
        ('# %% check="9.2"\ncheck("9.2", globals())\n', "", r"09_toy/09_toy\.py: no cell for exercise 9\.2"),
        ("# %% [markdown] written", "# %% written", "written belongs on a markdown cell"),
        ("# ### END MARK SCHEME\n", "", "one ### BEGIN MARK SCHEME"),
        ("# Because addition is what it is.\n", "", "a model answer"),
        ("### BEGIN SOLUTION 9.1", "### BEGIN SOLUTION", "needs gaps"),
        ("### BEGIN SOLUTION 9.1", "### BEGIN SOLUTION 9.8", "gap '9.8' is not an exercise"),
        ("    return twice_as_much\n    ### END SOLUTION\n", "    return twice_as_much\n", "needs gaps"),
    ],
)  # fmt: skip
def test_a_wrong_master_is_named(course, old, new, message):
    assert old in MASTER
    course.master.write_text(MASTER.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BuildError, match=message):
        build(course.root, contract=CONTRACT)


def test_a_lab_may_have_gaps_without_points(course):
    gap = "    ### BEGIN SOLUTION Lab 2\n    return 7\n    ### END SOLUTION\n"
    lab = f'# %% solution="lab"\ndef recipe():\n{gap}\n# %%\npicture'
    course.master.write_text(MASTER.replace("# %%\npicture", lab), encoding="utf-8")
    build(course.root, contract=CONTRACT)
    assert cell_of(course.read("notebooks"), "lab").source.endswith('\n    raise NotImplementedError("Lab 2")')


def test_unknown_stage_and_missing_master(course):
    with pytest.raises(BuildError, match="the contract has no stage '09_toy'"):
        build(course.root, contract={})
    with pytest.raises(BuildError, match=r"no master for 01_other.*there is 09_toy"):
        build(course.root, ["01_other"], contract=CONTRACT)


def test_command_line(course, monkeypatch, capsys):
    monkeypatch.setitem(STAGES, STAGE, CONTRACT[STAGE])
    parser = argparse.ArgumentParser()
    build_module.add_arguments(parser)
    root = ["--root", str(course.root)]

    def run(*argv):
        return build_module.main(parser.parse_args([*argv, *root]))

    assert run("--check") == 1
    assert f"out of date: {course.root / 'notebooks' / STAGE / STAGE}.ipynb" in capsys.readouterr().out
    assert run() == 0
    assert run("--check", STAGE) == 0
    assert run("01_other") == 2
    assert "build: no master for 01_other" in capsys.readouterr().err


@pytest.mark.parametrize("stage", MASTERS)
def test_the_committed_notebooks_are_what_the_masters_make(stage):
    assert build(ROOT, [stage], check=True) == []


@pytest.mark.parametrize("stage", MASTERS)
def test_each_gap_of_a_release_names_an_exercise_of_its_stage(stage):
    release = nbformat.read(ROOT / "notebooks" / stage / f"{stage}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in release.cells)
    master = (ROOT / "solutions" / stage / f"{stage}.py").read_text()
    for exercise in STAGES[stage]:
        grade_id = exercise.id.replace(".", "_")
        cell = cell_of(release, f"{'written' if exercise.manual else 'check'}_{grade_id}")
        assert cell.metadata.nbgrader.points == exercise.points
        # a "spot the bug" exercise shows wrong code in its gaps instead
        given = all("### GIVEN" in gap["body"] for gap in GAP.finditer(master) if gap["label"] == exercise.id)
        assert exercise.manual or given or gap_stub(exercise.id) in text


def test_a_spot_the_bug_gap_shows_the_wrong_code():
    source = (
        "def up(h, B):\n"
        "    ### BEGIN SOLUTION 9.1\n"
        "    return h @ B.T\n"
        "    ### GIVEN\n"
        "    # if h is None:  # a comment stays one\n"
        "    #     return None\n"
        "    # return h @ B\n"
        "    ### END SOLUTION\n"
    )
    assert clear_gaps(source) == (
        "def up(h, B):\n    if h is None:  # a comment stays one\n        return None\n    return h @ B\n"
    )
    assert clear_gaps(source, keep={"9.1"}) == "def up(h, B):\n    return h @ B.T\n"


def test_no_master_uses_an_output_widget():
    """nbclient, which grades, can wait forever on one; `plots.with_controls` redraws a picture instead."""
    for master in find_masters(ROOT):
        code = master.read_text(encoding="utf-8")
        assert not any(word in code for word in ("interactive_output", ".interact(", ".Output(")), master.name
