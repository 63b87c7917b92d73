"""Everything that was handed in, from one folder or zip file."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from autograder.engine.assignment import Assignment
from autograder.intake import naming, nbgrader
from autograder.intake.choice import submissions
from autograder.intake.identity import places
from autograder.intake.names import Key, listed, safe_name, scripts, shown, skeleton
from autograder.intake.platforms import says_class
from autograder.intake.register import Register, number_of
from autograder.intake.submission import Submission
from autograder.intake.walk import Unreadable, files_in

#: So many students of one name are a class with blind marking.
FEW = 6
NAMESAKES = (
    "may be {} of another stage: Moodle numbers students anew in each assignment, and several have this name; "
    "python -m autograder student merge makes two one"
)


def discover(
    folder: Path,
    assignments: Mapping[str, Assignment],
    names: str | None = None,
    register: Register | None = None,
) -> list[Submission]:
    """All submissions in a folder or a zip file, in the order of stage and student.

    Args:
        folder: nbgrader's ``submitted`` folder (STUDENT/STAGE/STAGE.ipynb) or the one that holds it; or what a
            learning platform exports (see `autograder.intake.platforms`), as zip files or unpacked; or notebooks or
            folders with the students' names. What is in no folder of nbgrader's form is looked at as an export.
        assignments: the stages to look for.
        names: who handed in what, where no platform's form tells (see `autograder.intake.naming`).
        register: what the course's students are called; it learns those that it does not know.

    Raises:
        FileNotFoundError: there is no such folder, or the zip file cannot be read.
        NamesError: ``names`` is not what it may be.
    """
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    _look(folder)
    if names:
        by_name = naming.places(list(files_in(folder, set())), naming.rule(names))
        return _named(submissions(by_name, assignments, {}, beside_nbgraders=False), [], register)
    inner = folder / "submitted"
    for root in (inner, folder) if inner.is_dir() else (folder,):
        claimed, skip, layout = nbgrader.submitted(root, list(assignments)) if root.is_dir() else ({}, set(), False)
        handed_in = places(list(files_in(root, skip)), students=layout)
        pairs = [(key, submission) for (key, _), submission in claimed.items()]
        pairs += submissions(handed_in, assignments, claimed, beside_nbgraders=layout)
        if pairs:
            break
    return _named(pairs, nbgrader.folder_keys(root) if claimed else [], register)


def _look(path: Path) -> None:
    """Look whether the class's own file can be read: one that cannot is nobody's work (FileNotFoundError: why)."""
    first = list(itertools.islice(files_in(path, set()), 2))
    name = first[0].parts[-1] if len(first) == 1 else ""
    own = path.is_file() and len(first) == 1 and first[0].parts == (path.name,)
    if own or (name.lower().endswith(".zip") and says_class(name)):
        try:
            first[0].fetch()
        except Unreadable as error:
            raise FileNotFoundError(f"{error}: download it again") from None


def _named(pairs: list[tuple[Key, Submission]], others: list[Key], register: Register | None) -> list[Submission]:
    """The submissions with the students' names as the output has them, none of them another's."""
    register = register or Register(None)
    moodles: dict[Key, set[str]] = defaultdict(set)
    for key, submission in pairs:
        if key[0] == "id" and f"_{number_of(key)}_assignsubmission_" in submission.origin:
            moodles[key].add(submission.stage)
    same = register.same(moodles)
    names = register.names({*(key for key, _ in pairs), *others} - set(same))
    names |= {key: names.get(other) or register.keys[other] for key, other in same.items()}
    register.add({key: names[key] for key, _ in pairs})
    for key, stages in moodles.items():
        register.stages[key] = register.stages.get(key, set()) | stages
    shared = Counter(safe_name(name) for _, name in {key for key, _ in pairs})
    alike: dict[str, set[str]] = defaultdict(set)
    for student in register.keys.values():
        alike[skeleton(student)].add(student)
    for key, submission in pairs:
        submission.student = names[key]
        safe, named, given = safe_name(key[1]), safe_name(key[1].rpartition("-")[0]), shown(key[1])
        if shared[safe] > 1 or submission.student.startswith(f"{safe[:60]}-x"):
            submission.notes.append(f"called {submission.student}, for {given!r}: others have nearly that name")
        elif submission.student != safe and not (key in moodles and named == submission.student.rpartition("-")[0]):
            submission.notes.append(f"called {given!r} there, and known here as {submission.student}")
        if key in moodles and 0 < len(namesakes := register.namesakes_of(key)) < FEW:  # blind marking calls all alike
            submission.notes.append(NAMESAKES.format(listed(sorted(namesakes))))
        if twins := alike[skeleton(submission.student)] - {submission.student}:
            submission.notes.append(f"the name looks like another student's: {listed(sorted(twins))}")
        if mixed := scripts(submission.student):
            submission.notes.append(f"the name mixes letters of {' and '.join(mixed)} that look alike")
    return sorted((submission for _, submission in pairs), key=lambda s: (s.stage, s.student))
