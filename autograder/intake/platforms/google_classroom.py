"""Google Classroom: ``Jane Doe - 02_lora_layer.ipynb``, all in one folder, as it names each student's copy.

Others write a date between the two: ``Jane Doe - 12.03.2027 - 02_lora_layer.ipynb``.
"""

from __future__ import annotations

import re

from autograder.exercises import STAGES
from autograder.intake.dates import date_in
from autograder.intake.plain import COPY_OF
from autograder.intake.rule import Rule

NAMES = "|".join(STAGES)


def time(text: str) -> tuple[int, ...] | None:
    """Of "12.03.2027"; () where there is no date, None where its day and month may be either."""
    dates = {date_in(text, day_first)[0] for day_first in (True, False)} - {()}
    return (dates.pop() or ()) if len(dates) == 1 else None


RULE = Rule(
    "Google Classroom",
    file=re.compile(
        rf"(?!(?i:{COPY_OF}))(?P<who>[^\W\d_].*?) - (?:(?P<attempt>[^-]*[0-9]{{4}}[^-]*|[-0-9]{{8,10}}[^-]*) - )?"
        rf"(?P<file>(?i:{COPY_OF})?(?i:{NAMES})\b.*)"
    ),
    attempt=time,
)
