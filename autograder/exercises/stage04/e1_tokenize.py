"""Exercise 4.1, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from functools import partial

import numpy as np

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from lora_ref.checks.stage04 import e1_tokenize as room
from lora_ref.checks.verdicts import Check, Inputs


def _long_sentences(rng: np.random.Generator) -> Inputs:
    return room.draw_sentences(rng, max_length=None, longest=int(rng.integers(140, 200)))


def _some_max_length(rng: np.random.Generator) -> Inputs:
    return room.draw_sentences(rng, max_length=int(rng.integers(6, 25)), longest=int(rng.integers(140, 200)))


HIDDEN = [
    Check(
        "4.1/max-length",
        "tokenize keeps max_length tokens of a longer sentence and pads none",
        room.probe_tokenize,
        room.judge_tokenize,
        _some_max_length,
        points=0.75,
    ),
    Check(
        "4.1/default-length",
        "tokenize keeps 128 tokens unless told otherwise, and pads none",
        room.probe_tokenize,
        room.judge_tokenize,
        _long_sentences,
        points=0.5,
    ),
    graded(room, "4.1/padding", 0.75, draw=partial(room.draw_examples, batches=3, single=True)),
    Check(
        "4.1/labels",
        "collate gives labels as an int64 tensor",
        room.probe_collate,
        room.judge_labels,
        partial(room.draw_examples, batches=3, single=True),
        points=0.5,
    ),
    Check(
        "4.1/unchanged",
        "collate leaves the examples as they are",
        room.probe_collate,
        room.judge_unchanged,
        partial(room.draw_examples, batches=2),
        points=0.5,
    ),
]


_TOKENIZE = "truncation=True, max_length=max_length)"


MUTANTS = [
    Mutant(
        "4.1/strips-spaces",
        "spaces at the ends are stripped",
        'tokenizer(batch["sentence"], truncation=True, max_length=max_length)',
        'tokenizer([s.strip() for s in batch["sentence"]], truncation=True, max_length=max_length)',
        "a space at its beginning is a token here",
    ),
    Mutant(
        "4.1/sets-the-tokenizer",
        "the tokenizer's own limit is set",
        'return tokenizer(batch["sentence"], truncation=True, max_length=max_length)',
        'tokenizer.model_max_length = max_length\n    return tokenizer(batch["sentence"], truncation=True)',
        "changed its argument tokenizer: model_max_length",
    ),
    Mutant(
        "4.1/mask-by-length",
        "the mask is 1 on all of the text, whatever the example's says",
        "example[key] + [filler]",
        '(example[key] if key == "input_ids" else [1] * len(example[key])) + [filler]',
        "keep each example's own mask",
    ),
    Mutant(
        "4.1/slices",
        "the end token is sliced off",
        'return tokenizer(batch["sentence"], truncation=True, max_length=max_length)',
        'encoded = tokenizer(batch["sentence"])\n'
        "    return {k: [row[:max_length] for row in encoded[k]] for k in encoded}",
        "the end token is sliced off",
    ),
    Mutant(
        "4.1/remembers",
        "the rows are remembered by the number of sentences",
        'return tokenizer(batch["sentence"], truncation=True, max_length=max_length)',
        'kept = tokenize.__dict__.setdefault("kept", {})\n    key = len(batch["sentence"]), max_length\n'
        "    if key not in kept:\n"
        '        kept[key] = tokenizer(batch["sentence"], truncation=True, max_length=max_length)\n'
        "    return kept[key]",
        "kept from call to call",
    ),
    Mutant(
        "4.1/two-classes",
        "each label above 0 becomes 1",
        'torch.tensor([example["label"] for example in examples])',
        'torch.tensor([int(bool(example["label"])) for example in examples])',
        "one label an example",
    ),
    Mutant(
        "4.1/mask-from-ids",
        "the mask is 0 wherever the padding token is",
        "return {key: torch.tensor(row) for key, row in rows.items()} |",
        'ids = torch.tensor(rows["input_ids"])\n'
        '    return {"input_ids": ids, "attention_mask": (ids != tokenizer.pad_token_id).long()} |',
        "a sentence may hold the padding token",
    ),
    Mutant(
        "4.1/tokenizers-side",
        "padding goes to the side that the tokenizer has set",
        "return {key: torch.tensor(row) for key, row in rows.items()} |",
        'features = [{key: example[key] for key in ("input_ids", "attention_mask")} for example in examples]\n'
        '    return dict(tokenizer.pad(features, return_tensors="pt")) |',
        "the side that the tokenizer has set",
    ),
    Mutant(
        "4.1/pads-to-512",
        "every sentence is padded to the model's 512 tokens",
        _TOKENIZE,
        'truncation=True, max_length=512, padding="max_length")',
        "padding belongs to collate",
        "S0",
    ),
    Mutant(
        "4.1/pads-the-mapped-batch",
        "padding=True pads to the longest of the thousand sentences that map passes",
        _TOKENIZE,
        "truncation=True, max_length=max_length, padding=True)",
        "padding belongs to collate",
    ),
    Mutant("4.1/no-truncation", "long sentences stay long", _TOKENIZE, ")", "truncation=True is missing"),
    Mutant(
        "4.1/fixed-max-length",
        "max_length is written down instead of passed on",
        _TOKENIZE,
        "truncation=True, max_length=128)",
        "max_length does not reach the tokenizer",
    ),
    Mutant(
        "4.1/tokenizes-one",
        "only the first sentence of the batch",
        'tokenizer(batch["sentence"],',
        'tokenizer(batch["sentence"][:1],',
        "one row for each sentence",
    ),
    Mutant(
        "4.1/fixed-width",
        "collate pads each batch to 128",
        'max(len(example["input_ids"]) for example in examples)',
        "128",
        "not to the longest example of this batch",
        "S0",
    ),
    Mutant(
        "4.1/pads-with-0",
        "padding is token 0, as it is in BERT and not in RoBERTa",
        "tokenizer.pad_token_id)",
        "0)",
        "padded with 0, but this tokenizer's pad_token_id is",
    ),
    Mutant(
        "4.1/mask-over-padding",
        "the attention mask is 1 on padding",
        '("attention_mask", 0)',
        '("attention_mask", 1)',
        "the mask is 1 on padding too",
    ),
    Mutant(
        "4.1/pads-left",
        "padding goes to the left",
        "example[key] + [filler] * (longest - len(example[key]))",
        "[filler] * (longest - len(example[key])) + example[key]",
        "padded on the left",
    ),
    Mutant(
        "4.1/pops-the-label",
        "the label is taken out of the caller's examples",
        'example["label"] for',
        'example.pop("label") for',
        "changed its argument examples",
    ),
    Mutant(
        "4.1/pads-in-place",
        "the caller's rows grow to the batch's longest",
        "example[key] + [filler] * (longest - len(example[key]))",
        "(example[key].extend([filler] * (longest - len(example[key]))), example[key])[1]",
        "changed its argument examples",
    ),
    Mutant(
        "4.1/label-for-labels",
        "the batch calls them label",
        '{"labels": labels}',
        '{"label": labels}',
        "the model's argument is labels",
    ),
    Mutant(
        "4.1/float-labels",
        "labels as floats",
        'torch.tensor([example["label"] for example in examples])',
        'torch.tensor([float(example["label"]) for example in examples])',
        "class numbers as int64",
    ),
    Mutant(
        "4.1/lower-case",
        "the text is changed before it is tokenized",
        'tokenizer(batch["sentence"],',
        'tokenizer([sentence.lower() for sentence in batch["sentence"]],',
        "gets each sentence as it is",
    ),
    Mutant(
        "4.1/cuts-words",
        "words are counted for tokens",
        f'tokenizer(batch["sentence"], {_TOKENIZE}',
        'tokenizer([" ".join(sentence.split()[: max_length - 2]) for sentence in batch["sentence"]])',
        "tokens, expected",
    ),
    Mutant(
        "4.1/words-for-tokens",
        "each word is looked up in the vocabulary",
        f'return tokenizer(batch["sentence"], {_TOKENIZE}',
        "rows = [[tokenizer.bos_token_id, *tokenizer.convert_tokens_to_ids(s.split()[: max_length - 2]),\n"
        '             tokenizer.eos_token_id] for s in batch["sentence"]]\n'
        '    return {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}',
        "nothing else is cut off",
    ),
    Mutant(
        "4.1/bool-mask",
        "the mask as truth values",
        "torch.tensor(row) for key, row in rows.items()}",
        'torch.tensor(row, dtype=torch.bool if key == "attention_mask" else None) for key, row in rows.items()}',
        "for the mask as well",
    ),
    Mutant(
        "4.1/int32",
        "integers of 32 bits",
        "torch.tensor(row) for key, row in rows.items()}",
        "torch.tensor(row, dtype=torch.int32) for key, row in rows.items()}",
        "the contract is int64",
    ),
    Mutant(
        "4.1/squeezes",
        "a batch of one example loses its axis",
        "torch.tensor(row) for key, row in rows.items()}",
        "torch.tensor(row).squeeze() for key, row in rows.items()}",
        "has the axis of the batch, too",
    ),
    Mutant(
        "4.1/once-each",
        "a sentence that is there twice counts once",
        'tokenizer(batch["sentence"], truncation',
        'tokenizer(list(dict.fromkeys(batch["sentence"])), truncation',
        "be it empty or there twice",
    ),
    Mutant(
        "4.1/no-empty",
        "an empty sentence is left out",
        'tokenizer(batch["sentence"], truncation',
        'tokenizer([s for s in batch["sentence"] if s], truncation',
        "be it empty or there twice",
    ),
    Mutant(
        "4.1/kept-by-text",
        "rows are kept by their sentences, whatever max_length is",
        'return tokenizer(batch["sentence"], truncation=True, max_length=max_length)',
        'kept = tokenize.__dict__.setdefault(tuple(batch["sentence"]), [])\n'
        "    if not kept:\n"
        '        kept.append(tokenizer(batch["sentence"], truncation=True, max_length=max_length))\n'
        "    return kept[0]",
        "gets the rows of the first",
    ),
]
