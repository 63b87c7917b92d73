"""``python -m autograder demo``: the whole course once, on a real model and a sample class.

It makes the notebooks, runs the worked solutions, invents a class of four students (complete, half done, with
published mistakes, untouched), grades it as an instructor would, and writes what they would look at into one folder.

To end in minutes, only the stages of `SHOWN` run on the real model; the others run on the ``tiny`` profile. ``--all``
runs all of them on the real model.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat.notebooknode import NotebookNode
from nbgrader.api import Gradebook

from autograder.engine.sandbox import not_here
from autograder.engine.store import Store
from autograder.evaluation import Result
from autograder.exercises import STAGES, mutants
from autograder.files import write_whole
from autograder.publish.notebooks import build, find_masters
from autograder.publish.preprocessors import clear_gaps
from autograder.results.templates import render
from autograder.results.writer import graded_before
from autograder.system import BUBBLEWRAP, left_out
from lora_ref.checks.verdicts import messages

ROOT = Path(__file__).resolve().parents[1]
#: The stages that the short demo runs on the real model: its pictures of rank, of the layer and of training are real.
SHOWN = ("01_rank_theory", "02_lora_layer", "04_sst2_training")
#: First on the page of another one.
TINY = "> **Run on the tiny profile**, a model of random weights: its numbers and pictures show that code runs."
#: Only the comparison's cell calls this, so its picture is found by what it shows and not by its place.
COMPARISON = "compare_methods("


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder to write (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="all stages on the real model (ten minutes)")
    parser.add_argument("--profile", default=None, help="tiny, laptop or t4 (default: what this machine can do)")


def main(args: argparse.Namespace) -> int:
    """Run it all; exit status 0, or 1 if a worked solution lost points or the untouched notebooks earned any."""
    started = time.time()
    without = left_out([BUBBLEWRAP])
    if without:
        print(without, flush=True)
    out = args.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if not sys.platform.startswith("linux"):
        step(f"No sample class will be graded: {not_here()}")
    step("Building the notebooks from the masters")
    build(ROOT)
    stages = [master.stem for master in find_masters(ROOT)]

    executed = {}
    for stage in stages:
        profile = args.profile if args.all or stage in SHOWN else "tiny"
        where = ", on the tiny profile (--all: on the real model)" if profile == "tiny" else ""
        step(f"Running the worked solution of {stage}{where}")
        executed[stage] = run_notebook(ROOT / "solutions" / stage / f"{stage}.ipynb", profile)
        if profile == "tiny":
            executed[stage].cells.insert(0, nbformat.v4.new_markdown_cell(TINY))
        page, _ = HTMLExporter().from_notebook_node(executed[stage])
        write_whole(out / "solutions" / f"{stage}.html", page.encode())
    plot = out / "training_comparison.png"
    write_whole(plot, comparison_png(executed.values()))

    if not sys.platform.startswith("linux"):
        step(f"Done, without the sample class; the worked solutions, executed: {out / 'solutions'}")
        return 0
    step("Writing the sample class")
    submitted, course = out / "submitted", out / "course"
    write_class(submitted, stages)
    step("Grading it: python -m autograder grade")
    grade(submitted, course, "none" if without else "bwrap")

    grades = gradebook(course, stages)
    write_whole(out / "index.html", overview(grades, stages, without).encode())
    show(grades, out, stages, time.time() - started)
    if without:
        step("Graded without a sandbox, which only this program's own sample class may be")
        print(without)
    return exit_status(grades)


def step(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run_notebook(path: Path, profile: str | None) -> NotebookNode:
    """Execute a notebook with a line of progress; an error in a cell is an error here.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    total, started = sum(cell.cell_type == "code" for cell in notebook.cells), time.time()
    done = 0

    def progress(cell: NotebookNode, cell_index: int, **_: object) -> None:
        nonlocal done
        done += cell.cell_type == "code"
        text = f"  cell {done} of {total}, {time.time() - started:.0f} s"
        print(f"\r{text}" if sys.stdout.isatty() else text if done == total else "", end="", flush=True)

    client = NotebookClient(
        notebook,
        timeout=1200,
        on_cell_executed=progress,
        resources={"metadata": {"path": str(ROOT)}},
        extra_arguments=["--log-level=ERROR"],  # ipykernel warns on the terminal that it speaks TCP to itself
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **({"LORA_PROFILE": profile} if profile else {})}
    client.execute(env=environment)
    print()
    return notebook


def comparison_png(notebooks: Iterable[NotebookNode]) -> bytes:
    """The picture of LoRA beside head-only and full fine-tuning, from the executed cell that drew it.

    Raises:
        LookupError: no executed notebook shows it.
    """
    for notebook in notebooks:
        for cell in notebook.cells:
            if cell.cell_type == "code" and COMPARISON in cell.source:
                for output in cell.outputs:
                    if "image/png" in output.get("data", {}):
                        return base64.b64decode(output.data["image/png"])
    raise LookupError(f"no executed cell with {COMPARISON!r} shows a picture")


# --- the sample class -----------------------------------------------------------------------------------------------


def write_class(submitted: Path, stages: list[str]) -> None:
    """Four students' submissions, in nbgrader's layout."""
    for stage in stages:
        worked, release = (
            nbformat.read(ROOT / side / stage / f"{stage}.ipynb", as_version=4) for side in ("solutions", "notebooks")
        )
        for student, answer in sample_answers(stage).items():
            path = submitted / student / stage / f"{stage}.ipynb"
            path.parent.mkdir(parents=True)
            nbformat.write(fill(release, worked, answer), path)


def sample_answers(stage: str) -> dict[str, Callable[[str], str] | None]:
    """Student -> what becomes of a worked solution cell's source; None leaves the release as it is."""
    everything = {e.id for e in STAGES[stage]}
    automatic = [e.id for e in STAGES[stage] if not e.manual]
    first_half = set(automatic[: len(automatic) // 2])
    # one published mistake in every second exercise
    published_first = sorted(mutants(stage), key=lambda mutant: not mutant.seed)
    wrong = [next(mutant for mutant in published_first if mutant.exercise == e) for e in automatic[::2]]

    def buggy(source: str) -> str:
        for mutant in wrong:
            source = source.replace(mutant.old, mutant.new)
        return clear_gaps(source, keep=everything)

    return {
        "complete": lambda source: clear_gaps(source, keep=everything),
        "half-done": lambda source: clear_gaps(source, keep=first_half),
        "buggy": buggy,
        "untouched": None,
    }


def fill(release: NotebookNode, worked: NotebookNode, answer: Callable[[str], str] | None) -> NotebookNode:
    """A release notebook with each solution cell written by ``answer``, and the model answers where there is one."""
    submission = nbformat.from_dict(release)
    solved = {cell.metadata.nbgrader.grade_id: cell for cell in worked.cells if "nbgrader" in cell.metadata}
    for cell in submission.cells:
        if answer and cell.metadata.get("nbgrader", {}).get("solution"):
            source = solved[cell.metadata.nbgrader.grade_id].source
            cell.source = answer(source) if cell.cell_type == "code" else source
    return submission


# --- grading --------------------------------------------------------------------------------------------------------


def grade(submitted: Path, course: Path, sandbox: str) -> None:
    """Run the command that grades a class; ``sandbox`` is its option.

    Raises:
        SystemExit: it failed; what it said is on the screen.
    """
    line = [sys.executable, "-m", "autograder", "grade", "--submissions", str(submitted), "--out", str(course)]
    done = subprocess.run([*line, "--sandbox", sandbox], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line[1:])} ended with status {done.returncode}")


@dataclass(frozen=True)
class Grade:
    """A sample student's points for one stage.

    Attributes:
        student, stage: who and what.
        earned, points: of the exercises with automatic checks.
        by_hand: points of written answers that wait for a person.
        failed: the first exercise that lost points.
    """

    student: str
    stage: str
    earned: float
    points: float
    by_hand: float
    failed: Result | None


def gradebook(course: Path, stages: list[str]) -> list[Grade]:
    """What the class got, from the results and nbgrader's gradebook of the graded course."""
    rows = {(row.stage, row.student): row for row in graded_before(course, Store(course / ".grading"))}
    grades = []
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        for stage in stages:
            for student in sample_answers(stage):
                results = rows[stage, student].results
                cells = book.find_submission_notebook(stage, stage, student).grades
                grades.append(
                    Grade(
                        student,
                        stage,
                        sum(result.earned for result in results),
                        sum(result.points for result in results),
                        sum(cell.max_score for cell in cells if cell.needs_manual_grade),
                        next((result for result in results if result.failed), None),
                    )
                )
    return grades


def exit_status(grades: Sequence[Grade]) -> int:
    """0 if the complete class got full marks and the untouched one none."""
    expected = {"complete": lambda grade: grade.points, "untouched": lambda grade: 0}
    if all(grade.earned == expected[grade.student](grade) for grade in grades if grade.student in expected):
        return 0
    print("The worked solutions must have full marks and the untouched notebooks none: this is a bug in the checks.")
    return 1


# --- what an instructor reads ---------------------------------------------------------------------------------------


def show(grades: Sequence[Grade], out: Path, stages: list[str], seconds: float) -> None:
    """Print the gradebook, what each submission failed first, and where everything is."""
    step("Gradebook (automatic points; written answers wait for a person)")
    print(f"{'student':<12}{'stage':<22}{'earned':>8}{'of':>6}{'by hand':>9}")
    for grade in grades:
        numbers = f"{grade.earned:>8g}{grade.points:>6g}{grade.by_hand:>9g}"
        print(f"{grade.student:<12}{grade.stage:<22}{numbers}")
    step("First failing check of each submission")
    for grade in grades:
        if grade.failed:
            print(f"{grade.student}, {grade.stage}:\n  {grade.failed.heading}\n{messages(grade.failed.failed[:1])[0]}")
    step(f"Done in {seconds:.0f} s. In {os.path.relpath(out)}:")
    print("  index.html                              all of this on one page")
    print("  training_comparison.png                 LoRA beside head-only and full fine-tuning, from the run above")
    for stage in stages:
        print(f"  {f'solutions/{stage}.html':<40}the executed worked solution")
    print("  course/report.html                      the class: where it struggles, and with what")
    print("  course/grades.csv                       points, a column for each exercise")
    print("  course/feedback/                        what each student gets back")
    print("  course/mark.ipynb                       the desk where written answers are marked: jupyter lab in course/")
    print("  course/                                 an nbgrader course, with Formgrader")


def overview(grades: Sequence[Grade], stages: list[str], without: str = "") -> str:
    """One page: the picture, the gradebook and the messages, with links to the rest; ``without``: what was left out."""
    return render("demo.html", grades=grades, stages=stages, without=without)
