"""What each grading run brought into a course folder: so that it can be shown, and taken back.

.grading/runs.json       the last runs: when, what came in for the first time, whose points changed
.grading/handed_in.json  stage -> student -> the file's hash and where it was
.grading/hints.json      stage -> student -> hints (`autograder.results.integrity`), for the report of a later run
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autograder.engine.job import Row
from autograder.engine.store import Store
from autograder.files import write_whole

#: Runs that are remembered.
MOST_RUNS = 50
#: (stage, student) -> what `autograder.results.writer.Writer` wrote down of it: key, problem, number, notes.
Stamps = dict[tuple[str, str], list[Any]]


def stamps(out: Path) -> Stamps:
    """Of everything that is written out in a course folder."""
    return {
        (path.parent.name, path.stem): json.loads(path.read_text(encoding="utf-8"))
        for path in (out / ".grading" / "written").glob("*/*.json")
    }


def record(
    out: Path, store: Store, before: Stamps, rows: Iterable[Row], hashes: Mapping[tuple[str, str], str], what: str
) -> None:
    """Write down a run.

    Args:
        out: the course folder.
        store: its results.
        before: the stamps before the run.
        rows: those that were written.
        hashes: (stage, student) -> of the file that was handed in.
        what: where the submissions were.
    """
    files = handed_in(out)
    new, changed, after = [], [], stamps(out)
    for row in rows:
        at, known = (row.stage, row.student), files.setdefault(row.stage, {}).get(row.student)
        if at not in before:
            new.append(list(at))
        elif at in after and before[at][:3] != after[at][:3]:
            again = bool(known and known[0] != hashes.get(at))
            was = _earned(store, before[at])
            for name, points in _earned(store, after[at]).items():
                if was and points != was.get(name):
                    changed.append([*at, name, was.get(name), points, again])
            if bool(before[at][1]) != bool(after[at][1]):
                changed.append([*at, "", before[at][1][:200], after[at][1][:200], again])
        files[row.stage][row.student] = [hashes.get(at, ""), row.origin]
    _write(out, "handed_in", files)
    runs = _read(out, "runs", [])
    run = {"when": time.strftime("%Y-%m-%d %H:%M"), "what": what, "new": new, "changed": changed}
    _write(out, "runs", [*runs, run][-MOST_RUNS:])


def _earned(store: Store, stamp: list[Any]) -> dict[str, float]:
    """Exercise -> points, of the result that a stamp names; empty if there is none."""
    key, problem, number = stamp[:3]
    if problem or not number:
        return {}
    path = store.folder / "results" / f"{key}.{number}.json"
    if not path.exists():
        return {}
    return {result["id"]: result["earned"] for result in json.loads(path.read_text(encoding="utf-8"))["results"]}


def last_changes(out: Path) -> dict[str, Any]:
    """The last run, empty if there was none."""
    return (_read(out, "runs", []) or [{}])[-1]


def forget_last(out: Path) -> None:
    """Take the last run out of the list."""
    _write(out, "runs", _read(out, "runs", [])[:-1])


def handed_in(out: Path) -> dict[str, dict[str, list[str]]]:
    """stage -> student -> the hash and place of the file that was graded last."""
    return _read(out, "handed_in", {})


def forget(out: Path, stage: str, student: str, instead: str | None = None) -> None:
    """Take a submission out of what was handed in, of the hints and of what is compared, or let it be another's."""
    for name in ("handed_in", "hints", "alike"):
        known = _read(out, name, {})
        if student in known.get(stage, {}):
            what = known[stage].pop(student)
            if instead is not None:
                known[stage].setdefault(instead, what)
            _write(out, name, known)


def keep_hints(out: Path, rows: Iterable[Row]) -> None:
    """Remember the flags of rows."""
    known = hints(out)
    for row in rows:
        of_stage = known.setdefault(row.stage, {})
        of_stage.pop(row.student, None)
        if row.flags:
            of_stage[row.student] = row.flags
    _write(out, "hints", known)


def hints(out: Path) -> dict[str, dict[str, list[str]]]:
    """stage -> student -> flags, of everything graded so far."""
    return _read(out, "hints", {})


def _read(out: Path, name: str, otherwise: Any) -> Any:
    path = out / ".grading" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise


def _write(out: Path, name: str, what: Any) -> None:
    write_whole(out / ".grading" / f"{name}.json", json.dumps(what, ensure_ascii=False).encode())
