"""Merging by registering a parametrization and removing it again; earlier weights on a deque; gradients by hand."""

from collections import deque

import torch
from torch import nn
from torch.nn.utils import parametrize


class TwoProducts(torch.autograd.Function):
    """s (x A^T) B^T with its backward written out."""

    @staticmethod
    def forward(ctx, x, A, B, s):
        hidden = x @ A.T
        ctx.save_for_backward(x, A, B, hidden)
        ctx.s = s
        return s * hidden @ B.T

    @staticmethod
    def backward(ctx, grad):
        x, A, B, hidden = ctx.saved_tensors
        down = ctx.s * grad @ B
        flat = lambda t: t.reshape(-1, t.shape[-1])  # noqa: E731
        return down @ A, flat(down).T @ flat(x), ctx.s * flat(grad).T @ flat(hidden), None


class LoRALayer(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        nn.Module.__init__(self)
        if rank in range(1, 1 + max(in_features, out_features)):
            self.lora_A, self.lora_B = (
                nn.Parameter(torch.normal(0.0, 1 / rank**0.5, (rank, in_features))),
                nn.Parameter(torch.zeros(out_features, rank)),
            )
        else:
            raise ValueError("1 <= rank <= min(sizes)")
        self.scaling = torch.tensor(alpha / rank)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x):
        return TwoProducts.apply(self.dropout(x), self.lora_A, self.lora_B, self.scaling.item())


class LoRAParametrization(nn.Module):
    def __init__(self, out_features, in_features, rank=1, alpha=1):
        super().__init__()
        self.factors = nn.ParameterList([torch.zeros(out_features, rank), torch.randn(rank, in_features)])
        self.factor = float(alpha) / rank
        self.enabled = True

    def forward(self, W):
        return W if not self.enabled else W + self.factor * torch.linalg.multi_dot(list(self.factors))


class Plus(nn.Module):
    def __init__(self, update):
        super().__init__()
        self.register_buffer("update", update)

    def forward(self, W):
        return W + self.update


class LinearWithLoRA(nn.Module):
    def __init__(self, linear, rank, alpha, dropout=0.0):
        super().__init__()
        if not issubclass(type(linear), nn.Linear):
            raise TypeError(f"{linear!r}")
        self.add_module("linear", linear)
        self.add_module("lora", LoRALayer(linear.in_features, linear.out_features, rank, alpha, dropout))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("lora"))
        self.earlier = deque(maxlen=1)

    merged = property(lambda self: len(self.earlier) > 0)

    def forward(self, x):
        return sum([self.linear(x)] + [self.lora(x)] * (not self.merged))

    def merge(self):
        if not self.merged:
            self.earlier.append(self.linear.weight.detach().clone())
            update = (self.lora.scaling * self.lora.lora_B @ self.lora.lora_A).detach()
            parametrize.register_parametrization(self.linear, "weight", Plus(update))
            parametrize.remove_parametrizations(self.linear, "weight", leave_parametrized=True)
            self.linear.weight.requires_grad_(False)

    def unmerge(self):
        while self.earlier:
            self.linear.weight.data = self.earlier.pop()


def project_up(h, lora_B):
    return (lora_B @ h.unsqueeze(-1)).squeeze(-1)


def fold_in(linear, lora):
    linear.weight.data.add_(lora.lora_B.data @ lora.lora_A.data, alpha=lora.scaling)
    lora.load_state_dict({**lora.state_dict(), "lora_B": torch.zeros_like(lora.lora_B)})


def make_factors(linear, rank):
    pair = nn.Module()
    where = {"dtype": linear.weight.dtype, "device": linear.weight.device}
    for name, start in (
        ("lora_A", torch.randn(rank, linear.in_features)),
        ("lora_B", torch.zeros(linear.out_features, rank)),
    ):
        pair.register_parameter(name, nn.Parameter(start.to(**where)))
    return pair
