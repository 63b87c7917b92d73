"""Points and comments of written answers, in nbgrader's gradebook.

Formgrader, export and feedback read `grade.manual_score`, `grade.needs_manual_grade` and `comment.manual_comment`; so
those are written, in the same transaction as our own record of who switched on what. Several markers write at once:
whoever comes second to an answer is told what is there (`Changed`), and nothing is overwritten unseen. What was there
before is in the record, so every change can be undone.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autograder.engine.assignment import digest

#: An answer that somebody has on the screen is not offered to others for so long, in seconds.
CLAIMED = 600
#: Seconds to wait for another program that writes the gradebook: a grading run, formgrader.
PATIENCE = 60
TABLES = """
CREATE TABLE IF NOT EXISTS marking_event (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, marker TEXT NOT NULL, grade TEXT NOT NULL, batch TEXT NOT NULL,
    mark TEXT NOT NULL, answer TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL, undone REAL);
CREATE INDEX IF NOT EXISTS marking_event_grade ON marking_event (grade);
CREATE TABLE IF NOT EXISTS marking_comment (
    id INTEGER PRIMARY KEY, exercise TEXT NOT NULL, switch TEXT NOT NULL, text TEXT NOT NULL, marker TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS marking_claim (grade TEXT PRIMARY KEY, marker TEXT NOT NULL, until REAL NOT NULL);
"""
ANSWERS = """
SELECT g.id AS grade, s.student_id AS student, g.auto_score, g.manual_score, g.needs_manual_grade, m.manual_comment
FROM grade g
JOIN base_cell c ON c.id = g.cell_id
JOIN submitted_notebook n ON n.id = g.notebook_id
JOIN submitted_assignment s ON s.id = n.assignment_id
JOIN assignment a ON a.id = s.assignment_id
LEFT JOIN comment m ON m.notebook_id = n.id AND m.cell_id IN (SELECT id FROM base_cell WHERE name = c.name)
WHERE a.name = ? AND c.name = ? ORDER BY g.id
"""

#: nbgrader has an answer's grade and its comment at two cells of one name.
COMMENT = """
UPDATE comment SET manual_comment = ? WHERE id IN (
    SELECT m.id FROM grade g JOIN base_cell c ON c.id = g.cell_id JOIN base_cell mc ON mc.name = c.name
    JOIN comment m ON m.notebook_id = g.notebook_id AND m.cell_id = mc.id WHERE g.id = ?)
"""


@dataclass(frozen=True)
class State:
    """What the gradebook has for an answer.

    Attributes:
        score: a person's points; None: nobody has marked it.
        waits: it needs to be marked, or looked at again.
        comment: what the student reads.
    """

    score: float | None
    waits: bool
    comment: str = ""


@dataclass(frozen=True)
class Mark:
    """What a marker decided.

    Attributes:
        switches: names of the switches that are on (`autograder.exercises.scheme.keys`).
        kept: kept comments that are on, by number.
        text: free text beside them.
    """

    switches: tuple[str, ...] = ()
    kept: tuple[int, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Entry:
    """An answer in the gradebook.

    Attributes:
        grade: nbgrader's id of its grade.
        student: whose it is; markers do not see it.
        empty: the autograder found nothing written and gave 0.
        state: points and comment.
        mark: the switches behind them; None if they were set elsewhere, as in formgrader.
        marker: who marked it last.
        answered: digest of the text that was marked.
    """

    grade: str
    student: str
    empty: bool
    state: State
    mark: Mark | None = None
    marker: str = ""
    answered: str = ""


@dataclass(frozen=True)
class Kept:
    """A comment that is offered again; one with a ``switch`` is that switch's own."""

    id: int
    text: str
    switch: str = ""


class Changed(Exception):
    """Somebody else changed the answer meanwhile.

    Attributes:
        entries: what is there now, for each answer that was changed.
    """

    def __init__(self, entries: Sequence[Entry]):
        names = ", ".join(sorted({entry.marker or "somebody in formgrader" for entry in entries}))
        super().__init__(f"changed meanwhile by {names or 'whoever took the student out'}")
        self.entries = entries


@dataclass(frozen=True)
class Undone:
    """A change that was taken back: its answers, and what it had given them."""

    grades: tuple[str, ...]
    mark: Mark


@dataclass(frozen=True)
class Decision:
    """What is to be written for one answer.

    Attributes:
        grade: of the answer.
        seen: what the marker saw there; anything else is not overwritten.
        score, comment: for the gradebook.
        mark: for our record.
        text: the answer's, of which the record keeps a digest.
    """

    grade: str
    seen: State
    score: float
    comment: str
    mark: Mark = field(default_factory=Mark)
    text: str = ""


class Ledger:
    """The gradebook of a graded course, for one marker.

    Raises:
        FileNotFoundError: the folder has no gradebook.
    """

    def __init__(self, out: Path, marker: str):
        self.path, self.marker = out / "gradebook.db", marker
        if not self.path.is_file():
            raise FileNotFoundError(f"no gradebook.db in {out}: give the folder that `autograder grade --out` wrote")
        with self._writing() as db:
            for statement in filter(str.strip, TABLES.split(";")):
                db.execute(statement)

    def entries(self, stage: str, cell: str) -> list[Entry]:
        """All answers to a question, in no order that says anything; ``cell`` is its ``grade_id``."""
        with self._reading() as db:
            return [self._entry(db, row) for row in db.execute(ANSWERS, (stage, cell))]

    def save(self, decisions: Iterable[Decision]) -> None:
        """Write decisions, all or none.

        Raises:
            Changed: an answer is not as the marker saw it. Nothing is written.
        """
        decisions = list(decisions)
        with self._writing() as db:
            self._unchanged(db, {d.grade: d.seen for d in decisions})
            now, batch = time.time(), digest(f"{self.marker}/{time.time_ns()}/{decisions[0].grade}".encode())
            for d in decisions:
                after = State(d.score, False, d.comment)
                _write(db, d.grade, after)
                record = (now, self.marker, d.grade, batch, _dump(d.mark), digest(d.text.encode()))
                db.execute(
                    "INSERT INTO marking_event (at, marker, grade, batch, mark, answer, before, after) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (*record, _dump(d.seen), _dump(after)),
                )
                db.execute("DELETE FROM marking_claim WHERE grade = ?", (d.grade,))

    def undo(self) -> Undone | None:
        """Take back this marker's last change that still stands; None if there is none.

        Raises:
            Changed: somebody has changed one of its answers since. Nothing is taken back.
        """
        with self._writing() as db:
            last = db.execute(
                "SELECT batch FROM marking_event WHERE marker = ? AND undone IS NULL ORDER BY id DESC", (self.marker,)
            ).fetchone()
            if last is None:
                return None
            events = db.execute("SELECT * FROM marking_event WHERE batch = ?", last).fetchall()
            there = [event for event in events if _row(db, event["grade"]) is not None]
            self._unchanged(db, {event["grade"]: State(**json.loads(event["after"])) for event in there})
            for event in there:
                _write(db, event["grade"], State(**json.loads(event["before"])))
            db.execute("UPDATE marking_event SET undone = ? WHERE batch = ?", (time.time(), last["batch"]))
        return Undone(tuple(event["grade"] for event in there), _mark(events[0]))

    def claim(self, grade: str) -> None:
        """Tell the other markers that this answer is being read; an earlier claim of this marker ends."""
        with self._writing() as db:
            db.execute("DELETE FROM marking_claim WHERE marker = ? OR until < ?", (self.marker, time.time()))
            row = (grade, self.marker, time.time() + CLAIMED)
            db.execute("INSERT OR IGNORE INTO marking_claim VALUES (?, ?, ?)", row)

    def claimed(self) -> dict[str, str]:
        """Answers that others are reading, and who."""
        with self._reading() as db:
            rows = db.execute("SELECT grade, marker FROM marking_claim WHERE until >= ?", (time.time(),))
            return {row["grade"]: row["marker"] for row in rows if row["marker"] != self.marker}

    def keep(self, exercise: str, text: str, switch: str = "") -> None:
        """Keep a comment, to be offered again at this question; with ``switch``, as that switch's own from now on.

        A switch whose text is empty has its first comment again.
        """
        with self._writing() as db:
            if switch:
                db.execute("DELETE FROM marking_comment WHERE exercise = ? AND switch = ?", (exercise, switch))
            same = "SELECT 1 FROM marking_comment WHERE exercise = ? AND switch = ? AND text = ?"
            if text and not db.execute(same, (exercise, switch, text)).fetchone():
                row = (exercise, switch, text, self.marker)
                db.execute("INSERT INTO marking_comment (exercise, switch, text, marker) VALUES (?, ?, ?, ?)", row)

    def kept(self, exercise: str) -> list[Kept]:
        """The comments kept at a question, by all markers, oldest first."""
        with self._reading() as db:
            rows = db.execute("SELECT * FROM marking_comment WHERE exercise = ? ORDER BY id", (exercise,))
            return [Kept(row["id"], row["text"], row["switch"]) for row in rows]

    def _unchanged(self, db: sqlite3.Connection, seen: Mapping[str, State]) -> None:
        """Raise `Changed` if an answer is not as it was seen; it may also be gone."""
        now = {grade: _row(db, grade) for grade in seen}
        changed = [row for grade, row in now.items() if row is None or _state_of(row) != seen[grade]]
        if changed:
            raise Changed([self._entry(db, row) for row in changed if row is not None])

    def _entry(self, db: sqlite3.Connection, row: sqlite3.Row) -> Entry:
        state = _state_of(row)
        event = db.execute(
            "SELECT * FROM marking_event WHERE grade = ? AND undone IS NULL ORDER BY id DESC", (row["grade"],)
        ).fetchone()
        if event is not None:
            then = State(**json.loads(event["after"]))
            if (then.score, then.comment) != (state.score, state.comment):
                event = None  # changed elsewhere since
        mark = None if event is None else _mark(event)
        empty = row["auto_score"] is not None and not state.waits and state.score is None
        by, text = (event["marker"], event["answer"]) if event is not None else ("", "")
        return Entry(row["grade"], row["student"], empty, state, mark, by, text)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            yield db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody else writes in; an exception takes all of it back."""
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _mark(event: sqlite3.Row) -> Mark:
    data = json.loads(event["mark"])
    return Mark(tuple(data["switches"]), tuple(data["kept"]), data["text"])


def _row(db: sqlite3.Connection, grade: str) -> sqlite3.Row | None:
    where = ANSWERS.replace("a.name = ? AND c.name = ?", "g.id = ?")
    return db.execute(where, (grade,)).fetchone()


def _state_of(row: sqlite3.Row) -> State:
    return State(row["manual_score"], bool(row["needs_manual_grade"]), row["manual_comment"] or "")


def _write(db: sqlite3.Connection, grade: str, state: State) -> None:
    """As formgrader would."""
    change = "UPDATE grade SET manual_score = ?, needs_manual_grade = ? WHERE id = ?"
    db.execute(change, (state.score, state.waits, grade))
    db.execute(COMMENT, (state.comment or None, grade))


def _dump(value: Any) -> str:
    return json.dumps(vars(value))
