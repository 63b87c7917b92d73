"""Everything that was handed in, from one folder or zip file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from autograder.engine.assignment import Assignment
from autograder.intake import nbgrader
from autograder.intake.choice import submissions
from autograder.intake.identity import places
from autograder.intake.names import safe_name, shown
from autograder.intake.register import Register
from autograder.intake.submission import Submission
from autograder.intake.walk import files_in


def discover(folder: Path, assignments: Mapping[str, Assignment], register: Register | None = None) -> list[Submission]:
    """All submissions in a folder or a zip file, in the order of stage and student.

    Args:
        folder: nbgrader's ``submitted`` folder (STUDENT/STAGE/STAGE.ipynb) or the one that holds it; or what a
            learning platform exports (see `autograder.intake.platforms`), as zip files or unpacked; or notebooks or
            folders with the students' names. What is in no folder of nbgrader's form is looked at as an export.
        assignments: the stages to look for.
        register: what the course's students are called; it learns those that it does not know.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    inner = folder / "submitted"
    for root in (inner, folder) if inner.is_dir() else (folder,):
        claimed, skip = nbgrader.submitted(root, list(assignments)) if root.is_dir() else ({}, set())
        handed_in = places(list(files_in(root, skip)), students=bool(skip))
        pairs = [(key, submission) for (key, _), submission in claimed.items()]
        pairs += submissions(handed_in, assignments, claimed, beside_nbgraders=bool(skip))
        if pairs:
            break
    register = register or Register(None)
    names = register.names([key for key, _ in pairs] + (nbgrader.folder_keys(root) if claimed else []))
    register.add({key: names[key] for key, _ in pairs})
    shared = Counter(safe_name(name) for _, name in {key for key, _ in pairs})
    for key, submission in pairs:
        submission.student = names[key]
        safe, given = safe_name(key[1]), shown(key[1])
        if shared[safe] > 1 or submission.student.startswith(f"{safe[:60]}-x"):
            submission.notes.append(f"called {submission.student}, for {given!r}: others have nearly that name")
        elif submission.student != safe:
            submission.notes.append(f"called {given!r} there, and known here as {submission.student}")
    return sorted((submission for _, submission in pairs), key=lambda s: (s.stage, s.student))
