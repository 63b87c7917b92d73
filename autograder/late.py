"""``python -m autograder late``: what being late costs, by nbgrader's own plug-in, in a course that is graded.

Due dates are nbgrader's (`nbgrader db assignment add STAGE --duedate ...`, or formgrader), and so are the times of
submissions: ``submitted/STUDENT/STAGE/timestamp.txt``, which nbgrader's collect writes. Run it after the written
answers are graded, because a share of the points needs to know the points; run it again after any change.
"""

from __future__ import annotations

import argparse
import math
import sys
import unicodedata
from pathlib import Path

from nbformat.v4 import new_notebook
from nbgrader.api import Gradebook
from nbgrader.plugins import LateSubmissionPlugin
from nbgrader.preprocessors import AssignLatePenalties
from nbgrader.utils import parse_utc
from traitlets import Float
from traitlets.config import Config, PyFileConfigLoader

from autograder.intake.names import student_names
from autograder.intake.nbgrader import folder_keys


class PerDay(LateSubmissionPlugin):
    """A share of the earned points for each day that has begun, after a grace period.

    Set it in `autograder/nbgrader_config.py`; plain `nbgrader autograde` uses it as well::

        c.AssignLatePenalties.plugin_class = "autograder.late.PerDay"
        c.PerDay.percent, c.PerDay.grace_minutes, c.PerDay.at_most = 10, 15, 50
    """

    percent = Float(10, help="of the earned points, for each day that has begun").tag(config=True)
    grace_minutes = Float(0, help="minutes after the due date that cost nothing").tag(config=True)
    at_most = Float(100, help="of the earned points, in all").tag(config=True)

    def late_submission_penalty(self, student_id: str, score: float, total_seconds_late: float) -> float:
        """Points to take off ``score``, for a submission that is ``total_seconds_late`` seconds late."""
        if total_seconds_late <= 60 * self.grace_minutes:
            return 0.0
        return score * min(self.percent * math.ceil(total_seconds_late / 86_400), self.at_most) / 100


def settings(graded: Path) -> Config:
    """The settings of a graded course, or the course's own."""
    own = graded / "nbgrader_config.py"
    place = graded if own.is_file() else Path(__file__).parent
    return PyFileConfigLoader("nbgrader_config.py", path=str(place.resolve())).load_config()


def apply(graded: Path, submitted: Path) -> list[tuple[str, str, float, float]]:
    """Read the times, work out every penalty anew.

    Returns:
        (stage, student, hours late, points) for each submission that is late.

    Raises:
        FileNotFoundError: there is no gradebook.
        ValueError: a file of a time holds none; the message names it.
    """
    if not (graded / "gradebook.db").is_file():
        raise FileNotFoundError(f"no gradebook.db in {graded}")
    url, step, late = f"sqlite:///{graded / 'gradebook.db'}", AssignLatePenalties(config=settings(graded)), []
    # students are called as `autograder.intake.names` calls them
    names = {folder: student for (_, folder), student in student_names(folder_keys(submitted)).items()}
    times = {}
    for path in submitted.glob("*/*/timestamp.txt"):
        times[names[unicodedata.normalize("NFC", path.parents[1].name)], path.parent.name] = path
    with Gradebook(url) as book:
        submissions = [(a.name, s.student.id) for a in book.assignments for s in book.assignment_submissions(a.name)]
        for stage, student in submissions:
            if path := times.get((student, stage)):
                try:
                    time = parse_utc(path.read_text(encoding="utf-8").strip()[:100])
                except (ValueError, OverflowError):
                    raise ValueError(f"{path} holds no time") from None
                book.update_or_create_submission(stage, student, timestamp=time)
    for stage, student in submissions:
        where = {"notebook": stage, "assignment": stage, "student": student, "db_url": url}
        step.preprocess(new_notebook(), {"nbgrader": where})
    with Gradebook(url) as book:
        for stage, student in submissions:
            found = book.find_submission(stage, student)
            if found.total_seconds_late > 0:
                late.append((stage, student, found.total_seconds_late / 3600, found.late_submission_penalty))
    return late


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--graded", type=Path, required=True, metavar="DIR", help="the graded course")
    parser.add_argument("--submitted", type=Path, required=True, metavar="DIR", help="STUDENT/STAGE/timestamp.txt")


def main(args: argparse.Namespace) -> int:
    """Exit status 0, or 2 if there is nothing to work on."""
    try:
        late = apply(args.graded, args.submitted)
    except (OSError, ValueError) as error:
        print(f"late: {error}", file=sys.stderr)
        return 2
    for stage, student, hours, points in late:
        print(f"{student}, {stage}: {hours:.1f} h late, {points:g} points off")
    print(f"{len(late)} late")
    return 0
