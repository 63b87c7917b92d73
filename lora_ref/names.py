"""How a name means layers, and what to say about one that means none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from lora_ref.host import head_names
from lora_ref.layers import LinearWithLoRA
from lora_ref.places import plain_name, unwrapped


def matches(name: str, target: str) -> bool:
    """Whether ``target`` is ``name`` or its last dotted parts.

    Example:
        >>> matches("self.query", "query"), matches("my_query", "query")
        (True, False)
    """
    name = plain_name(name)
    return name == target or name.endswith("." + target)


def names_in(value: Iterable[str], what: str) -> list[str]:
    """Several names, as a list.

    Raises:
        TypeError: they are not strings; the message starts with ``what``.

    Example:
        >>> names_in(("query", "value"), "targets")
        ['query', 'value']
        >>> names_in({"query": 4}, "targets")
        Traceback (most recent call last):
            ...
        TypeError: targets is a list of names, got a dict: a rank for each goes into rank_pattern
    """
    note = ": a rank for each goes into rank_pattern" if isinstance(value, Mapping) else ""
    if note or not isinstance(value, Iterable) or isinstance(value, nn.Module):
        kind = type(value).__name__
        raise TypeError(f"{what} is a list of names, got {'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}{note}")
    names = list(value)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{what} is a list of names, and {name!r} in it is not a string")
    return names


def holds(name: str, key: str) -> bool:
    """Whether ``key`` is whole parts of ``name``, one after the other, anywhere.

    Example:
        >>> holds("encoder.layer.1.query", "layer.1"), holds("encoder.layer.10.query", "layer.1")
        (True, False)
    """
    return f".{key}." in f".{plain_name(name)}."


def nearest(target: str, names: Iterable[str]) -> str:
    """Up to three of the names, or of their last parts, that look like ``target``; or eight of the last parts.

    Example:
        >>> nearest("qurey", ["self.query", "self.key"])
        "'query'"
    """
    names = list(names)
    parts = {part for name in names for part in (name, name.rpartition(".")[2])}
    near = (
        difflib.get_close_matches(target, sorted(parts), n=3) or sorted({name.rpartition(".")[2] for name in names})[:8]
    )
    return ", ".join(map(repr, near))


def no_match(model: nn.Module, target: str, linears: list[str]) -> str:
    """What is wrong with a target that matches no linear layer, and what there is instead.

    Example:
        >>> no_match(nn.ModuleDict({"words": nn.Embedding(9, 4), "out": nn.Linear(4, 9)}), "words", ["out"])
        "no linear layer matches 'words'; nearest: 'out'; 'words' is an Embedding, ... only nn.Linear can"
    """
    message = f"no linear layer matches {target!r}; nearest: {nearest(target, linears)}"
    if not linears:
        message = f"no linear layer matches {target!r}: {type(model).__name__} has none"
    meant = _meant(model, target, linears)
    if meant is not None:
        return f"{message}. Targets are names, not an expression" + (f"; write {meant}" if meant else "")
    for name, module in model.named_modules(remove_duplicate=False):
        if name and matches(name, target):
            return message + "; " + _what_it_is(name, module, linears)
    for name, parameter in model.named_parameters():
        if matches(name, target):
            return f"{message}; {name!r} is a parameter of shape {tuple(parameter.shape)}, not an nn.Linear"
    return message


def _what_it_is(name: str, module: nn.Module, linears: list[str]) -> str:
    kind = kind_of(module)
    if isinstance(module, LinearWithLoRA):
        return f"{name!r} has an update already"
    inside = [linear for linear in linears if linear.startswith(name + ".")]
    if inside:
        return f"{name!r} is {kind}, which holds linear layers ({', '.join(map(repr, inside[:3]))}): name those"
    return f"{name!r} is {kind}, which can't be adapted here: only nn.Linear can"


def kind_of(module: nn.Module) -> str:
    """The module's class, with its article.

    Example:
        >>> kind_of(nn.Embedding(9, 4))
        'an Embedding'
    """
    kind = type(module).__name__
    note = " (transformers' transposed linear layer, as in GPT-2)" if kind == "Conv1D" else ""
    if kind == "Linear":
        note = f" of {type(module).__module__}"
    vowel = kind[0] in ("AEFHILMNORSX" if kind[:2].isupper() else "AEIOU")  # an LSTM, a GRU
    return f"{'an' if vowel else 'a'} {kind}{note}"


def _meant(model: nn.Module, target: str, linears: list[str]) -> list[str] | None:
    """Targets for what PEFT would take ``target`` for, if it is ``"all-linear"`` or an expression; otherwise None."""
    if target.lower() == "all-linear":
        outside = tuple(f"{name}." for name in head_names(model))
        output: Any = getattr(unwrapped(model), "get_output_embeddings", lambda: None)()
        names = [n for n in linears if not f"{n}.".startswith(outside) and model.get_submodule(n) is not output]
    elif is_expression(target):
        try:
            names = [name for name in linears if re.fullmatch(target, name)]
        except re.error:
            names = []
    else:
        return None
    return shortest_targets(names, [name for name, _ in model.named_modules() if name not in set(names)]) or names


def is_expression(target: str) -> bool:
    """Whether it looks like a regular expression, which no name does.

    Example:
        >>> is_expression(".*_proj"), is_expression("layer.0.q_proj")
        (True, False)
    """
    return re.search(r"[\\^$*+?()\[\]|{}]", target) is not None


def one_string(model: nn.Module, targets: str, linears: list[str]) -> str:
    """What to write where targets are one string.

    Example:
        >>> one_string(nn.ModuleDict({"q_proj": nn.Linear(4, 4), "out": nn.Linear(4, 9)}), ".*_proj", ["q_proj", "out"])
        "targets is a list of names, and '.*_proj' is an expression: write ['q_proj']"
    """
    meant = _meant(model, targets, linears)
    if meant is not None:
        all_linear = targets.lower() == "all-linear"
        what = "PEFT's word for every linear layer but the output" if all_linear else "an expression"
        there = ", ".join(map(repr, linears[:8])) or "none"
        advice = f"write {meant}" if meant else f"none fits; the model's linear layers are: {there}"
        return f"targets is a list of names, and {targets!r} is {what}: {advice}"
    if any(matches(name, targets) for name in linears):
        return f"targets is a list of names; write [{targets!r}]"
    return f"targets is a list of names, and {no_match(model, targets, linears)}"


def shortest_targets(wanted: list[str], others: list[str]) -> list[str] | None:
    """Targets, as short as can be, that mean the wanted names and no others; None where one is the end of another.

    Example:
        >>> shortest_targets(["layer.0.query", "layer.1.query", "layer.0.out.dense"], ["layer.0.norm", "head.dense"])
        ['out.dense', 'query']
    """
    suffixes = set()
    for name in wanted:
        parts = name.split(".")
        endings = [".".join(parts[-k:]) for k in range(1, len(parts) + 1)]
        free = [s for s in endings if not any(matches(other, s) for other in others)]
        if not free:
            return None
        suffixes.add(free[0])
    return sorted(suffixes)
