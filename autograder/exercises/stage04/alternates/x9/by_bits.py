"""4 bits with shifts, a bucketize between the levels' middles, half precision nowhere, low half first."""

import torch
from torch import nn


class FourBit(nn.Module):
    levels = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.02, 0.98, 16))
    levels = levels / levels.max()

    def right_inverse(self, W):
        self.rows, self.columns = W.shape
        flat = W.detach().flatten().view(-1, 32)
        scales = torch.maximum(flat.max(dim=1).values, -flat.min(dim=1).values)
        safe = torch.where(scales == 0, torch.ones_like(scales), scales)
        middles = (self.levels[1:] + self.levels[:-1]) / 2
        codes = torch.bucketize(flat / safe[:, None], middles).to(torch.uint8).flatten()
        low, high = codes[0::2], codes[1::2]
        return torch.bitwise_or(low, high << 4), scales

    def forward(self, packed, scales):
        low, high = packed & 15, packed >> 4
        codes = torch.stack((low, high), dim=1).flatten().long()
        values = self.levels.to(scales.device).take(codes).view(-1, 32) * scales.unsqueeze(1)
        return values.view(self.rows, self.columns)
