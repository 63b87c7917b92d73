"""The loop over batches, a step when enough have come; the norm is clipped by hand, the decay is AdamW's default."""

import torch


def train_accumulated(model, loader, steps, lr, schedule, accumulate=4, max_norm=1.0):
    model.train()
    trainable = [p for _, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": trainable}], lr=lr)
    losses, waiting = [], []
    while len(losses) < steps:
        for batch in loader:
            waiting.append(batch)
            if len(waiting) < accumulate:
                continue
            total = float(sum(b["labels"].numel() for b in waiting))
            mean, gradients = 0.0, [torch.zeros_like(p) for p in trainable]
            for b in waiting:
                part = model(**b).loss * (b["labels"].numel() / total)
                for kept, new in zip(gradients, torch.autograd.grad(part, trainable), strict=True):
                    kept += new
                mean += float(part.detach())
            norm = torch.sqrt(sum(g.square().sum() for g in gradients))
            factor = min(1.0, max_norm / (float(norm) + 1e-6))
            for p, g in zip(trainable, gradients, strict=True):
                p.grad = g * factor
            optimizer.param_groups[0]["lr"] = lr * schedule(len(losses))
            optimizer.step()
            losses.append(mean)
            waiting = []
            if len(losses) == steps:
                break
    return losses
