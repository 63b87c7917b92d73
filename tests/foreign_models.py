"""Small models from elsewhere, with random weights: what other people put LoRA layers into."""

from __future__ import annotations

import torch
from torch import nn

from lora_ref import inject_lora, lora_layers
from lora_ref.models import seeded

IDS = torch.arange(14).reshape(2, 7) % 50


def learned(model: nn.Module) -> nn.Module:
    """The same model, each update with something to do."""
    with seeded(1):
        for layer in lora_layers(model).values():
            nn.init.normal_(layer.lora.lora_B, std=0.5)
    return model


def net(*targets: str, **options) -> nn.Module:
    """Two layers; those named have updates."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
        return learned(inject_lora(model, targets, rank=2, train_head=False, **options)) if targets else model


def written_out(model: nn.Module) -> nn.Module:
    """The same model by the plain path: a hook on the update keeps the fused function out."""
    for layer in lora_layers(model).values():
        layer.lora.register_forward_hook(lambda *_: None)
    return model


def llama(tied: bool = False) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=50, **sizes, num_key_value_heads=2, tie_word_embeddings=tied)
    with seeded(0):
        return LlamaForCausalLM(config).eval()


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    with seeded(0):
        return T5ForConditionalGeneration(T5Config(vocab_size=50, **sizes, decoder_start_token_id=0)).eval()


def classifier(kind: str, labels: int = 2) -> tuple[nn.Module, list[str]]:
    """A classifier of transformers', and names of linear layers in its encoder."""
    import transformers as hf

    small = {"vocab_size": 50, "max_position_embeddings": 32, "num_labels": labels}
    layers = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    bart = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    seq2seq = {"vocab_size": 50, "num_labels": labels, "decoder_start_token_id": 0, "eos_token_id": 1}
    with seeded(0):
        match kind:
            case "BERT":
                return hf.BertForSequenceClassification(hf.BertConfig(**small, **layers)), ["query", "value"]
            case "BERT question answering":
                return hf.BertForQuestionAnswering(hf.BertConfig(**small, **layers)), ["query"]
            case "BERT next sentence":
                return hf.BertForNextSentencePrediction(hf.BertConfig(**small, **layers)), ["query"]
            case "DistilBERT":
                config = hf.DistilBertConfig(dim=16, hidden_dim=24, n_layers=1, n_heads=2, **small)
                return hf.DistilBertForSequenceClassification(config), ["q_lin", "v_lin"]
            case "LLaMA":
                config = hf.LlamaConfig(**small, **layers, num_key_value_heads=2, pad_token_id=0)
                return hf.LlamaForSequenceClassification(config), ["q_proj", "v_proj"]
            case "GPT-2":
                sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0}
                config = hf.GPT2Config(vocab_size=50, num_labels=labels, eos_token_id=1, pad_token_id=1, **sizes)
                return hf.GPT2ForSequenceClassification(config), ["c_attn"]
            case "T5":
                config = hf.T5Config(**seq2seq, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
                return hf.T5ForSequenceClassification(config), ["q", "v"]
            case "BART":
                config = hf.BartConfig(
                    eos_token_id=1, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **bart, **small
                )
                return hf.BartForSequenceClassification(config), ["q_proj"]
            case "XLNet":
                sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24}
                return hf.XLNetForSequenceClassification(hf.XLNetConfig(vocab_size=50, **sizes)), ["layer_1"]
            case "ViT":
                config = hf.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=labels, **layers)
                model = hf.ViTForImageClassification(config)
                names = {name.rpartition(".")[2] for name, _ in model.named_modules()}  # they differ by release
                return model, ["query", "value"] if "query" in names else ["q_proj", "v_proj"]
    raise ValueError(kind)


def inputs(kind: str) -> dict[str, torch.Tensor]:
    """What `classifier` of that kind takes."""
    if kind == "ViT":
        return {"pixel_values": torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)}
    return {"input_ids": torch.tensor([[5, 6, 7, 8, 1], [9, 8, 7, 6, 1]])}
