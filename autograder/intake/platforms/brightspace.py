"""Brightspace (D2L): ``12345-67890 - Jane Doe - 01 March, 2027 1159 PM - 02_lora_layer.ipynb``, or a folder a date.

The first number is the student's. Dates are as the course's language writes them; months are read in English.
"""

from __future__ import annotations

import re

from autograder.intake.rule import Rule, numbers

MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
NAME = re.compile(
    r"(?P<id>[0-9]{1,20})-[0-9]+ - (?P<who>.+?) - "
    r"(?P<attempt>(?:[^\W\d_]+\.? [0-9]{1,2}|[0-9]{1,2}\.? [^\W\d_]+\.?),? [0-9]{4},? [0-9]{1,4}(?: ?[AP]M)?)"
    r"(?: - (?P<file>.+)|\Z)",
)


def time(text: str) -> tuple[int, ...] | None:
    """Year, month, day, hour, minute of "01 March, 2027 1159 PM" or "Mar 1, 2027 1159 PM"; None for another month."""
    word = next(iter(re.findall(r"[^\W\d_]{3,}", text)), "?").lower()
    month = next((n for n, name in enumerate(MONTHS, 1) if name.startswith(word)), None)
    if month is None:
        return None
    day, year, clock = numbers(text)
    hour, minute = divmod(clock, 100)
    if text.endswith(("AM", "PM")):
        hour = hour % 12 + 12 * text.endswith("PM")
    return year, month, day, hour, minute


RULE = Rule("Brightspace", file=NAME, folder=NAME, attempt=time)
