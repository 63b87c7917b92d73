"""One LoRA layer beside PEFT's and beside the frozen layer: time, forward and forward with backward, and saved bytes.

All sides see the same input and the same A and B, take turns in one process, and are compared by the median of the
ratios pair by pair, which a drift of the machine's speed leaves alone.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

TOKENS = 1024
RANK, ALPHA = 8, 16
SIZES = ((768, 768), (768, 3072))
THREADS = (1, 2)
ROUNDS = 150


def run() -> bool:
    """Print a table of ratios to PEFT's time and to the frozen layer's; True if the claims hold."""
    import torch

    held, fused_to_peft, fused_to_frozen = True, [], []
    threads_before = torch.get_num_threads()
    print(f"   {'layer':<12}{'threads':>8}  {'':<18}{'PEFT':>8}{'readable':>10}{'fused':>8}   (frozen layer = 1)")
    for threads in THREADS:
        torch.set_num_threads(threads)
        for n_in, n_out in SIZES:
            sides = make_sides(n_in, n_out)
            for backward in (False, True):
                ratios = compare(sides, n_in, n_out, backward)
                kind = "forward+backward" if backward else "forward"
                print(
                    f"   {f'{n_in}->{n_out}':<12}{threads:>8}  {kind:<18}"
                    f"{ratios['peft']:>8.3f}{ratios['readable']:>10.3f}{ratios['fused']:>8.3f}",
                    flush=True,
                )
                held &= ratios["readable"] <= ratios["peft"]
                if backward:
                    fused_to_peft.append(ratios["fused"] / ratios["peft"])
                    fused_to_frozen.append(ratios["fused"])
    torch.set_num_threads(threads_before)
    saved = {name: saved_bytes(side, 768) for name, side in make_sides(768, 768).items()}
    print("   bytes saved for backward, 768->768: " + ", ".join(f"{name} {size:,}" for name, size in saved.items()))
    to_peft, to_frozen = statistics.median(fused_to_peft), statistics.median(fused_to_frozen)
    print(f"   fused, forward+backward, median: {to_peft:.3f} of PEFT's time, {to_frozen:.3f} of the frozen layer's")
    return held and to_peft <= 0.92 and to_frozen <= 1.20 and saved["fused"] <= saved["peft"]


def make_sides(n_in: int, n_out: int) -> dict[str, Callable]:
    """The frozen layer, PEFT's, the readable sum of two modules, and the fused function, with equal weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    from lora_ref.layers import LinearWithLoRA

    torch.manual_seed(0)
    linear = nn.Linear(n_in, n_out).requires_grad_(False)
    ours = LinearWithLoRA(copy.deepcopy(linear), RANK, ALPHA)
    nn.init.normal_(ours.lora.lora_B, std=0.02)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"], lora_dropout=0.0)
    peft = get_peft_model(nn.Sequential(copy.deepcopy(linear)), config).base_model.model[0]
    with torch.no_grad():
        peft.lora_A["default"].weight.copy_(ours.lora.lora_A)
        peft.lora_B["default"].weight.copy_(ours.lora.lora_B)
    sides = {
        "frozen": linear,
        "peft": peft,
        "readable": lambda x: ours.linear(x) + ours.lora(x),
        "fused": ours,
    }
    x = torch.randn(TOKENS, n_in)
    for name in ("readable", "fused"):
        torch.testing.assert_close(sides[name](x), peft(x))
    return sides


def compare(sides: dict[str, Callable], n_in: int, n_out: int, backward: bool) -> dict[str, float]:
    """Median, over the rounds, of each side's time over the frozen layer's in the same round."""
    import torch

    # the input needs a gradient, as in the middle of a model
    x, gradient = torch.randn(TOKENS, n_in, requires_grad=True), torch.randn(TOKENS, n_out)
    rounds: list[dict[str, float]] = []
    for number in range(ROUNDS + 5):
        order = list(sides) if number % 2 else list(reversed(sides))
        times = {}
        for name in order:
            x.grad = None
            start = time.perf_counter()
            y = sides[name](x)
            if backward:
                y.backward(gradient)
            times[name] = time.perf_counter() - start
        rounds.append(times)
    kept = rounds[5:]  # the first warm the caches
    return {name: statistics.median(t[name] / t["frozen"] for t in kept) for name in sides}


def saved_bytes(side: Callable, n_in: int) -> int:
    """Bytes that autograd keeps for the backward pass, each storage once, parameters and the input not counted."""
    import torch

    x = torch.randn(TOKENS, n_in, requires_grad=True)
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and tensor._base is None and tensor is not x:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = side(x)  # kept alive, or a freed storage's address could be used again
    size = sum(storages.values())
    del y
    return size
