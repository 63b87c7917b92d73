"""Exercise 3.2, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from functools import partial

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage03 import e2_match_targets as room
from lora_ref.checks.verdicts import Check

HIDDEN = [
    graded(room, "3.2/parts", 0.75),
    Check(
        "3.2/ends",
        "a target of several parts, or of a part that other names end in",
        room.probe_match,
        room.judge_match,
        partial(room.draw_match, kind="ends"),
        points=0.5,
    ),
    graded(room, "3.2/linear", 0.25),
    graded(room, "3.2/order", 0.5),
    graded(room, "3.2/once", 0.25),
    graded(room, "3.2/missing", 0.5),
    graded(room, "3.2/nearly", 0.25),
]


_LINEARS = "linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]"
_FITS = 'name == target or name.endswith("." + target)'
_EACH = "if not any(fits(name, target) for name in linears):"
_RAISE = 'raise ValueError(f"no linear layer matches {target!r}")'
_FOUND = "return [name for name in linears if any(fits(name, target) for target in targets)]"


MUTANTS = [
    Mutant(
        "3.2/patterns",
        "a target is a pattern, as in a shell",
        _FITS,
        '__import__("fnmatch").fnmatch("." + name, "*." + target)',
        "a name, and no pattern",
    ),
    Mutant(
        "3.2/no-head",
        "layers of the head are left out",
        _LINEARS,
        _LINEARS.replace("nn.Linear)]", 'nn.Linear) and "classifier." not in f"{name}."]'),
        "this one matches",
    ),
    Mutant(
        "3.2/what-trains",
        "linear layers that are frozen are left out",
        _LINEARS,
        _LINEARS.replace("nn.Linear)]", "nn.Linear) and module.weight.requires_grad]"),
        "this one matches",
    ),
    Mutant("3.2/substring", "a target anywhere in the name", _FITS, "target in name", "my_query is not query", "S2"),
    Mutant("3.2/no-dot", "endswith without the dot", _FITS, "name.endswith(target)", "my_query is not query"),
    Mutant(
        "3.2/prefix",
        "a target anywhere, but from a dot on",
        _FITS,
        '("." + target) in ("." + name)',
        "is not an nn.Linear",
        "S2",
    ),
    Mutant(
        "3.2/last-part",
        "only the last part of the name is compared",
        _FITS,
        'name.split(".")[-1] == target',
        "one or more whole parts",
    ),
    Mutant(
        "3.2/any-part",
        "any one part of the name is compared",
        _FITS,
        'target in name.split(".")',
        "one or more whole parts",
    ),
    Mutant("3.2/whole-name", "only whole names", _FITS, "name == target", "one or more whole parts"),
    Mutant(
        "3.2/never-whole",
        "a name without a dot never matches",
        _FITS,
        'name.endswith("." + target)',
        "or all of it; this one matches",
    ),
    Mutant(
        "3.2/regex",
        "a regular expression whose dot is any character",
        _FITS,
        '__import__("re").search(rf"(^|\\.){target}$", name)',
        "re.escape",
    ),
    Mutant(
        "3.2/case",
        "upper and lower case alike",
        _FITS,
        '("." + name).lower().endswith("." + target.lower())',
        "upper and lower case make different names",
    ),
    Mutant(
        "3.2/any-module",
        "modules of any kind",
        _LINEARS,
        "linears = [name for name, module in model.named_modules()]",
        "linear layers",
    ),
    Mutant(
        "3.2/class-name",
        "modules with Linear in the name of their class",
        _LINEARS,
        _LINEARS.replace("isinstance(module, nn.Linear)", '"Linear" in type(module).__name__'),
        "gained is not an nn.Linear",
    ),
    Mutant(
        "3.2/class-name-in-small-letters",
        "modules with linear in the name of their class",
        _LINEARS,
        _LINEARS.replace("isinstance(module, nn.Linear)", 'type(module).__name__.lower() in ("linear", "bilinear")'),
        "ask isinstance",
    ),
    Mutant(
        "3.2/in-features",
        "modules with in_features",
        _LINEARS,
        _LINEARS.replace("isinstance(module, nn.Linear)", 'hasattr(module, "in_features")'),
        "gained is not an nn.Linear",
    ),
    Mutant(
        "3.2/matrix-inside",
        "modules with a matrix for a weight, embeddings among them",
        _LINEARS,
        _LINEARS.replace("isinstance(module, nn.Linear)", 'getattr(getattr(module, "weight", None), "ndim", 0) == 2'),
        "word is not an nn.Linear",
    ),
    Mutant(
        "3.2/exact-type",
        "nn.Linear itself, and no class that inherits from it",
        _LINEARS,
        _LINEARS.replace("isinstance(module, nn.Linear)", "type(module) is nn.Linear"),
        "ask isinstance",
    ),
    Mutant(
        "3.2/order-of-targets",
        "target by target",
        _FOUND,
        "found = [name for target in targets for name in linears if fits(name, target)]\n"
        "    return list(dict.fromkeys(found))",
        "the order is that of model.named_modules()",
    ),
    Mutant(
        "3.2/sorted",
        "the alphabet's order: 10 before 2",
        _FOUND,
        _FOUND.replace("return [", "return sorted([")[:-1] + "])",
        "the order is that of model.named_modules()",
    ),
    Mutant(
        "3.2/twice",
        "once for each target that means it",
        _FOUND,
        "return [name for name in linears for target in targets if fits(name, target)]",
        "each layer once",
    ),
    Mutant(
        "3.2/first-only",
        "the first match of each target",
        _FOUND,
        "return [next(name for name in linears if fits(name, target)) for target in targets]",
        "stops at the first match",
    ),
    Mutant(
        "3.2/modules",
        "modules instead of names",
        _FOUND,
        _FOUND.replace("return [name", "return [model.get_submodule(name)"),
        "asks for the names",
    ),
    Mutant("3.2/no-error", "a typo is silent", _EACH, "if False:", "in silence"),
    Mutant(
        "3.2/error-if-empty",
        "an error only where nothing at all matches",
        _EACH,
        "if not any(fits(name, other) for name in linears for other in targets):",
        "each target is to be asked for itself",
    ),
    Mutant("3.2/key-error", "another kind of error", _RAISE, "raise KeyError(target)", "the contract is a ValueError"),
    Mutant("3.2/nameless", "an error that names nothing", _RAISE, 'raise ValueError("no match")', "does not name"),
    Mutant(
        "3.2/empties-list",
        "the caller's list loses what was found",
        _FOUND,
        f"found = {_FOUND[7:]}\n    targets.clear()\n    return found",
        "changed its argument targets",
    ),
]
