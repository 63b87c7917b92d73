"""Moodle's worksheet and Canvas's gradebook as tests have them."""

from __future__ import annotations

import csv
import io

from autograder.results.tables import Final

STAGE = "02_lora_layer"
MOODLE = [
    ["Identifier", "Full name", "Email address", "Status", "Grade", "Maximum Grade", "Grade can be changed",
     "Last modified (grade)", "Feedback comments"],
    ["Participant 1234567", "Ada L", "ada@example.org", "Submitted", "", "25.00", "Yes", "-", 'said "hello", twice'],
    ["Participant 2345678", "Bo M", "bo@example.org", "Submitted", "", "25.00", "Yes", "-", ""],
    ["Participant 3456789", "Cy N", "cy@example.org", "No submission", "", "25.00", "Yes", "-", ""],
]  # fmt: skip
CANVAS = [
    ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "01_rank_theory (77)", "Homework 02_lora_layer (78)"],
    ["    Points Possible", "", "", "", "", "15", "25"],
    ["L, Ada", "1234567", "u1", "ada", "S1", "12", ""],
    ["M, Bo", "2345678", "u2", "bo", "S1", "", ""],
]
RESULTS = {"Ada-L-1234567": Final(19.5, 25), "Bo-M-2345678": Final(None, 25)}


def text_of(rows) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue()


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def changed(before, after) -> dict[tuple[int, int], str]:
    """(row, column) -> the new text, of each cell that is not as it was."""
    assert [len(row) for row in before] == [len(row) for row in after]
    return {(i, j): a for i, (x, y) in enumerate(zip(before, after, strict=True))
            for j, (b, a) in enumerate(zip(x, y, strict=True)) if a != b}  # fmt: skip
