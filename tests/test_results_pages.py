"""Pages made of results: what students wrote stays text, verdicts are shown by their fields, a page is one file."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser

import pytest

from autograder.engine.assignment import Assignment, grade_id
from autograder.engine.job import Row
from autograder.evaluation import Result, result_from
from autograder.exercises import STAGES
from autograder.results import feedback, pictures, report, texts
from autograder.results.marks import Given
from autograder.results.templates import FOLDER, LONGEST, python, render
from lora_ref.checks.verdicts import ELSEWHERE, Fault, Verdict

STAGE = "02_lora_layer"
HOSTILE = "</pre></style><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }} \" ' &"
MARKER = 'zero is not "alpha" & not <rank>'


def results(fault: Fault | None) -> list[Result]:
    """Of all exercises: one reason for each of an exercise's checks."""
    return [
        result_from(e.id, [Verdict(c.id, c.contract, c.points, fault) for c in e.hidden])
        for e in STAGES[STAGE]
        if not e.manual
    ]


def row(fault: Fault | None, answers: Mapping[str, str] | None = None, **fields) -> Row:
    """Of the released notebook, with some answers in it."""
    cells = [
        {**cell, "source": (answers or {}).get(grade_id(cell), cell["source"])}
        for cell in Assignment.load(STAGE).release["cells"]
    ]
    return Row(student="jane", stage=STAGE, status="graded", results=results(fault), cells=cells, **fields)


@pytest.fixture(scope="module")
def assignment():
    return Assignment.load(STAGE)


class Alive(HTMLParser):
    """Collects what a browser would run or fetch."""

    def __init__(self, page: str):
        super().__init__()
        self.parts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "link", "iframe", "object", "embed", "form"):
            self.parts.append(tag)
        for name, value in attrs:
            outside = name in ("src", "href") and not re.match(r"data:image/(png|jpeg);base64,[\w+/=]*$|#", value or "")
            if name.startswith("on") or outside:
                self.parts.append(f"{tag} {name}={value}")

    def handle_data(self, data):
        if self.lasttag == "style" and re.search(r"url\(|@import", data):
            self.parts.append(data)


def test_what_students_wrote_stays_text(assignment):
    name = next(iter(assignment.answer_cells()))
    outputs = [
        {"output_type": "stream", "text": HOSTILE},
        {"output_type": "error", "traceback": [HOSTILE]},
        {"output_type": "display_data", "data": {"image/png": f'x" onerror="{HOSTILE}', "text/plain": HOSTILE}},
        {"output_type": "display_data", "data": {"image/png": "aGk="}},
    ]
    numbers = {str(number): outputs for number in range(len(assignment.release["cells"]))}
    hostile = row(Fault(HOSTILE, HOSTILE, HOSTILE), answers={name: HOSTILE}, notes=[HOSTILE], outputs=numbers)
    hostile.student, hostile.flags, hostile.problem = HOSTILE, [HOSTILE], HOSTILE
    for page in (feedback.page(assignment, hostile), report.page([hostile], 1.0)):
        assert Alive(page).parts == []
        assert HOSTILE in unescape(page)
    assert "data:image/png;base64,aGk=" in feedback.page(assignment, hostile)


def test_feedback_shows_a_verdicts_fields_each_reason_once(assignment):
    page = unescape(feedback.page(assignment, row(Fault(MARKER, "the likely cause", "section 9.9"))))
    first = results(None)[0]
    assert page.count(MARKER) == len(results(None))
    assert f"<dt>Seen</dt><dd>{MARKER}</dd>" in page
    assert "<dt>Likely</dt><dd>the likely cause</dd>" in page
    assert "<dt>Read</dt><dd>section 9.9</dd>" in page
    same = "; ".join(verdict.contract for verdict in first.verdicts[1:])
    assert f"<dt>For the same reason</dt><dd>{same}</dd>" in page

    empty = unescape(feedback.page(assignment, row(Fault("not done yet", raised="NotImplementedError"))))
    assert "For the same reason" not in empty
    assert unescape(feedback.page(assignment, row(None))).count("Every check passed.") == len(results(None))


def test_the_report_counts_causes_and_leaves_out_those_that_name_none():
    rows = [row(Fault("7.5", "the division by rank is missing")), row(Fault("8.5", "the division by rank is missing"))]
    rows += [row(Fault("9.5", ELSEWHERE)), row(None)]
    for number, graded in enumerate(rows):
        graded.student = f"student-{number}"
    assert all(students == {"student-0", "student-1"} for students in report.causes_of(rows).values())
    page = report.page(rows, 1.0)
    assert "2 of 4: the division by rank is missing" in page
    assert ELSEWHERE not in page


def test_the_histogram_has_everybody_in_it():
    counts = report.histogram([0, 11.5, 22, 22], 22)["counts"]
    assert sum(counts) == 4
    assert (counts[0], counts[-1]) == (1, 2)


def test_code_is_coloured_and_stays_what_it_was():
    source = 'def f(x):\n    """Doubles."""\n    return 2 * x  # <b> & "quotes"\n\n'
    marked = python(source)
    assert '<span class="k">def</span>' in marked
    assert unescape(re.sub(r"<[^>]*>", "", marked)) == source
    long = "x = '<b>'\n" * LONGEST
    assert "<" not in python(long)


def test_a_template_that_lacks_a_value_is_an_error():
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        render("start.html", wheel="a.whl")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.html")), ids=lambda path: path.name)
def test_no_template_marks_a_value_as_safe_but_the_style(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("safe") == (path.name == "base.html")
    assert "autoescape" not in text


HOSTILE_MARKDOWN = r"""
# <script>alert(1)</script>
[a](javascript:alert(1)) ![b](https://example.org/x.png) <img src=x onerror=alert(1)>
$\href{javascript:alert(1)}{x}$ $\text{</math><img src=x onerror=alert(1)>}$ $\text{&lt;script&gt;}$
$\style{background:url(//x)}{x}$ <https://example.org> [r]: https://example.org
"""


def test_written_answers_are_read_as_markdown_and_nothing_in_them_is_alive(assignment):
    right = "**B** is zero: $\\frac{\\alpha}{r} B A$ and `code`\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    given = {"2.8": Given(2.5, f"Look again.\n{HOSTILE_MARKDOWN}")}
    own = {"2.8": [{"png": 'x" onerror="'}, {"png": "aGk="}, {"text": HOSTILE}]}
    one = feedback.page(assignment, row(None, answers={"written_2_8": right}), given, own)
    assert "<strong>B</strong> is zero: <math" in one
    assert "<mfrac>" in one
    assert "<td>1</td>" in one
    other = feedback.page(assignment, row(None, answers={"written_2_8": HOSTILE_MARKDOWN}), given, own)
    assert Alive(one).parts == Alive(other).parts == []
    assert "not read yet" not in one
    assert "2.5 of 3 points" in unescape(one)


@pytest.mark.parametrize(
    "piece", ["[", "*a", ">", "`", "- ", "a|", "<", "![[", "$a", "$$a", "$x$ ", "[a](", "~~a", "{"]
)
def test_no_text_breaks_the_reader(piece):
    many = piece * (texts.LONGEST // len(piece) - 3)
    assert "end" in texts.markdown(f"{many}\n\nend")
    assert texts.markdown(many + " " * texts.LONGEST).startswith("<pre")
    assert "<math" in texts.formula("x" * 10)
    assert texts.markdown("$$\nx + y\n$$").startswith('<div tabindex="0"><math'), "the keyboard can scroll it"
    assert texts.formula("{" * 1000).startswith("<code>")


def test_a_picture_is_made_new_or_not_shown():
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    def encoded(picture, kind="PNG", **options):
        out = io.BytesIO()
        picture.save(out, kind, **options)
        return base64.b64encode(out.getvalue() + b"<script>").decode()

    note = PngInfo()
    note.add_text("Comment", "<script>alert(1)</script>")
    new = base64.b64decode(pictures.png(encoded(Image.new("RGBA", (2000, 20), (255, 0, 0, 128)), pnginfo=note)))
    assert b"script" not in new
    with Image.open(io.BytesIO(new)) as picture:
        assert (picture.format, picture.size, picture.mode) == ("PNG", (1600, 16), "RGB")
    assert pictures.png(encoded(Image.new("L", (9000, 9000)))) == "", "too many pixels"
    assert pictures.png(encoded(Image.new("RGB", (5, 5)), "JPEG")) == ""
    for bad in ("", "aGk=", "not base64!", "iVBORw0KGgo=", "A" * 10_000_000):
        assert pictures.png(bad) == ""
