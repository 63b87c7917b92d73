"""Stage 03, LoRA in a whole model: probes and visible checks.

The probes' model is a small encoder with RoBERTa's shape of names and some traps among them: where names are matched,
twelve and more layers, so that ``layer.1`` begins like ``layer.10``; a ``my_query``; an ``output_dense`` beside
``output.dense``; a LayerNorm that is called ``value``; beside the head a ``pre_classifier`` and a ``classifier_norm``,
which are not of it. Its weights follow from the inputs' seed, so a judge makes the
same model for itself and needs no word of the student's about it.

A wrapped layer is any module with an ``nn.Linear`` as ``.linear`` and ``lora_A`` and ``lora_B`` in ``.lora``: the
package's own `LinearWithLoRA`, the student's of stage 2, or another one.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref import inject
from lora_ref.checks.probing import Names, array, raised
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close
from lora_ref.layers import LinearWithLoRA
from lora_ref.rounding import number, pair

TITLES = {
    "3.1": "freeze",
    "3.2": "match_targets: layers by name",
    "3.3": "replace_module",
    "3.4": "inject_lora",
    "3.5": "trainable_report",
    "3.6": "spot the bug",
    "3.7": "which layers, and why a new head must train",
}

#: What `inject_lora` builds on: the package's, for a second attempt where the student's own is not right yet.
CARRY: Mapping[str, Any] = {
    "freeze": inject.freeze,
    "match_targets": inject.match_targets,
    "replace_module": inject.replace_module,
    "LinearWithLoRA": LinearWithLoRA,
}


# --- the model ------------------------------------------------------------------------------------------------------


def modules(**children: nn.Module) -> nn.Module:
    """A module that only holds others."""
    holder = nn.Module()
    for name, child in children.items():
        holder.add_module(name, child)
    return holder


class Block(nn.Module):
    """One layer of the encoder, with RoBERTa's names; a ``short`` one lacks key, value and the inner layer."""

    def __init__(self, width: int, inner: int, short: bool):
        super().__init__()
        parts = {"query": nn.Linear(width, width)}
        if not short:
            parts |= {"key": nn.Linear(width, width, bias=False), "value": nn.Linear(width, width)}
            self.intermediate = modules(dense=nn.Linear(width, inner))
        self.attention = modules(self=modules(**parts), output=modules(dense=nn.Linear(width, width)))
        self.output = modules(dense=nn.Linear(width if short else inner, width), LayerNorm=nn.LayerNorm(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = dict(self.attention.get_submodule("self").named_children())
        hidden = parts["query"](x)
        if "key" in parts:
            hidden = torch.softmax(hidden @ parts["key"](x).mT, dim=-1) @ parts["value"](x)
        hidden = torch.tanh(self.attention.output.dense(hidden))
        if hasattr(self, "intermediate"):
            hidden = torch.tanh(self.intermediate.dense(hidden))
        return self.output.LayerNorm(x + self.output.dense(hidden))


class LinearWithGain(nn.Module):
    """What looks like a linear layer by its class's name and its attributes, and holds one."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.gain = nn.Parameter(torch.ones(()))


class OwnLinear(nn.Linear):
    """An `nn.Linear`, by inheritance."""


class Classifier(nn.Module):
    """The probes' model: embeddings, an encoder of blocks, a few layers with names that mislead, a head.

    ``kinds``: with modules that are almost linear layers, and one that is by inheritance; no forward meets them.
    """

    def __init__(self, prefix: str, layers: int, width: int, inner: int, plain_head: bool, kinds: bool = False):
        super().__init__()
        self.prefix = prefix
        self.scale = nn.Parameter(torch.ones(width))
        self.embeddings = modules(word=nn.Embedding(11, width), value=nn.LayerNorm(width))
        self.add_module(
            prefix, modules(layer=nn.ModuleList(Block(width, inner, short=1 < n < layers - 2) for n in range(layers)))
        )
        self.my_query = nn.Linear(width, width)
        self.output_dense = nn.Linear(width, width, bias=False)
        self.mixer = nn.Sequential(nn.Linear(width, inner), nn.Tanh(), nn.Linear(inner, width))
        self.extra = nn.ModuleDict({"gate": nn.Linear(width, width)})
        self.register_buffer("seen", torch.zeros(width + 1))
        if kinds:
            self.gained = LinearWithGain(nn.Linear(width, width))
            self.pair = nn.Bilinear(width, width, width)
            self.extra["own"] = OwnLinear(width, width)
        self.pre_classifier = nn.Linear(width, width)
        if plain_head:
            self.classifier = nn.Linear(width, 3)
        else:
            self.classifier = nn.Sequential()
            self.classifier.add_module("dense", nn.Linear(width, width))
            self.classifier.add_module("norm", nn.LayerNorm(width))
            self.classifier.add_module("out_proj", nn.Linear(width, 3))
        self.classifier_norm = nn.LayerNorm(3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embeddings.value(self.embeddings.word(ids) * self.scale)
        for block in self.get_submodule(f"{self.prefix}.layer"):
            x = block(x)
        x = x + self.my_query(x) + self.output_dense(x) + self.mixer(x) + self.extra["gate"](x)
        x = self.classifier(torch.tanh(self.pre_classifier(x.mean(dim=1))))
        return x + self.classifier_norm(x)


def draw_model(rng: np.random.Generator, **more: Any) -> Inputs:
    """Sizes, names and a seed for the weights."""
    width, inner = (int(n) for n in rng.choice([4, 6, 8, 10], size=2, replace=False))
    return {
        "prefix": str(rng.choice(["encoder", "backbone", "body"])),
        "layers": int(rng.integers(4, 6)),
        "width": width,
        "inner": inner,
        "plain_head": bool(rng.integers(2)),
        "kinds": False,
        "seed": int(rng.integers(2**31)),
        "ids": rng.integers(0, 11, size=(3, 5)),
        **more,
    }


def fixed(seed: int, draw: Callable[..., Inputs], **choices: Any) -> Callable[[np.random.Generator], Inputs]:
    """The same inputs every time, as visible checks have them."""
    return lambda rng: draw(np.random.default_rng(seed), **choices)


def build(inputs: Inputs) -> Classifier:
    """The inputs' model, in evaluation mode; the same each time."""
    key = tuple(inputs[name] for name in ("prefix", "layers", "width", "inner", "plain_head", "kinds"))
    model = Classifier(*key)
    values = _values(key, inputs["seed"])
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.data.copy_(value)
    return model.eval()


@functools.lru_cache(maxsize=4)
def _values(key: tuple, seed: int) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    shapes = [tuple(parameter.shape) for parameter in Classifier(*key).parameters()]
    # matrices keep the size of what they multiply: a model that amplifies rounding would fail right answers
    sizes = [shape[-1] ** 0.5 if len(shape) > 1 else 1.0 for shape in shapes]
    values = (rng.normal(size=shape) / size for shape, size in zip(shapes, sizes, strict=True))
    return tuple(torch.tensor(value, dtype=torch.float32) for value in values)


def layer_names(inputs: Inputs) -> list[str]:
    """Dotted names of the model's linear layers, in the model's order."""
    return list(_layer_names(inputs["prefix"], inputs["layers"], inputs["plain_head"], inputs["kinds"]))


@functools.lru_cache(maxsize=32)
def _layer_names(prefix: str, layers: int, plain_head: bool, kinds: bool) -> tuple[str, ...]:
    model = Classifier(prefix, layers, 2, 2, plain_head, kinds)
    return tuple(name for name, module in model.named_modules() if isinstance(module, nn.Linear))


def at(model: nn.Module, name: str) -> nn.Module | None:
    """The module that the path of names leads to; `named_modules` would also give one that is *called* ``"a.b"``."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def matches(inputs: Inputs, targets: Sequence[str]) -> list[str]:
    """What the targets mean, by the contract's own words."""
    names = layer_names(inputs)
    return [name for name in names if any(name == target or name.endswith("." + target) for target in targets)]


def numpy_parameters(inputs: Inputs) -> dict[str, np.ndarray]:
    return {name: array(parameter) for name, parameter in build(inputs).named_parameters()}


def some(names: Sequence[str], count: int = 3) -> str:
    """A few names, and how many more there are."""
    shown = ", ".join(names[:count])
    return shown + (f" and {len(names) - count} more" if len(names) > count else "")


# --- 3.1 freeze -----------------------------------------------------------------------------------------------------


def draw_freeze(rng: np.random.Generator, wrapped: bool = False) -> Inputs:
    """A model, some of it frozen already; ``wrapped``: with LoRA in some of its layers."""
    return draw_model(rng, wrapped=wrapped)


def frozen_model(inputs: Inputs) -> nn.Module:
    """The model that `freeze` is given."""
    model = build(inputs)
    model.mixer.requires_grad_(False)
    if inputs["wrapped"]:
        for number, name in enumerate(matches(inputs, ["query"])):
            layer = LinearWithLoRA(model.get_submodule(name), 2, 4)
            with torch.no_grad():
                layer.lora.lora_A.fill_(0.1 * number)
            inject.replace_module(model, name, layer)
    return model


def probe_freeze(names: Names, **inputs: Any) -> dict:
    """What still trains afterwards, what was returned, what has other values."""
    model = frozen_model(inputs)
    before = {name: array(p) for name, p in model.named_parameters()}
    result = names.freeze(model)
    after = dict(model.named_parameters())
    return {
        "same": result is model,
        "kind": type(result).__name__,
        "trains": [name for name, p in after.items() if p.requires_grad],
        "lost": [name for name in before if name not in after],
        "changed": [name for name in before if name in after and not np.array_equal(array(after[name]), before[name])],
        "evaluation": not model.training,
    }


def judge_frozen(inputs: Inputs, seen: Observation) -> Fault | None:
    """Nothing trains."""
    trains = list(seen["trains"])
    if seen["lost"]:
        return Fault(f"the model has no {some(seen['lost'])} any more", "freeze changes no module", "section 3.1")
    if not trains:
        return None
    all_names = [name for name, _ in frozen_model(inputs).named_parameters()]
    able = [name for name, p in frozen_model(inputs).named_parameters() if p.requires_grad]
    likely = ""
    if trains == able:
        likely = "requires_grad is set nowhere: eval() and torch.no_grad() freeze no parameter"
        if seen["kind"] == "Classifier" and not seen["same"]:
            likely = "a copy was frozen, and the model itself was not"
    elif not set(trains) & set(able):
        likely = "the flag is turned round, so that what was frozen trains: set it to False, whatever it was"
    elif all("lora_" in name for name in trains):
        likely = "freeze goes by names and leaves out lora_...: it means every parameter, whatever its name"
    elif all("classifier" in name for name in trains):
        likely = "freeze goes by names and leaves out the head: it means every parameter"
    elif all(name.endswith("bias") or name == "scale" for name in trains) and trains != ["scale"]:
        likely = "weights are frozen and biases are not"
    elif trains == ["scale"]:
        likely = "a parameter of the model itself, outside all of its layers, is forgotten: ask model.parameters()"
    elif trains == ["embeddings.word.weight"]:
        likely = "embeddings are left out: ask model.parameters(), which gives those of every kind of layer"
    elif not any(inputs["prefix"] in name for name in trains):
        likely = "only a part of the model is frozen: ask model.parameters(), which reaches every depth"
    elif len(trains) < len(all_names):
        likely = "some kinds of layers or some depths are left out: ask model.parameters()"
    return Fault(f"{len(trains)} of {len(all_names)} parameters still train: {some(trains)}", likely, "section 3.1")


def judge_returned(inputs: Inputs, seen: Observation) -> Fault | None:
    """The model itself comes back. From a function that does nothing else, that is worth nothing."""
    if not seen["same"]:
        return _not_the_model(seen, "section 3.1")
    if len(seen["trains"]) == sum(p.requires_grad for p in frozen_model(inputs).parameters()):
        return Fault("nothing is frozen", "", "section 3.1")
    return None


def _not_the_model(seen: Observation, read: str) -> Fault:
    if seen["kind"] == "NoneType":
        return Fault("it returns None", "return model is missing", read)
    likely = "a copy: change the model in place" if seen["kind"] == "Classifier" else "return the model"
    return Fault(f"it returns another object, a {seen['kind']}", likely, read)


def judge_unchanged(inputs: Inputs, seen: Observation) -> Fault | None:
    """No value changes. Only what was frozen is asked, so an open gap gets nothing for leaving all as it is."""
    if seen["trains"] and len(seen["trains"]) == sum(p.requires_grad for p in frozen_model(inputs).parameters()):
        return Fault("nothing is frozen", "", "section 3.1")
    names = [*seen["changed"], *seen["lost"]]
    if names:
        return Fault(
            f"other values in {some(names)}", "freezing keeps every value: it only sets requires_grad", "section 3.1"
        )
    return None


# --- 3.2 match_targets ----------------------------------------------------------------------------------------------


def draw_match(rng: np.random.Generator, kind: str) -> Inputs:
    """A model and lists of targets; ``kind`` says which behaviour they are about."""
    inputs = draw_model(rng, layers=int(rng.integers(12, 14)), kinds=kind in ("linear", "nearly"))
    layer = int(rng.integers(2, 9))
    # alike in what misleads, so that a mistake costs the same whichever is drawn
    one, other = (str(n) for n in rng.permutation(["query", "key"]))
    cases = {
        "parts": [
            ["query"],
            ["output.dense"],
            ["attention.output.dense"],
            ["my_query"],
            ["mixer.0"],
            [f"layer.{layer}.output.dense"],
        ],
        "ends": [["layer.1.attention.self.query"], ["1.output.dense"], ["1.intermediate.dense"]],
        "linear": [
            ["value"],
            ["own"],
            ["linear"],
            *([name, "gate"] for name in ("word", "pair", "LayerNorm")),
        ],
        "order": [[one, other], [other, one], ["gate", "my_query", one]],
        "once": [["query", "self.query"], ["output.dense", "attention.output.dense"], [one, one]],
        "missing": [["qurey"], [one, "no_such_layer"], ["transformer.h.0.attn", other]],
        "nearly": [
            ["uery"],
            [f"layer.{layer}"],
            ["attention"],
            ["LayerNorm"],
            ["dense.weight"],
            ["gained", one],
            [one, "Key"],
        ],
    }[kind]
    return {**inputs, "cases": cases}


def probe_match(names: Names, **inputs: Any) -> dict:
    """What each list of targets gives, or raises; and whether the model is still what it was."""
    model = build(inputs)
    before = [(name, id(module)) for name, module in model.named_modules()]
    outcomes, match_targets = [], names.match_targets
    for targets in inputs["cases"]:
        found: list[Any] = []
        error = _raised_with_text(
            lambda targets=targets, found=found: found.append(match_targets(model, list(targets)))
        )
        value = found[0] if found else None
        items = [str(item) for item in value] if isinstance(value, (list, tuple, set, dict)) else []
        outcomes.append(
            {
                "raised": error,
                "kind": type(value).__name__,
                "items": items,
                "text": all(isinstance(item, str) for item in value) if items else True,
            }
        )
    after = [(name, id(module)) for name, module in model.named_modules()]
    return {"outcomes": outcomes, "unchanged": before == after}


def _raised_with_text(call: Callable[[], Any]) -> dict | None:
    """`raised`, with the whole message: it may have several lines."""
    texts: list[str] = []

    def kept() -> Any:
        try:
            return call()
        except Exception as error:
            try:
                texts.append(str(error))
            except Exception:
                texts.append("")
            raise

    error = raised(kept)
    return error and {**error, "text": (texts or [""])[0]}


def judge_match(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each list of targets gives the linear layers that it means; a list that must be refused is."""
    read = "section 3.2"
    names = layer_names(inputs)
    every = [name for name, _ in build(inputs).named_modules()]
    if len(seen["outcomes"]) != len(inputs["cases"]):
        return Fault("not every list of targets has an answer", "", read)
    for targets, outcome in zip(inputs["cases"], seen["outcomes"], strict=True):
        absent = [target for target in targets if not matches(inputs, [target])]
        shown = f"match_targets(model, {targets})"
        error = outcome["raised"]
        if absent:
            present = [target for target in targets if target not in absent]
            others = [name for name in every if f".{name}".endswith("." + absent[0])]
            fault = _refusal_fault(shown, absent[0], present, outcome, others)
            if fault:
                return fault
            continue
        wanted = matches(inputs, targets)
        if error:
            likely = ""
            if error["type"] == "ValueError":
                likely = "a target is one or more whole parts at the end of a dotted name, or all of it; this matches"
                if any(type(at(build(inputs), name)) is OwnLinear for name in wanted):
                    likely = "a class that inherits from nn.Linear is one: ask isinstance, not type()"
            return Fault(f"{shown} raised {error['type']}: {error['text'][:120]}", likely, read)
        if outcome["kind"] != "list" or not outcome["text"]:
            likely = "return a list of names (text)"
            if outcome["kind"] == "NoneType":
                likely = "return is missing"
            elif outcome["kind"] == "list":
                likely = "these are modules or pairs: the contract asks for the names"
            return Fault(f"{shown} returned a {outcome['kind']}{_of(outcome)}", likely, read)
        found = list(outcome["items"])
        if found == wanted:
            continue
        return _match_fault(shown, found, wanted, names, every, targets)
    if not seen["unchanged"]:
        return Fault("the model's modules have changed", "match_targets only reads names", read)
    return None


def _of(outcome: Mapping) -> str:
    return "" if outcome["text"] else " of something else than text"


def _refusal_fault(
    shown: str, target: str, present: Sequence[str], outcome: Mapping, others: Sequence[str]
) -> Fault | None:
    """``others``: modules whose names the target fits, and which are no linear layers."""
    error, read = outcome["raised"], "section 3.2"
    if not error:
        found = list(outcome["items"])
        likely = (
            "a target that matches nothing must be a ValueError: a typo would leave layers without LoRA, in silence"
        )
        if found:
            likely = "each target is to be asked for itself: others of the list did match"
            if all(target in name for name in found) and not all(name.endswith(target) for name in found):
                likely = "in is a test for text anywhere: a target is whole parts at the end of a dotted name"
            elif all(name.endswith(target) for name in found):
                likely = "endswith without the dot cuts a part in two: uery is not query"
            if set(others) & set(found) or (others and all(target in name for name in found)):
                likely = f"{target} is no nn.Linear: what counts are linear layers whose name ends so"
            elif target not in " ".join(found):
                likely = "each target is to be asked for itself: others of the list did match"
            if any(target.lower() in name and target not in name for name in found):
                likely = "upper and lower case are different names"
        return Fault(f"{shown} gave {some(found, 2) or 'an empty list'} and no error", likely, read)
    if "ValueError" not in error["bases"]:
        return Fault(f"{shown} raised {error['type']}", "the contract is a ValueError", read)
    if target not in error["text"]:
        likely = f"the message does not name {target!r}: a reader must find the typo"
        if any(f"'{other}'" in error["text"] for other in present):
            likely = f"it complains of a target that does match; {target!r} is the one that does not"
        return Fault(f"{shown} raised ValueError: {error['text']}", likely, read)
    return None


def _match_fault(
    shown: str, found: list[str], wanted: list[str], names: list[str], every: list[str], targets: Sequence[str]
) -> Fault:
    read = "section 3.2"
    extra = [name for name in found if name not in wanted]
    missing = [name for name in wanted if name not in found]
    repeated = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if extra:
        likely = "more matches than the contract's: the name is a target, or ends in a dot and the target"
        if any(name not in names for name in extra):
            likely = "these are no linear layers: ask isinstance(module, nn.Linear)"
            if any(name not in every for name in extra):
                likely = "these are no names of modules"
        elif all(any(name.endswith(target) for target in targets) for name in extra):
            likely = (
                "in, or endswith without a dot, also takes names that only end like it: my_query is not query, "
                "layer.11 is not 1"
            )
        elif all(any(target in name for target in targets) for name in extra):
            likely = "in is a test for text anywhere in the name: layer.1 is in layer.10, too"
        elif any("output_dense" in name for name in extra):
            likely = "in a regular expression a dot stands for any character: use re.escape, or no expression"
        elif all(any(target in name.split(".") for target in targets) for name in extra):
            likely = "the target stands in the middle of these names: it must stand at the end"
        return Fault(f"{shown} also gave {some(extra, 2)}", likely, read)
    if missing:
        likely = "the walk does not reach them, or stops early"
        if not found:
            likely = "only a whole name is compared, or only its last part: a target may be both, and several parts"
        elif all("." not in name for name in missing):
            likely = "a layer of the model itself has no dot in its name"
        elif all("." in t for t in targets):
            likely = "a target may have several parts: compare the end of the whole name"
        elif len(found) == len(targets):
            likely = "one layer a target: the loop stops at the first match"
        return Fault(f"{shown} lacks {some(missing, 2)}", likely, read)
    if repeated:
        return Fault(
            f"{shown} gave {repeated[0]} {found.count(repeated[0])} times",
            "each layer once: two targets may mean the same",
            read,
        )
    return Fault(
        f"{shown} gave the right names in another order, {some(found, 2)} first",
        "the order is that of model.named_modules(): walk over the model, and ask for the targets inside",
        read,
    )


# --- 3.3 replace_module ---------------------------------------------------------------------------------------------


def draw_replace(rng: np.random.Generator, where: str) -> Inputs:
    """A model and places in it."""
    inputs = draw_model(rng)
    layer = f"{inputs['prefix']}.layer.{int(rng.integers(0, inputs['layers']))}"
    places = {
        "deep": [f"{layer}.attention.self.query", f"{layer}.output.dense"],
        "top": ["my_query", "classifier"],
        "containers": ["mixer.0", "mixer.1", "extra.gate", f"{inputs['prefix']}.layer.1"],
    }[where]
    return {**inputs, "places": places}


class Marker(nn.Linear):
    """What is put in: a layer that adds its own number to what comes in."""

    def __init__(self):
        super().__init__(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def probe_replace(names: Names, **inputs: Any) -> dict:
    """For each place: whether the new module is there, and whether all others are where they were, in their order."""
    outcomes, replace = [], names.replace_module
    for place in inputs["places"]:
        model, new = build(inputs), Marker()
        before = [(name, id(module)) for name, module in model.named_modules() if not _inside(name, place)]
        children = _child_order(model, place)
        error = raised(lambda model=model, place=place, new=new: replace(model, place, new))
        after = dict(model.named_modules())
        outcomes.append(
            {
                "raised": error,
                "there": at(model, place) is new,
                "copy": isinstance(at(model, place), Marker),
                "dotted": "." in place
                and any(place.endswith(n) and "." in n for m in model.modules() for n in m._modules),
                "elsewhere": [name for name, module in after.items() if module is new and name != place],
                "moved": [name for name, number in before if id(after.get(name)) != number],
                "added": [name for name in after if name not in dict(before) and not _inside(name, place)],
                "order": children == _child_order(model, place),
            }
        )
    return {"outcomes": outcomes}


def _inside(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


def _child_order(model: nn.Module, place: str) -> list[str]:
    parent = place.rpartition(".")[0]
    return [name for name, _ in model.get_submodule(parent).named_children()]


def judge_replaced(inputs: Inputs, seen: Observation) -> Fault | None:
    """The new module is at the place, and nothing else changed."""
    read = "section 3.3"
    if len(seen["outcomes"]) != len(inputs["places"]):
        return Fault("not every place was tried", "", read)
    for place, outcome in zip(inputs["places"], seen["outcomes"], strict=True):
        error = outcome["raised"]
        if error:
            likely = "the parts before the last dot lead to the parent (none: the model itself), the last is its child"
            return Fault(f"replacing {place} raised {error['type']}: {error['text'][:100]}", likely, read)
        if outcome["moved"]:
            return Fault(
                f"replacing {place} changed {some(list(outcome['moved']), 2)} as well",
                "only the last part of the name is the child; the parts before it lead to its parent",
                read,
            )
        if not outcome["there"]:
            likely = "the module at that name is still the old one: set it as an attribute of its parent"
            if outcome["dotted"]:
                likely = (
                    "a child with a dot in its name was added: setattr takes one part of a name, find the parent first"
                )
                return Fault(f"the module at {place} is not the new one", likely, read)
            if outcome["copy"]:
                likely = (
                    "a copy of it stands there, and whoever holds the new module holds another one: put in new itself"
                )
            if outcome["elsewhere"]:
                likely = "it hangs at the wrong parent: model.get_submodule of all parts but the last is the right one"
            return Fault(f"the module at {place} is not the new one", likely, read)
        if outcome["elsewhere"] or outcome["added"]:
            return Fault(
                f"replacing {place} added {some([*outcome['elsewhere'], *outcome['added']], 2)}",
                "a module is put in place of the old one, and nowhere else",
                read,
            )
        if not outcome["order"]:
            return Fault(
                f"replacing {place} changed the order of its parent's children",
                "deleted and added again it comes last, and an nn.Sequential then runs in another order: setattr keeps "
                "the place",
                read,
            )
    return None


# --- 3.4 inject_lora ------------------------------------------------------------------------------------------------


def draw_inject(
    rng: np.random.Generator,
    defaults: bool = False,
    head: bool | None = None,
    head_targets: bool = False,
    dropout: bool = False,
    targets: Sequence[str] | None = None,
    **model: Any,
) -> Inputs:
    """A model, targets, and arguments: none of them (``defaults``), or all but ``train_head`` if ``head`` is None."""
    inputs = draw_model(rng, **model)
    if targets is None:
        # one of each kind, so that a mistake costs the same whatever is drawn; my_query is no target, and ends so
        kinds = [["query"], ["key", "value"], ["intermediate.dense", "output.dense"], ["mixer.2"]]
        targets = [str(t) for t in rng.permutation([rng.choice(kind) for kind in kinds])]
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


def is_wrapper(module: Any) -> bool:
    """A module that holds a linear layer and an update of it, by the contract's names."""
    lora = getattr(module, "lora", None)
    return hasattr(module, "linear") and hasattr(lora, "lora_A") and hasattr(lora, "lora_B")


def wrappers(model: nn.Module) -> dict[str, Any]:
    """The wrapped layers by name."""
    return {name: module for name, module in model.named_modules() if is_wrapper(module) and at(model, name) is module}


def injected(names: Names, inputs: Inputs) -> tuple[nn.Module, Any]:
    """The model after the student's inject_lora, and what it returned."""
    model = build(inputs)
    result = names.inject_lora(model, list(inputs["targets"]), **inputs["options"])
    return model, result


def probe_inject(names: Names, **inputs: Any) -> dict:
    """The wrapped layers, what trains, every pretrained value, logits, and each update's output."""
    model, result = injected(names, inputs)
    model.eval()
    layers = wrappers(model)
    parameters = dict(model.named_parameters())
    return {
        "same": result is model,
        "kind": type(result).__name__,
        "kinds": {name: type(at(model, name)).__name__ for name in matches(inputs, inputs["targets"])},
        "dotted": any("." in child for module in model.modules() for child in module._modules),
        "wrapped": {name: _layer(layer) for name, layer in layers.items()},
        "parameters": list(parameters),
        "trains": [name for name, p in parameters.items() if p.requires_grad],
        "values": {name: array(p) for name, p in parameters.items() if not _of_lora(name)},
        "logits": array(model(torch.tensor(inputs["ids"]))),
    }


def _of_lora(name: str) -> bool:
    return name.endswith(("lora_A", "lora_B"))


def _layer(layer: Any) -> dict:
    A, B = layer.lora.lora_A, layer.lora.lora_B
    return {
        "linear": type(layer.linear).__name__,
        "is_linear": isinstance(layer.linear, nn.Linear),
        "A": list(A.shape),
        "B": list(B.shape),
        "zero": not bool(array(B).any()),
    }


def probe_updates(names: Names, **inputs: Any) -> dict:
    """With values in B: each wrapped layer's output in evaluation mode, and whether dropout acts in training mode."""
    model, _ = injected(names, inputs)
    seen = {}
    for name in matches(inputs, inputs["targets"])[:6]:
        layer = model.get_submodule(name)
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


def probe_again(names: Names, **inputs: Any) -> dict:
    """A second call, with the same targets or with ``inputs["more"]``: what it raises, and the first call's layers."""
    model, _ = injected(names, inputs)
    first = wrappers(model)
    for layer in first.values():
        with torch.no_grad():
            layer.lora.lora_B.normal_()
    factors = {name: (array(layer.lora.lora_A), array(layer.lora.lora_B)) for name, layer in first.items()}
    trained = [name for name, p in model.named_parameters() if p.requires_grad and _of_lora(name)]
    before = {name: array(p) for name, p in _pretrained(model).items()}
    awake = [name for name, p in _pretrained(model).items() if p.requires_grad and not name.startswith("classifier.")]
    targets, results, inject_lora = [*inputs["targets"], *inputs.get("more", [])], [], names.inject_lora
    error = raised(lambda: results.append(inject_lora(model, targets, **inputs["options"])))
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
        "same": bool(results) and results[0] is model,
        "kind": type(results[0]).__name__ if results else "",
        "changed": [name for name in before if name not in base or not _equal(base[name], before[name])],
        "awake": awake,
        "thawed": [name for name, p in base.items() if p.requires_grad and not name.startswith("classifier.")],
        "lost": lost,
        "stopped": [name for name in trained if not (name in parameters and parameters[name].requires_grad)],
    }


def _pretrained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The base model's parameters under their first names, whether their layers are wrapped or not."""
    return {name.replace(".linear.", "."): p for name, p in model.named_parameters() if not _of_lora(name)}


def _equal(parameter: Any, values: np.ndarray) -> bool:
    return np.array_equal(array(parameter), values)


def draw_typo(rng: np.random.Generator) -> Inputs:
    """A list of targets of which one means nothing."""
    return {**draw_inject(rng, targets=["query", "vlaue"]), "typo": "vlaue"}


def probe_typo(names: Names, **inputs: Any) -> dict:
    """What a target that matches nothing raises, beside an injection that must work."""
    works = {**inputs, "targets": ["query"]}
    injected(names, works)
    return {"raised": raised(lambda: injected(names, inputs))}


def judge_wrapped(inputs: Inputs, seen: Observation) -> Fault | None:
    """Exactly the matches are wrapped, each once."""
    read, wanted, found = "section 3.4", matches(inputs, inputs["targets"]), list(seen["wrapped"])
    if found == wanted and all(layer["is_linear"] for layer in seen["wrapped"].values()):
        return None
    inner = [name for name in found if any(name.startswith(other + ".") for other in found)]
    if inner:
        return Fault(
            f"{inner[0]} is wrapped, and so is the layer around it",
            "the layer inside a wrapper was wrapped again: collect all names before the first replacement",
            read,
        )
    extra, missing = [n for n in found if n not in wanted], [n for n in wanted if n not in found]
    if extra:
        return Fault(
            f"{some(extra, 2)} is wrapped without being a target",
            "inject_lora has a search of its own: match_targets is the one place that reads names",
            read,
        )
    if missing:
        kinds = sorted({seen["kinds"].get(name, "nothing") for name in missing})
        likely = "replace_module must be called once for each name that match_targets gives"
        if seen["dotted"]:
            likely = (
                "a child with a dot in its name was added, and no forward meets it: replace_module finds the parent"
            )
        elif kinds == ["Linear"] and not found:
            likely = "nothing was put into the model: a wrapper that is only made replaces nothing"
        elif kinds not in (["Linear"], ["Classifier"]):
            likely = "a wrapper keeps the old layer as .linear, and the update as .lora with lora_A and lora_B"
        return Fault(
            f"{len(missing)} of {len(wanted)} targets are not wrapped: {missing[0]} is a {kinds[0]}", likely, read
        )
    return Fault("what a wrapper holds as .linear is no nn.Linear", "wrap the pretrained layer itself", read)


def judge_sizes(inputs: Inputs, seen: Observation) -> Fault | None:
    """The updates have the rank that was asked for, 8 if none was."""
    read = "section 3.4"
    rank = inputs["options"].get("rank", 8)
    model = build(inputs)
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "", read)
    for name, layer in seen["wrapped"].items():
        if not isinstance(linear := _submodule(model, name), nn.Linear):
            continue  # wrapped without being a target: another check's
        wanted = [rank, linear.in_features], [linear.out_features, rank]
        if (layer["A"], layer["B"]) != wanted:
            asked = "the default rank is 8" if "rank" not in inputs["options"] else "the rank is not passed on"
            likely = asked if layer["A"][0] == layer["B"][1] != rank else "sizes of another layer: one update a layer"
            return Fault(f"{name}: lora_A is {tuple(layer['A'])}, expected {tuple(wanted[0])}", likely, read)
    return None


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    return dict(model.named_modules()).get(name)


def judge_update(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each wrapped layer computes W x + b + alpha / rank * B A x, and dropout acts if it was asked for."""
    read, options = "section 3.4", inputs["options"]
    alpha, dropout = options.get("alpha", 16), options.get("dropout", 0.0)
    weights = numpy_parameters(inputs)
    if not any("y" in seen.get(name, {}) for name in matches(inputs, inputs["targets"])[:6]):
        return Fault("no layer is wrapped", "", read)
    for name in matches(inputs, inputs["targets"])[:6]:
        one = seen[name]
        if "y" not in one:
            continue  # not wrapped: another check's
        A, B = one["A"], one["B"]
        if not A.any():
            return Fault(
                f"{name}: lora_A is zero", "with A and B both zero nothing ever learns: leave A as drawn", read
            )
        x = inputs["x"].astype(np.float32).astype(np.float64)[:, : A.shape[1]]
        base = x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)
        update = x @ A.T @ B.T
        if not close(one["y"], base + alpha / len(A) * update, 1e-4):
            likely = ""
            difference = one["y"] - base
            norm = float((update**2).sum())
            factor = float((difference * update).sum()) / norm if norm else 0.0
            if close(difference, factor * update, 1e-3):
                times, asked = pair(factor, alpha / len(A))
                shown = f"{times} times B A x is added, expected {asked}"
                likely = "alpha is not passed on" if "alpha" in options else "the default alpha is 16"
                if close(factor, alpha, 1e-4):
                    likely = "alpha must be divided by the rank"
                elif "alpha" in options and close(factor, len(A) / alpha, 1e-3):
                    likely = "rank and alpha are passed on in the wrong order"
                return Fault(f"{name}: {shown}", likely, read)
            if not np.isfinite(one["y"]).all():
                likely = "uninitialised memory stands in place of the pretrained weight"
            elif close(one["y"], base - weights.get(f"{name}.bias", 0.0) + alpha / len(A) * update, 1e-4):
                likely = "the bias was dropped"
            return Fault(f"{name}: the output is not W x + b + scaling * B A x", likely, read)
        if one["noisy"] != (dropout > 0):
            likely = "dropout is not passed on" if dropout else "dropout is off by default"
            return Fault(f"{name}: dropout {'never acts' if dropout else 'acts'} in training mode", likely, read)
    return None


def judge_untouched(inputs: Inputs, seen: Observation) -> Fault | None:
    """Every pretrained number is where it was, bit for bit; wrapped layers keep theirs under .linear."""
    read, before = "section 3.4", numpy_parameters(inputs)
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "", read)
    for name, values in before.items():
        layer, _, kind = name.rpartition(".")
        found = seen["values"].get(_place(name, seen["wrapped"]))
        if found is None:
            likely = "the wrapper's layer was built without a bias" if kind == "bias" else "a new module without it"
            if kind == "bias":
                likely = "the bias was dropped: wrap the layer that is there, do not build a new one"
            return Fault(f"the pretrained {name} is gone", likely, read)
        if not np.array_equal(found, values):
            likely = "wrap the layer that is there: a new nn.Linear has new weights, torch.empty whatever was in memory"
            if layer not in seen["wrapped"]:
                likely = "injection changes no value of the model"
            return Fault(f"{name} is not the pretrained one, bit for bit", likely, read)
    return None


def _place(name: str, wrapped: Mapping) -> str:
    """What a parameter of the base model is called after the injection."""
    layer, _, kind = name.rpartition(".")
    return f"{layer}.linear.{kind}" if layer in wrapped else name


def judge_start(inputs: Inputs, seen: Observation) -> Fault | None:
    """With B at zero the logits are those of the base model."""
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "", "section 3.4")
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
    return Fault(f"the logits after injection {shown}", likely, "section 3.4")


def judge_frozen_base(inputs: Inputs, seen: Observation) -> Fault | None:
    """Nothing pretrained outside the head trains; every lora_A and lora_B does."""
    read = "section 3.4"
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "", read)
    trains = set(seen["trains"])
    factors = [f"{name}.lora.{factor}" for name in seen["wrapped"] for factor in ("lora_A", "lora_B")]
    asleep = [name for name in factors if name in seen["parameters"] and name not in trains]
    absent = [name for name in factors if name not in seen["parameters"]]
    if absent:
        return Fault(f"{absent[0]} is no parameter of the model", "nn.Parameter, inside a registered module", read)
    if asleep:
        likely = "freeze comes first: called after the wrapping it freezes the updates, too"
        return Fault(f"{len(asleep)} of {len(factors)} LoRA matrices do not train: {asleep[0]}", likely, read)
    others = [n for n in seen["trains"] if n not in factors and not n.startswith("classifier.")]  # the head: judge_head
    if others:
        linears = {f"{name}.linear.{kind}" for name in seen["wrapped"] for kind in ("weight", "bias")}
        likely = "wrapping freezes the wrapped layers alone; freeze(model) is for all the others"
        if set(others) <= linears:
            likely = "the layers inside the wrappers train: freeze the model, not only what is not wrapped"
        elif linears & set(others):
            likely = (
                "the layers inside the wrappers train, too: what comes after freeze(model) wakes the whole model up"
            )
        elif all("classifier" in n for n in others):
            likely = "the head is model.classifier alone: what else has classifier in its name stays frozen"
        elif all("lora" not in n for n in others) and all(n.endswith("bias") for n in others):
            likely = "weights are frozen and biases are not"
        return Fault(f"{len(others)} pretrained parameters train: {some(others, 2)}", likely, read)
    return None


def judge_head(inputs: Inputs, seen: Observation) -> Fault | None:
    """The head trains if asked for, which is the default."""
    read, asked = "section 3.4", inputs["options"].get("train_head")
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "", read)
    head = [_place(name, seen["wrapped"]) for name in numpy_parameters(inputs) if name.startswith("classifier.")]
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
        return Fault(f"{called}, and {some(left, 2)} must train and do not", likely, read)
    return None


def judge_no_head(inputs: Inputs, seen: Observation) -> Fault | None:
    """With train_head=False nothing of the head trains but updates of it that were asked for."""
    if not seen["wrapped"]:
        return Fault("no layer is wrapped", "", "section 3.4")
    trains = [name for name in seen["trains"] if name.startswith("classifier.") and not _of_lora(name)]
    base = [name for name in seen["trains"] if not (_of_lora(name) or name.startswith("classifier."))]
    if trains and not base:  # a model that is not frozen at all is another check's matter
        likely = "ask train_head before the head is woken up"
        return Fault(f"train_head=False, and {some(trains, 2)} train", likely, "section 3.4")
    if not any(f"{name}.".startswith("classifier.") for name in seen["wrapped"]):
        return Fault(f"targets {inputs['targets']}: nothing in the head is wrapped", "", "section 3.4")
    asleep = [name for name in seen["parameters"] if _of_lora(name) and name not in seen["trains"]]
    if asleep:
        likely = "the head was frozen after the wrapping, with the updates inside it"
        return Fault(f"{len(asleep)} LoRA matrices do not train: {asleep[0]}", likely, "section 3.4")
    return None


def judge_inject_returned(inputs: Inputs, seen: Observation) -> Fault | None:
    """The model itself comes back."""
    if not seen["same"]:
        return _not_the_model(seen, "section 3.4")
    return None if seen["wrapped"] else Fault("no layer is wrapped", "", "section 3.4")


def judge_again(inputs: Inputs, seen: Observation) -> Fault | None:
    """A second call is refused, or leaves the first call's layers wrapped once, as trained, and trainable."""
    read, wanted = "section 3.4", matches(inputs, inputs["targets"])
    if not seen["first"]:
        return Fault("no layer is wrapped", "", read)
    again = matches(inputs, [*inputs["targets"], *inputs.get("more", [])])
    inner = [name for name in seen["now"] if any(name.startswith(other + ".") for other in seen["now"])]
    if inner and not [n for n in seen["first"] if any(n.startswith(other + ".") for other in seen["first"])]:
        return Fault(
            f"after a second call {inner[0]} is wrapped inside a wrapper",
            "the search finds the linear layers inside the wrappers: refuse, or skip what is wrapped",
            read,
        )
    if seen["lost"]:
        return Fault(
            f"a second call replaced the updates of {some(list(seen['lost']), 2)}",
            "what was trained is lost: refuse, or skip what is wrapped",
            read,
        )
    if seen["raised"] is None and seen["stopped"]:
        return Fault(
            f"a second call returned, and {len(seen['stopped'])} LoRA matrices do not train any more",
            "freeze(model) ran again over the updates: refuse before anything changes, or wake them up again",
            read,
        )
    if seen["raised"] is None and not seen["same"]:
        fault = _not_the_model(seen, read)
        return Fault(f"after a second call, {fault.seen}", fault.likely, read)
    if seen["raised"] is None and seen["changed"]:
        return Fault(
            f"a second call changed the pretrained {some(list(seen['changed']), 2)}",
            "the wrapped layers are to stay as they are: an update merged into its weight cannot be told from it again",
            read,
        )
    if seen["raised"] is None and seen["thawed"] and not seen["awake"]:
        return Fault(
            f"after a second call {some(list(seen['thawed']), 2)} train",
            "only the updates and the head are to be woken up: a wrapper holds the pretrained layer, too",
            read,
        )
    if seen["raised"] is None and any(name not in again for name in seen["now"] if name not in wanted):
        return Fault("a second call wrapped other layers", "", read)
    return None


def judge_typo(inputs: Inputs, seen: Observation) -> Fault | None:
    """A target that matches nothing is a ValueError here, too."""
    error = seen["raised"]
    shown = f"targets {inputs['targets']}"
    if error is None:
        return Fault(
            f"{shown}: no error",
            "a typo would leave layers without LoRA, in silence: match_targets raises, let it",
            "section 3.4",
        )
    if "ValueError" not in error["bases"]:
        return Fault(f"{shown}: {error['type']}", "the contract is a ValueError", "section 3.4")
    return None


# --- 3.5 trainable_report -------------------------------------------------------------------------------------------


def draw_report(rng: np.random.Generator, state: str = "some", shared: bool = False) -> Inputs:
    """A model of which some, all or no parameters train; ``shared``: one matrix has two names."""
    return draw_model(rng, state=state, shared=shared, frozen=rng.integers(0, 2, size=500).astype(bool))


def report_model(inputs: Inputs) -> nn.Module:
    """The model that `trainable_report` is given."""
    model = build(inputs)
    if inputs["shared"]:
        model.extra["gate"].weight = model.my_query.weight
        model.mixer.add_module("3", model.mixer[0])
    for parameter, frozen in zip(model.parameters(), inputs["frozen"], strict=False):
        parameter.requires_grad_({"some": not frozen, "all": True, "none": False}[inputs["state"]])
    if inputs["shared"]:
        model.my_query.requires_grad_(True)
        model.mixer[0].requires_grad_(True)
    return model


def probe_report(names: Names, **inputs: Any) -> dict:
    """The report's three numbers, and whether the model is still what it was."""
    model = report_model(inputs)
    before = [p.requires_grad for p in model.parameters()]
    report = names.trainable_report(model)
    if not isinstance(report, Mapping):
        return {"kind": type(report).__name__}
    keys = ("trainable", "total", "ratio")
    return {
        "keys": [str(key) for key in report],
        "values": {key: _number(report[key]) for key in keys if key in report},
        "kinds": {key: type(report[key]).__name__ for key in keys if key in report},
        "unchanged": before == [p.requires_grad for p in model.parameters()],
        "meta": _on_meta(names.trainable_report, inputs),
    }


def _on_meta(trainable_report: Callable, inputs: Inputs) -> float | None:
    """The total of a model that has shapes and no memory, as the notebook counts roberta-base; None if it raises."""
    if inputs["shared"]:
        with contextlib.suppress(Exception):
            return _number(trainable_report(build(inputs).to("meta"))["total"])
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, str)) or value is None:
        return None
    return float(value)


def _report_form(seen: Observation, keys: Sequence[str]) -> Fault | None:
    read = "section 3.5"
    if "kind" in seen:
        likely = "return is missing" if seen["kind"] == "NoneType" else "return a dict with three keys"
        return Fault(f"trainable_report returned a {seen['kind']}", likely, read)
    for key in keys:
        if key not in seen["values"]:
            return Fault(f"keys {seen['keys']}", f'"{key}" must be among them', read)
        if seen["values"][key] is None:
            return Fault(f"{key} is a {seen['kinds'][key]}", "return numbers; the notebook formats them", read)
    return None


def report_counts(inputs: Inputs) -> dict[str, int]:
    """Several ways to count the model, right ones and others."""
    model = report_model(inputs)
    own = list(model.parameters())
    twice = list(model.named_parameters(remove_duplicate=False))
    return {
        "trainable": sum(p.numel() for p in own if p.requires_grad),
        "total": sum(p.numel() for p in own),
        "tensors": len(own),
        "trainable tensors": sum(p.requires_grad for p in own),
        "with buffers": sum(t.numel() for t in (*own, *model.buffers())),
        "state": sum(t.numel() for t in model.state_dict().values()),
        "twice": sum(p.numel() for _, p in twice),
        "trainable twice": sum(p.numel() for _, p in twice if p.requires_grad),
        "bytes": 4 * sum(p.numel() for p in own),
        "rows": sum(len(p) for p in own),
    }


def judge_counts(inputs: Inputs, seen: Observation) -> Fault | None:
    """trainable and total are the model's."""
    fault = _report_form(seen, ("trainable", "total"))
    if fault:
        return fault
    read, counts = "section 3.5", report_counts(inputs)
    for key in ("total", "trainable"):
        value, wanted = seen["values"][key], counts[key]
        if value == wanted:
            continue
        likely = ""
        if value in (counts["tensors"], counts["trainable tensors"]):
            likely = "these are tensors, not numbers: each has p.numel() of them"
        elif value == counts["rows"]:
            likely = "len(p) counts rows: p.numel() counts numbers"
        elif value == counts["bytes"]:
            likely = "these are bytes: count numbers"
        elif key == "total" and value == counts["total"] - counts["trainable"]:
            likely = "total counts the frozen parameters alone"
        elif key == "total" and value == counts["trainable"]:
            likely = "total must count frozen parameters, too"
        elif key == "trainable" and value == counts["total"] - counts["trainable"]:
            likely = "these are the frozen ones"
        elif key == "trainable" and value == counts["total"]:
            likely = "requires_grad is not asked"
        elif inputs["shared"] and value in (counts["twice"], counts["trainable twice"], counts["state"]):
            likely = "a parameter that two layers share counts once: model.parameters() gives it once"
        elif value in (counts["with buffers"], counts["state"]):
            likely = "buffers are no parameters: model.parameters(), not state_dict() or buffers()"
        return Fault(f"{key} is {value:,.6g}, expected {wanted:,}", likely, read)
    if not seen["unchanged"]:
        return Fault("what trains has changed", "a report only reads", read)
    wanted = sum(p.numel() for p in build(inputs).parameters())
    if seen["meta"] not in (None, wanted):
        return Fault(
            f"total of a model on the meta device is {seen['meta']:,.6g}, expected {wanted:,}",
            "parameters are told apart by where they lie in memory, and on meta all lie at 0: ask model.parameters()",
            read,
        )
    return None


def judge_whole_counts(inputs: Inputs, seen: Observation) -> Fault | None:
    """The counts, as whole numbers."""
    if fault := judge_counts(inputs, seen):
        return fault
    floats = [key for key in ("trainable", "total") if "float" in seen["kinds"][key]]
    if floats:
        return Fault(
            f"{floats[0]} is a {seen['kinds'][floats[0]]}", "a count is an int: leave the sum as it is", "section 3.5"
        )
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
    return Fault(f"ratio is {shown}, expected {asked}", likely, "section 3.5")


# --- 3.6 spot the bug -----------------------------------------------------------------------------------------------


def draw_blocks(rng: np.random.Generator) -> Inputs:
    """Blocks whose names begin like others'."""
    inputs = draw_model(rng, layers=int(rng.integers(12, 14)))
    start = f"{inputs['prefix']}.layer."
    return {**inputs, "blocks": [[f"{start}1"], [f"{start}1", f"{start}{int(rng.integers(2, 9))}"], [f"{start}11"]]}


def probe_blocks(names: Names, **inputs: Any) -> dict:
    """What trains after each call on a fresh model, of which all trains, or nothing."""
    trains = []
    for blocks, before in itertools.product(inputs["blocks"], (True, False)):
        model = build(inputs).requires_grad_(before)
        names.unfreeze_blocks(model, list(blocks))
        trains.append([name for name, p in model.named_parameters() if p.requires_grad])
    return {"trains": trains}


def judge_blocks(inputs: Inputs, seen: Observation) -> Fault | None:
    """Exactly the named blocks' parameters train."""
    every = list(numpy_parameters(inputs))
    if len(seen["trains"]) != 2 * len(inputs["blocks"]):
        return Fault("not every list of blocks was tried", "", "section 3.6")
    cases = itertools.product(inputs["blocks"], (True, False))
    for (blocks, before), trains in zip(cases, seen["trains"], strict=True):
        wanted = [name for name in every if any(name.startswith(block + ".") for block in blocks)]
        extra, missing = [n for n in trains if n not in wanted], [n for n in wanted if n not in trains]
        if extra:
            others = sorted({".".join(name.split(".")[:3]) for name in extra})
            likely = "layer.1 is the beginning of layer.10, too: compare with the dot that ends the name"
            if any(inputs["prefix"] not in name for name in extra):
                likely = "all other parameters must be frozen"
            return Fault(f"blocks {blocks}: parameters of {some(others)} train as well", likely, "section 3.6")
        if missing:
            likely = "a block is named from the model on: all that begins with the name and a dot belongs to it"
            if not before and not trains:
                likely = "the model was frozen before, and its blocks must train now: set the flag to True as well"
            return Fault(f"blocks {blocks}: {some(missing, 2)} must train and do not", likely, "section 3.6")
    return None


def draw_dropout(rng: np.random.Generator) -> Inputs:
    return draw_model(rng, p=float(rng.choice([0.2, 0.3, 0.4])))


def probe_dropout(names: Names, **inputs: Any) -> dict:
    """What stands where each linear layer stood."""
    model = build(inputs)
    before = {name: id(m) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    results: list[Any] = []
    add_dropout = names.add_dropout
    error = raised(lambda: results.append(add_dropout(model, inputs["p"])))
    if error:
        return {"raised": error}
    places = {}
    for name in before:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            continue
        parts = list(module) if isinstance(module, nn.Sequential) else []
        places[name] = {
            "kind": type(module).__name__,
            "parts": [type(part).__name__ for part in parts],
            "p": [float(part.p) for part in parts if isinstance(part, nn.Dropout)],
            "same": bool(parts) and id(parts[-1]) == before[name],
        }
    dropouts = sum(isinstance(m, nn.Dropout) for m in model.modules())
    return {"places": places, "dropouts": dropouts, "same": results[0] is model}


def judge_dropout(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each linear layer stands once, behind one dropout."""
    read, names = "section 3.6", layer_names(inputs)
    if "raised" in seen:
        error = seen["raised"]
        likely = ""
        if error["type"] == "RecursionError":
            likely = (
                "the walk goes on into what it has put in, without end: collect the modules before the first change"
            )
        return Fault(f"add_dropout raised {error['type']}: {error['text']}", likely, read)
    for name in names:
        place = seen["places"].get(name)
        if place is None:
            return Fault(f"{name} is gone", "", read)
        if place["parts"] != ["Dropout", "Linear"]:
            shown = f"{place['kind']}({', '.join(place['parts'])})" if place["parts"] else place["kind"]
            likely = "the walk goes on into what it has put in"
            if place["parts"] == ["Linear", "Dropout"]:
                likely = "the dropout comes first, and the layer behind it"
            if place["kind"] == "Linear":
                likely = "the walk does not get there: model.modules() meets every depth"
            return Fault(f"{name} is {shown}, expected Sequential(Dropout, Linear)", likely, read)
        if not place["same"]:
            return Fault(f"{name}: another layer than the model's own", "keep the layer that was there", read)
        if place["p"] != [inputs["p"]]:
            return Fault(f"{name}: Dropout({place['p'][0]:g}), expected {inputs['p']:g}", "p is not passed on", read)
    if seen["dropouts"] != len(names):
        return Fault(f"{seen['dropouts']} dropouts for {len(names)} linear layers", "one each", read)
    if not seen["same"]:
        return Fault("add_dropout does not return the model", "", read)
    return None


def draw_convolution(rng: np.random.Generator) -> Inputs:
    out_features, in_features, length = (int(n) for n in rng.choice(np.arange(3, 10), size=3, replace=False))
    return {
        "W": rng.normal(size=(out_features, in_features)),
        "b": rng.normal(size=out_features),
        "x": rng.normal(size=(2, in_features, length)),
    }


def probe_convolution(names: Names, **inputs: Any) -> dict:
    """The convolution's output for a layer with a bias and for one without."""
    seen = {}
    for bias in (True, False):
        linear = nn.Linear(inputs["W"].shape[1], inputs["W"].shape[0], bias=bias)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(inputs["W"]))
            if bias:
                linear.bias.copy_(torch.tensor(inputs["b"]))
        conv = names.as_convolution(linear)
        seen["bias" if bias else "no bias"] = {
            "kind": [base.__name__ for base in type(conv).__mro__],
            "y": array(conv(torch.tensor(inputs["x"], dtype=torch.float32))),
            "linear": array(linear.weight),
        }
    return seen


def judge_convolution(inputs: Inputs, seen: Observation) -> Fault | None:
    """At each position the convolution gives what the linear layer gives."""
    read = "section 3.6"
    for case in ("bias", "no bias"):
        one = seen[case]
        bare = np.einsum("oi,bil->bol", inputs["W"], inputs["x"])
        wanted = bare + inputs["b"][:, None] if case == "bias" else bare
        if "Conv1d" not in one["kind"]:
            return Fault(f"as_convolution returned a {one['kind'][0]}", "the docstring says nn.Conv1d", read)
        if not close(one["linear"], inputs["W"].astype(np.float32)):
            return Fault("the given layer's weight has changed", "copy out of it", read)
        if close(one["y"], wanted, 1e-4):
            continue
        likely = "the weight is new: torch.empty is whatever was in memory, and nobody copies the pretrained one"
        if close(one["y"], bare, 1e-4):
            likely = "the bias was dropped"
        elif one["y"].shape != wanted.shape:
            likely = "its weight has the shape (out_features, in_features, 1)"
        return Fault(f"a layer with {case}: the convolution gives something else", likely, read)
    return None


class Prompted(nn.Module):
    """Something pretrained, a new prompt and a new head."""

    def __init__(self, inputs: Inputs):
        super().__init__()
        inner = build({**inputs, "plain_head": True})
        del inner.classifier, inner.pre_classifier, inner.classifier_norm
        self.encoder = inner
        self.prompt = nn.Embedding(4, inputs["width"])
        self.classifier = nn.Sequential(nn.Linear(inputs["width"], 5), nn.LayerNorm(5))


def probe_prompt(names: Names, **inputs: Any) -> dict:
    """What trains of a model with a prompt and a new head, of which all trained before, or nothing."""
    trains, same = [], True
    for before in (True, False):
        model = Prompted(inputs).requires_grad_(before)
        same = names.train_prompt(model) is model and same
        trains.append([name for name, p in model.named_parameters() if p.requires_grad])
    return {"trains": trains, "same": same}


def judge_prompt(inputs: Inputs, seen: Observation) -> Fault | None:
    """The prompt and the head train, the encoder does not."""
    every = [name for name, _ in Prompted(inputs).named_parameters()]
    wanted = [name for name in every if not name.startswith("encoder.")]
    if len(seen["trains"]) != 2:
        return Fault("not every model was tried", "", "section 3.6")
    for before, trains in zip((True, False), seen["trains"], strict=True):
        extra, missing = [n for n in trains if n not in wanted], [n for n in wanted if n not in trains]
        if missing:
            likely = "a freeze by name that knows only one name: the new head is random, and stays so"
            if not before and len(missing) == len(wanted):
                likely = "the model was frozen before, and its new parts must train now: set the flag to True as well"
            return Fault(f"{some(missing, 2)} must train and do not", likely, "section 3.6")
        if extra:
            return Fault(f"{some(extra, 2)} train", "the encoder is pretrained and must stay frozen", "section 3.6")
    if not seen["same"]:
        return Fault("train_prompt does not return the model", "", "section 3.6")
    return None


# --- visible checks -------------------------------------------------------------------------------------------------

# The contracts' sentences; the hidden checks show the same.
FROZEN = "no parameter trains any more, at whatever depth"
ALL = "every parameter, LoRA's in a wrapped model as well"
KEPT = "no value changes"
RETURNED = "it returns the model it was given"
MATCHED = "linear layers whose name is a target, or ends in a dot and the target"
LINEAR = "modules that are not nn.Linear do not match"
ORDER = "names come in the order of named_modules"
ONCE = "a layer that two targets mean comes once"
MISSING = "a target that matches nothing is a ValueError that names it, even beside others that match"
NEARLY = "what only looks like a match is a ValueError: parts of a name, other modules, other case"
DEEP = "the new module stands at the dotted name, and all others stay"
TOP = "children of the model itself, too"
CONTAINERS = "inside lists, dicts and sequences as well, in the same order"
WRAPPED = "exactly the matches are wrapped, once each"
SIZES = "each update has the rank that was asked for"
UPDATE = "a wrapped layer computes W x + b + alpha / rank * B A x"
DEFAULT_RANK, DEFAULT_ALPHA = "the rank is 8 by default", "alpha is 16 by default"
DROPPED = "dropout is passed on"
UNTOUCHED = "every pretrained weight and bias is the same, bit for bit"
START = "right after injection the logits are the base model's"
BASE = "LoRA's matrices train, and nothing pretrained does"
HEAD = "the head trains if asked for, which is the default"
NO_HEAD = "train_head=False leaves LoRA alone to train, even where the head is wrapped"
AGAIN = "a second call is refused, or leaves the wrapped layers as they are"
TYPO = "a target that matches nothing is a ValueError"
COUNTS = "trainable and total count numbers, frozen ones in the second alone"
SHARED = "a parameter that two layers share counts once, buffers not at all"
RATIO = "ratio is trainable / total"
BLOCKS = "unfreeze_blocks lets the named blocks train, and no others"
DROPOUT = "add_dropout puts one dropout before each linear layer"
CONVOLUTION = "as_convolution computes what the linear layer computes"
PROMPT = "train_prompt trains the prompt and the new head"

VISIBLE = [
    Check("3.1/frozen", FROZEN, probe_freeze, judge_frozen, fixed(1, draw_freeze)),
    Check("3.1/all", ALL, probe_freeze, judge_frozen, fixed(22, draw_freeze, wrapped=True)),
    Check("3.1/kept", KEPT, probe_freeze, judge_unchanged, fixed(22, draw_freeze, wrapped=True)),
    Check("3.1/returned", RETURNED, probe_freeze, judge_returned, fixed(1, draw_freeze)),
    Check("3.2/parts", MATCHED, probe_match, judge_match, fixed(2, draw_match, kind="parts")),
    Check("3.2/linear", LINEAR, probe_match, judge_match, fixed(17, draw_match, kind="linear")),
    Check("3.2/once", ONCE, probe_match, judge_match, fixed(18, draw_match, kind="once")),
    Check("3.2/order", ORDER, probe_match, judge_match, fixed(3, draw_match, kind="order")),
    Check("3.2/missing", MISSING, probe_match, judge_match, fixed(4, draw_match, kind="missing")),
    Check("3.2/nearly", NEARLY, probe_match, judge_match, fixed(23, draw_match, kind="nearly")),
    Check("3.3/deep", DEEP, probe_replace, judge_replaced, fixed(5, draw_replace, where="deep")),
    Check("3.3/top", TOP, probe_replace, judge_replaced, fixed(19, draw_replace, where="top")),
    Check("3.3/containers", CONTAINERS, probe_replace, judge_replaced, fixed(6, draw_replace, where="containers")),
    Check("3.4/wrapped", WRAPPED, probe_inject, judge_wrapped, fixed(7, draw_inject), carry=CARRY),
    Check("3.4/untouched", UNTOUCHED, probe_inject, judge_untouched, fixed(7, draw_inject), carry=CARRY),
    Check("3.4/sizes", SIZES, probe_inject, judge_sizes, fixed(8, draw_inject), carry=CARRY),
    Check("3.4/update", UPDATE, probe_updates, judge_update, fixed(9, draw_inject), carry=CARRY),
    Check(
        "3.4/default-rank", DEFAULT_RANK, probe_inject, judge_sizes, fixed(24, draw_inject, defaults=True), carry=CARRY
    ),
    Check(
        "3.4/default-alpha",
        DEFAULT_ALPHA,
        probe_updates,
        judge_update,
        fixed(24, draw_inject, defaults=True),
        carry=CARRY,
    ),
    Check("3.4/dropout", DROPPED, probe_updates, judge_update, fixed(25, draw_inject, dropout=True), carry=CARRY),
    Check("3.4/start", START, probe_inject, judge_start, fixed(7, draw_inject), carry=CARRY),
    Check("3.4/frozen", BASE, probe_inject, judge_frozen_base, fixed(10, draw_inject), carry=CARRY),
    Check(
        "3.4/head",
        HEAD,
        probe_inject,
        judge_head,
        fixed(11, draw_inject, plain_head=False, head_targets=True),
        carry=CARRY,
    ),
    Check(
        "3.4/no-head",
        NO_HEAD,
        probe_inject,
        judge_no_head,
        fixed(26, draw_inject, head=False, head_targets=True),
        carry=CARRY,
    ),
    Check("3.4/returned", RETURNED, probe_inject, judge_inject_returned, fixed(11, draw_inject), carry=CARRY),
    Check("3.4/again", AGAIN, probe_again, judge_again, fixed(20, draw_inject), carry=CARRY),
    Check("3.4/typo", TYPO, probe_typo, judge_typo, fixed(21, draw_typo), carry=CARRY),
    Check("3.5/counts", COUNTS, probe_report, judge_whole_counts, fixed(12, draw_report)),
    Check("3.5/shared", SHARED, probe_report, judge_counts, fixed(27, draw_report, shared=True)),
    Check("3.5/ratio", RATIO, probe_report, judge_ratio, fixed(12, draw_report)),
    Check("3.6/unfreeze_blocks", BLOCKS, probe_blocks, judge_blocks, fixed(13, draw_blocks)),
    Check("3.6/add_dropout", DROPOUT, probe_dropout, judge_dropout, fixed(14, draw_dropout)),
    Check("3.6/as_convolution", CONVOLUTION, probe_convolution, judge_convolution, fixed(15, draw_convolution)),
    Check("3.6/train_prompt", PROMPT, probe_prompt, judge_prompt, fixed(16, draw_model)),
]
