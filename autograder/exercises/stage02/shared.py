"""Stage 02: pieces of the worked solution that mutants of several exercises edit."""

from __future__ import annotations

KEEP = "self.linear = linear.requires_grad_(False)"
LORA = "self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha, dropout)"
SUM = "return self.linear(x) + self.lora(x)"
IF_MERGED = (
    "if self.merged:  # exercise 2.5: the weight holds the update already\n            return self.linear(x)\n        "
)

#: The last lines of a class's gap: a mutant that writes the class again comes behind.
LAYER_END = "return (self.scaling * down) @ self.lora_B.T\n        ### END SOLUTION"
