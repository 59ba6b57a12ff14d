"""recipes/ppo.py from flags to files."""

import json
from pathlib import Path

import pytest
import torch
from conftest import REPO, make_model, save_model, write_jsonl
from peft import PeftModel
from ppo_tools import PROMPTS, flags, make_setup
from transformers import AutoModelForCausalLM

from data_prep.formats.held_out_prompts import held_out_in
from instruct.arguments import ModelConfig, parse
from instruct.errors import UserError
from instruct.trainers.ppo.config import SharedBasePPOConfig
from recipes.ppo import ScriptArguments, cli


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


METRICS = [
    "objective/kl",
    "objective/entropy",
    "objective/scores",
    "objective/rlhf_reward",
    "objective/length",
    "objective/eos_rate",
    "policy/clipfrac_avg",
    "policy/approxkl_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/explained_variance",
    "val/clipfrac_avg",
    "episode",
    "grad_norm",
    "rewards/reward_model",
    "time/rollout",
    "time/score",
    "time/update",
]


@pytest.mark.parametrize("value_model", ["adapter", "head"])
def test_recipe_writes_what_it_promises(setup, tmp_path, capsys, value_model):
    out = tmp_path / "out"
    run = flags(
        setup,
        out,
        value_model=value_model,
        save_merged=True,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
        sample_every=1,
        num_mini_batches=1,
    )
    cli(run)
    assert {p.name for p in out.iterdir() if not p.name.startswith("checkpoint-")} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "finished.json",
        "merged",
        "generation_config.json",
        "run.json",
        "samples.jsonl",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer_state.json",
        "value",
    }
    value = {"adapter_config.json", "adapter_model.safetensors", "value_head.safetensors"}
    assert {p.name for p in (out / "value").iterdir()} == (
        value if value_model == "adapter" else {"value_head.safetensors"}
    )
    assert not [
        p
        for p in out.rglob("*")
        if p.suffix in (".bin", ".pt", ".pth")
        and p.name not in ("optimizer.pt", "scheduler.pt", "rng_state.pth")
    ]

    state = json.loads((out / "trainer_state.json").read_text())
    rollouts = [line for line in state["log_history"] if "objective/kl" in line]
    assert len(rollouts) == 2 and all(name in line for line in rollouts for name in METRICS)
    assert [line["episode"] for line in rollouts] == [8, 16] and [
        line["step"] for line in rollouts
    ] == [2, 4]
    assert abs(rollouts[0]["objective/kl"]) < 1e-5 and abs(rollouts[1]["objective/kl"]) > 1e-5
    held_out = [line for line in state["log_history"] if "eval_reward" in line]
    assert [line["step"] for line in held_out] == [2, 4] and state[
        "best_model_checkpoint"
    ] is not None
    assert Path(state["best_model_checkpoint"]).is_dir()

    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {s["step"] for s in samples} == {0, 2} and set(samples[0]) >= {
        "prompt",
        "completion",
        "score",
        "kl",
        "ended",
    }

    merged = AutoModelForCausalLM.from_pretrained(out / "merged").eval()
    policy = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(setup["model"]), out
    ).eval()
    ids = torch.tensor([[5, 6, 7, 2]])
    with torch.no_grad():
        assert torch.allclose(policy(ids).logits, merged(ids).logits, atol=1e-5)

    before = (out / "adapter_model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    cli(run)
    assert (
        "finished run" in capsys.readouterr().out
        and (out / "adapter_model.safetensors").stat().st_mtime_ns == before
    )


def test_mistakes_are_one_sentence(setup, tmp_path, capsys):
    write_jsonl(tmp_path / "long.jsonl", [{"prompt": "word " * 600}])
    for change, sentence in [
        ({"reward_model_path": None}, "nothing to learn from"),
        ({"dataset_name": tmp_path / "gone.jsonl"}, "no such file or folder"),
        (
            {"dataset_name": tmp_path / "long.jsonl"},
            "every prompt is longer than --max_prompt_length",
        ),
        ({"temperature": 0}, "--temperature must be above 0"),
        ({"reward_funcs": "json"}, "write it as module:function"),
        ({"ptx_coef": 1.0}, "needs both --ptx_dataset and a --ptx_coef"),
        ({"value_model": "tree"}, "tree"),
        ({"model_name_or_path": tmp_path / "gone"}, "gone"),
    ]:
        with pytest.raises(SystemExit) as stop:
            cli(flags(setup, tmp_path / "out", **change))
        assert stop.value.code == 2 and sentence in capsys.readouterr().err, change


def test_demo_yaml_parses():
    _, args, model = parse(
        (ScriptArguments, SharedBasePPOConfig, ModelConfig),
        ["--config", str(REPO / "recipes/configs/demo/ppo.yaml")],
    )
    assert (
        args.value_model in ("adapter", "head")
        and args.output_dir == "outputs/demo/ppo"
        and model.use_peft
    )
    assert not args.bf16 or torch.cuda.is_available()


def test_conversational_prompts(setup, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": p}]} for p in PROMPTS]
    write_jsonl(tmp_path / "chat.jsonl", rows)
    cli(flags(setup, tmp_path / "a", dataset_name=tmp_path / "chat.jsonl"))
    cli(flags(setup, tmp_path / "b"))
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "b" / "adapter_model.safetensors"
    ).read_bytes()


def test_held_out_prompts_lie_where_the_flags_say(tmp_path):
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", [{"prompt": split}])
    (tmp_path / "alone").mkdir()
    other = write_jsonl(tmp_path / "alone" / "other.jsonl", [{"prompt": "other"}])
    beside = str(tmp_path / "train.jsonl")

    def place(source, **flags):
        return held_out_in(ScriptArguments(dataset_name=str(source), **flags))

    assert place(tmp_path) == place(beside) == (str(tmp_path), "validation")
    assert place(tmp_path, dataset_test_split=other) == (other, "train")
    assert place(tmp_path, eval_dataset=other)[0] == other
    # a file's folder without that split gives none of its own rows
    with pytest.raises(UserError, match="no split 'validation' to evaluate on"):
        place(other)


def test_judges_are_rewards_by_their_specs_and_another_model_is_another_run(setup, tmp_path):
    asked, out = save_model(tmp_path / "asked"), tmp_path / "out"
    specs = ["scripted", f"scripted:{asked}", f"logprob:{asked}"]
    run = flags(setup, out, reward_funcs=specs, reward_weights=[1, 0, 1, 0])
    cli(run)
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    names = {f"rewards/{name}" for name in ("scripted_reward", "scripted_reader", "logprob")}
    assert names <= log[0].keys()
    record = json.loads((out / "run.json").read_text())
    assert record["adapters"]["reward_funcs scripted"]["sha256"]
    cli(run)  # finished
    make_model(seed=1).save_pretrained(asked)
    with pytest.raises(SystemExit) as stop:
        cli(run)
    assert stop.value.code == 2
    assert f"--reward_funcs scripted {asked} holds other files" in str(stop.value.__cause__)
