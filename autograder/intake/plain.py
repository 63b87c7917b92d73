"""Names that no platform wrote: ``student.ipynb``, ``student_02_lora_layer (1).ipynb``, ``student.zip``."""

from __future__ import annotations

import re

from autograder.exercises import STAGES
from autograder.intake.names import MAX_NAME

#: What a browser or a person puts around the name of a copy.
COPY = re.compile(r"^(?:copy of\s+)+|(?:\s*\([0-9]+\)|\s*-\s*[0-9]+|[\s_-]+copy)$", re.IGNORECASE)
#: What may stand behind a notebook's name and is no student's.
NO_NAME = re.compile(
    r"(?:[\W\d_]*(?:final|draft|solved|solutions?|answers?|done|new|newest|old|copy|kopie|version|v|submission|submitted|"
    r"homework|hw|assignment|fixed|updated?|backup|test|colab|checkpoint|graded|pdf|html|last|latest|my|the|real))+[\W\d_]*",
    re.IGNORECASE,
)
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


def after_stage(name: str) -> str:
    """The student in 02_lora_layer_student.ipynb; "" if what stands there is no name, such as "final" or "v2"."""
    plain = bare(name)
    ends = [plain.lower().find(stage) + len(stage) for stage in STAGES if stage in plain.lower()]
    rest = plain[ends[0] :].strip(" _-.()") if ends else ""
    return "" if not re.search(r"[^\W\d_]{2}", rest) or NO_NAME.fullmatch(rest) else rest


def student(name: str, notebook: bool) -> str:
    """Whose a file is, by its name; "" if it is only the notebook's."""
    if any(stage in name.lower() for stage in STAGES):
        return before_stage(name) or after_stage(name)
    return (stem(name) if notebook else name.partition(".")[0]) or name


def looks_like_work(name: str) -> bool:
    """Whether a file that is not a notebook may be what a student handed in."""
    low = name.lower()
    return low.endswith(WORK) or any(stage in low for stage in STAGES)
