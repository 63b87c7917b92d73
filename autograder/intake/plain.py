"""Names that no platform wrote: ``student.ipynb``, ``student_02_lora_layer (1).ipynb``, ``student.zip``."""

from __future__ import annotations

import re

from autograder.exercises import STAGES
from autograder.intake.names import MAX_NAME

#: What a browser or a person puts around the name of a copy.
COPY = re.compile(r"^(?:copy of\s+)+|(?:\s*\([0-9]+\)|\s*-\s*[0-9]+|[\s_-]+copy)$", re.IGNORECASE)
#: Files in a flat folder that are work though not notebooks.
WORK = (".pdf", ".doc", ".docx", ".odt", ".py", ".rar", ".7z", ".tar", ".gz", ".tgz", ".ipynb.txt", ".ipynb.json")


def stem(name: str) -> str:
    """A notebook's or zip file's name without its extension."""
    return re.sub(r"\.(?:ipynb|zip)$", "", name[-MAX_NAME:], flags=re.IGNORECASE)


def bare(name: str) -> str:
    """A file's name without its extension and what makes it a copy's."""
    name, before = stem(name), ""
    while name != before:
        name, before = COPY.sub("", name).strip(), name
    return name


def before_stage(name: str) -> str:
    """The student in student_02_lora_layer.ipynb; "" if the name has no stage in it, or nothing before it."""
    plain = bare(name)
    at = next((plain.lower().find(stage) for stage in STAGES if stage in plain.lower()), 0)
    return plain[: max(at, 0)].strip(" _-.")


def student(name: str, notebook: bool) -> str:
    """Whose a file is, by its name."""
    return before_stage(name) or (stem(name) if notebook else name.partition(".")[0]) or name


def looks_like_work(name: str) -> bool:
    """Whether a file that is not a notebook may be what a student handed in."""
    low = name.lower()
    return low.endswith(WORK) or any(stage in low for stage in STAGES)
