"""Exercise 4.4, the training loop."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lora_ref.checks.calls import Effect
from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, raised, to_float
from lora_ref.checks.stage04.adamw import first_wrong, step_cause, weight_decay
from lora_ref.checks.stage04.pooled import Passes, PooledClassifier, draw_batch, forward_numpy
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, a, close
from lora_ref.rounding import pair

#: What `judge_adamw` redoes: as a forward pass is written down, and the parameter's name.
ADAPTED = {"A": "lora_A", "B": "lora_B", "classifier": "classifier"}


#: Words at which the model raises a TypeError, a RuntimeError, a ValueError.
REFUSED = ("unknown", "memory", "value")


def draw_training(
    rng: np.random.Generator, steps: int = 4, length: int = 6, passes: int = 1, stale: bool = False
) -> Inputs:
    """A model, batches that are all different, a learning rate; ``stale``: old gradients on what is frozen."""
    vocabulary, width, classes, rank = 12, 6, 3, 2
    while True:
        inputs: dict[str, Any] = {
            "words": rng.normal(size=(vocabulary, width)),
            "weight": rng.normal(size=(classes, width)),
            "A": 0.3 * rng.normal(size=(rank, width)),
            "B": 0.3 * rng.normal(size=(classes, rank)),
            "passes": [[draw_batch(rng, vocabulary, classes) for _ in range(length)] for _ in range(passes)],
            "head": rng.normal(size=classes),
            "steps": steps,
            "lr": float(np.round(10 ** rng.uniform(-2.7, -1.7), 5)),
            "stale": stale,
        }
        # gradients of a norm well below 1: who clips at 1 is right as well
        gradients = [forward_numpy(inputs, one, inputs)[1:] for batches in inputs["passes"] for one in batches]
        if max(sum((g**2).sum() for g in one) for one in gradients) < 0.6**2:
            return inputs


def probe_train(names: Names, **inputs: Any) -> dict:
    """Losses, forward passes, optimisers and final weights of a short training run."""
    model = PooledClassifier(
        *(inputs[name] for name in ("words", "weight", "A", "B", "head"))
    ).eval()  # as base_model does
    if inputs["stale"]:  # an optimiser that holds frozen parameters moves those that have a gradient
        for frozen in (p for p in model.parameters() if not p.requires_grad):
            frozen.grad = torch.ones_like(frozen)
    passes = Passes(inputs["passes"])
    # a DataLoader hands out dicts of its own; without one, what happens to a batch is seen
    loader = passes if inputs["stale"] else torch.utils.data.DataLoader(passes, batch_size=None)
    optimizers: dict[int, dict] = {}

    def note(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        optimizers.setdefault(id(optimizer), settings_of(optimizer, model))

    handle = register_optimizer_step_pre_hook(note)
    losses, stopped = None, False
    try:
        losses = names.train(model, loader, inputs["steps"], inputs["lr"])
    except StopIteration:
        stopped = True
    finally:
        handle.remove()
    items = None if losses is None or isinstance(losses, (float, int, str)) else list(losses)
    seen = {"effects": [Effect("argument", text)._asdict() for text in passes.changed[:1]]} if passes.changed else {}
    return seen | {
        "stopped": stopped,
        "kind": "" if isinstance(losses, (list, tuple)) else type(losses).__name__,
        "drawn": passes.drawn[:50],
        "kinds": sorted({type(i).__name__ for i in items or () if not isinstance(i, (float, np.floating))}),
        "losses": [to_float(i.detach() if isinstance(i, torch.Tensor) else i) for i in items or ()],
        "forwards": model.forwards,
        "optimizers": list(optimizers.values())[:20],
        "after": {name: array(p) for name, p in model.named_parameters()},
        "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
    }


def draw_counts(rng: np.random.Generator) -> Inputs:
    """Runs of no step, one, a pass less one, a pass, a pass and one, two passes."""
    return {"runs": [draw_training(rng, steps, length=3, passes=3) for steps in (0, 1, 2, 3, 4, 6)]}


def probe_counts(names: Names, **inputs: Any) -> dict:
    """Several training runs, and some on a batch at which the model raises."""
    runs = [probe_train(names, **run) for run in inputs["runs"]]
    first = inputs["runs"][-1]
    batch, *others = first["passes"][0]
    refused = [
        raised(lambda key=key: probe_train(names, **first | {"passes": [[batch | {key: batch["labels"]}, *others]]}))
        for key in REFUSED
    ]
    return {"runs": runs, "refused": refused}


def settings_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    group = optimizer.param_groups[0]
    return {
        "classes": [base.__name__ for base in type(optimizer).__mro__],
        "held": [name for name, p in model.named_parameters() if id(p) in held],
        "betas": [float(b) for b in group.get("betas", (0.9, 0.999))],
        "eps": float(group.get("eps", 1e-8)),
        "decoupled": bool(group.get("decoupled_weight_decay", False)),
    }


def batch_order(inputs: Inputs, seen: Observation) -> list[Mapping]:
    """The batches of the run's steps, pass after pass; from the second pass on if the first was only looked into."""
    passes: list[list[Mapping]] = inputs["passes"]
    order: list[Mapping] = []
    starts = [batches[0]["input_ids"] for batches in passes[:2]]
    met = seen["forwards"][0]["input_ids"] if seen["forwards"] else starts[0]
    number = int(not np.array_equal(met, starts[0]) and np.array_equal(met, starts[-1]))
    while len(order) < inputs["steps"]:
        order += passes[number % len(passes)]
        number += 1
    return order[: inputs["steps"]]


def _first_forwards(inputs: Inputs, seen: Observation) -> list[Mapping | None]:
    """For each step, the first forward pass on its batch that comes after the one before."""
    forwards, start = [], 0
    for batch in batch_order(inputs, seen):
        at = next(
            (
                i
                for i in range(start, len(seen["forwards"]))
                if np.array_equal(seen["forwards"][i]["input_ids"], batch["input_ids"])
                and np.array_equal(seen["forwards"][i]["attention_mask"], batch["attention_mask"])
            ),
            None,
        )
        forwards.append(None if at is None else seen["forwards"][at])
        start = start if at is None else at + 1
    return forwards


def form_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    """What is wrong with the list that train returns, whatever the numbers in it."""
    steps, length = inputs["steps"], len(inputs["passes"][0])
    if seen["stopped"]:
        return Fault(
            f"StopIteration after {length} batches, {steps} steps were asked for",
            "the loader is not started again: when it ends, go on with a new iter(loader)",
        )
    if seen["kind"]:
        return Fault(f"train returned {a(seen['kind'])}", "return the list of losses, one a step")
    count = len(seen["losses"])
    if count != steps:
        likely = ""
        if count == length < steps:
            likely = "the loop ends with the loader: it must be started again until all steps are done"
        elif abs(count - steps) == 1:
            likely = "one step too many or too few: compare before the step, not after it"
        elif steps > 1 and count == steps * length:
            likely = "steps counts batches, not passes over the loader"
        elif count % length == 0:
            likely = "the pass over the loader is always finished: stop in the middle of it"
        return Fault(f"{count} losses with steps={steps} and a loader of {length} batches", likely)
    if seen["kinds"]:
        likely = (
            "a loss tensor keeps its step's whole graph in memory: loss.item()" if "Tensor" in seen["kinds"] else ""
        )
        return Fault(f"losses of type {', '.join(seen['kinds'])}", likely or "one float a step")
    if _moves_on(inputs, seen):
        return Fault(
            f"after steps={steps} updates the weights move once more",
            "steps counts the updates, not the losses that are returned: compare before the update, and with 0, too",
        )
    return None


def _moves_on(inputs: Inputs, seen: Observation) -> bool:
    """Whether weights move after the last step's update: a forward pass that comes later still met others."""
    order, later = _first_forwards(inputs, seen), seen["forwards"]
    if any(forward is None for forward in order):
        return False  # its batches are another's: `_order_fault` says so
    for number, forward in enumerate(seen["forwards"]):
        if order and forward is order[-1]:
            later = seen["forwards"][number + 1 :]
    return any((forward["A"] != seen["after"]["lora_A"]).any() for forward in later)


def judge_counts(inputs: Inputs, seen: Observation) -> Fault | None:
    """As many floats as steps in each run; an error is not caught."""
    runs = list(zip(inputs["runs"], seen["runs"], strict=True))
    if fault := next((fault for run in runs if (fault := form_fault(*run))), None):
        return fault
    if not all(seen["refused"]) or len(seen["refused"]) != len(REFUSED):
        return Fault(
            "a batch that the model refuses with an error is passed over", "an error in a step is the caller's"
        )
    return None


def _order_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    """What is wrong with the batches that the forward passes met."""
    length, order = len(inputs["passes"][0]), _first_forwards(inputs, seen)
    missing = next((k for k, forward in enumerate(order) if forward is None), None)
    if missing is None:
        return None
    met = [f["input_ids"] for f in seen["forwards"]]
    first = [batch["input_ids"] for batch in inputs["passes"][0]]
    starts = [batches[0]["input_ids"] for batches in inputs["passes"]]
    if not met:
        return NO_PASS
    if missing == 0:
        likely = "the first forward pass is not on the loader's first batch, or not on all of it: model(**batch)"
    elif missing == 1 and len(met) > 1 and any(np.array_equal(met[1], start) for start in starts):
        likely = "next(iter(loader)) at each step starts the loader again, and only ever meets a first batch"
    elif (
        missing == length and len(met) > length and all(np.array_equal(m, first[i % length]) for i, m in enumerate(met))
    ):
        likely = (
            "itertools.cycle, or a list, replays the first pass: no new shuffle, and all batches stay in memory. "
            "When the loader ends, iterate over it again"
        )
    elif missing == length == len(met):
        likely = "the loader is not started again when it ends"
    else:
        likely = "each step takes the loader's next batch, and model(**batch) gets all of it"
    seen_text = (
        f"step {missing} is not on batch {missing % length} of the loader's pass {missing // length} (counted from 0)"
    )
    return Fault(seen_text, likely)


def judge_restart(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := form_fault(inputs, seen) or _order_fault(inputs, seen) or _later_fault(inputs, seen):
        return fault
    if len(set(seen["drawn"])) < len(seen["drawn"]) and not seen.get("effects"):
        likely = "a generator is put back to where it was: a loader that shuffles gives one order each time"
        return Fault("two passes over the loader draw the same random numbers", likely)
    return None


def _later_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    """What goes wrong once the loader has started again, in a run whose first pass is right."""
    first = {**inputs, "steps": len(inputs["passes"][0])}
    if inputs["steps"] > first["steps"]:
        for judge in (judge_mode, judge_adamw):
            if judge(first, seen) is None and (fault := judge(inputs, seen)):
                return fault
    return None


def judge_losses(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := judge_restart(inputs, seen):
        return fault
    if not inputs["steps"]:
        return None
    order, losses = batch_order(inputs, seen), seen["losses"]
    params = list(filter(None, _first_forwards(inputs, seen)))  # no step is without one by now
    wanted = [forward_numpy(inputs, batch, at)[0] for batch, at in zip(order, params, strict=True)]
    if close(losses, wanted, 1e-6):
        return None
    end = seen["after"]
    last: Mapping = {"A": end["lora_A"], "B": end["lora_B"], "head": end["classifier"] + end["bias"]}
    after = [forward_numpy(inputs, batch, at)[0] for batch, at in zip(order, [*params[1:], last], strict=True)]
    running = np.cumsum(wanted) / np.arange(1, len(wanted) + 1)
    likely = ""
    if close(losses, after, 1e-6):
        likely = "the loss is measured after the step: record the one that backward was called on"
    elif close(losses, running, 1e-6):
        likely = "a running mean: return each step's own loss"
    elif len(wanted) > 1 and close(losses, [wanted[0]] * len(wanted), 1e-6):
        likely = "the same number at each step"
    right = np.abs(np.asarray(losses, dtype=float) - wanted) <= 1e-6 * max(1.0, float(np.abs(wanted).max()))
    at = int(np.argmin(right))  # the first that is wrong
    shown, asked = pair(losses[at], wanted[at], tolerance=1e-6)
    return Fault(
        f"losses[{at}] = {shown}, the model's loss on that batch before the step is {asked}",
        likely,
    )


def judge_adamw(inputs: Inputs, seen: Observation) -> Fault | None:
    """Redo each step with the gradients at the weights that the forward passes met.

    Any weight decay is fine: it is read off the first step, where AdamW's own part is lr times the gradient's sign.
    """
    if fault := _order_fault(inputs, seen):
        return fault
    lr = inputs["lr"]
    forwards, order = list(filter(None, _first_forwards(inputs, seen))), batch_order(inputs, seen)
    used = seen["optimizers"]
    named = next((o for o in used if "AdamW" in o["classes"]), None)
    betas, eps = (named["betas"], named["eps"]) if named else ([0.9, 0.999], 1e-8)
    for which, (name, shown_name) in enumerate(ADAPTED.items()):
        # a run of the wrong length says nothing of its last step; that is another check's matter
        last = [seen["after"][shown_name]] if len(seen["forwards"]) == inputs["steps"] else []
        path = [f[name] for f in forwards] + last
        moves = [b - a for a, b in itertools.pairwise(path)]
        grads = [forward_numpy(inputs, b, f)[1:][which] for b, f in zip(order, forwards, strict=True)][: len(moves)]
        if not any(np.any(m != 0) for m in moves):
            if name == "classifier":
                continue  # whether it trains at all is `judge_trainable_alone`'s
            return Fault(
                f"{shown_name} has not moved after {len(moves)} steps",
                NOTHING_MOVES,
            )
        decay = weight_decay(moves[0], path[0], grads[0], lr, eps)
        wrong = first_wrong(moves, path, grads, lr, decay, betas, eps)
        if wrong is None:
            continue
        if wrong[0] == 0:  # nothing about this optimiser is AdamW's, so neither is the decay
            wrong = first_wrong(moves, path, grads, lr, 0.0, betas, eps) or wrong
        at, wanted = wrong
        shown, asked = pair(*(float(np.median(np.abs(move)) / lr) for move in (moves[at], wanted)), tolerance=1e-3)
        which_one = "the middle one"
        if shown == asked:  # the entry that differs most
            worst = np.unravel_index(np.argmax(np.abs(moves[at] - wanted)), wanted.shape)
            shown, asked = pair(*(float(abs(move[worst]) / lr) for move in (moves[at], wanted)), tolerance=1e-3)
            which_one = "one"
        moved = f"step {at} (counted from 0) moves {which_one} of {shown_name}'s entries"
        return Fault(
            f"{moved} by {shown} lr, AdamW by {asked} lr",
            step_cause(moves, path, grads, lr, betas, eps, used, decay, at, wanted),
        )
    return None


def judge_learns(inputs: Inputs, seen: Observation) -> Fault | None:
    """The main thing: a first step moves A and B down the loss. How far, is `judge_adamw`'s."""
    if fault := _order_fault(inputs, seen):
        return fault
    start, *later = (forward for forward in _first_forwards(inputs, seen) if forward is not None)
    grads = forward_numpy(inputs, batch_order(inputs, seen)[0], start)[1:]
    for name, grad in zip("AB", grads, strict=False):
        ratio = np.abs(grad) / np.maximum(np.abs(start[name]), 1e-12)
        counts = ratio > min(0.2, ratio.max() / 2)  # elsewhere a weight decay may have the last word
        if ((later[0][name] - start[name]) * grad * counts).sum() >= 0:
            return judge_adamw(inputs, seen) or Fault(f"the first step does not move lora_{name} down the loss", "")
    return None


def judge_trainable_alone(inputs: Inputs, seen: Observation) -> Fault | None:
    if seen["stopped"]:
        return form_fault(inputs, seen)
    frozen = {"words": inputs["words"], "weight": inputs["weight"], "classifier_norm": 1.0}
    trains = {"lora_A": inputs["A"], "lora_B": inputs["B"], "classifier": inputs["head"], "bias": 0.0}
    thawed = [name for name in frozen if seen["trainable"][name]]
    moved = [name for name, given in frozen.items() if (seen["after"][name] != given).any()]
    if thawed or moved:
        what = (
            f"requires_grad was switched on for {', '.join(thawed)}" if thawed else f"frozen {', '.join(moved)} changed"
        )
        likely = (
            "the optimiser was given all of model.parameters(), and old gradients or decay move frozen ones: pass "
            "those with requires_grad"
        )
        if thawed:
            likely = "train leaves requires_grad as it is: the flags say what trains"
        return Fault(what, likely)
    still = [name for name, given in trains.items() if (seen["after"][name] == given).all()]
    if still:
        likely = "the optimiser needs every parameter with requires_grad, and a step() after each backward()"
        if not seen["forwards"]:
            return NO_PASS
        if len(still) == len(trains):
            likely = NOTHING_MOVES
        if still in (["classifier"], ["classifier", "bias"]):
            likely = "the head trains as well as LoRA: go by requires_grad, not by lora_ in a name"
        elif still == ["bias"]:
            likely = "go by requires_grad: what trains may have any name, and what is frozen, too"
        return Fault(f"{', '.join(still)} must train, and {'has' if len(still) == 1 else 'have'} not moved", likely)
    asleep = [name for name in trains if not seen["trainable"][name]]
    if asleep:
        return Fault(
            f"requires_grad was switched off for {', '.join(asleep)}",
            "train leaves requires_grad as it is: the model may be trained further",
        )
    return None


def judge_mode(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := _order_fault(inputs, seen):
        return fault
    modes = [forward["training"] for forward in seen["forwards"][: inputs["steps"]]]
    if all(modes):
        return None
    return Fault(
        f"the model is in evaluation mode at step {modes.index(False)}",
        "evaluation mode turns dropout off, and base_model returns models in it: model.train() before the steps"
        if not modes[0]
        else "model.eval() turns dropout off; training wants model.train(), in each pass",
    )


NO_PASS = Fault("the given model never runs a forward pass", "train the model that is passed, not a copy of it")
NOTHING_MOVES = (
    "optimizer.step() is missing, comes when there are no gradients (before backward(), after zero_grad()), or the "
    "optimizer holds other parameters than this model's"
)


EXERCISE = Exercise(
    "4.4",
    "the training loop",
    names=("train",),
    checks=[
        Check(
            "4.4/losses",
            (
                "train returns one float a step: the loss of that step's batch before the update; "
                "a loader that ends is started again"
            ),
            probe_train,
            judge_losses,
            partial(draw_training, steps=7, length=3, passes=4),
            seed=6,
            after=("4.4/frozen",),
        ),
        Check(
            "4.4/count",
            "train returns exactly as many floats as steps, be it none, one, or more than the loader has",
            probe_counts,
            judge_counts,
            draw_counts,
            seed=6,
        ),
        Check("4.4/mode", "the model is in training mode at each step", probe_train, judge_mode, draw_training, seed=6),
        Check(
            "4.4/adamw",
            "each step is AdamW's, with the learning rate that was passed",
            probe_train,
            judge_adamw,
            draw_training,
            seed=6,
            after=("4.4/frozen",),
        ),
        Check(
            "4.4/frozen",
            "all that has requires_grad trains, the head too; what is frozen stays as it is",
            probe_train,
            judge_trainable_alone,
            partial(draw_training, stale=True),
            seed=6,
        ),
    ],
)
