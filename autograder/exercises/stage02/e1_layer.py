"""Exercise 2.1, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from autograder.exercises.stage02.shared import LAYER_END
from lora_ref.checks.stage02 import e1_layer as room
from lora_ref.checks.verdicts import Check, Inputs


def _ranks(rng: np.random.Generator) -> Inputs:
    """Wrong and right ones in a drawn order: an error for whatever is asked is not an answer."""
    return {"ranks": rng.permutation([0, -int(rng.integers(1, 5)), 1, int(rng.integers(2, 6))]).tolist()}


HIDDEN = [
    graded(room, "2.1/shapes", 1),
    Check("2.1/A", "A starts random with mean zero", room.probe_random, room.judge_A, room.draw_sizes, points=1),
    Check("2.1/B", "B starts at zero", room.probe_initial, room.judge_B, room.draw_sizes, points=0.5),
    graded(room, "2.1/scaling", 0.75),
    graded(room, "2.1/rank", 0.5, draw=_ranks),
    graded(room, "2.1/no-dropout", 0.25),
]


_A = "self.lora_A = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(in_features))"
_B = "self.lora_B = nn.Parameter(torch.zeros(out_features, rank))\n"
_BOTH = f"{_A}\n        {_B}"
_SCALING = "self.scaling = alpha / rank"


MUTANTS = [
    Mutant(
        "2.1/B-expanded",
        "B is one zero, shown many times",
        _B,
        _B.replace("torch.zeros(out_features, rank)", "torch.zeros(1, 1).expand(out_features, rank)"),
        "no optimiser can change them",
    ),
    Mutant(
        "2.1/alpha-not-divided",
        "scaling is alpha",
        _SCALING,
        "self.scaling = alpha",
        "division by rank is missing",
        "S0",
    ),
    Mutant("2.1/rslora", "scaling is alpha / sqrt(rank)", _SCALING, "self.scaling = alpha / rank**0.5", "rsLoRA"),
    Mutant(
        "2.1/A-zero",
        "A starts at zero like B",
        _A,
        "self.lora_A = nn.Parameter(torch.zeros(rank, in_features))",
        "A and B both zero",
    ),
    Mutant(
        "2.1/A-not-centred",
        "A is drawn from 0 to 1",
        _A,
        "self.lora_A = nn.Parameter(torch.rand(rank, in_features))",
        "not centred",
    ),
    Mutant(
        "2.1/A-uninitialised",
        "A is memory as it comes",
        _A,
        "self.lora_A = nn.Parameter(torch.empty(rank, in_features))",
        "uninitialised memory",
        "S4",
    ),
    Mutant(
        "2.1/A-constant",
        "A is the same number everywhere",
        _A,
        "self.lora_A = nn.Parameter(torch.full((rank, in_features), 0.01))",
        "must be random",
    ),
    Mutant(
        "2.1/B-random",
        "B starts random",
        _B,
        "self.lora_B = nn.Parameter(torch.randn(out_features, rank) / 10)\n",
        "B must start at zero",
    ),
    Mutant(
        "2.1/transposed",
        "both matrices the wrong way round",
        _BOTH,
        "self.lora_A = nn.Parameter(torch.randn(in_features, rank) / math.sqrt(in_features))\n"
        "        self.lora_B = nn.Parameter(torch.zeros(rank, out_features))\n",
        "both are transposed",
    ),
    Mutant(
        "2.1/features-swapped",
        "input and output features exchanged",
        _BOTH,
        "self.lora_A = nn.Parameter(torch.randn(rank, out_features) / math.sqrt(in_features))\n"
        "        self.lora_B = nn.Parameter(torch.zeros(in_features, rank))\n",
        "are swapped",
        "S1",
    ),
    Mutant(
        "2.1/to-unregisters",
        "a Parameter that is converted is not a Parameter any more",
        _BOTH,
        "self.lora_A = nn.Parameter(torch.randn(rank, in_features, dtype=torch.float64)).to(torch.float32)\n"
        "        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, dtype=torch.float64)).to(torch.float32)\n",
        "make plain tensors",
        "S1",
    ),
    Mutant(
        "2.1/no-rank-check",
        "rank 0 is left to the division",
        'if rank < 1:\n            raise ValueError(f"rank must be at least 1, got {rank}")\n        self.lora_A',
        "self.lora_A",
        "check for rank < 1 is missing",
    ),
    Mutant("2.1/refuses-one", "rank 1 is refused too", "if rank < 1:", "if rank <= 1:", "refuses too much"),
    Mutant(
        "2.1/mean-not-std",
        "the spread is given where the mean is taken",
        _A,
        "self.lora_A = nn.Parameter(nn.init.normal_(torch.empty(rank, in_features), 0.02))",
        "not centred",
    ),
    Mutant(
        "2.1/double-precision",
        "A comes from NumPy, in float64",
        _A,
        "self.lora_A = nn.Parameter(torch.from_numpy(__import__('numpy').random.randn(rank, in_features)))",
        "NumPy's is float64",
    ),
    Mutant(
        "2.1/rank-clipped",
        "a rank above the smaller side is cut down",
        _BOTH,
        f"rank = min(rank, in_features, out_features)\n        {_BOTH}",
        "a rank above the smaller side is allowed",
    ),
    Mutant(
        "2.1/drops-by-default",
        "dropout is 0.1 unless it is given",
        "rank, alpha, dropout=0.0):\n        super().__init__()\n        ### BEGIN SOLUTION 2.1",
        "rank, alpha, dropout=0.1):\n        super().__init__()\n        ### BEGIN SOLUTION 2.1",
        "the default of dropout is 0.0",
    ),
    Mutant(
        "2.1/rows-alike",
        "one random row, repeated",
        _A,
        "self.lora_A = nn.Parameter(torch.randn(1, in_features).repeat(rank, 1) / math.sqrt(in_features))",
        "all rows of lora_A are the same",
    ),
    Mutant(
        "2.1/only-A-transposed",
        "A the wrong way round",
        _A,
        "self.lora_A = nn.Parameter(torch.randn(in_features, rank) / math.sqrt(in_features))",
        "lora_A is transposed",
    ),
    Mutant(
        "2.1/other-names",
        "the matrices are called A and B",
        LAYER_END,
        f"""{LAYER_END}


class LoRALayer(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        super().__init__()
        if rank < 1:
            raise ValueError("rank")
        self.A = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(in_features))
        self.B = nn.Parameter(torch.zeros(out_features, rank))
        self.scaling, self.dropout = alpha / rank, nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(x) @ self.A.T @ self.B.T * self.scaling
""",
        "it has A and B, but the names are part of the contract",
    ),
    Mutant(
        "2.1/linears",
        "lora_A and lora_B are layers",
        LAYER_END,
        f"""{LAYER_END}


class LoRALayer(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        super().__init__()
        if rank < 1:
            raise ValueError("rank")
        self.lora_A = nn.Linear(in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.scaling, self.dropout = alpha / rank, nn.Dropout(dropout)

    def forward(self, x):
        return self.lora_B(self.lora_A(self.dropout(x))) * self.scaling
""",
        "lora_A is an nn.Linear",
    ),
    Mutant("2.1/A-tiny", "A is all but zero", _A, f"{_A[:-1]} * 1e-30)", "all but zero nothing is learned"),
    Mutant(
        "2.1/rank-used",
        "the rows above the smaller side are zero",
        _SCALING,
        f"{_SCALING}\n        self.lora_A.data[min(in_features, out_features) :] = 0",
        "drawn on its own",
    ),
    Mutant(
        "2.1/B-where-square",
        "in a square layer B starts random",
        _SCALING,
        f"{_SCALING}\n        if in_features == out_features:\n            nn.init.normal_(self.lora_B)",
        "whatever the sizes",
    ),
    Mutant(
        "2.1/rslora-above-8",
        "rsLoRA's scale at larger ranks",
        _SCALING,
        "self.scaling = alpha / (rank if rank < 9 else rank**0.5)",
        "rsLoRA",
    ),
    Mutant(
        "2.1/at-least-one", "the scale is at least 1", _SCALING, "self.scaling = max(1.0, alpha / rank)", "scaling 1"
    ),
    Mutant(
        "2.1/scale-on-the-class",
        "the scale is the class's: the last layer's for all",
        _SCALING,
        "LoRALayer.scaling = alpha / rank",
        "expected",
    ),
    Mutant(
        "2.1/seed-afterwards",
        "the seed is set once A is drawn",
        _SCALING,
        f"{_SCALING}\n        torch.manual_seed(0)",
        "must be random, and unseeded",
    ),
]
