"""What was handed in, laid out for the tests of intake, and read back by student."""

from __future__ import annotations

import io
import zipfile

from grade_course import STAGE

from autograder.intake import notebook
from autograder.intake.discover import discover
from autograder.intake.submission import Submission

NAME = f"{STAGE}.ipynb"
MOODLE = "{}_assignsubmission_file_/".format
EMPTY = b'{"cells": []}'


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def put(root, files: dict[str, bytes]):
    """Write files below a folder."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def by_student(folder, assignments) -> dict[str, Submission]:
    """The submissions in a folder, read, by student; each student has one."""
    found = discover(folder, assignments)
    for submission in found:
        notebook.answers(submission, assignments[submission.stage])
    assert len({(s.student, s.stage) for s in found}) == len(found)
    return {s.student: s for s in found}


def graded(folder, assignments) -> dict[str, bool]:
    """Student -> whether the submission can be graded."""
    return {student: not s.problem for student, s in by_student(folder, assignments).items()}
