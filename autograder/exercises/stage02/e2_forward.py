"""Exercise 2.2, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage02 import e2_forward as room
from lora_ref.checks.stage02 import shared
from lora_ref.checks.verdicts import Check

HIDDEN = [
    Check(
        "2.2/forward",
        "with B != 0 the output is scaling * (x A^T) B^T",
        room.probe_forward,
        room.judge_forward,
        shared.draw_layer,
        points=1.5,
    ),
    graded(room, "2.2/leading", 0.5),
    Check(
        "2.2/gradients",
        "A, B and x get the formula's gradients",
        room.probe_forward,
        room.judge_gradients,
        shared.draw_with_gradients(shared.draw_layer),
        points=0.5,
    ),
    graded(room, "2.2/dropout", 0.75),
    graded(room, "2.2/small", 0.25),
    graded(room, "2.2/calls", 0.5),
]


_DOWN = "down = self.dropout(x) @ self.lora_A.T  # (..., rank): the small tensor, so scale this one"
_UP = "return (self.scaling * down) @ self.lora_B.T"


MUTANTS = [
    Mutant(
        "2.2/zeros-at-first",
        "while B is zero new zeros are returned",
        _DOWN,
        f"if not self.lora_B.any():\n            return x.new_zeros(*x.shape[:-1], len(self.lora_B))\n        {_DOWN}",
        "or B never learns",
    ),
    Mutant(
        "2.2/no-graph-in-evaluation",
        "autograd is off in evaluation mode",
        f"{_DOWN}\n        {_UP}",
        f"with torch.set_grad_enabled(self.training):\n            {_DOWN}\n            {_UP}",
        "leave that to the caller",
    ),
    Mutant(
        "2.2/builds-BA-for-many",
        "for many rows the full update is built",
        _UP,
        f"if down.numel() > 64 * len(self.lora_A):\n"
        f"            return self.dropout(x) @ (self.scaling * self.lora_B @ self.lora_A).T\n        {_UP}",
        "the matrix B A is built",
    ),
    Mutant("2.2/scale-twice", "scaled before and after", _UP, "return self.scaling * " + _UP[7:], "applied twice"),
    Mutant("2.2/no-scale", "not scaled at all", _UP, "return down @ self.lora_B.T", "the scale is missing", "S2"),
    Mutant(
        "2.2/alpha-only",
        "multiplied by alpha",
        _UP,
        "return self.scaling * len(self.lora_A) * down @ self.lora_B.T",
        "division by rank is missing",
        "S0",
    ),
    Mutant(
        "2.2/rslora",
        "multiplied by alpha / sqrt(rank)",
        _UP,
        "return self.scaling * len(self.lora_A) ** 0.5 * down @ self.lora_B.T",
        "rsLoRA",
    ),
    Mutant(
        "2.2/builds-BA",
        "the full update is built on each call",
        f"{_DOWN}\n        {_UP}",
        "return self.dropout(x) @ (self.scaling * self.lora_B @ self.lora_A).T",
        "the matrix B A is built",
        "S2",
    ),
    Mutant(
        "2.2/dropout-on-output",
        "dropout after B",
        f"{_DOWN}\n        {_UP}",
        "return self.dropout(self.scaling * x @ self.lora_A.T @ self.lora_B.T)",
        "on the output",
    ),
    Mutant(
        "2.2/dropout-between",
        "dropout between A and B",
        f"{_DOWN}\n        {_UP}",
        "return self.scaling * self.dropout(x @ self.lora_A.T) @ self.lora_B.T",
        "between A and B",
    ),
    Mutant(
        "2.2/dropout-always",
        "F.dropout without the training flag",
        _DOWN,
        "down = F.dropout(x, self.dropout.p) @ self.lora_A.T",
        "evaluation mode too",
    ),
    Mutant("2.2/no-dropout", "dropout is forgotten", _DOWN, "down = x @ self.lora_A.T", "dropout is never applied"),
    Mutant(
        "2.2/dropout-unscaled",
        "what is kept is not divided by 1 - p",
        _DOWN,
        "x = x * (torch.rand_like(x) >= self.dropout.p) if self.training else x\n        down = x @ self.lora_A.T",
        "divided by 1 - p",
    ),
    Mutant(
        "2.2/dropout-inverted",
        "p is taken for the probability to keep",
        _DOWN,
        "down = F.dropout(x, 1 - self.dropout.p if self.dropout.p else 0.0, self.training) @ self.lora_A.T",
        "to drop, not to keep",
    ),
    Mutant(
        "2.2/cut-graph",
        "the factors are read through .data",
        _UP,
        "return (self.scaling * down) @ self.lora_B.data.T",
        "the graph is cut",
    ),
    Mutant(
        "2.2/three-dimensions-only",
        "an einsum for batches of sequences alone",
        _DOWN,
        'down = torch.einsum("bti,ri->btr", self.dropout(x), self.lora_A)',
        "counts on a certain number of dimensions",
    ),
    Mutant(
        "2.2/view",
        "x is taken to be contiguous",
        f"{_DOWN}\n        {_UP}",
        "down = self.dropout(x).view(-1, x.shape[-1]) @ self.lora_A.T\n"
        "        return (self.scaling * down @ self.lora_B.T).view(*x.shape[:-1], -1)",
        "in another order",
    ),
    Mutant(
        "2.2/one-mask",
        "one mask of dropout for the whole batch",
        _DOWN,
        "p = self.dropout.p\n"
        "        if self.training and p:\n"
        "            x = x * (torch.rand(x.shape[1:]) >= p) / (1 - p)\n"
        "        down = x @ self.lora_A.T",
        "each entry is dropped on its own",
    ),
    Mutant(
        "2.2/mask-of-channels",
        "whole channels are dropped",
        _DOWN,
        "p = self.dropout.p\n"
        "        if self.training and p:\n"
        "            x = x * (torch.rand(*x.shape[:-2], 1, x.shape[-1]) >= p) / (1 - p)\n"
        "        down = x @ self.lora_A.T",
        "each entry is dropped on its own",
    ),
    Mutant(
        "2.2/changes-x",
        "dropout in place",
        _DOWN,
        "down = F.dropout(x, self.dropout.p, self.training, inplace=bool(self.dropout.p)) @ self.lora_A.T",
        "in place",
    ),
    Mutant(
        "2.2/squeezes",
        "at rank 1 an axis is lost",
        _DOWN,
        "down = (self.dropout(x) @ self.lora_A.T).squeeze(-1)",
        "rank 1: RuntimeError",
    ),
    Mutant(
        "2.2/cached",
        "transposed copies are made at the first call and kept",
        f"{_DOWN}\n        {_UP}",
        "if not hasattr(self, 'down'):\n"
        "            self.down, self.up = self.lora_A.T.clone(), self.lora_B.T.clone()\n"
        "        return self.scaling * self.dropout(x) @ self.down @ self.up",
        "still computes with earlier values",
    ),
    Mutant(
        "2.2/residual",
        "x is added where the shapes allow it",
        _UP,
        "y = (self.scaling * down) @ self.lora_B.T\n        return y + x if y.shape == x.shape else y",
        "B is zero, and the output is not zero",
    ),
    Mutant(
        "2.2/casts",
        "always float32",
        f"{_DOWN}\n        {_UP}",
        "return self.scaling * self.dropout(x).float() @ self.lora_A.float().T @ self.lora_B.float().T",
        "the result is cast",
    ),
    Mutant(
        "2.2/learns-once",
        "A gets a gradient at the first call alone",
        _DOWN,
        "A, self.called = self.lora_A.detach() if hasattr(self, 'called') else self.lora_A, True\n"
        "        down = self.dropout(x) @ A.T",
        "no gradient reaches lora_A",
    ),
    Mutant(
        "2.2/row-by-row",
        "a loop over rows, of which there may be none",
        f"{_DOWN}\n        {_UP}",
        "rows = [self.lora_B @ (self.lora_A @ row) for row in self.dropout(x).reshape(-1, x.shape[-1])]\n"
        "        return torch.stack(rows).reshape(*x.shape[:-1], -1) * self.scaling",
        "a batch may be empty",
    ),
    Mutant(
        "2.2/kept-in-evaluation",
        "copies are made at the first call in evaluation mode and kept until train() is called",
        f"{_DOWN}\n        {_UP}",
        "if self.training:\n            self.__dict__.pop('kept', None)\n"
        "        A, B = self.__dict__.setdefault('kept', (self.lora_A.clone(), self.lora_B.clone())) "
        "if not self.training else (self.lora_A, self.lora_B)\n"
        "        return self.scaling * (self.dropout(x) @ A.T) @ B.T",
        "still computes with earlier values",
    ),
    Mutant(
        "2.2/scales-x",
        "the caller's x is scaled in place",
        _DOWN,
        "x *= self.scaling\n        down = self.dropout(x) @ self.lora_A.T / self.scaling",
        "x is the caller's",
    ),
    Mutant(
        "2.2/silent-in-evaluation",
        "zeros in evaluation mode",
        _UP,
        f"{_UP} * self.training",
        "the mode may switch dropout, and nothing else",
    ),
    Mutant(
        "2.2/unscaled-in-evaluation",
        "the scale is left out in evaluation mode",
        _UP,
        "return (self.scaling * down if self.training else down) @ self.lora_B.T",
        "the mode may switch dropout, and nothing else",
    ),
    Mutant("2.2/relu", "a ReLU between", _UP, _UP.replace("down)", "down.relu())"), "largest difference"),
    Mutant(
        "2.2/64-rows",
        "only the first 64 rows are computed",
        _UP,
        f"{_UP} * (torch.arange(x.shape[0]) < 64).view(-1, *[1] * (x.dim() - 1)) if x.dim() > 1 else {_UP[7:]}",
        "the output is off by",
    ),
    Mutant(
        "2.2/clamped",
        "what is large is cut",
        _UP,
        f"return ({_UP.removeprefix('return ')}).clamp(-1e3, 1e3)",
        "the output is off",
    ),
    Mutant(
        "2.2/rounded",
        "to four decimals",
        _UP,
        f"y = {_UP.removeprefix('return ')}\n        return y + (y.round(decimals=4) - y).detach()",
        "the output is off",
    ),
    Mutant(
        "2.2/single-inside",
        "computed in single precision",
        f"{_DOWN}\n        {_UP}",
        "down = self.dropout(x).float() @ self.lora_A.float().T\n"
        "        return (self.scaling * down @ self.lora_B.float().T).to(x.dtype)",
        "in single precision on the way",
    ),
    Mutant(
        "2.2/one-output",
        "an axis of size 1 is lost",
        _UP,
        f"return ({_UP.removeprefix('return ')}).squeeze(-1)",
        "expected (4, 1)",
    ),
    Mutant(
        "2.2/first-rows",
        "what is below row 512 is zero",
        _UP,
        f"y = {_UP.removeprefix('return ')}\n        return torch.cat([y[:512], 0 * y[512:]]) if y.dim() == 2 else y",
        "are all rows computed?",
    ),
]
