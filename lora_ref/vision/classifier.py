"""Train and evaluate an image classifier; what both vision labs share."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_ref.data import Images
from lora_ref.evaluation import evaluating
from lora_ref.training import linear_schedule

if TYPE_CHECKING:
    pass

Prepare = Callable[[Tensor], Tensor]


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

    Example:
        >>> from lora_ref.data import tiny_digits
        >>> from lora_ref.vision import WideMLP
        >>> losses = train_classifier(WideMLP(), tiny_digits(each=10), progress=False)
        >>> len(losses), losses[-1] < losses[0]
        (10, True)
    """
    if len(images.images) != len(images.labels) or len(images.labels) == 0:
        raise ValueError(f"needs as many labels as images, got {len(images.labels)} and {len(images.images)}")
    positive(epochs=epochs, batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    steps = math.ceil(len(images.labels) / batch_size)

    def batches() -> Iterator[Images]:
        for _ in range(epochs):
            for rows in torch.randperm(len(images.labels), generator=generator).split(batch_size):
                yield images.take(rows)

    return fit(
        model,
        batches(),
        steps * epochs,
        learning_rate,
        weight_decay=weight_decay,
        warmup_fraction=warmup_fraction,
        prepare=prepare,
        fp16=fp16,
        show=Show(name, steps * epochs) if progress else None,
    )


def fit(
    model: nn.Module,
    batches: Iterable[Images],
    steps: int,
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    warmup_fraction: float | None = None,
    prepare: Prepare | None = None,
    fp16: bool = False,
    show: Show | None = None,
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
            logits = logits_of(model, images if prepare is None else prepare(images))
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


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    output = model(images)
    return output if isinstance(output, Tensor) else output.logits


@torch.no_grad()
def predict(
    model: nn.Module, images: Tensor, *, batch_size: int = 500, prepare: Prepare | None = None, fp16: bool = False
) -> Tensor:
    """Logits of shape (n, classes), float32 on the CPU, in evaluation mode; the arguments are `train_classifier`'s.

    Raises:
        ValueError: there are no images.

    Example:
        >>> from lora_ref.data import tiny_digits
        >>> from lora_ref.vision import WideMLP
        >>> predict(WideMLP(), tiny_digits(each=1).images).shape
        torch.Size([10, 10])
    """
    if len(images) == 0:
        raise ValueError("no images to predict")
    device = next(model.parameters()).device
    fp16 = fp16 and device.type == "cuda"
    with evaluating(model), torch.autocast(device.type, torch.float16, enabled=fp16):
        parts = [part.to(device) for part in images.split(batch_size)]
        return torch.cat([logits_of(model, part if prepare is None else prepare(part)).float().cpu() for part in parts])


def accuracy(model: nn.Module, images: Images, **options: Any) -> float:
    """Share of the images that the model names right; options as in `predict`.

    Example:
        >>> from lora_ref.data import tiny_digits
        >>> from lora_ref.vision import WideMLP
        >>> 0 <= accuracy(WideMLP(), tiny_digits(each=5)) <= 1
        True
    """
    return float((predict(model, images.images, **options).argmax(-1) == images.labels).double().mean())


class Show:
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


def positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number from 1, got {number!r}")
