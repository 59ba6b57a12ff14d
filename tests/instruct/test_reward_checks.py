"""Nothing random scores: what is no whole reward model is refused, and what is one still loads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer, save_model
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
)

from instruct.arguments import ModelConfig
from instruct.errors import UserError
from instruct.models import load_reward, load_sequence_classifier
from instruct.reward_checks import tokenizer_differences, weights_hash

HEAD = {"bias": 0.25, "pad_token_id": 0}
ROWS = ["Tell me about tea.", "Rain?"], ["I like it a lot.", "No"]
ALL = {"target_modules": "all-linear", "init_lora_weights": False}


def saved(model, folder: Path, **settings) -> str:
    model.save_pretrained(folder, **settings)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def classifier(base: str, labels: int = 1, auto=AutoModelForSequenceClassification):
    torch.manual_seed(1)
    return auto.from_pretrained(base, num_labels=labels).eval()


def adapter(model, folder: Path, config_class=LoraConfig, **settings) -> str:
    return saved(get_peft_model(model, config_class(**settings)), folder)


def masked_lm(folder: Path) -> str:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 512}
    config = BertConfig(num_hidden_layers=2, num_attention_heads=4, **sizes)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer = make_tokenizer(None)
    tokenizer.cls_token, tokenizer.sep_token = "<|im_start|>", "<|im_end|>"
    tokenizer.eos_token = tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    return str(folder)


def without(folder: str, part: str) -> str:
    """An adapter with some of its weights cut out."""
    file = Path(folder) / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if part not in k}, file)
    return folder


def prefixed(base: str, folder: Path) -> str:
    """A model as somebody saves it who wraps it first: no name is one that it knows."""
    saved(classifier(base), folder)
    file = folder / "model.safetensors"
    save_file({f"module.{k}": v for k, v in load_file(file).items()}, file, {"format": "pt"})
    return str(folder)


def cut(base: str, folder: Path) -> str:
    saved(classifier(base), folder)
    file = folder / "model.safetensors"
    rest = {k: v for k, v in load_file(file).items() if "layers.1.mlp" not in k}
    save_file(rest, file, {"format": "pt"})
    return str(folder)


NOT_WHOLE = {
    "causal LM": (lambda base, to: base, "LlamaForCausalLM without a trained reward head"),
    "causal LM in shards": (
        lambda base, to: saved(make_model(), to, max_shard_size="50KB"),
        "without a trained reward head",
    ),
    "GPT-2": (lambda base, to: save_model(to, "gpt2"), "GPT2LMHeadModel without a trained reward"),
    "masked LM": (lambda base, to: masked_lm(to), "BertForMaskedLM without a trained reward head"),
    "two labels": (lambda base, to: saved(classifier(base, 2), to), "a classifier of 2 labels"),
    "three labels": (lambda base, to: saved(classifier(base, 3), to), "a classifier of 3 labels"),
    "a label a token": (
        lambda base, to: saved(classifier(base, 1, AutoModelForTokenClassification), to),
        r"LlamaForTokenClassification, whose score\.bias",
    ),
    "names of a wrapper": (prefixed, "without a trained reward head"),
    "half a body": (cut, r"layers\.1\.mlp\..* not in its weights, so its scores would be random"),
    "adapter of a causal LM": (
        lambda base, to: adapter(
            AutoModelForCausalLM.from_pretrained(base), to, task_type="CAUSAL_LM", **ALL
        ),
        r"another task \(CAUSAL_LM\), which has no reward head",
    ),
    "adapter without a task": (
        lambda base, to: adapter(classifier(base), to, target_modules=["q_proj"]),
        "no `score` head",
    ),
    "adapter of features": (
        lambda base, to: adapter(
            classifier(base), to, task_type="FEATURE_EXTRACTION", target_modules=["q_proj"]
        ),
        "no `score` head",
    ),
    "LoRA on a random head": (
        lambda base, to: adapter(classifier(base), to, target_modules=["q_proj", "score"]),
        "no `score` head",
    ),
    "head cut out": (
        lambda base, to: without(
            adapter(classifier(base), to, task_type="SEQ_CLS", **ALL), "score"
        ),
        "no `score` head",
    ),
    "a layer cut out": (
        lambda base, to: without(
            adapter(classifier(base), to, task_type="SEQ_CLS", **ALL), "layers.0"
        ),
        "do not fit this base model",
    ),
    "adapter of two labels": (
        lambda base, to: adapter(classifier(base, 2), to, task_type="SEQ_CLS", **ALL),
        "a classifier of 2 labels",
    ),
    "adapter without the pooler": (
        lambda base, to: (
            adapter(classifier(masked_lm(to / "bert")), to / "rm", task_type="SEQ_CLS", **ALL)
            and str(to / "rm")
        ),
        r"is not whole \(bert\.pooler",
    ),
}


@pytest.mark.parametrize("kind", NOT_WHOLE)
def test_what_would_score_at_random_is_refused(kind, tiny_model, tmp_path):
    make, sentence = NOT_WHOLE[kind]
    path = make(tiny_model, tmp_path / "rm")
    with pytest.raises(UserError, match=sentence) as refused:
        load_reward(path)
    assert path in str(refused.value) and "\n" not in str(refused.value)


def test_an_adapter_is_refused_on_another_base(tiny_model, tmp_path):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    path = adapter(classifier(str(base)), tmp_path / "rm", task_type="SEQ_CLS", **ALL)
    head = {**HEAD, "base": str(base), "base_weights": weights_hash(base)}
    (tmp_path / "rm" / "reward_head.json").write_text(json.dumps(head))
    scores = load_reward(path).score(*ROWS)
    # moved, it is the same base; and what says nothing of the weights may differ
    moved = shutil.copytree(base, tmp_path / "moved")
    (moved / "generation_config.json").unlink()
    assert load_reward(path, base=str(moved)).score(*ROWS) == scores
    for kind, changes, sentence in (
        ("llama", {"hidden_size": 64}, "holds other weights"),
        ("qwen2", {}, "holds other weights"),
        ("llama", {"seed": 1}, "holds other weights"),
    ):
        other = save_model(tmp_path / f"{kind}{changes}", kind, **changes)
        with pytest.raises(UserError, match=sentence):
            load_reward(path, base=other)
    # the same, of an adapter by other authors: while its base is there it can be asked
    (tmp_path / "rm" / "reward_head.json").unlink()
    with pytest.raises(UserError, match="holds other weights"):
        load_reward(path, base=other)
    # replaced in its place
    (tmp_path / "rm" / "reward_head.json").write_text(json.dumps(head))
    save_model(base, seed=2)
    with pytest.raises(UserError, match="holds other weights than those it was trained on"):
        load_reward(path)
    shutil.rmtree(base)
    with pytest.raises(UserError, match=f"{path}: the base model of this adapter is not to be"):
        load_reward(path)
    # by shape alone, where nothing else is known
    (tmp_path / "rm" / "reward_head.json").unlink()
    wide = save_model(tmp_path / "wide", hidden_size=64)
    for other in (wide, save_model(tmp_path / "gpt2", "gpt2")):
        with pytest.raises(UserError, match="do not fit this base model"):
            load_reward(path, base=other)


WHOLE = {
    "a full model": lambda base, to: (classifier(base), None),
    "in shards": lambda base, to: (classifier(base), "50KB"),
    "qwen2, tied": lambda base, to: (
        classifier(save_model(to / "b", "qwen2", tie_word_embeddings=True)),
        None,
    ),
    "gpt2": lambda base, to: (classifier(save_model(to / "b", "gpt2")), None),
    "bert": lambda base, to: (classifier(masked_lm(to / "b")), None),
    "LoRA": lambda base, to: (
        get_peft_model(classifier(base), LoraConfig(task_type="SEQ_CLS", **ALL)),
        None,
    ),
    "DoRA": lambda base, to: (
        get_peft_model(classifier(base), LoraConfig(task_type="SEQ_CLS", use_dora=True, **ALL)),
        None,
    ),
    "IA3": lambda base, to: (
        get_peft_model(
            classifier(base),
            IA3Config(task_type="SEQ_CLS", target_modules=["k_proj"], feedforward_modules=[]),
        ),
        None,
    ),
    "LoRA and embeddings": lambda base, to: (
        get_peft_model(
            classifier(base),
            LoraConfig(task_type="SEQ_CLS", modules_to_save=["embed_tokens"], **ALL),
        ),
        None,
    ),
    # the head is in the base's own weights
    "LoRA on a reward model": lambda base, to: (
        get_peft_model(
            classifier(saved(classifier(base), to / "b")), LoraConfig(target_modules=["q_proj"])
        ),
        None,
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_reward_model_scores_as_it_did(kind, tiny_model, tmp_path):
    model, shards = WHOLE[kind](tiny_model, tmp_path)
    settings = {"max_shard_size": shards} if shards else {}
    loaded = load_reward(saved(model, tmp_path / "rm", **settings))
    loaded.tokenizer.pad_token_id = 0
    for prompt, completion, score in zip(*ROWS, loaded.score(*ROWS), strict=True):
        from instruct.tokens import encode_completion, encode_prompt

        ids = encode_prompt(loaded.tokenizer, prompt)
        ids = torch.tensor([ids + encode_completion(loaded.tokenizer, completion)])
        with torch.no_grad():
            wanted = model.eval()(input_ids=ids).logits.item()
        assert score == pytest.approx(wanted, abs=1e-5)


def test_a_head_that_cannot_be_read_is_a_sentence(tiny_model, tmp_path):
    path = saved(classifier(tiny_model), tmp_path)
    for content in ("{", "[]", "{}", '{"bias": "1"}', '{"bias": NaN}', '{"bias": null}'):
        (tmp_path / "reward_head.json").write_text(content)
        with pytest.raises(UserError, match="reward_head.json has no bias that can be read"):
            load_reward(path)


def test_lists_of_unequal_length_are_a_sentence(tiny_model, tmp_path):
    reward = load_reward(saved(classifier(tiny_model), tmp_path))
    with pytest.raises(UserError, match="1 prompts and 2 completions"):
        reward.score(["a"], ["b", "c"])
    # as characters they would be of one length
    with pytest.raises(UserError, match="a list of prompts"):
        reward.score("abc", "def")


def test_training_tells_of_a_head_of_two_labels_and_starts_a_new_one(tiny_model, tmp_path, capsys):
    from instruct.reward_heads import init_head

    args = ModelConfig(model_name_or_path=saved(classifier(tiny_model, 2), tmp_path / "two"))
    model = load_sequence_classifier(args)
    init_head(model)
    assert "its head of 2 labels is left out" in capsys.readouterr().out
    assert model.score.weight.shape == (1, 32)
    # N(0, 1/(d+1)), as any new head
    assert 0.1 < model.score.weight.std() < 0.3
    # a trained one is kept, without a word
    trained = classifier(tiny_model)
    kept = saved(trained, tmp_path / "one")
    model = load_sequence_classifier(ModelConfig(model_name_or_path=kept))
    init_head(model)
    assert torch.equal(model.score.weight, trained.score.weight) and not capsys.readouterr().out


def test_tokenizers_differ_by_what_changes_a_text():
    ours = make_tokenizer()
    ours(["a", "bb bb"], padding=True, truncation=True, max_length=2)
    assert tokenizer_differences(make_tokenizer(), ours) == []
    assert tokenizer_differences(make_tokenizer("{{ 1 }}"), ours)[0] == "chat template"
    other = make_tokenizer()
    other.add_tokens(["tea"])
    assert tokenizer_differences(other, ours) == ["tokenizer"]
    other = make_tokenizer(None)
    other.eos_token = "<|endoftext|>"
    assert tokenizer_differences(other, make_tokenizer(None)) == ["end of an answer"]
