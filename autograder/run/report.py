"""``report.html``: the class on one page, without network. What an instructor should see in ten seconds comes first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from statistics import median
from typing import Any

from autograder.contract import STAGES

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


def page(rows: Sequence[dict[str, Any]], seconds: float) -> str:
    """The report on all rows (see `autograder.grade.plan`); ``seconds`` is what this run took."""
    graded = [row for row in rows if row["status"] == "graded"]
    attention = [row for row in rows if row["problem"] or row["notes"]]
    flagged = [row for row in rows if row["flags"]]
    stages = [stage for stage in STAGES if any(row["stage"] == stage for row in rows)]
    used = [row["seconds"] for row in graded]
    tiles = {
        "graded": f"{len(graded)} of {len(rows)}",
        "not graded": len(rows) - len(graded),
        "with notes": sum(bool(row["notes"]) for row in graded),
        "integrity hints": len(flagged),
        "median seconds each": f"{median(used):.1f}" if used else "-",
        "seconds, this run": f"{seconds:.0f}",
    }
    body = "".join(f"<div><b>{escape(str(value))}</b>{escape(name)}</div>" for name, value in tiles.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Class report</title><style>{STYLE}</style></head><body><main>
<h1>Class report</h1><div class="tiles">{body}</div>
{"".join(_stage(stage, [r for r in graded if r["stage"] == stage]) for stage in stages)}
<h2>Needs attention</h2>{_listed(attention, lambda row: [*filter(None, [row["problem"]]), *row["notes"]])}
<h2>Integrity hints</h2><p>No hint changes a grade. Look at the notebook before you draw a conclusion.</p>
{_listed(flagged, lambda row: row["flags"])}
<h2>Time</h2>{_slowest(graded)}</main></body></html>
"""


def _stage(stage: str, rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return f"<h2>{escape(stage)}</h2><p>No submission could be graded.</p>"
    most = sum(e.points for e in STAGES[stage] if not e.manual)
    scores = [sum(r["earned"] for r in row["results"]) for row in rows]
    passed: dict[str, int] = Counter()
    contracts: dict[str, str] = {}
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for check in (c for result in row["results"] for c in result["checks"]):
            head, _, fault = check["message"].partition("\n")
            contracts[check["id"]] = head[6:]
            passed[check["id"]] += head.startswith("ok")
            if fault:
                reasons[f"{check['id'].partition('/')[0]}\t{_kind(fault)}"].append(row["student"])
    worst = min(contracts, key=lambda name: passed[name])
    title = f"{escape(stage)}: median {median(scores):g} of {most:g} automatic points"
    if passed[worst] < len(rows):
        title += f"; hardest: {escape(worst)}, passed by {passed[worst] / len(rows):.0%}"
    bars = "".join(_bar(name, contracts[name], passed[name] / len(rows)) for name in contracts)
    common = sorted(reasons.items(), key=lambda item: (-len(set(item[1])), item[0]))[:15]
    said = "".join(
        f'<tr><td class="number">{len(set(who))}</td><td>{escape(key.partition(chr(9))[0])}</td>'
        f"<td><pre>{escape(key.partition(chr(9))[2])}</pre></td><td>{escape(', '.join(sorted(set(who))[:3]))}</td></tr>"
        for key, who in common
    )
    return f"""<h2>{title}</h2>{histogram(scores, most)}
<h3>Share of the class that passes each check</h3>
<table><tr><th>check</th><td></td><th>share</th><th>what must hold</th></tr>{bars}</table>
<h3>Commonest messages</h3>
<table><tr><th>students</th><th>exercise</th><th>message</th><th>for example</th></tr>{said}</table>"""


def _kind(fault: str) -> str:
    """A message without its numbers' accidents: the likely cause if it names one, or else what was seen."""
    seen, _, likely = fault.strip().removeprefix("seen: ").partition("Likely: ")
    return (likely.partition("Read: ")[0] or seen).strip()[:300]


def _bar(name: str, contract: str, share: float) -> str:
    kind = "bar low" if share < LOW else "bar"
    return (
        f'<tr><td>{escape(name)}</td><td><div class="{kind}"><div style="width:{share:.1%}"></div></div></td>'
        f'<td class="number">{share:.0%}</td><td>{escape(contract)}</td></tr>'
    )


def histogram(scores: Sequence[float], most: float, bins: int = 12) -> str:
    """An SVG histogram of points from 0 to ``most``."""
    counts = [0] * bins
    for score in scores:
        counts[min(int(score / most * bins), bins - 1)] += 1
    high, width, height = max(counts), 48, 120
    parts = []
    for number, count in enumerate(counts):
        tall = height * count / high
        x = number * width
        parts.append(f'<rect x="{x + 2}" y="{height + 18 - tall:.1f}" width="{width - 4}" height="{tall:.1f}"/>')
        if count:
            parts.append(f'<text x="{x + width / 2}" y="{height + 13 - tall:.1f}">{count}</text>')
        parts.append(f'<text x="{x + width / 2}" y="{height + 34}">{most * number / bins:.3g}</text>')
    label = f"How many of {len(scores)} submissions have how many of {most:g} points"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {bins * width} {height + 60}" width="{bins * width}" '
        f'style="max-width:100%" font-size="12" text-anchor="middle" fill="{GOOD}">{"".join(parts)}'
        f'<text x="{bins * width / 2}" y="{height + 54}">automatic points (left edge of each bar); '
        f"height: submissions</text></svg>"
    )


def _listed(rows: Sequence[dict[str, Any]], lines: Any) -> str:
    if not rows:
        return "<p>None.</p>"
    body = "".join(
        f"<tr><td>{escape(row['student'])}</td><td>{escape(row['stage'])}</td><td>{escape(row['status'])}</td>"
        f"<td>{'<br>'.join(escape(line[:400]) for line in lines(row))}</td></tr>"
        for row in rows
    )
    return f"<table><tr><th>student</th><th>stage</th><th>status</th><th>what</th></tr>{body}</table>"


def _slowest(rows: Iterable[dict[str, Any]]) -> str:
    rows = sorted(rows, key=lambda row: -row["seconds"])
    body = "".join(
        f"<tr><td>{escape(row['student'])}</td><td>{escape(row['stage'])}</td>"
        f'<td class="number">{row["seconds"]:.1f}</td>'
        f'<td class="number">{row["used"].get("peak_kib", 0) / 1024:.0f}</td></tr>'
        for row in rows[:5]
    )
    return f"<table><tr><th>slowest</th><th>stage</th><th>seconds</th><th>peak MiB</th></tr>{body}</table>"
