"""A new exercise is two files, its cells in the master and an alternate. All else follows, without another edit.

Shown in a copy of the course, which gets exercise 1.7, the trace of B A. Every table, page and zip is made there by the
commands that an instructor runs.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGE = "01_rank_theory"
BEFORE = "# %% [markdown]\n# ## Before you go on\n"
TO_COPY = ("autograder", "lora_ref", "solutions", "notebooks")
FILES = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "nbgrader_config.py")

#: What a student may have of the exercise.
ROOM = '''\
"""Exercise 1.7, the trace of an update."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names
from lora_ref.checks.stage01.shared import number, sizes, tensor, tried
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close


def draw_factors(rng: np.random.Generator) -> Inputs:
    r, n = sizes(rng)
    return {"B": rng.normal(size=(n, r)), "A": rng.normal(size=(r, n))}


def probe_trace(names: Names, **inputs: Any) -> dict:
    return tried(number, names.update_trace, tensor(inputs["B"]), tensor(inputs["A"]))


def judge_trace(inputs: Inputs, seen: Observation) -> Fault | None:
    B, A = inputs["B"], inputs["A"]
    right = np.trace(B @ A)
    if not seen["raised"] and seen["value"] is not None and close(seen["value"], right):
        return None
    likely = "all entries of B A are added, not its diagonal" if close(seen.get("value"), (B @ A).sum()) else ""
    return Fault(f"{seen.get('value')}, expected {right:.4f}", likely)


EXERCISE = Exercise(
    "1.7",
    "the trace of an update",
    names=("update_trace",),
    checks=[Check("1.7/sum", "the trace is the sum of the diagonal", probe_trace, judge_trace, draw_factors, seed=17)],
)
'''

#: What they may not.
HIDDEN_ROOM = '''\
"""Exercise 1.7, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage01 import e7_trace as room

HIDDEN = [graded(room, "1.7/sum", 2.0)]

MUTANTS = [
    Mutant("1.7/all", "all entries added", "(B.T * A).sum().item()", "(B @ A).sum().item()", "not its diagonal"),
]
'''

CELLS = '''\
# %% [markdown]
# ## 1.7 The trace of an update
#
# > **Exercise 1.7** · 2 points


# %% solution="trace"
def update_trace(B, A):
    """The trace of B A, without building B A."""
    ### BEGIN SOLUTION 1.7
    return (B.T * A).sum().item()  # each diagonal entry is a row of B times a column of A
    ### END SOLUTION


# %% check="1.7"
check("1.7", globals())

'''

ALTERNATE = """

def update_trace(B, A):
    return float(torch.trace(B @ A))
"""

#: Run in the copy: the commands, and what the functions behind them say about the exercise.
SCRIPT = """\
import contextlib, io, json, sys
from pathlib import Path

from autograder import evaluate, messages
from autograder.__main__ import main
from autograder.answers import load_answer
from autograder.exercises import STAGES, alternates, exercise, mutants
from lora_ref.checks import check

stage, out = sys.argv[1:]
said, facts = io.StringIO(), {}
with contextlib.redirect_stdout(said):
    assert main(["build", stage]) == 0
    assert main(["release", "--out", out]) == 0
    assert main(["gradescope", stage, "--out", out]) == 0
    worked = load_answer(Path("solutions", stage, stage + ".py")).namespace
    facts["visible"] = check("1.7", worked)
    answers = [worked, *(load_answer(path).namespace for path in alternates(stage) if path.stem == "by_trace")]
    facts["earned"] = [evaluate(stage, answer, seed=0).score for answer in answers]
    mutant = next(mutant for mutant in mutants(stage) if mutant.exercise == "1.7")
    facts["row"] = messages.row(mutant, messages.of_mutant(stage, mutant))
    facts["lost"] = {r.id: r.points - r.earned for r in evaluate(stage, mutant.answer(stage).namespace, seed=0).results}
facts["said"] = said.getvalue()
facts["stage"] = {e.id: e.points for e in STAGES[stage]}
facts["row of the contract"] = [exercise("1.7").title, exercise("1.7").names, exercise("1.7").manual]
print(json.dumps(facts))
"""


def run(where: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=where, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A copy of the course with one exercise more, and what the commands said and wrote there."""
    root = tmp_path_factory.mktemp("course")
    for name in TO_COPY:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, root)
    master = root / "solutions" / STAGE / f"{STAGE}.py"
    text = master.read_text(encoding="utf-8")
    assert text.count(BEFORE) == 1
    master.write_text(text.replace(BEFORE, CELLS + BEFORE), encoding="utf-8")
    hidden = root / "autograder" / "exercises" / "stage01"
    (root / "lora_ref" / "checks" / "stage01" / "e7_trace.py").write_text(ROOM, encoding="utf-8")
    (hidden / "e7_trace.py").write_text(HIDDEN_ROOM, encoding="utf-8")
    others = (hidden / "alternates" / "library_calls.py").read_text(encoding="utf-8")
    (hidden / "alternates" / "by_trace.py").write_text(others + ALTERNATE, encoding="utf-8")
    done = run(root, "-c", SCRIPT, STAGE, "dist")
    assert done.returncode == 0, done.stdout + done.stderr
    return root, json.loads(done.stdout)


def test_points_and_title_are_read_from_the_two_files(course):
    _, facts = course
    assert facts["row of the contract"] == ["the trace of an update", ["update_trace"], False]
    assert facts["stage"] == {e.id: e.points for e in _stage()} | {"1.7": 2}


def test_right_answers_have_all_points_and_the_mistake_loses_its_own(course):
    _, facts = course
    automatic = sum(e.points for e in _stage() if not e.manual) + 2
    assert facts["visible"] is None  # passed
    assert facts["earned"] == [automatic, automatic]  # the worked solution's, and the alternate's
    assert {name for name, lost in facts["lost"].items() if lost} == {"1.7"}


def test_the_table_of_messages_has_its_row(course):
    _, facts = course
    assert facts["row"].startswith("| `1.7/all`<br>all entries added | FAIL  the trace is the sum of the diagonal")
    assert "not its diagonal.  Read: section 1.7." in facts["row"]


def test_students_get_the_gap_and_the_visible_check(course):
    root, _ = course
    (release,) = (root / "dist").glob("lora-from-scratch-*.zip")
    with zipfile.ZipFile(release) as archive:
        (notebook,) = (archive.read(name).decode() for name in archive.namelist() if f"{STAGE}.ipynb" in name)
        (wheel,) = (name for name in archive.namelist() if name.endswith(".whl"))
        with zipfile.ZipFile(io.BytesIO(archive.read(wheel))) as package:
            shipped = package.namelist()
    assert 'NotImplementedError(\\"Exercise 1.7\\")' in notebook
    assert "check_1_7" in notebook
    for secret in ("grade_cell", "B.T * A", "each diagonal entry"):
        assert secret not in notebook
    assert "lora_ref/checks/stage01/e7_trace.py" in shipped
    assert not any(name.startswith("autograder") for name in shipped)


def test_gradescope_gets_the_hidden_check_alone(course):
    root, _ = course
    with zipfile.ZipFile(root / "dist" / f"gradescope-{STAGE}.zip") as archive:
        names = archive.namelist()
        texts = {name: archive.read(name).decode() for name in names}
    assert "lora_ref/checks/stage01/e7_trace.py" in names
    assert any('"1.7/sum", 2.0' in text.replace("'", '"') for text in texts.values())
    assert not any("alternates" in name or "/stage02/" in name for name in names if name.startswith("autograder"))
    assert not any(secret in text for secret in ("B.T * A", "torch.trace", "1.7/all") for text in texts.values())


def test_a_graded_class_has_its_points_and_its_bar(course, bubblewrap):
    root, _ = course
    worked = (root / "solutions" / STAGE / f"{STAGE}.ipynb").read_text(encoding="utf-8")
    for student, text in {"right": worked, "wrong": worked.replace("(B.T * A)", "(B @ A)")}.items():
        folder = root / "submitted" / student / STAGE
        folder.mkdir(parents=True)
        (folder / f"{STAGE}.ipynb").write_text(text, encoding="utf-8")
    command = ("-m", "autograder", "grade", "--submissions", "submitted", "--out", "out", "--workers", "1")
    done = run(root, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    with (root / "out" / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert (float(rows["right"]["1.7"]), float(rows["wrong"]["1.7"])) == (2, 0)
    assert float(rows["right"]["score"]) - float(rows["wrong"]["score"]) == 2
    report = (root / "out" / "report.html").read_text(encoding="utf-8")
    assert "1.7/sum" in report
    assert "the trace is the sum of the diagonal" in report


def _stage():
    from autograder.exercises import STAGES

    return STAGES[STAGE]
