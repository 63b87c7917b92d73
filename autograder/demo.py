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
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat.notebooknode import NotebookNode
from nbgrader.utils import determine_grade, is_grade

from autograder.engine.sandbox import not_here
from autograder.exercises import STAGES, exercise, mutants
from autograder.files import write_whole
from autograder.publish.notebooks import build, find_masters
from autograder.publish.preprocessors import clear_gaps
from autograder.system import BUBBLEWRAP, left_out

ROOT = Path(__file__).resolve().parents[1]
#: The stages that the short demo runs on the real model: one writes the layer, one trains it.
SHOWN = ("02_lora_layer", "04_sst2_training")
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

    book = gradebook(course, stages)
    write_whole(out / "index.html", overview(book, stages, without).encode())
    show(book, out, stages, time.time() - started)
    if without:
        step("Graded without a sandbox, which only this program's own sample class may be")
        print(without)
    return verdict(book)


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
    wrong = [next(m for m in mutants(stage) if m.exercise == e) for e in automatic[::2]]

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


def gradebook(course: Path, stages: list[str]) -> pd.DataFrame:
    """One row a submission, read from the graded notebooks: points, and the first failing message."""
    rows = []
    for stage in stages:
        for student in sample_answers(stage):
            notebook = nbformat.read(course / "autograded" / student / stage / f"{stage}.ipynb", as_version=4)
            earned = points = 0.0
            waiting, first = 0.0, ""
            for cell in notebook.cells:
                if not is_grade(cell):
                    continue
                score, most = determine_grade(cell)
                if cell.cell_type == "code":
                    earned, points = earned + score, points + most
                    if score < most and not first:
                        first = failing_message(cell)
                elif score is None:
                    waiting += most
            row = {"student": student, "stage": stage, "earned": earned, "of": points, "to grade by hand": waiting}
            rows.append({**row, "first failing message": first})
    return pd.DataFrame(rows)


def failing_message(cell: NotebookNode) -> str:
    """The first failing check in a graded cell: the exercise, what must hold, what was seen."""
    exercise_id = cell.metadata.nbgrader.grade_id.removeprefix("check_").replace("_", ".")
    text = "".join(o.get("text", "") for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
    graded = text.rpartition(f"{exercise_id} {exercise(exercise_id).title}:")  # the hidden checks' report comes last
    lines = (graded[1] + graded[2]).splitlines()
    start = next((i for i, line in enumerate(lines) if "FAIL" in line), None)
    return "\n".join(lines[:1] + lines[start : start + 2]) if start is not None else "\n".join(lines[:3])


def verdict(book: pd.DataFrame) -> int:
    """0 if the complete class got full marks and the untouched one none."""
    complete, untouched = (book[book.student == name] for name in ("complete", "untouched"))
    if (complete.earned == complete.of).all() and (untouched.earned == 0).all():
        return 0
    print("The worked solutions must have full marks and the untouched notebooks none: this is a bug in the checks.")
    return 1


# --- what an instructor reads ---------------------------------------------------------------------------------------


def show(book: pd.DataFrame, out: Path, stages: list[str], seconds: float) -> None:
    """Print the gradebook, each submission's first failing message, and where everything is."""
    step("Gradebook (automatic points; written answers wait for a person)")
    print(book.drop(columns="first failing message").to_string(index=False))
    step("First failing message of each submission")
    for row in book[book["first failing message"] != ""].itertuples(index=False):
        print(f"{row.student}, {row.stage}:")
        print("  " + row[-1].replace("\n", "\n  "))
    step(f"Done in {seconds:.0f} s. In {os.path.relpath(out)}:")
    print("  index.html                              all of this on one page")
    print("  training_comparison.png                 LoRA beside head-only and full fine-tuning, from the run above")
    for stage in stages:
        print(f"  {f'solutions/{stage}.html':<40}the executed worked solution")
    print("  course/report.html                      the class: where it struggles, and with what")
    print("  course/grades.csv                       points, a column for each exercise")
    print("  course/feedback/                        what each student gets back")
    print("  course/                                 an nbgrader course: start jupyter lab there for Formgrader")


def overview(book: pd.DataFrame, stages: list[str], without: str = "") -> str:
    """One page: the picture, the gradebook and the messages, with links to the rest; ``without``: what was left out."""
    note = without and (
        "<p><strong>Graded without a sandbox</strong>, which only this program's own sample class may be.</p>"
        f"<pre>{escape(without)}</pre>"
    )
    links = "".join(f'<li><a href="solutions/{stage}.html">{stage}, worked and executed</a></li>' for stage in stages)
    rows = "".join(
        f'<tr><td><a href="course/feedback/{r.student}/{r.stage}/{r.stage}.html">{r.student}</a></td><td>{r.stage}</td>'
        f"<td>{r.earned:g} of {r.of:g}</td><td>{r[4]:g}</td><td><pre>{escape(r[5])}</pre></td></tr>"
        for r in book.itertuples(index=False)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>LoRA from scratch: a sample class</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}img{{max-width:100%}}
table{{border-collapse:collapse}}td,th{{border-bottom:1px solid #bbb;padding:.4rem .8rem;text-align:left;
vertical-align:top}}pre{{white-space:pre-wrap;margin:0}}
@media(max-width:45rem){{table{{font-size:.75rem}}td,th{{padding:.2rem}}td:last-child{{overflow-wrap:anywhere}}}}</style></head><body><main>
<h1>LoRA from scratch: a sample class</h1>
<p>Made by <code>make demo</code>. Each name leads to the feedback that student gets; the
<a href="course/report.html">class report</a> shows where the class struggles.</p>
{note}<img src="training_comparison.png" alt="Accuracy of LoRA, head-only and full fine-tuning on held-out reviews">
<h2>Gradebook</h2>
<table><tr><th>student</th><th>stage</th><th>automatic points</th><th>points to grade by hand</th>
<th>first failing message</th></tr>{rows}</table>
<h2>Worked solutions</h2><ul>{links}</ul></main></body></html>
"""
