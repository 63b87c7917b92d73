"""A platform's own table as a file: read and written back in its encoding, with its separator, mark and quotes."""

from __future__ import annotations

import codecs
import csv
import io
from dataclasses import dataclass


@dataclass
class Sheet:
    """A CSV file.

    Attributes:
        rows: its cells, the titles first.
        encoding: what it is written in.
        separator: comma, semicolon or tab.
        lines: what ends its lines.
        first: a line ``sep=;`` that Excel put in front, or "".
        quoted: whether every cell stands in quotes.
    """

    rows: list[list[str]]
    encoding: str = "utf-8"
    separator: str = ","
    lines: str = "\r\n"
    first: str = ""
    quoted: bool = False

    @classmethod
    def read(cls, data: bytes) -> Sheet:
        """A file's table. What is not UTF-8 or UTF-16 with its mark is taken for Windows' western code page.

        Raises:
            ValueError: it is empty, or damaged.
        """
        if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            encoding = "utf-16-le" if data[:2] == codecs.BOM_UTF16_LE else "utf-16-be"
        elif b"\0" in data[:2]:  # without its mark: a title's first letter has a zero beside it
            encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
        else:
            encoding = "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8"
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            encoding = "cp1252"
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                raise ValueError('the table\'s encoding is unknown: save it as "CSV UTF-8"') from None
        sheet = cls.of(text)
        sheet.encoding = encoding
        return sheet

    @classmethod
    def of(cls, text: str) -> Sheet:
        """A text's table.

        Raises:
            ValueError: it is empty, or damaged.
        """
        text = text.removeprefix("\ufeff").lstrip("\r\n")
        lines, first = "\r\n" if "\r\n" in text else "\n", ""
        if text[:4].lower() == "sep=":
            first, _, text = text.partition("\n")
            first += "\n"
        head = text.partition("\n")[0]
        separator = max(",;\t", key=head.count)
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
        except csv.Error as error:
            raise ValueError(f"the table cannot be read ({error}): download it again") from None
        if not rows:
            raise ValueError("the table is empty")
        quoted = head.startswith('"') and head.count(f'"{separator}"') == len(rows[0]) - 1 > 0
        rows[0] = [title.strip() for title in rows[0]]
        return cls(rows, separator=separator, lines=lines, first=first, quoted=quoted)

    @property
    def text(self) -> str:
        """The table as text."""
        out = io.StringIO()
        writer = csv.writer(
            out,
            delimiter=self.separator,
            lineterminator=self.lines,
            quoting=csv.QUOTE_ALL if self.quoted else csv.QUOTE_MINIMAL,
        )
        writer.writerows(self.rows)
        return self.first + out.getvalue()

    @property
    def bytes(self) -> bytes:
        """The file; a letter that its encoding lacks, which only a comment can have, is written as HTML has it."""
        mark = "\ufeff" if self.encoding.startswith("utf-16") else ""
        return (mark + self.text).encode(self.encoding, "xmlcharrefreplace")
