"""Probing and verdicts: whatever a student's code does, a verdict comes out and the notebook is as it was."""

import dataclasses
import logging
import os
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch

from lora_ref.checks import check, probing, title, visible_checks
from lora_ref.checks.probing import MAX_TEXT, TimeLimit, array, observe, plain, raised
from lora_ref.checks.verdicts import Check, Fault, Verdict, close, effect_fault, messages, once, run_check


def probe_call(names, **inputs):
    return {"value": names.answer(**inputs)}


def seen_from(function, **inputs):
    return observe(probe_call, {"answer": function}, inputs, seconds=0.5)


def raising(error):
    def answer():
        raise error

    return answer


class Rude(Exception):
    def __str__(self):
        raise RuntimeError("no text for you")


@pytest.mark.parametrize(
    "error", [ValueError("v"), SystemExit(3), Rude(), GeneratorExit(), RecursionError(), MemoryError(), StopIteration()]
)
def test_any_error_becomes_an_observation(error):
    assert seen_from(raising(error))["error"]["type"] == type(error).__name__


def test_the_readers_own_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        seen_from(raising(KeyboardInterrupt()))


def test_a_missing_name_says_which():
    seen = observe(probe_call, {}, {})
    assert seen["error"]["type"] == "NotDefined"
    assert seen["error"]["text"] == "answer"


def test_the_line_of_the_students_code_is_named():
    space = {}
    exec(compile("def answer():\n    x = 1\n    return x.shape\n", "<cell 3>", "exec"), space)
    error = observe(probe_call, space, {})["error"]
    assert error["line"].startswith("line 3, in answer")


def loop_forever():
    while True:
        pass


def loop_and_swallow():
    iterator = iter([])
    while True:
        try:
            next(iterator)
        except:  # noqa: E722 (what a hurried student writes)
            iterator = iter([])
        sum(range(100))


def sleep_long():
    time.sleep(60)


@pytest.mark.parametrize("hang", [loop_forever, loop_and_swallow, sleep_long])
def test_a_hang_ends(hang):
    assert seen_from(hang)["error"]["type"] == "TimeLimit"


def test_a_hang_ends_in_another_thread_too():
    seen = {}
    thread = threading.Thread(target=lambda: seen.update(seen_from(loop_forever)))
    thread.start()
    thread.join()
    assert seen["error"]["type"] == "TimeLimit"


def test_an_import_is_not_cut_in_half(tmp_path, monkeypatch):
    """What torch and others load on first use may take longer than an answer; half loaded, it stays broken."""
    (tmp_path / "slow_to_load.py").write_text("import time\ntime.sleep(1)\nvalue = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def answer():
        import slow_to_load

        return slow_to_load.value

    assert seen_from(answer) == {"value": 7}
    in_thread = []

    def elsewhere():
        sys.modules.pop("slow_to_load")
        in_thread.append(seen_from(answer))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert in_thread == [{"value": 7}]


def test_imports_buy_no_endless_time(tmp_path, monkeypatch):
    (tmp_path / "loads_for_a_moment.py").write_text("import time\ntime.sleep(0.2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def answer():
        while True:
            sys.modules.pop("loads_for_a_moment", None)
            import loads_for_a_moment  # noqa: F401

    assert seen_from(answer)["error"]["type"] == "TimeLimit"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer to be left behind")
def test_no_time_limit_is_left_behind():
    before = signal.getsignal(signal.SIGALRM)
    seen_from(loop_forever)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def noisy():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    warnings.warn("a warning")
    logging.getLogger("transformers").warning("a log line")
    os.write(2, b"from C\n")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.set_grad_enabled(False)
    return 1


def test_stderr_stays_empty_and_global_state_as_it_was(capfd):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    seen = seen_from(noisy)
    left = {
        "autograd switched off": "setting",
        "torch's default dtype as torch.float64": "setting",
        "the random seed at 5": "seed",
    }
    effects = [{"rule": rule, "text": f"answer left {how}"} for how, rule in left.items()]
    assert seen == {"value": 1, "printed": "to stdout\n", "effects": effects}
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    logging.getLogger("lora_ref.test").warning("heard again")


def test_a_flood_of_output_is_cut():
    assert len(seen_from(lambda: print("x" * 10**6))["printed"]) == MAX_TEXT


class Lying(torch.Tensor):
    def __eq__(self, other):
        return True

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return torch.ones(2)


def test_a_tensor_that_lies_is_read_as_it_is():
    lying = torch.zeros(3).as_subclass(Lying)
    assert array(lying).tolist() == [0.0, 0.0, 0.0]


class LyingFloat(float):
    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.mark.parametrize("value", [object(), LyingFloat(3), {1, 2}, np.array(["a"]), np.array([None]), 1j, b"x"])
def test_only_plain_data_passes(value):
    with pytest.raises(TypeError):
        plain({"value": [value]})


def test_plain_data_is_bounded_and_copied():
    values = np.zeros(3)
    kept = plain({"a": values, "b": (1, None, "x" * 10**6)})
    values += 1
    assert kept["a"].tolist() == [0, 0, 0]
    assert len(kept["b"][2]) == MAX_TEXT
    with pytest.raises(ValueError, match="too large"):
        plain(np.zeros(5_000_000))


def test_array_refuses_what_is_not_a_tensor():
    with pytest.raises(TypeError, match="expected a tensor, got list"):
        array([1.0])


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
def test_array_keeps_values(dtype):
    tensor = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    assert array(tensor).tolist() == tensor.tolist()
    assert array(tensor[:0]).shape == (0, 2)


def test_raised_tells_the_kind_and_lets_a_gap_through():
    assert raised(lambda: 1) is None
    assert "ValueError" in raised(raising(UnicodeError("u")))["bases"]
    with pytest.raises(NotImplementedError):
        raised(raising(NotImplementedError("Exercise 2.1")))
    with pytest.raises(TimeLimit):
        raised(raising(TimeLimit()))


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ([1.0], [1.0], True),
        ([1.0], [[1.0]], False),
        ([float("nan")], [float("nan")], False),
        ([1e6 + 1], [1e6], True),
        ([1.001], [1.0], False),
        ([], [], True),
        ([1.0], [float("inf")], False),
    ],
)
def test_close(actual, expected, same):
    assert close(actual, expected) is same


def judged(function, judge, **changes):
    check = Check("9.1/x", "it must hold", probe_call, judge, points=1.0)
    return run_check(dataclasses.replace(check, **changes), {"answer": function})


def test_a_judge_never_raises_on_a_strange_observation():
    verdict = judged(lambda: "text", lambda inputs, seen: seen["value"].shape and None)
    assert not verdict.passed
    assert "unexpected form" in verdict.message


def test_a_verdict_teaches():
    verdict = judged(lambda: 16.0, lambda i, s: Fault("ratio 16, expected 2", "the division is missing", "section 2.3"))
    assert verdict.message == (
        "FAIL  it must hold\n      seen: ratio 16, expected 2.  Likely: the division is missing.  Read: section 2.3."
    )
    assert verdict.earned == 0.0


def test_an_earlier_mistake_is_not_charged_twice(monkeypatch):
    space = {}
    exec("def helper():\n    return 1\n\ndef answer():\n    return helper() + 1\n", space)

    def judge(inputs, seen):
        return None if seen["value"] == 11 else Fault("wrong")

    monkeypatch.setattr(probing, "stand_ins", lambda probe, names, wanted: dict.fromkeys(wanted, lambda: 10))
    check = Check("9.2/x", "answer is helper() + 1", probe_call, judge, builds_on=("helper",))
    assert run_check(check, space).passed
    copied = {"helper": space["helper"], "answer": space["answer"]}  # another dict than the functions' globals
    assert run_check(check, copied).passed
    assert space["helper"]() == 1, "the student's own is back in its place"
    assert not run_check(dataclasses.replace(check, builds_on=()), space).passed


def test_the_same_seed_draws_the_same_inputs():
    drawn = []
    check = Check("9.3/x", "c", probe_call, lambda i, s: None, lambda rng: {"n": float(rng.normal())})
    for seed in (1, 1, 2):
        run_check(check, {"answer": lambda n: drawn.append(n) or 0}, seed)
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_reason_is_given_once():
    """One mistake may break several contracts: each is named, and the reason stands with the first."""

    def said(*faults):
        verdicts = [Verdict(f"9.3/{n}", f"contract {n}", fault=fault) for n, fault in enumerate(faults)]
        return [part.split("\n") for part in messages(verdicts)]

    same, other = Fault("seen", "likely", "section 9.3"), Fault("seen", "another")
    first, second, passed = said(same, other, same, None, same)
    reason = "        seen: seen.  Likely: likely.  Read: section 9.3."
    assert first == ["  FAIL  contract 0", reason, "        for the same reason: contract 2; contract 4"]
    assert second == ["  FAIL  contract 1", "        seen: seen.  Likely: another."]
    assert passed == ["  ok    contract 3"]
    assert len(said(Fault("not done yet"), Fault("not done yet"))) == 1


def test_what_a_call_changes_beside_costs_once_where_it_is_cheapest():
    fault = effect_fault("argument", "answer changed its argument x: other values")
    prices = [(1.0, fault), (0.5, fault), (0.5, fault), (0.25, None), (0.25, Fault("wrong"))]
    verdicts = [Verdict(f"9.3/{n}", "", points, said) for n, (points, said) in enumerate(prices)]
    assert [verdict.passed for verdict in once(verdicts)] == [True, True, False, True, False]


def test_an_unknown_exercise_says_which_there_are():
    with pytest.raises(KeyError, match=r"no exercise '7.1'; there are 1.1, 1.2"):
        check("7.1", {})
    with pytest.raises(KeyError):
        visible_checks("2.99")


def test_a_visible_check_prints_a_report_and_has_a_value_only_when_it_fails(capsys):
    assert check("2.1", {}) == 0.0
    assert float(repr(check("2.1", {}))) == 0.0, "nbgrader's Validate reads it as no points"
    out = capsys.readouterr().out
    assert title("2.1") in out
    assert "LoRALayer is not defined" in out
    from lora_ref import LoRALayer

    assert check("2.1", {"LoRALayer": LoRALayer}) is None
    assert "visible checks passed." in capsys.readouterr().out
