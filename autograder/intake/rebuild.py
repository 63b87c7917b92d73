"""The notebook that is graded: "Restart and run all" of the student's own, with the released locked cells put back.

- The student's cells run in the student's order: answers, every copy of them, and what else they wrote. The tag
  `STUDENT` is on those that the release has not.
- The released set-up runs first; what the student added to it runs where it stands.
- A copy of an answer cell that is still the released gap, or a definition in one that is, counts as nothing if its
  names are defined elsewhere. A missing answer cell is an empty cell.
- Checks and task texts are as released, whatever became of them; what was added to them stands beside them.
- Own Markdown stands where it was written, and what is near an open written question makes it wait for a person.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autograder.engine.assignment import MAX_SOURCE, STUDENT, Assignment, grade_id, nbgrader, source_of
from autograder.exercises import STAGES
from autograder.intake.pictures import Pictures
from autograder.intake.sources import (
    added_code,
    added_lines,
    defined,
    fenced,
    norm,
    shape,
    takes_all,
    without_gaps,
    words_in_code,
    written,
)

#: Most of a student's own cells of either kind, and characters of all of them.
MAX_OWN_CELLS, MAX_OWN = 200, MAX_SOURCE
#: Most cells that the notebooks of two stages have in common.
SHARED = 4
#: Words of prose in an own cell beside an open question that may be its answer.
FEW_WORDS = 3


@dataclass
class Rebuilt:
    """What `rebuild` makes of a submission.

    Attributes:
        cells: of the notebook that is graded, as nbformat 4.5 has them.
        answers: grade_id -> the student's source, of all copies together; a missing cell's is not there.
        open: grade_ids of answers that nobody gave, here or elsewhere.
        waits: grade_ids of written questions with something written near them.
        of_this_stage: whether anything of the stage is in it.
    """

    cells: list[dict[str, Any]]
    answers: dict[str, str]
    open: set[str]
    waits: set[str]
    of_this_stage: bool


@dataclass
class Entry:
    """A cell of the notebook that is made: a released one with its number, or a student's (None).

    A released cell is the assignment's own object, which all submissions share.
    """

    cell: dict[str, Any]
    known: int | None = None


@dataclass
class _Copy:
    """A student's cell that is a copy of a released one."""

    cell: dict[str, Any]
    text: str
    attachments: dict[str, Any] = field(default_factory=dict)


def rebuild(cells: Sequence[dict[str, Any]], assignment: Assignment, notes: list[str]) -> Rebuilt:
    """The notebook that is graded, of a student's cells; what was done is told in ``notes``."""
    builder = _Builder(assignment, notes)
    builder.read(cells)
    return builder.built()


class _Builder:
    def __init__(self, assignment: Assignment, notes: list[str]):
        self.assignment, self.notes = assignment, notes
        self.released: list[dict[str, Any]] = assignment.release["cells"]
        self.sources = [source_of(cell) for cell in self.released]
        self.by_name = {grade_id(cell): n for n, cell in enumerate(self.released) if grade_id(cell)}
        self.by_id = {cell["id"]: n for n, cell in enumerate(self.released) if "id" in cell}
        self.by_source = {norm(source): n for n, source in enumerate(self.sources) if source.strip()}
        self.named: set[str] = set()
        self.pictures = Pictures(notes)
        self.entries: list[Entry] = []
        self.texts: dict[int, list[str]] = defaultdict(list)
        self.last: dict[int, int] = {}
        self.own = {"code": [0, 0], "markdown": [0, 0]}
        self.full: set[str] = set()
        self.answered: dict[int, bool] = {}

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, cells: Sequence[dict[str, Any]]) -> None:
        """Take the student's cells, in their order."""
        copies: list[tuple[int | None, _Copy]] = []
        self.named = {grade_id(cell) for cell in cells} & {*self.by_name} - {"setup"}
        for cell in cells:
            if cell.get("cell_type") not in ("code", "markdown", "raw") and grade_id(cell) not in self.by_name:
                continue
            try:
                copies.append(self._known(cell))
            except ValueError as error:
                self.notes.append(f"cell {grade_id(cell) or 'of the student'!r} is left out: {error}")
        groups: dict[int, list[_Copy]] = defaultdict(list)
        for known, copy in copies:
            if known is not None:
                groups[known].append(copy)
        for known, group in groups.items():
            self._retyped(known, group)
        self._retyped_own([copy for known, copy in copies if known is None], copies)
        main = {known: self._main(known, group) for known, group in groups.items()}
        for known, copy in copies:
            if known is None:
                self._own(copy.cell, copy.text, copy.attachments)
            else:
                self._copy(known, copy, copy is main[known], groups[known])

    def _retyped(self, known: int, group: list[_Copy]) -> None:
        """A code answer that a slip of the keyboard made Markdown is code, if no other copy has what it defines."""
        released = self.released[known]
        if not nbgrader(released).get("solution") or released["cell_type"] != "code":
            return
        alike = [copy for copy in group if copy.cell.get("cell_type") == "code" and not self._gap(known, copy)]
        wanted = {name for name, _ in defined(self.sources[known])}
        wanted -= {name for copy in alike for name, _ in defined(copy.text)}
        for copy in group:
            for text in (copy.text, fenced(copy.text)) if copy.cell.get("cell_type") != "code" else ():
                if wanted & {name for name, _ in defined(text)}:
                    note = f"the answer cell {grade_id(released)!r} is not a code cell any more; its code ran"
                    self.notes.append(note)
                    copy.cell, copy.text = {**copy.cell, "cell_type": "code"}, text
                    break

    def _retyped_own(self, own: list[_Copy], copies: list[tuple[int | None, _Copy]]) -> None:
        """So is a cell of the student's own with what an answer defines, if no code cell has it."""
        gaps = [n for n, c in enumerate(self.released) if nbgrader(c).get("solution") and c["cell_type"] == "code"]
        wanted = {name for n in gaps for name, dump in defined(self.sources[n]) if dump}
        for known, copy in copies:
            if copy.cell.get("cell_type") == "code" and not (known is not None and self._gap(known, copy)):
                wanted -= {name for name, _ in defined(copy.text)}
        for copy in own:
            for text in (copy.text, fenced(copy.text)) if copy.cell.get("cell_type") != "code" else ():
                names = sorted(wanted & {name for name, _ in defined(text)})
                if names:
                    self.notes.append(f"a cell with {', '.join(names)} in it is not a code cell; its code ran")
                    copy.cell, copy.text = {**copy.cell, "cell_type": "code"}, text
                    break

    def _known(self, cell: dict[str, Any]) -> tuple[int | None, _Copy]:
        """The number of the released cell that a cell is a copy of, and its text."""
        text = text_of(cell)
        attachments: dict[str, Any] = {}
        if cell.get("cell_type") != "code":
            text, attachments = self.pictures.of(cell, text)
        if len(text) > MAX_SOURCE:
            raise ValueError(f"{len(text):,} characters; at most {MAX_SOURCE:,} are taken")
        known = self.by_name.get(grade_id(cell))
        if known is None and isinstance(cell.get("id"), str):
            known = self.by_id.get(cell["id"])
        if known is None:
            known = self.by_source.get(norm(text))
        return known, _Copy(cell, text, attachments)

    def _main(self, known: int, group: list[_Copy]) -> _Copy:
        """The copy that takes the released cell's place: of answers the last that says something, else the first."""
        kind = self.released[known]["cell_type"]
        if not nbgrader(self.released[known]).get("solution"):
            return group[0]
        alike = [copy for copy in group if copy.cell.get("cell_type") == kind] or group[-1:]
        return next((copy for copy in reversed(alike) if not self._gap(known, copy)), alike[-1])

    def _gap(self, known: int, copy: _Copy) -> bool:
        """Whether a copy says no more than the released cell."""
        if not copy.text.strip():
            return not copy.attachments
        if self.released[known]["cell_type"] == "code":
            return shape(copy.text) == shape(self.sources[known])
        return norm(copy.text) == norm(self.sources[known]) and not copy.attachments

    def _copy(self, known: int, copy: _Copy, main: bool, group: list[_Copy]) -> None:
        """Put a copy of a released cell into the notebook."""
        released = self.released[known]
        meta, code = nbgrader(released), released["cell_type"] == "code"
        if meta.get("solution"):
            self._answer(known, copy, main, group)
        elif meta.get("locked"):
            new = (added_code if code else added_lines)(copy.text, self.sources[known])
            if code and meta.get("grade") and not defined(new):
                new = ""
            before = code and meta.get("grade")
            if main and not before:
                self.entries.append(Entry(released, known))
            if new.strip() and norm(new) not in self.texts[known]:
                what = "set-up" if grade_id(released) == "setup" else "locked"
                self.notes.append(
                    f"the {what} cell {grade_id(released)!r} was changed: it is as released, and what the student "
                    f"added {'ran' if code else 'stands'} beside it"
                )
                self.texts[known].append(norm(new))
                self._own({"cell_type": released["cell_type"]}, new, copy.attachments)
            if main and before:
                self.entries.append(Entry(released, known))
        elif not main:
            if norm(copy.text) not in (norm(self.sources[known]), *self.texts[known]):
                self._own(copy.cell, copy.text, copy.attachments)
                self.texts[known].append(norm(copy.text))
        elif norm(copy.text) == norm(self.sources[known]) or not copy.text.strip():
            self.entries.append(Entry(released, known))
        elif code and copy.cell.get("cell_type") == "code":
            metadata = {**released["metadata"], "tags": [STUDENT]}
            if self._room("code", copy.text):
                self.entries.append(Entry({**released, "source": copy.text, "metadata": metadata}, known))
        else:
            self.entries.append(Entry(released, known))
            if not code:
                self._own(copy.cell, added_lines(copy.text, self.sources[known]), copy.attachments)

    def _answer(self, known: int, copy: _Copy, main: bool, group: list[_Copy]) -> None:
        released, name = self.released[known], grade_id(self.released[known])
        code = released["cell_type"] == "code"
        gap = self._gap(known, copy)
        if main:
            self.answered[known] = not gap
            self.texts[known].append(copy.text)
            cell = {**released, "source": copy.text, "metadata": dict(released["metadata"])}
            self.entries.append(Entry(cell | ({"attachments": copy.attachments} if copy.attachments else {}), known))
            given = [other for other in group if not self._gap(known, other)]
            if len(given) > 1:
                self.notes.append(f"cell {name!r} is there {len(given)} times; every copy counts where it stands")
            if given and len(given) < len(group):
                self.notes.append(f"a copy of cell {name!r} is still as released and counts as nothing")
        elif not gap:
            self.texts[known].append(copy.text)
            self._own({"cell_type": "markdown"} if not code else copy.cell, copy.text, copy.attachments)

    def _own(self, cell: dict[str, Any], text: str, attachments: Mapping[str, Any] | None = None) -> None:
        """Put a cell of the student's own into the notebook."""
        kind = "code" if cell.get("cell_type") == "code" else "markdown"
        if not (text.strip() or attachments) or not self._room(kind, text):
            return
        new: dict[str, Any] = {"cell_type": kind, "id": f"own-{sum(n for n, _ in self.own.values())}"}
        new |= {"metadata": {"tags": [STUDENT]}, "source": text}
        if kind == "code":
            new |= {"execution_count": None, "outputs": []}
        elif attachments:
            new["attachments"] = dict(attachments)
        self.entries.append(Entry(new))

    def _room(self, kind: str, text: str) -> bool:
        """Whether one more of a student's own cells is within bounds."""
        count, size = self.own[kind]
        if kind in self.full or count >= MAX_OWN_CELLS or size + len(text) > MAX_OWN:
            what = "cells" if kind == "code" else "texts"
            if kind not in self.full:
                do = "run" if kind == "code" else "stand here"
                self.notes.append(f"too many {what} of the student's own; the rest do not {do}")
            self.full.add(kind)
            return False
        self.own[kind] = [count + 1, size + len(text)]
        return True

    # --- putting together -------------------------------------------------------------------------------------------

    def built(self) -> Rebuilt:
        """The notebook, once all is read."""
        present = {entry.known for entry in self.entries if entry.known is not None}
        done = self._without_gaps()
        self._put_back(present)
        self._set_up_first()
        answers = {grade_id(self.released[n]): "\n\n".join(self.texts[n]) for n in self.answered}
        open_still: set[str] = set()
        waits: set[str] = set()
        for name, cell in self.assignment.answer_cells().items():
            number = self.by_name[name]
            if cell["cell_type"] == "code":
                names = {name for name, _ in defined(self.sources[number])}
                elsewhere = sorted(names & done) if not self.answered.get(number) else []
                if not self.answered.get(number) and not elsewhere:
                    open_still.add(name)
                if number not in present:
                    there = f"; {', '.join(elsewhere)} stands in another cell, and counts" if elsewhere else ""
                    self.notes.append(f"the answer cell {name!r} is missing{there}")
            elif not self.answered.get(number):
                near = self._near(number, name, number not in present)
                (waits if near else open_still).add(name)
                if near:
                    exercise = name.partition("_")[2].replace("_", ".")
                    self.notes.append(
                        f"{exercise} has no answer in its cell, but something is written near it: read it"
                    )
        names = {name for exercise in STAGES[self.assignment.stage] for name in exercise.names}
        # every stage has a set-up cell, and stages share a demonstration or two, and the gap of a written answer
        alike = [n for n in present if self.released[n]["cell_type"] == "code" or nbgrader(self.released[n])]
        marked = bool(self.named) or len(alike) > SHARED
        cells = [entry.cell for entry in self.entries]
        return Rebuilt(cells, answers, open_still, waits, marked or bool(names & done))

    def _without_gaps(self) -> set[str]:
        """Blank definitions that are still the gap where another cell has the answer; returns the names defined."""
        gaps: dict[str, str] = {}
        for number, cell in enumerate(self.released):
            if nbgrader(cell).get("solution") and cell["cell_type"] == "code":
                gaps |= {name: dump for name, dump in defined(self.sources[number]) if dump}
        theirs = [e for e in self.entries if e.cell["cell_type"] == "code" and (self._written(e))]
        done = {
            name
            for entry in theirs
            for name, dump in defined(entry.cell["source"])
            if not dump or gaps.get(name) != dump
        }
        for module, text in filter(all, (written(entry.cell["source"]) for entry in theirs)):
            if any(takes_all(entry.cell["source"], module) for entry in theirs):
                done |= {name for name, dump in defined(text) if dump and gaps.get(name) != dump}
        for entry in theirs:
            entry.cell["source"] = without_gaps(entry.cell["source"], gaps, done)
        return done

    def _written(self, entry: Entry) -> bool:
        """Whether a student wrote a cell."""
        solution = entry.known is not None and nbgrader(self.released[entry.known]).get("solution")
        return bool(solution) or STUDENT in entry.cell["metadata"].get("tags", ())

    def _put_back(self, present: set[int]) -> None:
        """Put every released cell that is missing after the one before it; a missing answer is empty."""
        at = -1
        for number, released in enumerate(self.released):
            if number in present:
                at = next(n for n, entry in enumerate(self.entries) if entry.known == number)
                continue
            meta = nbgrader(released)
            if meta.get("locked") and meta.get("grade"):  # a check: after what was written in its answer's place
                while at + 1 < len(self.entries) and self.entries[at + 1].known is None:
                    at += 1
            cell = {**released, "source": ""} if meta.get("solution") else released
            at += 1
            self.entries.insert(at, Entry(cell, number))

    def _set_up_first(self) -> None:
        """Move the released set-up before all other code."""
        for entry in [e for e in self.entries if e.known is not None and grade_id(e.cell) == "setup"]:
            self.entries.remove(entry)
            first = next((n for n, e in enumerate(self.entries) if e.cell["cell_type"] == "code"), len(self.entries))
            self.entries.insert(first, entry)

    def _near(self, number: int, name: str, missing: bool) -> bool:
        """Whether something is written near an open written question."""
        at = next(n for n, entry in enumerate(self.entries) if entry.known == number)
        exercise = re.escape(name.partition("_")[2].replace("_", "."))
        mentions = re.compile(rf"(?<![\d.]){exercise}(?![\d.]*\d)")

        def anchor(entry: Entry) -> bool:
            meta = nbgrader(self.released[entry.known]) if entry.known is not None else {}
            return bool(meta.get("solution") or meta.get("grade")) and entry.known != number

        first = next((n + 1 for n in range(at - 1, -1, -1) if anchor(self.entries[n])), 0)
        last = next((n for n in range(at + 1, len(self.entries)) if anchor(self.entries[n])), len(self.entries))
        for n, entry in enumerate(self.entries):
            if STUDENT not in entry.cell["metadata"].get("tags", ()):
                continue
            text, code = entry.cell["source"], entry.cell["cell_type"] == "code"
            near = first <= n < last
            words = words_in_code(text) if code else len(re.findall(r"[^\W\d_]+", text))
            if entry.cell.get("attachments") and near:
                return True
            if words >= FEW_WORDS * (2 if code else 1) and (near or (not code and (missing or mentions.search(text)))):
                return True
        return False


def text_of(cell: dict[str, Any]) -> str:
    """A cell's source of any length, its lines ended alike (ValueError: it is not text)."""
    source = cell.get("source", "")
    lines = source if isinstance(source, list) else [source]
    if not all(isinstance(line, str) for line in lines):
        raise ValueError("its source is not text")
    whole = not any("\n" in line or "\r" in line for line in lines)  # lines without their ends
    text = ("\n" if whole else "").join(lines).replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    return text.encode("utf-8", "replace").decode()  # a lone surrogate is not text
