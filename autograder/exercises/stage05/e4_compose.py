"""Exercise 5.4, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage05 import e4_compose as room

HIDDEN = [
    graded(room, "5.4/sum", 1),
    graded(room, "5.4/kinds", 0.25),
    graded(room, "5.4/merged", 0.25),
    graded(room, "5.4/lengths", 0.5),
]


_REFUSES = "if len(layers) != len(weights):"
_LENGTHS = f'{_REFUSES}\n        raise ValueError(f"{{len(layers)}} layers, {{len(weights)}} weights")\n    total'
_LOOP = "for layer, weight in zip(layers, weights, strict=True):"
_EACH = 'lora = getattr(layer, "lora", layer)\n        total'
_TERM = "total = total + weight * lora.scaling * (lora.lora_B @ lora.lora_A).detach()"
_SUM = f'total = 0\n    {_LOOP}\n        lora = getattr(layer, "lora", layer)\n        {_TERM}\n    return total'
_LORAS = 'loras = [getattr(layer, "lora", layer) for layer in layers]\n    '


MUTANTS = [
    Mutant(
        "5.4/adds-to-the-kept",
        "a product is kept on the layer and added to in place",
        _SUM,
        "total = None\n"
        f"    {_LOOP}\n"
        '        lora = getattr(layer, "lora", layer)\n'
        '        if not hasattr(lora, "kept"):\n'
        "            lora.kept = (lora.scaling * lora.lora_B @ lora.lora_A).detach()\n"
        "        total = lora.kept.mul_(weight) if total is None else total.add_(weight * lora.kept)\n    return total",
        "handed out by each call",
    ),
    Mutant(
        "5.4/empties-the-lists",
        "the caller's lists are emptied",
        _SUM,
        "total = 0\n    while layers:\n        layer, weight = layers.pop(), weights.pop()\n"
        '        lora = getattr(layer, "lora", layer)\n'
        f"        {_TERM}\n    return total",
        "the list had",
    ),
    Mutant(
        "5.4/factors-summed",
        "the A's and the B's are summed apart",
        f"{_SUM}",
        f"{_LORAS}A = sum(lora.lora_A for lora in loras)\n"
        "    B = sum(w * lora.scaling * lora.lora_B for lora, w in zip(loras, weights))\n    return (B @ A).detach()",
        "terms B_1 A_2 that belong to nobody",
    ),
    Mutant(
        "5.4/untrained",
        "the adapters are made again, as they start: every delta is 0",
        _TERM,
        "total = total + weight * lora.scaling * (torch.zeros_like(lora.lora_B) @ lora.lora_A).detach()",
        "B is not zero",
        "S3",
    ),
    Mutant("5.4/no-scale", "no scale", _TERM, _TERM.replace("lora.scaling * ", ""), "the scale is missing"),
    Mutant(
        "5.4/alpha-only",
        "multiplied by alpha",
        _TERM,
        _TERM.replace("lora.scaling", "lora.scaling * len(lora.lora_A)"),
        "the division by rank is missing",
        "S0",
    ),
    Mutant(
        "5.4/first-scale",
        "the first layer's scale for all",
        _TERM,
        _TERM.replace("lora.scaling", 'getattr(layers[0], "lora", layers[0]).scaling'),
        "every update has its own scaling",
    ),
    Mutant("5.4/no-weights", "a plain sum", _TERM, _TERM.replace("weight * ", ""), "the weights are not used"),
    Mutant(
        "5.4/normalised",
        "weights that sum to 1",
        _TERM,
        _TERM.replace("weight * ", "weight / sum(weights) * "),
        "divided by their sum",
    ),
    Mutant("5.4/mean", "a mean", "return total\n", "return total / len(layers)\n", "a mean in place of a sum"),
    Mutant(
        "5.4/weights-squared",
        "the weight goes to both factors",
        _TERM,
        "total = total + lora.scaling * ((weight * lora.lora_B) @ (weight * lora.lora_A)).detach()",
        "counts twice",
    ),
    Mutant("5.4/absolute", "no negative weights", _TERM, _TERM.replace("weight *", "abs(weight) *"), "may be negative"),
    Mutant(
        "5.4/last-only",
        "the sum is replaced in each round",
        _TERM,
        _TERM.replace("total + ", ""),
        "only the last update is there",
    ),
    Mutant("5.4/transposed", "A^T B^T", _TERM, _TERM.replace("lora_A).detach()", "lora_A).detach().T"), "transposed"),
    Mutant(
        "5.4/whole-weights",
        "the frozen weight is in the sum",
        "return total\n",
        'return total + (layers[0].linear.weight.detach() if hasattr(layers[0], "linear") else 0)\n',
        "the updates alone are asked for",
    ),
    Mutant(
        "5.4/zip-cuts",
        "unequal lengths pass",
        f"{_LENGTHS} = 0\n    {_LOOP}",
        "total = 0\n    for layer, weight in zip(layers, weights):",
        "zip ends with the shorter",
    ),
    Mutant(
        "5.4/too-few-only",
        "only missing weights are refused",
        f"{_LENGTHS} = 0\n    {_LOOP}",
        f"{_LENGTHS.replace('!=', '>')} = 0\n    for layer, weight in zip(layers, weights):",
        "zip ends with the shorter",
    ),
    Mutant(
        "5.4/assert",
        "an assertion",
        _LENGTHS,
        "assert len(layers) == len(weights)\n    total",
        "unequal lengths are a ValueError",
    ),
    Mutant("5.4/wrappers-only", "needs .lora", _EACH, "lora = layer.lora\n        total", "take either"),
    Mutant("5.4/bare-only", "takes the layer for its update", _EACH, "lora = layer\n        total", "update as .lora"),
    Mutant(
        "5.4/in-place",
        "the first layer's weight collects the sum",
        "return total\n",
        'if hasattr(layers[0], "unmerge"):\n        layers[0].unmerge()\n    return total\n',
        "nothing of the layers is merged",
    ),
    Mutant(
        "5.4/merges-to-compare",
        "unmerges and merges again, so every layer comes back merged",
        _TERM,
        "if lora is not layer:\n            layer.unmerge()\n            layer.merge()\n        " + _TERM,
        "nothing of the layers is merged",
    ),
    Mutant(
        "5.4/frozen",
        "freezes the layers in place of detaching the result",
        _EACH,
        'lora = getattr(layer, "lora", layer).requires_grad_(False)\n        total',
        "act on the layer itself",
    ),
    Mutant(
        "5.4/detached-in-place",
        "detach_ in place of detach",
        _TERM,
        "total = total + weight * lora.scaling * lora.lora_B.detach_() @ lora.lora_A.detach_()",
        "act on the layer itself",
    ),
    Mutant(
        "5.4/double-in-place",
        "the layers are converted, not the tensors",
        _EACH,
        'lora = getattr(layer, "lora", layer).double()\n        total',
        "converts the layer itself",
    ),
    Mutant(
        "5.4/whole-numbers",
        "weights that are whole numbers make a tensor of them",
        _SUM,
        f"{_LORAS}deltas = torch.stack([lora.scaling * (lora.lora_B @ lora.lora_A).detach() for lora in loras])\n"
        '    return torch.einsum("k,koi->oi", torch.tensor(weights), deltas)',
        "whole numbers are weights too",
    ),
    Mutant(
        "5.4/first-for-all",
        "the first layer's kind is taken for all",
        _SUM,
        'if hasattr(layers[0], "lora"):\n        layers = [layer.lora for layer in layers]\n    '
        "return sum(w * lora.scaling * (lora.lora_B @ lora.lora_A).detach() for lora, w in zip(layers, weights))",
        "a list may hold both kinds",
    ),
    Mutant(
        "5.4/each-layer-once",
        "a layer that is there twice counts with its last weight",
        "for layer, weight in zip(layers, weights, strict=True):",
        "for layer, weight in dict(zip(layers, weights, strict=True)).items():",
        "counts with both of its weights",
    ),
]
