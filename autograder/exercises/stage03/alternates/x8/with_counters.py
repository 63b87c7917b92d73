"""The audit with two Counters and a regular expression."""

import re
from collections import Counter

PARTS = {
    "LoRA": r"(^|\.)lora_",
    "head": r"(^|\.)classifier\.",
    "embeddings": r"(^|\.)embeddings\.",
    "norms": r"(^|\.)LayerNorm\.",
    "attention": r"(^|\.)attention\.",
    "feed-forward": "",
}


def audit(model):
    frozen, training = Counter(), Counter()
    for name, parameter in model.named_parameters():
        part = next(part for part, pattern in PARTS.items() if re.search(pattern, name))
        (training if parameter.requires_grad else frozen)[part] += parameter.numel()
    return {part: (frozen[part], training[part]) for part in PARTS}
