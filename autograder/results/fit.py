"""Whether a batch is this course's at all: a wrong zip would leave a ghost for each of its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from autograder.engine.job import Row
from autograder.results.roster import Person, match

#: Batches smaller than this are not doubted, nor are those of which a larger share fits.
FEWEST, SHARE = 5, 0.2


def misfit(
    rows: Sequence[Row], known: Collection[tuple[str, str]], people: Sequence[Person], numbers: Mapping[str, str]
) -> str:
    """Why a batch looks like another course's, or damaged; "" if it does not.

    Args:
        rows: planned, not graded.
        known: (stage, student) of what is in the course already.
        people: the class list, if there is one.
        numbers: the platform's number -> student.
    """
    if len(rows) < FEWEST:
        return ""
    bad = [row for row in rows if row.problem]
    new = [row for row in bad if (row.stage, row.student) not in known]
    fitting = len(rows) - len(bad)
    if fitting <= SHARE * len(rows) and (new or fitting == 0):
        first = bad[0]
        stages = ", ".join(sorted({row.stage for row in rows}))
        return f"{fitting} of {len(rows)} submissions fit {stages}. The first: {first.student}: {first.problem[:200]}"
    students = {row.student for row in rows}
    if people and len(students) >= FEWEST:
        here, _ = match(people, students, numbers)
        if len(here) <= SHARE * len(students):
            some = ", ".join(sorted(students - set(here))[:3])
            return f"{len(here)} of {len(students)} students are in the class list; not in it are {some} ..."
    return ""
