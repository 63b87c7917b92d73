"""A vision transformer adapted by LoRA: a small one on turned digits, ViT-base on photographs (stage 03's lab)."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_ref import data as data_module
from lora_ref.images import Images, draw_rows
from lora_ref.inject import freeze, inject_lora, lora_disabled, trainable_report
from lora_ref.models import from_hub_with_new_head, seeded
from lora_ref.names import shortest_targets
from lora_ref.vision.classifier import Prepare, accuracy, positive, train_classifier

if TYPE_CHECKING:
    from transformers import ViTForImageClassification

#: The full profile's model on the hub: ViT-base of 85.8 M parameters, pretrained on ImageNet-21k.
HUB_VIT = "google/vit-base-patch16-224-in21k"


def small_vit(num_labels: int = 10, seed: int = 0) -> ViTForImageClassification:
    """A vision transformer for 28 by 28 pixels in one channel: 4 layers, width 96, 16 patches of 7 by 7 pixels.

    306,826 parameters, drawn from ``seed``; images go in as (batch, 1, 28, 28).

    Example:
        >>> small_vit()(torch.zeros(2, 1, 28, 28)).logits.shape
        torch.Size([2, 10])
    """
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=28,
        patch_size=7,
        num_channels=1,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        num_labels=num_labels,
    )
    with seeded(seed):
        return ViTForImageClassification(config).eval()


_PARTS = {
    "query": r"(attention\.query|q_proj)",
    "key": r"(attention\.key|k_proj)",
    "value": r"(attention\.value|v_proj)",
    "attention output": r"(attention\.output\.dense|o_proj)",
    "mlp": r"(intermediate\.dense|(?<!attention\.)output\.dense|fc1|fc2)",
}
_ATTENTION = ("query", "key", "value", "attention output")
_GROUPS = {
    **{part: (part,) for part in _PARTS},
    "query-value": ("query", "value"),
    "attention": _ATTENTION,
    "all": (*_ATTENTION, "mlp"),
}


def vit_targets(model: nn.Module, which: str = "query-value") -> list[str]:
    """Target names for `lora_ref.inject.inject_lora` that mean these layers of this vision transformer.

    transformers 4 calls the query ``attention.attention.query`` and 5 ``attention.q_proj``; in 4, ``output.dense`` is
    the name of two layers. So the names are read off the model, each the shortest end of a dotted name that no other
    linear layer has.

    Args:
        model: a ``ViTForImageClassification``, or another model whose linear layers have such names.
        which: ``"query"``, ``"key"``, ``"value"``, ``"attention output"``, ``"mlp"``, ``"query-value"``,
            ``"attention"`` (the first four) or ``"all"`` (all of the encoder's, not the head).

    Raises:
        ValueError: there is no such group, or the model lacks one of its layers.

    Example:
        >>> len(vit_targets(small_vit(), "query-value"))
        2
    """
    if which not in _GROUPS:
        raise ValueError(f"no group of layers {which!r}; there are: {', '.join(map(repr, _GROUPS))}")
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    wanted = []
    for part in _GROUPS[which]:
        names = [name for name in linears if re.search(rf"(^|\.){_PARTS[part]}$", name)]
        if not names:
            raise ValueError(f"{type(model).__name__} has no linear layer that a vision transformer calls its {part}")
        wanted += names
    others = [name for name in linears if name not in wanted]
    return shortest_targets(wanted, others) or wanted


@dataclass(frozen=True)
class VitMethod:
    """One way to adapt a vision transformer.

    Attributes:
        name: in words.
        kind: ``"head"``, ``"lora"`` or ``"full"``: what colours a figure.
        learning_rate: AdamW's peak.
        layers: LoRA's, as `vit_targets` takes them.
        rank, alpha: LoRA's.
        train_head: for LoRA; the head is trained by the other two in any case.

    Example:
        >>> [method.name for method in SMALL_METHODS][:2]
        ['head only', 'LoRA query-value r=4']
    """

    name: str
    kind: str
    learning_rate: float
    layers: str | None = None
    rank: int | None = None
    alpha: float | None = None
    train_head: bool = True


#: The laptop's lab: from the head alone to everything. Each learning rate is the best of three or four that were tried.
SMALL_METHODS = (
    VitMethod("head only", "head", 3e-2),
    VitMethod("LoRA query-value r=4", "lora", 1e-2, "query-value", 4, 8, train_head=False),
    VitMethod("LoRA query-value r=4 + head", "lora", 1e-2, "query-value", 4, 8),
    VitMethod("LoRA all r=4", "lora", 1e-2, "all", 4, 8, train_head=False),
    VitMethod("LoRA all r=8 + head", "lora", 5e-3, "all", 8, 16),
    VitMethod("full fine-tuning", "full", 4e-3),
)
#: The full profile's: a new head has to be trained whatever else is.
FULL_METHODS = (
    VitMethod("head only", "head", 1e-3),
    VitMethod("LoRA query-value r=4 + head", "lora", 1e-3, "query-value", 4, 8),
    VitMethod("full fine-tuning", "full", 3e-5),
)


@dataclass(frozen=True)
class VitResult:
    """What one method made of a vision transformer.

    Attributes:
        method, seed: what was run.
        trainable, total: parameters.
        before: accuracy of the base model on the new task; None where its head was new.
        adapted: accuracy on the new task, from 0 to 1.
        original_before: accuracy of the base model on the original task; None where there is none.
        original: the same with the adapter switched off, or, where there is no adapter, of the adapted model.
        n: test images of the new task.
        losses: at each step, in nats.
        seconds: of training.
        model: adapted, in evaluation mode, on the CPU.

    Example:
        >>> from lora_ref.data import mnist
        >>> from lora_ref.profiles import TINY
        >>> data = mnist(TINY, train_size=40, test_size=20)
        >>> options = {"epochs": 1, "adapt_epochs": 1, "adapt_images": 20, "progress": False}
        >>> result = rotated_digits(SMALL_METHODS[:1], data=data, **options)[0]
        >>> result.n, f"{result.trainable:,} of {result.total:,}"
        (20, '970 of 306,826')
    """

    method: VitMethod
    seed: int
    trainable: int
    total: int
    before: float | None
    adapted: float
    original_before: float | None
    original: float | None
    n: int
    losses: tuple[float, ...] = field(repr=False)
    seconds: float = field(compare=False)
    model: nn.Module = field(repr=False, compare=False)

    def row(self) -> dict[str, Any]:
        """One row of a table of methods."""
        return {
            "method": self.method.name,
            "trainable": self.trainable,
            "trainable %": 100 * self.trainable / self.total,
            "new task": self.adapted,
            "original task, adapter off": self.original,
            "seconds": self.seconds,
        }


def quarter_turn(images: Images) -> Images:
    """The same pictures, turned by 90 degrees, counter-clockwise.

    Example:
        >>> from lora_ref.data import Images
        >>> picture = Images(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([7]))
        >>> quarter_turn(picture).images
        tensor([[[2., 4.],
                 [1., 3.]]])
    """
    return Images(torch.rot90(images.images, dims=(-2, -1)), images.labels)


def one_channel(images: Tensor) -> Tensor:
    """(batch, 28, 28) as (batch, 1, 28, 28), with the mean and standard deviation of MNIST's pixels taken out.

    Example:
        >>> one_channel(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 1, 28, 28])
    """
    return (images.unsqueeze(1) - 0.1307) / 0.3081


def base_vit(
    data: Mapping[str, Images], *, epochs: int = 40, seed: int = 0, progress: bool = True
) -> ViTForImageClassification:
    """`small_vit`, trained on all training digits, upright; 40 epochs of 4,000 take one to two minutes on two cores.

    Example:
        >>> from lora_ref.data import mnist
        >>> from lora_ref.profiles import TINY
        >>> model = base_vit(mnist(TINY, train_size=40, test_size=20), epochs=1, progress=False)
        >>> f"{sum(p.numel() for p in model.parameters()):,}"
        '306,826'
    """
    model = small_vit(seed=seed)
    train_classifier(
        model,
        data["train"],
        epochs=epochs,
        batch_size=64,
        learning_rate=2e-3,
        weight_decay=0.05,
        warmup_fraction=0.1,
        prepare=one_channel,
        seed=seed,
        name="a vision transformer from scratch",
        progress=progress,
    )
    return model


def rotated_digits(
    methods: Sequence[VitMethod] = SMALL_METHODS,
    *,
    data: Mapping[str, Images] | None = None,
    base: nn.Module | None = None,
    epochs: int = 40,
    adapt_epochs: int = 20,
    adapt_images: int = 1_000,
    seed: int = 0,
    progress: bool = True,
) -> list[VitResult]:
    """Train a small vision transformer on digits, then adapt it to digits that lie on their side, in several ways.

    Afterwards each is tried on upright digits again, without its adapter: where the head was not trained, that is the
    base model; full fine-tuning has no adapter to take off.

    Args:
        methods: each starts from a copy of the base model.
        data: splits ``train`` and ``test``, by default `lora_ref.data.mnist`'s.
        base: from `base_vit`; it is not changed. By default one is trained here, for ``epochs``.
        epochs: for the base model.
        adapt_epochs, adapt_images: for each method.
        seed: draws weights, images and their order.
        progress: as in `train_classifier`.

    Returns:
        One result a method, in their order.

    Raises:
        AssetError: without ``data``, and MNIST cannot be had.
        ValueError: an argument is out of range.

    Example:
        >>> from lora_ref.data import mnist
        >>> from lora_ref.profiles import TINY
        >>> data = mnist(TINY, train_size=40, test_size=20)
        >>> options = {"epochs": 1, "adapt_epochs": 1, "adapt_images": 20, "progress": False}
        >>> results = rotated_digits(SMALL_METHODS[:2], data=data, **options)
        >>> [result.method.kind for result in results]
        ['head', 'lora']
    """
    positive(epochs=epochs, adapt_epochs=adapt_epochs, adapt_images=adapt_images)
    data = data_module.mnist() if data is None else data
    rows = draw_rows(data["train"].labels, adapt_images, seed, "train")
    turned = {"train": quarter_turn(data["train"].take(rows)), "test": quarter_turn(data["test"])}
    if base is None:
        base = base_vit(data, epochs=epochs, seed=seed, progress=progress)
    before = {"new": accuracy(base, turned["test"], prepare=one_channel)}
    before["original"] = accuracy(base, data["test"], prepare=one_channel)
    results = []
    for method in methods:
        model = copy.deepcopy(base)
        fields = adapt(model, method, turned, prepare=one_channel, epochs=adapt_epochs, seed=seed, progress=progress)
        with lora_disabled(model):
            original = accuracy(model, data["test"], prepare=one_channel)
        results.append(VitResult(**fields, before=before["new"], original_before=before["original"], original=original))
    return results


def adapt(
    model: nn.Module,
    method: VitMethod,
    data: Mapping[str, Images],
    *,
    prepare: Prepare,
    epochs: int,
    batch_size: int = 32,
    fp16: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Adapt ``model``, in place, by one method; returns the fields of `VitResult` that are known then.

    Raises:
        ValueError: the method's kind is unknown, or its layers are not there.

    Example:
        >>> from lora_ref.data import mnist
        >>> from lora_ref.profiles import TINY
        >>> data = mnist(TINY, train_size=40, test_size=20)
        >>> fields = adapt(small_vit(), SMALL_METHODS[0], data, prepare=one_channel, epochs=1, progress=False)
        >>> sorted(fields)[:3]
        ['adapted', 'losses', 'method']
    """
    if method.kind == "full":
        model.requires_grad_(True)
    elif method.kind == "head":
        freeze(model).classifier.requires_grad_(True)
    elif method.kind == "lora" and method.layers and method.rank and method.alpha:
        with seeded(seed):
            inject_lora(
                model,
                vit_targets(model, method.layers),
                rank=method.rank,
                alpha=method.alpha,
                train_head=method.train_head,
            )
    else:
        raise ValueError(f"method.kind {method.kind!r} is none of 'head', 'lora', 'full'")
    start = time.perf_counter()
    losses = train_classifier(
        model,
        data["train"],
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=method.learning_rate,
        weight_decay=0.01,
        warmup_fraction=0.1,
        prepare=prepare,
        fp16=fp16,
        seed=seed,
        name=method.name,
        progress=progress,
    )
    seconds = time.perf_counter() - start
    report = trainable_report(model)
    return {
        "method": method,
        "seed": seed,
        "trainable": report["trainable"],
        "total": report["total"],
        "adapted": accuracy(model, data["test"], prepare=prepare, batch_size=100, fp16=fp16),
        "n": len(data["test"].labels),
        "losses": tuple(losses),
        "seconds": seconds,
        "model": model,
    }


# --- the full profile: ViT-base and CIFAR-10 --------------------------------------------------------------


def vit_base(num_labels: int = 10, seed: int = 0) -> ViTForImageClassification:
    """ViT-base with 16 by 16 patches (Dosovitskiy et al., 2021) from the hub, with a new head drawn from ``seed``.

    Raises:
        RuntimeError: the hub does not give it, or gives weights that do not fit.

    Example::

        sum(p.numel() for p in vit_base().parameters())  # 85806346
    """
    from transformers import ViTForImageClassification

    return from_hub_with_new_head(ViTForImageClassification, HUB_VIT, num_labels, seed)


def vit_pixels(images: Tensor, size: int = 224) -> Tensor:
    """Images as ViT-base was trained on them: ``size`` by ``size`` pixels by bilinear interpolation, from -1 to 1.

    The hub's ``preprocessor_config.json`` asks for that size and for mean and standard deviation 0.5 in each channel.
    Resized with torch, on whatever device they are; transformers' own image processor may want torchvision.

    Args:
        images: (batch, 3, height, width), from 0 to 1.
        size: pixels on a side.

    Returns:
        (batch, 3, size, size).

    Example:
        >>> vit_pixels(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3, 224, 224])
    """
    resized = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (resized - 0.5) / 0.5


def photographs(
    methods: Sequence[VitMethod] = FULL_METHODS,
    *,
    data: Mapping[str, Images] | None = None,
    make_model: Callable[[], nn.Module] | None = None,
    epochs: int = 2,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> list[VitResult]:
    """Adapt ViT-base to CIFAR-10 in several ways, on the GPU in half precision where there is one.

    Args:
        methods: each starts from the pretrained model with the same new head.
        data: splits ``train`` and ``test``, by default `lora_ref.data.cifar10`'s 5,000 and 1,000.
        make_model: called for each method, by default `vit_base`.
        epochs, batch_size: for each method.
        seed: draws the head, LoRA's A, the images and their order.
        progress: as in `train_classifier`.

    Returns:
        One result a method, in their order, with None for what a new head does not have.

    Raises:
        RuntimeError: the hub does not give the model or the data.
        ValueError: an argument is out of range.

    Example::

        len(photographs()) == len(FULL_METHODS)  # True
    """
    positive(epochs=epochs, batch_size=batch_size)
    data = data_module.cifar10(seed=seed) if data is None else data
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = []
    for method in methods:
        model: Any = (vit_base(seed=seed) if make_model is None else make_model()).to(device)
        size = model.config.image_size
        fields = adapt(
            model,
            method,
            data,
            prepare=partial(vit_pixels, size=size),
            epochs=epochs,
            batch_size=batch_size,
            fp16=True,
            seed=seed,
            progress=progress,
        )
        model.cpu()  # the next method needs the GPU's memory
        results.append(VitResult(**fields, before=None, original_before=None, original=None))
    return results
