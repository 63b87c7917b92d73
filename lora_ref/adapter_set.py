"""Several named adapters on one base model: switch between them, add, compose, remove, save each.

The base's weights are never written. Each adapter owns its updates and its head; `AdapterSet.activate` puts the ones of
one adapter into the model, and takes the others out.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lora_ref.adapters import adapter_parameters, inject_saved, read_adapter, refuse_merged, save_adapter
from lora_ref.inject import inject_lora, lora_layers
from lora_ref.layers import LinearWithLoRA, LoRALayer
from lora_ref.places import plain_name, swap_module, unwrapped


class Adapter(NamedTuple):
    """Updates by the name of the layer that they belong to, and the head's parameters by name.

    Example:
        >>> adapter = Adapter(updates={"0": LoRALayer(4, 2, rank=1, alpha=2)}, head={})
        >>> adapter.updates["0"].delta_weight().shape
        torch.Size([2, 4])
    """

    updates: dict[str, LoRALayer]
    head: dict[str, nn.Parameter]


class AdapterSet:
    """Named adapters on one base model, of which one is active, or none.

    Adapters may differ in rank, alpha and target layers: a layer without an update in the active adapter is the base's
    own ``nn.Linear`` again. An adapter keeps its parameters while it is out of the model, so an optimiser that holds
    them can go on after a switch back. With none active the model computes what the base computes, head included.

    Args:
        model: a base model, or one that has been injected: then its LoRA layers and its trained head are the first
            adapter, which is active, and the base's head is this head as it is now.
        name: what this first adapter is called.

    Attributes:
        model: the model; it is changed in place.
        active: the active adapter's name, or None.

    Raises:
        ValueError: the model is merged, or a layer both has an update and trains itself.

    Example:
        >>> from lora_ref.models import tiny_roberta
        >>> adapters = AdapterSet(inject_lora(tiny_roberta(), ["query"], rank=2), name="films")
        >>> adapters.add("books", ["query", "value"], rank=4)
        >>> adapters.activate("books")
        >>> adapters.names, adapters.active, len(lora_layers(adapters.model))
        (['films', 'books'], 'books', 4)
        >>> adapters.activate("films")
        >>> len(lora_layers(adapters.model))
        2
        >>> adapters.activate(None)  # the base model
        >>> len(lora_layers(adapters.model))
        0
    """

    def __init__(self, model: nn.Module, name: str = "default"):
        refuse_merged(model)
        self.model = model
        self.active: str | None = None
        self._adapters: dict[str, Adapter] = {}
        self._layers: dict[str, LinearWithLoRA] = {}  # of all adapters; their `.lora` is the active one's
        self._base_head: dict[str, nn.Parameter] = {}
        if lora_layers(model):
            for layer_name, layer in lora_layers(model).items():
                if any(p.requires_grad for p in layer.linear.parameters()):
                    raise ValueError(f"{layer_name!r} has an update and trains itself as well: freeze its linear layer")
            self._adopt(name, {})

    @property
    def names(self) -> list[str]:
        """The adapters' names, in the order in which they came."""
        return list(self._adapters)

    def add(self, name: str, targets: Iterable[str] | None = None, **options: Any) -> None:
        """Add an adapter and activate it: a fresh one on ``targets``, or without them a copy of the active one.

        Args:
            name: a new name.
            targets, options: as in `lora_ref.inject.inject_lora`. A fresh adapter starts as the base: its updates are
                zero and its head is a copy of the base's. A target inside the head trains through its update alone.

        Raises:
            ValueError: the name is taken, there is nothing to copy, the model is merged, or as in `inject_lora`.
        """
        self._check_new(name)
        before = self.active
        if targets is None:
            if before is None:
                raise ValueError("no adapter is active that could be copied: name the targets of a fresh one")
            self._adapters[name] = copy.deepcopy(self._adapters[before])
            self.activate(name)
            return
        self.activate(None)
        try:
            inject_lora(self.model, targets, **options)
        except Exception:
            self.activate(before)
            raise
        for layer in lora_layers(self.model).values():
            layer.linear.requires_grad_(False)
        self._adopt(name, {})

    def load(self, name: str, path: str | os.PathLike) -> None:
        """Add the adapter that a file of `save_adapter` or a folder of PEFT's holds, and activate it.

        Its layers, ranks and scales are the file's; a file of `save_adapter` says nothing of dropout, which is 0 then.

        Raises:
            FileNotFoundError, ValueError: as in `lora_ref.adapters.load_adapter`, or the name is taken. The model and
                the set are then as they were.
        """
        self._check_new(name)
        before = self.active
        self.activate(None)
        try:
            saved = read_adapter(self.model, path)
            inner = unwrapped(self.model)
            base_head = {n: p.detach().clone() for n, p in inner.named_parameters() if plain_name(n) in saved.tensors}
            inject_saved(inner, saved, Path(path).name)
        except Exception:
            self.activate(before)
            raise
        self._adopt(name, base_head)

    def save(self, name: str, path: str | os.PathLike, format: str = "lora_ref") -> Path:
        """Write one adapter, active or not, as `lora_ref.adapters.save_adapter` does; returns the path."""
        with self._showing(name):
            return save_adapter(self.model, path, format)

    def activate(self, name: str | None) -> None:
        """Put the adapter called ``name`` into the model, switched on; with None, the base alone.

        Its tensors follow the model to its device and dtype, and its layers to training or evaluation mode.

        Raises:
            ValueError: there is no such adapter, the model is merged, or one of the layers was replaced or resized.
        """
        adapter = Adapter({}, {}) if name is None else self._get(name)
        self._check_layers()
        for layer_name, update in adapter.updates.items():
            outputs, linear = len(update.lora_B), self._layers[layer_name].linear
            if outputs != linear.out_features:
                raise ValueError(
                    f"{layer_name!r} has {linear.out_features} outputs now and had {outputs} when {name!r} was added: "
                    "resize a vocabulary before the first adapter"
                )
        # Every layer plain first: an adapter may have an update inside a head that another one trains whole.
        for layer_name, layer in self._layers.items():
            layer.linear.train(self.model.get_submodule(layer_name).training)
            swap_module(self.model, layer, layer.linear)
        for parameter_name, of_the_base in self._base_head.items():
            module_name, _, leaf = parameter_name.rpartition(".")
            owner = unwrapped(self.model).get_submodule(module_name)
            parameter = adapter.head.get(parameter_name, of_the_base)
            parameter.data = parameter.data.to(getattr(owner, leaf))
            setattr(owner, leaf, parameter)
        for layer_name, update in adapter.updates.items():
            layer = self._layers[layer_name]
            layer.lora, layer.enabled = update.to(layer.linear.weight), True
            swap_module(self.model, layer.linear, layer.train(layer.linear.training))
        self.active = name

    def remove(self, name: str) -> None:
        """Forget an adapter; if it is active, the base alone stays.

        Raises:
            ValueError: there is no such adapter, or it is active and merged.
        """
        self._get(name)
        if name == self.active:
            self.activate(None)
        del self._adapters[name]

    def compose(self, weights: Mapping[str, float], name: str, head: str | None = None) -> None:
        """Add the weighted sum of adapters as a new one, and activate it.

        With ``W_i = s_i B_i A_i`` a layer's update is ``sum w_i W_i``, exactly: the factors stand side by side,
        ``A = [A_1; A_2]`` of shape (sum of ranks, in) and ``B = [w_1 s_1 B_1, w_2 s_2 B_2]`` of shape (out, sum of
        ranks), with scaling 1 and no dropout. An adapter without an update of the layer adds nothing to it.

        The heads are composed by the same rule: what each adapter changed in the base's head counts with its weight,
        ``H + sum w_i (H_i - H)``, which is the weighted mean where the weights sum to 1. That means something where the
        adapters solve the same task; ``head="a"`` takes the head of adapter "a" as it is.

        Args:
            weights: weights by adapter name; any finite numbers.
            name: a new name.
            head: the adapter whose head is taken, or None for the weighted one.

        Raises:
            ValueError: a name is unknown or taken, there are no weights, one or the sum is not finite, or the model is
                merged.
        """
        self._check_new(name)
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights are a dict by adapter name, {{'a': 0.5, 'b': 0.5}}; got {weights!r}")
        if not weights:
            raise ValueError("nothing to compose: give the weights by adapter name")
        for part, weight in weights.items():
            self._get(part)
            if not isinstance(weight, Real) or not math.isfinite(weight):
                raise ValueError(f"the weight of {part!r} is {weight!r}")
        parts = [(self._adapters[part], float(weight)) for part, weight in weights.items()]
        updates = {}
        for layer_name, layer in self._layers.items():
            terms = [(a.updates[layer_name], weight) for a, weight in parts if layer_name in a.updates]
            if terms:
                updates[layer_name] = _weighted_sum(terms, layer.linear.weight)
        if head is None:
            composed = {
                parameter_name: _weighted_head(
                    [(a.head[parameter_name], weight) for a, weight in parts if parameter_name in a.head], base
                )
                for parameter_name, base in self._base_head.items()
                if any(parameter_name in a.head for a, _ in parts)
            }
        else:
            composed = copy.deepcopy(self._get(head).head)
        tensors = [*composed.values(), *(p for update in updates.values() for p in update.parameters())]
        if not all(tensor.isfinite().all() for tensor in tensors):
            raise ValueError(f"the sum of {', '.join(map(repr, weights))} holds numbers that are not finite")
        self._adapters[name] = Adapter(updates, composed)
        self.activate(name)

    def _get(self, name: str) -> Adapter:
        if not isinstance(name, str) or name not in self._adapters:
            known = ", ".join(map(repr, self._adapters)) or "none"
            raise ValueError(f"no adapter {name!r}; there are: {known}")
        return self._adapters[name]

    def _check_layers(self) -> None:
        """Raise a ValueError if the model no longer has the layers of the set, or not with their own weights."""
        refuse_merged(self.model)
        for name, layer in self._layers.items():
            if layer.merged or self.model.get_submodule(name) not in (layer, layer.linear):
                change = "was merged and taken out" if layer.merged else "is another module"
                raise ValueError(f"{name!r} {change} since it was adapted: make a new set on a fresh base model")

    def _check_new(self, name: str) -> None:
        self._check_layers()
        if name in self._adapters:
            raise ValueError(f"there is an adapter {name!r} already; remove it first")
        if not isinstance(name, str) or not name:
            raise ValueError(f"an adapter's name is a string with something in it, got {name!r}")

    def _adopt(self, name: str, base_head: Mapping[str, Tensor]) -> None:
        """Take what was just injected as the adapter ``name``; the base keeps ``base_head``, or a copy of the head."""
        self._layers |= lora_layers(self.model)
        updates = {layer_name: layer.lora for layer_name, layer in lora_layers(self.model).items()}
        lora = {id(p) for update in updates.values() for p in update.parameters()}
        head: dict[str, Any] = {n: p for n, p in adapter_parameters(self.model).items() if id(p) not in lora}
        for n, p in head.items():
            self._base_head[n] = nn.Parameter(base_head.get(n, p).detach().clone(), requires_grad=False)
        self._adapters[name] = Adapter(updates, head)
        self.active = name

    @contextlib.contextmanager
    def _showing(self, name: str) -> Iterator[None]:
        """The model with one adapter, its head marked as such, and then as it was."""
        before, switches = self.active, {layer: layer.enabled for layer in self._layers.values()}
        trains = {p: p.requires_grad for p in self._get(name).head.values()}
        if name != before:
            self.activate(name)
        try:
            for parameter in trains:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, on in trains.items():
                parameter.requires_grad_(on)
            if name != before:
                self.activate(before)
            for layer, on in switches.items():
                layer.enabled = on


@torch.no_grad()
def _weighted_sum(terms: list[tuple[LoRALayer, float]], like: Tensor) -> LoRALayer:
    """One update that is the weighted sum of several, in ``like``'s device and dtype."""
    A = torch.cat([update.lora_A.to(like) for update, _ in terms])
    B = torch.cat([(weight * update.scaling) * update.lora_B.to(like) for update, weight in terms], dim=1)
    with torch.random.fork_rng(devices=[]):  # the constructor draws an A that is not used
        total = LoRALayer(A.shape[1], B.shape[0], rank=len(A), alpha=len(A)).to(like)
    total.lora_A.copy_(A)
    total.lora_B.copy_(B)
    return total


@torch.no_grad()
def _weighted_head(terms: list[tuple[Tensor, float]], base: Tensor) -> nn.Parameter:
    """``base + sum w_i (H_i - base)``, with the base's terms gathered: a weight of 1 gives ``H_1`` to the bit."""
    total = (1 - math.fsum(weight for _, weight in terms)) * base
    for parameter, weight in terms:
        total = total + weight * parameter.to(base)
    return nn.Parameter(total)
