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
# # LoRA in a whole model
#
# **Stage 3 of 5** · 20 points · about 2.5 hours, of which a laptop's CPU trains for about a minute · you should know the LoRA layer of
# stage 2, `nn.Module`, and roughly what a transformer is made of
#
# **Why?** One LoRA layer is a building block. The point is to put dozens of them into a model that somebody else trained, and to disturb
# nothing else. The code is short, and most of what can go wrong stays silent: the loss falls, and what trained isn't what you meant to
# train. So in this stage you count. At the end you can say of any RoBERTa which numbers train in it, how many they are, and why.
#
# In this notebook you will
#
# - **audit** a model: which parameters it has, by name and by number, and which of them train;
# - **find** layers by name, so that `layer.1` is not `layer.10`, and put others in their place;
# - **inject** LoRA into a RoBERTa without changing one pretrained bit;
# - **count** what trains, and recompute the published figures for `roberta-base` without its weights;
# - **find** the mistakes of common helpers, and see what they cost on a vision transformer.

# %% locked="setup"
import copy
from collections import Counter

import pandas as pd
import torch
from IPython.display import display
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from lora_ref import costs, data, inject, models, plots, profiles, training, vision
from lora_ref.checks import check
from lora_ref.checks.gaps import after, passed
from lora_ref.layers import LinearWithLoRA
from lora_ref.plots import describe

torch.manual_seed(0)
profile = profiles.announce(3)

# %% [markdown]
# **How to work.** Replace a gap, `raise NotImplementedError("Exercise 3.1")`, with your code, run the cell, then run the check
# below it. Grading uses other inputs and looks at more: "visible checks passed" is a good sign, not a proof.
#
# Cells between the exercises use the course's own functions, so an open exercise stops nothing. With `USE_MY_CODE = True` they
# use yours, once its check passes. `LinearWithLoRA` is the course's layer; to build on your own, paste your two classes of stage 2 into the next cell.
#
# The notebook says RoBERTa and, on the laptop profile, runs MiniLM, which is BERT-like and small, in RoBERTa's classes: same parts, same
# names, smaller matrices.

# %%
USE_MY_CODE = False
# your LoRALayer and LinearWithLoRA of stage 2, if you like


def pick(exercise, mine, reference):
    """Your function once its check passes; until then, or with the switch off, the course's."""
    return mine if USE_MY_CODE and passed(exercise, globals()) else reference


# %% [markdown]
# ## 3.1 A model is a tree of names
#
# Modules hold modules, and a path through them is a dotted name. The **embeddings** give each token, a word or a piece of one, a vector.
# The **encoder** is a stack of equal blocks in which these vectors take in their neighbours; the **head** (`classifier`) turns the result into
# a **logit** for each class, a score of which the largest wins. One block:

# %%
base = models.base_model(profile)
for name, module in base.get_submodule("roberta.encoder.layer.0").named_modules():
    if isinstance(module, nn.Linear):
        print(f"roberta.encoder.layer.0.{name:24} in {module.in_features:5,} -> out {module.out_features:5,}")
figure = plots.transformer_block(base.config.hidden_size, base.config.intermediate_size)
display(figure)
print(describe(figure))

# %% [markdown]
# The **audit** of this notebook: for each part of a model, how many numbers are frozen and how many train. We take it again
# after every step.
#
# > **Exercise 3.8** · optional, no points · difficulty 2 of 3 · 15 minutes · [PyTorch docs, `named_parameters`](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.named_parameters)
# >
# > Fill in `audit`. You can skip it: the course's own then takes its place.
#
# <details><summary>Hint 1: a question</summary>A dotted name is a list of words. Why is <code>"attention" in name.split(".")</code> safer
# than <code>"attention" in name</code>?</details>
# <details><summary>Hint 2: the order</summary>For each parameter: the first part that fits → add its numbers to the frozen or to the training
# ones.</details>
# <details><summary>Hint 3: almost the code</summary>Start with <code>{part: [0, 0] for part in ...}</code>;
# <code>requires_grad</code> is False or True, so it can be the index; <code>p.numel()</code>.</details>


# %% solution="audit"
def audit(model):
    """How many numbers are frozen and how many train in each part of a model.

    A parameter belongs to the first part that fits its dotted name: LoRA, if one of its words begins with "lora_"; the
    head, if one is "classifier"; then "embeddings"; the norms, if one is "LayerNorm"; "attention"; else feed-forward.

    Returns:
        `{part: (frozen, training)}` for "embeddings", "attention", "feed-forward", "norms", "head" and "LoRA", also
        those with nothing in them. Counted in numbers, buffers not among them; a parameter with two names counts once.
    """
    ### BEGIN SOLUTION 3.8
    known = {"head": "classifier", "embeddings": "embeddings", "norms": "LayerNorm", "attention": "attention"}
    counts = {part: [0, 0] for part in ("embeddings", "attention", "feed-forward", "norms", "head", "LoRA")}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        part = next((part for part, word in known.items() if word in words), "feed-forward")
        if any(word.startswith("lora_") for word in words):
            part = "LoRA"
        counts[part][parameter.requires_grad] += parameter.numel()
    return {part: (frozen, training) for part, (frozen, training) in counts.items()}
    ### END SOLUTION


# %% check="3.8"
check("3.8", globals())

# %% [markdown]
# **Predict**: which part is the largest, and how many numbers train in a model fresh from its file?

# %%
audit_mine = pick("3.8", audit, inject.audit)


def show_audit(model):
    """The audit as a table, with its sum."""
    table = pd.DataFrame(audit_mine(model), index=["frozen", "training"]).T
    table.loc["all"] = table.sum()
    return table.map("{:,}".format)


with after("3.8", "the audit of the base model"):
    display(show_audit(base))

# %% [markdown]
# <details><summary>Answer</summary>The embeddings: more than half of MiniLM, 31% of roberta-base, whose blocks are larger
# (in tiny, the attention). All numbers train; nothing in a file says "frozen".</details>
#
# Everything trains: that is full fine-tuning. To **freeze** a parameter is to tell autograd that it needs no gradient. The optimiser
# then has nothing to apply, and no state to keep. `model.eval()` is something else (dropout off), and so is
# `torch.no_grad()` (no graph at all).
#
# > **Exercise 3.1** · 2 points · difficulty 1 of 3 · 5 minutes · LoRA paper ([arXiv:2106.09685](https://arxiv.org/abs/2106.09685)), section 4.2
# >
# > Fill in `freeze`.
#
# <details><summary>Hint 1: a question</summary>Which method of a module gives all parameters, however deep they
# lie?</details>
# <details><summary>Hint 2: the parts</summary>Every parameter has a flag, <code>requires_grad</code>. Then hand the model
# back.</details>
# <details><summary>Hint 3: almost the code</summary>A loop over <code>model.parameters()</code> that sets
# <code>requires_grad</code> to False; <code>return model</code>.</details>


# %% solution="freeze"
def freeze(model):
    """Stop every parameter of the model from training, in place: the parameters themselves stay.

    A model that is frozen already may be frozen again.

    Returns:
        The model itself.
    """
    ### BEGIN SOLUTION 3.1
    for parameter in model.parameters():
        parameter.requires_grad = False
    return model
    ### END SOLUTION


# %% check="3.1"
check("3.1", globals())

# %% [markdown]
# **Predict**: what does `backward()` say in a model in which nothing trains?

# %%
with after("3.1", "what eval() does not freeze, and what a frozen model says to backward()"):
    model = models.base_model(profile).eval()
    print("after eval():  ", sum(p.numel() for p in model.parameters() if p.requires_grad), "numbers train")
    freeze(model)
    print("after freeze():", sum(p.numel() for p in model.parameters() if p.requires_grad), "numbers train")
    try:
        model(input_ids=torch.tensor([[0, 5, 6, 2]]), labels=torch.tensor([1])).loss.backward()
    except RuntimeError as error:
        print("backward():", error)

# %% [markdown]
# <details><summary>Answer</summary>An error, "does not require grad": with nothing to train there is no graph to go
# back through. After eval() everything still trains; it switches dropout off, and that is all.</details>
#
# An error, and a good one. Worse is the silent case: a forgotten layer that goes on training.
#
# ## 3.2 Which layers? By name
#
# A common helper walks over a model and wraps each linear layer whose name *contains* a target. We try it on a small transformer of
# twelve blocks.


# %%
class Block(nn.Module):
    """Self-attention with one head, then two linear layers."""

    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        weights = torch.softmax(self.query(x) @ self.key(x).mT / x.shape[-1] ** 0.5, dim=-1)
        x = x + self.output(weights @ self.value(x))
        return x + self.down(torch.relu(self.up(x)))


class SmallTransformer(nn.Module):
    """Token numbers (batch, length) to logits (batch, 2)."""

    def __init__(self, width=32, blocks=12):
        super().__init__()
        self.embedding = nn.Embedding(100, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(blocks))
        self.classifier = nn.Linear(width, 2)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.layers:
            x = block(x)
        return self.classifier(x.mean(dim=1))


def add_lora_to_model(model, target_modules, rank=4, alpha=8, dropout=0.0):
    """The common helper, with its mistakes."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and any(target in name for target in target_modules):
            inject.replace_module(model, name, LinearWithLoRA(module, rank, alpha, dropout))
    return model


# %% [markdown]
# We want LoRA in the second block alone, `layers.1`: six linear layers. **Predict**: how many does the helper wrap? How many after
# a second call? And what trains?

# %%
torch.manual_seed(0)
small = SmallTransformer()
for call in ("first call", "second call"):
    add_lora_to_model(small, ["layers.1"])
    wrapped = [name for name, module in small.named_modules() if isinstance(module, LinearWithLoRA)]
    inside = [name for name in wrapped if name.endswith(".linear")]
    blocks = sorted({name.split(".")[1] for name in wrapped}, key=int)
    trains = sum(p.numel() for name, p in small.named_parameters() if p.requires_grad and "lora_" not in name)
    print(f"{call}: {len(wrapped)} layers wrapped in blocks {', '.join(blocks)}; {len(inside)} inside a wrapper")
    print(f"{'':12} {trains:,} pretrained numbers still train")

# %% [markdown]
# <details><summary>Answer</summary>18, in three blocks: layers.1 is also the beginning of layers.10 and layers.11. A
# second call wraps 18 more, the frozen layers inside the wrappers of the first. And of the pretrained numbers 79,010
# still train: everything that was not wrapped.</details>
#
# Three mistakes, and no error. The exercises get each of them right.
#
# First the names. A target means **whole parts, from the end**: `query` is `...self.query`, not `my_query`;
# `output.dense` is `...output.dense`, not `output_dense`.
#
# > **Exercise 3.2** · 3 points · difficulty 2 of 3 · 20 minutes · LoRA paper, section 4.2
# >
# > Fill in `match_targets`. The docstring is the contract.
#
# <details><summary>Hint 1: a question</summary>Which comparison of texts is true for <code>a.query</code> and
# <code>query</code>, and false for <code>a.my_query</code>?</details>
# <details><summary>Hint 2: the parts</summary>All linear layers' names in the model's order; a test of one name against one
# target; a check that each target has at least one name; the names that fit at least one target.</details>
# <details><summary>Hint 3: almost the code</summary><code>name == target or name.endswith("." + target)</code>. Raise in a
# loop over targets; return a list made in a loop over names, so that the order is the model's and each comes
# once.</details>


# %% solution="match"
def match_targets(model, targets):
    """Names of the linear layers that are meant.

    Args:
        model: any module.
        targets: a list of names (not patterns), which stays as it is. One matches an `nn.Linear` whose dotted name is the target or ends in "." + target.

    Returns:
        A list of dotted names, each once, in the order of `model.named_modules()`.

    Raises:
        ValueError: a target matches no linear layer; the message names that target.
    """
    ### BEGIN SOLUTION 3.2
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]

    def fits(name, target):
        return name == target or name.endswith("." + target)

    for target in targets:
        if not any(fits(name, target) for name in linears):
            raise ValueError(f"no linear layer matches {target!r}")
    return [name for name in linears if any(fits(name, target) for target in targets)]
    ### END SOLUTION


# %% check="3.2"
check("3.2", globals())

# %% [markdown]
# **Predict** for the encoder: which layers does `dense` mean? And `output.dense`, in a block that has two of them?

# %%
with after("3.2", "what some targets mean in this model"):
    lists = (["query"], ["query", "value"], ["output.dense"], ["attention.output.dense"], ["dense"], ["qurey"])
    for targets in lists:
        try:
            found = match_targets(base, targets)
            kinds = Counter(".".join(part for part in name.split(".")[-3:] if not part.isdigit()) for name in found)
            print(targets, "->", ", ".join(f"{count} x {kind}" for kind, count in kinds.items()))
        except ValueError as error:
            print(targets, "-> ValueError:", error)

# %% [markdown]
# <details><summary>Answer</summary>dense means every layer whose name ends in it: three in each block, and
# classifier.dense, which is part of the head. output.dense means two in each block, attention.output.dense among
# them.</details>
#
# Short targets mean more than you would think: `dense` takes the head too. Read the list before you train. An error for a typo costs a
# minute; a model without LoRA in half of its layers costs you a night.
#
# ## 3.3 Put a module in place
#
# A child is an attribute of its parent. For `a.b.c`, the parent is `a.b`, and `c` is the attribute to set.
#
# **Predict**: `a.b` is an `nn.Sequential`, and you delete its first child and add a new one under the same name. In which order does it run now?

# %%
pair = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
del pair[0]
print("after del:      ", [name for name, _ in pair.named_children()])
pair = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
delattr(pair, "0")
pair.add_module("0", nn.Tanh())
print("deleted, added: ", [f"{name}: {type(module).__name__}" for name, module in pair.named_children()])

# %% [markdown]
# <details><summary>Answer</summary>The new one runs last: a deleted name loses its place, and comes back at the end of
# the order. (`del pair[0]` goes further and renumbers: what was 1 is now called 0.)</details>
#
# > **Exercise 3.3** · 2 points · difficulty 1 of 3 · 10 minutes · [PyTorch docs, `nn.Module.get_submodule`](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.get_submodule)
# >
# > Fill in `replace_module`. It must work at any depth, and in lists, dicts and sequences of modules.
#
# <details><summary>Hint 1: a question</summary>What are parent and child of <code>my_query</code>, a name without a
# dot?</details>
# <details><summary>Hint 2: the parts</summary>Split at the last dot; <code>model.get_submodule("")</code> is the model
# itself; a list's children are called <code>"0"</code>, <code>"1"</code>, and so on.</details>
# <details><summary>Hint 3: almost the code</summary><code>parent, _, child = name.rpartition(".")</code>, then
# <code>setattr(model.get_submodule(parent), child, new)</code>.</details>


# %% solution="replace"
def replace_module(model, name, new):
    """Put `new` where the module with the dotted `name` is. All other modules stay, in their order.

    `new` stays as it is: what it holds, what of it trains, and its mode; so does the module whose place it takes. A name whose parent does not exist is an error.
    """
    ### BEGIN SOLUTION 3.3
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    ### END SOLUTION


# %% check="3.3"
check("3.3", globals())

# %%
with after("3.3", "a layer replaced in the small transformer"):
    small = SmallTransformer()
    replace_module(small, "layers.1.query", nn.Identity())
    queries = [f"{n}: {type(block.query).__name__}" for n, block in enumerate(small.layers)]
    print(", ".join(queries[:3]), "...", ", ".join(queries[10:]))

# %% [markdown]
# `setattr` keeps the place. One layer changed, `layers.10` and `layers.11` did not.
#
# ## 3.4 Inject
#
# Now in the right order: freeze the model, find the names, wrap each layer, put the wrapper in place, let the head train. All names are
# collected **before** the first replacement, because a replacement changes what a walk finds.
#
# Why the head? `base_model` gives a pretrained encoder a new, random classifier. Section 3.7 comes back to that.

# %%
figure = plots.model_parts(base.config.num_hidden_layers)
display(figure)
print(describe(figure))

# %% [markdown]
# **Predict** for query and value at rank 8: each update has $r\,(in + out)$ numbers. How many in all?

# %%
pairs = [base.get_submodule(name) for name in inject.match_targets(base, ["query", "value"])]
expected = sum(8 * (layer.in_features + layer.out_features) for layer in pairs)
print(
    f"{len(pairs)} layers, {expected:,} numbers; the head has {sum(p.numel() for p in base.classifier.parameters()):,}"
)

# %% [markdown]
# <details><summary>Answer</summary>Two layers in each block, each with 8 (in + out) numbers. On the laptop profile: 12
# layers, 8 x 768 = 6,144 each, 73,728 in all, half of what the new head has.</details>
#
# > **Exercise 3.4** · 6 points · difficulty 2 of 3 · 30 minutes · LoRA paper, sections 4.1 and 4.2
# >
# > Fill in `inject_lora` with the three functions above and `LinearWithLoRA(linear, rank, alpha, dropout)`. Wrap the layers that are there:
# > every pretrained number stays, bit for bit.
#
# <details><summary>Hint 1: a question</summary>Run it twice in your head. What does <code>freeze</code> do to the updates of the first
# call, and what does your search find inside a wrapper?</details>
# <details><summary>Hint 2: the order</summary>Refuse a model that has LoRA already → names → freeze → for each name: get the layer, wrap
# it, replace it → head.</details>
# <details><summary>Hint 3: almost the code</summary><code>if any(isinstance(m, LinearWithLoRA) for m in model.modules()): raise
# ValueError</code>; a loop with <code>replace_module(model, name, LinearWithLoRA(model.get_submodule(name), ...))</code>;
# <code>if train_head: model.classifier.requires_grad_(True)</code>. You may also fix the arguments once, with
# <code>functools.partial(LinearWithLoRA, rank=rank, ...)</code>.</details>


# %% solution="inject"
def inject_lora(model, targets, rank=8, alpha=16, dropout=0.0, train_head=True):
    """Freeze the model and give each layer that `targets` mean a trainable low-rank update, in place.

    A second call raises an error, or leaves the wrapped layers as they are: wrapped once, what they learned, trainable.

    Args:
        model: with a head called `model.classifier`, one layer or several.
        targets: as in `match_targets`, whose ValueError it passes on; the model is then as it was.
        rank, alpha, dropout: of each update.
        train_head: let the whole of `model.classifier` train as well.

    Returns:
        The model itself, in the mode it was in. Its pretrained layers are inside the wrappers, not copies of them, and
        weights and biases are bit for bit what they were.
    """
    ### BEGIN SOLUTION 3.4
    if any(isinstance(module, LinearWithLoRA) for module in model.modules()):
        raise ValueError("this model has LoRA already")
    names = match_targets(model, targets)
    freeze(model)
    for name in names:
        replace_module(model, name, LinearWithLoRA(model.get_submodule(name), rank, alpha, dropout))
    if train_head:
        model.classifier.requires_grad_(True)
    return model
    ### END SOLUTION


# %% check="3.4"
check("3.4", globals())

# %% [markdown]
# Now the audit, before and after. **Predict**: which of the base model's tensors have another name now, and why?

# %%
inject_mine = pick("3.4", inject_lora, inject.inject_lora)
torch.manual_seed(0)
adapted = inject_mine(models.base_model(profile), ["query", "value"])
before, renamed, identical = base.state_dict(), 0, 0
for name, tensor in adapted.state_dict().items():
    if "lora_" not in name:
        old = name.replace(".linear.", ".")  # a wrapped layer lies one step deeper
        renamed += old != name
        identical += torch.equal(tensor, before[old])
print(f"{identical} of {len(before)} pretrained tensors are bit-identical; {renamed} have a new name")
tokens = torch.tensor([[0, 7, 8, 9, 2]])
with torch.no_grad():
    print("logits bit for bit as before:", torch.equal(base(tokens).logits, adapted.eval()(tokens).logits))

# %% [markdown]
# <details><summary>Answer</summary>Weight and bias of each wrapped layer: they lie one step deeper now, under
# .linear. No tensor has another value.</details>

# %%
with after("3.8", "the audit before and after"):
    states = {
        "base model": audit_mine(base),
        "common helper": audit_mine(add_lora_to_model(models.base_model(profile), ["query", "value"], rank=8)),
        "inject_lora": audit_mine(adapted),
    }
    figure = plots.audit(states)
    display(figure)
    print(describe(figure))

# %% [markdown]
# The helper froze the layers that it wrapped, and nothing else: most of the model goes on training, and the
# "parameter-efficient" run is nearly a full one.
#
# ## 3.5 Count
#
# A claim about what trains should come from a count, not from a line that prints "weights are frozen".
#
# > **Exercise 3.5** · 2 points · difficulty 1 of 3 · 5 minutes · LoRA paper, table 2 (its column of trainable parameters)
# >
# > Fill in `trainable_report`.
#
# <details><summary>Hint 1: a question</summary>How many numbers are in a tensor of shape (768, 8)? Which method of it knows?</details>
# <details><summary>Hint 2: the parts</summary>Two sums over <code>model.parameters()</code>, one of them with a condition; a
# quotient.</details>
# <details><summary>Hint 3: almost the code</summary><code>sum(p.numel() for p in model.parameters() if p.requires_grad)</code>, the same
# without the condition, and a dict of three.</details>


# %% solution="report"
def trainable_report(model):
    """How much of a model trains.

    Returns:
        `{"trainable": int, "total": int, "ratio": trainable / total}`. Counted in numbers, buffers not among them; a
        parameter that two layers share counts once.
    """
    ### BEGIN SOLUTION 3.5
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trainable": trainable, "total": total, "ratio": trainable / total}
    ### END SOLUTION


# %% check="3.5"
check("3.5", globals())

# %% [markdown]
# ### The homework's model, without its weights
#
# Counting needs shapes, not numbers. On torch's `meta` device a model has the first and not the second: `roberta-base` in no memory and without
# a download. One university homework adapts **every** linear layer, those of the head
# too. **Predict** from the sizes 768 and 3,072, twelve blocks, rank 8: more or less than 1% of 125 million?

# %%
config = costs.roberta_base_config()
homework = [*training.ENCODER_LINEARS, "classifier.dense", "classifier.out_proj"]
choices = {
    "query, value": ["query", "value"],
    "all of attention": ["query", "key", "value", "attention.output.dense"],
    "all in the encoder": list(training.ENCODER_LINEARS),
    "homework: the head's as well": homework,
}
report = pick("3.5", trainable_report, inject.trainable_report)
meta = costs.meta_model(config)
head = report(meta.classifier)["total"]
print(f"roberta-base with a head for two classes: {report(meta)['total']:,} parameters, {head:,} of them in the head")
updates = {}
for choice, targets in choices.items():
    model = inject_mine(costs.meta_model(config), targets, rank=8, train_head=False)
    updates[choice] = report(model)["trainable"]
    print(f"{choice:30} {len(inject.match_targets(meta, targets)):3} layers {updates[choice]:10,} in updates")

# %% [markdown]
# <details><summary>Answer</summary>More, but only just: 1,345,552 is 1.08% of 124.6 million. Query and value alone
# take 0.24%.</details>
#
# The known figures: 124,647,170 in all, 592,130 in the head; 294,912 for query and value, which the paper's table 2 rounds to
# 0.3 M; 1,327,104 for every linear layer of the encoder, and 18,448 more, 1,345,552, with the head's two. The next cell
# compares.

# %%
known = {"query, value": 294_912, "all in the encoder": 1_327_104, "homework: the head's as well": 1_345_552}
print("total:", report(meta)["total"] == 124_647_170, "| head:", head == 592_130)
print({choice: updates[choice] == number for choice, number in known.items()})
heads = {choice: 0 if choice.startswith("homework") else head for choice in choices}
figure = plots.trainable_budget(updates, heads)
display(figure)
print(describe(figure))

# %% [markdown]
# The new head is twice what LoRA needs in query and value; papers often leave it out of the count. The homework **freezes** its random head
# and adapts it by LoRA: fewer numbers, but a random matrix in the last layer forever.
#
# ## 3.6 Spot the bug
#
# Four small functions with common mistakes, each in a different setting. Read the docstring, find what breaks it, and fix it
# in place.
#
# > **Exercise 3.6** · 2 points · difficulty 2 of 3 · 20 minutes · LoRA paper, section 4.2
# >
# > Fix `unfreeze_blocks`, `add_dropout`, `as_convolution` and `train_prompt`.
#
# <details><summary>Hint 1: a question each</summary><code>unfreeze_blocks</code>: which names begin with <code>layer.1</code>?
# <code>add_dropout</code>: what does the walk find after the first replacement? <code>as_convolution</code>: where do its numbers come from?
# <code>train_prompt</code>: which part of the model is new?</details>
# <details><summary>Hint 2: what to look at</summary>The dot after a name; the moment at which the list of layers is complete; weight and
# bias; the names of all that must train.</details>
# <details><summary>Hint 3: almost the code</summary><code>name.startswith(block + ".")</code>; a <code>list(...)</code> of everything before
# the loop changes anything; <code>copy_</code> for weight and bias, <code>bias=linear.bias is not None</code>; two names instead of
# one.</details>


# %% solution="bugs"
def unfreeze_blocks(model, blocks):
    """Partial fine-tuning: the parameters of these blocks train, all others are frozen.

    Args:
        blocks: full dotted names, such as "encoder.layer.1".
    """
    for name, parameter in model.named_parameters():
        ### BEGIN SOLUTION 3.6
        parameter.requires_grad = any(name.startswith(block + ".") for block in blocks)
        ### GIVEN
        # parameter.requires_grad = any(block in name for block in blocks)
        ### END SOLUTION


def add_dropout(model, p):
    """Put nn.Sequential(nn.Dropout(p), layer) in the place of each nn.Linear inside the model; returns the model.

    All else of the model stays as it is.
    """
    ### BEGIN SOLUTION 3.6
    for parent in list(model.modules()):  # all of them, before the tree grows
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, nn.Sequential(nn.Dropout(p), child))
    ### GIVEN
    # for parent in model.modules():
    #     for name, child in parent.named_children():
    #         if isinstance(child, nn.Linear):
    #             setattr(parent, name, nn.Sequential(nn.Dropout(p), child))
    ### END SOLUTION
    return model


def as_convolution(linear):
    """An nn.Conv1d with kernel 1 that computes, at each position, what `linear` computes.

    `linear` takes (..., in_features), with or without a bias; the convolution takes (batch, in_features, length).
    """
    ### BEGIN SOLUTION 3.6
    conv = nn.Conv1d(linear.in_features, linear.out_features, kernel_size=1, bias=linear.bias is not None)
    with torch.no_grad():
        conv.weight.copy_(linear.weight.unsqueeze(-1))
        if linear.bias is not None:
            conv.bias.copy_(linear.bias)
    ### GIVEN
    # conv = nn.Conv1d(linear.in_features, linear.out_features, kernel_size=1, bias=False)
    # conv.weight = nn.Parameter(torch.empty(linear.out_features, linear.in_features, 1))
    ### END SOLUTION
    return conv


def train_prompt(model):
    """Prompt tuning: of a pretrained `model.encoder`, a new `model.prompt` and a new `model.classifier`, the two new parts
    train and the encoder does not. Returns the model."""
    for name, parameter in model.named_parameters():
        ### BEGIN SOLUTION 3.6
        parameter.requires_grad = name.startswith(("prompt.", "classifier."))
        ### GIVEN
        # parameter.requires_grad = "prompt" in name
        ### END SOLUTION
    return model


# %% check="3.6"
check("3.6", globals())

# %% [markdown]
# ## Lab: a vision transformer
#
# This lab carries no points, and has no language in it. A common mistake is to inject LoRA into a vision transformer with a new layer: `torch.empty` in place of the
# pretrained weight, and no bias. **Predict** the logits, before any training, where a right injection changes nothing.

# %%
digits = data.mnist(profile if profile.name == "tiny" else None)
small_run = profile.name == "tiny"
vit = vision.base_vit(digits, epochs=3 if small_run else 15, progress=False)
targets = vision.vit_targets(vit, "query-value")
pixels = vision.one_channel(digits["test"].images[:200])
with torch.no_grad():
    logits = vit(pixels).logits
print("targets:", targets)
kept = {
    "new layer": {},
    "+ its weight": {"keep_weight": True},
    "+ its bias": {"keep_weight": True, "keep_bias": True},
}
for name, options in kept.items():
    with torch.no_grad():
        found = vision.published_injection(vit, targets, **options)(pixels).logits
    broken, gap = (~found.isfinite()).float().mean().item(), (found - logits).abs().max().item()
    print(f"{name:13} {broken:4.0%} of the logits not finite; largest difference {gap:.2g}")

# %% [markdown]
# <details><summary>Answer</summary>Not finite: the new layers hold whatever was in memory. With the pretrained weight
# put back they are finite but wrong, for want of the bias; with both, no logit differs at all.</details>
#
# (Memory that nobody filled is shown as NaN here, so that the cell always says the same; in the wild it holds whatever was there before, and
# now and then that looks harmless.)
#
# Now the right injection. The model reads upright digits, and has to learn digits turned by 90 degrees, from 1,000 images. LoRA can be switched
# off again. **Predict**: which methods still read upright digits afterwards?

# %%
amount = {"adapt_epochs": 2, "adapt_images": 200} if small_run else {"adapt_epochs": 10, "adapt_images": 1_000}
results = vision.rotated_digits(data=digits, base=vit, progress=False, **amount)
display(vision.table(results).round(3))
figure = plots.vit_figure(results)
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>Those that left the head alone: LoRA without the head, switched off, reads upright
# digits as well as before. Where the head trained, part of the change stays when LoRA is off; after full fine-tuning
# there is nothing to switch off.</details>
#
# Where the head was left alone, switching the adapter off gives back the base model, bit for bit. A head that trained does not switch off.
#
# Each row is one seed. The same machine gives the same numbers again, but another number of threads sums in another order, and on the laptop
# profile that rounding alone moves LoRA's rows by a few points after ten epochs: read the left panel with that in mind. The right panel's
# differences are far larger there.
#
# ### A new head that may not learn
#
# Give the transformer a new, random head, as `base_model` does, and adapt it to the turned digits with LoRA in query and value: once with
# the head frozen, as a freeze by `"lora_" not in name` leaves it, once trained. **Predict** both accuracies, and that of the new head alone.

# %%
methods = (
    vision.VitMethod("LoRA + frozen random head", "lora", 1e-2, "query-value", 4, 8, train_head=False),
    vision.VitMethod("LoRA + trained new head", "lora", 1e-2, "query-value", 4, 8),
    vision.VitMethod("new head alone", "head", 3e-2),
)
new_head = {method.name: (0, []) for method in methods}
for seed in range(3):
    model = copy.deepcopy(vit)
    torch.manual_seed(seed)
    model.classifier = nn.Linear(model.config.hidden_size, 10)
    for found in vision.rotated_digits(methods, data=digits, base=model, seed=seed, progress=False, **amount):
        new_head[found.method.name] = (found.trainable, [*new_head[found.method.name][1], found.adapted])
figure = plots.new_head(new_head, len(digits["test"].labels))
display(figure)
print(describe(figure))

# %% [markdown]
# <details><summary>Answer</summary>About 0.75 with the frozen head and 0.79 with the trained one; the head alone gets to
# about 0.65 (laptop profile, means of three seeds; a few points more or less on another machine). With the frozen head
# each of our three seeds did worse.</details>
#
# LoRA bends the features towards a random head as far as its rank lets it; a head that may turn towards the features gets further. With a GPU
# and the hub, `vision.photographs()` compares the methods on ViT-base and CIFAR-10.

# %% [markdown]
# ## 3.7 Which layers, and why a new head must train
#
# > **Exercise 3.7** · 3 points, graded by hand · difficulty 2 of 3 · 20 minutes · LoRA paper, sections 4.2, 5.1 and 7.1
# >
# > In 120 to 250 words: (a) Which layers would you adapt under a fixed budget of parameters, and what would change your mind? Use counts from
# > section 3.5. *[1 point]* (b) Why must a *new* head train, and what goes wrong in a freeze by `"lora_" not in name`? Use a number from the
# > lab. *[1 point]* (c) When may a head stay frozen, and what do you gain? *[1 point]*

# %% [markdown] written="3.7"
# (a) Under a fixed budget I start with query and value in every block: 294,912 numbers at rank 8 in roberta-base, 0.24% of the model. The paper's
# section 7.1 compares, at one budget, single attention matrices at a higher rank with several at a lower one, and finds it better to adapt more kinds
# of matrices at a smaller rank than one kind at a larger. All linear layers of the encoder cost 1,327,104, 4.5 times as much, and reach the feed-forward part,
# where most of a block's weights are. I would pay that where the task is far from the pretraining and the data is enough. The lab does not settle
# it: its rows are of one seed each, and rounding alone moves them by points. A validation set decides, with more than one seed.
#
# (b) The new head is random: no pretraining has said which direction means which class. Frozen, it stays a random projection, and all that the updates can do is to bend
# the encoder's features towards its random directions, with a low rank. In the lab the same LoRA reached 0.757 with the
# frozen head and 0.790 with the trained one, means of three seeds, and was behind in each of them; the new head alone
# reached 0.659. The common rule freezes every name without `lora_`, and the new classifier's has none, so it is frozen with the pretrained weights. A freeze must go by
# what is pretrained, not by what a name looks like.
#
# (c) Where the head itself is pretrained for the same classes. Then the adapter switched off gives the original model bit for bit (the lab's upright digits), several
# tasks can share it, and the file holds LoRA alone.
#
# ### BEGIN MARK SCHEME
# - **1 point, (a)**: a choice with a count from section 3.5 (half a point), and a reason or a condition under which it changes: distance of the task, amount of data,
#   the paper's finding that more kinds of matrices at lower rank beat one kind at higher rank, a measurement (half a point). "All layers, because
#   more is better" without cost earns nothing.
# - **1 point, (b)**: a new head is random and has learned nothing, and a low-rank update of the layers before it must make up for that (half a point); the rule by name
#   froze it because its name has no `lora_`, with a number of the lab's last figure (half a point).
# - **1 point, (c)**: a head that was trained for the same classes (half a point); the gain: switched off the adapter leaves the original model, or one head for several
#   adapters, or a smaller file (half a point).
# - An answer that finds little or no difference between frozen and trained head in its own run, quotes it, and discusses why is right for (b)'s number.
# ### END MARK SCHEME

# %% [markdown]
# ## Stretch: three layers in one matrix
#
# This exercise is optional: checked like all others, but without points.
# `nn.MultiheadAttention` has no linear layer for query, key and value: their weights lie on top of each other in one parameter, `in_proj_weight`
# of shape (3 size, size), which no wrapper can stand in for. A parametrization can (exercise 2.6): the layer reads the attribute and gets
# what your module makes of it.
#
# > **Exercise 3.9** · optional, no points · difficulty 3 of 3 · 25 minutes · [PyTorch docs, `MultiheadAttention`](https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html)
# >
# > Fill in `InProjLoRA` and `adapt_attention`: query and value get an update each, key none.
#
# <details><summary>Hint 1: a question</summary>Which rows of the matrix are query's? What would writing into a slice of W do to W?</details>
# <details><summary>Hint 2: shapes</summary><code>lora_B @ lora_A</code> multiplies stacks of matrices: (2, size, rank) and (2, rank, size) give
# two updates of (size, size).</details>
# <details><summary>Hint 3: almost the code</summary><code>query, key, value = W.chunk(3)</code>; <code>torch.cat</code> puts three together again.
# Refuse → freeze → <code>register_parametrization(attention, "in_proj_weight", ...)</code>.</details>


# %% solution="in_proj"
class InProjLoRA(nn.Module):
    """Query's, key's and value's rows of W -> the same with an update for query and one for value.

    Args:
        embed_dim: the size; W has the shape (3 size, size).
        rank, alpha: of each update.

    Attributes:
        lora_A: parameter of shape (2, rank, size), random; the first is query's, the second value's.
        lora_B: parameter of shape (2, size, rank), zeros.
    """

    def __init__(self, embed_dim, rank, alpha):
        super().__init__()
        ### BEGIN SOLUTION 3.9
        self.lora_A = nn.Parameter(torch.randn(2, rank, embed_dim) / embed_dim**0.5)
        self.lora_B = nn.Parameter(torch.zeros(2, embed_dim, rank))
        self.scaling = alpha / rank
        ### END SOLUTION

    def forward(self, W):
        """The packed weight with (alpha / rank) B A added to query's and to value's rows; W itself stays as it is."""
        ### BEGIN SOLUTION 3.9
        query, key, value = W.chunk(3)
        for_query, for_value = self.scaling * (self.lora_B @ self.lora_A)
        return torch.cat([query + for_query, key, value + for_value])
        ### END SOLUTION


def adapt_attention(attention, rank=8, alpha=16):
    """Freeze an `nn.MultiheadAttention` and give its query and value a trainable low-rank update each, in place.

    Returns:
        The layer itself. Nothing but the updates' `lora_A` and `lora_B` trains.

    Raises:
        ValueError: its `in_proj_weight` is None (with `kdim` or `vdim` there are three matrices), or it has an update
            already. The layer is then as it was.
    """
    ### BEGIN SOLUTION 3.9
    if attention.in_proj_weight is None or is_parametrized(attention, "in_proj_weight"):
        raise ValueError("no packed weight here, or it has an update already")
    attention.requires_grad_(False)
    register_parametrization(attention, "in_proj_weight", InProjLoRA(attention.embed_dim, rank, alpha))
    return attention
    ### END SOLUTION


# %% check="3.9"
check("3.9", globals())

# %% [markdown]
# **Predict**: of the 7.1 million numbers in a block of torch's own transformer, as large as one of `roberta-base`, how many train now?

# %%
with after("3.9", "LoRA in a block of torch's own transformer"):
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True).requires_grad_(False).eval()
    sentence = torch.randn(1, 5, 768)
    before = block(sentence)
    layers = [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]
    print("its linear layers:", ", ".join(layers))
    adapt_attention(block.self_attn)
    print("output as before, up to rounding:", torch.allclose(block(sentence), before, atol=1e-5))
    counts = inject.trainable_report(block)
    print(f"{counts['trainable']:,} of {counts['total']:,} numbers train")

# %% [markdown]
# <details><summary>Answer</summary>24,576: two updates with 8 (768 + 768) numbers each, as in a RoBERTa whose query and
# value have layers of their own. A search for linear layers finds neither: only what comes after them.</details>

# %% [markdown]
# ## Before you go on
#
# Answer in your head first, then unfold.
#
# 1. A colleague's LoRA run needs as much memory as full fine-tuning. Which two lines do you ask to see?
#
#    <details><summary>Answer</summary>The line that freezes the model, and the one that gives the optimiser its
#    parameters. A count by trainable_report would have told.</details>
# 2. You inject into `["dense"]`, and the count is larger than you expected. What is in it?
#
#    <details><summary>Answer</summary>Three layers in each block, the attention's output among them, and
#    classifier.dense, which belongs to the head.</details>
# 3. After injection the logits differ from the base model's. Name two causes.
#
#    <details><summary>Answer</summary>Layers built from scratch instead of wrapped (a lost weight or bias), B that is
#    not zero, or a head drawn from another seed. Dropout, if one of the two models is in training mode, is a
#    fourth.</details>
# 4. A paper says "0.3 M trainable parameters". What may be missing from that count?
#
#    <details><summary>Answer</summary>The head: in roberta-base its 592,130 numbers are twice the 0.3 M of LoRA in
#    query and value.</details>
#
# **What next.** Stage 4 trains this model on film reviews, keeps what it learned in one small file, and compares it with full fine-tuning.
