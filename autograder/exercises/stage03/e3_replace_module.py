"""Exercise 3.3, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage03 import e3_replace_module as room

HIDDEN = [
    graded(room, "3.3/deep", 0.75),
    graded(room, "3.3/top", 0.5),
    graded(room, "3.3/containers", 0.25),
    graded(room, "3.3/given", 0.5),
]


_SPLIT = 'parent, _, child = name.rpartition(".")'
_PUT = "setattr(model.get_submodule(parent), child, new)"


MUTANTS = [
    Mutant("3.3/at-the-root", "set on the model itself", _PUT, "setattr(model, child, new)", "wrong parent"),
    Mutant("3.3/dotted", "setattr with the whole name", _PUT, "setattr(model, name, new)", "one part of a name"),
    Mutant(
        "3.3/first-dot",
        "split at the first dot",
        _SPLIT,
        'parent, _, child = name.partition(".")',
        "one part of a name",
    ),
    Mutant(
        "3.3/no-top",
        "a name without a dot is taken for its own parent",
        _SPLIT,
        'parent, child = name.rsplit(".", 1)[0], name.rsplit(".", 1)[-1]',
        "wrong parent",
    ),
    Mutant(
        "3.3/rebinds",
        "a local name is bound again",
        _PUT,
        "old = getattr(model.get_submodule(parent), child)\n    old = new",
        "still the old one",
    ),
    Mutant(
        "3.3/deletes-and-adds",
        "deleted and added again, at the end",
        _PUT,
        "holder = model.get_submodule(parent)\n    delattr(holder, child)\n    holder.add_module(child, new)",
        "a child that is deleted and added again comes last",
    ),
    Mutant(
        "3.3/everywhere",
        "every child of that name in the whole model",
        _PUT,
        "for module in list(model.modules()):\n        if child in dict(module.named_children()):\n"
        "            setattr(module, child, new)",
        "lead to its parent",
        "S2",
    ),
    Mutant(
        "3.3/keeps-the-parent",
        "the parent is kept by its name, for all models",
        _PUT,
        'known = replace_module.__dict__.setdefault("known", {})\n'
        "    setattr(known.setdefault(parent, model.get_submodule(parent)), child, new)",
        "is not the new one",
    ),
    Mutant(
        "3.3/hands-on-the-weight",
        "what is put in is given the old weight",
        _PUT,
        f'new.weight = getattr(model.get_submodule(name), "weight", new.weight)\n    {_PUT}',
        "put in new as it is",
    ),
    Mutant(
        "3.3/freezes-the-old",
        "the old module is frozen, which the new one may hold",
        _PUT,
        f"model.get_submodule(name).requires_grad_(False)\n    {_PUT}",
        "the old module stays as it is",
    ),
    Mutant("3.3/copy", "a copy is put in", _PUT, _PUT.replace("new)", "copy.deepcopy(new))"), "put in new itself"),
    Mutant(
        "3.3/by-identity",
        "wherever the old module stands",
        _PUT,
        "old = model.get_submodule(name)\n    for module in list(model.modules()):\n"
        "        for key, value in list(module._modules.items()):\n            if value is old:\n"
        "                module._modules[key] = new",
        "stands in two places",
    ),
    Mutant(
        "3.3/freezes", "what is put in is frozen", _PUT, f"new.requires_grad_(False)\n    {_PUT}", "put in new as it is"
    ),
    Mutant(
        "3.3/swallows",
        "a wrong name is passed over",
        _PUT,
        f"try:\n        {_PUT}\n    except AttributeError:\n        pass",
        "a typo must show",
    ),
    Mutant(
        "3.3/around",
        "a Sequential of both",
        _PUT,
        _PUT.replace("new)", "nn.Sequential(model.get_submodule(name), new))"),
        "with the new one inside",
    ),
]
