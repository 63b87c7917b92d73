"""A likely cause that several mistakes of an exercise share must be true of each.

``python tests/test_shared_causes.py`` lists them all, to be read.
"""

import re
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[1] / "autograder" / "exercises" / "MESSAGES.md"
#: Two mistakes that look alike in one number or output, and are not: a cause that both are given would be false of one.
DIFFERENT = [
    ("1.1/rows-not-zero", "1.1/no-tolerance"),
    ("1.1/of-the-norm", "1.1/rtol-ignored"),
    ("1.2/zero-is-all", "1.2/one-more"),
    ("1.5/none-is-two", "1.5/always-adam"),
    ("2.6/cached", "2.6/off-in-evaluation"),
    ("3.4/rank-and-alpha", "3.4/rank-fixed"),
    ("3.4/rank-and-alpha", "3.4/alpha-fixed"),
    ("3.5/state", "3.5/shared-twice"),
    ("4.1/cuts-words", "4.1/fixed-max-length"),
    ("4.6/values-alone", "4.6/generous"),
    ("5.2/shares", "5.2/relative"),
]


def causes():
    """Mistake -> the likely causes that its messages name."""
    rows = re.findall(r"^\| `([\d.]+/[^`]+)`<br>.*?\| (.*) \|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        mistake: {
            cause for cause in re.findall(r"Likely: (.*?)(?:  Read: |<br>|$)", said) if "other checks" not in cause
        }
        for mistake, said in rows
    }


def shared():
    """(Exercise, cause) -> the mistakes that are given it, where there are several."""
    groups = {}
    for mistake, named in causes().items():
        for cause in named:
            groups.setdefault((mistake.partition("/")[0], cause), []).append(mistake)
    return {key: mistakes for key, mistakes in groups.items() if len(mistakes) > 1}


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_mistakes_are_given_no_cause_in_common(one, other):
    named = causes()
    alike = named[one] & named[other] - {cause for cause in named[one] if cause.startswith("0 / 0")}
    assert not alike


def test_what_mistakes_of_an_exercise_share_can_be_listed():
    listed = shared()
    assert len(listed) > 20
    assert all(len(mistakes) < 8 for mistakes in listed.values()), "a cause for everything is a cause of nothing"


if __name__ == "__main__":
    for (exercise, cause), mistakes in shared().items():
        print(f"{exercise}  {cause}\n      {', '.join(mistakes)}")
