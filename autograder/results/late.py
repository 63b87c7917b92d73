"""What being late costs, by nbgrader's own plug-in, in a graded course."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from pathlib import Path

from dateutil.parser import parse
from dateutil.tz import enfold, gettz, resolve_imaginary
from nbformat.v4 import new_notebook
from nbgrader.api import Gradebook
from nbgrader.plugins import LateSubmissionPlugin
from nbgrader.preprocessors import AssignLatePenalties
from traitlets import Float
from traitlets.config import Config, PyFileConfigLoader

from autograder.engine.assignment import ROOT
from autograder.files import write_whole
from autograder.intake.dates import date_in
from autograder.intake.nbgrader import folder_keys
from autograder.intake.register import Register
from autograder.results import history
from autograder.results.database import explained, look
from autograder.results.fill import columns, people
from autograder.results.roster import match
from autograder.results.sheet import Sheet
from autograder.results.tables import canvas_name


class PerDay(LateSubmissionPlugin):
    """A share of the earned points for each day that has begun, after a grace period.

    A day ends at the due date's time of day in the course's zone (``c.Exchange.timezone``), so one in which the clocks
    change has 23 or 25 hours.

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
        return score * min(self.percent * self._days(student_id, total_seconds_late), self.at_most) / 100

    def _days(self, student_id: str, seconds: float) -> int:
        """How many days have begun since the due date: by the course's clock, which nbgrader's gradebook leads to."""
        book = getattr(self.parent, "gradebook", None)
        if book is not None:
            submission, zone = book.find_submission(self.parent.assignment_id, student_id), course_zone(self.config)
            came, due = (_on_the_clock(time, zone) for time in (submission.timestamp, submission.duedate))
            seconds = (came - due).total_seconds()
        return max(1, math.ceil(seconds / 86_400))


def course_zone(config: Config) -> str:
    """The course's time zone, by its settings (ValueError: there is no such zone)."""
    return known_zone(config.get("Exchange", {}).get("timezone", None) or "UTC")


def _on_the_clock(time: datetime, zone: str) -> datetime:
    """What a clock in a zone shows at a time in UTC."""
    return time.replace(tzinfo=timezone.utc).astimezone(gettz(zone) or timezone.utc).replace(tzinfo=None)


def more_time(due: datetime, hours: float, zone: str) -> timedelta:
    """An extension from a due date in UTC: whole days end at its time of day in the course's zone.

    Example:
        >>> more_time(datetime(2027, 10, 30, 21, 59), 48, "Europe/Berlin") / timedelta(hours=1)  # a day has 25 hours
        49.0
    """
    days, rest = divmod(hours, 24)
    if not days:
        return timedelta(hours=hours)
    local = (_on_the_clock(due, zone) + timedelta(days=days)).replace(tzinfo=gettz(zone) or timezone.utc)
    until = resolve_imaginary(enfold(local, fold=1))  # a time of day that is there twice: the later one
    return until.astimezone(timezone.utc).replace(tzinfo=None) - due + timedelta(hours=rest)


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
    named = gettz(last) if len(most) == 2 and re.fullmatch(r"[A-Za-z][\w/-]*", last) else None
    if len(most) == 2 and re.fullmatch(r"[A-Za-z][\w/-]*", last):
        text = " ".join(most)
    time = parse(text)
    if time.tzinfo is None:
        time = time.replace(tzinfo=named or gettz(zone) or timezone.utc)
    return time.astimezone(timezone.utc).replace(tzinfo=None)


def apply(
    graded: Path,
    submitted: Path | None,
    stage: str | None = None,
    table: Path | None = None,
    zone: str | None = None,
) -> list[tuple[str, str, float, float]]:
    """Read the times, work out every penalty again.

    Args:
        graded: the course.
        submitted: STUDENT/STAGE/timestamp.txt, as nbgrader's collect writes it; or None.
        stage, table: Moodle's grading worksheet of a stage, with the times that Moodle knows; or None.
        zone: the worksheet's time zone, "Europe/London"; None: this machine's.

    Returns:
        (stage, student, hours late, points) for each submission that is late.

    Raises:
        FileNotFoundError: there is no gradebook.
        ValueError: a timestamp.txt or the worksheet holds no time; the message names it.
    """
    if not (graded / "gradebook.db").is_file():
        raise FileNotFoundError(f"no gradebook.db in {graded}")
    if zone is not None:
        known_zone(zone)
    look(graded / "gradebook.db")
    with explained(graded / "gradebook.db"):
        return _apply(graded, submitted, stage, table, zone)


def _apply(
    graded: Path, submitted: Path | None, stage: str | None, table: Path | None, zone: str | None
) -> list[tuple[str, str, float, float]]:
    url, step, late = f"sqlite:///{graded / 'gradebook.db'}", AssignLatePenalties(config=settings(graded)), []
    register = Register(graded)
    here = course_zone(step.config)
    times = folder_times(submitted, register, here) if submitted else {}
    with Gradebook(url) as book:
        submissions = [(a.name, s.student.id) for a in book.assignments for s in book.assignment_submissions(a.name)]
        if table is not None and stage is not None:
            students = {student for of, student in submissions if of == stage}
            read = worksheet_times(Sheet.read(table.read_bytes()), students, register, zone)
            times |= {(student, stage): time for student, time in read.items()}
        for of, student in submissions:
            if time := times.get((student, of)):
                book.update_or_create_submission(of, student, timestamp=time)
                # formgrader compares the two, and would say that it needs autograding
                note = graded / "submitted" / student / of / "timestamp.txt"
                write_whole(note, f"{time:%Y-%m-%d %H:%M:%S.%f} UTC\n".encode())
        for of, student, hours in extensions(graded):
            if (of, student) in submissions:
                submission = book.find_submission(of, student)
                due = submission.assignment.duedate
                submission.extension = more_time(due, hours, here) if hours and due else None
        book.db.commit()
    for of, student in submissions:
        where = {"notebook": of, "assignment": of, "student": student, "db_url": url}
        step.preprocess(new_notebook(), {"nbgrader": where})
    with Gradebook(url) as book:
        for of, student in submissions:
            submission = book.find_submission(of, student)
            if submission.total_seconds_late > 0:
                hours = submission.total_seconds_late / 3600
                late.append((of, student, hours, submission.late_submission_penalty))
    return late


def folder_times(submitted: Path, register: Register, zone: str) -> dict[tuple[str, str], datetime]:
    """(student, stage) -> when it was handed in, in UTC (ValueError: a file holds no time)."""
    names = {folder: student for (_, folder), student in register.names(folder_keys(submitted)).items()}
    times = {}
    for path in submitted.glob("*/*/timestamp.txt"):
        try:
            time = moment(path.read_text(encoding="utf-8").strip()[:100], zone)
        except (ValueError, OverflowError):
            raise ValueError(f"{path} holds no time") from None
        times[names[unicodedata.normalize("NFC", path.parents[1].name)], path.parent.name] = time
    return times


def worksheet_times(sheet: Sheet, students: Collection[str], register: Register, zone: str | None) -> dict:
    """Student -> when Moodle says that the work came in, in UTC without a zone, as nbgrader keeps it.

    Raises:
        ValueError: there is no such column, or a cell of it holds no time.
    """
    header = sheet.rows[0]
    where = columns(sheet.rows)
    titles = [i for i, title in enumerate(header) if re.search(r"(submission|abgabe)\)?$", title, re.IGNORECASE)]
    if not titles:  # in other languages: of "Dernière modification (travail remis)" and "... (note)" the first
        begins = [title.partition("(")[0] if title.endswith(")") else title for title in header]
        titles = [begins.index(begin) for begin in begins if begin not in header and begins.count(begin) == 2][:1]
    if where.platform != "moodle" or len(titles) != 1:
        raise ValueError(f"no column in which Moodle keeps the time of a submission: {', '.join(header)[:300]}")
    known, _ = match(people(sheet), students, register.numbers())
    by_number = {person.number: student for student, person in known.items()}
    times = {}
    for row in sheet.rows[1:]:
        number = re.search(r"[0-9]+$", row[0].strip()) if row else None
        text = row[titles[0]].strip() if len(row) > titles[0] else ""
        if number and number[0] in by_number and text not in ("", "-"):
            time = moodles_time(text[:100])
            if time is None:
                raise ValueError(f"{row[0]}: no time: {text[:100]}")
            local = time.replace(tzinfo=gettz(zone)) if time.tzinfo is None else time
            times[by_number[number[0]]] = local.astimezone(timezone.utc).replace(tzinfo=None)
    return times


def moodles_time(text: str) -> datetime | None:
    """A time as Moodle writes it, in one of the languages of `autograder.intake.dates`; None if it is none.

    Example:
        >>> moodles_time("mardi 2 mars 2027, 20:00") == moodles_time("Tuesday, 2 March 2027, 8:00 PM")
        True
    """
    american = re.search(r"^[0-9]{4}-|[ap]m$", text.lower())
    try:
        return parse(text, dayfirst=not american)
    except (ValueError, OverflowError):
        date, _ = date_in(text, day_first=True)
        if not date or len(date) < 5:
            return None
        year, month, day, hour, minute = date[:5]
        return datetime(year, month, day, hour, minute)


def known_zone(zone: str) -> str:
    """A time zone's name (ValueError: there is no such zone)."""
    if gettz(zone) is None:
        raise ValueError(f"no time zone is called {zone!r}: give a name such as Europe/London")
    return zone


def extensions(graded: Path) -> list[tuple[str, str, float]]:
    """(stage, student, hours) of every extension; 0 hours: it was taken back."""
    path = graded / ".grading" / "extensions.json"
    listed = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [(stage, student, hours) for stage, student, hours in listed]


def extend(graded: Path, stage: str, student: str, hours: float) -> None:
    """Give a student more time for a stage, whether it has come in or not; `apply` makes it count."""
    listed = [row for row in extensions(graded) if row[:2] != (stage, student)]
    write_whole(graded / ".grading" / "extensions.json", json.dumps([*listed, (stage, student, hours)]).encode())


def late_without_a_time(graded: Path) -> list[tuple[str, str]]:
    """(stage, student) of what Canvas's file names call late: it says so, and not by how much."""
    return [
        (stage, student)
        for stage, files in history.handed_in(graded).items()
        for student, (_, origin) in files.items()
        if "_LATE_" in canvas_name(origin)
    ]


def stages_without_a_date(graded: Path) -> list[str]:
    """Stages of a graded course that have no due date."""
    with Gradebook(f"sqlite:///{graded / 'gradebook.db'}") as book:
        return sorted(assignment.name for assignment in book.assignments if assignment.duedate is None)
