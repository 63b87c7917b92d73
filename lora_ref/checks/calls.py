"""Watch the calls of a student's functions: what must hold of every call, whatever its exercise asks.

The arguments stay as they were, torch's settings too, and a function that `lora_ref.checks.exercise.Exercise` says is
pure gives the same again. A probe does nothing for it: its `Names` hand out functions that are watched. What was
changed is written down and put back, so that each check judges the rest as if nothing had happened.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import numpy as np
import torch


class Calls:
    """What the calls of one probe did beside returning something.

    Args:
        pure: names of functions whose first call is made again with the same arguments.
    """

    def __init__(self, pure: tuple[str, ...] = ()):
        self._again = set(pure)
        self.effects: list[str] = []

    def watched(self, name: str, value: Any) -> Any:
        """A function that does as ``value`` does and is watched; what is no function comes back as it is."""
        if not isinstance(value, FunctionType):
            return value

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = {f"argument {number}": one for number, one in enumerate(args, start=1)} | kwargs
            if value.__code__.co_flags & 0x0C == 0:  # without *args and **kwargs each has a name
                given = dict(zip(value.__code__.co_varnames, args)) | kwargs  # noqa: B905
            before, state = {key: _Kept(one) for key, one in given.items()}, settings()
            try:
                result = value(*args, **kwargs)
                if isinstance(result, torch.Tensor) and any(result is kept.value for kept in before.values()):
                    result = result.clone()  # what is put back below must not change what was returned
            finally:
                clean = self._compare(name, before, state)
            if name not in self._again or not clean:
                return result
            self._again.discard(name)
            return self._called_again(name, result, lambda: value(*args, **kwargs), before, state)

        return call

    def _compare(self, name: str, before: Mapping[str, _Kept], state: Mapping[str, Any]) -> bool:
        found = [f"{name} changed its argument {key}: {how}" for key, kept in before.items() if (how := kept.changed())]
        for kept in before.values():
            kept.put_back()
        found += [f"{name} left {how}" for how in restore(state)]
        self.effects += [effect for effect in found if effect not in self.effects]
        return not found

    def _called_again(self, name: str, result: Any, call: Callable, before: Mapping, state: Mapping) -> Any:
        first = _Kept(result)
        try:
            second = call()
        except Exception as error:
            self.effects.append(f"{name} called again with the same arguments raised {type(error).__name__}")
            second = result
        else:
            if first.changed():
                self.effects.append(f"a second call of {name} changed what the first one had returned")
            elif not alike(second, result):
                self.effects.append(f"{name} called again with the same arguments returned something else")
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
    }


def restore(before: Mapping[str, Any]) -> list[str]:
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
    words = {True: "on", False: "off"}
    return [f"{key} {words.get(after[key], after[key])}" for key in wrong]


class _Kept:
    """An argument as it was: lists, dicts, arrays, tensors at any depth. What a module holds is a room's to judge."""

    def __init__(self, value: Any, depth: int = 0):
        self.value, self.parts, self.copy = value, None, None
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
            now = (value.requires_grad, value.dtype, tuple(value.shape))
            if now != self.flags:
                words = ("requires_grad is", "its dtype is", "its shape is")
                return next(
                    f"{word} {new}" for word, new, old in zip(words, now, self.flags, strict=True) if new != old
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
            return f"the {kind} had {len(self.parts)} items, and has {len(now)}"
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


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    with torch.no_grad():
        one = one.detach()
        return bool(torch.equal(one, other) or (one.is_floating_point() and torch.equal(one != one, other != other)
                    and torch.equal(one.nan_to_num(), other.nan_to_num())))  # fmt: skip


def _same_item(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, (str, int, float, bool)) and (one == other or one != one)


def alike(one: Any, other: Any) -> bool:
    """Whether two results say the same, up to rounding; of what is no number, text or tensor nothing is asked."""
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
