"""Exercise 2.6, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage02 import e6_parametrization as room
from lora_ref.checks.stage02 import shared
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation, close, error_fault


def judge_defaults(inputs: Inputs, seen: Observation) -> Fault | None:
    if seen["found"] != ["A", "B"]:
        return Fault("built with two sizes alone it has no factors of rank 1", "the default of rank is 1")
    update = inputs["B"][:, :1] @ inputs["A"][:1]
    if not close(seen["W"], inputs["W"] + update):
        scaled = shared.factor_of(seen["W"] - inputs["W"], update) is not None
        return Fault(
            "with the defaults, forward(W) is not W + B A", "the default of alpha is 1" if scaled else ELSEWHERE
        )
    return None


def judge_registered(inputs: Inputs, seen: Observation) -> Fault | None:
    """In a frozen layer: output, gradients of A and B alone, original untouched, off exactly as before."""
    if "raised" in seen:
        return error_fault(seen["raised"])
    x, A, B = inputs["x"], inputs["A"], inputs["B"]
    if seen["found"] != ["A", "B"] or seen["trains"] != A.size + B.size:
        return Fault(f"in the layer {seen['trains']} numbers train, expected {A.size + B.size}, those of A and B", "")
    if not seen["gradients"]["A"] or not seen["gradients"]["B"]:
        return Fault("no gradient reaches the factors", "the graph is cut: .data, .detach() or torch.no_grad()")
    ratio = shared.factor_of(seen["y"] - x @ inputs["W"].T - inputs["b"], x @ A.T @ B.T)
    if ratio is None:
        return Fault("the layer's output is not x (W + c B A)^T + b for any c", ELSEWHERE, "")
    if not close(seen["original"], inputs["W"], 1e-6):
        return Fault("the original weight changed", "forward adds to W in place: write W + update, not W += update")
    if close(seen["trained"], seen["y"], 1e-9):
        return Fault("a training step of A and B changes nothing", "the update is computed once and kept")
    if not np.array_equal(seen["off"], seen["before"]):
        return Fault("switched off, the layer's output is not the original's, bit for bit", "return W itself")
    return None


HIDDEN = [
    graded(room, "2.6/value", 0.75),
    graded(room, "2.6/start", 0.5),
    graded(room, "2.6/switch", 0.5),
    Check(
        "2.6/defaults",
        "rank and alpha are 1 by default",
        room.probe_defaults,
        judge_defaults,
        shared.draw_wrapped,
        points=0.25,
    ),
    graded(room, "2.6/calls", 0.5),
    Check(
        "2.6/registered",
        "registered on a frozen layer, A and B train and the original never changes",
        room.probe_registered,
        judge_registered,
        shared.draw_wrapped,
        points=0.5,
    ),
]


_P_A = "self.A = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(in_features))"
_P_B = "self.B = nn.Parameter(torch.zeros(out_features, rank))"
_P_OFF = "if not self.enabled:\n            return W\n"
_P_ON = "return W + self.scale * (self.B @ self.A)"


MUTANTS = [
    Mutant(
        "2.6/kept-in-evaluation",
        "in evaluation mode the update is computed once",
        _P_ON,
        "if self.training:\n            return W + self.scale * (self.B @ self.A)\n"
        "        return W + self.__dict__.setdefault('_update', self.scale * (self.B @ self.A).detach()).to(W)",
        "computed once and kept",
    ),
    Mutant("2.6/no-scale", "not scaled", _P_ON, "return W + self.B @ self.A", "the scale is missing"),
    Mutant(
        "2.6/alpha-only",
        "alpha is not divided by rank",
        "self.scale = alpha / rank",
        "self.scale = alpha",
        "division by rank is missing",
        "S0",
    ),
    Mutant(
        "2.6/off-in-evaluation",
        "the mode switches too",
        _P_OFF,
        _P_OFF.replace("not self.enabled", "not (self.enabled and self.training)"),
        "only self.enabled switches",
    ),
    Mutant("2.6/always-on", "the switch is not asked", _P_OFF, "pass\n", "does not check self.enabled"),
    Mutant(
        "2.6/off-is-a-copy", "off returns a copy", _P_OFF, _P_OFF.replace("return W", "return W.clone()"), "return W"
    ),
    Mutant(
        "2.6/product-order",
        "A B in place of B A",
        _P_ON,
        "return W + self.scale * (self.A.T @ self.B.T)",
        "wrong order",
    ),
    Mutant(
        "2.6/features-swapped",
        "input and output features exchanged",
        f"{_P_A}\n        {_P_B}",
        "self.A = nn.Parameter(torch.randn(rank, out_features) / math.sqrt(in_features))\n"
        "        self.B = nn.Parameter(torch.zeros(in_features, rank))",
        "wrong way round",
        "S1",
    ),
    Mutant(
        "2.6/to-unregisters",
        "a Parameter that is converted is not a Parameter any more",
        _P_A,
        "self.A = nn.Parameter(torch.randn(rank, in_features, dtype=torch.float64)).to(torch.float32)",
        "makes a plain tensor",
        "S1",
    ),
    Mutant(
        "2.6/A-zero",
        "both factors start at zero",
        _P_A,
        "self.A = nn.Parameter(torch.zeros(rank, in_features))",
        "A and B are both zero",
    ),
    Mutant(
        "2.6/uninitialised",
        "B is memory as it comes",
        _P_B,
        "self.B = nn.Parameter(torch.empty(out_features, rank))",
        "uninitialised memory",
        "S4",
    ),
    Mutant(
        "2.6/in-place",
        "the original is added to",
        _P_ON,
        "W += self.scale * (self.B @ self.A)\n        return W",
        "original weight changed",
    ),
    Mutant(
        "2.6/cached",
        "the update is computed once and kept",
        _P_ON,
        "if not hasattr(self, 'update'):\n            self.update = self.scale * (self.B @ self.A)\n"
        "        return W + self.update",
        "computed once and kept",
    ),
    Mutant("2.6/casts", "always float32", _P_ON, f"{_P_ON[:7]}({_P_ON[7:]}).float()", "the result is cast"),
    Mutant(
        "2.6/square-transposed",
        "in a square layer the update is transposed",
        _P_ON,
        "D = self.scale * (self.B @ self.A)\n        return W + (D.T if len(D) == len(D.T) else D)",
        "the result is off by",
    ),
    Mutant("2.6/off-at-first", "off at first", "self.enabled = True", "self.enabled = False", "False at first"),
    Mutant("2.6/no-W", "the update alone", _P_ON, _P_ON.replace("W + ", ""), "W is missing from the sum"),
    Mutant("2.6/W-detached", "W gets no gradient", _P_ON, _P_ON.replace("W +", "W.detach() +"), "where W trains"),
    Mutant("2.6/A-tiny", "A is all but zero", _P_A, f"{_P_A[:-1]} * 1e-30)", "or all but zero"),
    Mutant(
        "2.6/single-inside",
        "computed in single precision",
        _P_ON,
        "return (W.float() + self.scale * (self.B @ self.A).float()).to(W.dtype)",
        "in single precision on the way",
    ),
    Mutant(
        "2.6/kept-without-autograd",
        "kept while no gradients are recorded",
        _P_ON,
        f"if torch.is_grad_enabled():\n            {_P_ON}\n"
        f"        if not hasattr(self, 'kept'):\n            self.kept = {_P_ON.removeprefix('return ')}\n"
        "        return self.kept",
        "without autograd",
    ),
]
