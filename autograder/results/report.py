"""``report.html``: the class on one page, without network. What an instructor should see in ten seconds comes first."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from autograder.engine.job import Row
from autograder.exercises import STAGES
from autograder.results import items, picture
from autograder.results.copies import Group
from autograder.results.roster import Person, match
from autograder.results.templates import render

if TYPE_CHECKING:  # it imports torch
    from lora_ref.checks.verdicts import Fault

#: A check that fewer than this share of the class pass is drawn as a problem.
LOW = 0.6
#: How many exercises stand in "Where the class struggles".
HARDEST = 6
#: How many of a stage's causes are listed.
COMMONEST = 15


def page(
    rows: Sequence[Row],
    seconds: float,
    changes: Mapping[str, Any] | None = None,
    people: Sequence[Person] = (),
    alike: Sequence[Group] = (),
    numbers: Mapping[str, str] | None = None,
) -> str:
    """The report on everything graded so far.

    Args:
        rows: all of it.
        seconds: what this run took; 0: nothing ran, the page is made again.
        changes: what the last run brought (`autograder.results.history.last_changes`).
        people: the class list, if there is one.
        alike: groups of students whose work is alike (`autograder.results.copies.groups`).
        numbers: the platform's number -> student (`autograder.intake.register.Register.numbers`).
    """
    graded = [row for row in rows if row.status == "graded"]
    flagged = [(row, row.flags) for row in rows if row.flags]
    stages = [stage for stage in STAGES if any(row.stage == stage for row in rows)]
    missing = not_handed_in(rows, stages, people, numbers or {})
    used = [row.seconds for row in graded]
    return render(
        "report.html",
        low=LOW,
        tiles={
            "students": len({row.student for row in rows}),
            "graded": f"{len(graded)} of {len(rows)}",
            "integrity hints": len(flagged) + len(alike),
            "median seconds each": f"{median(used):.1f}" if used else "-",
        }
        | ({"seconds, this run": f"{seconds:.0f}"} if seconds else {}),
        graded=graded,
        hardest=hardest(graded),
        weak=[
            item
            for stage in stages
            for item in items.analyse([row for row in graded if row.stage == stage])
            if item.suspicious
        ],
        picture=picture.of(rows, stages),
        stages=[
            stage_summary(stage, [row for row in graded if row.stage == stage]) | {"missing": missing[stage]}
            for stage in stages
        ],
        listed_people=bool(people),
        changes=changes or {},
        attention=[(row, row.attention) for row in rows if row.attention],
        flagged=flagged,
        alike=alike,
        slowest=sorted(graded, key=lambda row: -row.seconds)[:5],
    )


def not_handed_in(
    rows: Sequence[Row], stages: Sequence[str], people: Sequence[Person], numbers: Mapping[str, str]
) -> dict[str, list[str]]:
    """Stage -> who has not handed in: of the class list or, without one, of those who handed in another stage."""
    of_stage = {stage: {row.student for row in rows if row.stage == stage} for stage in stages}
    everybody = {row.student for row in rows}
    known, strangers = match(people, everybody, numbers) if people else ({}, [])
    named = {student: f"{known[student].name} ({student})" if student in known else student for student in everybody}
    wanted = set(known) if people else everybody
    return {
        stage: sorted([named[student] for student in wanted - of_stage[stage]] + [person.name for person in strangers])
        for stage in stages
    }


def hardest(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The exercises in which the class earns the smallest share of the points, each with what most often went wrong."""
    shares: dict[str, list[float]] = defaultdict(list)
    titles: dict[str, str] = {}
    for result in (result for row in rows for result in row.results):
        shares[result.id].append(result.earned / result.points)
        titles[result.id] = result.title
    means = {name: sum(share) / len(share) for name, share in shares.items()}
    causes: dict[str, tuple[int, str]] = {}
    for (name, cause), students in causes_of(rows).items():
        causes[name] = max(causes.get(name, (0, "")), (len(students), cause))
    return [
        {"id": name, "title": titles[name], "share": means[name], "students": len(shares[name])}
        | {"cause": causes.get(name)}
        for name in sorted((name for name in means if means[name] < 1), key=lambda name: means[name])[:HARDEST]
    ]


def causes_of(rows: Sequence[Row]) -> dict[tuple[str, str], set[str]]:
    """(exercise, likely cause) -> students."""
    students: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        for result in row.results:
            for verdict in result.failed:
                if verdict.fault and (cause := cause_of(verdict.fault)):
                    students[result.id, cause].add(row.student)
    return students


def cause_of(fault: Fault) -> str:
    """A message without its numbers' accidents: the likely cause if it names one, or else what was seen.

    Empty where it only points to the exercise's other checks.
    """
    from lora_ref.checks.verdicts import ELSEWHERE

    if fault.likely == ELSEWHERE:
        return ""
    return fault.seen if fault.raised == "NotImplementedError" else (fault.likely or fault.seen)[:300]


def stage_summary(stage: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What the page says of one stage; of one without a graded submission, only its heading."""
    if not rows:
        return {"heading": stage, "histogram": None}
    most = sum(exercise.points for exercise in STAGES[stage] if not exercise.manual)
    scores = [row.score for row in rows]
    checks = items.analyse(rows)
    worst = min(checks, key=lambda item: item.share)
    heading = f"{stage}: median {median(scores):g} of {most:g} automatic points"
    if worst.share < 1:
        heading += f"; hardest: {worst.id}, passed by {worst.share:.0%}"
    causes = sorted(causes_of(rows).items(), key=lambda item: (-len(item[1]), item[0]))[:COMMONEST]
    return {
        "heading": heading,
        "histogram": histogram(scores, most),
        "checks": checks,
        "optional": items.optional(rows),
        "causes": [(exercise, cause, sorted(students)) for (exercise, cause), students in causes],
    }


def histogram(scores: Sequence[float], most: float) -> dict[str, Any]:
    """Points from 0 to ``most`` in bars of whole points; the last bar begins at ``most`` or just below."""
    step = math.ceil(most / 12)
    counts = [0] * (int(most // step) + 1)
    for score in scores:
        counts[min(int(score // step), len(counts) - 1)] += 1
    return {"step": step, "counts": counts, "most": most, "students": len(scores)}
