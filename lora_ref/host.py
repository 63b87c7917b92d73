"""The model around the layers: its task head. What else is about the whole model is offered here too."""

from __future__ import annotations

from typing import Any

from torch import nn

from lora_ref.adapter_file import (  # noqa: F401
    ADAPTER_FILE,
    FORMAT,
    adapter_parameters,
    is_finite,
    on_cpu,
    refuse_buffers,
    refuse_non_finite,
    scalings,
    write_adapter,
)
from lora_ref.places import WRAPPED, other_references, plain_name, swap_module, unwrapped  # noqa: F401
from lora_ref.pretrained import (  # noqa: F401
    plain_state,
    refuse_scaled_outputs,
    resize_token_embeddings,
    save_pretrained,
    tied_layers,
)

#: What the task head is called where nothing else tells: in torchvision, timm, and most models that people write.
HEAD_NAMES = (
    "classifier", "score", "head", "heads", "fc", "qa_outputs", "classification_head", "logits_proj",
    "multiple_choice_head",
)  # fmt: skip


def head_names(model: nn.Module) -> list[str]:
    """Names of the children that are the task head: what a pretrained model has beside its pretrained part.

    In transformers' models that is every child with parameters but the base model, unless the model predicts words:
    then its head is pretrained. In others, the children named as in `HEAD_NAMES`.

    Example:
        >>> from transformers import DistilBertConfig, DistilBertForSequenceClassification
        >>> config = DistilBertConfig(vocab_size=50, dim=16, hidden_dim=24, n_layers=1, n_heads=2)
        >>> head_names(DistilBertForSequenceClassification(config))
        ['pre_classifier', 'classifier']
    """
    model = unwrapped(model)
    children = {name: child for name, child in model.named_children() if any(True for _ in child.parameters())}
    base = getattr(model, "base_model_prefix", None)
    if base and base in children and not predicts_words(model):
        return [name for name in children if name != base]
    return [name for name in HEAD_NAMES if name in children]


def predicts_words(model: nn.Module) -> bool:
    """True for a language model of transformers': it has output embeddings, and they are pretrained.

    Example:
        >>> predicts_words(nn.Sequential(nn.Linear(4, 2)))
        False
    """
    embeddings: Any = getattr(unwrapped(model), "get_output_embeddings", None)
    return embeddings is not None and embeddings() is not None
