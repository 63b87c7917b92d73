"""Eigenvalues of small Gram matrices in place of singular values; einsum; columns gathered one by one."""

import pandas as pd
import torch


def rank_sweep(run, ranks):
    table = {"rank": [], "trainable": [], "accuracy": [], "seconds": []}
    for rank in ranks:
        measured = run(rank)
        table["rank"].append(rank)
        for column in ("trainable", "accuracy", "seconds"):
            table[column].append(measured[column])
    return pd.DataFrame(table)


def factors(layer):
    if hasattr(layer, "lora_A"):
        return layer.lora_A.detach(), layer.lora_B.detach(), layer.scaling
    return factors(layer.lora)


def delta_spectrum(layer):
    A, B, scaling = factors(layer)
    # the nonzero eigenvalues of D D^T are those of (B^T B)(A A^T), a rank x rank matrix
    product = torch.einsum("or,os->rs", B, B) @ torch.einsum("ri,si->rs", A, A)
    values = torch.linalg.eigvals(product.double()).real
    return abs(scaling) * values.clamp(min=0).sqrt().sort(descending=True).values


def leading(A, count):
    _, vectors = torch.linalg.eigh(torch.einsum("ri,rj->ij", A, A).double())
    return vectors[:, -count:]


def subspace_similarity(A1, A2, i, j):
    overlap = torch.einsum("ni,nj->ij", leading(A1, i), leading(A2, j))
    return float(torch.einsum("ij,ij->", overlap, overlap)) / min(i, j)


def compose(layers, weights):
    if len(list(layers)) - len(list(weights)):
        raise ValueError("one weight a layer")
    terms = []
    for layer, weight in zip(layers, weights, strict=True):
        A, B, scaling = factors(layer)
        terms.append(torch.einsum("or,ri->oi", B, A) * (weight * scaling))
    return torch.stack(terms).sum(0)
