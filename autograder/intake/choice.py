"""Which notebook counts, of what a student handed in, and for which stage.

Of several for one stage the newest attempt is graded, as far as the platform numbers or dates them; then the one that
has answers. Of several that do and differ it is the one that names or folders call the newest (`newest`); where they do
not, a person decides. The others are noted. Whoever handed in no notebook, or something that cannot be read, has a
submission that needs attention.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autograder.engine.assignment import Assignment, digest, grade_id
from autograder.exercises import STAGES
from autograder.intake.identity import Place
from autograder.intake.names import NOBODY, Key, listed, shown
from autograder.intake.newest import newest, older
from autograder.intake.notebook import cells_of
from autograder.intake.plain import bare, stem
from autograder.intake.platforms.teams import WORKING
from autograder.intake.rebuild import rebuild, text_of
from autograder.intake.submission import Submission
from autograder.intake.walk import Fetch, File, Unreadable

#: Notebooks of one student that are read to choose one.
MAX_READ = 20
#: A notebook's bytes -> the stage whose cells it has, or "".
StageOf = Callable[[Fetch], str]


@dataclass(frozen=True)
class Candidate:
    """A notebook for a stage from one place.

    Attributes:
        others: the notebooks there that are not graded.
        newest: the file whose attempt is the newest, notebook or not.
        problem: why nothing tells which is to be graded, or "".
    """

    place: Place
    file: File
    others: list[File]
    newest: File
    problem: str = ""


def submissions(
    handed_in: Iterable[tuple[Place, list[File]]],
    assignments: Mapping[str, Assignment],
    claimed: Mapping[tuple[Key, str], Submission],
    beside_nbgraders: bool,
) -> list[tuple[Key, Submission]]:
    """The submissions among what was handed in, each with whose it is.

    Args:
        handed_in: files by whose they are (`autograder.intake.identity.places`).
        assignments: the stages to look for.
        claimed: what is known already, from nbgrader's folders; it counts, and what else there is is noted.
        beside_nbgraders: the files are beside nbgrader's folders, where other courses may keep theirs.
    """
    stage_of = functools.cache(lambda fetch: _stage_inside(fetch, assignments))
    candidates: dict[tuple[Key, str], list[Candidate]] = defaultdict(list)
    without: list[tuple[Place, list[File]]] = []
    known = {key for key, _ in claimed}
    nobodys: list[File] = []
    for place, files in handed_in:
        if place.kind == "nobody":
            nobodys += files
            continue
        notebooks = [f for f in files if f.notebook]
        if not notebooks and place.key not in known:
            without.append((place, files))
        if beside_nbgraders:
            notebooks = [f for f in notebooks if not _of_another_course(f, stage_of)]
        if not notebooks:
            continue
        by_stage: dict[str, list[File]] = defaultdict(list)
        for number, file in enumerate(notebooks):
            by_stage[_stage(place, file, assignments, stage_of if number < MAX_READ else None)].append(file)
        wanted = [stage for stage in by_stage if stage in assignments]
        if not wanted:
            without.append((place, notebooks))
        others = [f for stage in by_stage if not stage for f in by_stage[stage]] if wanted else []
        for stage in wanted:
            first, rest, problem = _first(place, by_stage[stage], assignments[stage])
            candidates[place.key, stage].append(Candidate(place, first, rest + others, _newest(place, files), problem))
    chosen: dict[tuple[Key, str], Submission] = {}
    for (key, stage), choices in candidates.items():
        before = claimed.get((key, stage))
        if before is not None:
            before.notes.append(f"left out: {listed(f.path for c in choices for f in [c.file, *c.others])}")
        else:
            chosen[key, stage] = _one(stage, choices)
    usual = Counter(stage for _, stage in [*candidates, *claimed]).most_common(1)
    for place, files in without:
        stage = next((s for s in assignments for f in files if s in f.path), usual[0][0] if usual else "")
        new = _for_a_person(place, files, stage or next(iter(assignments)), assignments)
        other = claimed.get((place.key, new.stage)) or chosen.get((place.key, new.stage))
        if other is None:
            chosen[place.key, new.stage] = new
        else:
            other.notes.append(f"left out: {listed(f.path for f in files)}")
    pairs = [(key, submission) for (key, _), submission in chosen.items()]
    if nobodys:
        pairs.append((("nobody", NOBODY), _nobodys(nobodys, usual[0][0] if usual else next(iter(assignments)))))
    return pairs


def _nobodys(files: list[File], stage: str) -> Submission:
    """What stands for files whose names tell no student."""
    submission = Submission("", next((s for s in STAGES if s in files[0].path.lower()), stage), files[0].origin, bytes)
    submission.problem = (
        f"the name tells no student: {listed(f.path for f in files)}; put each into a folder with its student's name, "
        "or say whose it is with --names"
    )
    return submission


def _one(stage: str, choices: list[Candidate]) -> Submission:
    """The submission of one student for one stage, from what was handed in at one or more places."""
    working = [c for c in choices if any(WORKING.fullmatch(part) for part in c.place.at)]
    choices = [c for c in choices if c not in working] or working
    place, file, others, newest = choices[0].place, choices[0].file, choices[0].others, choices[0].newest
    submission = Submission("", stage, file.origin, file.fetch)
    if place.note:
        submission.notes.append(place.note)
    if working:
        what = "was not turned in: it is" if choices is working else "left out: what is"
        submission.notes.append(f"{what} among the working files")
    if (_attempt(place, newest) or ()) > (_attempt(place, file) or ()):
        submission.notes.append(f"the newest attempt has no notebook for it: {listed([newest.path])}")
    named = {unicodedata.normalize("NFC", label.place) for c in choices if (label := c.place.label(c.file))}
    if len(named) > 1:
        submission.problem = f"may be several students; see which is whose: {listed(sorted(named))}"
    elif len(choices) > 1 and (len(choices) > MAX_READ or len({_content(c.file) for c in choices}) > 1):
        submission.problem = (
            f"handed in at several places, and differently; keep one of {listed(c.file.path for c in choices)}"
        )
    elif others:
        submission.notes.append(f"more than one notebook; left out: {listed(f.path for f in others)}")
        submission.problem = choices[0].problem
    return submission


def _first(place: Place, files: list[File], assignment: Assignment) -> tuple[File, list[File], str]:
    """The notebook that is graded, of a student's for a stage; the others; why a person has to choose, or ""."""
    attempts = {file: _attempt(place, file) for file in files}
    contents = {file: _look(file, assignment) for file in files[:MAX_READ]} if len(files) > 1 else {}

    def rank(file: File) -> Any:
        filled, is_older = contents.get(file, (0, ""))[0], older(place.below(file) or [_name(place, file)])
        # an attempt is newer than none, hence the 1
        return [-n for n in attempts[file] or ()] or [1], -filled, is_older, _title(place, file, assignment.stage)

    def alike(a: File, b: File) -> bool:
        return a in contents and b in contents and contents[a][1] == contents[b][1]

    ordered = sorted(files, key=lambda file: (*rank(file), len(file.parts), file.parts))
    first, best = ordered[0], rank(ordered[0])
    problem = ""
    if len(files) > 1 and any(attempts[file] is None and not alike(file, first) for file in files):
        names = listed(f.path for f in files if attempts[f] is None)
        problem = f"several attempts, and their names do not tell the newest; keep one of {names}"
    elif contents.get(first, (0, ""))[0] == ANSWERED:
        rivals = [file for file in ordered if rank(file)[:3] == best[:3]]
        if any(not alike(file, first) for file in rivals):
            at = newest([place.below(f) or [_name(place, f)] for f in rivals])
            if at is None:
                names = listed(f.path for f in rivals)
                problem = f"several notebooks that differ, and nothing tells the newest; keep one of {names}"
            else:
                first = rivals[at]
    elif filled := [f for f in ordered if contents.get(f, (0, ""))[0] == ANSWERED]:
        problem = f"the newest attempt, {shown(first.path)}, has no answer, and others have: keep one of "
        problem += listed(f.path for f in [first, *filled])
    return first, [file for file in ordered if file is not first], problem


#: What a notebook holds of a stage: nothing, its cells as they are released, answers.
NOTHING, RELEASED, ANSWERED = range(3)


def _look(file: File, assignment: Assignment) -> tuple[int, str]:
    """What a notebook holds of a stage, and a digest that is the same for what would be graded alike."""
    try:
        rebuilt = rebuild(cells_of(file.fetch()), assignment, [])
    except Exception as error:  # of one file: it is told when that one is planned
        return NOTHING, str(error)
    if not rebuilt.of_this_stage:
        return NOTHING, _content(file)
    graded = [(cell["cell_type"], text_of(cell).strip(), cell.get("attachments")) for cell in rebuilt.cells]
    answered = rebuilt.open != set(assignment.answer_cells())
    return (ANSWERED if answered else RELEASED), digest(repr(graded).encode())


def _for_a_person(place: Place, files: list[File], stage: str, assignments: Mapping[str, Assignment]) -> Submission:
    """The submission of a student who handed in no notebook of any stage."""
    submission = Submission("", stage, files[0].origin, files[0].fetch)
    names = listed("/".join(place.below(f)) or f.parts[-1] for f in files)
    if any(f.notebook for f in files):
        submission.problem = f"{names} names none of {', '.join(assignments)} and has no cell of them"
        try:
            files[0].fetch()
        except Unreadable as error:
            submission.problem = str(error)
    else:
        submission.problem = f"no notebook; there is {names}"
    return submission


def _content(file: File) -> str:
    try:
        return digest(file.fetch())
    except Unreadable as error:
        return str(error)


def _of_another_course(file: File, stage_of: StageOf) -> bool:
    """Whether it is ann/ps1/ps1.ipynb, as nbgrader keeps other assignments, and not one of this course's."""
    if len(file.parts) != 3 or file.parts[2] != f"{file.parts[1]}.ipynb":
        return False
    try:
        cells_of(file.fetch())
    except (Unreadable, ValueError, RecursionError):
        return False  # then a person looks at it
    return not stage_of(file.fetch)


def _stage(place: Place, file: File, assignments: Mapping[str, Assignment], stage_of: StageOf | None) -> str:
    """The stage that a notebook is for: its name or folder says so, or its cells; another stage's name, or ""."""
    own = [*place.below(file), _name(place, file)]
    named = [stage for part in reversed(own) for stage in STAGES if stage in part.lower()]
    if named and named[0] in assignments:
        return named[0]
    if len(assignments) == 1:
        return "" if named and stage_of and not stage_of(file.fetch) else next(iter(assignments))
    inside = stage_of(file.fetch) if stage_of else ""
    return inside or next((s for part in reversed(file.parts) for s in assignments if s in part.lower()), "")


def _stage_inside(fetch: Fetch, assignments: Mapping[str, Assignment]) -> str:
    """The stage whose cells a notebook has, or ""."""
    try:
        inside = {grade_id(cell) for cell in cells_of(fetch())}
    except (Unreadable, ValueError, RecursionError):
        return ""
    counts = {stage: len(inside & set(a.answer_cells())) for stage, a in assignments.items()}
    best = max(counts, key=lambda stage: counts[stage])
    return best if counts[best] else ""


def _name(place: Place, file: File) -> str:
    """A file's name, without what a platform wrote in front of it."""
    label = None if place.below(file) else place.label(file)
    return label.file if label else file.parts[-1]


def _attempt(place: Place, file: File) -> tuple[int, ...] | None:
    """Which of the student's attempts a file belongs to (see `Label`)."""
    label = place.label(file)
    return label.attempt if label else ()


def _newest(place: Place, files: Sequence[File]) -> File:
    return max(files, key=lambda file: _attempt(place, file) or ())


def _title(place: Place, file: File, stage: str) -> int:
    """How near a notebook's name is to the stage's: 0 is the same, also of a copy."""
    plain = bare(stem(_name(place, file)).lower())
    return [plain == stage, plain.endswith(stage), True].index(True)
