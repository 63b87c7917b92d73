"""Tiny models with adapters, for the tests of PEFT's format."""

from __future__ import annotations

import json

import torch

from lora_ref import inject_lora
from lora_ref.models import tiny_roberta
from lora_ref.training import ENCODER_LINEARS

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def tiny():
    return tiny_roberta(seed=7)


@torch.no_grad()
def perturbed(model, seed=1, scale=0.1):
    """Everything that trains at random: B is not zero, and the head is not the base's."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
    return model.eval()


@torch.no_grad()
def logits(model, high=40):
    ids = torch.randint(4, high, (5, 9), generator=torch.Generator().manual_seed(0))
    return model.eval()(input_ids=ids).logits


def difference(a, b, **options):
    return (logits(a, **options) - logits(b, **options)).abs().max().item()


def state(model):
    return {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}


def unchanged(model, before):
    now = dict(model.named_parameters())
    return now.keys() == before.keys() and all(
        torch.equal(now[name], tensor) and now[name].requires_grad == on for name, (tensor, on) in before.items()
    )


def made_here(targets=ENCODER_LINEARS, rank=4, alpha=8, **options):
    return perturbed(inject_lora(tiny(), targets, rank=rank, alpha=alpha, **options))


def edit_config(folder, **fields):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def by_peft(model, folder, **options):
    """An adapter that PEFT made and saved."""
    import peft

    model = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, **options))
    perturbed(model).save_pretrained(folder, safe_serialization=True)  # old releases pickle
    return model
