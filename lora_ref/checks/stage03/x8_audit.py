"""Exercise 3.8, optional: the audit of a model, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, to_float
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation, a

PARTS = ("embeddings", "attention", "feed-forward", "norms", "head", "LoRA")
_BLOCK = "roberta.encoder.layer"
#: Dotted name -> part, of one model; ``{}`` stands for the number of a block.
MODEL = {
    "roberta.embeddings.word_embeddings.weight": "embeddings",
    "roberta.embeddings.LayerNorm.weight": "embeddings",
    f"{_BLOCK}.{{}}.attention.self.query.linear.weight": "attention",
    f"{_BLOCK}.{{}}.attention.self.query.lora.lora_A": "LoRA",
    f"{_BLOCK}.{{}}.attention.self.query.lora.lora_B": "LoRA",
    f"{_BLOCK}.{{}}.attention.output.dense.bias": "attention",
    f"{_BLOCK}.{{}}.attention.output.LayerNorm.weight": "norms",
    f"{_BLOCK}.{{}}.intermediate.dense.weight": "feed-forward",
    f"{_BLOCK}.{{}}.output.dense.weight": "feed-forward",
    f"{_BLOCK}.{{}}.output.LayerNorm.bias": "norms",
    "classifier.dense.weight": "head",
    "classifier.out_proj.linear.weight": "head",
    "classifier.out_proj.lora.lora_A": "LoRA",
}
#: Names that hold a part's word, and are none of its: they are feed-forward.
LOOK_ALIKE = (f"{_BLOCK}.0.attention_gate.weight", "pre_classifier.weight", f"{_BLOCK}.1.explora_gain")
#: The same matrix again, under another name.
SHARED = "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"
BUFFER = "roberta.embeddings.position_ids"


def draw_audit(rng: np.random.Generator, alike: bool = False, head: bool = False) -> Inputs:
    """Names with sizes, all different, and whether each trains; with ``alike`` also names that look like a part's."""
    names = {name.format(block): part for block in (0, 1) for name, part in MODEL.items()}
    names |= dict.fromkeys(LOOK_ALIKE, "feed-forward") if alike else {}
    sizes = rng.permutation(np.arange(20, 20 + 7 * len(names), 7))
    trains = [part in ("LoRA", "head") if head else bool(rng.integers(2)) for part in names.values()]
    return {
        "paths": list(names),
        "parts": list(names.values()),
        "sizes": [int(size) for size in sizes],
        "trains": trains,
    }


def build(inputs: Inputs) -> nn.Module:
    """A module with parameters of these names, one of them shared, and a buffer."""
    model = nn.Module()
    for name, size, trains in zip(inputs["paths"], inputs["sizes"], inputs["trains"], strict=True):
        _put(model, name, nn.Parameter(torch.ones(size), requires_grad=trains))
    _put(model, SHARED[1], model.get_parameter(SHARED[0]))
    place, _, last = BUFFER.rpartition(".")
    model.get_submodule(place).register_buffer(last, torch.ones(3))
    return model


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    *path, last = name.split(".")
    for word in path:
        if not hasattr(model, word):
            model.add_module(word, nn.Module())
        model = getattr(model, word)
    model.register_parameter(last, parameter)


def probe_audit(names: Names, **inputs: Any) -> dict:
    """What audit returns, and whether the model is still what it was."""
    model = build(inputs)
    result = names.audit(model)
    if not isinstance(result, Mapping):
        return {"kind": type(result).__name__}
    pairs = {str(part): list(pair) if isinstance(pair, (tuple, list)) else None for part, pair in result.items()}
    flags = [model.get_parameter(name).requires_grad for name in inputs["paths"]]
    return {
        "kind": "",
        "pairs": {part: None if pair is None else [to_float(n) for n in pair] for part, pair in pairs.items()},
        "unchanged": flags == inputs["trains"],
    }


def expected(inputs: Inputs) -> dict[str, list[int]]:
    counts = {part: [0, 0] for part in PARTS}
    for part, size, trains in zip(inputs["parts"], inputs["sizes"], inputs["trains"], strict=True):
        counts[part][trains] += size
    return counts


def judge_form(inputs: Inputs, seen: Observation) -> Fault | None:
    if seen["kind"]:
        likely = "return is missing" if seen["kind"] == "NoneType" else "return a dict"
        return Fault(f"audit returned {a(seen['kind'])}", likely)
    pairs = seen["pairs"]
    if set(pairs) != set(PARTS):
        odd = sorted(set(PARTS) - set(pairs)) or sorted(set(pairs) - set(PARTS))
        likely = "all six parts are there, also one with nothing in it" if set(PARTS) - set(pairs) else ""
        return Fault(f"parts {', '.join(sorted(pairs)) or 'none'}: {odd[0]!r} is wrong or missing", likely)
    bad = [part for part, pair in pairs.items() if pair is None or len(pair) != 2 or None in pair]
    if bad:
        return Fault(f"{bad[0]} is not a pair of numbers", "each part has (frozen, training)")
    if not seen["unchanged"]:
        return Fault("requires_grad is other than before", "an audit looks, and changes nothing")
    return None


def judge_sum(inputs: Inputs, seen: Observation) -> Fault | None:
    """All numbers of the model, each once."""
    if fault := judge_form(inputs, seen):
        return fault
    total, found = sum(inputs["sizes"]), sum(sum(pair) for pair in seen["pairs"].values())
    if found == total:
        return None
    extra = found - total
    shared = inputs["sizes"][inputs["paths"].index(SHARED[0])]
    likely = ""
    if extra == shared:
        likely = "a matrix with two names counts once: named_parameters() has it once, state_dict() twice"
    elif extra in (3, 3 + shared):
        likely = "buffers are no parameters: go by named_parameters(), not by state_dict()"
    elif found in (len(inputs["sizes"]), len(inputs["sizes"]) + 1):
        likely = "that counts tensors: p.numel() says how many numbers a tensor has"
    elif found == sum(size for size, trains in zip(inputs["sizes"], inputs["trains"], strict=True) if trains):
        likely = "frozen parameters are left out"
    elif extra > 0:
        likely = "a parameter is counted in two parts: it belongs to the first that fits"
    return Fault(f"{found:,.0f} numbers in all, the model has {total:,}", likely)


def judge_parts(inputs: Inputs, seen: Observation) -> Fault | None:
    """Each parameter in its part, whether it trains or not."""
    if fault := judge_form(inputs, seen):
        return fault
    wanted = {part: sum(pair) for part, pair in expected(inputs).items()}
    found = {part: sum(pair) for part, pair in seen["pairs"].items()}
    if sum(found.values()) != sum(wanted.values()):
        return Fault("the numbers of all parts together are not the model's", ELSEWHERE)
    wrong = next((part for part in PARTS if found[part] != wanted[part]), None)
    if wrong is None:
        return None
    return Fault(
        f"{found[wrong]:,.0f} numbers in {wrong}, expected {wanted[wrong]:,}", _part_cause(inputs, found, wanted)
    )


def _part_cause(inputs: Inputs, found: Mapping[str, float], wanted: Mapping[str, int]) -> str:
    """Which names stand in another part than theirs, if one rule explains it."""
    sizes = dict(zip(inputs["paths"], inputs["sizes"], strict=True))
    part_of = dict(zip(inputs["paths"], inputs["parts"], strict=True))
    rules = {
        "LoRA in the head is LoRA: ask for lora_ first": (
            [n for n in sizes if "classifier.out_proj.lora" in n],
            "head",
        ),
        "LoRA in the attention is LoRA: ask for lora_ first": (
            [n for n in sizes if "attention" in n and "lora_" in n],
            "attention",
        ),
        "the LayerNorm in the embeddings belongs to them": ([n for n in sizes if "embeddings.LayerNorm" in n], "norms"),
        "the LayerNorm in an attention block is a norm": (
            [n for n in sizes if "attention.output.LayerNorm" in n],
            "attention",
        ),
        "what attention's output holds is attention": (
            [n for n in sizes if "attention.output.dense" in n],
            "feed-forward",
        ),
    }
    for cause, (names, instead) in rules.items():
        moved = dict(wanted)
        for name in names:
            moved[part_of[name]] -= sizes[name]
            moved[instead] += sizes[name]
        if names and moved == found:
            return cause
    more = [part for part in PARTS if found[part] > wanted[part]]
    less = [part for part in PARTS if found[part] < wanted[part]]
    lookalikes = [name for name in LOOK_ALIKE if name in sizes]
    if lookalikes and less == ["feed-forward"]:
        return "a word of the name must be equal: 'attention_gate' is not 'attention', 'explora_gain' begins otherwise"
    if less == ["LoRA"]:
        return "LoRA in the attention or in the head is LoRA: ask for lora_ first"
    return f"some of {' and '.join(less)} stands in {' and '.join(more)}"


def judge_pairs(inputs: Inputs, seen: Observation) -> Fault | None:
    """In each part what is frozen first, then what trains."""
    if judge_sum(inputs, seen) or judge_parts(inputs, seen):
        return Fault("the parts' numbers are not those of the model", ELSEWHERE)
    wanted, found = expected(inputs), seen["pairs"]
    wrong = next((part for part in PARTS if found[part] != wanted[part]), None)
    if wrong is None:
        return None
    likely = "requires_grad of each parameter says whether it trains"
    if all(found[part] == wanted[part][::-1] for part in PARTS):
        likely = "frozen comes first, then training"
    elif all(found[part][0] == 0 or found[part][1] == 0 for part in PARTS):
        likely = "a part may be frozen in one place and train in another: go by each parameter's requires_grad"
    shown, asked = (tuple(int(n) for n in pair) for pair in (found[wrong], wanted[wrong]))
    return Fault(f"(frozen, training) of {wrong} is {shown}, expected {asked}", likely)


def draw_alike(rng: np.random.Generator) -> Inputs:
    return draw_audit(rng, alike=True)


EXERCISE = Exercise(
    "3.8",
    "the audit of a model",
    names=("audit",),
    pure=("audit",),
    checks=[
        Check(
            "3.8/form",
            "audit returns a pair of numbers for each of the six parts, and changes nothing",
            probe_audit,
            judge_form,
            draw_audit,
            seed=38,
        ),
        Check(
            "3.8/sum", "each parameter counts once, and nothing else does", probe_audit, judge_sum, draw_audit, seed=38
        ),
        Check("3.8/parts", "each parameter counts in its own part", probe_audit, judge_parts, draw_audit, seed=38),
        Check(
            "3.8/alike",
            "a name that only holds a part's word is not in it",
            probe_audit,
            judge_parts,
            draw_alike,
            seed=38,
        ),
        Check(
            "3.8/pairs",
            "the pairs are (frozen, training), by requires_grad",
            probe_audit,
            judge_pairs,
            draw_audit,
            seed=38,
        ),
    ],
)
