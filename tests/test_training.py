"""Training: what each method trains, the same seed, quiet, nothing left behind; evaluation that order cannot change."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import textwrap

import datasets
import numpy as np
import pytest
import torch
from torch import nn

from lora_ref import data, inject, models, progress, training
from lora_ref.profiles import LAPTOP, T4, TINY
from lora_ref.training import compute_metrics, fine_tune, linear_schedule, metrics_match

SHORT = dataclasses.replace(TINY, train_size=64, validation_size=32, test_size=32, epochs=2)


@pytest.fixture(scope="module")
def short():
    """One run of each method on 64 sentences."""
    return {method: fine_tune(method, SHORT, progress=False) for method in ("head", "lora", "full")}


# --- stage 04's functions ---------------------------------------------------------------------------------


def test_compute_metrics():
    from transformers import EvalPrediction

    logits, labels = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5]]), np.array([0, 0, 0])
    for eval_pred in ((logits, labels), EvalPrediction(predictions=logits, label_ids=labels)):
        metrics = compute_metrics(eval_pred)
        assert metrics == {"accuracy": pytest.approx(2 / 3)}
        assert type(metrics["accuracy"]) is float


@pytest.mark.parametrize(("total", "warmup"), [(10, 0), (10, 3), (10, 10), (64, 500), (1, 0), (7, 1)])
def test_the_schedule_is_transformers_own(total, warmup):
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, warmup, total).lr_lambdas[0]
    for step in range(total + 5):
        assert linear_schedule(step, total, warmup) == pytest.approx(theirs(step))


def test_the_schedules_corners():
    assert linear_schedule(0, 10, 0) == 1
    assert linear_schedule(0, 10, 2) == 0
    assert linear_schedule(2, 10, 2) == 1
    assert linear_schedule(10, 10, 2) == linear_schedule(99, 10, 2) == 0


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ({"eval_accuracy": 0.5, "eval_runtime": 1.0}, {"eval_accuracy": 0.5, "eval_runtime": 2.0}, True),
        ({"a": 0.5, "eval_samples_per_second": 1, "eval_model_preparation_time": 3}, {"a": 0.5}, True),
        ({"a": 0.5}, {"a": 0.5 * (1 + 1e-7)}, True),
        ({"a": 0.5}, {"a": 0.5 * (1 + 1e-5)}, False),
        ({"a": 1e-9}, {"a": 2e-9}, False),
        ({"a": 0.5}, {"a": 0.5, "b": 1}, False),
        ({"a": 0.5, "b": 1}, {"a": 0.5}, False),
        ({"a": math.nan}, {"a": math.nan}, False),
        ({"a": "x"}, {"a": "x"}, True),
        ({"a": "x"}, {"a": 1.0}, False),
        ({}, {}, True),
    ],
)
def test_metrics_match(a, b, same):
    assert metrics_match(a, b) is same


# --- fine_tune --------------------------------------------------------------------------------------------


def test_each_method_trains_what_it_says(short):
    fresh = dict(models.tiny_roberta(seed=0).named_parameters())
    for method, result in short.items():
        changed = set()
        for name, parameter in result.model.named_parameters():
            original = fresh.get(name.replace(".linear.", "."))
            if original is None or not torch.equal(parameter, original):
                changed.add(name)
        if method == "head":
            assert changed == {n for n in fresh if n.startswith("classifier.")}
        elif method == "lora":
            assert {n for n in changed if "lora_" not in n} == {n for n in fresh if n.startswith("classifier.")}
            assert sum("lora_B" in n for n in changed) == 12
        else:
            # a padding row gets no gradient; everything else does
            assert changed == set(fresh)
        sizes = {n: p.numel() for n, p in result.model.named_parameters()}
        assert result.trainable == sum(n for name, n in sizes.items() if method == "full" or name in changed)
        assert result.total == sum(sizes.values())
    assert short["lora"].rank == 8
    assert short["full"].rank is None


def test_what_a_result_holds(short):
    for method, result in short.items():
        assert (result.method, result.profile, result.seed) == (method, "tiny", 0)
        assert result.learning_rate == TINY.learning_rates[method]
        assert result.steps == tuple(range(1, 9))
        assert len(result.losses) == 8
        assert all(math.isfinite(loss) and loss > 0 for loss in result.losses)
        assert len(result.validation_accuracies) == 2
        assert result.validation_accuracies[-1] == pytest.approx(result.validation["accuracy"])
        assert set(result.test) == {"accuracy", "loss", "n"}
        assert result.test["n"] == 32
        assert result.seconds > 0
        assert result.peak_memory > 10_000_000
        assert 0 <= result.memory_increase < result.peak_memory
        assert result.checkpoint is None
        assert not result.model.training
        assert "RobertaForSequenceClassification" not in repr(result)
    rows = [result.row() for result in short.values()]
    assert len({tuple(row) for row in rows}) == 1
    assert rows[2]["trainable %"] == 100


def test_the_same_seed_gives_the_same_figure(short):
    torch.rand(5)  # whatever was drawn before
    again = fine_tune("lora", SHORT, progress=False)
    assert again.losses == short["lora"].losses
    assert again.test == short["lora"].test
    other = fine_tune("lora", SHORT, seed=1, progress=False)
    assert other.losses != again.losses


def test_training_learns():
    result = fine_tune("full", dataclasses.replace(TINY, epochs=4), progress=False)
    assert np.mean(result.losses[-5:]) < 0.7 * np.mean(result.losses[:5])
    assert result.test["accuracy"] > 0.75


def test_lora_options_reach_the_layers():
    result = fine_tune(
        "lora", SHORT, rank=2, alpha=6, targets=["query"], dropout=0.25, max_steps=1, learning_rate=1e-4, progress=False
    )
    layer = result.model.roberta.encoder.layer[0].attention.self.query
    assert (layer.lora.scaling, layer.lora.lora_A.shape[0], layer.lora.dropout.p) == (3, 2, 0.25)
    assert isinstance(result.model.roberta.encoder.layer[0].attention.self.key, nn.Linear)
    assert (result.rank, result.alpha, result.learning_rate) == (2, 6, 1e-4)
    assert result.steps == (1,)


def test_a_model_with_its_own_lora_is_trained_as_it_is():
    model = inject.inject_lora(models.tiny_roberta(), ["value"], rank=3, alpha=3)
    result = fine_tune("lora", SHORT, model=model, max_steps=2, progress=False)
    assert result.model is model
    assert result.rank is None  # not ours to say
    assert sum("lora_" in name for name, _ in model.named_parameters()) == 4
    inject.freeze(model)
    with pytest.raises(ValueError, match="nothing in it trains"):
        fine_tune("lora", SHORT, model=model, progress=False)


def test_own_data_tokenised_before_gives_the_same_run(short):
    tokenizer = models.tiny_tokenizer()
    mapped = data.reviews(SHORT).map(data.tokenize, batched=True, fn_kwargs={"tokenizer": tokenizer})
    result = fine_tune("head", SHORT, data=mapped, tokenizer=tokenizer, progress=False)
    assert result.losses == short["head"].losses
    result = fine_tune("head", SHORT, data=mapped.with_format("torch"), tokenizer=tokenizer, progress=False)
    assert result.losses == short["head"].losses


def test_the_best_checkpoint_is_kept_where_one_says(tmp_path):
    result = fine_tune("lora", dataclasses.replace(SHORT, epochs=3), output_dir=tmp_path / "run", progress=False)
    folders = [path.name for path in (tmp_path / "run").iterdir()]
    assert folders == [os.path.basename(result.checkpoint)]
    assert result.validation["accuracy"] == pytest.approx(max(result.validation_accuracies))
    from safetensors.torch import load_file

    saved = load_file(os.path.join(result.checkpoint, "model.safetensors"))
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor.cpu(), saved[name]), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "lorra"}, "method 'lorra' is none of 'head', 'lora', 'full'"),
        ({"epochs": 0}, "epochs must be a whole number from 1, got 0"),
        ({"max_steps": 1.5}, "max_steps must be a whole number from 1, got 1.5"),
        ({"learning_rate": -1e-3}, "learning_rate must be a positive number"),
        ({"learning_rate": math.nan}, "learning_rate must be a positive number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"targets": ["qurey"]}, "no linear layer matches 'qurey'; nearest: .*'query'"),
        ({"data": {"train": [1], "test": [1]}}, "data has no 'validation' split; it has: 'train', 'test'"),
        ({"data": {"train": [], "validation": [1], "test": [1]}}, "the 'train' split is empty"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        fine_tune(**({"method": "lora", "profile": SHORT, "progress": False} | arguments))


def test_head_alone_needs_a_head():
    with pytest.raises(ValueError, match="Linear has no `classifier`"):
        fine_tune("head", SHORT, model=nn.Linear(2, 2), progress=False)


def _in_a_process(folder, code: str) -> subprocess.CompletedProcess:
    """Run code in a fresh Python, in ``folder``: what a student's own run would print and leave there."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(training.__file__)))
    head = f"import dataclasses, sys; sys.path.insert(0, {root!r})\n"
    head += "from lora_ref.profiles import TINY\nfrom lora_ref.training import fine_tune\n"
    head += "short = dataclasses.replace(TINY, train_size=64, validation_size=32, test_size=32, epochs=2)\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        cwd=folder, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_in_a_log_it_prints_a_line_an_epoch_and_nothing_else(tmp_path):
    done = _in_a_process(
        tmp_path,
        """
        fine_tune("lora", short)
        fine_tune("head", short, progress=False)
        fine_tune("full", short, progress=False, output_dir="kept")
        """,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout
    assert lines[1].startswith("lora: epoch 2 of 2, step 8 of 8, loss ")
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_in_a_terminal_it_draws_a_bar_and_prints_no_dicts(monkeypatch, capfd):
    monkeypatch.setattr(progress, "is_live", lambda _: True)
    monkeypatch.setattr(training, "is_live", lambda _: True)
    fine_tune("lora", SHORT)
    out, err = capfd.readouterr()
    assert "lora" in err
    assert "8/8" in err
    assert "loss=" in err
    assert "{" not in out + err


# --- t4: its code runs without a T4 -----------------------------------------------------------------------


def test_the_t4_profile_on_a_stubbed_hub(monkeypatch):
    """The whole path from the hub's answers to a result; fp16 is asked for, and left off where there is no CUDA."""
    import transformers

    def rows(n, start):
        examples = data.tiny_sentences()[start :: 4608 // n][:n]
        return datasets.Dataset.from_dict({"sentence": [s for s, _ in examples], "label": [y for _, y in examples]})

    def load_dataset(*name):
        assert name == ("nyu-mll/glue", "sst2")
        return datasets.DatasetDict(train=rows(900, 0), validation=rows(60, 1), test=rows(9, 2))

    def pretrained_model(name, num_labels, output_loading_info):
        assert name == "FacebookAI/roberta-base"
        info = {"missing_keys": ["classifier.dense.weight"], "unexpected_keys": [], "mismatched_keys": []}
        return models.tiny_roberta(seed=5, num_labels=num_labels), info

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(transformers.RobertaForSequenceClassification, "from_pretrained", pretrained_model)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name: models.tiny_tokenizer())
    profile = dataclasses.replace(T4, train_size=64, validation_size=32, test_size=16)
    result = fine_tune("lora", profile, max_steps=2, progress=False)
    assert (result.profile, result.test["n"], result.learning_rate) == ("t4", 16, T4.learning_rates["lora"])


@pytest.mark.parametrize(("cuda", "expected"), [(True, True), (False, False)])
def test_fp16_where_there_is_cuda(monkeypatch, tmp_path, cuda, expected):
    from transformers import PrinterCallback, Trainer, TrainingArguments  # noqa: F401 - makes another module of itself

    transformers, seen = sys.modules["transformers"], {}

    class Arguments(TrainingArguments):
        def __init__(self, **options):
            seen.update(options)
            super().__init__(**(options | {"fp16": False, "use_cpu": True, "dataloader_pin_memory": False}))

    monkeypatch.setattr(transformers, "TrainingArguments", Arguments)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    examples = {split: [{"input_ids": [0, 2], "attention_mask": [1, 1], "label": 0}] * 4 for split in data.SPLITS}
    training._trainer(
        models.tiny_roberta(), T4, examples, models.tiny_tokenizer(), 0, None, 1, 1e-3, tmp_path, None, None
    )
    assert seen["fp16"] is expected
    assert type(seen["warmup_steps"]) is int


# --- evaluation -------------------------------------------------------------------------------------------


def test_the_order_of_the_sentences_makes_no_difference():
    model, tokenizer = models.tiny_roberta(), models.tiny_tokenizer()
    dataset = data.reviews(TINY)["test"]
    there, back = dataset, dataset.select(range(len(dataset) - 1, -1, -1))
    assert training.evaluate(model, there, tokenizer, 16) == training.evaluate(model, back, tokenizer, 16)
    logits = training.predict_logits(model, there, tokenizer, 16)
    assert torch.equal(logits.flip(0), training.predict_logits(model, back, tokenizer, 16))


def test_evaluate_is_the_mathematics():
    model, tokenizer = models.tiny_roberta(), models.tiny_tokenizer()
    dataset = data.reviews(TINY)["test"].select(range(20))
    logits = []
    with torch.no_grad():
        for sentence in dataset["sentence"]:  # one at a time: no padding at all
            logits.append(model(**tokenizer(sentence, return_tensors="pt")).logits[0].double().numpy())
    logits, labels = np.array(logits), np.array(dataset["label"])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    metrics = training.evaluate(model, dataset, tokenizer, batch_size=7)
    assert metrics["accuracy"] == (logits.argmax(1) == labels).mean()
    assert metrics["loss"] == pytest.approx(-log_p[np.arange(20), labels].mean(), rel=1e-5)


def test_evaluation_leaves_the_mode_as_it_was():
    model = models.tiny_roberta().train()
    model.classifier.eval()
    training.evaluate(model, data.reviews(SHORT)["test"], models.tiny_tokenizer())
    assert model.training
    assert not model.classifier.training
    with pytest.raises(ValueError, match="no sentences"):
        training.evaluate(model, [], models.tiny_tokenizer())


def test_the_trainers_evaluation_agrees(short):
    tokenizer = models.tiny_tokenizer()
    result = training.evaluate(short["full"].model, data.reviews(SHORT)["validation"], tokenizer)
    assert result["accuracy"] == pytest.approx(short["full"].validation_accuracies[-1])


# --- laptop -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.laptop
def test_laptop_lora_learns_what_the_head_alone_does_not(laptop_assets):
    """A short run; the whole claim is the slow test's."""
    profile = dataclasses.replace(LAPTOP, train_size=400, validation_size=40, test_size=200, train_batch_size=8)
    lora, head = (fine_tune(method, profile, epochs=1, progress=False) for method in ("lora", "head"))
    assert lora.trainable == 480_386
    assert lora.test["loss"] < head.test["loss"]
    assert lora.test["accuracy"] > 0.6


@pytest.mark.slow
@pytest.mark.laptop
def test_the_courses_claim(laptop_assets, all_threads):
    """LoRA r=8 reaches 0.82 on held-out reviews and beats the head alone by 10 points; same seed, same figure."""
    head, lora, again = (fine_tune(method, LAPTOP, progress=False) for method in ("head", "lora", "lora"))
    assert lora.test["accuracy"] >= 0.82
    assert lora.test["accuracy"] - head.test["accuracy"] >= 0.10
    assert (again.test, again.losses) == (lora.test, lora.losses)
