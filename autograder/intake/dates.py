"""Dates in names of files and folders, in every order that people write them in."""

from __future__ import annotations

import re

#: Months as names begin with them: English, German, French, Spanish, Italian, Portuguese, Dutch.
MONTHS = (
    *("jan|ene|gen", "feb|fév|fev", "mar|mär|maa|mrt", "apr|avr|abr", "may|mai|mag|mei", "jun|juin|giu"),
    *("jul|juil|lug", "aug|août|aout|ago", "sep|set", "oct|okt|ott|out", "nov", "dec|dez|déc|dic"),
)
MONTH = rf"(?P<month>(?:{'|'.join(MONTHS)})[^\W\d_]{{0,7}})\.?"
#: An hour and a minute, perhaps a second, behind a date.
CLOCK = (
    r"(?:(?:[T ,_-]|\bat\b|\bum\b){1,4}(?P<clock>[0-9]{1,2}[-.:h_ ]?[0-9]{2}(?:[-.:m_ ]?[0-9]{2})?)(?![0-9])"
    r" ?(?P<half>[ap]m\b)?)?"
)
#: A date in each of the ways that it is written, the plainest first; y, m, d, and a, b for what may be either.
DATES = tuple(
    re.compile(rf"(?<![0-9]){date}{CLOCK}", re.IGNORECASE)
    for date in (
        rf"(?P<d>[0-9]{{1,2}})(?:st|nd|rd|th|\.)?[ _-]*(?:de )?{MONTH}[ _,-]*(?:de )?(?P<y>20[0-9]{{2}})",
        rf"{MONTH}[ _-]*(?P<d>[0-9]{{1,2}})(?:st|nd|rd|th)?[ _,-]+(?P<y>20[0-9]{{2}})",
        r"(?P<y>20[0-9]{2})[-_./ 年]{1,2}(?P<m>[0-9]{1,2})[-_./ 月]{1,2}(?P<d>[0-9]{1,2})日?",
        r"(?P<y>20[0-9]{2})(?P<m>[0-9]{2})(?P<d>[0-9]{2})(?:(?P<at>[0-9]{4}(?:[0-9]{2})?)(?![0-9])|(?![0-9]))",
        r"(?P<d>[0-9]{1,2})\.(?P<m>[0-9]{1,2})\.(?P<y>20[0-9]{2})",
        r"(?P<a>[0-9]{1,2})([-_/ ])(?P<b>[0-9]{1,2})\2(?P<y>20[0-9]{2})",
    )
)


def date_in(text: str, day_first: bool) -> tuple[tuple[int, ...] | None, str]:
    """The first date in a text, and the text without it.

    Args:
        day_first: how 03-05-2027 is read.

    Returns:
        Year, month, day, and the hour, minute and second if they are there; None without a date; () if one is there
        that is none in this order.

    Example:
        >>> date_in("hw 5. März 2027 1h30 pm", True), date_in("13-05-2027", False)[0]
        (((2027, 3, 5, 13, 30), 'hw  '), ())
    """
    for pattern in DATES:
        match = pattern.search(text)
        date = _date(match.groupdict(), day_first) if match else None
        if match and (date or "a" in match.groupdict()):
            return date or (), f"{text[: match.start()]} {text[match.end() :]}"
    return None, text


def _date(said: dict[str, str | None], day_first: bool) -> tuple[int, ...] | None:
    """Year, month, day and so on; None if there is no such day."""
    if said.get("a"):
        first, second = int(said["a"] or 0), int(said["b"] or 0)
        day, month = (first, second) if day_first else (second, first)
    elif said.get("month"):
        name = (said["month"] or "").lower()
        # "mar" is March in English and "mai" May in German: the longest that fits
        fits = [
            (len(start), n)
            for n, starts in enumerate(MONTHS, 1)
            for start in starts.split("|")
            if name.startswith(start)
        ]
        day, month = int(said["d"] or 0), max(fits)[1]
    else:
        day, month = int(said["d"] or 0), int(said["m"] or 0)
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    clock = re.sub("[^0-9]", "", said.get("at") or said.get("clock") or "")
    clock = clock.zfill(len(clock) + len(clock) % 2)
    time = [int(clock[n : n + 2]) for n in range(0, len(clock), 2)]
    if said.get("half") and time:
        time[0] = time[0] % 12 + 12 * ((said["half"] or "").lower() == "pm")
    return (int(said["y"] or 0), month, day, *time)
