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
# # What did LoRA learn?
#
# **Stage 5 of 5** · 15 points · about 3 hours, of which the machine trains for 2 minutes on a laptop's two CPU cores ·
# you should know the singular value decomposition of stage 1 and the training of stage 4
#
# **Why?** You have seen that LoRA works. Why does it? The paper's answer is that the change a task needs has low rank, and its evidence
# comes from GPT-3. Your model is small enough to open up: which rank is enough, where the change sits, which directions two
# trainings share. Some of what the paper found you will find too, and some you won't. Both are results, and the report asks for them.
#
# In this notebook you will
#
# - **measure** what the rank buys, and how far two runs of the same rank differ;
# - **compare** which layers are worth adapting, for the same number of parameters;
# - **read** the spectrum of a trained update, and the directions that two trainings share;
# - **compose** adapters that were trained for different tasks, and mix them with a slider;
# - **report** on four questions, with your own figures.

# %% locked="setup"
import copy
import dataclasses
import re

import datasets
import ipywidgets as widgets
import pandas as pd
import torch
from IPython.display import display
from torch import nn
from transformers import set_seed

from lora_ref import analysis, costs, data, models, plots, profiles, sweeps, training
from lora_ref.adapter_set import AdapterSet
from lora_ref.checks import check
from lora_ref.checks.gaps import after, passed
from lora_ref.inject import inject_lora, lora_layers
from lora_ref.plots import describe
from lora_ref.rounding import apart
from lora_ref.rank import lora_param_count

datasets.disable_progress_bars()
torch.manual_seed(0)
profile = profiles.announce(5)

# %% [markdown]
# **How to work.** Replace a gap, `raise NotImplementedError("Exercise 5.1")`, with your code, run the cell, then run the check
# below it. Grading uses other inputs and looks at more: "visible checks passed" is a good sign, not a proof.
#
# Cells between the exercises use the course's own functions, so an open exercise stops nothing. With `USE_MY_CODE = True`
# they use yours, once its check passes. Note the figures that you will cite in the report, exercise 5.5; its cell lists them again.

# %%
USE_MY_CODE = False

short = dataclasses.replace(
    profile, train_size=profile.train_size // 2, validation_size=64, test_size=min(500, profile.test_size), epochs=1
)
# higher than in stage 4: after so few steps at 1e-3 chance would decide
rates = {"lora": 3e-3, "full": 2e-4} if profile.name == "laptop" else profile.learning_rates
steps = -(-short.train_size // short.train_batch_size)
print(f"{short.train_size:,} sentences, 1 epoch of {steps} steps")
print(f"learning rate: {rates['lora']:g} for LoRA, {rates['full']:g} for full fine-tuning")


def pick(exercise, mine, reference):
    """Your function once its check passes; until then, or with the switch off, the course's."""
    return mine if USE_MY_CODE and passed(exercise, globals()) else reference


# %% [markdown]
# ## 5.1 What does the rank buy?
#
# A sweep trains the same model once for each rank and collects the results in a table with one row for each. The training itself is somebody else's
# job: a function `run(rank)` that returns what it measured.
#
# > **Exercise 5.1** · 2 points · difficulty 1 of 3 · 10 minutes · LoRA paper ([arXiv:2106.09685](https://arxiv.org/abs/2106.09685)), section 7.2, table 6
# >
# > Fill in `rank_sweep`. Each call of `run` is a whole training, so call it once for each rank.
#
# <details><summary>Hint 1: a question</summary>What does <code>run</code>'s dict not hold that the table needs?</details>
# <details><summary>Hint 2: the shapes</summary>A list of dicts, one for each row, becomes a DataFrame with one column for each
# key.</details>
# <details><summary>Hint 3: almost the code</summary><code>rows = [run(rank) | {"rank": rank} for ...]</code>, then
# <code>pd.DataFrame(rows, columns=[...])</code>: the list chooses the columns and their order.</details>


# %% solution="sweep"
def rank_sweep(run, ranks):
    """One training for each rank, as a table.

    Args:
        run: `run(rank)` trains once and returns a dict with `trainable`, `accuracy` and `seconds`, and perhaps more. It
            is called by position. An error that it raises is not caught.
        ranks: a list of whole numbers, in any order; one may be given twice.

    Returns:
        A DataFrame with the columns `rank`, `trainable`, `accuracy`, `seconds` and no others; one row for each
        of the ranks, in the order given.
    """
    ### BEGIN SOLUTION 5.1
    rows = [run(rank) | {"rank": rank} for rank in ranks]
    return pd.DataFrame(rows, columns=["rank", "trainable", "accuracy", "seconds"])
    ### END SOLUTION


# %% check="5.1"
check("5.1", globals())

# %% [markdown]
# Now for real. The trainings are short, so that you can wait for them: half of stage 4's sentences, once.
#
# What should stay equal when only the rank differs? Stage 2 measured that the update after one step keeps roughly the same size if the scale falls
# with $\sqrt{r}$. So `alpha` is 16 at rank 8 and grows with $\sqrt{r}$. (The usual `alpha = 2 * rank` keeps the scale instead. Try it: at
# this learning rate rank 64 then hardly gets off guessing, to about 0.6.)

# %%
reviews = data.reviews(short, seed=0)
tokenizer = models.tokenizer(short)
tokenised = reviews.map(
    data.tokenize,
    batched=True,
    fn_kwargs={"tokenizer": tokenizer, "max_length": short.max_length},
    remove_columns="sentence",
)
trained, starts = {}, {}  # by (rank, seed): the model, and each layer's A before training


def adapt(rank, seed=0, targets=training.ENCODER_LINEARS):
    """A fresh base model with LoRA on its targets."""
    set_seed(seed)
    return inject_lora(models.base_model(short, seed=seed), targets, rank=rank, alpha=16 * (rank / 8) ** 0.5)


def fit(model, seed=0, rows=tokenised, **options):
    """One short training."""
    return training.fine_tune(
        "lora", short, model=model, data=rows, tokenizer=tokenizer, seed=seed, learning_rate=rates["lora"],
        progress=False, **options,
    )  # fmt: skip


def run(rank, seed=0):
    """Train with this rank and keep the model."""
    model = adapt(rank, seed)
    starts[rank, seed] = {name: layer.lora.lora_A.detach().clone() for name, layer in lora_layers(model).items()}
    result = fit(model, seed)
    trained[rank, seed] = result.model
    print(f"rank {rank}, seed {seed}: test accuracy {result.test['accuracy']:.3f}, {result.seconds:.0f} s", flush=True)
    return {"trainable": result.trainable, "accuracy": result.test["accuracy"], "seconds": result.seconds}


# %% [markdown]
# **Predict**: rank 64 has eight times rank 8's LoRA parameters, and rank 8 eight times rank 1's. How many points of accuracy is each
# step worth?

# %%
sweep = pick("5.1", rank_sweep, analysis.rank_sweep)(run, [1, 8, 64])
display(sweep.round(3))

# %% [markdown]
# <details><summary>Answer</summary>On the laptop profile, nothing that this sweep can see: ranks 1, 8 and 64 reached
# 0.752, 0.750 and 0.758.</details>
#
# **Predict**: rank 8 with another seed, which draws another head, another `A` and another order of the sentences. Does its
# accuracy move by less than the ranks differ?

# %%
again = pick("5.1", rank_sweep, analysis.rank_sweep)(lambda rank: run(rank, seed=1), [8])
both = pd.concat([sweep.assign(seed=0), again.assign(seed=1)])
n = len(tokenised["test"])
figure = plots.rank_sweep(both, n)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>No: on the laptop profile another seed moved rank 8 by 1.4 points; with one seed the three
# ranks differ by 0.8. (The title compares with the mean of rank 8's two seeds.)</details>

# %%
low, high = plots.wilson_interval(sweep["accuracy"].max(), n)
print(f"95% interval of the best accuracy of seed 0, from {n} test sentences alone: {low:.3f} to {high:.3f}")
by_rank = both.groupby("rank")["accuracy"]
moved = (by_rank.max() - by_rank.min())[by_rank.count() > 1].max()
print(f"the same rank, another seed: up to {100 * moved:.1f} points; steps of training: {steps}")

# %% [markdown]
# This sweep cannot show a best rank: so few steps, one or two seeds and a few hundred sentences leave several points to chance. What it
# can show is whether a rank is far too small. The paper trained to the end and found rank 1 enough for query and value in GPT-3 (table 6).
#
# So here is a longer sweep, made in advance: stage 4's sentences, two epochs, three seeds. To make it again (a quarter of an hour on two quiet cores; it
# resumes if interrupted), in a terminal:
#
#     python -m lora_ref sweep --profile laptop --ranks 1 8 64 --seed 0 1 2
#
# **Predict**: does it tell the ranks apart?

# %%
longer = sweeps.three_seeds()
figure = plots.rank_sweep(longer, profiles.get("laptop").test_size)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>Partly. Rank 1 (0.807 on average) is clearly behind rank 8 (0.841): its best seed is
# below rank 8's worst. Rank 64 (0.829) is 1.2 points behind rank 8: enough for the title, which asks for two standard
# errors, but single seeds of the two overlap. And its rank may not be the cause: with alpha = 2 * rank at one learning
# rate for all, it takes larger steps.</details>
#
# ## Which layers gain most?
#
# Compare groups of layers at the **same number of parameters**, or nearly: a group of fewer layers gets a higher rank. **Predict** the order:
# query and value, the feed-forward layers, or everything at rank 8.

# %%
base = models.base_model(short)
groups = sweeps.target_groups(base)
cost_of_one = {
    name: sum(
        lora_param_count(layer.out_features, layer.in_features, 1) for layer in map(base.get_submodule, groups[name])
    )
    for name in ("query+value", "feed-forward", "all")
}
budget = 8 * cost_of_one["all"]
everything = sweep[sweep["rank"] == 8].iloc[0].to_dict()
rows = [{**everything, "targets": "all", "seed": 0}]
for name in ("query+value", "feed-forward"):
    rank = budget // cost_of_one[name]
    result = fit(adapt(rank, targets=groups[name]))
    rows.append(
        {"targets": name, "rank": rank, "seed": 0, "trainable": result.trainable, "accuracy": result.test["accuracy"]}
    )
ablation = pd.DataFrame(rows).astype({"rank": int, "trainable": int})
figure = plots.target_ablation(ablation, n)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>There is no order to be seen: the three groups lie within two points of each other
# (feed-forward 0.764, everything 0.750, query and value 0.744 on the laptop profile), and seeds differ by nearly as
# much.</details>
#
# It's one seed each, so a gap that is not much larger than the one between seeds above is no gap. (The paper's table 5 compares the attention's
# matrices like this, and prefers several of them at a low rank to one at a high rank.)
#
# ## 5.2 How many directions does an update use?
#
# Rank 8 is room for eight directions. The singular values of $\Delta W = \frac{\alpha}{r} B A$ say how much of that room is used.
#
# > **Exercise 5.2** · 2 points · difficulty 1 of 3 · 10 minutes · LoRA paper, section 7.2
# >
# > Fill in `delta_spectrum`. It takes a wrapper, whose update is its `.lora`, or the update itself.
#
# <details><summary>Hint 1: a question</summary>Which attribute does a wrapper have that a bare <code>LoRALayer</code>
# doesn't?</details>
# <details><summary>Hint 2: the shapes</summary>B (out, rank) @ A (rank, in) → (out, in) → min(out, in) singular values, of which
# all beyond the rank are zero.</details>
# <details><summary>Hint 3: almost the code</summary><code>lora = getattr(layer, "lora", layer)</code>; the update from its
# <code>scaling</code>, <code>lora_B</code> and <code>lora_A</code>, detached; <code>torch.linalg.svdvals</code>.</details>


# %% solution="spectrum"
def delta_spectrum(layer):
    """Singular values of a layer's update, scaling * B A.

    Args:
        layer: a `LinearWithLoRA` (its update is `layer.lora`), merged or not, or a `LoRALayer`. It stays as it is.

    Returns:
        A tensor of min(out, in) values, or of rank values (the others are zero), largest first.
    """
    ### BEGIN SOLUTION 5.2
    lora = getattr(layer, "lora", layer)
    update = lora.scaling * lora.lora_B @ lora.lora_A
    return torch.linalg.svdvals(update.detach())
    ### END SOLUTION


# %% check="5.2"
check("5.2", globals())

# %%
middle = list(lora_layers(trained[8, 0]))[len(lora_layers(trained[8, 0])) // 2]
with after("5.2", "the singular values of one trained update"):
    values = delta_spectrum(lora_layers(trained[8, 0])[middle])[:8]
    print(middle)
    print("singular values:", ", ".join(f"{value:.3f}" for value in values))
    energy = values.square() / values.square().sum()
    print("share of the squared norm:", ", ".join(f"{share:.0%}" for share in energy))

# %% [markdown]
# Two things to compare with. **Full fine-tuning** has room for every direction. And **chance**: a product of two random
# matrices of rank 8 does not use its eight directions evenly either.
#
# **Predict**: how many directions hold 90% of the update's squared norm, after LoRA of rank 8, of rank 64, by chance at
# rank 8, and after full fine-tuning?

# %%
full = training.fine_tune(
    "full", short, data=tokenised, tokenizer=tokenizer, learning_rate=rates["full"], progress=False
)
print(f"full: test accuracy {full.test['accuracy']:.3f}, {full.trainable:,} parameters, {full.seconds:.0f} s")

# %%
chance = adapt(8)
for layer in lora_layers(chance).values():
    nn.init.normal_(layer.lora.lora_B, std=0.01)
spectra = {
    "chance r=8": analysis.spectra(chance),
    "LoRA r=8": analysis.spectra(trained[8, 0]),
    "LoRA r=64": analysis.spectra(trained[64, 0]),
    "full": analysis.update_spectra(full.model, models.base_model(short)).query("module.str.contains('encoder')"),
}
figure = plots.spectra(spectra)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>In the median layer of the laptop profile: 5 directions for rank 8, 14 for rank 64,
# 7 by chance, and 84 after full fine-tuning.</details>
#
# Compare these counts with the room that each has (on the laptop profile). Even after so short a training rank 8 uses its directions less evenly than chance: its first one
# alone holds about half of the squared norm (see the left panel). Rank 64 puts most of its change into a part of its directions, and full
# fine-tuning spreads a smaller change over many. So "the change of full fine-tuning has low rank" is not what we see here. "A change of
# low rank does as well" may be: compare the accuracies.
#
# Where in the encoder is the change? By kind of layer, as a share of the frozen weight's norm:

# %%
kinds = spectra["LoRA r=8"].assign(kind=lambda frame: frame["module"].str.extract(r"layer\.\d+\.(.*)", expand=False))
by_kind = kinds.groupby("kind")[["relative", "effective_rank"]].mean().sort_values("relative", ascending=False)
display(by_kind.round(3))

# %% [markdown]
# ## 5.3 Do two trainings find the same directions?
#
# The paper compares adapters of rank 8 and 64 for GPT-3. With $U_1^i$ the $i$ leading right-singular directions of $A_1$, and $U_2^j$ those
# of $A_2$,
#
# $$\phi(i, j) = \frac{\lVert (U_1^i)^\top U_2^j \rVert_F^2}{\min(i, j)}$$
#
# is 1 where one space contains the other and 0 where they are orthogonal. Two random directions of an $n$-dimensional space have
# $1/n$ on average. The paper finds more than 0.5 for the top direction.
#
# > **Exercise 5.3** · 3 points · difficulty 2 of 3 · 20 minutes · LoRA paper, section 7.2, equation 4
# >
# > Fill in `subspace_similarity`.
#
# <details><summary>Hint 1: a question</summary>A is (rank, in). Which of U, S and Vh holds directions in the space of
# inputs, and are they its rows or its columns?</details>
# <details><summary>Hint 2: the shapes</summary>(i, in) @ (in, j) → (i, j) → square, sum → one number.</details>
# <details><summary>Hint 3: almost the code</summary><code>torch.linalg.svd(A1, full_matrices=False).Vh[:i]</code>, the same with
# A2 and j; the product's <code>.square().sum()</code>; <code>.item()</code>; divided by <code>min(i, j)</code>.</details>


# %% solution="similarity"
def subspace_similarity(A1, A2, i, j):
    """How much two sets of leading directions share, from 0 to 1.

    Args:
        A1, A2: tensors of shapes (r1, n) and (r2, n), such as two trained `lora_A`. They stay as they are.
        i, j: how many leading right-singular directions of A1, and of A2, from 1 to r1 and r2.

    Returns:
        A float: the squared Frobenius norm of all products of the two sets, divided by min(i, j).
    """
    ### BEGIN SOLUTION 5.3
    V1 = torch.linalg.svd(A1, full_matrices=False).Vh[:i]
    V2 = torch.linalg.svd(A2, full_matrices=False).Vh[:j]
    return (V1 @ V2.T).square().sum().item() / min(i, j)
    ### END SOLUTION


# %% check="5.3"
check("5.3", globals())

# %% [markdown]
# Now ranks 8 and 64. `A` says which inputs an update listens to. `B` says which outputs it writes to: its
# left-singular directions are the right-singular ones of `B.T`, so the same function compares those.
#
# **Predict** the lower left corner, $\phi(1, 1)$, on both sides.

# %%
# different seeds: from one seed, the first layer's A of rank 8 and of rank 64 start with the same rows
first, second = (lora_layers(trained[key])[middle].lora for key in ((8, 1), (64, 0)))
grids = {
    "input side, A": analysis.similarity_grid(first.lora_A, second.lora_A, 8, 8).numpy(),
    "output side, B": analysis.similarity_grid(first.lora_B, second.lora_B, 8, 8, side="output").numpy(),
}
print(middle)
figure = plots.similarity(grids, {"input side, A": first.lora_A.shape[1], "output side, B": len(first.lora_B)})
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>Close to nothing on both sides: 0.01 for the inputs and 0.02 for the outputs in this
# layer of the laptop profile. That is more than chance (0.003) and nowhere near 0.5. Over all eight directions the
# output side shares much more, 0.18 against 0.03.</details>
#
# That is one layer. **Predict**: in how many layers does the top direction's overlap reach the paper's 0.5?

# %%
pairs = {
    "ranks 8 and 64": analysis.overlaps(trained[8, 1], trained[64, 0]),
    "rank 8, two seeds": analysis.overlaps(trained[8, 0], trained[8, 1]),
}
figure = plots.layer_overlaps(pairs)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>In none. On the laptop profile the medians are 0.01 to 0.04, above chance and far
# below 0.5.</details>
#
# Why so little? **Predict**: how much of the space that `A` spanned before training, at random, does it
# still span after it?

# %%
similarity = pick("5.3", subspace_similarity, analysis.subspace_similarity)
kept = {}
for (rank, seed), model in trained.items():
    if rank == 8:
        shares = [
            similarity(starts[rank, seed][name].cpu(), layer.lora.lora_A.detach().cpu(), rank, rank)
            for name, layer in lora_layers(model).items()
        ]
        kept[seed] = sum(shares) / len(shares)
        print(f"rank {rank}, seed {seed}: A keeps {kept[seed]:.1%} of its initial subspace, mean over layers")

# %% [markdown]
# <details><summary>Answer</summary>About 90% on the laptop profile, though A did train.</details>
#
# After so few steps `A` still spans most of the space it was drawn in, and two draws have nothing in common. `B` started at
# zero: everything in it was learned. On the laptop profile eight of its directions do share more; its *first* is hardly more settled
# than `A`'s. The paper trained to the end. Four times our steps at stage 4's rate come nearer to its 0.5: these lines (two minutes; then run
# the last two figures' cells again) gave us medians of 0.13 for `A` and 0.20 for `B`, though `A` kept 91% of its space. At 3e-3, rank 64 ended
# at guessing.
#
#     rates["lora"] = 1e-3
#     for rank, seed in ((8, 1), (64, 0)):
#         trained[rank, seed] = fit(adapt(rank, seed), seed, epochs=4).model
#
# ## What it costs
#
# **Predict**: which part of the memory shrinks with LoRA: weights, gradients, optimiser states, or the activations that wait for the
# backward pass?

# %%
device = next(full.model.parameters()).device
longest_first = sorted(tokenised["train"], key=lambda row: -len(row["input_ids"]))
batch = data.collate(longest_first[: short.train_batch_size], tokenizer)
batch = {key: tensor.to(device) for key, tensor in batch.items()}
head_only = models.base_model(short).to(device).requires_grad_(False)
head_only.classifier.requires_grad_(True)
activations = {
    method: costs.activation_bytes(model, batch)
    for method, model in (("head", head_only), ("lora", trained[8, 0]), ("full", full.model))
}
memory = costs.cost_table(models.base_model(short), training.ENCODER_LINEARS, [1, 8, 64])
figure = plots.costs(memory, activations)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>Gradients and optimiser states shrink, 47-fold on the laptop profile. The weights do
# not, and with every linear layer adapted the activations hardly do. Only the head-only run keeps few activations:
# nothing below the head needs a gradient.</details>
#
# Gradients and optimiser states exist once for each trainable parameter. Activations are kept where the backward pass needs them: a layer's
# input for the gradient of its weight, or of `A`. So their saving depends on the targets (stage 1 measured about a third less for
# query and value alone). Counting needs no weights, so here is roberta-base, in MB without activations:

# %%
larger = costs.cost_table(costs.roberta_base_config(), training.ENCODER_LINEARS, [8]).set_index("method")
megabytes = (larger[["weights", "gradients", "optimizer", "memory"]] / 1e6).round(1)
display(megabytes.assign(trainable=larger["trainable"].map("{:,}".format)))

# %% [markdown]
# And when the model is used? **Predict**: what does an update beside each weight cost in a forward pass, and what when merged into it?

# %%
few = {key: tensor[:4] for key, tensor in batch.items()}
latency = costs.merge_latency(trained[8, 0], few, repeats=10)
figure = plots.latency(latency)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>Beside the weights, updates usually cost a few per cent to a fifth more time (on the
# laptop profile). Merged they cost nothing: what differs from 1 is noise, which on a busy machine can drown both.</details>
#
# Merged, the model is the base model with other numbers in it, down to the count of operations. Other kinds of adapters, which put
# extra layers in series, cannot do that.
#
# ## 5.4 Several adapters on one base
#
# Updates of one weight can be added: $\Delta W = \sum_k w_k \, s_k B_k A_k$, with $s_k$ each adapter's own scale. You may meet a
# demonstration with three adapters for three tasks, none of which has been trained. **Predict** the largest entry of its sum.

# %%
torch.manual_seed(0)
fresh = [analysis.compose([layer], [1.0]) for layer in list(lora_layers(adapt(8)).values())[:3]]
print("largest entries of three untrained updates:", [update.abs().max().item() for update in fresh])

# %% [markdown]
# <details><summary>Answer</summary>Exactly 0: each B is zero until it trains, so the sum of the three updates is the
# zero matrix.</details>
#
# > **Exercise 5.4** · 2 points · difficulty 2 of 3 · 15 minutes · LoRA paper, section 4.2, on switching tasks
# >
# > Fill in `compose`. The ranks may differ, and so may the scales.
#
# <details><summary>Hint 1: a question</summary>Why is (B_1 + B_2)(A_1 + A_2) not B_1 A_1 + B_2 A_2? And what does
# <code>zip</code> do with lists of unequal lengths?</details>
# <details><summary>Hint 2: the shapes</summary>Each B A is (out, in), whatever its rank; so is the sum.</details>
# <details><summary>Hint 3: almost the code</summary>A ValueError if the lengths differ; then
# <code>total = total + weight * lora.scaling * (B @ A).detach()</code> over
# <code>zip(layers, weights)</code>, with <code>lora</code> as in exercise 5.2.</details>


# %% solution="compose"
def compose(layers, weights):
    """The weighted sum of several updates of one weight: sum_k weights[k] * scaling_k * B_k A_k.

    Args:
        layers: a list of at least one `LinearWithLoRA` or `LoRALayer`, of the same sizes; ranks and scalings may differ.
            They stay as they are.
        weights: a list of numbers, one for each layer; the lists stay, too. They may be negative, and need not sum to 1.

    Returns:
        A tensor of shape (out, in).

    Raises:
        ValueError: there are not as many weights as layers.
    """
    ### BEGIN SOLUTION 5.4
    if len(layers) != len(weights):
        raise ValueError(f"{len(layers)} layers, {len(weights)} weights")
    total = 0
    for layer, weight in zip(layers, weights, strict=True):
        lora = getattr(layer, "lora", layer)
        total = total + weight * lora.scaling * (lora.lora_B @ lora.lora_A).detach()
    return total
    ### END SOLUTION


# %% check="5.4"
check("5.4", globals())

# %% [markdown]
# Now three adapters that were trained, on one frozen base: your rank-8 adapter for **sentiment**; one of rank 4 for **film**, whether a sentence
# names the medium (film, movie); one for **story**, whether it mentions the story, plot or script. The labels of the last two are made
# from the words. Each has its own head.

# %%
RULES = {
    "film": {"film", "films", "movie", "movies"},
    "story": {"story", "stories", "plot", "plots", "script", "tale"},
}


def task(wanted):
    """The tokenised sentences with a new label, 1 where a wanted word is in them; equally many of each."""
    splits = {}
    for split, rows in reviews.items():
        labels = [int(bool(wanted & set(re.findall(r"[a-z]+", text.lower())))) for text in rows["sentence"]]
        sides = [[number for number, label in enumerate(labels) if label == side] for side in (0, 1)]
        some = sorted(number for side in sides for number in side[: min(map(len, sides))])
        splits[split] = [dict(tokenised[split][number], label=labels[number]) for number in some]
    return splits


tasks = {"sentiment": tokenised} | {name: task(wanted) for name, wanted in RULES.items()}
several = AdapterSet(copy.deepcopy(trained[8, 0]), name="sentiment")
for name in RULES:
    set_seed(0)
    several.add(name, training.ENCODER_LINEARS, rank=4, alpha=8)
    result = fit(several.model, rows=tasks[name], max_steps=12)
    print(f"{name}: {len(tasks[name]['train'])} sentences, 12 steps, {result.seconds:.0f} s", flush=True)

# %% [markdown]
# **Predict** for each task: the accuracy with its own adapter; with the adapters' sum, each at weight 1, and the task's own
# head; and with its head on the bare encoder.


# %%
def accuracy(name):
    """Accuracy of the model as it is now on the first test sentences of a task."""
    rows = list(tasks[name]["test"])[:200]
    return training.evaluate(several.model, rows, tokenizer, short.eval_batch_size, short.max_length)["accuracy"]


def mixed(weights, name):
    """Accuracy on a task of the weighted sum of adapters, with the task's own head."""
    several.compose(weights, "mix", head=name)
    try:
        return accuracy(name)
    finally:
        several.remove("mix")


rows = []
for name in tasks:
    rows.append({
        "task": name,
        "own adapter": mixed({name: 1.0}, name),
        "sum of three": mixed(dict.fromkeys(tasks, 1.0), name),
        "no adapter": mixed({name: 0.0}, name),
    })  # fmt: skip
together = pd.DataFrame(rows).set_index("task")
display(together.round(3))

# %% [markdown]
# <details><summary>Answer</summary>On the laptop profile each task does best, or nearly so, with its own adapter. The sum keeps
# film (0.985), but costs sentiment 17 points (0.750 to
# 0.580) and story 23 (0.904 to 0.670). A head on the bare encoder gets 0.590, 0.720 and 0.755: for sentiment and story, no adapter at all
# does better than the sum.</details>

# %%
with after("5.4", "your sum beside the course's, in one layer"):
    updates = []
    for name in tasks:
        several.activate(name)
        updates.append(lora_layers(several.model)[middle].lora)
    weights = [1.0, 0.5, -0.5]
    several.compose(dict(zip(tasks, weights, strict=True)), "mix", head="sentiment")
    theirs = lora_layers(several.model)[middle].lora
    gap = (compose(updates, weights) - theirs.delta_weight()).abs().max().item()
    print(f"ranks {[len(update.lora_A) for update in updates]} -> one update of rank {len(theirs.lora_A)}")
    largest = theirs.delta_weight().abs().max().item()
    print(f"largest entry {largest:.3g}; the two sums differ {apart(gap, scale=largest)}")
    several.remove("mix")

# %% [markdown]
# The course's `AdapterSet` puts the factors side by side, so the sum is exact and its rank the sum of the ranks.
#
# **Predict** the curves: weight $1 - w$ on sentiment, $w$ on film, each task with its own head. Is there a $w$ at which both work?

# %%
mixes = [
    {"weight": w, "task": name, "accuracy": mixed({"sentiment": 1 - w, "film": w}, name)}
    for w in (0.0, 0.25, 0.5, 0.75, 1.0)
    for name in ("sentiment", "film")
]
mixes = pd.DataFrame(mixes)
counts = {name: min(200, len(tasks[name]["test"])) for name in ("sentiment", "film")}
figure = plots.mixing(mixes, counts)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>On the laptop profile the curves cross before 0.25, well below the top: at 0.25 sentiment
# keeps 0.715 of its 0.750 while film has 0.790 of its 0.980; at 0.5 film is almost whole and sentiment down to 0.615.
# So both work somewhat at some weights, and at none of these five do both work as well as alone.</details>
#
# Try it on sentences of your own, with any weight. The slider responds to the arrow keys; without a running kernel, the figure above is what
# remains.

# %%
mine = ["A warm and funny film.", "A dull, lifeless movie.", "The cast is wonderful.", "A plot without a point."]


def answers(weight):
    """What the two heads say of the sentences, for one mixture, as a table in HTML."""
    table = pd.DataFrame(index=mine)
    for name in ("sentiment", "film"):
        several.compose({"sentiment": 1 - weight, "film": weight}, "mix", head=name)
        rows = [{"sentence": text, "label": 0} for text in mine]
        table[f"P({name})"] = training.predict_logits(several.model, rows, tokenizer).softmax(-1)[:, 1].tolist()
        several.remove("mix")
    return table.round(2).to_html()


slider = widgets.FloatSlider(
    value=0.5, min=-0.5, max=1.5, step=0.1, continuous_update=False,
    description="weight of film", style={"description_width": "initial"},
)  # fmt: skip
said = widgets.HTML(answers(slider.value))
slider.observe(lambda change: setattr(said, "value", answers(change.new)), names="value")
display(widgets.VBox([slider, said]))

# %% [markdown]
# <details><summary>What to look for</summary>On the laptop profile two of the sentences change sides. At 0 sentiment
# judges both of them rightly, and film's head, without its adapter, takes praise for a film. At 1 it is the other way
# round: film is right, and sentiment's head likes "A dull, lifeless movie" (it names a movie) and not the wonderful
# cast.</details>
#
# Nothing stops two updates from disturbing each other: the sum is exact in the weights, but what it does to a task has to be measured.
#
# ## 5.5 Your figures, and four questions
#
# What this notebook measured for you, in one table:

# %%
latency_ratio = latency.set_index("state")["ratio"]
figures = pd.Series({
    **{f"accuracy, rank {int(row.rank)}": round(row.accuracy, 3) for row in sweep.itertuples(index=False)},
    "same rank, another seed: points": round(100 * moved, 1),
    "95% interval of the test set: plus, minus points": round(50 * (high - low), 1),
    **{f"accuracy, {row.targets} (rank {row.rank})": round(row.accuracy, 3) for row in ablation.itertuples()},
    "accuracy, full fine-tuning": round(full.test["accuracy"], 3),
    "trainable: rank 8 / full": f"{int(everything['trainable']):,} / {full.trainable:,}",
    "seconds: rank 8 / full": f"{everything['seconds']:.0f} / {full.seconds:.0f}",
    "activations MB: rank 8 / full": f"{activations['lora'] / 1e6:.0f} / {activations['full'] / 1e6:.0f}",
    "directions for 90%: rank 8 / full": f"{spectra['LoRA r=8']['effective_rank'].median():g} / "
    f"{spectra['full']['effective_rank'].median():g}",
    "forward pass: unmerged / merged, times base": f"{latency_ratio['unmerged']:.2f} / {latency_ratio['merged']:.2f}",
    "top direction shared, r=8 and r=64: A / B": f"{pairs['ranks 8 and 64']['input'].median():.2f} / "
    f"{pairs['ranks 8 and 64']['output'].median():.2f}",
    "sentiment: own adapter / sum of three": "{own adapter:.3f} / {sum of three:.3f}".format(**together.loc["sentiment"]),
}, name="measured here")  # fmt: skip
display(figures.astype(str).to_frame())

# %% [markdown]
# > **Exercise 5.5** · 6 points, graded by hand · difficulty 3 of 3 · 60 minutes · LoRA paper, sections 4.2, 7 and 8
# >
# > In 300 to 500 words, each answer with at least **two figures of your own** and what they do not show: (a) Which rank is best, and
# > what does a higher or a lower one trade? *[1.5 points]* (b) Which layers gain most from adapting? *[1.5 points]* (c) What does LoRA save when
# > computing, and what does it not? *[1.5 points]* (d) Where are its limits? *[1.5 points]* An answer without your own figures earns nothing,
# > however right it is; the longer sweep of section 5.1 may support it.

# %% [markdown] written="5.5"
# (a) I would take rank 8, and could not defend it against rank 1 with this sweep: ranks 1, 8 and 64 reached 0.752, 0.750 and 0.758, rank
# 8 with another seed 0.736, and 500 test sentences alone leave 3.7 points either way. A higher rank trades memory and file size (480,386
# trainable parameters at rank 8, 2,802,818 at rank 64) for room that this task did not fill; a lower one risks having too few directions for a
# harder task. To tell the ranks apart takes longer training and several seeds each: in the notebook's longer sweep rank 1 is behind, 0.807 against 0.841.
#
# (b) With the same number of parameters, the feed-forward layers reached 0.764, all layers 0.750, query and value 0.744: a spread of 2.0 points
# with one seed each, hardly more than rank 8's two seeds are apart (1.4), so no order is shown. By the size of the learned update the attention's
# output layer changed most (0.043 of the frozen weight's norm), `output.dense` least (0.021); size is not yet benefit.
#
# (c) It saves what exists once for each trainable parameter: 480,386 instead of 22,713,986, so gradients and optimiser states
# shrink 47 times, and so does the file of an adapter. It saves hardly any activations (314 MB against 317 MB), because with every linear layer
# adapted each input is still needed, for A's gradient. Of time a third: rank 8 took 11 s with either seed, full fine-tuning 16 s. A
# forward pass took 1.18 times the base model's with the updates beside the weights and 1.02 merged, where it should be 1: that difference is
# the noise.
#
# (d) Accuracy was no limit here (full fine-tuning 0.754), but full fine-tuning spread its change over 84 directions where rank 8 had 5: a task
# that needs many directions would show it. What was learned is not one well-defined subspace: the top directions of two trainings
# overlapped by 0.03 (A) and 0.03 (B), not by the paper's 0.5. Adapters disturb one another: in the sum of three, sentiment fell from 0.750 to 0.580 on
# 200 sentences and story from 0.904 to 0.670, while film kept its 0.980 (0.985). Each is one run on one small encoder.
#
# ### BEGIN MARK SCHEME
# Each part has 1.5 points, and needs at least two of the student's **own figures**: compare them with the table that their notebook printed
# (accuracies may differ between machines by a few points, times by any factor). A part without own figures, or with the figures of
# this model answer that their notebook does not show, earns 0, whatever else it says. "1", one sentence, or the question again: 0.
#
# - **(a)** half a point each: a rank with their accuracies of at least two ranks; what it trades, with a number (parameters, memory,
#   file or time against room for the update); that seeds or the test set's interval are (or, if so in their figures, are not) larger than the
#   differences between ranks. "Rank 8 is optimal" without the last earns at most half a point. Naming rank 1 or 64 is not a mistake.
# - **(b)** half a point each: the accuracies of at least two groups; that they were compared at equal numbers of parameters, or what
#   each group changed (the table by kind of layer); that one seed each decides nothing below their seeds' difference. An order quoted from
#   the paper in place of their own earns none of the three.
# - **(c)** half a point each: trainable parameters or bytes of gradients and optimiser states, against full fine-tuning; activations or
#   time, as what does not shrink as much; merging and its latency (or several adapters on one base). "LoRA needs less memory" without saying
#   which memory earns none of the three.
# - **(d)** half a point for each of two limits, with a figure (directions against full fine-tuning, interference in sums, little overlap
#   of directions, scale and learning rate that must fit the rank, an accuracy gap if theirs has one, a merged model that serves one task);
#   half a point for what the measurement leaves open. Limits from reading, without a figure, earn nothing.
# ### END MARK SCHEME

# %% [markdown]
# ## Before you go on
#
# Answer in your head first, then unfold.
#
# 1. Two runs differ by two points on 500 sentences. What do you need before you say which is better?
#
#    <details><summary>Answer</summary>More seeds of each, to see how far seeds alone move it, and more test sentences:
#    500 leave about 3.7 points either way.</details>
# 2. An adapter's spectrum falls to nothing after three of 64 values. Which rank do you try next, and what would you check?
#
#    <details><summary>Answer</summary>Rank 4 or 8: it has room for three directions and one to spare. Check that the
#    accuracy holds, over several seeds.</details>
# 3. Why is the overlap of two `A`'s after ten steps no evidence about the task?
#
#    <details><summary>Answer</summary>Because A still spans nearly the space it was drawn in at random: the overlap
#    tells you about the draws, not about what was learned.</details>
# 4. Two adapters of rank 8 are composed. Which rank does the sum have, and what does it cost when merged?
#
#    <details><summary>Answer</summary>Rank 16 (at most: less if they share directions). Merged it costs nothing: the
#    weight keeps its shape.</details>
#
# **What next.** This was the last stage. If you want to go on: the paper's section 7.3 compares the update with the weight itself
# (does it amplify what $W$ already does?); `analysis.update_spectra` and `similarity_grid` are all that you need. Or take a base, a task and a
# question of your own through the five stages again.
