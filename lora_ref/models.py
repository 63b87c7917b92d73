"""The base models: RoBERTa from the hub, a small pretrained encoder in RoBERTa's classes, a tiny random RoBERTa.

All three are ``RobertaForSequenceClassification`` with the same module paths, so what is written for one works on the
others. Each comes from `base_model` with a new, seeded classification head.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lora_ref import assets
from lora_ref.hub import HUB_MODEL, from_hub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, RobertaForSequenceClassification

    from lora_ref.profiles import Profile

#: RoBERTa's own special tokens, in RoBERTa's own order: ``<pad>`` is 1, so positions start at 2.
TINY_SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")


def base_model(profile: Profile, num_labels: int = 2, seed: int = 0) -> RobertaForSequenceClassification:
    """The profile's base model, on the CPU in float32, with a new head drawn from ``seed``.

    Raises:
        AssetError: ``laptop``, and its assets cannot be had.
        RuntimeError: ``t4``, and the hub does not give the model.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> model = base_model(TINY)
        >>> type(model).__name__, sum(p.numel() for p in model.parameters())
        ('RobertaForSequenceClassification', 21010)
    """
    return profile.model(num_labels=num_labels, seed=seed)


def tokenizer(profile: Profile) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to `base_model`; its texts become ``input_ids`` and ``attention_mask``.

    Errors as in `base_model`.

    Example:
        >>> from lora_ref.profiles import TINY
        >>> tokenizer(TINY)("a warm film")["attention_mask"]  # three words, and a token at either end
        [1, 1, 1, 1, 1]
    """
    return profile.tokenizer()


# --- tiny: random -----------------------------------------------------------------------------------------


def tiny_roberta(seed: int = 0, num_labels: int = 2) -> RobertaForSequenceClassification:
    """A RoBERTa of about 20,000 random parameters: 2 layers, width 32, inner width 40, up to 128 tokens.

    No two sizes that a mistake could confuse are equal, and the weights are far larger than a real initialisation's, so
    that attention mixes tokens and a frozen random encoder still has something to tell its head.

    Example:
        >>> model = tiny_roberta(seed=0)
        >>> model(input_ids=torch.tensor([[0, 5, 6, 2]])).logits.shape
        torch.Size([1, 2])
    """
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=len(tiny_vocabulary()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=130,  # 128 tokens; positions start at pad_token_id + 1
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        num_labels=num_labels,
    )
    with seeded(seed):
        return RobertaForSequenceClassification(config).eval()


def tiny_vocabulary() -> list[str]:
    """Special tokens, then the words of the tiny profile's sentences in alphabetical order.

    Example:
        >>> tiny_vocabulary()[:5]
        ['<s>', '<pad>', '</s>', '<unk>', ',']
    """
    from lora_ref.data import tiny_words

    return [*TINY_SPECIAL_TOKENS, *tiny_words()]


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A word-level tokenizer over `tiny_vocabulary`, with RoBERTa's special tokens around each text.

    Example:
        >>> tokens = tiny_tokenizer()
        >>> tokens.decode(tokens("a warm flim")["input_ids"])
        '<s> a warm <unk> </s>'
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(tiny_vocabulary())}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", words["<s>"]), ("</s>", words["</s>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
    )


# --- laptop: a small BERT, read by RoBERTa's classes ------------------------------------------------------


def laptop_encoder(num_labels: int = 2, seed: int = 0) -> RobertaForSequenceClassification:
    """all-MiniLM-L6-v2 (6 layers, width 384, 22.7 M parameters) in ``RobertaForSequenceClassification``.

    BERT and RoBERTa compute the same; they differ in how they count positions and in the second segment. Its hidden
    states equal ``BertModel``'s bit for bit. The head is new, and drawn from ``seed``. It has no dropout.

    Raises:
        AssetError: the weights are not cached and cannot be fetched.

    Example::

        laptop_encoder().config.hidden_size  # 384
    """
    from safetensors.torch import load_file
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=30_522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1_536,
        max_position_embeddings=513,  # BERT's 512, and the row before them
        type_vocab_size=1,
        layer_norm_eps=1e-12,
        pad_token_id=0,
        bos_token_id=101,
        eos_token_id=102,
        num_labels=num_labels,
        # Drawing dropout's random numbers takes a CPU a sixth of a training step. Without them LoRA's accuracy over
        # three seeds is the same: .841 on the test reviews, .835 with dropout of 0.1.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with seeded(seed):
        model = RobertaForSequenceClassification(config)
    weights = roberta_keys(load_file(assets.fetch("encoder") / "model.safetensors"))
    problems = model.load_state_dict(weights, strict=False)
    missing = [name for name in problems.missing_keys if not name.startswith("classifier.")]
    if missing or problems.unexpected_keys:
        raise RuntimeError(
            f"the encoder's weights do not fit this transformers release: missing {missing}, unexpected "
            f"{problems.unexpected_keys}"
        )
    return model.eval()


def roberta_keys(bert: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a ``BertModel`` under the names, and in the shapes, that RoBERTa's classifier has for them.

    RoBERTa starts to count positions at ``pad_token_id + 1``, which is 1 here, so one zero row goes before BERT's
    position embeddings, for padding. It has no second segment: the first row of BERT's token types stays. The pooler is
    not used.

    Example:
        >>> bert = {"embeddings.position_embeddings.weight": torch.ones(512, 4), "pooler.dense.bias": torch.ones(4)}
        >>> {name: tuple(tensor.shape) for name, tensor in roberta_keys(bert).items()}
        {'roberta.embeddings.position_embeddings.weight': (513, 4)}
    """
    weights = {}
    for name, tensor in bert.items():
        if name.startswith("pooler.") or name.endswith("position_ids"):
            continue
        if name == "embeddings.position_embeddings.weight":
            tensor = torch.cat([torch.zeros_like(tensor[:1]), tensor])
        elif name == "embeddings.token_type_embeddings.weight":
            tensor = tensor[:1].clone()
        weights["roberta." + name] = tensor
    return weights


def laptop_tokenizer() -> PreTrainedTokenizerBase:
    """BERT's lower-casing WordPiece with 30,522 pieces. Without ``token_type_ids``: RoBERTa has no second segment.

    Raises:
        AssetError: the vocabulary is not cached and cannot be fetched.

    Example::

        laptop_tokenizer().tokenize("An unforgettable film")  # ['an', 'un', '##for', '##get', '##table', 'film']
    """
    from transformers import PreTrainedTokenizerFast

    result = PreTrainedTokenizerFast(
        tokenizer_file=str(assets.fetch("encoder") / "tokenizer.json"),
        cls_token="[CLS]",
        bos_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
    # The file asks for truncation and padding to 128 tokens each time; here both are the caller's to ask for.
    result.backend_tokenizer.no_padding()
    result.backend_tokenizer.no_truncation()
    return result


# --- t4: from the hub -------------------------------------------------------------------------------------


def roberta_base(num_labels: int = 2, seed: int = 0) -> RobertaForSequenceClassification:
    """``roberta-base`` (124.6 M parameters) from the hub, with a new head drawn from ``seed``.

    Raises:
        RuntimeError: the hub does not give it, or gives weights that do not fit.

    Example::

        sum(p.numel() for p in roberta_base().parameters())  # 124647170
    """
    from transformers import RobertaForSequenceClassification

    return from_hub_with_new_head(RobertaForSequenceClassification, HUB_MODEL, num_labels, seed)


def from_hub_with_new_head(kind: Any, name: str, num_labels: int, seed: int) -> Any:
    """A classifier of transformers' class ``kind`` with the hub's weights, but for the head, which ``seed`` draws.

    Raises:
        RuntimeError: the hub does not give it, or gives weights that do not fit.

    Example::

        from_hub_with_new_head(RobertaForSequenceClassification, "FacebookAI/roberta-base", num_labels=2, seed=0)
    """
    with seeded(seed), from_hub(name), without_loading_report():
        model, report = kind.from_pretrained(name, num_labels=num_labels, output_loading_info=True)
    missing = [weight for weight in report["missing_keys"] if not weight.startswith("classifier.")]
    if missing or report["mismatched_keys"]:
        raise RuntimeError(
            f"the weights of {name} do not fit: missing {missing}, other shapes {report['mismatched_keys']}"
        )
    return model.eval()


def roberta_tokenizer() -> PreTrainedTokenizerBase:
    """RoBERTa's byte-level BPE with 50,265 pieces, from the hub.

    Raises:
        RuntimeError: the hub does not give it.

    Example::

        roberta_tokenizer().vocab_size  # 50265
    """
    from transformers import AutoTokenizer

    with from_hub(HUB_MODEL):
        return AutoTokenizer.from_pretrained(HUB_MODEL)


@contextlib.contextmanager
def without_loading_report() -> Iterator[None]:
    """Leave out the report that the head is new and the language-modelling head is not used: both are meant so.

    The caller checks what was loaded itself, and one logger's other warnings come through.

    Example:
        >>> with without_loading_report():
        ...     print("models are loaded here")
        models are loaded here
    """
    logger = logging.getLogger("transformers.modeling_utils")

    def other(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(sign in text for sign in ("newly initialized", "were not used when", "LOAD REPORT"))

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed``, and leave the caller's random state as it was.

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(1)
        >>> with seeded(0):
        ...     print(bool(first == torch.rand(1)))
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
