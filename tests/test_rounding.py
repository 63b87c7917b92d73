"""Every number that people read is written in one place, and a library's words are known as such."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import lora_ref
from lora_ref import rounding
from lora_ref.checks.probing import describe_error, raised

CHECKS = sorted((Path(lora_ref.__file__).parent / "checks").rglob("*.py"))


@pytest.mark.parametrize("noise", [-3e-7, 3e-7])
@pytest.mark.parametrize("value", [5.445, 3.125, 6.435, 12.45, 0.1255, 1.0])
def test_a_value_on_an_edge_falls_on_the_same_side_everywhere(value, noise):
    assert rounding.number(value * (1 + noise)) == rounding.number(value)


@pytest.mark.parametrize("value", [-0.0, 7.69e-15, -2.952e-7, np.float32(1e-6)])
def test_what_a_comparison_takes_for_zero_is_shown_as_zero(value):
    assert rounding.number(value) == "0"
    assert rounding.pair(value, 1.0) == ("0", "1")


#: What is shown as it was drawn: a power of ten, and metrics of which exercise 4.6 compares the digits.
DRAWN = ("{factor:.0e}", "{metrics[key]:.8g}")


def test_checks_leave_digits_to_one_place():
    texts = [text for path in CHECKS for text in re.findall(r"\{[^{}]*:\.\d+[efg]\}", path.read_text(encoding="utf-8"))]
    assert sorted(texts) == sorted(DRAWN)


def test_a_librarys_words_are_told_from_the_students():
    def own():
        raise ValueError("no layer matches 'qurey'")

    def librarys():
        torch.zeros(2, 3) @ torch.zeros(2, 3)

    def pythons():
        return [len(3) for _ in range(1)]

    assert [raised(call)["quoted"] for call in (own, librarys, pythons)] == [False, True, True]


def test_a_comprehension_is_named_after_its_function():
    """From Python 3.12 on it has no frame of its own."""

    def fails():
        return [len(number) for number in (1, 2)]

    with pytest.raises(TypeError) as caught:
        fails()
    assert ", in fails: " in describe_error(caught.value)["line"]
