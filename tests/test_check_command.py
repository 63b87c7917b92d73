"""`python -m autograder check` and `autograder.evaluate`: every file gets a report, whatever is in it."""

import json
import sys
from pathlib import Path

import forked
import nbformat
import pytest

import autograder
from autograder import check
from autograder.answers import load_answer, read_cells
from autograder.check import check_file
from autograder.engine.assignment import Assignment
from autograder.engine.sandbox import Sandbox
from autograder.exercises import STAGES
from autograder.exercises.mutant import worked_cells

ROOT = Path(__file__).resolve().parents[1]
STAGE = "02_lora_layer"
POINTS = sum(e.points for e in STAGES[STAGE] if not e.manual)


def command(*arguments):
    return forked.run(["check", *map(str, arguments)], cwd=ROOT)


@pytest.fixture
def worked(tmp_path):
    path = tmp_path / "answer.py"
    path.write_text("\n\n".join(worked_cells(STAGE)))
    return path


@pytest.fixture(scope="module")
def warm():
    """On Linux a process that has imported all, and a fork of it for each file, as a class has; else None."""
    if sys.platform != "linux":
        yield None
        return
    with Sandbox("none", modules=Assignment.load(STAGE).modules()) as box:
        yield box


@pytest.fixture
def forks(warm, monkeypatch):
    """`check_file` takes a fork of the warm process where what is tested is not how the process starts."""

    class Fork:
        def __init__(self, modules):
            pass

        def __enter__(self):
            return warm

        def __exit__(self, *_):
            warm.kill()

    if warm:
        monkeypatch.setattr(check, "Plain", Fork)


def test_a_right_file_has_full_marks(worked):
    done = command(STAGE, worked, "--json", "--seed", "3")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert (report["score"], report["max_score"], report["seed"]) == (POINTS, POINTS, 3)
    assert [r["id"] for r in report["results"]] == [e.id for e in STAGES[STAGE] if not e.manual]
    assert set(report["results"][0]) == {"id", "title", "earned", "points", "message", "checks"}


def test_the_released_notebook_earns_nothing_and_says_why():
    done = command(STAGE, ROOT / "notebooks" / STAGE / f"{STAGE}.ipynb")
    assert done.returncode == 1
    assert f"{STAGE}: 0 of {POINTS} points" in done.stdout
    assert "not done yet" in done.stdout


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os; os._exit(0)", "the process ended"),
        ("1/0", "is not defined"),
        *(
            pytest.param(source, "is not defined", marks=pytest.mark.slow)  # a process each
            for source in ("raise SystemExit(0)", "def broken(:", "")
        ),
    ],
)
def test_a_file_that_does_not_run_gets_a_report(tmp_path, source, message, forks):
    path = tmp_path / "answer.py"
    path.write_text(source)
    report = check_file(STAGE, path, seed=1)
    assert (report["score"], report["max_score"]) == (0, POINTS)
    assert message in report["results"][0]["message"]


def test_a_file_that_never_ends_is_stopped(tmp_path):
    path = tmp_path / "answer.py"
    path.write_text("class LoRALayer:\n    pass\n\nwhile True: pass")
    report = check_file(STAGE, path, seed=1, seconds=0.5)
    assert (report["score"], report["max_score"]) == (0, POINTS)
    assert "cell 1: CellTimeoutError: stopped after 0.5 s" in report["errors"]
    assert "the submission's time is up" in report["results"][0]["message"]


def test_what_was_judged_before_the_end_stands(tmp_path, forks):
    cells = worked_cells(STAGE)
    path = tmp_path / "answer.py"
    killer = (
        "class LinearWithLoRA:\n"
        "    def __init__(self, *arguments, **options):\n"
        "        import os\n"
        "        os._exit(1)\n"
    )
    path.write_text("\n\n".join([*cells, killer]))
    report = check_file(STAGE, path, seed=1)
    earned = {r["id"]: r["earned"] for r in report["results"]}
    assert earned["2.1"] == 4
    assert earned["2.2"] == 4
    assert earned["2.3"] == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("answer.ipynb", "{not json", "is not a notebook"),
        ("answer.ipynb", "[]", "is not a notebook"),
        ("answer.txt", "text", "expected a .py or .ipynb file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    done = command(STAGE, path)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_missing_file_and_an_unknown_stage_are_named(tmp_path):
    assert "no such file" in command(STAGE, tmp_path / "nothing.py").stderr
    assert "02_lora_layer" in command("07_nothing", tmp_path).stderr
    with pytest.raises(KeyError, match="02_lora_layer"):
        autograder.evaluate("07_nothing", {})


def test_only_set_up_and_solution_cells_of_a_notebook_run(tmp_path):
    notebook = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell
    notebook.cells = [
        cell("import math", metadata={"nbgrader": {"grade_id": "setup", "solution": False}}),
        cell("raise RuntimeError('minutes of training')"),
        cell(
            "%matplotlib inline\n!pip list\nanswer = math.pi",
            metadata={"nbgrader": {"grade_id": "a", "solution": True}},
        ),
        cell("broken = 1/0", metadata={"nbgrader": {"grade_id": "b", "solution": True}}),
    ]
    path = tmp_path / "answer.ipynb"
    nbformat.write(notebook, path)
    answer = load_answer(path)
    assert answer.namespace["answer"] > 3
    assert answer.errors == ["cell 3: ZeroDivisionError: division by zero line 1, in <module>: broken = 1/0"]
    for one in notebook.cells:  # an editor that drops metadata
        one.metadata.clear()
    nbformat.write(notebook, path)
    assert len(read_cells(path)) == 4


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "answer.ipynb"
    path.write_bytes(b" " * 20_000_001)
    with pytest.raises(ValueError, match="at most 20,000,000"):
        read_cells(path)


def test_a_report_adds_up_and_names_its_seed():
    report = autograder.evaluate(STAGE, {})
    assert (report.score, report.max_score) == (0, POINTS)
    assert report.seed >= 0
    assert str(report).endswith(f"{STAGE}: 0 of {POINTS} points (seed {report.seed})")
    assert json.loads(json.dumps(report.to_dict()))["results"][0]["id"] == "2.1"
    space = load_answer(ROOT / "solutions" / STAGE / f"{STAGE}.py").namespace
    assert autograder.evaluate(STAGE, space, seed=5).score == POINTS


def test_a_hidden_cell_prints_the_message_and_returns_the_points(capsys):
    assert autograder.grade_cell("2.1", {}) == 0.0
    captured = capsys.readouterr()
    assert "LoRALayer is not defined" in captured.out
    assert captured.err == ""
    space = load_answer(ROOT / "solutions" / STAGE / f"{STAGE}.py").namespace
    points = autograder.grade_cell("2.1", space)
    assert type(points) is float, "nbgrader reads its text as the points"
    assert points == 4.0
