"""A training step of LoRA on the laptop encoder, ours and PEFT's: examples a second on the same batches, and accuracy.

Time is compared step by step in one process: both sides take the same batch in turn, and the median ratio counts.
Accuracy is that of whole trainings over three seeds on the same sentences in the same order.
"""

from __future__ import annotations

import statistics
import time

STEPS = 60
SEEDS = (0, 1, 2)
RANK, ALPHA = 8, 16


def run() -> bool:
    """Print examples a second and accuracies of both sides; True if the claims hold."""
    from lora_ref.profiles import choose

    profile = choose("laptop", strict=True)
    ratio = speed(profile)
    ours, theirs = accuracies(profile)
    gap = statistics.mean(ours) - statistics.mean(theirs)
    # the standard error of a difference of two means over seeds
    error = (statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs)) ** 0.5
    print(f"   difference of the means {gap:+.4f}, its standard error {error:.4f}")
    return ratio >= 1.1 and abs(gap) <= error


def sides(profile, seed: int = 0) -> dict:
    """The two models: the same encoder, head, rank and targets."""
    from peft import LoraConfig, get_peft_model

    from lora_ref import models
    from lora_ref.inject import inject_lora
    from lora_ref.training import ENCODER_LINEARS

    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(ENCODER_LINEARS), modules_to_save=["classifier"], bias="none"
    )
    ours = inject_lora(models.base_model(profile, seed=seed), ENCODER_LINEARS, rank=RANK, alpha=ALPHA)
    return {"ours": ours, "PEFT": get_peft_model(models.base_model(profile, seed=seed), config)}


def speed(profile) -> float:
    """Our examples a second over PEFT's."""
    import torch

    from lora_ref import data, evaluation, models

    tokenizer = models.tokenizer(profile)
    examples = evaluation.tokenized(data.reviews(profile)["train"], tokenizer, profile.max_length)
    both = {name: model.train() for name, model in sides(profile).items()}
    optimizers = {
        name: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-3, fused=True)
        for name, m in both.items()
    }
    trainable = {n: sum(p.numel() for p in m.parameters() if p.requires_grad) for n, m in both.items()}
    assert len(set(trainable.values())) == 1, trainable
    size, rounds = profile.train_batch_size, []
    for step in range(STEPS + 3):
        start = step * size % (len(examples) - size)
        batch = data.collate(examples[start : start + size], tokenizer)
        times = {}
        for name in both if step % 2 else reversed(both):
            begun = time.perf_counter()
            both[name](**batch).loss.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            times[name] = time.perf_counter() - begun
        rounds.append(times)
    rounds = rounds[3:]  # the first warm the caches
    for name in both:
        print(f"   {name:<5}{statistics.median(size / t[name] for t in rounds):7.1f} examples a second (median)")
    ratio = statistics.median(t["PEFT"] / t["ours"] for t in rounds)
    print(f"   ours over PEFT's, median of {STEPS} pairs of steps: {ratio:.3f}", flush=True)
    return ratio


def accuracies(profile) -> tuple[list[float], list[float]]:
    """Test accuracies over the seeds, ours and PEFT's."""
    from lora_ref.training import fine_tune

    accuracies = {"ours": [], "PEFT": []}
    for seed in SEEDS:
        for name, model in sides(profile, seed).items():
            result = fine_tune("lora", profile, model=model, seed=seed, progress=False)
            accuracies[name].append(result.test["accuracy"])
            print(f"   seed {seed}, {name}: test accuracy {result.test['accuracy']:.4f}", flush=True)
    return accuracies["ours"], accuracies["PEFT"]
