"""Two nn.Linear inside the update; its matrices as properties; a parametrization made of the update itself."""

import math

import torch
from torch import Tensor, nn


class LoRALayer(nn.Module):
    """The update as two bias-free linear layers."""

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float, dropout: float = 0.0, **unused):
        if rank < 1:
            raise ValueError("rank must be positive")
        super().__init__()
        self.path = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(in_features, rank, bias=False), nn.Linear(rank, out_features, bias=False)
        )
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        self.scaling = alpha / rank

    @property
    def lora_A(self) -> nn.Parameter:
        return self.path[1].weight

    @property
    def lora_B(self) -> nn.Parameter:
        return self.path[2].weight

    def delta(self) -> Tensor:
        return self.scaling * (self.lora_B @ self.lora_A)

    def forward(self, x: Tensor) -> Tensor:
        return self.scaling * self.path(x)


class LinearWithLoRA(nn.Module):
    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        match linear:
            case nn.Linear():
                pass
            case _:
                raise TypeError("only nn.Linear")
        self.linear = linear.requires_grad_(False)
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha, dropout)
        self.backup: Tensor | None = None
        self.merged = False
        self._paths = {True: self._merged_forward, False: self._two_paths}

    def _merged_forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def _two_paths(self, x: Tensor) -> Tensor:
        return torch.stack([self.linear(x), self.lora(x)]).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        return self._paths[self.merged](x)

    @torch.inference_mode(False)
    @torch.no_grad()
    def merge(self) -> None:
        if self.backup is None:
            self.backup = self.linear.weight.detach().clone()
            self.linear.weight.copy_(self.backup + self.lora.delta())
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        if self.backup is not None:
            self.linear.weight.copy_(self.backup)
            self.backup, self.merged = None, False


class LoRAParametrization(nn.Module):
    def __init__(self, out_features, in_features, rank=1, alpha=1):
        super().__init__()
        self.update = LoRALayer(in_features, out_features, rank, alpha)
        self.enabled = True

    def forward(self, W):
        return W + self.update(torch.eye(W.shape[1])).T if self.enabled else W


def project_up(h, lora_B):
    up = nn.Linear(lora_B.shape[1], lora_B.shape[0], bias=False)
    up.weight = nn.Parameter(lora_B)
    return up(h)


@torch.no_grad()
def fold_in(linear, lora):
    linear.weight.copy_(linear.weight + lora.scaling * lora.lora_B @ lora.lora_A)
    lora.lora_A.zero_()  # the other factor may be the zero one just as well
    lora.lora_B.normal_()


def make_factors(linear, rank):
    factors = nn.ParameterDict()
    pair = LoRALayer(linear.in_features, linear.out_features, rank, 1).to(linear.weight)
    factors["lora_A"], factors["lora_B"] = pair.lora_A, pair.lora_B
    return factors
