"""Freeze, then wrap; a second call ends in match_targets' ValueError."""

import torch
from torch import nn

from lora_ref.layers import LinearWithLoRA


def freeze(model):
    model.requires_grad_(False)
    return model


def match_targets(model, targets):
    found = {target: [] for target in targets}
    order = []
    for name, module in model.named_modules():
        if not issubclass(type(module), nn.Linear):
            continue
        order.append(name)
        for target in found:
            if ("." + name).endswith("." + target):
                found[target].append(name)
    for target, names in found.items():
        if not names:
            raise ValueError(f"nothing matches {target!r} among {order[:3]} and others")
    wanted = {name for names in found.values() for name in names}
    return sorted(wanted, key=order.index)


def replace_module(model, name, new):
    if "." not in name:
        setattr(model, name, new)
        return
    head, rest = name.split(".", 1)
    replace_module(getattr(model, head), rest, new)


def inject_lora(model, targets, rank=8, alpha=16, dropout=0.0, train_head=True):
    names = match_targets(model, targets)
    freeze(model)
    for name in names:
        old = model.get_submodule(name)
        replace_module(model, name, LinearWithLoRA(old, rank, alpha, dropout))
    if train_head:
        for name, parameter in model.named_parameters():
            if name.startswith("classifier."):
                parameter.requires_grad = True
    return model


def trainable_report(model):
    total = torch.tensor([p.numel() for p in model.parameters()]).sum().item()
    trainable = torch.tensor([p.numel() if p.requires_grad else 0 for p in model.parameters()]).sum().item()
    return {"trainable": trainable, "total": total, "ratio": float(trainable) / float(total)}


def unfreeze_blocks(model, blocks):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = False
        for block in blocks:
            if f"{name}.".startswith(f"{block}."):
                parameter.requires_grad = True


def add_dropout(model, p):
    found = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    for parent, name in found:
        parent._modules[name] = nn.Sequential(nn.Dropout(p), parent._modules[name])
    return model


def as_convolution(linear):
    conv = nn.Conv1d(linear.in_features, linear.out_features, kernel_size=1)
    conv.weight.data = linear.weight.data[..., None].clone()
    conv.bias.data = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.data.clone()
    return conv


def train_prompt(model):
    new = {*model.prompt.parameters(), *model.classifier.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad = parameter in new
    return model
