"""What a method costs: parameters and bytes from a configuration alone, activations and latency measured.

Counting needs shapes and no weights: a model on torch's ``meta`` device has the first and not the second, so the table
for a model of a hundred million parameters takes a second and no download.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lora_ref.host import head_names
from lora_ref.inject import linear_at, lora_layers, match_targets, merge_lora, unmerge_lora
from lora_ref.places import swap_module
from lora_ref.rank import lora_param_count, training_memory

if TYPE_CHECKING:
    import pandas as pd

#: (in_features, out_features) of the layers that the course's tables are about.
LAYERS = ((768, 768), (768, 3072), (1024, 1024), (1024, 4096), (2048, 2048))


def roberta_base_config(num_labels: int = 2) -> Any:
    """``roberta-base``'s configuration, written out: no hub is asked.

    Example:
        >>> config = roberta_base_config()
        >>> config.hidden_size, config.num_hidden_layers
        (768, 12)
    """
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=50_265,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3_072,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        num_labels=num_labels,
    )


def meta_model(config: Any) -> nn.Module:
    """A classifier of this transformers configuration with shapes and without weights (torch's ``meta`` device).

    Example:
        >>> model = meta_model(roberta_base_config())
        >>> f"{sum(p.numel() for p in model.parameters()):,}", model.device.type
        ('124,647,170', 'meta')
    """
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


# --- parameters and memory --------------------------------------------------------------------------------


def cost_table(
    config_or_model: Any,
    targets: Iterable[str],
    ranks: Sequence[int] = (1, 4, 8, 16, 64),
    bytes_per_param: int = 4,
    optimizer_states: int = 2,
) -> pd.DataFrame:
    """What head-only, LoRA and full fine-tuning keep in memory for a model, but for activations.

    Args:
        config_or_model: a transformers configuration, or any model without LoRA layers; its weights are not looked at.
        targets: as in `lora_ref.inject.match_targets`.
        ranks: one row each.
        bytes_per_param: 4 for float32.
        optimizer_states: 2 for Adam and AdamW.

    Returns:
        One row a method, with the columns ``method``, ``rank``, ``total`` and ``trainable`` (parameters), ``lora``
        (those of the updates), ``share`` (of the total that trains), and bytes: ``weights``, ``gradients``,
        ``optimizer``, and their sum ``memory``, which is `lora_ref.rank.training_memory`.

    Raises:
        ValueError: a target matches nothing, a rank is below 1, or the model has LoRA layers already.

    Example:
        >>> model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
        >>> cost_table(model, ["0"], ranks=[2])[["method", "rank", "total", "trainable", "memory"]]
          method  rank  total  trainable  memory
        0   head  <NA>  20200          0   80800
        1   lora     2  20600        400   87200
        2   full  <NA>  20200      20200  323200
    """
    import pandas as pd

    model = config_or_model if isinstance(config_or_model, nn.Module) else meta_model(config_or_model)
    if lora_layers(model):
        raise ValueError("the model has LoRA layers already; give the base model")
    layers = [linear_at(model, name) for name in match_targets(model, targets)]
    heads = [model.get_submodule(name) for name in head_names(model)]
    base = sum(p.numel() for p in model.parameters())
    head = sum(p.numel() for module in heads for p in module.parameters())

    def row(method: str, rank: int | None, lora: int, trainable: int) -> dict[str, Any]:
        total = base + lora
        return {
            "method": method,
            "rank": rank,
            "total": total,
            "trainable": trainable,
            "lora": lora,
            "share": trainable / total,
            "weights": bytes_per_param * total,
            "gradients": bytes_per_param * trainable,
            "optimizer": bytes_per_param * optimizer_states * trainable,
            "memory": training_memory(total, trainable, bytes_per_param, optimizer_states),
        }

    rows = [row("head", None, 0, head)]
    for rank in ranks:
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        lora = sum(lora_param_count(layer.out_features, layer.in_features, rank) for layer in layers)
        rows.append(row("lora", rank, lora, lora + head))
    return pd.DataFrame([*rows, row("full", None, 0, base)]).astype({"rank": "Int64"})


def layer_table(
    layers: Iterable[tuple[int, int]] = LAYERS, ranks: Sequence[int] = (4, 8, 16, 32, 64), bias: bool = True
) -> pd.DataFrame:
    """Full against LoRA parameters of single layers.

    Args:
        layers: (in_features, out_features) each.
        ranks: one row for each layer and rank.
        bias: count the layer's bias on the full side, where full fine-tuning trains it too.

    Returns:
        The columns ``layer``, ``in_features``, ``out_features``, ``rank``, ``full`` and ``lora`` (parameters),
        ``reduction`` (full / lora), ``full_mb`` and ``lora_mb`` (float32, 10^6 bytes).

    Example:
        >>> layer_table([(768, 768)], ranks=[8, 16])[["layer", "rank", "full", "lora", "reduction"]].round(1)
             layer  rank    full   lora  reduction
        0  768x768     8  590592  12288       48.1
        1  768x768    16  590592  24576       24.0
    """
    import pandas as pd

    rows = []
    for in_features, out_features in layers:
        full = out_features * in_features + (out_features if bias else 0)
        for rank in ranks:
            lora = lora_param_count(out_features, in_features, rank)
            rows.append(
                {
                    "layer": f"{in_features}x{out_features}",
                    "in_features": in_features,
                    "out_features": out_features,
                    "rank": rank,
                    "full": full,
                    "lora": lora,
                    "reduction": full / lora,
                    "full_mb": 4 * full / 1e6,
                    "lora_mb": 4 * lora / 1e6,
                }
            )
    return pd.DataFrame(rows)


def network_table(
    widths: Sequence[int] = (512, 2048, 2048, 128), ranks: Sequence[int] = (2, 4, 8, 16, 32), bias: bool = True
) -> pd.DataFrame:
    """Full against LoRA parameters of a chain of linear layers: `layer_table`, summed over the network.

    Returns:
        The columns ``rank``, ``full``, ``lora``, ``reduction`` (full / lora) and ``saved_percent``.

    Example:
        >>> network_table(ranks=[8]).round(1)
           rank     full   lora  reduction  saved_percent
        0     8  5509248  70656       78.0           98.7
    """
    table = (
        layer_table(itertools.pairwise(widths), ranks, bias)
        .groupby("rank", sort=False)[["full", "lora"]]
        .sum()
        .reset_index()
    )
    table["reduction"] = table["full"] / table["lora"]
    table["saved_percent"] = 100 * (1 - table["lora"] / table["full"])
    return table


def training_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of a training run as they lie in memory: what `lora_ref.rank.training_memory` predicts, measured.

    Call it after a step: before it there are neither gradients nor states.

    Returns:
        ``weights`` and ``gradients`` (of the parameters, shared ones once) and ``optimizer`` (every tensor it keeps, so
        AdamW's step counters too: 4 bytes a parameter tensor).

    Example:
        >>> model = nn.Linear(10, 10, bias=False)
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> model(torch.ones(1, 10)).sum().backward()
        >>> optimizer.step()
        >>> training_bytes(model, optimizer)  # 100 numbers, 4 bytes each; AdamW keeps two of each, and a step counter
        {'weights': 400, 'gradients': 400, 'optimizer': 804}
    """
    parameters = list(model.parameters())
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return {
        "weights": sum(p.nbytes for p in parameters),
        "gradients": sum(p.grad.nbytes for p in parameters if p.grad is not None),
        "optimizer": sum(state.nbytes for state in states),
    }


# --- activations ------------------------------------------------------------------------------------------


def activation_bytes(model: nn.Module, batch: Mapping[str, Tensor]) -> int:
    """Bytes that one forward pass keeps for the backward pass, besides the model's own parameters and buffers.

    Counted where autograd saves its tensors. Views share memory, so each storage counts once, however often it is
    saved. The model is in training mode meanwhile (dropout keeps its mask), and as it was afterwards; so is the random
    state.

    Args:
        model: what of it trains decides what autograd has to keep.
        batch: for ``model(**batch)``, on the model's device.

    Example:
        >>> class Small(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.second = nn.Linear(10, 20), nn.Linear(20, 2)
        ...     def forward(self, x):
        ...         return self.second(self.first(x).relu())
        >>> activation_bytes(Small(), {"x": torch.ones(8, 10)})  # 8 x 10 and 8 x 20 numbers of 4 bytes
        960
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    # the storages are kept as well as counted: memory that was freed could come again under the same address
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(**batch)  # bound, so that the graph lives until all is counted
            count = sum(storage.nbytes() for storage in kept.values())
            del output
    finally:
        for module, mode in modes:
            module.training = mode
    return count


# --- latency ----------------------------------------------------------------------------------------------


@torch.no_grad()
def merge_latency(model: nn.Module, batch: Mapping[str, Tensor], repeats: int = 20, warmup: int = 3) -> pd.DataFrame:
    """Time of one forward pass: the base model, with the updates beside the weights, and with them merged in.

    Measured in turns in one run, so that what else the machine does falls on all three. The base is the model with its
    original layers in their old places; afterwards the model is as it was, bit for bit.

    Args:
        model: with LoRA layers, not merged.
        batch: for ``model(**batch)``, on the model's device.
        repeats: turns that count.
        warmup: turns before them that do not.

    Returns:
        One row each for ``base``, ``unmerged`` and ``merged``: ``state``, ``milliseconds`` (median), ``fastest``,
        ``slowest``, and ``ratio``: to the base's time in the same turn, the median over turns. On a busy machine that
        is steadier than the quotient of the medians; still, look at ``fastest`` as well.

    Raises:
        ValueError: there are no LoRA layers, some are merged, or ``repeats`` is below 1.

    Example:
        >>> from lora_ref.inject import inject_lora
        >>> from lora_ref.models import tiny_roberta
        >>> model = inject_lora(tiny_roberta(), ["query"], rank=2)
        >>> frame = merge_latency(model, {"input_ids": torch.tensor([[0, 5, 6, 2]])}, repeats=1, warmup=0)
        >>> frame["state"].tolist()
        ['base', 'unmerged', 'merged']
    """
    import pandas as pd

    layers = lora_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no LoRA layers")
    if any(layer.merged for layer in layers.values()):
        raise ValueError("the model is merged; unmerge it first")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    times: dict[str, list[float]] = {"base": [], "unmerged": [], "merged": []}
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for turn in range(warmup + repeats):
            for layer in layers.values():
                swap_module(model, layer, layer.linear)
            measured = {"base": _seconds(model, batch)}
            for layer in layers.values():
                swap_module(model, layer.linear, layer)
            measured["unmerged"] = _seconds(model, batch)
            merge_lora(model)
            measured["merged"] = _seconds(model, batch)
            unmerge_lora(model)
            if turn >= warmup:
                for state, seconds in measured.items():
                    times[state].append(1000 * seconds)
    finally:  # Ctrl-C in the middle of a turn must not leave a model without its updates, or with them in its weights
        for layer in set(layers.values()) - set(lora_layers(model).values()):
            swap_module(model, layer.linear, layer)
        unmerge_lora(model)
        for module, mode in modes:
            module.training = mode
    return pd.DataFrame(
        {
            "state": state,
            "milliseconds": median(values),
            "fastest": min(values),
            "slowest": max(values),
            "ratio": median(value / base for value, base in zip(values, times["base"], strict=True)),
        }
        for state, values in times.items()
    )


def _seconds(model: nn.Module, batch: Mapping[str, Tensor]) -> float:
    _wait()
    start = time.perf_counter()
    model(**batch)
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
