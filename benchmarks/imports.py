"""What ``import lora_ref`` costs beyond ``import torch``."""

from __future__ import annotations

import statistics
import subprocess
import sys

RUNS = 5
LIMIT = 0.3

CODE = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import lora_ref, lora_ref.checks
print(middle - start, time.perf_counter() - middle)
"""


def run() -> bool:
    """Print the medians in seconds and their ratio; True if the claim holds."""
    times = []
    for _ in range(RUNS + 1):
        out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
        times.append([float(word) for word in out.split()])
    torch_s, ours = (statistics.median(column) for column in zip(*times[1:], strict=True))  # the first warms the disk
    print(
        f"   import torch {torch_s:.2f} s, lora_ref on top {ours:.3f} s, ratio {ours / torch_s:.3f} (median of {RUNS})"
    )
    return ours < LIMIT
