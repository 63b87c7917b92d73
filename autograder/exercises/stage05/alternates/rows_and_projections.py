"""A table filled row by row; QR before the SVD; projections; results with their gradients still attached."""

import pandas as pd
import torch
from torch import nn


def rank_sweep(run, ranks):
    table = pd.DataFrame(columns=["rank", "trainable", "accuracy", "seconds"])
    for rank in ranks:
        result = run(rank)
        table.loc[len(table)] = [rank, result["trainable"], result["accuracy"], result["seconds"]]
    return table


def update_of(layer):
    return layer.lora if hasattr(layer, "lora") and isinstance(layer.lora, nn.Module) else layer


def delta_spectrum(layer):
    lora = update_of(layer)
    return torch.linalg.svdvals(torch.linalg.qr(lora.lora_B).R @ torch.linalg.qr(lora.lora_A.T).R.T) * lora.scaling


def subspace_similarity(A1, A2, i, j):
    projections = []
    for A, count in ((A1, i), (A2, j)):
        _, Q = torch.linalg.eigh((A.T @ A).double())
        projections.append(Q[:, -count:] @ Q[:, -count:].T)
    return (torch.trace(projections[0] @ projections[1]) / min(i, j)).item()


def compose(layers: list, weights: list) -> torch.Tensor:
    if len(layers) != len(weights):
        raise ValueError(f"got {len(layers)} layers but {len(weights)} weights")
    first = update_of(layers[0])
    total = torch.zeros(first.lora_B.shape[0], first.lora_A.shape[1])
    for k in range(len(layers)):
        lora = update_of(layers[k])
        total = total + weights[k] * lora.scaling * torch.matmul(lora.lora_B, lora.lora_A)
    return total
