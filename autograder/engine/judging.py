"""Exercises as those processes need them that judge and never probe: most of them without torch.

An exercise's file has its probes beside its judges. Probes run in the sandbox; most judges know NumPy alone. Where only
they are called, torch's import would cost a second and its memory for nothing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from autograder.exercises import OPTIONAL, STAGES

#: Stages with a judge that makes models, to say what should have come out.
MODELS = ("03_roberta_injection", "04_sst2_training")


def load(judged: Collection[str], named: Collection[str] = ()) -> None:
    """Import what judges need, once and before any fork.

    Args:
        judged: stages whose judges will be called. Unless one of them is of `MODELS`, torch is imported only if
            something uses it nevertheless.
        named: stages of which only names and points will be asked.
    """
    finder = _Finder()
    if "torch" not in sys.modules and not set(judged) & set(MODELS):
        sys.meta_path.insert(0, finder)
    try:
        for name in ("numpy.ma", "numpy.random", "autograder.evaluation"):
            importlib.import_module(name)
        for exercise in (exercise for stage in {*judged, *named} for exercise in (*STAGES[stage], *OPTIONAL[stage])):
            exercise.load()
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        finder.importing = False
        for name in [name for name, module in sys.modules.items() if isinstance(module, StandIn)]:
            del sys.modules[name]  # who imports torch from here on gets it


class Later:
    """Stands for something of torch: for whatever is made of it while modules are imported, and then for itself."""

    def __init__(self, path: str, finder: _Finder):
        self._path, self._finder = path, finder

    def __getattr__(self, name: str) -> Any:
        return Later(f"{self._path}.{name}", self._finder) if self._finder.importing else getattr(self._real(), name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not self._finder.importing:
            return self._real()(*arguments, **options)
        return arguments[0] if arguments and callable(arguments[0]) else self  # a decorator, or what makes one

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return () if self._finder.importing else (self._real(),)

    def _real(self) -> Any:
        first, *names = self._path.split(".")
        value: Any = importlib.import_module(first)
        for end, name in enumerate(names, 1):
            if not hasattr(value, name):
                importlib.import_module(".".join([first, *names[:end]]))
            value = getattr(value, name)
        return value


class StandIn(ModuleType):
    """A module that is `Later`."""

    later: Later

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks for
            raise AttributeError(name)
        return getattr(self.later, name)


class _Finder(MetaPathFinder, Loader):
    """Finds torch and all below it, and makes stand-ins."""

    importing = True

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torch" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = StandIn(spec.name)
        module.later = Later(spec.name, self)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: its names come at need."""
