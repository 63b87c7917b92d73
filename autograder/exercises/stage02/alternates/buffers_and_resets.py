"""reset_parameters as libraries have it, attributes nobody asked for; scale and flag as parameters and buffers."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class LoRALayer(nn.Module):
    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank must be a positive whole number, not {rank!r}")
        self.in_features, self.out_features, self.rank, self.alpha = in_features, out_features, rank, alpha
        self.lora_A = nn.Parameter(torch.empty((rank, in_features), device=device, dtype=dtype))
        self.lora_B = nn.Parameter(torch.empty((out_features, rank), device=device, dtype=dtype))
        self.scaling = nn.Parameter(torch.tensor(float(alpha / rank)), requires_grad=False)
        self.lora_dropout = nn.Dropout(dropout) if dropout > 0.0 else None
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.trunc_normal_(self.lora_A, std=1 / math.sqrt(self.rank))
        nn.init.zeros_(self.lora_B)

    def extra_repr(self):
        return f"rank={self.rank}, alpha={self.alpha}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.lora_dropout is not None:
            x = self.lora_dropout(x)
        return F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scaling


class LinearWithLoRA(nn.Module):
    def __init__(self, linear, rank, alpha, dropout=0.0):
        super().__init__()
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"{type(linear)} is not an nn.Linear")
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.linear = linear
        for parameter in self.linear.parameters():
            parameter.requires_grad_(False)
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha, dropout)
        self.register_buffer("merged", torch.tensor(False))

    @property
    def weight(self):
        return self.linear.weight

    def get_delta_weights(self):
        return (self.lora.scaling * self.lora.lora_B @ self.lora.lora_A).detach()

    def forward(self, x):
        out = self.linear(x)
        if not self.merged:
            out = out + self.lora(x)
        return out

    def merge(self):
        if self.merged:
            return self
        self.delta = self.get_delta_weights()
        self.linear.weight.data = self.linear.weight.data + self.delta
        self.merged.fill_(True)
        return self

    def unmerge(self):
        if self.merged:
            self.linear.weight.data = self.linear.weight.data - self.delta
            self.merged.fill_(False)
        return self


class LoRAParametrization(nn.Module):
    """The other start, A zero and B random, is a zero update as well."""

    def __init__(self, out_features, in_features, rank=1, alpha=1):
        super().__init__()
        self.lora_A = nn.Parameter(torch.zeros(rank, in_features))
        self.lora_B = nn.Parameter(torch.randint(0, 2, (out_features, rank)) * 2.0 - 1)
        self.scale = alpha / rank
        self._on = True

    @property
    def enabled(self):
        return self._on

    @enabled.setter
    def enabled(self, value):
        self._on = bool(value)

    def forward(self, original_weights):
        if self.enabled:
            return original_weights + torch.matmul(self.lora_B, self.lora_A).view(original_weights.shape) * self.scale
        else:
            return original_weights


def project_up(h, lora_B):
    return torch.tensordot(h, lora_B, dims=([-1], [1]))


def fold_in(linear, lora):
    linear.weight.data.copy_(linear.weight.data + lora.scaling * torch.mm(lora.lora_B.data, lora.lora_A.data))
    lora.lora_B = nn.Parameter(torch.zeros_like(lora.lora_B))


def make_factors(linear, rank):
    factors = nn.Module()
    W = linear.weight
    factors.register_parameter("lora_A", nn.Parameter(torch.randn(rank, W.shape[1]).to(W)))
    factors.register_parameter("lora_B", nn.Parameter(torch.zeros(W.shape[0], rank).to(W)))
    return factors
