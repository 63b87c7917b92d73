"""Gradescope: ``assignment_55_export/submission_66/...ipynb``; ``submission_metadata.yml`` says who 66 is."""

from __future__ import annotations

import re
from collections.abc import Mapping

from autograder.intake.names import Key
from autograder.intake.rule import Rule
from autograder.intake.walk import Unreadable

#: Bytes of metadata that are read.
MAX_ROSTER = 10_000_000


def people(roster: bytes) -> dict[str, list[Key]]:
    """Folder -> who handed in, from Gradescope's metadata.

    A person is ("sid", number) or, without a number, ("name", name or address).

    Raises:
        Unreadable: it is not YAML, or too large.
    """
    import yaml  # late: no other platform needs it

    if len(roster) > MAX_ROSTER:
        raise Unreadable(f"submission_metadata.yml has {len(roster):,} bytes; at most {MAX_ROSTER:,} are read")
    # the safe loader without its types: a number as it is written, 007 and not 7
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        data = yaml.load(roster.decode("utf-8", "replace"), loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unreadable(f"submission_metadata.yml cannot be read: {str(error)[:200]}") from None
    students: dict[str, list[Key]] = {}
    for folder, submission in data.items() if isinstance(data, dict) else ():
        if not isinstance(submission, dict) or not re.fullmatch("submission_[0-9]+", str(folder)):
            continue
        listed = submission.get(":submitters", [submission])
        persons = [_fields(person) for person in listed if isinstance(person, dict)] if isinstance(listed, list) else []
        students[folder] = list(dict.fromkeys(filter(None, map(_key, persons))))
    return students


def _fields(person: Mapping[str, object]) -> dict[str, str]:
    fields = {what: person.get(f":{what}") for what in ("sid", "email", "name")}
    return {what: " ".join(text.split())[:1000] for what, text in fields.items() if isinstance(text, str)}


def _key(person: Mapping[str, str]) -> Key | None:
    given = {what: text for what, text in person.items() if text and text not in ("~", "null")}
    if "sid" in given:
        return "sid", given["sid"]
    name = given.get("name") or given.get("email")
    return ("name", name) if name else None


RULE = Rule(
    "Gradescope",
    folder=re.compile(r"submission_[0-9]+\Z"),
    export=re.compile(r"assignment_[0-9]+_export"),
    roster="submission_metadata.yml",
    people=people,
)
