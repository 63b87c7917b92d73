"""Exercise 2.4, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from autograder.exercises.stage02.shared import IF_MERGED, SUM
from lora_ref.checks.stage02 import e4_wrap_forward as room
from lora_ref.checks.stage02 import shared
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation


def draw_sum(bias: bool) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {**shared.draw_wrapped(rng), "bias": bias}


def judge_sum_no_bias(inputs: Inputs, seen: Observation) -> Fault | None:
    return room.judge_sum({**inputs, "b": np.zeros_like(inputs["b"])}, seen)


HIDDEN = [
    Check("2.4/sum", "the output is linear(x) + lora(x)", room.probe_sum, room.judge_sum, draw_sum(True), points=0.75),
    Check(
        "2.4/no-bias",
        "a layer without bias works as well",
        room.probe_sum,
        judge_sum_no_bias,
        draw_sum(False),
        points=0.25,
    ),
    graded(room, "2.4/fresh", 0.25),
    graded(room, "2.4/calls", 0.25),
    Check(
        "2.4/gradients",
        "A, B and x get gradients",
        room.probe_sum,
        room.judge_sum_gradients,
        shared.draw_with_gradients(shared.draw_wrapped),
        points=0.5,
    ),
]


MUTANTS = [
    Mutant(
        "2.4/keeps-by-tensor",
        "the frozen layer's output is kept as long as x is the same tensor",
        SUM,
        "if self.__dict__.get('_x') is not x:\n"
        "            self.__dict__.update(_x=x, _base=self.linear(x))\n"
        "        return self._base + self.lora(x)",
        "kept, and the tensor has other values",
    ),
    Mutant(
        "2.4/copy-of-W",
        "the weight is copied at the first call",
        SUM,
        "self.__dict__.setdefault('_W', self.linear.weight.detach().clone())\n"
        "        return F.linear(x, self._W.to(x), self.linear.bias) + self.lora(x)",
        "a copy of the weight",
    ),
    Mutant("2.4/update-only", "the frozen layer is not asked", SUM, "return self.lora(x)", "only the update"),
    Mutant("2.4/base-only", "the update is not added", SUM, "return self.linear(x)", "the update is missing"),
    Mutant(
        "2.4/no-bias",
        "the weight is used without the bias",
        SUM,
        "return x @ self.linear.weight.T + self.lora(x)",
        "the bias is missing",
        "S4",
    ),
    Mutant(
        "2.4/scaled-again",
        "the update is scaled once more",
        SUM,
        "return self.linear(x) + self.lora.scaling * self.lora(x)",
        "applied twice",
        "S2",
    ),
    Mutant(
        "2.4/no-grad",
        "the frozen layer runs without autograd",
        SUM,
        "with torch.no_grad():\n            y = self.linear(x)\n        return y + self.lora(x)",
        "need the frozen layer's gradient",
    ),
    Mutant(
        "2.4/dropout-on-both",
        "dropout reaches the frozen layer too",
        f"{IF_MERGED}{SUM}",
        "x = self.lora.dropout(x)\n        return self.linear(x) + (0 if self.merged else self.lora(x))",
        "dropout reaches the frozen layer's input",
    ),
    Mutant(
        "2.4/own-product",
        "the update is written out again, without its dropout",
        SUM,
        "return self.linear(x) + self.lora.scaling * (x @ self.lora.lora_A.T @ self.lora.lora_B.T)",
        "lora(x) has its dropout already",
    ),
    Mutant(
        "2.4/dropout-twice",
        "dropout before an update that drops already",
        SUM,
        "return self.linear(x) + self.lora(F.dropout(x, self.lora.dropout.p, self.training))",
        "lora(x) has its dropout already",
    ),
    Mutant(
        "2.4/dropout-on-sum",
        "dropout on what the update gives",
        SUM,
        "return self.linear(x) + F.dropout(self.lora(x), self.lora.dropout.p, self.training)",
        "lora(x) has its dropout already",
    ),
    Mutant(
        "2.4/training-only",
        "no update in evaluation mode",
        "if self.merged:  # exercise 2.5",
        "if self.merged or not self.training:  # exercise 2.5",
        "counts in both modes",
    ),
    Mutant(
        "2.4/casts",
        "always float32",
        SUM,
        "return (self.linear(x) + self.lora(x)).float()",
        "the result is cast",
    ),
    Mutant(
        "2.4/mean",
        "the mean of both",
        SUM,
        "return (self.linear(x) + self.lora(x)) / 2",
        "largest difference",
    ),
    Mutant(
        "2.4/kept-weight",
        "the weight is read once",
        SUM,
        "self.weight = getattr(self, 'weight', None)\n"
        "        if self.weight is None:\n"
        "            self.weight = self.lora.scaling * (self.lora.lora_B @ self.lora.lora_A)\n"
        "        return self.linear(x) + (self.lora(x) if self.training else x @ self.weight.T)",
        "the output is off by",
    ),
    Mutant(
        "2.4/evaluation-only",
        "no update in training mode",
        "if self.merged:  # exercise 2.5",
        "if self.merged or self.training:  # exercise 2.5",
        "the update is missing",
    ),
    Mutant(
        "2.4/autograd-alone",
        "the update counts while gradients are recorded",
        "if self.merged:  # exercise 2.5",
        "if self.merged or not torch.is_grad_enabled():  # exercise 2.5",
        "without autograd",
    ),
    Mutant(
        "2.4/keeps-its-output",
        "the last output is kept, and with it the graph",
        SUM,
        f"self.last = {SUM.removeprefix('return ')}\n        return self.last",
        "copy.deepcopy",
    ),
]
