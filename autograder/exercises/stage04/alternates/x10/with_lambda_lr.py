"""The loop with LambdaLR, an iterator that is made anew, gradients divided at the end, Adam in place of AdamW."""

import torch
from torch.optim.lr_scheduler import LambdaLR


def train_accumulated(model, loader, steps, lr, schedule, accumulate=4, max_norm=1.0):
    params = list(filter(lambda p: p.requires_grad, model.parameters()))
    optimizer = torch.optim.Adam(params, lr)
    scheduler = LambdaLR(optimizer, schedule)
    iterator, history = iter(loader), []
    model.train()
    while len(history) < steps:
        optimizer.zero_grad(set_to_none=True)
        summed, count = 0.0, 0
        for _ in range(accumulate):
            try:
                batch = next(iterator)
            except StopIteration:
                iterator = iter(loader)
                batch = next(iterator)
            n = batch["labels"].shape[0]
            loss = model(**batch).loss
            (loss * n).backward()
            summed, count = summed + loss.detach().item() * n, count + n
        for p in params:
            p.grad /= count
        torch.nn.utils.clip_grad_norm_(params, max_norm)
        optimizer.step()
        scheduler.step()
        history.append(summed / count)
    return history
