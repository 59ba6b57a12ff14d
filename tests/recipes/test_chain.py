"""The whole chain on a tiny model: prompt log -> report.

The recipes are started by `accelerate launch`, as a user types it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO, TOPICS, write_jsonl
from peft import AutoPeftModelForCausalLM

from data_prep import comparisons, demonstrations, label, prompts, sample
from instruct.files import load_rows
from instruct.models import load_reward
from instruct.runs import NEXT
from recipes import evaluate

SHARED = ["--report_to", "none", "--use_cpu", "--logging_steps", "1", "--save_strategy", "no"]


def launch(recipe: str, arguments: list) -> str:
    """What a recipe under `accelerate launch` printed; fails with its last lines."""
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "accelerate_configs/cpu.yaml",
    ]
    command += [f"recipes/{recipe}.py", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, env=os.environ, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory) -> Path:
    """A run folder with every step in it."""
    root = tmp_path_factory.mktemp("run")
    log = [
        {
            "id": f"{u}-{t}",
            "user_id": f"user {u}",
            "timestamp": f"2024-01-{1 + u % 28:02d}T00:00:00Z",
            "prompt": f"What is {t} number {u}?",
        }
        for u in range(40)
        for t in TOPICS[:3]
    ]
    log.append({**log[0], "id": "again"})
    log.append({**log[0], "id": "pii", "prompt": "Please write to someone@acme.org today"})
    answers = [
        {
            "prompt": r["prompt"],
            "completion": "It is great.",
            "prompt_id": r["id"],
            "source": "test",
        }
        for r in log
    ]
    prompts.main([
        "--input", write_jsonl(root / "log.jsonl", log), "--output_dir", str(root / "prompts"),
        "--splits", "train=0.4,validation=0.2,test=0.4",
    ])  # fmt: skip
    demonstrations.main([
        "--input", write_jsonl(root / "answers.jsonl", answers), "--prompts", str(root / "prompts"),
        "--output_dir", str(root / "demonstrations"),
    ])  # fmt: skip
    said = launch("sft", [
        "--model_name_or_path", tiny_model, "--dataset_name", root / "demonstrations",
        "--output_dir", root / "sft", "--learning_rate", "1e-2", "--num_train_epochs", "2",
        "--eval_strategy", "epoch", *SHARED,
    ])  # fmt: skip
    assert f"done: {root / 'sft' / 'merged'} is for {NEXT['sft']}" in said
    sample.main([
        "--model_name_or_path", str(root / "sft/merged"),
        "--input", str(root / "prompts/train.parquet"), "--limit", "24", "--num_outputs", "3",
        "--max_new_tokens", "16", "--answers", str(root / "answers.jsonl"),
        "--output", str(root / "samples.jsonl"),
    ])  # fmt: skip
    label.main([
        "--input", str(root / "samples.jsonl"), "--labeler", "scripted",
        "--output", str(root / "rankings.jsonl"),
    ])  # fmt: skip
    comparisons.main([
        "--input", str(root / "rankings.jsonl"), "--output_dir", str(root / "comparisons"),
        "--validation", "0.3",
    ])  # fmt: skip
    said = launch("reward", [
        "--model_name_or_path", root / "sft/merged", "--dataset_name", root / "comparisons",
        "--output_dir", root / "reward", "--demonstrations", root / "demonstrations",
        "--num_train_epochs", "2", "--learning_rate", "1e-3", *SHARED,
    ])  # fmt: skip
    assert f"done: {root / 'reward'} is for {NEXT['reward']}" in said
    said = launch("ppo", [
        "--model_name_or_path", root / "sft/merged", "--reward_model_path", root / "reward",
        "--dataset_name", root / "prompts/train.parquet", "--output_dir", root / "ppo",
        "--total_episodes", "16", "--per_device_train_batch_size", "8", "--num_ppo_epochs", "1",
        "--learning_rate", "1e-3", "--response_length", "8",
        "--reward_funcs", "data_prep.label:scripted_reward", "--reward_weights", "1", "0",
        "--eval_strategy", "no", *SHARED,
    ])  # fmt: skip
    assert f"done: {root / 'ppo'} is for {NEXT['ppo']}" in said
    evaluate.main([
        "--models", f"base={tiny_model}", f"sft={root / 'sft/merged'}", f"ppo={root / 'ppo'}",
        "--input", str(root / "prompts/test.parquet"), "--reward", str(root / "reward"),
        "--run_dir", str(root), "--output_dir", str(root / "report"), "--max_new_tokens", "8",
        "--limit", "10",
    ])  # fmt: skip
    return root


def test_the_report_holds_every_step(run):
    report = json.loads((run / "report" / "report.json").read_text())
    assert (
        report["data"]["in"]
        == 122
        == report["data"]["kept"] + sum(report["data"]["removed"].values())
    )
    assert (
        report["data"]["removed"]["duplicate_prefix"] == 1 and report["data"]["removed"]["pii"] == 1
    )
    assert report["sft"]["eval_loss_after"] < report["sft"]["eval_loss_before"]
    assert (
        0
        <= report["reward"]["accuracy_low"]
        <= report["reward"]["accuracy"]
        <= report["reward"]["accuracy_high"]
        <= 1
    )
    assert report["reward"]["n_pairs"] > 0
    assert len(report["ppo"]["steps"]) == 2
    for step in report["ppo"]["steps"]:
        assert set(step) == {"step", "gold", "reward", "kl", "entropy", "length", "eos_rate"}
        assert all(value is not None for value in step.values())
    assert abs(report["ppo"]["steps"][0]["kl"]) < 1e-3  # PPO starts from the SFT model
    assert set(report["win_rate"]) == {"sft_vs_base", "ppo_vs_base", "ppo_vs_sft"}
    assert report["win_rate"]["ppo_vs_sft"]["n"] == 10 and set(report["gold"]) == {
        "base",
        "sft",
        "ppo",
    }


def test_no_test_user_was_seen_in_training(run):
    users = {
        split: set(load_rows(run / "prompts" / f"{split}.parquet")["user_id"])
        for split in ("train", "validation", "test")
    }
    assert users["test"] and not users["test"] & (users["train"] | users["validation"])
    assert {row["user_id"] for row in load_rows(run / "samples.jsonl")} <= users["train"]


def test_what_each_step_wrote_loads_with_plain_libraries(run):
    reward = load_reward(str(run / "reward"))
    assert reward.base == str(run / "sft/merged") and reward.bias != 0
    AutoPeftModelForCausalLM.from_pretrained(run / "ppo")
    assert not (run / "reward" / "config.json").exists()  # would break plain loading of the adapter
    for step in ("sft", "reward", "ppo"):
        assert not [p for p in (run / step).rglob("*.bin") if p.name != "training_args.bin"]
        assert (run / step / "tokenizer.json").is_file() and (
            run / step / "chat_template.jinja"
        ).is_file()
