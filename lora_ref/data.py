"""The sentences: film reviews for the laptop, SST-2 from the hub, made-up ones for checks. And tokenise and collate.

Whatever the profile, `reviews` returns SST-2's shape: splits ``train``, ``validation`` and ``test`` with the columns
``sentence`` and ``label`` (0 negative, 1 positive).

And the pictures of the vision labs: `mnist` and `cifar10` return `Images`, tensors and their labels, for ``train`` and
``test``.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import itertools
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lora_ref import assets
from lora_ref.profiles import HUB_DATA, Profile

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerBase

#: The vision labs' data on the hub: the repository, and the column that the pictures are in.
HUB_MNIST = ("ylecun/mnist", "image")
HUB_CIFAR10 = ("uoft-cs/cifar10", "img")

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
        ValueError: there is no such profile, or a split has fewer sentences than the profile asks for.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> splits = reviews(TINY)
        >>> {name: len(split) for name, split in splits.items()}
        {'train': 256, 'validation': 128, 'test': 128}
        >>> sorted(splits["train"][0])
        ['label', 'sentence']
    """
    if profile.name == "tiny":
        splits = _split_by_hash(tiny_sentences(), {"train": 0.5, "validation": 0.25, "test": 0.25})
    elif profile.name == "laptop":
        path = assets.fetch("reviews") / "movieReviewSnippets_GroundTruth.txt"
        splits = _split_by_hash(rated_sentences(path), {"train": 0.7, "validation": 0.15, "test": 0.15})
    elif profile.name == "t4":
        return _sst2(profile, seed)
    else:
        raise ValueError(f"no data for a profile {profile.name!r}; there are: 'tiny', 'laptop', 't4'")
    return _dataset_dict({split: _draw(splits[split], _size(profile, split), seed, split) for split in SPLITS})


def _size(profile: Profile, split: str) -> int:
    return {"train": profile.train_size, "validation": profile.validation_size, "test": profile.test_size}[split]


# --- laptop -----------------------------------------------------------------------------------------------


def rated_sentences(path: Path) -> list[Example]:
    r"""Sentences and labels from ``movieReviewSnippets_GroundTruth.txt``: a number, the mean rating, the sentence.

    The file is UTF-8. A rating above 0 is positive; below `LEAST_RATING` either way the sentence is left out: 10,072 of
    10,605 stay, 49.6 % of them positive.

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


def _sst2(profile: Profile, seed: int) -> DatasetDict:
    """SST-2 from the hub. Its own test split has no labels, so one is carved out of ``train``.

    Most of ``train`` are phrases cut from whole sentences, and phrases of one sentence overlap. A phrase that shares
    five words in a row with a test sentence therefore trains nothing.
    """
    from datasets import load_dataset

    try:
        source = load_dataset(*HUB_DATA)
    except (OSError, ValueError) as error:  # the network; a cache without this data in offline mode
        raise RuntimeError(
            f"the hub does not give {'/'.join(HUB_DATA)}: {error}. Check the network (and HF_ENDPOINT, "
            "HF_HUB_OFFLINE), or use LORA_PROFILE=laptop, which needs no hub."
        ) from error
    labelled = {
        split: list(zip((clean(s) for s in source[split]["sentence"]), source[split]["label"], strict=True))
        for split in ("train", "validation")
    }
    unique = list({_key(s): (s, label) for s, label in labelled["train"]}.values())
    split = _split_by_hash(unique, {"test": 0.1, "train": 0.9})
    whole = [e for e in split["test"] if len(_key(e[0]).split()) >= _TEST_WORDS]
    test = _draw(whole, profile.test_size, 0, "test")  # always the same: no seed trains on another one's test
    held_out = {run for sentence, _ in test for run in _runs(sentence)}
    train = [e for e in split["train"] if held_out.isdisjoint(_runs(e[0]))]
    return _dataset_dict(
        {
            "train": _draw(train, profile.train_size, seed, "train"),
            "validation": _draw(labelled["validation"], profile.validation_size, seed, "validation"),
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
    return sorted({word for sentence, _ in tiny_sentences() for word in sentence.split()})


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


# --- pictures ---------------------------------------------------------------------------------------------


class Images(NamedTuple):
    """Pictures and what they show.

    Attributes:
        images: float32 from 0 (black) to 1, of shape (n, 28, 28) for digits and (n, 3, 32, 32) for CIFAR-10.
        labels: int64 of shape (n,), from 0 to 9.

    Example:
        >>> digits = tiny_digits(each=3)
        >>> digits.images.shape, digits.of(4, 9).labels.tolist()
        (torch.Size([30, 28, 28]), [4, 4, 4, 9, 9, 9])
    """

    images: Tensor
    labels: Tensor

    def of(self, *labels: int) -> Images:
        """Only the pictures with one of these labels, in the order they have here."""
        keep = torch.isin(self.labels, torch.tensor(labels))
        return Images(self.images[keep], self.labels[keep])

    def take(self, rows: Tensor | slice) -> Images:
        """The pictures with these row numbers."""
        return Images(self.images[rows], self.labels[rows])


def mnist(
    profile: Profile | None = None, seed: int = 0, train_size: int | None = None, test_size: int | None = None
) -> dict[str, Images]:
    """Handwritten digits, in splits ``train`` and ``test``. Both hold the digits in the same shares.

    - laptop, and without a profile: 5,000 images of MNIST, 500 of each digit; 4,000 for training, every fifth for test.
    - ``t4``: all of MNIST from the hub, 60,000 and 10,000.
    - ``tiny``: 1,000 drawn on the spot, 800 and 200: digits of three by five blocks, moved and noisy.

    Which split an image belongs to does not depend on the seed, and nor do the test images that ``test_size`` draws.

    Args:
        profile: where the images come from.
        seed: draws which training images are taken, and their order.
        train_size, test_size: how many, by default all; drawn with the digits in the share that they have.

    Raises:
        AssetError: laptop, and the images are not cached and cannot be fetched.
        RuntimeError: ``t4``, and the hub does not give the data.
        ValueError: there is no such profile, or more images are asked for than there are.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> {name: tuple(split.images.shape) for name, split in mnist(TINY).items()}
        {'train': (800, 28, 28), 'test': (200, 28, 28)}
    """
    name = "laptop" if profile is None else profile.name
    if name == "t4":
        return _hub_images(*HUB_MNIST, seed, {"train": train_size, "test": test_size})
    if name == "laptop":
        every = _mnist_5k(assets.fetch("mnist") / "mnist_5k.csv.gz")
    elif name == "tiny":
        every = tiny_digits()
    else:
        raise ValueError(f"no digits for a profile {name!r}; there are: 'tiny', 'laptop', 't4'")
    held_out = torch.arange(len(every.labels)) % 5 == 4  # rows are sorted by digit, so each gives its fifth
    splits = {"train": every.take(~held_out), "test": every.take(held_out)}
    for split, size in (("train", train_size), ("test", test_size)):
        splits[split] = splits[split].take(_rows(splits[split].labels, size, seed, split))
    return splits


def cifar10(seed: int = 0, train_size: int | None = 5_000, test_size: int | None = 1_000) -> dict[str, Images]:
    """Small photographs of ten kinds of things (Krizhevsky, 2009), from the hub, in splits ``train`` and ``test``.

    Args:
        seed: draws which training images are taken, and their order; the test images are the same for each.
        train_size, test_size: how many; None is all of them, 50,000 and 10,000, which take 0.7 GB.

    Raises:
        RuntimeError: the hub does not give the data.
        ValueError: more images are asked for than there are.

    Example::

        cifar10(train_size=100, test_size=50)["train"].images.shape  # torch.Size([100, 3, 32, 32])
    """
    return _hub_images(*HUB_CIFAR10, seed, {"train": train_size, "test": test_size})


def _mnist_5k(path: Path) -> Images:
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    pixels = torch.from_numpy(table[:, :-1].astype(np.float32)) / 255
    return Images(pixels.reshape(-1, 28, 28), torch.from_numpy(table[:, -1].astype(np.int64)))


def _hub_images(name: str, column: str, seed: int, sizes: Mapping[str, int | None]) -> dict[str, Images]:
    from datasets import load_dataset

    try:
        source = load_dataset(name)
    except (OSError, ValueError) as error:  # the network; a cache without this data in offline mode
        raise RuntimeError(
            f"the hub does not give {name}: {error}. Check the network (and HF_ENDPOINT, HF_HUB_OFFLINE); "
            "data.mnist() without a profile needs no hub."
        ) from error
    splits = {}
    for split, size in sizes.items():
        labels = torch.tensor(list(source[split]["label"]))
        rows = _rows(labels, size, seed, split)
        # only the chosen pictures are decoded; a grey one has two dimensions, a colour one has its channels last
        pixels = np.stack([np.asarray(row[column]) for row in source[split].select(rows.tolist())])
        images = torch.from_numpy(pixels).float() / 255
        splits[split] = Images(images if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous(), labels[rows])
    return splits


def _rows(labels: Tensor, size: int | None, seed: int, split: str) -> Tensor:
    """Row numbers of ``size`` pictures, in random order, with the labels in the share they have in ``labels``.

    Test pictures do not depend on the seed.
    """
    size = len(labels) if size is None else size
    if not 0 < size <= len(labels):
        raise ValueError(f"the {split} split has {len(labels):,} images, {size:,} were asked for")
    generator = torch.Generator().manual_seed(seed if split == "train" else 0)
    order = torch.randperm(len(labels), generator=generator)
    place = torch.empty(len(labels), dtype=torch.float64)  # in its own label's queue, from 0 to 1
    for label in labels.unique():
        queue = order[labels[order] == label]
        place[queue] = (torch.arange(len(queue), dtype=torch.float64) + 0.5) / len(queue)
    first = place.argsort(stable=True)[:size]
    return first[torch.randperm(size, generator=generator)]


#: Each digit in five rows of three blocks.
_BLOCKS = (
    *("111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001"),
    *("111100111001111", "111100111101111", "111001010010010", "111101111101111", "111101111001111"),
)


def tiny_digits(each: int = 100, seed: int = 0) -> Images:
    """Made-up digits for checks, ``each`` of every kind, sorted by kind: blocks, moved by up to 2 pixels, and noise.

    Example:
        >>> digits = tiny_digits(each=2)
        >>> digits.images.shape, digits.labels.tolist()
        (torch.Size([20, 28, 28]), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9])
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(10).repeat_interleave(each)
    blocks = torch.tensor([[float(bit) for bit in digit] for digit in _BLOCKS]).reshape(10, 5, 3)
    shapes = blocks.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    images = torch.zeros(len(labels), 28, 28)
    corners = torch.randint(-2, 3, (len(labels), 2), generator=generator) + torch.tensor([4, 8])  # 20 by 12, centred
    for image, label, (top, left) in zip(images, labels, corners.tolist(), strict=True):
        image[top : top + 20, left : left + 12] = shapes[label]
    images *= 0.5 + 0.5 * torch.rand(len(labels), 1, 1, generator=generator)
    images += 0.1 * torch.randn(images.shape, generator=generator)
    return Images(images.clamp(0, 1), labels)
