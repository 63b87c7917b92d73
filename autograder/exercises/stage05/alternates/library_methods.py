"""The package's own delta_weight; torch.svd_lowrank is not needed; an iterator; a loop over pairs of directions."""

import operator

import pandas as pd
import torch
from torch import nn

from lora_ref.layers import LinearWithLoRA, LoRALayer


def rank_sweep(run, ranks):
    columns = pd.Index(["rank", "trainable", "accuracy", "seconds"])
    frame = pd.DataFrame(index=range(len(ranks)), columns=columns, dtype=object)
    for row, rank in enumerate(ranks):
        result = run(rank)
        frame.loc[row] = [rank, *operator.itemgetter(*columns[1:])(result)]
    return frame.infer_objects()


def matrix_of(layer: nn.Module):
    match layer:
        case LinearWithLoRA():
            return layer.lora.delta_weight()
        case LoRALayer():
            return layer.delta_weight()
    raise TypeError(type(layer).__name__)


@torch.no_grad()
def delta_spectrum(layer):
    decomposition = torch.linalg.svd(matrix_of(layer).double())
    return decomposition.S[: len(getattr(layer, "lora", layer).lora_A)].float()


def subspace_similarity(A1, A2, i, j):
    V1, V2 = torch.svd(A1).V, torch.svd(A2).V
    total = 0.0
    for k in range(i):
        for m in range(j):
            total += float(torch.dot(V1[:, k], V2[:, m])) ** 2
    return total / (i if i < j else j)


def compose(layers, weights):
    layers, weights = iter(layers), iter(weights)
    missing = object()
    result = None
    while True:
        layer, weight = next(layers, missing), next(weights, missing)
        if layer is missing and weight is missing:
            return result
        if layer is missing or weight is missing:
            raise ValueError("unequal lengths")
        with torch.no_grad():
            term = torch.mul(matrix_of(layer), weight)
            result = term if result is None else result.add_(term)
