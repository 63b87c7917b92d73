"""Exercise 4.10, optional: the Trainer's loop, with gradients that add up over several batches."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, to_float
from lora_ref.checks.stage04.e4_train import settings_of
from lora_ref.checks.stage04.pooled import Passes, PooledClassifier, draw_batch, forward_numpy
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation, a, close
from lora_ref.rounding import number

#: The parameters that train.
TRAINS = ("lora_A", "lora_B", "classifier", "bias")
#: A norm that no gradient here reaches.
NEVER = 1e6


def draw_accumulation(
    rng: np.random.Generator, steps: int = 4, accumulate: int = 3, length: int = 10, clip: bool = False
) -> Inputs:
    """A model, batches of unequal size, a learning rate for each step, and with `clip` a bound well below each norm."""
    vocabulary, width, classes, rank = 12, 6, 3, 2
    batch = partial(draw_batch, rng, vocabulary, classes)
    sizes = [int(rng.permutation([1, 3, 6])[0]) if at % 3 else [2, 5][at % 2] for at in range(length)]
    inputs = {
        "words": rng.normal(size=(vocabulary, width)),
        "weight": rng.normal(size=(classes, width)),
        "A": 0.5 * rng.normal(size=(rank, width)),
        "B": 0.5 * rng.normal(size=(classes, rank)),
        "passes": [[batch(size) for size in sizes] for _ in range(1 + 2 * steps * accumulate // length)],
        "head": rng.normal(size=classes),
        "steps": steps,
        "accumulate": accumulate,
        "lr": float(np.round(10 ** rng.uniform(-2.5, -2.0), 5)),
        "factors": [float(f) for f in np.round(rng.uniform(0.2, 1.0, size=steps), 3)],
        "max_norm": NEVER,
    }
    if clip:
        at = {"A": inputs["A"], "B": inputs["B"], "head": inputs["head"]}
        norms = [norm_of(mean_gradient(inputs, group, [at] * accumulate)) for group in groups(inputs)]
        inputs["max_norm"] = min(norms) / 4
    return inputs


def groups(inputs: Inputs) -> list[list[Mapping]]:
    """The batches of each step, in the loader's order and across its passes."""
    batches = itertools.chain.from_iterable(inputs["passes"])
    return [list(itertools.islice(batches, inputs["accumulate"])) for _ in range(inputs["steps"])]


def probe_accumulation(names: Names, **inputs: Any) -> dict:
    """A run of the loop: losses, forward passes, and what each optimiser step met."""
    model = PooledClassifier(*(inputs[name] for name in ("words", "weight", "A", "B", "head"))).eval()
    loader = torch.utils.data.DataLoader(Passes(inputs["passes"]), batch_size=None)
    steps: list[dict] = []

    def before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if len(steps) < 100:
            steps.append(_step(optimizer, model))

    handle = register_optimizer_step_pre_hook(before_step)
    factors = [*inputs["factors"], *([0.0] * 5)]
    losses, stopped = None, False
    try:
        losses = names.train_accumulated(
            model,
            loader,
            inputs["steps"],
            inputs["lr"],
            lambda step: factors[step],
            accumulate=inputs["accumulate"],
            max_norm=inputs["max_norm"],
        )
    except StopIteration:
        stopped = True
    finally:
        handle.remove()
    items = list(losses) if isinstance(losses, (list, tuple)) else None
    return {
        "stopped": stopped,
        "kind": "" if items is not None else type(losses).__name__,
        "floats": all(isinstance(item, (float, np.floating)) for item in items or ()),
        "losses": [to_float(i.detach() if isinstance(i, torch.Tensor) else i) for i in items or ()],
        "forwards": model.forwards,
        "steps": steps,
        "after": {name: array(p) for name, p in model.named_parameters()},
    }


def _step(optimizer: torch.optim.Optimizer, model: PooledClassifier) -> dict:
    group = optimizer.param_groups[0]
    named = dict(model.named_parameters())
    return {
        **settings_of(optimizer, model),
        "lr": float(group["lr"]),
        "decay": float(group.get("weight_decay", 0.0)),
        "weights": {name: array(named[name]) for name in TRAINS},
        "gradients": {name: None if named[name].grad is None else array(named[name].grad) for name in TRAINS},
    }


def gradients(inputs: Inputs, group: Sequence[Mapping], at: Sequence[Mapping]) -> list[dict[str, np.ndarray]]:
    """Of each batch's mean loss, at the parameters of its own forward pass."""
    found = []
    for batch, forward in zip(group, at, strict=True):
        _, A, B, head = forward_numpy(inputs, batch, forward)
        found.append({"lora_A": A, "lora_B": B, "classifier": head, "bias": head})
    return found


def weighted(parts: Sequence[Mapping], weights: Sequence[float]) -> dict[str, np.ndarray]:
    return {name: sum(w * part[name] for w, part in zip(weights, parts, strict=True)) for name in TRAINS}


def mean_gradient(inputs: Inputs, group: Sequence[Mapping], at: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Of the mean loss over all sentences of a step."""
    sizes = [len(batch["labels"]) for batch in group]
    return weighted(gradients(inputs, group, at), [size / sum(sizes) for size in sizes])


def norm_of(gradient: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum((g**2).sum() for g in gradient.values())))


def clipped(gradient: Mapping[str, np.ndarray], most: float) -> dict[str, np.ndarray]:
    """As `torch.nn.utils.clip_grad_norm_` does it."""
    factor = min(1.0, most / (norm_of(gradient) + 1e-6))
    return {name: factor * g for name, g in gradient.items()}


def judge_losses(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := _form_fault(inputs, seen) or judge_batches(inputs, seen):
        return fault
    for step, (group, at) in enumerate(_met(inputs, seen)):
        losses = [forward_numpy(inputs, batch, forward)[0] for batch, forward in zip(group, at, strict=True)]
        sizes = [len(batch["labels"]) for batch in group]
        expected = float(np.average(losses, weights=sizes))
        if not close(seen["losses"][step], expected):
            causes = {
                "that is the mean of the batches' means: batches are of unequal size, weigh each by its sentences": (
                    np.mean(losses)
                ),
                "that is a sum: divide by the number of sentences": np.dot(losses, sizes),
                "that is the sum of the batches' losses, not the mean over the step's sentences": np.sum(losses),
                "that is the loss of the step's last batch alone": losses[-1],
                "that is only the last batch's part of the mean": losses[-1] * sizes[-1] / sum(sizes),
            }
            likely = next((cause for cause, value in causes.items() if close(seen["losses"][step], value)), "")
            return Fault(f"loss {number(seen['losses'][step])} at step {step}, expected {number(expected)}", likely)
    return None


def _form_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    if seen["stopped"]:
        return Fault("StopIteration", "when the loader ends, start it again, also within a step: iter(loader)")
    if seen["kind"]:
        return Fault(f"train_accumulated returned {a(seen['kind'])}", "return the list of losses, one a step")
    if len(seen["losses"]) != inputs["steps"]:
        likely = "steps counts updates: one loss for each, not one for each batch"
        return Fault(f"{len(seen['losses'])} losses for steps={inputs['steps']}", likely)
    if not seen["floats"]:
        return Fault("losses that are no floats", "a tensor keeps its step's whole graph: loss.item()")
    return None


def judge_batches(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each step is on the loader's next batches, one forward pass for each, in training mode."""
    if seen["stopped"]:
        return _form_fault(inputs, seen)
    order = [batch["input_ids"] for group in groups(inputs) for batch in group]
    met = [forward["input_ids"] for forward in seen["forwards"]]
    asked = f"{inputs['steps']} steps of {inputs['accumulate']} batches"
    wrong = next((k for k, (m, o) in enumerate(zip(met, order)) if not np.array_equal(m, o)), None)  # noqa: B905
    if wrong is not None:
        starts = [batches[0]["input_ids"] for batches in inputs["passes"]]
        likely = "each forward pass takes the loader's next batch, across steps: keep one iterator"
        if wrong == len(inputs["passes"][0]) and np.array_equal(met[wrong], starts[0]):
            likely = "itertools.cycle replays the first pass: when the loader ends, iterate over it again"
        elif any(np.array_equal(met[wrong], start) for start in starts):
            likely = "the loader is started again too early: keep one iterator over all steps"
        elif len(met[wrong]) > len(order[wrong]):
            likely = "batches are put together: each goes through the model by itself, so that memory stays small"
        took = next((k for k, batch in enumerate(order) if np.array_equal(met[wrong], batch)), None)
        where = "" if took is None else f" but on {took}"
        return Fault(f"forward pass {wrong} (counted from 0) is not on the loader's batch {wrong}{where}", likely)
    if len(met) != len(order):
        likely = "one forward pass and one backward for each batch, then one step for all of them"
        if len(met) == inputs["steps"]:
            likely = "a step takes as many batches as accumulate says, not one"
        return Fault(f"{len(met)} forward passes for {asked}", likely)
    if len(seen["steps"]) != inputs["steps"]:
        likely = "optimizer.step() comes once, after the step's last batch"
        if not seen["steps"]:
            likely = "a torch optimiser's step() makes the update"
        return Fault(f"{len(seen['steps'])} optimiser steps for {asked}", likely)
    if not all(forward["training"] for forward in seen["forwards"]):
        return Fault("the model is in evaluation mode", "base_model returns models in it: model.train() first")
    return None


def _met(inputs: Inputs, seen: Observation) -> list[tuple[list[Mapping], list[Mapping]]]:
    """For each step its batches and their forward passes."""
    size, forwards = inputs["accumulate"], seen["forwards"]
    return [(group, forwards[k * size : (k + 1) * size]) for k, group in enumerate(groups(inputs))]


def judge_gradient(inputs: Inputs, seen: Observation) -> Fault | None:
    """At each optimiser step the gradient is that of the mean over all its sentences, clipped at max_norm."""
    if judge_batches(inputs, seen):
        return Fault("the steps are not on the batches that were asked for", ELSEWHERE)
    most, before = inputs["max_norm"], None
    for number_, (group, at) in enumerate(_met(inputs, seen)):
        found = seen["steps"][number_]["gradients"]
        if missing := [name for name in TRAINS if found[name] is None]:
            return Fault(
                f"at step {number_} {', '.join(missing)} has no gradient", "zero_grad() comes after backward()"
            )
        if not _same(found, clipped(mean_gradient(inputs, group, at), most)):
            size, asked = norm_of(found), norm_of(clipped(mean_gradient(inputs, group, at), most))
            shown = f"the gradient's norm is {number(size)}, that of the mean's {number(asked)}"
            if close(size, asked):
                shown = "the gradient is as long as the mean's, and points in another direction"
            return Fault(f"at step {number_} {shown}", _gradient_cause(inputs, group, at, found, before))
        before = found
    return None


def _same(found: Mapping, expected: Mapping) -> bool:
    return all(close(found[name], expected[name], 1e-6) for name in TRAINS)


def _gradient_cause(
    inputs: Inputs, group: Sequence[Mapping], at: Sequence[Mapping], found: Mapping, before: Mapping | None
) -> str:
    parts, most = gradients(inputs, group, at), inputs["max_norm"]
    sizes = [len(batch["labels"]) for batch in group]
    shares = [size / sum(sizes) for size in sizes]
    ones, last = [1.0] * len(parts), [0.0] * (len(parts) - 1)
    mean = weighted(parts, shares)
    causes = {
        "clip_grad_norm_ is missing, or comes after the step": mean,
        "the mean of the batches' means: batches are of unequal size, weigh each loss by its share of the sentences": (
            weighted(parts, [1 / len(parts)] * len(parts))
        ),
        "the batches' gradients are added, not averaged: divide each loss before backward()": weighted(parts, ones),
        "losses are multiplied by their sentences, and not divided by all of the step's": weighted(parts, sizes),
        "only the last batch counts: zero_grad() comes once a step, before its first batch": (
            weighted(parts, [*last, shares[-1]])
        ),
        "only the last batch counts; zero_grad() comes once a step": weighted(parts, [*last, 1.0]),
    }
    if before is not None:
        summed = {name: mean[name] + before[name] for name in TRAINS}
        causes["the gradient of the step before is still there: zero_grad() at each step"] = summed
    fits = [cause for cause, wrong in causes.items() if _same(found, wrong) or _same(found, clipped(wrong, most))]
    if fits:  # once it is clipped, a sum is as long as a mean
        return fits[0] if len(fits) == 1 else "divide each loss by the number of all of the step's sentences"
    running: dict[str, np.ndarray] = {name: np.zeros_like(mean[name]) for name in TRAINS}
    for part, share in zip(parts, shares, strict=True):
        running = clipped({name: running[name] + share * part[name] for name in TRAINS}, most)
    each = weighted([clipped(weighted([part], [share]), most) for part, share in zip(parts, shares, strict=True)], ones)
    if _same(found, running) or _same(found, each):
        return "clipping comes once a step, after all of its batches"
    bounded = {name: np.clip(mean[name], -most, most) for name in TRAINS}
    alone = {name: clipped({name: mean[name]}, most)[name] for name in TRAINS}
    if _same(found, bounded):
        return "that bounds each entry: clip_grad_norm_ bounds the norm of all of them together"
    if _same(found, alone):
        return "each parameter is clipped by itself: one norm for all that trains"
    return ""


def judge_updates(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each step is AdamW's on the gradients it met, at lr times the schedule's factor for that step."""
    if judge_batches(inputs, seen):
        return Fault("the steps are not on the batches that were asked for", ELSEWHERE)
    steps = seen["steps"]
    first, second = (dict.fromkeys(TRAINS, 0.0) for _ in range(2))
    for k, step in enumerate(steps):
        if "AdamW" not in step["classes"] and not ("Adam" in step["classes"] and step["decay"] == 0):
            return Fault(f"the optimiser is {step['classes'][0]}", "the Trainer's is torch.optim.AdamW")
        if unheld := [name for name in TRAINS if name not in step["held"]]:
            return Fault(f"the optimiser does not hold {', '.join(unheld)}", "go by requires_grad, not by names")
        if len(step["held"]) > len(TRAINS):
            return Fault("the optimiser holds frozen parameters", "pass it those with requires_grad")
        rate = inputs["lr"] * inputs["factors"][k]
        if not close(step["lr"] / inputs["lr"], inputs["factors"][k], 1e-6):
            return Fault(
                f"step {k} (counted from 0) is at {number(step['lr'] / inputs['lr'])} lr, "
                f"schedule({k}) is {number(inputs['factors'][k])}",
                _rate_cause(inputs, k, step["lr"] / inputs["lr"]),
            )
        after = steps[k + 1]["weights"] if k + 1 < len(steps) else seen["after"]
        for name in TRAINS:
            g, weight = step["gradients"][name], step["weights"][name]
            if g is None:
                return Fault(f"at step {k} {name} has no gradient", ELSEWHERE)
            one, two = step["betas"]
            first[name] = one * first[name] + (1 - one) * g
            second[name] = two * second[name] + (1 - two) * g**2
            mean, spread = first[name] / (1 - one ** (k + 1)), np.sqrt(second[name] / (1 - two ** (k + 1)))
            moved = weight * (1 - rate * step["decay"]) - rate * mean / (spread + step["eps"])
            if not close(after[name], moved, 1e-6):
                return Fault(
                    f"step {k} (counted from 0) leaves {name} elsewhere than AdamW does",
                    "one optimiser for the whole run: its averages go on from step to step",
                )
    return None


def _rate_cause(inputs: Inputs, k: int, ratio: float) -> str:
    factors = inputs["factors"]
    if close(ratio, 1.0, 1e-6):
        return "the schedule is not used: it scales the learning rate of each step"
    if k + 1 < len(factors) and close(ratio, factors[k + 1], 1e-6):
        return "that is the next step's factor: the first step's is schedule(0)"
    if k and close(ratio, factors[k - 1], 1e-6):
        return "that is the factor of the step before: set the rate before optimizer.step()"
    if close(ratio, float(np.prod(factors[: k + 1])), 1e-6):
        return "factors are multiplied up: the rate is lr * schedule(step), not the last rate times it"
    return "the schedule counts steps, not batches"


EXERCISE = Exercise(
    "4.10",
    "the Trainer's loop, with accumulation",
    names=("train_accumulated",),
    checks=[
        Check(
            "4.10/batches",
            "a step is one forward pass on each of the loader's next batches, and one optimiser step",
            probe_accumulation,
            judge_batches,
            draw_accumulation,
            seed=410,
        ),
        Check(
            "4.10/losses",
            "train_accumulated returns a float for each step: the mean loss over its sentences, before the update",
            probe_accumulation,
            judge_losses,
            draw_accumulation,
            seed=410,
        ),
        Check(
            "4.10/gradient",
            "a step's gradient is that of the mean loss over all its sentences",
            probe_accumulation,
            judge_gradient,
            draw_accumulation,
            seed=410,
        ),
        Check(
            "4.10/clip",
            "the norm of that gradient is clipped at max_norm, once a step",
            probe_accumulation,
            judge_gradient,
            partial(draw_accumulation, clip=True),
            seed=410,
        ),
        Check(
            "4.10/updates",
            "each update is AdamW's, at lr * schedule(step)",
            probe_accumulation,
            judge_updates,
            draw_accumulation,
            seed=410,
        ),
    ],
)
