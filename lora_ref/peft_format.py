"""PEFT's adapter format, both ways: its configuration and its tensor names against the layers of this package.

PEFT keeps an adapter as ``adapter_config.json`` and ``adapter_model.safetensors``; `lora_ref.adapters` reads and writes
the files, and here is what they mean. `lora_ref.peft_config` reads the configuration. A tensor is called
``base_model.model.NAME.lora_A.weight`` there and ``NAME.lora.lora_A`` here, in the same orientation. PEFT itself is not
needed.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PureWindowsPath
from typing import Any

from torch import Tensor, nn

from lora_ref.adapter_file import on_cpu
from lora_ref.inject import lora_layers
from lora_ref.layers import LinearWithLoRA, LoRALayer
from lora_ref.names import kind_of, shortest_targets
from lora_ref.peft_config import (  # noqa: F401 (most are offered here too)
    ADVICE,
    IGNORED,
    MAX_NAMES,
    MAX_PATTERN,
    PLAIN_INITIALISATIONS,
    READ,
    SEQ_CLS_HEADS,
    PeftConfig,
    module_names,
)
from lora_ref.places import plain_name, unwrapped
from lora_ref.stand_in import same_numbers, update_problem

PREFIX = "base_model.model."


# --- ours -> PEFT ---------------------------------------------------------------------------------------------------


def to_peft(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of ``model``'s adapter, as ``PeftModel.from_pretrained`` takes them.

    `LoRALayer` keeps ``scaling`` and not alpha, so alpha is worked out from it: ``scaling * r``, or with ``use_rslora``
    where only ``scaling * sqrt(r)`` is a whole number. Fields younger than PEFT 0.4 are written only where they are
    needed, because releases before 0.14 do not take a field that they do not know. Tried: 0.6 to 0.21 load what this
    writes (``use_rslora`` from 0.8).

    Returns:
        The content of ``adapter_config.json``, and tensors on the CPU by PEFT's names.

    Raises:
        ValueError: PEFT cannot hold this adapter: a module both trains and holds a LoRA layer, a single parameter
            trains without the rest of its module, or a trained module has buffers.

    Example:
        >>> from lora_ref import inject_lora
        >>> from lora_ref.models import tiny_roberta
        >>> config, tensors = to_peft(inject_lora(tiny_roberta(), ["query", "value"], rank=4, alpha=8))
        >>> config["r"], config["lora_alpha"], config["modules_to_save"]
        (4, 8, ['classifier'])
        >>> next(iter(tensors))
        'base_model.model.classifier.dense.weight'
    """
    model = unwrapped(model)
    layers = {plain_name(name): layer for name, layer in lora_layers(model).items()}
    known = {id(layer.lora) for layer in layers.values()}
    for name, module in model.named_modules():
        if isinstance(module, LoRALayer) and id(module) not in known:
            raise ValueError(f"{name!r} is a LoRALayer outside of a LinearWithLoRA; PEFT has nothing like it")
    names = module_names(model)
    ranks = {name: len(layer.lora.lora_A) for name, layer in layers.items()}
    rslora, alphas = _alphas({name: layer.lora.scaling for name, layer in layers.items()}, ranks)
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))

    trained = _trained_modules(model, layers)
    is_classifier = type(model).__name__.endswith("ForSequenceClassification")
    task_type = "SEQ_CLS" if is_classifier and _ending_in(trained, SEQ_CLS_HEADS) else None
    whole = _outermost(_ending_in(names, trained + (SEQ_CLS_HEADS if task_type else [])))
    tensors: dict[str, Tensor] = {}
    for name in whole:
        module = model.get_submodule(name)
        if any(_is_inside(layer, name) for layer in layers):
            raise ValueError(f"{name!r} both trains and holds a LoRA layer; PEFT allows one: freeze it")
        if any(True for _ in module.buffers()):
            raise ValueError(f"{name!r} trains and has buffers, which an adapter does not hold")
        tensors |= {f"{PREFIX}{name}.{key}": tensor for key, tensor in module.state_dict().items()}
    for name, layer in layers.items():
        A, B = layer.lora.lora_A, layer.lora.lora_B
        if problem := update_problem(layer.lora, layer.lora.scaling * (B @ A)):
            raise ValueError(f"{name!r} is not PEFT's LoRA: {problem}")
        tensors |= {f"{PREFIX}{name}.lora_A.weight": A, f"{PREFIX}{name}.lora_B.weight": B}
    tensors = on_cpu(tensors)

    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": getattr(model, "name_or_path", None) or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": Counter(layer.lora.dropout.p for layer in layers.values()).most_common(1)[0][0],
        "target_modules": _shortest_targets(list(layers), names),
        "modules_to_save": trained or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    if rslora:
        config["use_rslora"] = True
    # whole names, because releases before 0.14 take a suffix for both patterns or for none
    for field, values, default in (("rank_pattern", ranks, rank), ("alpha_pattern", alphas, alpha)):
        pattern = _pattern_of(values, default)
        if pattern:
            config[field] = pattern

    _, read_back, _ = from_peft(model, config, tensors)
    for name, layer in layers.items():
        if not math.isclose(read_back[f"{name}.lora"], layer.lora.scaling, rel_tol=1e-12):
            raise ValueError(f"PEFT's configuration cannot express that {name!r} has scaling {layer.lora.scaling:g}")
    return config, tensors


def _alphas(scalings: Mapping[str, float], ranks: Mapping[str, int]) -> tuple[bool, dict[str, float]]:
    """``use_rslora`` and each layer's alpha: whole numbers if one of the two rules gives them, otherwise floats."""
    for rslora in (False, True):
        divisors = {name: math.sqrt(rank) if rslora else rank for name, rank in ranks.items()}
        alphas: dict[str, float] = {name: round(scalings[name] * divisor) for name, divisor in divisors.items()}
        if all(alphas[name] / divisor == scalings[name] for name, divisor in divisors.items()):
            return rslora, alphas
    return False, {name: scalings[name] * rank for name, rank in ranks.items()}


def _trained_modules(model: nn.Module, layers: Iterable[str]) -> list[str]:
    """The outermost modules whose parameters all train; together they hold all that trains beside LoRA."""
    lora = {id(p) for m in model.modules() if isinstance(m, LoRALayer) for p in m.parameters()}
    trainable = {plain_name(name) for name, p in model.named_parameters() if p.requires_grad and id(p) not in lora}
    for name in layers:
        if any(parameter.startswith(name + ".") for parameter in trainable):
            raise ValueError(f"{name!r} has a LoRA layer and trains itself as well; PEFT allows one: freeze it")
    outermost: list[str] = []
    for raw_name, module in model.named_modules():
        name = plain_name(raw_name)
        inside = {plain_name(f"{name}.{parameter}") for parameter, _ in module.named_parameters()}
        if name and inside and inside <= trainable:
            outermost.append(name)
            trainable -= inside
    if trainable:
        raise ValueError(f"{min(trainable)!r} trains, but not the whole of its module, which is what PEFT saves")
    return outermost


def _pattern_of(values: Mapping[str, float], default: float) -> dict[str, float]:
    """The layers that differ from the default, and those that end in the name of one that does, longest name first.

    The first name that a layer ends in counts.
    """
    different = {name for name, value in values.items() if value != default}
    ends = tuple("." + name for name in different)
    keys = [name for name in values if name in different or name.endswith(ends)]
    return {name: values[name] for name in sorted(keys, key=len, reverse=True)}


def _shortest_targets(targets: list[str], names: list[str]) -> list[str] | str:
    """Suffixes, as short as can be, that mean the targets and no other module; or a regular expression."""
    short = shortest_targets(targets, [name for name in names if name not in set(targets)])
    return "|".join(re.escape(target) for target in targets) if short is None else short


# --- PEFT -> ours ---------------------------------------------------------------------------------------------------


def from_peft(
    model: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float], float]:
    """What PEFT's files mean for ``model``, which may have LoRA layers already. Nothing is changed.

    Args:
        model: its names decide what the configuration's targets and patterns mean.
        config: the content of ``adapter_config.json``, from anywhere.
        tensors: by PEFT's names.

    Returns:
        Tensors by this package's names, the scaling of each `LoRALayer` by name, and the dropout.

    Raises:
        ValueError: the configuration is malformed or asks for what is not supported here; or it and the tensors do not
            agree on the layers, the ranks or the trained modules. The message names the field.

    Example:
        >>> from lora_ref import inject_lora
        >>> from lora_ref.models import tiny_roberta
        >>> config, tensors = to_peft(inject_lora(tiny_roberta(), ["query"], rank=4, alpha=8))
        >>> ours, scaling, dropout = from_peft(tiny_roberta(), config, tensors)
        >>> {name.removeprefix("roberta.encoder."): value for name, value in scaling.items()}
        {'layer.0.attention.self.query.lora': 2.0, 'layer.1.attention.self.query.lora': 2.0}
    """
    model = unwrapped(model)
    peft_config = PeftConfig(config)
    base, here = str(config.get("base_model_name_or_path") or ""), str(getattr(model, "name_or_path", None) or "")
    if base and here and PureWindowsPath(base).name != PureWindowsPath(here).name:  # it takes both kinds of slashes
        warnings.warn(f"the adapter was trained on {base!r}, and this model is {here!r}", stacklevel=2)
    updates, head = _by_our_names(tensors)
    names = module_names(model)
    whole = _ending_in(names, peft_config.modules_to_save)
    _refuse_tied(model, whole)
    targets = [name for name in peft_config.targets(model) if not any(_is_inside(name, module) for module in whole)]

    layers_in_file = {name.removesuffix(".lora.lora_A").removesuffix(".lora.lora_B") for name in updates}
    for name in sorted(layers_in_file - set(targets)):
        if name in names and not isinstance(model.get_submodule(name), (nn.Linear, LinearWithLoRA)):
            raise ValueError(f"{name} is {kind_of(model.get_submodule(name))}: only nn.Linear can be adapted here")
    _same(layers_in_file, set(targets), "an update of", "target_modules")
    parameters = {plain_name(name) for name, _ in model.named_parameters()}
    saved_whole = {name for name in parameters if any(_is_inside(name, module) for module in whole)}
    head = _without_base(model, head, saved_whole)
    _same(set(head), saved_whole, "a whole tensor", "modules_to_save")

    scaling = {}
    for name in targets:
        rank, scale = peft_config.rank(name), peft_config.scaling(name)
        A = updates.get(f"{name}.lora.lora_A")
        if A is not None and len(A) != rank:
            raise ValueError(f"rank of {name}: adapter_config.json says {rank} (r, rank_pattern), its tensor {len(A)}")
        scaling[f"{name}.lora"] = scale
    return {**updates, **head}, scaling, peft_config.lora_dropout


def _refuse_tied(model: nn.Module, whole: Iterable[str]) -> None:
    """PEFT trains a copy of a module, so what was tied no longer is; here all that share a parameter would change."""
    names: dict[nn.Parameter, list[str]] = {}
    for raw_name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(plain_name(raw_name))
    for parameter in (p for module in whole for p in model.get_submodule(module).parameters()):
        name, *others = names[parameter]
        if others:
            raise ValueError(
                f"{name!r} is {' and '.join(map(repr, others))} too, and PEFT's modules_to_save means a copy of one of "
                "them alone: give each its own parameter first, nn.Parameter(weight.clone())"
            )


def _without_base(model: nn.Module, tensors: dict[str, Tensor], saved_whole: set[str]) -> dict[str, Tensor]:
    """The tensors but for copies of the base's: PEFT writes those beside an adapter of an embedding or its output.

    Raises:
        ValueError: such a copy is not what this model has.
    """
    base = {plain_name(name).replace(".linear.", "."): tensor for name, tensor in model.state_dict().items()}
    others = {}
    for name, tensor in tensors.items():
        own = base.get(name.replace(".base_layer.", "."))
        if name in saved_whole or own is None:
            others[name] = tensor
        elif same_numbers(tensor, own):
            continue
        elif ".base_layer." not in name:
            others[name] = tensor  # trained, and nothing in the configuration says so
        else:
            raise ValueError(
                f"{name}: the file has a copy of the base model's tensor, and this model's differs. The adapter has "
                "another base model, or its vocabulary was resized or trained: do the same to this one first"
            )
    return others


def _by_our_names(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """LoRA's tensors and all others, by the names they have in this package."""
    updates: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    adapters: set[str] = set()
    for key, tensor in tensors.items():
        name = plain_name(plain_name(key).removeprefix("module.").removeprefix(PREFIX).removeprefix("module."))
        # a state of PEFT's has the adapter's name in its keys, which its files leave out
        factor = re.fullmatch(r"(.+)\.lora_([AB])(?:\.([^.]+))?\.weight", name)
        whole_module = re.fullmatch(r"(.+)\.(?:modules_to_save\.([^.]+)|original_module)\.([^.].*)", name)
        if factor:
            adapters.add(factor[3] or "default")
            name = f"{factor[1]}.lora.lora_{factor[2]}"
        elif whole_module:
            adapters.add(whole_module[2] or "default")
            if whole_module[2] is None:
                continue  # the base's own, from before the training
            name = f"{whole_module[1]}.{whole_module[3]}"
        if name in updates or name in head:
            raise ValueError(f"{name} is there twice: with and without {PREFIX!r}, or of several adapters")
        if factor:
            updates[name] = tensor
        elif ".lora_" in name:
            kind = name.rpartition(".lora_")[2]
            raise ValueError(
                f"{key}: lora_{kind} is not part of a linear layer's update; only those are supported here"
            )
        else:
            head[name] = tensor
    if len(adapters) > 1:
        raise ValueError(f"tensors of several adapters ({', '.join(sorted(adapters))}): save one of them alone")
    if any(tensor.ndim != 2 for tensor in updates.values()):
        name = next(name for name, tensor in updates.items() if tensor.ndim != 2)
        raise ValueError(f"{name} has {updates[name].ndim} dimensions; only linear layers' updates are supported")
    return updates, head


def _same(in_file: set[str], expected: set[str], what: str, field: str) -> None:
    if in_file == expected:
        return
    lines = [f"no tensors for {name}" for name in sorted(expected - in_file)]
    lines += [f"{what} {name}, which {field} does not mean in this model" for name in sorted(in_file - expected)]
    shown = "\n  ".join(lines[:8]) + (f"\n  and {len(lines) - 8} more" if len(lines) > 8 else "")
    raise ValueError(f"the tensors and {field} in adapter_config.json do not agree:\n  {shown}")


# --- names ----------------------------------------------------------------------------------------------------------


def _ending_in(names: Iterable[str], ends: Iterable[str]) -> list[str]:
    """PEFT's rule for ``modules_to_save``, where "classifier" means "pre_classifier" too."""
    return [name for name in names if name.endswith(tuple(ends))]


def _is_inside(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _outermost(names: list[str]) -> list[str]:
    return [name for name in names if not any(name != other and _is_inside(name, other) for other in names)]
