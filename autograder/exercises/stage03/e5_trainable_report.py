"""Exercise 3.5, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage03 import e5_trainable_report as room

HIDDEN = [
    graded(room, "3.5/counts", 0.75),
    graded(room, "3.5/shared", 0.25),
    graded(room, "3.5/frozen", 0.25),
    graded(room, "3.5/ratio", 0.75),
]


_TOTAL = "total = sum(p.numel() for p in model.parameters())"
_TRAINABLE = "trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)"
_RATIO = '"ratio": trainable / total}\n    ### END'


MUTANTS = [
    Mutant(
        "3.5/keeps-the-total",
        "the total is kept for each model, which changes",
        _TOTAL,
        'known = trainable_report.__dict__.setdefault("known", {})\n'
        "    total = known.setdefault(model, sum(p.numel() for p in model.parameters()))",
        "keep nothing from call to call",
    ),
    Mutant(
        "3.5/on-the-model",
        "what is counted stays on the model",
        _TOTAL,
        f"{_TOTAL}\n    model.total = total",
        "leaves nothing on it",
    ),
    Mutant(
        "3.5/float32-alone",
        "parameters of another dtype are left out",
        _TOTAL,
        _TOTAL.replace("parameters())", "parameters() if p.dtype == torch.float32)"),
        "a parameter may have any dtype",
    ),
    Mutant(
        "3.5/no-ratio-of-nothing",
        "None where nothing trains",
        _RATIO,
        _RATIO.replace("total}", "total if trainable else None}"),
        "return numbers",
    ),
    Mutant(
        "3.5/switches-mode",
        "train() before the counting, and never back",
        "total = sum(p.numel() for p in model.parameters())",
        "total = sum(p.numel() for p in model.train().parameters())",
        "the mode has changed",
    ),
    Mutant(
        "3.5/marks-what-it-counts",
        "a parameter is marked once it is counted, so a second report has none left",
        "total = sum(p.numel() for p in model.parameters())",
        'new = [p for p in model.parameters() if not hasattr(p, "counted")]\n'
        "    for p in new:\n        p.counted = True\n"
        "    total = sum(p.numel() for p in new) or 1",
        "called again with the same arguments returned something else",
    ),
    Mutant("3.5/tensors", "tensors are counted", _TOTAL, "total = len(list(model.parameters()))", "p.numel() of them"),
    Mutant("3.5/rows", "rows are counted", _TOTAL, _TOTAL.replace("p.numel()", "len(p)"), "len(p) counts rows"),
    Mutant(
        "3.5/state",
        "buffers count as well",
        _TOTAL,
        "total = sum(t.numel() for t in model.state_dict().values())",
        "buffers are not parameters",
    ),
    Mutant(
        "3.5/frozen-only",
        "total is what is frozen",
        _TOTAL,
        "total = sum(p.numel() for p in model.parameters() if not p.requires_grad)",
        "frozen parameters alone",
    ),
    Mutant(
        "3.5/shared-twice",
        "shared parameters count twice",
        _TOTAL,
        "total = sum(p.numel() for _, p in model.named_parameters(remove_duplicate=False))",
        "counts once",
    ),
    Mutant(
        "3.5/shared-trains-twice",
        "shared parameters count twice in what trains",
        _TRAINABLE,
        "trainable = sum(p.numel() for _, p in model.named_parameters(remove_duplicate=False) if p.requires_grad)",
        "counts once",
    ),
    Mutant(
        "3.5/by-memory",
        "parameters are told apart by where they lie in memory",
        _TOTAL,
        "total = sum({p.data_ptr(): p.numel() for p in model.parameters()}.values())",
        "on meta all lie at 0",
    ),
    Mutant(
        "3.5/floats",
        "counts as floats",
        '{"trainable": trainable, "total": total,',
        '{"trainable": float(trainable), "total": float(total),',
        "a count is an int",
    ),
    Mutant(
        "3.5/all-train",
        "the flag is not asked",
        _TRAINABLE,
        _TRAINABLE.replace(" if p.requires_grad", ""),
        "requires_grad is not asked",
        "S2",
    ),
    Mutant(
        "3.5/inverted",
        "the frozen ones are counted",
        _TRAINABLE,
        _TRAINABLE.replace("if p", "if not p"),
        "these are the frozen ones",
    ),
    Mutant("3.5/percent", "a percentage", _RATIO, _RATIO.replace("trainable /", "100 * trainable /"), "a percentage"),
    Mutant(
        "3.5/of-frozen",
        "divided by the frozen ones",
        _RATIO,
        _RATIO.replace("/ total", "/ max(1, total - trainable)"),
        "divided by the frozen parameters",
    ),
    Mutant(
        "3.5/upside-down",
        "the other way round",
        _RATIO,
        _RATIO.replace("trainable / total", "total / max(1, trainable)"),
        "wrong way round",
    ),
    Mutant(
        "3.5/rounded",
        "rounded",
        _RATIO,
        _RATIO.replace("trainable / total", "round(trainable / total, 2)"),
        "it is rounded",
    ),
    Mutant(
        "3.5/text",
        "a text for the eye",
        _RATIO,
        _RATIO.replace("trainable / total", 'f"{trainable / total:.2%}"'),
        "return numbers",
    ),
    Mutant(
        "3.5/key", "another key", '{"trainable": trainable,', '{"trainable_params": trainable,', "must be among them"
    ),
    Mutant(
        "3.5/two-sizes",
        "the first two sizes are multiplied",
        _TOTAL,
        "total = sum(p.shape[0] * (p.shape[1] if p.dim() > 1 else 1) for p in model.parameters())",
        "a convolution has more",
    ),
    Mutant(
        "3.5/float32",
        "summed in float32",
        _TOTAL,
        "total = int(torch.tensor([float(p.numel()) for p in model.parameters()]).sum())",
        "which cannot count so far",
    ),
]
