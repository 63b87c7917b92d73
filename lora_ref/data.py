"""The sentences: film reviews for the laptop, SST-2 from the hub, made-up ones for checks. And tokenise and collate.

Whatever the profile, `reviews` returns SST-2's shape: splits ``train``, ``validation`` and ``test`` with the columns
``sentence`` and ``label`` (0 negative, 1 positive).

The pictures of the vision labs are in `lora_ref.images`, and their names here as well.
"""

from __future__ import annotations

import functools
import hashlib
import html
import itertools
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lora_ref.hub import HUB_DATA, from_hub
from lora_ref.images import HUB_CIFAR10, HUB_MNIST, Images, cifar10, mnist, tiny_digits  # noqa: F401 (see above)

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerBase

    from lora_ref.profiles import Profile

LABELS = ("negative", "positive")
SPLITS = ("train", "validation", "test")

#: A sentence whose mean rating (from -4 to 4) is nearer to 0 than this is left out: people did not agree on its side.
LEAST_RATING = 0.5

Example = tuple[str, int]


def reviews(profile: Profile, seed: int = 0) -> DatasetDict:
    """The profile's sentences, in the sizes it names, drawn and shuffled from ``seed``.

    Which split a sentence belongs to does not depend on the seed, so no seed trains on another one's test sentences.

    Raises:
        AssetError: ``laptop``, and its assets cannot be had.
        RuntimeError: ``t4``, and the hub does not give the data.
        ValueError: a split has fewer sentences than the profile asks for.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> splits = reviews(TINY)
        >>> {name: len(split) for name, split in splits.items()}
        {'train': 256, 'validation': 128, 'test': 128}
        >>> sorted(splits["train"][0])
        ['label', 'sentence']
    """
    return profile.sentences(seed)


# --- laptop -----------------------------------------------------------------------------------------------


def rated_sentences(path: Path) -> list[Example]:
    r"""Sentences and labels from ``movieReviewSnippets_GroundTruth.txt``: a number, the mean rating, the sentence.

    The file is UTF-8. A rating above 0 is positive; below `LEAST_RATING` either way the sentence is left out: 10,072 of
    10,605 stay, 49.6% of them positive.

    Raises:
        ValueError: a line is not of that form.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "ratings.txt"
        >>> _ = path.write_text("1\t2.3\ta warm , funny film\n2\t0.1\tit is a film\n3\t-1.9\ta mess\n")
        >>> rated_sentences(path)  # the second is left out: people did not agree
        [('a warm , funny film', 1), ('a mess', 0)]
    """
    examples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            _, rating, sentence = line.split("\t")
            score = float(rating)
        except ValueError:
            raise ValueError(f"{path.name}, line {number}: expected number, rating, sentence; got {line!r}") from None
        if abs(score) >= LEAST_RATING:
            examples.append((clean(sentence), int(score > 0)))
    return examples


def clean(sentence: str) -> str:
    """The same words without what the file's making left behind: ``&amp;``, doubled apostrophes, runs of spaces.

    Example:
        >>> clean("a  smart ,  sweet &amp; playful comedy")
        'a smart , sweet & playful comedy'
    """
    return " ".join(html.unescape(sentence).replace("''", '"').split())


# --- splits -----------------------------------------------------------------------------------------------


def _key(sentence: str) -> str:
    """The sentence's words alone: sentences that differ in case, spacing or punctuation are the same sentence."""
    return " ".join(re.findall(r"\w+", sentence.casefold()))


def _place(sentence: str) -> float:
    """A number in [0, 1) that depends on the words alone, evenly spread."""
    return int.from_bytes(hashlib.sha256(_key(sentence).encode()).digest()[:8], "big") / 2**64


def _split_by_hash(examples: Iterable[Example], shares: Mapping[str, float]) -> dict[str, list[Example]]:
    """Each sentence's hash decides its split, so equal sentences are never on both sides of one."""
    splits: dict[str, list[Example]] = {split: [] for split in shares}
    bounds = list(itertools.accumulate(shares.values()))
    for sentence, label in examples:
        place = _place(sentence)
        splits[next(split for split, bound in zip(shares, bounds, strict=True) if place < bound)].append(
            (sentence, label)
        )
    return splits


def _draw(examples: Sequence[Example], size: int, seed: int, split: str) -> list[Example]:
    """``size`` sentences, shuffled, with the labels in the share they have in ``examples`` (stratified).

    Raises:
        ValueError: there are fewer.
    """
    if size > len(examples):
        raise ValueError(f"the {split} split has {len(examples):,} sentences, {size:,} were asked for")
    generator = random.Random(f"{seed} {split}")
    by_label = [[e for e in examples if e[1] == label] for label in range(len(LABELS))]
    positive = min(len(by_label[1]), max(size - len(by_label[0]), round(size * len(by_label[1]) / len(examples))))
    chosen = generator.sample(by_label[0], size - positive) + generator.sample(by_label[1], positive)
    generator.shuffle(chosen)
    return chosen


def split_and_draw(
    examples: Iterable[Example], shares: Mapping[str, float], sizes: Mapping[str, int], seed: int
) -> DatasetDict:
    """Sentences in splits of these sizes: each sentence's hash decides its split, the seed what is drawn from there.

    Raises:
        ValueError: a split has fewer sentences than its size.

    Example:
        >>> sizes = {"train": 6, "test": 2}
        >>> split_and_draw(tiny_sentences(), {"train": 0.5, "test": 0.5}, sizes, seed=0)["test"]["label"][:]
        [0, 1]
    """
    splits = _split_by_hash(examples, shares)
    return _dataset_dict({split: _draw(splits[split], size, seed, split) for split, size in sizes.items()})


def _dataset_dict(splits: Mapping[str, Sequence[Example]]) -> DatasetDict:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"sentence": Value("string"), "label": ClassLabel(names=list(LABELS))})
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {"sentence": [s for s, _ in examples], "label": [label for _, label in examples]}, features=features
            )
            for split, examples in splits.items()
        }
    )


# --- t4 ---------------------------------------------------------------------------------------------------

_TEST_WORDS = 8  # SST-2's validation sentences are whole ones; so are these, or nearly
_SHARED_RUN = 5  # words


def sst2(sizes: Mapping[str, int], seed: int) -> DatasetDict:
    """SST-2 from the hub, in splits of these sizes.

    Its own test split has no labels, so one is carved out of ``train``. Most of ``train`` are phrases cut from whole
    sentences, and phrases of one sentence overlap. So a phrase that shares five words in a row with a test sentence
    trains nothing.

    Raises:
        RuntimeError: the hub does not give the data.
        ValueError: a split has fewer sentences than its size.

    Example::

        len(sst2({"train": 100, "validation": 20, "test": 20}, seed=0)["train"])  # 100
    """
    from datasets import load_dataset

    with from_hub("/".join(HUB_DATA)):
        source = load_dataset(*HUB_DATA)
    labelled = {
        split: list(zip((clean(s) for s in source[split]["sentence"]), source[split]["label"], strict=True))
        for split in ("train", "validation")
    }
    unique = list({_key(s): (s, label) for s, label in labelled["train"]}.values())
    split = _split_by_hash(unique, {"test": 0.1, "train": 0.9})
    whole = [e for e in split["test"] if len(_key(e[0]).split()) >= _TEST_WORDS]
    test = _draw(whole, sizes["test"], 0, "test")  # always the same: no seed trains on another one's test
    held_out = {run for sentence, _ in test for run in _runs(sentence)}
    train = [e for e in split["train"] if held_out.isdisjoint(_runs(e[0]))]
    return _dataset_dict(
        {
            "train": _draw(train, sizes["train"], seed, "train"),
            "validation": _draw(labelled["validation"], sizes["validation"], seed, "validation"),
            "test": test,
        }
    )


def _runs(sentence: str) -> set[tuple[str, ...]]:
    words = _key(sentence).split()
    return {tuple(words[i : i + _SHARED_RUN]) for i in range(len(words) - _SHARED_RUN + 1)}


# --- tiny -------------------------------------------------------------------------------------------------

_SUBJECTS = ("film", "story", "cast", "plot", "script", "ending", "music", "scene")
_ADVERBS = ("very", "really", "quite", "often", "almost", "always")
_ADJECTIVES = (
    ("dull", "awful", "boring", "weak", "clumsy", "empty", "sad", "cold"),
    ("great", "lovely", "funny", "fresh", "clever", "warm", "moving", "bright"),
)
_VERBS = (("hated", "regret", "dislike"), ("loved", "enjoyed", "admire"))
_PATTERNS = (
    "the {subject} is {adverb} {adjective} .",
    "a {adverb} {adjective} {subject} .",
    "i {verb} this {adjective} {subject} .",
    "the {subject} was {adjective} , and i {verb} it .",
    "we {verb} the {subject} ; it is {adverb} {adjective} .",
)


def tiny_sentences() -> list[Example]:
    """All made-up reviews, each once, half of them positive: the words that judge all agree.

    Example:
        >>> sentences = tiny_sentences()
        >>> len(sentences), sum(label for _, label in sentences)
        (4608, 2304)
        >>> sentences[0]
        ('the film is very dull .', 0)
    """
    examples = {}
    for label, pattern in itertools.product(range(len(LABELS)), _PATTERNS):
        for subject, adverb, adjective, verb in itertools.product(
            _SUBJECTS, _ADVERBS, _ADJECTIVES[label], _VERBS[label]
        ):
            sentence = pattern.format(subject=subject, adverb=adverb, adjective=adjective, verb=verb)
            examples[sentence] = label
    return list(examples.items())


def tiny_words() -> list[str]:
    """Every word and mark in `tiny_sentences`, in alphabetical order.

    Example:
        >>> len(tiny_words()), "film" in tiny_words()
        (48, True)
    """
    return list(_tiny_words())


@functools.cache
def _tiny_words() -> tuple[str, ...]:
    return tuple(sorted({word for sentence, _ in tiny_sentences() for word in sentence.split()}))


# --- tokenise and collate ---------------------------------------------------------------------------------


def tokenize(batch: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Any:
    """``input_ids`` and ``attention_mask`` of a batch's sentences, truncated to ``max_length`` tokens, not padded.

    Written for ``dataset.map(tokenize, batched=True, fn_kwargs={"tokenizer": tokenizer})``. `collate` pads later, and
    then only to the longest of one batch: these texts have about 24 tokens, and padding all to 512 costs 50 times the
    time.

    Example:
        >>> from lora_ref.models import tiny_tokenizer
        >>> batch = {"sentence": ["a warm film", "a cold , slow film"]}
        >>> tokenize(batch, tiny_tokenizer())["attention_mask"]
        [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
        >>> tokenize(batch, tiny_tokenizer(), max_length=3)["attention_mask"]
        [[1, 1, 1], [1, 1, 1]]
    """
    return tokenizer(batch["sentence"], truncation=True, max_length=max_length, padding=False)


def collate(examples: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """One batch, padded to its longest example.

    Args:
        examples: each with ``input_ids`` and ``attention_mask`` of its own length, and ``label`` (or ``labels``); what
            else they hold is left out.
        tokenizer: gives the padding token.

    Returns:
        ``input_ids`` and ``attention_mask`` of shape (batch, longest) and ``labels`` of shape (batch,), all int64.

    Raises:
        ValueError: there are no examples.

    Example:
        >>> from lora_ref.models import tiny_tokenizer
        >>> examples = [
        ...     {"input_ids": [0, 7, 2], "attention_mask": [1, 1, 1], "label": 1},
        ...     {"input_ids": [0, 7, 8, 9, 2], "attention_mask": [1, 1, 1, 1, 1], "label": 0},
        ... ]
        >>> batch = collate(examples, tiny_tokenizer())
        >>> batch["attention_mask"]
        tensor([[1, 1, 1, 0, 0],
                [1, 1, 1, 1, 1]])
        >>> batch["labels"]
        tensor([1, 0])
    """
    if not examples:
        raise ValueError("no examples to collate")
    longest = max(len(example["input_ids"]) for example in examples)
    input_ids = torch.full((len(examples), longest), tokenizer.pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        input_ids[row, :length] = torch.as_tensor(example["input_ids"])
        attention_mask[row, :length] = torch.as_tensor(example["attention_mask"])
    labels = torch.tensor([int(e["label"] if "label" in e else e["labels"]) for e in examples])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
