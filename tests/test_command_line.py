"""The command line: what each command writes and says, good errors, Ctrl-C, several processes."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import hears_ctrl_c
from safetensors.torch import load_file, save_file

from lora_ref import __main__ as command_line
from lora_ref import adapters, commands, data, inject, models, profiles
from lora_ref.training import predict_logits

ROOT = Path(command_line.__file__).resolve().parents[1]
PNG = b"\x89PNG\r\n"


@pytest.fixture(autouse=True)
def small(monkeypatch, no_choice):
    """A tiny profile that takes a second."""
    short = dataclasses.replace(profiles.TINY, train_size=32, validation_size=16, test_size=32, epochs=1)
    monkeypatch.setattr(profiles, "PROFILES", {**profiles.PROFILES, "tiny": short})


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder; returns exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            status = command_line.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            status = stop.code
        return status, *capsys.readouterr()

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- train ------------------------------------------------------------------------------------------------


def test_train_writes_adapter_metrics_and_curve_and_says_little(run, tmp_path):
    status, out, _ = run("train", "--profile", "tiny", "--rank", "3", "--targets", "query", "value", "--seed", "1")
    assert status == 0
    folder = tmp_path / "runs" / "train"
    assert sorted(p.name for p in folder.iterdir()) == ["adapter.safetensors", "loss.png", "metrics.csv"]
    (row,) = rows(folder / "metrics.csv")
    assert (row["profile"], row["method"], row["rank"], row["alpha"], row["seed"]) == ("tiny", "lora", "3", "6", "1")
    tensors = load_file(folder / "adapter.safetensors")
    assert sum("lora_A" in name for name in tensors) == 4
    assert int(row["trainable"]) == sum(t.numel() for t in tensors.values())
    assert (folder / "loss.png").read_bytes().startswith(PNG)
    lines = out.splitlines()
    assert len(lines) == 4, out
    assert "test accuracy" in lines[2]
    assert "adapter.safetensors" in lines[3]
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_the_saved_adapter_gives_the_trained_models_logits(run, tmp_path):
    run("train", "--profile", "tiny", "--targets", "feed-forward", "--alpha", "4", "--out", "a")
    (row,) = rows(tmp_path / "a" / "metrics.csv")
    model = models.tiny_roberta(seed=0)  # all of it is random: another seed is another base
    adapters.inject_saved(model, adapters.read_adapter(model, tmp_path / "a" / "adapter.safetensors"), "a")
    assert len(inject.lora_layers(model)) == 4
    sentences = data.reviews(profiles.get("tiny"))["test"]
    logits = predict_logits(model, sentences, models.tiny_tokenizer())
    accuracy = float((logits.argmax(-1) == torch.tensor(sentences["label"])).double().mean())
    assert float(row["test accuracy"]) == pytest.approx(accuracy)


@pytest.mark.parametrize(("method", "count"), [("head", 1_122), ("full", 21_010)])
def test_other_methods_write_what_they_trained(run, tmp_path, method, count):
    status, _, _ = run("train", "--profile", "tiny", "--method", method, "--max-steps", "1", "--out", "x")
    assert status == 0
    tensors = load_file(tmp_path / "x" / f"{method}.safetensors")
    assert sum(t.numel() for t in tensors.values()) == count


# --- merge ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["lora_ref", "peft"])
def test_merge_writes_a_plain_model_with_the_same_logits(run, tmp_path, format):
    run("train", "--profile", "tiny", "--rank", "2", "--out", "a", "--format", format, "--seed", "1")
    adapter = tmp_path / "a" / ("adapter.safetensors" if format == "lora_ref" else "adapter")
    status, out, error = run("merge", adapter, "--profile", "tiny", "--out", "plain", "--seed", "1")
    assert status == 0, error
    assert out.startswith("merged 12 layers; on 32 sentences the logits differ only by rounding, ")
    from transformers import RobertaForSequenceClassification

    plain = RobertaForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    state = load_file(tmp_path / "plain" / "model.safetensors")
    assert set(state) == set(models.tiny_roberta().state_dict())
    base = models.tiny_roberta(seed=1)
    unmerged = adapters.inject_saved(base, adapters.read_adapter(base, adapter), "a")
    sentences = data.reviews(profiles.get("tiny"))["validation"]
    logits = [predict_logits(model, sentences, models.tiny_tokenizer()) for model in (plain, unmerged)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


def test_a_merge_that_does_not_agree_writes_nothing(run, tmp_path, monkeypatch):
    run("train", "--profile", "tiny", "--max-steps", "1", "--out", "a")
    monkeypatch.setattr(commands, "TOLERANCE", -1.0)
    status, _, error = run("merge", "a/adapter.safetensors", "--profile", "tiny", "--out", "plain")
    assert status == 1
    assert "nothing was written" in error
    assert list((tmp_path / "plain").iterdir()) == []


# --- sweep and compare ------------------------------------------------------------------------------------


def test_sweep_resumes(run, tmp_path):
    arguments = ("sweep", "--profile", "tiny", "--seed", "0", "1", "--max-steps", "1", "--out", "s", "--ranks", "1")
    status, out, error = run(*arguments)
    assert status == 0, error
    assert out.count("row ") == 2
    status, out, _ = run(*arguments, "4")
    assert status == 0
    assert out.startswith("2 of 4 rows are in ranks.jsonl already\nrow 1 of 2: rank=4")
    assert [row["rank"] for row in rows(tmp_path / "s" / "ranks.csv")] == ["1", "1", "4", "4"]
    assert (tmp_path / "s" / "ranks.png").read_bytes().startswith(PNG)
    status, _, error = run(*arguments, "--epochs", "2")
    assert status == 2
    assert "measured with other settings (epochs: 1 there, 2 now)" in error


def test_sweep_over_groups_and_alphas(run, tmp_path):
    common = ("--profile", "tiny", "--max-steps", "1", "--out", "s", "--rank", "2")
    assert run("sweep", "--groups", "attention", "all", *common)[0] == 0
    assert [row["targets"] for row in rows(tmp_path / "s" / "groups.csv")] == ["attention", "all"]
    assert run("sweep", "--alphas", "1", "2.5", "--targets", "query+value", *common)[0] == 0
    assert [row["alpha"] for row in rows(tmp_path / "s" / "alphas.csv")] == ["1.0", "2.5"]
    assert {"groups.png", "alphas.png"} <= {p.name for p in (tmp_path / "s").iterdir()}


def test_compare_writes_a_row_a_method(run, tmp_path):
    status, out, error = run("compare", "--profile", "tiny", "--max-steps", "1", "--out", "c")
    assert status == 0, error
    assert [row["method"] for row in rows(tmp_path / "c" / "compare.csv")] == ["head", "lora", "full"]
    assert (tmp_path / "c" / "compare.png").read_bytes().startswith(PNG)
    assert "21,010 of 21,010 parameters trained" in out


# --- info -------------------------------------------------------------------------------------------------


def test_info_about_a_profile(run):
    status, out, _ = run("info", "--profile", "tiny")
    assert status == 0
    assert "LoRA r=8, all linears: 7,522 of 27,410 train" in out
    assert "2 x roberta.encoder.layer.*.attention.self.query (32 -> 32)" in out
    status, out, _ = run("info", "--profile", "t4")
    assert "full: 124,647,170 of 124,647,170 train" in out
    assert "1,919,234 of 125,974,274 train" in out


def test_info_fetches_nothing(run, monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(subprocess, "Popen", None)
    status, out, _ = run("info", "--profile", "laptop")
    assert status == 0
    assert "the encoder is not here yet" in out
    assert "encoder: not here (83.5 MB to fetch)" in out


@pytest.mark.parametrize("format", ["lora_ref", "peft"])
def test_info_about_an_adapter(run, tmp_path, format):
    model = inject.inject_lora(models.tiny_roberta(), ["query"], rank=3, alpha=6)
    adapters.save_adapter(model, tmp_path / "a", format=format)
    status, out, _ = run("info", "a")
    assert status == 0
    scaling = "2.0" if format == "lora_ref" else "not in this file"
    assert f"LoRA on 2 x roberta.encoder.layer.*.attention.self.query (32 -> 32): rank 3, scaling {scaling}" in out
    assert "classifier.out_proj.weight: 2 x 32" in out


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "--profile", "huge"], "argument --profile: invalid choice: 'huge'"),
        (["train", "--rank", "0"], "argument --rank: must be at least 1, got 0"),
        (["train", "--rank", "x"], "argument --rank: invalid whole_number value: 'x'"),
        (["train", "--learning-rate", "-1"], "--learning-rate: must be a positive number"),
        (["train", "--seed", "-1"], "--seed: must be from 0"),
        (
            ["train", "--profile", "tiny", "--targets", "qurey"],
            "lora_ref train: no linear layer matches 'qurey'; nearest",
        ),
        (["train", "--profile", "t4"], "lora_ref train: profile 't4' is not available: "),
        (["train", "--profile", "tiny", "--out", "file"], "lora_ref train: [Errno 17] File exists: 'file'"),
        (["sweep", "--profile", "tiny", "--budget", "9"], "lora_ref sweep: --budget goes with --groups"),
        (["sweep", "--profile", "tiny", "--groups", "x"], "lora_ref sweep: no group 'x'; there are: 'query+value'"),
        (["sweep", "--ranks", "1", "--alphas", "1"], "argument --alphas: not allowed with argument --ranks"),
        (["merge", "--profile", "tiny"], "required: adapter"),
        (["merge", "none", "--profile", "tiny"], "lora_ref merge: no adapter at none"),
        (["merge", "file", "--profile", "tiny"], "lora_ref merge: file is not a safetensors file"),
        (["merge", "other", "--profile", "tiny"], "Is it an adapter for the tiny profile? (--profile)"),
        (["info", "none"], "lora_ref info: no adapter file at none"),
        (["info", "file"], "lora_ref info: file is not a safetensors file"),
    ],
)
def test_errors_name_what_is_wrong(run, tmp_path, arguments, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").write_text("not an adapter")
    save_file({"x": torch.zeros(2)}, tmp_path / "other")
    status, _, error = run(*arguments)
    assert status == 2
    assert message in error
    assert "Traceback" not in error


def test_a_bug_keeps_its_traceback(run, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(models, "base_model", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run("train", "--profile", "tiny")


def test_help_names_every_option(run):
    for command, words in {
        "train": ("--method", "--rank", "--targets", "--out", "--seed", "--max-steps"),
        "sweep": ("--ranks", "--alphas", "--groups", "--budget"),
        "compare": ("--rank", "--epochs"),
        "merge": ("adapter", "--out"),
        "info": ("adapter", "--profile"),
    }.items():
        status, out, _ = run(command, "--help")
        assert status == 0
        assert all(word in out for word in words)


def test_ctrl_c_ends_with_130_and_says_what_is_kept(run, monkeypatch):
    from lora_ref import sweeps

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "fine_tune", interrupted)
    status, _, error = run("sweep", "--profile", "tiny", "--out", "s")
    assert status == 130
    assert "interrupted; finished rows are in s" in error


# --- processes --------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_in_a_real_sweep(tmp_path):
    command = [sys.executable, "-m", "lora_ref", "sweep", "--profile", "tiny", "--max-steps", "40", "--out", "s"]
    process = subprocess.Popen(
        [*command, "--ranks", *map(str, range(1, 200))],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=hears_ctrl_c,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("row 1 "):
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.splitlines()[-1].startswith("interrupted; finished rows are in ")
    assert "Traceback" not in error
    done = [json.loads(line) for line in (tmp_path / "s" / "ranks.jsonl").read_text().splitlines()]
    assert [row["rank"] for row in done] == [i + 1 for i in range(len(done))]
    assert 1 <= len(done) < 199


def launch(tmp_path: Path, processes: int, *program: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), "--cpu"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *program]
    return subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_launch(tmp_path, processes):
    done = launch(tmp_path, processes, "-m", "lora_ref", "train", "--profile", "tiny", "--max-steps", "4", "--out", "a")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1, "only the main process prints"
    assert done.stdout.count("wrote ") == 1
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["adapter.safetensors", "loss.png", "metrics.csv"]


KEEPS_CHECKPOINTS = """
from lora_ref import profiles
from lora_ref.training import fine_tune

result = fine_tune("lora", profiles.TINY, output_dir="run", progress=False)
assert result.checkpoint.endswith(tuple("0123456789")), result.checkpoint
"""


@pytest.mark.slow
def test_several_processes_keep_one_checkpoint(tmp_path):
    (tmp_path / "keeps.py").write_text(KEEPS_CHECKPOINTS)
    done = launch(tmp_path, 2, "keeps.py")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1
