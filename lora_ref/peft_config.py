"""PEFT's ``adapter_config.json``: its fields, checked, and the rules by which PEFT reads names in them.

The rules are those of PEFT's release 0.21 (``peft/tuners/tuners_utils.py``, ``peft/utils/other.py``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lora_ref.layers import LinearWithLoRA
from lora_ref.merging import lora_layers
from lora_ref.places import plain_name

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

#: Fields that `PeftConfig` reads.
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


class PeftConfig:
    """The fields of ``adapter_config.json`` that matter here, checked, and PEFT's rules to read them by.

    Args:
        config: the content of ``adapter_config.json``, from anywhere.

    Raises:
        ValueError: a field is malformed, or asks for what is not supported here; the message names it.

    Example:
        >>> config = PeftConfig({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"]})
        >>> config.rank("layer.0.query"), config.scaling("layer.0.query")
        (4, 2.0)
        >>> config.targets(nn.ModuleDict({"query": nn.Linear(4, 4), "key": nn.Linear(4, 4)}))
        ['query']
        >>> PeftConfig({"peft_type": "LORA", "target_modules": ["query"], "use_dora": True})
        Traceback (most recent call last):
            ...
        ValueError: use_dora is True, which is not supported here: DoRA scales the columns of the merged weight; ...
    """

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
        """The rank of the layer of that name: the first entry of ``rank_pattern`` that fits, or ``r``."""
        return next((rank for pattern, rank in self.rank_pattern if pattern.match(name)), self.r)

    def scaling(self, name: str) -> float:
        """The scale of the layer of that name, ``alpha / rank`` or with rsLoRA ``alpha / sqrt(rank)``."""
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


def module_names(model: nn.Module) -> list[str]:
    """All modules but the root, by the names that they have without LoRA.

    Example:
        >>> from lora_ref import inject_lora
        >>> module_names(inject_lora(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), ["0"], rank=1, train_head=False))
        ['0', '1']
    """
    layers = tuple(f"{plain_name(name)}." for name in lora_layers(model))
    names = dict.fromkeys(plain_name(name) for name, _ in model.named_modules())
    return [name for name in names if name and not name.startswith(layers)]


def _linear_names(model: nn.Module) -> list[str]:
    return [name for name in module_names(model) if isinstance(model.get_submodule(name), (nn.Linear, LinearWithLoRA))]
