"""What the libraries have ready: DataCollatorWithPadding, load_state_dict, np.interp, np.isclose."""

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def tokenize(batch, tokenizer, max_length=128):
    encoded = tokenizer(list(batch["sentence"]), truncation="longest_first", max_length=max_length, padding=False)
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def collate(examples, tokenizer):
    from transformers import DataCollatorWithPadding

    side, tokenizer.padding_side = tokenizer.padding_side, "right"
    try:
        return DataCollatorWithPadding(tokenizer)(examples)
    finally:
        tokenizer.padding_side = side


def compute_metrics(eval_pred):
    logits, labels = (torch.from_numpy(array) for array in eval_pred)
    return {"accuracy": (logits.argmax(dim=1) == labels).double().mean().item()}


def linear_schedule(step, total_steps, warmup_steps):
    if warmup_steps >= total_steps:
        return min(1.0, step / total_steps) if step < total_steps else 0.0
    return np.interp(step, [0, warmup_steps, total_steps], [0.0 if warmup_steps else 1.0, 1.0, 0.0])


def train(model, loader, steps, lr):
    optimizer = torch.optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), lr, weight_decay=0.0)
    model.train()
    batches = iter(loader)
    losses = []
    for _ in range(steps):
        try:
            batch = next(batches)
        except StopIteration:
            batches = iter(loader)
            batch = next(batches)
        outputs = model(**batch)
        outputs["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        losses.append(float(outputs["loss"]))
    return losses


def save_adapter(model, path):
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    save_file({name: t for name, t in model.state_dict().items() if name in trainable}, path, metadata={"format": "pt"})


def load_adapter(model, path):
    tensors = load_file(path)
    wanted = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    if {name: t.shape for name, t in tensors.items()} != wanted:
        raise ValueError("the file's names and shapes are not the model's")
    model.load_state_dict(tensors, strict=False)
    return model


def metrics_match(a, b):
    def kept(metrics):
        return sorted(k for k in metrics if not k.endswith(("runtime", "per_second", "preparation_time")))

    return kept(a) == kept(b) and bool(np.allclose([a[k] for k in kept(a)], [b[k] for k in kept(a)], rtol=1e-6, atol=0))
