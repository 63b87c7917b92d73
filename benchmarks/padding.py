"""The same sentences trained with padding to 512 tokens and with padding to the longest of the batch.

Each side runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

STEPS = 3
BATCH = 32
LONGEST = 512  # what a homework's padding="max_length" gives


def run() -> bool:
    """Print seconds a step, tokens a batch and peak memory of both sides; True if the claim holds."""
    sides = {name: measured(name) for name in ("longest of the batch", "512 tokens")}
    for name, side in sides.items():
        print(
            f"   {name:<21} {side['seconds']:7.2f} s a step (median of {STEPS}), "
            f"{side['tokens']:7,.0f} tokens a batch, peak {side['bytes'] / 1e9:5.2f} GB, "
            f"loss of the first step {side['loss']:.6f}"
        )
    ours, theirs = sides.values()
    speed, memory = theirs["seconds"] / ours["seconds"], theirs["bytes"] / ours["bytes"]
    print(f"   ratio: {speed:.1f} in time, {memory:.1f} in peak memory")
    return speed > 10 and abs(ours["loss"] - theirs["loss"]) < 1e-4


def measured(side: str) -> dict[str, float]:
    """One side, measured in another process."""
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.padding", side], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(out.splitlines()[-1])


def train(side: str) -> dict[str, float]:
    """Train LoRA r=8 on the laptop encoder for a few steps, padded as ``side`` says."""
    import torch

    from lora_ref import data, models
    from lora_ref.inject import inject_lora
    from lora_ref.profiles import choose
    from lora_ref.training import ENCODER_LINEARS

    profile = choose("laptop", strict=True)
    tokenizer = models.tokenizer(profile)
    torch.manual_seed(0)
    # no dropout: the two sides then compute the same function, and their first losses must agree
    model = inject_lora(models.base_model(profile), ENCODER_LINEARS).eval()
    sentences = data.reviews(profile)["train"].select(range(BATCH * STEPS))
    tokens = sentences.map(lambda batch: data.tokenize(batch, tokenizer), batched=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    seconds, sizes, losses = [], [], []
    for step in range(STEPS):
        batch = data.collate([tokens[i] for i in range(step * BATCH, (step + 1) * BATCH)], tokenizer)
        if side == "512 tokens":
            short = LONGEST - batch["input_ids"].shape[1]
            pad = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0}
            for name, value in pad.items():
                batch[name] = torch.nn.functional.pad(batch[name], (0, short), value=value)
        start = time.perf_counter()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        sizes.append(batch["input_ids"].numel())
        losses.append(loss.item())
    return {
        "seconds": statistics.median(seconds),
        "tokens": statistics.mean(sizes),
        "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts in KiB
        "loss": losses[0],
    }


if __name__ == "__main__":
    print(json.dumps(train(sys.argv[1])))
