"""What is said about an error in a student's code: its cause where the error tells it, and none otherwise."""

import pytest

from lora_ref.checks.probing import NotDefined, describe_error, observe
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Verdict, by_reason, error_fault, once


def hint(kind, text, line="line 2, in f: f()", **more):
    return error_fault({"type": kind, "text": text, "line": line, **more}).likely


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("AttributeError", "'LoRALayer' object has no attribute 'alpha'", "a LoRALayer has no .alpha"),
        ("AttributeError", "cannot assign parameters before Module.__init__() call", "super().__init__() is missing"),
        ("AttributeError", "'LoRALayer' object has no attribute '_parameters'", "super().__init__() is missing"),
        ("AttributeError", "'tuple' object has no attribute 'requires_grad'", "yields pairs"),
        ("TypeError", "empty() takes 1 positional argument but 2 were given", "not a whole number"),
        ("TypeError", "randn() received an invalid combination of arguments - got (float, int)", "not a whole number"),
        ("TypeError", "endswith first arg must be str or a tuple of str, not list", "a tuple of strings"),
        ("ValueError", "Unable to create tensor, you should probably activate truncation", "leave it out"),
        ("NameError", "name 'np' is not defined", "run the set-up cell"),
        (
            "RuntimeError",
            'Error(s) in loading state_dict for M: Missing key(s) in state_dict: "a"',
            "wants all of them",
        ),
        (
            "NotImplementedError",
            'Module [L] is missing the required "forward" function',
            "the method's name is forward",
        ),
    ],
)
def test_an_error_that_tells_its_cause_has_it_named(kind, text, says):
    assert says in hint(kind, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("TypeError", "'int' object is not iterable"),
        ("RuntimeError", "something went wrong inside"),
        ("ValueError", "no such thing"),
    ],
)
def test_any_other_error_is_quoted_without_a_cause(kind, text):
    assert hint(kind, text) == ""


def test_the_missing_names_of_a_state_dict_are_quoted():
    error = RuntimeError('Error(s) in loading state_dict for M:\n\tMissing key(s) in state_dict: "head.weight".')
    assert "head.weight" in describe_error(error)["text"]


def test_a_name_that_is_spelled_nearly_the_same_is_named():
    def matrix_rnak(M):
        return 0

    matrix_rnak.__module__ = "__main__"
    space = {"__name__": "__main__", "matrix_rnak": matrix_rnak}
    seen = observe(lambda names: {"rank": names.matrix_rank(1)}, space, {})
    assert error_fault(seen["error"]).likely == "your notebook defines matrix_rnak"
    assert describe_error(NotDefined("x"))["near"] == ""


def test_dots_at_the_end_stay():
    assert str(Fault("x", "write x = x * ..., not x *= ...")).endswith("not x *= ...")


def failed(check_id, fault, after=()):
    return Verdict(check_id, check_id, fault=fault, after=after)


def test_what_follows_from_a_basic_failure_names_no_cause_of_its_own():
    first, second, error = once(
        [
            failed("1.1/a", Fault("0, expected 1", "the first cause")),
            failed("1.1/b", Fault("2, expected 3", "a cause that may be false"), ("1.1/a",)),
            failed("1.1/c", error_fault({"type": "KeyError", "text": "'k'", "line": "line 1, in f"}), ("1.1/a",)),
        ]
    )
    assert (first.fault.likely, second.fault.likely) == ("the first cause", ELSEWHERE)
    assert error.fault.likely != ELSEWHERE
    assert once([second, failed("1.1/a", None)])[0] == second
    assert Check("1.1/x", "", observe, lambda *_: None).after == ()


def test_one_line_that_raises_is_one_reason():
    error = {
        "type": "RuntimeError",
        "text": "mat1 and mat2 shapes cannot be multiplied",
        "line": "line 4, in forward: x",
    }
    faults = [error_fault(error | {"text": error["text"] + size}) for size in (" (12x7 and 2x7)", " (4x11 and 6x11)")]
    prefixed = [
        Fault(f"{prefix}{fault.seen}", fault.likely) for prefix, fault in zip(("", "rank 1: "), faults, strict=True)
    ]
    assert len(by_reason([failed(str(n), fault) for n, fault in enumerate(prefixed)])) == 1
