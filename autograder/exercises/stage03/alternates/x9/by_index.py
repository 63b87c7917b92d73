"""LoRA on in_proj_weight with an index of rows; frozen one by one, registered by name."""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize


class InProjLoRA(nn.Module):
    def __init__(self, embed_dim, rank, alpha):
        super().__init__()
        factors = torch.empty(2, rank, embed_dim)
        for factor in factors:
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        self.lora_A = nn.Parameter(factors)
        self.lora_B = nn.Parameter(factors.new_zeros(2, embed_dim, rank))
        self.embed_dim, self.scaling = embed_dim, alpha / rank

    def forward(self, W):
        new, size = W.clone(), self.embed_dim
        new[:size] += self.scaling * self.lora_B[0] @ self.lora_A[0]
        new[2 * size :] += self.scaling * self.lora_B[1] @ self.lora_A[1]
        return new


def adapt_attention(attention, rank=8, alpha=16):
    if getattr(attention, "in_proj_weight", None) is None:
        raise ValueError("query, key and value are three matrices here")
    if hasattr(attention, "parametrizations"):
        raise ValueError("adapted already")
    for parameter in attention.parameters():
        parameter.requires_grad = False
    module = InProjLoRA(attention.in_proj_weight.shape[1], rank, alpha)
    parametrize.register_parametrization(attention, "in_proj_weight", module)
    return attention
