"""Canvas's and Moodle's own tables: read, filled in and written back as they were."""

from __future__ import annotations

import csv
import io

import pytest
from platform_tables import CANVAS, MOODLE, RESULTS, STAGE, changed, rows_of, text_of

from autograder.results import tables
from autograder.results.fill import fill, fill_sheet, people
from autograder.results.sheet import Sheet
from autograder.results.tables import ExportError, Final


def test_moodles_table_gets_the_final_grades_and_nothing_else():
    text, filled, platform = fill(text_of(MOODLE), STAGE, RESULTS)
    assert platform == "moodle"
    assert changed(MOODLE, rows_of(text)) == {(1, 4): "19.5"}  # Bo's written answer waits for a person
    assert set(filled) == set(RESULTS)


def test_canvas_table_gets_the_final_grades_in_the_stages_column():
    text, filled, platform = fill(text_of(CANVAS), STAGE, {**RESULTS, "Bo-M-2345678": Final(0.0, 25)})
    assert platform == "canvas"
    assert changed(CANVAS, rows_of(text)) == {(2, 6): "19.5", (3, 6): "0"}
    assert set(filled) == set(RESULTS)


@pytest.mark.parametrize("table", [MOODLE, CANVAS], ids=["moodle", "canvas"])
def test_students_of_nbgraders_own_layout_are_found_by_login(table):
    text, filled, _ = fill(text_of(table), STAGE, {"ada": Final(25, 25)})
    assert list(filled) == ["ada"]
    assert list(changed(table, rows_of(text)).values()) == ["25"]


def test_a_number_inside_another_is_not_a_match():
    _, filled, _ = fill(text_of(MOODLE), STAGE, {"someone-234567": Final(1, 25), "x-12345678": Final(1, 25)})
    assert filled == {}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("table", "number"), [(MOODLE, "1234567"), (CANVAS, "1234567")], ids=["moodle", "canvas"])
def test_a_number_of_two_students_is_nobodys(table, number, order):
    results = dict([(f"ann-{number}", Final(25, 25)), (f"zed_9_900_x-{number}", Final(3, 25))][::order])
    sheet = Sheet.of(text_of(table))
    done = fill_sheet(sheet, STAGE, results)
    assert done.rows == {}
    assert changed(table, sheet.rows) == {}
    assert [("same number" in what, "ann-" in who[0], "zed_9" in who[0]) for what, who in done.said.items()] == [
        (True,) * 3
    ]
    others = [row for row in table if number not in "".join(row)]
    assert fill(text_of(others), STAGE, results)[1] == {}  # no row needs it


def test_a_number_is_the_platforms_own_and_no_other():
    table = [CANVAS[0], ["A, Ann", "101", "202", "ann", "S", "", ""], ["B, Bob", "303", "404", "bob", "S", "", ""]]
    assert fill(text_of(table), STAGE, {"bob-202": Final(3, 25)})[1] == {}
    assert list(fill(text_of(table), STAGE, {"ann-101": Final(3, 25)})[1]) == ["ann-101"]


@pytest.mark.parametrize(
    ("table", "results", "column", "message"),
    [
        ([["a", "b"], ["1", "2"]], RESULTS, None, "neither Moodle's grading worksheet"),
        ([], RESULTS, None, "empty"),
        (CANVAS, RESULTS, "03", "0 columns for 03.*01_rank_theory"),
        ([CANVAS[0] + ["more 02_lora_layer (79)"]], RESULTS, None, "2 columns for 02_lora_layer"),
        (MOODLE, {"ada": Final(1, 25), "Ada-1234567": Final(1, 25)}, None, None),
    ],
)
def test_what_cannot_be_filled_in_is_refused(table, results, column, message):
    if message is None:  # by number and by name, two students of the gradebook fit one row
        assert fill(text_of(table), STAGE, results, column)[1] == {}
        return
    with pytest.raises(ExportError, match=message):
        fill(text_of(table), STAGE, results, column)


GERMAN = [
    ["ID", "Vollständiger Name", "E-Mail-Adresse", "Status", "Bewertung", "Bestwertung",
     "Bewertung kann geändert werden", "Zuletzt geändert (Bewertung)", "Feedback als Kommentar"],
    ["Teilnehmer/in1234567", "Ada Löwe", "ada@example.org", "Abgegeben", "12,50", "50,00", "Ja", "-", ""],
    ["Teilnehmer/in2345678", "Bo M", "bo@example.org", "Abgegeben", "", "50,00", "Ja", "-", "schon da"],
]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_table_stays_in_its_encoding_with_its_separator_and_quotes(encoding, separator, quoting):
    out = io.StringIO()
    csv.writer(out, delimiter=separator, quoting=quoting, lineterminator="\n").writerows(GERMAN)
    before = out.getvalue().encode(encoding)
    sheet = Sheet.read(before)
    assert sheet.bytes == before
    comments = {"Ada-L-1234567": "2.8: <half>\nand more", "Bo-M-2345678": "well done"}
    done = fill_sheet(sheet, STAGE, {**RESULTS, "Bo-M-2345678": Final(25, 25)}, comments=comments)
    assert changed(GERMAN, sheet.rows) == {(1, 4): "39", (2, 4): "50", (1, 8): "2.8: &lt;half&gt;<br>and more"}
    assert done.said == {
        "scaled": ["the platform counts 50 points and the stage has 25: all grades are multiplied by 2"],
        "another grade was there": ["Ada-L-1234567 (12,50 -> 39)"],
        "a comment was there, and stays": ["Bo-M-2345678"],
    }


def test_excels_first_line_stays():
    sheet = Sheet.of("sep=;\r\n" + text_of(MOODLE).replace(",", ";"))
    assert sheet.text.startswith("sep=;\r\nIdentifier;")
    assert list(fill_sheet(sheet, STAGE, RESULTS).rows) == list(RESULTS)


def test_canvas_is_known_by_its_assignments_whatever_language_the_other_titles_are_in():
    table = [["Studierende", "ID", "Abschnitt", f"{STAGE} (78)"], ["L, Ada", "1234567", "S1", ""]]
    assert fill(text_of(table), STAGE, RESULTS)[2] == "canvas"


def test_a_worksheet_of_blind_marking_has_no_names():
    table = [[row[0], *row[3:]] for row in MOODLE]
    person = people(Sheet.of(text_of(table)))[0]
    assert (person.name, person.number) == ("Participant 1234567", "1234567")
    assert list(fill(text_of(table), STAGE, RESULTS)[1]) == list(RESULTS)


def test_an_excused_student_stays_excused_and_other_grades_are_named():
    table = [row[:] for row in CANVAS]
    table[2][6], table[3][6] = "EX", "3"
    sheet = Sheet.of(text_of(table))
    done = fill_sheet(sheet, STAGE, {**RESULTS, "Bo-M-2345678": Final(20.0, 25)})
    assert changed(table, sheet.rows) == {(3, 6): "20"}
    assert done.said["excused on the platform, and stays so"] == ["Ada-L-1234567"]
    assert done.said["another grade was there"] == ["Bo-M-2345678 (3 -> 20)"]
    again = fill_sheet(sheet, STAGE, {"Bo-M-2345678": Final(20.0, 25)})
    assert not again.said  # the same grade is not news


@pytest.mark.parametrize("maximum", ["nan", "inf", "1e999", "(read only)"])
def test_a_maximum_that_is_no_number_scales_nothing(maximum):
    table = [CANVAS[0], [*CANVAS[1][:6], maximum], *CANVAS[2:]]
    sheet = Sheet.of(text_of(table))
    fill_sheet(sheet, STAGE, RESULTS)
    assert changed(table, sheet.rows) == {(2, 6): "19.5"}


def test_another_maximum_is_scaled_and_said():
    table = [row[:] for row in CANVAS]
    table[1][6] = "100"
    sheet = Sheet.of(text_of(table))
    done = fill_sheet(sheet, STAGE, RESULTS)
    assert changed(table, sheet.rows) == {(2, 6): "78"}
    assert "multiplied by 4" in done.said["scaled"][0]
    table[1][6] = "0"
    with pytest.raises(ExportError, match="0 points"):
        fill(text_of(table), STAGE, RESULTS)


def test_a_renamed_student_is_found_by_the_registers_number():
    sheet = Sheet.of(text_of(CANVAS))
    done = fill_sheet(sheet, STAGE, {"bride": Final(3, 25)}, numbers={"2345678": "bride"})
    assert done.rows["bride"][0] == "M, Bo"


def test_another_assignments_worksheet_of_moodles_is_not_filled_in():
    assert not fill_sheet(Sheet.of(text_of(MOODLE)), STAGE, RESULTS, numbers={"1234567": "", "2345678": ""}).rows


def test_what_stands_before_an_address_tells_a_student_only_where_all_are_of_one_domain():
    for domain, found in (("example.org", ["ada"]), ("elsewhere.example", [])):
        table = [row[:] for row in MOODLE]
        table[2][2] = f"bo@{domain}"
        assert list(fill(text_of(table), STAGE, {"ada": Final(1, 25)})[1]) == found


def test_points_above_the_maximum_are_not_written_unasked():
    for above, cells in ((False, {}), (True, {(2, 6): "30"})):
        sheet = Sheet.of(text_of(CANVAS))
        fill_sheet(sheet, STAGE, {"Ada-L-1234567": Final(30, 25)}, above=above)
        assert changed(CANVAS, sheet.rows) == cells


@pytest.mark.parametrize(
    ("table", "name", "logins"),
    [(MOODLE, "Ada L", ["Participant 1234567", "ada@example.org"]), (CANVAS, "Ada L", ["1234567", "u1", "ada"])],
    ids=["moodle", "canvas"],
)
def test_a_platforms_table_is_a_class_list(table, name, logins):
    person = people(Sheet.of(text_of(table)))[0]
    assert (person.name, person.number, person.logins) == (name, "1234567", logins)


def test_nbgraders_own_class_list_is_one_too():
    person = people(Sheet.of("id,first_name,last_name,email\nann,Ann Mary,Lee,ann@example.org\n"))[0]
    assert (person.name, person.keys) == ("Ann Mary Lee", {"ann", "ann@example.org"})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_logins_in_capitals_and_tables_of_other_forms(separator, encoding):
    text = text_of([CANVAS[0], ["Lee, Ann", "1", "ANN", "Ann@UNI.EDU", "S1", "", ""]])
    if separator != ",":
        rows = list(csv.reader(io.StringIO(text)))
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=separator).writerows(rows)
        text = buffer.getvalue()
    sheet = Sheet.read(text.encode(encoding))
    assert list(fill_sheet(sheet, STAGE, {"ann": Final(20.0, 25.0)}).rows) == ["ann"]
    assert Sheet.read(sheet.bytes).rows[1][6] == "20"


def test_logins_that_differ_in_capitals_alone(tmp_path):
    table = text_of([CANVAS[0], ["Lee, Ann", "1", "ANN", "", "S1", "", ""]])
    _, filled, _ = fill(table, STAGE, {"ann": Final(20.0, 25.0), "Ann": Final(1.0, 25.0)})
    assert filled == {}, "either may be meant"
    _, filled, _ = fill(table, STAGE, {"ann": Final(20.0, 25.0), "ANN": Final(1.0, 25.0)})
    assert list(filled) == ["ANN"]


def test_more_points_than_there_are_stay_out_until_asked_for():
    table = text_of([CANVAS[0], ["Lee, Ann", "1", "ann", "ann", "S1", "", ""]])
    results = {"ann": Final(54.0, 25.0)}
    assert tables.too_many(results) == ["ann (54 of 25)"]
    assert rows_of(fill(table, STAGE, results)[0])[1][6] == ""
    assert rows_of(fill(table, STAGE, results, above=True)[0])[1][6] == "54"


def test_an_encoding_that_nobody_knows_is_named():
    with pytest.raises(ValueError, match="CSV UTF-8"):
        Sheet.read(b"J\x81rgen")


def test_a_number_that_a_spreadsheet_wrote_is_read_and_one_that_it_rounded_is_refused():
    saved = [[*row[:1], f"{row[1]}.0" if row[1].isdigit() else row[1], *row[2:]] for row in CANVAS]
    assert list(fill(text_of(saved), STAGE, {"Ada-L-1234567": Final(20, 25)})[1]) == ["Ada-L-1234567"]
    assert [person.number for person in people(Sheet.of(text_of(saved)))] == ["1234567", "2345678"]
    saved[2][1] = "1.23457E+06"
    with pytest.raises(ExportError, match="rounded"):
        fill(text_of(saved), STAGE, RESULTS)
    with pytest.raises(ExportError, match="rounded"):
        people(Sheet.of(text_of(saved)))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_read_and_gets_it(encoding):
    sheet = Sheet.read(text_of(CANVAS).encode(encoding))
    assert sheet.rows == CANVAS
    assert sheet.bytes.decode("utf-16") == text_of(CANVAS)
