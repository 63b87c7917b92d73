"""``--names``: who handed in what, in the instructor's own words, where no platform's form tells.

--names "{student}_{any}.ipynb"       a form of the file names; {student} is who, {any} is anything
--names "{student}/{any}/{any}.ipynb" of the last parts of their paths
--names students.csv                  a table: a file, folder or pattern, and the student; the first that fits counts
"""

from __future__ import annotations

import csv
import fnmatch
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from autograder.intake.identity import Place
from autograder.intake.names import MAX_NAME, NOBODY
from autograder.intake.walk import File

#: A file -> who handed it in, and how many names of its path tell it; None where nothing is said of it.
Who = Callable[[File], "tuple[str, int] | None"]


class NamesError(OSError):
    """``--names`` is not what it may be; the message says why."""


def rule(text: str) -> Who:
    """What ``--names`` says.

    Raises:
        NamesError: it is neither a form with {student} in it nor a table.
    """
    if "{student}" in text:
        return _form(text)
    try:
        data = Path(text).read_bytes()
    except OSError as error:
        raise NamesError(
            f"--names {text}: give a form with {{student}} in it, such as '{{student}}_{{any}}.ipynb', or a table of "
            f"two columns, file and student ({error.strerror})"
        ) from None
    return _table(data, text)


def _form(text: str) -> Who:
    if text.count("{student}") != 1 or set(re.findall(r"\{.*?\}", text)) - {"{student}", "{any}"}:
        raise NamesError(f"--names {text}: it must have {{student}} once, and otherwise only {{any}}")
    pattern = re.escape(text).replace(r"\{student\}", "(?P<student>[^/]+?)").replace(r"\{any\}", "[^/]*?")
    matcher, depth = re.compile(pattern, re.IGNORECASE), text.count("/") + 1
    level = text[: text.index("{student}")].count("/") + 1

    def who(file: File) -> tuple[str, int] | None:
        last = "/".join(part[:MAX_NAME] for part in file.parts[-depth:])
        match = matcher.fullmatch(last) if len(file.parts) >= depth else None
        return (match["student"].strip(), len(file.parts) - depth + level) if match else None

    return who


def _table(data: bytes, name: str) -> Who:
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        head = text.partition("\n")[0]
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=max(",;\t", key=head.count)) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise NamesError(f"--names {name} cannot be read ({error}): save it as CSV in UTF-8") from None
    short = next((n for n, row in enumerate(rows, 1) if len(row) < 2 or not row[0].strip() or not row[1].strip()), None)
    if short or not rows:
        raise NamesError(f"--names {name}: row {short or 1} needs two cells, a file and a student")
    pairs = [(row[0].strip().strip("/").casefold(), row[1].strip()) for row in rows]

    def who(file: File) -> tuple[str, int] | None:
        parts = [part.casefold() for part in file.parts]
        for pattern, student in pairs:
            for end in range(1, len(parts) + 1):
                for start in range(end):
                    if fnmatch.fnmatchcase("/".join(parts[start:end]), pattern):
                        return student, end
        return None

    return who


def places(files: Iterable[File], who: Who) -> Iterator[tuple[Place, list[File]]]:
    """Sorts files by whose they are; notebooks and zip files of which nothing is said are nobody's."""
    by_place: dict[Place, list[File]] = defaultdict(list)
    for file in files:
        claim = who(file)
        if claim:
            by_place[Place("name", claim[0], file.parts[: min(claim[1], len(file.parts) - 1)])].append(file)
        elif file.notebook:
            by_place[Place("nobody", NOBODY, file.parts[:-1])].append(file)
    yield from by_place.items()
