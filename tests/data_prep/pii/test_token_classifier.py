"""A token classification model as a finder, alone and in the pipeline."""

import json
import re

import pytest

from data_prep.pii import ModelFinder, merge, redact
from instruct.errors import UserError

pytest.importorskip("phonenumbers", reason="needs the pii extra")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny random token classifier with a word-level tokenizer, saved as a Hub model would be."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("ner")
    words = ["[UNK]", "[PAD]", "Ada", "Lovelace", "wrote", "to", "me"]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64
    ).save_pretrained(folder)
    torch.manual_seed(0)
    labels = {0: "O", 1: "B-PER", 2: "I-PER"}
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
    )
    model = BertForTokenClassification(config)
    # make it a classifier that knows two words: read the label off the embedding alone
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bert.embeddings.LayerNorm.weight.fill_(1.0)
        for layer in model.bert.encoder.layer:
            layer.attention.output.LayerNorm.weight.fill_(1.0)
            layer.output.LayerNorm.weight.fill_(1.0)
        for word, axis in (("Ada", 1), ("Lovelace", 2)):
            model.bert.embeddings.word_embeddings.weight[words.index(word), axis] = 8.0
        for word in ("[UNK]", "wrote", "to", "me", "[PAD]"):
            model.bert.embeddings.word_embeddings.weight[words.index(word), 0] = 8.0
        for label in range(3):
            model.classifier.weight[label, label] = 8.0
    model.save_pretrained(folder)
    return folder


def test_model_finds_names_also_past_its_window(classifier):
    finder = ModelFinder(str(classifier))
    texts = ["Ada Lovelace wrote to me", "to me " * 60 + "Ada Lovelace wrote", "", "wrote to me"]
    found = [redact(t, merge(spans)) for t, spans in zip(texts, finder(texts), strict=True)]
    assert found == ["<PER> wrote to me", "to me " * 60 + "<PER> wrote", "", "wrote to me"]
    assert ModelFinder(str(classifier), labels=["LOC"])(texts) == [[], [], [], []]


def test_the_pipeline_redacts_what_the_model_finds(classifier, tmp_path):
    import pyarrow.parquet as pq

    from data_prep.prompts import main

    log = tmp_path / "log.jsonl"
    texts = ["Ada Lovelace wrote to me", "mail ada@acme.org to me", "wrote to me"]
    log.write_text(
        "".join(json.dumps({"id": i, "prompt": text}) + "\n" for i, text in enumerate(texts))
    )
    flags = [
        "--pii",
        "redact",
        "--pii_model",
        str(classifier),
        "--splits",
        "train=1",
        "--num_proc",
        "1",
    ]
    main(["--input", str(log), "--output_dir", str(tmp_path / "out"), *flags])
    assert pq.read_table(tmp_path / "out/train.parquet")["prompt"].to_pylist() == [
        "<PER> wrote to me",
        "mail <EMAIL> to me",
        "wrote to me",
    ]


def test_a_model_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(UserError, match=re.escape(f"--pii_model {tmp_path}")):
        ModelFinder(str(tmp_path))
