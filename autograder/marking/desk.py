"""One marker's desk: a question, its answers one after the other without names, and what each key does.

It knows nothing of widgets, so that tests, and other ways to show it, can drive it: `Desk.press` takes a key's name.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from autograder.engine.assignment import digest, grade_id, source_of
from autograder.exercises import STAGES, Exercise, exercise
from autograder.exercises.scheme import earned, keys
from autograder.marking import likeness
from autograder.marking.ledger import Changed, Decision, Entry, Kept, Ledger, Mark, State
from autograder.results import handed_in, pictures

#: More switches than number keys: then the number keys are those of one part, which its letter chooses.
MOST_KEYS = 9


@dataclass(frozen=True)
class Question:
    """A written question of the graded course, and how far it is.

    Attributes:
        stage, exercise: which.
        total: answers that somebody wrote.
        left: those that wait to be marked.
        blank: those that nobody wrote; they have 0 points.
    """

    stage: str
    exercise: Exercise
    total: int
    left: int
    blank: int

    @property
    def label(self) -> str:
        return f"{self.exercise.id} {self.exercise.title} ({self.exercise.points} points, {self.total} answers)"


@dataclass(frozen=True)
class Answer:
    """What a marker reads.

    Attributes:
        grade: its id in the gradebook.
        text: what the student wrote.
        near: ids of the answers that are nearly the same.
    """

    grade: str
    student: str = field(repr=False)
    text: str = ""
    near: frozenset[str] = frozenset()


class Desk:
    """What a marker has in front of them.

    Attributes:
        question: that of the last `choose`; ``chosen`` says whether there was one.
        place: the number of the answer that is shown, from 0.
        on, kept_on, text: the switches, kept comments and free text as they stand, saved or not.
        part: the part whose switches the number keys are, where there are too many for all.
        message: what happened last, for the marker.
        drafts: answer -> what was switched on and written and not saved when the marker went on.
        looked: near-identical answers are shown; without a look they cannot be marked together.
        measure: by what the answers are ordered.
    """

    def __init__(self, out: Path, marker: str):
        self.out, self.marker = out, marker.strip() or "marker"
        self.ledger = Ledger(out, self.marker)
        self._question: Exercise | None = None
        self.stage = self.message = self.part = self.text = self.measure = ""
        self.answers: list[Answer] = []
        self.entries: dict[str, Entry] = {}
        self.place, self.looked = 0, False
        self.on: set[str] = set()
        self.kept_on: set[int] = set()
        self.left_out: set[int] = set()
        self.drafts: dict[str, Mark] = {}
        self._shown, self._at = (State(None, True), Mark()), ""
        self._contested = False
        self._pictures: tuple[str, list[dict[str, str]]] = ("", [])
        self._kept: list[Kept] = []

    @property
    def question(self) -> Exercise:
        if self._question is None:
            raise ValueError("no question was chosen: choose one first")
        return self._question

    @property
    def chosen(self) -> bool:
        return self._question is not None

    # --- questions --------------------------------------------------------------------------------------------------

    def questions(self) -> list[Question]:
        """The written questions of the stages in the gradebook, those with answers first to last."""
        rows = []
        for stage, exercises in STAGES.items():
            for written in (e for e in exercises if e.manual):
                entries = self.ledger.entries(stage, cell_of(written.id))
                if entries:
                    texts = [entry for entry in entries if not entry.empty]
                    left = sum(entry.state.waits for entry in texts)
                    rows.append(Question(stage, written, len(texts), left, len(entries) - len(texts)))
        return rows

    def choose(self, stage: str, exercise_id: str) -> None:
        """Take up a question: order its answers, and go to the first that waits.

        Raises:
            KeyError: there is no such question.
        """
        self._leave()
        self.stage, self._question = stage, exercise(exercise_id)
        cell = cell_of(exercise_id)
        entries = [entry for entry in self.ledger.entries(stage, cell) if not entry.empty]
        texts = [self._written(entry.student, cell) for entry in entries]
        cache = self.out / ".grading" / "marking" / f"{exercise_id}.npz"
        rows, self.measure = likeness.vectors(texts, cache)
        path = likeness.order(rows)
        path = [n for n in path if texts[n].strip()] + [n for n in path if not texts[n].strip()]
        near = [frozenset(entries[m].grade for m in group) for group in likeness.near(texts)]
        self.answers = [Answer(entries[n].grade, entries[n].student, texts[n], near[n]) for n in path]
        self.part = self.question.scheme[0].name
        self.message = ""
        self._refresh()
        self.go(self._next(-1))

    def _written(self, student: str, cell: str) -> str:
        """A student's answer, also of a course that was graded before answers were kept."""
        kept = handed_in.cells(self.out, self.stage, student)
        if "answers" in kept:
            return kept["answers"].get(cell, "") or handed_in.beside(kept["cells"], cell)
        file = self.out / "autograded" / student / self.stage / f"{self.stage}.ipynb"
        with contextlib.suppress(OSError, ValueError, KeyError):
            cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
            return next(source_of(c) for c in cells if grade_id(c) == cell).replace("\u2060", "")
        return ""

    def scheme_text(self) -> dict[str, str]:
        """What stands above the answers, as Markdown: the question, the mark scheme, the model answer."""
        file = self.out / "solutions" / self.stage / f"{self.stage}.ipynb"
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        number = self.question.id.replace(".", "_")
        by_name = {grade_id(c): source_of(c) for c in cells if grade_id(c)}
        asked = next((source_of(c) for c in cells if f"**Exercise {self.question.id}**" in source_of(c)), "")
        asked = "\n".join(line for line in asked.splitlines() if line.startswith(">"))
        scheme = by_name.get(f"scheme_{number}", "").partition("### BEGIN MARK SCHEME\n")[2]
        texts = {"Question": asked, "Mark scheme": scheme.partition("### END MARK SCHEME")[0]}
        return {**texts, "Model answer": by_name.get(f"written_{number}", "")}

    # --- the answer in front ----------------------------------------------------------------------------------------

    @property
    def answer(self) -> Answer | None:
        """The answer that is shown."""
        return self.answers[self.place] if self.answers else None

    @property
    def entry(self) -> Entry:
        """What the gradebook has for it."""
        return self.entries[self.answers[self.place].grade]

    def evidence(self, answer: Answer) -> list[dict[str, str]]:
        """What the student's own notebook showed: ``{"png": base64}``, made new, or ``{"text": ...}``."""
        if self._pictures[0] == answer.grade:
            return self._pictures[1]
        shown = []
        for output in handed_in.evidence(self.out, self.stage, answer.student).get(self.question.id, ()):
            if "png" in output:
                data = pictures.png(output["png"])
                shown.append({"png": data} if data else {"text": "(a picture that cannot be read)"})
            else:
                shown.append({"text": output["text"]})
        self._pictures = answer.grade, shown
        return shown

    @property
    def wants_evidence(self) -> bool:
        """Whether the question asks for figures of the student's own."""
        return self.chosen and bool(self.question.evidence)

    def neighbour(self) -> Answer | None:
        """The answer before this one, which is the most like it of those that were read."""
        return self.answers[self.place - 1] if self.place else None

    @property
    def points(self) -> float:
        """What the switches earn."""
        return sum(earned(self.question.scheme, self.on).values())

    @property
    def progress(self) -> tuple[int, int, int]:
        """(marked, of how many, being read by others)."""
        waiting = [a for a in self.answers if self.entries[a.grade].state.waits]
        others = self.ledger.claimed()
        return len(self.answers) - len(waiting), len(self.answers), sum(a.grade in others for a in waiting)

    @property
    def changed_text(self) -> bool:
        """The answer is not the one that was marked: the student handed in again."""
        return bool(self.entry.answered) and self.entry.answered != digest(self.answers[self.place].text.encode())

    def switches(self) -> list[tuple[str, str]]:
        """(switch, its number key or "") in the scheme's order."""
        known = keys(self.question.scheme)
        if len(known) <= MOST_KEYS:
            return [(name, str(n)) for n, name in enumerate(known, start=1)]
        here = [name for name, (part, _) in known.items() if part.name == self.part]
        return [(name, str(here.index(name) + 1) if name in here else "") for name in known]

    def kept(self) -> list[Kept]:
        """Comments that are offered at this question."""
        return [kept for kept in self._kept if not kept.switch]

    def comment_of(self, switch: str) -> str:
        """What a student reads when a switch is on: as it was kept, or as the scheme has it."""
        own = [kept.text for kept in self._kept if kept.switch == switch]
        return own[-1] if own else keys(self.question.scheme)[switch][1].comment

    @property
    def comment(self) -> str:
        """What the student will read."""
        lines = [self.comment_of(name) for name in keys(self.question.scheme) if name in self.on]
        lines += [kept.text for kept in self.kept() if kept.id in self.kept_on]
        return "\n".join(filter(None, [*lines, self.text.strip()]))

    @property
    def mark(self) -> Mark:
        return Mark(tuple(sorted(self.on)), tuple(sorted(self.kept_on)), self.text.strip())

    @property
    def touched(self) -> bool:
        """Something was switched or written that is not saved."""
        return self._contested or self.mark != self._shown[1]

    # --- moving -----------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        cell = cell_of(self.question.id)
        self.entries = {entry.grade: entry for entry in self.ledger.entries(self.stage, cell)}
        self.answers = [answer for answer in self.answers if answer.grade in self.entries]
        self._kept = self.ledger.kept(self.question.id)

    def go(self, place: int) -> None:
        """Show an answer; what others did meanwhile is seen then."""
        self._leave()
        self._refresh()
        self.looked, self.left_out = False, set()
        if not self.answers:
            self.place = 0
            return
        self.place = max(0, min(place, len(self.answers) - 1))
        self.ledger.claim(self.answers[self.place].grade)
        entry = self.entry
        self._lay_out(entry.mark or Mark(text=entry.state.comment))
        self._shown, self._contested, self._at = (entry.state, self.mark), False, entry.grade
        if draft := self.drafts.get(entry.grade):
            self._lay_out(draft)
            self.message = self.message or "As you left it; it is not saved."

    def _leave(self) -> None:
        """Keep what is not saved, until this marker comes back."""
        grade, self._at = self._at, ""
        if grade:
            self.drafts.pop(grade, None)
            if self.mark != self._shown[1]:
                self.drafts[grade] = self.mark

    def _lay_out(self, mark: Mark) -> None:
        self.on = set(mark.switches) & set(keys(self.question.scheme))
        self.kept_on, self.text = set(mark.kept), mark.text

    def _next(self, place: int) -> int:
        """The next answer that waits and that nobody else reads, from there on and then from the start."""
        others = self.ledger.claimed()
        order = [*range(place + 1, len(self.answers)), *range(place + 1)]
        waits = [n for n in order if self.entries[self.answers[n].grade].state.waits]
        free = [n for n in waits if self.answers[n].grade not in others]
        return next(iter(free), next(iter(waits), min(place + 1, max(0, len(self.answers) - 1))))

    # --- keys -------------------------------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        """What a key does: see `KEYS`, and ``1`` to ``9`` for switches, with ``shift+`` for kept comments."""
        if self.question is None or not self.answers:
            return
        self.message = ""
        digits = re.fullmatch(r"(shift\+)?([1-9])", key)
        if digits and digits[1]:
            kept = self.kept()[int(digits[2]) - 1 : int(digits[2])]
            self.kept_on ^= {comment.id for comment in kept}
        elif digits:
            self.toggle(next((name for name, number in self.switches() if number == key), ""))
        elif key in {part.name for part in self.question.scheme} and len(keys(self.question.scheme)) > MOST_KEYS:
            self.part = key
        elif key in KEYS:
            try:
                KEYS[key][1](self)
            except sqlite3.OperationalError as error:
                self.message = f"Nothing was saved: another program holds the gradebook ({error}). Press the key again."

    def toggle(self, switch: str) -> None:
        """Turn a switch on or off."""
        if switch in keys(self.question.scheme):
            self.on ^= {switch}

    def clear(self) -> None:
        """All switches off: no points."""
        self.on, self.kept_on = set(), set()

    def full(self) -> None:
        """All points: in each part its switches from the first on, until it has its maximum."""
        self.on = set()
        for name, (part, point) in keys(self.question.scheme).items():
            if point.points and earned(self.question.scheme, self.on)[part.name] < part.points:
                self.on.add(name)

    def save(self) -> None:
        """Save the answer and go on to the next that waits. One that is marked and untouched stays as it is."""
        if not self.entry.state.waits and not self.touched:
            self.go(self._next(self.place))
            return
        self._save([self.place])

    def save_together(self) -> None:
        """Give the same to the near-identical answers that are shown and not left out."""
        if not self.looked:
            self.look()
            if self.looked:
                self.message = "Look at these first; then press the same key again."
            return
        self._save([self.place, *(n for n in self.alike() if n not in self.left_out)])

    def _save(self, places: list[int]) -> None:
        decisions = []
        for place in places:
            answer = self.answers[place]
            seen = self._shown[0] if place == self.place else self.entries[answer.grade].state
            decisions.append(Decision(answer.grade, seen, self.points, self.comment, self.mark, answer.text))
        try:
            self.ledger.save(decisions)
        except Changed as error:
            answer = self.answers[self.place]
            self._refresh()
            if answer not in self.answers:  # its student was taken out of the course meanwhile
                self.go(self.place)
                self.message = f"Not saved: {error}."
                return
            theirs = " and ".join(f"{e.state.score:g}" for e in error.entries if e.state.score is not None)
            self.message = (
                f"Not saved: {error}" + (f", who gave {theirs}" if theirs else "") + ". "
                "Press the key again to put yours in its place, or go on with n."
            )
            self._shown, self._contested = (self.entry.state, self._shown[1]), True
            return
        count = "" if len(places) == 1 else f" to {len(places)} answers"
        self._at = ""  # nothing of it is unsaved
        for place in places:
            self.drafts.pop(self.answers[place].grade, None)
        said = f"Gave {self.points:g} of {self.question.points:g}{count}. u takes it back."
        self._refresh()
        self.go(self._next(self.place))
        self.message = said

    def undo(self) -> None:
        """Take back this marker's last change, and show its answer with what was switched on, to be corrected."""
        try:
            undone = self.ledger.undo()
        except Changed as error:
            self.message = f"Not taken back: {error}."
            return
        if undone is None:
            self.message = "Nothing left to take back."
            return
        places = [n for n, answer in enumerate(self.answers) if answer.grade in undone.grades]
        self.go(places[0] if places else self.place)
        if places:
            self._lay_out(undone.mark)
        count = len(undone.grades)
        self.message = f"Taken back: {count} answer{'s' if count > 1 else ''}" + ("." if places else " elsewhere.")

    def forward(self) -> None:
        self.go(self.place + 1)

    def back(self) -> None:
        self.go(self.place - 1)

    def on_to_next(self) -> None:
        """Leave this one, and go to the next that waits."""
        self.go(self._next(self.place))

    # --- near-identical answers -------------------------------------------------------------------------------------

    def alike(self) -> list[int]:
        """Numbers of the answers that are nearly the same as this one, wait, and are not read by another marker."""
        others = self.ledger.claimed()
        near = [n for n, answer in enumerate(self.answers) if answer.grade in self.answers[self.place].near]
        waits = [n for n in near if self.entries[self.answers[n].grade].state.waits]
        return [n for n in waits if self.answers[n].grade not in others]

    def look(self) -> None:
        """Show the near-identical answers, or put them away."""
        self.looked = not self.looked and bool(self.alike())
        if not self.looked and not self.alike():
            self.message = "No other answer that waits is nearly the same."

    def leave_out(self, place: int) -> None:
        """Take an answer out of those that are marked together, or in again."""
        self.left_out ^= {place}

    def difference(self, place: int) -> list[tuple[str, str]]:
        """Another answer beside the one shown, in pieces: ("same" | "only here" | "only there", words)."""
        here, there = (re.findall(r"\S+|\n", self.answers[n].text) for n in (self.place, place))
        pieces = []
        for what, a, b, c, d in difflib.SequenceMatcher(None, here, there, autojunk=False).get_opcodes():
            if what == "equal":
                pieces.append(("same", " ".join(here[a:b])))
                continue
            pieces += [("only here", " ".join(here[a:b]))] if b > a else []
            pieces += [("only there", " ".join(there[c:d]))] if d > c else []
        return pieces

    # --- comments ---------------------------------------------------------------------------------------------------

    def keep(self, text: str, switch: str = "") -> None:
        """Keep a comment: offered again at this question and on for this answer, or as a switch's own from now on."""
        text = text.strip()
        if not text and not switch:
            self.message = "Write the comment first."
            return
        self.ledger.keep(self.question.id, text, switch)
        self._kept = self.ledger.kept(self.question.id)
        if switch:
            self.message = "Answers that are marked from now on get it; those that were marked keep theirs."
        else:
            self.kept_on |= {kept.id for kept in self.kept() if kept.text == text}
            self.text = ""


def cell_of(exercise_id: str) -> str:
    """The ``grade_id`` of a written answer's cell."""
    return f"written_{exercise_id.replace('.', '_')}"


#: Key -> what it does, in words and in deed. The panel has a button for each.
KEYS: dict[str, tuple[str, Callable[[Desk], None]]] = {
    "Enter": ("save, next", Desk.save),
    "n": ("next, unsaved", Desk.on_to_next),
    "ArrowRight": ("forward", Desk.forward),
    "ArrowLeft": ("back", Desk.back),
    "u": ("undo", Desk.undo),
    "f": ("all points", Desk.full),
    "0": ("all off", Desk.clear),
    "g": ("alike", Desk.look),
    "m": ("mark these together", Desk.save_together),
}
