"""AdamW in NumPy, and the mistakes that explain steps which are not its own (exercise 4.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lora_ref.rounding import number


def weight_decay(move: np.ndarray, start: np.ndarray, grad: np.ndarray, lr: float, eps: float) -> float:
    """The weight decay that explains the first step best, within [0, 1]."""
    rest = move + lr * grad / (np.abs(grad) + eps)
    return float(np.clip(-(rest * start).sum() / (lr * (start**2).sum()), 0.0, 1.0))


def first_wrong(
    moves: list[np.ndarray],
    path: list[np.ndarray],
    grads: list[np.ndarray],
    lr: float,
    decay: float,
    betas: Sequence[float],
    eps: float,
) -> tuple[int, np.ndarray] | None:
    """The first move that is not AdamW's for these gradients, to 0.1 % of lr, and AdamW's own; None if all are."""
    m, v = np.zeros_like(grads[0]), np.zeros_like(grads[0])
    for k, (move, start, grad) in enumerate(zip(moves, path, grads, strict=False)):
        m = betas[0] * m + (1 - betas[0]) * grad
        v = betas[1] * v + (1 - betas[1]) * grad**2
        mean, square = m / (1 - betas[0] ** (k + 1)), v / (1 - betas[1] ** (k + 1))
        wanted = -lr * mean / (np.sqrt(square) + eps) - lr * decay * start
        if not np.abs(move - wanted).max() <= 1e-3 * lr:
            return k, wanted
    return None


def step_cause(
    moves: list[np.ndarray],
    path: list[np.ndarray],
    grads: list[np.ndarray],
    lr: float,
    betas: Sequence[float],
    eps: float,
    used: Sequence[Mapping],
    decay: float,
    at: int,
    wanted: np.ndarray,
) -> str:
    """The mistake that explains the moves, tried one after the other."""

    def sizes(factor: float) -> bool:
        rate = lr * factor
        decay = weight_decay(moves[0], path[0], grads[0], rate, eps)
        return first_wrong(moves, path, grads, rate, decay, betas, eps) is None

    # AdamW's first step is -lr * sign(gradient) - lr * decay * weight, whatever lr and decay are
    parts = np.stack([np.sign(grads[0]).ravel(), path[0].ravel()], axis=1)
    ratio = float(-np.linalg.lstsq(parts, moves[0].ravel(), rcond=None)[0][0] / lr)
    signs = [-np.sign(g) for g in grads]
    if all(np.abs(m + lr * g).max() <= 1e-3 * lr for m, g in zip(moves, grads, strict=True)):
        return "plain SGD: steps grow with the gradient. Use torch.optim.AdamW"
    if first_wrong(moves, path, list(np.cumsum(grads, axis=0)), lr, decay, betas, eps) is None:
        return "gradients add up over the steps: zero_grad() is missing"
    if np.abs(moves[0] - lr * np.sign(grads[0])).max() <= 0.1 * lr:
        return "the steps climb the loss"
    if len(moves) > 1 and all(np.abs(m - lr * s).max() <= 0.05 * lr for m, s in zip(moves, signs, strict=True)):
        return "each step is a first step: the optimiser is made again in the loop and forgets its moments"
    if at and not np.any(moves[at] != 0):
        return "nothing moves there: each step makes its own update, the last one too"
    if not np.any(moves[0] != 0) and len(moves) > 1 and np.any(moves[1] != 0):
        return "the first step moves nothing: step() stands before backward() or is left out, or the rate starts at 0"
    if not np.any(moves[0] != 0):
        return "the first step moves nothing: step() stands before backward(), or the learning rate starts at 0"
    if sizes(ratio) and abs(ratio - 1) > 0.01:
        return (
            f"the learning rate is {number(ratio * lr, tolerance=0)}, not the {number(lr, tolerance=0)} that was passed"
        )
    if used and not any("AdamW" in o["classes"] for o in used):
        return f"the optimiser is {used[0]['classes'][0]}: use torch.optim.AdamW"
    later = float((moves[at] * wanted).sum() / (wanted**2).sum())
    if at and np.abs(moves[at] - later * wanted).max() <= 1e-3 * lr:
        times = number(later, tolerance=1e-3)
        return f"from step {at} on the learning rate is {times} times the one that was passed: it stays the same"
    if at and np.abs(moves[at] - lr * signs[at]).max() <= 0.05 * lr:
        return f"step {at} is a first step: an optimiser that is made again for each pass forgets its moments"
    if abs(ratio - 1) < 0.05:
        return "the first step is right: gradients enter each step as they are, of that step's batch alone"
    return "for each step: zero_grad(), backward(), step(), with AdamW's learning rate lr"
