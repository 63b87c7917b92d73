"""Exercise 3.6, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage03 import e6_spot_the_bug as room

HIDDEN = [
    graded(room, "3.6/unfreeze_blocks", 0.5),
    graded(room, "3.6/add_dropout", 0.5),
    graded(room, "3.6/as_convolution", 0.5),
    graded(room, "3.6/train_prompt", 0.5),
]


_DROPOUT = "nn.Sequential(nn.Dropout(p), child))\n    ### GIVEN"


MUTANTS = [
    Mutant(
        "3.6/drops-in-place",
        "the dropout drops from x itself",
        _DROPOUT,
        _DROPOUT.replace("(p)", "(p, inplace=True)"),
        "goes into other layers too",
    ),
    Mutant(
        "3.6/dropout-by-type",
        "subclasses of nn.Linear are left out",
        "if isinstance(child, nn.Linear):\n                setattr",
        "if type(child) is nn.Linear:\n                setattr",
        "not type()",
    ),
    Mutant(
        "3.6/freezes-behind-dropout",
        "the layers are frozen as well",
        _DROPOUT,
        _DROPOUT.replace("child", "child.requires_grad_(False)"),
        "all else of the model stays as it is",
    ),
    Mutant(
        "3.6/substring",
        "layer.1 is in layer.10",
        'any(name.startswith(block + ".") for block in blocks)',
        "any(block in name for block in blocks)",
        "the beginning of layer.10",
        "S2",
    ),
    Mutant(
        "3.6/no-dot",
        "layer.1 is how layer.10 begins",
        'any(name.startswith(block + ".") for block in blocks)',
        "name.startswith(tuple(blocks))",
        "the beginning of layer.10",
    ),
    Mutant(
        "3.6/blocks-freeze-alone",
        "the others are frozen, and nothing is woken",
        'parameter.requires_grad = any(name.startswith(block + ".") for block in blocks)',
        'parameter.requires_grad &= any(name.startswith(block + ".") for block in blocks)',
        "its blocks must train now",
    ),
    Mutant(
        "3.6/dropout-behind",
        "the dropout stands behind the layer",
        _DROPOUT,
        _DROPOUT.replace("nn.Dropout(p), child", "child, nn.Dropout(p)"),
        "the dropout comes first",
    ),
    Mutant(
        "3.6/dropout-of-one-half", "p is not passed on", _DROPOUT, _DROPOUT.replace("(p)", "()"), "p is not passed on"
    ),
    Mutant(
        "3.6/prompt-freezes-alone",
        "the encoder is frozen, and nothing is woken",
        'parameter.requires_grad = name.startswith(("prompt.", "classifier."))',
        'parameter.requires_grad &= name.startswith(("prompt.", "classifier."))',
        "its new parts must train now",
    ),
    Mutant(
        "3.6/prompt-wakes-alone",
        "the new parts are woken, and nothing is frozen",
        'parameter.requires_grad = name.startswith(("prompt.", "classifier."))',
        'parameter.requires_grad |= name.startswith(("prompt.", "classifier."))',
        "must stay frozen",
    ),
    Mutant(
        "3.6/walks-on",
        "the tree is changed while it is walked over",
        "in list(model.modules()):  # all of them, before the tree grows",
        "in model.modules():",
        "the walk goes on into what it has put in",
        "S2",
    ),
    Mutant(
        "3.6/top-only",
        "only the model's own children",
        "in list(model.modules()):  # all of them, before the tree grows",
        "in [model]:",
        "model.modules() meets every depth",
    ),
    Mutant(
        "3.6/uninitialised",
        "uninitialised memory in place of the pretrained weight",
        "conv.weight.copy_(linear.weight.unsqueeze(-1))",
        "conv.weight = nn.Parameter(torch.empty(linear.out_features, linear.in_features, 1))",
        "whatever was in memory",
        "S4",
    ),
    Mutant(
        "3.6/drops-bias", "no bias", "conv.bias.copy_(linear.bias)", "conv.bias.zero_()", "the bias was dropped", "S4"
    ),
    Mutant(
        "3.6/freezes-head",
        "the freeze by one name freezes the new head",
        'name.startswith(("prompt.", "classifier."))',
        '"prompt" in name',
        "the new head is random",
        "S4",
    ),
    Mutant(
        "3.6/trains-encoder",
        "everything trains",
        'name.startswith(("prompt.", "classifier."))',
        "True",
        "must stay frozen",
    ),
    Mutant(
        "3.6/middle",
        "layer.1. may stand anywhere in the name",
        'any(name.startswith(block + ".") for block in blocks)',
        'any(block + "." in name for block in blocks)',
        "the name stands in the middle",
    ),
    Mutant(
        "3.6/square-transposed",
        "in a square layer the weight is transposed",
        "conv.weight.copy_(linear.weight.unsqueeze(-1))",
        "W = linear.weight\n        conv.weight.copy_((W.T if len(W) == len(W.T) else W).unsqueeze(-1))",
        "the weight is transposed",
    ),
    Mutant(
        "3.6/bias-of-its-own",
        "the convolution has a bias in any case",
        "kernel_size=1, bias=linear.bias is not None)",
        "kernel_size=1)",
        "a bias of its own",
    ),
    Mutant(
        "3.6/no-bias-crashes",
        "the bias is copied unasked",
        "if linear.bias is not None:\n            conv.bias.copy_(linear.bias)",
        "conv.bias.copy_(linear.bias)",
        "linear.bias is None there",
    ),
    Mutant(
        "3.6/dropout-trains",
        "the model is in training mode afterwards",
        _DROPOUT,
        f"{_DROPOUT.removesuffix('    ### GIVEN')}    model.train()\n    ### GIVEN",
        "the mode has changed",
    ),
]
