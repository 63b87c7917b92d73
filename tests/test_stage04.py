"""What holds of stage 04's checks alone; of all stages' alike: ``test_exercises.py``."""

import numpy as np
import pytest
import torch
from hostile_answers import stub
from stage_answers import POINTS, hidden_check, names_of, right_answers, worked

from autograder import evaluate
from autograder.evaluation import evaluate_exercise
from lora_ref import data, models, profiles
from lora_ref.checks.stage04 import e4_train
from lora_ref.checks.verdicts import run_check

STAGE = "04_sst2_training"


def test_tokenize_works_inside_map():
    """What the checks do not run: Dataset.map hands over its own kind of batch."""
    tiny = profiles.get("tiny")
    rows, tokenizer = data.reviews(tiny)["test"], models.tokenizer(tiny)
    for answer in right_answers(STAGE).values():
        namespace = answer.namespace
        mapped = rows.map(namespace["tokenize"], batched=True, fn_kwargs={"tokenizer": tokenizer, "max_length": 6})
        assert max(len(ids) for ids in mapped["input_ids"]) == 6
        batch = namespace["collate"](list(mapped.remove_columns("sentence").select(range(3))), tokenizer)
        assert batch["labels"].tolist() == rows["label"][:3]


@pytest.mark.parametrize(
    "value",
    [
        [float("nan")] * 4,
        {"input_ids": [[1]], "attention_mask": [[1]], "accuracy": float("nan"), "labels": None},
        {key: torch.full((5, 9), torch.nan) for key in ("input_ids", "attention_mask", "labels")},
    ],
    ids=["losses", "lists", "tensors"],
)
def test_nothing_of_the_right_form_alone_earns_anything(value):
    report = evaluate(STAGE, dict.fromkeys(names_of(STAGE), stub(value)), 0)
    assert report.score == 0, str(report)


def test_nan_losses_are_not_the_models_own():
    def train(model, loader, steps, lr):
        worked(STAGE).namespace["train"](model, loader, steps, lr)
        return [float("nan")] * steps

    result = evaluate_exercise("4.4", {**worked(STAGE).namespace, "train": train}, 0)
    assert result.earned == POINTS["4.4"] - 0.75, result.message
    assert "] = nan, the model's loss" in result.message


def test_a_right_load_keeps_its_points_beside_a_wrong_save():
    def save_adapter(model, path):
        open(path, "wb").close()

    result = evaluate_exercise("4.5", {**worked(STAGE).namespace, "save_adapter": save_adapter}, 0)
    assert result.earned == 3, result.message  # missing, unexpected, misshapen, foreign


@pytest.mark.parametrize(
    ("optimizer", "right"),
    [
        (lambda p, lr: torch.optim.AdamW(p, lr=lr), True),
        (lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0), True),
        (lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.3, eps=1e-6, betas=(0.8, 0.9)), True),
        (lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=0.01), False),
        (lambda p, lr: torch.optim.NAdam(p, lr=lr), False),
        (lambda p, lr: torch.optim.RAdam(p, lr=lr), False),
        (lambda p, lr: torch.optim.Adamax(p, lr=lr), False),
        (lambda p, lr: torch.optim.RMSprop(p, lr=lr), False),
        (lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), False),
        (lambda p, lr: torch.optim.AdamW(p, lr=lr * 1.05), False),
        (lambda p, lr: torch.optim.AdamW(p, lr=lr, maximize=True), False),
        (lambda p, lr: torch.optim.AdamW(list(p)[:1], lr=lr), False),
    ],
)
def test_any_adamw_passes_and_nothing_else(optimizer, right):
    def train(model, loader, steps, lr):
        own = optimizer((p for p in model.parameters() if p.requires_grad), lr)
        losses = []
        while len(losses) < steps:
            for batch in loader:
                loss = model(**batch).loss
                model.zero_grad()
                loss.backward()
                own.step()
                losses.append(loss.item())
                if len(losses) == steps:
                    break
        return losses

    check = hidden_check("4.4/adamw")
    for seed in range(4):
        verdict = run_check(check, {"train": train}, seed)
        assert verdict.passed is right, verdict.message


@pytest.mark.parametrize("seed", range(3))
def test_numpy_agrees_with_autograd(seed):
    inputs = e4_train.draw_training(np.random.default_rng(seed))
    model = e4_train.PooledClassifier(*(inputs[key] for key in ("words", "weight", "A", "B", "head")))
    batch = inputs["passes"][0][0]
    loss = model(**{key: torch.tensor(values) for key, values in batch.items()}).loss
    loss.backward()
    ours = e4_train.forward_numpy(inputs, batch, inputs)
    assert ours[0] == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(ours[1], model.lora_A.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(ours[2], model.lora_B.grad.numpy(), atol=1e-12)


def test_small_gradients_of_the_first_step_cost_no_right_answer():
    """With this seed no gradient is a fifth of its weight: which of them tell the direction is relative."""
    assert evaluate_exercise("4.4", worked(STAGE).namespace, 19).earned == 6
