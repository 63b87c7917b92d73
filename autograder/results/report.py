"""``report.html``: the class on one page, without network. What an instructor should see in ten seconds comes first."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from autograder.engine.job import Row
from autograder.exercises import STAGES
from autograder.results.templates import render

if TYPE_CHECKING:  # it imports torch
    from lora_ref.checks.verdicts import Fault

#: A check that fewer than this share of the class pass is drawn as a problem.
LOW = 0.6
#: How many exercises stand in "Where the class struggles".
HARDEST = 6
#: How many of a stage's causes are listed.
COMMONEST = 15


def page(rows: Sequence[Row], seconds: float) -> str:
    """The report on all rows (see `autograder.engine.job.Row`); ``seconds`` is what this run took."""
    graded = [row for row in rows if row.status == "graded"]
    flagged = [(row, row.flags) for row in rows if row.flags]
    used = [row.seconds for row in graded]
    return render(
        "report.html",
        low=LOW,
        tiles={
            "graded": f"{len(graded)} of {len(rows)}",
            "not graded": len(rows) - len(graded),
            "with notes": sum(bool(row.notes) for row in graded),
            "integrity hints": len(flagged),
            "median seconds each": f"{median(used):.1f}" if used else "-",
            "seconds, this run": f"{seconds:.0f}",
        },
        graded=graded,
        hardest=hardest(graded),
        stages=[
            stage_summary(stage, [row for row in graded if row.stage == stage])
            for stage in STAGES
            if any(row.stage == stage for row in rows)
        ],
        attention=[(row, row.attention) for row in rows if row.attention],
        flagged=flagged,
        slowest=sorted(graded, key=lambda row: -row.seconds)[:5],
    )


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
                if cause := cause_of(verdict.fault):
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
    passed: dict[str, int] = Counter()
    contracts: dict[str, str] = {}
    for verdict in (verdict for row in rows for result in row.results for verdict in result.verdicts):
        contracts[verdict.id] = verdict.contract
        passed[verdict.id] += verdict.passed
    shares = {name: passed[name] / len(rows) for name in contracts}
    worst = min(shares, key=lambda name: shares[name])
    heading = f"{stage}: median {median(scores):g} of {most:g} automatic points"
    if shares[worst] < 1:
        heading += f"; hardest: {worst}, passed by {shares[worst]:.0%}"
    causes = sorted(causes_of(rows).items(), key=lambda item: (-len(item[1]), item[0]))[:COMMONEST]
    return {
        "heading": heading,
        "histogram": histogram(scores, most),
        "checks": [{"id": name, "contract": contracts[name], "share": shares[name]} for name in contracts],
        "causes": [(exercise, cause, sorted(students)) for (exercise, cause), students in causes],
    }


def histogram(scores: Sequence[float], most: float) -> dict[str, Any]:
    """Points from 0 to ``most`` in bars of whole points; the last bar begins at ``most`` or just below."""
    step = math.ceil(most / 12)
    counts = [0] * (int(most // step) + 1)
    for score in scores:
        counts[min(int(score // step), len(counts) - 1)] += 1
    return {"step": step, "counts": counts, "most": most, "students": len(scores)}
