"""The base models: the laptop's is BERT to the last bit, all three have the same module paths."""

from __future__ import annotations

import logging

import pytest
import torch

from lora_ref import data, inject, models
from lora_ref.profiles import LAPTOP, T4, TINY, Profile
from lora_ref.training import ENCODER_LINEARS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What the hub would give for roberta-base, 10,000 times smaller: a masked-language model and its BPE tokenizer."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizerFast

    folder = tmp_path_factory.mktemp("hub")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [sentence for sentence, _ in data.tiny_sentences()[:200]],
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    bpe.save(str(folder / "bpe.json"))
    RobertaTokenizerFast(tokenizer_file=str(folder / "bpe.json")).save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=bpe.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=130,
        type_vocab_size=1,
    )
    torch.manual_seed(7)
    RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def _paths(model) -> set[str]:
    """Module paths, whatever the number of layers."""
    return {".".join("0" if part.isdigit() else part for part in name.split(".")) for name, _ in model.named_modules()}


def test_tiny_is_small_seeded_and_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    a = models.tiny_roberta(seed=1)
    assert torch.equal(torch.rand(3), expected)
    b, c = models.tiny_roberta(seed=1), models.tiny_roberta(seed=2)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.classifier.dense.weight, c.classifier.dense.weight)
    assert 18_000 < sum(p.numel() for p in a.parameters()) < 22_000
    assert models.tiny_roberta(num_labels=3).classifier.out_proj.out_features == 3


def test_tiny_reads_as_many_tokens_as_the_tokenizer_lets_through():
    tokenizer = models.tiny_tokenizer()
    tokens = data.tokenize({"sentence": ["very " * 500]}, tokenizer)
    assert len(tokens["input_ids"][0]) == 128
    assert models.tiny_roberta()(input_ids=torch.tensor(tokens["input_ids"])).logits.shape == (1, 2)


def test_tiny_tokenizer_knows_every_word_and_marks_the_ends():
    tokenizer = models.tiny_tokenizer()
    sentences = [sentence for sentence, _ in data.tiny_sentences()]
    tokens = tokenizer(sentences)
    assert set(tokens) == {"input_ids", "attention_mask"}
    assert all(tokenizer.unk_token_id not in ids for ids in tokens["input_ids"])
    assert {(ids[0], ids[-1]) for ids in tokens["input_ids"]} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
    assert tokenizer("the film is zzz")["input_ids"][-2] == tokenizer.unk_token_id
    assert tokenizer.decode(tokens["input_ids"][0], skip_special_tokens=True).split() == sentences[0].split()


@pytest.mark.parametrize("profile", [TINY, pytest.param(LAPTOP, marks=pytest.mark.laptop), T4], ids=lambda p: p.name)
def test_tokenizer_and_model_agree(profile: Profile, request, monkeypatch):
    if profile is LAPTOP:
        request.getfixturevalue("laptop_assets")
    if profile is T4:
        monkeypatch.setattr(models, "HUB_MODEL", str(request.getfixturevalue("checkpoint")))
    model, tokenizer = models.base_model(profile), models.tokenizer(profile)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.roberta.embeddings.word_embeddings.padding_idx == tokenizer.pad_token_id
    assert model.config.vocab_size >= len(tokenizer)
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]
    assert next(model.parameters()).dtype == torch.float32
    assert not model.training
    texts = [{"sentence": s, "label": 0} for s in ("a film", "the story is quite dull and the ending is sad .")]
    tokens = data.tokenize({"sentence": [t["sentence"] for t in texts]}, tokenizer)
    examples = [
        {"input_ids": ids, "attention_mask": mask, "label": 0}
        for ids, mask in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)
    ]
    with torch.no_grad():
        both = model(**data.collate(examples, tokenizer)).logits
        alone = model(**data.collate(examples[:1], tokenizer)).logits
    torch.testing.assert_close(both[:1], alone)  # padding changes nothing
    assert len(inject.match_targets(model, ENCODER_LINEARS)) == 6 * model.config.num_hidden_layers


def test_all_profiles_have_the_same_module_paths(checkpoint, monkeypatch):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    monkeypatch.setattr(models, "HUB_MODEL", str(checkpoint))
    ordinary = RobertaForSequenceClassification(RobertaConfig(vocab_size=9, hidden_size=12, num_hidden_layers=1))
    assert _paths(models.tiny_roberta()) == _paths(models.roberta_base()) == _paths(ordinary)


def test_from_the_hub_the_encoder_is_the_checkpoints_and_the_head_is_seeded(checkpoint, monkeypatch, caplog, capfd):
    from transformers import RobertaForMaskedLM

    monkeypatch.setattr(models, "HUB_MODEL", str(checkpoint))
    with caplog.at_level(logging.WARNING, logger="transformers"):
        a, b = models.roberta_base(seed=1), models.roberta_base(seed=1)
        c = models.roberta_base(seed=2, num_labels=3)
    loaded = RobertaForMaskedLM.from_pretrained(checkpoint).roberta.state_dict()
    for name, tensor in a.roberta.state_dict().items():
        assert torch.equal(tensor, loaded[name]), name
    assert torch.equal(a.classifier.dense.weight, b.classifier.dense.weight)
    assert not torch.equal(a.classifier.dense.weight, c.classifier.dense.weight)
    assert c.classifier.out_proj.out_features == 3
    assert "LOAD REPORT" not in caplog.text + capfd.readouterr().err
    assert "newly initialized" not in caplog.text


def test_a_checkpoint_that_does_not_fit_is_refused(checkpoint, monkeypatch, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    del weights["roberta.encoder.layer.0.attention.self.query.weight"]
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(models, "HUB_MODEL", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"do not fit: missing .*query\.weight"):
        models.roberta_base()


def test_a_hub_that_fails_says_what_else_there_is(monkeypatch):
    import transformers

    def unreachable(*_, **__):
        raise OSError("couldn't connect")

    monkeypatch.setattr(transformers.RobertaForSequenceClassification, "from_pretrained", unreachable)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unreachable)
    for load in (models.base_model, models.tokenizer):
        with pytest.raises(RuntimeError, match=r"couldn't connect.*LORA_PROFILE=laptop"):
            load(T4)


@pytest.mark.laptop
def test_the_laptop_encoder_is_bert_to_the_last_bit(laptop_assets):
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    bert = BertModel(
        BertConfig(
            vocab_size=30_522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1_536
        )
    ).eval()
    bert.load_state_dict(load_file(laptop_assets["encoder"] / "model.safetensors"), strict=False)
    model, tokenizer = models.laptop_encoder(), models.laptop_tokenizer()
    batch = tokenizer(["A film that is all heart .", "Dull."], padding=True, return_tensors="pt")
    with torch.no_grad():
        ours = model.roberta(**batch, output_hidden_states=True).hidden_states
        berts = bert(**batch, output_hidden_states=True).hidden_states
    assert len(ours) == len(berts) == 7
    real = batch["attention_mask"].bool()  # at padding the positions differ, and nobody reads those
    for a, b in zip(ours, berts, strict=True):
        assert torch.equal(a[real], b[real])


@pytest.mark.laptop
def test_the_laptop_model_has_the_designs_counts(laptop_assets):
    model = models.laptop_encoder()
    head = sum(p.numel() for p in model.classifier.parameters())
    assert head == 148_610
    inject.inject_lora(model, ENCODER_LINEARS, rank=8, alpha=16)
    assert inject.trainable_report(model)["trainable"] == 480_386


def test_roberta_bases_lora_count_is_the_designs():
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, num_labels=2
    )
    with torch.device("meta"):  # shapes without the 500 MB
        model = RobertaForSequenceClassification(config)
        assert sum(p.numel() for p in model.parameters()) == 124_647_170
        inject.inject_lora(model, ENCODER_LINEARS, rank=8, alpha=16)
    assert sum(p.numel() for n, p in model.named_parameters() if "lora_" in n) == 1_327_104


@pytest.mark.laptop
def test_the_laptop_tokenizer_pads_and_truncates_only_when_asked(laptop_assets):
    tokenizer = models.laptop_tokenizer()
    one, many = tokenizer("Dull.")["input_ids"], tokenizer("dull " * 300)["input_ids"]
    assert len(one) == 4
    assert len(many) == 302
    assert tokenizer.convert_ids_to_tokens(one) == ["[CLS]", "dull", ".", "[SEP]"]
