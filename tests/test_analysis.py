"""Analysis: stage 05's functions against NumPy, sweeps that survive interruption, costs that match real models."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import hears_ctrl_c
from torch import nn
from torch.utils._pytree import tree_map_only
from toy_models import lora_roberta

from lora_ref import analysis, inject, models, rank, sweeps
from lora_ref.checks.calls import alike
from lora_ref.layers import LinearWithLoRA, LoRALayer
from lora_ref.profiles import TINY
from lora_ref.training import fine_tune

SHORT = dataclasses.replace(TINY, train_size=32, validation_size=16, test_size=32, epochs=1)


def update(in_features=7, out_features=5, r=3, alpha=6.0, seed=0, dtype=torch.float32) -> LoRALayer:
    """A LoRA layer whose B is not zero."""
    generator = torch.Generator().manual_seed(seed)
    layer = LoRALayer(in_features, out_features, r, alpha).to(dtype)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
    return layer


def delta(layer: LoRALayer) -> np.ndarray:
    A, B = (p.detach().double().numpy() for p in (layer.lora_A, layer.lora_B))
    return layer.scaling * (B @ A)


# --- stage 05's functions ---------------------------------------------------------------------------------


def test_rank_sweep_has_one_row_a_rank_in_the_order_given():
    asked = []

    def run(r):
        asked.append(r)
        return {"accuracy": 0.5 + r / 100, "trainable": 10 * r, "seconds": 1.0, "loss": 3.0}

    frame = analysis.rank_sweep(run, iter([8, 1, 4]))
    assert asked == [8, 1, 4]
    assert list(frame.columns) == ["rank", "trainable", "accuracy", "seconds"]
    assert frame["rank"].tolist() == [8, 1, 4]
    assert frame["trainable"].tolist() == [80, 10, 40]
    assert list(analysis.rank_sweep(run, []).columns) == ["rank", "trainable", "accuracy", "seconds"]
    with pytest.raises(ValueError, match=r"run\(2\) returned no 'seconds'"):
        analysis.rank_sweep(lambda r: {"accuracy": 1, "trainable": 1}, [2])


@pytest.mark.parametrize("shape", [(7, 5, 3), (5, 7, 1), (4, 6, 9), (6, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_delta_spectrum_is_the_svd_of_the_update(shape, dtype):
    layer = update(*shape, dtype=dtype)
    values = analysis.delta_spectrum(layer)
    expected = np.linalg.svd(delta(layer), compute_uv=False)[: min(shape)]
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-10)
    assert not values.requires_grad


def test_delta_spectrum_of_a_wrapped_layer_merged_or_not():
    layer = LinearWithLoRA(nn.Linear(7, 5), rank=2, alpha=8)
    assert analysis.delta_spectrum(layer).tolist() == [0, 0]
    nn.init.normal_(layer.lora.lora_B)
    before = analysis.delta_spectrum(layer)
    layer.merge()
    assert torch.equal(analysis.delta_spectrum(layer), before)
    np.testing.assert_allclose(before, np.linalg.svd(delta(layer.lora), compute_uv=False)[:2], rtol=1e-10)
    with pytest.raises(TypeError, match="got Linear"):
        analysis.delta_spectrum(nn.Linear(2, 2))


def test_compose_is_the_weighted_sum_of_the_updates():
    layers = [update(seed=0, r=3), update(seed=1, r=2, alpha=5), LinearWithLoRA(nn.Linear(7, 5), 4, 4)]
    nn.init.normal_(layers[2].lora.lora_B)
    weights = [0.5, -2, 1.5]
    expected = 0.5 * delta(layers[0]) - 2 * delta(layers[1]) + 1.5 * delta(layers[2].lora)
    composed = analysis.compose(layers, weights)
    np.testing.assert_allclose(composed, expected, rtol=1e-5, atol=1e-5)
    assert composed.shape == (5, 7)
    assert not composed.requires_grad


def test_compose_names_what_does_not_go_together():
    with pytest.raises(ValueError, match="2 layers, 1 weights"):
        analysis.compose([update(), update()], [1.0])
    with pytest.raises(ValueError, match="no layers"):
        analysis.compose([], [])
    with pytest.raises(ValueError, match=r"different shapes: \(5, 7\), \(6, 7\)"):
        analysis.compose([update(), update(7, 6)], [1, 1])


# --- spectra ----------------------------------------------------------------------------------------------


def test_spectra_of_a_model_merged_or_not():
    model = lora_roberta(r=4)
    frame = analysis.spectra(model)
    assert len(frame) == 12
    assert (frame["rank"] == 4).all()
    for row in frame.itertuples():
        layer = model.get_submodule(row.module)
        np.testing.assert_allclose(row.norm, np.linalg.norm(delta(layer.lora)), rtol=1e-6)
        np.testing.assert_allclose(row.frozen_norm, np.linalg.norm(layer.linear.weight.detach()), rtol=1e-6)
        assert row.relative == pytest.approx(row.norm / row.frozen_norm)
        assert row.effective_rank == rank.effective_rank(torch.tensor(delta(layer.lora)))
        assert len(row.singular_values) == 4
    merged = analysis.spectra(inject.merge_lora(model))
    np.testing.assert_allclose(merged["frozen_norm"], frame["frozen_norm"], rtol=1e-5)
    assert merged["norm"].tolist() == frame["norm"].tolist()
    with pytest.raises(ValueError, match="no LoRA layers"):
        analysis.spectra(models.tiny_roberta())


def test_update_spectra_compares_full_fine_tuning_with_its_base():
    base, model = models.tiny_roberta(), models.tiny_roberta()
    changed = "roberta.encoder.layer.1.output.dense"
    change = update(40, 32, r=2).delta_weight().detach()
    weight = base.get_submodule(changed).weight.detach()
    model.get_submodule(changed).weight.data += change
    frame = analysis.update_spectra(model, base)
    assert frame["module"].tolist() == [changed]
    row = frame.iloc[0]
    expected = np.linalg.svd(change.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(row["singular_values"][:2], expected[:2], rtol=1e-5)
    assert len(row["singular_values"]) == 32
    assert row["rank"] == 2, "what rounding leaves behind does not count"
    assert row["relative"] == pytest.approx(float(change.norm() / weight.norm()), rel=1e-5)
    with pytest.raises(ValueError, match="no linear layer differs"):
        analysis.update_spectra(base, models.tiny_roberta())
    with pytest.raises(ValueError, match="linear layers differ: "):
        analysis.update_spectra(lora_roberta(), base)


def test_similarity_grid_is_subspace_similarity_everywhere():
    A1, A2 = update(11, r=4, seed=0).lora_A.detach(), update(11, r=6, seed=1).lora_A.detach()
    grid = analysis.similarity_grid(A1, A2)
    assert grid.shape == (4, 6)
    for i in range(1, 5):
        for j in range(1, 7):
            assert float(grid[i - 1, j - 1]) == pytest.approx(analysis.subspace_similarity(A1, A2, i, j))
    assert torch.equal(analysis.similarity_grid(A1, A2, 2, 3), grid[:2, :3])
    same = analysis.similarity_grid(A1, 5 * A1)
    assert torch.allclose(same.diagonal(), torch.ones(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="j_max must be from 1 to 6, got 7"):
        analysis.similarity_grid(A1, A2, 1, 7)
    with pytest.raises(ValueError, match="'input' or 'output'"):
        analysis.similarity_grid(A1, A2, side="left")


def test_the_output_side_uses_left_singular_directions():
    B1, B2 = update(out_features=9, r=3, seed=0).lora_B, update(out_features=9, r=2, seed=1).lora_B
    grid = analysis.similarity_grid(B1, B2, side="output")
    U1, U2 = (np.linalg.svd(B.detach().double().numpy())[0] for B in (B1, B2))
    assert float(grid[2, 1]) == pytest.approx(np.square(U1[:, :3].T @ U2[:, :2]).sum() / 2)
    with pytest.raises(ValueError, match="widths 9 and 8"):
        analysis.similarity_grid(B1, B2[:8], side="output")


def test_random_similarity_is_what_random_subspaces_share():
    found = [
        float(analysis.similarity_grid(update(40, r=3, seed=s).lora_A, update(40, r=8, seed=s + 999).lora_A)[-1, -1])
        for s in range(60)
    ]
    assert np.mean(found) == pytest.approx(analysis.random_similarity(40, 3, 8), rel=0.1)
    with pytest.raises(ValueError, match="from 1 to 4"):
        analysis.random_similarity(4, 5, 1)


def test_overlaps_layer_by_layer():
    first, second = lora_roberta(0), lora_roberta(1)
    frame = analysis.overlaps(first, first, 2, 2)
    assert frame["input"].tolist() == pytest.approx([1] * 12)
    assert frame["output"].tolist() == pytest.approx([1] * 12)
    frame = analysis.overlaps(first, second, 1, 3).set_index("module")
    name = "roberta.encoder.layer.0.output.dense"
    assert frame.loc[name, "random_input"] == 3 / 40
    assert frame.loc[name, "random_output"] == 3 / 32
    assert frame["input"].max() < 0.9
    with pytest.raises(ValueError, match="not the same LoRA layers in both models: roberta"):
        analysis.overlaps(first, lora_roberta(targets=["query"]))


class OnMps(torch.Tensor):
    """A tensor on Apple's GPU, where there is none: it says "mps", and refuses float64 as that does."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device="mps")

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        to_cpu = str(kwargs.get("device")) == "cpu"
        if kwargs.get("dtype") == torch.float64 and not to_cpu:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        if kwargs.get("device") is not None:
            kwargs["device"] = "cpu"
        args, kwargs = tree_map_only(OnMps, lambda tensor: tensor.inner, (args, kwargs))
        out = func(*args, **kwargs)
        return out if to_cpu else tree_map_only(torch.Tensor, OnMps, out)


def on_mps(model):
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(OnMps(parameter.data), requires_grad=False)
    return model


def test_a_macs_gpu_has_no_float64():
    first, second = on_mps(lora_roberta(0, targets=["query"])), lora_roberta(1, targets=["query"])
    A = next(iter(inject.lora_layers(first).values())).lora.lora_A
    assert analysis.spectra(first)["rank"].tolist() == [4, 4]
    assert analysis.overlaps(first, second, 2, 2)["input"].max() < 1
    assert analysis.similarity_grid(A, A)[0, 0] == pytest.approx(1)
    assert rank.effective_rank(A) == 4
    assert rank.subspace_similarity(A, A, 1, 1) == pytest.approx(1)
    assert alike(A, A.clone())
    full, base = models.tiny_roberta(), on_mps(models.tiny_roberta())
    full.roberta.encoder.layer[0].output.dense.weight.data *= 2
    assert len(analysis.update_spectra(on_mps(full), base)) == 1


# --- the grid ---------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    return tmp_path / "new" / "results.jsonl"


class Runs:
    """Stands for a training; notes what was asked of it."""

    def __init__(self, fail_at=None):
        self.asked, self.fail_at = [], fail_at

    def __call__(self, rank, name):
        if (rank, name) == self.fail_at:
            raise KeyboardInterrupt
        self.asked.append((rank, name))
        return {"accuracy": 1 / rank, "note": f'{name}, "quoted"', "none": None, "good": rank > 1}


GRID = {"rank": [1, 2, 16], "name": ["query+value", "007"]}
POINTS = [(r, n) for r in GRID["rank"] for n in GRID["name"]]


def test_a_grid_gives_a_row_a_point_in_order_with_or_without_a_file(results):
    run = Runs()
    frame = sweeps.run_grid(run, GRID, progress=False)
    assert run.asked == POINTS
    assert frame["accuracy"].tolist() == [1, 1, 0.5, 0.5, 1 / 16, 1 / 16]
    kept = sweeps.run_grid(run, GRID, results, progress=False)
    again = sweeps.run_grid(Runs(fail_at=POINTS[0]), GRID, results, progress=False)
    pd.testing.assert_frame_equal(kept, again)
    pd.testing.assert_frame_equal(kept, frame)
    assert list(again.columns) == ["rank", "name", "accuracy", "note", "none", "good"]


def test_an_interrupted_grid_goes_on_where_it_was(results, capsys):
    with pytest.raises(KeyboardInterrupt):
        sweeps.run_grid(Runs(fail_at=POINTS[3]), GRID, results)
    assert capsys.readouterr().out.count("row ") == 3
    run = Runs()
    frame = sweeps.run_grid(run, GRID, results)
    assert run.asked == POINTS[3:]
    assert len(frame) == 6
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"3 of 6 rows are in {results.name} already"
    assert out[1].startswith("row 1 of 3: rank=2, name=007: accuracy=0.5 (about ")
    assert len(out) == 4


def test_a_larger_grid_runs_only_what_is_new(results):
    sweeps.run_grid(Runs(), {"rank": [2], "name": ["a"]}, results, progress=False)
    run = Runs()
    frame = sweeps.run_grid(run, {"rank": [1, 2.0], "name": ["a"]}, results, progress=False)
    assert run.asked == [(1, "a")]
    assert frame["accuracy"].tolist() == [1, 0.5]


@pytest.mark.parametrize(
    ("keep", "damage", "again"),
    [
        *((-1, damage, POINTS[-1:]) for damage in (b'{"rank": 16, "na', b"\0\0\0\0\0", b"\0\0\0\0\n", b"\xff\xfe")),
        *((0, length, POINTS) for length in (0, 3, 20, 50)),  # the first write was cut short
    ],
)
def test_a_damaged_end_is_dropped_and_run_again(results, keep, damage, again):
    sweeps.run_grid(Runs(), GRID, results, progress=False)
    whole = results.read_bytes()
    end = damage if isinstance(damage, bytes) else whole[:damage]
    results.write_bytes(b"".join(whole.splitlines(keepends=True)[:keep]) + end)
    run = Runs()
    sweeps.run_grid(run, GRID, results, progress=False)
    assert run.asked == again
    assert results.read_bytes() == whole


def test_damage_in_the_middle_is_an_error(results):
    sweeps.run_grid(Runs(), GRID, results, progress=False)
    lines = results.read_text().splitlines()
    lines[2] = "16,,"
    results.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\r\n")  # as an editor on Windows does
    with pytest.raises(ValueError, match=r"results\.\w+, line 3 is damaged: '16,,'"):
        sweeps.run_grid(Runs(), GRID, results, progress=False)


def test_other_settings_are_refused_by_name_and_change_nothing(results):
    sweeps.run_grid(Runs(), GRID, results, progress=False, settings={"epochs": 2, "lr": 0.1})
    before = results.read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(epochs: 2 there, 3 now\)"):
        sweeps.run_grid(Runs(), GRID, results, progress=False, settings={"lr": 0.1, "epochs": 3})
    assert results.read_bytes() == before
    sweeps.run_grid(Runs(POINTS[0]), GRID, results, progress=False, settings={"lr": 0.1, "epochs": 2})


@pytest.mark.parametrize("content", ["rank,name\n1,a", "some notes", "a,b\n1,2\n", '{"a": 1}\n{"b', "[1, 2]\n3\n"])
def test_somebody_elses_file_is_refused_and_left_alone(results, content):
    results.parent.mkdir()
    results.write_text(content)
    with pytest.raises(ValueError, match=r"is not a results file of this grid|is damaged"):
        sweeps.run_grid(Runs(), GRID, results, progress=False)
    assert results.read_text() == content


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([], "no points"),
        ({"rank": []}, "no points"),
        ([{"rank": 1}, {"r": 1}], "the same keys"),
        ([{"rank": 1}, {"rank": 1.0}], "twice: rank=1"),
        ([{"rank": [1]}], "rank is a list"),
    ],
)
def test_grids_that_cannot_be(grid, message):
    with pytest.raises(ValueError, match=message):
        sweeps.run_grid(lambda **_: {}, grid, progress=False)


def test_rows_that_cannot_be(tmp_path):
    grid = {"rank": [1, 2]}
    with pytest.raises(ValueError, match="'rank', which the grid has"):
        sweeps.run_grid(lambda rank: {"rank": 3}, grid, progress=False)
    with pytest.raises(ValueError, match="loss is a list"):
        sweeps.run_grid(lambda rank: {"loss": [1.0]}, grid, progress=False)
    with pytest.raises(ValueError, match=r"a .jsonl file, not 'x.csv'"):
        sweeps.run_grid(lambda rank: {}, grid, tmp_path / "x.csv", progress=False)
    with pytest.raises(ValueError, match="the new row has"):
        sweeps.run_grid(lambda rank: {f"a{rank}": 1}, grid, tmp_path / "x.jsonl", progress=False)
    frame = sweeps.run_grid(lambda rank: {"x": np.float64(0.5), "t": torch.tensor(2)}, grid, progress=False)
    assert frame["t"].tolist() == [2, 2]


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_in_a_process_leaves_whole_rows(tmp_path):
    code = """
    import time
    from lora_ref.sweeps import run_grid

    def run(i):
        if i == 2:
            print("now", flush=True)
            time.sleep(600)
        return {"square": i * i}

    run_grid(run, {"i": range(5)}, "r.jsonl")
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(analysis.__file__)))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root},
        preexec_fn=hears_ctrl_c,
    )  # fmt: skip
    for line in process.stdout:
        if line == "now\n":
            process.send_signal(signal.SIGINT)
            break
    _, error = process.communicate()
    assert "KeyboardInterrupt" in error
    rows = (tmp_path / "r.jsonl").read_text().splitlines()
    assert [json.loads(row)["square"] for row in rows] == [0, 1]
    asked = []
    frame = sweeps.run_grid(
        lambda i: asked.append(i) or {"square": i * i}, {"i": range(5)}, tmp_path / "r.jsonl", progress=False
    )
    assert asked == [2, 3, 4]
    assert frame["square"].tolist() == [0, 1, 4, 9, 16]


# --- sweeps -----------------------------------------------------------------------------------------------

COLUMNS = ["rank", "alpha", "targets", "seed"]
COLUMNS += ["trainable", "accuracy", "loss", "validation_accuracy", "seconds", "peak_memory"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A small sweep: the frame and its file."""
    file = tmp_path_factory.mktemp("sweep") / "ranks.jsonl"
    return sweeps.sweep_ranks(SHORT, [1, 4], [0, 1], results=file, progress=False, max_steps=1), file


def test_sweep_ranks(swept):
    frame, _ = swept
    assert list(frame.columns) == COLUMNS
    assert frame["rank"].tolist() == [1, 1, 4, 4]
    assert frame["alpha"].tolist() == [2, 2, 8, 8]
    assert frame["seed"].tolist() == [0, 1, 0, 1]
    head, one = 1122, 800  # parameters of the head, and of rank 1 on every linear layer of the encoder
    assert frame["trainable"].tolist() == [head + one] * 2 + [head + 4 * one] * 2
    assert (frame["peak_memory"] > 10_000_000).all()


def test_a_sweep_resumes_and_refuses_another_profile(swept, monkeypatch):
    frame, file = swept
    monkeypatch.setattr(sweeps, "fine_tune", None)  # nothing may train
    again = sweeps.sweep_ranks(SHORT, [4, 1], [1], results=file, progress=False, max_steps=1)
    assert again["rank"].tolist() == [4, 1]
    assert again["loss"].tolist() == [frame["loss"][3], frame["loss"][1]]
    other = dataclasses.replace(SHORT, train_size=64)
    with pytest.raises(ValueError, match="train_size: 32 there, 64 now"):
        sweeps.sweep_ranks(other, [1], results=file, progress=False, max_steps=1)
    with pytest.raises(TypeError, match="unexpected 'max_step'"):
        sweeps.sweep_ranks(SHORT, [1], max_step=1)


def test_a_row_is_what_fine_tune_finds(swept):
    frame, _ = swept
    result = fine_tune("lora", SHORT, rank=4, alpha=8, seed=1, max_steps=1, progress=False)
    row = frame.iloc[3]
    assert (row["accuracy"], row["loss"]) == (result.test["accuracy"], result.test["loss"])


def test_target_groups_tell_the_two_output_layers_apart():
    groups = sweeps.target_groups(models.tiny_roberta())
    assert {name: len(targets) for name, targets in groups.items()} == {
        "query+value": 4, "attention": 8, "feed-forward": 4, "all": 12,
    }  # fmt: skip
    assert not set(groups["attention"]) & set(groups["feed-forward"])
    assert set(groups["attention"]) | set(groups["feed-forward"]) == set(groups["all"])


def test_ablate_targets_within_one_budget():
    frame = sweeps.ablate_targets(SHORT, budget=4000, progress=False, max_steps=1)
    assert frame["targets"].tolist() == ["query+value", "attention", "feed-forward", "all"]
    assert frame["rank"].tolist() == [4000 // 256, 4000 // 512, 4000 // 288, 4000 // 800]
    assert (frame["trainable"] - 1122).between(3500, 4000).all()
    with pytest.raises(ValueError, match="rank 1 on 'all' has 800 parameters; the budget is 799"):
        sweeps.ablate_targets(SHORT, budget=799, progress=False)
    with pytest.raises(ValueError, match="no group 'qv'; there are: "):
        sweeps.ablate_targets(SHORT, ["qv"])


def test_own_groups_are_part_of_the_settings(tmp_path):
    file = tmp_path / "own.jsonl"
    sweeps.ablate_targets(SHORT, {"mine": ["key"]}, rank=1, results=file, progress=False, max_steps=1)
    assert json.loads(json.loads(file.read_text())["setup"])["groups"] == {"mine": ["key"]}
    with pytest.raises(ValueError, match="groups: "):
        sweeps.ablate_targets(SHORT, {"mine": ["value"]}, rank=1, results=file, progress=False, max_steps=1)


def test_ablate_alpha():
    frame = sweeps.ablate_alpha(SHORT, [1, 32], rank=2, targets=["query", "value"], progress=False, max_steps=2)
    assert frame["alpha"].tolist() == [1, 32]
    assert (frame["rank"] == 2).all()
    assert set(frame["targets"]) == {"query+value"}
    assert frame["loss"].nunique() == 2
