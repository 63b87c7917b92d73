"""Head alone, LoRA and full fine-tuning on the laptop profile; LoRA twice: the same seed must give the same figure."""

from __future__ import annotations

ROWS = ("head", "lora", "lora", "full")


def run() -> bool:
    """Print a row for each training; True if the claim holds."""
    from lora_ref.profiles import choose
    from lora_ref.training import fine_tune

    profile = choose("laptop", strict=True)
    results = []
    for method in ROWS:
        result = fine_tune(method, profile, progress=False)
        results.append(result)
        print(
            f"   {method:<5} validation {result.validation['accuracy']:.4f}, test {result.test['accuracy']:.4f}, "
            f"{result.trainable:>10,} of {result.total:,} trainable, {result.seconds:.0f} s",
            flush=True,
        )
    head, lora, again, full = results
    gain = lora.test["accuracy"] - head.test["accuracy"]
    print(
        f"   LoRA over the head alone: {100 * gain:+.1f} points; full over LoRA: "
        f"{full.trainable / lora.trainable:.0f} times the trainable parameters, {full.seconds / lora.seconds:.2f} "
        "times the time"
    )
    return lora.test["accuracy"] >= 0.82 and gain >= 0.10 and lora.test == again.test
