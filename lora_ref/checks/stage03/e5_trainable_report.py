"""Exercise 3.5, trainable_report."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, to_float
from lora_ref.checks.stage03.shared import build, draw_model
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation
from lora_ref.rounding import pair


def draw_report(rng: np.random.Generator, state: str = "some", shared: bool = False) -> Inputs:
    """A model of which some, all or no parameters train; ``shared``: one matrix has two names."""
    return draw_model(rng, state=state, shared=shared, frozen=rng.integers(0, 2, size=500).astype(bool))


def report_model(inputs: Inputs) -> Any:
    """The model that `trainable_report` is given."""
    model = build(inputs)
    model.extra["low"] = nn.Linear(2, 4, dtype=torch.float16)
    model.extra["image"] = nn.Conv2d(2, 3, (3, 5))
    if inputs["shared"]:
        # more numbers than float32 can count, in the memory of one
        model.large = nn.Parameter(torch.zeros(1).expand(2**24 + 3))
        model.extra["gate"].weight = model.my_query.weight
        model.mixer.add_module("3", model.mixer[0])
    for parameter, frozen in zip(model.parameters(), inputs["frozen"], strict=False):
        parameter.requires_grad_({"some": not frozen, "all": True, "none": False}[inputs["state"]])
    if inputs["state"] == "some":
        model.embeddings.requires_grad_(True)
    if inputs["shared"]:
        model.my_query.requires_grad_(True)
        model.mixer[0].requires_grad_(True)
    return model


def probe_report(names: Names, **inputs: Any) -> dict:
    """The report's three numbers, of a model that has changed since an earlier report; and what a report changes."""
    model = report_model(inputs)
    flags = [p.requires_grad for p in model.parameters()]
    image = model.extra.pop("image")
    model.requires_grad_(False).embeddings.requires_grad_(True)
    earlier, right = names.trainable_report(model), _counted(model)
    model.extra["image"] = image
    for parameter, flag in zip(model.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    before = [p.requires_grad for p in model.parameters()]
    report = names.trainable_report(model)
    if not isinstance(report, Mapping):
        return {"kind": type(report).__name__}
    keys = ("trainable", "total", "ratio")
    old = {k: v for k, v in right.items() if isinstance(earlier, Mapping) and earlier.get(k) == v}
    return {
        "old": old,
        "keys": [str(key) for key in report],
        "values": {key: to_float(report[key]) for key in keys if key in report},
        "kinds": {key: type(report[key]).__name__ for key in keys if key in report},
        "unchanged": before == [p.requires_grad for p in model.parameters()],
        "meta": _on_meta(names.trainable_report, inputs),
    }


def _counted(model: nn.Module) -> dict[str, int]:
    own = list(model.parameters())
    return {"trainable": sum(p.numel() for p in own if p.requires_grad), "total": sum(p.numel() for p in own)}


def _on_meta(trainable_report: Callable, inputs: Inputs) -> float | None:
    """The total of a model that has shapes and no memory, as the notebook counts roberta-base; None if it raises."""
    if inputs["shared"]:
        with contextlib.suppress(Exception):
            return to_float(trainable_report(build(inputs).to("meta"))["total"])
    return None


def _report_form(seen: Observation, keys: Sequence[str]) -> Fault | None:
    if "kind" in seen:
        likely = "return is missing" if seen["kind"] == "NoneType" else "return a dict with three keys"
        return Fault(f"trainable_report returned a {seen['kind']}", likely)
    for key in keys:
        if key not in seen["values"]:
            return Fault(f"keys {seen['keys']}", f'"{key}" must be among them')
        if seen["values"][key] is None:
            return Fault(f"{key} is a {seen['kinds'][key]}", "return numbers; the notebook formats them")
    return None


def report_counts(inputs: Inputs) -> dict[str, int]:
    """Several ways to count the model, right ones and others."""
    model = report_model(inputs)
    own = list(model.parameters())
    twice = list(model.named_parameters(remove_duplicate=False))
    return {
        **_counted(model),
        "tensors": len(own),
        "trainable tensors": sum(p.requires_grad for p in own),
        "with buffers": sum(t.numel() for t in (*own, *model.buffers())),
        "state": sum(t.numel() for t in model.state_dict().values()),
        "twice": sum(p.numel() for _, p in twice),
        "trainable twice": sum(p.numel() for _, p in twice if p.requires_grad),
        "bytes": sum(p.numel() * p.element_size() for p in own),
        "float32": sum(p.numel() for p in own if p.dtype == torch.float32),
        "rows": sum(len(p) for p in own),
        "matrices": sum(math.prod(p.shape[:2]) for p in own),
    }


def judge_counts(inputs: Inputs, seen: Observation) -> Fault | None:
    """trainable and total are the model's."""
    fault = _report_form(seen, ("trainable", "total"))
    if fault:
        return fault
    counts = report_counts(inputs)
    for key in ("total", "trainable"):
        value, wanted = seen["values"][key], counts[key]
        if value == wanted:
            continue
        likely = ""
        if value == seen["old"].get(key):
            likely = (
                "that was right at an earlier report, and the model has changed since: count again, and keep nothing "
                "from call to call"
            )
        elif value in (counts["tensors"], counts["trainable tensors"]):
            likely = "these are tensors, not numbers: each has p.numel() of them"
        elif value == counts["rows"]:
            likely = "len(p) counts rows: p.numel() counts numbers"
        elif value == counts["bytes"]:
            likely = "these are bytes: count numbers"
        elif key == "total" and value == counts["float32"]:
            likely = "a parameter may have any dtype: one in half precision counts as well, each number once"
        elif key == "total" and value == counts["total"] - counts["trainable"]:
            likely = "total counts the frozen parameters alone"
        elif key == "total" and value == counts["trainable"]:
            likely = "total must count frozen parameters, too"
        elif key == "trainable" and value == counts["total"] - counts["trainable"]:
            likely = "these are the frozen ones" if counts["trainable"] else "count what has requires_grad: nothing"
        elif key == "trainable" and value == counts["total"]:
            likely = "requires_grad is not asked"
        elif inputs["shared"] and value == counts["state"]:
            likely = "state_dict() holds buffers too, and a shared parameter twice: model.parameters()"
        elif inputs["shared"] and value in (counts["twice"], counts["trainable twice"]):
            likely = "a parameter that two layers share counts once: model.parameters() gives it once"
        elif inputs["shared"] and 0 < abs(value - wanted) <= 4:
            likely = "summed in float32, which cannot count so far: Python's integers can"
        elif value == counts["matrices"]:
            likely = "only the first two sizes are multiplied: a convolution has more; p.numel() knows all"
        elif value in (counts["with buffers"], counts["state"]):
            likely = "buffers are not parameters: model.parameters(), not state_dict() or buffers()"
        return Fault(f"{key} is {value:,.10g}, expected {wanted:,}", likely)
    if not seen["unchanged"]:
        return Fault("what trains has changed", "a report only reads")
    wanted = sum(p.numel() for p in build(inputs).parameters())
    if seen["meta"] not in (None, wanted):
        return Fault(
            f"total of a model on the meta device is {seen['meta']:,.6g}, expected {wanted:,}",
            "parameters are told apart by where they lie in memory, and on meta all lie at 0: ask model.parameters()",
        )
    return None


def judge_frozen(inputs: Inputs, seen: Observation) -> Fault | None:
    """The counts, and any number as the ratio: which, another check asks."""
    return judge_counts(inputs, seen) or _report_form(seen, ("ratio",))


def judge_whole_counts(inputs: Inputs, seen: Observation) -> Fault | None:
    """The counts, as whole numbers."""
    if fault := judge_counts(inputs, seen):
        return fault
    floats = [key for key in ("trainable", "total") if "float" in seen["kinds"][key]]
    if floats:
        return Fault(f"{floats[0]} is a {seen['kinds'][floats[0]]}", "a count is an int: leave the sum as it is")
    return None


def judge_ratio(inputs: Inputs, seen: Observation) -> Fault | None:
    """ratio is trainable / total, between 0 and 1."""
    fault = _report_form(seen, ("ratio",))
    if fault:
        return fault
    counts, value = report_counts(inputs), seen["values"]["ratio"]
    wanted = counts["trainable"] / counts["total"]
    if abs(value - wanted) <= 1e-6:  # float32 will do
        return None
    given = seen["values"]
    own = given.get("trainable") and given.get("total") and given["trainable"] / given["total"]
    if own and abs(value - own) <= 1e-6:
        return None  # of wrong counts, which another check judges
    likely = ""
    if abs(value - 100 * wanted) < 1e-4 or (own and abs(value - 100 * own) < 1e-4):
        likely = "a percentage: the contract is a share between 0 and 1"
    elif abs(value - round(wanted, 4)) < 1e-9 or abs(value - round(wanted, 2)) < 1e-9 or abs(value - wanted) < 1e-2:
        likely = "it is rounded: report the number as it is, and round where it is printed"
    elif wanted and abs(value - 1 / wanted) < 1e-6:
        likely = "the quotient is the wrong way round"
    elif abs(value - counts["trainable"] / max(1, counts["total"] - counts["trainable"])) < 1e-9:
        likely = "divided by the frozen parameters: total counts all"
    elif abs(value - (1 - wanted)) < 1e-9:
        likely = "the share that is frozen"
    shown, asked = pair(value, wanted)
    return Fault(f"ratio is {shown}, expected {asked}", likely)


EXERCISE = Exercise(
    "3.5",
    "trainable_report",
    names=("trainable_report",),
    pure=("trainable_report",),
    keeps=("trainable_report",),
    checks=[
        Check(
            "3.5/counts",
            "trainable and total count numbers, frozen ones in the second alone",
            probe_report,
            judge_whole_counts,
            draw_report,
            seed=12,
        ),
        Check(
            "3.5/shared",
            "a parameter that two layers share counts once, buffers not at all",
            probe_report,
            judge_counts,
            partial(draw_report, shared=True),
            seed=27,
        ),
        Check(
            "3.5/frozen",
            "a model that is all frozen",
            probe_report,
            judge_frozen,
            partial(draw_report, state="none"),
            seed=12,
        ),
        Check("3.5/ratio", "ratio is trainable / total", probe_report, judge_ratio, draw_report, seed=12),
    ],
)
