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
# # Rank, and what it saves
#
# **Stage 1 of 5** · 15 points · about 90 minutes · runs on a laptop's CPU in under a minute · you should know matrix
# products, PyTorch tensors, and what a gradient is
#
# **Why?** A pretrained model knows a lot, and you want it to learn one thing more: your film reviews, your e-mails. *Full fine-tuning*
# changes every weight a little. For GPT-3's 175 billion weights that takes 1.2 TB of memory during training, and leaves a file of
# 350 GB behind for each task (LoRA paper ([arXiv:2106.09685](https://arxiv.org/abs/2106.09685)), section 4.2).
#
# Does the change need that much room? Aghajanyan et al. ([arXiv:2012.13255](https://arxiv.org/abs/2012.13255)) let RoBERTa, a pretrained language model, move
# along only 200 directions, drawn at random in the space of all its weights, and it reached 90% of full fine-tuning's score on a task. The number
# of directions that a task needs is its **intrinsic dimension**, and it is small. **LoRA, low-rank adaptation**, builds on
# that: keep every weight $W$ as it is, and learn a change to it that takes few numbers to write down.
#
# Here is such a change, small enough to read. A layer turns four inputs into three outputs, so its weight has 12 entries, and training has
# added this to them:
#
# | added to the weight | plot | acting | music | length |
# |---|---|---|---|---|
# | **positive** | 2 | 4 | 0 | -2 |
# | **sad** | 1 | 2 | 0 | -1 |
# | **funny** | -1 | -2 | 0 | 1 |
#
# Look along the rows: each is a multiple of (1, 2, 0, -1). When a review praises the acting, "positive" and "sad" rise together and
# "funny" falls; music plays no part. So one row and three multiples, (2, 1, -1), say it all: 7 numbers instead of 12. Such a change has
# **rank 1**. In a weight of 768 x 768 it takes 1,536 numbers instead of 589,824.
#
# In this notebook you will
#
# - **count** the rank of a matrix from its singular values, and see what rounding has to do with it;
# - **find** the closest matrix of a given rank, and know in advance how far away it is;
# - **split** it into a tall matrix times a wide one, the shape of a LoRA update;
# - **compute** what such an update costs, and the rank from which it saves nothing;
# - **predict** the bytes that fine-tuning keeps, and check the prediction against a real run.

# %% locked="setup"
import ipywidgets
import pandas as pd
import torch
from IPython.display import display

import lora_ref.rank as reference
from lora_ref import costs, data, models, plots, profiles, training
from lora_ref.checks import check
from lora_ref.checks.gaps import after
from lora_ref.inject import inject_lora
from lora_ref.plots import describe
from lora_ref.rounding import apart

torch.manual_seed(0)
torch.set_num_threads(1)  # most matrices here are tiny: more threads would wait for one another
profile = profiles.announce(1)

# %% [markdown]
# **How to work.** Replace a gap, `raise NotImplementedError("Exercise 1.1")`, with your code, run the cell, then run the check
# below it, as often as you like. Grading uses other inputs: "visible checks passed" is a good sign, not a proof. At **Predict**, say what
# you expect before you run the next cell; the answer is folded up below it.
#
# The lines above name your **profile**: which model and which data this notebook runs on. `laptop` is MiniLM, a small pretrained encoder:
# it turns an English sentence into vectors. It is loaded into RoBERTa's classes, so that its parts have the names that you will meet in
# larger models. To choose another, set the environment variable `LORA_PROFILE` to `tiny`, `laptop` or `t4` before you start Jupyter.
#
# The change from the top of the page, as a picture:

# %%
figure = plots.rank_one([2, 1, -1], [1, 2, 0, -1], ["positive", "sad", "funny"], ["plot", "acting", "music", "length"])
display(figure)
print(describe(figure))

# %% [markdown]
# ## 1.1 What rank counts
#
# A matrix is a machine that turns one vector into another. Its **rank** is the number of independent directions in what
# comes out: the most rows (or columns) that you can pick so that none is a mix of the others.
#
# **Predict** the ranks of these four, before you run the cell.

# %%
examples = {
    "first": torch.tensor([[2.0, 1], [1, 3]]),
    "second": torch.tensor([[1.0, 0, 2, 1], [0, 1, 1, 0], [3, 0, 0, 1]]),
    "third": torch.tensor([[1.0, 2, 3], [2, 4, 6], [-1, -2, -3]]),
    "fourth": torch.zeros(3, 2),
}
for name, M in examples.items():
    values = ", ".join(f"{value:.2g}" for value in torch.linalg.svdvals(M).tolist())
    print(f"{name}: {M.tolist()}, singular values {values}")

# %% [markdown]
# <details><summary>Answer</summary>2, 3, 1 and 0. In the first, neither row is a multiple of the other. In the second,
# none of the three rows is a mix of the others; three rows allow no more than 3. In the third, the second and third
# rows are multiples of the first, so only one row can be picked. In zeros there is nothing to pick: a row of zeros is
# a mix of any others, with multiples of zero.</details>
#
# A **singular value** says how much the matrix stretches one direction; zero means that the direction is lost. The rank is the
# number of singular values above zero. But look at the third matrix: is its second value zero?
#
# Rounding may leave a speck where a zero should be, about 1e-7 of the largest value in float32. So count the values **above a
# tolerance**, which is relative: `rtol` times the largest.
#
# > **Exercise 1.1** · 2 points · difficulty 1 of 3 · 10 minutes · [PyTorch docs, `torch.linalg.svdvals`](https://docs.pytorch.org/docs/stable/generated/torch.linalg.svdvals.html)
# >
# > Fill in `matrix_rank`. The docstring is the contract.
#
# <details><summary>Hint 1: a question</summary>What is the threshold of a zero matrix, and is a singular value of 0 above
# it?</details>
# <details><summary>Hint 2: the shapes</summary>M: (m, n) → singular values: (min(m, n),), largest first → that many truth values → one
# int.</details>
# <details><summary>Hint 3: almost the code</summary><code>values = torch.linalg.svdvals(M)</code>; if <code>rtol is None</code>:
# <code>max(M.shape) * torch.finfo(M.dtype).eps</code>; count the values &gt; rtol times the largest, as an int.</details>


# %% solution="rank"
def matrix_rank(M, rtol=None):
    """The number of singular values of M that are larger than rtol times the largest.

    Args:
        M: a matrix of floating-point numbers; it stays as it is.
        rtol: relative tolerance; by default max(M.shape) times the machine epsilon of M's dtype.

    Returns:
        An int; 0 for a zero matrix.
    """
    ### BEGIN SOLUTION 1.1
    values = torch.linalg.svdvals(M)
    if rtol is None:
        rtol = max(M.shape) * torch.finfo(M.dtype).eps
    return int((values > rtol * values.max()).sum())
    ### END SOLUTION


# %% check="1.1"
check("1.1", globals())

# %% [markdown]
# Where is the tolerance? **Predict**: multiply a (60, 5) matrix by a (5, 40) one in float32. How many of the product's 40 singular values are not
# exactly zero?

# %%
with after("1.1", "the singular values of a product of rank 5"):
    torch.manual_seed(0)
    product = torch.randn(60, 5) @ torch.randn(5, 40)
    S = torch.linalg.svdvals(product)
    print(f"above 0: {(S > 0).sum().item()}; above the tolerance: {matrix_rank(product)}")
    figure = plots.rounding(S.numpy(), max(product.shape) * torch.finfo(product.dtype).eps * S[0].item())
    display(figure)
    print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>All 40 are above zero, though the exact product has rank 5: rounding leaves 35 small
# ones, about a ten-millionth of the largest or less. The gap between the two groups is wide, and the tolerance
# lies inside it.</details>
#
# ### Rank you can see
#
# A grey picture is a matrix of brightness values. **Predict**: of sky, fence, windows, roof and sun in the picture of a house, which
# has the lowest rank, and which the highest?

# %%
with after("1.1", "five pictures and their ranks"):
    parts = plots.picture_parts()
    figure = plots.parts_and_ranks(parts, {name: matrix_rank(torch.tensor(part)) for name, part in parts.items()})
    display(figure)
    print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>Sky, fence and windows have rank 1; the roof has the highest, 31, ahead of the sun.
# How much is drawn makes no difference: the fence is full of edges, and the roof is one triangle.</details>
#
# Where every row repeats one pattern, the rank is 1; a slope needs a new direction in every row that it crosses, a curve in
# many.
#
# ### How many terms?
#
# A column times a row, $u v^T$, has rank 1. A common claim is that a matrix of rank $k$ is "a sum of **two** rank-1
# matrices". **Predict** the rank of a sum of 1, 2, 3, 4 random ones.

# %%
with after("1.1", "the rank of sums of rank-1 matrices"):
    torch.manual_seed(0)
    terms = [torch.outer(torch.randn(6), torch.randn(8)) for _ in range(4)]
    for count in range(1, 5):
        print(f"{count} random terms: rank {matrix_rank(sum(terms[:count]))}")
    column = torch.randn(6)
    shared = torch.outer(column, torch.randn(8)) + torch.outer(column, torch.randn(8))
    print(f"2 terms with the same column: rank {matrix_rank(shared)}")

# %% [markdown]
# <details><summary>Answer</summary>1, 2, 3, 4: each random term brings a new direction. Two terms that share a column
# point to the same place, and their sum has rank 1.</details>
#
# Two terms make rank 2 at most. Rank $k$ is the smallest number of rank-1 terms that add up to the matrix: **$k$ of them**.
#
# ## 1.2 The closest matrix of rank k
#
# The singular value decomposition writes any matrix as such a sum, sorted by size:
#
# $$M = U S V^T = \sum_i \sigma_i\, u_i v_i^T, \qquad \sigma_1 \ge \sigma_2 \ge \dots \ge 0$$
#
# Keep the first $k$ terms and drop the rest. Eckart and Young (1936) proved that no matrix of rank $k$ is closer, measured
# by the **Frobenius norm**: the root of the sum of all squared entries.
#
# > **Exercise 1.2** · 3 points · difficulty 2 of 3 · 15 minutes · [Eckart and Young, Psychometrika 1 (1936), 211-218](https://doi.org/10.1007/BF02288367)
# >
# > Fill in `best_rank_k`.
#
# <details><summary>Hint 1: a question</summary><code>torch.linalg.svd(M, full_matrices=False)</code> returns three tensors. Is the third
# one V or its transpose?</details>
# <details><summary>Hint 2: the shapes</summary>U: (m, p), S: (p,), Vh: (p, n), with p = min(m, n). Kept: (m, k) times (k,) times
# (k, n).</details>
# <details><summary>Hint 3: almost the code</summary>A ValueError if <code>k &lt; 0</code>; a copy of M if k is large enough;
# otherwise scale the first k columns of U by the first k of S, and multiply by the first k rows of Vh.</details>


# %% solution="best"
def best_rank_k(M, k):
    """The closest matrix of rank at most k, in the Frobenius norm.

    Args:
        M: shape (m, n).
        k: 0 gives zeros; min(m, n) or more gives M.

    Returns:
        A tensor of M's shape and dtype; M stays as it is.

    Raises:
        ValueError: k is negative.
    """
    ### BEGIN SOLUTION 1.2
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    if k >= min(M.shape):
        return M.clone()
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    return (U[:, :k] * S[:k]) @ Vh[:k]
    ### END SOLUTION


# %% check="1.2"
check("1.2", globals())

# %% [markdown]
# ### The distance is known in advance
#
# The terms are orthogonal, so what is left out adds up like the sides of a right triangle:
#
# $$\lVert M - M_k \rVert_F^2 = \sigma_{k+1}^2 + \sigma_{k+2}^2 + \dots$$
#
# There are other ways to get to rank $k$: keep the best mix of $k$ of the picture's own columns, or of $k$ random
# directions. **Predict**: by how much does the SVD beat them at rank 8?

# %%
image = torch.tensor(plots.picture())
ranks = [1, 2, 4, 8, 16, 32]


def mix_of(columns):
    """The closest matrix to the picture whose columns are mixes of the given ones."""
    basis = torch.linalg.qr(columns).Q
    return basis @ (basis.T @ image)


with after("1.2", "the SVD against two other ways to a matrix of rank k"):
    torch.manual_seed(0)
    evenly = {k: torch.linspace(0, image.shape[1] - 1, k + 2)[1:-1].long() for k in ranks}
    ways = {
        "SVD": {k: best_rank_k(image, k) for k in ranks},
        "evenly spaced columns": {k: mix_of(image[:, evenly[k]]) for k in ranks},
        "random directions": {k: mix_of(torch.randn(len(image), k, dtype=image.dtype)) for k in ranks},
    }
    norm, S = image.norm(), torch.linalg.svdvals(image)
    errors = {name: {k: ((image - X).norm() / norm).item() for k, X in way.items()} for name, way in ways.items()}
    figure = plots.truncation_errors(errors, {k: (S[k:].norm() / norm).item() for k in ranks})
    display(figure)
    print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>It more than halves the error of evenly spaced columns: 5.7% of the norm is missing
# instead of 13.1%. Random directions miss 97%: eight of 120 directions, drawn blindly, hit hardly anything of this
# picture.</details>
#
# Nobody has to build $M_k$ to know how good it is: the singular values tell you.
#
# ### A picture at low rank
#
# **Predict** which parts of the picture survive at rank 4, and which do not.

# %%
figure = plots.images_at_rank(image.numpy(), [1, 4, 16, 32])
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>At rank 4 the house, its windows and the fence are there, all made of vertical and
# horizontal edges; the roof is a blur of blocks, and the sun a smear. The slanted and round parts arrive by rank 16 or
# 32.</details>
#
# Move the slider: with the mouse, or reach it with the Tab key and use the arrow keys. (Without a running kernel, the figure above is
# what remains.)


# %%
def at_rank(k):
    """The picture and its closest matrix of rank k."""
    return plots.images_at_rank(image.numpy(), [k])


slider = ipywidgets.IntSlider(8, 1, 80, description="rank k", continuous_update=False)
display(plots.with_controls(at_rank, k=slider))
print("a slider for the rank k, from 1 to 80, and the picture at that rank")

# %% [markdown]
# <details><summary>What to look for</summary>The last things to become sharp are the edge of the roof and the rim of the sun,
# somewhere between ranks 16 and 40. Up to rank 68 the two factors need fewer numbers than the picture has; beyond that nothing is
# saved.</details>
#
# A matrix whose singular values fall fast can be stored in few numbers. LoRA bets that the **change** which fine-tuning makes to a weight
# is of this kind.
#
# ## 1.3 Two factors
#
# A sum of $r$ terms $b_j a_j^T$ is one product: the columns $b_j$ side by side make a tall matrix $B$, the rows $a_j^T$ below one
# another a wide matrix $A$, and $\Delta W = B A$. Tall times wide gives the full shape:

# %%
torch.manual_seed(0)
B, A = torch.randn(6, 2), torch.randn(2, 8)
terms = sum(torch.outer(B[:, j], A[j]) for j in range(2))
print("B", tuple(B.shape), "times A", tuple(A.shape), "gives", tuple((B @ A).shape))
print(f"B A and the sum of its 2 columns times rows differ {apart((B @ A - terms).abs().max().item())}")
print("rank:", reference.matrix_rank(B @ A), "- whatever the numbers in B and A, it is never more than 2")

# %% [markdown]
# > **Exercise 1.3** · 2 points · difficulty 2 of 3 · 10 minutes · LoRA paper, section 4.1
# >
# > Fill in `rank_factors`. How you share the singular values between the two is up to you.
#
# <details><summary>Hint 1: a question</summary>In $(U S) V^T$, which two matrices have the shapes of B and A? And if r is larger than
# min(M.shape): which numbers in the additional columns and rows change nothing?</details>
# <details><summary>Hint 2: the shapes</summary>M (out, in); B (out, r), A (r, in). U[:, :r] has at most min(out, in) columns.</details>
# <details><summary>Hint 3: almost the code</summary>Start with two tensors of zeros, <code>M.new_zeros(...)</code>; fill the first
# <code>p = min(r, len(S))</code> columns of B with those of U times S, and the first p rows of A with those of Vh.</details>


# %% solution="factors"
def rank_factors(M, r):
    """Two factors whose product is the closest matrix of rank r.

    Args:
        M: shape (out, in); it stays as it is.
        r: 1 or more; also more than min(out, in).

    Returns:
        (B, A): B of shape (out, r) and A of shape (r, in), both of M's dtype, with B @ A equal to best_rank_k(M, r) up to rounding.
    """
    ### BEGIN SOLUTION 1.3
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    p = min(r, len(S))
    B, A = M.new_zeros(M.shape[0], r), M.new_zeros(r, M.shape[1])
    B[:, :p] = U[:, :p] * S[:p]
    A[:p] = Vh[:p]
    return B, A
    ### END SOLUTION


# %% check="1.3"
check("1.3", globals())

# %% [markdown]
# **Predict**: two students share the singular values differently. Their `B` and `A` differ; does the product?

# %%
with after("1.3", "two pairs of factors, and their products"):
    B, A = rank_factors(image, 8)
    torch.manual_seed(0)
    R = torch.randn(8, 8, dtype=image.dtype)
    other_B, other_A = B @ R, torch.linalg.solve(R, A)  # (B R) (R^-1 A)
    print(f"B changes by up to {(other_B - B).abs().max().item():.2g}")
    print(f"B A changes {apart((other_B @ other_A - B @ A).abs().max().item())}")

# %% [markdown]
# <details><summary>Answer</summary>The product stays the same, up to rounding, although entries of B change by tens:
# any invertible R may stand between the two as R times its inverse.</details>
#
# Only the product means something. Comparing the `B` of two trainings entry by entry tells you nothing; stage 5 compares the
# spaces that they span.
#
# ### The paper's symbols
#
# | symbol | shape | what it is | in the code |
# |---|---|---|---|
# | $W_0$ | $d \times k$ | the pretrained weight, frozen | `linear.weight` (out, in) |
# | $d$, $k$ | numbers | outputs and inputs of the layer | `out_features`, `in_features` |
# | $\Delta W$ | $d \times k$ | the change that is learned | never stored |
# | $r$ | a number, $r \ll \min(d, k)$ | the rank | `rank` |
# | $B$ | $d \times r$ | up, starts at zero | `lora_B` |
# | $A$ | $r \times k$ | down, starts random | `lora_A` |
# | $x$ | $k$ | the layer's input | `x` |
# | $B A x$ | $d$ | what the update adds to $W_0 x$ | `lora(x)` |
#
# In the paper $k$ is a size. In `best_rank_k` it was a rank; from here on the rank is $r$. As a picture:

# %%
figure = plots.weight_and_update()
display(figure)
print(describe(figure))

# %%
d, k, r = 768, 3072, 8
W0, B, A, x = torch.randn(d, k), torch.zeros(d, r), torch.randn(r, k), torch.randn(k)
print("W0 x", tuple((W0 @ x).shape), "+ B (A x)", tuple((B @ (A @ x)).shape), "through A x", tuple((A @ x).shape))
print("with B = 0 the output is W0 x, bit for bit:", torch.equal(W0 @ x + B @ (A @ x), W0 @ x))

# %% [markdown]
# ### What the paper promises
#
# | advantage (section 1 of the paper) | where this course tests it |
# |---|---|
# | one frozen model serves many tasks: a task is a small file | stage 4: the adapter's size |
# | training needs less memory: no gradients and optimiser states for what is frozen | section 1.5 below |
# | no added latency: $B A$ can be merged into $W_0$ | stages 2 and 5 |
#
# The first two rest on $r$ being small. How small must it be?
#
# ## 1.4 What the factors cost
#
# > **Exercise 1.4** · 2 points · difficulty 1 of 3 · 10 minutes · LoRA paper, section 5.1 (how its trainable parameters are counted)
# >
# > Fill in both functions. Each is one line of integer arithmetic.
#
# <details><summary>Hint 1: a question</summary>How many numbers does B have, how many A? At which r do they have as many as the
# matrix, and is that fewer?</details>
# <details><summary>Hint 2: an example</summary>A matrix of 4 x 4 has 16 numbers; rank 1 has 8, rank 2 has 16. The break-even rank is
# 1.</details>
# <details><summary>Hint 3: almost the code</summary>The largest whole r with <code>r * s &lt; p</code> is <code>(p - 1) // s</code>.
# What are p and s?</details>


# %% solution="costs"
def lora_param_count(out_features, in_features, r):
    """How many numbers B (out_features, r) and A (r, in_features) hold together, as an int; r may be any."""
    ### BEGIN SOLUTION 1.4
    return r * (out_features + in_features)
    ### END SOLUTION


def break_even_rank(out_features, in_features):
    """The largest rank whose two factors have strictly fewer numbers than the full matrix, as an int; 0 if none has."""
    ### BEGIN SOLUTION 1.4
    return (out_features * in_features - 1) // (out_features + in_features)
    ### END SOLUTION


# %% check="1.4"
check("1.4", globals())

# %%
with after("1.4", "the rank at which LoRA stops saving"):
    for in_features, out_features in costs.LAYERS:
        even = break_even_rank(out_features, in_features)
        most = min(out_features, in_features)
        print(f"{in_features} x {out_features}: fewer numbers up to rank {even}, of {most} that are possible")
    print(f"the picture of {len(image)} x {image.shape[1]}: up to rank {break_even_rank(*image.shape)}")

# %% [markdown]
# Above that rank, a pair of factors is a waste; typical ranks are 4 to 64. **Predict**: how many times fewer parameters does rank 8
# train in a layer of 768 x 768, and does a larger layer save more or less?

# %%
table = costs.layer_table(ranks=(4, 8, 16, 32, 64))
reduction = table.pivot(index="layer", columns="rank", values="reduction").loc[list(dict.fromkeys(table["layer"]))]
print("parameters of the layer (with its bias) / parameters of the update")
display(reduction.map("{:.1f}".format))

# %% [markdown]
# <details><summary>Answer</summary>48 times fewer, and a larger layer saves more: at the same rank, 2048 x 2048 has 128
# times fewer.</details>

# %%
figure = plots.layer_costs(table)
display(figure)
print(describe(figure))

# %% [markdown]
# For a square matrix the factor is $n / 2r$: larger layers save more. **Predict** for a whole network, 512 - 2048 - 2048 - 128: does rank 8
# save more than 95%?

# %%
network = costs.network_table()
display(network.round(1))

# %% [markdown]
# <details><summary>Answer</summary>Yes: rank 8 saves 98.7%, and even rank 16 more than 97%. Rank 32 is the first in
# the table that saves less than 95%.</details>
#
# A matrix grows with the product of its sides, the factors with their sum.
#
# ## 1.5 What training keeps in memory
#
# A model that only answers needs memory for its weights. One that trains needs more, for each **trainable** parameter: its gradient,
# and the optimiser's states. Adam has two: running averages of the gradient and of its square.
#
# In the picture, the **encoder** turns a sentence into vectors; the **head** is the small part on top that turns those into a score for
# each class. A new task needs a new head, so the head always trains.

# %%
figure = plots.memory_parts()
display(figure)
print(describe(figure))

# %% [markdown]
# > **Exercise 1.5** · 3 points · difficulty 1 of 3 · 10 minutes · LoRA paper, section 4.2, "Practical benefits"
# >
# > Fill in `training_memory`. `n_params` counts all parameters, the trainable ones among them.
#
# <details><summary>Hint 1: a question</summary>A frozen weight: is it in memory? Does it have a gradient? Does the optimiser know it?</details>
# <details><summary>Hint 2: an example</summary>10 parameters, 3 of them trainable, Adam: 10 weights, 3 gradients, 6 states: 19 numbers, 76
# bytes in float32.</details>
# <details><summary>Hint 3: almost the code</summary><code>bytes_per_param</code> times the sum of n_params and
# <code>n_trainable</code> times (1 + the states).</details>


# %% solution="memory"
def training_memory(n_params, n_trainable, bytes_per_param=4, optimizer_states=2):
    """Bytes of all weights, and of the gradients and optimiser states of the trainable ones.

    Args:
        n_params: all parameters, frozen and trainable.
        n_trainable: those that train.
        bytes_per_param: 4 for float32, 2 for half precision; gradients and states have the same.
        optimizer_states: numbers that the optimiser keeps for each trainable parameter; Adam keeps two.

    Returns:
        An int. Activations are not counted: they depend on the batch.
    """
    ### BEGIN SOLUTION 1.5
    return bytes_per_param * (n_params + n_trainable * (1 + optimizer_states))
    ### END SOLUTION


# %% check="1.5"
check("1.5", globals())

# %% [markdown]
# ### A memory calculator
#
# Counting needs shapes, not values. **Predict** for `roberta-base`: how many times as much memory does full fine-tuning with Adam need
# as LoRA of rank 8 on all linear layers of the encoder?

# %%
roberta = costs.meta_model(costs.roberta_base_config())
print(f"roberta-base with a two-class head: {sum(p.numel() for p in roberta.parameters()):,} parameters")
figure = plots.costs(costs.cost_table(roberta, training.ENCODER_LINEARS, ranks=(1, 8, 64)))
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>3.8 times: 1.99 GB against 0.53 GB. In gradients and optimiser states alone it is 65
# times, 1,496 MB against 23 MB; what is left are the frozen weights, which LoRA keeps in full.</details>
#
# Choose a rank, the layers and the precision. (The figure above is what remains without a running kernel.) **Predict** first: from
# which rank on does LoRA on all linear layers need more than half of full fine-tuning's memory?

# %%
choice = ipywidgets.SelectionSlider(options=[1, 2, 4, 8, 16, 32, 64, 128, 256], value=8, description="rank r")
where = ipywidgets.Dropdown(
    options={"query and value": ("query", "value"), "all linear layers": training.ENCODER_LINEARS}, description="layers"
)
precision = ipywidgets.Dropdown(options={"float32": 4, "half": 2}, description="numbers")


def calculator(r, targets, bytes_per_param):
    """The same figure for one setting."""
    return plots.costs(costs.cost_table(roberta, targets, ranks=(r,), bytes_per_param=bytes_per_param))


display(plots.with_controls(calculator, r=choice, targets=where, bytes_per_param=precision))
print("the same for a rank from 1 to 256, two choices of layers, and two precisions")

# %% [markdown]
# <details><summary>Answer</summary>Of the ranks on offer, only 256 needs more than half (1.19 GB of 1.99); 128 needs
# 0.85 GB. The line is crossed at rank 186. With query and value alone, no rank of the menu gets there.</details>
#
# With few parameters to train, what remains is the weights: LoRA cannot go below them.
#
# The menu's "half" keeps *every* number in two bytes. Real mixed-precision training does not: it computes in half precision but keeps a master
# copy of the weights and Adam's states in float32, so a trainable parameter costs about 16 bytes there too. LoRA's frozen weights
# need no master copy, and do fit in two bytes.
#
# For GPT-3 with 175 billion parameters the
# paper (section 4.2) reports 1.2 TB for full training and 350 GB with LoRA, and a file of 35 MB at rank 4 on query and value.
# **Predict**: what does your formula say, at two bytes a number?

# %%
with after("1.5", "the formula's figures for GPT-3"):
    layers, width, gpt3 = 96, 12_288, 175_000_000_000  # sizes: arXiv 2005.14165, table 2.1
    lora = 2 * layers * reference.lora_param_count(width, width, r=4)
    full = training_memory(gpt3, gpt3, bytes_per_param=2)
    print(f"full: {full / 1e12:.2f} TB, {full / 1.2e12:.2f} times what the paper reports")
    print(f"LoRA: {training_memory(gpt3 + lora, lora, bytes_per_param=2) / 1e9:.0f} GB")
    print(f"file: {2 * lora / 2**20:.0f} MiB for {lora:,} parameters")

# %% [markdown]
# <details><summary>Answer</summary>1.40 TB for full training, 1.17 times the paper's 1.2 TB; 350 GB with LoRA, as in
# the paper; and a file of 36 MiB, where the paper says 35 MB.</details>
#
# LoRA's figures agree. For full training the formula gives more; the paper does not say how its figure was measured.
#
# ### Against a real run
#
# A formula deserves one measurement. Here are two real steps of AdamW (Adam with weight decay) on 16 sentences, for full fine-tuning and for LoRA, and the bytes of every
# weight, gradient and state tensor afterwards. **Predict**: what else takes memory, which the formula leaves out, and is it less with LoRA?

# %%
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
tokenizer = models.tokenizer(profile)
rows = data.reviews(profile, seed=0)["train"].select(range(16))
encoded = data.tokenize(rows[:], tokenizer, profile.max_length)
examples = [
    {"input_ids": ids, "attention_mask": mask, "label": label}
    for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], rows["label"], strict=True)
]
batch = {key: tensor.to(device) for key, tensor in data.collate(examples, tokenizer).items()}
measured = []
for method in ("full fine-tuning", "LoRA r=8"):
    model = models.base_model(profile).to(device).train()
    if method != "full fine-tuning":
        inject_lora(model, training.ENCODER_LINEARS, rank=8, alpha=16).to(device)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-5)
    activations = costs.activation_bytes(model, batch)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    counts = sum(p.numel() for p in model.parameters()), sum(p.numel() for p in trainable)
    row = {"method": method, "parameters": counts[0], "trainable": counts[1]}
    row |= {"predicted": reference.training_memory(*counts), **costs.training_bytes(model, optimizer)}
    measured.append(row | {"activations": activations})
    del model, optimizer, trainable
measured = pd.DataFrame(measured)
display(measured.set_index("method").T)

# %%
figure = plots.memory_check(measured)
display(figure)
print(describe(figure))
with after("1.5", "whether your function predicts the same"):
    yours = [training_memory(row.parameters, row.trainable) for row in measured.itertuples()]
    print("your prediction is the same:", yours == measured["predicted"].tolist())
    found = measured[["weights", "gradients", "optimizer"]].sum(axis=1)
    print("bytes measured beyond it:", (found - yours).tolist())

# %% [markdown]
# <details><summary>Answer</summary>The activations: what the forward pass keeps for the backward pass. With LoRA on all
# linear layers they are almost the same (the last row of the table), because each A needs its layer's input for its own
# gradient.</details>
#
# The few extra bytes are AdamW's step counter, 4 bytes for each trainable tensor. The activations grow with the batch, and for a
# large one they can take more than all the rest. **Predict**: if you adapt query and value alone, are there fewer of them?

# %%
for targets in (["query", "value"], list(training.ENCODER_LINEARS)):
    model = inject_lora(models.base_model(profile), targets, rank=8, alpha=16).to(device)
    share = costs.activation_bytes(model, batch) / measured["activations"].iloc[0]
    print(f"LoRA on {', '.join(targets)}: {share:.0%} of full fine-tuning's activations")

# %% [markdown]
# <details><summary>Answer</summary>Yes: on the laptop profile about two thirds are left. A layer's input is kept where its weight, or its A, needs a
# gradient. The layers that are not adapted are frozen and have no A, so theirs need not be kept; with every linear
# layer adapted nearly all inputs are needed, and hardly anything is saved.</details>
#
# So what LoRA saves of the activations depends on its **targets**.
#
# ## 1.6 What makes full fine-tuning expensive
#
# > **Exercise 1.6** · 3 points, graded by hand · difficulty 2 of 3 · 15 minutes · LoRA paper, sections 1 and 4.2
# >
# > In 100 to 200 words: what **exactly** makes full fine-tuning expensive? (a) What is kept in memory while training, and how much of it for each
# > parameter? *[1 point]* (b) What has to be kept for each task afterwards? *[1 point]* (c) Which of these costs does LoRA cut, and which
# > does it not? *[1 point]* Use numbers that this notebook computed for you.

# %% [markdown] written="1.6"
# (a) Training in float32 with Adam keeps four numbers for each trainable parameter: the weight, its gradient and two running averages, 16
# bytes. For roberta-base's 124.6 million parameters that is 1.99 GB, three quarters of it for gradients and optimiser states, where answering needs
# the weights alone, 0.50 GB. On top come the activations that the backward pass needs; they depend on batch and length.
#
# (b) Every weight changes, so every task leaves a whole model behind: 0.50 GB for each, and a server that answers for ten tasks holds ten models.
#
# (c) LoRA of rank 8 on all encoder layers trains 1.9 million parameters with the head. Gradients and states shrink about 65-fold, from 1.50 GB to 23 MB, and
# a task is a file of 8 MB. The frozen weights stay in memory in full. With all linear layers adapted the activations hardly shrink: in the
# measured run they are nearly the same for both (with query and value alone, about two thirds). The forward and backward passes still go
# through the whole model, so the time of a step shrinks far less than 65-fold.
#
# ### BEGIN MARK SCHEME
# - **1 point, (a)**: gradients and optimiser states, one and two numbers for each trainable parameter beside the weight (half a point), with a
#   figure in bytes, for example 16 bytes a parameter or a total of this notebook (half a point). "The model has many parameters" or "it
#   needs a lot of GPU" alone earns nothing.
# - **1 point, (b)**: a full copy of the weights for each task, stored (half a point) and loaded or swapped when serving (half a point; a size
#   in bytes instead also earns it).
# - **1 point, (c)**: LoRA cuts gradients, optimiser states and the file of a task (half a point); it does not cut the frozen weights, nor,
#   much, activations and the time of a step: at least one of these named (half a point). "LoRA makes everything 65 times cheaper" loses this
#   half.
# - Numbers of another profile or model are as good, if the notebook computed them. Backward-pass time, named as a cost in (a), is right
#   and may stand for a missing figure.
# ### END MARK SCHEME

# %% [markdown]
# ## Before you go on
#
# Answer in your head first, then unfold.
#
# 1. A matrix has singular values 5, 4, 3. How far is the closest matrix of rank 1, and of rank 2?
#
#    <details><summary>Answer</summary>Leave out 4 and 3: the distance of rank 1 is the root of 16 + 9, which is 5. For
#    rank 2 only 3 is left out, so it is 3.</details>
# 2. Your `B` differs from a friend's in every entry. What do you compare before you go looking for a mistake?
#
#    <details><summary>Answer</summary>The products B A. Many pairs of factors have the same product, and only the
#    product is added to the weight.</details>
# 3. A layer of 1024 x 1024: does an update of rank 600 save anything?
#
#    <details><summary>Answer</summary>No. The break-even rank of 1024 x 1024 is 511: at rank 600 the two factors hold
#    more numbers than the matrix.</details>
# 4. You halve the rank. Which of weights, gradients, optimiser states and activations halve?
#
#    <details><summary>Answer</summary>The gradients and optimiser states of A and B halve (the head's stay). The frozen
#    weights do not change, and the activations hardly do: A's input is kept whatever the rank.</details>
#
# **What next.** Stage 2 turns the two factors into a layer that can train. Whether the change that fine-tuning makes really has low rank is
# a question about real models: stage 5 measures it.
