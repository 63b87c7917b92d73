"""One digit of MNIST learned by LoRA as a weight parametrization, and what it costs the other nine (stage 02's lab)."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from lora_ref import data as data_module
from lora_ref.data import Images
from lora_ref.inject import freeze
from lora_ref.merging import switched_off
from lora_ref.models import seeded
from lora_ref.parametrize import LoRAParametrization
from lora_ref.vision.classifier import Show, fit, positive, predict, train_classifier

if TYPE_CHECKING:
    from pandas import DataFrame


class WideMLP(nn.Module):
    """784 - 1,000 - 2,000 - 10 with ReLU: 2,807,010 parameters, far more than 28 by 28 digits need.

    Args:
        seed: draws the weights.

    Example:
        >>> model = WideMLP(seed=0)
        >>> f"{sum(p.numel() for p in model.parameters()):,}", model(torch.zeros(3, 28, 28)).shape
        ('2,807,010', torch.Size([3, 10]))
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        with seeded(seed):
            self.linear1 = nn.Linear(784, 1_000)
            self.linear2 = nn.Linear(1_000, 2_000)
            self.linear3 = nn.Linear(2_000, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, 10) for images of shape (batch, 28, 28), (batch, 1, 28, 28) or (batch, 784)."""
        hidden = F.relu(self.linear1(images.flatten(1)))
        return self.linear3(F.relu(self.linear2(hidden)))


def parametrize_lora(
    model: nn.Module, rank: int = 1, alpha: float = 1, std: float | None = None, seed: int = 0
) -> nn.Module:
    """Freeze ``model`` and give the weight of each ``nn.Linear`` a low-rank update, as a parametrization, in place.

    The modules stay what they are. Rank 1 on all of `WideMLP` adds 6,794 parameters, 0.242%.

    Args:
        model: any module with ``nn.Linear`` layers.
        rank, alpha: as in `lora_ref.parametrize.LoRAParametrization`.
        std: draw A from a normal distribution of this standard deviation instead.
        seed: draws A.

    Returns:
        The model.

    Raises:
        ValueError: there is no linear layer, one is parametrized already, or ``rank`` is below 1.

    Example:
        >>> model = parametrize_lora(WideMLP(), rank=1)
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
        6794
    """
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ValueError(f"{type(model).__name__} has no linear layer")
    if parametrized_lora(model):
        raise ValueError("this model's weights have LoRA already; parametrize a fresh model")
    with seeded(seed):
        updates = [LoRAParametrization(linear.out_features, linear.in_features, rank, alpha) for linear in linears]
        if std is not None:
            for update in updates:
                nn.init.normal_(update.lora_A, std=std)
    freeze(model)
    for linear, update in zip(linears, updates, strict=True):
        register_parametrization(linear, "weight", update.to(linear.weight))
    return model


def parametrized_lora(model: nn.Module) -> dict[str, LoRAParametrization]:
    """The model's LoRA parametrizations by dotted name: ``linear1.parametrizations.weight.0`` and so on.

    Example:
        >>> list(parametrized_lora(parametrize_lora(WideMLP())))
        ['linear1.parametrizations.weight.0', 'linear2.parametrizations.weight.0', 'linear3.parametrizations.weight.0']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRAParametrization)}


def switch_lora(model: nn.Module, on: bool) -> nn.Module:
    """Switch all LoRA parametrizations of the model on or off; returns the model.

    Example:
        >>> model = switch_lora(parametrize_lora(WideMLP()), False)
        >>> [lora.enabled for lora in parametrized_lora(model).values()]
        [False, False, False]
    """
    for update in parametrized_lora(model).values():
        update.enabled = on
    return model


@contextlib.contextmanager
def lora_off(model: nn.Module) -> Iterator[nn.Module]:
    """The original model, bit for bit, inside a ``with`` block; afterwards each switch is as it was.

    For models of `parametrize_lora`. `lora_ref.inject.lora_disabled` is the same for injected layers.

    Example:
        >>> model = parametrize_lora(WideMLP())
        >>> with lora_off(model):
        ...     [lora.enabled for lora in parametrized_lora(model).values()]
        [False, False, False]
        >>> [lora.enabled for lora in parametrized_lora(model).values()]
        [True, True, True]
    """
    with switched_off(parametrized_lora(model).values()):
        yield model


@dataclass(frozen=True)
class Recipe:
    """How to make a model better at one digit with LoRA alone.

    Attributes:
        name: in words.
        seen: images of the digit among the base model's training images; None is all there are.
        new_share: share of each batch that is the digit, in images that the base has not seen (with ``seen=None``: any
            training image of it). The rest replays the base model's own training images.
        rank, alpha: LoRA's, on each of the three layers.
        std: standard deviation of A at the start.
        learning_rate: Adam's, constant.
        batches, batch_size: steps, and images in each.

    Example:
        >>> PUBLISHED.name, PUBLISHED.rank, PUBLISHED.new_share
        ('the digit alone', 1, 1.0)
        >>> BETTER.rank, BETTER.new_share  # half of each batch is replayed
        (4, 0.5)
    """

    name: str
    seen: int | None
    new_share: float
    rank: int
    alpha: float
    std: float
    learning_rate: float
    batches: int
    batch_size: int


#: As published: rank 1, the digit alone. The base model knows the digit well, and nothing holds the other nine.
PUBLISHED = Recipe("the digit alone", None, 1.0, 1, 1, 1.0, 1e-3, 100, 10)
#: A base model that lacks the digit, a smaller and wider start, and half of each batch from what the base has learnt.
BETTER = Recipe("half replayed", 20, 0.5, 4, 4, 0.05, 1e-3, 200, 20)
#: The control: what the same training does without a new image of the digit.
REPLAY_ONLY = Recipe("replay alone", 20, 0.0, 4, 4, 0.05, 1e-3, 200, 20)


@dataclass(frozen=True)
class Score:
    """How a model does on the test images.

    Attributes:
        accuracy: share named right, from 0 to 1.
        errors: images of each digit from 0 to 9 that are named wrong.
        false_positives: images of other digits that are named as the one digit.

    Example:
        >>> Score(accuracy=0.95, errors=(0, 1, 0, 0, 0, 0, 0, 0, 0, 9), false_positives=2).errors[9]
        9
    """

    accuracy: float
    errors: tuple[int, ...]
    false_positives: int


def score(logits: Tensor, labels: Tensor, digit: int) -> Score:
    """Errors by digit, and how often others are taken for ``digit``; ``logits`` of shape (n, 10), ``labels`` (n,).

    Example:
        >>> result = score(torch.eye(10)[[9, 9, 4]], torch.tensor([9, 4, 4]), digit=9)  # a 4 is taken for a 9
        >>> round(result.accuracy, 2), result.errors[4], result.false_positives
        (0.67, 1, 1)
    """
    named = logits.argmax(-1)
    wrong = named != labels
    return Score(
        accuracy=float((~wrong).double().mean()),
        errors=tuple(int(wrong[labels == d].sum()) for d in range(10)),
        false_positives=int((wrong & (named == digit)).sum()),
    )


@dataclass(frozen=True)
class OneDigitResult:
    """What `one_digit` found.

    Attributes:
        recipe, digit, seed: what was run.
        images_per_digit: test images of each digit.
        before, on, off: the base model; with LoRA; with LoRA switched off again.
        off_is_identical: True if the logits with LoRA off equal the base model's bit for bit.
        added: LoRA's parameters; ``total`` those of the base model.
        losses: at each step of LoRA's training, in nats.
        seconds: LoRA's training alone.
        base, model: the base model, and its copy with the parametrization; both in evaluation mode.

    Example:
        >>> import dataclasses
        >>> from lora_ref.data import mnist
        >>> from lora_ref.profiles import TINY
        >>> recipe = dataclasses.replace(PUBLISHED, batches=3)
        >>> result = one_digit(recipe, data=mnist(TINY, train_size=100, test_size=40), progress=False)
        >>> result.added, result.off_is_identical
        (6794, True)
    """

    recipe: Recipe
    digit: int
    seed: int
    images_per_digit: tuple[int, ...]
    before: Score
    on: Score
    off: Score
    off_is_identical: bool
    added: int
    total: int
    losses: tuple[float, ...] = field(repr=False)
    seconds: float = field(compare=False)
    base: nn.Module = field(repr=False, compare=False)
    model: nn.Module = field(repr=False, compare=False)

    @property
    def removed(self) -> float:
        """Share of the digit's errors that are gone with LoRA on; negative where there are more, NaN if none were."""
        before, on = self.before.errors[self.digit], self.on.errors[self.digit]
        return (before - on) / before if before else math.nan

    def table(self) -> DataFrame:
        """Errors by digit: columns ``before``, ``LoRA on``, ``LoRA off``, and ``images`` in the test split."""
        from pandas import DataFrame, RangeIndex

        columns = {"before": self.before.errors, "LoRA on": self.on.errors, "LoRA off": self.off.errors}
        return DataFrame(columns | {"images": self.images_per_digit}, index=RangeIndex(10, name="digit"))

    def row(self) -> dict[str, Any]:
        """One row of a table of recipes or seeds."""
        row: dict[str, Any] = {"recipe": self.recipe.name, "seed": self.seed}
        for name, part in (("before", self.before), ("on", self.on), ("off", self.off)):
            row[f"digit {self.digit} errors {name}"] = part.errors[self.digit]
        for name, part in (("before", self.before), ("on", self.on), ("off", self.off)):
            row[f"accuracy {name}"] = part.accuracy
        return row | {
            f"false {self.digit}s before": self.before.false_positives,
            f"false {self.digit}s on": self.on.false_positives,
            "seconds": self.seconds,
        }


def base_classifier(
    data: Mapping[str, Images], *, digit: int = 9, seen: int | None = None, seed: int = 0, progress: bool = True
) -> WideMLP:
    """`WideMLP`, trained for one epoch in batches of 10 on all training images but for ``digit``, of which ``seen``.

    Raises:
        ValueError: there are fewer images of the digit, or no such digit.

    Example:
        >>> from lora_ref.data import mnist
        >>> from lora_ref.profiles import TINY
        >>> base = base_classifier(mnist(TINY, train_size=100, test_size=40), digit=9, seen=0, progress=False)
        >>> base.training, base.linear3.out_features
        (False, 10)
    """
    model = WideMLP(seed)
    images, _ = _seen_and_new(data["train"], digit, seen, seed)
    train_classifier(model, images, seed=seed, name="the base model", progress=progress)
    return model.eval()


def one_digit(
    recipe: Recipe = PUBLISHED,
    *,
    data: Mapping[str, Images] | None = None,
    base: nn.Module | None = None,
    digit: int = 9,
    seed: int = 0,
    progress: bool = True,
) -> OneDigitResult:
    """Train LoRA, and nothing else, so that a model makes fewer errors on one digit; see what else that does.

    The published recipe trains on the digit alone. Its errors nearly vanish, because the model comes to call everything
    by that digit: only the other digits' errors and the false positives show it. `BETTER` starts from a base model that
    has seen few images of the digit, so there is something to learn, and replays old images so that nothing is lost.

    Args:
        recipe: `PUBLISHED`, `BETTER`, `REPLAY_ONLY` or one of your own.
        data: splits ``train`` and ``test``, by default `lora_ref.data.mnist`'s.
        base: a model that `base_classifier` trained with this recipe's ``seen``, this digit and this seed; it is not
            changed. By default one is trained here.
        digit: from 0 to 9.
        seed: draws everything: the base model, which images it sees, A, and the batches.
        progress: as in `train_classifier`.

    Raises:
        AssetError: without ``data``, and MNIST cannot be had.
        ValueError: a field of the recipe, the digit or the data is out of range.

    Example:
        >>> import dataclasses
        >>> from lora_ref.data import mnist
        >>> from lora_ref.profiles import TINY
        >>> recipe = dataclasses.replace(PUBLISHED, batches=3)
        >>> result = one_digit(recipe, data=mnist(TINY, train_size=100, test_size=40), digit=9, progress=False)
        >>> f"{result.added:,} parameters beside {result.total:,}"
        '6,794 parameters beside 2,807,010'
    """
    positive(batches=recipe.batches, batch_size=recipe.batch_size, rank=recipe.rank)
    if not 0 <= recipe.new_share <= 1:
        raise ValueError(f"new_share must be from 0 to 1, got {recipe.new_share!r}")
    data = data_module.mnist(seed=0) if data is None else data
    old, new = _seen_and_new(data["train"], digit, recipe.seen, seed)
    if base is None:
        base = base_classifier(data, digit=digit, seen=recipe.seen, seed=seed, progress=progress)
    model = parametrize_lora(copy.deepcopy(base), recipe.rank, recipe.alpha, recipe.std, seed)
    fresh = round(recipe.new_share * recipe.batch_size)
    if fresh and not len(new.labels):
        raise ValueError(f"the base model has seen all images of {digit}: recipe.seen={recipe.seen} leaves none")
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[Images]:
        for _ in range(recipe.batches):
            parts = [
                source.take(torch.randint(len(source.labels), (count,), generator=generator))
                for source, count in ((new, fresh), (old, recipe.batch_size - fresh))
                if count
            ]
            yield Images(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    show = Show(f"LoRA, {recipe.name}", recipe.batches) if progress else None
    start = time.perf_counter()
    losses = fit(model, batches(), recipe.batches, recipe.learning_rate, show=show)
    seconds = time.perf_counter() - start
    test = data["test"]
    before, on = predict(base, test.images), predict(model, test.images)
    with lora_off(model):
        off = predict(model, test.images)
    return OneDigitResult(
        recipe=recipe,
        digit=digit,
        seed=seed,
        images_per_digit=tuple(torch.bincount(test.labels, minlength=10).tolist()),
        before=score(before, test.labels, digit),
        on=score(on, test.labels, digit),
        off=score(off, test.labels, digit),
        off_is_identical=torch.equal(off, before),
        added=sum(p.numel() for update in parametrized_lora(model).values() for p in update.parameters()),
        total=sum(p.numel() for p in base.parameters()),
        losses=tuple(losses),
        seconds=seconds,
        base=base.eval(),
        model=model,
    )


def _seen_and_new(images: Images, digit: int, seen: int | None, seed: int) -> tuple[Images, Images]:
    """The base model's training images, and those of the digit that it has not seen (all of it, where it saw all)."""
    mine = (images.labels == digit).nonzero()[:, 0]
    if not len(mine):
        raise ValueError(f"there is no training image of the digit {digit!r}")
    if seen is None:
        return images, images.take(mine)
    if not 0 <= seen <= len(mine):
        raise ValueError(f"there are {len(mine):,} training images of {digit}, seen={seen!r} were asked for")
    mine = mine[torch.randperm(len(mine), generator=torch.Generator().manual_seed(seed))]
    others = (images.labels != digit).nonzero()[:, 0]
    return images.take(torch.cat([others, mine[:seen]])), images.take(mine[seen:])
