"""The vision labs: one digit of MNIST by weight parametrization (stage 02), a vision transformer (stage 03).

from lora_ref import vision

result = vision.one_digit(vision.PUBLISHED)   # LoRA on one digit alone: its errors go, and so does the rest
result = vision.one_digit(vision.BETTER)      # LoRA as well, with half of each batch replayed
results = vision.rotated_digits()             # a small vision transformer, adapted in six ways
results = vision.photographs()                # the same with ViT-base and CIFAR-10: a GPU and the hub
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from lora_ref import data as data_module
from lora_ref.data import Images
from lora_ref.inject import freeze, inject_lora, lora_disabled, match_targets, replace_module, trainable_report
from lora_ref.models import _from_hub, _seeded, _without_loading_report
from lora_ref.parametrize import LoRAParametrization
from lora_ref.training import _evaluating, linear_schedule

if TYPE_CHECKING:
    from pandas import DataFrame
    from transformers import ViTForImageClassification

#: The full profile's model on the hub: ViT-base of 85.8 M parameters, pretrained on ImageNet-21k.
HUB_VIT = "google/vit-base-patch16-224-in21k"

Prepare = Callable[[Tensor], Tensor]

# --- train and predict ------------------------------------------------------------------------------------


def train_classifier(
    model: nn.Module,
    images: Images,
    *,
    epochs: int = 1,
    batch_size: int = 10,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    warmup_fraction: float | None = None,
    prepare: Prepare | None = None,
    fp16: bool = False,
    seed: int = 0,
    name: str = "training",
    progress: bool = True,
) -> list[float]:
    """Train what is trainable in ``model``, in place and on its device, with AdamW and cross-entropy.

    Args:
        model: takes a batch of images; returns logits of shape (batch, classes), or an object with ``logits``.
        images: what to train on.
        epochs, batch_size: passes over all images, and images a step.
        learning_rate, weight_decay: AdamW's; without weight decay it is Adam.
        warmup_fraction: share of all steps over which the learning rate rises, before it falls linearly to 0. None: it
            stays as it is.
        prepare: applied to each batch of images on the model's device.
        fp16: half precision with loss scaling where the model is on CUDA; of no effect on a CPU.
        seed: draws the order of the images.
        name: what progress calls this run.
        progress: show a bar in a terminal and in a notebook, some lines in a log.

    Returns:
        The loss at each step, in nats.

    Raises:
        ValueError: there are no images, nothing trains, or a number is out of range.
    """
    if len(images.images) != len(images.labels) or len(images.labels) == 0:
        raise ValueError(f"needs as many labels as images, got {len(images.labels)} and {len(images.images)}")
    _positive(epochs=epochs, batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    steps = math.ceil(len(images.labels) / batch_size)

    def batches() -> Iterator[Images]:
        for _ in range(epochs):
            for rows in torch.randperm(len(images.labels), generator=generator).split(batch_size):
                yield images.take(rows)

    return _fit(
        model,
        batches(),
        steps * epochs,
        learning_rate,
        weight_decay=weight_decay,
        warmup_fraction=warmup_fraction,
        prepare=prepare,
        fp16=fp16,
        show=_Show(name, steps * epochs) if progress else None,
    )


def _fit(
    model: nn.Module,
    batches: Iterable[Images],
    steps: int,
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    warmup_fraction: float | None = None,
    prepare: Prepare | None = None,
    fp16: bool = False,
    show: _Show | None = None,
) -> list[float]:
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be a positive number, got {learning_rate!r}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"nothing trains in this {type(model).__name__}: every parameter is frozen")
    device = parameters[0].device
    fp16 = fp16 and device.type == "cuda"
    scaler = torch.amp.GradScaler(enabled=fp16)
    # one pass over the weights instead of ten: the wide MLP's epoch takes half the time on a CPU
    fused = device.type in ("cpu", "cuda")
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused)
    losses: list[float] = []
    model.train()
    for step, (images, labels) in enumerate(batches):
        if warmup_fraction is not None:
            # one step on, so that neither the first step nor the last has a learning rate of exactly 0
            rate = learning_rate * linear_schedule(step + 1, steps + 1, round(warmup_fraction * steps))
            optimiser.param_groups[0]["lr"] = rate
        images = images.to(device)
        with torch.autocast(device.type, torch.float16, enabled=fp16):
            logits = _logits(model, images if prepare is None else prepare(images))
        loss = F.cross_entropy(logits.float(), labels.to(device))
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(float(loss.detach()))
        if show is not None:
            show.step(losses)
    model.eval()
    return losses


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    output = model(images)
    return output if isinstance(output, Tensor) else output.logits


@torch.no_grad()
def predict(
    model: nn.Module, images: Tensor, *, batch_size: int = 500, prepare: Prepare | None = None, fp16: bool = False
) -> Tensor:
    """Logits of shape (n, classes), float32 on the CPU, in evaluation mode; the arguments are `train_classifier`'s.

    Raises:
        ValueError: there are no images.
    """
    if len(images) == 0:
        raise ValueError("no images to predict")
    device = next(model.parameters()).device
    fp16 = fp16 and device.type == "cuda"
    with _evaluating(model), torch.autocast(device.type, torch.float16, enabled=fp16):
        parts = [part.to(device) for part in images.split(batch_size)]
        return torch.cat([_logits(model, part if prepare is None else prepare(part)).float().cpu() for part in parts])


def accuracy(model: nn.Module, images: Images, **options: Any) -> float:
    """Share of the images that the model names right; options as in `predict`."""
    return float((predict(model, images.images, **options).argmax(-1) == images.labels).double().mean())


class _Show:
    """A bar where a line can be drawn over itself; elsewhere at most `lines` lines."""

    lines = 5

    def __init__(self, name: str, steps: int):
        self.name, self.steps, self.start, self.bar = name, steps, time.perf_counter(), None
        if sys.stdout.isatty() or type(sys.stdout).__module__.startswith("ipykernel"):
            from tqdm import tqdm  # the plain one, on stdout: right in a terminal, a notebook and its HTML export

            self.bar = tqdm(total=steps, desc=name, file=sys.stdout, mininterval=0.2, unit="step")

    def step(self, losses: Sequence[float]) -> None:
        done = len(losses)
        every = math.ceil(self.steps / self.lines)
        recent = losses[-every:]
        if self.bar is not None:
            self.bar.update()
            if done == self.steps:
                self.bar.set_postfix(loss=f"{sum(recent) / len(recent):.3f}")
                self.bar.close()
        elif done % every == 0 or done == self.steps:
            print(
                f"{self.name}: step {done:,} of {self.steps:,}, loss {sum(recent) / len(recent):.3f}, "
                f"{time.perf_counter() - self.start:.0f} s",
                flush=True,
            )


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number from 1, got {number!r}")


# --- one digit of MNIST -----------------------------------------------------------------------------------


class WideMLP(nn.Module):
    """784 - 1,000 - 2,000 - 10 with ReLU: 2,807,010 parameters, far more than 28 by 28 digits need.

    Args:
        seed: draws the weights.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        with _seeded(seed):
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

    The modules stay what they are. Rank 1 on all of `WideMLP` adds 6,794 parameters, 0.242 %.

    Args:
        model: any module with ``nn.Linear`` layers.
        rank, alpha: as in `lora_ref.parametrize.LoRAParametrization`.
        std: draw A from a normal distribution of this standard deviation instead.
        seed: draws A.

    Returns:
        The model.

    Raises:
        ValueError: there is no linear layer, one is parametrized already, or ``rank`` is below 1.
    """
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ValueError(f"{type(model).__name__} has no linear layer")
    if parametrized_lora(model):
        raise ValueError("this model's weights have LoRA already; parametrize a fresh model")
    with _seeded(seed):
        updates = [LoRAParametrization(*linear.weight.shape, rank=rank, alpha=alpha) for linear in linears]
        if std is not None:
            for update in updates:
                nn.init.normal_(update.lora_A, std=std)
    freeze(model)
    for linear, update in zip(linears, updates, strict=True):
        register_parametrization(linear, "weight", update.to(linear.weight))
    return model


def parametrized_lora(model: nn.Module) -> dict[str, LoRAParametrization]:
    """The model's LoRA parametrizations by dotted name: ``linear1.parametrizations.weight.0`` and so on."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRAParametrization)}


def switch_lora(model: nn.Module, on: bool) -> nn.Module:
    """Switch all LoRA parametrizations of the model on or off; returns the model."""
    for update in parametrized_lora(model).values():
        update.enabled = on
    return model


@contextlib.contextmanager
def lora_off(model: nn.Module) -> Iterator[nn.Module]:
    """The original model, bit for bit, inside a ``with`` block; afterwards each switch is as it was.

    For models of `parametrize_lora`. `lora_ref.inject.lora_disabled` is the same for injected layers.
    """
    before = {update: update.enabled for update in parametrized_lora(model).values()}
    switch_lora(model, False)
    try:
        yield model
    finally:
        for update, on in before.items():
            update.enabled = on


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
    """

    accuracy: float
    errors: tuple[int, ...]
    false_positives: int


def score(logits: Tensor, labels: Tensor, digit: int) -> Score:
    """Errors by digit, and how often others are taken for ``digit``; ``logits`` of shape (n, 10), ``labels`` (n,)."""
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
    """
    _positive(batches=recipe.batches, batch_size=recipe.batch_size, rank=recipe.rank)
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

    show = _Show(f"LoRA, {recipe.name}", recipe.batches) if progress else None
    start = time.perf_counter()
    losses = _fit(model, batches(), recipe.batches, recipe.learning_rate, show=show)
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


# --- a vision transformer ---------------------------------------------------------------------------------


def small_vit(num_labels: int = 10, seed: int = 0) -> ViTForImageClassification:
    """A vision transformer for 28 by 28 pixels in one channel: 4 layers, width 96, 16 patches of 7 by 7 pixels.

    306,826 parameters, drawn from ``seed``; images go in as (batch, 1, 28, 28).
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
    with _seeded(seed):
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
    """
    if which not in _GROUPS:
        raise ValueError(f"no group of layers {which!r}; there are: {', '.join(map(repr, _GROUPS))}")
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    wanted = []
    for part in _GROUPS[which]:
        found = [name for name in linears if re.search(rf"(^|\.){_PARTS[part]}$", name)]
        if not found:
            raise ValueError(f"{type(model).__name__} has no linear layer that a vision transformer calls its {part}")
        wanted += found
    others = [name for name in linears if name not in wanted]
    return list(dict.fromkeys(_shortest_end(name, others) for name in wanted))


def _shortest_end(name: str, others: Sequence[str]) -> str:
    parts = name.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
    return next(end for end in ends if not any(other == end or other.endswith("." + end) for other in others))


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
    VitMethod("LoRA all r=8 + head", "lora", 1e-2, "all", 8, 16),
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
    """The same pictures, turned by 90 degrees, counter-clockwise."""
    return Images(torch.rot90(images.images, dims=(-2, -1)), images.labels)


def one_channel(images: Tensor) -> Tensor:
    """(batch, 28, 28) as (batch, 1, 28, 28), with the mean and standard deviation of MNIST's pixels taken out."""
    return (images.unsqueeze(1) - 0.1307) / 0.3081


def base_vit(
    data: Mapping[str, Images], *, epochs: int = 40, seed: int = 0, progress: bool = True
) -> ViTForImageClassification:
    """`small_vit`, trained on all training digits, upright; 40 epochs of 4,000 take one to two minutes on two cores."""
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
    """
    _positive(epochs=epochs, adapt_epochs=adapt_epochs, adapt_images=adapt_images)
    data = data_module.mnist() if data is None else data
    rows = data_module._rows(data["train"].labels, adapt_images, seed, "train")
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
    """
    if method.kind == "full":
        model.requires_grad_(True)
    elif method.kind == "head":
        freeze(model).classifier.requires_grad_(True)
    elif method.kind == "lora":
        with _seeded(seed):
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


def table(results: Iterable[VitResult | OneDigitResult]) -> DataFrame:
    """The results' rows, in their order."""
    from pandas import DataFrame

    return DataFrame([result.row() for result in results])


# --- the full profile: ViT-base and CIFAR-10 --------------------------------------------------------------


def vit_base(num_labels: int = 10, seed: int = 0) -> ViTForImageClassification:
    """ViT-base with 16 by 16 patches (Dosovitskiy et al., 2021) from the hub, with a new head drawn from ``seed``.

    Raises:
        RuntimeError: the hub does not give it, or gives weights that do not fit.
    """
    from transformers import ViTForImageClassification

    with _seeded(seed), _from_hub(HUB_VIT), _without_loading_report():
        model, report = ViTForImageClassification.from_pretrained(
            HUB_VIT, num_labels=num_labels, output_loading_info=True
        )
    missing = [name for name in report["missing_keys"] if not name.startswith("classifier.")]
    if missing or report["mismatched_keys"]:
        raise RuntimeError(
            f"the weights of {HUB_VIT} do not fit: missing {missing}, other shapes {report['mismatched_keys']}"
        )
    return model.eval()


def vit_pixels(images: Tensor, size: int = 224) -> Tensor:
    """Images as ViT-base was trained on them: ``size`` by ``size`` pixels by bilinear interpolation, from -1 to 1.

    The hub's ``preprocessor_config.json`` asks for that size and for mean and standard deviation 0.5 in each channel.
    Resized with torch, on whatever device they are; transformers' own image processor may want torchvision.

    Args:
        images: (batch, 3, height, width), from 0 to 1.
        size: pixels on a side.

    Returns:
        (batch, 3, size, size).
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
    """
    _positive(epochs=epochs, batch_size=batch_size)
    data = data_module.cifar10(seed=seed) if data is None else data
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = []
    for method in methods:
        model = (vit_base(seed=seed) if make_model is None else make_model()).to(device)
        size = model.config.image_size
        fields = adapt(
            model,
            method,
            data,
            prepare=lambda images, size=size: vit_pixels(images, size),
            epochs=epochs,
            batch_size=batch_size,
            fp16=True,
            seed=seed,
            progress=progress,
        )
        model.cpu()  # the next method needs the GPU's memory
        results.append(VitResult(**fields, before=None, original_before=None, original=None))
    return results


# --- the published injection, and what is wrong with it ---------------------------------------------------


class PublishedLoRALinear(nn.Module):
    """An injected layer as a published notebook writes it: its own weight, never filled, and no bias.

    ``torch.empty`` hands out memory as it is. What an earlier tensor left there becomes the "pretrained" weight.
    """

    def __init__(self, in_features: int, out_features: int, rank: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias: Tensor | None = None
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + x @ self.lora_A.T @ self.lora_B.T


def published_injection(
    model: nn.Module,
    targets: Iterable[str],
    rank: int = 4,
    *,
    keep_weight: bool = False,
    keep_bias: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A copy of ``model`` with the published injection's mistakes, for spotting them; ``model`` itself stays as it is.

    B is zero, so a right injection would leave the logits as they are. This one does not, and shows why, the same each
    time: torch fills what it does not initialise with NaN here, where it would leave whatever was there.

    Args:
        model: any module with ``nn.Linear`` layers.
        targets: as in `lora_ref.inject.match_targets`; `vit_targets` gives a vision transformer's.
        rank: LoRA's.
        keep_weight: mend the first mistake, and copy the pretrained weight.
        keep_bias: mend the second, and copy the pretrained bias.
        seed: draws A.

    Raises:
        ValueError: a target matches nothing.
    """
    model = copy.deepcopy(model)
    with _seeded(seed), _unfilled_memory_is_nan(), torch.no_grad():
        for name in match_targets(model, targets):
            linear = model.get_submodule(name)
            layer = PublishedLoRALinear(linear.in_features, linear.out_features, rank)
            if keep_weight:
                layer.weight.copy_(linear.weight)
            if keep_bias:
                layer.bias = linear.bias
            replace_module(model, name, layer)
    return model


@contextlib.contextmanager
def _unfilled_memory_is_nan() -> Iterator[None]:
    """Let ``torch.empty`` return NaN: what torch does in deterministic mode, so that nobody relies on old memory."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
