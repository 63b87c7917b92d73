"""A second call adds what is new and keeps what is there; names compared part by part; set_submodule; NumPy counts."""

import numpy as np
import torch
from torch import nn

from lora_ref.layers import LinearWithLoRA


def freeze(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def match_targets(model: nn.Module, targets: list[str]) -> list[str]:
    split = [target.split(".") for target in targets]
    hit, out = set(), []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        parts = name.split(".")
        matched = [".".join(target) for target in split if parts[-len(target) :] == target]
        hit.update(matched)
        if matched:
            out.append(name)
    missing = [target for target in targets if target not in hit]
    if missing:
        raise ValueError(f"no linear layer matches {missing}")
    return out


def replace_module(model, name, new):
    if hasattr(model, "set_submodule"):  # from torch 2.5 on
        model.set_submodule(name, new)
    else:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, new)
    return model


def inject_lora(model, targets, rank=8, alpha=16, dropout=0.0, train_head=True, **unused):
    def outside(name):
        return name.removesuffix(".linear")

    wrapped = {name for name, module in model.named_modules() if isinstance(module, LinearWithLoRA)}
    linears = [outside(name) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = []
    for target in targets:
        found = [name for name in linears if name == target or name.endswith("." + target)]
        if len(found) == 0:
            raise ValueError(f"no match for {target}")
        names += [name for name in found if name not in names]
    for parameter in model.parameters():
        parameter.requires_grad = False
    for name in names:
        if name not in wrapped:
            replace_module(model, name, LinearWithLoRA(model.get_submodule(name), rank, alpha, dropout))
    for module in model.modules():
        if isinstance(module, LinearWithLoRA):
            module.lora.lora_A.requires_grad = True
            module.lora.lora_B.requires_grad = True
    if train_head:
        for parameter in model.classifier.parameters():
            parameter.requires_grad = True
    return model


def trainable_report(model):
    sizes = np.array([p.numel() for p in model.parameters()])
    mask = np.array([p.requires_grad for p in model.parameters()])
    return {"trainable": sizes[mask].sum(), "total": sizes.sum(), "ratio": sizes[mask].sum() / sizes.sum()}


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
    bias = linear.bias is not None
    conv = nn.Conv1d(linear.in_features, linear.out_features, kernel_size=1, bias=bias)
    state = {"weight": linear.weight.data.unsqueeze(2)}
    if bias:
        state["bias"] = linear.bias.data
    conv.load_state_dict(state)
    return conv


def train_prompt(model):
    model.encoder.requires_grad_(False)
    for part in (model.prompt, model.classifier):
        torch.nn.Module.requires_grad_(part, True)
    return model
