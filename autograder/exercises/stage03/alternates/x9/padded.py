"""LoRA on in_proj_weight as one sum: zeros stand in key's place."""

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization


class InProjLoRA(nn.Module):
    def __init__(self, embed_dim, rank, alpha):
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(2, rank, embed_dim).normal_(std=0.02))
        self.lora_B = nn.Parameter(torch.zeros((2, embed_dim, rank)))
        self.rank, self.alpha = rank, alpha

    def forward(self, W):
        q, v = torch.bmm(self.lora_B, self.lora_A).mul(self.alpha).div(self.rank).unbind()
        return W + torch.cat((q, torch.zeros_like(q), v), dim=0)


def adapt_attention(attention, rank=8, alpha=16):
    weight = dict(attention.named_parameters()).get("in_proj_weight")
    if weight is None:  # none at all, or it lies within a parametrization
        raise ValueError("no packed weight to adapt")
    attention.requires_grad_(False)
    register_parametrization(attention, "in_proj_weight", InProjLoRA(weight.size(1), rank, alpha))
    return attention
