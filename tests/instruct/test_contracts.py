"""The contracts between the steps: tokenizer, token sequences, data loading, model flags, reward models."""

import copy
import gzip
import json

import pytest
import torch
from conftest import CHATML, make_tokenizer, save_model
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification

from instruct.arguments import ModelConfig, parse
from instruct.files import UserError, atomic_folder, command, load_rows, write_rows
from instruct.generation import DrawToken, generate_ids
from instruct.models import (
    last_token_scores,
    load_causal_lm,
    load_reward,
    load_sequence_classifier,
    reward_bias,
)
from instruct.tokens import (
    DEFAULT_CHAT_TEMPLATE,
    decode_completion,
    encode_completion,
    encode_prompt,
    load_tokenizer,
)


def test_completion_ends_in_eos_although_template_adds_newline(tokenizer):
    prompt, completion = (
        [{"role": "user", "content": "Hi"}],
        [{"role": "assistant", "content": "Hello you"}],
    )
    ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, completion)
    rendered = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
    assert rendered.endswith("<|im_end|>\n")  # the trap
    assert tokenizer.decode(ids) == rendered.removesuffix("\n")
    assert ids[-1] == tokenizer.eos_token_id
    assert encode_prompt(tokenizer, "Hi") == encode_prompt(tokenizer, prompt)


def test_decode_is_the_inverse_and_stops_at_eos(tokenizer):
    ids = encode_completion(tokenizer, "Some words, 42!")
    assert decode_completion(tokenizer, ids + ids) == "Some words, 42!"


def test_pad_is_not_eos_where_the_vocabulary_allows(tmp_path):
    make_tokenizer(pad_token="<|im_end|>").save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token == "<|endoftext|>" and loaded.pad_token_id != loaded.eos_token_id
    assert loaded.chat_template == CHATML


def test_default_template_is_stored_with_the_model(tmp_path):
    make_tokenizer(chat_template=None).save_pretrained(tmp_path / "a")
    first = load_tokenizer(str(tmp_path / "a"))
    first.save_pretrained(tmp_path / "b")
    assert load_tokenizer(str(tmp_path / "b")).chat_template == DEFAULT_CHAT_TEMPLATE
    text = first.decode(encode_prompt(first, "Hi"))
    assert text.startswith("<|endoftext|>### User:\nHi") and text.endswith("### Assistant:\n")


def test_empty_prompt_and_missing_model_are_user_errors(tokenizer, tmp_path):
    with pytest.raises(UserError, match="empty prompt"):
        encode_prompt(tokenizer, "  ")
    for load in (load_tokenizer, lambda p: load_causal_lm(ModelConfig(model_name_or_path=p))):
        with pytest.raises(UserError, match="nowhere"):
            load(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_rows_go_through_every_format(tmp_path, ending):
    rows = [
        {"prompt": "é\n", "completions": ["a", "b"], "ranks": [1, 2]},
        {"prompt": "x", "completions": ["c"], "ranks": [1]},
    ]
    write_rows(tmp_path / f"rows.{ending}", rows)
    assert load_rows(tmp_path / f"rows.{ending}").to_list() == rows
    assert [p.name for p in tmp_path.iterdir()] == [f"rows.{ending}"]


def test_folder_gives_the_split_asked_for(tmp_path):
    for split in ("train", "test", "removed"):
        write_rows(tmp_path / f"{split}.parquet", [{"prompt": split}])
    assert load_rows(tmp_path, split="test")["prompt"] == ["test"]
    with pytest.raises(UserError, match="no column 'completion'"):
        load_rows(tmp_path, split="test", columns=["prompt", "completion"])


def test_bad_rows_are_named_by_file_and_line(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2"):
        load_rows(bad)
    bad.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1: expected a JSON object"):
        load_rows(bad)
    with gzip.open(tmp_path / "bin.jsonl.gz", "wb") as out:
        out.write(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        load_rows(tmp_path / "bin.jsonl.gz")
    with pytest.raises(UserError, match="no such file"):
        load_rows(tmp_path / "gone.jsonl")
    with pytest.raises(UserError, match="neither a file or folder here nor a dataset"):
        load_rows("nobody/nothing")


def test_atomic_folder_keeps_the_old_one_when_the_block_fails(tmp_path):
    with atomic_folder(tmp_path / "out") as beside:
        (beside / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as beside:
        (beside / "a").write_text("2")
        raise RuntimeError
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_command_turns_a_user_error_into_one_sentence(capsys):
    @command
    def main():
        raise UserError("rows.jsonl, line 3: no prompt")

    with pytest.raises(SystemExit) as stop:
        main()
    assert (
        stop.value.code == 2 and capsys.readouterr().err == "error: rows.jsonl, line 3: no prompt\n"
    )


def test_model_config_defaults_and_bad_flag(tmp_path):
    (config,) = parse((ModelConfig,), ["--model_name_or_path", "m"])
    assert config.use_peft and config.lora_target_modules == "all-linear"
    with pytest.raises(UserError, match="no_such_flag"):
        parse((ModelConfig,), ["--no_such_flag", "1"])


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


def test_encoder_decoder_is_refused_in_one_sentence(tmp_path):
    from transformers import T5Config

    T5Config(num_layers=1, d_model=8, d_ff=8, num_heads=1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="encoder-decoder"):
        load_causal_lm(ModelConfig(model_name_or_path=str(tmp_path)))


def test_generation_ignores_the_models_own_generation_config(tmp_path, tokenizer):
    path = save_model(tmp_path / "m")
    model = load_causal_lm(ModelConfig(model_name_or_path=path))
    prompts = [encode_prompt(tokenizer, "Hi"), encode_prompt(tokenizer, "A longer one, this")]
    torch.manual_seed(1)
    plain = generate_ids(model, tokenizer, prompts, 8)
    model.generation_config.top_k, model.generation_config.repetition_penalty = 1, 5.0
    torch.manual_seed(1)
    assert generate_ids(model, tokenizer, prompts, 8) == plain
    assert model.generation_config.top_k == 1  # put back


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neox", "gemma2", "qwen2"])
def test_copies_of_a_prompt_continue_from_one_shared_cache(tmp_path, tokenizer, monkeypatch, kind):
    monkeypatch.setattr(
        "instruct.generation.MIN_ROWS", 1
    )  # prompts of other lengths are computed apart
    model = load_causal_lm(ModelConfig(model_name_or_path=save_model(tmp_path / "m", kind)))
    prompts = [
        encode_prompt(tokenizer, "Hi"),
        encode_prompt(tokenizer, "A longer one, this"),
        encode_prompt(tokenizer, "x y"),
    ]
    apart = [generate_ids(model, tokenizer, [p], 6, temperature=0)[0] for p in prompts]
    assert generate_ids(model, tokenizer, prompts, 6, temperature=0, copies=2) == [
        row for row in apart for _ in range(2)
    ]
    torch.manual_seed(0)
    one, two = generate_ids(model, tokenizer, prompts[:1], 8, copies=2)
    assert one != two  # each copy draws for itself


def test_generation_equals_sampling_from_the_models_own_probabilities(tmp_path, tokenizer):
    """Greedy decoding through the left-padded batch picks the arg max of a plain forward, row by row."""
    model = load_causal_lm(ModelConfig(model_name_or_path=save_model(tmp_path / "m")))
    prompts = [encode_prompt(tokenizer, "Hi"), encode_prompt(tokenizer, "A longer one, this")]
    for prompt, row in zip(
        prompts, generate_ids(model, tokenizer, prompts, 4, temperature=0), strict=True
    ):
        ids = list(prompt)
        for token in row:
            with torch.no_grad():
                assert model(torch.tensor([ids])).logits[0, -1].argmax().item() == token
            ids.append(token)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neox", "gemma2", "mistral"])
@pytest.mark.parametrize("copies", [1, 2])
def test_rows_that_ended_leave_the_batch_and_the_others_go_on(
    tmp_path, tokenizer, monkeypatch, kind, copies
):
    """Each row is what it is alone, cut after its own eos; the batch that is decoded shrinks."""
    model = load_causal_lm(ModelConfig(model_name_or_path=save_model(tmp_path / "m", kind)))
    prompts = [encode_prompt(tokenizer, p) for p in ("Hi", "A longer one, this", "x y", "why?")]
    whole = [generate_ids(model, tokenizer, [p], 12, temperature=0)[0] for p in prompts]
    end = next(
        t for row in whole for t in row[1:6] if any(t not in other for other in whole)
    )  # ends some rows, not all
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    expected = [row[: row.index(end) + 1] if end in row else row for row in whole]
    assert len({len(row) for row in expected}) > 1
    monkeypatch.setattr("instruct.generation.CHUNK", 3)
    monkeypatch.setattr(
        "instruct.generation.MIN_ROWS", 1
    )  # prompts of other lengths are computed apart
    sizes = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    got = generate_ids(model, tokenizer, prompts, 12, temperature=0, copies=copies)
    assert got == [row for row in expected for _ in range(copies)]
    assert min(sizes) < max(sizes)


def test_tokens_are_drawn_with_their_probability():
    """Frequencies of 40,000 draws against softmax(logits / temperature), within 5 standard errors; p = 0 never."""
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 2.0, -torch.inf, -1.0, 1.0])
    picked = DrawToken(temperature=0.7)(None, logits.expand(40_000, 5)).argmax(-1)
    expected = (logits / 0.7).softmax(-1)
    found = torch.bincount(picked, minlength=5) / len(picked)
    assert found[2] == 0
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / len(picked)).sqrt()).all()


def test_the_bias_of_a_reward_model_on_the_hub_is_fetched(tmp_path, monkeypatch):
    """Weights alone would load, and every score would be off by the bias in silence."""
    (tmp_path / "reward_head.json").write_text(json.dumps({"bias": 0.25}))
    monkeypatch.setattr("instruct.models.hf_hub_download", lambda repo, name: str(tmp_path / name))
    assert reward_bias("someone/reward") == 0.25

    def offline(repo, name):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("instruct.models.hf_hub_download", offline)
    with pytest.raises(UserError, match="someone/reward.*reward_head.json"):
        reward_bias("someone/reward")
