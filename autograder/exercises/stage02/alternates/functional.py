"""F.linear and addmm; the scale as a buffer; .merged as a property; a new Parameter for the merged weight.

And what a class of one's own invites to: a dataclass beside it, a check for it, a method of it in another exercise.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Sizes:
    rows: int
    columns: int


class LoRALayer(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        super().__init__()
        assert_rank(rank)
        bound = in_features**-0.5
        self.register_parameter("lora_A", nn.Parameter((torch.rand(rank, in_features) * 2 - 1) * bound))
        self.register_parameter("lora_B", nn.Parameter(torch.zeros((out_features, rank))))
        self.register_buffer("scaling", torch.as_tensor(float(alpha)) / rank)
        self.p = dropout

    def forward(self, x):
        flat = F.dropout(x, self.p, self.training).reshape(-1, x.shape[-1])
        hidden = torch.mm(flat, self.lora_A.t())
        out = torch.addmm(torch.zeros(len(self.lora_B)), hidden, self.lora_B.t(), alpha=float(self.scaling))
        return out.view(*x.shape[:-1], len(self.lora_B))

    @torch.no_grad()
    def start_again(self):
        self.lora_B.mul_(0.0)
        self.lora_A.normal_()


def assert_rank(rank):
    if not rank >= 1:
        raise ValueError(f"{rank=}")


class LinearWithLoRA(nn.Module):
    def __init__(self, linear, rank, alpha, dropout=0.0):
        super().__init__()
        if isinstance(linear, nn.Linear) is False:
            raise TypeError(type(linear))
        linear.weight.requires_grad_(False)
        if linear.bias is not None:
            linear.bias.requires_grad_(False)
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha, dropout)
        self.linear = linear
        self._pretrained = None

    @property
    def merged(self):
        return self._pretrained is not None

    def forward(self, x):
        result = F.linear(x, self.linear.weight, self.linear.bias)
        if not self.merged:
            result = result + self.lora(x)
        return result

    def merge(self):
        if self.merged:
            return
        self._pretrained = self.linear.weight.data
        update = self.lora.lora_B.data.mm(self.lora.lora_A.data) * self.lora.scaling
        self.linear.weight = nn.Parameter(self._pretrained + update, requires_grad=False)

    def unmerge(self):
        if self.merged:
            self.linear.weight = nn.Parameter(self._pretrained, requires_grad=False)
            self._pretrained = None


class LoRAParametrization(nn.Module):
    def __init__(self, out_features, in_features, rank=1, alpha=1):
        super().__init__()
        self.A = nn.Parameter(nn.init.xavier_normal_(torch.empty(rank, in_features)))
        self.B = nn.Parameter(torch.zeros(out_features, rank))
        self.alpha, self.enabled = alpha, True

    def forward(self, W):
        if self.enabled is not True:
            return W
        return torch.addmm(W, self.B, self.A, alpha=self.alpha / self.A.size(0))


def project_up(h, lora_B):
    return h.matmul(lora_B.mT)


def fold_in(linear, lora):
    if not isinstance(lora, LoRALayer):
        raise TypeError(type(lora))
    with torch.no_grad():
        linear.weight.addmm_(lora.lora_B, lora.lora_A, alpha=float(lora.scaling))
    lora.start_again()


def make_factors(linear, rank):
    sizes = Sizes(linear.out_features, linear.in_features)

    class Factors(nn.Module):
        def __init__(self):
            super().__init__()
            self.lora_A = nn.Parameter(linear.weight.new_empty(rank, sizes.columns).normal_())
            self.lora_B = nn.Parameter(linear.weight.new_zeros(sizes.rows, rank))

    return Factors()
