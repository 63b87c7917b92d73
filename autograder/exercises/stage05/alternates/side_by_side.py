"""Factors side by side; QR before the SVD; principal angles; results with their autograd history."""

import pandas as pd
import torch


def rank_sweep(run, ranks):
    results = {}
    for number, rank in enumerate(ranks):
        results[number] = {**run(rank), "rank": rank}
    frame = pd.DataFrame.from_dict(results, orient="index")
    return frame.drop(columns=[c for c in frame if c not in ("rank", "trainable", "accuracy", "seconds")])


def delta_spectrum(layer):
    lora = layer if hasattr(layer, "lora_B") else layer.lora
    _, R = torch.linalg.qr(lora.lora_B)
    return torch.linalg.svd(R @ lora.lora_A * lora.scaling, full_matrices=False).S  # keeps its history


def subspace_similarity(A1, A2, i, j):
    bases = [torch.linalg.svd(A.double().T, full_matrices=False).U[:, :k] for A, k in ((A1, i), (A2, j))]
    cosines = torch.linalg.svdvals(bases[0].T @ bases[1])
    return cosines.pow(2).mean().item()  # there are min(i, j) principal angles


def compose(layers, weights):
    if len(weights) != len(layers):
        raise ValueError
    loras = [layer if hasattr(layer, "lora_B") else layer.lora for layer in layers]
    A = torch.cat([lora.lora_A for lora in loras])
    B = torch.cat([weight * lora.scaling * lora.lora_B for lora, weight in zip(loras, weights, strict=True)], dim=1)
    return B @ A
