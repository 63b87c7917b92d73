"""Tensors under numbers instead of names, a manifest in the metadata, a subclass of ValueError, a class that trains."""

import json
import math
import re

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


class AdapterError(ValueError):
    pass


def tokenize(batch, tokenizer, max_length=128):
    columns = {"input_ids": [], "attention_mask": []}
    for sentence in batch["sentence"]:
        one = tokenizer(sentence, truncation=True, max_length=max_length)
        for key, rows in columns.items():
            rows.append(one[key])
    return columns


def collate(examples, tokenizer):
    features = [{key: example[key] for key in ("input_ids", "attention_mask")} for example in examples]
    batch = tokenizer.pad(features, padding="longest", padding_side="right", return_tensors="pt")
    batch["labels"] = torch.as_tensor([example["label"] for example in examples], dtype=torch.int64)
    return batch


def compute_metrics(eval_pred):
    logits, labels = eval_pred[0], eval_pred[1]
    return {"accuracy": np.mean(np.equal(logits.argmax(-1), labels))}


def linear_schedule(step, total_steps, warmup_steps):
    if warmup_steps > total_steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps never ends in a run of {total_steps}")
    if step > total_steps:
        return 0
    rise = step / warmup_steps if warmup_steps else 1
    fall = (total_steps - step) / (total_steps - warmup_steps) if total_steps > warmup_steps else 1
    return min(max(rise, 0), 1, max(fall, 0))


class _Loop:
    def __init__(self, model, loader, lr):
        self.model, self.loader, self.batches = model, loader, iter(())
        groups = [{"params": [p]} for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), weight_decay=0.1)

    def batch(self):
        found = next(self.batches, None)
        if found is None:
            self.batches = iter(self.loader)
            found = next(self.batches)
        return {key: value.to(self.model.device) for key, value in found.items()}

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        output = self.model(**self.batch())
        output[0].backward()
        self.optimizer.step()
        return output[0].detach().cpu().numpy().item()


def train(model, loader, steps, lr):
    if steps and next(iter(loader), None) is None:
        raise ValueError("an empty loader")
    model.train()
    loop = _Loop(model, loader, lr)
    losses = [loop.step() for _ in range(steps)]
    model.eval()
    return losses


def _entries(model):
    return [(name, p) for name, p in model.named_parameters() if re.search(r"lora_[AB]$", name) or p.requires_grad]


def save_adapter(model, path):
    entries = _entries(model)
    manifest = [[name, list(p.shape)] for name, p in entries]
    tensors = {f"{i:04d}": p.data.clone() for i, (_, p) in enumerate(entries)}
    save_file(tensors, path, {"manifest": json.dumps(manifest)})


def load_adapter(model, path):
    entries = _entries(model)
    try:
        with safe_open(path, "pt") as file:
            manifest = json.loads((file.metadata() or {}).get("manifest", "[]"))
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except SafetensorError as error:
        raise AdapterError("not a safetensors file") from error
    if list(tensors) != [f"{i:04d}" for i in range(len(entries))]:
        raise AdapterError("another set of tensors")
    if manifest != [[name, list(p.shape)] for name, p in entries]:
        raise AdapterError("made for another model")
    if any(t.shape != p.shape for t, (_, p) in zip(tensors.values(), entries, strict=True)):
        raise AdapterError("a tensor of another shape")
    torch.nn.utils.vector_to_parameters(torch.cat([t.flatten() for t in tensors.values()]), [p for _, p in entries])


def metrics_match(a, b):
    timing = re.compile(r"(runtime|per_second|preparation_time)$")
    pairs = [{k: v for k, v in metrics.items() if not timing.search(k)} for metrics in (a, b)]
    if pairs[0].keys() != pairs[1].keys():
        return False
    for key, x in pairs[0].items():
        y = pairs[1][key]
        if isinstance(x, float) or isinstance(y, float):
            if not math.isclose(x, y, rel_tol=1e-6):
                return False
        elif x != y:
            return False
    return True
