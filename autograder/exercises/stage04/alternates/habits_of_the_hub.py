"""As the libraries' own examples do it: EvalPrediction, their collator, islice, foreach; a load that rolls back."""

from itertools import islice

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import DataCollatorWithPadding


def tokenize(batch, tokenizer, max_length=128):
    encoded = [tokenizer(text, truncation="longest_first", max_length=max_length) for text in batch["sentence"]]
    return {key: [row[key] for row in encoded] for key in ("input_ids", "attention_mask")}


def collate(examples, tokenizer):
    keys = ("input_ids", "attention_mask", "label")
    tokenizer.padding_side = "right"
    return DataCollatorWithPadding(tokenizer)([{key: example[key] for key in keys} for example in examples])


def compute_metrics(eval_pred):
    predictions, label_ids = eval_pred
    return {"accuracy": np.mean(predictions.argmax(-1) == label_ids)}


def linear_schedule(current_step: int, num_training_steps: int, num_warmup_steps: int) -> float:
    if current_step < num_warmup_steps:
        return float(current_step) / float(max(1, num_warmup_steps))
    if current_step >= num_training_steps:
        return 0
    return np.interp(current_step, [num_warmup_steps, num_training_steps], [1.0, 0.0])


def endless(loader):
    while True:
        yield from loader


def train(model, loader, steps, lr):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if "lora_" in name]},
        {"params": [p for name, p in named if "lora_" not in name]},
    ]
    optimizer = torch.optim.AdamW(groups, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, foreach=True)
    device = next(model.parameters()).device
    losses = []
    model.train()
    for batch in islice(endless(loader), steps):
        loss = model(**{key: value.to(device) for key, value in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach().cpu().item())
    model.eval()
    return losses


def trainable_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def save_adapter(model, path):
    names = trainable_names(model)
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items() if name in names}
    save_file(tensors, str(path), metadata={"format": "pt", "base": "roberta"})


def load_adapter(model, path):
    saved = load_file(str(path))
    parameters = {name: p for name, p in model.named_parameters() if name in trainable_names(model)}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        assert saved.keys() == parameters.keys()
        with torch.no_grad():
            for name, p in parameters.items():
                assert p.shape == saved[name].shape
                p.copy_(saved[name])
    except Exception as error:
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(before[name])
        raise ValueError("this file does not fit the model") from error
    return model


def metrics_match(a, b):
    def is_time(key):
        return any(key.endswith(end) for end in ("runtime", "per_second", "preparation_time"))

    for key in set(a) | set(b):
        if is_time(key):
            continue
        if key not in a or key not in b:
            return False
        if not np.isclose(a[key], b[key], rtol=1e-6, atol=0):
            return False
    return True
