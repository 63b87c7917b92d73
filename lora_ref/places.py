"""Where a model's modules are, and what they are called: through torch's wrappers, in every place of a shared one."""

from __future__ import annotations

from types import MethodType

from torch import nn
from torch.optim.swa_utils import AveragedModel

#: What torch's wrappers call the module inside: ``torch.compile``, checkpointing of activations, FSDP.
WRAPPED = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}


def require_module(model: object) -> None:
    """Raise a TypeError if ``model`` is not an ``nn.Module``.

    Example:
        >>> require_module("roberta-base")
        Traceback (most recent call last):
            ...
        TypeError: the model must be an nn.Module, got str
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model must be an nn.Module, got {type(model).__name__}")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of ``torch.compile``, ``DataParallel`` and its like, and ``AveragedModel``.

    Raises:
        TypeError: ``model`` is not a module.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2))
        >>> unwrapped(nn.DataParallel(model)) is model
        True
    """
    require_module(model)
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
            model = model.module
        elif inside := WRAPPED.intersection(model._modules):
            model = model.get_submodule(inside.pop())
        else:
            return model


def plain_name(name: str) -> str:
    """A module's or parameter's name without what a wrapper around a part of the model puts into it.

    Example:
        >>> plain_name("encoder._orig_mod.layer.0.query")
        'encoder.layer.0.query'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPED)


def swap_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` in every place where ``model`` has ``old``; a shared module has several.

    Example:
        >>> linear = nn.Linear(4, 4)
        >>> model = nn.Sequential(linear, nn.ReLU(), linear)
        >>> swap_module(model, linear, nn.Identity())
        >>> model
        Sequential(
          (0): Identity()
          (1): ReLU()
          (2): Identity()
        )
    """
    places = [(parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is old]
    for parent, name in places:
        parent.register_module(name, new)


def other_references(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Modules that some module of ``model`` keeps in an attribute of plain Python, itself or a method of it.

    torch knows nothing of these attributes, so `swap_module` doesn't either.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4))
        >>> model.layers = [model[0]]
        >>> other_references(model)
        {Linear(in_features=4, out_features=4, bias=True): ['layers of Sequential']}
    """
    torchs_own = set(vars(nn.Module()))
    places: dict[nn.Module, list[str]] = {}
    for module in model.modules():
        for key in vars(module).keys() - torchs_own:
            value = vars(module)[key]
            items = (
                value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
            )
            for item in items:
                other = item.__self__ if isinstance(item, MethodType) else item
                if isinstance(other, nn.Module) and other is not module:
                    places.setdefault(other, []).append(f"{key} of {type(module).__name__}")
    return places
