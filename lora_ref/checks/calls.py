"""Watch the calls of a student's functions: what must hold of every call, whatever its exercise asks.

The arguments stay as they were, torch's settings too, and a function that `lora_ref.checks.exercise.Exercise` says is
pure gives the same again. A probe does nothing for it: its `Names` hand out functions that are watched. What was
changed is written down and put back, so that each check judges the rest as if nothing had happened.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch


class Effect(NamedTuple):
    """What a call did beside returning something: which rule that breaks, and what was seen.

    ``rule`` is one of `lora_ref.checks.verdicts.EFFECTS`.
    """

    rule: str
    text: str


#: The setting that is a rule of its own.
SEEDED = "the random seed at"


class Calls:
    """What the calls of one probe did beside returning something.

    Args:
        pure: names of functions whose first call is made again with the same arguments.
        keeps: names of functions that leave the modes, hooks and buffers of a model as they are.
    """

    def __init__(self, pure: tuple[str, ...] = (), keeps: tuple[str, ...] = ()):
        self._pure, self._keeps, self._again = pure, keeps, set(pure)
        self._returned: list[tuple[str, _Kept]] = []
        self.effects: list[Effect] = []

    def watched(self, name: str, value: Any) -> Any:
        """A function that does as ``value`` does and is watched; a class or a module comes back as it is."""
        if not callable(value) or isinstance(value, (type, torch.nn.Module)):
            return value
        code = getattr(value, "__code__", None)  # a functools.partial or a cached function has none

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = {f"argument {number}": one for number, one in enumerate(args, start=1)} | kwargs
            if code is not None and code.co_flags & 0x0C == 0:  # without *args and **kwargs each has a name
                given = dict(zip(code.co_varnames, args)) | kwargs  # noqa: B905
            before: dict[str, Any] = {key: _Kept(one) for key, one in given.items()}
            if name in self._keeps:
                modules = {k: one for k, one in given.items() if isinstance(one, torch.nn.Module)}
                before |= {k: _KeptModule(one, reads=name in self._pure) for k, one in modules.items()}
            state = settings()
            try:
                result = value(*args, **kwargs)
                if isinstance(result, torch.Tensor) and any(result is kept.value for kept in before.values()):
                    result = result.clone()  # what is put back below must not change what was returned
            finally:
                clean = self._compare(name, before, state)
            self._still(name, result)
            if name not in self._again or not clean:
                return result
            self._again.discard(name)
            return self._called_again(name, result, lambda: value(*args, **kwargs), before, state)

        return call

    def _still(self, name: str, result: Any) -> None:
        """Whether what earlier calls returned is still what it was."""
        if any(other == name and kept.changed() for other, kept in self._returned):
            self._shared(name)
        if not isinstance(result, torch.nn.Module):  # which a room looks at; kept here, it would live on
            self._returned.append((name, _Kept(result)))

    def _shared(self, name: str) -> None:
        effect = Effect("shared", f"a second call of {name} changed what the first one had returned")
        self.effects += [effect] * (effect not in self.effects)

    def _compare(self, name: str, before: Mapping[str, _Kept], state: Mapping[str, Any]) -> bool:
        effects = [
            Effect(kept.rule, f"{name} changed its argument {key}: {how}")
            for key, kept in before.items()
            if (how := kept.changed())  # which may change the rule
        ]
        for kept in before.values():
            kept.put_back()
        effects += [Effect(rule, f"{name} left {how}") for rule, how in restore(state)]
        self.effects += [effect for effect in effects if effect not in self.effects]
        return not effects

    def _called_again(self, name: str, result: Any, call: Callable, before: Mapping, state: Mapping) -> Any:
        first = _Kept(result)
        try:
            second = call()
        except Exception as error:
            text = f"{name} called again with the same arguments raised {type(error).__name__}"
            self.effects.append(Effect("again", text))
            second = result
        else:
            if first.changed():
                self._shared(name)
            elif _handed_out_again(result, second, [kept.value for kept in before.values()]):
                self.effects.append(Effect("shared", f"two calls of {name} returned one and the same object"))
            elif not alike(second, result):
                text = f"{name} called again with the same arguments returned something else"
                self.effects.append(Effect("again", text))
        self._compare(name, before, state)
        first.put_back()
        return result


def settings() -> dict[str, Any]:
    """Torch's settings that hold for all code that runs later."""
    return {
        "autograd switched": torch.is_grad_enabled(),
        "torch's inference mode": torch.is_inference_mode_enabled(),
        "torch's default dtype as": torch.get_default_dtype(),
        "torch's default device as": torch.get_default_device() if hasattr(torch, "get_default_device") else None,
        "torch's number of threads at": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        SEEDED: torch.initial_seed(),
    }


def restore(before: Mapping[str, Any]) -> list[Effect]:
    """Put the settings back; what was other than ``before``, in words such as "autograd switched off"."""
    after = settings()
    wrong = [key for key in before if after[key] != before[key]]
    put_back: dict[str, Callable[[Any], Any]] = {
        "autograd switched": torch.set_grad_enabled,
        "torch's default dtype as": torch.set_default_dtype,
        "torch's default device as": torch.set_default_device,
        "torch's number of threads at": torch.set_num_threads,
        "deterministic algorithms": torch.use_deterministic_algorithms,
        "anomaly detection": torch.autograd.set_detect_anomaly,
    }
    for key in wrong:
        if key in put_back:
            put_back[key](before[key])
    words = {"True": "on", "False": "off"}
    rules = {key: "seed" if key == SEEDED else "setting" for key in wrong}
    return [Effect(rule, f"{key} {words.get(str(after[key]), after[key])}") for key, rule in rules.items()]


class _Kept:
    """An argument as it was: lists, dicts, arrays, tensors at any depth. What a module holds is a room's to judge."""

    rule = "argument"

    def __init__(self, value: Any, depth: int = 0):
        self.value = value
        self.copy: Any = None  # of a set, an array or a tensor
        self.parts: dict[Any, _Kept] | None = None  # of a dict, a list or a tuple
        if depth > 6:
            return
        if isinstance(value, dict):
            self.parts = {key: _Kept(item, depth + 1) for key, item in value.items()}
        elif isinstance(value, (list, tuple)):
            self.parts = dict(enumerate(_Kept(item, depth + 1) for item in value))
        elif isinstance(value, set):
            self.copy = set(value)
        elif isinstance(value, np.ndarray):
            self.copy = value.copy()
        elif isinstance(value, torch.Tensor):
            with torch.no_grad():
                self.copy = value.detach().clone()
            self.flags = (value.requires_grad, value.dtype, tuple(value.shape))

    def changed(self) -> str:
        """What is other than it was, in a few words."""
        value = self.value
        if isinstance(value, torch.Tensor) and self.copy is not None:
            flags = (value.requires_grad, value.dtype, tuple(value.shape))
            if flags != self.flags:
                words = ("requires_grad is", "its dtype is", "its shape is")
                return next(
                    f"{word} {new}" for word, new, old in zip(words, flags, self.flags, strict=True) if new != old
                )
            return "" if _equal(value, self.copy) else "the tensor has other values"
        if isinstance(value, np.ndarray):
            same = value.shape == self.copy.shape and np.array_equal(
                value, self.copy, equal_nan=value.dtype.kind == "f"
            )
            return "" if same else "the array has other values"
        if isinstance(value, set):
            return "" if value == self.copy else "the set has other items"
        if self.parts is None:
            return ""
        now = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        kind = next(kind.__name__ for kind in (dict, list, tuple) if isinstance(value, kind))
        if len(now) != len(self.parts):
            return f"the {kind} had {len(self.parts)} item{'s' * (len(self.parts) != 1)}, and has {len(now)}"
        for key, item in now:
            if key not in self.parts or not _same_item(item, self.parts[key].value):
                return f"the {kind} holds other items"
        if isinstance(value, dict) and [key for key, _ in now] != list(self.parts):
            return "the dict has another order"
        return next((how for part in self.parts.values() if (how := part.changed())), "")

    def put_back(self) -> None:
        """Make it as it was again, where that can be done."""
        value = self.value
        if isinstance(value, torch.Tensor) and self.copy is not None:
            if self.changed():
                value.requires_grad_(False) if value.is_leaf else None
                value.data = self.copy.clone()
                if value.is_leaf and self.flags[0]:
                    value.requires_grad_(True)
        elif isinstance(value, np.ndarray) and value.shape == self.copy.shape and value.flags.writeable:
            value[...] = self.copy
        elif self.parts is not None:
            if isinstance(value, list):
                value[:] = [part.value for part in self.parts.values()]
            elif isinstance(value, dict) and self.changed():
                value.clear()
                value.update({key: part.value for key, part in self.parts.items()})
            for part in self.parts.values():
                part.put_back()


class _KeptModule:
    """A model's modes, hooks and buffers as they were; for a function that only reads it, its attributes, too."""

    rule = "model"

    def __init__(self, value: torch.nn.Module, reads: bool = False):
        self.value = value
        self.attributes = [(module, list(vars(module))) for module in value.modules()] if reads else []
        self.modes = [(module, module.training) for module in value.modules()]
        self.hooks = [(module, _hooks(module)) for module, _ in self.modes]
        self.buffers = [(name, _Kept(buffer)) for name, buffer in value.named_buffers()]

    def changed(self) -> str:
        if sum(module.training != training for module, training in self.modes):
            return "the mode has changed: train() or eval() was called"
        if any(_hooks(module) != hooks for module, hooks in self.hooks):
            self.rule = "hooks"
            return "a hook was added to it, or its forward was replaced"
        if any(list(vars(module)) != names for module, names in self.attributes):
            self.rule = "attributes"
            return "it has attributes that it had not"
        return next((f"its buffer {name}, {how}" for name, kept in self.buffers if (how := kept.changed())), "")

    def put_back(self) -> None:
        for module, training in self.modes:
            module.training = training
        for _, kept in self.buffers:
            kept.put_back()


def _hooks(module: torch.nn.Module) -> tuple[int, bool]:
    """How many forward hooks a module has, and whether it has a forward of its own, which is not its class's."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks), "forward" in vars(module)


def _handed_out_again(first: Any, second: Any, given: list[Any]) -> bool:
    """Whether two calls returned one object that can be changed, and that is no argument's."""
    if isinstance(first, tuple) and isinstance(second, tuple):
        return any(_handed_out_again(*pair, given) for pair in zip(first, second, strict=False))
    mutable = isinstance(first, (torch.Tensor, np.ndarray, list, dict))
    return mutable and first is second and not any(first is one for one in given)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.is_meta:  # it has no values
        return True
    with torch.no_grad():
        one = one.detach()
        return bool(torch.equal(one, other) or (one.is_floating_point() and torch.equal(one != one, other != other)
                    and torch.equal(one.nan_to_num(), other.nan_to_num())))  # fmt: skip


def _same_item(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, (str, int, float, bool)) and (one == other or one != one)


def alike(one: Any, other: Any) -> bool:
    """Whether two results say the same, up to rounding; nothing is asked of what is not a number, text or a tensor."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        one, other = one.detach().cpu(), other.detach().cpu()  # a Mac's GPU has no float64
        same = one.shape == other.shape and one.dtype == other.dtype
        return same and bool(torch.allclose(one.double(), other.double(), 1e-4, 1e-6, equal_nan=True))
    if isinstance(one, np.ndarray):
        same = one.shape == other.shape
        return same and (one.dtype.kind not in "fiub" or np.allclose(one, other, 1e-4, 1e-6, equal_nan=True))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9) or (one != one and other != other)
    return not isinstance(one, (int, str, bool)) or one == other
