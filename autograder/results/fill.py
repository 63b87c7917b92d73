"""Canvas's and Moodle's own tables with the grades filled in; nothing that was in them changes without a word."""

from __future__ import annotations

import html
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from autograder.results.roster import Person
from autograder.results.sheet import Sheet
from autograder.results.tables import ExportError, Final

#: Titles of Moodle's columns in the languages that we know them in; any other: --column.
GRADE = {"grade", "bewertung", "note", "calificación", "valutazione", "voto", "cijfer", "nota", "ocena", "betyg"}
MOST = re.compile(r"maximum|maximal|höchst|best(?!ät)|máxim|massim|maksim", re.IGNORECASE)
FEEDBACK = re.compile(r"(?=.*(feedback|retro|rück))(?=.*(comment|komment|coment))", re.IGNORECASE)
LOGIN = re.compile(r"e-?mail|courriel|correo|username|anmeldename|^id[ -]n|matrikel|login", re.IGNORECASE)
#: Moodle's column of full names, which a worksheet of blind marking lacks.
NAME = re.compile(r"name|naam|namn|nom\b|nombre|nome\b|nazwisk", re.IGNORECASE)
#: What a row says whose student Canvas leaves out, and so do we.
EXCUSED = "excused on the platform, and stays so"
#: What a cell says that has no grade.
EMPTY = {"", "-", "n/a"}


@dataclass(frozen=True)
class Columns:
    """Where things are in a platform's table.

    Attributes:
        platform: ``"moodle"`` or ``"canvas"``.
        own: the column with the platform's number of a student.
        names: all columns that may name one.
        who: the column with the real name.
        most, feedback: Moodle's columns for the maximum and for comments, or None.
    """

    platform: str
    own: int
    names: list[int]
    who: int
    most: int | None = None
    feedback: int | None = None


@dataclass
class Filled:
    """What came of filling in a table.

    Attributes:
        platform: ``"moodle"`` or ``"canvas"``.
        rows: student -> the row that is theirs.
        said: what a person should know -> of whom.
    """

    platform: str = ""
    rows: dict[str, list[str]] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def columns(rows: Sequence[Sequence[str]]) -> Columns:
    """Which platform's table it is, and where things are in it.

    Raises:
        ExportError: neither platform's.
    """
    header = list(rows[0])
    small = [title.casefold() for title in header]
    sis = [i for i, title in enumerate(small) if title.startswith("sis") or title == "integration id"]
    numbers = any(map(_numbered, header))  # of Canvas's assignments, whatever language the other titles are in
    if "id" in small and ({"student", "section"} <= set(small) or numbers):
        own = small.index("id")
        return Columns("canvas", own, [own, *sis], 0)
    numbered = sum(bool(re.fullmatch(r"\D+[0-9]+", row[0].strip())) for row in rows[1:] if row)
    if small and (small[0] == "identifier" or ({*small} & GRADE and numbered and numbered >= len(rows) // 2)):
        most = next((i for i, title in enumerate(header) if MOST.search(title)), None)
        feedback = next((i for i, title in enumerate(header) if FEEDBACK.search(title)), None)
        names = [0, *(i for i, title in enumerate(header) if i and LOGIN.search(title) and i != feedback)]
        who = next((i for i, title in enumerate(small) if NAME.search(title) and i not in names), 0)
        return Columns("moodle", 0, names, who, most, feedback)
    raise ExportError(
        "neither Moodle's grading worksheet (columns Identifier, Grade) nor Canvas's gradebook (Student, ID, Section); "
        f"its columns are: {', '.join(header)[:300]}"
    )


def _numbered(title: str) -> bool:
    return bool(re.search(r"\(\d+\)$", title))


def grade_column(header: Sequence[str], platform: str, stage: str, column: str | None) -> int:
    """The column that the grades belong in.

    Raises:
        ExportError: none, or several.
    """
    if platform == "moodle":
        matching = [i for i, title in enumerate(header) if (title == column if column else title.casefold() in GRADE)]
        if len(matching) != 1:
            raise ExportError(
                f"{len(matching)} columns for the grade: name one with --column, of {', '.join(header)[:300]}"
            )
        return matching[0]
    wanted = column or stage
    titles = [t for t in header if t == wanted or re.fullmatch(rf".*{re.escape(wanted)}.*\(\d+\)", t)]
    if len(titles) != 1:
        some = "; ".join(filter(_numbered, header))
        raise ExportError(f"{len(titles)} columns for {wanted}: name one with --column. There are: {some or 'none'}")
    return list(header).index(titles[0])


def people(sheet: Sheet) -> list[Person]:
    """The class list in a platform's table, or in one with the columns id, first_name, last_name and email.

    Raises:
        ExportError: it is none of these.
    """
    header = [title.casefold().replace(" ", "_") for title in sheet.rows[0]]
    if {"id", "first_name", "last_name"} <= set(header):
        at = {title: header.index(title) for title in header}
        rows = [[*row, *[""] * (len(header) - len(row))] for row in sheet.rows[1:] if any(row)]
        mail = at.get("email")
        return [
            Person(
                f"{row[at['first_name']]} {row[at['last_name']]}".strip(),
                (re.findall(r"[0-9]+$", row[at["id"]].strip()) or [""])[0],
                [cell for cell in (row[at["id"]].strip(), row[mail].strip() if mail is not None else "") if cell],
            )
            for row in rows
        ]
    where = columns(sheet.rows)
    persons = []
    for row in sheet.rows[1:]:
        row = [*row, *[""] * (len(sheet.rows[0]) - len(row))]
        number = _own_number(row[where.own])
        name = row[where.who].strip()
        if not number or name in ("Student, Test", "Test Student"):
            continue
        if where.platform == "canvas" and "," in name:
            last, _, first = name.partition(",")
            name = f"{first.strip()} {last.strip()}"
        persons.append(Person(name, number, [row[i].strip() for i in where.names if row[i].strip()]))
    return persons


def _keys(platform: str, cells: Sequence[str], domains: Collection[str]) -> set[str]:
    """What a student may be called: by the platform's number, by login or by what stands before one of the domains."""
    keys = {cell.strip().casefold() for cell in cells if cell.strip()}
    if platform == "moodle":
        keys |= {number for cell in cells[:1] for number in re.findall(r"(\d+)$", cell)}
    return keys | {key.partition("@")[0] for key in keys if key.partition("@")[2] in domains}


def _domains(rows: Iterable[Sequence[str]]) -> set[str]:
    """The domain of a table's addresses, if they are all of one: only then what stands before it tells a student."""
    domains = {cell.strip().partition("@")[2].casefold() for row in rows for cell in row if cell.count("@") == 1}
    return domains if len(domains) == 1 else set()


def _own_number(cell: str) -> str:
    """The platform's number of a student at the end of a cell, also with a spreadsheet's ".0"; "" if there is none.

    Raises:
        ExportError: a spreadsheet has rounded it.
    """
    if re.fullmatch(r"\d+[.,]?\d*E\+?\d+", cell.strip(), re.IGNORECASE):
        raise ExportError(f"{cell.strip()} is a number that a spreadsheet has rounded: download the table again")
    number = re.search(r"([0-9]+)(?:\.0)?$", cell.strip())
    return number[1] if number else ""


def _number(cell: str) -> float | None:
    try:
        value = float(cell.strip().replace(",", "."))
    except ValueError:
        return None  # "(read only)", "EX", or of a scale
    return value if math.isfinite(value) else None


def fill_sheet(
    sheet: Sheet,
    stage: str,
    results: Mapping[str, Final],
    column: str | None = None,
    above: bool = False,
    comments: Mapping[str, str] | None = None,
    numbers: Mapping[str, str] | None = None,
) -> Filled:
    """Write the grades into a platform's table.

    Args:
        sheet: it is changed.
        stage: as in the gradebook.
        results: from `autograder.results.tables.finals`.
        column: the title of the column, where the stage's name does not tell.
        above: write points above the stage's maximum too; else those rows stay as they are.
        comments: student -> text for Moodle's column of comments.
        numbers: the platform's number -> student (`autograder.intake.register.Register.numbers`).

    Raises:
        ExportError: the table is of another kind, or two rows fit one student.
    """
    where, header = columns(sheet.rows), sheet.rows[0]
    place = grade_column(header, where.platform, stage, column)
    done = Filled(where.platform)
    # intake calls a student of a platform "name-number": the number is the platform's own, in one column
    by_number: dict[str, set[str]] = defaultdict(set)
    folded: dict[str, list[str]] = defaultdict(list)
    for student in results:
        folded[student.casefold()].append(student)
        number = re.search(r"-([0-9]+)$", student)
        if number and (numbers or {}).get(number[1], student):
            by_number[number[1]].add(student)
    for known, student in (numbers or {}).items():
        if student in results:
            by_number[known].add(student)
    most = next((final.max_score for final in results.values()), None)
    domains = _domains([row[i] for i in where.names if i < len(row)] for row in sheet.rows[1:])
    scale = 1.0
    comma = any(re.fullmatch(r"\d+,\d+", row[i].strip()) for row in sheet.rows[1:]
                for i in (place, where.most) if i is not None and i < len(row))  # fmt: skip
    for row in sheet.rows[1:]:
        row += [""] * (len(header) - len(row))
        limit = None
        if where.platform == "canvas" and not row[where.own].strip():
            limit = _number(row[place])  # "Points Possible"
        elif where.most is not None:
            limit = _number(row[where.most])
        if limit is not None and most:
            if limit <= 0:
                raise ExportError(f"{header[place]}: the platform counts {limit:g} points: set a maximum there first")
            scale = limit / most
            if scale != 1:
                scaled = f"the platform counts {limit:g} points and the stage has {most:g}"
                done.said["scaled"] = [f"{scaled}: all grades are multiplied by {scale:g}"]
        candidates = sorted(by_number.get(_own_number(row[where.own]), ()))
        keys = sorted(_keys(where.platform, [row[i] for i in where.names], domains))
        called = [name for key in keys for name in folded.get(key, ())]
        exact = [name for name in called if name in row]
        if not candidates and len(called) > 1 and len(exact) == 1:
            called = exact
        fitting = sorted({*candidates, *called})
        if len(fitting) > 1:
            what = "the same number" if len(candidates) > 1 else "one row fits several"
            done.said[f"{what}, so no grade is written (python -m autograder student merge)"].append(
                f"{row[where.own]} ({', '.join(fitting[:10])})"
            )
            continue
        if not fitting:
            continue
        student = fitting[0]
        if student in done.rows:
            raise ExportError(f"two rows fit {student}: {done.rows[student][0]} and {row[0]}")
        done.rows[student] = row
        _fill_row(row, place, student, results[student], scale, comma, above, done)
        text = (comments or {}).get(student, "")
        if text and where.feedback is not None:
            new, old = html.escape(text, quote=False).replace("\n", "<br>"), row[where.feedback].strip()
            if old and old != new:
                done.said["a comment was there, and stays"].append(student)
            else:
                row[where.feedback] = new
    return done


def _fill_row(
    row: list[str],
    place: int,
    student: str,
    final: Final,
    scale: float,
    comma: bool,
    above: bool,
    done: Filled,
) -> None:
    """Write one grade, or say why not."""
    old = row[place].strip()
    if final.score is None:
        return
    if final.above and not above:
        return
    if old.upper() == "EX":
        done.said[EXCUSED].append(student)
        return
    new = f"{round(final.score * scale, 2):.10g}"
    if old.casefold() not in EMPTY and _number(old) != float(new):
        done.said["another grade was there"].append(f"{student} ({old} -> {new})")
    if old.casefold() in EMPTY or _number(old) != float(new):
        row[place] = new.replace(".", ",") if comma else new


def fill(
    table: str, stage: str, results: Mapping[str, Final], column: str | None = None, above: bool = False
) -> tuple[str, dict[str, list[str]], str]:
    """`fill_sheet` for a text.

    Returns:
        The new text; the rows that were filled in, by student; the platform.

    Raises:
        ExportError: as there.
    """
    try:
        sheet = Sheet.of(table)
    except ValueError as error:
        raise ExportError(str(error)) from None
    done = fill_sheet(sheet, stage, results, column, above)
    return sheet.text, done.rows, done.platform
