"""What being late costs, by nbgrader's own plug-in, in a graded course."""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import datetime, timezone
from pathlib import Path

from dateutil import parser, tz
from nbformat.v4 import new_notebook
from nbgrader.api import Gradebook
from nbgrader.plugins import LateSubmissionPlugin
from nbgrader.preprocessors import AssignLatePenalties
from traitlets import Float
from traitlets.config import Config, PyFileConfigLoader

from autograder.engine.assignment import ROOT
from autograder.intake.names import student_names
from autograder.intake.nbgrader import folder_keys
from autograder.results.database import explained, look


class PerDay(LateSubmissionPlugin):
    """A share of the earned points for each day that has begun, after a grace period.

    Set it in `autograder/nbgrader_config.py`; plain `nbgrader autograde` uses it too::

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
    place = graded if own.is_file() else ROOT / "autograder"
    return PyFileConfigLoader("nbgrader_config.py", path=str(place.resolve())).load_config()


def moment(text: str, zone: str) -> datetime:
    """A submission's time, in UTC without saying so, as the gradebook keeps it.

    Args:
        text: "2027-03-01 17:00:00 CET", or without a zone: then it is the course's, as where nobody knows the zone.
        zone: the course's, as ``c.Exchange.timezone`` has it.

    Raises:
        ValueError, OverflowError: there is no time in it.
    """
    *most, last = text.split()
    named = tz.gettz(last) if len(most) == 2 and re.fullmatch(r"[A-Za-z][\w/-]*", last) else None
    if len(most) == 2 and re.fullmatch(r"[A-Za-z][\w/-]*", last):
        text = " ".join(most)
    time = parser.parse(text)
    if time.tzinfo is None:
        time = time.replace(tzinfo=named or tz.gettz(zone) or timezone.utc)
    return time.astimezone(timezone.utc).replace(tzinfo=None)


def apply(graded: Path, submitted: Path) -> list[tuple[str, str, float, float]]:
    """Read the times, work out every penalty again.

    Returns:
        (stage, student, hours late, points) for each submission that is late.

    Raises:
        FileNotFoundError: there is no gradebook.
        ValueError: a timestamp.txt holds no time; the message names it.
    """
    if not (graded / "gradebook.db").is_file():
        raise FileNotFoundError(f"no gradebook.db in {graded}")
    look(graded / "gradebook.db")
    with explained(graded / "gradebook.db"):
        return _apply(graded, submitted)


def _apply(graded: Path, submitted: Path) -> list[tuple[str, str, float, float]]:
    url, step, late = f"sqlite:///{graded / 'gradebook.db'}", AssignLatePenalties(config=settings(graded)), []
    # students are called as `autograder.intake.names` calls them
    names = {folder: student for (_, folder), student in student_names(folder_keys(submitted)).items()}
    times = {}
    for path in submitted.glob("*/*/timestamp.txt"):
        times[names[unicodedata.normalize("NFC", path.parents[1].name)], path.parent.name] = path
    exchange = settings(graded).get("Exchange", {})
    zone = exchange.get("timezone", None) or "UTC"
    with Gradebook(url) as book:
        submissions = [(a.name, s.student.id) for a in book.assignments for s in book.assignment_submissions(a.name)]
        for stage, student in submissions:
            if path := times.get((student, stage)):
                try:
                    time = moment(path.read_text(encoding="utf-8").strip()[:100], zone)
                except (ValueError, OverflowError):
                    raise ValueError(f"{path} holds no time") from None
                book.update_or_create_submission(stage, student, timestamp=time)
    for stage, student in submissions:
        where = {"notebook": stage, "assignment": stage, "student": student, "db_url": url}
        step.preprocess(new_notebook(), {"nbgrader": where})
    with Gradebook(url) as book:
        for stage, student in submissions:
            submission = book.find_submission(stage, student)
            if submission.total_seconds_late > 0:
                hours = submission.total_seconds_late / 3600
                late.append((stage, student, hours, submission.late_submission_penalty))
    return late
