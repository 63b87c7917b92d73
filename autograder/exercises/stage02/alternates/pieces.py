"""Factors as lists of vectors, one for each rank; frozen Parameters on the pretrained memory; outer products."""

import torch
from torch import nn


class LoRALayer(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        super().__init__()
        if int(rank) < 1:
            raise ValueError(f"rank {rank} is below 1")
        self.lora_A = nn.Parameter(torch.stack([torch.randn(in_features) / rank for _ in range(rank)]))
        self.lora_B = nn.Parameter(torch.stack([torch.zeros(out_features) for _ in range(rank)], dim=1))
        self.scaling = alpha / rank
        self.keep = 1.0 - dropout

    def forward(self, x):
        if self.training and self.keep < 1:
            x = x * (torch.rand_like(x) < self.keep) / self.keep
        terms = ((x @ a).unsqueeze(-1) * b for a, b in zip(self.lora_A, self.lora_B.T, strict=True))
        return self.scaling * sum(terms)


class LinearWithLoRA(nn.Module):
    def __init__(self, linear, rank, alpha, dropout=0.0):
        super().__init__()
        if not isinstance(linear, nn.Linear):
            raise TypeError("an nn.Linear is wanted")
        for name, parameter in list(linear.named_parameters()):
            setattr(linear, name, nn.Parameter(parameter.data, requires_grad=False))
        self.linear = linear
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha, dropout)
        self.register_buffer("before", None, persistent=False)

    @property
    def merged(self):
        return self.before is not None

    def forward(self, x):
        y = self.linear(x)
        return y if self.merged else y + self.lora(x)

    @torch.no_grad()
    def merge(self):
        if not self.merged:
            self.before = self.linear.weight.clone()
            for a, b in zip(self.lora.lora_A, self.lora.lora_B.T, strict=True):
                self.linear.weight.addr_(b, a, alpha=self.lora.scaling)

    @torch.no_grad()
    def unmerge(self):
        if self.merged:
            self.linear.weight.copy_(self.before)
            self.before = None


class LoRAParametrization(nn.Module):
    def __init__(self, out_features, in_features, rank=1, alpha=1):
        super().__init__()
        self.a = nn.ParameterList([torch.randn(in_features) for _ in range(rank)])
        self.b = nn.ParameterList([torch.zeros(out_features) for _ in range(rank)])
        self.c, self.enabled = alpha / rank, True

    def forward(self, W):
        if self.enabled:
            for a, b in zip(self.a, self.b, strict=True):
                W = W + self.c * torch.outer(b, a)
        return W


def project_up(h, lora_B):
    return torch.stack([(h * row).sum(-1) for row in lora_B], dim=-1)


@torch.no_grad()
def fold_in(linear, lora):
    linear.weight.add_(lora.scaling * lora.lora_B @ lora.lora_A)
    for column in lora.lora_B.T:
        column.fill_(0)


def make_factors(linear, rank):
    factors = nn.Module()
    W = linear.weight.detach()
    factors.lora_A = nn.Parameter(torch.randn_like(W[:1].expand(rank, -1).contiguous()))
    factors.lora_B = nn.Parameter(torch.zeros_like(W[:, :1].expand(-1, rank).contiguous()))
    return factors
