"""Recursion over children in place of named_modules; escaped regular expressions; reduce(getattr) for the path."""

import functools
import re

from torch import nn

from lora_ref.layers import LinearWithLoRA


def freeze(model):
    for child in model.children():
        freeze(child)
    for parameter in model.parameters(recurse=False):
        parameter.requires_grad_(False)
    return model


def walk(module, path=""):
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        if isinstance(child, nn.Linear):
            yield here
        yield from walk(child, here)


def match_targets(model, targets):
    names = list(walk(model))
    patterns = {target: re.compile(rf"(?:.*\.)?{re.escape(target)}") for target in targets}
    unused = [target for target, pattern in patterns.items() if not any(map(pattern.fullmatch, names))]
    if unused:
        raise ValueError("targets without a layer:\n" + "\n".join(unused))
    return [name for name in names if any(pattern.fullmatch(name) for pattern in patterns.values())]


def replace_module(model, name, new):
    *path, last = name.split(".")
    parent = functools.reduce(getattr, path, model)
    parent.add_module(last, new)


def inject_lora(model, targets, rank=8, alpha=16, dropout=0.0, train_head=True):
    todo = set(match_targets(model, targets))
    freeze(model)

    def descend(module, path=""):
        for name, child in list(module.named_children()):
            here = f"{path}.{name}".lstrip(".")
            if here in todo:
                setattr(module, name, LinearWithLoRA(child, rank=rank, alpha=alpha, dropout=dropout))
            else:
                descend(child, here)

    descend(model)
    for parameter in model.classifier.parameters() if train_head else ():
        parameter.requires_grad = True
    return model


def trainable_report(model):
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    total = sum(counts.values())
    return {"trainable": counts[True], "total": total, "ratio": counts[True] / total}


def unfreeze_blocks(model, blocks):
    model.requires_grad_(False)
    for block in blocks:
        model.get_submodule(block).requires_grad_(True)


def add_dropout(model, p):
    for name, child in model.named_children():
        if isinstance(child, nn.Linear):
            setattr(model, name, nn.Sequential(nn.Dropout(p), child))
        else:
            add_dropout(child, p)
    return model


def as_convolution(linear):
    conv = nn.Conv1d(linear.in_features, linear.out_features, 1, bias=False)
    conv.weight = nn.Parameter(linear.weight.detach()[:, :, None].clone())
    if linear.bias is not None:
        conv.bias = nn.Parameter(linear.bias.detach().clone())
    return conv


def train_prompt(model):
    model.encoder.requires_grad_(False)
    model.prompt.requires_grad_(True)
    model.classifier.requires_grad_(True)
    return model
