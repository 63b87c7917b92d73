"""What a trained update looks like: its spectrum, its rank, the directions it shares with another, sums of several.

Trainings in number are `lora_ref.sweeps`'s, and what a method costs is `lora_ref.costs`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lora_ref.inject import lora_layers
from lora_ref.rank import subspace_similarity

if TYPE_CHECKING:
    import pandas as pd


# --- stage 05's functions ---------------------------------------------------------------------------------


def rank_sweep(run: Callable[[int], Mapping[str, Any]], ranks: Iterable[int]) -> pd.DataFrame:
    """One training for each rank, as a table with the columns ``rank``, ``trainable``, ``accuracy`` and ``seconds``.

    Args:
        run: trains with the rank it is given; returns a dict with ``trainable``, ``accuracy`` and ``seconds``. What
            else is in it is left out.
        ranks: one row each, in this order.

    Raises:
        ValueError: a result lacks one of the three.

    Example:
        >>> rank_sweep(lambda r: {"trainable": 1_536 * r, "accuracy": 0.8, "seconds": 30.0}, ranks=[1, 8])
           rank  trainable  accuracy  seconds
        0     1       1536       0.8     30.0
        1     8      12288       0.8     30.0
    """
    import pandas as pd

    measured = ("trainable", "accuracy", "seconds")
    rows = []
    for rank in ranks:
        result = run(rank)
        missing = [name for name in measured if name not in result]
        if missing:
            raise ValueError(f"run({rank}) returned no {', '.join(map(repr, missing))}; it returned {sorted(result)}")
        rows.append({"rank": rank, **{name: result[name] for name in measured}})
    return pd.DataFrame(rows, columns=["rank", *measured])


def delta_spectrum(layer: nn.Module) -> Tensor:
    """Singular values of a layer's update ``scaling * B A``, largest first.

    The (out, in) product is never built: with ``B = Q R`` and ``A^T = P S`` (QR), the singular values are those of
    ``R S^T``, which is (rank, rank) and takes no time.

    Args:
        layer: a ``LinearWithLoRA`` or a ``LoRALayer`` (or what has ``lora_A``, ``lora_B`` and ``scaling``, or such a
            thing as ``.lora``).

    Returns:
        ``min(rank, out, in)`` values in float64: all others are zero.

    Raises:
        TypeError: the layer has no update.

    Example:
        >>> from lora_ref.layers import LoRALayer
        >>> layer = LoRALayer(5, 4, rank=2, alpha=2)
        >>> layer.lora_A.data, layer.lora_B.data = torch.eye(2, 5), torch.tensor([[3.0, 0], [0, 1], [0, 0], [0, 0]])
        >>> delta_spectrum(layer)
        tensor([3., 1.], dtype=torch.float64)
    """
    A, B, scaling = _factors(layer)
    R, S = torch.linalg.qr(B).R, torch.linalg.qr(A.T).R
    return torch.linalg.svdvals(scaling * (R @ S.T))


def compose(layers: Sequence[nn.Module], weights: Sequence[float]) -> Tensor:
    """The weighted sum of several updates of one base layer, ``sum_i w_i scaling_i B_i A_i``, of shape (out, in).

    Its rank is at most the sum of theirs, so in general no single adapter of their rank can stand for it.

    Args:
        layers: as in `delta_spectrum`; ranks and scalings may differ.
        weights: one for each layer.

    Raises:
        ValueError: there are not as many weights as layers, none at all, or the updates have different shapes.
        TypeError: a layer has no update.

    Example:
        >>> from lora_ref.layers import LoRALayer
        >>> layers = [LoRALayer(3, 2, rank=1, alpha=1), LoRALayer(3, 2, rank=2, alpha=2)]
        >>> for layer in layers:
        ...     _ = nn.init.ones_(layer.lora_A), nn.init.ones_(layer.lora_B)
        >>> compose(layers, [0.5, 0.25])
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    layers, weights = list(layers), list(weights)
    if len(layers) != len(weights):
        raise ValueError(f"one weight for each layer: {len(layers)} layers, {len(weights)} weights")
    if not layers:
        raise ValueError("no layers to compose")
    with torch.no_grad():
        deltas = [_update(layer).scaling * (_update(layer).lora_B @ _update(layer).lora_A) for layer in layers]
        shapes = {tuple(delta.shape) for delta in deltas}
        if len(shapes) > 1:
            raise ValueError(f"the updates have different shapes: {', '.join(map(str, sorted(shapes)))}")
        total = weights[0] * deltas[0]
        for weight, delta in zip(weights[1:], deltas[1:], strict=True):
            total = total + weight * delta
        return total


def _update(layer: nn.Module) -> Any:  # a LoRALayer, or a student's own of the same shape
    update: Any = getattr(layer, "lora", layer)
    if not all(hasattr(update, name) for name in ("lora_A", "lora_B", "scaling")):
        raise TypeError(f"expected a LinearWithLoRA or a LoRALayer, got {type(layer).__name__}")
    return update


def _factors(layer: nn.Module) -> tuple[Tensor, Tensor, float]:
    """``A``, ``B`` and the scaling; float64 on the CPU, because half precision has no SVD."""
    update = _update(layer)
    A, B = (p.detach().cpu().double() for p in (update.lora_A, update.lora_B))
    return A, B, float(update.scaling)


# --- spectra ----------------------------------------------------------------------------------------------


def spectra(model: nn.Module, energy: float = 0.9) -> pd.DataFrame:
    """The updates of a model with LoRA layers, one row a layer.

    Args:
        model: with `lora_ref.layers.LinearWithLoRA` layers, merged or not.
        energy: what ``effective_rank`` holds of the sum of squared singular values.

    Returns:
        The columns ``module``, ``rank`` (the update's inner dimension), ``singular_values`` (an array, largest first),
        ``effective_rank`` (the fewest directions that hold ``energy``), ``norm`` (Frobenius, of the update),
        ``frozen_norm`` (of the pretrained weight) and ``relative`` (their quotient).

    Raises:
        ValueError: there are no LoRA layers.

    Example:
        >>> from lora_ref import inject_lora
        >>> from lora_ref.models import tiny_roberta
        >>> model = inject_lora(tiny_roberta(), ["query"], rank=2)
        >>> for layer in lora_layers(model).values():
        ...     _ = nn.init.ones_(layer.lora.lora_B)
        >>> spectra(model)[["rank", "effective_rank"]]  # B has two equal columns
           rank  effective_rank
        0     2               1
        1     2               1
    """
    rows = []
    for name, layer in lora_layers(model).items():
        frozen = layer.linear.weight.detach()
        if layer.merged:
            frozen = frozen - layer.lora.delta_weight().detach()
        rows.append(_spectrum_row(name, len(layer.lora.lora_A), delta_spectrum(layer), frozen, energy))
    if not rows:
        raise ValueError(f"{type(model).__name__} has no LoRA layers; for full fine-tuning, see update_spectra")
    return _frame(rows)


def update_spectra(model: nn.Module, base: nn.Module, energy: float = 0.9) -> pd.DataFrame:
    """What full fine-tuning changed: `spectra` of ``W_after - W_before`` for each linear layer of both models.

    ``rank`` is the number of singular values above rounding, which for a trained matrix is nearly always all of them.
    Layers that are bit-identical in both, such as frozen ones, are left out.

    Args:
        model, base: the same architecture, after and before training, without LoRA layers.
        energy: as in `spectra`.

    Raises:
        ValueError: their linear layers differ in name or shape, or nothing has changed.

    Example:
        >>> base = nn.Sequential(nn.Linear(4, 3))
        >>> after = nn.Sequential(nn.Linear(4, 3))
        >>> _ = after.load_state_dict(base.state_dict())
        >>> after[0].weight.data += torch.outer(torch.ones(3), torch.ones(4))
        >>> update_spectra(after, base)[["module", "effective_rank"]]
          module  effective_rank
        0      0               1
    """
    after, before = _linear_weights(model), _linear_weights(base)
    odd = sorted(after.keys() ^ before.keys()) or [n for n, W in after.items() if W.shape != before[n].shape]
    if odd:
        raise ValueError(f"the models' linear layers differ: {', '.join(odd[:4])}{', ...' if len(odd) > 4 else ''}")
    rows = []
    for name, W in after.items():
        delta = W.cpu().double() - before[name].cpu().double()
        if delta.any():
            values = torch.linalg.svdvals(delta)
            # W was rounded to its own dtype, so that is the rounding that decides
            rounding = max(W.shape) * torch.finfo(W.dtype).eps * values[0]
            rows.append(_spectrum_row(name, int((values > rounding).sum()), values, before[name], energy))
    if not rows:
        raise ValueError("no linear layer differs between the two models")
    return _frame(rows)


def _linear_weights(model: nn.Module) -> dict[str, Tensor]:
    return {n: m.weight.detach() for n, m in model.named_modules() if isinstance(m, nn.Linear)}


def _spectrum_row(name: str, rank: int, values: Tensor, frozen: Tensor, energy: float) -> dict[str, Any]:
    norm, frozen_norm = float(values.square().sum().sqrt()), float(frozen.cpu().double().norm())
    return {
        "module": name,
        "rank": rank,
        "singular_values": values.cpu().numpy(),
        "effective_rank": _directions(values, energy),
        "norm": norm,
        "frozen_norm": frozen_norm,
        "relative": norm / frozen_norm if frozen_norm else float("nan"),
    }


def _directions(values: Tensor, energy: float) -> int:
    """`lora_ref.rank.effective_rank` of a matrix whose singular values are there already."""
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be in (0, 1], got {energy}")
    squares = values.cpu().double().square()
    total = squares.sum()
    if not total:
        return 0
    return min(int((squares.cumsum(0) < energy * total * (1 - 1e-12)).sum()) + 1, len(squares))


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows)


# --- subspaces --------------------------------------------------------------------------------------------


def similarity_grid(
    A1: Tensor, A2: Tensor, i_max: int | None = None, j_max: int | None = None, side: str = "input"
) -> Tensor:
    """`subspace_similarity` for all ``i`` up to ``i_max`` and ``j`` up to ``j_max``, as in the paper's section 7.2.

    Two SVDs serve for the whole grid: the squared products of the directions, summed up along both axes.

    Args:
        A1, A2: ``side="input"``: two ``lora_A``, (r1, in) and (r2, in); their right-singular directions say which
            inputs the updates listen to. ``side="output"``: two ``lora_B``, (out, r1) and (out, r2); their
            left-singular directions say which outputs they write to.
        i_max, j_max: by default all directions.
        side: ``"input"`` or ``"output"``.

    Returns:
        Shape (i_max, j_max) in float64; the entry for i and j is at ``[i - 1, j - 1]``. Two random subspaces have
        `random_similarity` there.

    Raises:
        ValueError: the spaces differ, a bound is out of range, or there is no such side.

    Example:
        >>> A1, A2 = torch.diag(torch.tensor([2.0, 1.0, 0.5])), torch.diag(torch.tensor([2.0, 0.5, 1.0]))
        >>> similarity_grid(A1, A2)  # they share the first direction, and swap the next two
        tensor([[1.0000, 1.0000, 1.0000],
                [1.0000, 0.5000, 1.0000],
                [1.0000, 1.0000, 1.0000]], dtype=torch.float64)
    """
    if side not in ("input", "output"):
        raise ValueError(f"side is 'input' or 'output', got {side!r}")
    if side == "output":
        A1, A2 = A1.T, A2.T
    if A1.shape[-1] != A2.shape[-1]:
        raise ValueError(f"the two live in different spaces: widths {A1.shape[-1]} and {A2.shape[-1]}")
    bases = []
    for name, count, matrix in (("i_max", i_max, A1), ("j_max", j_max, A2)):
        most = min(matrix.shape)
        count = most if count is None else count
        if not 1 <= count <= most:
            raise ValueError(f"{name} must be from 1 to {most}, got {count}")
        bases.append(torch.linalg.svd(matrix.detach().cpu().double(), full_matrices=False).Vh[:count])
    shared = (bases[0] @ bases[1].T).square().cumsum(0).cumsum(1)
    i, j = torch.meshgrid(torch.arange(1, shared.shape[0] + 1), torch.arange(1, shared.shape[1] + 1), indexing="ij")
    return shared / torch.minimum(i, j)


def random_similarity(n: int, i: int, j: int) -> float:
    """What `subspace_similarity` is on average for two random subspaces of an ``n``-dimensional space: max(i, j) / n.

    A random unit vector has 1/n of its squared length in each direction; so ``i`` of them share ``i j / n`` with ``j``
    directions.

    Raises:
        ValueError: ``i`` or ``j`` is not from 1 to ``n``.

    Example:
        >>> round(random_similarity(768, 8, 8), 4)  # two random subspaces of a layer's inputs share hardly anything
        0.0104
    """
    if not (1 <= i <= n and 1 <= j <= n):
        raise ValueError(f"i and j must be from 1 to {n}, got {i} and {j}")
    return max(i, j) / n


def overlaps(first: nn.Module, second: nn.Module, i: int = 1, j: int = 1) -> pd.DataFrame:
    """How much two trainings of the same layers share, one row a layer: two ranks, or two seeds.

    Args:
        first, second: models with LoRA layers of the same names.
        i, j: how many leading directions of the first's update, and of the second's.

    Returns:
        The columns ``module``, ``input`` (of A), ``output`` (of B), ``random_input`` and ``random_output``
        (what two random subspaces share on average).

    Raises:
        ValueError: the models have no LoRA layers, or not the same ones; ``i`` or ``j`` is out of range.

    Example:
        >>> from lora_ref import inject_lora
        >>> first, second = (inject_lora(nn.Sequential(nn.Linear(4, 4)), ["0"], rank=1) for _ in range(2))
        >>> for model in (first, second):
        ...     _ = nn.init.ones_(model[0].lora.lora_A), nn.init.ones_(model[0].lora.lora_B)
        >>> overlaps(first, second).round(3)
          module  input  output  random_input  random_output
        0      0    1.0     1.0          0.25           0.25
    """
    ours, theirs = lora_layers(first), lora_layers(second)
    odd = sorted(ours.keys() ^ theirs.keys())
    if odd or not ours:
        raise ValueError(f"not the same LoRA layers in both models: {', '.join(odd[:4]) or 'none at all'}")
    rows = []
    for name, layer in ours.items():
        (A1, B1), (A2, B2) = ((m.lora.lora_A.detach(), m.lora.lora_B.detach()) for m in (layer, theirs[name]))
        rows.append(
            {
                "module": name,
                "input": subspace_similarity(A1, A2, i, j),
                "output": subspace_similarity(B1.T, B2.T, i, j),
                "random_input": random_similarity(A1.shape[1], i, j),
                "random_output": random_similarity(B1.shape[0], i, j),
            }
        )
    return _frame(rows)
