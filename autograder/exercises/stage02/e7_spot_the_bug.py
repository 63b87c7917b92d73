"""Exercise 2.7, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage02 import e7_spot_the_bug as room

HIDDEN = [
    graded(room, "2.7/project_up", 0.75),
    graded(room, "2.7/fold_in", 0.75),
    graded(room, "2.7/make_factors", 0.5),
]


_ZERO = "lora.lora_B.zero_()  # zero again, as a fresh layer is; A stays, or no gradient would reach B"
_PROJECT = "return F.linear(h, lora_B)"

MUTANTS = [
    Mutant(
        "2.7/casts",
        "the result is float32 whatever comes in",
        "return F.linear(h, lora_B)",
        "return F.linear(h.float(), lora_B.float())",
        "leave the dtype as it is",
    ),
    Mutant(
        "2.7/scale-changed",
        "the adapter's scale is another one afterwards",
        "lora.lora_B.zero_()  # zero again",
        "lora.lora_B.zero_()\n    lora.scaling *= 2  # zero again",
        "scaled as before",
    ),
    Mutant(
        "2.7/rank-cut",
        "the rank is cut to the smaller side",
        "nn.Parameter(torch.zeros(linear.out_features, rank, **like))",
        "nn.Parameter(torch.zeros(linear.out_features, rank, **like))\n"
        "    factors.lora_A.data = factors.lora_A.data[: min(linear.weight.shape)]",
        "a rank above the smaller side is allowed",
    ),
    Mutant(
        "2.7/project-up",
        "F.linear gets a transposed weight",
        "return F.linear(h, lora_B)  # F.linear transposes its weight by itself",
        "return F.linear(h, lora_B.T)",
        "F.linear transposes its weight by itself",
        "S2",
    ),
    Mutant(
        "2.7/fold-in",
        "both factors are emptied",
        "lora.lora_B.zero_()  # zero again, as a fresh layer is; A stays, or no gradient would reach B",
        "lora.lora_A.zero_()\n    lora.lora_B.zero_()",
        "can never train again",
        "S3",
    ),
    Mutant(
        "2.7/fold-in-twice",
        "the adapter keeps its update",
        "lora.lora_B.zero_()  # zero again, as a fresh layer is; A stays, or no gradient would reach B",
        "pass",
        "the update counts twice",
        "S2",
    ),
    Mutant(
        "2.7/make-factors",
        "converted after nn.Parameter",
        "factors.lora_A = nn.Parameter(torch.randn(rank, linear.in_features, **like) / math.sqrt(linear.in_features))",
        "factors.lora_A = nn.Parameter(torch.randn(rank, linear.in_features)).to(linear.weight)",
        "makes a plain tensor",
        "S1",
    ),
    Mutant(
        "2.7/three-dimensions-only",
        "an einsum for batches of sequences alone",
        "return F.linear(h, lora_B)  # F.linear transposes its weight by itself",
        'return torch.einsum("bsr,or->bso", h, lora_B)',
        "counts on a certain number of dimensions",
    ),
    Mutant(
        "2.7/no-device",
        "the factors stay on the processor",
        'like = {"dtype": linear.weight.dtype, "device": linear.weight.device}',
        'like = {"dtype": linear.weight.dtype}',
        "take linear.weight's device",
    ),
    Mutant(
        "2.7/not-random",
        "A is the same number everywhere",
        "torch.randn(rank, linear.in_features, **like)",
        "torch.ones(rank, linear.in_features, **like)",
        "A is not random",
    ),
    Mutant(
        "2.7/uninitialised",
        "A is memory as it comes",
        "torch.randn(rank, linear.in_features, **like)",
        "torch.empty(rank, linear.in_features, **like)",
        "uninitialised memory",
    ),
    Mutant(
        "2.7/no-transpose",
        "h B",
        "return F.linear(h, lora_B)  # F.linear transposes its weight by itself",
        "return h @ lora_B",
        "@ does not",
    ),
    Mutant(
        "2.7/matrices-only",
        "torch.mm, for two dimensions alone",
        "return F.linear(h, lora_B)  # F.linear transposes its weight by itself",
        "return torch.mm(h, lora_B.T)",
        "counts on a certain number of dimensions",
    ),
    Mutant(
        "2.7/fold-in-thaws",
        "the layer trains afterwards",
        "lora.lora_B.zero_()  # zero again, as a fresh layer is; A stays, or no gradient would reach B",
        "lora.lora_B.zero_()\n    linear.requires_grad_(True)",
        "the layer was frozen and stays so",
    ),
    Mutant(
        "2.7/fold-in-draws-A",
        "A is drawn again, and B stays",
        "lora.lora_B.zero_()  # zero again, as a fresh layer is; A stays, or no gradient would reach B",
        "nn.init.normal_(lora.lora_A)",
        "afterwards lora(x) is not zero",
    ),
    Mutant(
        "2.7/exchanged",
        "A zero and B random",
        "factors.lora_A = nn.Parameter(torch.randn(rank, linear.in_features, **like) / math.sqrt(linear.in_features))\n"
        "    factors.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, **like))",
        "factors.lora_A = nn.Parameter(torch.zeros(rank, linear.in_features, **like))\n"
        "    factors.lora_B = nn.Parameter(torch.randn(linear.out_features, rank, **like))",
        "it is the other way round",
    ),
    Mutant(
        "2.7/fold-freezes-A",
        "A does not train any more",
        _ZERO,
        f"{_ZERO}\n    lora.lora_A.requires_grad_(False)",
        "both of its factors train",
    ),
    Mutant("2.7/fold-evaluates", "in evaluation mode", _ZERO, f"{_ZERO}\n    lora.eval()", "that is eval()'s"),
    Mutant("2.7/fold-shrinks-A", "A is all but zero", _ZERO, f"{_ZERO}\n    lora.lora_A *= 1e-25", "A is all but zero"),
    Mutant(
        "2.7/fold-adds-bias",
        "a layer without bias gets one",
        _ZERO,
        f"{_ZERO}\n    if linear.bias is None:\n"
        "        linear.bias = nn.Parameter(torch.zeros(len(linear.weight)), requires_grad=False)",
        "has a bias now",
    ),
    Mutant(
        "2.7/project-cached",
        "B's transpose is kept",
        _PROJECT,
        "return h @ lora_B.__dict__.setdefault('kept', lora_B.detach().clone().T)",
        "lora_B has other values by now",
    ),
    Mutant("2.7/project-clamps", "what is large is cut", _PROJECT, f"{_PROJECT}.clamp(-1e3, 1e3)", "is not h B^T"),
    Mutant(
        "2.7/factors-evaluate",
        "linear is in evaluation mode afterwards",
        "factors = nn.Module()\n",
        "factors = nn.Module()\n    linear.eval()\n",
        "and leaves it as it is",
    ),
]
