"""DoRA with other calls: buffers for what does not train, linalg, einsum, the norm under no_grad."""

import torch
from torch import nn


class DoRA(nn.Module):
    def __init__(self, W, rank, alpha):
        super().__init__()
        rows, columns = W.size()
        self.rank, self.alpha = rank, alpha
        self.register_parameter("lora_A", nn.Parameter(torch.empty(rank, columns).uniform_(-0.1, 0.1)))
        self.register_parameter("lora_B", nn.Parameter(torch.zeros(rows, rank)))
        with torch.no_grad():
            self.register_parameter(
                "lora_length", nn.Parameter(torch.linalg.vector_norm(W, dim=-1, keepdim=True).clone())
            )

    def forward(self, W):
        V = torch.einsum("or,ri->oi", self.lora_B, self.lora_A).mul(self.alpha / self.rank).add(W)
        with torch.no_grad():
            norm = V.square().sum(-1, keepdim=True).sqrt()
        return V * (self.lora_length / norm)
