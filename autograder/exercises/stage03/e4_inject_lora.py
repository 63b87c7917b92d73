"""Exercise 3.4, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from functools import partial

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage03 import e4_inject_lora as room
from lora_ref.checks.stage03 import pretrained, second_call
from lora_ref.checks.verdicts import Check

HIDDEN = [
    Check(
        "3.4/trains",
        "LoRA stands in the pretrained layers and trains, the head trains, and the pretrained model does not",
        room.probe_inject,
        room.judge_trains,
        room.draw_inject,
        points=2.75,
    ),
    graded(room, "3.4/frozen", 0.25),
    graded(room, "3.4/head", 0.25),
    Check(
        "3.4/head-asked",
        "train_head=True trains a head that is a single layer, too",
        room.probe_inject,
        room.judge_head,
        partial(room.draw_inject, head=True, plain_head=True),
        points=0.25,
    ),
    graded(room, "3.4/no-head", 0.25, draw=partial(room.draw_inject, head=False, head_targets=True, plain_head=False)),
    Check(
        "3.4/wrapped",
        "exactly the matches are wrapped, once each, with the rank that was asked for",
        room.probe_inject,
        room.judge_layers,
        partial(room.draw_inject, overlap=True),
        points=0.5,
    ),
    Check(
        "3.4/kept",
        "every pretrained layer, weight and bias is the same, and so are the logits at first",
        room.probe_inject,
        pretrained.judge_kept,
        room.draw_inject,
        points=0.25,
    ),
    Check(
        "3.4/defaults",
        "rank is 8 and alpha is 16 by default",
        room.probe_updates,
        room.judge_update,
        partial(room.draw_inject, defaults=True),
        points=0.25,
    ),
    Check(
        "3.4/update",
        "a wrapped layer computes W x + b + alpha / rank * B A x, and dropout is passed on",
        room.probe_updates,
        room.judge_update,
        partial(room.draw_inject, dropout=True),
        points=0.25,
    ),
    graded(room, "3.4/walk", 0.25),
    graded(room, "3.4/returned", 0.25),
    Check(
        "3.4/again",
        "a second call, with the same targets or with more, is refused or keeps what the first has made",
        second_call.probe_both,
        second_call.judge_both,
        room.draw_inject,
        points=0.25,
    ),
    graded(room, "3.4/typo", 0.25),
]


_REFUSE = (
    "if any(isinstance(module, LinearWithLoRA) for module in model.modules()):\n"
    '        raise ValueError("this model has LoRA already")'
)
_NAMES = "names = match_targets(model, targets)"
_WRAP = "replace_module(model, name, LinearWithLoRA(model.get_submodule(name), rank, alpha, dropout))"
_LOOP = f"freeze(model)\n    for name in names:\n        {_WRAP}"
_HEAD = "model.classifier.requires_grad_(True)"
_IF_HEAD = f"if train_head:\n        {_HEAD}"
_SIGNATURE = "rank=8, alpha=16, dropout=0.0, train_head=True):"


MUTANTS = [
    Mutant(
        "3.4/closures",
        "each wrapper's forward is a closure over the layer, which a copy of the model takes along",
        _WRAP,
        "layer = LinearWithLoRA(model.get_submodule(name), rank, alpha, dropout)\n"
        "        layer.forward = lambda x, layer=layer: layer.linear(x) + layer.lora(x)\n"
        "        replace_module(model, name, layer)",
        "with the original's matrices",
    ),
    Mutant(
        "3.4/last-model-only",
        "the updates are kept in a global list, and each call switches the earlier ones off",
        "    freeze(model)\n    for name in names:",
        "    for old in globals().setdefault('_made', []):\n        old.requires_grad_(False)\n"
        "    _made[:] = [model]\n    freeze(model)\n    for name in names:",
        "changes",
    ),
    Mutant("3.4/not-frozen", "nobody freezes the rest", _LOOP, _LOOP[18:], "freeze(model) is for all the others", "S2"),
    Mutant(
        "3.4/freezes-last", "frozen after the wrapping", _LOOP, f"{_LOOP[18:]}\n    freeze(model)", "freeze comes first"
    ),
    Mutant("3.4/head-frozen", "the head stays frozen", _IF_HEAD, "pass", "froze the head as well", "S0"),
    Mutant(
        "3.4/head-by-name",
        'all that has no "lora_" in its name is frozen, the new head with it',
        _IF_HEAD,
        'for name, p in model.named_parameters():\n        p.requires_grad = "lora_" in name',
        "froze the head as well",
        "S4",
    ),
    Mutant("3.4/head-always", "train_head is not asked", "if train_head:", "if True:", "check train_head"),
    Mutant(
        "3.4/head-partly",
        "only the head's last layer",
        _HEAD,
        "list(model.classifier.modules())[-1].requires_grad_(True)",
        "may be more than one layer",
    ),
    Mutant(
        "3.4/head-off-by-default",
        "train_head is False by default",
        _SIGNATURE,
        _SIGNATURE.replace("True", "False"),
        "True by default",
    ),
    Mutant(
        "3.4/head-first",
        "the head is woken before its layers are wrapped",
        f"{_LOOP}\n    {_IF_HEAD}",
        f"freeze(model)\n    {_IF_HEAD}\n{_LOOP[13:]}",
        "let the head train after its layers are wrapped",
    ),
    Mutant(
        "3.4/head-not-wrapped",
        "what is wrapped in the head stays frozen",
        _HEAD,
        "for name, p in model.classifier.named_parameters():\n"
        '            p.requires_grad = "linear." not in name or p.requires_grad',
        "let the head train after its layers are wrapped",
    ),
    Mutant(
        "3.4/head-linear",
        "only the head's linear layers",
        _HEAD,
        "for module in model.classifier.modules():\n            if isinstance(module, nn.Linear):\n"
        "                module.requires_grad_(True)",
        "may be more than one layer",
    ),
    Mutant(
        "3.4/head-in-name",
        "all that has classifier in its name trains",
        _HEAD,
        'for name, p in model.named_parameters():\n            p.requires_grad |= "classifier" in name',
        "the head is model.classifier alone",
    ),
    Mutant(
        "3.4/head-begins-name",
        "all whose name begins like the head's trains",
        _HEAD,
        "for name, p in model.named_parameters():\n"
        '            p.requires_grad = p.requires_grad or name.startswith("classifier")',
        "the head is model.classifier alone",
    ),
    Mutant(
        "3.4/last-child",
        "the model's last child is taken for the head",
        _HEAD,
        "list(model.children())[-1].requires_grad_(True)",
        "the head is model.classifier alone",
    ),
    Mutant(
        "3.4/wakes-all",
        "the whole model trains again with the head",
        _HEAD,
        "model.requires_grad_(True)",
        "the layers inside the wrappers train",
    ),
    Mutant("3.4/default-rank", "rank 4 by default", _SIGNATURE, _SIGNATURE.replace("8", "4"), "default rank is 8"),
    Mutant("3.4/default-alpha", "alpha 8 by default", _SIGNATURE, _SIGNATURE.replace("16", "8"), "default alpha is 16"),
    Mutant(
        "3.4/rank-fixed", "rank 8, whatever is asked", _WRAP, _WRAP.replace("rank,", "8,"), "the rank is not passed on"
    ),
    Mutant(
        "3.4/alpha-fixed", "alpha 16, whatever is asked", _WRAP, _WRAP.replace("alpha", "16"), "alpha is not passed on"
    ),
    Mutant(
        "3.4/alpha-undivided",
        "the update is scaled by alpha",
        _WRAP,
        _WRAP.replace("alpha", "alpha * rank"),
        "alpha must be divided by the rank",
        "S0",
    ),
    Mutant("3.4/no-dropout", "dropout is lost", _WRAP, _WRAP.replace(", dropout", ""), "dropout is not passed on"),
    Mutant(
        "3.4/new-layers",
        "new layers in place of the pretrained ones",
        _WRAP,
        "old = model.get_submodule(name)\n"
        "        new = nn.Linear(old.in_features, old.out_features, old.bias is not None)\n"
        "        replace_module(model, name, LinearWithLoRA(new, rank, alpha, dropout))",
        "wrap the layer that is there",
        "S4",
    ),
    Mutant(
        "3.4/empty-layers",
        "uninitialised memory in place of the pretrained weight, and no bias",
        _WRAP,
        "old = model.get_submodule(name)\n        new = nn.Linear(old.in_features, old.out_features, bias=False)\n"
        # what happens to be in memory, but the same each time: the table of messages is held by a test
        "        new.weight = nn.Parameter(torch.empty_like(old.weight).fill_(1e-30))\n"
        "        replace_module(model, name, LinearWithLoRA(new, rank, alpha, dropout))",
        "torch.empty",
        "S4",
    ),
    Mutant(
        "3.4/drops-bias",
        "the weight is taken over, the bias is not",
        _WRAP,
        "old = model.get_submodule(name)\n        new = nn.Linear(old.in_features, old.out_features, bias=False)\n"
        "        new.weight = old.weight\n"
        "        replace_module(model, name, LinearWithLoRA(new, rank, alpha, dropout))",
        "the bias was dropped",
        "S4",
    ),
    Mutant("3.4/first-only", "one layer", "for name in names:", "for name in names[:1]:", "once for each name"),
    Mutant(
        "3.4/not-put",
        "wrappers are made and not put in",
        _WRAP,
        "layer = model.get_submodule(name)\n        layer = LinearWithLoRA(layer, rank, alpha, dropout)",
        "replaces nothing",
    ),
    Mutant(
        "3.4/B-random",
        "B is drawn again, so that the adapted model starts somewhere else",
        _WRAP,
        f"{_WRAP}\n        nn.init.normal_(model.get_submodule(name).lora.lora_B)",
        "B does not start at zero",
    ),
    Mutant(
        "3.4/A-zero",
        "A is cleared along with B, so that nothing ever learns",
        _WRAP,
        f"{_WRAP}\n        nn.init.zeros_(model.get_submodule(name).lora.lora_A)",
        "nothing ever learns",
    ),
    Mutant(
        "3.4/dotted",
        "the wrapper hangs at the model under a name with dots, and no forward meets it",
        _WRAP,
        "setattr(model, name, LinearWithLoRA(model.get_submodule(name), rank, alpha, dropout))",
        "a child with a dot in its name was added",
    ),
    Mutant(
        "3.4/no-return", "the model is not returned", f"{_HEAD}\n    return model", _HEAD, "return model is missing"
    ),
    Mutant("3.4/copy", "a copy is changed", _REFUSE, "model = copy.deepcopy(model)", "a copy is another model"),
    Mutant(
        "3.4/own-search",
        "a search of its own, by substring, at every call",
        f"{_REFUSE}\n    {_NAMES}",
        "names = [name for name, module in model.named_modules()\n"
        "             if isinstance(module, nn.Linear) and any(target in name for target in targets)]",
        "wrapped inside a wrapper",
        "S2",
    ),
    Mutant(
        "3.4/freezes-again",
        "a second call freezes and returns",
        _REFUSE,
        "if any(isinstance(module, LinearWithLoRA) for module in model.modules()):\n        return freeze(model)",
        "freeze(model) ran again",
    ),
    Mutant(
        "3.4/second-returns-nothing",
        "a second call returns None",
        _REFUSE,
        "if any(isinstance(module, LinearWithLoRA) for module in model.modules()):\n        return None",
        "return model is missing",
    ),
    Mutant(
        "3.4/second-wakes-all",
        "a second call lets the whole model train",
        _REFUSE,
        "if any(isinstance(module, LinearWithLoRA) for module in model.modules()):\n"
        "        return model.requires_grad_(True)",
        "a wrapper holds the pretrained layer, too",
    ),
    Mutant(
        "3.4/second-wakes-wrappers",
        "a second call lets what is wrapped train whole",
        _REFUSE,
        "wrapped = [module for module in model.modules() if isinstance(module, LinearWithLoRA)]\n"
        "    for module in wrapped:\n        module.requires_grad_(True)\n"
        "    if wrapped:\n        return model",
        "a wrapper holds the pretrained layer, too",
    ),
    Mutant(
        "3.4/second-merges",
        "a second call adds the updates to the weights",
        _REFUSE,
        "wrapped = [module for module in model.modules() if isinstance(module, LinearWithLoRA)]\n"
        "    for module in wrapped:\n        with torch.no_grad():\n"
        "            module.linear.weight += module.lora.lora_B @ module.lora.lora_A\n"
        "    if wrapped:\n        return model",
        "an update merged into its weight",
    ),
    Mutant(
        "3.4/starts-again",
        "a second call takes the updates off and begins again",
        _REFUSE,
        "for name, module in list(model.named_modules()):\n        if isinstance(module, LinearWithLoRA):\n"
        "            replace_module(model, name, module.linear)",
        "what was trained is lost",
    ),
    Mutant(
        "3.4/typo-dropped",
        "targets that mean nothing are left out",
        _NAMES,
        "names = match_targets(model, [t for t in targets if any(n.endswith(t) for n, _ in model.named_modules())])",
        "in silence",
    ),
    Mutant(
        "3.4/copies",
        "copies of the layers are wrapped",
        _WRAP,
        _WRAP.replace("model.get_submodule(name)", "copy.deepcopy(model.get_submodule(name))"),
        "the wrapper holds a copy of the layer",
    ),
    Mutant(
        "3.4/matches-late",
        "frozen before the targets are asked for",
        f"{_NAMES}\n    freeze(model)",
        f"freeze(model)\n    {_NAMES}",
        "and yet parameters are frozen",
    ),
    Mutant(
        "3.4/target-by-target",
        "one target after another",
        f"{_NAMES}\n    {_LOOP}",
        "freeze(model)\n    for target in targets:\n        for name in match_targets(model, [target]):\n"
        f"            {_WRAP}",
        "no linear layer matches",
    ),
    Mutant(
        "3.4/train-mode",
        "train() is called",
        f"{_HEAD}\n    return model",
        f"{_HEAD}\n    return model.train()",
        "changed their mode",
    ),
    Mutant(
        "3.4/norms-train",
        "LayerNorms go on training",
        _IF_HEAD,
        f"{_IF_HEAD}\n    for module in model.modules():\n        if isinstance(module, nn.LayerNorm):\n"
        "            module.requires_grad_(True)",
        "pretrained parameters train",
    ),
    Mutant(
        "3.4/rank-clipped",
        "the rank is cut to the layer's smaller side",
        _WRAP,
        _WRAP.replace("rank,", "min(rank, *model.get_submodule(name).weight.shape),"),
        "a rank above the layer's smaller side",
    ),
    Mutant(
        "3.4/rank-and-alpha",
        "rank and alpha exchanged",
        _WRAP,
        _WRAP.replace("rank, alpha", "int(alpha), rank"),
        "wrong order",
    ),
    Mutant(
        "3.4/rounded-base",
        "the pretrained weights are rounded to bfloat16",
        "freeze(model)\n    for name in names:",
        "freeze(model)\n    for p in model.parameters():\n        p.data = p.data.bfloat16().float()\n"
        "    for name in names:",
        "injection changes no value",
    ),
    Mutant(
        "3.4/evaluates",
        "the model is in evaluation mode afterwards",
        _LOOP,
        f"{_LOOP}\n    model.eval()",
        "are the caller's to choose",
    ),
    Mutant(
        "3.4/marked-first",
        "the model is marked before its targets are looked up",
        _NAMES,
        f"if hasattr(model, 'adapted'):\n        raise ValueError('adapted already')\n"
        f"    model.adapted = True\n    {_NAMES}",
        "a refused call leaves no mark",
    ),
    Mutant(
        "3.4/rank-1-without-bias",
        "a layer without bias gets rank 1",
        f"freeze(model)\n    for name in names:\n        {_WRAP}",
        "freeze(model)\n    for name in names:\n        layer = model.get_submodule(name)\n"
        "        r = rank if layer.bias is not None else 1\n"
        "        replace_module(model, name, LinearWithLoRA(layer, r, alpha * r / rank, dropout))",
        "lora_A is (1, ",
    ),
]
