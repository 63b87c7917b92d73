"""Matrix products of float32 in full precision and in what ``medium`` allows: time here, and accuracy over three seeds.

What ``torch.set_float32_matmul_precision("medium")`` does is the processor's affair: where oneDNN has bfloat16 products
that pay, operands are rounded to bfloat16; elsewhere nothing is. So accuracy is measured a third time with every
linear layer's operands rounded to bfloat16, forward and backward, which is the most that ``medium`` can cost anywhere.

The laptop profile leaves the setting alone: on a processor with AVX-512 bfloat16 and no AMX, accuracies were the same
and a training took 1.46 times as long (its forward products 0.94). Whoever has AMX can see here what it would save.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator

SEEDS = (0, 1, 2)
ROUNDS = 60
SHAPES = ((1024, 384, 384), (1024, 384, 1536), (1024, 1536, 384))  # tokens, in, out: the laptop encoder's layers


def run() -> bool:
    """Print times, errors and accuracies; True if ``medium``, at its worst, costs no accuracy beyond seeds' noise."""
    from lora_ref.profiles import choose
    from lora_ref.training import fine_tune

    products()
    profile = choose("laptop", strict=True)
    accuracies: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for name, side in {"highest": precision("highest"), "medium": precision("medium"), "rounded": rounded()}.items():
        with side:
            for seed in SEEDS:
                result = fine_tune("lora", profile, seed=seed, progress=False)
                accuracies.setdefault(name, []).append(result.test["accuracy"])
                seconds.setdefault(name, []).append(result.seconds)
                print(
                    f"   {name:<8} seed {seed}: test accuracy {accuracies[name][-1]:.4f}, {result.seconds:.0f} s",
                    flush=True,
                )
    ratio = statistics.median(m / h for m, h in zip(seconds["medium"], seconds["highest"], strict=True))
    print(f"   a training with medium takes {ratio:.2f} of the time with full precision")
    exact = accuracies["highest"]
    held = True
    for name in ("medium", "rounded"):
        gap = statistics.mean(accuracies[name]) - statistics.mean(exact)
        error = (statistics.variance(accuracies[name]) / len(SEEDS) + statistics.variance(exact) / len(SEEDS)) ** 0.5
        print(f"   {name}: {gap:+.4f} against full precision, standard error {error:.4f}")
        held &= gap >= -max(error, 0.005)
    return held


def products() -> None:
    """Time and error of the encoder's matrix products, both settings in turn."""
    import torch

    for tokens, n_in, n_out in SHAPES:
        x, W = torch.randn(tokens, n_in), torch.randn(n_out, n_in)
        exact = x.double() @ W.double().T
        times, errors = {"highest": [], "medium": []}, {}
        for _ in range(ROUNDS):
            for name, seconds in times.items():
                with precision(name):
                    start = time.perf_counter()
                    y = x @ W.T
                    seconds.append(time.perf_counter() - start)
                errors[name] = ((y - exact).abs().max() / exact.abs().max()).item()
        ratio = statistics.median(m / h for m, h in zip(times["medium"], times["highest"], strict=True))
        print(
            f"   {tokens} x {n_in} -> {n_out}: medium takes {ratio:.2f} of the time; largest error "
            f"{errors['highest']:.1g} and {errors['medium']:.1g}",
            flush=True,
        )


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """torch's setting for the block."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def rounded() -> Iterator[None]:
    """Every matrix product of float32 matrices rounds its operands to bfloat16; sums stay in float32."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    matrices = {torch.ops.aten.mm.default: (0, 1), torch.ops.aten.addmm.default: (1, 2)}
    matrices |= {torch.ops.aten.addmm_.default: (1, 2), torch.ops.aten.bmm.default: (0, 1)}

    class Rounding(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            args = list(args)
            for place in matrices.get(function, ()):
                if args[place].dtype == torch.float32:
                    args[place] = args[place].bfloat16().float()
            return function(*args, **(kwargs or {}))

    with Rounding():
        yield
