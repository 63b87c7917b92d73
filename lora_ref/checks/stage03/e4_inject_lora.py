"""Exercise 3.4, inject_lora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, raised
from lora_ref.checks.stage03.inject_walk import draw_walk, judge_walk, probe_walk
from lora_ref.checks.stage03.pretrained import judge_start, judge_untouched, place
from lora_ref.checks.stage03.second_call import judge_again, probe_again
from lora_ref.checks.stage03.shared import at, build, draw_model, matches, not_the_model, numpy_parameters, some
from lora_ref.checks.stage03.wrapped import injected, is_wrapper, of_lora, wrappers
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close
from lora_ref.rounding import pair

A_ZERO = "with A and B both zero nothing ever learns: leave A as drawn"


def draw_inject(
    rng: np.random.Generator,
    defaults: bool = False,
    head: bool | None = None,
    head_targets: bool = False,
    dropout: bool = False,
    overlap: bool = False,
    targets: Sequence[str] | None = None,
    **model: Any,
) -> Inputs:
    """A model, targets, and arguments: none of them (``defaults``), or all but ``train_head`` if ``head`` is None."""
    # by default, layers whose smaller side is below the default rank: a rank that is cut to it shows
    inputs = draw_model(rng, **({"width": 6, "inner": 10} if defaults else {}), **model)
    if targets is None:
        # one of each kind, so that a mistake costs the same whatever is drawn; my_query is not a target, and ends so
        kinds = [["query"], ["key"], ["value"], ["intermediate.dense", "output.dense"], ["mixer.2"]]
        targets = [str(t) for t in rng.permutation([rng.choice(kind) for kind in kinds])]
        targets += ["self.query"] * overlap  # all of it meant already
        if head_targets:
            targets += ["classifier"] if inputs["plain_head"] else ["classifier.dense"]
    options: dict[str, Any] = {}
    if not defaults:
        options = {"rank": int(rng.integers(2, 5)), "alpha": float(rng.integers(3, 30)) + 0.5}
        options["dropout"] = 0.5 if dropout else 0.0
    if head is not None:
        options["train_head"] = head
    sizes = max(inputs["width"], inputs["inner"])
    return {**inputs, "targets": list(targets), "options": options, "x": rng.normal(size=(4, sizes))}


def probe_inject(names: Names, **inputs: Any) -> dict:
    """The wrapped layers, what trains, every pretrained value, logits, and each update's output."""
    model = build(inputs).train()
    model.embeddings.eval()  # a model whose parts are in different modes
    linears = {name: at(model, name) for name in matches(inputs, inputs["targets"])}
    before = [(module, module.training) for module in model.modules()]
    result = names.inject_lora(model, list(inputs["targets"]), **inputs["options"])
    modes = [module for module, training in before if module.training != training]
    model.eval()
    layers = wrappers(model)
    parameters = dict(model.named_parameters())
    return {
        "same": result is model,
        "kind": type(result).__name__,
        "kinds": {name: type(at(model, name)).__name__ for name in matches(inputs, inputs["targets"])},
        "dotted": any("." in child for module in model.modules() for child in module._modules),
        "wrapped": {name: _layer(layer) for name, layer in layers.items()},
        "copies": [n for n, layer in layers.items() if n in linears and not _same_memory(layer.linear, linears[n])],
        "modes": len(modes),
        "parameters": list(parameters),
        "trains": [name for name, p in parameters.items() if p.requires_grad],
        "values": {name: array(p) for name, p in parameters.items() if not of_lora(name)},
        "logits": array(model(torch.tensor(inputs["ids"]))),
    }


def _same_memory(layer: Any, other: Any) -> bool:
    return layer is other or getattr(layer, "weight", other).data_ptr() == other.weight.data_ptr()


def _layer(layer: Any) -> dict:
    A, B = layer.lora.lora_A, layer.lora.lora_B
    return {
        "linear": type(layer.linear).__name__,
        "is_linear": isinstance(layer.linear, nn.Linear),
        "A": list(A.shape),
        "B": list(B.shape),
        "zero": not bool(array(B).any()),
        "A zero": not bool(array(A).any()),
    }


def probe_updates(names: Names, **inputs: Any) -> dict:
    """With values in B: each wrapped layer's output in evaluation mode, and whether dropout acts in training mode."""
    model, _ = injected(names, inputs)
    seen: dict[str, dict[str, Any]] = {}
    for name in matches(inputs, inputs["targets"])[:6]:
        layer: Any = model.get_submodule(name)
        if not is_wrapper(layer):
            seen[name] = {"kind": type(layer).__name__}
            continue
        A, B = layer.lora.lora_A, layer.lora.lora_B
        with torch.no_grad():
            B.copy_(torch.randn(B.shape))
        x = torch.tensor(inputs["x"][:, : array(A).shape[1]], dtype=torch.float32)
        layer.eval()
        y = array(layer(x))
        layer.train()
        noisy = [array(layer(x)) for _ in range(3)]
        seen[name] = {"A": array(A), "B": array(B), "y": y, "noisy": any(not close(n, y) for n in noisy)}
    return seen


def draw_typo(rng: np.random.Generator) -> Inputs:
    """A list of targets of which one means nothing."""
    return {**draw_inject(rng, targets=["query", "vlaue"]), "typo": "vlaue"}


def probe_typo(names: Names, **inputs: Any) -> dict:
    """What a target that matches nothing raises, beside an injection that must work; and the model after it."""
    works = {**inputs, "targets": ["query"]}
    injected(names, works)
    model, inject_lora = build(inputs), names.inject_lora
    error = raised(lambda: inject_lora(model, list(inputs["targets"]), **inputs["options"]))
    frozen = sum(not p.requires_grad for p in model.parameters())
    seen = {"raised": error, "frozen": frozen, "wrapped": len(wrappers(model))}
    then = raised(lambda: inject_lora(model, ["query"], **inputs["options"]))
    return {**seen, "then": then, "later": len(wrappers(model))}


def judge_wrapped(inputs: Inputs, seen: Observation) -> Fault | None:
    """Exactly the matches are wrapped, each once."""
    wanted, wrapped = matches(inputs, inputs["targets"]), list(seen["wrapped"])
    if wrapped == wanted and all(layer["is_linear"] for layer in seen["wrapped"].values()):
        return None
    inner = [name for name in wrapped if any(name.startswith(other + ".") for other in wrapped)]
    if inner:
        return Fault(
            f"{inner[0]} is wrapped, and so is the layer around it",
            "the layer inside a wrapper was wrapped again: collect all names before the first replacement",
        )
    extra, missing = [n for n in wrapped if n not in wanted], [n for n in wanted if n not in wrapped]
    if extra:
        return Fault(
            f"{some(extra, 2)} is wrapped without being a target",
            "inject_lora has a search of its own: match_targets is the one place that reads names",
        )
    if missing:
        kinds = sorted({seen["kinds"].get(name, "nothing") for name in missing})
        likely = "replace_module must be called once for each name that match_targets gives"
        if seen["dotted"]:
            likely = (
                "a child with a dot in its name was added, and no forward meets it: replace_module finds the parent"
            )
        elif kinds == ["Linear"] and not wrapped:
            likely = "the given model is as it was: making a wrapper replaces nothing, and a copy is another model"
        elif kinds not in (["Linear"], ["Classifier"]):
            likely = "a wrapper keeps the old layer as .linear, and the update as .lora with lora_A and lora_B"
        return Fault(f"{len(missing)} of {len(wanted)} targets are not wrapped: {missing[0]} is a {kinds[0]}", likely)
    return Fault("what a wrapper holds as .linear is not an nn.Linear", "wrap the pretrained layer itself")


def judge_sizes(inputs: Inputs, seen: Observation) -> Fault | None:
    """The updates have the rank that was asked for, 8 if none was."""
    rank = inputs["options"].get("rank", 8)
    model = build(inputs)
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "")
    for name, layer in seen["wrapped"].items():
        if not isinstance(linear := _submodule(model, name), nn.Linear):
            continue  # wrapped without being a target: another check's
        wanted = [rank, linear.in_features], [linear.out_features, rank]
        if (layer["A"], layer["B"]) != wanted:
            asked = "the default rank is 8" if "rank" not in inputs["options"] else "the rank is not passed on"
            if layer["A"][0] == int(inputs["options"].get("alpha", 16)) != rank:
                asked = "rank and alpha are passed on in the wrong order"
            elif layer["A"][0] == min(linear.in_features, linear.out_features) < rank:
                asked = "a rank above the layer's smaller side is allowed: pass it on as it is"
            likely = asked if layer["A"][0] == layer["B"][1] != rank else "sizes of another layer: one update a layer"
            return Fault(f"{name}: lora_A is {tuple(layer['A'])}, expected {tuple(wanted[0])}", likely)
    return None


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    return dict(model.named_modules()).get(name)


def judge_update(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each wrapped layer computes W x + b + alpha / rank * B A x, and dropout acts if it was asked for."""
    options = inputs["options"]
    alpha, dropout = options.get("alpha", 16), options.get("dropout", 0.0)
    weights = numpy_parameters(inputs)
    if not any("y" in seen.get(name, {}) for name in matches(inputs, inputs["targets"])[:6]):
        return Fault("no layer is wrapped", "")
    for name in matches(inputs, inputs["targets"])[:6]:
        layer = seen[name]
        if "y" not in layer:
            continue  # not wrapped: another check's
        A, B = layer["A"], layer["B"]
        if len(A) != 8 and "rank" not in options:
            right = "rank and alpha are passed on in the wrong order" if len(A) == alpha else "the default rank is 8"
            if len(A) == min(A.shape[1], len(B)) < 8:
                right = "a rank above the layer's smaller side is allowed: pass it on as it is"
            return Fault(f"{name}: the rank is {len(A)} without an argument for it", right)
        if not A.any():
            return Fault(f"{name}: lora_A is zero", A_ZERO)
        x = inputs["x"].astype(np.float32).astype(np.float64)[:, : A.shape[1]]
        base = x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)
        update = x @ A.T @ B.T
        if not close(layer["y"], base + alpha / len(A) * update, 1e-4):
            likely = ""
            difference = layer["y"] - base
            norm = float((update**2).sum())
            factor = float((difference * update).sum()) / norm if norm else 0.0
            if close(difference, factor * update, 1e-3):
                times, asked = pair(factor, alpha / len(A))
                shown = f"{times} times B A x is added, expected {asked}"
                likely = "alpha is not passed on" if "alpha" in options else "the default alpha is 16"
                if close(factor, alpha / len(A), 1e-3):
                    return Fault(f"{name}: the frozen layer's part of the output is different", "")
                if close(factor, alpha, 1e-4):
                    likely = "alpha must be divided by the rank"
                elif len(A) != options.get("rank", 8) and len(A) == int(alpha):
                    likely = "rank and alpha are passed on in the wrong order"
                return Fault(f"{name}: {shown}", likely)
            if not np.isfinite(layer["y"]).all():
                likely = "uninitialised memory stands in place of the pretrained weight"
            elif close(layer["y"], base - weights.get(f"{name}.bias", 0.0) + alpha / len(A) * update, 1e-4):
                likely = "the bias was dropped"
            return Fault(f"{name}: the output is not W x + b + scaling * B A x", likely)
        if layer["noisy"] != (dropout > 0):
            likely = "dropout is not passed on" if dropout else "dropout is off by default"
            return Fault(f"{name}: dropout {'never acts' if dropout else 'acts'} in training mode", likely)
    return None


def judge_layers(inputs: Inputs, seen: Observation) -> Fault | None:
    """The right layers, and their updates' sizes."""
    return judge_wrapped(inputs, seen) or judge_sizes(inputs, seen)


def judge_frozen_base(inputs: Inputs, seen: Observation) -> Fault | None:
    """Nothing pretrained outside the head trains; every lora_A and lora_B does."""
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "")
    trains = set(seen["trains"])
    factors = [f"{name}.lora.{factor}" for name in seen["wrapped"] for factor in ("lora_A", "lora_B")]
    asleep = [name for name in factors if name in seen["parameters"] and name not in trains]
    absent = [name for name in factors if name not in seen["parameters"]]
    if absent:
        return Fault(f"{absent[0]} is not a parameter of the model", "nn.Parameter, inside a registered module")
    if asleep:
        likely = "freeze comes first: called after the wrapping it freezes the updates, too"
        return Fault(f"{len(asleep)} of {len(factors)} LoRA matrices do not train, such as {asleep[0]}", likely)
    others = [n for n in seen["trains"] if n not in factors and not n.startswith("classifier.")]  # the head: judge_head
    if others:
        linears = {f"{name}.linear.{kind}" for name in seen["wrapped"] for kind in ("weight", "bias")}
        every = [place(name, seen["wrapped"]) for name in numpy_parameters(inputs)]
        rest = [n for n in every if not n.startswith("classifier.") and n not in linears]
        likely = ""
        if set(others) == set(rest):
            likely = "wrapping freezes the wrapped layers alone; freeze(model) is for all the others"
        elif set(others) <= linears:
            likely = "the layers inside the wrappers train: freeze the model, not only what is not wrapped"
        elif linears & set(others):
            likely = (
                "the layers inside the wrappers train, too: what comes after freeze(model) wakes the whole model up"
            )
        elif all("classifier" in n for n in others):
            likely = "the head is model.classifier alone: what else has classifier in its name stays frozen"
        elif all("lora" not in n for n in others) and all(n.endswith("bias") for n in others):
            likely = "weights are frozen and biases are not"
        return Fault(f"{len(others)} pretrained parameters train: {some(others, 2)}", likely)
    return None


def judge_head(inputs: Inputs, seen: Observation) -> Fault | None:
    """The head trains if asked for, which is the default."""
    asked = inputs["options"].get("train_head")
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "")
    head = [place(name, seen["wrapped"]) for name in numpy_parameters(inputs) if name.startswith("classifier.")]
    head = [name for name in head if name in seen["parameters"]]  # what is gone is another check's matter
    trains = [name for name in head if name in seen["trains"]]
    called = "train_head is left at its default" if asked is None else f"train_head={asked}"
    if len(trains) < len(head):
        left = [name for name in head if name not in trains]
        likely = "freeze(model) froze the head as well: let model.classifier train again, after it"
        if all(name.rpartition(".linear.")[0] in seen["wrapped"] for name in left):
            likely = "a wrapper freezes the layer that it is given: let the head train after its layers are wrapped"
        elif trains:
            likely = "the head may be more than one layer: model.classifier.requires_grad_(True) means all of it"
        elif asked is None:
            likely += "; train_head is True by default"
        return Fault(f"{called}, and {some(left, 2)} should train, and do not", likely)
    return None


def judge_no_head(inputs: Inputs, seen: Observation) -> Fault | None:
    """With train_head=False nothing of the head trains but updates of it that were asked for."""
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "")
    trains = [name for name in seen["trains"] if name.startswith("classifier.") and not of_lora(name)]
    base = [name for name in seen["trains"] if not (of_lora(name) or name.startswith("classifier."))]
    if trains and not base:  # a model that is not frozen at all is another check's matter
        likely = "check train_head before the head is unfrozen"
        return Fault(f"train_head=False, and {some(trains, 2)} train", likely)
    if not any(f"{name}.".startswith("classifier.") for name in seen["wrapped"]):
        return Fault(f"targets {inputs['targets']}: nothing in the head is wrapped", "")
    asleep = [name for name in seen["parameters"] if of_lora(name) and name not in seen["trains"]]
    if asleep:
        likely = "the head was frozen after the wrapping, with the updates inside it"
        return Fault(f"{len(asleep)} LoRA matrices do not train, such as {asleep[0]}", likely)
    return None


def judge_inject_returned(inputs: Inputs, seen: Observation) -> Fault | None:
    """The model itself comes back."""
    if not seen["same"]:
        return not_the_model(seen)
    if seen["modes"]:
        return Fault(
            f"modules that changed their mode: {seen['modes']}", "train() and eval() are the caller's to choose"
        )
    return None if seen["wrapped"] else Fault("no layer is wrapped", "")


def _alike(values: Mapping, name: str, wanted: np.ndarray) -> bool:
    return name in values and close(values[name], wanted, 0.1)


def judge_trains(inputs: Inputs, seen: Observation) -> Fault | None:
    """The main thing: LoRA stands in most of the pretrained layers that were meant and trains, so does the head, and
    what is pretrained does not. Details are other checks'."""
    if 2 * len(seen["wrapped"]) < len(matches(inputs, inputs["targets"])):
        return judge_wrapped(inputs, seen) or Fault("no layer is wrapped", "")
    weights = {place(name, seen["wrapped"]): values for name, values in numpy_parameters(inputs).items()}
    lost = [n for n, values in weights.items() if n.endswith("linear.weight") and not _alike(seen["values"], n, values)]
    if 2 * len(lost) > len(seen["wrapped"]):
        return judge_untouched(inputs, seen)
    asleep = [name for name in seen["parameters"] if of_lora(name) and name not in seen["trains"]]
    base = [n for n in seen["parameters"] if not of_lora(n) and not n.startswith("classifier.")]
    awake = [n for n in base if n in seen["trains"]]
    head = any(n.startswith("classifier.") and not of_lora(n) for n in seen["trains"])
    dead = [name for name, layer in seen["wrapped"].items() if layer["A zero"]]
    if 2 * len(dead) > len(seen["wrapped"]):
        return Fault(f"{dead[0]}: lora_A is zero", A_ZERO)
    if not seen["wrapped"] or asleep or 3 * len(awake) > len(base):
        return judge_frozen_base(inputs, seen) or Fault("no layer is wrapped", "")
    return None if head else judge_head(inputs, seen)


def judge_typo(inputs: Inputs, seen: Observation) -> Fault | None:
    """A target that matches nothing is a ValueError here, too."""
    error = seen["raised"]
    shown = f"targets {inputs['targets']}"
    if error is None:
        return Fault(
            f"{shown}: no error", "a typo would leave layers without LoRA, in silence: match_targets raises, let it"
        )
    if "ValueError" not in error["bases"]:
        return Fault(f"{shown}: {error['type']}", "the contract is a ValueError")
    if seen["wrapped"] or seen["frozen"]:
        did = "layers are wrapped" if seen["wrapped"] else "parameters are frozen"
        likely = "ask match_targets for all targets at once, before anything changes"
        return Fault(f"{shown}: a ValueError, and yet {did}", likely)
    if seen["then"] or not seen["later"]:
        did = f"raises {seen['then']['type']}" if seen["then"] else "wraps nothing"
        return Fault(f"{shown}: a ValueError, and then a call with ['query'] {did}", "a refused call leaves no mark")
    return None


EXERCISE = Exercise(
    "3.4",
    "inject_lora",
    names=("inject_lora",),
    builds_on=("freeze", "match_targets", "replace_module", "LinearWithLoRA"),
    checks=[
        Check(
            "3.4/wrapped",
            "exactly the matches are wrapped, once each",
            probe_inject,
            judge_wrapped,
            partial(draw_inject, overlap=True),
            seed=7,
        ),
        Check(
            "3.4/untouched",
            "every pretrained weight and bias is the same, bit for bit",
            probe_inject,
            judge_untouched,
            draw_inject,
            seed=7,
        ),
        Check(
            "3.4/sizes", "each update has the rank that was asked for", probe_inject, judge_sizes, draw_inject, seed=8
        ),
        Check(
            "3.4/update",
            "a wrapped layer computes W x + b + alpha / rank * B A x",
            probe_updates,
            judge_update,
            draw_inject,
            seed=9,
        ),
        Check(
            "3.4/default-rank",
            "the rank is 8 by default",
            probe_inject,
            judge_sizes,
            partial(draw_inject, defaults=True),
            seed=24,
        ),
        Check(
            "3.4/default-alpha",
            "alpha is 16 by default",
            probe_updates,
            judge_update,
            partial(draw_inject, defaults=True),
            seed=24,
        ),
        Check(
            "3.4/dropout",
            "dropout is passed on",
            probe_updates,
            judge_update,
            partial(draw_inject, dropout=True),
            seed=25,
        ),
        Check(
            "3.4/start",
            "right after injection the logits are the base model's",
            probe_inject,
            judge_start,
            draw_inject,
            seed=7,
            after=("3.4/untouched", "3.4/update"),
        ),
        Check(
            "3.4/frozen",
            "LoRA's matrices train, and nothing pretrained does",
            probe_inject,
            judge_frozen_base,
            draw_inject,
            seed=10,
        ),
        Check(
            "3.4/head",
            "the head trains if asked for, which is the default",
            probe_inject,
            judge_head,
            partial(draw_inject, plain_head=False, head_targets=True),
            seed=11,
        ),
        Check(
            "3.4/no-head",
            "train_head=False leaves LoRA alone to train, even where the head is wrapped",
            probe_inject,
            judge_no_head,
            partial(draw_inject, head=False, head_targets=True),
            seed=26,
            after=("3.4/frozen",),
        ),
        Check(
            "3.4/returned",
            "it returns the model it was given, in the mode it was in",
            probe_inject,
            judge_inject_returned,
            draw_inject,
            seed=11,
        ),
        Check(
            "3.4/again",
            "a second call is refused, or leaves the wrapped layers as they are",
            probe_again,
            judge_again,
            draw_inject,
            seed=20,
        ),
        Check(
            "3.4/walk",
            "several models, each with its own updates, train, are copied, merged, saved and loaded",
            probe_walk,
            judge_walk,
            draw_walk,
            seed=22,
        ),
        Check("3.4/typo", "a target that matches nothing is a ValueError", probe_typo, judge_typo, draw_typo, seed=21),
    ],
)
