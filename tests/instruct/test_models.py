"""Loading and scoring: reward models, log-probabilities, and what is refused in one sentence."""

import json

import pytest
import torch
from conftest import save_model
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from instruct.arguments import ModelConfig
from instruct.errors import UserError
from instruct.models import (
    last_token_scores,
    load_causal_lm,
    load_reward,
    load_sequence_classifier,
)
from instruct.reward_files import reward_head
from instruct.tokens import encode_completion, encode_prompt, load_tokenizer


def test_empty_prompt_and_missing_model_are_user_errors(tokenizer, tmp_path):
    with pytest.raises(UserError, match="empty prompt"):
        encode_prompt(tokenizer, "  ")
    for load in (load_tokenizer, lambda p: load_causal_lm(ModelConfig(model_name_or_path=p))):
        with pytest.raises(UserError, match="nowhere"):
            load(str(tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def reward_folder(tiny_model, tmp_path_factory):
    """A reward adapter as `recipes/reward.py` lays it out, on the tiny model."""
    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    model = load_sequence_classifier(ModelConfig(model_name_or_path=tiny_model))
    peft = get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", init_lora_weights=False)
    )
    peft.save_pretrained(folder)
    load_tokenizer(tiny_model).save_pretrained(folder)
    (folder / "reward_head.json").write_text(
        json.dumps({"bias": 0.5, "pad_token_id": 0, "base": tiny_model})
    )
    return folder


def test_load_reward_is_plain_transformers_and_peft_plus_bias(reward_folder, tiny_model):
    reward = load_reward(str(reward_folder))
    prompts, completions = (
        ["Hi there", "A longer prompt than that", "x"],
        ["Hello", "", "many more words " * 5],
    )
    plain = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=1, dtype=torch.float32
    )
    plain = PeftModel.from_pretrained(plain, reward_folder).eval()
    for prompt, completion, got in zip(
        prompts, completions, reward.score(prompts, completions, 2), strict=True
    ):
        row = encode_prompt(reward.tokenizer, prompt) + encode_completion(
            reward.tokenizer, completion
        )
        with torch.no_grad():
            assert got == pytest.approx(plain(torch.tensor([row])).logits.item() + 0.5, abs=1e-5)


def test_score_is_read_at_eos_even_when_pad_is_eos(reward_folder):
    reward = load_reward(str(reward_folder))
    prompts, completions = ["Hi there", "x"], ["Hello", "many more words " * 5]
    before = reward.score(prompts, completions)
    reward.tokenizer.pad_token = reward.tokenizer.eos_token
    reward.model.config.pad_token_id = reward.tokenizer.eos_token_id
    assert reward.score(prompts, completions) == pytest.approx(before, abs=1e-5)


def test_encoder_backbone_scores_by_its_own_pooling(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=512,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=1,
    )
    model = BertForSequenceClassification(config).eval()
    ids, mask = (
        torch.tensor([[5, 6, 2, 0], [5, 6, 7, 2]]),
        torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
    )
    with torch.no_grad():
        alone = model(ids[:1, :3]).logits.squeeze()
        assert torch.allclose(last_token_scores(model, ids, mask)[0], alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gemma2", "bloom", "phi"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_causal_lm_is_loaded_whole_or_not_at_all(kind, tied, tmp_path):
    """A weight that its file lacks would be drawn at random, and trained on in silence."""
    path = save_model(tmp_path / "model", kind, tie_word_embeddings=tied)
    arguments = ModelConfig(model_name_or_path=path, dtype="float32")
    model = load_causal_lm(arguments)
    model.save_pretrained(path, max_shard_size="1GB")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in sorted(weights) if "norm" in name or "ln_1" in name)
    kept = {name: weight for name, weight in weights.items() if name != lost}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(UserError, match="its weights hold no .* copy that model anew"):
        load_causal_lm(arguments)


def test_encoder_decoder_is_refused_in_one_sentence(tmp_path):
    from transformers import T5Config

    T5Config(num_layers=1, d_model=8, d_ff=8, num_heads=1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="encoder-decoder"):
        load_causal_lm(ModelConfig(model_name_or_path=str(tmp_path)))


def test_the_bias_of_a_reward_model_on_the_hub_is_fetched(tmp_path, monkeypatch):
    """Weights alone would load, and every score would be off by the bias in silence."""
    (tmp_path / "reward_head.json").write_text(json.dumps({"bias": 0.25}))
    place = "instruct.reward_files.hf_hub_download"
    monkeypatch.setattr(place, lambda repo, name: str(tmp_path / name))
    assert reward_head("someone/reward")["bias"] == 0.25

    def offline(repo, name):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(place, offline)
    with pytest.raises(UserError, match="someone/reward.*reward_head.json"):
        reward_head("someone/reward")
