"""What holds of stage 02's checks alone; of all stages' alike: ``test_exercises.py``."""

import dataclasses

import numpy as np
import pytest
import torch
from hostile_answers import hangs
from stage_answers import automatic, hidden_check, worked

from lora_ref.checks import probing
from lora_ref.checks.gaps import after
from lora_ref.checks.stage02 import shared
from lora_ref.checks.verdicts import draw, judge, run_check

STAGE = "02_lora_layer"


@pytest.mark.parametrize("name", ["LoRALayer", "LinearWithLoRA", "LoRAParametrization", "project_up"])
def test_what_hangs_is_a_verdict_of_every_check(name, monkeypatch):
    """Whether the student's class is made, or one of its methods is called."""
    monkeypatch.setattr(probing, "TRIES", 1)
    for exercise in automatic(STAGE):
        for check in exercise.hidden if name in exercise.names else []:
            if check.id not in ("2.7/fold_in", "2.7/make_factors"):
                check = dataclasses.replace(check, seconds=0.02)
                verdict = run_check(check, {**worked(STAGE).namespace, name: hangs}, 0)
                assert not verdict.passed
                assert "still running" in verdict.message


def test_uninitialised_memory_is_seen_even_where_it_holds_good_values():
    with shared.uninitialised_is_nan():
        assert torch.empty(3).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_demonstrations_wait_for_their_exercise(capsys):
    with after("2.2", "a picture"):
        raise NotImplementedError("Exercise 2.2")
    assert "After exercise 2.2" in capsys.readouterr().out
    with after("2.2", "a picture"):
        1 / 0  # noqa: B018
    assert "raised: ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_an_update_added_twice_does_not_hide_beside_a_huge_weight():
    check = hidden_check("2.5/twice")
    inputs = draw(check, 0)
    huge = np.full_like(inputs["W"], 1e30)
    update = inputs["B"] @ inputs["A"]
    states = [{"W": (huge + n * update).astype(np.float32), "merged": n > 0} for n in range(3)]
    assert "the wrapped layer's weight is not the one" in judge(check, inputs, {"states": states}).message
