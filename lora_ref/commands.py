"""What ``python -m lora_ref train``, ``sweep``, ``compare`` and ``merge`` do; the arguments are in ``__main__``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ref.files import whole_file
from lora_ref.profiles import METHODS
from lora_ref.progress import is_main_process
from lora_ref.rounding import apart

if TYPE_CHECKING:
    import argparse

    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from lora_ref.profiles import Profile

__all__ = ["compare", "merge", "sweep", "train"]

#: Largest difference of logits that a merge may make, in float32: the order of two sums changes, and nothing else.
TOLERANCE = 1e-5
MERGE_SENTENCES = 256


def train(options: argparse.Namespace) -> int:
    """Train one model, and write its adapter, its metrics and its loss curve; returns the exit status.

    Example::

        python -m lora_ref train --rank 4 --out runs/rank4
    """
    from lora_ref import plots
    from lora_ref.training import fine_tune

    profile = chosen_profile(options)
    out = _folder(options.out)
    if options.method == "lora":
        print(f"LoRA r={options.rank} on {profile.base_model}; {profile.train_size:,} sentences", flush=True)
    else:
        print(f"{options.method} on {profile.base_model}; {profile.train_size:,} sentences", flush=True)
    result = fine_tune(options.method, profile, learning_rate=options.learning_rate, **_lora(options, profile))
    _report(result)
    assert result.model is not None  # fine_tune returns it
    if is_main_process():
        if options.method == "lora":
            from lora_ref.adapters import save_adapter

            file = out / ("adapter.safetensors" if options.format == "lora_ref" else "adapter")
            written = [save_adapter(result.model, file, format=options.format)]
        else:
            written = [_save_trained(result.model, out / f"{options.method}.safetensors")]
        row = {"profile": profile.name, **result.row(), "alpha": result.alpha, "learning rate": result.learning_rate}
        written.append(_write_csv(_frame([row | {"test loss": result.test["loss"]}]), out / "metrics.csv"))
        written.append(_write_png(plots.loss_curves([result]), out / "loss.png"))
        _say_written(written)
    return 0


def sweep(options: argparse.Namespace) -> int:
    """Train over ranks, alphas or groups of layers, and write a table and a figure; returns the exit status.

    Example::

        python -m lora_ref sweep --ranks 1 4 16
    """
    from lora_ref import plots, sweeps

    profile = chosen_profile(options)
    kind = "alphas" if options.alphas else "groups" if options.groups else "ranks"
    _refuse(options.budget and kind != "groups", "--budget goes with --groups")
    _refuse(options.targets and kind == "groups", "--targets does not go with --groups, which names them")
    _refuse(options.alpha and kind != "ranks", "--alpha goes with --ranks")
    table = _folder(options.out) / f"{kind}.csv"
    rows = table.with_suffix(".jsonl")
    options.kept = f"; finished rows are in {rows}, and the same command goes on from there"
    common = {
        "seeds": options.seed,
        "results": rows,
        "progress": is_main_process(),
        **{name: getattr(options, name) for name in ("epochs", "max_steps", "learning_rate")},
    }
    if kind == "groups":
        frame = sweeps.ablate_targets(profile, options.groups, rank=options.rank, budget=options.budget, **common)
        figure = plots.target_ablation(frame)
    else:
        if options.targets:
            common["targets"] = _targets(options.targets, profile)
        if kind == "alphas":
            frame = sweeps.ablate_alpha(profile, options.alphas, rank=options.rank, **common)
            figure = plots.alpha_ablation(frame)
        else:
            frame = sweeps.sweep_ranks(profile, options.ranks or (1, 2, 4, 8, 16), alpha=options.alpha, **common)
            figure = plots.rank_sweep(frame)
    if is_main_process():
        print(frame.drop(columns="peak_memory").to_string(index=False))
        _say_written([_write_csv(frame, table), _write_png(figure, table.with_suffix(".png"))])
    return 0


def compare(options: argparse.Namespace) -> int:
    """Train head, LoRA and full, and write a table and a figure; returns the exit status.

    Example::

        python -m lora_ref compare --rank 8
    """
    from lora_ref import plots
    from lora_ref.training import fine_tune

    profile = chosen_profile(options)
    out = _folder(options.out)
    results = []
    for method in METHODS:
        results.append(fine_tune(method, profile, **_lora(options, profile)))
        _report(results[-1])
        if is_main_process():  # after each: Ctrl-C in the longest one leaves the others' rows
            file = _write_csv(_frame([r.row() for r in results]), out / "compare.csv")
            options.kept = f"; what is finished is in {file}"
    if is_main_process():
        print(_frame([r.row() for r in results]).to_string(index=False, float_format=lambda x: f"{x:.3f}"))
        _say_written([file, _write_png(plots.compare_methods(results), out / "compare.png")])
    return 0


def merge(options: argparse.Namespace) -> int:
    """Merge an adapter into its base, and write a plain model; returns the exit status.

    Example::

        python -m lora_ref merge runs/train/adapter.safetensors
    """
    from lora_ref import data, models
    from lora_ref.adapters import inject_saved, read_adapter
    from lora_ref.inject import lora_layers, merge_and_unload
    from lora_ref.training import only_our_progress, predict_logits

    if not options.adapter.exists():
        raise FileNotFoundError(f"no adapter at {options.adapter}")
    profile = chosen_profile(options)
    model: nn.Module = models.base_model(profile, seed=options.seed)
    try:
        model = inject_saved(model, read_adapter(model, options.adapter), options.adapter.name)
    except ValueError as error:
        raise ValueError(f"{error}\nIs it an adapter for the {profile.name} profile? (--profile)") from None
    out = _folder(options.out)
    tokenizer, sentences = models.tokenizer(profile), data.reviews(profile)["test"]
    sentences = sentences.select(range(min(MERGE_SENTENCES, len(sentences))))
    before = predict_logits(model, sentences, tokenizer, profile.eval_batch_size, profile.max_length)
    layers = lora_layers(model)
    merge_and_unload(model)
    plain = models.base_model(profile)
    plain.load_state_dict(model.state_dict())  # strictly: what is written below loads into the plain architecture
    after = predict_logits(plain, sentences, tokenizer, profile.eval_batch_size, profile.max_length)
    difference = float((before - after).abs().max())
    agree = float((before.argmax(-1) == after.argmax(-1)).double().mean())
    how_far = apart(difference, tolerance=TOLERANCE)
    print(
        f"merged {len(layers)} layers; on {len(sentences):,} sentences the logits differ {how_far}, "
        f"and {agree:.1%} of the answers agree",
        flush=True,
    )
    if not difference <= TOLERANCE:
        print(f"lora_ref merge: more than {TOLERANCE:g}; nothing was written", file=sys.stderr)
        return 1
    if is_main_process():
        with only_our_progress():
            plain.save_pretrained(out)
        tokenizer.save_pretrained(out)
        _say_written([out / "model.safetensors", out / "config.json"])
    return 0


# --- parts ------------------------------------------------------------------------------------------------


def _refuse(wrong: Any, message: str) -> None:
    if wrong:
        raise ValueError(message)


def chosen_profile(options: argparse.Namespace) -> Profile:
    """The profile asked for, or an error; where none was, the best that can be had, with a line where it is another."""
    from lora_ref import profiles

    return profiles.choose(options.profile, strict=options.profile is not None)


def _folder(path: Path) -> Path:
    """The folder, made: better to fail now than after the training."""
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{path} cannot be written to")
    return path


def _targets(names: list[str] | None, profile: Profile) -> list[str]:
    """Targets as `inject_lora` reads them; a single name may be a group's."""
    from lora_ref import models
    from lora_ref.sweeps import GROUPS, target_groups
    from lora_ref.training import ENCODER_LINEARS

    if names is None or names == ["all"]:
        return list(ENCODER_LINEARS)
    if names == ["query+value"]:
        return ["query", "value"]
    if len(names) == 1 and names[0] in GROUPS:
        return target_groups(models.base_model(profile))[names[0]]
    return names


def _lora(options: argparse.Namespace, profile: Profile) -> dict[str, Any]:
    return {
        "rank": options.rank,
        "alpha": options.alpha,
        "targets": _targets(options.targets, profile),
        "seed": options.seed,
        "epochs": options.epochs,
        "max_steps": options.max_steps,
        "progress": is_main_process(),
    }


def _report(result: Any) -> None:
    from lora_ref.plots import wilson_interval

    low, high = wilson_interval(result.test["accuracy"], result.test["n"])
    print(
        f"{result.method}: test accuracy {result.test['accuracy']:.3f} (95% interval {low:.3f} to {high:.3f}, "
        f"{result.test['n']:,} sentences), {result.trainable:,} of {result.total:,} parameters trained in "
        f"{result.seconds:.0f} s",
        flush=True,
    )


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows)
    return frame.astype({"rank": "Int64"}) if "rank" in frame else frame


def _write_csv(frame: pd.DataFrame, path: Path) -> Path:
    return _whole_file(path, lambda unfinished: frame.to_csv(unfinished, index=False, lineterminator="\n"))


def _write_png(figure: Figure, path: Path) -> Path:
    """The figure, with its text in the file's metadata for readers who do not see it."""
    from lora_ref.plots.base import alt_text

    metadata = {"Description": alt_text(figure)}
    return _whole_file(path, lambda unfinished: figure.savefig(unfinished, format="png", metadata=metadata))


def _save_trained(model: nn.Module, path: Path) -> Path:
    from safetensors.torch import save_file

    tensors = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
    return _whole_file(path, lambda unfinished: save_file(tensors, unfinished))


def _whole_file(path: Path, write: Any) -> Path:
    with whole_file(path) as unfinished:
        write(unfinished)
    return path


def _say_written(paths: Iterable[Path]) -> None:
    print("wrote " + ", ".join(str(path) for path in paths), flush=True)
