"""Exercise 4.1, tokenize and collate."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from lora_ref.checks.calls import Effect
from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array
from lora_ref.checks.verdicts import ELSEWHERE, Check, Fault, Inputs, Observation

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")


def word_tokenizer(vocabulary: Sequence[str], padding_side: str = "right") -> Any:
    """A tokenizer with one token for each part of a word between hyphens, and the texts' ends marked.

    It tells capitals apart, has a token for a space at the text's beginning, and takes up to 512 tokens.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(Regex("^ "), f"{SPACE}-")
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
        padding_side=padding_side,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


SPACE = "space"
#: Of an earlier call with the same sentences.
OTHER_LENGTH = 7
#: What belongs to whoever made the tokenizer.
SETTINGS = ("padding_side", "truncation_side", "model_max_length", "pad_token")


def settings_left(tokenizer: Any, before: Mapping[str, Any], by: str) -> list[Inputs]:
    """Which of the tokenizer's settings a function has left as others than they were."""
    changed = [name for name in SETTINGS if getattr(tokenizer, name, None) != before[name]]
    texts = [f"{by} changed its argument tokenizer: {name} is {getattr(tokenizer, name, None)}" for name in changed]
    return [Effect("argument", text)._asdict() for text in texts]


WORDS = [f"{'W' if n % 3 else 'w'}{n}" for n in range(40)]


def draw_vocabulary(rng: np.random.Generator) -> list[str]:
    """Forty words and the special tokens in any order, but padding never at 0: a zero there must not go unnoticed."""
    while True:
        vocabulary = [str(w) for w in rng.permutation([*WORDS, SPACE, *SPECIAL])]
        if vocabulary[0] != "<pad>":
            return vocabulary


def draw_sentences(rng: np.random.Generator, max_length: int | None = 10, longest: int = 30) -> Inputs:
    """Five sentences, one of them far longer than ``max_length`` (None: the default), one far shorter.

    A hyphen joins some words of each: words are not tokens. The short one begins with a space. At the end stand an
    empty sentence, and one that is there already.
    """
    lengths = [longest, 3, *(int(n) for n in rng.integers(2, longest, size=3))]
    sentences = []
    for length in rng.permutation(lengths):
        ends = ["-" if n % 3 == 0 else " " for n in range(length - 1)]
        words = [WORDS[n] for n in rng.integers(0, 40, size=length)]
        text = "".join(word + end for word, end in zip(words, [*ends, ""], strict=True))
        sentences.append(" " + text if length == 3 else text)
    sentences += ["", sentences[0]]
    return {"vocabulary": draw_vocabulary(rng), "sentences": sentences, "max_length": max_length}


def draw_examples(rng: np.random.Generator, batches: int = 1, single: bool = False) -> Inputs:
    """Batches of examples of different lengths, with several classes in each; ``single``: then a batch of one.

    A sentence may have the padding token inside: what is padding the mask says. One of each batch hides a token.
    """
    vocabulary = draw_vocabulary(rng)
    real = [n for n, word in enumerate(vocabulary) if word != "<pad>"]
    examples = []

    def inside(n: int) -> list[int]:
        ids = rng.choice(real, size=n).tolist()
        ids[1 + int(rng.integers(n - 2))] = vocabulary.index("<pad>")
        return ids

    for size in [*rng.integers(3, 6, size=batches), *[1] * single]:
        lengths = rng.choice(np.arange(3, 21), size=size, replace=False)
        labels = rng.permutation([0, 1, 2, *rng.integers(0, 3, size=max(0, size - 3))])[:size]
        batch: list[dict[str, Any]] = [
            {"input_ids": ids, "attention_mask": [1] * len(ids), "label": int(label)}
            for ids, label in zip([inside(n) for n in lengths], labels, strict=True)
        ]
        batch[-1]["attention_mask"][-2] = 0
        examples.append(batch)
    return {"vocabulary": vocabulary, "batches": examples}


def probe_tokenize(names: Names, **inputs: Any) -> dict:
    """The rows that tokenize returns."""
    batch = {"sentence": list(inputs["sentences"])}
    options = {} if inputs["max_length"] is None else {"max_length": inputs["max_length"]}
    tokenizer = word_tokenizer(inputs["vocabulary"])
    before = {name: getattr(tokenizer, name) for name in SETTINGS}
    shorter = names.tokenize({"sentence": list(batch["sentence"])}, tokenizer, max_length=OTHER_LENGTH)
    earlier = names.tokenize({"sentence": batch["sentence"][::-1]}, tokenizer, **options)
    encoded = names.tokenize(batch, tokenizer, **options)
    if not isinstance(encoded, Mapping):
        return {"kind": type(encoded).__name__}
    columns = {str(key): encoded[key] for key in encoded if key in ("input_ids", "attention_mask")}
    effects = settings_left(tokenizer, before, "tokenize")
    return ({"effects": effects} if effects else {}) | {
        "kept": encoded is earlier or encoded is shorter,
        "keys": [str(key) for key in encoded],
        "columns": {k: [_ints(row) for row in v] for k, v in columns.items()},
    }


def _ints(row: Any) -> list[int]:
    return [int(n) for n in (row.tolist() if hasattr(row, "tolist") else row)]


def probe_collate(names: Names, **inputs: Any) -> dict:
    """What collate makes of each batch."""
    seen, effects = [], []
    for examples in copy.deepcopy(inputs["batches"]):
        # on the right, whatever side the tokenizer has set
        tokenizer = word_tokenizer(inputs["vocabulary"], "left")
        before = {name: getattr(tokenizer, name) for name in SETTINGS}
        batch = names.collate(examples, tokenizer)
        before["padding_side"] = tokenizer.padding_side  # whoever pads with it has to set it
        effects += settings_left(tokenizer, before, "collate")
        if not isinstance(batch, Mapping):
            return {"kind": type(batch).__name__}
        tensors = {str(key): value for key, value in batch.items() if isinstance(value, torch.Tensor)}
        seen.append(
            {
                "kinds": {str(key): type(value).__name__ for key, value in batch.items()},
                "tensors": {key: array(value) for key, value in tensors.items()},
                "dtypes": {key: str(value.dtype).removeprefix("torch.") for key, value in tensors.items()},
            }
        )
    return {"batches": seen} | ({"effects": effects} if effects else {})


def judge_tokenize(inputs: Inputs, seen: Observation) -> Fault | None:
    limit = inputs["max_length"] or 128
    if "kind" in seen:
        return Fault(
            f"tokenize returned a {seen['kind']}",
            "Dataset.map needs a dict of columns: return what the tokenizer returns",
        )
    absent = [key for key in ("input_ids", "attention_mask") if key not in seen["columns"]]
    if absent:
        return Fault(f"columns {seen['keys']}", f"{' and '.join(absent)} must be among them")
    ids, masks = seen["columns"]["input_ids"], seen["columns"]["attention_mask"]
    if len(ids) != len(inputs["sentences"]):
        return Fault(
            f"sentences: {len(inputs['sentences'])}, rows: {len(ids)}",
            "one row for each sentence of batch['sentence'], be it empty or there twice",
        )
    if seen["kept"]:
        return Fault(
            "a second call gets the rows of the first", "something is kept from call to call, as in a global variable"
        )
    ids_of = {word: n for n, word in enumerate(inputs["vocabulary"])}
    texts = [f"{SPACE}{s}" if s.startswith(" ") else s for s in inputs["sentences"]]
    full = [[ids_of["<s>"], *(ids_of[w] for w in s.replace("-", " ").split()), ids_of["</s>"]] for s in texts]
    lengths, wanted = [len(row) for row in ids], [min(len(row), limit) for row in full]
    if lengths != wanted:
        seen_lengths = f"rows of {lengths} tokens, expected {wanted} (max_length {limit})"
        if len(set(lengths)) == 1 and lengths[0] >= max(wanted):
            return Fault(
                seen_lengths,
                f"all rows are padded to one length, {lengths[0]}: padding belongs to collate, which knows its batch",
            )
        if max(lengths) > limit:
            likely = (
                "truncation=True is missing, or max_length does not reach the tokenizer"
                + ", or is not 128 by default" * (inputs["max_length"] is None)
                if lengths == [len(row) for row in full]
                else "max_length does not reach the tokenizer"
                if lengths == [min(len(row), 128) for row in full]
                else ""
            )
            return Fault(seen_lengths, likely)
        if lengths == [n - text.startswith(" ") for n, text in zip(wanted, inputs["sentences"], strict=True)]:
            likely = "the tokenizer gets each sentence as it is: a space at its beginning is a token here, and counts"
            return Fault(seen_lengths, likely)
        return Fault(seen_lengths, "max_length counts all tokens, special ones too, and nothing else is cut off")
    for row, mask, whole, length in zip(ids, masks, full, wanted, strict=True):
        kept = [*whole[: length - 1], whole[-1]]
        if row == whole[:length] != kept:
            return Fault(
                f"a truncated sentence ends in {row[-2:]}, expected {kept[-2:]}",
                "the end token is sliced off: truncation=True and max_length make room for it",
            )
        if row != kept:
            return Fault(
                f"tokens {row[:8]} for a sentence whose tokens are {whole[:8]}",
                "another text, or another order: the tokenizer gets each sentence as it is",
            )
        if mask != [1] * length:
            return Fault(f"attention_mask {mask[:8]} for a row without padding", "each token of the text has mask 1")
    return None


def _batches(inputs: Inputs, seen: Observation) -> Fault | list[tuple[list[dict], Mapping]]:
    if "kind" in seen:
        return Fault(
            f"collate returned a {seen['kind']}", "the model is called as model(**batch): return a dict of tensors"
        )
    return list(zip(inputs["batches"], seen["batches"], strict=True))


def judge_padding(inputs: Inputs, seen: Observation) -> Fault | None:
    if fault := _padding_fault(inputs, seen):
        return fault
    for batch in seen["batches"]:
        for key in ("input_ids", "attention_mask"):
            if (kind := batch["dtypes"][key]) != "int64":
                return Fault(f"the dtype of {key} is {kind}", "the contract is int64, for the mask as well")
    return None


def _padding_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    batches = _batches(inputs, seen)
    if isinstance(batches, Fault):
        return batches
    pad = inputs["vocabulary"].index("<pad>")
    for examples, batch in batches:
        longest = max(len(e["input_ids"]) for e in examples)
        for key, filler in (("input_ids", pad), ("attention_mask", 0)):
            padded = batch["tensors"].get(key)
            if padded is None:
                return Fault(
                    f"{key}: {batch['kinds'].get(key, 'absent')}",
                    "the batch holds tensors input_ids, attention_mask, labels",
                )
            wanted = np.array([e[key] + [filler] * (longest - len(e[key])) for e in examples])
            if padded.shape != wanted.shape:
                likely = ""
                if padded.ndim == 2 and padded.shape[1] > longest:
                    likely = "it is padded to a fixed length or a multiple, not to the longest example of this batch"
                elif len(examples) == 1:
                    likely = "a batch of one example has the axis of the batch, too: squeeze() takes it away"
                return Fault(f"{key} of shape {padded.shape}, expected {wanted.shape}", likely)
            if not np.array_equal(padded, wanted):
                return Fault(
                    f"{key}[0] = {padded[0].tolist()}, expected {wanted[0].tolist()}"
                    if (padded[0] != wanted[0]).any()
                    else f"{key} differs from the examples padded on the right",
                    _padding_cause(padded, wanted, key, pad, [len(e[key]) for e in examples]),
                )
        extra = sorted(set(batch["kinds"]) - {"input_ids", "attention_mask", "labels", "token_type_ids"})
        if extra and extra != ["label"]:  # "label" left in place of "labels" is another check's matter
            return Fault(f"the batch also holds {', '.join(extra)}", "model(**batch) takes no such argument")
    return None


def _padding_cause(padded: np.ndarray, wanted: np.ndarray, key: str, pad: int, lengths: Sequence[int]) -> str:
    padding = np.arange(wanted.shape[1]) >= np.array(lengths)[:, None]
    if key == "attention_mask":
        if padded[padding].all():
            return "the mask is 1 on padding too, so the model reads it"
        if not padded[padding].any():
            return "keep each example's own mask and add zeros for the padding: a sentence may hold the padding token"
        return "the mask does not mark the same places as the padding"
    fillers = np.unique(padded[padding])
    if np.array_equal(padded[~padding], wanted[~padding]) and len(fillers) == 1:
        return f"padded with {fillers[0]}, but this tokenizer's pad_token_id is {pad}"
    if any(row[0] == pad for row in padded):
        return (
            "padded on the left: positions of the tokens change with their batch. tokenizer.pad pads on the side that "
            'the tokenizer has set, unless it is told padding_side="right"'
        )
    return "padding goes to the right of each row, and nothing else changes"


def judge_labels(inputs: Inputs, seen: Observation) -> Fault | None:
    batches = _batches(inputs, seen)
    if isinstance(batches, Fault):
        return batches
    for examples, batch in batches:
        wanted, labels = np.array([e["label"] for e in examples]), batch["tensors"].get("labels")
        if labels is None:
            likely = "the examples say label, the model's argument is labels" if "label" in batch["kinds"] else ""
            return Fault(
                f"labels: {batch['kinds'].get('labels', 'absent')}; the batch holds {', '.join(batch['kinds'])}",
                likely or "the loss needs a tensor of labels",
            )
        if batch["dtypes"]["labels"] != "int64":
            return Fault(
                f"the dtype of labels is {batch['dtypes']['labels']}", "cross-entropy takes class numbers as int64"
            )
        if not np.array_equal(labels, wanted):
            return Fault(
                f"labels {labels.tolist()}, expected {wanted.tolist()}", "one label an example, in the examples' order"
            )
        if "label" in batch["kinds"]:
            return Fault("the batch also holds label", "model(**batch) takes no argument of that name")
    return None


def judge_unchanged(inputs: Inputs, seen: Observation) -> Fault | None:
    """A batch for each list of examples. Whether they are as they were, `lora_ref.checks.calls` has written down."""
    batches = _batches(inputs, seen)
    if isinstance(batches, Fault):
        return batches
    for examples, batch in batches:
        rows = batch["tensors"].get("input_ids")
        held = rows is not None and np.ndim(rows) == 2 and len(rows) == len(examples)
        for example, row in zip(examples, rows if held else [()] * len(examples), strict=True):
            if example["input_ids"][len(example["input_ids"]) // 2] not in list(row):
                return Fault("the batch does not hold its examples", ELSEWHERE)
    return None


EXERCISE = Exercise(
    "4.1",
    "tokenize and collate",
    names=("tokenize", "collate"),
    pure=("tokenize", "collate"),
    checks=[
        Check(
            "4.1/tokenize",
            "tokenize truncates each sentence to max_length tokens and pads none",
            probe_tokenize,
            judge_tokenize,
            partial(draw_sentences, longest=150),
            seed=1,
        ),
        Check(
            "4.1/padding",
            "collate pads to the longest example of its batch, with the tokenizer's padding token and mask 0",
            probe_collate,
            judge_padding,
            partial(draw_examples, single=True),
            seed=2,
        ),
        Check(
            "4.1/labels",
            "collate gives labels as an int64 tensor, and leaves the examples as they are",
            probe_collate,
            judge_labels,
            partial(draw_examples, single=True),
            seed=2,
        ),
    ],
)
