"""Notebooks damaged at random, through the whole command: each gets a row, and nothing stops the others."""

from __future__ import annotations

import json
import random
import signal

import grade_course
import pytest


def damaged(data: bytes, dice: random.Random) -> bytes:
    """A notebook file with one to four things wrong with it."""
    notebook = json.loads(data)
    for _ in range(dice.choice([1, 1, 2, 4])):
        dice.choice((cells, keys, values))(notebook, dice)
    text = json.dumps(notebook, ensure_ascii=dice.random() < 0.5)
    if dice.random() < 0.1:
        text = text.replace("lora", dice.choice(["\\ud800", "\\u0000", "x" * 1000]), 3)
    encoding = dice.choice(["utf-8"] * 12 + ["utf-8-sig", "utf-16", "latin-1"])
    raw = bytearray(text.encode(encoding, "replace"))
    for _ in range(dice.choice([0, 0, 0, 1, 5])):
        at = dice.randrange(len(raw) + 1)
        action = dice.randrange(3)
        if action == 0:
            raw[at : at + 1] = bytes([dice.randrange(256)])
        elif action == 1:
            del raw[at : at + dice.randrange(1, 2000)]
        else:
            raw[at:at] = raw[at : at + 500]
    return bytes(raw[: dice.randrange(len(raw) + 1)] if dice.random() < 0.05 else raw)


def cells(notebook, dice):
    """Copy, move, remove, retype or empty a cell."""
    found = notebook.get("cells")
    if not isinstance(found, list) or not found:
        return
    at = dice.randrange(len(found))
    action = dice.randrange(6)
    if action == 0:
        found.insert(dice.randrange(len(found)), found[at])
    elif action == 1:
        dice.shuffle(found)
    elif action == 2:
        del found[at : at + dice.randrange(1, 20)]
    elif action == 3 and isinstance(found[at], dict):
        found[at]["cell_type"] = dice.choice(["markdown", "code", "raw", "", 3, None])
    elif action == 4:
        found[at] = odd(dice)
    else:
        notebook["cells"] = dice.choice([found[:1], [], {}, {str(n): c for n, c in enumerate(found)}, [found]])


def keys(notebook, dice):
    """Drop or rename a key somewhere."""
    place = somewhere(notebook, dice)
    if isinstance(place, dict) and place:
        name = dice.choice(sorted(place))
        value = place.pop(name)
        if dice.random() < 0.3:
            place[dice.choice(["", "id", "source", "metadata", "nbgrader", name.upper()])] = value


def values(notebook, dice):
    """Put something of another type or size somewhere."""
    place = somewhere(notebook, dice)
    if place:
        place[dice.choice(sorted(place)) if isinstance(place, dict) else dice.randrange(len(place))] = odd(dice)


def somewhere(value, dice):
    """A container in a notebook, near its root or deep in it."""
    while True:
        inner = [v for v in (value.values() if isinstance(value, dict) else value) if isinstance(v, (dict, list))]
        if not inner or dice.random() < 0.15:
            return value
        value = dice.choice(inner)


def odd(dice):
    """A value that no notebook has there."""
    deep = []
    for _ in range(dice.choice([50, 900])):
        deep = [deep]
    return dice.choice(
        [None, True, 0, -1, 10**300, 1e308, float("nan"), "", "x" * 300_000, "\x00", [], {}, [None], {"": {}}, deep]
    )


def grade_damaged(root, count, seed):
    """A class of ``count`` damaged notebooks and four good ones, graded; returns the rows."""
    dice = random.Random(seed)
    good = {answer: grade_course.sample(answer) for answer in ("complete", "half-done", "buggy", "untouched")}
    for number in range(count):
        grade_course.hand_in(root, f"d{number}", damaged(good[dice.choice(sorted(good))], dice))
    for answer, data in good.items():
        grade_course.hand_in(root, answer, data)
    done = grade_course.grade(
        root, root / "out", "--workers", "2", "--anyway", "--cell-seconds", "10", "--seconds", "60"
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    rows = grade_course.grades(root / "out")
    assert set(rows) == {f"d{number}" for number in range(count)} | set(good)
    for row in rows.values():
        assert row["status"] == ("graded" if row["score"] else "needs attention"), row
        assert row["score"] or row["attention"], row
    assert [rows[answer]["score"] for answer in good] == ["22", "11", "18", "0"]
    return rows


def test_a_dozen_damaged_notebooks(tmp_path, bubblewrap):
    rows = grade_damaged(tmp_path, 12, 0)
    assert {row["status"] for row in rows.values()} == {"graded", "needs attention"}


@pytest.mark.slow
def test_a_thousand_damaged_notebooks(tmp_path, bubblewrap):
    rows = grade_damaged(tmp_path, 1000, 1)
    attention = sum(row["status"] != "graded" for row in rows.values())
    assert 100 < attention < 900


def test_names_stages_and_a_second_run_in_place(tmp_path, bubblewrap):
    """Names that a folder cannot tell apart, a student without a notebook, another stage, the outputs in between."""
    for student in ("ann lee", "ann-lee"):
        grade_course.hand_in(tmp_path, student, grade_course.sample("half-done"))
    first = tmp_path / "submitted"
    (first / "bo").mkdir()
    (first / "bo" / "homework.pdf").write_bytes(b"")
    for _ in range(2):
        done = grade_course.grade(first, first / "out", "--workers", "2")
        assert done.returncode == 1, done.stderr
        rows = grade_course.grades(first / "out")
        assert len(rows) == 3
        assert [row["score"] for student, row in rows.items() if student.startswith("ann-lee")] == ["11", "11"]
        assert "homework.pdf" in rows["bo"]["attention"]

    stage = "01_rank_theory"
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "cy.ipynb").write_bytes(grade_course.sample("complete", stage))
    done = grade_course.grade(tmp_path / "second", first / "out", "--stage", stage)
    assert done.returncode == 0, done.stderr
    both = grade_course.grades(first / "out")
    assert both.pop("cy")["score"] == "12"
    shared = ("status", "score", "attention", "2.1")
    assert {s: [row[k] for k in shared] for s, row in both.items()} == {
        s: [row[k] for k in shared] for s, row in rows.items()
    }


def test_an_interrupted_regrade_keeps_the_grades_that_were_there(tmp_path, bubblewrap):
    for number in range(2):
        grade_course.hand_in(tmp_path, f"s{number}", grade_course.sample("half-done"))
    out = tmp_path / "out"
    assert grade_course.grade(tmp_path, out, "--workers", "2").returncode == 0
    before = grade_course.grades(out)
    process = grade_course.start_held(tmp_path, out, 1, "--regrade")
    grade_course.wait_for(process, lambda: list((out / ".grading" / "results").glob("*.2.json")))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert len(list((out / ".grading" / "results").glob("*.2.json"))) == 1
    assert grade_course.grades(out) == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    from autograder.__main__ import main

    grade_course.hand_in(tmp_path, "ann", b"")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        line = ["grade", "--submissions", str(tmp_path), "--out", str(out), "--sandbox", "none"]
        assert main(line) == 2
        assert f"cannot write {out}" in capsys.readouterr().err
