"""Mark schemes: the points as data agree with the exercise and with the sentences in the master."""

import re

import pytest

from autograder.engine.assignment import Assignment, source_of
from autograder.exercises import ROOT, STAGES, stage_of
from autograder.exercises.scheme import Part, Point, earned, keys, total

WRITTEN = [exercise for exercises in STAGES.values() for exercise in exercises if exercise.manual]


@pytest.mark.parametrize("exercise", WRITTEN, ids=lambda exercise: exercise.id)
def test_the_parts_add_up_and_agree_with_the_prose(exercise):
    stage = stage_of(exercise.id)
    prose = (ROOT / "solutions" / stage / f"{stage}.py").read_text(encoding="utf-8")
    prose = prose.partition("BEGIN MARK SCHEME")[2].partition("END MARK SCHEME")[0]
    assert total(exercise.scheme) == exercise.points
    written = {name: float(points) for points, name in re.findall(r"\*\*([\d.]+) points?, \((\w)\)\*\*", prose)}
    if each := re.search(r"Each part has ([\d.]+) points", prose):
        written = dict.fromkeys(re.findall(r"^# - \*\*\((\w)\)\*\*", prose, re.MULTILINE), float(each[1]))
    assert {part.name: part.points for part in exercise.scheme} == written


@pytest.mark.parametrize("exercise", WRITTEN, ids=lambda exercise: exercise.id)
def test_every_part_can_be_earned_in_full_and_every_switch_says_something(exercise):
    best = earned(exercise.scheme, [key for key, (_, point) in keys(exercise.scheme).items() if point.points])
    assert best == {part.name: part.points for part in exercise.scheme}
    for part, point in keys(exercise.scheme).values():
        assert point.text
        assert point.comment.startswith(f"({part.name}) ")
    assert max(len(part.switches) for part in exercise.scheme) <= 9, "a number key for each"


@pytest.mark.parametrize("exercise", WRITTEN, ids=lambda exercise: exercise.id)
def test_the_evidence_is_found_in_the_release(exercise):
    sources = [
        source_of(c) for c in Assignment.load(stage_of(exercise.id)).release["cells"] if c["cell_type"] == "code"
    ]
    for phrase in exercise.evidence:
        assert sum(phrase in source for source in sources) == 1, phrase
    assert exercise.evidence or exercise.id not in ("2.8", "5.5")


def test_a_part_earns_no_more_than_it_has():
    scheme = (Part("a", 1, (Point(1, "whole"), Point(0.5, "half"), Point(0, "wrong"))),)
    assert earned(scheme, ["a1", "a2"]) == {"a": 1}
    assert earned(scheme, ["a2", "a3"]) == {"a": 0.5}
    with pytest.raises(KeyError):
        earned(scheme, ["b1"])
