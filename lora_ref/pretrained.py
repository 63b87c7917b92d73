"""Folders that ``from_pretrained`` reads, written from a model with LoRA layers; and a vocabulary of another size.

A LoRA layer may sit in any part of a model, put there by `inject_lora` or by hand, and the whole is saved later: only
the classes that write folders can see to that. `teach` wraps their methods; a model without LoRA layers notices
nothing.
"""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lora_ref.adapter_file import ADAPTER_FILE, refuse_non_finite, write_adapter
from lora_ref.layers import LinearWithLoRA
from lora_ref.places import plain_name, swap_module
from lora_ref.stand_in import merge_problem, update_problem

#: Who writes folders: a library's module, and the class that all its models have as a base.
WRITERS = {
    "transformers.modeling_utils": "PreTrainedModel",
    "huggingface_hub.hub_mixin": "ModelHubMixin",
    "diffusers.models.modeling_utils": "ModelMixin",
}


def teach() -> None:
    """Let ``save_pretrained`` and ``resize_token_embeddings`` know of LoRA, in each library that is imported by now.

    Every LoRA layer asks for this when it is made, copied or unpickled, and when its mode is set (``train``, ``eval``).

    Example:
        >>> from transformers import PreTrainedModel
        >>> teach()
        >>> PreTrainedModel.save_pretrained.knows_lora
        True
    """
    for module, name in WRITERS.items():
        methods = vars(getattr(sys.modules.get(module), name, object))
        for method, with_lora in (("save_pretrained", _save), ("resize_token_embeddings", _resize)):
            if method in methods and not hasattr(methods[method], "knows_lora"):
                setattr(getattr(sys.modules[module], name), method, _knowing_lora(methods[method], with_lora))


def _knowing_lora(own: Callable, with_lora: Callable) -> Callable:
    @wraps(own)
    def method(model: nn.Module, *args: Any, **options: Any) -> Any:
        if not any(True for _ in _wrappers(model)):
            return own(model, *args, **options)
        return with_lora(own, model, *args, **options)

    vars(method)["knows_lora"] = True
    return method


def save_pretrained(model: Any, save_directory: str | os.PathLike, **options: Any) -> Any:
    """``model.save_pretrained``, which writes a folder that ``from_pretrained`` and `load_adapter` both understand.

    ``model.safetensors`` has the plain model's names with the updates in the weights, so ``from_pretrained`` gives a
    plain model that computes what this one does. It has the adapted layers' parts too, which ``from_pretrained`` leaves
    out and says so: with them, Trainer's best or last checkpoint comes back into the adapted model, bit for bit. (To
    write the plain model alone, save it after `merge_and_unload`.) ``adapter.safetensors`` is what `save_adapter`
    writes.

    Raises:
        ValueError: LoRA is switched off in some layers, or a weight can't take the update (it is quantised, say).

    Example:
        >>> import tempfile
        >>> from lora_ref import inject_lora
        >>> from lora_ref.models import tiny_roberta
        >>> model, folder = inject_lora(tiny_roberta(), ["query"], rank=2), Path(tempfile.mkdtemp())
        >>> save_pretrained(model, folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['adapter.safetensors', 'config.json', 'model.safetensors']
    """
    teach()
    return model.save_pretrained(save_directory, **options)


def _save(own: Callable, model: Any, save_directory: str | os.PathLike, *args: Any, **options: Any) -> Any:
    call = inspect.signature(own).bind(model, save_directory, *args, **options)
    if call.arguments.get("distributed_checkpoint"):
        raise ValueError("distributed_checkpoint can't hold LoRA layers: merge_and_unload(model) first")
    with _untied(model) as untied:
        plain = plain_state(model, call.arguments.get("state_dict"))
        if untied.tied:  # the model that reads it ties nothing, and writers leave out a tensor's second name
            first = {tensor.data_ptr(): name for name, tensor in reversed(plain.items())}
            plain = {name: t if first[t.data_ptr()] == name else t.clone() for name, t in plain.items()}
        if "state_dict" in inspect.signature(own).parameters:
            call.arguments["state_dict"] = plain
            result = own(*call.args, **call.kwargs)
        else:  # this one asks the model
            vars(model)["state_dict"] = lambda *_, **__: plain
            try:
                result = own(*call.args, **call.kwargs)
            finally:
                del vars(model)["state_dict"]
    if call.arguments.get("is_main_process", True):
        from safetensors.torch import save_file

        write_adapter(model, Path(save_directory) / ADAPTER_FILE, save_file)
    return result


def plain_state(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """``model.state_dict()``, or ``state``, and beside it each adapted layer as a plain one, the update in its weight.

    Raises:
        ValueError: as in `save_pretrained`; the message names the layer.

    Example:
        >>> from lora_ref import inject_lora
        >>> model = inject_lora(nn.ModuleDict({"fc": nn.Linear(4, 2)}), ["fc"], rank=1, train_head=["fc"])
        >>> sorted(plain_state(model))
        ['fc.bias', 'fc.linear.bias', 'fc.linear.weight', 'fc.lora.lora_A', 'fc.lora.lora_B', 'fc.weight']
    """
    plain = {plain_name(key): t for key, t in (model.state_dict() if state is None else state).items()}
    tied = [plain_name(name) for name in tied_layers(model)]
    for raw_name, layer in _wrappers(model) if plain else ():  # accelerate gives all but one process an empty state
        name = plain_name(raw_name)
        problem = "LoRA is switched off there: call enable_lora(model) first" if not layer.enabled else None
        if not layer.merged:
            problem = problem or merge_problem(layer.linear) or update_problem(layer.lora, layer.lora.delta_weight())
        if not problem and f"{name}.linear.weight" not in plain:
            problem = "the given state_dict has no weight for it"
        if problem:
            raise ValueError(
                f"{name!r} can't be written as a plain layer: {problem}. save_adapter writes the updates alone"
            )
        own = {k.removeprefix(f"{name}.linear."): t for k, t in plain.items() if k.startswith(f"{name}.linear.")}
        A, B = (  # computed ones, as a parametrization's, are in no state
            plain.get(f"{name}.lora.lora_{letter}", getattr(layer.lora, f"lora_{letter}").detach()) for letter in "AB"
        )
        # a file has no two names for one tensor, and BERT's output layer shares its bias
        plain |= {f"{name}.linear.{key}": t.clone() for key, t in own.items() if key != "weight" or name in tied}
        W = own["weight"]
        own["weight"] = (W + (layer.lora.scaling * (B @ A)).to(W.device)).to(W.dtype)
        refuse_non_finite({f"{name}.weight, with the update in it,": own["weight"]})
        plain |= {f"{name}.{key}": tensor if key == "weight" else tensor.clone() for key, tensor in own.items()}
    return plain


def _wrappers(model: nn.Module) -> Iterator[tuple[str, LinearWithLoRA]]:
    """By every name that a layer has: a state names a shared one several times."""
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LinearWithLoRA):
            yield name, module


class _untied:
    """The configuration without tied word embeddings while a tied weight has an update of its own: they differ now."""

    def __init__(self, model: Any):
        self.config: Any = getattr(model, "config", None)
        self.tied = bool(getattr(self.config, "tie_word_embeddings", False)) and bool(tied_layers(model))

    def __enter__(self) -> _untied:
        if self.tied:
            refuse_scaled_outputs(self.config)
            self.config.tie_word_embeddings = False
        return self

    def __exit__(self, *_: object) -> None:
        if self.tied:
            self.config.tie_word_embeddings = True


def tied_layers(model: nn.Module) -> list[str]:
    """Names of the LoRA layers whose weight (before a merge) is some other module's too.

    Example:
        >>> from lora_ref import inject_lora
        >>> model = nn.ModuleDict({"words": nn.Embedding(9, 4), "out": nn.Linear(4, 9)})
        >>> model["out"].weight = model["words"].weight
        >>> tied_layers(inject_lora(model, ["out"], rank=1, train_head=False))
        ['out']
    """
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), set()).add(id(module))
    tied = []
    for name, layer in _wrappers(model):
        W = layer._parameter_before_merge[0] if layer.merged else layer.linear._parameters.get("weight")
        if owners.get(id(W), set()) - {id(layer.linear)}:
            tied.append(name)
    return tied


def untie(model: nn.Module) -> None:
    """Give each module parameters of its own, as a model has that is built without tied word embeddings.

    Example:
        >>> model = nn.ModuleDict({"words": nn.Embedding(9, 4), "out": nn.Linear(4, 9)})
        >>> model["out"].weight = model["words"].weight
        >>> untie(model)
        >>> model["out"].weight is model["words"].weight
        False
    """
    parameters: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter in parameters:
                module._parameters[name] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            elif parameter is not None:
                parameters.add(parameter)


def refuse_scaled_outputs(config: Any) -> None:
    """Raise a ValueError for T5 under transformers 4, where "tied" also means that the outputs are scaled.

    Example:
        >>> from types import SimpleNamespace
        >>> refuse_scaled_outputs(SimpleNamespace(model_type="llama")) is None
        True
    """
    if "t5" in str(getattr(config, "model_type", "")) and not hasattr(config, "scale_decoder_outputs"):
        raise ValueError(
            "this T5's output layer is tied to its embedding and has an update: untied, it would scale its outputs "
            "differently. Use save_adapter"
        )


def resize_token_embeddings(model: Any, *args: Any, **options: Any) -> Any:
    """``model.resize_token_embeddings``, with an adapted output layer: its update keeps A and the old words' rows of B.

    New words start without an update, as all words did.

    Example:
        >>> from lora_ref import inject_lora
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> model = inject_lora(BertForMaskedLM(BertConfig(vocab_size=50, **sizes)), ["decoder"], rank=2)
        >>> _ = resize_token_embeddings(model, 60)
        >>> model.cls.predictions.decoder.lora.lora_B.shape
        torch.Size([60, 2])
    """
    teach()
    return model.resize_token_embeddings(*args, **options)


def _resize(own: Callable, model: Any, *args: Any, **options: Any) -> Any:
    words_before = len(model.get_input_embeddings().weight)
    resize = partial(own, model, *args, **options)
    layer = model.get_output_embeddings()
    if not isinstance(layer, LinearWithLoRA):
        return _tell_of_new_words(resize(), words_before)
    if layer.merged:
        raise ValueError("the output layer's update is merged: call unmerge_lora(model) before resizing")
    swap_module(model, layer, layer.linear)
    try:
        result = resize()
    finally:
        linear = model.get_output_embeddings()
        swap_module(model, linear, layer)
        layer.linear = linear.requires_grad_(layer.linear.weight.requires_grad)
        old = layer.lora.lora_B
        rows = min(len(old), linear.out_features)
        if len(old) != linear.out_features:
            new = old.detach().new_zeros(linear.out_features, old.shape[1])
            new[:rows] = old.detach()[:rows]
            layer.lora.lora_B = nn.Parameter(new, requires_grad=old.requires_grad)
    return _tell_of_new_words(result, words_before)


def _tell_of_new_words(embedding: nn.Embedding, words_before: int) -> nn.Embedding:
    count = len(embedding.weight) - words_before
    if count > 0 and not embedding.weight.requires_grad:
        warnings.warn(
            f"the embeddings of {count} new words are made up, and frozen. To train them: "
            "model.get_input_embeddings().requires_grad_(), and the adapter then holds the whole embedding",
            stacklevel=4,
        )
    return embedding
