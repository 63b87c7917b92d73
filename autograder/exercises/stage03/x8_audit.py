"""Exercise 3.8, optional, what students do not get: hidden checks, mutants."""

from __future__ import annotations

from functools import partial

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage03 import x8_audit as room
from lora_ref.checks.verdicts import Check

HIDDEN = [
    graded(room, "3.8/form"),
    graded(room, "3.8/sum"),
    graded(room, "3.8/parts"),
    graded(room, "3.8/alike"),
    graded(room, "3.8/pairs"),
    Check(
        "3.8/adapted",
        "in a model where LoRA and the head train, the pairs say so",
        room.probe_audit,
        room.judge_pairs,
        partial(room.draw_audit, alike=True, head=True),
    ),
]

_LORA = 'if any(word.startswith("lora_") for word in words):\n            part = "LoRA"'
_KNOWN = 'known = {"head": "classifier", "embeddings": "embeddings", "norms": "LayerNorm", "attention": "attention"}'
_PART = 'part = next((part for part, word in known.items() if word in words), "feed-forward")'
_WALK = "for name, parameter in model.named_parameters():\n        words"
_COUNT = "counts[part][parameter.requires_grad] += parameter.numel()"
_RETURN = "return {part: (frozen, training) for part, (frozen, training) in counts.items()}"

MUTANTS = [
    Mutant("3.8/lora-missed", "LoRA counts where it lies", _LORA, "pass", "ask for lora_ first"),
    Mutant(
        "3.8/lora-below-head",
        "LoRA in the head is the head's",
        'if any(word.startswith("lora_") for word in words):',
        'if "classifier" not in words and any(word.startswith("lora_") for word in words):',
        "LoRA in the head is LoRA",
    ),
    Mutant(
        "3.8/by-substring",
        "a word within a name is enough",
        _PART,
        _PART.replace("in words", "in name"),
        "must be equal",
    ),
    Mutant(
        "3.8/lora-substring",
        "lora_ anywhere in the name",
        _LORA,
        'if "lora_" in name:\n            part = "LoRA"',
        "begins otherwise",
    ),
    Mutant(
        "3.8/norms-first",
        "an embedding's norm counts as a norm",
        _KNOWN,
        'known = {"head": "classifier", "norms": "LayerNorm", "embeddings": "embeddings", "attention": "attention"}',
        "belongs to them",
    ),
    Mutant(
        "3.8/attention-first",
        "the norm of an attention block counts as attention",
        _KNOWN,
        'known = {"head": "classifier", "embeddings": "embeddings", "attention": "attention", "norms": "LayerNorm"}',
        "is a norm",
    ),
    Mutant(
        "3.8/self-attention",
        "only what is called self is attention",
        _KNOWN,
        _KNOWN.replace('"attention": "attention"', '"attention": "self"'),
        "output holds is attention",
    ),
    Mutant(
        "3.8/swapped",
        "training comes first",
        _RETURN,
        _RETURN.replace("(frozen, training)", "(training, frozen)", 1),
        "frozen comes first",
    ),
    Mutant("3.8/tensors", "tensors are counted", _COUNT, _COUNT.replace("parameter.numel()", "1"), "numel()"),
    Mutant(
        "3.8/state-dict",
        "all that a file would hold is counted",
        _WALK,
        _WALK.replace("model.named_parameters()", "model.state_dict(keep_vars=True).items()"),
        "not by state_dict()",
    ),
    Mutant(
        "3.8/duplicates",
        "a matrix with two names counts twice",
        _WALK,
        _WALK.replace("named_parameters()", "named_parameters(remove_duplicate=False)"),
        "counts once",
    ),
    Mutant(
        "3.8/trainable-alone",
        "what is frozen is left out",
        _COUNT,
        "counts[part][1] += parameter.numel() if parameter.requires_grad else 0",
        "frozen parameters are left out",
    ),
    Mutant(
        "3.8/whole-parts",
        "a part is frozen or trains as a whole",
        _RETURN,
        "return {part: (0, sum(pair)) if pair[1] else (sum(pair), 0) for part, pair in counts.items()}",
        "each parameter's requires_grad",
    ),
    Mutant(
        "3.8/empty-left-out",
        "parts with nothing in them are left out",
        _RETURN,
        _RETURN.replace("counts.items()}", 'counts.items() if part != "LoRA"}'),
        "all six parts",
    ),
    Mutant(
        "3.8/freezes",
        "what is counted is frozen",
        _COUNT,
        f"{_COUNT}\n        parameter.requires_grad_(False)",
        "an audit looks",
    ),
    Mutant("3.8/no-return", "nothing is returned", _RETURN, f"_ = {_RETURN[7:]}", "return is missing"),
]
