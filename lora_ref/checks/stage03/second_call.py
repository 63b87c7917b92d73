"""Exercise 3.4, the second call: refused, or the first one's layers stay as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.probing import Names, array, result_of
from lora_ref.checks.stage03.shared import matches, not_the_model, some
from lora_ref.checks.stage03.wrapped import injected, of_lora, wrappers
from lora_ref.checks.verdicts import Fault, Inputs, Observation


def probe_again(names: Names, **inputs: Any) -> dict:
    """A second call, with the same targets or with ``inputs["more"]``: what it raises, and the first call's layers."""
    model, _ = injected(names, inputs)
    first = wrappers(model)
    for layer in first.values():
        with torch.no_grad():
            layer.lora.lora_B.normal_()
    factors = {name: (array(layer.lora.lora_A), array(layer.lora.lora_B)) for name, layer in first.items()}
    trained = [name for name, p in model.named_parameters() if p.requires_grad and of_lora(name)]
    before = {name: array(p) for name, p in _pretrained(model).items()}
    awake = [name for name, p in _pretrained(model).items() if p.requires_grad and not name.startswith("classifier.")]
    targets = [*inputs["targets"], *inputs.get("more", [])]
    result, error = result_of(names.inject_lora, model, targets, **inputs["options"])
    now = wrappers(model)
    parameters, base = dict(model.named_parameters()), _pretrained(model)
    lost = []
    for name, (A, B) in factors.items():
        layer = now.get(name)
        if layer is None or not (_equal(layer.lora.lora_A, A) and _equal(layer.lora.lora_B, B)):
            lost.append(name)
    return {
        "first": list(first),
        "now": list(now),
        "raised": error,
        "same": result is model,
        "kind": "" if error else type(result).__name__,
        "changed": [name for name in before if name not in base or not _equal(base[name], before[name])],
        "awake": awake,
        "thawed": [name for name, p in base.items() if p.requires_grad and not name.startswith("classifier.")],
        "lost": lost,
        "stopped": [name for name in trained if not (name in parameters and parameters[name].requires_grad)],
    }


def _pretrained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The base model's parameters under their first names, whether their layers are wrapped or not."""
    return {name.replace(".linear.", "."): p for name, p in model.named_parameters() if not of_lora(name)}


def _equal(parameter: Any, values: np.ndarray) -> bool:
    return np.array_equal(array(parameter), values)


def judge_again(inputs: Inputs, seen: Observation) -> Fault | None:
    """A second call is refused, or leaves the first call's layers wrapped once, as trained, and trainable."""
    wanted = matches(inputs, inputs["targets"])
    if not seen["first"]:
        return Fault("no layer is wrapped", "")
    again = matches(inputs, [*inputs["targets"], *inputs.get("more", [])])
    inner = [name for name in seen["now"] if any(name.startswith(other + ".") for other in seen["now"])]
    if inner and not [n for n in seen["first"] if any(n.startswith(other + ".") for other in seen["first"])]:
        return Fault(
            f"after a second call {inner[0]} is wrapped inside a wrapper",
            "the search finds the linear layers inside the wrappers: refuse, or skip what is wrapped",
        )
    if seen["lost"]:
        return Fault(
            f"a second call replaced the updates of {some(list(seen['lost']), 2)}",
            "what was trained is lost: refuse, or skip what is wrapped",
        )
    if seen["raised"] is None and seen["stopped"]:
        return Fault(
            f"a second call returned, and {len(seen['stopped'])} LoRA matrices do not train any more",
            "freeze(model) ran again over the updates: refuse before anything changes, or wake them up again",
        )
    if seen["raised"] is None and not seen["same"]:
        fault = not_the_model(seen)
        return Fault(f"after a second call, {fault.seen}", fault.likely)
    if seen["raised"] is None and seen["changed"]:
        return Fault(
            f"a second call changed the pretrained {some(list(seen['changed']), 2)}",
            "the wrapped layers are to stay as they are: an update merged into its weight cannot be told from it again",
        )
    if seen["raised"] is None and seen["thawed"] and not seen["awake"]:
        return Fault(
            f"after a second call {some(list(seen['thawed']), 2)} train",
            "unfreeze only the updates and the head: a wrapper holds the pretrained layer, too",
        )
    if seen["raised"] is None and any(name not in again for name in seen["now"] if name not in wanted):
        return Fault("a second call wrapped other layers", "")
    return None


#: A second call with the same targets, and one with more.
MORE: dict[str, list[str]] = {"same": [], "more": ["gate"]}


def probe_both(names: Names, **inputs: Any) -> dict:
    """`probe_again`, with the same targets and with more."""
    return {case: probe_again(names, **{**inputs, "more": more}) for case, more in MORE.items()}


def judge_both(inputs: Inputs, seen: Observation) -> Fault | None:
    faults = (judge_again({**inputs, "more": more}, seen[case]) for case, more in MORE.items())
    return next(filter(None, faults), None)
