"""A reward model as every command takes one: refused in one sentence, or scored as in a file."""

import json
import shutil
from pathlib import Path

import pytest
from command_tools import stops
from conftest import make_tokenizer, save_model, write_jsonl
from peft import LoraConfig, get_peft_model
from ppo_tools import flags, make_reward, make_setup

from instruct.arguments import ModelConfig
from instruct.models import load_causal_lm, load_reward
from instruct.trl_ppo import PPOTrainer
from recipes import evaluate, ppo, reward, sft

QUIET = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "True", "--logging_steps", "1"]
OWN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}answer: {% endif %}"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """SFT with checkpoints, a reward adapter on its merged model, and data for what comes next."""
    folder = tmp_path_factory.mktemp("run")
    rows = [{"prompt": f"What of {t}?", "completion": f"I like {t}."} for t in ("tea", "rain")]
    rankings = [
        {"prompt": f"What of {t}?", "completions": ["great!", "bad."], "ranks": [1, 2]}
        for t in ("tea", "rain")
    ]
    write_jsonl(folder / "rows.jsonl", rows * 2)
    write_jsonl(folder / "rankings.jsonl", rankings)
    (folder / "data").mkdir()
    for split in ("train", "validation"):
        write_jsonl(folder / "data" / f"{split}.jsonl", rows)
    sft_flags = [
        "--model_name_or_path", save_model(folder / "base", initializer_range=0.15),
        "--dataset_name", str(folder / "data"), "--output_dir", str(folder / "sft"), "--lora_r",
        "2", "--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy",
        "no", "--learning_rate", "1e-2", *QUIET,
    ]  # fmt: skip
    sft.cli(sft_flags)
    reward.cli([
        "--model_name_or_path", str(folder / "sft/merged"), "--dataset_name",
        str(folder / "rankings.jsonl"), "--output_dir", str(folder / "reward"), "--max_steps", "1",
        "--eval_fraction", "0", "--lora_r", "2", *QUIET,
    ])  # fmt: skip
    return folder, sft_flags


def ways(folder: Path, sft_flags: list[str], path: str, out: Path) -> dict:
    """{where a reward model is loaded: (command, arguments)}"""
    prompts, merged = folder / "rows.jsonl", folder / "sft/merged"
    setup = {"model": str(merged), "reward": path, "prompts": str(prompts)}
    commands = {
        "shared base": (ppo.cli, flags(setup, out)),
        "another base": (ppo.cli, flags({**setup, "model": str(folder / "base")}, out)),
        "score": (
            reward.cli,
            ["--output_dir", path, "--score", prompts, "--score_output", out / "s.jsonl"],
        ),
        "select": (sft.cli, [*sft_flags, "--select_by_reward", path]),
        "evaluate": (
            evaluate.main,
            [
                *("--models", f"sft={merged}", "--input", prompts, "--output_dir", out),
                *("--reward", path, "--max_new_tokens", 2),
            ],
        ),
    }
    if PPOTrainer is not None:
        commands["stock"] = (ppo.cli, flags(setup, out, stock=True))
    return commands


def causal_adapter(folder: Path, base: Path) -> str:
    model = load_causal_lm(ModelConfig(model_name_or_path=str(base)))
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    get_peft_model(model, config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["causal LM", "adapter of a causal LM", "base replaced"])
def test_what_is_no_reward_model_is_refused_wherever_one_is_loaded(kind, run, tmp_path, capsys):
    shutil.copytree(run[0], tmp_path / "run")
    folder = tmp_path / "run"
    sft_flags = [text.replace(str(run[0]), str(folder)) for text in run[1]]
    if kind == "causal LM":
        path, sentence = str(folder / "sft/merged"), "without a trained reward head"
    elif kind == "adapter of a causal LM":
        path = causal_adapter(tmp_path / "adapter", folder / "sft/merged")
        sentence = "which has no reward head"
    else:
        path, sentence = str(folder / "reward"), "holds other weights than those it was trained on"
        config = json.loads((folder / "reward/adapter_config.json").read_text())
        config["base_model_name_or_path"] = str(folder / "sft/merged")
        (folder / "reward/adapter_config.json").write_text(json.dumps(config))
        save_model(folder / "sft/merged", seed=5, initializer_range=0.15)
    (Path(path) / "finished.json").write_text("{}")  # what --score asks for first
    merged = (folder / "sft/merged/model.safetensors").read_bytes()
    for number, (way, (command, argv)) in enumerate(
        ways(folder, sft_flags, path, tmp_path / "out").items()
    ):
        said = stops(command, argv, capsys)
        found = sentence in said or kind == "base replaced" and "other files than the" in said
        assert f"error: {path}: " in said and found, (number, way, said)
        assert "Traceback" not in said
        # told before anything is made
        made = {p.name for p in (tmp_path / "out").rglob("*")}
        assert not made & {"answers.jsonl", "s.jsonl", "adapter_model.safetensors"}, way
    assert (folder / "sft/merged/model.safetensors").read_bytes() == merged


def test_outputs_that_moved_are_still_one_base(run, tmp_path, capsys):
    """The adapter names a path that is gone; by its weights the base is known."""
    shutil.copytree(run[0], tmp_path / "run")
    shutil.move(tmp_path / "run/sft", tmp_path / "run/moved")
    path, merged = tmp_path / "run/reward", tmp_path / "run/moved/merged"
    config = json.loads((path / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "run/sft/merged")
    (path / "adapter_config.json").write_text(json.dumps(config))
    setup = {"model": str(merged), "reward": str(path), "prompts": str(run[0] / "rows.jsonl")}
    ppo.cli(flags(setup, tmp_path / "ppo", sample_every=1, num_ppo_epochs=1))
    assert "loaded beside" not in capsys.readouterr().out
    lines = (tmp_path / "ppo/samples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    wanted = load_reward(str(path), base=str(merged)).score(
        [row["prompt"] for row in rows], [row["completion"] for row in rows]
    )
    assert [row["rewards/reward_model"] for row in rows] == pytest.approx(wanted, abs=1e-3)


def test_a_selection_that_replaces_the_rewards_base_says_so(run, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    sft_flags = [text.replace(str(run[0]), str(folder)) for text in run[1]]
    config = json.loads((folder / "reward/adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(folder / "sft/merged")
    (folder / "reward/adapter_config.json").write_text(json.dumps(config))
    select = [*sft_flags, "--select_by_reward", str(folder / "reward")]
    for best, said in (("checkpoint-2", False), ("checkpoint-1", True)):
        monkeypatch.setattr(sft, "mean_rewards", lambda *args, best=best: {best: 1.0})
        sft.cli(select)
        assert ("holds other weights" in capsys.readouterr().out) == said


def test_a_reward_model_reads_texts_with_its_own_template(tmp_path, capsys):
    setup = make_setup(tmp_path / "setup")
    own = make_tokenizer(OWN_TEMPLATE)
    other_words = make_tokenizer(OWN_TEMPLATE)
    other_words.add_tokens(["tea", "music"])
    small = make_tokenizer(OWN_TEMPLATE)
    base = save_model(tmp_path / "base", seed=3, initializer_range=0.15, vocab_size=520)
    rewards = {
        "the policy's": (setup["reward"], None),
        "own template": (
            make_reward(tmp_path / "a", setup["model"], tokenizer=own),
            "another chat template than the policy",
        ),
        "own tokenizer, beside": (
            make_reward(tmp_path / "b", base, tokenizer=other_words),
            "another chat template and tokenizer than the policy",
        ),
        "own end": (
            make_reward(tmp_path / "c", setup["model"], tokenizer=with_eos(small)),
            "end of an answer than the policy",
        ),
    }
    for name, (path, said) in rewards.items():
        out = tmp_path / name
        ppo.cli(flags(setup, out, reward_model_path=path, sample_every=1, num_ppo_epochs=1))
        printed = capsys.readouterr().out
        told = [line for line in printed.splitlines() if "scored with its own" in line]
        assert len(told) == (said is not None) and all(said in line for line in told), name
        rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        alone = load_reward(path).score(
            [row["prompt"] for row in rows], [row["completion"] for row in rows]
        )
        found = [row["rewards/reward_model"] for row in rows]
        assert rows and found == pytest.approx(alone, abs=1e-3), name


def with_eos(tokenizer):
    tokenizer.eos_token = "<|im_start|>"
    return tokenizer


@pytest.mark.stock
def test_stock_refuses_a_reward_model_it_would_read_otherwise(tmp_path, capsys):
    setup = make_setup(tmp_path / "setup")
    own = make_reward(tmp_path / "own", setup["model"], tokenizer=make_tokenizer(OWN_TEMPLATE))
    argv = flags(setup, tmp_path / "out", stock=True, reward_model_path=own)
    assert "another chat template" in stops(ppo.cli, argv, capsys)
