"""Exercise 3.4: what was pretrained is still there, in the same layers, and computes the same at first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from lora_ref.checks.probing import array
from lora_ref.checks.stage03.shared import build, numpy_parameters
from lora_ref.checks.verdicts import Fault, Inputs, Observation, close
from lora_ref.rounding import number


def place(name: str, wrapped: Mapping) -> str:
    """What a parameter of the base model is called after the injection."""
    layer, _, kind = name.rpartition(".")
    return f"{layer}.linear.{kind}" if layer in wrapped else name


def judge_start(inputs: Inputs, seen: Observation) -> Fault | None:
    """With B at zero the logits are those of the base model."""
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "")
    with torch.no_grad():
        wanted = array(build(inputs)(torch.tensor(inputs["ids"])))
    if close(seen["logits"], wanted, 1e-5):
        return None
    shown = f"differ by up to {number(np.abs(seen['logits'] - wanted).max())}"
    likely = "the update must start at zero, and the pretrained layer must stay inside"
    if not np.isfinite(seen["logits"]).all():
        shown, likely = "are not finite", "uninitialised memory stands in place of the pretrained weight"
    elif not all(layer["zero"] for layer in seen["wrapped"].values()):
        likely = "B does not start at zero"
    return Fault(f"the logits after injection {shown}", likely)


def judge_untouched(inputs: Inputs, seen: Observation) -> Fault | None:
    """Every pretrained number is where it was, bit for bit; wrapped layers keep theirs under .linear."""
    before = numpy_parameters(inputs)
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "")
    for name, values in before.items():
        layer, _, kind = name.rpartition(".")
        value = seen["values"].get(place(name, seen["wrapped"]))
        if value is None:
            likely = "the wrapper's layer was built without a bias" if kind == "bias" else "a new module without it"
            if kind == "bias":
                likely = "the bias was dropped: wrap the layer that is there, do not build a new one"
            return Fault(f"the pretrained {name} is gone", likely)
        if not np.array_equal(value, values):
            likely = "wrap the layer that is there: a new nn.Linear has new weights, torch.empty whatever was in memory"
            if layer not in seen["wrapped"]:
                likely = "injection changes no value of the model"
            return Fault(f"{name} is not the pretrained one, bit for bit", likely)
    if seen["copies"]:
        likely = "wrap the layer that is there: a copy holds its numbers twice, and cuts ties"
        return Fault(f"{seen['copies'][0]}: the wrapper holds a copy of the layer", likely)
    return None


def judge_kept(inputs: Inputs, seen: Observation) -> Fault | None:
    """Values, layers, and what the model computes."""
    return judge_untouched(inputs, seen) or judge_start(inputs, seen)
