"""recipes/configs/paper/: numbers of arXiv 2203.02155, and two steps of each on a tiny model."""

import json
import re

import pytest
import torch
import yaml
from conftest import REPO, save_model, write_jsonl
from ppo_tools import PROMPTS
from test_configs import PARSERS
from transformers.optimization import get_scheduler

from instruct.arguments import parse
from recipes import ppo, reward, sft

PAPER = REPO / "recipes" / "configs" / "paper"
FILES = {"sft": "sft", "sft_for_ppo": "sft", "reward": "reward", "ppo": "ppo"}
ADAM = {"adam_beta1": 0.9, "adam_beta2": 0.95}
COSINE = {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}, "warmup_steps": 0}
NUMBERS = {
    "sft": {**ADAM, **COSINE, "num_train_epochs": 16, "learning_rate": 9.65e-6,
            "residual_dropout": 0.2, "max_length": 2048},
    "sft_for_ppo": {**ADAM, **COSINE, "num_train_epochs": 2, "learning_rate": 5e-6,
                    "pretraining_share": 0.1, "max_length": 2048},
    "reward": {**ADAM, **COSINE, "num_train_epochs": 1, "learning_rate": 9e-6},
    "ppo": {**ADAM, "total_episodes": 256_000, "rollout_batch_size": 512, "num_mini_batches": 8,
            "num_ppo_epochs": 1, "kl_coef": 0.02, "ema_decay": 0.992, "ptx_coef": 27.8,
            "cliprange": 0.2, "gamma": 1.0, "lam": 0.95, "temperature": 1.0,
            "value_learning_rate": 9e-6, "max_prompt_length": 1024, "response_length": 1024},
}  # fmt: skip


@pytest.fixture()
def gpu(monkeypatch):
    """As on the machine the files are for: a GPU that has bf16."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.is_torch_cuda_available", lambda: True)


def read(name: str) -> dict:
    """{flag: value in effect} of one file."""
    parsed = parse(PARSERS[FILES[name]], ["--config", str(PAPER / f"{name}.yaml")])
    return {key: value for part in parsed for key, value in vars(part).items()}


def test_the_files_are_there():
    assert {p.stem for p in PAPER.glob("*.yaml")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_numbers_are_the_papers(name, gpu):
    found = read(name)
    assert {key: found[key] for key in NUMBERS[name]} == NUMBERS[name]
    if name == "ppo":
        assert found["rollout_batch_size"] // found["num_mini_batches"] == 64
        assert found["ptx_batch_size"] == 8 * found["per_device_train_batch_size"]
        return
    batch = found["per_device_train_batch_size"] * found["gradient_accumulation_steps"]
    assert batch == (64 if name == "reward" else 32)
    assert found["lr_scheduler_type"] == "cosine_with_min_lr"


@pytest.mark.parametrize("name", FILES)
def test_each_number_of_the_paper_names_its_section(name):
    lines = (PAPER / f"{name}.yaml").read_text().splitlines()
    for flag in NUMBERS[name]:
        (line,) = [line for line in lines if line.startswith(f"{flag}:")]
        # C.2 and C.3 say nothing of a warm-up
        assert re.search(r"# .*(C\b|App\. E|arXiv)", line) or flag == "warmup_steps", line
    deviates = [line for line in lines if "default" in line]
    assert any("use_peft" in line for line in deviates) or name == "reward"


def rates(name: str, steps: int) -> list[float]:
    """The learning rate of each step, as a share of the peak."""
    found = read(name)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(
        found["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=found["warmup_steps"],
        num_training_steps=steps,
        scheduler_specific_kwargs=found["lr_scheduler_kwargs"],
    )
    out = []
    for _ in range(steps):
        out.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return out


def test_schedules_are_the_papers(gpu):
    for name in ("sft", "sft_for_ppo", "reward"):
        found = rates(name, 400)
        assert found[0] == 1.0 and found[-1] == pytest.approx(0.1, abs=1e-3)
        assert found == sorted(found, reverse=True)
    # 10 iterations of 8 minibatches, from a tenth; constant from then on
    found = rates("ppo", 500 * 8)
    assert found[0] == pytest.approx(0.1) and found[79] == pytest.approx(1.0)
    assert found[40] == pytest.approx(0.1 + 0.9 * 40 / 79)
    assert found[80:] == pytest.approx([1.0] * 3920)


def test_two_steps_of_each_on_a_tiny_model(tmp_path, demonstrations, comparisons):
    """From SFT for PPO to PPO, each reading what the one before wrote; sizes alone are changed."""
    model = save_model(tmp_path / "model", "gpt_neox")
    texts = write_jsonl(
        tmp_path / "texts.jsonl", [{"text": f"Tea and rain {i}."} for i in range(9)]
    )
    asked = write_jsonl(tmp_path / "demos.jsonl", demonstrations)
    ranked = write_jsonl(tmp_path / "ranked.jsonl", comparisons)
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    small = ["--use_cpu", "--bf16", "False", "--disable_tqdm", "True"]
    small += ["--eval_strategy", "no", "--save_strategy", "no"]

    def run(cli, name: str, *flags) -> list[dict]:
        out = tmp_path / name
        config = ["--config", str(PAPER / f"{name}.yaml"), "--output_dir", str(out)]
        cli([*config, *small, *map(str, flags)])
        return json.loads((out / "trainer_state.json").read_text())["log_history"]

    of_step = ["--max_steps", "2", "--gradient_accumulation_steps", "1", "--logging_steps", "1"]
    of_sft = ["--model_name_or_path", model, "--dataset_name", asked, *of_step]
    for name, extra in (("sft", []), ("sft_for_ppo", ["--pretraining_dataset", texts])):
        log = run(sft.cli, name, *of_sft, "--per_device_train_batch_size", "4", *extra)
        peak = NUMBERS[name]["learning_rate"]
        assert [line["learning_rate"] for line in log if "loss" in line] == pytest.approx(
            [peak, peak * 0.55]
        )
    merged = tmp_path / "sft_for_ppo" / "merged"
    run(reward.cli, "reward", "--model_name_or_path", merged, "--dataset_name", ranked,
        "--demonstrations", asked, *of_step)  # fmt: skip
    log = run(
        ppo.cli, "ppo", "--model_name_or_path", merged, "--dataset_name", prompts,
        "--reward_model_path", tmp_path / "reward", "--ptx_dataset", texts,
        "--rollout_batch_size", "8", "--total_episodes", "8", "--response_length", "8",
        "--ptx_max_length", "16",
    )  # fmt: skip
    (line,) = [line for line in log if "objective/kl" in line]
    # the eighth of 80 steps of warm-up
    warm = 0.1 + 0.9 * 7 / 79
    assert line["learning_rate"] == pytest.approx(1e-5 * warm)
    assert line["value_learning_rate"] == pytest.approx(9e-6 * warm)
    assert any("ptx" in key for key in line)


def test_every_key_is_a_flag(gpu):
    for name in FILES:
        keys = set(yaml.safe_load((PAPER / f"{name}.yaml").read_text()))
        assert keys <= set(read(name)), name
