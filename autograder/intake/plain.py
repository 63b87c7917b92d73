"""Names that no platform wrote: ``student.ipynb``, ``student_02_lora_layer (1).ipynb``, ``student.zip``."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Container

from autograder.exercises import STAGES
from autograder.intake.dates import date_in
from autograder.intake.names import MAX_NAME

#: What a browser, a system or a person puts around the name of a copy, in the languages that they speak.
COPIED = r"cop(?:y|ie|ia|iar)|cópia|kopi[ea]?|kópia|копия|コピー|複製|副本|复制|複本|사본|복사본"
COPY_OF = rf"(?:{COPIED})(?:\s*(?:of|von|de|di|da|van|av|из)\b)?[\s_-]+|(?:{COPIED})\s*[～~の]?\s*(?=[0-9])"
#: Each run of blanks and dashes is looked at from its beginning alone: thousands of names are read, of any form.
ENDING = rf"(?<![\s_–-])[\s_–-]+[(（]?(?:{COPIED})\s*[0-9]{{0,3}}[)）]?"
COPY = re.compile(
    rf"^(?:{COPY_OF})"
    rf"|(?:(?<!\s)\s*(?:[(（]\s*[0-9]+\s*[)）]|[-–]\s*[0-9]+)|{ENDING})$",
    re.IGNORECASE,
)
#: The same of a name that is somebody's, where a number alone may tell one from the next.
COPY_OF_SOMEBODYS = re.compile(
    rf"^(?:{COPY_OF})|{ENDING}$",
    re.IGNORECASE,
)
#: What may stand behind a notebook's name and is no student's.
NO_NAME = re.compile(
    r"(?:[\W\d_]*(?:final|draft|solved|solutions?|answers?|done|new|newest|old|version|v|submission|submitted|"
    r"homework|hw|assignment|fixed|updated?|backup|test|colab|checkpoint|graded|pdf|html|last|latest|my|the|real|"
    r"rev|revision|r|completed?|finished|executed|output|am|pm|"
    r"fertig|abgabe|lösung|loesung|neu|alt|endgültig|letzte|entwurf|hausaufgabe|übung|"
    r"finale?|définitif|definitif|rendu|devoir|corrigé|nouveau|ancien|dernier|dernière|brouillon|"
    r"entrega|tarea|resuelto|nuevo|último|definitivo|consegna|svolto|resolvido|trabalho|"
    rf"最終版?|最终版?|完成版?|提出用?|作业|作業|答案|解答|新版?|旧版?|修改|최종|완성|제출|과제|{COPIED}))+[\W\d_]*",
    re.IGNORECASE,
)
#: What may stand before it; many a short word behind it is somebody's name here.
WORDS = (
    r"final|finale|solutions?|solved|homework|hw|assignment|submission|submitted|completed?|draft|version|v|rev|abgabe"
    rf"|lösung|hausaufgabe|fertig|entwurf|devoir|rendu|entrega|tarea|consegna|最終版?|最终版?|提出用?|作业|作業|{COPIED}"
)
NO_NAME_BEFORE = re.compile(rf"(?:[\W\d_]*(?:{WORDS}))+[\W\d_]*|\s*", re.IGNORECASE)
NO_NAME_LAST = re.compile(rf"(?<![\W_])(?:[\W_]+(?:{WORDS})[\d.]*)+[\W_]*\Z", re.IGNORECASE)
#: Files in a flat folder that are work though not notebooks.
WORK = (
    *(".pdf", ".doc", ".docx", ".odt", ".py", ".rar", ".7z", ".tar", ".gz", ".tgz", ".ipynb.txt", ".ipynb.json"),
    *(".html", ".htm", ".rtf", ".jpg", ".jpeg", ".png", ".heic", ".ipynb.crdownload", ".ipynb.part", ".ipynb.download"),
)
#: What a platform writes beside them.
NO_WORK = ("index.html", "index.htm")


#: How often a copy may have been copied.
MAX_COPIES = 6


def stem(name: str) -> str:
    """A notebook's or zip file's name without its extension, which may be there twice."""
    return re.sub(r"(?:\.(?:ipynb|zip))+$", "", name[-MAX_NAME:], flags=re.IGNORECASE)


@functools.lru_cache(maxsize=5000)  # asked for several times of each
def bare(name: str) -> str:
    """A file's name without its extension and what makes it a copy's."""
    name = unicodedata.normalize("NFC", stem(name))
    for _ in range(MAX_COPIES):
        name, before = COPY.sub("", name).strip(), name
        if name == before:
            break
    return name


def before_stage(name: str) -> str:
    """The student in student_02_lora_layer.ipynb; "" if the name has no stage in it, or nothing before it."""
    plain = bare(name)
    at = next((plain.lower().find(stage) for stage in STAGES if stage in plain.lower()), 0)
    before = plain[: max(at, 0)].strip(" _-.")
    without = NO_NAME_LAST.sub("", date_in(before, True)[1]).strip(" _-.")
    if re.search(r"[^\W\d_]", without):  # jane in jane_2027-03-05_v2
        return without if not NO_NAME_BEFORE.fullmatch(without) else ""
    if before.isdigit():  # a student's number, also one that could be a date
        return before
    return "" if NO_NAME_BEFORE.fullmatch(without) else before


def after_stage(name: str) -> str:
    """The student in 02_lora_layer_student.ipynb; "" if what stands there is no name, such as "final" or "v2"."""
    plain = bare(name)
    ends = [plain.lower().find(stage) + len(stage) for stage in STAGES if stage in plain.lower()]
    rest = plain[ends[0] :].strip(" _-.()") if ends else ""
    rest = re.sub(r"^[0-9]{1,2}(?:\)|[ _-])[ _-]*(?=[^\W\d_])", "", rest)  # a copy's number: (1) - Jane, 1_Jane
    return "" if not re.search(r"[^\W\d_]{2}", rest) or NO_NAME.fullmatch(date_in(rest, True)[1]) else rest


def student(name: str, notebook: bool, others: Container[str] = ()) -> str:
    """Whose a file is, by its name; "" if it is only the notebook's.

    Args:
        others: the stems of the names beside it: ann (1) is ann's copy where there is ann.
    """
    if any(stage in name.lower() for stage in STAGES):
        return before_stage(name) or after_stage(name)
    if not notebook:
        return name.partition(".")[0] or name
    plain = bare(name)
    return (plain if plain in others else COPY_OF_SOMEBODYS.sub("", stem(name)).strip()) or stem(name) or name


def looks_like_work(name: str) -> bool:
    """Whether a file that is not a notebook may be what a student handed in."""
    low = name.lower()
    return (low.endswith(WORK) and low not in NO_WORK) or any(stage in low for stage in STAGES)
