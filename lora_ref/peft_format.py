"""PEFT's adapter format, both ways: its configuration and its tensor names against the layers of this package.

PEFT keeps an adapter as ``adapter_config.json`` and ``adapter_model.safetensors``; `lora_ref.adapters` reads and writes
the files, and here is what they mean. A tensor is called ``base_model.model.NAME.lora_A.weight`` there and
``NAME.lora.lora_A`` here, in the same orientation. The rules by which PEFT matches names are those of its release 0.21
(``peft/tuners/tuners_utils.py``, ``peft/utils/other.py``). PEFT itself is not needed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lora_ref.adapter_file import on_cpu
from lora_ref.inject import lora_layers
from lora_ref.layers import LinearWithLoRA, LoRALayer
from lora_ref.names import kind_of, shortest_targets
from lora_ref.places import plain_name, unwrapped
from lora_ref.stand_in import same_numbers, update_problem

PREFIX = "base_model.model."

#: PEFT trains and saves these whole for a sequence classifier, asked or not; it compares the end of a name.
SEQ_CLS_HEADS = ["classifier", "score"]

#: Initialisations that leave the base weight alone; what A and B started from makes no difference once they are loaded.
PLAIN_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")

#: Fields that change nothing about what the loaded adapter computes.
IGNORED = {
    "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "runtime_config", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config",
}  # fmt: skip

#: Fields that `_Settings` reads.
READ = {
    "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "bias", "init_lora_weights", "target_modules",
    "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
}  # fmt: skip

#: What to do where a field is on that is not supported. Any other unknown field that is on is refused as well.
ADVICE = {
    "use_dora": "DoRA scales the columns of the merged weight; train without it",
    "lora_bias": "the update has no bias here; train with lora_bias=False",
    "fan_in_fan_out": "that is for GPT-2's Conv1D; only nn.Linear is wrapped here, which needs fan_in_fan_out=False",
    "trainable_token_indices": "token embeddings do not train here; put the module in modules_to_save",
    "target_parameters": "only nn.Linear modules are wrapped here; use target_modules",
    "layer_replication": "replicate the layers in the base model first",
}

MAX_PATTERN = 10_000  # characters of a regular expression
MAX_NAMES = 10_000  # entries of a list


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
    names = _names(model)
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
    left = {plain_name(name) for name, p in model.named_parameters() if p.requires_grad and id(p) not in lora}
    for name in layers:
        if any(parameter.startswith(name + ".") for parameter in left):
            raise ValueError(f"{name!r} has a LoRA layer and trains itself as well; PEFT allows one: freeze it")
    trained: list[str] = []
    for raw_name, module in model.named_modules():
        name = plain_name(raw_name)
        inside = {plain_name(f"{name}.{parameter}") for parameter, _ in module.named_parameters()}
        if name and inside and inside <= left:
            trained.append(name)
            left -= inside
    if left:
        raise ValueError(f"{min(left)!r} trains, but not the whole of its module, which is what PEFT saves")
    return trained


def _pattern_of(values: Mapping[str, float], default: float) -> dict[str, float]:
    """The layers that differ from the default, and those that end in the name of one that does, longest name first.

    The first name that a layer ends in counts.
    """
    different = {name for name, value in values.items() if value != default}
    ends = tuple("." + name for name in different)
    listed = [name for name in values if name in different or name.endswith(ends)]
    return {name: values[name] for name in sorted(listed, key=len, reverse=True)}


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
    settings = _Settings(config)
    updates, head = _by_our_names(tensors)
    names = _names(model)
    whole = _ending_in(names, settings.modules_to_save)
    _refuse_tied(model, whole)
    targets = [name for name in settings.targets(model) if not any(_is_inside(name, module) for module in whole)]

    updated = {name.removesuffix(".lora.lora_A").removesuffix(".lora.lora_B") for name in updates}
    for name in sorted(updated - set(targets)):
        if name in names and not isinstance(model.get_submodule(name), (nn.Linear, LinearWithLoRA)):
            raise ValueError(f"{name} is {kind_of(model.get_submodule(name))}: only nn.Linear can be adapted here")
    _same(updated, set(targets), "an update of", "target_modules")
    parameters = {plain_name(name) for name, _ in model.named_parameters()}
    saved_whole = {name for name in parameters if any(_is_inside(name, module) for module in whole)}
    head = _without_base(model, head, saved_whole)
    _same(set(head), saved_whole, "a whole tensor", "modules_to_save")

    scaling = {}
    for name in targets:
        rank, scale = settings.rank(name), settings.scaling(name)
        A = updates.get(f"{name}.lora.lora_A")
        if A is not None and len(A) != rank:
            raise ValueError(f"rank of {name}: adapter_config.json says {rank} (r, rank_pattern), its tensor {len(A)}")
        scaling[f"{name}.lora"] = scale
    return {**updates, **head}, scaling, settings.lora_dropout


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
    kept = {}
    for name, tensor in tensors.items():
        own = base.get(name.replace(".base_layer.", "."))
        if name in saved_whole or own is None:
            kept[name] = tensor
        elif same_numbers(tensor, own):
            continue
        elif ".base_layer." not in name:
            kept[name] = tensor  # trained, and nothing in the configuration says so
        else:
            raise ValueError(
                f"{name}: the file has a copy of the base model's tensor, and this model's differs. The adapter has "
                "another base model, or its vocabulary was resized or trained: do the same to this one first"
            )
    return kept


def _by_our_names(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """LoRA's tensors and all others, by the names they have in this package."""
    updates: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    adapters: set[str] = set()
    for key, tensor in tensors.items():
        name = plain_name(plain_name(key).removeprefix("module.").removeprefix(PREFIX).removeprefix("module."))
        # a state of PEFT's has the adapter's name in its keys, which its files leave out
        match = re.fullmatch(r"(.+)\.lora_([AB])(?:\.([^.]+))?\.weight", name)
        trained = re.fullmatch(r"(.+)\.(?:modules_to_save\.([^.]+)|original_module)\.([^.].*)", name)
        if match:
            adapters.add(match[3] or "default")
            name = f"{match[1]}.lora.lora_{match[2]}"
        elif trained:
            adapters.add(trained[2] or "default")
            if trained[2] is None:
                continue  # the base's own, from before the training
            name = f"{trained[1]}.{trained[3]}"
        if name in updates or name in head:
            raise ValueError(f"{name} is there twice: with and without {PREFIX!r}, or of several adapters")
        if match:
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


class _Settings:
    """The fields of ``adapter_config.json`` that matter here, checked, and PEFT's rules to read them by."""

    def __init__(self, config: Mapping[str, Any]):
        peft_type = config.get("peft_type")
        if peft_type != "LORA":
            raise ValueError(f"peft_type is {_short(peft_type)}; only 'LORA' can be read here")
        for field, value in config.items():
            if field not in READ | IGNORED and value not in (None, False, [], {}, ""):
                advice = ADVICE.get(field, "train without it")
                raise ValueError(f"{field} is {_short(value)}, which is not supported here: {advice}")
        bias, init = config.get("bias", "none"), config.get("init_lora_weights", True)
        if bias != "none":
            raise ValueError(f"bias is {_short(bias)}; biases do not train here: train with bias='none'")
        if not (init is None or isinstance(init, (bool, str))) or init not in PLAIN_INITIALISATIONS:
            raise ValueError(
                f"init_lora_weights is {_short(init)}, which may change the base weights too: save the adapter with "
                "PEFT's `path_initial_model_for_weight_conversion`, which makes it plain LoRA"
            )
        self.all_linear = str(config.get("target_modules")).lower() == "all-linear"
        self.task_type = _field(config, "task_type", None, _is_text, "a name")
        self.r = _field(config, "r", 8, _is_rank, "a whole number from 1")
        self.lora_alpha = _field(config, "lora_alpha", 8, _is_number, "a finite number")
        self.lora_dropout = _field(
            config, "lora_dropout", 0.0, lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1"
        )
        self.use_rslora = _field(config, "use_rslora", False, lambda v: isinstance(v, bool), "true or false")
        self.target_modules = _field(config, "target_modules", None, _is_text_or_names, "names or an expression")
        self.exclude_modules = _field(config, "exclude_modules", [], _is_text_or_names, "names or an expression")
        self.modules_to_save = _field(config, "modules_to_save", [], _is_names, "a list of names")
        self.rank_pattern = _pattern(config, "rank_pattern", _is_rank, "whole numbers from 1")
        self.alpha_pattern = _pattern(config, "alpha_pattern", _is_number, "finite numbers")
        indexes = _field(config, "layers_to_transform", [], _is_indexes, "a whole number or a list of them")
        self.layers_to_transform = [indexes] if isinstance(indexes, int) else indexes
        patterns = _field(config, "layers_pattern", [], _is_text_or_names, "a name or a list of them")
        self.layers_patterns = [
            _compile("layers_pattern", rf"(?:^|.*?\.){pattern}\.(\d+)\.")
            for pattern in ([patterns] if isinstance(patterns, str) else patterns)
        ] or [re.compile(r".*?\.[^.]*\.(\d+)\.")]
        if self.target_modules is None:
            raise ValueError("target_modules is missing: name the layers that have an update")
        self.targeted = _matcher("target_modules", self.target_modules)
        self.excluded = _matcher("exclude_modules", self.exclude_modules)
        if self.task_type == "SEQ_CLS":
            self.modules_to_save = [*self.modules_to_save, *SEQ_CLS_HEADS]

    def targets(self, model: nn.Module) -> list[str]:
        """Names of the linear layers that the configuration means, whether they are wrapped yet or not."""
        linears = _linear_names(model)
        if self.all_linear:
            return [name for name in linears if not self.excluded(name) and name not in self._outputs(model)]
        return [
            name for name in linears if self.targeted(name) and not self.excluded(name) and self._is_right_index(name)
        ]

    def _outputs(self, model: nn.Module) -> set[str]:
        """What ``all-linear`` leaves out: the layer that gives a language model's, or a classifier's, output."""
        embeddings: Any = getattr(model, "get_output_embeddings", None)
        output = embeddings() if embeddings is not None else None
        if output is not None:
            return {plain_name(name) for name, module in model.named_modules() if module is output}
        return set(SEQ_CLS_HEADS) if self.task_type == "SEQ_CLS" else set()

    def _is_right_index(self, name: str) -> bool:
        if not self.layers_to_transform or isinstance(self.target_modules, str):
            return True
        match = next(filter(None, (pattern.match(name) for pattern in self.layers_patterns)), None)
        return match is not None and int(match[1]) in self.layers_to_transform

    def rank(self, name: str) -> int:
        return next((rank for pattern, rank in self.rank_pattern if pattern.match(name)), self.r)

    def scaling(self, name: str) -> float:
        alpha = next((alpha for pattern, alpha in self.alpha_pattern if pattern.match(name)), self.lora_alpha)
        return alpha / math.sqrt(self.rank(name)) if self.use_rslora else alpha / self.rank(name)


def _matcher(field: str, wanted: str | list[str]) -> Callable[[str], bool]:
    """PEFT's rule: one expression matches a whole name, an entry of a list its last dotted parts."""
    if isinstance(wanted, str):
        expression = _compile(field, wanted)
        return lambda name: bool(wanted) and expression.fullmatch(name) is not None
    ends = tuple("." + entry for entry in wanted)
    return lambda name: name in wanted or name.endswith(ends)


def _pattern(config: Mapping, field: str, ok: Callable[[Any], bool], what: str) -> list[tuple[re.Pattern, Any]]:
    """``rank_pattern`` or ``alpha_pattern``: expressions for the end of a name, the first that fits counts."""
    values = _field(config, field, {}, lambda v: isinstance(v, dict) and len(v) <= MAX_NAMES, "an object")
    if not all(ok(value) for value in values.values()):
        raise ValueError(f"{field} must hold {what}, got {_short(values)}")
    return [(_compile(field, rf"(.*\.)?({key})$"), value) for key, value in values.items()]


def _compile(field: str, expression: str) -> re.Pattern:
    """The expression, bounded. A short one can still take very long to fail; PEFT would spend the same time on it."""
    if len(expression) > MAX_PATTERN:
        raise ValueError(f"{field} has an expression of {len(expression):,} characters; {MAX_PATTERN:,} are allowed")
    try:
        return re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{field}: {_short(expression)} is not a regular expression: {error}") from None


def _field(config: Mapping[str, Any], name: str, default: Any, ok: Callable[[Any], bool], what: str) -> Any:
    value = config.get(name)
    if value is None:
        return default
    if not ok(value):
        raise ValueError(f"{name} must be {what}, got {_short(value)}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12  # NaN is not


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**20


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_NAMES and all(isinstance(v, str) and v for v in value)


def _is_text_or_names(value: Any) -> bool:
    return _is_text(value) or _is_names(value)


def _is_indexes(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(v, int) and not isinstance(v, bool) for v in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# --- names ----------------------------------------------------------------------------------------------------------


def _names(model: nn.Module) -> list[str]:
    """All modules but the root, by the names that they have without LoRA."""
    layers = tuple(f"{plain_name(name)}." for name in lora_layers(model))
    names = dict.fromkeys(plain_name(name) for name, _ in model.named_modules())
    return [name for name in names if name and not name.startswith(layers)]


def _linear_names(model: nn.Module) -> list[str]:
    return [name for name in _names(model) if isinstance(model.get_submodule(name), (nn.Linear, LinearWithLoRA))]


def _ending_in(names: Iterable[str], ends: Iterable[str]) -> list[str]:
    """PEFT's rule for ``modules_to_save``, where "classifier" means "pre_classifier" too."""
    return [name for name in names if name.endswith(tuple(ends))]


def _is_inside(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _outermost(names: list[str]) -> list[str]:
    return [name for name in names if not any(name != other and _is_inside(name, other) for other in names)]
