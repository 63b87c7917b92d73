"""Exercise 2.5, what students do not get: points, hidden checks, mutants."""

from __future__ import annotations

from autograder.exercises import graded
from autograder.exercises.mutant import Mutant
from autograder.exercises.stage02.shared import IF_MERGED, KEEP, LORA, SUM
from lora_ref.checks.stage02 import e5_merge as room
from lora_ref.checks.verdicts import Check

HIDDEN = [
    Check(
        "2.5/merge",
        "merge() adds scaling * B A to linear.weight and sets .merged",
        room.probe_merge,
        room.judge_merged,
        room.steps("merge", dropout=0.2),
        points=0.75,
    ),
    graded(room, "2.5/forward", 0.75),
    Check(
        "2.5/twice",
        "merging twice is merging once",
        room.probe_twice,
        room.judge_twice,
        room.steps("merge", "merge", "unmerge"),
        points=0.5,
    ),
    graded(room, "2.5/unmerge", 0.75),
    graded(room, "2.5/continues", 0.75),
    graded(room, "2.5/walk", 0.5),
]


_MERGE_ONCE = "if self.merged:\n            return\n        "
_CLONE = "self.original = self.linear.weight.clone()  # (W + D) - D is not W in floating point"
_ADD = "self.linear.weight += self.lora.scaling * (self.lora.lora_B @ self.lora.lora_A)"
_RESTORE = "self.linear.weight.copy_(self.original)\n        del self.original"
_UNMERGE_ONCE = "if not self.merged:\n            return\n"
_INIT_TO_MERGE = f"""{KEEP}
        {LORA}
        ### END SOLUTION

    def forward(self, x):
        \"\"\"The adapted layer's output for x of shape (..., in_features).\"\"\"
        ### BEGIN SOLUTION 2.4
        {IF_MERGED}{SUM}
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
_CLONE_TO_RESTORE = _INIT_TO_MERGE[_INIT_TO_MERGE.index(_CLONE) : -1]


MUTANTS = [
    Mutant(
        "2.5/evaluation",
        "merging switches to evaluation mode, and unmerging not back",
        f"{_ADD}\n        self.merged = True",
        f"{_ADD}\n        self.merged = True\n        self.eval()",
        "in evaluation mode",
    ),
    Mutant("2.5/counts-twice", "forward adds the update although merged", IF_MERGED, "", "counts twice", "S2"),
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
        "2.5/leaves-autograd-off",
        "autograd is switched off for all that follows",
        f"with torch.no_grad():\n            {_CLONE}\n            {_ADD}",
        f"torch.set_grad_enabled(False)\n        {_CLONE}\n        {_ADD}",
        "autograd is switched off",
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
        _INIT_TO_MERGE.replace(KEEP, f"{KEEP}\n        self.pretrained = linear.weight")
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
        "flag is not set back",
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
        _CLONE_TO_RESTORE,
        "update = self.lora.scaling * (self.lora.lora_B @ self.lora.lora_A)\n"
        "            self.update = getattr(self, 'update', update)\n            self.linear.weight += update\n"
        "        self.merged = True\n\n    def unmerge(self):\n"
        "        if not self.merged:\n            return\n"
        "        with torch.no_grad():\n            self.linear.weight -= self.update",
        "is off by up to",
    ),
    Mutant(
        "2.5/square-transposed",
        "in a square layer the update is transposed",
        _ADD,
        "D = self.lora.scaling * (self.lora.lora_B @ self.lora.lora_A)\n"
        "            self.linear.weight += D.T if len(D) == len(D.T) else D",
        "is off by up to",
    ),
    Mutant(
        "2.5/weight-before-a-load",
        "W is kept from the first merge on",
        _CLONE_TO_RESTORE,
        "self.original = getattr(self, 'original', self.linear.weight.clone())\n"
        f"            {_ADD}\n"
        "        self.merged = True\n\n    def unmerge(self):\n"
        "        if not self.merged:\n            return\n"
        "        with torch.no_grad():\n            self.linear.weight.copy_(self.original)",
        "it is the weight from before the load",
    ),
    Mutant(
        "2.5/not-at-zero",
        "an update of zero is not merged",
        _MERGE_ONCE,
        _MERGE_ONCE.replace("self.merged", "self.merged or not self.lora.lora_B.any()"),
        ".merged of e is False",
    ),
    Mutant(
        "2.5/in-training-alone",
        "in evaluation mode nothing is merged",
        _MERGE_ONCE,
        _MERGE_ONCE.replace("self.merged", "self.merged or not self.training"),
        "evaluation mode for a",
    ),
    Mutant(
        "2.5/unmerge-trains",
        "unmerge() ends in training mode",
        _RESTORE,
        f"{_RESTORE}\n        self.train()",
        "whether it drops is the caller's",
    ),
    Mutant(
        "2.5/single-precision",
        "merged in single precision, whatever the weight is",
        _ADD,
        "update = self.lora.scaling * (self.lora.lora_B @ self.lora.lora_A)\n"
        "            self.linear.weight.data = self.linear.weight.float() + update.float()",
        "leave the dtype as it is",
    ),
    Mutant(
        "2.5/bias-grows",
        "the bias is scaled with it",
        _ADD,
        f"{_ADD}\n            if self.linear.bias is not None:\n                self.linear.bias *= 1.0001",
        "the update is the weight's alone",
    ),
]
