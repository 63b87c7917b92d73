"""The sentences: their shape, their splits, and batches."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from lora_ref import assets, data, images, models
from lora_ref.profiles import HUB_DATA, LAPTOP, T4, TINY


def _sentences(dataset) -> set[str]:
    return {data._key(sentence) for sentence in dataset["sentence"]}


def _check_shape(splits, profile):
    assert list(splits) == ["train", "validation", "test"]
    sizes = (profile.train_size, profile.validation_size, profile.test_size)
    assert tuple(len(splits[s]) for s in splits) == sizes
    for split in splits.values():
        assert split.column_names == ["sentence", "label"]
        assert split.features["label"].names == ["negative", "positive"]
        assert 0.4 < sum(split["label"]) / len(split) < 0.6
        assert len(_sentences(split)) == len(split)
    assert not _sentences(splits["train"]) & _sentences(splits["test"])
    assert not _sentences(splits["train"]) & _sentences(splits["validation"])
    assert not _sentences(splits["validation"]) & _sentences(splits["test"])


def test_tiny_reviews_have_sst2s_shape_and_are_the_same_each_time():
    first, again, other = (data.reviews(TINY, seed=seed) for seed in (0, 0, 1))
    _check_shape(first, TINY)
    assert first["train"].to_dict() == again["train"].to_dict()
    assert first["train"].to_dict() != other["train"].to_dict()
    assert not _sentences(first["test"]) & _sentences(other["train"])


def test_a_profile_that_asks_for_more_than_there_is():
    with pytest.raises(ValueError, match=r"the train split has 2,\d+ sentences, 99,999 were asked for"):
        data.reviews(dataclasses.replace(TINY, train_size=99_999))


@pytest.mark.laptop
def test_the_laptop_reviews(laptop_assets):
    rated = data.rated_sentences(laptop_assets["reviews"] / "movieReviewSnippets_GroundTruth.txt")
    assert len(rated) == 10_072
    assert round(sum(label for _, label in rated) / len(rated), 3) == 0.496
    assert max(len(sentence.split()) for sentence, _ in rated) == 51
    text = "\n".join(sentence for sentence, _ in rated)
    assert "Almodóvar" in text  # UTF-8, read as such
    assert not any(sign in text for sign in ("Ã", "�", "&amp;", "''", "  "))
    splits = data.reviews(LAPTOP)
    _check_shape(splits, LAPTOP)
    assert {len(_sentences(splits["test"]) & _sentences(data.reviews(LAPTOP, seed=1)["train"]))} == {0}


def test_cleaning_changes_no_words():
    assert data.clean("Fun    and  ''Conan'' &amp; co., clich\u00e9s ") == 'Fun and "Conan" & co., clich\u00e9s'


def test_a_line_that_is_not_a_rating_is_named(tmp_path):
    path = tmp_path / "ratings.txt"
    path.write_text("1\t2.0\tfine\n2\tno rating here\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"ratings\.txt, line 2"):
        data.rated_sentences(path)


def test_equal_sentences_go_to_the_same_split_whatever_their_spelling():
    words = [f"word{n} other{n}" for n in range(300)]
    examples = [(variant, 1) for w in words for variant in (w, w.upper() + " !", w.replace(" ", ", "))]
    splits = data._split_by_hash(examples, {"train": 0.7, "validation": 0.15, "test": 0.15})
    assert sum(map(len, splits.values())) == len(examples)
    assert {len(group) % 3 for group in splits.values()} == {0}
    keys = [{data._key(s) for s, _ in group} for group in splits.values()]
    assert not keys[0] & keys[1] | keys[1] & keys[2] | keys[0] & keys[2]
    assert 0.6 < len(splits["train"]) / len(examples) < 0.8


def test_drawing_keeps_the_share_of_labels():
    examples = [(f"s{n}", int(n < 30)) for n in range(100)]
    drawn = data._draw(examples, 50, seed=0, split="train")
    assert sum(label for _, label in drawn) == 15
    assert drawn != sorted(drawn, key=lambda e: e[1])  # shuffled, not one label after the other
    assert sorted(data._draw(examples, 100, seed=0, split="train")) == sorted(examples)


@pytest.fixture
def glue(monkeypatch):
    """GLUE SST-2 at the boundary of `datasets`: whole sentences, phrases cut from them, an unlabelled test split."""
    import datasets

    generator = random.Random(0)
    vocabulary = [f"w{n}" for n in range(3_000)]
    whole = [" ".join(generator.choices(vocabulary, k=generator.randint(9, 25))) for _ in range(900)]
    phrases = [(s, n % 2) for n, s in enumerate(whole)]
    for n, sentence in enumerate(whole):
        words = sentence.split()
        phrases += [(" ".join(words[:7]), n % 2), (" ".join(words[2:4]), n % 2), (sentence + " ", n % 2)]
    asked = []

    def split(rows):
        return datasets.Dataset.from_dict(
            {
                "sentence": [s for s, _ in rows],
                "label": [label for _, label in rows],
                "idx": list(range(len(rows))),
            },
            features=datasets.Features(
                {
                    "sentence": datasets.Value("string"),
                    "label": datasets.ClassLabel(names=["negative", "positive"]),
                    "idx": datasets.Value("int32"),
                }
            ),
        )

    def load_dataset(*name, **_):
        asked.append(name)
        validation = [(f"v{n} is a sentence", n % 2) for n in range(60)]
        return datasets.DatasetDict(
            train=split(phrases), validation=split(validation), test=split([("no label", -1)] * 5)
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_sst2_from_the_hub(glue):
    profile = dataclasses.replace(T4, train_size=700, validation_size=60, test_size=50)
    splits = data.reviews(profile, seed=0)
    assert glue == [HUB_DATA]
    _check_shape(splits, profile)
    assert all(-1 not in splits[s]["label"] for s in splits)
    assert all(len(s.split()) >= 8 for s in splits["test"]["sentence"])
    held_out = {run for s in splits["test"]["sentence"] for run in data._runs(s)}
    for sentence in splits["train"]["sentence"]:
        assert held_out.isdisjoint(data._runs(sentence)), sentence
    other = data.reviews(profile, seed=1)
    assert other["train"]["sentence"] != splits["train"]["sentence"]
    assert other["test"].to_dict() == splits["test"].to_dict()


def test_sst2_that_cannot_be_had_says_what_else_there_is(monkeypatch):
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(RuntimeError, match=r"nyu-mll/glue/sst2: no route.*LORA_PROFILE=laptop"):
        data.reviews(T4)


def test_tokenize_truncates_and_does_not_pad():
    tokenizer = models.tiny_tokenizer()
    tokens = data.tokenize({"sentence": ["the film", "very " * 50]}, tokenizer, max_length=10)
    assert [len(ids) for ids in tokens["input_ids"]] == [4, 10]
    assert [len(mask) for mask in tokens["attention_mask"]] == [4, 10]


def test_tokenize_works_in_map():
    splits = data.reviews(TINY)["test"]
    mapped = splits.map(data.tokenize, batched=True, fn_kwargs={"tokenizer": models.tiny_tokenizer()})
    assert mapped.column_names == ["sentence", "label", "input_ids", "attention_mask"]


@pytest.mark.parametrize("key", ["label", "labels"])
@pytest.mark.parametrize("kind", [list, torch.tensor], ids=["lists", "tensors"])
def test_collate_pads_to_the_longest_of_the_batch(key, kind):
    tokenizer = models.tiny_tokenizer()
    examples = [
        {"input_ids": kind([0, 9, 2]), "attention_mask": kind([1, 1, 1]), key: 1, "sentence": "film"},
        {"input_ids": kind([0, 8, 7, 6, 2]), "attention_mask": kind([1, 1, 1, 1, 1]), key: 0, "idx": 4},
    ]
    batch = data.collate(examples, tokenizer)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    pad = tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[0, 9, 2, pad, pad], [0, 8, 7, 6, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [1, 0]
    assert {t.dtype for t in batch.values()} == {torch.int64}


def test_collate_needs_examples():
    with pytest.raises(ValueError, match="no examples"):
        data.collate([], models.tiny_tokenizer())


# --- pictures ---------------------------------------------------------------------------------------------


def _pictures(splits) -> list[bytes]:
    return [image.numpy().tobytes() for split in splits.values() for image in split.images]


def test_tiny_digits_are_drawn_on_the_spot():
    splits = data.mnist(TINY)
    assert list(splits) == ["train", "test"]
    for split, size in (("train", 800), ("test", 200)):
        images, labels = splits[split]
        assert images.shape == (size, 28, 28)
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1
        assert torch.bincount(labels).tolist() == [size // 10] * 10
    assert len(set(_pictures(splits))) == 1_000
    again, other = data.mnist(TINY), data.mnist(TINY, seed=1)
    assert torch.equal(again["train"].images, splits["train"].images)
    assert not torch.equal(other["train"].images, splits["train"].images)
    assert torch.equal(other["test"].images, splits["test"].images)
    assert set(_pictures(other)) == set(_pictures(splits))


def test_digits_are_drawn_in_equal_shares():
    splits = data.mnist(TINY, train_size=50, test_size=23)
    assert torch.bincount(splits["train"].labels).tolist() == [5] * 10
    assert sorted(torch.bincount(splits["test"].labels).tolist()) == [2] * 7 + [3] * 3
    uneven = torch.tensor([0] * 90 + [1] * 10)
    assert torch.bincount(uneven[images.draw_rows(uneven, 20, 0, "train")]).tolist() == [18, 2]
    with pytest.raises(ValueError, match="the test split has 200 images, 201 were asked for"):
        data.mnist(TINY, test_size=201)
    with pytest.raises(ValueError, match="the train split has 800 images, 0 were asked for"):
        data.mnist(TINY, train_size=0)


def test_pictures_can_be_taken_by_label_and_by_row():
    images = data.Images(torch.arange(6.0), torch.tensor([3, 1, 3, 2, 1, 3]))
    assert images.of(3).images.tolist() == [0, 2, 5]
    assert images.of(1, 2).images.tolist() == [1, 3, 4]
    assert images.take(torch.tensor([4, 0])).labels.tolist() == [1, 3]


@pytest.mark.laptop
def test_the_laptop_digits_are_mnists():
    splits = data.mnist()
    assert assets.cached("mnist", verify=True)
    assert splits["train"].images.shape == (4_000, 28, 28)
    assert torch.bincount(splits["train"].labels).tolist() == [400] * 10
    assert torch.bincount(splits["test"].labels).tolist() == [100] * 10
    assert len(set(_pictures(splits))) == 5_000
    every = torch.cat([split.images for split in splits.values()])
    assert (every.min(), every.max()) == (0, 1)
    assert every.mean().item() == pytest.approx(0.1307, abs=0.003)  # of all 60,000
    assert every.std().item() == pytest.approx(0.3081, abs=0.003)
    assert torch.equal(data.mnist(LAPTOP)["train"].images, splits["train"].images)


@pytest.fixture
def picture_hub(monkeypatch):
    """A hub with ten pictures of each of ten kinds, grey and in colour; pixel (0, 0) counts the pictures."""
    import datasets
    import numpy as np
    from PIL import Image

    asked = []

    def load_dataset(name):
        asked.append(name)
        column, shape = {"ylecun/mnist": ("image", (28, 28)), "uoft-cs/cifar10": ("img", (32, 32, 3))}[name]
        pictures = []
        for number in range(100):
            pixels = np.full(shape, 51, dtype=np.uint8)
            pixels[0, 0] = number
            if len(shape) == 3:
                pixels[0, 1] = (255, 0, 0)
            pictures.append(Image.fromarray(pixels))
        features = datasets.Features({column: datasets.Image(), "label": datasets.Value("int64")})
        rows = {column: pictures, "label": [number % 10 for number in range(100)]}
        split = datasets.Dataset.from_dict(rows, features=features)
        return datasets.DatasetDict(train=split, test=split)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def _numbers(images) -> list[int]:
    corner = images.images[:, 0, 0] if images.images.ndim == 3 else images.images[:, 0, 0, 0]
    return (corner * 255).round().long().tolist()


def test_mnist_from_the_hub(picture_hub):
    splits = data.mnist(T4, seed=1, test_size=30)
    assert picture_hub == ["ylecun/mnist"]
    assert splits["train"].images.shape == (100, 28, 28)
    assert splits["train"].images[0, 5, 5].item() == pytest.approx(0.2)
    assert sorted(_numbers(splits["train"])) == list(range(100))
    for split in splits.values():
        assert [number % 10 for number in _numbers(split)] == split.labels.tolist()
    assert torch.bincount(splits["test"].labels).tolist() == [3] * 10
    other = data.mnist(T4, seed=2, test_size=30)
    assert _numbers(other["train"]) != _numbers(splits["train"])
    assert _numbers(other["test"]) == _numbers(splits["test"])


def test_cifar10_from_the_hub(picture_hub):
    splits = data.cifar10(train_size=20, test_size=None)
    assert picture_hub == ["uoft-cs/cifar10"]
    assert splits["train"].images.shape == (20, 3, 32, 32)
    assert splits["train"].images[0, :, 0, 1].tolist() == [1, 0, 0]  # channels first
    assert torch.bincount(splits["train"].labels).tolist() == [2] * 10
    assert len(splits["test"].labels) == 100
    assert [number % 10 for number in _numbers(splits["train"])] == splits["train"].labels.tolist()
    with pytest.raises(ValueError, match="the train split has 100 images, 5,000 were asked for"):
        data.cifar10()


def test_pictures_that_cannot_be_had_say_what_else_there_is(monkeypatch):
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(RuntimeError, match=r"the hub does not give ylecun/mnist: no route.*without a profile"):
        data.mnist(T4)
    with pytest.raises(RuntimeError, match="the hub does not give uoft-cs/cifar10"):
        data.cifar10()
