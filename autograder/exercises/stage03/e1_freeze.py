"""Exercise 3.1, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage03 import e1_freeze as room

HIDDEN = [
    graded(room, "3.1/frozen", 0.75),
    graded(room, "3.1/all", 0.5),
    graded(room, "3.1/returned", 0.5),
    graded(room, "3.1/kept", 0.25),
]


_FREEZE = "for parameter in model.parameters():\n        parameter.requires_grad = False"
_SET = "        parameter.requires_grad = False"


MUTANTS = [
    Mutant(
        "3.1/once-each-name",
        "a name that was frozen once, in whatever model, is passed over",
        _FREEZE,
        'done = freeze.__dict__.setdefault("done", set())\n    for name, parameter in model.named_parameters():\n'
        "        if name not in done:\n            done.add(name)\n            parameter.requires_grad = False",
        "parameters still train",
    ),
    Mutant(
        "3.1/refuses-a-frozen-model",
        "a model that is frozen already is an error",
        _FREEZE,
        "if not any(p.requires_grad for p in model.parameters()):\n"
        f'        raise ValueError("frozen already")\n    {_FREEZE}',
        "may be frozen again",
    ),
    Mutant(
        "3.1/no-grad-forward",
        "the forward pass is wrapped in no_grad, too",
        _FREEZE,
        f"model.forward = torch.no_grad()(model.forward)\n    {_FREEZE}",
        "its forward was replaced",
    ),
    Mutant(
        "3.1/matrices-and-vectors",
        "a parameter that is a single number goes on training",
        _FREEZE,
        _FREEZE.replace("parameter in model.parameters()", "parameter in filter(torch.Tensor.dim, model.parameters())"),
        "is a single number",
    ),
    Mutant(
        "3.1/trains-mode",
        "the model is switched to training mode",
        _FREEZE,
        f"model.train()\n    {_FREEZE}",
        "the mode has changed",
    ),
    Mutant(
        "3.1/buffers",
        "buffers are cleared along with the flags",
        _FREEZE,
        f"for buffer in model.buffers():\n        buffer.fill_(1)\n    {_FREEZE}",
        "its buffer seen",
    ),
    Mutant("3.1/eval", "evaluation mode is taken for freezing", _FREEZE, "model.eval()", "eval() and torch.no_grad()"),
    Mutant("3.1/typo", "a misspelt flag", _SET, _SET.replace("requires", "require"), "requires_grad is set nowhere"),
    Mutant(
        "3.1/detach", "detach() is called and its result dropped", _SET, "        parameter.detach()", "set nowhere"
    ),
    Mutant("3.1/no-return", "the model is not returned", f"{_SET}\n    return model", _SET, "return model is missing"),
    Mutant(
        "3.1/copy",
        "a copy is frozen and returned",
        _FREEZE,
        f"model = copy.deepcopy(model)\n    {_FREEZE}",
        "a copy was frozen",
    ),
    Mutant(
        "3.1/weights-only",
        "biases go on training",
        _FREEZE,
        'for name, parameter in model.named_parameters():\n        if name.endswith("weight"):\n    ' + _SET,
        "weights are frozen and biases are not",
    ),
    Mutant(
        "3.1/linears-only",
        "only linear layers are frozen",
        _FREEZE,
        "for module in model.modules():\n        if isinstance(module, nn.Linear):\n"
        "            module.requires_grad_(False)",
        "some kinds of layers",
    ),
    Mutant(
        "3.1/own-parameters",
        "only the parameters of the model itself, of none of its children",
        _FREEZE,
        _FREEZE.replace("parameters()", "parameters(recurse=False)"),
        "some depths are left out",
    ),
    Mutant(
        "3.1/encoder-only",
        "the head is left out by its name",
        _FREEZE,
        'for name, parameter in model.named_parameters():\n        if "classifier" not in name:\n    ' + _SET,
        "leaves out the head",
    ),
    Mutant(
        "3.1/by-name",
        'the freeze by `"lora_" not in name`',
        _FREEZE,
        'for name, parameter in model.named_parameters():\n        if "lora_" not in name:\n    ' + _SET,
        "leaves out lora_",
        "S4",
    ),
    Mutant(
        "3.1/zeroes",
        "values are cleared along with the flag",
        _SET,
        f"{_SET}\n        parameter.data.zero_()",
        "freezing keeps every value",
    ),
    Mutant(
        "3.1/toggles", "the flag is turned round", _SET, f"{_SET[:-5]}not parameter.requires_grad", "is turned round"
    ),
    Mutant(
        "3.1/no-embeddings",
        "embeddings are left out",
        _FREEZE,
        "for module in model.modules():\n        for parameter in module.parameters(recurse=False):\n"
        "            parameter.requires_grad = isinstance(module, nn.Embedding)",
        "embeddings are left out",
    ),
    Mutant(
        "3.1/new-parameters",
        "frozen copies take the parameters' places",
        _FREEZE,
        "for module in model.modules():\n        for name, parameter in list(module.named_parameters(recurse=False)):\n"
        "            setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))",
        "new parameters stand",
    ),
    Mutant(
        "3.1/returns-early",
        "the return stands inside the loop",
        f"{_SET}\n    return model",
        f"{_SET}\n        return model",
        "inside the loop ends it",
    ),
    Mutant(
        "3.1/on-the-module",
        "the flag is set on the module",
        _FREEZE,
        "model.requires_grad = False",
        "requires_grad was set on the module",
    ),
    Mutant(
        "3.1/remembers",
        "a model that was frozen once is left as it is",
        _FREEZE,
        "known = freeze.__dict__.setdefault('known', [])\n"
        "    if any(one is model for one in known):\n        return model\n"
        f"    known.append(model)\n    {_FREEZE}",
        "set every flag in each call",
    ),
    Mutant(
        "3.1/single-precision",
        "parameters in float32 alone",
        _SET,
        "        parameter.requires_grad = parameter.dtype != torch.float32 and parameter.requires_grad",
        "whatever the dtype",
    ),
    Mutant(
        "3.1/first-of-them",
        "a model without parameters is an error",
        _FREEZE,
        f"list(model.parameters())[0]\n    {_FREEZE}",
        "there is nothing to do",
    ),
]
