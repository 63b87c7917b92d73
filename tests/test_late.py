"""What a late day is: by the course's clock, also when the clocks change."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from nbgrader.preprocessors import AssignLatePenalties
from traitlets.config import Config

from autograder.results.late import PerDay, moment, more_time


@pytest.mark.parametrize(
    ("seconds", "points"),
    [(0, 0), (15 * 60, 0), (15 * 60 + 1, 2), (86_400, 2), (86_401, 4), (10 * 86_400, 10)],
)
def test_a_share_for_each_day_that_has_begun(seconds, points):
    plugin = PerDay(percent=10, grace_minutes=15, at_most=50)
    assert plugin.late_submission_penalty("ada", 20.0, seconds) == pytest.approx(points)


@pytest.mark.parametrize(
    ("text", "zone", "utc"),
    [
        ("2027-07-01 17:00:00", "Europe/Berlin", "2027-07-01 15:00"),
        ("2027-01-01 17:00:00.25", "Europe/Berlin", "2027-01-01 16:00"),
        ("2027-07-01 17:00:00 CEST", "Europe/Berlin", "2027-07-01 15:00"),  # a name that few systems know
        ("2027-07-01 17:00:00 America/New_York", "Europe/Berlin", "2027-07-01 21:00"),
        ("2027-07-01 17:00:00 UTC", "Europe/Berlin", "2027-07-01 17:00"),
        ("2027-07-01 17:00:00 +0300", "Europe/Berlin", "2027-07-01 14:00"),
        ("2027-07-01T17:00:00Z", "Europe/Berlin", "2027-07-01 17:00"),
    ],
)
def test_a_time_without_a_zone_is_the_courses(text, zone, utc):
    assert moment(text, zone).strftime("%Y-%m-%d %H:%M") == utc


#: Due date (UTC), days more, time it came (UTC), points off, where Berlin's clocks change.
CLOCKS = (
    ("2027-10-30 21:59", 0, "2027-10-31 22:30", 2.2),  # back: 24.5 hours, and still one day
    ("2027-10-30 21:59", 0, "2027-10-31 23:00", 4.4),
    ("2027-03-27 22:59", 0, "2027-03-28 21:58", 2.2),  # forward
    ("2027-03-27 22:59", 0, "2027-03-28 22:30", 4.4),  # 00:30 of the next day, after 23.5 hours
    ("2027-10-31 00:30", 0, "2027-10-31 01:10", 2.2),  # in the hour that is there twice
    ("2027-10-30 21:59", 1, "2027-10-31 22:30", 0),  # a day more is until 23:59
    ("2027-03-27 22:59", 2, "2027-03-29 22:30", 2.2),
)


@pytest.mark.parametrize(("due", "days", "came", "points"), CLOCKS)
def test_a_day_ends_by_the_courses_clock(due, days, came, points):
    options = {"plugin_class": PerDay}
    step = AssignLatePenalties(config=Config(Exchange={"timezone": "Europe/Berlin"}, AssignLatePenalties=options))
    due, came = datetime.fromisoformat(due), datetime.fromisoformat(came)
    due += more_time(due, 24 * days, "Europe/Berlin")
    submission = SimpleNamespace(duedate=due, timestamp=came)
    step.gradebook, step.assignment_id = SimpleNamespace(find_submission=lambda *_: submission), "02_lora_layer"
    step.init_plugin()
    late = max(0, (came - due).total_seconds())
    assert (step.plugin_inst.late_submission_penalty("ada", 22, late) if late else 0) == pytest.approx(points)


def test_more_time_without_a_due_date_and_in_hours():
    assert more_time(None, 5, "UTC") == timedelta(hours=5)
    assert more_time(datetime(2027, 10, 30, 21, 59), 5, "Europe/Berlin") == timedelta(hours=5)
    assert more_time(datetime(2027, 3, 27, 1, 30), 24, "Europe/Berlin") == timedelta(hours=24)  # 02:30, never shown
