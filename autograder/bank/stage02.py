"""Stage 02, a LoRA layer: mistakes. Those with a ``seed`` stand in a published teaching piece (SEEDS.md)."""

from __future__ import annotations

from autograder.bank import Mutant

_A = "self.lora_A = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(in_features))"
_B = "self.lora_B = nn.Parameter(torch.zeros(out_features, rank))\n"
_BOTH = f"{_A}\n        {_B}"
_SCALING = "self.scaling = alpha / rank"
_DOWN = "down = self.dropout(x) @ self.lora_A.T  # (..., rank): the small tensor, so scale this one"
_UP = "return (self.scaling * down) @ self.lora_B.T"
_KEEP = "self.linear = linear.requires_grad_(False)"
_LORA = "self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha, dropout)"
_SUM = "return self.linear(x) + self.lora(x)"
_IF_MERGED = (
    "if self.merged:  # exercise 2.5: the weight holds the update already\n            return self.linear(x)\n        "
)
_MERGE_ONCE = "if self.merged:\n            return\n        "
_CLONE = "self.original = self.linear.weight.clone()  # (W + D) - D is not W in floating point"
_ADD = "self.linear.weight += self.lora.scaling * (self.lora.lora_B @ self.lora.lora_A)"
_RESTORE = "self.linear.weight.copy_(self.original)\n        del self.original"
_UNMERGE_ONCE = "if not self.merged:\n            return\n"
_INIT_TO_MERGE = f"""{_KEEP}
        {_LORA}
        ### END SOLUTION

    def forward(self, x):
        \"\"\"The adapted layer's output for x of shape (..., in_features).\"\"\"
        ### BEGIN SOLUTION 2.4
        {_IF_MERGED}{_SUM}
        ### END SOLUTION

    def merge(self):
        \"\"\"W <- W + scaling B A, once: merging a merged layer changes nothing.\"\"\"
        ### BEGIN SOLUTION 2.5
        {_MERGE_ONCE}with torch.no_grad():
            {_CLONE}
            {_ADD}
        self.merged = True
        ### END SOLUTION

    def unmerge(self):
        \"\"\"Back to W. A and B stay as they are, so training can go on.\"\"\"
        ### BEGIN SOLUTION 2.5
        {_UNMERGE_ONCE}        with torch.no_grad():
            {_RESTORE}
"""
_P_A = "self.A = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(in_features))"
_P_B = "self.B = nn.Parameter(torch.zeros(out_features, rank))"
_P_OFF = "if not self.enabled:\n            return W\n"
_P_ON = "return W + self.scale * (self.B @ self.A)"

MUTANTS = [
    # --- 2.1: the constructor
    Mutant(
        "2.1/alpha-not-divided",
        "scaling is alpha",
        _SCALING,
        "self.scaling = alpha",
        "division by rank is missing",
        "S0",
    ),
    Mutant("2.1/rslora", "scaling is alpha / sqrt(rank)", _SCALING, "self.scaling = alpha / rank**0.5", "rsLoRA"),
    Mutant(
        "2.1/A-zero",
        "A starts at zero like B",
        _A,
        "self.lora_A = nn.Parameter(torch.zeros(rank, in_features))",
        "A and B both zero",
    ),
    Mutant(
        "2.1/A-not-centred",
        "A is drawn from 0 to 1",
        _A,
        "self.lora_A = nn.Parameter(torch.rand(rank, in_features))",
        "not centred",
    ),
    Mutant(
        "2.1/A-uninitialised",
        "A is memory as it comes",
        _A,
        "self.lora_A = nn.Parameter(torch.empty(rank, in_features))",
        "uninitialised memory",
        "S4",
    ),
    Mutant(
        "2.1/A-constant",
        "A is the same number everywhere",
        _A,
        "self.lora_A = nn.Parameter(torch.full((rank, in_features), 0.01))",
        "must be random",
    ),
    Mutant(
        "2.1/B-random",
        "B starts random",
        _B,
        "self.lora_B = nn.Parameter(torch.randn(out_features, rank) / 10)\n",
        "B must start at zero",
    ),
    Mutant(
        "2.1/transposed",
        "both matrices the wrong way round",
        _BOTH,
        "self.lora_A = nn.Parameter(torch.randn(in_features, rank) / math.sqrt(in_features))\n"
        "        self.lora_B = nn.Parameter(torch.zeros(rank, out_features))\n",
        "both are transposed",
    ),
    Mutant(
        "2.1/features-swapped",
        "input and output features exchanged",
        _BOTH,
        "self.lora_A = nn.Parameter(torch.randn(rank, out_features) / math.sqrt(in_features))\n"
        "        self.lora_B = nn.Parameter(torch.zeros(in_features, rank))\n",
        "are swapped",
        "S1",
    ),
    Mutant(
        "2.1/to-unregisters",
        "a Parameter that is converted is no Parameter any more",
        _BOTH,
        "self.lora_A = nn.Parameter(torch.randn(rank, in_features, dtype=torch.float64)).to(torch.float32)\n"
        "        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, dtype=torch.float64)).to(torch.float32)\n",
        "make plain tensors",
        "S1",
    ),
    Mutant(
        "2.1/no-rank-check",
        "rank 0 is left to the division",
        'if rank < 1:\n            raise ValueError(f"rank must be at least 1, got {rank}")\n        self.lora_A',
        "self.lora_A",
        "check for rank < 1 is missing",
    ),
    Mutant("2.1/refuses-one", "rank 1 is refused too", "if rank < 1:", "if rank <= 1:", "refuses too much"),
    Mutant(
        "2.1/mean-not-std",
        "the spread is given where the mean is taken",
        _A,
        "self.lora_A = nn.Parameter(nn.init.normal_(torch.empty(rank, in_features), 0.02))",
        "not centred",
    ),
    Mutant(
        "2.1/double-precision",
        "A comes from NumPy, in float64",
        _A,
        "self.lora_A = nn.Parameter(torch.from_numpy(__import__('numpy').random.randn(rank, in_features)))",
        "NumPy's is float64",
    ),
    # --- 2.2: the update
    Mutant("2.2/scale-twice", "scaled before and after", _UP, "return self.scaling * " + _UP[7:], "applied twice"),
    Mutant("2.2/no-scale", "not scaled at all", _UP, "return down @ self.lora_B.T", "the scale is missing", "S2"),
    Mutant(
        "2.2/alpha-only",
        "multiplied by alpha",
        _UP,
        "return self.scaling * len(self.lora_A) * down @ self.lora_B.T",
        "division by rank is missing",
        "S0",
    ),
    Mutant(
        "2.2/rslora",
        "multiplied by alpha / sqrt(rank)",
        _UP,
        "return self.scaling * len(self.lora_A) ** 0.5 * down @ self.lora_B.T",
        "rsLoRA",
    ),
    Mutant(
        "2.2/builds-BA",
        "the full update is built on each call",
        f"{_DOWN}\n        {_UP}",
        "return self.dropout(x) @ (self.scaling * self.lora_B @ self.lora_A).T",
        "the matrix B A is built",
        "S2",
    ),
    Mutant(
        "2.2/dropout-on-output",
        "dropout after B",
        f"{_DOWN}\n        {_UP}",
        "return self.dropout(self.scaling * x @ self.lora_A.T @ self.lora_B.T)",
        "on the output",
    ),
    Mutant(
        "2.2/dropout-between",
        "dropout between A and B",
        f"{_DOWN}\n        {_UP}",
        "return self.scaling * self.dropout(x @ self.lora_A.T) @ self.lora_B.T",
        "between A and B",
    ),
    Mutant(
        "2.2/dropout-always",
        "F.dropout without the training flag",
        _DOWN,
        "down = F.dropout(x, self.dropout.p) @ self.lora_A.T",
        "evaluation mode too",
    ),
    Mutant("2.2/no-dropout", "dropout is forgotten", _DOWN, "down = x @ self.lora_A.T", "dropout is never applied"),
    Mutant(
        "2.2/dropout-unscaled",
        "what is kept is not divided by 1 - p",
        _DOWN,
        "x = x * (torch.rand_like(x) >= self.dropout.p) if self.training else x\n        down = x @ self.lora_A.T",
        "divided by 1 - p",
    ),
    Mutant(
        "2.2/dropout-inverted",
        "p is taken for the probability to keep",
        _DOWN,
        "down = F.dropout(x, 1 - self.dropout.p if self.dropout.p else 0.0, self.training) @ self.lora_A.T",
        "to drop, not to keep",
    ),
    Mutant(
        "2.2/cut-graph",
        "the factors are read through .data",
        _UP,
        "return (self.scaling * down) @ self.lora_B.data.T",
        "the graph is cut",
    ),
    Mutant(
        "2.2/three-dimensions-only",
        "an einsum for batches of sequences alone",
        _DOWN,
        'down = torch.einsum("bti,ri->btr", self.dropout(x), self.lora_A)',
        "counts on a certain number of dimensions",
    ),
    Mutant(
        "2.2/view",
        "x is taken to be contiguous",
        f"{_DOWN}\n        {_UP}",
        "down = self.dropout(x).view(-1, x.shape[-1]) @ self.lora_A.T\n"
        "        return (self.scaling * down @ self.lora_B.T).view(*x.shape[:-1], -1)",
        "otherwise in memory",
    ),
    Mutant(
        "2.2/one-mask",
        "one mask of dropout for the whole batch",
        _DOWN,
        "p = self.dropout.p\n"
        "        if self.training and p:\n"
        "            x = x * (torch.rand(x.shape[1:]) >= p) / (1 - p)\n"
        "        down = x @ self.lora_A.T",
        "each entry is dropped on its own",
    ),
    Mutant(
        "2.2/mask-of-channels",
        "whole channels are dropped",
        _DOWN,
        "p = self.dropout.p\n"
        "        if self.training and p:\n"
        "            x = x * (torch.rand(*x.shape[:-2], 1, x.shape[-1]) >= p) / (1 - p)\n"
        "        down = x @ self.lora_A.T",
        "each entry is dropped on its own",
    ),
    Mutant(
        "2.2/changes-x",
        "dropout in place",
        _DOWN,
        "down = F.dropout(x, self.dropout.p, self.training, inplace=bool(self.dropout.p)) @ self.lora_A.T",
        "in place",
    ),
    Mutant(
        "2.2/squeezes",
        "at rank 1 an axis is lost",
        _DOWN,
        "down = (self.dropout(x) @ self.lora_A.T).squeeze(-1)",
        "certain number of dimensions",
    ),
    # --- 2.3: the wrapper
    Mutant(
        "2.3/new-layer",
        "a new layer in place of the pretrained one",
        _KEEP,
        "self.linear = nn.Linear(linear.in_features, linear.out_features).requires_grad_(False)",
        "pretrained ones are lost",
        "S4",
    ),
    Mutant(
        "2.3/empty-weight",
        "uninitialised memory in place of the pretrained weight",
        _KEEP,
        "self.linear = linear.requires_grad_(False)\n"
        "        self.linear.weight = nn.Parameter(torch.empty_like(linear.weight), requires_grad=False)",
        "pretrained ones are lost",
        "S4",
    ),
    Mutant(
        "2.3/drops-bias",
        "the weight is taken over, the bias is not",
        _KEEP,
        "self.linear = nn.Linear(linear.in_features, linear.out_features, bias=False).requires_grad_(False)\n"
        "        self.linear.weight.data.copy_(linear.weight.data)",
        "bias was dropped",
        "S4",
    ),
    Mutant(
        "2.3/copies",
        "an equal copy of the layer",
        _KEEP,
        "self.linear = __import__('copy').deepcopy(linear).requires_grad_(False)",
        "the layer was copied",
    ),
    Mutant("2.3/not-frozen", "nothing is frozen", _KEEP, "self.linear = linear", "not frozen", "S2"),
    Mutant(
        "2.3/bias-trains",
        "only the weight is frozen",
        _KEEP,
        "self.linear = linear\n        linear.weight.requires_grad_(False)",
        "the bias is not frozen",
    ),
    Mutant(
        "2.3/all-frozen",
        "the update is frozen with the layer",
        _LORA,
        f"{_LORA}\n        self.requires_grad_(False)",
        "the whole wrapper was frozen",
    ),
    Mutant(
        "2.3/sizes-swapped",
        "input and output features exchanged",
        _LORA,
        "self.lora = LoRALayer(linear.out_features, linear.in_features, rank, alpha, dropout)",
        "are swapped",
        "S1",
    ),
    Mutant(
        "2.3/no-dropout",
        "dropout is not passed on",
        _LORA,
        "self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha)",
        "dropout is not passed on",
    ),
    Mutant(
        "2.3/any-module",
        "whatever is given is wrapped",
        "if not isinstance(linear, nn.Linear):",
        "if False:",
        "isinstance is missing",
    ),
    Mutant(
        "2.3/dropout-fixed",
        "a number of one's own for the dropout",
        _LORA,
        _LORA.replace(", dropout)", ", 0.1)"),
        "dropout is 0 by default",
    ),
    Mutant(
        "2.3/dropout-complement",
        "the probability to keep is passed on",
        _LORA,
        _LORA.replace(", dropout)", ", 1 - dropout if dropout else 0.0)"),
        "not passed on as it was given",
    ),
    # --- 2.4: the sum
    Mutant("2.4/update-only", "the frozen layer is not asked", _SUM, "return self.lora(x)", "only the update"),
    Mutant("2.4/base-only", "the update is not added", _SUM, "return self.linear(x)", "the update is missing"),
    Mutant(
        "2.4/no-bias",
        "the weight is used without the bias",
        _SUM,
        "return x @ self.linear.weight.T + self.lora(x)",
        "the bias is missing",
        "S4",
    ),
    Mutant(
        "2.4/scaled-again",
        "the update is scaled once more",
        _SUM,
        "return self.linear(x) + self.lora.scaling * self.lora(x)",
        "applied twice",
        "S2",
    ),
    Mutant(
        "2.4/no-grad",
        "the frozen layer runs without autograd",
        _SUM,
        "with torch.no_grad():\n            y = self.linear(x)\n        return y + self.lora(x)",
        "need the frozen layer's gradient",
    ),
    Mutant(
        "2.4/dropout-on-both",
        "dropout reaches the frozen layer too",
        f"{_IF_MERGED}{_SUM}",
        "x = self.lora.dropout(x)\n        return self.linear(x) + (0 if self.merged else self.lora(x))",
        "dropout reaches the frozen layer's input",
    ),
    Mutant(
        "2.4/own-product",
        "the update is written out anew, without its dropout",
        _SUM,
        "return self.linear(x) + self.lora.scaling * (x @ self.lora.lora_A.T @ self.lora.lora_B.T)",
        "lora(x) has its dropout already",
    ),
    Mutant(
        "2.4/dropout-twice",
        "dropout before an update that drops already",
        _SUM,
        "return self.linear(x) + self.lora(F.dropout(x, self.lora.dropout.p, self.training))",
        "lora(x) has its dropout already",
    ),
    Mutant(
        "2.4/dropout-on-sum",
        "dropout on what the update gives",
        _SUM,
        "return self.linear(x) + F.dropout(self.lora(x), self.lora.dropout.p, self.training)",
        "lora(x) has its dropout already",
    ),
    Mutant(
        "2.4/training-only",
        "no update in evaluation mode",
        "if self.merged:  # exercise 2.5",
        "if self.merged or not self.training:  # exercise 2.5",
        "does not ask the mode",
    ),
    # --- 2.5: merge and unmerge
    Mutant("2.5/counts-twice", "forward adds the update although merged", _IF_MERGED, "", "counts twice", "S2"),
    Mutant("2.5/merge-adds-twice", "the flag is not asked", _MERGE_ONCE, "", "added twice"),
    Mutant(
        "2.5/no-scale",
        "the product is added unscaled",
        _ADD,
        "self.linear.weight += self.lora.lora_B @ self.lora.lora_A",
        "the scale is missing",
    ),
    Mutant(
        "2.5/zeroes-factors",
        "A and B are emptied",
        _ADD,
        f"{_ADD}\n            self.lora.lora_A.zero_()\n            self.lora.lora_B.zero_()",
        "with both at zero nothing trains",
        "S3",
    ),
    Mutant(
        "2.5/autograd",
        "the merge is recorded by autograd",
        f"with torch.no_grad():\n            {_CLONE}\n            {_ADD}",
        f"{_CLONE}\n        {_ADD}",
        "under torch.no_grad()",
    ),
    Mutant(
        "2.5/replaces", "the update takes the weight's place", _ADD, _ADD.replace("+=", "="), "the parameter in place"
    ),
    Mutant(
        "2.5/unmerge-residue",
        "the product is subtracted unscaled",
        _RESTORE,
        "self.linear.weight -= self.lora.lora_B @ self.lora.lora_A",
        "not what merge added",
    ),
    Mutant(
        "2.5/alias",
        "the weight is remembered at construction, by a name and not by a copy",
        _INIT_TO_MERGE,
        _INIT_TO_MERGE.replace(_KEEP, f"{_KEEP}\n        self.pretrained = linear.weight")
        .replace(f"{_CLONE}\n            ", "")
        .replace(
            "self.linear.weight.copy_(self.original)\n        del self.original",
            "self.linear.weight.copy_(self.pretrained)",
        ),
        "kept without a copy",
    ),
    Mutant(
        "2.5/unmerge-flag",
        "the weight is restored, the flag is not",
        "del self.original\n        self.merged = False",
        "del self.original",
        "flag is not taken back",
    ),
    Mutant(
        "2.5/unmerge-unasked",
        "an update is subtracted that was never added",
        f"{_UNMERGE_ONCE}        with torch.no_grad():\n            {_RESTORE}",
        f"with torch.no_grad():\n            {_ADD.replace('+=', '-=')}",
        "taken away that is not there",
    ),
    Mutant(
        "2.5/stale-update",
        "the first merge's update is kept and used again",
        _ADD,
        "self.update = getattr(self, 'update', self.lora.scaling * (self.lora.lora_B @ self.lora.lora_A))\n"
        "            self.linear.weight += self.update",
        "first merge is used again",
    ),
    Mutant(
        "2.5/thaws",
        "the weight comes back as a new, trainable parameter",
        "self.linear.weight.copy_(self.original)",
        "self.linear.weight = nn.Parameter(self.original)",
        "trainable unless it is told",
    ),
    Mutant(
        "2.5/clones-first",
        "the original is kept before the flag is asked",
        f"{_MERGE_ONCE}with torch.no_grad():\n            {_CLONE}\n",
        "self.original = self.linear.weight.detach().clone()\n"
        "        if self.merged:\n            return\n        with torch.no_grad():\n",
        "keeps the merged weight as the original",
    ),
    Mutant(
        "2.5/trains-merged",
        "the merged weight is a new parameter that trains",
        f"{_CLONE}\n            {_ADD}",
        "self.original = self.linear.weight\n"
        "            self.linear.weight = nn.Parameter(\n"
        "                self.original + self.lora.scaling * (self.lora.lora_B @ self.lora.lora_A)\n            )",
        "trainable unless it is told",
    ),
    Mutant(
        "2.5/merges-dropout",
        "the update is asked of the layer, which drops",
        _ADD,
        "self.linear.weight += self.lora(torch.eye(self.linear.in_features)).T",
        "and drops",
    ),
    Mutant(
        "2.5/half-original",
        "the original is kept in half precision",
        _CLONE,
        "self.original = self.linear.weight.half()",
        "what unmerge takes away",
    ),
    Mutant(
        "2.5/squeezes",
        "at rank 1 an axis is lost",
        _ADD,
        "self.linear.weight += self.lora.scaling * (self.lora.lora_B.squeeze() @ self.lora.lora_A.squeeze())",
        "shapes do not fit",
    ),
    # --- 2.6: the parametrization
    Mutant("2.6/no-scale", "not scaled", _P_ON, "return W + self.B @ self.A", "the scale is missing"),
    Mutant(
        "2.6/alpha-only",
        "alpha is not divided by rank",
        "self.scale = alpha / rank",
        "self.scale = alpha",
        "division by rank is missing",
        "S0",
    ),
    Mutant(
        "2.6/off-in-evaluation",
        "the mode switches too",
        _P_OFF,
        _P_OFF.replace("not self.enabled", "not (self.enabled and self.training)"),
        "only self.enabled switches",
    ),
    Mutant("2.6/always-on", "the switch is not asked", _P_OFF, "pass\n", "does not ask self.enabled"),
    Mutant(
        "2.6/off-is-a-copy", "off returns a copy", _P_OFF, _P_OFF.replace("return W", "return W.clone()"), "return W"
    ),
    Mutant(
        "2.6/product-order",
        "A B in place of B A",
        _P_ON,
        "return W + self.scale * (self.A.T @ self.B.T)",
        "wrong order",
    ),
    Mutant(
        "2.6/features-swapped",
        "input and output features exchanged",
        f"{_P_A}\n        {_P_B}",
        "self.A = nn.Parameter(torch.randn(rank, out_features) / math.sqrt(in_features))\n"
        "        self.B = nn.Parameter(torch.zeros(in_features, rank))",
        "wrong way round",
        "S1",
    ),
    Mutant(
        "2.6/to-unregisters",
        "a Parameter that is converted is no Parameter any more",
        _P_A,
        "self.A = nn.Parameter(torch.randn(rank, in_features, dtype=torch.float64)).to(torch.float32)",
        "makes a plain tensor",
        "S1",
    ),
    Mutant(
        "2.6/A-zero",
        "both factors start at zero",
        _P_A,
        "self.A = nn.Parameter(torch.zeros(rank, in_features))",
        "A and B are both zero",
    ),
    Mutant(
        "2.6/uninitialised",
        "B is memory as it comes",
        _P_B,
        "self.B = nn.Parameter(torch.empty(out_features, rank))",
        "uninitialised memory",
        "S4",
    ),
    Mutant(
        "2.6/in-place",
        "the original is added to",
        _P_ON,
        "W += self.scale * (self.B @ self.A)\n        return W",
        "original weight changed",
    ),
    # --- 2.7: the mistakes as published
    Mutant(
        "2.7/project-up",
        "F.linear gets a transposed weight",
        "return F.linear(h, lora_B)  # F.linear transposes its weight by itself",
        "return F.linear(h, lora_B.T)",
        "it transposes its weight by itself",
        "S2",
    ),
    Mutant(
        "2.7/fold-in",
        "both factors are emptied",
        "lora.lora_B.zero_()  # zero again, as a fresh layer is; A stays, or no gradient would reach B",
        "lora.lora_A.zero_()\n    lora.lora_B.zero_()",
        "can never train again",
        "S3",
    ),
    Mutant(
        "2.7/fold-in-twice",
        "the adapter keeps its update",
        "lora.lora_B.zero_()  # zero again, as a fresh layer is; A stays, or no gradient would reach B",
        "pass",
        "the update counts twice",
        "S2",
    ),
    Mutant(
        "2.7/make-factors",
        "converted after nn.Parameter",
        "factors.lora_A = nn.Parameter(torch.randn(rank, linear.in_features, **like) / math.sqrt(linear.in_features))",
        "factors.lora_A = nn.Parameter(torch.randn(rank, linear.in_features)).to(linear.weight)",
        "makes a plain tensor",
        "S1",
    ),
    Mutant(
        "2.7/three-dimensions-only",
        "an einsum for batches of sequences alone",
        "return F.linear(h, lora_B)  # F.linear transposes its weight by itself",
        'return torch.einsum("bsr,or->bso", h, lora_B)',
        "counts on a certain number of dimensions",
    ),
    Mutant(
        "2.7/no-device",
        "the factors stay on the processor",
        'like = {"dtype": linear.weight.dtype, "device": linear.weight.device}',
        'like = {"dtype": linear.weight.dtype}',
        "take linear.weight's device",
    ),
    Mutant(
        "2.7/not-random",
        "A is the same number everywhere",
        "torch.randn(rank, linear.in_features, **like)",
        "torch.ones(rank, linear.in_features, **like)",
        "A is not random",
    ),
    Mutant(
        "2.7/uninitialised",
        "A is memory as it comes",
        "torch.randn(rank, linear.in_features, **like)",
        "torch.empty(rank, linear.in_features, **like)",
        "uninitialised memory",
    ),
]
