"""``report.html``, the class on one page, without network, and ``grades.csv``.

What an instructor should see in ten seconds comes first.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any

from autograder.engine.job import Row
from autograder.exercises import STAGES

if TYPE_CHECKING:  # it imports torch
    from lora_ref.checks.verdicts import Fault

#: Blue and orange of the Okabe-Ito palette, which colour-blind readers tell apart.
GOOD, BAD = "#0072b2", "#d55e00"
STYLE = f"""body{{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}}
table{{border-collapse:collapse;margin:.5rem 0}}
td,th{{border-bottom:1px solid #ccc;padding:.25rem .7rem;text-align:left;vertical-align:top}}
pre{{white-space:pre-wrap;margin:0;font-size:.85rem}}.bar{{background:#eee;width:16rem;height:1rem}}
.bar div{{background:{GOOD};height:1rem}}.low div{{background:{BAD}}}.number{{text-align:right}}
.tiles{{display:flex;gap:2rem;flex-wrap:wrap}}.tiles b{{font-size:2rem;display:block}}
@media(max-width:45rem){{td,th{{padding:.25rem;overflow-wrap:anywhere}}.bar{{width:4rem}}}}"""
#: A check that fewer than this share of the class pass is drawn as a problem.
LOW = 0.6
#: How many exercises stand in "Where the class struggles".
HARDEST = 6
#: How a message begins that names no cause.
ELSEWHERE = "see the other checks"


def page(rows: Sequence[Row], seconds: float) -> str:
    """The report on all rows (see `autograder.engine.job.Row`); ``seconds`` is what this run took."""
    graded = [row for row in rows if row.status == "graded"]
    attention = [row for row in rows if row.problem or row.notes]
    flagged = [row for row in rows if row.flags]
    stages = [stage for stage in STAGES if any(row.stage == stage for row in rows)]
    used = [row.seconds for row in graded]
    tiles = {
        "graded": f"{len(graded)} of {len(rows)}",
        "not graded": len(rows) - len(graded),
        "with notes": sum(bool(row.notes) for row in graded),
        "integrity hints": len(flagged),
        "median seconds each": f"{median(used):.1f}" if used else "-",
        "seconds, this run": f"{seconds:.0f}",
    }
    body = "".join(f"<div><b>{escape(str(value))}</b>{escape(name)}</div>" for name, value in tiles.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Class report</title><style>{STYLE}</style></head><body><main>
<h1>Class report</h1><div class="tiles">{body}</div>
{_struggles(graded)}
{"".join(_stage(stage, [r for r in graded if r.stage == stage]) for stage in stages)}
<h2>Needs attention</h2>{_listed(attention, lambda row: [*filter(None, [row.problem]), *row.notes])}
<h2>Integrity hints</h2><p>No hint changes a grade. Look at the notebook before you draw a conclusion.</p>
{_listed(flagged, lambda row: row.flags)}
<h2>Time</h2>{_slowest(graded)}</main></body></html>
"""


def _struggles(rows: Sequence[Row]) -> str:
    """The exercises in which the class earns the smallest share of the points, each with what most often went wrong."""
    shares: dict[str, list[float]] = defaultdict(list)
    for result in (r for row in rows for r in row.results):
        shares[result.id].append(result.earned / result.points)
    means = {name: sum(of) / len(of) for name, of in shares.items()}
    hardest = sorted((name for name in means if means[name] < 1), key=lambda name: means[name])[:HARDEST]
    if not hardest:
        return "<h2>Where the class struggles</h2><p>Nowhere: every exercise has all its points.</p>" if rows else ""
    causes: dict[str, tuple[int, str]] = {}
    for (name, cause), who in _reasons(rows).items():
        causes[name] = max(causes.get(name, (0, "")), (len(who), cause))
    titles = {r.id: r.title for row in rows for r in row.results}
    lines = ""
    for name in hardest:
        count, cause = causes.get(name, (0, ""))
        often = f"{count} of {len(shares[name])}: {cause}" if count else ""
        lines += _bar(f"{name} {titles[name]}", often, means[name])
    return f"""<h2>Where the class struggles</h2>
<table><tr><th>exercise</th><th>points earned</th><th></th><th>commonest cause, by students</th></tr>{lines}</table>"""


def _reasons(rows: Sequence[Row]) -> dict[tuple[str, str], set[str]]:
    """(exercise, likely cause) -> students."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        for result in row.results:
            for verdict in result.verdicts:
                if verdict.fault and (cause := _kind(verdict.fault)):
                    found[result.id, cause].add(row.student)
    return found


def _stage(stage: str, rows: Sequence[Row]) -> str:
    if not rows:
        return f"<h2>{escape(stage)}</h2><p>No submission could be graded.</p>"
    most = sum(e.points for e in STAGES[stage] if not e.manual)
    scores = [row.score for row in rows]
    passed: dict[str, int] = Counter()
    contracts: dict[str, str] = {}
    for row in rows:
        for verdict in (v for result in row.results for v in result.verdicts):
            contracts[verdict.id] = verdict.contract
            passed[verdict.id] += verdict.passed
    worst = min(contracts, key=lambda name: passed[name])
    title = f"{escape(stage)}: median {median(scores):g} of {most:g} automatic points"
    if passed[worst] < len(rows):
        title += f"; hardest: {escape(worst)}, passed by {passed[worst] / len(rows):.0%}"
    bars = "".join(_bar(name, contracts[name], passed[name] / len(rows)) for name in contracts)
    common = sorted(_reasons(rows).items(), key=lambda item: (-len(item[1]), item[0]))[:15]
    said = "".join(
        f'<tr><td class="number">{len(who)}</td><td>{escape(name)}</td>'
        f"<td><pre>{escape(cause)}</pre></td><td>{escape(', '.join(sorted(who)[:3]))}</td></tr>"
        for (name, cause), who in common
    )
    return f"""<h2>{title}</h2>{histogram(scores, most)}
<h3>Share of the class that passes each check</h3>
<table><tr><th>check</th><td></td><th>share</th><th>what must hold</th></tr>{bars}</table>
<h3>Commonest messages</h3>
<table><tr><th>students</th><th>exercise</th><th>message</th><th>for example</th></tr>{said}</table>"""


def _kind(fault: Fault) -> str:
    """A message without its numbers' accidents: the likely cause if it names one, or else what was seen.

    Empty where it only points to the exercise's other checks.
    """
    if fault.raised == "NotImplementedError":
        return fault.seen
    cause = (fault.likely or fault.seen)[:300]
    return "" if cause.startswith(ELSEWHERE) else cause


def _bar(name: str, contract: str, share: float) -> str:
    kind = "bar low" if share < LOW else "bar"
    return (
        f'<tr><td>{escape(name)}</td><td><div class="{kind}"><div style="width:{share:.1%}"></div></div></td>'
        f'<td class="number">{share:.0%}</td><td>{escape(contract)}</td></tr>'
    )


def histogram(scores: Sequence[float], most: float) -> str:
    """An SVG histogram of points from 0 to ``most``, in whole points; the last bar begins at ``most`` or just below."""
    step = math.ceil(most / 12)
    bins = int(most // step) + 1
    counts = [0] * bins
    for score in scores:
        counts[min(int(score // step), bins - 1)] += 1
    high, width, height = max(counts), 48, 120
    parts = []
    for number, count in enumerate(counts):
        tall = height * count / high
        x = number * width
        parts.append(f'<rect x="{x + 2}" y="{height + 18 - tall:.1f}" width="{width - 4}" height="{tall:.1f}"/>')
        if count:
            parts.append(f'<text x="{x + width / 2}" y="{height + 13 - tall:.1f}">{count}</text>')
        parts.append(f'<text x="{x + width / 2}" y="{height + 34}">{step * number}</text>')
    label = f"How many of {len(scores)} submissions have how many of {most:g} points"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {bins * width} {height + 60}" width="{bins * width}" '
        f'style="max-width:100%" font-size="12" text-anchor="middle" fill="{GOOD}">{"".join(parts)}'
        f'<text x="{bins * width / 2}" y="{height + 54}">automatic points (left edge of each bar); '
        f"height: submissions</text></svg>"
    )


def _listed(rows: Sequence[Row], lines: Any) -> str:
    if not rows:
        return "<p>None.</p>"
    body = "".join(
        f"<tr><td>{escape(row.student)}</td><td>{escape(row.stage)}</td><td>{escape(row.status)}</td>"
        f"<td>{'<br>'.join(escape(line[:400]) for line in lines(row))}</td></tr>"
        for row in rows
    )
    return f"<table><tr><th>student</th><th>stage</th><th>status</th><th>what</th></tr>{body}</table>"


def _slowest(rows: Iterable[Row]) -> str:
    rows = sorted(rows, key=lambda row: -row.seconds)
    body = "".join(
        f"<tr><td>{escape(row.student)}</td><td>{escape(row.stage)}</td>"
        f'<td class="number">{row.seconds:.1f}</td>'
        f'<td class="number">{row.used.get("peak_kib", 0) / 1024:.0f}</td></tr>'
        for row in rows[:5]
    )
    return f"<table><tr><th>slowest</th><th>stage</th><th>seconds</th><th>peak MiB</th></tr>{body}</table>"
