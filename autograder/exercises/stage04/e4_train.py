"""Exercise 4.4, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage04 import e4_train as room
from lora_ref.checks.verdicts import Check, Inputs


def _second_epoch(rng: np.random.Generator) -> Inputs:
    return room.draw_training(rng, steps=int(rng.choice([7, 8, 10])), length=3, passes=4)  # in mid-pass


HIDDEN = [
    Check(
        "4.4/losses",
        "train returns one float a step: the loss of that step's batch before the update",
        room.probe_train,
        room.judge_losses,
        room.draw_training,
        points=0.75,
    ),
    graded(room, "4.4/count", 0.5),
    Check(
        "4.4/restart",
        "when the loader ends it is started again, its new pass is used, and training goes on as before",
        room.probe_train,
        room.judge_restart,
        _second_epoch,
        points=0.75,
    ),
    Check(
        "4.4/learns",
        "a step moves LoRA's matrices down the loss",
        room.probe_train,
        room.judge_learns,
        room.draw_training,
        points=2,
    ),
    graded(room, "4.4/adamw", 1),
    graded(room, "4.4/frozen", 0.5),
    graded(room, "4.4/mode", 0.5),
]


_STEP = """    optimizer = torch.optim.AdamW(trainable, lr=lr)
    model.train()
    losses = []
    while len(losses) < steps:
        for batch in loader:
            loss = model(**batch).loss
            optimizer.zero_grad()
"""
_RECORD = "            losses.append(loss.item())\n            if len(losses) == steps:\n                break\n"
_STOP = "            if len(losses) == steps:\n                break\n"


MUTANTS = [
    Mutant(
        "4.4/slow-head",
        "the head has a learning rate of its own",
        "AdamW(trainable, lr=lr)",
        'AdamW([{"params": trainable[:2]}, {"params": trainable[2:], "lr": lr / 10}], lr=lr)',
        "of classifier's entries",
    ),
    Mutant(
        "4.4/pops-labels",
        "the labels are taken out of the loader's batch",
        "loss = model(**batch).loss\n",
        'labels = batch.pop("labels")\n            loss = model(labels=labels, **batch).loss\n',
        "labels of a batch is not what it was",
    ),
    Mutant(
        "4.4/one-list",
        "one list for all runs, emptied for each",
        "losses = []",
        'losses = train.__dict__.setdefault("losses", [])\n    losses.clear()',
        "changed what the first one had returned",
    ),
    Mutant(
        "4.4/passes-over-errors",
        "a batch that does not fit into memory is left out",
        "loss = model(**batch).loss\n",
        "try:\n                loss = model(**batch).loss\n            except RuntimeError:\n"
        "                return losses\n",
        "passed over",
    ),
    Mutant(
        "4.4/all-parameters",
        "the optimiser holds the frozen parameters too, and old gradients move them",
        _STEP,
        _STEP.replace("trainable", "model.parameters()").replace(
            "optimizer.zero_grad()", "[parameter.grad.zero_() for parameter in trainable if parameter.grad is not None]"
        ),
        "was given all of model.parameters()",
        "S1",
    ),
    Mutant(
        "4.4/lora-alone",
        "the optimiser goes by names, and the head never trains",
        "[parameter for parameter in model.parameters() if parameter.requires_grad]",
        '[parameter for name, parameter in model.named_parameters() if "lora_" in name]',
        "the head trains as well as LoRA",
    ),
    Mutant(
        "4.4/by-names",
        "the optimiser goes by the names of LoRA and head, whatever trains",
        "[parameter for parameter in model.parameters() if parameter.requires_grad]",
        '[p for name, p in model.named_parameters() if "lora_" in name or "classifier" in name]',
        "what trains may have any name",
    ),
    Mutant(
        "4.4/freezes-at-the-end",
        "all is frozen once it is trained",
        "    return losses\n    ### END",
        "    model.requires_grad_(False)\n    return losses\n    ### END",
        "requires_grad was switched off",
    ),
    Mutant(
        "4.4/thaws-all",
        "requires_grad is switched on everywhere",
        "model.train()\n",
        "model.train().requires_grad_(True)\n",
        "requires_grad was switched on",
        "S2",
    ),
    Mutant(
        "4.4/sgd", "plain SGD", "torch.optim.AdamW(trainable, lr=lr)", "torch.optim.SGD(trainable, lr=lr)", "plain SGD"
    ),
    Mutant(
        "4.4/adam",
        "Adam without decoupled decay",
        "AdamW(trainable, lr=lr)",
        "Adam(trainable, lr=lr, weight_decay=0.1)",
        "torch.optim.AdamW",
    ),
    Mutant(
        "4.4/adagrad",
        "another adaptive optimiser",
        "torch.optim.AdamW(trainable, lr=lr)",
        "torch.optim.Adagrad(trainable, lr=lr)",
        "the optimiser is Adagrad",
    ),
    Mutant(
        "4.4/own-learning-rate",
        "lr is not passed on",
        "AdamW(trainable, lr=lr)",
        "AdamW(trainable)",
        "the learning rate is",
    ),
    Mutant("4.4/no-zero-grad", "gradients add up", "            optimizer.zero_grad()\n", "", "zero_grad() is missing"),
    Mutant(
        "4.4/no-step", "the weights never move", "            optimizer.step()\n", "", "optimizer.step() is missing"
    ),
    Mutant(
        "4.4/step-first",
        "step before backward, with gradients cleared in between",
        "loss.backward()\n            optimizer.step()\n",
        "optimizer.step()\n            loss.backward()\n",
        "optimizer.step() is missing",
    ),
    Mutant("4.4/climbs", "the loss is maximised", "loss.backward()", "(-loss).backward()", "the steps climb the loss"),
    Mutant(
        "4.4/new-optimiser-each-step",
        "the optimiser forgets its moments",
        "loss = model(**batch).loss\n",
        "loss = model(**batch).loss\n            optimizer = torch.optim.AdamW(trainable, lr=lr)\n",
        "made again in the loop",
    ),
    Mutant(
        "4.4/new-optimiser-each-pass",
        "the optimiser forgets its moments when the loader ends",
        "        for batch in loader:",
        "        optimizer = torch.optim.AdamW(trainable, lr=lr)\n        for batch in loader:",
        "made again for each pass",
    ),
    Mutant(
        "4.4/halves-the-rate",
        "the learning rate is halved after each pass",
        _STOP,
        f'{_STOP}        optimizer.param_groups[0]["lr"] *= 0.5\n',
        "times the one that was passed",
    ),
    Mutant(
        "4.4/eval-after-a-pass",
        "the model is left in evaluation mode at the end of a pass",
        _STOP,
        f"{_STOP}        model.eval()\n",
        "in evaluation mode at step 3",
    ),
    Mutant(
        "4.4/one-pass",
        "the loop ends with the loader",
        "while len(losses) < steps:",
        "if steps:",
        "it must be started again",
    ),
    Mutant(
        "4.4/cycle",
        "itertools.cycle replays the first pass",
        "for batch in loader:",
        "for batch in __import__('itertools').cycle(loader):",
        "replays the first pass",
    ),
    Mutant(
        "4.4/first-batch-only",
        "the loader is started again at each step",
        "for batch in loader:",
        "for batch in [next(iter(loader))]:",
        "only ever meets a first batch",
    ),
    Mutant("4.4/whole-passes", "stops at the end of a pass alone", _STOP, "", "stop in the middle of it"),
    Mutant(
        "4.4/one-too-many",
        "one step too many",
        "if len(losses) == steps:",
        "if len(losses) > steps:",
        "one step too many",
    ),
    Mutant(
        "4.4/keeps-graphs",
        "losses are tensors",
        "losses.append(loss.item())",
        "losses.append(loss)",
        "keeps its step's whole graph",
    ),
    Mutant(
        "4.4/loss-after-step",
        "the loss is measured again after the update",
        "losses.append(loss.item())",
        "losses.append(model(**batch).loss.item())",
        "measured after the step",
    ),
    Mutant(
        "4.4/running-mean",
        "the mean of all losses so far",
        "losses.append(loss.item())",
        "losses.append((sum(losses[i] * (i + 1) - (losses[i - 1] * i if i else 0) for i in range(len(losses)))"
        " + loss.item()) / (len(losses) + 1))",
        "a running mean",
    ),
    Mutant("4.4/eval-mode", "dropout is off", "model.train()\n", "model.eval()\n", "turns dropout off"),
    Mutant(
        "4.4/mode-as-given", "model.train() is missing", "    model.train()\n", "", "model.train() before the steps"
    ),
    Mutant("4.4/array", "an array of losses", "return losses", "return np.array(losses)", "train returned an ndarray"),
    Mutant(
        "4.4/finishes-the-pass",
        "the pass is finished, and the list is cut to steps",
        f"{_STOP}    return losses",
        "    return losses[:steps]",
        "steps counts the updates",
    ),
    Mutant(
        "4.4/one-order",
        "each pass is seeded, so that a loader shuffles alike",
        "        for batch in loader:",
        "        torch.manual_seed(0)\n        for batch in loader:",
        "is the notebook's to call",
    ),
    Mutant(
        "4.4/leaves-autograd-off",
        "autograd stays switched off",
        "    return losses\n    ### END",
        "    torch.set_grad_enabled(False)\n    return losses\n    ### END",
        "left autograd switched off",
    ),
    Mutant(
        "4.4/last-not-stepped",
        "the last update is left out",
        f"            optimizer.step()\n{_RECORD}",
        f"{_RECORD}            optimizer.step()\n",
        "the last one too",
    ),
    Mutant(
        "4.4/passes-over-values",
        "a ValueError skips the batch",
        "            loss = model(**batch).loss\n",
        "            try:\n                loss = model(**batch).loss\n"
        "            except ValueError:\n                continue\n",
        "is the caller's",
    ),
]
