"""As little of a library as possible: tokens are sliced, AdamW is written out, tensors are chosen by name."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.numpy import save_file


def tokenize(batch, tokenizer, max_length=128):
    rows = [tokenizer.encode(sentence) for sentence in batch["sentence"]]
    rows = [row if len(row) <= max_length else [*row[: max_length - 1], row[-1]] for row in rows]
    return {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}


def collate(examples, tokenizer):
    pad = torch.nn.utils.rnn.pad_sequence
    ids = [torch.tensor(example["input_ids"]) for example in examples]
    masks = [torch.tensor(example["attention_mask"]) for example in examples]
    return {
        "labels": torch.LongTensor([example["label"] for example in examples]),
        "input_ids": pad(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
        "attention_mask": pad(masks, batch_first=True),
    }


def compute_metrics(eval_pred):
    logits, labels = eval_pred
    right = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        right += row.index(max(row)) == label
    return {"accuracy": right / len(labels)}


def linear_schedule(step, total_steps, warmup_steps):
    if step >= total_steps:
        return 0.0
    if warmup_steps > 0 and step < warmup_steps:
        return float(step) / float(warmup_steps)
    return float(total_steps - step) / float(total_steps - warmup_steps)


def train(model, loader, steps, lr):
    betas, eps, decay = (0.9, 0.999), 1e-8, 0.01
    parameters = [p for _, p in model.named_parameters() if p.requires_grad]
    means = [torch.zeros_like(p) for p in parameters]
    squares = [torch.zeros_like(p) for p in parameters]

    def forever():
        while True:
            yield from loader

    model.train()
    losses = []
    for step, batch in zip(range(1, steps + 1), forever(), strict=False):
        loss = model(**batch).loss
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, means, squares, strict=True):
                p *= 1 - lr * decay
                m.lerp_(g, 1 - betas[0])
                v.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
                p -= lr * (m / (1 - betas[0] ** step)) / ((v / (1 - betas[1] ** step)).sqrt() + eps)
        losses += [loss.item()]
    return losses


def _wanted(model):
    for name, p in model.named_parameters():
        if ".lora_" in name or name.startswith("classifier."):
            yield name, p


def save_adapter(model, path):
    save_file({name: p.detach().cpu().numpy() for name, p in _wanted(model)}, str(path))


def load_adapter(model, path):
    ours = dict(_wanted(model))
    if not Path(path).exists():
        raise FileNotFoundError(path)
    with safe_open(path, framework="pt") as file:
        left = set(file.keys())
        for name, p in ours.items():
            if name not in left:
                raise ValueError("missing " + name)
            if tuple(file.get_slice(name).get_shape()) != tuple(p.shape):
                raise ValueError("another shape: " + name)
            left.remove(name)
        if left:
            raise ValueError(f"unexpected {left}")
        for name, p in ours.items():
            p.data = file.get_tensor(name)


def metrics_match(a, b):
    for key in set(a) | set(b):
        if key[-7:] == "runtime" or key[-10:] == "per_second" or key[-16:] == "preparation_time":
            continue
        if key not in a or key not in b:
            return False
        x, y = a[key], b[key]
        if x != y and not abs(x - y) / max(abs(x), abs(y)) <= 1e-6:
            return False
    return True
