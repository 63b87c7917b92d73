"""``python -m autograder export``: fill in a platform's own table of grades, and pack the feedback for the way back.

Canvas and Moodle each give out a CSV file with a row for each student and take it back with grades in it. Filling in
that very file keeps every other column as it was, so nothing has to be guessed: which columns there are, in what order,
or how the platform names its students.

    Moodle   "Download grading worksheet": the columns "Identifier" ("Participant 1234567") and "Grade" are read
    Canvas   "Export Entire Gradebook": the columns "ID" and the assignment's, "02_lora_layer (98765)"

A submission with a written answer that nobody has graded yet has no final grade: its row stays as it is.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from nbgrader.api import Gradebook

from autograder.exercises import STAGES
from autograder.files import write_whole


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
    with Gradebook(f"sqlite:///{graded / 'gradebook.db'}") as book:
        if stage not in [assignment.name for assignment in book.assignments]:
            raise ExportError(f"{stage} is not in the gradebook of {graded}")
        found = {}
        for submission in book.assignment_submissions(stage):
            waits = any(n.needs_manual_grade for n in submission.notebooks)
            score = max(0.0, submission.score - submission.late_submission_penalty)
            found[submission.student.id] = Final(None if waits else score, submission.max_score)
    return found


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


def keys_of(platform: str, cells: list[str]) -> set[str]:
    """What a student may be called in the gradebook: by the platform's number, or by name in nbgrader's own layout."""
    keys = {cell.strip() for cell in cells if cell.strip()}
    if platform == "moodle":
        keys |= {number for cell in cells[:1] for number in re.findall(r"(\d+)$", cell)}
    return keys | {key.partition("@")[0] for key in keys}


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
        if found := re.search(r"-([0-9]+)$", student):
            by_number.setdefault(found[1], []).append(student)
    own = header.index("Identifier" if platform == "moodle" else "ID")
    filled: dict[str, list[str]] = {}
    for row in rows[1:]:
        row += [""] * (len(header) - len(row))
        if platform == "canvas" and row[0].strip().startswith("Points Possible"):
            _same_points(row[place], results, header[place])
            continue
        number = re.search(r"([0-9]+)$", row[own].strip())
        fits = by_number.get(number[1], []) if number else []
        if len(fits) > 1:
            raise ExportError(
                f"{row[own]} may be any of {', '.join(sorted(fits)[:10])}: their names end in the same number. "
                "Nothing is written; take out of the submissions what is not that student's, and grade again"
            )
        keys = sorted(keys_of(platform, [row[i] for i in names]))
        student = fits[0] if fits else next((key for key in keys if key in results), None)
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", metavar="STAGE", choices=sorted(STAGES), help=", ".join(STAGES))
    parser.add_argument(
        "--table", type=Path, required=True, metavar="CSV", help="Moodle's worksheet, Canvas's gradebook"
    )
    parser.add_argument(
        "--graded", type=Path, default=Path("."), metavar="DIR", help="the graded course (default: here)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("upload"), metavar="DIR", help="folder to write (default: upload)"
    )
    parser.add_argument("--column", help="Canvas: the title of the column, if the stage's name is not in it")


def main(args: argparse.Namespace) -> int:
    """Exit status 0: every submission is in the table; 1: some are not, or wait for a person; 2: nothing written."""
    try:
        results = finals(args.graded, args.stage)
        text, filled, platform = fill(args.table.read_text(encoding="utf-8-sig"), args.stage, results, args.column)
    except (ExportError, OSError, UnicodeDecodeError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    write_whole(args.out / "grades.csv", text.encode())
    written = ["grades.csv"]
    if platform == "moodle":
        write_whole(args.out / "feedback.zip", feedback_zip(args.graded, args.stage, filled))
        written.append("feedback.zip")
    waiting = sorted(s for s in filled if results[s].score is None)
    absent = sorted(set(results) - set(filled))
    for what, students in (("written answers to grade", waiting), ("no row in the table", absent)):
        if students:
            print(f"{what}: {', '.join(students)}")
    counts = f"{len(filled) - len(waiting)} of {len(results)} grades for {platform.capitalize()}"
    print(f"{args.stage}: {counts}, in {args.out}: {', '.join(written)}")
    return int(bool(waiting or absent))
