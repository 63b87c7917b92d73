"""Exercise 1.5, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage01 import e5_training_memory as room

HIDDEN = [
    graded(room, "1.5/full", 1),
    graded(room, "1.5/part", 1),
    graded(room, "1.5/options", 0.75),
    graded(room, "1.5/int", 0.25),
]


_MEMORY = "return bytes_per_param * (n_params + n_trainable * (1 + optimizer_states))"


def _memory(formula: str) -> str:
    return f"return {formula}"


MUTANTS = [
    Mutant(
        "1.5/gradients-for-all",
        "frozen parameters get gradients",
        _MEMORY,
        _memory("bytes_per_param * (2 * n_params + n_trainable * optimizer_states)"),
        "gradients are counted for all",
    ),
    Mutant(
        "1.5/states-for-all",
        "frozen parameters get states",
        _MEMORY,
        _memory("bytes_per_param * (n_params * (1 + optimizer_states) + n_trainable)"),
        "states are counted for all",
    ),
    Mutant(
        "1.5/all-train",
        "everything counts as trainable",
        _MEMORY,
        _memory("bytes_per_param * n_params * (2 + optimizer_states)"),
        "for all parameters",
    ),
    Mutant(
        "1.5/no-gradients",
        "gradients are forgotten",
        _MEMORY,
        _memory("bytes_per_param * (n_params + n_trainable * optimizer_states)"),
        "gradients are missing",
    ),
    Mutant(
        "1.5/no-states",
        "states are forgotten",
        _MEMORY,
        _memory("bytes_per_param * (n_params + n_trainable)"),
        "states are missing",
    ),
    Mutant(
        "1.5/frozen-free",
        "frozen weights cost nothing",
        _MEMORY,
        _memory("bytes_per_param * n_trainable * (2 + optimizer_states)"),
        "frozen weights are missing",
    ),
    Mutant(
        "1.5/trainable-twice",
        "n_params is taken for the frozen ones",
        _MEMORY,
        _memory("bytes_per_param * (n_params + n_trainable * (2 + optimizer_states))"),
        "counted twice",
    ),
    Mutant(
        "1.5/numbers",
        "parameters in place of bytes",
        _MEMORY,
        _memory("n_params + n_trainable * (1 + optimizer_states)"),
        "not of bytes",
    ),
    Mutant("1.5/bits", "bits in place of bytes", _MEMORY, f"{_MEMORY} * 8", "that is bits"),
    Mutant("1.5/megabytes", "megabytes in place of bytes", _MEMORY, f"{_MEMORY} / 1e6", "megabytes"),
    Mutant(
        "1.5/four-bytes",
        "always float32",
        _MEMORY,
        _MEMORY.replace("bytes_per_param", "4"),
        "whatever bytes_per_param says",
    ),
    Mutant(
        "1.5/always-adam",
        "always two states",
        _MEMORY,
        _MEMORY.replace("1 + optimizer_states", "3"),
        "whatever optimizer_states says",
    ),
    Mutant(
        "1.5/brackets",
        "bytes for the weights alone",
        _MEMORY,
        _memory("bytes_per_param * n_params + n_trainable * (1 + optimizer_states)"),
        "only the weights are multiplied",
    ),
    Mutant(
        "1.5/none-is-two",
        "no states are taken for not given",
        _MEMORY,
        _MEMORY.replace("1 + optimizer_states", "1 + (optimizer_states or 2)"),
        "optimizer_states",
    ),
    Mutant(
        "1.5/int32",
        "computed with 32-bit integers",
        _MEMORY,
        _memory("int(torch.tensor(n_params + n_trainable * (1 + optimizer_states)).int() * bytes_per_param)"),
        "32 bits",
    ),
    Mutant("1.5/text", "text for reading", _MEMORY, f'return f"{{{_MEMORY[7:]}:,}} bytes"', "not text"),
    Mutant("1.5/float", "a float", _MEMORY, f"{_MEMORY} * 1.0", "expected an int"),
]
