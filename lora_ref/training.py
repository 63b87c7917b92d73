"""One training function for head only, LoRA and full, on Hugging Face's Trainer.

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
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lora_ref import data as data_module
from lora_ref import models
from lora_ref.evaluation import (  # some for the names alone: they are offered here too
    check_labels,
    compute_metrics,
    evaluate,
    length_first,
    metrics_match,  # noqa: F401
    predict_logits,  # noqa: F401
    tokenized,
)
from lora_ref.host import head_names
from lora_ref.inject import freeze, inject_lora, lora_layers, trainable_report
from lora_ref.profiles import METHODS, Profile
from lora_ref.progress import TrainerProgress, is_live, only_our_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Every linear layer of RoBERTa's encoder, and none of its head. ``output.dense`` alone would match both output layers;
#: the attention's is named too, because it is the one that readers look for.
ENCODER_LINEARS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")

_LOSS_POINTS = 25


def default_alpha(rank: int) -> int:
    """LoRA's alpha where nobody chose one: ``2 * rank``, so that the update's scale, alpha / rank, is 2 at every rank.

    It is the alpha of 16 at rank 8 that the notebooks train with, and a comparison of ranks then compares nothing else.
    `fine_tune`, the sweeps and the command line all ask here.

    Example:
        >>> default_alpha(8), default_alpha(4)
        (16, 8)
    """
    return 2 * rank


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
    alpha: float | None = None,
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
            Without an alpha, `default_alpha` of the rank.
        seed: a whole number from 0.
        epochs: instead of the profile's.
        max_steps: stop after so many steps, whatever the epochs.
        learning_rate: instead of the profile's for this method.
        output_dir: keep the checkpoint of the epoch with the best validation accuracy there, and return that epoch's
            model. Both ``from_pretrained`` (a plain model, with the updates in its weights) and `load_adapter` read it.
            Without it nothing stays on the disk, and the last epoch's model is returned.
        progress: show a bar in a terminal, a table in a notebook, a line for each epoch in a log.

    Raises:
        AssetError, RuntimeError: the profile's model or data cannot be had.
        ValueError: an argument is out of range, a target matches nothing, a split is missing or empty, a label is not
            the number of one of the model's classes, or the model's updates are merged or switched off.

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
    examples = {split: tokenized(data[split], tokenizer, profile.max_length) for split in data_module.SPLITS}
    model = models.base_model(profile, seed=seed) if model is None else model
    _check_labels(examples, model)
    alpha = default_alpha(rank) if alpha is None else alpha
    injected = _prepare(model, method, rank, alpha, targets, dropout)
    rate = profile.learning_rates[method] if learning_rate is None else learning_rate
    show = TrainerProgress(method) if progress else None

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
        trainable=int(counts["trainable"]),
        total=int(counts["total"]),
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


def _check_labels(examples: Mapping[str, list], model: nn.Module) -> None:
    """Raise a ValueError for a label that is not the number of a class; warn of a class that no label names."""
    classes = getattr(getattr(model, "config", None), "num_labels", None)
    if classes == 1:
        raise ValueError("the model has one output, which is for regression: give it num_labels=2 for two classes")
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem not in (None, "single_label_classification"):
        raise ValueError(
            f"the model's config.problem_type is {problem!r}: only one class for each sentence trains here"
        )
    for split, rows in examples.items():
        check_labels(rows, f" of the {split!r} split", classes)
    seen = {int(e["label"] if "label" in e else e["labels"]) for e in examples["train"]}
    missing = sorted(set(range(classes or 0)) - seen)
    if missing:
        warnings.warn(f"no training example has label {', '.join(map(str, missing))}", stacklevel=3)


def _prepare(model: nn.Module, method: str, rank, alpha, targets, dropout) -> bool:
    """Set what trains; returns True if LoRA layers were injected here."""
    if method == "full":
        model.requires_grad_(True)
        return False
    if method == "head":
        heads = head_names(model)
        if not heads:
            raise ValueError(f"{type(model).__name__} has no `classifier` and no other head to train alone")
        freeze(model)
        for head in heads:
            model.get_submodule(head).requires_grad_(True)
        return False
    for name, layer in lora_layers(model).items():
        if layer.merged or not layer.enabled:
            state = "merged: call unmerge_lora" if layer.merged else "switched off: call enable_lora"
            raise ValueError(f"the update of {name!r} can't train, it is {state}(model) first")
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
    show: TrainerProgress | None,
):
    from transformers import PrinterCallback, Trainer, TrainingArguments

    epochs = profile.epochs if epochs is None else epochs
    devices = max(1, torch.cuda.device_count())  # Trainer multiplies the batch by them
    total_steps = max_steps or epochs * math.ceil(len(examples["train"]) / profile.train_batch_size)
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
        load_best_model_at_end=bool(output_dir),  # A and B too: `lora_ref.pretrained.save_pretrained` writes them
        metric_for_best_model="accuracy",
        logging_steps=math.ceil(total_steps / _LOSS_POINTS),
        seed=seed,
        report_to="none",
        disable_tqdm=show is None or not is_live(sys.stderr),
        remove_unused_columns=False,  # `collate` takes what it needs
        label_names=["labels"],  # Trainer reads them off forward's signature, which a wrapper may hide
        dataloader_pin_memory=torch.cuda.is_available(),  # torch warns where there is nothing to pin for
        **_by_length(TrainingArguments),
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=examples["train"],
        eval_dataset=sorted(examples["validation"], key=length_first),
        data_collator=partial(data_module.collate, tokenizer=tokenizer),
        compute_metrics=compute_metrics,
    )
    trainer.remove_callback(PrinterCallback)
    if show is not None:
        show.add_to(trainer)
    return trainer


def _by_length(arguments: Any) -> dict[str, Any]:
    """Batches of sentences of like length need less padding; transformers 4 and 5 name the option differently."""
    if "train_sampling_strategy" in arguments.__dataclass_fields__:
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


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
