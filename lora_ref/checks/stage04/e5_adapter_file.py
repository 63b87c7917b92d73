"""Exercise 4.5, save and load an adapter."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.copies import copied
from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt, describe_error, raised
from lora_ref.checks.stage04.adapter_files import FOREIGN, edit_file, in_scratch_folder, read_adapter, write_foreign
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close
from lora_ref.rounding import number

ALL_LINEARS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


@functools.lru_cache(maxsize=2)
def _base(seed: int) -> nn.Module:
    """The tiny RoBERTa; one check needs a dozen copies of it."""
    from lora_ref.models import tiny_roberta

    return tiny_roberta(seed=seed)


@functools.lru_cache(maxsize=2)
def _adapted(seed: int, targets: tuple[str, ...], rank: int, alpha: float, train_head: bool) -> nn.Module:
    from lora_ref.inject import inject_lora

    return inject_lora(copied(_base(seed)), targets, rank, alpha, train_head=train_head).eval()


def adapted_model(inputs: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None) -> nn.Module:
    """The tiny RoBERTa with LoRA, as stage 03 makes it, with these values in what an adapter holds."""
    targets, rank, alpha = tuple(inputs["targets"]), inputs["rank"], inputs["alpha"]
    model = copied(_adapted(inputs["base_seed"], targets, rank, alpha, inputs["train_head"]))
    parameters = dict(model.named_parameters())
    if inputs["double"]:
        model.double()
    with torch.no_grad():
        for name, values in (tensors or {}).items():
            parameters[name].copy_(torch.tensor(values))
    return model


def draw_adapter(
    rng: np.random.Generator, train_head: bool = True, edits: Sequence[Sequence[str]] = (), double: bool = False
) -> Inputs:
    """An injection, the values of the adapter that is saved (B is not zero), and what the fresh model has instead.

    ``double``: all in float64.
    """
    inputs: Inputs = {
        "base_seed": int(rng.integers(1000)),
        "targets": [str(t) for t in (ALL_LINEARS if rng.integers(2) else ("query", "value", "output.dense"))],
        "rank": int(rng.integers(2, 6)),
        "alpha": float(rng.integers(4, 20)),
        "train_head": train_head,
        "double": double,
    }
    model = adapted_model(inputs)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    for key in ("saved", "fresh"):
        inputs[key] = {
            name: rng.normal(size=shape).astype(np.float64 if double else np.float32) for name, shape in shapes.items()
        }
    base = [n for n, p in model.named_parameters() if not (p.requires_grad or n.startswith("classifier."))]
    name = str(rng.choice(base))
    inputs["foreign"] = {"frozen": name, "values": array(model.get_parameter(name)).astype(np.float32) + 1}
    inputs["tokens"] = rng.integers(4, 50, size=(3, 9))
    return inputs | ({"edits": [list(edit) for edit in edits]} if edits else {})


def with_path(function: Callable, model: nn.Module, path: Path) -> Any:
    """``function(model, path)`` with a string, which most code takes; with a Path where that is of the wrong type."""
    try:
        return function(model, str(path))
    except (TypeError, AttributeError):
        return function(model, path)


@in_scratch_folder
def probe_save(names: Names, folder: Path, **inputs: Any) -> dict:
    """What save_adapter writes of a fresh model, then of a trained one to the same path; and what else it changes."""
    path = folder / "adapter"  # a name like any other
    model = adapted_model(inputs).train()
    with_path(names.save_adapter, model, path)
    first = read_adapter(path)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, values in inputs["saved"].items():
            parameters[name].copy_(torch.tensor(values))
            parameters[name].grad = torch.ones_like(parameters[name])
    before = snapshot(model)
    with_path(names.save_adapter, model, path)
    others = sorted(name for name in os.listdir(folder) if name != path.name)
    gradients = {name: parameters[name].grad for name in inputs["saved"]}
    lost = [name for name, gradient in gradients.items() if gradient is None or not bool(gradient.all())]
    more = changed(model, before) + [f"the gradient of {name}" for name in lost]
    return {"first": first, "file": read_adapter(path), "others": others, "changed": more}


@in_scratch_folder
def probe_round_trip(names: Names, folder: Path, **inputs: Any) -> dict:
    """Save, load into a fresh model with other values, and compare the two; after another model at the same path."""
    path = folder / "adapter.safetensors"
    model, fresh = adapted_model(inputs, inputs["saved"]), adapted_model(inputs, inputs["fresh"]).train()
    before, held = snapshot(fresh), dict(fresh.named_parameters())

    def round_trip(saved: nn.Module, into: nn.Module) -> bytes:
        with_path(names.save_adapter, saved, path)
        written = path.read_bytes()
        with_path(names.load_adapter, into, path)
        return written

    try:
        round_trip(*[adapted_model(inputs, {name: -values for name, values in inputs["saved"].items()})] * 2)
        try:
            path.unlink()
        except OSError:  # Windows keeps a file as long as a tensor is mapped to it
            gc.collect()
            path.unlink()
        written = round_trip(model, fresh)
    except ValueError as error:  # a refusal; other errors are mistakes, and shown with their line
        return {"refused": describe_error(error)}
    tokens = torch.tensor(inputs["tokens"])
    with torch.no_grad():
        logits = [array(m.eval()(input_ids=tokens).logits) for m in (model, fresh)]
    parameters = dict(fresh.named_parameters())
    seen = {
        "replaced": [name for name, one in parameters.items() if held.get(name) is not one],
        "logits": logits,
        "loaded": {name: array(parameters[name]) for name in inputs["saved"]},
        "untouched": not changed(fresh, before),
        "file": path.read_bytes() == written,
        "asleep": [name for name in inputs["saved"] if not parameters[name].requires_grad],
        "changed": changed(fresh, before),
    }
    return seen | {"step": attempt(lambda: _one_step(fresh, tokens))}


def _one_step(model: nn.Module, tokens: torch.Tensor) -> dict:
    """A training step, as an optimiser makes it."""
    model(input_ids=tokens).logits.square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-3 * parameter.grad)
    return {}


def snapshot(model: nn.Module) -> dict[str, tuple[torch.Tensor, bool]]:
    """Values and flags of all parameters and buffers."""
    state = [*model.named_parameters(), *model.named_buffers()]
    return {name: (tensor.detach().clone(), tensor.requires_grad) for name, tensor in state}


def changed(model: nn.Module, before: Mapping[str, tuple[torch.Tensor, bool]]) -> list[str]:
    """Names whose values, shapes or flags are not what they were, bit for bit."""
    after = snapshot(model)
    same = {
        n
        for n in after.keys() & before.keys()
        if torch.equal(after[n][0], before[n][0]) and after[n][1] == before[n][1]
    }
    return sorted((after.keys() | before.keys()) - same)


@in_scratch_folder
def probe_refusal(names: Names, folder: Path, **inputs: Any) -> dict:
    """What load_adapter does with edited copies of a good file: the student's own, if load_adapter takes it."""
    from safetensors.numpy import save_file

    marker, tries = folder / "trap", []
    path = folder / "adapter.safetensors"
    saving = raised(lambda: with_path(names.save_adapter, adapted_model(inputs, inputs["saved"]), path))
    for by in ("save_adapter", "parameter names"):
        if by == "parameter names":
            # save_adapter's mistake is another check's matter: load_adapter is judged on a file that is right
            path = folder / "named.safetensors"
            save_file(inputs["saved"], path)
        elif saving or "tensors" not in read_adapter(path):
            continue
        fresh = adapted_model(inputs, inputs["fresh"])
        error = raised(with_path, names.load_adapter, fresh, path)
        parameters = dict(fresh.named_parameters())
        loaded = all(np.array_equal(array(parameters[n]), values) for n, values in inputs["saved"].items())
        tries.append({"by": by, "raised": error, "loaded": loaded})
        if loaded and not error:
            break
    else:
        return {"tries": tries}
    outcomes = []
    for count, (kind, place) in enumerate(inputs["edits"]):
        edited = folder / f"edited-{count}.safetensors"  # a new name: the last one may be mapped still
        if kind in FOREIGN:
            # recent torch.load refuses to unpickle where the name says safetensors
            edited = edited.with_suffix(".bin")
            write_foreign(path, edited, kind, marker)
        else:
            edit_file(path, edited, kind, place, inputs["foreign"])
        model = adapted_model(inputs, inputs["fresh"])
        if kind == "a model without LoRA":
            model = copied(_base(inputs["base_seed"])).requires_grad_(False)
        before = snapshot(model)
        error = raised(with_path, names.load_adapter, model, edited)
        outcomes.append({"raised": error, "changed": changed(model, before), "sprung": marker.exists()})
        if marker.exists():
            marker.rmdir()
    return {"tries": tries, "outcomes": outcomes}


def judge_file(inputs: Inputs, seen: Observation) -> Fault | None:
    file = seen["file"]
    if "problem" in file:
        return Fault(file["problem"], "write with safetensors.torch.save_file, to exactly this path")
    if seen["others"]:
        return Fault(
            f"beside the file: {', '.join(seen['others'])}",
            "an adapter is one file; what else it needs goes into its metadata",
        )
    expected, stored = dict(inputs["saved"]), dict(file["tensors"])
    first = seen["first"].get("tensors") or {}
    if first and first.keys() == stored.keys() and all(np.array_equal(first[key], stored[key]) for key in stored):
        return Fault("a second save to the same path leaves the first one's file", "each call writes the whole file")
    if not stored:
        return Fault("the file holds no tensor", "what belongs in has requires_grad, whatever its gradient is")
    for name, values in inputs["saved"].items():
        # by value: the contract does not say how the tensors are called in the file
        match = [
            key for key, tensor in stored.items() if tensor.shape == values.shape and np.array_equal(tensor, values)
        ]
        if match:
            del expected[name], stored[name if name in match else match[0]]
    absent = list(expected)
    if absent:
        if all("classifier" in name for name in absent):
            likely = "the head is missing: it was trained with LoRA, and with a new one the model answers at chance"
        elif all("lora_" in name for name in absent):
            likely = "LoRA's own tensors are missing, or were changed before they were written"
        else:
            likely = "each trainable tensor belongs in, bit for bit: not in half precision, not scaled"
        return Fault(
            f"{len(absent)} of {len(inputs['saved'])} tensors, such as {absent[0]}, are not in the file bit for bit",
            likely,
        )
    if not inputs["train_head"]:
        # a frozen head does no harm
        stored = {key: tensor for key, tensor in stored.items() if "classifier" not in key}
    if stored:
        base = [array(p) for p in adapted_model(inputs).parameters() if not p.requires_grad]
        likely = "not a parameter of the model: rank, alpha and the like go into the file's metadata"
        if any(np.array_equal(tensor, values) for tensor in stored.values() for values in base):
            likely = "the frozen base model is in the file: everyone who loads it has that already"
        return Fault(f"{len(stored)} tensors more than belong in the file, such as {min(stored)}", likely)
    if len(first) < len(inputs["saved"]):
        count = f"{len(first)} of {len(inputs['saved'])} tensors"
        likely = "what belongs in has requires_grad, whatever its values (B is zero) and its gradient (there is none)"
        return Fault(f"of a fresh model {count} are in the file", likely)
    if seen["changed"]:
        return Fault(
            f"saving changed the model: {', '.join(seen['changed'][:3])}", "save copies, and leave the model as it is"
        )
    return None


def judge_round_trip(inputs: Inputs, seen: Observation) -> Fault | None:
    if "refused" in seen:
        return Fault(
            f"load_adapter refused what save_adapter wrote: {seen['refused']['type']}: {seen['refused']['text']}",
            "the two must choose their tensors by the same rule",
        )
    wrong = [name for name, values in inputs["saved"].items() if not np.array_equal(seen["loaded"][name], values)]
    if wrong:
        if all(np.array_equal(seen["loaded"][name], -inputs["saved"][name]) for name in wrong):
            likely = "these are the values of another file that was at the same path: read the file at each call"
        elif seen["untouched"]:
            likely = "nothing was copied into the model that was passed: copy_ is missing, or works on a copy"
        elif all("classifier" in name for name in wrong):
            likely = "the head is not restored: without it the reloaded model answers at chance"
        else:
            near = [np.allclose(seen["loaded"][name], inputs["saved"][name], rtol=0.02, atol=1e-3) for name in wrong]
            likely = "rounded on the way: save each tensor in its own dtype" if all(near) else ""
            likely = "these are left out" if not {*wrong} & {*seen["changed"]} else likely
        return Fault(
            f"{len(wrong)} of {len(inputs['saved'])} tensors differ from the saved ones, such as {wrong[0]}", likely
        )
    if not seen["file"]:
        return Fault("after loading, the file is not what it was", "loading reads the file, and leaves it alone")
    others = [name for name in seen["changed"] if name not in inputs["saved"]]
    if others:
        return Fault(f"loading changed {others[0]}", "the base model is not the adapter's to change")
    # the tensors are equal bit for bit by now; where they lie in memory may still move a product's last bit
    before, after = seen["logits"]
    if not close(before, after, 1e-3):
        gap = np.abs(before - after).max()
        return Fault(f"logits differ by up to {number(gap)}", "something beside the tensors was changed by loading")
    return None


def judge_loaded(inputs: Inputs, seen: Observation) -> Fault | None:
    """The round trip, and what trained before it trains after it."""
    if fault := judge_round_trip(inputs, seen):
        return fault
    if seen["asleep"]:
        return Fault(
            f"after loading, {len(seen['asleep'])} tensors do not train any more, such as {seen['asleep'][0]}",
            "loading copies values, and leaves requires_grad as it is",
        )
    if seen["replaced"]:
        return Fault(
            f"after loading, {seen['replaced'][0]} is not the Parameter that it was",
            "an optimiser that was made before holds the old ones: copy_ into them under torch.no_grad()",
        )
    if "error" in seen["step"]:
        return Fault(
            f"a training step after loading: {seen['step']['error']['type']}: {seen['step']['error']['text']}",
            "load under torch.no_grad(), not inference_mode(): inference tensors can't be trained",
        )
    return None


_REFUSAL_CAUSE = {
    "missing": "raise where the two sets of names differ: a loop over the file's tensors never meets what is missing",
    "unexpected": "raise where the two sets of names differ: a loop over the model never meets what only the file has",
    "renamed": "names are compared by their number alone, or not at all",
    "one row": "copy_ repeats one row over all rows without a word: compare the shapes first",
    "one column": "copy_ repeats one column over all columns without a word: compare whole shapes, not len() alone",
    "plain": "there every name in the file is unexpected: compare the sets of names whatever the model has",
    "frozen": "a frozen tensor of the base is as unexpected as any: compare with the names of what trains",
    "foreign": "what has another name than expected is dropped while the file is read: compare all of its names",
}


def judge_refusal(inputs: Inputs, seen: Observation) -> Fault | None:
    if "outcomes" not in seen:
        first = seen["tries"][0]
        what = f"raised {first['raised']['type']}" if first["raised"] else "did not change the model"
        return Fault(
            f"a good file {what}", "fix the round trip first: these checks edit a file that load_adapter takes"
        )
    for (kind, place), outcome in zip(inputs["edits"], seen["outcomes"], strict=True):
        foreign = kind in FOREIGN
        what = kind if foreign or place == "plain" else f"{kind} ({place} tensor)"
        if outcome["sprung"]:
            return Fault(
                f"{what} was unpickled, which ran the code inside it",
                "read with safetensors alone, never with torch.load or pickle",
            )
        if outcome["raised"] is None:
            return Fault(
                f"{what}: no error",
                _REFUSAL_CAUSE.get(place)
                or _REFUSAL_CAUSE.get(kind, "raise where a shape differs: compare whole shapes first" * (not foreign)),
            )
        if outcome["changed"]:
            return Fault(
                f"{what}: {outcome['raised']['type']}, but {len(outcome['changed'])} tensors had changed by then",
                "the model changes before the file is known to fit: check all names and whole shapes first, then copy",
            )
        if not foreign and "ValueError" not in outcome["raised"]["bases"]:
            return Fault(
                f"{what}: {outcome['raised']['type']}: {outcome['raised']['text']}",
                "the contract asks for a ValueError, raised before anything changes: compare the two sets of names "
                "(not how many there are), then the shapes",
            )
    return None


_NAME_EDITS = [
    ("missing", "last"),
    ("renamed", "last"),
    *(("unexpected", n) for n in ("first", "foreign", "frozen")),
    ("a model without LoRA", "plain"),
]


_SHAPE_EDITS = [("one row more", "first"), ("one row", "last")]
_SHAPE_EDITS += [("one column", "non-square"), ("transposed", "non-square")]


_FOREIGN_EDITS = [("half a file", ""), ("a torch.save file", "")]


EXERCISE = Exercise(
    "4.5",
    "save and load an adapter",
    names=("save_adapter", "load_adapter"),
    keeps=("save_adapter", "load_adapter"),
    checks=[
        Check(
            "4.5/file",
            "the file is safetensors and holds the LoRA tensors and the trainable head, nothing else",
            probe_save,
            judge_file,
            draw_adapter,
            seed=7,
        ),
        Check(
            "4.5/round-trip",
            "save, load into a fresh model: equal logits, bit for bit",
            probe_round_trip,
            judge_loaded,
            draw_adapter,
            seed=7,
        ),
        Check(
            "4.5/names",
            "a missing, renamed or unexpected tensor is a ValueError, and nothing has changed",
            probe_refusal,
            judge_refusal,
            partial(draw_adapter, edits=_NAME_EDITS),
            seed=8,
        ),
        Check(
            "4.5/shapes",
            "a tensor of another shape is a ValueError, and nothing has changed",
            probe_refusal,
            judge_refusal,
            partial(draw_adapter, edits=_SHAPE_EDITS),
            seed=8,
        ),
        Check(
            "4.5/foreign",
            "a file that is not safetensors is refused, never unpickled, and nothing has changed",
            probe_refusal,
            judge_refusal,
            partial(draw_adapter, edits=_FOREIGN_EDITS),
            seed=8,
        ),
    ],
)
