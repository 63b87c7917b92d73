"""Put LoRA into an existing model: freeze it, find the linear layers by name, wrap them, count what trains."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from lora_ref.layers import LinearWithLoRA

#: What the task head is called in the model families of this course (RoBERTa, ViT, and most others).
HEAD_NAMES = ("classifier", "score", "head", "fc")


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
        TypeError: ``targets`` is one string instead of several.

    Example:
        >>> model = nn.ModuleDict({"query": nn.Linear(4, 4), "my_query": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
        >>> match_targets(model, ["query"])
        ['query']
        >>> match_targets(model, ["qurey"])
        Traceback (most recent call last):
            ...
        ValueError: no linear layer matches 'qurey'; nearest: 'query', 'my_query'
    """
    if isinstance(targets, str):
        raise TypeError(f"targets is a list of names; write [{targets!r}]")
    targets = list(targets)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(_matches(name, target) for name in linears):
            parts = {part for name in linears for part in (name, name.rpartition(".")[2])}
            near = difflib.get_close_matches(target, sorted(parts), n=3) or sorted(parts)[:8]
            raise ValueError(f"no linear layer matches {target!r}; nearest: {', '.join(map(repr, near))}")
    return [name for name in linears if any(_matches(name, target) for target in targets)]


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


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
    train_head: bool = True,
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
        train_head: leave the task head (a direct child named as in `HEAD_NAMES`) trainable: a new head is random,
            and an update of the encoder cannot make up for that.
        rank_pattern, alpha_pattern: other ranks and alphas for some of the layers, by names that `match_targets` could
            read; the first that fits counts.

    Returns:
        The model.

    Raises:
        ValueError: a target matches nothing, a rank is below 1, or the model has LoRA layers already; the model is then
            as it was.

    Example:
        >>> from lora_ref.models import tiny_roberta
        >>> model = inject_lora(tiny_roberta(), ["query", "value"], rank=4, alpha=8)
        >>> len(lora_layers(model))
        4
        >>> {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
        {'classifier'}
    """
    if lora_layers(model):
        raise ValueError("this model has LoRA layers already; inject once, into a fresh model")
    wrapped = {}
    for name in match_targets(model, targets):  # all of them before the first replacement: it changes what there is
        r, a = _first_match(name, rank_pattern, rank), _first_match(name, alpha_pattern, alpha)
        linear = linear_at(model, name)
        trained_before = [p.requires_grad for p in linear.parameters()]
        try:
            wrapped[name] = LinearWithLoRA(linear, r, a, dropout, rslora=rslora, init=init)
        finally:
            for parameter, trained in zip(linear.parameters(), trained_before, strict=True):
                parameter.requires_grad_(trained)  # this layer may be refused, or a later one
    freeze(model)
    for name, layer in wrapped.items():
        replace_module(model, name, layer)
    if train_head:
        for head in HEAD_NAMES:
            if isinstance(getattr(model, head, None), nn.Module):
                getattr(model, head).requires_grad_(True)
    return model


def _first_match(name: str, pattern: Mapping[str, Any] | None, default: Any) -> Any:
    return next((value for target, value in (pattern or {}).items() if _matches(name, target)), default)


def lora_layers(model: nn.Module) -> dict[str, LinearWithLoRA]:
    """The model's LoRA layers by dotted name, in the order of ``model.named_modules()``.

    Example:
        >>> model = inject_lora(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), ["2"], rank=1)
        >>> lora_layers(model)["2"].lora
        LoRALayer(
          in_features=8, out_features=2, rank=1, scaling=16
          (dropout): Dropout(p=0.0, inplace=False)
        )
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, LinearWithLoRA)}


def merge_lora(model: nn.Module) -> nn.Module:
    """Merge every LoRA layer, so that inference costs what it cost before LoRA; returns the model.

    Example:
        >>> import torch
        >>> model, x = inject_lora(nn.Sequential(nn.Linear(4, 2)), ["0"], rank=1), torch.ones(1, 4)
        >>> _ = nn.init.ones_(model[0].lora.lora_B)
        >>> before = model(x)
        >>> torch.allclose(merge_lora(model)(x), before), model[0].merged
        (True, True)
    """
    for layer in lora_layers(model).values():
        layer.merge()
    return model


def unmerge_lora(model: nn.Module) -> nn.Module:
    """Take every update out of its weight again, bit for bit; returns the model.

    Example:
        >>> import torch
        >>> model = inject_lora(nn.Sequential(nn.Linear(4, 2)), ["0"], rank=1)
        >>> _ = nn.init.ones_(model[0].lora.lora_B)
        >>> W = model[0].linear.weight.clone()
        >>> torch.equal(unmerge_lora(merge_lora(model))[0].linear.weight, W)
        True
    """
    for layer in lora_layers(model).values():
        layer.unmerge()
    return model


def enable_lora(model: nn.Module, on: bool = True) -> nn.Module:
    """Switch every update on, or off: off, the encoder computes what it did before LoRA. Returns the model.

    Example:
        >>> import torch
        >>> linear, x = nn.Linear(4, 2), torch.ones(1, 4)
        >>> model = inject_lora(nn.Sequential(linear), ["0"], rank=1)
        >>> _ = nn.init.ones_(model[0].lora.lora_B)
        >>> torch.equal(model(x), linear(x))
        False
        >>> torch.equal(enable_lora(model, False)(x), linear(x))
        True
    """
    for layer in lora_layers(model).values():
        layer.enabled = on
    return model


@contextlib.contextmanager
def lora_disabled(model: nn.Module) -> Iterator[nn.Module]:
    """The model without its updates, inside a ``with`` block; afterwards each layer's switch is as it was.

    Example:
        >>> import torch
        >>> linear, x = nn.Linear(4, 2), torch.ones(1, 4)
        >>> model = inject_lora(nn.Sequential(linear), ["0"], rank=1)
        >>> _ = nn.init.ones_(model[0].lora.lora_B)
        >>> with lora_disabled(model):
        ...     torch.equal(model(x), linear(x))
        True
        >>> torch.equal(model(x), linear(x))
        False
    """
    before = {layer: layer.enabled for layer in lora_layers(model).values()}
    enable_lora(model, False)
    try:
        yield model
    finally:
        for layer, on in before.items():
            layer.enabled = on


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
