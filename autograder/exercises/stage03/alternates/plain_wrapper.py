"""A wrapper that is nobody's class: the pretrained layer in one more nn.Module; other containers."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


class Adapted(nn.Module):
    def __init__(self, linear, rank, alpha, p):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.lora = nn.ParameterDict()
        self.lora["lora_A"] = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, linear.in_features)))
        self.lora["lora_B"] = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        self.factor, self.p = alpha / rank, p

    def forward(self, x):
        down = F.linear(F.dropout(x, self.p, self.training), self.lora["lora_A"])
        return torch.add(self.linear(x), F.linear(down, self.lora["lora_B"]), alpha=self.factor)


def freeze(model):
    stack = [model]
    while stack:
        module = stack.pop()
        stack += module.children()
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.requires_grad = False
    return model


def match_targets(model, targets):
    linears = OrderedDict((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))
    hits = {t: [n for n in linears if n == t or n[-len(t) - 1 :] == f".{t}"] for t in targets}
    missing = [t for t in hits if len(hits[t]) == 0]
    if missing:
        raise LookupValueError(f"unknown: {', '.join(missing)}")
    return list(filter(lambda n: any(n in names for names in hits.values()), linears))


class LookupValueError(ValueError, LookupError):
    """A ValueError as good as any."""


def replace_module(model, name, new):
    at = name.rfind(".")
    parent = model if at < 0 else dict(model.named_modules())[name[:at]]
    parent._modules.update({name[at + 1 :]: new})


def inject_lora(model, targets, rank=8, alpha=16, dropout=0.0, train_head=True):
    if getattr(model, "has_lora", False):
        return model
    names = match_targets(model, targets)
    freeze(model)
    for name in names:
        replace_module(model, name, Adapted(model.get_submodule(name), rank, alpha, dropout))
    model.has_lora = True
    if train_head:
        for module in model.classifier.modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_()
    return model


def trainable_report(model):
    seen = {p: p.numel() for p in model.parameters()}
    trainable = sum(n for p, n in seen.items() if p.requires_grad)
    return {"trainable": trainable, "total": sum(seen.values()), "ratio": trainable / sum(seen.values())}


def unfreeze_blocks(model, blocks):
    prefixes = tuple(block + "." for block in blocks)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))


def add_dropout(model, p):
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if any(child is linear for linear in linears):
                parent._modules[name] = nn.Sequential(nn.Dropout(p), child)
    return model


def as_convolution(linear):
    conv = nn.Conv1d(linear.in_features, linear.out_features, 1, bias=bool(linear.bias is not None))
    with torch.no_grad():
        conv.weight[:, :, 0] = linear.weight
        if conv.bias is not None:
            conv.bias[:] = linear.bias
    return conv


def train_prompt(model):
    for child_name, child in model.named_children():
        child.requires_grad_(child_name != "encoder")
    return model
