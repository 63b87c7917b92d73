"""Everything that was handed in, from one folder or zip file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from autograder.engine.assignment import Assignment
from autograder.intake import nbgrader
from autograder.intake.choice import submissions
from autograder.intake.identity import places
from autograder.intake.names import Key, safe_name, shown, student_names
from autograder.intake.submission import Submission
from autograder.intake.walk import files_in


def discover(
    folder: Path, assignments: Mapping[str, Assignment], known: dict[Key, str] | None = None
) -> list[Submission]:
    """All submissions in a folder or a zip file, in the order of stage and student.

    Args:
        folder: nbgrader's ``submitted`` folder (STUDENT/STAGE/STAGE.ipynb) or the one that holds it; or what a
            learning platform exports (see `autograder.intake.platforms`), as zip files or unpacked; or notebooks or
            folders with the students' names. What is in no folder of nbgrader's form is looked at as an export.
        assignments: the stages to look for.
        known: what students were called in earlier runs (`autograder.engine.store.read_names`); those of this one are
            put into it.

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
    known = {} if known is None else known
    names = student_names([key for key, _ in pairs] + (nbgrader.folder_keys(root) if claimed else []), known)
    known.update(names)
    shared = Counter(safe_name(name) for _, name in {key for key, _ in pairs})
    for key, submission in pairs:
        submission.student = names[key]
        if shared[safe_name(key[1])] > 1:
            submission.notes.append(f"called {submission.student}, for {shown(key[1])!r}: others have nearly that name")
    return sorted((submission for _, submission in pairs), key=lambda s: (s.stage, s.student))
