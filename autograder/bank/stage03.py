"""Stage 03, LoRA in a whole model: mistakes. Those with a ``seed`` stand in a published teaching piece (SEEDS.md)."""

from __future__ import annotations

from autograder.bank import Mutant

_FREEZE = "for parameter in model.parameters():\n        parameter.requires_grad = False"
_SET = "        parameter.requires_grad = False"
_LINEARS = "linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]"
_FITS = 'name == target or name.endswith("." + target)'
_EACH = "if not any(fits(name, target) for name in linears):"
_RAISE = 'raise ValueError(f"no linear layer matches {target!r}")'
_FOUND = "return [name for name in linears if any(fits(name, target) for target in targets)]"
_SPLIT = 'parent, _, child = name.rpartition(".")'
_PUT = "setattr(model.get_submodule(parent), child, new)"
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
_TOTAL = "total = sum(p.numel() for p in model.parameters())"
_TRAINABLE = "trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)"
_RATIO = '"ratio": trainable / total}\n    ### END'
_DROPOUT = "nn.Sequential(nn.Dropout(p), child))\n    ### GIVEN"

MUTANTS = [
    # --- 3.1
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
    # --- 3.2
    Mutant("3.2/substring", "a target anywhere in the name", _FITS, "target in name", "my_query is not query", "S2"),
    Mutant("3.2/no-dot", "endswith without the dot", _FITS, "name.endswith(target)", "my_query is not query"),
    Mutant(
        "3.2/prefix",
        "a target anywhere, but from a dot on",
        _FITS,
        '("." + target) in ("." + name)',
        "is no nn.Linear",
        "S2",
    ),
    Mutant(
        "3.2/last-part",
        "only the last part of the name is compared",
        _FITS,
        'name.split(".")[-1] == target',
        "one or more whole parts",
    ),
    Mutant(
        "3.2/any-part",
        "any one part of the name is compared",
        _FITS,
        'target in name.split(".")',
        "one or more whole parts",
    ),
    Mutant("3.2/whole-name", "only whole names", _FITS, "name == target", "one or more whole parts"),
    Mutant(
        "3.2/never-whole",
        "a name without a dot never matches",
        _FITS,
        'name.endswith("." + target)',
        "or all of it; this matches",
    ),
    Mutant(
        "3.2/regex",
        "a regular expression whose dot is any character",
        _FITS,
        '__import__("re").search(rf"(^|\\.){target}$", name)',
        "re.escape",
    ),
    Mutant(
        "3.2/case",
        "upper and lower case alike",
        _FITS,
        '("." + name).lower().endswith("." + target.lower())',
        "upper and lower case are different names",
    ),
    Mutant(
        "3.2/any-module",
        "modules of any kind",
        _LINEARS,
        "linears = [name for name, module in model.named_modules()]",
        "linear layers",
    ),
    Mutant(
        "3.2/class-name",
        "modules with Linear in the name of their class",
        _LINEARS,
        _LINEARS.replace("isinstance(module, nn.Linear)", '"Linear" in type(module).__name__'),
        "gained is no nn.Linear",
    ),
    Mutant(
        "3.2/class-name-in-small-letters",
        "modules with linear in the name of their class",
        _LINEARS,
        _LINEARS.replace("isinstance(module, nn.Linear)", 'type(module).__name__.lower() in ("linear", "bilinear")'),
        "ask isinstance",
    ),
    Mutant(
        "3.2/in-features",
        "modules with in_features",
        _LINEARS,
        _LINEARS.replace("isinstance(module, nn.Linear)", 'hasattr(module, "in_features")'),
        "gained is no nn.Linear",
    ),
    Mutant(
        "3.2/matrix-inside",
        "modules with a matrix for a weight, embeddings among them",
        _LINEARS,
        _LINEARS.replace("isinstance(module, nn.Linear)", 'getattr(getattr(module, "weight", None), "ndim", 0) == 2'),
        "word is no nn.Linear",
    ),
    Mutant(
        "3.2/exact-type",
        "nn.Linear itself, and no class that inherits from it",
        _LINEARS,
        _LINEARS.replace("isinstance(module, nn.Linear)", "type(module) is nn.Linear"),
        "ask isinstance",
    ),
    Mutant(
        "3.2/order-of-targets",
        "target by target",
        _FOUND,
        "found = [name for target in targets for name in linears if fits(name, target)]\n"
        "    return list(dict.fromkeys(found))",
        "the order is that of model.named_modules()",
    ),
    Mutant(
        "3.2/sorted",
        "the alphabet's order: 10 before 2",
        _FOUND,
        _FOUND.replace("return [", "return sorted([")[:-1] + "])",
        "the order is that of model.named_modules()",
    ),
    Mutant(
        "3.2/twice",
        "once for each target that means it",
        _FOUND,
        "return [name for name in linears for target in targets if fits(name, target)]",
        "each layer once",
    ),
    Mutant(
        "3.2/first-only",
        "the first match of each target",
        _FOUND,
        "return [next(name for name in linears if fits(name, target)) for target in targets]",
        "stops at the first match",
    ),
    Mutant(
        "3.2/modules",
        "modules instead of names",
        _FOUND,
        _FOUND.replace("return [name", "return [model.get_submodule(name)"),
        "asks for the names",
    ),
    Mutant("3.2/no-error", "a typo is silent", _EACH, "if False:", "in silence"),
    Mutant(
        "3.2/error-if-empty",
        "an error only where nothing at all matches",
        _EACH,
        "if not any(fits(name, other) for name in linears for other in targets):",
        "each target is to be asked for itself",
    ),
    Mutant("3.2/key-error", "another kind of error", _RAISE, "raise KeyError(target)", "the contract is a ValueError"),
    Mutant("3.2/nameless", "an error that names nothing", _RAISE, 'raise ValueError("no match")', "does not name"),
    # --- 3.3
    Mutant("3.3/at-the-root", "set on the model itself", _PUT, "setattr(model, child, new)", "wrong parent"),
    Mutant("3.3/dotted", "setattr with the whole name", _PUT, "setattr(model, name, new)", "one part of a name"),
    Mutant(
        "3.3/first-dot",
        "split at the first dot",
        _SPLIT,
        'parent, _, child = name.partition(".")',
        "one part of a name",
    ),
    Mutant(
        "3.3/no-top",
        "a name without a dot is taken for its own parent",
        _SPLIT,
        'parent, child = name.rsplit(".", 1)[0], name.rsplit(".", 1)[-1]',
        "wrong parent",
    ),
    Mutant(
        "3.3/rebinds",
        "a local name is bound anew",
        _PUT,
        "old = getattr(model.get_submodule(parent), child)\n    old = new",
        "still the old one",
    ),
    Mutant(
        "3.3/deletes-and-adds",
        "deleted and added again, at the end",
        _PUT,
        "holder = model.get_submodule(parent)\n    delattr(holder, child)\n    holder.add_module(child, new)",
        "deleted and added again it comes last",
    ),
    Mutant(
        "3.3/everywhere",
        "every child of that name in the whole model",
        _PUT,
        "for module in list(model.modules()):\n        if child in dict(module.named_children()):\n"
        "            setattr(module, child, new)",
        "lead to its parent",
        "S2",
    ),
    Mutant("3.3/copy", "a copy is put in", _PUT, _PUT.replace("new)", "copy.deepcopy(new))"), "put in new itself"),
    # --- 3.4
    Mutant("3.4/not-frozen", "nobody freezes the rest", _LOOP, _LOOP[18:], "freeze(model) is for all the others", "S2"),
    Mutant(
        "3.4/freezes-last",
        "frozen after the wrapping",
        _LOOP,
        f"{_LOOP[18:]}\n    freeze(model)",
        "freeze comes first",
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
    Mutant("3.4/head-always", "train_head is not asked", "if train_head:", "if True:", "ask train_head"),
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
        "B is drawn anew, so that the adapted model starts somewhere else",
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
    Mutant("3.4/copy", "a copy is changed", _REFUSE, "model = copy.deepcopy(model)", "nothing was put into the model"),
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
        "a second call takes the updates off and begins anew",
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
    # --- 3.5
    Mutant("3.5/tensors", "tensors are counted", _TOTAL, "total = len(list(model.parameters()))", "p.numel() of them"),
    Mutant("3.5/rows", "rows are counted", _TOTAL, _TOTAL.replace("p.numel()", "len(p)"), "len(p) counts rows"),
    Mutant(
        "3.5/state",
        "buffers count as well",
        _TOTAL,
        "total = sum(t.numel() for t in model.state_dict().values())",
        "buffers are no parameters",
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
    # --- 3.6: the mistakes as published
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
        "3.6/dropout-of-one-half",
        "p is not passed on",
        _DROPOUT,
        _DROPOUT.replace("(p)", "()"),
        "p is not passed on",
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
        "3.6/drops-bias",
        "no bias",
        "conv.bias.copy_(linear.bias)",
        "conv.bias.zero_()",
        "the bias was dropped",
        "S4",
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
]
