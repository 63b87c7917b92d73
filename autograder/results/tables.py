"""Grades as tables: ``grades.csv``, and Canvas's and Moodle's own files with the grades filled in.

Canvas and Moodle each give out a CSV file with a row for each student and take it back with grades in it. Filling in
that very file keeps every other column as it was, so nothing has to be guessed: which columns there are, in what order,
or how the platform names its students.

    Moodle   "Download grading worksheet": the columns "Identifier" ("Participant 1234567") and "Grade" are read
    Canvas   "Export Entire Gradebook": the columns "ID" and the assignment's, "02_lora_layer (98765)"
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder.engine.job import Row
from autograder.exercises import STAGES


def grades_csv(rows: Iterable[Row]) -> str:
    """``grades.csv``: a row for each submission; automatic points, and what waits for a person."""
    rows = list(rows)
    ids = [e.id for s, es in STAGES.items() for e in es if not e.manual and any(r.stage == s for r in rows)]
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
    """Text that a spreadsheet will not take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell


class ExportError(ValueError):
    """The table cannot be filled in; the message says why."""


@dataclass(frozen=True)
class Final:
    """A student's result for one stage.

    Attributes:
        score: points, less what being late costs; None while a written answer waits for a person.
        max_score: points of the stage.
    """

    score: float | None
    max_score: float


def finals(graded: Path, stage: str) -> dict[str, Final]:
    """Student -> result, from the gradebook of a graded course.

    Raises:
        ExportError: there is no gradebook, or the stage is not in it.
    """
    if not (graded / "gradebook.db").is_file():
        raise ExportError(f"no gradebook.db in {graded}: give the folder that `autograder grade --out` wrote")
    from nbgrader.api import Gradebook  # late: grading starts with this module

    with Gradebook(f"sqlite:///{graded / 'gradebook.db'}") as book:
        if stage not in [assignment.name for assignment in book.assignments]:
            raise ExportError(f"{stage} is not in the gradebook of {graded}")
        results = {}
        for submission in book.assignment_submissions(stage):
            waits = any(n.needs_manual_grade for n in submission.notebooks)
            score = max(0.0, submission.score - submission.late_submission_penalty)
            results[submission.student.id] = Final(None if waits else score, submission.max_score)
    return results


def column_of(header: list[str], stage: str, column: str | None) -> tuple[str, int, list[int]]:
    """(platform, the column of grades, the columns that may name a student).

    Raises:
        ExportError: neither platform's table, or no one column for the stage.
    """
    if {"Identifier", "Grade"} <= set(header):
        names = [
            i for i, title in enumerate(header) if title in ("Identifier", "ID number", "Username", "Email address")
        ]
        return "moodle", header.index(column or "Grade"), names
    if {"Student", "ID", "Section"} <= set(header):
        wanted = column or stage
        titles = [t for t in header if t == wanted or re.fullmatch(rf".*{re.escape(wanted)}.*\(\d+\)", t)]
        if len(titles) != 1:
            some = "; ".join(t for t in header if re.search(r"\(\d+\)$", t))
            raise ExportError(
                f"{len(titles)} columns for {wanted}: name one with --column. There are: {some or 'none'}"
            )
        names = [i for i, title in enumerate(header) if title in ("ID", "SIS User ID", "SIS Login ID")]
        return "canvas", header.index(titles[0]), names
    raise ExportError(
        "neither Moodle's grading worksheet (columns Identifier, Grade) nor Canvas's gradebook (Student, ID, Section); "
        f"its columns are: {', '.join(header)[:300]}"
    )


def domains_of(rows: Iterable[list[str]]) -> set[str]:
    """The domain of a table's addresses, if they are all of one: then what stands before it tells a student."""
    domains = {cell.strip().partition("@")[2].casefold() for row in rows for cell in row if cell.count("@") == 1}
    return domains if len(domains) == 1 else set()


def keys_of(platform: str, cells: list[str], domains: Collection[str] = ()) -> set[str]:
    """What a student may be called in the gradebook: by the platform's number, or by name in nbgrader's own layout.

    Args:
        platform, cells: a row's cells that may name a student.
        domains: from `domains_of`.
    """
    keys = {cell.strip() for cell in cells if cell.strip()}
    if platform == "moodle":
        keys |= {number for cell in cells[:1] for number in re.findall(r"(\d+)$", cell)}
    return keys | {key.partition("@")[0] for key in keys if key.partition("@")[2].casefold() in domains}


def fill(
    table: str, stage: str, results: dict[str, Final], column: str | None = None
) -> tuple[str, dict[str, list[str]], str]:
    """Write the grades into a platform's table.

    Args:
        table: the CSV file's text.
        stage: as in the gradebook.
        results: from `finals`.
        column: the title of Canvas's column, where the stage's name does not tell.

    Returns:
        The new text; the rows that were filled in, by student; the platform.

    Raises:
        ExportError: the table is of another kind, or counts other points than the stage has.
    """
    rows = list(csv.reader(io.StringIO(table)))
    if not rows:
        raise ExportError("the table is empty")
    header = rows[0]
    platform, place, names = column_of(header, stage, column)
    # intake calls a student of a platform "name-number": the number is the platform's own, in one column
    by_number: dict[str, list[str]] = {}
    for student in results:
        if number := re.search(r"-([0-9]+)$", student):
            by_number.setdefault(number[1], []).append(student)
    own = header.index("Identifier" if platform == "moodle" else "ID")
    domains = domains_of([row[i] for i in names if i < len(row)] for row in rows[1:])
    filled: dict[str, list[str]] = {}
    for row in rows[1:]:
        row += [""] * (len(header) - len(row))
        if platform == "canvas" and row[0].strip().startswith("Points Possible"):
            _same_points(row[place], results, header[place])
            continue
        number = re.search(r"([0-9]+)$", row[own].strip())
        candidates = by_number.get(number[1], []) if number else []
        if len(candidates) > 1:
            raise ExportError(
                f"{row[own]} may be any of {', '.join(sorted(candidates)[:10])}: their names end in the same number. "
                "Nothing is written; take out of the submissions what is not that student's, and grade again"
            )
        keys = sorted(keys_of(platform, [row[i] for i in names], domains))
        student = candidates[0] if candidates else next((key for key in keys if key in results), None)
        called = {key for key in keys if key in results} | set(candidates)
        if len(called) > 1:
            raise ExportError(
                f"the row of {row[0]} fits {' and '.join(sorted(called)[:10])}, by number and by name. Nothing is "
                "written; take out of the submissions what is not that student's, and grade again"
            )
        if student is None:
            continue
        if platform == "moodle" and "Maximum Grade" in header:
            _same_points(row[header.index("Maximum Grade")], results, "Maximum Grade")
        if student in filled:
            raise ExportError(f"two rows fit {student}: {filled[student][0]} and {row[0]}")
        filled[student] = row
        if results[student].score is not None:
            row[place] = f"{results[student].score:g}"
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue(), filled, platform


def _same_points(cell: str, results: dict[str, Final], where: str) -> None:
    most = next((final.max_score for final in results.values()), None)
    try:
        theirs = float(cell.replace(",", "."))
    except ValueError:
        return  # "(read only)", or a scale
    if most is not None and theirs != most:
        raise ExportError(
            f"{where}: the platform counts {theirs:g} points and the stage has {most:g}: set it there first"
        )


def feedback_zip(graded: Path, stage: str, filled: dict[str, list[str]]) -> bytes:
    """Feedback pages in the folders that Moodle's "Upload multiple feedback files in a zip" expects."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for student, row in sorted(filled.items()):
            page = graded / "feedback" / student / stage / f"{stage}.html"
            number = re.search(r"(\d+)$", row[0])
            if page.is_file() and number:
                archive.write(page, f"feedback_{number[1]}_assignsubmission_file_/{stage}.html")
    return buffer.getvalue()
