"""Exercise 5.2, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

import functools

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage05 import e2_delta_spectrum as room
from lora_ref.checks.stage05 import shared
from lora_ref.checks.verdicts import Inputs

_draw_kinds = functools.partial(room.draw_spectra, kinds=shared.KINDS)


def _draw_two_rules(rng: np.random.Generator) -> Inputs:
    """Layers scaled by alpha / rank and by alpha / sqrt(rank): only the layer itself knows which."""
    return {"updates": [*room.draw_spectra(rng)["updates"], *room.draw_spectra(rng, rslora=True)["updates"]]}


HIDDEN = [
    graded(room, "5.2/values", 0.75),
    graded(room, "5.2/scaling", 0.5, draw=_draw_two_rules),
    graded(room, "5.2/kinds", 0.5, draw=_draw_kinds),
    graded(room, "5.2/merged", 0.25),
]


_LORA = 'lora = getattr(layer, "lora", layer)\n    update'
_UPDATE = "update = lora.scaling * lora.lora_B @ lora.lora_A"
_VALUES = "return torch.linalg.svdvals(update.detach())"
_IN_PLACE = "looking at an update must not merge"


MUTANTS = [
    Mutant(
        "5.2/drops-the-small",
        "what is below a thousandth is left out",
        _VALUES,
        "values = torch.linalg.svdvals(update.detach())\n    return values[values > 1e-3]",
        "some may be small",
    ),
    Mutant(
        "5.2/leaves-autograd-off",
        "autograd stays switched off",
        _VALUES,
        "torch.set_grad_enabled(False)\n    return torch.linalg.svdvals(update.detach())",
        "left autograd switched off",
    ),
    Mutant("5.2/no-scale", "the scale is forgotten", _UPDATE, "update = lora.lora_B @ lora.lora_A", "scale is missing"),
    Mutant(
        "5.2/scale-twice",
        "scaled before and after",
        _VALUES,
        "return lora.scaling * torch.linalg.svdvals(update.detach())",
        "applied twice",
    ),
    Mutant(
        "5.2/alpha-only",
        "multiplied by alpha",
        _UPDATE,
        "update = lora.scaling * len(lora.lora_A) * lora.lora_B @ lora.lora_A",
        "division by rank is missing",
        "S0",
    ),
    Mutant("5.2/A-alone", "the spectrum of A", _UPDATE, "update = lora.scaling * lora.lora_A", "values of A alone"),
    Mutant("5.2/B-alone", "the spectrum of B", _UPDATE, "update = lora.scaling * lora.lora_B", "values of B alone"),
    Mutant(
        "5.2/products",
        "singular values of A times those of B",
        _VALUES,
        "values = [torch.linalg.svdvals(M.detach()) for M in (lora.lora_A, lora.lora_B)]\n"
        "    return lora.scaling * values[0] * values[1]",
        "not the products of the values",
    ),
    Mutant(
        "5.2/whole-weight",
        "the adapted weight's spectrum",
        _UPDATE,
        "update = lora.scaling * lora.lora_B @ lora.lora_A\n    if lora is not layer:\n"
        "        update = layer.linear.weight + update",
        "the update alone is asked for",
    ),
    Mutant("5.2/squares", "squared values", _VALUES, "return torch.linalg.svdvals(update.detach()) ** 2", "squares"),
    Mutant(
        "5.2/eigenvalues",
        "eigenvalues of D^T D, counted upwards",
        _VALUES,
        "return torch.linalg.eigvalsh(update.detach().T @ update.detach()).clamp(min=0).sqrt()[-min(update.shape):]",
        "smallest first",
    ),
    Mutant(
        "5.2/shares",
        "normalised to sum 1",
        _VALUES,
        "values = torch.linalg.svdvals(update.detach())\n    return values / values.sum()",
        "divided by their sum",
    ),
    Mutant(
        "5.2/relative",
        "divided by the largest",
        _VALUES,
        "values = torch.linalg.svdvals(update.detach())\n    return values / values[0]",
        "divided by the largest",
    ),
    Mutant(
        "5.2/top-only", "the largest alone", _VALUES, "return torch.linalg.svdvals(update.detach())[:1]", "all of them"
    ),
    Mutant(
        "5.2/diagonal",
        "a diagonal matrix",
        _VALUES,
        "return torch.diag(torch.linalg.svdvals(update.detach()))",
        "a vector",
    ),
    Mutant(
        "5.2/a-list", "a list of numbers", _VALUES, "return torch.linalg.svdvals(update.detach()).tolist()", "a tensor"
    ),
    Mutant("5.2/wrappers-only", "needs .lora", _LORA, "lora = layer.lora\n    update", "take either"),
    Mutant("5.2/bare-only", "takes the layer for its update", _LORA, "lora = layer\n    update", "its update as .lora"),
    Mutant(
        "5.2/merges",
        "merges to compare weights, and leaves it so",
        _LORA,
        'lora = getattr(layer, "lora", layer)\n    if lora is not layer:\n        layer.unmerge()\n    update',
        "looking at an update must not merge",
    ),
    Mutant(
        "5.2/in-place",
        "scales B in place",
        _UPDATE,
        "update = lora.lora_B.data.mul_(lora.scaling) @ lora.lora_A",
        "must not merge, unmerge or scale anything in place",
    ),
    Mutant(
        "5.2/merges-to-compare",
        "unmerges and merges again, so every layer comes back merged",
        _UPDATE,
        f"{_UPDATE}\n    if lora is not layer:\n        layer.unmerge()\n        before = layer.linear.weight.clone()\n"
        "        layer.merge()\n        update = layer.linear.weight - before",
        _IN_PLACE,
    ),
    Mutant(
        "5.2/merged-first",
        "merges, though the update needs no merging",
        _LORA,
        'lora = getattr(layer, "lora", layer)\n    if lora is not layer:\n        layer.merge()\n    update',
        _IN_PLACE,
    ),
    Mutant(
        "5.2/frozen",
        "freezes the layer in place of detaching the result",
        _LORA,
        'lora = getattr(layer, "lora", layer)\n    lora.requires_grad_(False)\n    update',
        "act on the layer itself",
    ),
    Mutant(
        "5.2/detached-in-place",
        "detach_ in place of detach",
        _UPDATE,
        "update = lora.scaling * lora.lora_B.detach_() @ lora.lora_A.detach_()",
        "act on the layer itself",
    ),
    Mutant(
        "5.2/double-in-place",
        "the layer is converted, not the tensor",
        _LORA,
        'lora = getattr(layer, "lora", layer).double()\n    update',
        "converts the layer itself",
    ),
    Mutant(
        "5.2/eval",
        "eval() before looking, and never back",
        _LORA,
        'lora = getattr(layer, "lora", layer)\n    layer.eval()\n    update',
        "eval() acts on the layer itself",
    ),
    Mutant(
        "5.2/backward",
        "a backward pass for nothing",
        _VALUES,
        f"update.sum().backward()\n    {_VALUES}",
        "leaves gradients",
    ),
]
