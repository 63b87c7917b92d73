"""Exercise 3.9, optional, what students do not get: hidden checks, mutants."""

from __future__ import annotations

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage03 import x9_in_proj as room
from lora_ref.checks.verdicts import Check, Inputs


def _draw_rank_one(rng: np.random.Generator) -> Inputs:
    inputs = room.draw_attention(rng)
    return {**inputs, "rank": 1, "lora_A": inputs["lora_A"][:, :1], "lora_B": inputs["lora_B"][:, :, :1]}


HIDDEN = [
    graded(room, "3.9/start"),
    graded(room, "3.9/rows"),
    graded(room, "3.9/attention"),
    Check(
        "3.9/rank-one",
        "with rank 1, too, the adapted layer computes with the adapted weight",
        room.probe_attention,
        room.judge_attention,
        _draw_rank_one,
    ),
    graded(room, "3.9/refused"),
]

_A = "self.lora_A = nn.Parameter(torch.randn(2, rank, embed_dim) / embed_dim**0.5)"
_B = "self.lora_B = nn.Parameter(torch.zeros(2, embed_dim, rank))"
_UPDATES = "for_query, for_value = self.scaling * (self.lora_B @ self.lora_A)"
_CAT = "return torch.cat([query + for_query, key, value + for_value])"
_NONE = 'if attention.in_proj_weight is None or is_parametrized(attention, "in_proj_weight"):'
_FREEZE = "attention.requires_grad_(False)"
_RETURN = "InProjLoRA(attention.embed_dim, rank, alpha))\n    return attention"
_REGISTER = "InProjLoRA(attention.embed_dim, rank, alpha)"

MUTANTS = [
    Mutant(
        "3.9/value-for-key",
        "the second update goes to key's rows",
        _CAT,
        "return torch.cat([query + for_query, key + for_value, value])",
        "value's are the last third",
    ),
    Mutant(
        "3.9/swapped",
        "query's update goes to value's rows",
        _CAT,
        "return torch.cat([query + for_value, key, value + for_query])",
        "[0] are query's",
    ),
    Mutant(
        "3.9/key-too",
        "key's rows get query's update too",
        _CAT,
        "return torch.cat([query + for_query, key + for_query, value + for_value])",
        "key's rows stay",
    ),
    Mutant(
        "3.9/query-alone",
        "value has no update",
        _CAT,
        _CAT.replace("value + for_value", "value"),
        "value's rows have no",
    ),
    Mutant(
        "3.9/in-place",
        "W itself is written into",
        _CAT,
        "with torch.no_grad():\n            query += for_query\n            value += for_value\n        return W",
        "changes W itself",
    ),
    Mutant(
        "3.9/no-W",
        "the updates alone",
        _CAT,
        "return torch.cat([for_query, 0 * key, for_value])",
        "W is missing",
    ),
    Mutant("3.9/no-scale", "not scaled", _UPDATES, _UPDATES.replace("self.scaling * ", ""), "alpha / rank is missing"),
    Mutant(
        "3.9/alpha-only",
        "alpha is not divided by rank",
        _UPDATES,
        _UPDATES.replace("self.scaling", "self.scaling * self.lora_A.shape[1]"),
        "division by rank is missing",
        "S0",
    ),
    Mutant("3.9/random-B", "B starts random", _B, _B.replace("torch.zeros", "torch.randn"), "must start at zero"),
    Mutant("3.9/zero-A", "A starts at zero", _A, _A.replace("torch.randn", "torch.zeros"), "A starts random"),
    Mutant(
        "3.9/one-update",
        "one pair of factors",
        _A,
        _A.replace("torch.randn(2, ", "torch.randn(1, "),
        "the first dimension is 2",
    ),
    Mutant("3.9/detached", "the graph is cut", _UPDATES, f"{_UPDATES}.detach()", "the graph is cut"),
    Mutant("3.9/not-frozen", "bias and out_proj train", _FREEZE, "pass", "freeze the layer"),
    Mutant(
        "3.9/frozen-after",
        "all is frozen at the end",
        _RETURN,
        _RETURN.replace("    return", f"    {_FREEZE}\n    return"),
        "freeze first",
    ),
    Mutant(
        "3.9/alpha-dropped",
        "the layer's update has another scale",
        _REGISTER,
        "InProjLoRA(attention.embed_dim, rank, 1)",
        "with this rank and alpha",
    ),
    Mutant(
        "3.9/three-matrices",
        "a layer without a packed weight is taken",
        _NONE,
        "if attention.in_proj_weight is None:\n        return attention\n"
        '    if is_parametrized(attention, "in_proj_weight"):',
        "there are three matrices",
    ),
    Mutant(
        "3.9/twice",
        "a second call adds a second update",
        _NONE,
        "if attention.in_proj_weight is None:",
        "tells: raise ValueError",
    ),
    Mutant("3.9/frozen-first", "a refused layer is frozen", _NONE, f"{_FREEZE}\n    {_NONE}", "ask first"),
    Mutant(
        "3.9/no-return",
        "nothing is returned",
        _RETURN,
        _RETURN.replace("return attention", "return None"),
        "return the layer",
    ),
]
