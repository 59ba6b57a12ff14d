"""Any base model by `--model_name_or_path` alone: SFT -> reward -> PPO -> save -> reload.

Per architecture, a tiny random model with a real tokenizer; which of chat template, pad, bos and
tied embeddings a family has varies with it. What is loaded again gives the same outputs.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import CHATML, make_model, make_tokenizer, write_jsonl
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from instruct.models import RewardModel, load_policy, load_reward
from instruct.tokens import DEFAULT_CHAT_TEMPLATE, encode_prompt, load_tokenizer
from recipes import ppo, reward, sft

pytestmark = pytest.mark.matrix


@dataclass
class Case:
    kind: str
    template: bool = True  # the tokenizer's own chat template
    pad: str = (
        "own"  # own; none (another special token is found); eos (no other special token exists)
    )
    bos: bool = True
    tied: bool = False


CASES = [
    Case("gpt2", template=False, pad="eos", bos=False, tied=True),
    Case("gpt2", tied=False),
    Case("gpt_neox", template=False, pad="eos", bos=False),
    Case("opt", template=False, pad="own", bos=True, tied=True),
    Case("llama", pad="none", bos=False),
    Case("llama", template=False, pad="none", tied=True),
    Case("mistral", template=False, pad="none"),
    Case("qwen2", pad="own", bos=False, tied=True),
    Case("qwen3", bos=False, tied=False),
    Case("gemma2", tied=True),
    Case("gemma3_text", tied=True),
    Case("phi3", pad="none"),
    Case("smollm3", pad="own", bos=False, tied=True),
]
PROMPTS = ["Tell me about tea.", "What of the rain in the long, long winter?"]


def variant(case: Case):
    tokenizer = make_tokenizer(
        CHATML if case.template else None, "<|endoftext|>" if case.pad == "own" else None
    )
    if case.pad == "eos":
        tokenizer.eos_token = "<|endoftext|>"
    if not case.bos:
        tokenizer.bos_token = None
    return tokenizer


def save_case(folder: Path, case: Case) -> str:
    tokenizer = variant(case)
    changes = {
        "tie_word_embeddings": case.tied,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.2,
    }
    make_model(case.kind, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def logits(model, tokenizer) -> list[torch.Tensor]:
    with torch.no_grad():
        return [
            model(input_ids=torch.tensor([encode_prompt(tokenizer, p)])).logits.float()[0]
            for p in PROMPTS
        ]


def catch_at_the_end(monkeypatch, trainer_class, probe) -> list:
    """What `probe` says of the trained model in memory, when the recipe has saved it."""
    caught, save_state = [], trainer_class.save_state

    def save_and_probe(trainer):
        trainer.model.eval()
        caught.append(probe(trainer))
        save_state(trainer)

    monkeypatch.setattr(trainer_class, "save_state", save_and_probe)
    return caught


@pytest.fixture()
def flags():
    """What every recipe here gets beside its model, its data and its folder."""
    return [
        "--report_to", "none", "--use_cpu", "--save_strategy", "no", "--lora_r", "4",
        "--learning_rate", "0.02", "--per_device_train_batch_size", "4", "--eval_strategy", "no",
        "--disable_tqdm", "True", "--lora_alpha", "8",
    ]  # fmt: skip


def assert_same(ours, theirs, atol=2e-4):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=1e-3)


def adapter_moved(folder: Path) -> bool:
    weights = load_file(folder / "adapter_model.safetensors")
    return bool(weights) and all(
        w.abs().max() > 0 for name, w in weights.items() if "lora_B" in name
    )


@pytest.mark.parametrize(
    "case",
    CASES,
    ids=lambda c: f"{c.kind}{'' if c.template else '-plain'}{'-tied' if c.tied else ''}",
)
def test_whole_chain(case, tmp_path, flags, demonstrations, comparisons, monkeypatch):
    base = save_case(tmp_path / "base", case)
    tokenizer = load_tokenizer(base)
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) == (case.pad == "eos")

    # 1. SFT: the merged model, in plain transformers, says what the trained model in memory said
    caught = catch_at_the_end(monkeypatch, sft.SFTTrainer, lambda t: logits(t.model, tokenizer))
    data = write_jsonl(tmp_path / "demonstrations.jsonl", demonstrations[:4])
    out = tmp_path / "sft"
    sft.cli([
        "--model_name_or_path", base, "--dataset_name", data, "--output_dir", str(out),
        "--max_steps", "2", *flags,
    ])  # fmt: skip
    merged = str(out / "merged")
    plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    assert_same(logits(plain, tokenizer), caught[0])
    untrained = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    assert (logits(plain, tokenizer)[0] - logits(untrained, tokenizer)[0]).abs().max() > 1e-3
    assert adapter_moved(out)
    expected = CHATML if case.template else DEFAULT_CHAT_TEMPLATE
    assert AutoTokenizer.from_pretrained(merged).chat_template == expected

    # 2. reward
    caught = catch_at_the_end(
        monkeypatch,
        reward.RankedRewardTrainer,
        lambda t: RewardModel(t.model, tokenizer).score(PROMPTS, ["Yes.", "No!"]),
    )
    rankings = write_jsonl(tmp_path / "comparisons.jsonl", comparisons[:4])
    out = tmp_path / "reward"
    reward.cli([
        "--model_name_or_path", merged, "--dataset_name", rankings, "--output_dir", str(out),
        "--max_steps", "2", "--eval_fraction", "0", "--demonstrations", data, *flags,
    ])  # fmt: skip
    loaded = load_reward(str(out))
    scores = loaded.score(PROMPTS, ["Yes.", "No!"])
    assert_same([s - loaded.bias for s in scores], caught[0])
    assert (
        loaded.bias == json.loads((out / "reward_head.json").read_text())["bias"] != 0
        and scores[0] != scores[1]
    )
    assert loaded.tokenizer.chat_template == expected and adapter_moved(out)

    # 3. PPO, one step; before it the policy is the SFT model, so the KL is 0
    caught = catch_at_the_end(
        monkeypatch,
        ppo.SharedBasePPOTrainer,
        lambda t: logits(t.shared.switch("policy"), tokenizer),
    )
    prompts = write_jsonl(
        tmp_path / "prompts.jsonl",
        [{"prompt": f"Say {w}."} for w in ("tea", "rain and snow", "a", "b")],
    )
    out = tmp_path / "ppo"
    ppo.cli([
        "--model_name_or_path", merged, "--reward_model_path", str(tmp_path / "reward"),
        "--dataset_name", prompts, "--output_dir", str(out), "--response_length", "6",
        "--total_episodes", "4", "--rollout_batch_size", "4", "--num_ppo_epochs", "1",
        "--num_mini_batches", "1", *flags,
    ])  # fmt: skip
    policy, stored = load_policy(str(out))
    assert_same(logits(policy, stored), caught[0])
    assert adapter_moved(out) and stored.chat_template == expected
    assert (logits(policy, stored)[0] - logits(plain, tokenizer)[0]).abs().max() > 1e-4
    steps = [
        e
        for e in json.loads((out / "trainer_state.json").read_text())["log_history"]
        if "objective/kl" in e
    ]
    assert len(steps) == 1 and steps[0]["objective/kl"] == pytest.approx(0, abs=1e-3)


def test_masked_lm_backbone_as_reward_model(
    tmp_path, flags, comparisons, demonstrations, tiny_model, monkeypatch
):
    """BERT, whose tokenizer has [CLS] and [SEP] but no eos.

    It learns rankings row by row and scores for PPO's policy.
    """
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    BertForMaskedLM(
        BertConfig(vocab_size=512, max_position_embeddings=128, **sizes)
    ).save_pretrained(tmp_path / "bert")
    tokenizer = make_tokenizer(None)
    tokenizer.cls_token, tokenizer.sep_token = "<|im_start|>", "<|im_end|>"
    tokenizer.eos_token = tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path / "bert")
    settled = load_tokenizer(str(tmp_path / "bert"))
    assert settled.eos_token == "<|im_end|>" and settled.bos_token == "<|im_start|>"

    caught = catch_at_the_end(
        monkeypatch,
        reward.RankedRewardTrainer,
        lambda t: RewardModel(t.model, settled).score(PROMPTS, ["Yes.", "No!"]),
    )
    rankings = write_jsonl(tmp_path / "comparisons.jsonl", comparisons[:4])
    out = tmp_path / "reward"
    reward.cli([
        "--model_name_or_path", str(tmp_path / "bert"), "--dataset_name", rankings,
        "--output_dir", str(out), "--max_steps", "2", "--eval_fraction", "0", *flags,
    ])  # fmt: skip
    assert_same(load_reward(str(out)).score(PROMPTS, ["Yes.", "No!"]), caught[0])

    prompts = write_jsonl(
        tmp_path / "prompts.jsonl", [{"prompt": f"Say {w}."} for w in ("tea", "rain", "a", "b")]
    )
    ppo.cli([
        "--model_name_or_path", tiny_model, "--reward_model_path", str(out),
        "--dataset_name", prompts, "--output_dir", str(tmp_path / "ppo"), "--response_length", "6",
        "--total_episodes", "4", "--rollout_batch_size", "4", "--num_ppo_epochs", "1",
        "--value_model", "head", *flags,
    ])  # fmt: skip
    assert adapter_moved(tmp_path / "ppo")


def test_encoder_decoder_is_refused_in_one_sentence(
    tmp_path, flags, demonstrations, comparisons, capsys
):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=512,
        num_layers=1,
        d_model=8,
        d_ff=8,
        d_kv=4,
        num_heads=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    make_tokenizer().save_pretrained(tmp_path / "t5")
    rows = write_jsonl(tmp_path / "rows.jsonl", demonstrations)
    rankings = write_jsonl(tmp_path / "rankings.jsonl", comparisons)
    for recipe, data, more in (
        (sft, rows, []),
        (reward, rankings, ["--eval_fraction", "0"]),
        (ppo, rows, ["--reward_model_path", "nowhere"]),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            recipe.cli([
                "--model_name_or_path", str(tmp_path / "t5"), "--dataset_name", data,
                "--output_dir", str(tmp_path / "out"), *flags, *more,
            ])  # fmt: skip
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert (
            stop.value.code == 2
            and error.startswith("error: ")
            and "is an encoder-decoder (t5)" in error
        )
