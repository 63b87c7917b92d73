"""Whatever an exercise asks, its calls change nothing that is not theirs, and can be made again."""

import functools
import sys

import pytest
import torch

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import observe

#: `observe` looks for a room's exercise beside its probe.
EXERCISE = Exercise("0.0", "a call", names=("answer",), pure=("answer",))


def probe_call(names):
    return {"value": names.answer(torch.ones(2), [1, 2], {"a": [3]}).tolist()}


def effects(answer):
    assert sys.modules[probe_call.__module__].EXERCISE is EXERCISE
    seen = observe(probe_call, {"answer": answer}, {})
    assert "error" not in seen, seen
    return " ".join(effect["text"] for effect in seen.get("effects", []))


def adds_up(x, items, table, kept=[0]):  # noqa: B006 (the mistake)
    kept[0] += 1
    return x + kept[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x, items, table: x.mul_(2), "argument x: the tensor has other values"),
        (functools.partial(lambda x, items, table: x.mul_(2)), "argument 1: the tensor has other values"),
        (lambda x, items, table: [items.pop(), x][1] + 1, "argument items: the list had 2 items, and has 1"),
        (lambda x, items, table: [table["a"].append(1), x][1] + 1, "argument table"),
        (lambda x, items, table: [torch.set_grad_enabled(False), x][1] + 1, "left autograd switched off"),
        (lambda x, items, table: [torch.set_default_dtype(torch.float64), x][1] + 1, "default dtype"),
        (adds_up, "called again with the same arguments returned something else"),
        (lambda x, items, table: x + 1, ""),
    ],
)
def test_what_a_call_changes_is_told_and_put_back(answer, said):
    found = effects(answer)
    assert said in found if said else not found
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
