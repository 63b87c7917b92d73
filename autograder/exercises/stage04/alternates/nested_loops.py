"""One pass after the other with enumerate and a return inside; arrays first, tensors last."""

import itertools

import numpy as np
import torch
from safetensors.torch import load, save


def tokenize(batch, tokenizer, max_length: int = 128):
    return tokenizer(
        batch["sentence"],
        padding="do_not_pad",
        truncation="only_first",
        max_length=max_length,
        return_attention_mask=True,
    )


def collate(examples, tokenizer):
    lengths = [len(example["input_ids"]) for example in examples]
    shape = (len(examples), max(lengths))
    ids, mask = np.full(shape, tokenizer.pad_token_id), np.zeros(shape, dtype=int)
    for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
        ids[row, :length] = example["input_ids"]
        mask[row, :length] = example["attention_mask"]
    labels = np.array([example["label"] for example in examples])
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.from_numpy(labels).long(),
    }


def compute_metrics(eval_pred):
    logits, labels = eval_pred
    best = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return {"accuracy": np.float32((best == logits.max(axis=1)).sum() / labels.size), "count": int(labels.size)}


def linear_schedule(step, total_steps, warmup_steps):
    return torch.tensor(
        step / max(warmup_steps, 1)
        if step < warmup_steps
        else max(0, total_steps - step) / max(1, total_steps - warmup_steps),
        dtype=torch.float64,
    )


def train(model, loader, steps, lr):
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=lr, foreach=False)
    for module in model.modules():
        module.training = True
    losses = np.zeros(steps)
    passes = itertools.chain.from_iterable(loader for _ in itertools.count())
    for number, batch in enumerate(itertools.islice(passes, steps)):
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses[number] = loss.detach()
    return list(losses)


def save_adapter(model, path):
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    with open(path, "wb") as file:
        file.write(save({k: v.contiguous() for k, v in model.state_dict().items() if k not in frozen}))


def load_adapter(model, path):
    with open(path, "rb") as file:
        tensors = load(file.read())
    for name, p in model.named_parameters():
        if p.requires_grad and (name not in tensors or tensors[name].shape != p.shape):
            raise ValueError(name)
    for name in tensors:
        if not model.get_parameter(name).requires_grad if name in dict(model.named_parameters()) else True:
            raise ValueError(name)
    state = model.state_dict()
    state.update(tensors)
    model.load_state_dict(state, strict=True)


def metrics_match(a, b):
    same = True
    for one, other in ((a, b), (b, a)):
        for key, value in one.items():
            if any(key.endswith(word) for word in ("runtime", "per_second", "preparation_time")):
                continue
            same = same and key in other and bool(np.isclose(value, other[key], rtol=1e-6, atol=0))
    return same
