"""Names: each one given must mean something, and a message says what there is instead; heads, whatever their names."""

import re
import warnings

import pytest
import torch
from foreign_models import classifier, inputs, llama, net, t5
from torch import nn

from lora_ref import inject_lora, lora_layers, match_targets, merge_and_unload, merge_lora, save_adapter
from lora_ref.models import tiny_roberta


def message(model, targets, **options):
    with pytest.raises((TypeError, ValueError)) as caught:
        inject_lora(model, targets, rank=2, **options)
    return str(caught.value)


# --- targets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("c_attn", "'transformer.h.0.attn.c_attn' is a Conv1D (transformers' transposed linear layer, as in GPT-2)"),
        ("wte", "'transformer.wte' is an Embedding, which can't be adapted here: only nn.Linear can"),
        ("ln_1", "'transformer.h.0.ln_1' is a LayerNorm"),
        ("Linear", "no linear layer matches 'Linear'"),
        ("c_atn", "no linear layer matches 'c_atn'; nearest: 'score'"),
    ],
)
def test_another_kind_of_module_is_named(target, says):
    assert says in message(classifier("GPT-2")[0], [target])


def test_a_container_and_a_model_without_linear_layers():
    model = nn.ModuleDict({"deep": nn.Sequential(nn.Linear(3, 5)), "attention": nn.MultiheadAttention(4, 2)})
    assert "'deep' is a Sequential, which holds linear layers ('deep.0'): name those" in message(model, ["deep"])
    assert "MultiheadAttention, which holds linear layers ('attention.out_proj')" in message(model, ["attention"])
    assert "Sequential has none" in message(nn.Sequential(nn.Embedding(9, 4)), ["0"])


@pytest.mark.parametrize("target", ["in_proj_weight", "attention.in_proj_weight"])
def test_a_parameter_without_a_layer_of_its_own_is_named(target):
    """As the experts of a mixture are, or XLNet's q."""
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2)})
    assert "'attention.in_proj_weight' is a parameter of shape (12, 4), not an nn.Linear" in message(model, [target])


def test_recurrent_quantised_and_lazy_layers():
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 4), "out": nn.Linear(4, 2), "lazy": nn.LazyLinear(3)})
    assert "'rnn' is an LSTM, which can't be adapted here" in message(model, ["rnn"])
    assert "'lazy' is lazy and has no size yet: call the model once" in message(model, ["out", "lazy"])
    assert all(p.requires_grad for p in model["out"].parameters())
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 2)), {nn.Linear})
    assert "'0' is a Linear of torch.ao.nn.quantized.dynamic" in message(model, ["0"])


@pytest.mark.parametrize(
    "keep",
    [lambda linear: linear.forward, lambda linear: [linear], lambda linear: {"k": linear}],
    ids=["method", "list", "dict"],
)
def test_a_layer_that_is_also_kept_outside_of_torchs_modules(keep):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model.others = keep(model[0])
    with pytest.warns(UserWarning, match="'0' is also in others of Sequential, which torch knows nothing of"):
        inject_lora(model, ["0", "1"], rank=2, train_head=False)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (None, "targets is a list of names, got a NoneType"),
        (re.compile("query"), "targets is a list of names, got a Pattern"),
        (nn.Linear(2, 2), "got a Linear"),
        ({"query": 4}, "got a dict: a rank for each goes into rank_pattern"),
        (["query", 3], "targets is a list of names, and 3 in it is not a string"),
        ([nn.Linear], "in it is not a string"),
    ],
)
def test_targets_that_are_not_names(targets, says):
    assert says in message(tiny_roberta(), targets)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rank_pattern": {"query": 2.5}}, "rank must be a whole number, got 2.5"),
        ({"rank_pattern": {"query": True}}, "rank must be a whole number, got True"),
        ({"rank_pattern": ["query"]}, "rank_pattern is a dict with names as keys, got ['query']"),
        ({"rank_pattern": {r"^.*query$": 3}}, "Its keys are parts of names, not expressions"),
        ({"dropout": "0.1"}, "dropout must be a number, got '0.1'"),
        ({"alpha": "16"}, "alpha must be finite, got '16'"),
        ({"alpha_pattern": {"query": None}}, "alpha must be finite, got None"),
        ({"train_head": None}, "train_head is a list of names, got a NoneType"),
    ],
)
def test_options_of_another_kind(options, says):
    assert says in message(tiny_roberta(), ["query"], **options)


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (
            "all-linear",
            ["attention.output.dense", "intermediate.dense", "key", "layer.0.output.dense", "query", "value"],
        ),
        (r".*\.(query|value)", ["query", "value"]),
        (r".*layer\.0\.attention\.self\.key", ["key"]),
        ("*.query", []),
    ],
)
def test_pefts_words_are_told_what_to_write(words, meant, as_list):
    model = classifier("BERT")[0]
    said = message(model, [words] if as_list else words)
    assert repr([words]) not in said, "it must not advise what fails"
    if meant:
        assert f"write {meant}" in said or words == "all-linear"
        advised = eval(said[said.index("write [") + len("write ") : said.rindex("]") + 1])  # a call that works
        inject_lora(model, advised, rank=2)
        assert not any("classifier" in name for name in lora_layers(model))


def test_one_string_that_means_nothing_is_not_advised():
    assert "write ['query']" in message(tiny_roberta(), "query")
    said = message(tiny_roberta(), "qurey")
    assert "write ['qurey']" not in said
    assert "'query'" in said


def test_all_linear_where_there_is_none():
    said = message(classifier("GPT-2")[0], "all-linear")
    assert "none fits; the model's linear layers are: 'score'" in said


@pytest.mark.parametrize("targets", [[], ()])
def test_no_targets_at_all(targets):
    assert "no targets" in message(tiny_roberta(), targets)


@pytest.mark.parametrize("targets", [["query"], ["value"], ["nothing"], [], "all-linear"])
@pytest.mark.parametrize("merged", [True, False])
def test_a_second_injection_is_refused_whatever_the_targets(targets, merged):
    model = inject_lora(tiny_roberta(), ["query"], rank=2)
    merge_lora(model) if merged else None
    for wrapped in (model, nn.DataParallel(model), model.roberta):
        assert "LoRA layers already" in message(wrapped, targets)


def test_another_librarys_lora_is_not_taken_for_a_base():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_roberta(), peft.LoraConfig(r=2, target_modules=["query"]))
    assert re.search(r"another library's LoRA \('base_model.*lora_A.default.weight'\)", message(model, ["value"]))
    for merge in (merge_lora, merge_and_unload):
        with pytest.raises(ValueError, match="PeftModel has no LoRA layers of lora_ref"):
            merge(model)


def test_a_wrapper_that_would_not_train_the_update_is_refused():
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)  # the rest of it wants other processes
    wrapped.module = tiny_roberta()
    assert "DistributedDataParallel trains only the parameters that it was made with" in message(wrapped, ["query"])


@pytest.mark.parametrize("use", [lambda m: inject_lora(m, ["query"]), merge_lora, lambda m: save_adapter(m, "adapter")])
def test_a_model_is_a_module(use):
    with pytest.raises(TypeError, match=r"the model must be an nn.Module, got str"):
        use("roberta-base")


# --- rank_pattern, alpha_pattern ------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("key", ["qurey", r".*val.*", "key", "layer.7", "", "uery"])
def test_a_pattern_that_fits_no_adapted_layer_is_named(field, key):
    model = tiny_roberta()
    assert f"{field} names {key!r}" in message(model, ["query", "value"], **{field: {"query": 1, key: 3}})
    assert all(p.requires_grad for p in model.parameters())


def test_a_pattern_may_mean_all_layers_of_a_block():
    model = inject_lora(tiny_roberta(), ["query", "value"], rank=4, rank_pattern={"value": 3, "layer.1": 2})
    ranks = {name.split("layer.")[1]: len(layer.lora.lora_A) for name, layer in lora_layers(model).items()}
    assert ranks == {
        "0.attention.self.query": 4, "0.attention.self.value": 3,
        "1.attention.self.query": 2, "1.attention.self.value": 3,
    }  # fmt: skip


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_not_finite(alpha):
    assert "alpha must be finite" in message(tiny_roberta(), ["query"], alpha=alpha)
    assert "alpha must be finite" in message(tiny_roberta(), ["query"], alpha_pattern={"query": alpha})


# --- heads ----------------------------------------------------------------------------------------------------------

HEADS = {
    "DistilBERT": {"pre_classifier", "classifier"},
    "BERT": {"classifier"},
    "BERT question answering": {"qa_outputs"},
    "BERT next sentence": {"cls"},
    "LLaMA": {"score"},
    "T5": {"classification_head"},
    "BART": {"classification_head"},
    "XLNet": {"sequence_summary", "logits_proj"},
    "ViT": {"classifier"},
}


def trains(model):
    return {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}


@pytest.mark.parametrize("kind", HEADS)
def test_a_new_head_trains_whatever_its_name(kind):
    model, targets = classifier(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inject_lora(model, targets, rank=2)
    assert trains(model) == HEADS[kind]


def test_in_a_wrapper_too():
    model, targets = classifier("DistilBERT")
    inject_lora(nn.DataParallel(model), targets, rank=2)
    assert trains(model) == HEADS["DistilBERT"]


@pytest.mark.parametrize("make", [llama, lambda: llama(tied=True), t5])
def test_a_language_models_head_is_pretrained(make):
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inject_lora(model, ["q_proj" if "Llama" in type(model).__name__ else "q"], rank=2)
    assert trains(model) == set()


def test_a_model_without_a_head_gets_a_warning():
    with pytest.warns(
        UserWarning, match=r"no head is found in Sequential.*train_head=\['...'\], or say train_head=False"
    ):
        inject_lora(net(), ["0"], rank=2)
    with pytest.warns(UserWarning, match="no head is found in RobertaModel"):
        inject_lora(tiny_roberta().roberta, ["query"], rank=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inject_lora(net(), ["0"], rank=2, train_head=False)
        inject_lora(net(), ["0"], rank=2, train_head=["2"])


@pytest.mark.parametrize("named", ["out_proj", ["classifier.out_proj"], ("classifier.dense", "out_proj")])
def test_a_head_by_name(named):
    model = inject_lora(tiny_roberta(), ["query"], rank=2, train_head=named)
    names = {n.rpartition(".")[0] for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}
    expected = {"classifier.out_proj"} | ({"classifier.dense"} if len(named) == 2 else set())
    assert names == expected


def test_a_head_that_is_tied_to_a_target_is_refused():
    says = message(llama(tied=True), ["lm_head"], train_head=["embed_tokens"])
    assert "train_head names 'model.embed_tokens', whose weight is a target's too" in says


def test_a_head_that_is_not_there_is_named_and_changes_nothing():
    model = tiny_roberta()
    for named in ("clasifier", ["classifier", "clasifier"]):
        said = message(model, ["query"], train_head=named)
        assert "train_head names 'clasifier'" in said
        assert "nearest: 'classifier'" in said
    assert not lora_layers(model)
    assert all(p.requires_grad for p in model.parameters())


def test_the_head_alone_is_that_head():
    import dataclasses

    from lora_ref.profiles import TINY
    from lora_ref.training import fine_tune

    with pytest.raises(ValueError, match="Sequential has no `classifier` and no other head"):
        fine_tune("head", dataclasses.replace(TINY, epochs=1), model=net(), progress=False)


def test_costs_count_the_same_head():
    from lora_ref.costs import cost_table

    model, targets = classifier("DistilBERT")
    head = sum(p.numel() for m in (model.pre_classifier, model.classifier) for p in m.parameters())
    assert cost_table(model, targets, ranks=[1])["trainable"][0] == head


# --- what a training may ask of its labels --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "labels", "says"),
    [
        ("train", [0, 0.5], r"label 1 of the 'train' split is 0.5: classes are numbered from 0, as whole numbers"),
        ("train", [0.0, 1.0], "label 0 of the 'train' split is 0.0"),
        ("test", [0, -1], r"label 1 of the 'test' split is -1 \(-1 stands for a label that is kept secret"),
        ("validation", [2, 0], "is 2: classes are numbered from 0 to 1, as the model has 2 outputs"),
        ("train", [1, 2], "label 1 of the 'train' split is 2"),
        ("train", ["good", "bad"], "label 0 of the 'train' split is 'good'"),
        ("train", [None, 1], "is None"),
        ("train", [0, torch.tensor(0.5)], r"is tensor\(0.5"),
    ],
)
def test_a_label_that_is_not_a_class_is_named_before_training(split, labels, says):
    with pytest.raises(ValueError, match=says):
        train_on({split: labels})


@pytest.mark.parametrize(("label", "says"), [(-100, "is -100"), (0.7, "is 0.7"), ("1", "is '1'"), (-1, "kept secret")])
def test_an_evaluation_takes_no_other_labels(label, says):
    from lora_ref.evaluation import evaluate
    from lora_ref.models import tiny_tokenizer

    rows = [{"sentence": "a warm film", "label": 0}, {"sentence": "a cold film", "label": label}]
    with pytest.raises(ValueError, match=f"^label 1 {says}|{says}"):
        evaluate(tiny_roberta(), rows, tiny_tokenizer())


def test_another_problem_and_other_columns():
    from lora_ref.evaluation import predict_logits
    from lora_ref.models import tiny_tokenizer

    model = tiny_roberta()
    model.config.problem_type = "regression"
    with pytest.raises(ValueError, match="problem_type is 'regression': only one class"):
        train_on({}, model)
    with pytest.raises(ValueError, match="an example needs 'sentence' or 'input_ids'; it has: 'text', 'label'"):
        predict_logits(model, [{"text": "a warm film", "label": 0}], tiny_tokenizer())


def train_on(labels, model=None):
    import dataclasses

    from lora_ref.profiles import TINY
    from lora_ref.training import fine_tune

    data = {
        split: [{"sentence": "a warm film", "label": label} for label in labels.get(split, [0, 1])]
        for split in ("train", "validation", "test")
    }
    return fine_tune("head", dataclasses.replace(TINY, epochs=1), data=data, model=model, max_steps=1, progress=False)


def test_one_output_is_refused_and_a_class_without_examples_is_said():
    with pytest.raises(ValueError, match="the model has one output, which is for regression"):
        train_on({}, tiny_roberta(num_labels=1))
    with pytest.warns(UserWarning, match="no training example has label 1, 3"):
        train_on({"train": [0, 2]}, tiny_roberta(num_labels=4))


def test_training_of_what_is_merged_or_off_is_refused_at_once():
    from lora_ref import enable_lora
    from lora_ref.profiles import TINY
    from lora_ref.training import fine_tune

    model = inject_lora(tiny_roberta(), ["query"], rank=2)
    for spoilt, says in (
        (enable_lora(model, False), "switched off: call enable_lora"),
        (None, "merged: call unmerge_lora"),
    ):
        if spoilt is None:
            merge_lora(enable_lora(model))
        with pytest.raises(ValueError, match=says):
            fine_tune("lora", TINY, model=model, progress=False)


def test_classifiers_run_after_injection():
    for kind in HEADS:
        if not kind.startswith("BERT "):
            model, targets = classifier(kind)
            assert inject_lora(model.eval(), targets, rank=2)(**inputs(kind)).logits.shape[-1] == 2
            assert match_targets(classifier(kind)[0], targets)
