"""What holds of stage 03's checks alone; of all stages' alike: ``test_exercises.py``."""

import numpy as np
import pytest
import torch
from stage_answers import automatic, names_of, run, worked
from torch import nn

from autograder import evaluate
from autograder.exercises.mutant import worked_cells
from lora_ref.checks.stage03 import e2_match_targets, shared
from lora_ref.checks.verdicts import run_check

STAGE = "03_roberta_injection"


def test_a_wrong_layer_of_ones_own_costs_nothing_here():
    """Whoever pastes a layer that stage 2 has marked down is not marked down again."""
    cells = worked_cells(STAGE)
    pasted = (
        "class LinearWithLoRA(nn.Module):\n"
        "    def __init__(self, linear, rank, alpha, dropout=0.0):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(linear.in_features, linear.out_features)\n"
        "    def forward(self, x):\n"
        "        return self.linear(x)\n"
    )
    answer = run([cells[0], pasted, *cells[1:]])
    assert answer.namespace["LinearWithLoRA"].__module__ == "__answer__"
    report = evaluate(STAGE, answer.namespace, 0)
    assert report.score == report.max_score, str(report)


@pytest.mark.parametrize("name", names_of(STAGE))
def test_doing_nothing_earns_nothing(name):
    """The laziest functions of the right signature: what is returned is what was given, or None."""
    exercise = next(e for e in automatic(STAGE) if name in e.names)
    for lazy in (lambda *args, **kwargs: None, lambda first, *args, **kwargs: first):
        verdicts = [run_check(check, {**worked(STAGE).namespace, name: lazy}, 0) for check in exercise.hidden]
        if exercise.id == "3.6":
            assert [v.id for v in verdicts if not v.passed] == [f"3.6/{name}"]
        else:
            # the model itself comes back from a freeze that does nothing, too
            assert [v.id for v in verdicts if v.passed] in ([], ["3.1/returned"])


@pytest.mark.parametrize("seed", range(20))
def test_the_probes_model_has_its_traps(seed):
    inputs = e2_match_targets.draw_match(np.random.default_rng(seed), "parts")
    names = shared.layer_names(inputs)
    assert sum(name.endswith("query") for name in names) > len(shared.matches(inputs, ["query"])) >= 12
    assert {"my_query", "output_dense", "mixer.0", "extra.gate"} <= set(names)
    assert isinstance(shared.build(inputs).embeddings.value, nn.LayerNorm)
    one, two = (shared.build(inputs).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)  # a judge builds the student's model again
