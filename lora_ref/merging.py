"""What one does with the LoRA layers of a model: find them, merge them, take them out, switch them off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from lora_ref.layers import LinearWithLoRA
from lora_ref.places import require_module, swap_module, unwrapped
from lora_ref.pretrained import refuse_scaled_outputs, tied_layers, untie
from lora_ref.stand_in import unload_problem


def lora_layers(model: nn.Module) -> dict[str, LinearWithLoRA]:
    """The model's LoRA layers by dotted name, in the order of ``model.named_modules()``.

    Raises:
        TypeError: ``model`` is not a module.

    Example:
        >>> from lora_ref import inject_lora
        >>> model = inject_lora(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), ["2"], rank=1)
        >>> lora_layers(model)["2"].lora
        LoRALayer(
          in_features=8, out_features=2, rank=1, scaling=16
          (dropout): Dropout(p=0.0, inplace=False)
        )
    """
    require_module(model)
    return {name: module for name, module in model.named_modules() if isinstance(module, LinearWithLoRA)}


def _layers_to_merge(model: nn.Module) -> dict[str, LinearWithLoRA]:
    layers = lora_layers(model)
    if not layers:
        raise ValueError(f"{type(unwrapped(model)).__name__} has no LoRA layers of lora_ref: nothing can be merged")
    return layers


def merge_lora(model: nn.Module) -> nn.Module:
    """Merge every LoRA layer, so that inference costs what it cost before LoRA; returns the model.

    Raises:
        ValueError: there are no LoRA layers; or one can't be merged (see `LinearWithLoRA.merge`), the message names it,
            and none is then.

    Example:
        >>> import torch
        >>> from lora_ref import inject_lora
        >>> model, x = inject_lora(nn.Sequential(nn.Linear(4, 2)), ["0"], rank=1), torch.ones(1, 4)
        >>> _ = nn.init.ones_(model[0].lora.lora_B)
        >>> before = model(x)
        >>> torch.allclose(merge_lora(model)(x), before), model[0].merged
        (True, True)
    """
    newly_merged: list[LinearWithLoRA] = []
    for name, layer in _layers_to_merge(model).items():
        try:
            if not layer.merged:
                layer.merge()
                newly_merged.append(layer)
        except ValueError as error:
            for other in newly_merged:
                other.unmerge()
            raise ValueError(f"{name}: {error}") from None
    return model


def merge_and_unload(model: nn.Module) -> nn.Module:
    """Merge every LoRA layer and take the wrappers out: a plain model again, for any purpose; returns it.

    What trains stays as it is. Where an adapted weight was tied to the word embedding, nothing in the model is tied any
    more, and the configuration says so.

    Raises:
        ValueError: as in `merge_lora`, or a wrapper has hooks, which would be lost.

    Example:
        >>> import torch
        >>> from lora_ref import inject_lora
        >>> model, x = inject_lora(nn.Sequential(nn.Linear(4, 2)), ["0"], rank=1, train_head=False), torch.ones(1, 4)
        >>> _ = nn.init.ones_(model[0].lora.lora_B)
        >>> before = model(x)
        >>> torch.allclose(merge_and_unload(model)(x), before), type(model[0]).__name__
        (True, 'Linear')
    """
    _refuse_losses(model)
    config: Any = getattr(unwrapped(model), "config", None)
    is_tied = bool(getattr(config, "tie_word_embeddings", False)) and bool(tied_layers(model))
    if is_tied:
        refuse_scaled_outputs(config)
    plain = _take_out(merge_lora(model))
    if is_tied:
        untie(plain)
        config.tie_word_embeddings = False
    return plain


def unload_lora(model: nn.Module) -> nn.Module:
    """Take the wrappers out and forget the updates: the base model again, bit for bit; returns it.

    Example:
        >>> from lora_ref import inject_lora
        >>> unload_lora(inject_lora(nn.Sequential(nn.Linear(4, 2)), ["0"], rank=1, train_head=False))
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
        )
    """
    _refuse_losses(model)
    return _take_out(unmerge_lora(model))


def _refuse_losses(model: nn.Module) -> None:
    for name, layer in lora_layers(model).items():
        if problem := unload_problem(layer):
            raise ValueError(f"{name}: this LoRA layer can't be taken out: {problem}")


def _take_out(model: nn.Module) -> nn.Module:
    for layer in lora_layers(model).values():
        layer.linear.train(layer.training)
        swap_module(model, layer, layer.linear)
    return model.linear if isinstance(model, LinearWithLoRA) else model


def unmerge_lora(model: nn.Module) -> nn.Module:
    """Take every update out of its weight again, bit for bit; returns the model.

    Example:
        >>> import torch
        >>> from lora_ref import inject_lora
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
        >>> from lora_ref import inject_lora
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
        >>> from lora_ref import inject_lora
        >>> linear, x = nn.Linear(4, 2), torch.ones(1, 4)
        >>> model = inject_lora(nn.Sequential(linear), ["0"], rank=1)
        >>> _ = nn.init.ones_(model[0].lora.lora_B)
        >>> with lora_disabled(model):
        ...     torch.equal(model(x), linear(x))
        True
        >>> torch.equal(model(x), linear(x))
        False
    """
    with switched_off(lora_layers(model).values()):
        yield model


@contextlib.contextmanager
def switched_off(updates: Iterable[Any]) -> Iterator[None]:
    """Things with a switch, ``enabled``, off inside a ``with`` block; afterwards each switch is as it was.

    Example:
        >>> from lora_ref import LinearWithLoRA
        >>> layer = LinearWithLoRA(nn.Linear(4, 2), rank=1, alpha=1)
        >>> with switched_off([layer]):
        ...     layer.enabled
        False
        >>> layer.enabled
        True
    """
    before = {update: update.enabled for update in updates}
    for update in before:
        update.enabled = False
    try:
        yield
    finally:
        for update, on in before.items():
            update.enabled = on
