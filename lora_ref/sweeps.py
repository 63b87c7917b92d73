"""Train the same thing many times: over ranks, targets, alphas, seeds. It can be interrupted, and goes on where it was.

`lora_ref.grid.run_grid` is the part that knows nothing of training, and keeps the rows.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lora_ref.grid import run_grid
from lora_ref.inject import linear_at, match_targets
from lora_ref.progress import is_live
from lora_ref.rank import lora_param_count
from lora_ref.training import ENCODER_LINEARS, default_alpha, fine_tune

if TYPE_CHECKING:
    import pandas as pd

    from lora_ref.profiles import Profile

#: What `target_groups` knows.
GROUPS = ("query+value", "attention", "feed-forward", "all")


# --- what to adapt ----------------------------------------------------------------------------------------


def target_groups(model: nn.Module) -> dict[str, list[str]]:
    """Targets of a RoBERTa (or BERT) by group, for `lora_ref.inject.inject_lora`: what an ablation compares.

    ``"query+value"``, ``"attention"`` (query, key, value and the attention's output), ``"feed-forward"`` (the two
    layers after it) and ``"all"`` (both). The names are whole ones, because both parts have a layer that ends in
    ``output.dense``, and a target matches from the end.

    Raises:
        ValueError: the model has no such layers.

    Example:
        >>> from lora_ref.models import tiny_roberta
        >>> {name: len(targets) for name, targets in target_groups(tiny_roberta()).items()}
        {'query+value': 4, 'attention': 8, 'feed-forward': 4, 'all': 12}
    """
    attention = match_targets(model, ["query", "key", "value", "attention.output.dense"])
    encoder = match_targets(model, ENCODER_LINEARS)
    return {
        "query+value": match_targets(model, ["query", "value"]),
        "attention": attention,
        "feed-forward": [name for name in encoder if name not in attention],
        "all": encoder,
    }


# --- sweeps -----------------------------------------------------------------------------------------------


def sweep_ranks(
    profile: Profile,
    ranks: Sequence[int] = (1, 2, 4, 8, 16),
    seeds: Sequence[int] = (0,),
    *,
    alpha: float | None = None,
    targets: Sequence[str] = ENCODER_LINEARS,
    results: str | os.PathLike | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """LoRA of several ranks, with every seed.

    Args:
        profile, targets: as in `lora_ref.training.fine_tune`.
        ranks, seeds: a row for each rank and seed.
        alpha: the same for all ranks; by default `default_alpha` of each, so that ranks alone differ.
        results, progress: as in `run_grid`.
        options: ``epochs``, ``max_steps``, ``learning_rate`` and ``dropout`` of `fine_tune`.

    Returns:
        The columns ``rank``, ``alpha``, ``targets``, ``seed``, ``trainable`` (parameters, with the head), ``accuracy``
        and ``loss`` (held-out test sentences), ``validation_accuracy``, ``seconds`` and ``peak_memory`` (bytes; the
        process's on the CPU, so later rows of one process start higher).

    Raises:
        ValueError: as in `run_grid` and `fine_tune`.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> frame = sweep_ranks(TINY, ranks=[4], max_steps=1, progress=False)
        >>> frame[["rank", "alpha", "trainable"]]
           rank  alpha  trainable
        0     4      8       4322
    """
    pairs = [(rank, default_alpha(rank) if alpha is None else alpha) for rank in ranks]
    return _train_grid(profile, *_points(pairs, targets, seeds), results, progress, options)


def three_seeds() -> pd.DataFrame:
    """A sweep made in advance: ranks 1, 8 and 64 of the laptop profile with three seeds each.

    Stage 4's sentences, two epochs, alpha = 2 * rank, on two CPU cores, one thread. It was made with

        python -m lora_ref sweep --profile laptop --ranks 1 8 64 --seed 0 1 2

    and ``ranks_laptop.csv`` beside this file is what that command wrote, without the loss and what is the machine's
    alone (seconds and memory). Another machine's accuracies may differ by a point.

    Example:
        >>> frame = three_seeds()
        >>> sorted(set(frame["rank"])), sorted(set(frame["seed"]))
        ([1, 8, 64], [0, 1, 2])
    """
    import pandas as pd

    return pd.read_csv(Path(__file__).with_name("ranks_laptop.csv"))


def ablate_targets(
    profile: Profile,
    groups: Sequence[str] | Mapping[str, Sequence[str]] = GROUPS,
    seeds: Sequence[int] = (0,),
    *,
    rank: int = 8,
    budget: int | None = None,
    results: str | os.PathLike | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """LoRA on several groups of layers: the same rank for all, or about the same number of parameters.

    Args:
        profile, seeds, results, progress, options: as in `sweep_ranks`. Alpha is `default_alpha` of the rank.
        groups: names from `target_groups`, or names of your own with their targets.
        rank: of every group.
        budget: instead of the rank: LoRA parameters. Each group gets the largest rank that fits (the paper's table 5
            compares so), and the column ``rank`` says which.

    Returns:
        As in `sweep_ranks`.

    Raises:
        ValueError: there is no such group, a budget is too small for one, and as in `run_grid` and `fine_tune`.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> frame = ablate_targets(TINY, ["query+value"], budget=600, max_steps=1, progress=False)
        >>> frame[["targets", "rank", "trainable"]]  # rank 2 is the largest that 600 numbers allow; the head trains too
               targets  rank  trainable
        0  query+value     2       1634
    """
    from lora_ref import models

    model = models.base_model(profile)
    known = target_groups(model)
    if not isinstance(groups, Mapping):
        unknown = [name for name in groups if name not in known]
        if unknown:
            raise ValueError(f"no group {unknown[0]!r}; there are: {', '.join(map(repr, known))}")
        groups = {name: known[name] for name in groups}
    grid = []
    for name, targets in groups.items():
        r = rank if budget is None else _rank_within(model, name, targets, budget)
        grid += [{"rank": r, "alpha": default_alpha(r), "targets": name, "seed": seed} for seed in seeds]
    return _train_grid(profile, grid, dict(groups), results, progress, options)


def ablate_alpha(
    profile: Profile,
    alphas: Sequence[float] = (1, 4, 16, 64),
    seeds: Sequence[int] = (0,),
    *,
    rank: int = 8,
    targets: Sequence[str] = ENCODER_LINEARS,
    results: str | os.PathLike | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """LoRA of one rank with several alphas; arguments, columns and errors as in `sweep_ranks`.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> ablate_alpha(TINY, alphas=[16], rank=2, max_steps=1, progress=False)[["rank", "alpha", "seed"]]
           rank  alpha  seed
        0     2     16     0
    """
    pairs = [(rank, alpha) for alpha in alphas]
    return _train_grid(profile, *_points(pairs, targets, seeds), results, progress, options)


def _points(
    pairs: Sequence[tuple[int, float]], targets: Sequence[str], seeds: Sequence[int]
) -> tuple[list[dict[str, Any]], dict[str, Sequence[str]]]:
    """The grid of pairs of rank and alpha by seeds, and what its one group of targets is."""
    if isinstance(targets, str):
        raise TypeError(f"targets is a list of names; write [{targets!r}]")
    name = "all" if tuple(targets) == ENCODER_LINEARS else "+".join(targets)
    grid = [{"rank": rank, "alpha": alpha, "targets": name, "seed": seed} for rank, alpha in pairs for seed in seeds]
    return grid, {name: list(targets)}


def _rank_within(model: nn.Module, name: str, targets: Sequence[str], budget: int) -> int:
    layers = [linear_at(model, layer) for layer in match_targets(model, targets)]
    at_rank_1 = sum(lora_param_count(layer.out_features, layer.in_features, 1) for layer in layers)
    if at_rank_1 > budget:
        raise ValueError(f"rank 1 on {name!r} has {at_rank_1:,} parameters; the budget is {budget:,}")
    return budget // at_rank_1


def _train_grid(
    profile: Profile,
    grid: list[dict[str, Any]],
    groups: Mapping[str, Sequence[str]],
    results: str | os.PathLike | None,
    progress: bool,
    options: dict[str, Any],
) -> pd.DataFrame:
    allowed = {"epochs", "max_steps", "learning_rate", "dropout"}
    if unknown := sorted(options.keys() - allowed):
        raise TypeError(f"unexpected {', '.join(map(repr, unknown))}; options are {', '.join(sorted(allowed))}")

    def run(rank: int, alpha: float, targets: str, seed: int) -> dict[str, Any]:
        result = fine_tune(
            "lora",
            profile,
            rank=rank,
            alpha=alpha,
            targets=groups[targets],
            seed=seed,
            progress=progress and is_live(sys.stderr),  # a bar within the row; a log gets the row's own line
            **options,
        )
        return {
            "trainable": result.trainable,
            "accuracy": result.test["accuracy"],
            "loss": result.test["loss"],
            "validation_accuracy": result.validation["accuracy"],
            "seconds": round(result.seconds, 3),
            "peak_memory": result.peak_memory,
        }

    settings = _settings(profile, options)
    if own := {name: targets for name, targets in groups.items() if name not in GROUPS and "+".join(targets) != name}:
        settings["groups"] = own  # a name alone does not say what was adapted
    return run_grid(run, grid, results, progress, settings)


#: Words, which change nothing that is measured.
_WORDS = ("base_model", "data", "purpose", "minutes", "notebook_minutes", "machine", "meaning")


def _settings(profile: Profile, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a row's result depends on besides its own columns; kept with it."""
    settings = {f.name: getattr(profile, f.name) for f in dataclasses.fields(profile) if f.name not in _WORDS}
    rate = settings.pop("learning_rates")["lora"]  # the other methods' rates are not this grid's
    given = {name: value for name, value in options.items() if value is not None}
    device = "cuda" if torch.cuda.is_available() else "cpu"  # seconds and memory of the two do not go into one table
    return {"profile": settings.pop("name"), **settings, "learning_rate": rate, "device": device, **given}
