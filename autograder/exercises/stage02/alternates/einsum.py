"""Everything by einsum; orthogonal start; the scale as a property; merging by adding and subtracting."""

import torch
from torch import nn


class LoRALayer(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0, *, gain=0.5):
        super().__init__()
        if rank <= 0:
            raise ValueError("rank")
        self.rank, self.alpha = rank, alpha
        self.lora_A = nn.Parameter(nn.init.orthogonal_(torch.empty(rank, in_features), gain))
        self.lora_B = nn.Parameter(torch.empty(out_features, rank).fill_(0))
        self.drop = nn.Dropout(p=dropout)

    @property
    def scaling(self):
        return self.alpha / self.rank

    def forward(self, x):
        if 0 in x.shape:
            return x.new_zeros(*x.shape[:-1], len(self.lora_B))
        hidden = torch.einsum("...i,ri->...r", self.drop(x), self.lora_A)
        return torch.einsum("...r,or->...o", hidden, self.lora_B).mul(self.scaling)


class LinearWithLoRA(nn.Module):
    def __init__(self, linear, rank, alpha, dropout=0.0):
        if not isinstance(linear, nn.Linear):
            raise TypeError("not an nn.Linear")
        super().__init__()
        self.linear = linear
        for parameter in self.linear.parameters():
            parameter.requires_grad = False
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha, dropout=dropout)
        self.merged = False

    def _update(self):
        return torch.einsum("or,ri->oi", self.lora.lora_B, self.lora.lora_A).detach() * self.lora.scaling

    def forward(self, x):
        y = self.linear(x)
        return y if self.merged else y.add(self.lora(x))

    def merge(self):
        if not self.merged:
            self.linear.weight.data.add_(self._update())
        self.merged = True
        return self

    def unmerge(self):
        if self.merged:
            self.linear.weight.data.sub_(self._update())
        self.merged = False
        return self


class LoRAParametrization(nn.Module):
    def __init__(self, out_features, in_features, rank=1, alpha=1, name="weight"):
        super().__init__()
        self.left = nn.Parameter(torch.zeros(out_features, rank))
        self.right = nn.Parameter(torch.empty(rank, in_features).uniform_(-0.1, 0.1))
        self.register_buffer("scale", torch.tensor(alpha / rank))
        self.enabled = True

    def forward(self, W):
        return torch.einsum("or,ri->oi", self.left, self.right).mul(self.scale).add(W) if self.enabled else W


def project_up(h, lora_B):
    return torch.einsum("...r,or->...o", h, lora_B)


def fold_in(linear, lora):
    linear.weight.data += torch.einsum("or,ri->oi", lora.lora_B.data, lora.lora_A.data) * lora.scaling
    nn.init.zeros_(lora.lora_B)


def make_factors(linear, rank):
    factors = nn.Module()
    factors.lora_A = nn.Parameter(torch.randn(rank, linear.in_features))
    factors.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank))
    return factors.to(linear.weight)
