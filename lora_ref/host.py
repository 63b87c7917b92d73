"""The model around the layers: torch's wrappers, transformers' heads, and folders that ``from_pretrained`` reads.

`lora_ref.stand_in` is about one layer; here is what the whole model needs. Importing this imports torch alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lora_ref.files import whole_file
from lora_ref.layers import LinearWithLoRA, LoRALayer
from lora_ref.stand_in import merge_problem, update_problem

#: What the task head is called where nothing else tells: in torchvision, timm, and most models that people write.
HEAD_NAMES = (
    "classifier", "score", "head", "heads", "fc", "qa_outputs", "classification_head", "logits_proj",
    "multiple_choice_head",
)  # fmt: skip

FORMAT = "lora_ref adapter 1"
#: Beside ``model.safetensors`` in a folder that `save_pretrained` wrote.
ADAPTER_FILE = "adapter.safetensors"

#: What torch's wrappers call the module inside: ``torch.compile``, checkpointing of activations, FSDP.
WRAPPED = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}

#: Methods that adapted models get, by `adopt`.
METHODS = ("save_pretrained", "resize_token_embeddings")


# --- wrappers -------------------------------------------------------------------------------------------------------


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of ``torch.compile``, ``DataParallel`` and its like, and ``AveragedModel``.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2))
        >>> unwrapped(nn.DataParallel(model)) is model
        True
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
            model = model.module
        elif inside := WRAPPED.intersection(model._modules):
            model = model.get_submodule(inside.pop())
        else:
            return model


def plain_name(name: str) -> str:
    """A module's or parameter's name without what a wrapper around a part of the model puts into it.

    Example:
        >>> plain_name("encoder._orig_mod.layer.0.query")
        'encoder.layer.0.query'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPED)


# --- the head -------------------------------------------------------------------------------------------------------


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


# --- the adapter's file ---------------------------------------------------------------------------------------------


def adapter_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters an adapter consists of, by name: LoRA's, and all others that train.

    Names are those inside ``torch.compile``'s and ``DataParallel``'s wrappers.

    Example:
        >>> from lora_ref import inject_lora
        >>> from lora_ref.models import tiny_roberta
        >>> names = adapter_parameters(inject_lora(tiny_roberta(), ["query"], rank=2))
        >>> [name.removeprefix("roberta.encoder.") for name in names][:2]
        ['layer.0.attention.self.query.lora.lora_A', 'layer.0.attention.self.query.lora.lora_B']
        >>> len(names)  # two layers of A and B, and the head's four
        8
    """
    model = unwrapped(model)
    lora = {id(p) for m in model.modules() if isinstance(m, LoRALayer) for p in m.parameters()}
    return {plain_name(name): p for name, p in model.named_parameters() if p.requires_grad or id(p) in lora}


def scalings(model: nn.Module) -> dict[str, float]:
    """The scale of each `LoRALayer`, by name.

    Example:
        >>> from lora_ref import inject_lora
        >>> scalings(inject_lora(nn.ModuleDict({"fc": nn.Linear(4, 2)}), ["fc"], rank=1, alpha=2))
        {'fc.lora': 2.0}
    """
    layers = unwrapped(model).named_modules()
    return {plain_name(name): float(m.scaling) for name, m in layers if isinstance(m, LoRALayer)}


def write_adapter(model: nn.Module, path: Path, save_file: Callable) -> None:
    """Write the adapter as one safetensors file, whole or not at all; ``save_file`` is safetensors'.

    Raises:
        ValueError: a tensor is not finite, or is offloaded; the message names it.

    Example:
        >>> import tempfile
        >>> from lora_ref import inject_lora
        >>> from safetensors.torch import save_file
        >>> path = Path(tempfile.mkdtemp()) / "adapter.safetensors"
        >>> write_adapter(inject_lora(nn.ModuleDict({"fc": nn.Linear(4, 2)}), ["fc"], rank=1), path, save_file)
        >>> path.exists()
        True
    """
    tensors = on_cpu(adapter_parameters(model))
    refuse_non_finite(tensors)
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished, metadata={"format": FORMAT, "scaling": json.dumps(scalings(model))})
        _sort_metadata(unfinished)


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as a file takes them.

    Raises:
        ValueError: one is on the meta device; the message names it.

    Example:
        >>> import torch
        >>> on_cpu({"A": torch.ones(1, device="meta")})
        Traceback (most recent call last):
            ...
        ValueError: A is on the meta device, which holds no numbers: load the model, or save it before it is offloaded
    """
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(
                f"{name} is on the meta device, which holds no numbers: load the model, or save it before it is "
                "offloaded"
            )
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def refuse_buffers(model: nn.Module) -> None:
    """Raise a ValueError that names a module that trains and has buffers of its own: an adapter holds parameters.

    Example:
        >>> refuse_buffers(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)))
        Traceback (most recent call last):
            ...
        ValueError: '1' trains and has buffers (num_batches_tracked, ...), which ...: save the model's state_dict
    """
    for name, module in unwrapped(model).named_modules():
        kept = sorted(key for key in module._buffers.keys() - module._non_persistent_buffers_set)
        if kept and any(p.requires_grad for p in module.parameters(recurse=False)):
            buffers = ", ".join(kept)
            raise ValueError(
                f"{plain_name(name)!r} trains and has buffers ({buffers}), which an adapter does not hold: save the "
                "model's state_dict"
            )


def refuse_non_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise a ValueError that names a tensor with NaN or infinity in it.

    Example:
        >>> import torch
        >>> refuse_non_finite({"A": torch.ones(2), "B": torch.tensor([float("nan")])})
        Traceback (most recent call last):
            ...
        ValueError: B holds NaN or infinity: the training that made it diverged
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ValueError(f"{name} holds NaN or infinity: the training that made it diverged")


def is_finite(tensor: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in it, whatever its dtype.

    Example:
        >>> import torch
        >>> is_finite(torch.ones(2).to(torch.float8_e4m3fn)), is_finite(torch.tensor([1, float("inf")]))
        (True, False)
    """
    return bool((tensor.double() if tensor.element_size() == 1 else tensor).isfinite().all())


def _sort_metadata(path: Path) -> None:
    """Make equal adapters equal files: safetensors writes the metadata's entries in an order that it draws."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # what follows stays where it is; spaces at the end are part of the format
            file.seek(8)
            file.write(text.ljust(size))


# --- transformers' folders ------------------------------------------------------------------------------------------


def adopt(model: nn.Module) -> None:
    """Let ``save_pretrained`` and ``resize_token_embeddings``, in the model and all in it that has them, know of LoRA.

    Example:
        >>> from lora_ref.models import tiny_roberta
        >>> model = tiny_roberta()
        >>> adopt(model)
        >>> model.save_pretrained.func.__module__, model.roberta.save_pretrained.func.__module__
        ('lora_ref.host', 'lora_ref.host')
    """
    for module in model.modules():
        for name in METHODS:
            if hasattr(type(module), name) and name not in vars(module):
                own = partial(globals()[name], module)  # a partial: it is copied and pickled with the model
                setattr(module, name, own)


def release(model: nn.Module) -> None:
    """Undo `adopt`.

    Example:
        >>> from lora_ref.models import tiny_roberta
        >>> model = tiny_roberta()
        >>> adopt(model)
        >>> release(model)
        >>> "save_pretrained" in vars(model)
        False
    """
    for module in model.modules():
        for name in METHODS:
            if isinstance(vars(module).get(name), partial):
                delattr(module, name)


def save_pretrained(
    model: Any,
    save_directory: str | os.PathLike,
    *args: Any,
    state_dict: dict[str, Tensor] | None = None,
    **options: Any,
) -> Any:
    """Write a folder that ``from_pretrained`` and `lora_ref.adapters.load_adapter` both understand.

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
        >>> model.save_pretrained(folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['adapter.safetensors', 'config.json', 'model.safetensors']
    """
    write = partial(type(model).save_pretrained, model, save_directory, *args, **options)
    if not any(True for _ in _wrappers(model)):
        return write(state_dict=state_dict)
    with _untied(model):
        result = write(state_dict=plain_state(model, state_dict))
    if options.get("is_main_process", True):
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
    for raw_name, layer in _wrappers(model):
        name = plain_name(raw_name)
        if f"{name}.linear.weight" not in plain:
            continue
        problem = "LoRA is switched off there: call enable_lora(model) first" if not layer.enabled else None
        if not layer.merged:
            problem = problem or merge_problem(layer.linear) or update_problem(layer.lora, layer.lora.delta_weight())
        if problem:
            raise ValueError(
                f"{name!r} can't be written as a plain layer: {problem}. save_adapter writes the updates alone"
            )
        own = {k.removeprefix(f"{name}.linear."): t for k, t in plain.items() if k.startswith(f"{name}.linear.")}
        A, B = (  # computed ones, as a parametrization's, are in no state
            plain.get(f"{name}.lora.lora_{letter}", getattr(layer.lora, f"lora_{letter}").detach()).to(own["weight"])
            for letter in "AB"
        )
        # a file has no two names for one tensor, and BERT's output layer shares its bias
        plain |= {f"{name}.linear.{key}": t.clone() for key, t in own.items() if key != "weight" or name in tied}
        own["weight"] = own["weight"] + layer.lora.scaling * (B @ A)
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

    def __enter__(self) -> None:
        if self.tied:
            refuse_scaled_outputs(self.config)
            self.config.tie_word_embeddings = False

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
    """As transformers', with an adapted output layer: its update keeps A and the old words' rows of B.

    New words start without an update, as all words did.

    Example:
        >>> from lora_ref import inject_lora
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> model = inject_lora(BertForMaskedLM(BertConfig(vocab_size=50, **sizes)), ["decoder"], rank=2)
        >>> _ = model.resize_token_embeddings(60)
        >>> model.cls.predictions.decoder.lora.lora_B.shape
        torch.Size([60, 2])
    """
    resize = partial(type(model).resize_token_embeddings, model, *args, **options)
    layer = model.get_output_embeddings()
    if not isinstance(layer, LinearWithLoRA):
        return resize()
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
        kept = min(len(old), linear.out_features)
        if len(old) != linear.out_features:
            new = old.detach().new_zeros(linear.out_features, old.shape[1])
            new[:kept] = old.detach()[:kept]
            layer.lora.lora_B = nn.Parameter(new, requires_grad=old.requires_grad)
    return result


def swap_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` in every place where ``model`` has ``old``; a shared module has several.

    Example:
        >>> linear = nn.Linear(4, 4)
        >>> model = nn.Sequential(linear, nn.ReLU(), linear)
        >>> swap_module(model, linear, nn.Identity())
        >>> model
        Sequential(
          (0): Identity()
          (1): ReLU()
          (2): Identity()
        )
    """
    places = [(parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is old]
    for parent, name in places:
        parent.register_module(name, new)


def other_references(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Modules that some module of ``model`` keeps in an attribute of plain Python, itself or a method of it.

    torch knows nothing of these attributes, so `swap_module` doesn't either.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4))
        >>> model.layers = [model[0]]
        >>> other_references(model)
        {Linear(in_features=4, out_features=4, bias=True): ['layers of Sequential']}
    """
    torchs_own = set(vars(nn.Module()))
    places: dict[nn.Module, list[str]] = {}
    for module in model.modules():
        for key in vars(module).keys() - torchs_own:
            value = vars(module)[key]
            items = (
                value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
            )
            for item in items:
                kept = item.__self__ if isinstance(item, MethodType) else item
                if isinstance(kept, nn.Module) and kept is not module:
                    places.setdefault(kept, []).append(f"{key} of {type(module).__name__}")
    return places
