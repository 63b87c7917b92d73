"""Everything in NumPy; projections in place of products of bases; concat of one-row frames."""

import numpy as np
import pandas as pd
import torch

from lora_ref.layers import LinearWithLoRA


def rank_sweep(run, ranks):
    frames = []
    for rank in ranks:
        frame = pd.DataFrame([run(rank)])
        frame["rank"] = rank
        frames.append(frame[["rank", "trainable", "accuracy", "seconds"]])
    return pd.concat(frames)  # the index repeats, which the contract leaves open


def update(layer):
    lora = layer.lora if isinstance(layer, LinearWithLoRA) else layer
    A, B = (p.data.numpy().astype(np.float64) for p in (lora.lora_A, lora.lora_B))
    return lora.scaling * B @ A


def delta_spectrum(layer):
    return torch.from_numpy(np.linalg.svd(update(layer))[1])


def subspace_similarity(A1, A2, i, j):
    def projector(A, k):
        V = np.linalg.svd(A.detach().numpy(), full_matrices=False)[2][:k]
        return V.T @ V

    # the trace of the product of two projectors is the sum of the squared products of their bases
    return float(np.trace(projector(A1, i) @ projector(A2, j)) / min(i, j))


def compose(layers, weights):
    pairs = zip(layers, weights, strict=True)
    return torch.tensor(sum(weight * update(layer) for layer, weight in pairs), dtype=torch.float32)
