"""Products with broadcasting instead of matrix products; state in plain dicts; forward swapped on the instance."""

import torch
from torch import nn
from torch.nn import Parameter


class LoRALayer(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        super().__init__()
        if rank < 1:
            raise ValueError
        start = torch.empty(rank, in_features)
        torch.nn.init.trunc_normal_(start, std=0.02)
        self.lora_A = Parameter(start)
        self.lora_B = Parameter(torch.zeros_like(torch.empty(out_features, rank)))
        self.scaling = alpha / rank
        self.config = {"dropout": dropout, "rank": rank}

    def forward(self, x):
        if self.training and self.config["dropout"]:
            keep = torch.bernoulli(torch.full_like(x, 1 - self.config["dropout"]))
            x = x * keep / (1 - self.config["dropout"])
        hidden = (x.unsqueeze(-2) * self.lora_A).sum(dim=-1)
        return (hidden.unsqueeze(-2) * self.lora_B * self.scaling).sum(dim=-1)


class LinearWithLoRA(nn.Module):
    merged = False

    def __init__(self, linear, rank, alpha, dropout=0.0):
        super().__init__()
        if linear.__class__ is not nn.Linear and not isinstance(linear, nn.Linear):
            raise TypeError
        self.linear = linear
        self.linear.requires_grad_(False)
        self.lora = LoRALayer(
            in_features=linear.in_features, out_features=linear.out_features, rank=rank, alpha=alpha, dropout=dropout
        )
        self.state = {}

    def forward(self, x):
        total = self.linear(x)
        total += 0 if self.merged else self.lora(x)
        return total

    def _rows(self):
        # row by row, so that no second matrix of the weight's size is held
        for row, factors in zip(self.linear.weight.data, self.lora.lora_B.data, strict=True):
            yield row, self.lora.scaling * (factors @ self.lora.lora_A.data)

    def merge(self):
        if self.merged:
            return True
        self.state["W"] = self.linear.weight.data.numpy().copy()
        for row, update in self._rows():
            row += update
        self.merged = True
        return True

    def unmerge(self):
        if not self.merged:
            return False
        self.linear.weight.data.copy_(torch.from_numpy(self.state.pop("W")))
        self.merged = False
        return True


class LoRAParametrization(nn.Module):
    def __init__(self, out_features, in_features, rank=1, alpha=1):
        super().__init__()
        # stored the other way round, which the contract leaves open
        self.down = Parameter(torch.randn(in_features, rank))
        self.up = Parameter(torch.zeros(rank, out_features))
        self.alpha, self.rank = alpha, rank
        self.switch(True)

    def switch(self, on):
        self.enabled = on

    def forward(self, W):
        if self.enabled:
            update = torch.matmul(self.down, self.up).t()
            return W + update * self.alpha / self.rank
        return W


def project_up(h, lora_B):
    return (h.unsqueeze(-2) * lora_B).sum(-1)


def fold_in(linear, lora):
    with torch.no_grad():
        linear.weight += lora.scaling * (lora.lora_B @ lora.lora_A)
        lora.lora_B[:] = 0


def make_factors(linear, rank):
    factors = nn.Module()
    W = linear.weight
    factors.lora_A = Parameter(torch.randn(rank, linear.in_features, dtype=W.dtype, device=W.device))
    factors.lora_B = Parameter(torch.zeros(linear.out_features, rank, dtype=W.dtype, device=W.device))
    return factors
