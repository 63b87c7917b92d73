"""Exercise 4.10, optional, what students do not get: hidden checks, mutants."""

from __future__ import annotations

from functools import partial

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage04 import x10_accumulate as room
from lora_ref.checks.verdicts import Check

HIDDEN = [
    graded(room, "4.10/batches"),
    Check(
        "4.10/restart",
        "a loader that ends within a step is started again, and that step goes on",
        room.probe_accumulation,
        room.judge_batches,
        partial(room.draw_accumulation, steps=5, accumulate=4, length=6),
    ),
    graded(room, "4.10/losses"),
    graded(room, "4.10/gradient"),
    graded(room, "4.10/clip"),
    graded(room, "4.10/updates"),
    Check(
        "4.10/one",
        "with accumulate=1 each step is on one batch",
        room.probe_accumulation,
        room.judge_gradient,
        partial(room.draw_accumulation, accumulate=1, clip=True),
    ),
    Check(
        "4.10/none",
        "steps=0 makes no update",
        room.probe_accumulation,
        room.judge_losses,
        partial(room.draw_accumulation, steps=0),
    ),
]

_NEXT = "group = [next(batches) for _ in range(accumulate)]"
_LOSS = 'part = model(**batch).loss * len(batch["labels"]) / sentences'
_ZERO = "optimizer.zero_grad()\n        total = 0.0"
_CLIP = "nn.utils.clip_grad_norm_(trainable, max_norm)"
_RATE = 'settings["lr"] = lr * schedule(step)'
_STEP = "optimizer.step()\n        history.append(total)"
_BACKWARD = "part.backward()\n            total += part.item()"

MUTANTS = [
    Mutant(
        "4.10/mean-of-means",
        "each batch counts the same, whatever its size",
        _LOSS,
        "part = model(**batch).loss / accumulate",
        "weigh each",
    ),
    Mutant("4.10/sum", "gradients are added, not averaged", _LOSS, "part = model(**batch).loss", "not averaged"),
    Mutant(
        "4.10/not-divided",
        "losses are weighed and not divided",
        _LOSS,
        _LOSS.replace(" / sentences", ""),
        "not divided by all of the step's",
    ),
    Mutant(
        "4.10/zero-each-batch",
        "gradients are cleared before each batch",
        _BACKWARD,
        f"optimizer.zero_grad()\n            {_BACKWARD}",
        "zero_grad() comes once a step",
    ),
    Mutant("4.10/never-zero", "gradients are never cleared", _ZERO, "total = 0.0", "of the step before is still there"),
    Mutant(
        "4.10/step-each-batch",
        "an update after each batch",
        _BACKWARD,
        f"{_BACKWARD}\n            optimizer.step()",
        "once, after the step's last batch",
    ),
    Mutant("4.10/no-clip", "nothing is clipped", _CLIP, "pass", "clip_grad_norm_ is missing"),
    Mutant(
        "4.10/clip-each-batch",
        "clipped after each batch",
        _BACKWARD,
        f"{_BACKWARD}\n            {_CLIP}",
        "clipping comes once a step",
    ),
    Mutant(
        "4.10/clip-value",
        "entries are clipped, not the norm",
        _CLIP,
        "nn.utils.clip_grad_value_(trainable, max_norm)",
        "clip_grad_norm_",
    ),
    Mutant("4.10/no-schedule", "a constant rate", _RATE, 'settings["lr"] = lr', "the schedule is not used"),
    Mutant(
        "4.10/schedule-late", "the rate of the next step", _RATE, _RATE.replace("step)", "step + 1)"), "schedule(0)"
    ),
    Mutant(
        "4.10/schedule-multiplied",
        "factors are multiplied up",
        _RATE,
        'settings["lr"] *= schedule(step)',
        "multiplied up",
    ),
    Mutant(
        "4.10/one-batch", "a step is on one batch", _NEXT, "group = [next(batches)]", "as many batches as accumulate"
    ),
    Mutant(
        "4.10/starts-again",
        "each step starts the loader again",
        _NEXT,
        "batches = iter(loader)\n        group = [next(batches) for _ in range(accumulate)]",
        "keep one iterator",
    ),
    Mutant(
        "4.10/ends",
        "the loader is not started again",
        "while True:\n            yield from loader",
        "yield from loader",
        "start it again",
    ),
    Mutant(
        "4.10/cycle",
        "the first pass is replayed",
        "while True:\n            yield from loader",
        "import itertools\n\n        yield from itertools.cycle(loader)",
        "itertools.cycle",
    ),
    Mutant("4.10/evaluation", "in evaluation mode", _NEXT, f"model.eval()\n        {_NEXT}", "model.train() first"),
    Mutant(
        "4.10/last-loss",
        "the loss of the last batch",
        _STEP,
        _STEP.replace("(total)", "(part.item())"),
        "only the last batch's part",
    ),
    Mutant(
        "4.10/tensors",
        "losses are tensors",
        _BACKWARD,
        _BACKWARD.replace("part.item()", "part"),
        "loss.item()",
    ),
    Mutant(
        "4.10/sgd",
        "plain gradient descent",
        "optimizer = torch.optim.AdamW(trainable, lr=lr, weight_decay=0.0)",
        "optimizer = torch.optim.SGD(trainable, lr=lr)",
        "torch.optim.AdamW",
    ),
    Mutant(
        "4.10/everything-held",
        "the optimiser holds what is frozen",
        "torch.optim.AdamW(trainable, lr=lr, weight_decay=0.0)",
        "torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)",
        "those with requires_grad",
    ),
]
