"""A layer of the student's own, pasted from stage 2; a second call skips what is wrapped; names as tuples of parts."""

import math

import torch
from torch import nn


class LoRALayer(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(rank))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        self.scaling = alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.scaling * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)


class LinearWithLoRA(nn.Module):
    def __init__(self, linear, rank, alpha, dropout=0.0):
        super().__init__()
        self.linear = linear
        self.linear.weight.requires_grad = False
        if self.linear.bias is not None:
            self.linear.bias.requires_grad = False
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha, dropout)

    def forward(self, x):
        return self.linear(x) + self.lora(x)


def freeze(model):
    for _, parameter in model.named_parameters():
        parameter.requires_grad_(False)
    return model


def ends(name, target):
    name, target = tuple(name.split(".")), tuple(target.split("."))
    return name[-len(target) :] == target


def match_targets(model, targets):
    used, found = set(), []
    for name, module in model.named_modules():
        hits = [target for target in targets if ends(name, target)] if isinstance(module, nn.Linear) else []
        used.update(hits)
        if hits:
            found.append(name)
    for target in targets:
        if target not in used:
            raise ValueError(f"{target}: no such linear layer")
    return found


def replace_module(model, name, new):
    holder = model
    parts = name.split(".")
    for part in parts[:-1]:
        holder = holder._modules[part]
    holder._modules[parts[-1]] = new


def inject_lora(model, targets, rank=8, alpha=16, dropout=0.0, train_head=True):
    wrapped = {name: module for name, module in model.named_modules() if isinstance(module, LinearWithLoRA)}
    fresh = [target for target in targets if not any(ends(name, target) for name in wrapped)]
    names = match_targets(model, fresh)
    freeze(model)
    for name in names:
        layer = model.get_submodule(name)
        wrapped[name] = LinearWithLoRA(layer, rank, alpha, dropout)
        replace_module(model, name, wrapped[name])
    for module in wrapped.values():
        module.lora.requires_grad_(True)
    if train_head:
        model.classifier.requires_grad_(True)
    return model


def trainable_report(model):
    sizes = [(p.nelement(), p.requires_grad) for p in model.parameters()]
    trainable = sum(n * on for n, on in sizes)
    total = sum(n for n, _ in sizes)
    return {"ratio": trainable / total, "total": total, "trainable": trainable, "frozen": total - trainable}


def unfreeze_blocks(model, blocks):
    wanted = [id(p) for block in blocks for p in model.get_submodule(block).parameters()]
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)


def add_dropout(model, p):
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in names:
        replace_module(model, name, nn.Sequential(nn.Dropout(p), model.get_submodule(name)))
    return model


def as_convolution(linear):
    out_features, in_features = linear.weight.shape
    conv = nn.Conv1d(in_features, out_features, 1, bias=linear.bias is not None)
    state = {"weight": linear.weight.data.reshape(out_features, in_features, 1)}
    if linear.bias is not None:
        state["bias"] = linear.bias.data
    conv.load_state_dict(state)
    return conv


def train_prompt(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "prompt" in name or "classifier" in name
    return model
