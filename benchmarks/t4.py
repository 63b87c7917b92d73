"""The ``t4`` profile's training on a GPU, without the hub: steps beside PEFT's, memory, files bit for bit, the tests.

roberta-base is built from its configuration with random weights and trains on the laptop profile's reviews with the
``t4`` profile's own settings, fp16 among them: what a step costs does not depend on what the weights are.

``python -m benchmarks t4 --tiny`` runs the same script on a CPU with a tiny model and a few steps: it shows that the
script works, and nothing about a GPU.
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

RANK, ALPHA = 8, 16
ROOT = Path(__file__).resolve().parents[1]


def run(tiny: bool = False) -> bool | None:
    """Print what was measured; True if the claims hold, None where there is no GPU to measure."""
    import torch

    if not torch.cuda.is_available():
        if not tiny:
            print("   not run: torch sees no CUDA GPU here (--tiny tries the script on the CPU)")
            return None
        print("   on a CPU, with a tiny model: this was NOT run on a GPU, and its times say nothing about one")
    else:
        print(f"   on {torch.cuda.get_device_name(0)}")
    steps = 8 if tiny else 60
    profile, model, tokenizer, data = parts(tiny)
    held = True
    for method in ("head", "lora", "full"):
        held &= train(method, profile, copy.deepcopy(model), tokenizer, data, steps)
    ratio = pairs(profile, model, tokenizer, data, steps)
    held &= tests(tiny)
    if tiny:
        return None if held else False
    return held and ratio >= 1


def parts(tiny: bool):
    """The profile, a random base model, and a tokenizer with its sentences."""
    from lora_ref import costs, data, models
    from lora_ref.profiles import LAPTOP, T4, TINY

    if tiny:
        return T4, models.tiny_roberta(seed=0), models.tiny_tokenizer(), data.reviews(TINY)
    from transformers import RobertaForSequenceClassification

    with models.seeded(0):
        model = RobertaForSequenceClassification(costs.roberta_base_config()).eval()
    return T4, model, models.tokenizer(LAPTOP), data.reviews(LAPTOP)  # its tokens are all below 50,265


def train(method: str, profile, model, tokenizer, data, steps: int) -> bool:
    """Train, print the time and the memory, and for LoRA save and load: True if all came back bit for bit."""
    import torch

    from lora_ref.adapters import load_adapter, save_adapter
    from lora_ref.inject import inject_lora, merge_lora, unmerge_lora
    from lora_ref.training import ENCODER_LINEARS, fine_tune, predict_logits

    fresh = copy.deepcopy(model)
    options = {"model": model, "tokenizer": tokenizer, "data": data, "rank": RANK, "alpha": ALPHA, "progress": False}
    result = fine_tune(method, profile, max_steps=steps, **options)
    finite = all(torch.tensor(result.losses).isfinite())
    print(
        f"   {method:<5} {1000 * result.seconds / steps:8.1f} ms a step, with one validation; peak "
        f"{result.peak_memory / 1e6:,.0f} MB ({result.memory_increase / 1e6:,.0f} MB above the start); losses "
        f"{result.losses[0]:.3f} to {result.losses[-1]:.3f}",
        flush=True,
    )
    if method != "lora":
        return finite
    trained, sentences = result.model, data["test"].select(range(min(64, len(data["test"]))))

    def logits(m):
        return predict_logits(m, sentences, tokenizer, profile.eval_batch_size, profile.max_length)

    right = logits(trained)
    with tempfile.TemporaryDirectory() as folder:
        path = save_adapter(trained, Path(folder) / "adapter.safetensors")
        again = inject_lora(fresh, ENCODER_LINEARS, rank=RANK, alpha=ALPHA).to(trained.device)
        same = torch.equal(logits(load_adapter(again, path)), right)
    same &= torch.equal(logits(unmerge_lora(merge_lora(trained))), right)
    print(f"   saved, loaded, merged and unmerged: {'the same logits bit for bit' if same else 'OTHER LOGITS'}")
    return finite and same


def pairs(profile, model, tokenizer, data, steps: int) -> float:
    """PEFT's time a step over ours, the median of pairs on the same batches, both in the profile's precision."""
    import torch
    from peft import LoraConfig, get_peft_model

    from lora_ref.data import collate
    from lora_ref.evaluation import tokenized
    from lora_ref.inject import inject_lora
    from lora_ref.training import ENCODER_LINEARS

    warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT asks transformers for what has a new name
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(ENCODER_LINEARS), modules_to_save=["classifier"], bias="none"
    )
    ours = inject_lora(copy.deepcopy(model), ENCODER_LINEARS, rank=RANK, alpha=ALPHA)
    both = {"ours": ours.to(device).train(), "PEFT": get_peft_model(copy.deepcopy(model), config).to(device).train()}
    optimizers = {
        name: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=profile.learning_rates["lora"])
        for name, m in both.items()
    }
    half = profile.fp16 and device == "cuda"
    scalers = {name: torch.amp.GradScaler(device, enabled=half) for name in both}
    examples, size = tokenized(data["train"], tokenizer, profile.max_length), profile.train_batch_size
    rounds = []
    for step in range(steps + 3):
        start = step * size % (len(examples) - size)
        batch = {k: v.to(device) for k, v in collate(examples[start : start + size], tokenizer).items()}
        times = {}
        for name in both if step % 2 else reversed(both):
            wait(device)
            begun = time.perf_counter()
            with torch.autocast(device, torch.float16, enabled=half):
                loss = both[name](**batch).loss
            scalers[name].scale(loss).backward()
            scalers[name].step(optimizers[name])
            scalers[name].update()
            optimizers[name].zero_grad()
            wait(device)
            times[name] = time.perf_counter() - begun
        rounds.append(times)
    rounds = rounds[3:]  # the first warm the caches
    for name in both:
        print(f"   {name:<5} {1000 * statistics.median(t[name] for t in rounds):8.1f} ms a step of {size} sentences")
    ratio = statistics.median(t["PEFT"] / t["ours"] for t in rounds)
    print(f"   PEFT's time over ours, median of {steps} pairs of steps: {ratio:.3f}", flush=True)
    return ratio


def wait(device: str) -> None:
    """Until the GPU has done what it was told."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def tests(tiny: bool) -> bool:
    """The fast part of the test suite, where Trainer takes the GPU by itself; of it one module if ``tiny``."""
    what = ["tests/test_layers.py", "-n", "0"] if tiny else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print("   tests: " + (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= "), flush=True)
    return done.returncode == 0
