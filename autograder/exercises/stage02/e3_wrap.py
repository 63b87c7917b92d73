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
        "2.3/by-layer",
        "the update is looked up by the layer that it is for",
        LORA,
        LORA + "\n        self.lora = globals().setdefault('_updates', {}).setdefault(linear, self.lora)",
        "two wrappers around one layer",
    ),
    Mutant(
        "2.3/new-layer",
        "a new layer in place of the pretrained one",
        KEEP,
        "self.linear = nn.Linear(linear.in_features, linear.out_features).requires_grad_(False)",
        "pretrained values are lost",
        "S4",
    ),
    Mutant(
        "2.3/empty-weight",
        "uninitialised memory in place of the pretrained weight",
        KEEP,
        "self.linear = linear.requires_grad_(False)\n"
        "        self.linear.weight = nn.Parameter(torch.empty_like(linear.weight), requires_grad=False)",
        "pretrained values are lost",
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
    Mutant(
        "2.3/exact-type",
        "subclasses are refused",
        "if not isinstance(linear, nn.Linear):",
        "if type(linear) is not nn.Linear:",
        "a subclass is an nn.Linear too",
    ),
    Mutant(
        "2.3/casts", "the layer is made float32", KEEP, KEEP.replace("linear.req", "linear.float().req"), "own dtype"
    ),
    Mutant(
        "2.3/one-update-for-all",
        "layers of one size share their update",
        LORA,
        f"{LORA}\n        pool = self.__class__.__dict__.get('pool', {{}})\n        self.__class__.pool = pool\n"
        "        self.lora = pool.setdefault((*linear.weight.shape, rank, alpha, dropout), self.lora)",
        "is not zero",
    ),
    Mutant(
        "2.3/any-rank",
        "a rank below 1 is taken for 1",
        LORA,
        LORA.replace(" rank,", " max(rank, 1),"),
        "let its ValueError pass",
    ),
    Mutant("2.3/evaluation", "it starts in evaluation mode", LORA, f"{LORA}\n        self.eval()", "evaluation mode"),
    Mutant(
        "2.3/freezes-first",
        "whatever is given is frozen, then looked at",
        "if not isinstance(linear, nn.Linear):",
        "if isinstance(linear, nn.Module):\n            linear.requires_grad_(False)\n"
        "        if not isinstance(linear, nn.Linear):",
        "check first, then change",
    ),
    Mutant("2.3/B-drawn", "B is drawn", LORA, f"{LORA}\n        nn.init.normal_(self.lora.lora_B)", "is not zero"),
    Mutant(
        "2.3/train-wakes-all",
        "in training mode the frozen layer trains",
        LORA,
        f"{LORA}\n\n"
        "    def train(self, mode=True):\n"
        "        self.linear.requires_grad_(mode)\n        return super().train(mode)\n",
        "what trains stays, whatever the mode",
    ),
    Mutant(
        "2.3/class-changed",
        "a subclass of nn.Linear is made one",
        KEEP,
        f"linear.__class__ = nn.Linear\n        {KEEP}",
        "keep the given layer as it is",
    ),
]
