"""Stage 04, training on SST-2: probes and visible checks.

Probes build what they need on the spot: a word-level tokenizer, a classifier of a few dozen numbers whose gradients fit
in six lines of NumPy, a tiny RoBERTa with LoRA. No assets, no network, milliseconds each.
"""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # torch loads it with the first optimiser, for seconds: not in a student's time
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lora_ref.checks.probing import Names, array, describe_error, raised
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close
from lora_ref.rounding import number, pair

TITLES = {
    "4.1": "tokenize and collate",
    "4.2": "compute_metrics",
    "4.3": "linear_schedule",
    "4.4": "the training loop",
    "4.5": "save and load an adapter",
    "4.6": "metrics_match",
    "4.7": "the Trainer, line by line",
}

#: Seconds for one training run of a dozen tiny steps: a loop that never ends is the likeliest mistake here.
TRAINING_SECONDS = 10.0

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")


def fixed(seed: int, draw: Callable[..., Inputs], **choices: Any) -> Callable[[np.random.Generator], Inputs]:
    """The same inputs every time, as visible checks have them."""
    return lambda rng: draw(np.random.default_rng(seed), **choices)


# --- 4.1 tokenize and collate ---------------------------------------------------------------------------------------


def word_tokenizer(vocabulary: Sequence[str]) -> Any:
    """A tokenizer with one token for each part of a word between hyphens, and the texts' ends marked.

    It tells capitals apart, and takes up to 512 tokens, as real ones do.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("-", "removed")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


WORDS = [f"{'W' if n % 3 else 'w'}{n}" for n in range(40)]


def draw_vocabulary(rng: np.random.Generator) -> list[str]:
    """Forty words and the special tokens in any order, but padding never at 0: a zero there must not go unnoticed."""
    while True:
        vocabulary = [str(w) for w in rng.permutation([*WORDS, *SPECIAL])]
        if vocabulary[0] != "<pad>":
            return vocabulary


def draw_sentences(rng: np.random.Generator, max_length: int | None = 10, longest: int = 30) -> Inputs:
    """Five sentences, one of them far longer than ``max_length`` (None: the default), one far shorter.

    A hyphen joins some words of each: words are not tokens.
    """
    lengths = [longest, 3, *(int(n) for n in rng.integers(2, longest, size=3))]
    sentences = []
    for length in rng.permutation(lengths):
        ends = ["-" if n % 3 == 0 else " " for n in range(length - 1)]
        words = [WORDS[n] for n in rng.integers(0, 40, size=length)]
        sentences.append("".join(word + end for word, end in zip(words, [*ends, ""], strict=True)))
    return {"vocabulary": draw_vocabulary(rng), "sentences": sentences, "max_length": max_length}


def draw_examples(rng: np.random.Generator, batches: int = 1, single: bool = False) -> Inputs:
    """Batches of examples of different lengths, with labels 0 and 1 in each; ``single``: then a batch of one."""
    vocabulary = draw_vocabulary(rng)
    real = [n for n, word in enumerate(vocabulary) if word != "<pad>"]
    drawn = []
    for size in [*rng.integers(3, 6, size=batches), *[1] * single]:
        lengths = rng.choice(np.arange(3, 21), size=size, replace=False)
        labels = rng.permutation([0, 1, *rng.integers(0, 2, size=max(0, size - 2))])[:size]
        drawn.append(
            [
                {"input_ids": rng.choice(real, size=n).tolist(), "attention_mask": [1] * int(n), "label": int(label)}
                for n, label in zip(lengths, labels, strict=True)
            ]
        )
    return {"vocabulary": vocabulary, "batches": drawn}


def probe_tokenize(names: Names, **inputs: Any) -> dict:
    """The rows that tokenize returns."""
    batch = {"sentence": list(inputs["sentences"])}
    options = {} if inputs["max_length"] is None else {"max_length": inputs["max_length"]}
    encoded = names.tokenize(batch, word_tokenizer(inputs["vocabulary"]), **options)
    if not isinstance(encoded, Mapping):
        return {"kind": type(encoded).__name__}
    columns = {str(key): encoded[key] for key in encoded if key in ("input_ids", "attention_mask")}
    return {
        "keys": [str(key) for key in encoded],
        "columns": {k: [_ints(row) for row in v] for k, v in columns.items()},
    }


def _ints(row: Any) -> list[int]:
    return [int(n) for n in (row.tolist() if hasattr(row, "tolist") else row)]


def probe_collate(names: Names, **inputs: Any) -> dict:
    """What collate makes of each batch, and whether the examples are still what they were."""
    tokenizer = word_tokenizer(inputs["vocabulary"])
    seen = []
    for examples in copy.deepcopy(inputs["batches"]):
        before = copy.deepcopy(examples)
        batch = names.collate(examples, tokenizer)
        if not isinstance(batch, Mapping):
            return {"kind": type(batch).__name__}
        tensors = {str(key): value for key, value in batch.items() if isinstance(value, torch.Tensor)}
        seen.append(
            {
                "kinds": {str(key): type(value).__name__ for key, value in batch.items()},
                "tensors": {key: array(value) for key, value in tensors.items()},
                "dtypes": {key: str(value.dtype).removeprefix("torch.") for key, value in tensors.items()},
                "unchanged": _same(examples, before),
            }
        )
    return {"batches": seen}


def _same(examples: Any, before: Any) -> bool:
    try:
        return bool(examples == before)
    except Exception:  # lists turned into tensors, which have no single truth value
        return False


def judge_tokenize(inputs: Inputs, seen: Observation) -> Fault | None:
    read, limit = "section 4.1", inputs["max_length"] or 128
    if "kind" in seen:
        return Fault(
            f"tokenize returned a {seen['kind']}",
            "Dataset.map needs a dict of columns: return what the tokenizer returns",
            read,
        )
    absent = [key for key in ("input_ids", "attention_mask") if key not in seen["columns"]]
    if absent:
        return Fault(f"columns {seen['keys']}", f"{' and '.join(absent)} must be among them", read)
    ids, masks = seen["columns"]["input_ids"], seen["columns"]["attention_mask"]
    if len(ids) != len(inputs["sentences"]):
        return Fault(
            f"sentences: {len(inputs['sentences'])}, rows: {len(ids)}",
            "one row for each sentence of batch['sentence']",
            read,
        )
    ids_of = {word: n for n, word in enumerate(inputs["vocabulary"])}
    full = [
        [ids_of["<s>"], *(ids_of[w] for w in s.replace("-", " ").split()), ids_of["</s>"]] for s in inputs["sentences"]
    ]
    lengths, wanted = [len(row) for row in ids], [min(len(row), limit) for row in full]
    if lengths != wanted:
        seen_lengths = f"rows of {lengths} tokens, expected {wanted} (max_length {limit})"
        if len(set(lengths)) == 1 and lengths[0] >= max(wanted):
            return Fault(
                seen_lengths,
                f"all rows are padded to one length, {lengths[0]}: padding belongs to collate, which knows its batch",
                read,
            )
        if max(lengths) > limit:
            likely = (
                "truncation=True is missing"
                if lengths == [len(row) for row in full]
                else "max_length does not reach the tokenizer"
            )
            return Fault(seen_lengths, likely, read)
        return Fault(seen_lengths, "max_length counts all tokens, special ones too, and nothing else is cut off", read)
    for row, mask, whole, length in zip(ids, masks, full, wanted, strict=True):
        # a sentence that was cut may keep its closing token (what tokenizers do) or lose it
        if row not in (whole[:length], [*whole[: length - 1], whole[-1]]):
            return Fault(
                f"tokens {row[:8]} for a sentence whose tokens are {whole[:8]}",
                "another text, or another order: the tokenizer gets each sentence as it is",
                read,
            )
        if mask != [1] * length:
            return Fault(
                f"attention_mask {mask[:8]} for a row without padding", "each token of the text has mask 1", read
            )
    return None


def _batches(inputs: Inputs, seen: Observation) -> Fault | list[tuple[list[dict], Mapping]]:
    if "kind" in seen:
        return Fault(
            f"collate returned a {seen['kind']}",
            "the model is called as model(**batch): return a dict of tensors",
            "section 4.1",
        )
    return list(zip(inputs["batches"], seen["batches"], strict=True))


def judge_padding(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := _padding_fault(inputs, seen):
        return fault
    for batch in seen["batches"]:
        for key in ("input_ids", "attention_mask"):
            if (kind := batch["dtypes"][key]) != "int64":
                return Fault(f"{key} are {kind}", "the contract is int64, for the mask as well", "section 4.1")
    return None


def _padding_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    read, batches = "section 4.1", _batches(inputs, seen)
    if isinstance(batches, Fault):
        return batches
    pad = inputs["vocabulary"].index("<pad>")
    for examples, batch in batches:
        longest = max(len(e["input_ids"]) for e in examples)
        for key, filler in (("input_ids", pad), ("attention_mask", 0)):
            found = batch["tensors"].get(key)
            if found is None:
                return Fault(
                    f"{key}: {batch['kinds'].get(key, 'absent')}",
                    "the batch holds tensors input_ids, attention_mask, labels",
                    read,
                )
            wanted = np.array([e[key] + [filler] * (longest - len(e[key])) for e in examples])
            if found.shape != wanted.shape:
                likely = ""
                if found.ndim == 2 and found.shape[1] > longest:
                    likely = "it is padded to a fixed length or a multiple, not to the longest example of this batch"
                elif len(examples) == 1:
                    likely = "a batch of one example has the axis of the batch, too: squeeze() takes it away"
                return Fault(f"{key} of shape {found.shape}, expected {wanted.shape}", likely, read)
            if not np.array_equal(found, wanted):
                return Fault(
                    f"{key}[0] = {found[0].tolist()}, expected {wanted[0].tolist()}"
                    if (found[0] != wanted[0]).any()
                    else f"{key} differs from the examples padded on the right",
                    _padding_cause(found, wanted, key, pad),
                    read,
                )
        extra = sorted(set(batch["kinds"]) - {"input_ids", "attention_mask", "labels", "token_type_ids"})
        if extra and extra != ["label"]:  # "label" left in place of "labels" is another check's matter
            return Fault(f"the batch also holds {', '.join(extra)}", "model(**batch) takes no such argument", read)
    return None


def _padding_cause(found: np.ndarray, wanted: np.ndarray, key: str, pad: int) -> str:
    if key == "attention_mask":
        if found.all():
            return "the mask is 1 on padding too, so the model reads it"
        return "the mask does not mark the same places as the padding"
    if np.array_equal(found, np.where(wanted == pad, 0, wanted)):
        return f"padded with 0, but this tokenizer's pad_token_id is {pad}"
    if any(row[0] == pad for row in found):
        return "padded on the left: positions of the tokens change with their batch"
    return "padding goes to the right of each row, and nothing else changes"


def judge_labels(inputs: Inputs, seen: Observation) -> Fault | None:
    read, batches = "section 4.1", _batches(inputs, seen)
    if isinstance(batches, Fault):
        return batches
    for examples, batch in batches:
        wanted, found = np.array([e["label"] for e in examples]), batch["tensors"].get("labels")
        if found is None:
            likely = "the examples say label, the model's argument is labels" if "label" in batch["kinds"] else ""
            return Fault(
                f"labels: {batch['kinds'].get('labels', 'absent')}; the batch holds {', '.join(batch['kinds'])}",
                likely or "the loss needs a tensor of labels",
                read,
            )
        if batch["dtypes"]["labels"] != "int64":
            return Fault(f"labels are {batch['dtypes']['labels']}", "cross-entropy takes class numbers as int64", read)
        if not np.array_equal(found, wanted):
            return Fault(
                f"labels {found.tolist()}, expected {wanted.tolist()}",
                "one label an example, in the examples' order",
                read,
            )
        if "label" in batch["kinds"]:
            return Fault("the batch also holds label", "model(**batch) takes no argument of that name", read)
    return None


def judge_unchanged(inputs: Inputs, seen: Observation) -> Fault | None:
    batches = _padding_fault(inputs, seen) or _batches(inputs, seen)
    if isinstance(batches, Fault):
        return batches
    return _changed_fault(seen)


def _changed_fault(seen: Observation) -> Fault | None:
    if all(batch["unchanged"] for batch in seen["batches"]):
        return None
    return Fault(
        "the examples have changed",
        "pop, append or an assignment works on the caller's own dicts, and the next epoch meets what is left of them",
        "section 4.1",
    )


def judge_labels_alone(inputs: Inputs, seen: Observation) -> Fault | None:
    return judge_labels(inputs, seen) or _changed_fault(seen)


# --- 4.2 compute_metrics --------------------------------------------------------------------------------------------


def draw_predictions(rng: np.random.Generator, classes: Sequence[int] = (2, 2, 2), size: int = 37) -> Inputs:
    """Logits of which about two in three are right. Each row is shifted, so only the comparison within a row tells."""
    logits, labels = [], []
    for count in classes:
        truth = rng.integers(0, count, size=size)
        scores = rng.normal(size=(size, count)) + 1.2 * np.eye(count)[truth]
        logits.append((scores + rng.normal(scale=3.0, size=(size, 1))).astype(np.float32))
        labels.append(truth)
    return {"logits": logits, "labels": labels}


def probe_metrics(names: Names, **inputs: Any) -> dict:
    """The metrics of each set of predictions, given as the Trainer gives them."""
    from transformers import EvalPrediction

    values = []
    for logits, labels in zip(inputs["logits"], inputs["labels"], strict=True):
        metrics = names.compute_metrics(EvalPrediction(predictions=logits.copy(), label_ids=labels.copy()))
        if not isinstance(metrics, Mapping):
            return {"kind": type(metrics).__name__}
        if "accuracy" not in metrics:
            return {"keys": [str(key) for key in metrics]}
        if isinstance(metrics["accuracy"], (bool, str)) or metrics["accuracy"] is None:
            return {"accuracy_kind": type(metrics["accuracy"]).__name__}
        values.append(float(metrics["accuracy"]))
    return {"accuracy": values}


def judge_metrics(inputs: Inputs, seen: Observation) -> Fault | None:
    read = "section 4.2"
    if "kind" in seen:
        return Fault(f"compute_metrics returned a {seen['kind']}", 'the Trainer wants a dict: {"accuracy": ...}', read)
    if "keys" in seen:
        return Fault(f"keys {seen['keys']}", 'the key is "accuracy"; the Trainer makes "eval_accuracy" of it', read)
    if "accuracy_kind" in seen:
        return Fault(f"accuracy is a {seen['accuracy_kind']}", "it must be a number", read)
    pairs = list(zip(inputs["logits"], inputs["labels"], strict=True))
    wanted = np.array([np.mean(logits.argmax(axis=1) == labels) for logits, labels in pairs])
    found = np.array(seen["accuracy"])
    if close(found, wanted, 1e-6):
        return None
    size = len(pairs[0][1])
    guesses = {
        "a percentage: the contract is a share between 0 and 1": 100 * wanted,
        "the share of errors, not of right answers": 1 - wanted,
        "the number of right answers, without the division by their count": size * wanted,
        "a threshold on one logit: compare the classes of a row with each other (argmax over the last axis)": np.array(
            [np.mean((logits[:, -1] > 0) == labels) for logits, labels in pairs]
        ),
    }
    likely = next((cause for cause, value in guesses.items() if close(found, value, 1e-6)), "")
    wrong = int(np.argmax(np.abs(found - wanted) > 1e-6))
    shown, asked = pair(found[wrong], wanted[wrong], tolerance=1e-6)
    return Fault(
        f"accuracy {shown}, expected {asked} ({size} examples, {pairs[wrong][0].shape[1]} classes)",
        likely or "argmax over the classes of a row (the last axis), compared with labels",
        read,
    )


# --- 4.3 linear_schedule --------------------------------------------------------------------------------------------


def draw_schedule(rng: np.random.Generator, warmup: bool = True, beyond: bool = False) -> Inputs:
    """Steps of three runs, the second and third with a warm-up of more than half: from 0 to the end, or after it."""
    cases = []
    for run, total in enumerate(rng.integers(40, 400, size=3)):
        rise = int(rng.integers(3, total // 3)) if warmup else 0
        if warmup and not beyond and run:
            rise = int(total) - 1 if run == 2 else int(rng.integers(2 * total // 3, total - 1))
        inside = [0, 1, rise // 2, rise, rise + 1, (rise + total) // 2, total - 1, total]
        if beyond:
            inside = [rise, (rise + total) // 2, total, total + 1, 3 * total]
        cases += [[int(step), int(total), rise] for step in inside]
    return {"cases": cases}


def draw_short_runs(rng: np.random.Generator) -> Inputs:
    """Warm-ups as long as the run or longer, such as 500 steps in a run of 64; after one that is short enough."""
    total = int(rng.integers(20, 100))
    runs = [(total, 4), (total, total), (total, total + 1), (64, 500), (total, 7 * total)]
    return {"cases": [[step, t, w] for t, w in runs for step in (0, 1, t // 2, t - 1, t, t + 1, 2 * t)]}


def draw_whole_schedule(rng: np.random.Generator) -> Inputs:
    """Steps from 0 to the end of a run, after it, and in runs no longer than their warm-up."""
    drawn = draw_schedule(rng), draw_schedule(rng, beyond=True), draw_short_runs(rng)
    return {"cases": [case for inputs in drawn for case in inputs["cases"]]}


def probe_schedule(names: Names, **inputs: Any) -> dict:
    """The multiplier at each step, or what was raised."""
    outcomes = []
    for case in inputs["cases"]:
        value: list[Any] = []
        error = raised(lambda case=case, value=value: value.append(names.linear_schedule(*case)))
        kind = type(value[0]).__name__ if value else ""
        outcomes.append({"raised": error, "kind": kind, "value": _number(value[0]) if value else None})
    return {"outcomes": outcomes}


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, str)) or value is None:
        return None
    return float(value)


def _schedule_values(inputs: Inputs, seen: Observation) -> Iterator[tuple[list[int], float | None, Fault | None]]:
    for case, outcome in zip(inputs["cases"], seen["outcomes"], strict=True):
        at = "linear_schedule({}, {}, {})".format(*case)
        if outcome["raised"]:
            likely = "a warm-up of 0 steps divides by zero" if outcome["raised"]["type"] == "ZeroDivisionError" else ""
            yield (
                case,
                None,
                Fault(f"{at} raised {outcome['raised']['type']}: {outcome['raised']['text']}", likely, "section 4.3"),
            )
        elif outcome["value"] is None:
            yield case, None, Fault(f"{at} returned a {outcome['kind']}", "return a float", "section 4.3")
        else:
            yield case, outcome["value"], None


def judge_schedule(inputs: Inputs, seen: Observation) -> Fault | None:
    for (step, total, rise), value, fault in _schedule_values(inputs, seen):
        if fault:
            return fault
        wanted = step / rise if step < rise else max(0.0, (total - step) / (total - rise))
        if close(value, wanted, 1e-6):
            continue
        likely = "the line from 1 at the end of the warm-up to 0 at total_steps"
        if value < 0:
            likely = "the line goes on below zero after total_steps: a negative learning rate climbs the loss"
        elif step < rise:
            likely = "during the warm-up the multiplier rises from 0 at step 0 to 1 at step warmup_steps"
            if close(value, 1 - step / total, 1e-6) or close(value, 1.0):
                likely = "the warm-up is missing"
            elif step and close(value, step / 500, 1e-6):
                likely = (
                    f"a warm-up of 500 steps, whatever was asked for: a run of {total} never gets to its learning rate"
                )
            elif step and any(close(value, step / (total // part), 1e-6) for part in (2, 3, 4, 5, 10)):
                likely = "a warm-up that is a share of the run, whatever was asked for"
            elif close(value, (step + 1) / rise, 1e-6):
                likely = "one step ahead: step 0 has the multiplier 0"
        elif close(value, 1 - step / total, 1e-6):
            likely = "the fall is measured from step 0: it starts at the end of the warm-up, at 1"
        elif step > total:
            likely = "after total_steps it stays 0"
        shown, asked = pair(value, wanted, tolerance=1e-6)
        return Fault(f"linear_schedule({step}, {total}, {rise}) = {shown}, expected {asked}", likely, "section 4.3")
    return None


def judge_short_runs(inputs: Inputs, seen: Observation) -> Fault | None:
    short = [rise < total for _, total, rise in inputs["cases"]]
    ordinary = {"cases": [c for c, keep in zip(inputs["cases"], short, strict=True) if keep]}
    inside = {"outcomes": [o for o, keep in zip(seen["outcomes"], short, strict=True) if keep]}
    if fault := judge_schedule(ordinary, inside):
        return fault
    for (step, total, rise), value, fault in _schedule_values(inputs, seen):
        at = f"linear_schedule({step}, {total}, {rise})"
        if fault:
            refused = seen["outcomes"][inputs["cases"].index([step, total, rise])]["raised"]
            if rise > total and refused and "ValueError" in refused["bases"]:
                continue  # the contract is silent here; refusing a warm-up that never ends is as good as a low peak
            if refused and refused["type"] == "ZeroDivisionError":
                return Fault(
                    f"{at} raised ZeroDivisionError",
                    "warm-up and run are equally long: total_steps - warmup_steps is 0",
                    "section 4.3",
                )
            return fault
        # as long as the run: 1 at its end by one sentence of the contract, 0 by the next; elsewhere it is plain
        wanted = step / rise if step < total else 0.0
        if rise == total != step and not close(value, wanted, 1e-6):
            shown, asked = pair(value, wanted, tolerance=1e-6)
            return Fault(
                f"{at} = {shown}, expected {asked}",
                "a warm-up as long as the run rises until the end, and afterwards the multiplier is 0",
                "section 4.3",
            )
        if not 0 <= value <= 1:
            return Fault(
                f"{at} = {number(value, tolerance=0)}",
                "a multiplier lies between 0 and 1, also where the warm-up outlasts the run",
                "section 4.3",
            )
    return None


# --- 4.4 train ------------------------------------------------------------------------------------------------------


#: How much the head counts: little, so that the gradients' norm stays below 1, where clipping changes nothing.
HEAD = 0.2


class PooledClassifier(nn.Module):
    """Mean of frozen word vectors, a frozen linear layer, a low-rank update, and two biases as the head.

    It is called as RoBERTa is, and writes down each forward pass, so that a judge can redo the sums. In float64: then
    NumPy agrees to 1e-10.
    """

    def __init__(self, words: np.ndarray, weight: np.ndarray, A: np.ndarray, B: np.ndarray, head: np.ndarray):
        super().__init__()
        self.words = nn.Parameter(torch.tensor(words), requires_grad=False)
        self.weight = nn.Parameter(torch.tensor(weight), requires_grad=False)
        self.lora_A = nn.Parameter(torch.tensor(A))
        self.lora_B = nn.Parameter(torch.tensor(B))
        self.classifier = nn.Parameter(torch.tensor(head))
        # whose names tell nothing about what trains
        self.bias = nn.Parameter(torch.zeros(len(head), dtype=torch.float64))
        self.classifier_norm = nn.Parameter(torch.ones(len(head)), requires_grad=False)
        self.forwards: list[dict] = []

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **others: Any) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        if others:
            raise TypeError(f"forward() got an unexpected keyword argument {next(iter(others))!r}")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if len(self.forwards) < 200:
            given = {"input_ids": input_ids, "attention_mask": attention_mask}
            given |= {"A": self.lora_A, "B": self.lora_B, "head": self.classifier + self.bias}
            self.forwards.append({k: array(v) for k, v in given.items()} | {"training": bool(self.training)})
        mask = attention_mask.unsqueeze(-1).to(self.words.dtype)
        pooled = (self.words[input_ids] * mask).sum(1) / mask.sum(1)
        logits = pooled @ self.weight.T + (pooled @ self.lora_A.T) @ self.lora_B.T
        logits = logits + HEAD * (self.classifier + self.bias)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Passes(torch.utils.data.IterableDataset):
    """Each pass over it yields other batches, as a shuffled loader's do."""

    def __init__(self, passes: Sequence[Sequence[Mapping[str, np.ndarray]]]):
        self.passes, self.started = passes, 0

    def __len__(self) -> int:
        return len(self.passes[0])

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        number, self.started = self.started, self.started + 1
        for batch in self.passes[number % len(self.passes)]:
            yield {key: torch.tensor(values) for key, values in batch.items()}


def draw_training(
    rng: np.random.Generator, steps: int = 4, length: int = 6, passes: int = 1, stale: bool = False
) -> Inputs:
    """A model, batches that are all different, a learning rate; ``stale``: old gradients on what is frozen."""
    vocabulary, width, classes, rank = 12, 6, 3, 2

    def batch() -> dict[str, np.ndarray]:
        mask = (np.arange(7) < rng.integers(2, 8, size=(4, 1))).astype(np.int64)
        ids = rng.integers(1, vocabulary, size=(4, 7)) * mask
        return {"input_ids": ids, "attention_mask": mask, "labels": rng.integers(0, classes, size=4)}

    while True:
        inputs = {
            "words": rng.normal(size=(vocabulary, width)),
            "weight": rng.normal(size=(classes, width)),
            "A": 0.3 * rng.normal(size=(rank, width)),
            "B": 0.3 * rng.normal(size=(classes, rank)),
            "passes": [[batch() for _ in range(length)] for _ in range(passes)],
            "head": rng.normal(size=classes),
            "steps": steps,
            "lr": float(np.round(10 ** rng.uniform(-2.7, -1.7), 5)),
            "stale": stale,
        }
        # gradients of a norm well below 1: who clips at 1 is right as well
        gradients = [forward_numpy(inputs, one, inputs)[1:] for batches in inputs["passes"] for one in batches]
        if max(sum((g**2).sum() for g in one) for one in gradients) < 0.6**2:
            return inputs


def probe_train(names: Names, **inputs: Any) -> dict:
    """Losses, forward passes, optimisers and final weights of a short training run."""
    model = PooledClassifier(*(inputs[name] for name in ("words", "weight", "A", "B", "head"))).train()
    if inputs["stale"]:  # an optimiser that holds frozen parameters moves those that have a gradient
        for frozen in (p for p in model.parameters() if not p.requires_grad):
            frozen.grad = torch.ones_like(frozen)
    loader = torch.utils.data.DataLoader(Passes(inputs["passes"]), batch_size=None)
    optimizers: dict[int, dict] = {}
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, args, kwargs: optimizers.setdefault(id(optimizer), _optimizer(optimizer, model)) and None
    )
    losses, stopped = None, False
    try:
        losses = names.train(model, loader, inputs["steps"], inputs["lr"])
    except StopIteration:
        stopped = True
    finally:
        handle.remove()
    items = None if losses is None or isinstance(losses, (float, int, str)) else list(losses)
    return {
        "stopped": stopped,
        "kind": "" if items is not None else type(losses).__name__,
        "kinds": sorted({type(i).__name__ for i in items or () if not isinstance(i, (float, np.floating))}),
        "losses": [_number(i.detach() if isinstance(i, torch.Tensor) else i) for i in items or ()],
        "forwards": model.forwards,
        "optimizers": list(optimizers.values())[:20],
        "after": {name: array(p) for name, p in model.named_parameters()},
        "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
    }


def probe_counts(names: Names, **inputs: Any) -> dict:
    """Several training runs."""
    return {"runs": [probe_train(names, **run) for run in inputs["runs"]]}


def _optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    group = optimizer.param_groups[0]
    return {
        "classes": [base.__name__ for base in type(optimizer).__mro__],
        "held": [name for name, p in model.named_parameters() if id(p) in held],
        "betas": [float(b) for b in group.get("betas", (0.9, 0.999))],
        "eps": float(group.get("eps", 1e-8)),
        "decoupled": bool(group.get("decoupled_weight_decay", False)),
    }


def forward_numpy(inputs: Inputs, batch: Mapping, at: Mapping) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """The loss on a batch and its gradients with respect to A, B and head, with the parameters of a recorded pass."""
    A, B = at["A"], at["B"]
    mask = batch["attention_mask"][..., None]
    pooled = (inputs["words"][batch["input_ids"]] * mask).sum(1) / mask.sum(1)
    logits = pooled @ (inputs["weight"] + B @ A).T + HEAD * at["head"]
    logits = logits - logits.max(axis=1, keepdims=True)
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows, labels = np.arange(len(pooled)), batch["labels"]
    loss = -np.mean(np.log(share[rows, labels]))
    error = share
    error[rows, labels] -= 1
    error /= len(rows)
    return float(loss), (error @ B).T @ pooled, error.T @ (pooled @ A.T), HEAD * error.sum(axis=0)


def batch_order(inputs: Inputs, seen: Observation) -> list[Mapping]:
    """The batches of the run's steps, pass after pass; from the second pass on if the first was only looked into."""
    passes, order = inputs["passes"], []
    starts = [batches[0]["input_ids"] for batches in passes[:2]]
    met = seen["forwards"][0]["input_ids"] if seen["forwards"] else starts[0]
    number = int(not np.array_equal(met, starts[0]) and np.array_equal(met, starts[-1]))
    while len(order) < inputs["steps"]:
        order += passes[number % len(passes)]
        number += 1
    return order[: inputs["steps"]]


def _first_forwards(inputs: Inputs, seen: Observation) -> list[Mapping | None]:
    """For each step, the first forward pass on its batch that comes after the one before."""
    found, start = [], 0
    for batch in batch_order(inputs, seen):
        at = next(
            (
                i
                for i in range(start, len(seen["forwards"]))
                if np.array_equal(seen["forwards"][i]["input_ids"], batch["input_ids"])
                and np.array_equal(seen["forwards"][i]["attention_mask"], batch["attention_mask"])
            ),
            None,
        )
        found.append(None if at is None else seen["forwards"][at])
        start = start if at is None else at + 1
    return found


def _form_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    """What is wrong with the list that train returns, whatever the numbers in it."""
    read, steps, length = "section 4.4", inputs["steps"], len(inputs["passes"][0])
    if seen["stopped"]:
        return Fault(
            f"StopIteration after {length} batches, {steps} steps were asked for",
            "the loader is not started again: when it ends, go on with a new iter(loader)",
            read,
        )
    if seen["kind"]:
        return Fault(f"train returned a {seen['kind']}", "return the list of losses, one a step", read)
    count = len(seen["losses"])
    if count != steps:
        likely = ""
        if count == length < steps:
            likely = "the loop ends with the loader: it must be started again until all steps are done"
        elif abs(count - steps) == 1:
            likely = "one step too many or too few: compare before the step, not after it"
        elif steps > 1 and count == steps * length:
            likely = "steps counts batches, not passes over the loader"
        elif count % length == 0:
            likely = "the pass over the loader is always finished: stop in the middle of it"
        return Fault(f"{count} losses with steps={steps} and a loader of {length} batches", likely, read)
    if seen["kinds"]:
        likely = (
            "a loss tensor keeps its step's whole graph in memory: loss.item()" if "Tensor" in seen["kinds"] else ""
        )
        return Fault(f"losses of type {', '.join(seen['kinds'])}", likely or "one float a step", read)
    return None


def _order_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    """What is wrong with the batches that the forward passes met."""
    length, order = len(inputs["passes"][0]), _first_forwards(inputs, seen)
    missing = next((k for k, forward in enumerate(order) if forward is None), None)
    if missing is None:
        return None
    met = [f["input_ids"] for f in seen["forwards"]]
    first = [batch["input_ids"] for batch in inputs["passes"][0]]
    starts = [batches[0]["input_ids"] for batches in inputs["passes"]]
    if missing == 0:
        likely = "the first forward pass is not on the loader's first batch, or not on all of it: model(**batch)"
    elif missing == 1 and len(met) > 1 and any(np.array_equal(met[1], start) for start in starts):
        likely = "next(iter(loader)) at each step starts the loader anew, and only ever meets a first batch"
    elif (
        missing == length and len(met) > length and all(np.array_equal(m, first[i % length]) for i, m in enumerate(met))
    ):
        likely = (
            "itertools.cycle, or a list, replays the first pass: no new shuffle, and all batches stay in memory. "
            "When the loader ends, iterate over it again"
        )
    elif missing == length == len(met):
        likely = "the loader is not started again when it ends"
    else:
        likely = "each step takes the loader's next batch, and model(**batch) gets all of it"
    seen_text = (
        f"step {missing} is not on batch {missing % length} of the loader's pass {missing // length} (counted from 0)"
    )
    return Fault(seen_text, likely, "section 4.4")


def judge_restart(inputs: Inputs, seen: Observation) -> Fault | None:
    return _form_fault(inputs, seen) or _order_fault(inputs, seen) or _later_fault(inputs, seen)


def _later_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    """What goes wrong once the loader has started again, in a run whose first pass is right."""
    first = {**inputs, "steps": len(inputs["passes"][0])}
    if inputs["steps"] > first["steps"]:
        for judge in (judge_mode, judge_adamw):
            if judge(first, seen) is None and (fault := judge(inputs, seen)):
                return fault
    return None


def judge_losses(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := judge_restart(inputs, seen):
        return fault
    if not inputs["steps"]:
        return None
    order, losses = batch_order(inputs, seen), seen["losses"]
    params = _first_forwards(inputs, seen)
    wanted = [forward_numpy(inputs, batch, at)[0] for batch, at in zip(order, params, strict=True)]
    if close(losses, wanted, 1e-6):
        return None
    end = seen["after"]
    last = {"A": end["lora_A"], "B": end["lora_B"], "head": end["classifier"] + end["bias"]}
    after = [forward_numpy(inputs, batch, at)[0] for batch, at in zip(order, [*params[1:], last], strict=True)]
    running = np.cumsum(wanted) / np.arange(1, len(wanted) + 1)
    likely = ""
    if close(losses, after, 1e-6):
        likely = "the loss is measured after the step: record the one that backward was called on"
    elif close(losses, running, 1e-6):
        likely = "a running mean: return each step's own loss"
    elif len(wanted) > 1 and close(losses, [wanted[0]] * len(wanted), 1e-6):
        likely = "the same number at each step"
    right = np.abs(np.asarray(losses, dtype=float) - wanted) <= 1e-6 * max(1.0, float(np.abs(wanted).max()))
    at = int(np.argmin(right))  # the first that is wrong
    shown, asked = pair(losses[at], wanted[at], tolerance=1e-6)
    return Fault(
        f"losses[{at}] = {shown}, the model's loss on that batch before the step is {asked}",
        likely or "losses[k] is the loss of the batch of step k, as the model returned it",
        "section 4.4",
    )


def judge_adamw(inputs: Inputs, seen: Observation) -> Fault | None:
    """Redo each step with the gradients at the weights that the forward passes met.

    Any weight decay is fine: it is read off the first step, where AdamW's own part is lr times the gradient's sign.
    """
    if fault := _order_fault(inputs, seen):
        return fault
    read, lr = "section 4.4", inputs["lr"]
    forwards, order = _first_forwards(inputs, seen), batch_order(inputs, seen)
    used = seen["optimizers"]
    named = next((o for o in used if "AdamW" in o["classes"]), None)
    betas, eps = (named["betas"], named["eps"]) if named else ([0.9, 0.999], 1e-8)
    for which, name in enumerate(("A", "B")):
        # a run of the wrong length says nothing of its last step; that is another check's matter
        last = [seen["after"][f"lora_{name}"]] if len(seen["forwards"]) == inputs["steps"] else []
        path = [f[name] for f in forwards] + last
        moves = [b - a for a, b in itertools.pairwise(path)]
        grads = [forward_numpy(inputs, b, f)[1 + which] for b, f in zip(order, forwards, strict=True)][: len(moves)]
        if not any(np.any(m != 0) for m in moves):
            return Fault(
                f"lora_{name} has not moved after {len(moves)} steps",
                "optimizer.step() is missing, comes before backward(), or holds other parameters than this model's",
                read,
            )
        decay = _decay(moves[0], path[0], grads[0], lr, eps)
        wrong = _first_wrong(moves, path, grads, lr, decay, betas, eps)
        if wrong is None:
            if decay < 1e-7 and any(o["classes"][0] == "Adam" and not o["decoupled"] for o in used):
                return Fault("the optimiser is Adam", "the contract asks for AdamW: torch.optim.AdamW", read)
            continue
        if wrong[0] == 0:  # nothing about this optimiser is AdamW's, so neither is the decay
            wrong = _first_wrong(moves, path, grads, lr, 0.0, betas, eps) or wrong
        at, wanted = wrong
        shown, asked = pair(*(float(np.median(np.abs(move)) / lr) for move in (moves[at], wanted)), tolerance=1e-3)
        return Fault(
            f"step {at} (counted from 0) moves the middle one of lora_{name}'s entries by {shown} lr, "
            f"AdamW by {asked} lr",
            _step_cause(moves, path, grads, lr, betas, eps, used, decay, at, wanted),
            read,
        )
    return None


def _decay(move: np.ndarray, start: np.ndarray, grad: np.ndarray, lr: float, eps: float) -> float:
    """The weight decay that explains the first step best, within [0, 1]."""
    rest = move + lr * grad / (np.abs(grad) + eps)
    return float(np.clip(-(rest * start).sum() / (lr * (start**2).sum()), 0.0, 1.0))


def _first_wrong(
    moves: list[np.ndarray],
    path: list[np.ndarray],
    grads: list[np.ndarray],
    lr: float,
    decay: float,
    betas: Sequence[float],
    eps: float,
) -> tuple[int, np.ndarray] | None:
    """The first move that is not AdamW's for these gradients, to 0.1 % of lr, and AdamW's own; None if all are."""
    m, v = np.zeros_like(grads[0]), np.zeros_like(grads[0])
    for k, (move, start, grad) in enumerate(zip(moves, path, grads, strict=False)):
        m = betas[0] * m + (1 - betas[0]) * grad
        v = betas[1] * v + (1 - betas[1]) * grad**2
        mean, square = m / (1 - betas[0] ** (k + 1)), v / (1 - betas[1] ** (k + 1))
        wanted = -lr * mean / (np.sqrt(square) + eps) - lr * decay * start
        if not np.abs(move - wanted).max() <= 1e-3 * lr:
            return k, wanted
    return None


def _step_cause(
    moves: list[np.ndarray],
    path: list[np.ndarray],
    grads: list[np.ndarray],
    lr: float,
    betas: Sequence[float],
    eps: float,
    used: Sequence[Mapping],
    decay: float,
    at: int,
    wanted: np.ndarray,
) -> str:
    """The mistake that explains the moves, tried one after the other."""

    def sizes(factor: float) -> bool:
        rate = lr * factor
        return (
            _first_wrong(moves, path, grads, rate, _decay(moves[0], path[0], grads[0], rate, eps), betas, eps) is None
        )

    # AdamW's first step is -lr * sign(gradient) - lr * decay * weight, whatever lr and decay are
    parts = np.stack([np.sign(grads[0]).ravel(), path[0].ravel()], axis=1)
    ratio = float(-np.linalg.lstsq(parts, moves[0].ravel(), rcond=None)[0][0] / lr)
    signs = [-np.sign(g) for g in grads]
    if all(np.abs(m + lr * g).max() <= 1e-3 * lr for m, g in zip(moves, grads, strict=True)):
        return "plain SGD: steps grow with the gradient. Use torch.optim.AdamW"
    if _first_wrong(moves, path, list(np.cumsum(grads, axis=0)), lr, decay, betas, eps) is None:
        return "gradients add up over the steps: zero_grad() is missing"
    if np.abs(moves[0] - lr * np.sign(grads[0])).max() <= 0.1 * lr:
        return "the steps climb the loss"
    if len(moves) > 1 and all(np.abs(m - lr * s).max() <= 0.05 * lr for m, s in zip(moves, signs, strict=True)):
        return "each step is a first step: the optimiser is made anew in the loop and forgets its moments"
    if not np.any(moves[0] != 0):
        return "the first step moves nothing: step() stands before backward(), or the learning rate starts at 0"
    if sizes(ratio) and abs(ratio - 1) > 0.01:
        return (
            f"the learning rate is {number(ratio * lr, tolerance=0)}, not the {number(lr, tolerance=0)} that was passed"
        )
    if used and not any("AdamW" in o["classes"] for o in used):
        return f"the optimiser is {used[0]['classes'][0]}: use torch.optim.AdamW"
    later = float((moves[at] * wanted).sum() / (wanted**2).sum())
    if at and np.abs(moves[at] - later * wanted).max() <= 1e-3 * lr:
        times = number(later, tolerance=1e-3)
        return f"from step {at} on the learning rate is {times} times the one that was passed: it stays the same"
    if at and np.abs(moves[at] - lr * signs[at]).max() <= 0.05 * lr:
        return f"step {at} is a first step: an optimiser that is made anew for each pass forgets its moments"
    if abs(ratio - 1) < 0.05:
        return "a later step is not right: the learning rate stays lr, and zero_grad() comes before each backward()"
    return "for each step: zero_grad(), backward(), step(), with AdamW's learning rate lr"


def judge_trainable_alone(inputs: Inputs, seen: Observation) -> Fault | None:
    if seen["stopped"]:
        return _form_fault(inputs, seen)
    read = "section 4.4"
    frozen = {"words": inputs["words"], "weight": inputs["weight"], "classifier_norm": 1.0}
    trains = {"lora_A": inputs["A"], "lora_B": inputs["B"], "classifier": inputs["head"], "bias": 0.0}
    thawed = [name for name in frozen if seen["trainable"][name]]
    moved = [name for name, given in frozen.items() if (seen["after"][name] != given).any()]
    if thawed or moved:
        what = (
            f"requires_grad was switched on for {', '.join(thawed)}" if thawed else f"frozen {', '.join(moved)} changed"
        )
        likely = "the optimiser holds frozen parameters: weight decay and old gradients move them"
        if thawed:
            likely = "train leaves requires_grad as it is: the flags say what trains"
        return Fault(what, likely, read)
    still = [name for name, given in trains.items() if (seen["after"][name] == given).all()]
    if still:
        likely = "the optimiser needs every parameter with requires_grad, and a step() after each backward()"
        if still in (["classifier"], ["classifier", "bias"]):
            likely = "the head trains as well as LoRA: go by requires_grad, not by lora_ in a name"
        elif still == ["bias"]:
            likely = "go by requires_grad: what trains may have any name, and what is frozen, too"
        return Fault(f"{', '.join(still)} must train and has not moved", likely, read)
    for optimizer in seen["optimizers"]:
        held = [name for name in optimizer["held"] if name in frozen]
        if held:
            return Fault(
                f"the optimiser was given {', '.join(optimizer['held'])}, of which {', '.join(held)} are frozen",
                "it was given all of model.parameters(): pass those with requires_grad alone",
                read,
            )
    asleep = [name for name in trains if not seen["trainable"][name]]
    if asleep:
        return Fault(
            f"requires_grad was switched off for {', '.join(asleep)}",
            "train leaves requires_grad as it is: the model may be trained further",
            read,
        )
    return None


def judge_mode(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := _order_fault(inputs, seen):
        return fault
    modes = [forward["training"] for forward in seen["forwards"][: inputs["steps"]]]
    if all(modes):
        return None
    return Fault(
        "the model was switched to evaluation mode" + (f" before step {modes.index(False)}" if modes[0] else ""),
        "model.eval() turns dropout off; training wants model.train(), in each pass",
        "section 4.4",
    )


# --- 4.5 save_adapter, load_adapter ---------------------------------------------------------------------------------

ALL_LINEARS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


@functools.lru_cache(maxsize=2)
def _base(seed: int) -> nn.Module:
    """The tiny RoBERTa; making one takes three times as long as copying it, and one check needs a dozen."""
    from lora_ref.models import tiny_roberta

    return tiny_roberta(seed=seed)


def adapted_model(inputs: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None) -> nn.Module:
    """The tiny RoBERTa with LoRA, as stage 03 makes it, with these values in what an adapter holds."""
    from lora_ref.inject import inject_lora

    model = copy.deepcopy(_base(inputs["base_seed"]))
    inject_lora(model, inputs["targets"], inputs["rank"], inputs["alpha"], train_head=inputs["train_head"])
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, values in (tensors or {}).items():
            parameters[name].copy_(torch.tensor(values))
    return model.eval()


def draw_adapter(rng: np.random.Generator, train_head: bool = True, edits: Sequence[Sequence[str]] = ()) -> Inputs:
    """An injection, the values of the adapter that is saved (B is not zero), and what the fresh model has instead."""
    inputs: Inputs = {
        "base_seed": int(rng.integers(1000)),
        "targets": [str(t) for t in (ALL_LINEARS if rng.integers(2) else ("query", "value", "output.dense"))],
        "rank": int(rng.integers(2, 6)),
        "alpha": float(rng.integers(4, 20)),
        "train_head": train_head,
    }
    model = adapted_model(inputs)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    for key in ("saved", "fresh"):
        inputs[key] = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    base = [n for n, p in model.named_parameters() if not (p.requires_grad or n.startswith("classifier."))]
    name = str(rng.choice(base))
    inputs["foreign"] = {"frozen": name, "values": array(model.get_parameter(name)).astype(np.float32) + 1}
    inputs["tokens"] = rng.integers(4, 50, size=(3, 9))
    return inputs | ({"edits": [list(edit) for edit in edits]} if edits else {})


def in_scratch_folder(probe: Callable[..., dict]) -> Callable[..., dict]:
    """Give a probe an empty folder, which goes once the probe has let go of its models.

    A right answer's tensors may stay mapped to the file, and Windows removes no file that is mapped. What can't be
    removed even then stays in the system's temporary folder: that is no student's mistake.
    """

    @functools.wraps(probe)
    def run(names: Names, **inputs: Any) -> dict:
        folder = Path(tempfile.mkdtemp(prefix="lora-check-"))
        try:
            return probe(names, folder, **inputs)
        finally:  # not TemporaryDirectory: Python 3.11's raises in spite of ignore_cleanup_errors
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                gc.collect()  # a model that refers to itself outlives its names
                shutil.rmtree(folder, ignore_errors=True)

    return run


def with_path(function: Callable, model: nn.Module, path: Path) -> Any:
    """``function(model, path)`` with a string, which most code takes; with a Path where that is of the wrong type."""
    try:
        return function(model, str(path))
    except (TypeError, AttributeError):
        return function(model, path)


def read_adapter(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, or why it is none."""
    from safetensors.torch import load_file

    if not path.is_file():
        return {"problem": "no file at the path" if not path.exists() else "the path is a folder"}
    if path.stat().st_size > 5_000_000:
        return {"problem": f"a file of {path.stat().st_size:,} bytes"}
    try:
        return {"tensors": {name: array(values) for name, values in load_file(path).items()}}
    except Exception as error:  # the file is a student's: anything may be in it
        head = path.read_bytes()[:4]
        kind = "a pickle (torch.save)" if head[:2] in (b"PK", b"\x80\x02", b"\x80\x04") else "no safetensors file"
        return {"problem": f"{kind}: {type(error).__name__}"}


@in_scratch_folder
def probe_save(names: Names, folder: Path, **inputs: Any) -> dict:
    """What save_adapter writes, and whether the model stays as it was."""
    path = folder / "adapter.safetensors"
    model = adapted_model(inputs, inputs["saved"])
    before = snapshot(model)
    with_path(names.save_adapter, model, path)
    others = sorted(name for name in os.listdir(folder) if name != path.name)
    return {"file": read_adapter(path), "others": others, "changed": changed(model, before)}


@in_scratch_folder
def probe_round_trip(names: Names, folder: Path, **inputs: Any) -> dict:
    """Save, load into a fresh model with other values, and compare the two."""
    path = folder / "adapter.safetensors"
    model, fresh = adapted_model(inputs, inputs["saved"]), adapted_model(inputs, inputs["fresh"])
    before = snapshot(fresh)
    with_path(names.save_adapter, model, path)
    try:
        with_path(names.load_adapter, fresh, path)
    except ValueError as error:  # a refusal; other errors are mistakes, and shown with their line
        return {"refused": describe_error(error)}
    tokens = torch.tensor(inputs["tokens"])
    with torch.no_grad():
        logits = [array(m.eval()(input_ids=tokens).logits) for m in (model, fresh)]
    parameters = dict(fresh.named_parameters())
    return {
        "logits": logits,
        "loaded": {name: array(parameters[name]) for name in inputs["saved"]},
        "untouched": not changed(fresh, before),
        "asleep": [name for name in inputs["saved"] if not parameters[name].requires_grad],
        "changed": changed(fresh, before),
    }


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


def edit_file(source: Path, target: Path, kind: str, place: str, base: Mapping[str, Any]) -> None:
    """Copy a safetensors file with one thing changed; what its metadata says stays.

    ``place``: the first or the last of its tensors, or the first matrix that is not square. What is unexpected is a
    tensor with a name like LoRA's, one with a ``foreign`` name, or one called as a ``frozen`` tensor of the base is.
    """
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(source, framework="np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    oblong = {name for name, t in tensors.items() if t.ndim == 2 and t.shape[0] != t.shape[1]}
    name = (max if place == "last" else min)(oblong if place == "oblong" else tensors)
    if kind == "missing":
        del tensors[name]
    elif kind == "unexpected":
        names = {"first": "AAA.lora_A", "last": "zzz.lora_A", "foreign": "other.bias", "frozen": base["frozen"]}
        tensors[names[place]] = base["values"] if place == "frozen" else np.ones((2, 3), dtype=np.float32)
    elif kind == "renamed":
        tensors[name + "_2"] = tensors.pop(name)
    else:
        shapes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "one row more": lambda t: np.concatenate([t, t[:1]]),
            "one row": lambda t: t[:1],  # copy_ would broadcast it over all rows
            "one dimension more": lambda t: t[None],
            "one column more": lambda t: np.concatenate([t, t[:, :1]], axis=1),
            "one column": lambda t: t[:, :1],  # as one row
            "transposed": lambda t: t.T,
        }
        tensors[name] = np.ascontiguousarray(shapes[kind](tensors[name]))
    save_file(tensors, target, metadata=metadata)


class Trap:
    """What a hostile pickle holds: unpickling it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


def write_foreign(source: Path, target: Path, kind: str, marker: Path) -> None:
    """A file that is no adapter: noise, half of one, or a pickle with a trap."""
    if kind == "noise":
        target.write_bytes(bytes(range(256)) * 40)
    elif kind == "half a file":
        target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    elif kind == "a torch.save file":
        torch.save({"lora_A": Trap(marker)}, target)
    else:
        target.write_bytes(pickle.dumps({"lora_A": Trap(marker)}))


FOREIGN = ("noise", "half a file", "a torch.save file", "a pickle")


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
        error = raised(lambda fresh=fresh, path=path: with_path(names.load_adapter, fresh, path))
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
        before = snapshot(model)
        error = raised(lambda model=model, edited=edited: with_path(names.load_adapter, model, edited))
        outcomes.append({"raised": error, "changed": changed(model, before), "sprung": marker.exists()})
        if marker.exists():
            marker.rmdir()
    return {"tries": tries, "outcomes": outcomes}


def judge_file(inputs: Inputs, seen: Observation) -> Fault | None:
    read, file = "section 4.5", seen["file"]
    if "problem" in file:
        return Fault(file["problem"], "write with safetensors.torch.save_file, to exactly this path", read)
    if seen["others"]:
        return Fault(
            f"beside the file: {', '.join(seen['others'])}",
            "an adapter is one file; what else it needs goes into its metadata",
            read,
        )
    expected, stored = dict(inputs["saved"]), dict(file["tensors"])
    if not stored:
        return Fault("the file holds no tensor", "what belongs in has requires_grad, whatever its gradient is", read)
    for name, values in inputs["saved"].items():
        # by value: the contract does not say how the tensors are called in the file
        match = [key for key, found in stored.items() if found.shape == values.shape and np.array_equal(found, values)]
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
            f"{len(absent)} of {len(inputs['saved'])} tensors are not in the file, such as {absent[0]}", likely, read
        )
    if not inputs["train_head"]:
        stored = {key: found for key, found in stored.items() if "classifier" not in key}  # a frozen head does no harm
    if stored:
        base = [array(p) for p in adapted_model(inputs).parameters() if not p.requires_grad]
        likely = "no parameter of the model: rank, alpha and the like go into the file's metadata"
        if any(np.array_equal(found, values) for found in stored.values() for values in base):
            likely = "the frozen base model is in the file: everyone who loads it has that already"
        return Fault(f"{len(stored)} tensors too many, such as {min(stored)}", likely, read)
    if seen["changed"]:
        return Fault(
            f"saving changed the model: {', '.join(seen['changed'][:3])}",
            "save copies, and leave the model as it is",
            read,
        )
    return None


def judge_round_trip(inputs: Inputs, seen: Observation) -> Fault | None:
    read = "section 4.5"
    if "refused" in seen:
        return Fault(
            f"load_adapter refused what save_adapter wrote: {seen['refused']['type']}: {seen['refused']['text']}",
            "the two must choose their tensors by the same rule",
            read,
        )
    wrong = [name for name, values in inputs["saved"].items() if not np.array_equal(seen["loaded"][name], values)]
    if wrong:
        if seen["untouched"]:
            likely = "nothing was copied into the model that was passed: copy_ is missing, or works on a copy"
        elif all("classifier" in name for name in wrong):
            likely = "the head is not restored: without it the reloaded model answers at chance"
        else:
            likely = "a tensor is left out, or rounded on the way"
        return Fault(
            f"{len(wrong)} of {len(inputs['saved'])} tensors differ from the saved ones, such as {wrong[0]}",
            likely,
            read,
        )
    others = [name for name in seen["changed"] if name not in inputs["saved"]]
    if others:
        return Fault(f"loading changed {others[0]}", "the base model is not the adapter's to change", read)
    # the tensors are equal bit for bit by now; where they lie in memory may still move a product's last bit
    if not close(*seen["logits"], 1e-3):
        gap = np.abs(np.subtract(*seen["logits"])).max()
        return Fault(
            f"logits differ by up to {number(gap)}", "something beside the tensors was changed by loading", read
        )
    return None


def judge_loaded(inputs: Inputs, seen: Observation) -> Fault | None:
    """The round trip, and what trained before it trains after it."""
    if fault := judge_round_trip(inputs, seen):
        return fault
    if seen["asleep"]:
        return Fault(
            f"after loading, {len(seen['asleep'])} tensors do not train any more, such as {seen['asleep'][0]}",
            "loading copies values, and leaves requires_grad as it is",
            "section 4.5",
        )
    return None


_REFUSAL_CAUSE = {
    "missing": "a loop over the file's tensors never meets what is not there: compare the sets of names first",
    "unexpected": "a loop over the model's tensors never meets what only the file has: compare the sets of names first",
    "renamed": "names are compared by their number alone, or not at all",
    "one row": "copy_ repeats one row over all rows without a word: compare the shapes first",
    "one column": "copy_ repeats one column over all columns without a word: compare whole shapes, not len() alone",
    "frozen": "a frozen tensor of the base is as unexpected as any: compare with the names of what trains",
    "foreign": "what has another name than expected is dropped while the file is read: compare all of its names",
}


def judge_refusal(inputs: Inputs, seen: Observation) -> Fault | None:
    read = "section 4.5"
    if "outcomes" not in seen:
        first = seen["tries"][0]
        what = f"raised {first['raised']['type']}" if first["raised"] else "did not change the model"
        return Fault(
            f"a good file {what}", "mend the round trip first: these checks edit a file that load_adapter takes", read
        )
    for (kind, place), outcome in zip(inputs["edits"], seen["outcomes"], strict=True):
        foreign = kind in FOREIGN
        what = kind if foreign else f"{kind} ({place} tensor)"
        if outcome["sprung"]:
            return Fault(
                f"{what} was unpickled, which ran the code inside it",
                "read with safetensors alone, never with torch.load or pickle",
                read,
            )
        if outcome["raised"] is None:
            return Fault(
                f"{what}: no error",
                _REFUSAL_CAUSE.get(place) or _REFUSAL_CAUSE.get(kind, "the shapes are not compared" * (not foreign)),
                read,
            )
        if outcome["changed"]:
            return Fault(
                f"{what}: {outcome['raised']['type']}, but {len(outcome['changed'])} tensors had changed by then",
                "tensors before the bad one are loaded already: check all names and whole shapes first, then copy",
                read,
            )
        if not foreign and "ValueError" not in outcome["raised"]["bases"]:
            return Fault(
                f"{what}: {outcome['raised']['type']}: {outcome['raised']['text']}",
                "the contract asks for a ValueError, raised before anything changes: compare the two sets of names "
                "(not how many there are), then the shapes",
                read,
            )
    return None


# --- 4.6 metrics_match ----------------------------------------------------------------------------------------------


def draw_metrics(rng: np.random.Generator, prefix: str = "eval") -> dict[str, Any]:
    """What Trainer.evaluate returns."""
    return {
        f"{prefix}_loss": float(rng.uniform(0.3, 0.7)),
        f"{prefix}_accuracy": float(rng.uniform(0.5, 0.9)),
        f"{prefix}_model_preparation_time": float(rng.uniform(0.001, 0.01)),
        f"{prefix}_runtime": float(rng.uniform(1, 9)),
        f"{prefix}_samples_per_second": float(rng.uniform(100, 900)),
        f"{prefix}_steps_per_second": float(rng.uniform(1, 9)),
        "epoch": 2.0,
    }


def retimed(rng: np.random.Generator, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The same metrics, measured another time."""
    timing = ("runtime", "per_second", "preparation_time")
    return {k: v * float(rng.uniform(1.1, 3)) if k.endswith(timing) else v for k, v in metrics.items()}


def draw_timing(rng: np.random.Generator, prefix: str = "eval") -> Inputs:
    """Evaluations that differ in their timing alone, and one that does in accuracy as well."""
    a = draw_metrics(rng, prefix)
    worse = retimed(rng, a) | {f"{prefix}_accuracy": a[f"{prefix}_accuracy"] - 0.01}
    return {"pairs": [[a, dict(a), True], [a, retimed(rng, a), True], [a, worse, False], [worse, a, False]]}


def draw_missing_key(rng: np.random.Generator) -> Inputs:
    prefix = str(rng.choice(["eval", "test"]))
    a = draw_metrics(rng, prefix)
    b = retimed(rng, a)
    absent = {key: value for key, value in b.items() if key != f"{prefix}_accuracy"}
    more, zero = b | {f"{prefix}_f1": 0.75}, b | {f"{prefix}_f1": 0.0}
    pairs = [[a, b, True], [a, absent, False], [absent, a, False], [a, more, False], [more, a, False]]
    pairs += [[absent, absent, True], [a, zero, False], [zero, a, False]]
    # the same keys in another order, other keys with the same values, the same keys with each other's values
    turned = dict(reversed(a.items()))
    renamed = {key.replace("accuracy", "f1"): value for key, value in a.items()}
    swapped = a | {"epoch": a[f"{prefix}_accuracy"], f"{prefix}_accuracy": a["epoch"]}
    return {"pairs": [*pairs, [a, renamed, False], [a, swapped, False], [a, turned, True]]}


def draw_tolerances(rng: np.random.Generator) -> Inputs:
    def around(value: float, *factors: tuple[float, bool]) -> list:
        one = {"eval_loss": value, "epoch": 2.0}
        pairs = []
        for by, equal in factors:
            for other in (one | {"eval_loss": value * (1 + by)}, one | {"eval_loss": value * (1 - by)}):
                pairs += [[one, other, equal], [other, one, equal]]
        return pairs

    digits = round(float(rng.uniform(1, 1.9)), 5) - 1e-6
    pairs = [[{"eval_loss": digits}, {"eval_loss": digits * (1 + 2e-6)}, False]]  # alike to six digits
    # an absolute 1e-6 is too wide for small numbers and too narrow for large ones; 1e-8 beside the relative, as NumPy
    # has it, passes
    pairs += around(float(rng.uniform(0.005, 0.015)), (8e-7, True), (5e-6, False))
    pairs += around(float(rng.uniform(1, 9)), (8e-7, True), (2e-6, False))
    pairs += around(float(1e6 * rng.uniform(1, 9)), (8e-7, True), (2e-6, False))
    zero = {"eval_accuracy": 0.0, "eval_steps": 5}
    return {
        "pairs": [
            *pairs,
            [zero, dict(zero), True],
            [zero, zero | {"eval_accuracy": 0.5}, False],
            [zero, zero | {"eval_steps": 6}, False],
        ]
    }


def draw_only_timing(rng: np.random.Generator) -> Inputs:
    """Names that hold the letters of a timing key's and mean something else."""
    pairs = []
    names = ("eval_sentiment_accuracy", "eval_second_best_accuracy", "eval_samples", "eval_times_retried")
    for key in (*names, "eval_settling_time", "eval_best_second", "epoch"):
        a = draw_metrics(rng) | {key: float(rng.uniform(0.1, 0.9))}
        pairs += [[a, retimed(rng, a), True], [a, retimed(rng, a) | {key: a[key] / 2}, False]]
    bare = {
        "accuracy": 0.5,
        "runtime": 1.0,
        "train_runtime": 5.0,
        "train_samples_per_second": 7.0,
        "preparation_time": 0.1,
    }
    return {"pairs": [*pairs, [bare, retimed(rng, bare), True]]}


def draw_all_timing(rng: np.random.Generator) -> Inputs:
    """What timing keys say, and names that only look like theirs."""
    return {"pairs": draw_timing(rng)["pairs"] + draw_only_timing(rng)["pairs"]}


def probe_match(names: Names, **inputs: Any) -> dict:
    """The answer for each pair."""
    answers = []
    for a, b, _ in inputs["pairs"]:
        value: list[Any] = []
        error = raised(lambda a=a, b=b, value=value: value.append(names.metrics_match(dict(a), dict(b))))
        if error:
            answers.append(error)
        else:
            answers.append(bool(value[0]) if isinstance(value[0], (bool, np.bool_)) else f"a {type(value[0]).__name__}")
    return {"answers": answers}


def judge_match(inputs: Inputs, seen: Observation) -> Fault | None:
    for (a, b, wanted), found in zip(inputs["pairs"], seen["answers"], strict=True):
        if found is wanted:
            continue
        differ = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
        real = [key for key in differ if not _timing(key)]
        likely = ""
        if isinstance(found, (str, Mapping)):
            likely = "the answer is True or False, for any two dicts; a raise left in after a check stops what follows"
            if isinstance(found, Mapping) and found["type"] == "KeyError":
                likely = "a key that only one side has is a difference: compare the two sets of keys"
        elif wanted and differ and not real:
            likely = (
                "timing keys are compared: no two runs take equally long. "
                "Leave out keys that end in runtime, per_second or preparation_time"
            )
        elif wanted and list(a) != list(b):
            likely = "a dict is the same whatever the order of its keys"
        elif wanted and real:
            likely = "floats are equal up to a relative 1e-6: the difference divided by their size"
        elif len(real) > 1 and sorted(a.values()) == sorted(b.values()):
            likely = "the values are the same, and their keys are not: compare each value by its key"
        elif any(key not in a or key not in b for key in real):
            likely = "a key that only one side has is a difference: compare the two sets of keys"
        elif any("time" in key or "second" in key for key in real):
            likely = (
                "more than the timing keys is left out: match runtime, per_second, preparation_time and nothing shorter"
            )
        elif real:
            likely = (
                "an absolute tolerance hides differences between small numbers: divide the difference by their size"
                if abs(a[real[0]]) < 0.1
                else "a real difference goes unnoticed: floats may differ by a relative 1e-6, other values not at all"
            )
        shown = [f"{key} ({_shown(a, key)}, {_shown(b, key)})" for key in (real or differ)[:2]]
        answer = f"{found['type']}: {found['text']}" if isinstance(found, Mapping) else found
        return Fault(
            f"{answer} for metrics that differ in {' and '.join(shown) or 'nothing'}; expected {wanted}",
            likely,
            "section 4.6",
        )
    return None


def _shown(metrics: Mapping[str, Any], key: str) -> str:
    return f"{metrics[key]:.8g}" if key in metrics else "absent"


def _timing(key: str) -> bool:
    return any(part in key for part in ("runtime", "per_second", "preparation_time"))


# --- visible checks -------------------------------------------------------------------------------------------------

TOKENIZE = "tokenize truncates each sentence to max_length tokens and pads none"
PADDING = "collate pads to the longest example of its batch, with the tokenizer's padding token and mask 0"
LABELS = "collate gives labels as an int64 tensor"
LABELS_ALONE = f"{LABELS}, and leaves the examples as they are"
METRICS = "accuracy is the share of rows whose largest logit is at the label"
NO_WARMUP = "without warm-up the multiplier falls from 1 at step 0 to 0 at total_steps"
WARMUP = "the multiplier rises from 0 to 1 over the warm-up, then falls to 0 at total_steps"
WHOLE_SCHEDULE = (
    f"{WARMUP} and stays there; a warm-up as long as the run ends with it, a longer one keeps it between 0 and 1"
)
SHORT = "a warm-up as long as the run rises until its end; with a longer one the multiplier stays between 0 and 1"
LOSSES = "train returns one float a step: the loss of that step's batch before the update"
LOSSES_RESTART = f"{LOSSES}; a loader that ends is started again"
MODE = "the model is in training mode at each step"
ADAMW = "each step is AdamW's, with the learning rate that was passed"
ALONE = "all that has requires_grad trains, the head too; what is frozen stays, and the optimiser never holds it"
FILE = "the file is safetensors and holds the LoRA tensors and the trainable head, nothing else"
ROUND_TRIP = "save, load into a fresh model: equal logits, bit for bit"
MISSING = "a missing tensor is a ValueError, and nothing has changed"
NAMES = "a missing, renamed or unexpected tensor is a ValueError, and nothing has changed"
MISSHAPEN = "a tensor of another shape is a ValueError, and nothing has changed"
FOREIGN_FILE = "a file that is not safetensors is refused, never unpickled, and nothing has changed"
TIMING = "metrics match whatever the timing keys say, and differ where accuracy does"
ONLY_TIMING = "the timing keys are left out, and no others"
MISSING_KEY = "values are compared key by key; a key that only one side has is a difference, whichever side"
TOLERANCE = "floats may differ by a millionth of their size, other values not at all"

_NAME_EDITS = [("missing", "last"), ("renamed", "last"), *(("unexpected", n) for n in ("first", "foreign", "frozen"))]
_SHAPE_EDITS = [("one row more", "first"), ("one row", "last"), ("one column", "oblong"), ("transposed", "oblong")]
_FOREIGN_EDITS = [("half a file", ""), ("a torch.save file", "")]

VISIBLE = [
    Check("4.1/tokenize", TOKENIZE, probe_tokenize, judge_tokenize, fixed(1, draw_sentences, longest=150)),
    Check("4.1/padding", PADDING, probe_collate, judge_padding, fixed(2, draw_examples, single=True)),
    Check("4.1/labels", LABELS_ALONE, probe_collate, judge_labels_alone, fixed(2, draw_examples, single=True)),
    Check("4.2/accuracy", METRICS, probe_metrics, judge_metrics, fixed(3, draw_predictions)),
    Check("4.3/no-warmup", NO_WARMUP, probe_schedule, judge_schedule, fixed(4, draw_schedule, warmup=False)),
    Check("4.3/warmup", WHOLE_SCHEDULE, probe_schedule, judge_short_runs, fixed(5, draw_whole_schedule)),
    Check(
        "4.4/losses",
        LOSSES_RESTART,
        probe_train,
        judge_losses,
        fixed(6, draw_training, steps=7, length=3, passes=4),
        seconds=TRAINING_SECONDS,
    ),
    Check("4.4/mode", MODE, probe_train, judge_mode, fixed(6, draw_training), seconds=TRAINING_SECONDS),
    Check("4.4/adamw", ADAMW, probe_train, judge_adamw, fixed(6, draw_training), seconds=TRAINING_SECONDS),
    Check(
        "4.4/frozen",
        ALONE,
        probe_train,
        judge_trainable_alone,
        fixed(6, draw_training, stale=True),
        seconds=TRAINING_SECONDS,
    ),
    Check("4.5/file", FILE, probe_save, judge_file, fixed(7, draw_adapter)),
    Check("4.5/round-trip", ROUND_TRIP, probe_round_trip, judge_loaded, fixed(7, draw_adapter)),
    Check("4.5/names", NAMES, probe_refusal, judge_refusal, fixed(8, draw_adapter, edits=_NAME_EDITS)),
    Check("4.5/shapes", MISSHAPEN, probe_refusal, judge_refusal, fixed(8, draw_adapter, edits=_SHAPE_EDITS)),
    Check("4.5/foreign", FOREIGN_FILE, probe_refusal, judge_refusal, fixed(8, draw_adapter, edits=_FOREIGN_EDITS)),
    Check("4.6/timing", ONLY_TIMING, probe_match, judge_match, fixed(9, draw_all_timing)),
    Check("4.6/missing-key", MISSING_KEY, probe_match, judge_match, fixed(9, draw_missing_key)),
    Check("4.6/tolerance", TOLERANCE, probe_match, judge_match, fixed(9, draw_tolerances)),
]
