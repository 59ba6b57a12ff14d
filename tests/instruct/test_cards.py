"""Model cards, pushes (to a fake Hub in a folder: no network) and trackers."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest
from conftest import write_jsonl
from huggingface_hub import DatasetCard, ModelCard

from data_prep import comparisons as comparisons_step
from instruct.cards import exact_command, write_model_card
from recipes import ppo, reward, sft

COMMON = [
    "--use_cpu", "--disable_tqdm", "True", "--max_steps", "1", "--per_device_train_batch_size", "4",
    "--lora_r", "2",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_the_three_steps_push_with_cards_that_say_how(
    tmp_path, hub, monkeypatch, tiny_model, demonstrations, comparisons
):
    data = write_jsonl(tmp_path / "demonstrations.jsonl", demonstrations)
    rankings = write_jsonl(tmp_path / "rankings.jsonl", comparisons)
    prompts = write_jsonl(
        tmp_path / "prompts.jsonl", [{"prompt": w} for w in ("tea", "rain", "snow", "bread")]
    )
    merged, none = str(tmp_path / "sft" / "merged"), ["--report_to", "none"]
    runs = {"sft": (sft, [
        "--model_name_or_path", tiny_model, "--dataset_name", data, "--eval_strategy", "steps",
        "--dataset_test_split", data,
    ]), "reward": (reward, [
        "--model_name_or_path", merged, "--dataset_name", rankings,
        "--dataset_test_split", rankings, "--demonstrations", data,
    ]), "ppo": (ppo, [
        "--model_name_or_path", merged, "--reward_model_path", str(tmp_path / "reward"),
        "--dataset_name", prompts, "--response_length", "4", "--rollout_batch_size", "4",
        "--num_ppo_epochs", "1", "--eval_strategy", "no",
    ])}  # fmt: skip
    for step, (recipe, flags) in runs.items():
        argv = [
            *flags, "--output_dir", str(tmp_path / step), "--push_to_hub",
            "--hub_model_id", f"me/tiny-{step}", *none, *COMMON,
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [f"recipes/{step}.py", *argv])
        recipe.cli()
        pushed = tmp_path / "hub" / "me" / f"tiny-{step}"
        card = ModelCard.load(pushed / "README.md")
        assert (
            f"accelerate launch recipes/{step}.py {flags[0]} {flags[1]}" in card.text
        )  # the exact command
        assert flags[1] in card.text and flags[3] in card.text and f"me/tiny-{step}" in card.text
        assert (
            card.data.base_model is None and card.data.datasets is None
        )  # local folders are no Hub ids
        assert step in card.data.tags and card.data.library_name == "peft"
        assert (pushed / "adapter_model.safetensors").is_file() and (
            pushed / "tokenizer.json"
        ).is_file()
        assert not list(pushed.glob("checkpoint-*"))
    texts = {
        step: (tmp_path / "hub" / "me" / f"tiny-{step}" / "README.md").read_text() for step in runs
    }
    assert "| eval_loss (first) |" in texts["sft"] and "| eval_loss (last) |" in texts["sft"]
    accuracy = json.loads((tmp_path / "reward" / "metrics.json").read_text())["accuracy"]
    assert f"| accuracy | {accuracy:.4g} |" in texts["reward"]
    assert "| objective/kl (last) |" in texts["ppo"] and str(tmp_path / "reward") in texts["ppo"]
    assert (tmp_path / "hub/me/tiny-sft/merged/model.safetensors").is_file()
    assert (tmp_path / "hub/me/tiny-reward/reward_head.json").is_file()
    assert (tmp_path / "hub/me/tiny-ppo/value/value_head.safetensors").is_file()


@pytest.mark.filterwarnings("ignore")
def test_no_upload_takes_private_files_along(
    tmp_path, hub, monkeypatch, tiny_model, demonstrations
):
    """At each save and at the end: rows with what people wrote, notes of the run, half a file."""
    data, out = write_jsonl(tmp_path / "d.jsonl", demonstrations), tmp_path / "out"
    out.mkdir()
    private = ("samples.jsonl", "scored.jsonl", "run.json", ".model.safetensors.7.part", "x.lock")
    for name in private:
        if name != "run.json":
            (out / name).write_text("private")
    seen, original = [], hub.upload_folder

    def upload_folder(**kwargs):
        done = original(**kwargs)
        seen.append({path.name for path in (hub.folder / kwargs["repo_id"]).rglob("*")})
        return done

    hub.upload_folder = upload_folder
    # notes of an earlier version's run: the folder is ours
    (out / "trainer_state.json").write_text("{}")
    sft.cli([
        "--model_name_or_path", tiny_model, "--dataset_name", data, "--output_dir", str(out),
        "--push_to_hub", "--hub_model_id", "me/tiny", "--save_strategy", "steps",
        "--save_steps", "1", "--report_to", "none", *COMMON,
    ])  # fmt: skip
    assert len(seen) == 2 and "adapter_model.safetensors" in seen[0] & seen[1]
    assert (out / "run.json").is_file() and not (seen[0] | seen[1]) & set(private)


def test_a_token_is_left_out_of_the_command(monkeypatch):
    for way in (["--hub_token", "hf_x"], ["--hub-token=hf_x"], ["--hub_tok", "hf_x"]):
        monkeypatch.setattr(sys, "argv", ["recipes/sft.py", "--a", "1", *way, "--b", "2"])
        assert exact_command() == "accelerate launch recipes/sft.py --a 1 --b 2"


@pytest.mark.parametrize("step", ["sft", "reward", "ppo"])
def test_a_card_loads_what_is_there(step, tmp_path):
    def card(**changes) -> str:
        write_model_card(tmp_path, "base", [], {}, "x", step, **changes)
        return (tmp_path / "README.md").read_text()

    for merged in (True, False):
        text = card(merged=merged)
        assert "dapter" not in text.partition("## Use")[2] and "Peft" not in text
        assert step == "reward" or "AutoModelForCausalLM.from_pretrained" in text
    (tmp_path / "adapter_config.json").write_text("{}")
    assert step == "reward" or "the LoRA adapter" in card() or "policy's LoRA adapter" in card()


def test_hub_ids_become_metadata(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setattr(sys, "argv", ["recipes/sft.py", "--output_dir", "a b"])
    write_model_card(
        tmp_path, "org/base", ["org/data", "x/y/z.jsonl"], {"eval_loss": 1.23456}, exact_command()
    )
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "org/base" and card.data.datasets == ["org/data"]
    assert (
        "| eval_loss | 1.235 |" in card.text
        and "--num_processes 8 recipes/sft.py --output_dir 'a b'" in card.text
    )


def test_comparisons_carry_a_card_that_load_dataset_follows(tmp_path, comparisons):
    from datasets import load_dataset

    rows = [{**r, "labeler": "scripted", "user_id": f"u{i}"} for i, r in enumerate(comparisons * 3)]
    out = tmp_path / "comparisons"
    comparisons_step.main([
        "--input", write_jsonl(tmp_path / "r.jsonl", rows), "--output_dir", str(out),
    ])  # fmt: skip
    card = DatasetCard.load(out / "README.md")
    assert "Ranked by: scripted" in card.text
    loaded = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    kept = json.loads((out / "report.json").read_text())["kept"]
    assert {split: len(rows) for split, rows in loaded.items()} == {
        s: n for s, n in kept.items() if n
    }


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_gets_the_losses(tmp_path, tiny_model, demonstrations):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data, out = write_jsonl(tmp_path / "d.jsonl", demonstrations), tmp_path / "sft"
    sft.cli([
        "--model_name_or_path", tiny_model, "--dataset_name", data, "--output_dir", str(out),
        "--report_to", "tensorboard", "--logging_steps", "1", *COMMON,
    ])  # fmt: skip
    files = list(tmp_path.rglob("events.out.tfevents*"))
    assert files
    seen = EventAccumulator(str(files[0].parent)).Reload()
    assert seen.Scalars("train/loss")[0].value > 0


@pytest.mark.filterwarnings("ignore")
def test_trackio_gets_the_losses(tmp_path, tiny_model, demonstrations):
    """In a process of its own: trackio keeps threads and its folder for the life of a process."""
    pytest.importorskip("trackio")
    data = write_jsonl(tmp_path / "d.jsonl", demonstrations)
    argv = [
        "--model_name_or_path", tiny_model, "--dataset_name", data,
        "--output_dir", str(tmp_path / "sft"), "--report_to", "trackio",
        "--project", "recipes-test", "--logging_steps", "1", *COMMON,
    ]  # fmt: skip
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "recipes.sft", *argv],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with sqlite3.connect(next((tmp_path / "trackio").rglob("*.db"))) as database:
        logged = [json.loads(row[0]) for row in database.execute("select metrics from metrics")]
    assert any(entry.get("train/loss", 0) > 0 for entry in logged)
