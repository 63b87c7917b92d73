"""DoRA written out: rows one after the other, the norm of a detached copy, factors kept by a ParameterDict's names."""

import math

import torch
from torch import nn


class DoRA(nn.Module):
    def __init__(self, W, rank, alpha):
        super().__init__()
        W = W.detach().clone()
        a = torch.zeros(rank, W.shape[1])
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(W.new_zeros(W.shape[0], rank))
        self.lora_length = nn.Parameter(torch.stack([row.norm() for row in W])[:, None])
        self.scaling = float(alpha) / rank

    def forward(self, W):
        update = self.lora_B @ (self.scaling * self.lora_A)
        rows = []
        for length, row, change in zip(self.lora_length, W, update, strict=True):
            new = row + change
            rows.append(length * (new / new.clone().detach().norm()))
        return torch.stack(rows)
