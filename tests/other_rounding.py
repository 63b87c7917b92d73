"""A processor that does not exist: torch's sums and products come out a few last digits otherwise.

Real processors differ in the order of their sums, and only where that happens to matter. Here every result of an
operation that sums is moved by about the rounding that such a sum may have, so that a text or a point that hangs on
rounding shows on any machine. The same operation on the same numbers is moved alike, as on a real processor, and a
whole number stays as it is: sums of whole numbers are exact.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations that sum, and those whose last digit is the library's own.
OPERATIONS = frozenset(
    [
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "mv",
        "dot",
        "addmv",
        "sum",
        "mean",
        "cumsum",
        "var",
        "std",
        "linalg_vector_norm",
        "native_layer_norm",
        "exp",
        "log",
        "tanh",
        "_softmax",
        "_log_softmax",
        "gelu",
        "rsqrt",
        "_linalg_svd",
        "linalg_qr",
        "_linalg_eigh",
        "convolution",
        "linalg_lstsq",
    ]
)
#: How far a result is moved, in epsilons of the largest number beside it.
FACTORS = 0.5
#: The same for what comes from an SVD, whose backward error is well below that on small matrices.
SPECTRUM = 0.2


class OtherRounding(TorchDispatchMode):
    """Moves the results of `OPERATIONS`; ``seed`` says which way."""

    def __init__(self, seed: int):
        super().__init__()
        self.multiplier = np.uint64((0x9E3779B97F4A7C15 * (2 * seed + 1)) % 2**64)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in OPERATIONS and not (name == "_linalg_svd" and lone(args[0])):
            for one in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(one, torch.Tensor) and one.is_floating_point() and one.device.type == "cpu":
                    self.move(one.detach(), SPECTRUM if name == "_linalg_svd" else FACTORS)
        return result

    def move(self, tensor: torch.Tensor, epsilons: float) -> None:
        values = tensor.numpy()
        if not values.size or values.dtype not in (np.float32, np.float64) or not np.isfinite(values).all():
            return
        bits = np.atleast_1d(values.astype(np.float64)).view(np.uint64).reshape(values.shape)
        with np.errstate(over="ignore"):
            towards = ((bits * self.multiplier) >> np.uint64(40)).astype(float) / 2**23 - 1
        moved = values + towards * epsilons * float(np.finfo(values.dtype).eps) * np.abs(values).max()
        if (values >= 0).all():  # norms, shares, singular values
            moved = np.abs(moved)
        values[...] = np.where(values == np.round(values), values, moved).astype(values.dtype)


def lone(matrix: torch.Tensor) -> bool:
    """Whether no row and no column has two entries: then the SVD rounds nothing."""
    entries = matrix.detach() != 0
    return bool((entries.sum(-1) <= 1).all() and (entries.sum(-2) <= 1).all())


# An error's last line of the student's own code must not be in here: these frames count as torch's.
for _method in map(inspect.unwrap, (OtherRounding.__torch_dispatch__, OtherRounding.move)):
    _method.__code__ = _method.__code__.replace(co_filename=torch.__file__)
