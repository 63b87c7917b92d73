"""Grades as tables: ``grades.csv``, ``course.csv``, and Canvas's and Moodle's own files with the grades filled in.

Canvas and Moodle each give out a CSV file with a row for each student and take it back with grades in it. Filling in
that very file keeps every other column as it was, and its encoding and separator, so nothing has to be guessed: which
columns there are, in what order, or how the platform names its students.

    Moodle   "Download grading worksheet": the columns "Identifier" ("Participant 1234567") and "Grade" are read
    Canvas   "Export Entire Gradebook": the columns "ID" and the assignment's, "02_lora_layer (98765)"
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder.engine import border
from autograder.engine.job import Row
from autograder.exercises import STAGES
from autograder.results import history
from autograder.results.database import explained, look


def grades_csv(rows: Iterable[Row]) -> str:
    """``grades.csv``: a row for each submission; automatic points, and what waits for a person."""
    rows = list(rows)
    ids = [e.id for s, es in STAGES.items() if any(r.stage == s for r in rows) for e in es if not e.manual]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["student", "stage", "status", "score", "max_score", "by_hand", "attention", *ids])
    for row in rows:
        exercises = STAGES[row.stage]
        earned = {r.id: r.earned for r in row.results}
        score = f"{sum(earned.values()):g}" if earned else ""
        most, by_hand = sum(e.points for e in exercises if not e.manual), sum(e.points for e in exercises if e.manual)
        cells = [row.student, row.stage, row.status, score, most, by_hand, "; ".join(row.attention)]
        writer.writerow([_safe(c) for c in cells] + [f"{earned[i]:g}" if i in earned else "" for i in ids])
    return out.getvalue()


def _safe(cell: Any) -> Any:
    """Text that a spreadsheet will not take for a formula, and a terminal for no orders."""
    if not isinstance(cell, str):
        return cell
    cell = border.text(cell, 32_000)
    return f"'{cell}" if cell.lstrip()[:1] in ("=", "+", "-", "@") else cell


class ExportError(ValueError):
    """The table cannot be filled in; the message says why."""


@dataclass(frozen=True)
class Final:
    """A student's result for one stage.

    Attributes:
        score: points, less what being late costs; None while a person has to grade something.
        max_score: points of the stage.
        graded: whether the automatic checks could be run on it.
    """

    score: float | None
    max_score: float
    graded: bool = True

    @property
    def above(self) -> bool:
        """Whether there are more points than the stage has, by a slip or as a bonus."""
        return self.score is not None and self.score > self.max_score + 1e-9


def finals(graded: Path, stage: str, automatic: bool = False) -> dict[str, Final]:
    """Student -> result, from the gradebook of a graded course.

    Args:
        graded: the course.
        stage: which.
        automatic: take what there is of those whose written answers nobody has graded yet.

    Raises:
        ExportError: there is no gradebook, or the stage is not in it.
    """
    with _gradebook(graded) as book:
        if stage not in [assignment.name for assignment in book.assignments]:
            raise ExportError(f"{stage} is not in the gradebook of {graded}")
        results = {}
        for submission in book.assignment_submissions(stage):
            waits = any(n.needs_manual_grade for n in submission.notebooks)
            grades = [grade for n in submission.notebooks for grade in n.grades if grade.name.startswith("check_")]
            ran = not grades or any(grade.auto_score is not None for grade in grades)
            score = max(0.0, submission.score - submission.late_submission_penalty)
            known = not waits or (automatic and ran)
            results[submission.student.id] = Final(score if known else None, submission.max_score, ran)
    return results


def comments(graded: Path, stage: str) -> dict[str, str]:
    """Student -> what people wrote about the answers, a paragraph each."""
    with _gradebook(graded) as book:
        return {
            submission.student.id: "\n".join(
                f"{comment.name.partition('_')[2].replace('_', '.')}: {comment.manual_comment.strip()}"
                for notebook in submission.notebooks
                for comment in sorted(notebook.comments, key=lambda comment: comment.name)
                if comment.manual_comment and comment.manual_comment.strip()
            )
            for submission in book.assignment_submissions(stage)
        }


def course_csv(graded: Path, automatic: bool = False) -> str:
    """``course.csv``: a row for each student, a column for each stage.

    Where a person has to grade something, the cell is empty or, with ``automatic``, has the points that there are.
    """
    with _gradebook(graded) as book:
        stages = [stage for stage in STAGES if stage in {assignment.name for assignment in book.assignments}]
        names = {s.id: " ".join(filter(None, (s.first_name, s.last_name))) for s in book.students}
    results = {stage: finals(graded, stage) for stage in stages}
    points = {stage: finals(graded, stage, automatic=True) for stage in stages} if automatic else results
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["student", "name", *stages, "total", "waits"])
    for student in sorted(set().union(*results.values())):
        own = [results[stage].get(student) for stage in stages]
        scores = [final.score if (final := points[stage].get(student)) else None for stage in stages]
        waits = [s for s, final in zip(stages, own, strict=True) if final is not None and final.score is None]
        cells = ["" if score is None else f"{score:g}" for score in scores]
        total = f"{math.fsum(filter(None, scores)):g}"
        writer.writerow([_safe(c) for c in (student, names.get(student, ""), *cells, total, "; ".join(waits))])
    return out.getvalue()


@contextlib.contextmanager
def _gradebook(graded: Path) -> Iterator[Any]:
    if not (graded / "gradebook.db").is_file():
        raise ExportError(f"no gradebook.db in {graded}: give the folder that `autograder grade --out` wrote")
    from nbgrader.api import Gradebook  # late: grading starts with this module

    look(graded / "gradebook.db")
    with explained(graded / "gradebook.db"), Gradebook(f"sqlite:///{graded / 'gradebook.db'}") as book:
        yield book


def too_many(results: Mapping[str, Final]) -> list[str]:
    """Students with more points than the stage has, in words."""
    above = {student: final for student, final in sorted(results.items()) if final.above}
    return [f"{student} ({final.score:g} of {final.max_score:g})" for student, final in above.items()]


def canvas_name(origin: str) -> str:
    """How the name begins that Canvas gave a file, "adalovelace_LATE_123_456_", wherever the file lies; or ""."""
    parts = re.split(r"[/\\!]", origin)
    return next((given[0] for part in parts if (given := re.match(r"[^_]+_(?:LATE_)?[0-9]+_[0-9]+_", part))), "")


def feedback_zip(
    graded: Path, stage: str, filled: Mapping[str, Sequence[str]], platform: str = "moodle"
) -> tuple[bytes, list[str]]:
    """Feedback pages under the names that tell Moodle or Canvas whose they are.

    Moodle's "Upload multiple feedback files in a zip" looks at the number in a folder's name; Canvas's "Upload
    submissions" at the two numbers in the name that it gave the file on download.

    Returns:
        The zip file, empty if there is no page to give back; students whose page has no such name.
    """
    unnamed = []
    files = history.handed_in(graded).get(stage, {})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for student, row in sorted(filled.items()):
            page = graded / "feedback" / student / stage / f"{stage}.html"
            if platform == "canvas":
                given = canvas_name(files.get(student, ["", ""])[1])
                name = f"{given}{stage}.html" if given else ""
            else:
                number = re.search(r"(\d+)$", row[0])
                name = f"feedback_{number[1]}_assignsubmission_file_/{stage}.html" if number else ""
            if page.is_file() and name:
                archive.write(page, name)
            elif page.is_file():
                unnamed.append(student)
        empty = not archive.namelist()
    return b"" if empty else buffer.getvalue(), unnamed
