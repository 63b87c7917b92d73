# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training LoRA on film reviews
#
# **Stage 4 of 5** · 25 points · about 3 hours, of which the machine trains for 3 minutes on a laptop's two CPU cores and
# 15 on Colab's T4 · you should know the LoRA layer of stage 2, the injection of stage 3, and PyTorch's `DataLoader`
#
# **Why?** The toy tasks are over: here a pretrained encoder reads film reviews, and you find out what LoRA gives up, if anything. You train
# the same model in three ways and compare what each of them reaches and what it costs. What LoRA learned then goes into one small file,
# and that file into a model that has never seen a review.
#
# In this notebook you will
#
# - **prepare** sentences for a transformer, and pad each batch no further than it needs;
# - **write** the training loop that updates LoRA's parameters and nothing else;
# - **train** one encoder in three ways (only the head on top of it, LoRA, everything) with Hugging Face's Trainer, and compare
#   them;
# - **save** what was learned into one small file, and reload it so that no logit differs by a single bit;
# - **judge** whether two evaluations agree.

# %% locked="setup"
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from lora_ref import adapters, data, models, plots, profiles, training
from lora_ref.checks import check
from lora_ref.checks.gaps import after, passed
from lora_ref.inject import freeze, inject_lora, match_targets
from lora_ref.plots import describe
from lora_ref.rounding import apart

datasets.disable_progress_bars()
torch.manual_seed(0)
profile = profiles.announce(4)

# %% [markdown]
# **How to work.** Replace a gap, `raise NotImplementedError("Exercise 4.1")`, with your code, run the cell, then run the check
# below it. Grading uses other inputs and looks at more: "visible checks passed" is a good sign, not a proof.
#
# Cells between the exercises use the course's own functions, so an open exercise stops nothing. With `USE_MY_CODE = True`
# they use yours, once its check passes.

# %%
USE_MY_CODE = False

print(
    f"{profile.train_size:,} sentences to train on; {profile.epochs} epochs; about {profile.minutes:g} min of training in all"
)


def pick(exercise, mine, reference):
    """Your function once its check passes; until then, or with the switch off, the course's."""
    return mine if USE_MY_CODE and passed(exercise, globals()) else reference


# %% [markdown]
# ## 4.1 From sentences to batches
#
# **SST-2** is a well-known set of short sentences from film reviews, labelled by their sentiment. Our reviews come in its shape, with
# label 1 for a positive sentence. A `DatasetDict` is a dict
# of splits. Each split is a `Dataset`: a table whose columns have one type each (its `features`), kept in an Arrow file on
# disk or in memory and read row by row, so it may be larger than the memory.

# %%
reviews = data.reviews(profile, seed=0)
print(reviews["train"])
for row in reviews["train"].select(range(3)):
    print(row)

# %% [markdown]
# A common mistake is to take the first rows for training, `range(10_000)`. **Predict**: somebody has sorted the file by label. What
# share of the first quarter of its rows is positive, and what share of a quarter taken after a shuffle?

# %%
train_rows = reviews["train"]
quarter = range(len(train_rows) // 4)
by_label = train_rows.select(np.argsort(list(train_rows["label"])))
for name, rows in (("first rows", by_label), ("shuffled first", by_label.shuffle(seed=0))):
    print(f"{name}: {np.mean(rows.select(quarter)['label']):.2f} positive")

# %% [markdown]
# <details><summary>Answer</summary>None of the first quarter is positive: all the negatives come first. After a shuffle
# the share is about that of the whole file, a half.</details>
#
# Few files are sorted this neatly, but few are in random order either. Shuffle with a seed, then select.
#
# A tokenizer turns text into numbers and marks where it begins and ends:

# %%
tokenizer = models.tokenizer(profile)
encoded = tokenizer(train_rows[0]["sentence"])
display(pd.DataFrame({"token": tokenizer.convert_ids_to_tokens(encoded["input_ids"]), **encoded}).T)
print("padding token:", tokenizer.pad_token, tokenizer.pad_token_id)

# %% [markdown]
# A batch is a rectangle, sentences are not. `tokenize` cuts each sentence to at most `max_length` tokens and leaves it at its
# own length; `collate` gets the examples of one batch and pads them to the longest **of that batch**.
#
# > **Exercise 4.1** · 3 points · difficulty 1 of 3 · 20 minutes · [Transformers docs, "Padding and truncation"](https://huggingface.co/docs/transformers/pad_truncation)
# >
# > Fill in both functions. The docstrings are the contract. The mask is 1 on the sentence's tokens and 0 on padding.
#
# <details><summary>Hint 1: a question</summary>Who knows how long the longest sentence of a batch is: the function that sees
# the whole data set, or the one that sees the batch?</details>
# <details><summary>Hint 2: the shapes</summary>Examples with 5, 9 and 7 tokens become <code>input_ids</code> and
# <code>attention_mask</code> of shape (3, 9), and <code>labels</code> of shape (3,). The first row ends in four padding
# tokens.</details>
# <details><summary>Hint 3: almost the code</summary>Call the tokenizer with <code>truncation=True</code> and
# <code>max_length</code>. In collate: <code>longest = max(...)</code>; each row is <code>ids + [pad] * (longest -
# len(ids))</code>, a new list; <code>torch.tensor</code> of the list of rows.</details>


# %% solution="tokenize"
def tokenize(batch, tokenizer, max_length=128):
    """Token numbers of a batch of sentences, for `dataset.map(..., batched=True)`.

    Args:
        batch: a dict; `batch["sentence"]` is a list of strings, which go to the tokenizer as they are.
        tokenizer: a Hugging Face tokenizer, whose settings stay.
        max_length: longer sentences are truncated to so many tokens, special tokens included; the end token stays.

    Returns:
        A dict (or the tokenizer's own result) with `input_ids` and `attention_mask`: one list of integers for each
        sentence, each of its own length. Nothing is padded.
    """
    ### BEGIN SOLUTION 4.1
    return tokenizer(batch["sentence"], truncation=True, max_length=max_length)
    ### END SOLUTION


def collate(examples, tokenizer):
    """One batch of tensors, padded on the right to its longest example.

    Args:
        examples: a list of dicts with `input_ids` and `attention_mask` (lists of integers) and `label` (an integer).
            They stay as they are; a text may hold the padding token, and its mask counts.
        tokenizer: its `pad_token_id` fills the rows, on the right whatever side it has set.

    Returns:
        A dict with `input_ids` and `attention_mask` of shape (batch, longest) and `labels` of shape (batch,), all int64.
    """
    ### BEGIN SOLUTION 4.1
    longest = max(len(example["input_ids"]) for example in examples)
    rows = {"input_ids": [], "attention_mask": []}
    for example in examples:
        for key, filler in (("input_ids", tokenizer.pad_token_id), ("attention_mask", 0)):
            rows[key].append(example[key] + [filler] * (longest - len(example[key])))
    labels = torch.tensor([example["label"] for example in examples])
    return {key: torch.tensor(row) for key, row in rows.items()} | {"labels": labels}
    ### END SOLUTION


# %% check="4.1"
check("4.1", globals())

# %% [markdown]
# `map` with `batched=True` hands your function a thousand rows at a time, as a dict of lists, and adds the columns that it
# returns. It does so once; the loader's `collate_fn` runs at every batch.
#
# **Predict**: padded to 512 tokens each, the model's maximum, how many times as many tokens would the model read as with
# your batches?

# %%
tokenised = reviews.map(
    pick("4.1", tokenize, data.tokenize),
    batched=True,
    fn_kwargs={"tokenizer": tokenizer, "max_length": profile.max_length},
    remove_columns="sentence",
)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_batch(examples):
    """A padded batch, on the training device."""
    batch = pick("4.1", collate, data.collate)(examples, tokenizer)
    return {key: tensor.to(device) for key, tensor in batch.items()}


def make_loader(rows, seed=0):
    """Shuffled batches of rows."""
    order = torch.Generator().manual_seed(seed)
    return DataLoader(rows, profile.train_batch_size, shuffle=True, generator=order, collate_fn=to_batch)


lengths = [len(ids) for ids in tokenised["train"]["input_ids"]]
print(f"tokens in a sentence: {np.mean(lengths):.1f} on average, {max(lengths)} at most")
dynamic = sum(batch["input_ids"].numel() for batch in make_loader(tokenised["train"]))
figure = plots.padding(512 * len(lengths), dynamic, sum(lengths), 512)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>On the laptop profile about ten times as many: 512 a sentence, where the longest of
# a batch of 32 has about 50 on average. Even batch by batch, about half of what the model reads is padding.</details>
#
# All that padding costs time and memory. **Predict**: does it change what the model answers?

# %%
batch = next(iter(make_loader(tokenised["train"])))
fillers = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0}
wider = {key: F.pad(batch[key], (0, 30), value=filler) for key, filler in fillers.items()}
model = models.base_model(profile).to(device)
with torch.no_grad():
    gap = (model(**batch).logits - model(**wider).logits).abs().max().item()
print(f"with 30 more columns of padding the logits change {apart(gap)}")

# %% [markdown]
# <details><summary>Answer</summary>No, only by rounding: the attention mask takes padding out of every sum, but sums in
# another order round differently.</details>
#
# ## 4.2 One number for a model
#
# The Trainer calls `compute_metrics` after each evaluation, with all logits and labels as NumPy arrays. A **logit** is a score for a class; only
# comparing those of one row means something, and the prediction is the class with the largest.
#
# > **Exercise 4.2** · 2 points · difficulty 1 of 3 · 5 minutes · [Transformers docs, "Trainer"](https://huggingface.co/docs/transformers/main_classes/trainer), `compute_metrics`
# >
# > Fill in `compute_metrics`. It must work for any number of classes.
#
# <details><summary>Hint 1: a question</summary>Logits have shape (n, classes). Which axis disappears when each row is asked for
# its best class?</details>
# <details><summary>Hint 2: the shapes</summary>(n, classes) → argmax → (n,); compared with labels (n,) → n truth values → one
# number.</details>
# <details><summary>Hint 3: almost the code</summary><code>logits, labels = eval_pred</code>, then the mean of
# <code>np.argmax(logits, axis=-1) == labels</code>, as a float in a dict.</details>


# %% solution="metrics"
def compute_metrics(eval_pred):
    """Accuracy of a classifier, as the Trainer asks for it.

    Args:
        eval_pred: unpacks into logits of shape (n, classes) and labels of shape (n,), NumPy arrays, which stay as they
            are. That is all that is promised: the Trainer's object unpacks, and so does a tuple.

    Returns:
        `{"accuracy": share of rows whose largest logit is at the label}`, between 0 and 1.
    """
    ### BEGIN SOLUTION 4.2
    logits, labels = eval_pred
    predictions = np.argmax(logits, axis=-1)
    return {"accuracy": float((predictions == labels).mean())}
    ### END SOLUTION


# %% check="4.2"
check("4.2", globals())

# %% [markdown]
# **Predict**: a model gives the same two logits for every sentence. Which accuracy does it reach on the validation split?

# %%
with after("4.2", "the accuracy of a model that ignores the sentence"):
    labels = np.array(tokenised["validation"]["label"])
    for logits in ([0.3, -0.3], [-7.0, -6.0]):
        print(logits, compute_metrics((np.tile(logits, (len(labels), 1)), labels)))

# %% [markdown]
# <details><summary>Answer</summary>The share of the class that it always names: about a half here, whichever it is, since the
# two classes are almost equally frequent.</details>
#
# An accuracy says little without the one that you get for nothing: the share of the more frequent class.
#
# ## 4.3 A learning rate that rises and falls
#
# Adam's first steps rest on few gradients, so the learning rate starts at 0 and rises (the warm-up); towards the end it falls to 0, so that
# the weights settle.
#
# > **Exercise 4.3** · 2 points · difficulty 1 of 3 · 10 minutes · [Transformers docs, `get_linear_schedule_with_warmup`](https://huggingface.co/docs/transformers/main_classes/optimizer_schedules)
# >
# > Fill in `linear_schedule`: the factor by which the learning rate is multiplied.
#
# <details><summary>Hint 1: a question</summary>At which step does the second line start, and how many steps does it have left to
# fall?</details>
# <details><summary>Hint 2: values</summary>10 steps in all, 4 of them warm-up: 0, 0.25, 0.5, 0.75, 1, 5/6, 4/6, 3/6, 2/6, 1/6, and 0 from
# step 10 on.</details>
# <details><summary>Hint 3: almost the code</summary>If <code>step &lt; warmup_steps</code>: their quotient. Otherwise (steps left) /
# (steps after the warm-up), with <code>max(1, ...)</code> around the divisor and <code>max(0, ...)</code> around it
# all.</details>


# %% solution="schedule"
def linear_schedule(step, total_steps, warmup_steps):
    """What the learning rate is multiplied by at `step` (counted from 0).

    From 0 at step 0 in a line to 1 at `warmup_steps`, from there in a line to 0 at `total_steps`; 0 afterwards.
    Without warm-up it is 1 at step 0. Never negative, and no error where the warm-up is as long as the run.
    """
    ### BEGIN SOLUTION 4.3
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))
    ### END SOLUTION


# %% check="4.3"
check("4.3", globals())

# %% [markdown]
# One homework on this task asks for 500 warm-up steps. Our run has as many steps as the next cell prints first. **Predict**: with 500
# warm-up steps, what share of its learning rate would it reach?

# %%
total_steps = profile.epochs * math.ceil(len(tokenised["train"]) / profile.train_batch_size)
warmup_steps = round(profile.warmup_fraction * total_steps)
print(f"{total_steps} steps, of which {warmup_steps} are ours to warm up")
with after("4.3", "two schedules for this run"):
    curves = {
        f"warm-up of {rise} steps": [float(linear_schedule(step, total_steps, rise)) for step in range(total_steps + 1)]
        for rise in (warmup_steps, 500)
    }
    figure = plots.schedules(curves)
    display(figure)
    print(describe(figure))
    half = linear_schedule(626 // 2, 626, 500)
    print(f"the homework's run has 626 steps: half of them are over at {half:.0%} of its rate, on the way to step 500")

# %% [markdown]
# <details><summary>Answer</summary>The laptop profile's 126 steps reach a quarter: step 126 of 500 is as far as it
# gets, and then the run is over. Our own warm-up is a tenth of the run.</details>
#
# In the homework the warm-up takes most of the run; in a shorter run it never ends. Choose a warm-up as a share of the run; don't copy the number.
#
# ## 4.4 The training loop
#
# Take a batch, compute the loss, clear the old gradients, compute new ones, update; again. What makes it LoRA is which parameters
# the optimiser holds. If it also holds a frozen one, that one stays still only until somebody leaves a gradient on it.
#
# > **Exercise 4.4** · 6 points · difficulty 2 of 3 · 30 minutes · [PyTorch docs, `torch.optim`, "Taking an optimization step"](https://docs.pytorch.org/docs/stable/optim.html)
# >
# > Fill in `train`. When the loader ends, start it again, so that it can shuffle again. Keep the losses as floats: a loss kept as a tensor keeps its whole graph. `base_model` returns models in evaluation mode.
#
# <details><summary>Hint 1: a question</summary>After <code>for batch in loader</code> has ended, what does a second
# <code>for batch in loader</code> do? And what would <code>itertools.cycle(loader)</code> do?</details>
# <details><summary>Hint 2: the order</summary>model(**batch).loss (a scalar) → zero_grad → backward → step → loss.item(). One list
# entry a step.</details>
# <details><summary>Hint 3: almost the code</summary><code>torch.optim.AdamW</code> on a list of the parameters with
# <code>requires_grad</code>; <code>while len(losses) &lt; steps:</code> around <code>for batch in loader:</code>, with a
# <code>break</code> when there are enough.</details>


# %% solution="train"
def train(model, loader, steps, lr):
    """Train the trainable parameters with AdamW at a constant learning rate.

    Args:
        model: `model(**batch)` returns an object with `.loss`. Some parameters are frozen; they stay as they are. It
            may come in evaluation mode, and is in training mode at each step. What trains has no gradient yet. An error
            that it raises is not caught.
        loader: yields batches (dicts of tensors, which stay as they are); it may have no length. When it ends before `steps` are done, it is
            started again, and may shuffle again: the random numbers go on.
        steps: updates to make, 0 or more, and no more than that.
        lr: AdamW's learning rate, the same at each step. Its weight decay is yours to choose (Adam without any is the
            same).

    Returns:
        A list of `steps` floats: each step's loss, as it was before the step's update.
    """
    ### BEGIN SOLUTION 4.4
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=lr)
    model.train()
    losses = []
    while len(losses) < steps:
        for batch in loader:
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
    return losses
    ### END SOLUTION


# %% check="4.4"
check("4.4", globals())

# %% [markdown]
# Now your loop on the real model. **Predict**: how many of its parameters will have changed?


# %%
def adapted_model(seed=0):
    """The base model, always the same, with a new head and LoRA of rank 8 in every linear layer of the encoder."""
    model = models.base_model(profile)
    torch.manual_seed(seed)
    model.classifier.dense.reset_parameters()
    model.classifier.out_proj.reset_parameters()
    return inject_lora(model, training.ENCODER_LINEARS, rank=8, alpha=16).to(device)


sample = tokenised["validation"].select(range(min(200, len(tokenised["validation"]))))
with after("4.4", "20 steps of your own training loop on the real model"):
    model = adapted_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    accuracy = [training.evaluate(model, sample, tokenizer)["accuracy"]]
    losses = train(model, make_loader(tokenised["train"]), steps=20, lr=profile.learning_rates["lora"])
    accuracy.append(training.evaluate(model, sample, tokenizer)["accuracy"])
    changed = sum(p.numel() for name, p in model.named_parameters() if not torch.equal(p, before[name]))
    print(f"changed: tensors with {changed:,} of {sum(p.numel() for p in before.values()):,} parameters")
    print(f"accuracy on {len(sample)} validation sentences: {accuracy[0]:.3f} before, {accuracy[1]:.3f} after")
    figure = plots.own_loop(losses, profile.train_batch_size)
    display(figure)
    print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>The 480,386 that train (laptop profile), 2.1% of the model: A and B in every linear
# layer, and the head. The frozen ones have not changed by a bit.</details>
#
# ### Does a falling loss show that something was learned?
#
# A common demonstration trains on random labels and shows a falling loss. **Predict**: 32 sentences with labels from a coin, 80
# steps of your loop. Which accuracy on these sentences, and on others?

# %%
with after("4.4", "what a model learns from random labels"):
    small = profiles.get("tiny")
    rows, words = data.reviews(small), models.tokenizer(small)
    sides = np.random.default_rng(0).permutation(32) % 2
    coin = [row | {"label": int(side)} for row, side in zip(rows["train"].select(range(32)), sides, strict=True)]
    tokens = data.tokenize({"sentence": [row["sentence"] for row in coin]}, words)
    examples = [
        {"input_ids": ids, "attention_mask": mask, "label": row["label"]}
        for ids, mask, row in zip(tokens["input_ids"], tokens["attention_mask"], coin, strict=True)
    ]
    model = inject_lora(models.base_model(small), training.ENCODER_LINEARS, rank=8, alpha=16)
    losses = train(model, [data.collate(examples, words)], steps=80, lr=1e-2)
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    for name, part in (("the 32 sentences", coin), ("others, with their true labels", rows["test"])):
        print(f"accuracy on {name}: {training.evaluate(model, part, words)['accuracy']:.2f}")

# %% [markdown]
# <details><summary>Answer</summary>All 32 right, and guessing on the others (on 128 sentences, anything from 0.4 to 0.6
# would not surprise; one seed may stray further).</details>
#
# The model learned 32 answers by heart. Only sentences that it hasn't seen can tell that from understanding.
#
# ## The Trainer: head, LoRA, everything
#
# Hugging Face's `Trainer` is your loop with the rest around it. `train()` repeats: collate a batch, forward, loss, backward, clip the gradients'
# norm at 1, step of AdamW, step of the schedule, log; after each epoch it calls `evaluate()`, which runs the model over the validation split
# without gradients and hands all logits to `compute_metrics`.
#
# Is it really your loop? Give both the same model, the same batches in the same order, and the same optimiser at a constant learning
# rate without clipping. **Predict**: to how many digits do the losses agree?

# %%
with after("4.4", "your loop beside the Trainer, loss by loss"):
    small = profiles.get("tiny")  # no dropout in it, so nothing is left to chance
    rows, words = data.reviews(small)["train"].select(range(64)), models.tokenizer(small)
    tokens = rows.map(data.tokenize, batched=True, fn_kwargs={"tokenizer": words}, remove_columns="sentence")
    loader = DataLoader(list(tokens), 8, collate_fn=lambda examples: data.collate(examples, words))

    class SameBatches(Trainer):
        """The Trainer with batches of ours in place of its own shuffled ones."""

        def get_train_dataloader(self):
            return loader

    def small_lora():
        torch.manual_seed(0)
        return inject_lora(models.base_model(small), training.ENCODER_LINEARS, rank=8, alpha=16)

    twin = small_lora()
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="lora-course-"),
        max_steps=16,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    optimizer = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=1e-2)
    trainer = SameBatches(model=twin, args=arguments, train_dataset=list(tokens), optimizers=(optimizer, None))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    mine = train(small_lora(), loader, steps=16, lr=1e-2)
    gap = max(abs(a - b) for a, b in zip(mine, theirs, strict=True))
    print(f"losses of 16 steps, {mine[0]:.4f} to {mine[-1]:.4f}; the two runs differ {apart(gap, tolerance=1e-4)}")

# %% [markdown]
# <details><summary>Answer</summary>To every digit but the last ones: it is the same arithmetic, and only rounding
# differs.</details>
#
# There is no magic in it. The Trainer also shuffles; on request it puts sentences of similar length into one batch, which saves most of the padding
# that was left; and it clips, schedules and logs.
#
# ### Four learning rates
#
# Four short runs of the tiny model that differ in nothing but the learning rate and its schedule: ours; the copied warm-up of 500
# steps; 5e-5, a usual rate for full fine-tuning; ten times ours. **Predict** the order of their last losses.

# %%
from torch.optim.lr_scheduler import LambdaLR

rate, steps, curves = small.learning_rates["lora"], 60, {}
for name, (peak, rise) in {
    "ours": (rate, 6),
    "warm-up of 500": (rate, 500),
    "rate 5e-5": (5e-5, 6),
    "ten times the rate": (10 * rate, 6),
}.items():
    model, curves[name] = small_lora().train(), []
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=peak)
    schedule = LambdaLR(optimizer, lambda step, rise=rise: training.linear_schedule(step, steps, rise))
    for batch in [*loader] * 8:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        curves[name].append(loss.item())
figure = plots.variations({name: losses[:steps] for name, losses in curves.items()})
display(figure)
print(describe(figure))
print(f"learning rates of the profile {profile.name}: {dict(profile.learning_rates)}")

# %% [markdown]
# <details><summary>Answer</summary>Ours ends lowest, near zero. The copied warm-up starts learning late and is still on its
# way. Ten times our rate falls back to guessing, and 5e-5 has never left it.</details>
#
# None of this raises an error. The copied warm-up gets to an eighth of its rate by the last step. LoRA wants a higher rate than full
# fine-tuning (the last line has those of the trainings below), but not just any. When a loss stays at guessing, look at the rate first: it may be too low or too high.
#
# Two more lines that often get copied. **Predict** what each of them does: `!export` in a cell, and `logging_dir` for the Trainer.

# %%
from importlib.metadata import version

subprocess.run("export LORA_COURSE=1", shell=True, check=False, capture_output=True)  # what !export does
print("after !export LORA_COURSE=1 the notebook sees:", os.environ.get("LORA_COURSE"))
try:
    TrainingArguments(output_dir=tempfile.gettempdir(), logging_dir="logs", report_to="none")
    print("logging_dir: accepted by transformers", version("transformers"))
except TypeError as error:
    print(f"logging_dir: {error} (transformers {version('transformers')})")

# %% [markdown]
# <details><summary>Answer</summary>!export sets nothing that the notebook sees: the shell that it starts ends with the
# line. logging_dir is accepted by transformers 4 and is a TypeError in transformers 5.</details>
#
# `!` starts a shell that ends with its line; `os.environ` or `%env` stay. Arguments come and go with releases, so check the date of an example before you copy it.
#
# ### Three trainings
#
# `training.fine_tune` sets the Trainer up in the same way three times; what differs is which parameters train, and the learning rate. Here
# it is, folded:

# %%
display(plots.folded_source(training.fine_tune))

# %% [markdown]
# **Predict** the order of the three accuracies, and that of the three times.

# %%
results = {"head": training.fine_tune("head", profile, data=tokenised, tokenizer=tokenizer, seed=0)}

# %%
results["lora"] = training.fine_tune("lora", profile, data=tokenised, tokenizer=tokenizer, rank=8, alpha=16, seed=0)

# %%
results["full"] = training.fine_tune("full", profile, data=tokenised, tokenizer=tokenizer, seed=0)

# %%
table = pd.DataFrame([result.row() for result in results.values()])
table = table.drop(columns="peak memory MB")  # of one process that ran all three: it says nothing about a method
# float32: one gradient and AdamW's two averages for each trainable parameter
table["gradients and AdamW MB"] = 3 * 4 * table["trainable"] / 1e6
display(table.round(3))

# %%
figure = plots.loss_curves(list(results.values()))
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>On the laptop profile: LoRA and full fine-tuning are level, and the head alone is
# far behind (about 0.70 against 0.84). The head is by far the fastest, LoRA next, full fine-tuning slowest: LoRA on all
# linear layers took about two thirds of its seconds.</details>
#
# **Predict** before the next figure: it draws a 95% interval around each accuracy, for the luck of which test sentences were drawn. Which of
# the three can this test set tell apart?

# %%
figure = plots.compare_methods(list(results.values()))
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>The head from the other two, on the laptop profile. LoRA's interval and full
# fine-tuning's cover nearly the same range: as far as these sentences can tell, LoRA gives up nothing.</details>
#
# The paper found the same on a larger scale: `roberta-base` on SST-2, trained to the end, reached 95.1 ± 0.2 with LoRA (0.3 M trainable
# parameters) and 94.8 with full fine-tuning (125 M; table 2).
#
# The interval is about which sentences were drawn; another seed moves the points too. LoRA's forward and backward passes still go
# through the whole encoder, but for a frozen weight no gradient is computed, so a step takes less time: see the table's seconds (tiny is
# too small to show it; for GPT-3, the paper's section 4.2 reports a speed-up of 25%). What shrinks far more is what exists once for each *trainable* parameter: its
# gradient, AdamW's two averages (the table's last column), and the file that you keep.
#
# ## 4.5 The adapter: one small file

# %%
figure = plots.adapter_file()
display(figure)
print(describe(figure))

# %% [markdown]
# The file's format is **safetensors**: names, shapes and numbers, and no code that could run when somebody opens it.
#
# > **Exercise 4.5** · 6 points · difficulty 3 of 3 · 40 minutes · [safetensors docs, "Torch API"](https://huggingface.co/docs/safetensors/api/torch)
# >
# > Fill in both functions. `load_adapter` meets files that were made for another rank, another model, or by somebody else's code: it checks
# > **everything before it changes anything**.
#
# <details><summary>Hint 1: a question</summary>Which property have LoRA's tensors and the head in common after
# <code>inject_lora</code>? And which three things can be wrong with a dict of names and tensors?</details>
# <details><summary>Hint 2: the shape of it</summary>save: names → tensors, one call. load: file → dict <code>saved</code>; model → dict
# <code>expected</code> of the same kind; compare the sets of names in both directions, then each shape; then copy.</details>
# <details><summary>Hint 3: almost the code</summary><code>save_file({name: p.detach().contiguous() for ... if
# p.requires_grad}, path)</code>. In load: <code>expected.keys() ^ saved.keys()</code> must be empty and all shapes equal, else
# ValueError; then <code>parameter.copy_(saved[name])</code> under <code>torch.no_grad()</code>.</details>


# %% solution="adapter"
def save_adapter(model, path):
    """Write the LoRA tensors and the trainable head, bit for bit, and nothing else, into one safetensors file.

    Args:
        model: has LoRA layers (`LinearWithLoRA`: their parameters are called `...lora_A` and `...lora_B`).
        path: of the file; an existing one is overwritten.
    """
    ### BEGIN SOLUTION 4.5
    tensors = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(tensors, path)
    ### END SOLUTION


def load_adapter(model, path):
    """Copy a saved adapter into a model that was injected in the same way.

    Its parameters stay the same objects, which an optimiser may hold, and train as before. The model's mode stays.

    Raises:
        ValueError: a tensor is missing from the file, is not expected (as all are in a model without LoRA), or has
            another shape. Then nothing has changed.
    """
    ### BEGIN SOLUTION 4.5
    saved = load_file(path)
    expected = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names = sorted(expected.keys() ^ saved.keys())
    if names:
        raise ValueError(f"missing or unexpected: {names[:5]}")
    shapes = [name for name in expected if expected[name].shape != saved[name].shape]
    if shapes:
        raise ValueError(f"of another shape: {shapes[:5]}")
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(saved[name])
    ### END SOLUTION


# %% check="4.5"
check("4.5", globals())

# %% [markdown]
# Why so strict? `copy_` broadcasts: a tensor of shape (1, n) fills a parameter of shape (m, n) without a word. And
# `load_state_dict(strict=False)` takes a file that has none of the model's names.
#
# **Predict** the adapter's size as a share of the base model's.

# %%
folder = Path(tempfile.mkdtemp(prefix="lora-course-"))
path = folder / "adapter.safetensors"
trained = results["lora"].model.to(device)
fresh = adapted_model(seed=1)  # another head, another A: all that was learned must come from the file
with after("4.5", "the adapter's size, and the logits of a reloaded model"):
    save_adapter(trained, path)
    load_adapter(fresh, path)
    base_bytes = sum(p.numel() * p.element_size() for p in models.base_model(profile).parameters())
    size = path.stat().st_size
    print(f"adapter {size / 1e6:.2f} MB, base model {base_bytes / 1e6:.1f} MB: {size / base_bytes:.1%}")
    rows = tokenised["validation"].select(range(100))
    logits = [training.predict_logits(m, rows, tokenizer) for m in (trained, fresh)]
    print(
        "equal bit for bit:", torch.equal(*logits), "| largest difference:", (logits[0] - logits[1]).abs().max().item()
    )

# %% [markdown]
# <details><summary>Answer</summary>On the laptop profile about 2% of the base model (1.9 MB of 91). And no logit differs: the file holds the same bits.</details>
#
# ### LoRA without its head
#
# A common mistake is to keep LoRA's tensors alone as "the adapter". **Predict** the accuracy of a fresh model that loads those and has a
# random head.

# %%
with_head, without_head = adapted_model(seed=1), adapted_model(seed=2)
adapters.load_adapter(with_head, adapters.save_adapter(trained, folder / "whole.safetensors"))
lora_alone = {name: tensor for name, tensor in load_file(folder / "whole.safetensors").items() if "lora_" in name}
without_head.load_state_dict(lora_alone, strict=False)
for name, model in (("with its head", with_head), ("with a new head", without_head)):
    accuracy = training.evaluate(model, sample, tokenizer)["accuracy"]
    print(f"{name}: accuracy {accuracy:.3f} on {len(sample)} validation sentences")

# %% [markdown]
# <details><summary>Answer</summary>Nothing to rely on: a random head doesn't know which class is which, so it may land near
# a half or well off it, even below. With its head it is the trained model again.</details>
#
# The head was trained with LoRA, and it is the only part that knows which class is which. Whatever was trained belongs in the file.
#
# ### In a fresh process
#
# A reload inside the same notebook proves little: an object may have survived. **Predict**: a new Python process gets the file's path and
# nothing else. Do its logits agree?

# %%
program = """
import sys
import numpy as np
from lora_ref import adapters, data, models, profiles, training
from lora_ref.inject import inject_lora

profile = profiles.get(sys.argv[1])
model = inject_lora(models.base_model(profile, seed=9), training.ENCODER_LINEARS, rank=8, alpha=16)
adapters.load_adapter(model, sys.argv[2])
rows = data.reviews(profile, seed=0)["validation"].select(range(50))
np.save(sys.argv[3], training.predict_logits(model, rows, models.tokenizer(profile)).numpy())
"""
if profile.name == "tiny":
    print("left out on the tiny profile: a process takes longer to start than all the rest of this section")
else:
    command = [
        sys.executable,
        "-c",
        program,
        profile.name,
        str(folder / "whole.safetensors"),
        str(folder / "logits.npy"),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run(command, check=True, env=environment)
    here = training.predict_logits(trained.cpu(), tokenised["validation"].select(range(50)), tokenizer)
    there = torch.from_numpy(np.load(folder / "logits.npy"))
    trained.to(device)
    print(f"50 sentences, logits of two processes: they differ {apart((here - there).abs().max().item())}")

# %% [markdown]
# <details><summary>Answer</summary>They agree, up to rounding at most (another process may add up in another order).
# Everything that was learned is in the file.</details>
#
# ## 4.6 Are these two evaluations the same?
#
# A reloaded model should evaluate as the trained one did. One homework compares the two dicts with `==`, and raises an error
# if they differ. **Predict**: do they?


# %%
def evaluation(model):
    """What the Trainer's own evaluate() says of a model on those validation sentences."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_eval_batch_size=profile.eval_batch_size,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,  # collate takes what it needs
        label_names=["labels"],
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        eval_dataset=sample,
        data_collator=lambda examples: pick("4.1", collate, data.collate)(examples, tokenizer),
        compute_metrics=pick("4.2", compute_metrics, training.compute_metrics),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer.evaluate()


first, second = evaluation(trained), evaluation(with_head)
display(
    pd.DataFrame({"trained": first, "reloaded": second, "equal": {key: first[key] == second[key] for key in first}})
)
print("first == second:", first == second)

# %% [markdown]
# <details><summary>Answer</summary>They differ: loss and accuracy are equal, but the timings are not.</details>
#
# > **Exercise 4.6** · 2 points · difficulty 1 of 3 · 10 minutes · [Python docs, `math.isclose`](https://docs.python.org/3/library/math.html#math.isclose)
# >
# > Fill in `metrics_match`. The docstring says which keys do not count.
#
# <details><summary>Hint 1: a question</summary>What should <code>metrics_match({"eval_loss": 0.5}, {})</code> say, and the same the other way
# round?</details>
# <details><summary>Hint 2: the parts</summary>Two dicts without their timing keys; equal sets of keys; all values close, relative to their
# size.</details>
# <details><summary>Hint 3: almost the code</summary><code>key.endswith(("runtime", "per_second", "preparation_time"))</code> takes several endings;
# <code>math.isclose(x, y, rel_tol=1e-6)</code> for the values.</details>


# %% solution="match"
def metrics_match(a, b):
    """True if two evaluations found the same, whatever time they took.

    Keys that end in `runtime`, `per_second` or `preparation_time` do not count. Floats are equal if they differ by at
    most a millionth of their size (relative 1e-6), however small; a key that only one side has is a difference. What is
    nan or infinite on one side alone is a difference; two empty evaluations match.
    """
    ### BEGIN SOLUTION 4.6
    timing = ("runtime", "per_second", "preparation_time")
    a = {key: value for key, value in a.items() if not key.endswith(timing)}
    b = {key: value for key, value in b.items() if not key.endswith(timing)}
    return a.keys() == b.keys() and all(math.isclose(a[key], b[key], rel_tol=1e-6) for key in a)
    ### END SOLUTION


# %% check="4.6"
check("4.6", globals())

# %%
with after("4.6", "whether trained and reloaded model evaluate the same"):
    print("trained and reloaded:", metrics_match(first, second))
    print("trained and headless:", metrics_match(first, evaluation(without_head)))

# %% [markdown]
# ## 4.7 The Trainer, line by line
#
# > **Exercise 4.7** · 4 points, graded by hand · difficulty 2 of 3 · 25 minutes · [Transformers docs, "Trainer"](https://huggingface.co/docs/transformers/main_classes/trainer); [Datasets docs, "Process"](https://huggingface.co/docs/datasets/process)
# >
# > In 150 to 300 words: (a) What does a `Dataset` hold, and what does `map(..., batched=True)` hand to your function and do with its
# > result? *[1 point]* (b) What does the Trainer need to be told, and what happens in one step of `train()`? *[1 point]* (c) What does
# > `evaluate()` do differently? *[1 point]* (d) Go through your `compute_metrics` line by line, with the shape of each array. *[1 point]*

# %% [markdown] written="4.7"
# (a) A `Dataset` is a table: named columns of one type each (`features`), here `sentence` (string) and `label` (0 or 1), stored in Arrow
# format and read from there, not as Python objects. `map` with `batched=True` calls the function with a dict of lists, 1,000 rows at a time;
# the columns that it returns are added, columns of the same name replaced, and the result is a new `Dataset`. (Of one that lies
# on the disk, `map` keeps its result there, under a fingerprint of data and function, and need not compute it again.) `remove_columns` drops `sentence`.
#
# (b) The Trainer is given a model, `TrainingArguments` (epochs, batch sizes, learning rate, warm-up, when to evaluate and save), the data
# sets, a collator and `compute_metrics`. In one step `train()` takes a shuffled batch of examples, lets the collator pad it, computes
# `model(**batch).loss`, calls backward, clips the gradient's norm, makes one AdamW step on the parameters that require a gradient, one step of the
# learning-rate schedule, and clears the gradients.
#
# (c) `evaluate()` puts the model into evaluation mode (no dropout), goes once through the evaluation set in order, without gradients or
# updates, collects all logits and labels, calls `compute_metrics`, and returns its dict with the prefix `eval_`, the mean loss and the timing.
#
# (d) `logits, labels = eval_pred` unpacks arrays of shape (n, 2) and (n,). `np.argmax(logits, axis=-1)` gives the index of the larger logit
# in each row, shape (n,): the predicted class. `predictions == labels` is n truth values; their mean is the share of right answers,
# returned as a float under "accuracy".
#
# ### BEGIN MARK SCHEME
# - **1 point, (a)**: a table with typed columns (Arrow; not "a list of dicts in memory") (half a point); map passes a dict of lists and adds or
#   replaces columns in a new Dataset (half a point). "It applies the function to every row" alone, for `batched=True`, earns nothing.
# - **1 point, (b)**: at least four of: collate, forward and loss, backward, clipping, optimiser step, schedule step, clearing of gradients, logging;
#   in an order that works. Three: half a point.
# - **1 point, (c)**: evaluation mode, no gradients and no update (half a point); all logits to `compute_metrics`, result with `eval_` and
#   timing keys (half a point).
# - **1 point, (d)**: every line with its shape. Half a point without shapes, or where argmax is explained as "the highest
#   probability" with no word on the axis.
# - An answer copied from documentation that names functions which this notebook does not use earns at most half of each part.
# ### END MARK SCHEME

# %% [markdown]
# ## In practice: your adapter in PEFT
#
# Hugging Face's `peft` is what most people use for LoRA. It keeps an adapter as two files: the tensors, and a configuration that says how to
# build the layers. **Predict**: your file, loaded by your function, written in PEFT's layout and loaded by `peft`: do its logits agree? And what must the
# configuration say?

# %%
import importlib.util
import json
import warnings

with after("4.5", "your adapter, loaded by peft"):
    mine = adapted_model(seed=3)
    load_adapter(mine, path)  # the file that your save_adapter wrote
    adapters.save_adapter(mine, folder / "for_peft", format="peft")
    settings = json.loads((folder / "for_peft" / "adapter_config.json").read_text(encoding="utf-8"))
    for key in ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "modules_to_save"):
        print(f"{key:16} {settings[key]}")
    if importlib.util.find_spec("peft") is None:
        print("peft is not installed: run %pip install peft in a cell of your own, then this cell again")
    else:
        from peft import PeftModel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, at how peft asks it something
            theirs = PeftModel.from_pretrained(models.base_model(profile), folder / "for_peft").to(device).eval()
        logits = [training.predict_logits(m, rows, tokenizer) for m in (mine, theirs)]
        gap = (logits[0] - logits[1]).abs().max().item()
        print(f"{len(rows)} sentences: your model and peft's differ {apart(gap)}")

# %% [markdown]
# <details><summary>Answer</summary>They agree. PEFT computes the same sum, so it needs the same numbers: the rank and
# alpha (or the scale would be lost), the names of the layers, and which modules were trained whole, here the
# classifier. What it doesn't hold is the base model: both sides must start from the same one.</details>
#
# In your own projects, `LoraConfig(r=8, lora_alpha=16, target_modules=[...])` and `get_peft_model(model, config)` do what your `inject_lora`
# does. You now know what is inside.

# %% [markdown]
# ## Stretch: variations on LoRA
#
# These exercises are optional: checked like all others, but without points. **DoRA** ([arXiv:2402.09353](https://arxiv.org/abs/2402.09353)) splits
# a weight into lengths and directions: LoRA changes the directions, the lengths train directly. As a weight parametrization:
#
# > **Exercise 4.8** · optional, no points · difficulty 2 of 3 · 15 minutes · [DoRA paper, sections 4.1 and 4.3](https://arxiv.org/abs/2402.09353)
# >
# > Fill in `DoRA`. A row of `W` holds the weights of one output; each row has a length of its own.
#
# <details><summary>Hint 1: a question</summary>When B is zero, which length gives back each row of W exactly?</details>
# <details><summary>Hint 2: shapes</summary>W and the update: (out, in). The lengths: (out, 1), so that each meets all of its row. A norm
# along <code>dim=1</code> with <code>keepdim=True</code> has that shape.</details>
# <details><summary>Hint 3: almost the code</summary><code>turned = W + scaling * (B @ A)</code>; the result is <code>length * turned /
# turned.norm(...)</code>, and that norm is detached.</details>


# %% solution="dora"
class DoRA(nn.Module):
    """W -> a trained length for each row of W + (alpha / rank) B A, whose own length counts for nothing.

    Args:
        W: the weight that it will be registered on, of shape (out, in).
        rank, alpha: of the update.

    Attributes:
        lora_A: parameter of shape (rank, in), random.
        lora_B: parameter of shape (out, rank), zeros.
        lora_length: parameter of shape (out, 1): at first the length of each row of `W`.
    """

    def __init__(self, W, rank, alpha):
        super().__init__()
        ### BEGIN SOLUTION 4.8
        self.lora_A = nn.Parameter(torch.randn(rank, W.shape[1]) / math.sqrt(W.shape[1]))
        self.lora_B = nn.Parameter(torch.zeros(W.shape[0], rank))
        self.lora_length = nn.Parameter(W.detach().norm(dim=1, keepdim=True))
        self.scaling = alpha / rank
        ### END SOLUTION

    def forward(self, W):
        """The weight that the layer uses: `W` as it was registered, frozen, of shape (out, in); it stays as it is.

        The gradient takes the length that is divided by for a constant (section 4.3 of the paper).
        """
        ### BEGIN SOLUTION 4.8
        turned = W + self.scaling * (self.lora_B @ self.lora_A)
        return self.lora_length * turned / turned.norm(dim=1, keepdim=True).detach()
        ### END SOLUTION


# %% check="4.8"
check("4.8", globals())

# %% [markdown]
# **Like QLoRA** ([arXiv:2305.14314](https://arxiv.org/abs/2305.14314)): frozen weights are kept in 4 bits each and unpacked where they are used; LoRA's own matrices stay in
# float32. Four bits tell 16 numbers apart. They are spaced as normal weights are, and each block of 32 weights has a scale of its own.
#
# > **Exercise 4.9** · optional, no points · difficulty 3 of 3 · 25 minutes · [QLoRA paper, section 3](https://arxiv.org/abs/2305.14314)
# >
# > Fill in `FourBit`. As a parametrization, `right_inverse` says what is kept of a weight, and `forward` makes the weight of it again.
#
# <details><summary>Hint 1: a question</summary>A byte has 256 values. Which of them stands for the two codes 3 and 10, and how do you get both
# back? What does a block of zeros do to a division?</details>
# <details><summary>Hint 2: the order</summary>Blocks of 32 → the largest absolute value of each → for each number the index of the level that is
# nearest → two indices in a byte. Back: two indices → levels → times the scale → W's shape.</details>
# <details><summary>Hint 3: almost the code</summary><code>W.reshape(-1, 32)</code>; <code>(ratio[..., None] -
# levels).abs().argmin(-1)</code>; <code>high * 16 + low</code>, then <code>packed // 16</code> and
# <code>packed % 16</code>.</details>


# %% solution="four_bit"
class FourBit(nn.Module):
    """A weight kept as 4-bit codes, two in a byte, with a scale for each block of 32 numbers in reading order.

    Attributes:
        levels: what the 16 codes stand for, from about -1 to 1.
    """

    levels = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.02, 0.98, 16))  # weights are roughly normal
    levels = levels / levels.max()

    def right_inverse(self, W):
        """What is kept of `W`, whose count of numbers is a multiple of 32; `W` itself stays as it is.

        Returns:
            `(packed, scales)`: a uint8 for each two numbers, and in W's dtype each block's largest absolute value. A
            number's code is that of the level nearest to number / scale. In what form is yours to choose.
        """
        ### BEGIN SOLUTION 4.9
        self.shape = W.shape
        blocks = W.reshape(-1, 32)
        scales = blocks.abs().amax(1, keepdim=True)
        ratios = blocks / scales.clamp_min(1e-30)  # a block of zeros has the scale 0
        codes = (ratios[..., None] - self.levels.to(W)).abs().argmin(-1).to(torch.uint8)
        return codes[:, ::2] * 16 + codes[:, 1::2], scales
        ### END SOLUTION

    def forward(self, packed, scales):
        """The weight that the layer uses, in W's shape: level times scale, of the codes and scales that are given."""
        ### BEGIN SOLUTION 4.9
        codes = torch.stack([packed // 16, packed % 16], -1).flatten(1).long()
        return (self.levels.to(scales)[codes] * scales).reshape(self.shape)
        ### END SOLUTION


# %% check="4.9"
check("4.9", globals())

# %% [markdown]
# Two more don't need a new module. **rsLoRA** ([arXiv:2312.03732](https://arxiv.org/abs/2312.03732)) divides by the square root of the rank, which helps at high ranks; **LoRA+**
# ([arXiv:2402.12354](https://arxiv.org/abs/2402.12354)) gives `B` a higher learning rate than `A`, 16 times here.
#
# **Predict**: how large is the error of a weight in 4 bits, relative to the weight? And does LoRA still learn on such a base?
#
# The `tiny` model's sentences are made up, so the figure shows that each variation trains, not which one is best. `STRETCH = "laptop"` takes real
# sentences (a minute).

# %%
STRETCH = "tiny"
small = profiles.get(STRETCH)
rows, words = data.reviews(small, seed=0), models.tokenizer(small)
tokens = rows["train"].map(data.tokenize, batched=True, fn_kwargs={"tokenizer": words}, remove_columns="sentence")
loader = DataLoader(list(tokens)[:480], 16, collate_fn=lambda examples: data.collate(examples, words))


def variation(name):
    """A model that trains in this way, and its optimiser's parameter groups."""
    torch.manual_seed(0)
    rate = small.learning_rates["lora"] / 4  # low enough for all of them
    model = freeze(models.base_model(small))
    layers = [model.get_submodule(layer) for layer in match_targets(model, training.ENCODER_LINEARS)]
    if name == "DoRA":
        for layer in layers:
            register_parametrization(layer, "weight", DoRA(layer.weight, 8, 16))
        model.classifier.requires_grad_(True)
    else:
        if name == "4-bit base":
            weights = [layer.weight.detach().clone() for layer in layers]
            for layer in layers:
                register_parametrization(layer, "weight", FourBit())
            error = math.sqrt(
                sum((layer.weight - W).square().sum() for layer, W in zip(layers, weights, strict=True))
                / sum(W.square().sum() for W in weights)
            )
            kept = sum(p.nbytes for layer in layers for p in layer.parametrizations.weight.parameters())
            print(f"4-bit base: {kept / sum(W.nbytes for W in weights):.0%} of the bytes, error {error:.1%}")
        inject_lora(model, training.ENCODER_LINEARS, rank=8, alpha=16, rslora=name == "rsLoRA")
    trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
    rate_A, rate_B = (rate / 4, 4 * rate) if name == "LoRA+" else (rate, rate)
    return model, [
        {"params": [p for key, p in trainable.items() if "lora_B" not in key], "lr": rate_A},
        {"params": [p for key, p in trainable.items() if "lora_B" in key], "lr": rate_B},
    ]


def losses_of(name):
    """The loss of each step."""
    model, groups = variation(name)
    optimizer, losses = torch.optim.AdamW(groups), []
    model.train()
    for batch in [*loader] * (8 if STRETCH == "tiny" else 1):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


curves = {name: losses_of(name) for name in ("LoRA", "rsLoRA", "LoRA+")}
with after("4.8", "how DoRA trains"):
    curves["DoRA"] = losses_of("DoRA")
with after("4.9", "how LoRA trains on a base in 4 bits"):
    curves["4-bit base"] = losses_of("4-bit base")
figure = plots.variations(curves)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>About 9%: sixteen levels are few, but they are spaced as the weights are. With its
# scales the base takes 16% of the bytes.</details>
#
# The model trains all the same: LoRA learns around the rounding. What QLoRA adds to this cell is
# kernels that unpack fast, and scales that are quantised once more.
#
# ## Stretch: the Trainer's loop by hand
#
# A batch of 32 that does not fit is four batches of 8 whose gradients add up before one update: **gradient accumulation**. Batches may be
# of unequal size; the mean that counts is the one over sentences. (The Trainer, too, took the mean of the batches' means until version 4.46 of October 2024.)
#
# > **Exercise 4.10** · optional, no points · difficulty 3 of 3 · 25 minutes · [Transformers docs, "Trainer"](https://huggingface.co/docs/transformers/main_classes/trainer)
# >
# > Fill in `train_accumulated`: what the Trainer does between two log lines.
#
# <details><summary>Hint 1: a question</summary>One batch has 2 sentences, the other 6. Which share of the whole mean does each batch's
# own mean have?</details>
# <details><summary>Hint 2: the order</summary>Take the step's batches → count their sentences → zero_grad → for each batch: loss times
# its share, backward → clip → set the rate → step.</details>
# <details><summary>Hint 3: almost the code</summary>A generator that says <code>while True: yield from loader</code> never ends;
# <code>nn.utils.clip_grad_norm_(trainable, max_norm)</code>; <code>optimizer.param_groups</code> is a list of dicts with
# <code>"lr"</code>.</details>


# %% solution="accumulate"
def train_accumulated(model, loader, steps, lr, schedule, accumulate=4, max_norm=1.0):
    """Train what has `requires_grad` with AdamW; each step adds up the gradients of several batches.

    Args:
        model: as in `train`. Each batch goes through it by itself, in training mode.
        loader: yields batches (dicts of tensors) with `labels`, of unequal sizes. When it ends, be it within a step, it is
            started again.
        steps: updates to make, 0 or more.
        lr: AdamW's learning rate; its weight decay is yours to choose.
        schedule: `schedule(step)` is the factor of `lr` in that step, counted from 0.
        accumulate: batches in a step.
        max_norm: the norm at which a step's gradient, of all that trains together, is clipped.

    Returns:
        A list of `steps` floats: the mean loss over all sentences of each step, as it was before its update. The step's
        gradient is this mean's.
    """
    ### BEGIN SOLUTION 4.10

    def endless():
        while True:
            yield from loader

    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=lr, weight_decay=0.0)
    model.train(True)
    batches, history = endless(), []
    for step in range(steps):
        group = [next(batches) for _ in range(accumulate)]
        sentences = sum(len(batch["labels"]) for batch in group)
        optimizer.zero_grad()
        total = 0.0
        for batch in group:
            part = model(**batch).loss * len(batch["labels"]) / sentences
            part.backward()
            total += part.item()
        nn.utils.clip_grad_norm_(trainable, max_norm)
        for settings in optimizer.param_groups:
            settings["lr"] = lr * schedule(step)
        optimizer.step()
        history.append(total)
    return history
    ### END SOLUTION


# %% check="4.10"
check("4.10", globals())

# %% [markdown]
# **Predict**: eight batches of 2 sentences or one of 16, the same sentences and the same model: do the losses agree?

# %%
with after("4.10", "eight small batches beside a large one"):
    small = profiles.get("tiny")  # no dropout in it
    rows, words = data.reviews(small)["train"].select(range(64)), models.tokenizer(small)
    tokens = list(rows.map(data.tokenize, batched=True, fn_kwargs={"tokenizer": words}, remove_columns="sentence"))

    def losses_at(size, accumulate):
        """The losses of 8 steps on batches of this size."""
        torch.manual_seed(0)
        model = inject_lora(models.base_model(small), training.ENCODER_LINEARS, rank=8, alpha=16)
        batches = DataLoader(tokens, size, collate_fn=lambda examples: data.collate(examples, words))
        return train_accumulated(model, batches, 8, 1e-2, lambda step: 1 - step / 8, accumulate)

    eight, one = losses_at(2, 8), losses_at(16, 1)
    gap = max(abs(a - b) for a, b in zip(eight, one, strict=True))
    print(f"losses {one[0]:.3f} to {one[-1]:.3f}; the two runs differ {apart(gap, tolerance=1e-4)}")

# %% [markdown]
# <details><summary>Answer</summary>Yes, up to rounding: it is one mean over the same 16 sentences. What differs is the
# memory, that of 2 sentences' activations, and the time, since small batches use a processor less well.</details>
#
# **Your own e-mails.** Two folders of `.eml` files, `0/` and `1/`, are enough for a classifier: set `MAIL`.

# %%
import email
import email.policy

MAIL = None  # Path("my_mails"), with my_mails/0/*.eml and my_mails/1/*.eml


def mail_rows(folder):
    """Rows with `sentence` and `label`, in random order: the subject and the first words of each mail."""
    rows = []
    for label in (0, 1):
        for file in sorted(Path(folder, str(label)).glob("*.eml")):
            mail = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
            body = mail.get_body(("plain",))
            text = f"{mail['subject'] or ''}. {body.get_content() if body else ''}"
            rows.append({"sentence": " ".join(text.split()[:80]), "label": label})
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


if MAIL is None:
    print("MAIL is None: nothing to train on")
else:
    rows = mail_rows(MAIL)
    fifth = len(rows) // 5
    splits = {"test": rows[:fifth], "validation": rows[fifth : 2 * fifth], "train": rows[2 * fifth :]}
    mails = training.fine_tune("lora", profile, data=splits, tokenizer=tokenizer, seed=0)
    share = np.mean([row["label"] for row in splits["test"]])
    print(
        f"accuracy {mails.test['accuracy']:.3f} on {fifth} mails; always guessing the larger class: {max(share, 1 - share):.3f}"
    )

# %% [markdown]
# ## Before you go on
#
# Answer in your head first, then unfold.
#
# 1. Your GPU is full. You halve the number of trainable parameters. Which part of the memory shrinks, and which does not?
#
#    <details><summary>Answer</summary>Gradients and optimiser states of those parameters halve. The weights stay, and
#    so do most of the activations.</details>
# 2. A colleague's run of 300 steps learns nothing at a learning rate that works for you. Which line of the configuration do you read first?
#
#    <details><summary>Answer</summary>The warm-up: 500 steps of it never end in a run of 300. Then the learning rate
#    itself.</details>
# 3. Somebody sends you an adapter of 1.3 MB without `classifier` in it. What do you ask?
#
#    <details><summary>Answer</summary>Where the head is. LoRA's tensors without the head they were trained with
#    classify at random, unless the head was pretrained and frozen.</details>
# 4. Two runs differ by 0.01 in accuracy on 1,000 sentences. What does the figure's interval say about that?
#
#    <details><summary>Answer</summary>That the difference is well inside it: 1,000 sentences leave about two points
#    either way, so the runs are level.</details>
#
# **What next.** Stage 5 asks what was learned: ranks, layers, spectra, and several adapters on one base. The variations above
# are good first projects: measure one of them on the laptop profile over three seeds.
