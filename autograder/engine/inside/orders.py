"""Inside the sandbox: what a submission's process answers to an order, one at a time.

    limits | cell: run it | probe: call one on the notebook's names | inspect: where its names come from

Nothing here decides a grade. `zygote` serves orders in a fork of its own, `alone` in a plain process.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import json
import logging
import os
import signal
import socket
import sys
import sysconfig
import time
import warnings
from operator import is_
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import shell as shells
import torch
import wire

if sys.platform != "win32":
    import resource


def warm(modules: list[str]) -> Warmed:
    """Import what these notebooks import, so that a fork has it, and make the shell.

    Args:
        modules: ``"torch"``, or ``"transformers:Trainer"`` for what a package imports at its first use or has as a
            module. What is not there is left to the notebook that asks for it.
    """
    torch.set_num_threads(1)  # a fork of a process that ran two threads hangs
    with contextlib.suppress(RuntimeError):
        torch.set_num_interop_threads(1)
    torch.set_num_interop_threads = shells.passed_over  # once in a process, and this was it
    for module in ("numpy.random", "lora_ref.checks.probing", "IPython.core.logger", "torch.utils._device"):
        importlib.import_module(module)
    sysconfig.get_path("stdlib")  # makes its table at the first call
    for module in modules:
        name, _, attribute = module.partition(":")
        with contextlib.suppress(ImportError):
            if not hasattr(importlib.import_module(name), attribute or "__name__"):
                importlib.import_module(f"{name}.{attribute}")
    torch.zeros(1).half()  # looks what the processor can do, for which a fork may have no /proc
    shell = shells.make_shell()
    pristine = Pristine()
    logging.disable(logging.CRITICAL)  # stderr goes nowhere, and each probe would switch it off and on again
    gc.freeze()  # keep the collector from copying the shared pages in every fork
    gc.enable()
    return shell, pristine


class _Interruptible:
    """SIGINT raises KeyboardInterrupt while a cell or a probe runs, and does nothing between."""

    def __init__(self) -> None:
        self.running = False
        signal.signal(signal.SIGINT, self._heard)

    def _heard(self, *_: Any) -> None:
        if self.running:
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        signal.signal(signal.SIGINT, self._heard)  # a submission may have taken it away
        self.running = True

    def __exit__(self, *_: Any) -> None:
        self.running = False


def serve(shell: shells.Shell, pristine: Pristine, channel: socket.socket) -> None:
    """Answer orders over the submission's socket until it closes."""
    from lora_ref.checks.probing import Patience

    patience: dict[str, Patience] = {}
    interruptible = _Interruptible()
    settings = Settings()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    while True:
        try:
            order = wire.receive(channel)
        except wire.Closed:
            return
        started, computed, answer = time.monotonic(), time.process_time(), {}
        try:
            if order["do"] == "limits":
                limit(order["limits"])
            elif order["do"] == "cell":
                settings.usable_device()
                with interruptible:
                    answer["outputs"] = shells.run_cell(shell, order["source"])
            elif order["do"] == "probe":
                answer["replaced"] = pristine.restore()
                settings.put_back()
                probe, builds_on = _named(order["probe"]), order["builds_on"]
                asked = patience.setdefault(order["exercise"], Patience())
                with interruptible:
                    answer["seen"] = asked.observe(
                        probe, shell.user_ns, order["inputs"], builds_on=builds_on, seconds=order["seconds"]
                    )
            elif order["do"] == "inspect":
                answer["origins"] = {name: origins(shell.user_ns.get(name)) for name in order["names"]}
        except KeyboardInterrupt:
            answer["interrupted"] = True
            answer.setdefault("outputs", list(shell.outputs.items))
        if order["do"] == "probe":  # what was replaced in the middle of it, to forge the answer
            answer["replaced"] = [*answer.get("replaced", ()), *pristine.restore_sending()]
        answer["seconds"], answer["cpu"] = time.monotonic() - started, time.process_time() - computed
        wire.send(channel, answer)


def limit(limits: dict[str, int]) -> None:
    """Set this process's limits, none above what it may have; nothing on Windows."""
    for name, value in limits.items() if sys.platform != "win32" else ():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _named(where: list[str]) -> Any:
    return getattr(sys.modules[where[0]], where[1])


#: Parts of an object whose origin is looked at.
MOST_PARTS = 300


def origins(value: Any) -> list[str]:
    """Top-level packages, beyond the notebook's own, that an object comes from, its bases, or what it is made of."""
    packages = []
    waiting: list[Any] = [value, type(value)]
    known: set[int] = set()
    while waiting and len(known) < MOST_PARTS:
        thing = waiting.pop(0)
        if id(thing) in known:
            continue
        known.add(id(thing))
        with contextlib.suppress(Exception):  # whatever a submission made of it
            waiting += _parts(thing)
        module = getattr(thing, "__module__", None)
        if isinstance(module, str):
            packages.append(module.partition(".")[0])
        code = getattr(thing, "__code__", None)
        name = getattr(code, "co_filename", "")
        if isinstance(name, str):
            packages += [package for package in ("lora_ref", "peft") if f"/{package}/" in name]
    return sorted({name[:50] for name in packages if name in ("lora_ref", "peft")})


def _parts(thing: Any) -> list[Any]:
    """A class's bases and methods, and what a function, a method or a partial calls instead of its own code."""
    if isinstance(thing, type):
        own = vars(thing).values() if thing.__module__ == "__main__" else ()
        return [*thing.__mro__, *(part for part in own if callable(part) or hasattr(part, "__get__"))]
    inner = [getattr(thing, name, None) for name in ("func", "fget", "__func__", "__wrapped__")]
    if isinstance(thing, FunctionType):
        inner += [cell.cell_contents for cell in thing.__closure__ or ()]
    return [part for part in inner if callable(part)]


class Settings:
    """What a notebook may set for the whole process, as it was before the submission ran.

    A right answer stays right where a cell set torch's default device to one that is not here, switched gradients off
    or left a mode on: each probe finds the settings that a fresh process has.
    """

    def __init__(self) -> None:
        from torch.nn.modules import module

        everywhere = [value for name, value in vars(module).items() if name.startswith("_global")]
        self.hooks = [hooks for hooks in everywhere if isinstance(hooks, dict)]
        self.threads, self.recursion = torch.get_num_threads(), sys.getrecursionlimit()
        self.precision, self.warned = torch.get_float32_matmul_precision(), list(warnings.filters)
        self.numpy = np.geterr()

    def usable_device(self) -> None:
        """Before a cell: a default device that is not here makes no tensor."""
        with contextlib.suppress(Exception):
            torch.empty(0)
            return
        with contextlib.suppress(Exception):
            torch.set_default_device(None)

    def put_back(self) -> None:
        """Before a probe: everything; what cannot be put back is left to the probe."""
        for step in (self._modes, self._torch, self._python):
            with contextlib.suppress(Exception):
                step()

    def _modes(self) -> None:
        if torch._C._len_torch_function_stack():
            torch.set_default_device(None)
            while torch._C._len_torch_function_stack():
                torch._C._pop_torch_function_stack()
        while torch._C._len_torch_dispatch_stack():
            torch._C._pop_torch_dispatch_stack()
        if torch.is_inference_mode_enabled():
            torch.inference_mode(False).__enter__()
        if torch._C._is_any_autocast_enabled():
            for device in ("cpu", "cuda"):
                torch.set_autocast_enabled(device, False)
        while torch._C._autograd._top_saved_tensors_default_hooks(True):  # of a `with` that was never left
            torch._C._autograd._pop_saved_tensors_default_hooks()

    def _torch(self) -> None:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        if torch.is_anomaly_enabled():
            torch.autograd.set_detect_anomaly(False)
        if torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(False)
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        if torch.get_float32_matmul_precision() != self.precision:
            torch.set_float32_matmul_precision(self.precision)
        torch.set_flush_denormal(False)
        for hooks in self.hooks:
            if hooks:
                hooks.clear()
        if not torch.jit._state._enabled.enabled:
            torch.jit._state.enable()

    def _python(self) -> None:
        gc.enable()
        np.seterr(**self.numpy)
        if sys.getrecursionlimit() != self.recursion:
            sys.setrecursionlimit(self.recursion)
        if warnings.filters != self.warned:
            warnings.resetwarnings()
            filters: Any = warnings.filters  # a list, whatever typeshed says
            filters += self.warned


#: Where torch's own code lies.
TORCH = os.path.dirname(torch.__file__) + os.sep


def _wrapped_by_torch(now: Any, before: Any) -> bool:
    """Whether torch itself put a function around one of its own, as it does when its compiler is first used."""
    if type(now) is not FunctionType:
        return False
    code, cells, ours = now.__code__, now.__closure__ or (), TORCH
    with contextlib.suppress(Exception):  # whatever stands there now may be made to raise
        return code.co_filename.startswith(ours) and any(cell.cell_contents is before for cell in cells)
    return False


class Pristine:
    """What the probes rest on, as it was before the submission ran; put back where it was replaced.

    This catches replaced asserts, builtins and torch functions. It does not make the process trustworthy: that is why
    the judge sits elsewhere.
    """

    def __init__(self) -> None:
        spaces: list[Any] = [builtins, np, torch, torch.nn, torch.nn.functional, torch.Tensor, torch.nn.Module]
        spaces += [torch.nn.Linear, torch.nn.Parameter, torch.nn.Dropout]
        spaces += [sys.modules[name] for name in ("wire", "shell")] + [json, time]
        for name, module in list(sys.modules.items()):
            if name.startswith("lora_ref"):
                spaces.append(module)
                spaces += [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == name]
        self.spaces, self.sending, self.codes = [], [], {}
        names = [name for name in sys.modules if name.startswith("lora_ref")]
        self.modules = {name: sys.modules[name] for name in (*names, "wire", "json", "torch", "numpy")}
        for space in spaces:
            parts = {key: value for key, value in vars(space).items() if callable(value) or type(value) is ModuleType}
            self.spaces.append((space, tuple(vars(space).values()), tuple(parts), tuple(parts.values())))
            if space in (wire, json):
                self.sending.append((space, tuple(parts), tuple(parts.values())))
            for key, value in parts.items():
                if hasattr(value, "__code__") and getattr(space, "__name__", "").startswith("lora_ref"):
                    self.codes[id(value)] = (value, value.__code__, value.__defaults__, f"{space.__name__}.{key}")

    def restore_sending(self) -> list[str]:
        """Put back what the answer is sent with; `restore`, which takes longer, comes before the next probe."""
        return [name for space in self.sending for name in self._put_back(*space)]

    def restore(self, all: Any = all, map: Any = map, is_: Any = is_) -> list[str]:
        """Put everything back; returns the names of what had been replaced."""
        replaced = []  # the functions that tell are arguments' defaults: a submission may have replaced the names
        for space, everything, names, values in self.spaces:
            now = vars(space)
            # in the order in which they were set, which is much quicker than by name, and every probe asks
            if len(now) >= len(everything) and all(map(is_, now.values(), everything)):
                continue
            if all(map(is_, map(now.get, names), values)):
                continue
            replaced += self._put_back(space, names, values)
        if not all(map(is_, map(sys.modules.get, self.modules), self.modules.values())):
            replaced += [f"sys.modules[{n!r}]" for n, m in self.modules.items() if sys.modules.get(n) is not m]
            sys.modules.update(self.modules)
        for function, code, defaults, name in self.codes.values():
            if function.__code__ is not code or function.__defaults__ is not defaults:
                replaced.append(name)
                function.__code__, function.__defaults__ = code, defaults
        return sorted(set(replaced))[:20]

    @staticmethod
    def _put_back(space: Any, names: tuple[str, ...], values: tuple[Any, ...]) -> list[str]:
        """Give one module or class its callables back; returns the names of those that it had not."""
        now, replaced = vars(space), []
        for key, value in zip(names, values, strict=True):
            if now.get(key) is not value:
                if not _wrapped_by_torch(now.get(key), value):
                    replaced.append(f"{getattr(space, '__name__', space)}.{key}")
                with contextlib.suppress(Exception):
                    setattr(space, key, value)
        return replaced


#: What a fork finds ready.
Warmed = tuple[shells.Shell, Pristine]
