"""Exercise 2.3, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from autograder.exercises.stage02.shared import KEEP, LORA
from lora_ref.checks.stage02 import e3_wrap as room
from lora_ref.checks.verdicts import Inputs


def _kinds(rng: np.random.Generator) -> Inputs:
    """As `_ranks`, for what is wrapped."""
    return {"kinds": rng.permutation([*room.NOT_LINEAR_KINDS, *room.LINEAR_KINDS]).tolist()}


HIDDEN = [
    graded(room, "2.3/kept", 0.75),
    graded(room, "2.3/frozen", 0.75),
    graded(room, "2.3/several", 0.5),
    graded(room, "2.3/update", 0.5),
    graded(room, "2.3/type", 0.5, draw=_kinds),
]


MUTANTS = [
    Mutant(
        "2.3/new-layer",
        "a new layer in place of the pretrained one",
        KEEP,
        "self.linear = nn.Linear(linear.in_features, linear.out_features).requires_grad_(False)",
        "pretrained ones are lost",
        "S4",
    ),
    Mutant(
        "2.3/empty-weight",
        "uninitialised memory in place of the pretrained weight",
        KEEP,
        "self.linear = linear.requires_grad_(False)\n"
        "        self.linear.weight = nn.Parameter(torch.empty_like(linear.weight), requires_grad=False)",
        "pretrained ones are lost",
        "S4",
    ),
    Mutant(
        "2.3/drops-bias",
        "the weight is taken over, the bias is not",
        KEEP,
        "self.linear = nn.Linear(linear.in_features, linear.out_features, bias=False).requires_grad_(False)\n"
        "        self.linear.weight.data.copy_(linear.weight.data)",
        "bias was dropped",
        "S4",
    ),
    Mutant(
        "2.3/copies",
        "an equal copy of the layer",
        KEEP,
        "self.linear = __import__('copy').deepcopy(linear).requires_grad_(False)",
        "the layer was copied",
    ),
    Mutant("2.3/not-frozen", "nothing is frozen", KEEP, "self.linear = linear", "not frozen", "S2"),
    Mutant(
        "2.3/bias-trains",
        "only the weight is frozen",
        KEEP,
        "self.linear = linear\n        linear.weight.requires_grad_(False)",
        "the bias is not frozen",
    ),
    Mutant(
        "2.3/all-frozen",
        "the update is frozen with the layer",
        LORA,
        f"{LORA}\n        self.requires_grad_(False)",
        "the whole wrapper was frozen",
    ),
    Mutant(
        "2.3/sizes-swapped",
        "input and output features exchanged",
        LORA,
        "self.lora = LoRALayer(linear.out_features, linear.in_features, rank, alpha, dropout)",
        "are swapped",
        "S1",
    ),
    Mutant(
        "2.3/no-dropout",
        "dropout is not passed on",
        LORA,
        "self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha)",
        "dropout is not passed on",
    ),
    Mutant(
        "2.3/any-module",
        "whatever is given is wrapped",
        "if not isinstance(linear, nn.Linear):",
        "if False:",
        "isinstance is missing",
    ),
    Mutant(
        "2.3/dropout-fixed",
        "a number of one's own for the dropout",
        LORA,
        LORA.replace(", dropout)", ", 0.1)"),
        "dropout is 0 by default",
    ),
    Mutant(
        "2.3/dropout-complement",
        "the probability to keep is passed on",
        LORA,
        LORA.replace(", dropout)", ", 1 - dropout if dropout else 0.0)"),
        "not passed on as it was given",
    ),
]
