"""One training function for head only, LoRA and full, on Hugging Face's Trainer; and evaluation without it.

`fine_tune` returns a `TrainingResult`: losses, metrics, seconds, peak memory, trainable counts and the trained model.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_ref import data as data_module
from lora_ref import models
from lora_ref.inject import freeze, inject_lora, trainable_report
from lora_ref.profiles import METHODS, Profile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Every linear layer of RoBERTa's encoder, and none of its head. ``output.dense`` alone would match both output layers;
#: the attention's is named too, because it is the one that readers look for.
ENCODER_LINEARS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")

_TIMING_KEYS = ("runtime", "per_second", "preparation_time")
_LOSS_POINTS = 25


# --- stage 04's functions ---------------------------------------------------------------------------------


def compute_metrics(eval_pred: Any) -> dict[str, float]:
    """Accuracy of a classifier, for ``Trainer(compute_metrics=...)``.

    Args:
        eval_pred: logits of shape (n, classes) and labels of shape (n,), as a pair or an ``EvalPrediction``.

    Example:
        >>> logits, labels = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 1, 1])
        >>> compute_metrics((logits, labels))
        {'accuracy': 0.75}
    """
    logits, labels = eval_pred
    return {"accuracy": float((np.argmax(logits, axis=-1) == np.asarray(labels)).mean())}


def linear_schedule(step: int, total_steps: int, warmup_steps: int) -> float:
    """What the learning rate is multiplied by at ``step``: up from 0 to 1 over the warm-up, then down to 0 at the end.

    Without warm-up it starts at 1; past the end it stays at 0. A warm-up longer than the training never gets to 1.

    Example:
        >>> [round(linear_schedule(step, total_steps=8, warmup_steps=2), 2) for step in range(9)]
        [0.0, 0.5, 1.0, 0.83, 0.67, 0.5, 0.33, 0.17, 0.0]
    """
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def metrics_match(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """True if two evaluations found the same; how long they took (``runtime``, ``per_second``...) does not count.

    Numbers may differ by a relative 1e-6; a key that only one side has is a difference.

    Example:
        >>> metrics_match({"eval_loss": 0.31, "eval_runtime": 2.0}, {"eval_loss": 0.31, "eval_runtime": 9.0})
        True
        >>> metrics_match({"eval_loss": 0.31}, {"eval_loss": 0.31, "eval_accuracy": 0.9})
        False
    """
    a, b = ({k: v for k, v in side.items() if not k.endswith(_TIMING_KEYS)} for side in (a, b))
    return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)


def _same(x: Any, y: Any) -> bool:
    try:
        return math.isclose(x, y, rel_tol=1e-6)
    except TypeError:  # not numbers
        return x == y


# --- the result -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingResult:
    """What one training run found.

    Attributes:
        method: ``"head"``, ``"lora"`` or ``"full"``.
        profile: name of the profile.
        seed: what the head, LoRA's A and the order of the sentences were drawn from.
        rank, alpha: LoRA's; None for the other methods.
        learning_rate: the peak.
        steps, losses: training loss, each the mean over the steps since the one before; ``steps`` counts from 1.
        validation, test: ``accuracy`` and ``loss`` of the returned model, and ``n``, the sentences.
        validation_accuracies: at the end of each epoch.
        seconds: training with its evaluation at each epoch's end, without loading and without the final evaluation.
        peak_memory: bytes; the process's resident memory on the CPU, torch's allocations on CUDA.
        memory_increase: bytes by which the peak is above the start of training. Memory that an earlier run in the same
            process gave back to the allocator is used again unseen; compare methods in fresh processes.
        trainable, total: parameters.
        checkpoint: folder of the best epoch's checkpoint, where ``output_dir`` was given.
        model: trained, in evaluation mode, on the device it trained on; the best epoch's where ``output_dir`` was
            given, else the last epoch's.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> result = fine_tune("lora", TINY, max_steps=2, progress=False)
        >>> result.steps, f"{result.trainable:,} of {result.total:,}"
        ((1, 2), '7,522 of 27,410')
    """

    method: str
    profile: str
    seed: int
    rank: int | None
    alpha: float | None
    learning_rate: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    validation: dict[str, float]
    test: dict[str, float]
    validation_accuracies: tuple[float, ...]
    seconds: float
    peak_memory: int
    memory_increase: int
    trainable: int
    total: int
    checkpoint: str | None = None
    model: nn.Module | None = field(default=None, repr=False, compare=False)

    def row(self) -> dict[str, Any]:
        """One row of a table: the same columns for every method, with units in their names."""
        return {
            "method": self.method,
            "rank": self.rank,
            "seed": self.seed,
            "validation accuracy": self.validation["accuracy"],
            "test accuracy": self.test["accuracy"],
            "trainable": self.trainable,
            "trainable %": 100 * self.trainable / self.total,
            "seconds": self.seconds,
            "peak memory MB": self.peak_memory / 1e6,
        }


# --- training ---------------------------------------------------------------------------------------------


def fine_tune(
    method: str,
    profile: Profile,
    *,
    model: nn.Module | None = None,
    data: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    rank: int = 8,
    alpha: float = 16,
    targets: Iterable[str] = ENCODER_LINEARS,
    dropout: float = 0.0,
    seed: int = 0,
    epochs: int | None = None,
    max_steps: int | None = None,
    learning_rate: float | None = None,
    output_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Fine-tune a classifier on a profile's sentences and evaluate it.

    AdamW with weight decay 0.01; the learning rate rises over the profile's warm-up and falls linearly to 0; each batch
    is padded to its own longest sentence; validation at the end of each epoch.

    Sets Python's, NumPy's and torch's random seeds. The same seed gives the same figures on the same machine.

    Args:
        method: ``"head"`` trains the classification head alone, ``"lora"`` the head and low-rank updates, ``"full"``
            everything.
        profile: sizes, epochs, learning rates.
        model: what to train, in place; by default the profile's base model with a head drawn from ``seed``. For
            ``"lora"``, a model that has LoRA parameters already (named ``lora_...``, your own layer's for instance) is
            trained as it is: what its ``requires_grad`` says.
        data: splits ``train``, ``validation`` and ``test``, each with ``label`` and either ``sentence`` or
            ``input_ids`` and ``attention_mask``; by default the profile's.
        tokenizer: by default the profile's.
        rank, alpha, targets, dropout: LoRA's, as `lora_ref.inject.inject_lora` takes them; of no effect otherwise.
        seed: a whole number from 0.
        epochs: instead of the profile's.
        max_steps: stop after so many steps, whatever the epochs.
        learning_rate: instead of the profile's for this method.
        output_dir: keep the checkpoint of the epoch with the best validation accuracy there, and return that epoch's
            model. Without it nothing stays on the disk, and the last epoch's model is returned.
        progress: show a bar in a terminal, a table in a notebook, a line for each epoch in a log.

    Raises:
        AssetError, RuntimeError: the profile's model or data cannot be had.
        ValueError: an argument is out of range, a target matches nothing, a split is missing or empty.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> result = fine_tune("lora", TINY, rank=4, max_steps=20, progress=False)
        >>> result.losses[-1] < result.losses[0]
        True
        >>> result.rank, result.test["n"]
        (4, 128)
    """
    _check(method, epochs, max_steps, learning_rate, seed, data)
    from transformers import set_seed

    set_seed(seed)
    tokenizer = models.tokenizer(profile) if tokenizer is None else tokenizer
    data = data_module.reviews(profile, seed=seed) if data is None else data
    examples = {split: _examples(data[split], tokenizer, profile.max_length) for split in data_module.SPLITS}
    model = models.base_model(profile, seed=seed) if model is None else model
    injected = _prepare(model, method, rank, alpha, targets, dropout)
    rate = profile.learning_rates[method] if learning_rate is None else learning_rate
    show = _Show(method) if progress else None

    with contextlib.ExitStack() as stack:
        folder = output_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="lora_ref-"))
        trainer = _trainer(model, profile, examples, tokenizer, seed, epochs, max_steps, rate, folder, output_dir, show)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        with only_our_progress(), _PeakMemory() as memory:
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
        history, best = trainer.state.log_history, trainer.state.best_model_checkpoint
        if output_dir and trainer.is_world_process_zero():
            # not Trainer's own save_total_limit: it keeps the last checkpoint too, and doubts the clock of quick runs
            for step in {entry["step"] for entry in history if "eval_accuracy" in entry}:
                checkpoint = os.path.join(folder, f"checkpoint-{step}")
                if not os.path.samefile(checkpoint, best):
                    shutil.rmtree(checkpoint)
    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    evaluations = [entry for entry in history if "eval_accuracy" in entry]
    # the returned model was evaluated already: the best epoch's where checkpoints are kept, else the last epoch's
    kept = next((e for e in evaluations if best and best.endswith(f"-{e['step']}")), evaluations[-1])
    counts = trainable_report(model)
    return TrainingResult(
        method=method,
        profile=profile.name,
        seed=seed,
        rank=rank if injected else None,
        alpha=alpha if injected else None,
        learning_rate=rate,
        steps=tuple(step for step, _ in losses),
        losses=tuple(loss for _, loss in losses),
        validation={
            "accuracy": kept["eval_accuracy"],
            "loss": kept["eval_loss"],
            "n": len(examples["validation"]),
        },
        test=evaluate(model, examples["test"], tokenizer, profile.eval_batch_size) | {"n": len(examples["test"])},
        validation_accuracies=tuple(entry["eval_accuracy"] for entry in evaluations),
        seconds=seconds,
        peak_memory=memory.peak,
        memory_increase=memory.increase,
        trainable=counts["trainable"],
        total=counts["total"],
        checkpoint=best if output_dir else None,
        model=model.eval(),
    )


def _check(method, epochs, max_steps, learning_rate, seed, data) -> None:
    if method not in METHODS:
        raise ValueError(f"method {method!r} is none of {', '.join(map(repr, METHODS))}")
    for name, value in (("epochs", epochs), ("max_steps", max_steps)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be a positive number, got {learning_rate!r}")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:  # NumPy's range
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
    if data is not None:
        for split in data_module.SPLITS:
            if split not in data:
                raise ValueError(f"data has no {split!r} split; it has: {', '.join(map(repr, data)) or 'none'}")
            if len(data[split]) == 0:
                raise ValueError(f"the {split!r} split is empty")


def _prepare(model: nn.Module, method: str, rank, alpha, targets, dropout) -> bool:
    """Set what trains; returns True if LoRA layers were injected here."""
    if method == "full":
        model.requires_grad_(True)
        return False
    if method == "head":
        head = getattr(model, "classifier", None)
        if head is None:
            raise ValueError(f"{type(model).__name__} has no `classifier` to train alone")
        freeze(model)
        head.requires_grad_(True)
        return False
    if any("lora_" in name for name, _ in model.named_parameters()):
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError("the model has LoRA layers, but nothing in it trains")
        return False
    inject_lora(model, targets, rank=rank, alpha=alpha, dropout=dropout, train_head=True)
    return True


def _trainer(
    model: nn.Module,
    profile: Profile,
    examples: Mapping[str, list],
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    epochs: int | None,
    max_steps: int | None,
    rate: float,
    folder: str | os.PathLike,
    output_dir: str | os.PathLike | None,
    show: _Show | None,
):
    from transformers import PrinterCallback, Trainer, TrainingArguments

    epochs = profile.epochs if epochs is None else epochs
    devices = max(1, torch.cuda.device_count())  # Trainer multiplies the batch by them
    total_steps = max_steps or epochs * math.ceil(len(examples["train"]) / profile.train_batch_size)
    live = show is not None and _is_live()
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        max_steps=max_steps or -1,
        per_device_train_batch_size=max(1, profile.train_batch_size // devices),
        per_device_eval_batch_size=max(1, profile.eval_batch_size // devices),
        learning_rate=rate,
        weight_decay=0.01,
        optim="adamw_torch_fused",  # one pass over the parameters, on the CPU as well
        lr_scheduler_type="linear",
        # an integer: transformers 4 takes a fraction as warmup_ratio, 5 as a float here
        warmup_steps=round(profile.warmup_fraction * total_steps),
        fp16=profile.fp16 and torch.cuda.is_available(),
        eval_strategy="epoch",
        save_strategy="epoch" if output_dir else "no",
        save_only_model=True,
        load_best_model_at_end=bool(output_dir),
        metric_for_best_model="accuracy",
        logging_steps=math.ceil(total_steps / _LOSS_POINTS),
        seed=seed,
        report_to="none",
        disable_tqdm=not live,
        remove_unused_columns=False,  # `collate` takes what it needs
        label_names=["labels"],  # Trainer reads them off forward's signature, which a wrapper may hide
        dataloader_pin_memory=torch.cuda.is_available(),  # torch warns where there is nothing to pin for
        **_by_length(TrainingArguments),
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=examples["train"],
        eval_dataset=sorted(examples["validation"], key=_length_first),
        data_collator=partial(data_module.collate, tokenizer=tokenizer),
        compute_metrics=compute_metrics,
    )
    trainer.remove_callback(PrinterCallback)
    if show is not None:
        show.add_to(trainer, live)
    return trainer


def _by_length(arguments: type) -> dict[str, Any]:
    """Batches of sentences of like length need less padding; transformers 4 and 5 name the option differently."""
    if "train_sampling_strategy" in arguments.__dataclass_fields__:
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


class _Show:
    """Progress where it belongs: Trainer's own bar or table, without its printed dicts; lines in a log file."""

    def __init__(self, method: str):
        self.method = method

    def add_to(self, trainer, live: bool) -> None:
        from transformers import TrainerCallback
        from transformers.trainer_callback import ProgressCallback

        method, start = self.method, time.perf_counter()

        class Bar(ProgressCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                super().on_train_begin(args, state, control, **kwargs)
                self.training_bar.set_description(method)

            def on_log(self, args, state, control, logs=None, **kwargs):
                if self.training_bar is not None and "loss" in logs:
                    self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

        class Lines(TrainerCallback):
            loss = math.nan

            def on_log(self, args, state, control, logs=None, **kwargs):
                self.loss = float(logs.get("loss", self.loss))

            def on_evaluate(self, args, state, control, metrics=None, **kwargs):
                print(
                    f"{method}: epoch {state.epoch:.2g} of {args.num_train_epochs:g}, step {state.global_step} of "
                    f"{state.max_steps}, loss {self.loss:.3f}, validation accuracy {metrics['eval_accuracy']:.3f}, "
                    f"{time.perf_counter() - start:.0f} s",
                    flush=True,
                )

        if not live:
            trainer.add_callback(Lines())
        elif trainer.pop_callback(ProgressCallback) is not None:  # in a notebook it is another one, which stays
            trainer.add_callback(Bar())


def _is_live() -> bool:
    """True where a bar can be drawn over itself: a terminal, or a notebook's output."""
    return sys.stderr.isatty() or type(sys.stdout).__module__.startswith("ipykernel")


@contextlib.contextmanager
def only_our_progress() -> Iterator[None]:
    """Two things of transformers' own would be written through what is being shown.

    5 draws a bar each time that it writes a checkpoint; 4.46 groups by length with a property that it deprecates, and
    says so.

    Example:
        >>> with only_our_progress():
        ...     print("nothing else is written")
        nothing else is written
    """
    from transformers.utils import logging

    def not_to_itself(record: Any) -> bool:
        return not record.getMessage().startswith("Trainer.tokenizer is now deprecated")

    shown, trainers = logging.is_progress_bar_enabled(), logging.get_logger("transformers.trainer")
    if shown:
        logging.disable_progress_bar()
    trainers.addFilter(not_to_itself)
    try:
        yield
    finally:
        trainers.removeFilter(not_to_itself)
        if shown:
            logging.enable_progress_bar()


class _PeakMemory:
    """Peak memory while the block runs, in bytes: torch's own count on CUDA, sampled resident memory on the CPU."""

    interval = 0.01  # seconds; a training step takes many of these

    def __enter__(self) -> _PeakMemory:
        gc.collect()
        self._cuda = torch.cuda.is_available()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
        else:
            import psutil

            self._process = psutil.Process()
            self._start = self.peak = self._process.memory_info().rss
            self._done = threading.Event()
            self._thread = threading.Thread(target=self._sample, name="peak memory", daemon=True)
            self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._done.wait(self.interval):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self.peak = torch.cuda.max_memory_allocated()
        else:
            self._done.set()
            self._thread.join()
            self.peak = max(self.peak, self._process.memory_info().rss)
        self.increase = self.peak - self._start


# --- evaluation without the Trainer -----------------------------------------------------------------------


def evaluate(
    model: nn.Module,
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 64,
    max_length: int = 128,
) -> dict[str, float]:
    """Accuracy and mean cross-entropy of a classifier on labelled sentences.

    The order of the sentences makes no difference, to the last bit: they are batched by length.

    Args:
        model: returns ``logits`` of shape (batch, classes).
        dataset: a ``datasets.Dataset`` with ``label`` and ``sentence`` (or ``input_ids`` and ``attention_mask``), or a
            list of such examples.
        tokenizer: gives the tokens, or only the padding token.
        batch_size, max_length: sentences in a batch; tokens a sentence is truncated to.

    Returns:
        ``accuracy`` and ``loss`` (natural logarithm).

    Raises:
        ValueError: there are no sentences.

    Example:
        >>> from lora_ref import models
        >>> sentences = [{"sentence": "a warm film", "label": 1}, {"sentence": "a cold film", "label": 0}]
        >>> evaluate(models.tiny_roberta(), sentences, models.tiny_tokenizer())["accuracy"] in (0.0, 0.5, 1.0)
        True
    """
    examples = sorted(_examples(dataset, tokenizer, max_length), key=_length_first)
    labels = torch.tensor([int(example["label"]) for example in examples])
    logits = _logits(model, examples, tokenizer, batch_size)
    return {
        "accuracy": float((logits.argmax(-1) == labels).double().mean()),
        "loss": float(F.cross_entropy(logits.double(), labels)),
    }


def predict_logits(
    model: nn.Module,
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 64,
    max_length: int = 128,
) -> Tensor:
    """Logits of shape (n, classes) in the order of the sentences, float32 on the CPU. Arguments as in `evaluate`.

    Example:
        >>> from lora_ref import models
        >>> sentences = [{"sentence": "a warm film", "label": 1}, {"sentence": "a cold film", "label": 0}]
        >>> predict_logits(models.tiny_roberta(), sentences, models.tiny_tokenizer()).shape
        torch.Size([2, 2])
    """
    examples = _examples(dataset, tokenizer, max_length)
    order = sorted(range(len(examples)), key=lambda i: _length_first(examples[i]))
    in_order = _logits(model, [examples[i] for i in order], tokenizer, batch_size)
    logits = torch.empty_like(in_order)
    logits[order] = in_order
    return logits


@torch.inference_mode()
def _logits(model: nn.Module, examples: Sequence, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Tensor:
    if not examples:
        raise ValueError("no sentences to evaluate on")
    device = next(model.parameters()).device
    with _evaluating(model):
        parts = []
        for start in range(0, len(examples), batch_size):
            batch = data_module.collate(examples[start : start + batch_size], tokenizer)
            output = model(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device))
            parts.append(output.logits.float().cpu())
    return torch.cat(parts)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout), and back to the mode that each module was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _examples(dataset: Any, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict[str, Any]]:
    """A list of ``input_ids``, ``attention_mask`` and ``label``; tokenised here unless it was before.

    A plain list, because `datasets` answers one index at a time about a hundred times slower.
    """
    if not isinstance(dataset, list):
        dataset = [dict(example) for example in dataset]
    if dataset and "input_ids" not in dataset[0]:
        tokens = data_module.tokenize({"sentence": [e["sentence"] for e in dataset]}, tokenizer, max_length)
        dataset = [
            {"input_ids": ids, "attention_mask": mask, "label": example["label"]}
            for ids, mask, example in zip(tokens["input_ids"], tokens["attention_mask"], dataset, strict=True)
        ]
    return dataset


def _length_first(example: Mapping[str, Any]) -> tuple[int, list[int]]:
    """Sorts by length, and equal lengths by their tokens, so that batches do not depend on the order given."""
    ids = [int(i) for i in example["input_ids"]]
    return len(ids), ids
