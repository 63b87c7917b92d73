"""Exercise 3.2, match_targets: layers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, raised, result_of
from lora_ref.checks.stage03.shared import OwnLinear, build, draw_model, layer_names, matches, some
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation


def draw_match(rng: np.random.Generator, kind: str) -> Inputs:
    """A model and lists of targets; ``kind`` says which behaviour they are about."""
    inputs = draw_model(rng, layers=int(rng.integers(12, 14)), kinds=kind in ("linear", "nearly"))
    layer = int(rng.integers(2, 9))
    # alike in what misleads, so that a mistake costs the same whichever is drawn
    target, other = (str(n) for n in rng.permutation(["query", "key"]))
    cases = {
        "parts": [
            ["query"],
            ["output.dense"],
            ["attention.output.dense"],
            ["my_query"],
            ["mixer.0"],
            [f"layer.{layer}.output.dense"],
            ["key"],
            ["classifier" if inputs["plain_head"] else "out_proj"],
        ],
        "ends": [["layer.1.attention.self.query"], ["1.output.dense"], ["1.intermediate.dense"]],
        "linear": [["value"], ["own"], ["linear"], *([name, "gate"] for name in ("word", "pair", "LayerNorm"))],
        "order": [[target, other], [other, target], ["gate", "my_query", target]],
        "once": [["query", "self.query"], ["output.dense", "attention.output.dense"], [target, target], [other, other]],
        "missing": [["qurey"], *([n, "no_such_layer"] for n in (target, other)), ["transformer.h.0.attn", other]],
        "nearly": [
            ["uery"],
            [f"layer.{layer}"],
            ["attention"],
            ["LayerNorm"],
            ["dense.weight"],
            ["gained", target],
            *([name, "Key"] for name in (target, other)),
            ["quer?"],
        ],
    }[kind]
    return {**inputs, "cases": cases}


def probe_match(names: Names, **inputs: Any) -> dict:
    """What each list of targets gives, or raises; and whether the model is still what it was."""
    model = build(inputs)
    other = build({**inputs, "layers": 4, "width": 4, "inner": 6, "kinds": False, "plain_head": True, "seed": 0})
    raised(names.match_targets, other, ["query"])  # a model of the same class, and not the same layers
    model.my_query.requires_grad_(False)  # what trains is not asked
    before = [(name, id(module)) for name, module in model.named_modules()]
    outcomes, match_targets = [], names.match_targets
    for targets in inputs["cases"]:
        value, error = _outcome_with_text(match_targets, model, list(targets))
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


def _outcome_with_text(call: Callable[..., Any], *arguments: Any) -> tuple[Any, dict | None]:
    """`result_of`, with the whole message of an error: it may have several lines."""
    texts: list[str] = []

    def kept() -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            try:
                texts.append(str(error))
            except Exception:
                texts.append("")
            raise

    value, error = result_of(kept)
    return value, error and {**error, "text": (texts or [""])[0]}


def judge_match(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each list of targets gives the linear layers that it means; a list that must be refused is."""
    names = layer_names(inputs)
    modules = dict(build(inputs).named_modules())
    every = list(modules)
    if len(seen["outcomes"]) != len(inputs["cases"]):
        return Fault("not every list of targets has an answer", "")
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
                likely = (
                    "a target is one or more whole parts at the end of a dotted name, or all of it; this one matches"
                )
                if any(type(modules[name]) is OwnLinear for name in wanted):
                    likely = "a class that inherits from nn.Linear is one: ask isinstance, not type()"
            return Fault(f"{shown} raised {error['type']}: {error['text'][:120]}", likely)
        if outcome["kind"] != "list" or not outcome["text"]:
            likely = "return a list of names (text)"
            if outcome["kind"] == "NoneType":
                likely = "return is missing"
            elif outcome["kind"] == "list":
                likely = "these are modules or pairs: the contract asks for the names"
            return Fault(f"{shown} returned a {outcome['kind']}{_of(outcome)}", likely)
        names_given = list(outcome["items"])
        if names_given == wanted:
            continue
        return _match_fault(shown, names_given, wanted, names, every, targets)
    if not seen["unchanged"]:
        return Fault("the model's modules have changed", "match_targets only reads names")
    return None


def _of(outcome: Mapping) -> str:
    return "" if outcome["text"] else " of something else than text"


def _refusal_fault(
    shown: str, target: str, present: Sequence[str], outcome: Mapping, others: Sequence[str]
) -> Fault | None:
    """``others``: modules whose names the target fits, and which are not linear layers."""
    error = outcome["raised"]
    if not error:
        names_given = list(outcome["items"])
        likely = (
            "a target that matches nothing must be a ValueError: a typo would leave layers without LoRA, in silence"
        )
        if names_given:
            likely = "each target is to be asked for itself: others of the list did match"
            if all(target in name for name in names_given) and not all(name.endswith(target) for name in names_given):
                likely = "in is a test for text anywhere: a target is whole parts at the end of a dotted name"
            elif all(name.endswith(target) for name in names_given):
                likely = "in, or endswith without the dot, cuts a part in two: uery is not query"
            if set(others) & set(names_given) or (others and all(target in name for name in names_given)):
                likely = f"{target} is not an nn.Linear: only linear layers count, by the end of their names"
            elif target not in " ".join(names_given):
                likely = "each target is to be asked for itself: others of the list did match"
            if any(target.lower() in name and target not in name for name in names_given):
                likely = "upper and lower case make different names"
            if target.endswith("?"):
                likely = "a target is a name, and no pattern: * and ? stand for themselves"
        return Fault(f"{shown} gave {some(names_given, 2) or 'an empty list'} and no error", likely)
    if "ValueError" not in error["bases"]:
        return Fault(f"{shown} raised {error['type']}", "the contract is a ValueError")
    if target not in error["text"]:
        likely = f"the message does not name {target!r}: a reader must find the typo"
        if any(f"'{other}'" in error["text"] for other in present):
            likely = f"it complains about a target that does match; {target!r} is the one that does not"
        return Fault(f"{shown} raised ValueError: {error['text']}", likely)
    return None


def _match_fault(
    shown: str, names_given: list[str], wanted: list[str], names: list[str], every: list[str], targets: Sequence[str]
) -> Fault:
    extra = [name for name in names_given if name not in wanted]
    missing = [name for name in wanted if name not in names_given]
    repeated = [name for name in dict.fromkeys(names_given) if names_given.count(name) > 1]
    if extra:
        likely = "more matches than the contract's: the name is a target, or ends in a dot and the target"
        if any(name not in names for name in extra):
            likely = "these are not linear layers: ask isinstance(module, nn.Linear)"
            if any(name not in every for name in extra):
                likely = "these are not names of modules"
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
        return Fault(f"{shown} also gave {some(extra, 2)}", likely)
    if missing:
        likely = "the walk does not reach them, or stops early"
        if not names_given:
            likely = "only a whole name is compared, or only its last part: a target may be both, and several parts"
        elif all("." not in name for name in missing):
            likely = "a layer of the model itself has no dot in its name"
        elif all("." in t for t in targets):
            likely = "a target may have several parts: compare the end of the whole name"
        elif len(names_given) == len(targets):
            likely = "one layer a target: the loop stops at the first match"
        return Fault(f"{shown} lacks {some(missing, 2)}", likely)
    if repeated:
        return Fault(
            f"{shown} gave {repeated[0]} {names_given.count(repeated[0])} times",
            "each layer once: two targets may mean the same",
        )
    return Fault(
        f"{shown} gave the right names in another order, {some(names_given, 2)} first",
        "the order is that of model.named_modules(): walk over the model, and ask for the targets inside",
    )


EXERCISE = Exercise(
    "3.2",
    "match_targets: layers by name",
    names=("match_targets",),
    pure=("match_targets",),
    keeps=("match_targets",),
    checks=[
        Check(
            "3.2/parts",
            "linear layers whose name is a target, or ends in a dot and the target",
            probe_match,
            judge_match,
            partial(draw_match, kind="parts"),
            seed=2,
        ),
        Check(
            "3.2/linear",
            "modules that are not nn.Linear do not match",
            probe_match,
            judge_match,
            partial(draw_match, kind="linear"),
            seed=17,
        ),
        Check(
            "3.2/once",
            "a layer that two targets mean comes once",
            probe_match,
            judge_match,
            partial(draw_match, kind="once"),
            seed=18,
        ),
        Check(
            "3.2/order",
            "names come in the order of named_modules",
            probe_match,
            judge_match,
            partial(draw_match, kind="order"),
            seed=3,
        ),
        Check(
            "3.2/missing",
            "a target that matches nothing is a ValueError that names it, even beside others that match",
            probe_match,
            judge_match,
            partial(draw_match, kind="missing"),
            seed=4,
        ),
        Check(
            "3.2/nearly",
            "what only looks like a match is a ValueError: parts of a name, other modules, other case",
            probe_match,
            judge_match,
            partial(draw_match, kind="nearly"),
            seed=23,
        ),
    ],
)
