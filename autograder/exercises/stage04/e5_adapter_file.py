"""Exercise 4.5, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage04 import e5_adapter_file as room
from lora_ref.checks.verdicts import Check


def _adapter_edits(*edits: tuple[str, str]) -> Any:
    return functools.partial(room.draw_adapter, edits=edits)


HIDDEN = [
    graded(room, "4.5/file", 1),
    Check(
        "4.5/round-trip",
        "save, load into a fresh model: equal logits, bit for bit",
        room.probe_round_trip,
        room.judge_round_trip,
        room.draw_adapter,
        points=1.5,
    ),
    Check(
        "4.5/frozen-head",
        "with a frozen head the LoRA tensors are saved and loaded alone, and still train",
        room.probe_round_trip,
        room.judge_loaded,
        partial(room.draw_adapter, train_head=False, double=True),
        points=0.5,
    ),
    Check(
        "4.5/missing",
        "a missing tensor is a ValueError, and nothing has changed",
        room.probe_refusal,
        room.judge_refusal,
        _adapter_edits(("missing", "first"), ("missing", "last"), ("renamed", "last")),
        points=0.75,
    ),
    Check(
        "4.5/unexpected",
        "an unexpected tensor is a ValueError, and nothing has changed",
        room.probe_refusal,
        room.judge_refusal,
        _adapter_edits(
            *(("unexpected", name) for name in ("first", "last", "foreign", "frozen")),
            ("a model without LoRA", "plain"),
        ),
        points=0.75,
    ),
    Check(
        "4.5/misshapen",
        "a tensor of another shape is a ValueError, and nothing has changed",
        room.probe_refusal,
        room.judge_refusal,
        _adapter_edits(
            *(
                (kind, place)
                for kind in ("one row more", "one row", "one dimension more")
                for place in ("first", "last")
            ),
            *((kind, "non-square") for kind in ("one column", "one column more", "transposed")),
        ),
        points=1,
    ),
    graded(room, "4.5/foreign", 0.5, draw=_adapter_edits(*((kind, "") for kind in room.FOREIGN))),
]


_SAVED = "{name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}"
_COPY = """    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(saved[name])"""
_NAMES = "sorted(expected.keys() ^ saved.keys())"
_SHAPES = "expected[name].shape != saved[name].shape"


MUTANTS = [
    Mutant(
        "4.5/never-overwrites",
        "a file that is there stays",
        "save_file(tensors, path)",
        'if not __import__("os").path.exists(path):\n        save_file(tensors, path)',
        "each call writes the whole file",
    ),
    Mutant(
        "4.5/reads-once",
        "what was read is kept by its path",
        "saved = load_file(path)",
        'known = load_adapter.__dict__.setdefault("known", {})\n'
        "    saved = known.setdefault(path, None) or known.update({path: load_file(path)}) or known[path]",
        "read the file at each call",
    ),
    Mutant(
        "4.5/gradients-too",
        "gradients go into the file",
        "save_file(tensors, path)",
        'tensors |= {n + ".grad": p.grad for n, p in model.named_parameters() if p.grad is not None}\n'
        "    save_file(tensors, path)",
        "more than belong in the file",
    ),
    Mutant(
        "4.5/another-name",
        "a suffix is added to the path",
        "save_file(tensors, path)",
        'save_file(tensors, path if str(path).endswith(".safetensors") else f"{path}.safetensors")',
        "to exactly this path",
    ),
    Mutant(
        "4.5/evaluation-mode",
        "the model is left in evaluation mode",
        _COPY,
        f"{_COPY}\n    model.eval()",
        "the mode has changed",
    ),
    Mutant(
        "4.5/new-parameters",
        "the Parameters are replaced",
        _COPY,
        "    for name in expected:\n"
        '        parent, _, child = name.rpartition(".")\n'
        "        setattr(model.get_submodule(parent), child, nn.Parameter(saved[name]))",
        "is not the Parameter",
    ),
    Mutant(
        "4.5/inference-mode",
        "loaded as inference tensors, which do not train",
        _COPY,
        "    with torch.inference_mode():\n        for name, parameter in expected.items():\n"
        "            parameter.data = saved[name].clone()",
        "not inference_mode()",
    ),
    Mutant(
        "4.5/passes-over-plain-models",
        "a model without LoRA is passed over",
        "    expected = {",
        '    if not any("lora_" in name for name, _ in model.named_parameters()):\n        return\n    expected = {',
        "there every name in the file is unexpected",
    ),
    Mutant(
        "4.5/head-not-saved",
        "LoRA's tensors alone are saved, and the reloaded head is random",
        _SAVED,
        _SAVED.replace("p.requires_grad", '"lora_" in name'),
        "the head is missing",
        "S0",
    ),
    Mutant(
        "4.5/lora-not-saved",
        "the head alone is saved",
        _SAVED,
        _SAVED.replace("p.requires_grad", '"classifier" in name'),
        "LoRA's own tensors are missing",
    ),
    Mutant(
        "4.5/saves-everything",
        "the frozen base model goes into the file",
        _SAVED,
        "{name: p.detach().contiguous() for name, p in model.named_parameters()}",
        "the frozen base model is in the file",
    ),
    Mutant(
        "4.5/pickles", "torch.save", "save_file(tensors, path)", "torch.save(tensors, path)", "a pickle (torch.save)"
    ),
    Mutant(
        "4.5/rounds",
        "half precision on the disk",
        _SAVED,
        _SAVED.replace(".contiguous()", ".half().float()"),
        "bit for bit",
    ),
    Mutant(
        "4.5/unpickles",
        "what is not safetensors is unpickled",
        "saved = load_file(path)",
        "try:\n        saved = load_file(path)\n"
        "    except Exception:\n        saved = torch.load(path, weights_only=False)",
        "ran the code inside it",
    ),
    Mutant(
        "4.5/not-strict",
        "load_state_dict(strict=False) lets everything pass",
        "saved = load_file(path)",
        "return model.load_state_dict(load_file(path), strict=False)",
        "never meets what is missing",
        "S0",
    ),
    Mutant(
        "4.5/missing-unnoticed",
        "a missing tensor is a KeyError",
        _NAMES,
        "sorted(saved.keys() - expected.keys())",
        "the contract asks for a ValueError",
    ),
    Mutant(
        "4.5/unexpected-unnoticed",
        "what only the file has is not noticed",
        _NAMES,
        "sorted(expected.keys() - saved.keys())",
        "never meets what only the file has",
    ),
    Mutant(
        "4.5/counts-names",
        "numbers of names are compared, not names",
        "if names:",
        "if len(expected) != len(saved):",
        "the contract asks for a ValueError",
    ),
    Mutant(
        "4.5/shapes-unchecked",
        "copy_ finds a wrong shape half-way, or broadcasts over it",
        "if shapes:",
        "if False:",
        "before the file is known to fit",
    ),
    Mutant(
        "4.5/sizes-for-shapes",
        "compares numbers of dimensions",
        _SHAPES,
        "expected[name].dim() != saved[name].dim()",
        "before the file is known to fit",
    ),
    Mutant(
        "4.5/all-names-expected",
        "any name of the model's is expected, so that a file overwrites the frozen base",
        _NAMES,
        "[n for n in expected if n not in saved] + [n for n in saved if n not in model.state_dict()]\n"
        "    expected |= {name: p for name, p in model.named_parameters() if name in saved}",
        "as unexpected as any",
    ),
    Mutant(
        "4.5/filters-names",
        "what the file has under other names is dropped while it is read",
        "saved = load_file(path)",
        'saved = {n: t for n, t in load_file(path).items() if "lora_" in n or "classifier" in n}',
        "dropped while the file is read",
    ),
    Mutant(
        "4.5/rows-for-shapes",
        "compares numbers of rows",
        _SHAPES,
        "len(expected[name]) != len(saved[name])",
        "one column over all columns",
    ),
    Mutant(
        "4.5/sorted-shapes",
        "compares shapes without their order",
        _SHAPES,
        "sorted(expected[name].shape) != sorted(saved[name].shape)",
        "before the file is known to fit",
    ),
    Mutant(
        "4.5/counts-for-shapes",
        "compares how many numbers and dimensions there are",
        _SHAPES,
        "(expected[name].numel(), expected[name].dim()) != (saved[name].numel(), saved[name].dim())",
        "before the file is known to fit",
    ),
    Mutant(
        "4.5/freezes-what-it-loads",
        "what was loaded does not train any more",
        "parameter.copy_(saved[name])",
        "parameter.copy_(saved[name])\n            parameter.requires_grad = False",
        "leaves requires_grad as it is",
    ),
    Mutant(
        "4.5/rank-as-tensor",
        "a tensor beside the adapter's own",
        "save_file(tensors, path)",
        'save_file(tensors | {"rank": torch.tensor([8])}, path)',
        "go into the file's metadata",
    ),
    Mutant(
        "4.5/by-gradient",
        "what has no gradient yet is not saved",
        _SAVED,
        _SAVED.replace("p.requires_grad", "p.grad is not None"),
        "whatever its values (B is zero)",
    ),
    Mutant(
        "4.5/bfloat16",
        "bfloat16 on the disk",
        _SAVED,
        _SAVED.replace(".contiguous()", ".bfloat16()"),
        "not in half precision",
    ),
    Mutant(
        "4.5/rebinds",
        "the loop's variable is rebound, the model is not",
        "parameter.copy_(saved[name])",
        "parameter = saved[name]",
        "nothing was copied",
    ),
    Mutant(
        "4.5/save-clears",
        "saving clears the gradients",
        "    save_file(tensors, path)",
        "    model.zero_grad()\n    save_file(tensors, path)",
        "saving changed the model",
    ),
    Mutant(
        "4.5/save-evaluates",
        "saving ends training mode",
        "    save_file(tensors, path)",
        "    model.eval()\n    save_file(tensors, path)",
        "the mode has changed",
    ),
]
