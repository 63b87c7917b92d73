"""Put LoRA into an existing model: freeze it, find the linear layers by name, wrap them, count what trains."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lora_ref.host import (
    HEAD_NAMES,  # noqa: F401 (it is offered here too)
    head_names,
    predicts_words,
)
from lora_ref.layers import LinearWithLoRA
from lora_ref.merging import (  # noqa: F401 (they are offered here too)
    enable_lora,
    lora_disabled,
    lora_layers,
    merge_and_unload,
    merge_lora,
    unload_lora,
    unmerge_lora,
)
from lora_ref.names import holds, is_expression, matches, names_in, nearest, no_match, one_string
from lora_ref.places import other_references, swap_module, unwrapped


def freeze(model: nn.Module) -> nn.Module:
    """Stop every parameter of ``model`` from training; returns the model.

    Example:
        >>> model = freeze(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
        >>> any(p.requires_grad for p in model.parameters())
        False
    """
    return model.requires_grad_(False)


def match_targets(model: nn.Module, targets: Iterable[str]) -> list[str]:
    """Names of the ``nn.Linear`` modules that ``targets`` mean, in the order of ``model.named_modules()``.

    A target matches whole parts of a dotted name, from the end: ``"query"`` is ``...attention.self.query`` and not
    ``...my_query``; ``"layer1"`` is not ``layer10``.

    Raises:
        ValueError: a target matches no linear layer; the message names it and the nearest names there are.
        TypeError: ``targets`` is one string instead of several, or not of strings.

    Example:
        >>> model = nn.ModuleDict({"query": nn.Linear(4, 4), "my_query": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
        >>> match_targets(model, ["query"])
        ['query']
        >>> match_targets(model, ["qurey"])
        Traceback (most recent call last):
            ...
        ValueError: no linear layer matches 'qurey'; nearest: 'query', 'my_query'
    """
    linears = linear_names(model)
    if isinstance(targets, str):
        raise TypeError(one_string(model, targets, list(linears)))
    targets = names_in(targets, "targets")
    for target in targets:
        if not any(matches(name, target) for names in linears.values() for name in names):
            raise ValueError(no_match(model, target, list(linears)))
    return [first for first, names in linears.items() if any(matches(n, target) for n in names for target in targets)]


def linear_names(model: nn.Module) -> dict[str, list[str]]:
    """Every name of each linear layer, by its first: one that stands in several places has several.

    Example:
        >>> shared = nn.Linear(4, 4)
        >>> linear_names(nn.Sequential(shared, nn.ReLU(), shared))
        {'0': ['0', '2']}
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear):
            names.setdefault(module, []).append(name)
    return {all_of_it[0]: all_of_it for all_of_it in names.values()}


def linear_at(model: nn.Module, name: str) -> nn.Linear:
    """The linear layer of that name, as `match_targets` finds them.

    Raises:
        TypeError: another kind of module has that name.

    Example:
        >>> linear_at(nn.Sequential(nn.Linear(4, 2)), "0")
        Linear(in_features=4, out_features=2, bias=True)
    """
    module = model.get_submodule(name)
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{name!r} is a {type(module).__name__}, not a linear layer")
    return module


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` where the module with the dotted ``name`` is.

    Raises:
        ValueError: there is no such module.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 2)))
        >>> replace_module(model, "1.0", nn.GELU())
        >>> model[1]
        Sequential(
          (0): GELU(approximate='none')
          (1): Linear(in_features=8, out_features=2, bias=True)
        )
    """
    parent_name, _, child = name.rpartition(".")
    try:
        parent = model.get_submodule(parent_name)
        parent.get_submodule(child)
    except AttributeError:
        raise ValueError(f"{type(model).__name__} has no module {name!r}") from None
    parent.register_module(child, new)


def inject_lora(
    model: nn.Module,
    targets: Iterable[str],
    rank: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    train_head: bool | str | Iterable[str] = True,
    *,
    rslora: bool = False,
    init: str = "kaiming",
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
) -> nn.Module:
    """Freeze ``model`` and give each target layer a trainable low-rank update, in place.

    Nothing pretrained changes: the wrapped layers are the model's own, and each update starts at exactly zero.

    Args:
        model: any module with ``nn.Linear`` layers.
        targets: names as `match_targets` reads them.
        rank, alpha, dropout, rslora, init: as in `LoRALayer`.
        train_head: leave the task head trainable: a new head is random, and an update of the encoder cannot make up
            for that. True finds it (`lora_ref.host.head_names`), and warns where there is none; a name, or a list of
            names as `match_targets` reads them, means any modules. A head whose layers are all targets trains through
            their updates alone.
        rank_pattern, alpha_pattern: other ranks and alphas for some of the layers, by whole parts of their names:
            ``"query"``, or ``"layer.1"`` for all in it. The first that fits counts.

    Returns:
        The model.

    Raises:
        ValueError: a target, a name in a pattern or in ``train_head`` matches nothing, there are no targets, a rank is
            below 1, an alpha is not finite, a target is one name of a shared layer that has others, the model has LoRA
            layers already, or is wrapped for training on several processes; the model is then as it was.

    Example:
        >>> from lora_ref.models import tiny_roberta
        >>> model = inject_lora(tiny_roberta(), ["query", "value"], rank=4, alpha=8)
        >>> len(lora_layers(model))
        4
        >>> {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
        {'classifier'}
    """
    refuse_injected(model)
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel) or "FSDP" in type(module).__name__:
            kind = type(module).__name__
            raise ValueError(f"{kind} trains only the parameters that it was made with: inject first, then wrap")
    targets = targets if isinstance(targets, str) else names_in(targets, "targets")
    names = match_targets(model, targets)  # all of them before the first replacement: it changes what there is
    if not names:
        raise ValueError("no targets: name the linear layers that get an update")
    _refuse_half_of_a_shared_layer(model, names, targets)
    for title, pattern in (("rank_pattern", rank_pattern), ("alpha_pattern", alpha_pattern)):
        if not isinstance(pattern, Mapping | None):
            raise TypeError(f"{title} is a dict with names as keys, got {pattern!r}")
        for key in pattern or {}:
            if not any(holds(name, key) for name in names):
                note = ". Its keys are parts of names, not expressions" if is_expression(str(key)) else ""
                near = nearest(key, names)
                raise ValueError(f"{title} names {key!r}, which is none of the targets; nearest: {near}{note}")
    heads = _heads(model, train_head)
    if train_head is not True:
        _refuse_tied_heads(model, heads, [linear_at(model, name) for name in names])
    adapted_layers: dict[str, LinearWithLoRA] = {}
    for name in names:
        r, a = _first_match(name, rank_pattern, rank), _first_match(name, alpha_pattern, alpha)
        _check_numbers(r, a, dropout)
        linear = linear_at(model, name)
        if any(isinstance(p, UninitializedParameter) for p in linear.parameters()):
            raise ValueError(f"{name!r} is lazy and has no size yet: call the model once before injection")
        trained_before = [p.requires_grad for p in linear.parameters()]
        try:
            adapted_layers[name] = LinearWithLoRA(linear, r, a, dropout, rslora=rslora, init=init)
        finally:
            for parameter, trained in zip(linear.parameters(), trained_before, strict=True):
                parameter.requires_grad_(trained)  # this layer may be refused, or a later one
    put_layers(model, adapted_layers)
    adapted = {id(p) for layer in adapted_layers.values() for p in layer.parameters()}
    for head in heads:
        if not adapted.issuperset(map(id, head.parameters())):
            head.requires_grad_(True)
    if train_head is True and not heads and not predicts_words(model):
        warnings.warn(
            f"no head is found in {type(unwrapped(model)).__name__}, so only A and B train: name it, "
            "train_head=['...'], or say train_head=False",
            stacklevel=2,
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            warnings.warn(
                f"{name!r} is a {type(module).__name__}: in training mode its running statistics change, frozen or "
                "not, and no adapter holds them; keep it in evaluation mode",
                stacklevel=2,
            )
            break
    return model


def refuse_injected(model: nn.Module) -> None:
    """Raise a ValueError if the model has LoRA layers, from here or from another library.

    Example:
        >>> refuse_injected(nn.Sequential(nn.Linear(4, 2))) is None
        True
    """
    if lora_layers(model):
        raise ValueError("this model has LoRA layers already; inject once, into a fresh model")
    others = [name for name, _ in model.named_parameters() if ".lora_" in f".{name}".lower()]
    if others:
        raise ValueError(
            f"this model has another library's LoRA ({others[0]!r}): merge that first, or start from the base model"
        )


def put_layers(model: nn.Module, layers: Mapping[str, LinearWithLoRA]) -> None:
    """Freeze ``model`` and put each layer wherever its linear layer is.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2))
        >>> put_layers(model, {"0": LinearWithLoRA(model[0], rank=1, alpha=1)})
        >>> type(model[0]).__name__
        'LinearWithLoRA'
    """
    freeze(model)
    references = other_references(model)
    for name, layer in layers.items():
        if layer.linear in references:
            places = " and ".join(sorted(references[layer.linear]))
            warnings.warn(
                f"{name!r} is also in {places}, which torch knows nothing of: what is called there has no update",
                stacklevel=3,
            )
        swap_module(model, layer.linear, layer)


def _refuse_half_of_a_shared_layer(model: nn.Module, wanted: list[str], targets: Iterable[str]) -> None:
    for first, names in linear_names(model).items():
        if first == "" and first in wanted:
            raise ValueError("the model is one linear layer itself: wrap it, LinearWithLoRA(model, rank, alpha)")
        left_out = [name for name in names if not any(matches(name, target) for target in targets)]
        if first in wanted and left_out:
            raise ValueError(f"{' and '.join(map(repr, names))} are one layer: name them all, or none of them")


def _heads(model: nn.Module, train_head: bool | str | Iterable[str]) -> list[nn.Module]:
    """The modules of the head, before anything is replaced."""
    inner = unwrapped(model)
    if isinstance(train_head, bool):
        return [inner.get_submodule(name) for name in (head_names(inner) if train_head else [])]
    heads = []
    modules = [(n, m) for n, m in inner.named_modules() if n and any(True for _ in m.parameters())]
    for head_name in [train_head] if isinstance(train_head, str) else names_in(train_head, "train_head"):
        fitting = [module for name, module in modules if matches(name, head_name)]
        if not fitting:
            near = nearest(head_name, [name for name, _ in modules])
            raise ValueError(
                f"train_head names {head_name!r}, and no module with parameters is called that; nearest: {near}"
            )
        heads += fitting
    return heads


def _refuse_tied_heads(model: nn.Module, heads: list[nn.Module], targets: list[nn.Linear]) -> None:
    weights = {id(p) for linear in targets for p in linear.parameters()}
    for name, module in model.named_modules():
        is_target = not set(targets).isdisjoint(module.modules())
        if module in heads and not is_target and weights.issuperset(map(id, module.parameters())):
            raise ValueError(
                f"train_head names {name!r}, whose weight is a target's too: it trains or it has an update, not both"
            )


def _check_numbers(rank: Any, alpha: Any, dropout: Any) -> None:
    if not isinstance(dropout, Real):
        raise TypeError(f"dropout must be a number, got {dropout!r}")
    if isinstance(rank, bool) or not isinstance(rank, Integral):
        raise TypeError(f"rank must be a whole number, got {rank!r}")
    if not isinstance(alpha, Real) or not math.isfinite(alpha):
        raise ValueError(f"alpha must be finite, got {alpha!r}")


def _first_match(name: str, pattern: Mapping[str, Any] | None, default: Any) -> Any:
    return next((value for key, value in (pattern or {}).items() if holds(name, key)), default)


def trainable_report(model: nn.Module) -> dict[str, float]:
    """How many parameters train: ``{"trainable": int, "total": int, "ratio": float}``; shared ones count once.

    Example:
        >>> trainable_report(inject_lora(nn.Sequential(nn.Linear(16, 8, bias=False)), ["0"], rank=1))
        {'trainable': 24, 'total': 152, 'ratio': 0.15789473684210525}
    """
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total = sum(n for n, _ in sizes)
    trainable = sum(n for n, on in sizes if on)
    return {"trainable": trainable, "total": total, "ratio": trainable / total if total else 0.0}


#: A part of a RoBERTa's parameters, and the word of a dotted name by which it is known; what has none is feed-forward.
_PARTS = {"head": "classifier", "embeddings": "embeddings", "norms": "LayerNorm", "attention": "attention"}


def audit(model: nn.Module) -> dict[str, tuple[int, int]]:
    """How many numbers are frozen and how many train in each part of a model with RoBERTa's names.

    Returns:
        ``{part: (frozen, training)}`` for embeddings, attention, feed-forward, norms, head and LoRA; shared parameters
        count once, buffers not at all. LoRA in the head is LoRA, and an embedding's norm an embedding.

    Example:
        >>> model = inject_lora(nn.ModuleDict({"classifier": nn.Linear(16, 8, bias=False)}), ["classifier"], rank=1)
        >>> [(part, counts) for part, counts in audit(model).items() if any(counts)]
        [('head', (128, 0)), ('LoRA', (0, 24))]
    """
    counts = {part: [0, 0] for part in ("embeddings", "attention", "feed-forward", "norms", "head", "LoRA")}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        part = next((part for part, word in _PARTS.items() if word in words), "feed-forward")
        if any(word.startswith("lora_") for word in words):
            part = "LoRA"
        counts[part][parameter.requires_grad] += parameter.numel()
    return {part: (frozen, training) for part, (frozen, training) in counts.items()}
