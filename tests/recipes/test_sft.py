"""recipes/sft.py in process on a tiny model: files, what moves, the loss, resuming."""

import json
import math
import shutil

import pytest
import torch
from conftest import make_tokenizer, save_model, write_jsonl
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from instruct.arguments import ModelConfig
from instruct.models import load_sequence_classifier
from instruct.tokens import encode_completion, encode_prompt, load_tokenizer
from recipes import sft
from recipes.sft import cli, tokenize


@pytest.fixture()
def arguments(tiny_model, demonstrations, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "train.jsonl", demonstrations[:8])
    write_jsonl(data / "validation.jsonl", demonstrations[8:])
    return [
        "--model_name_or_path", tiny_model, "--dataset_name", str(data),
        "--output_dir", str(tmp_path / "sft"), "--per_device_train_batch_size", "4",
        "--num_train_epochs", "4", "--learning_rate", "1e-2", "--report_to", "none",
        "--eval_strategy", "epoch", "--save_strategy", "epoch", "--use_cpu", "--logging_steps", "1",
        "--lora_dropout", "0.1",
    ]  # fmt: skip


def test_writes_adapter_and_merged_model_and_learns(
    arguments, tmp_path, tiny_model, demonstrations
):
    cli(arguments)
    out = tmp_path / "sft"
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "trainer_state.json",
        "merged",
    } <= {p.name for p in out.iterdir()}
    assert {p.name for p in out.rglob("*.bin")} <= {
        "training_args.bin"
    }  # Trainer's own note; weights are safetensors
    losses = [
        e["eval_loss"]
        for e in json.loads((out / "trainer_state.json").read_text())["log_history"]
        if "eval_loss" in e
    ]
    assert len(losses) == 5 and losses[-1] < losses[0]  # before training and after each epoch
    # every LoRA B moved from zero, and the merged model answers as base + adapter
    weights = load_file(out / "adapter_model.safetensors")
    assert weights and all(w.abs().max() > 0 for name, w in weights.items() if "lora_B" in name)
    assert any("mlp" in name for name in weights) and any("attn" in name for name in weights)
    tokenizer = load_tokenizer(str(out))
    ids = torch.tensor([encode_prompt(tokenizer, "Hi")])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(out / "merged").eval()(ids).logits
        adapted = AutoPeftModelForCausalLM.from_pretrained(out).eval()(ids).logits
        base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()(ids).logits
    assert torch.allclose(merged, adapted, atol=1e-4) and not torch.allclose(
        merged, base, atol=1e-2
    )
    before = (out / "merged" / "model.safetensors").stat().st_mtime_ns
    cli(arguments)  # finished: nothing to do
    assert (out / "merged" / "model.safetensors").stat().st_mtime_ns == before


def test_loss_before_training_is_the_plain_completion_loss(
    arguments, tmp_path, tiny_model, demonstrations
):
    cli([*arguments, "--max_steps", "1"])
    state = json.loads((tmp_path / "sft" / "trainer_state.json").read_text())
    logged = next(e["eval_loss"] for e in state["log_history"] if "eval_loss" in e)
    tokenizer, model = (
        load_tokenizer(tiny_model),
        AutoModelForCausalLM.from_pretrained(tiny_model).eval(),
    )
    total, count = 0.0, 0
    for row in demonstrations[8:]:
        prompt, completion = (
            encode_prompt(tokenizer, row["prompt"]),
            encode_completion(tokenizer, row["completion"]),
        )
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + completion])).logits.log_softmax(-1)[0]
        for position, token in enumerate(completion, len(prompt)):
            total, count = total - logprobs[position - 1, token].item(), count + 1
    assert math.isclose(logged, total / count, rel_tol=1e-4)


def test_stopped_and_run_again_it_ends_as_if_never_stopped(arguments, tmp_path):
    cli(arguments)
    whole = load_file(tmp_path / "sft" / "adapter_model.safetensors")
    for name in ("finished.json", "adapter_model.safetensors", "checkpoint-8", "checkpoint-6"):
        path = tmp_path / "sft" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tmp_path / "sft" / "checkpoint-6").mkdir()  # killed while saving: no trainer_state.json
    cli(arguments)
    again = load_file(tmp_path / "sft" / "adapter_model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_full_fine_tuning_moves_every_weight(arguments, tmp_path, tiny_model):
    cli([*arguments, "--use_peft", "False", "--max_steps", "2"])
    before, after = (
        load_file(f"{tiny_model}/model.safetensors"),
        load_file(tmp_path / "sft" / "merged" / "model.safetensors"),
    )
    assert all(not torch.equal(before[name], after[name].float()) for name in before)


def test_user_mistakes_are_one_sentence(arguments, tmp_path, capsys):
    def stops(*changes):
        with pytest.raises(SystemExit) as stop:
            cli([*arguments, *changes])
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert stop.value.code == 2 and "Traceback" not in error
        return error

    assert "no_such_flag" in stops("--no_such_flag", "1")
    assert "gone.jsonl: no such file" in stops("--dataset_name", str(tmp_path / "gone.jsonl"))
    assert "no model there" in stops("--model_name_or_path", str(tmp_path))
    assert "--max_length 3" in stops("--max_length", "3")
    one = write_jsonl(tmp_path / "e.jsonl", [{"prompt": " ", "completion": "a"}])
    assert "e.jsonl, line 1: 'prompt' is empty" in stops(
        "--dataset_name", one, "--eval_strategy", "no"
    )
    # a file is all for training, and so is a folder without the split
    assert "--dataset_test_split FILE" in stops("--dataset_name", one)
    assert "it has 'train', 'validation'" in stops("--dataset_test_split", "test")
    assert "gone.jsonl: no such file" in stops("--dataset_test_split", str(tmp_path / "gone.jsonl"))


def test_a_file_is_held_out_by_its_name(arguments, tmp_path, demonstrations, monkeypatch):
    seen, init = {}, sft.SFTTrainer.__init__

    def spy(self, *args, **more):
        seen.update({name: len(more[f"{name}_dataset"]) for name in ("train", "eval")})
        init(self, *args, **more)

    monkeypatch.setattr(sft.SFTTrainer, "__init__", spy)
    source = write_jsonl(tmp_path / "one.jsonl", demonstrations)
    held = write_jsonl(tmp_path / "held.jsonl", demonstrations[:2])
    flags = ["--dataset_name", source, "--dataset_test_split", held, "--max_steps", "1"]
    cli([*arguments, *flags])
    assert seen == {"train": len(demonstrations), "eval": 2}


def test_a_template_that_is_added_is_named(arguments, tmp_path, capsys):
    base = save_model(tmp_path / "bare", tokenizer=make_tokenizer(chat_template=None))
    cli([*arguments, "--model_name_or_path", base, "--max_steps", "1"])
    assert f"{base}: it has no chat template: turns begin with" in capsys.readouterr().out


def test_over_long_rows_are_counted(tiny_model, demonstrations, capsys):
    from datasets import Dataset

    rows = Dataset.from_list(
        [
            *demonstrations,
            {**demonstrations[0], "prompt": [{"role": "user", "content": "word " * 99}]},
        ]
    )
    assert len(tokenize(rows, load_tokenizer(tiny_model), 64, "rows")) == len(demonstrations)
    assert "1 rows longer than --max_length 64" in capsys.readouterr().out


def test_checkpoint_is_selected_by_reward_as_in_the_paper(arguments, tmp_path, tiny_model, capsys):
    cli([*arguments, "--learning_rate", "5e-2"])
    out = tmp_path / "sft"
    torch.manual_seed(0)
    reward = load_sequence_classifier(ModelConfig(model_name_or_path=tiny_model))
    reward.score.weight.data.normal_()
    reward.save_pretrained(tmp_path / "reward")
    load_tokenizer(tiny_model).save_pretrained(tmp_path / "reward")
    cli([
        *arguments, "--select_by_reward", str(tmp_path / "reward"), "--select_max_new_tokens", "6",
    ])  # fmt: skip
    selected = json.loads((out / "selected_by_reward.json").read_text())
    assert set(selected["mean_reward"]) == {f"checkpoint-{2 * n}" for n in (1, 2, 3, 4)}
    assert selected["checkpoint"] == max(selected["mean_reward"], key=selected["mean_reward"].get)
    assert len(set(selected["mean_reward"].values())) > 1  # the checkpoints do answer differently
    # the model lies in the checkpoints; one file is the prompts to answer
    one_file = write_jsonl(tmp_path / "ask.jsonl", [{"prompt": "tea"}, {"prompt": "rain"}])
    cli([
        "--dataset_name", one_file, "--output_dir", str(out), "--select_by_reward",
        str(tmp_path / "reward"), "--select_max_new_tokens", "6", "--report_to", "none",
    ])  # fmt: skip
    assert "on 2 validation prompts" in capsys.readouterr().out
    selected = json.loads((out / "selected_by_reward.json").read_text())
    chosen = load_file(out / selected["checkpoint"] / "adapter_model.safetensors")
    written = load_file(out / "adapter_model.safetensors")
    assert all(torch.equal(chosen[name], written[name]) for name in chosen)
    ids = torch.tensor([encode_prompt(load_tokenizer(str(out)), "Hi")])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(out / "merged").eval()(ids).logits
        assert torch.allclose(
            merged, AutoPeftModelForCausalLM.from_pretrained(out).eval()(ids).logits, atol=1e-4
        )
