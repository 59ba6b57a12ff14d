"""SFT and reward, cut off after any checkpoint and run again, end in the same bits."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPO, SCRIPT_ENV, save_model, write_jsonl
from safetensors.torch import load_file
from transformers.trainer_pt_utils import LengthGroupedSampler

from instruct.trainers.resumable import RepeatableOrder
from recipes import reward, sft

# Trainer times the process that speaks, not the run.
TIMES = ("runtime", "per_second", "total_flos")
COMMON = [
    "--per_device_train_batch_size", "2", "--num_train_epochs", "2", "--learning_rate", "1e-3",
    "--lora_r", "4", "--lora_dropout", "0.1", "--dtype", "float32", "--save_strategy", "steps",
    "--save_steps", "1", "--logging_steps", "2", "--seed", "3", "--disable_tqdm", "True",
    "--report_to", "none", "--use_cpu",
]  # fmt: skip
GROUPED = ["--train_sampling_strategy", "group_by_length"]
RUNS = {
    "grouped": [*GROUPED, "--eval_strategy", "epoch"],
    "random": ["--train_sampling_strategy", "random", "--eval_strategy", "steps"],
    "half an epoch": [*GROUPED, "--eval_strategy", "epoch", "--num_train_epochs", "1.5"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """A tiny model, and demonstrations and rankings of many lengths."""
    home = tmp_path_factory.mktemp("resumable")
    draw = random.Random(0)
    words = "tea rain music chess bread snow cats sea trains apples books stars".split()

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 12)))

    for name in ("demonstrations", "rankings"):
        (home / name).mkdir()
    for split, count in (("train", 8), ("validation", 3)):
        rows = [{"prompt": text(), "completion": text()} for _ in range(count)]
        write_jsonl(home / "demonstrations" / f"{split}.jsonl", rows)
        rows = [
            {"prompt": text(), "completions": [text(), text()], "ranks": [1, 2]}
            for _ in range(count)
        ]
        write_jsonl(home / "rankings" / f"{split}.jsonl", rows)
    names = {name: str(home / name) for name in ("demonstrations", "rankings")}
    return {"model": save_model(home / "model", initializer_range=0.15), **names}


def result(output_dir: Path) -> tuple[dict, list[dict]]:
    """Weights and log, less the times."""
    state = json.loads((output_dir / "trainer_state.json").read_text())
    log = [
        {name: value for name, value in entry.items() if not name.endswith(TIMES)}
        for entry in state["log_history"]
    ]
    return load_file(output_dir / "adapter_model.safetensors"), log


def assert_same(output_dir: Path, unbroken: Path) -> None:
    weights, log = result(output_dir)
    expected, expected_log = result(unbroken)
    assert log == expected_log
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def cut_off_after(step: int, unbroken: Path, folder: Path) -> Path:
    """What a run that was killed after `checkpoint-{step}` has left."""
    shutil.copytree(unbroken, folder)
    for path in folder.iterdir():
        if path.name.startswith("checkpoint-"):
            if int(path.name.removeprefix("checkpoint-")) > step:
                shutil.rmtree(path)
        elif path.name != "run.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def command_of(recipe, folders: dict[str, str]) -> list[str]:
    data = "demonstrations" if recipe is sft else "rankings"
    # dropout draws: its random numbers have to come back, too
    dropout = [] if recipe is sft else ["--disable_dropout", "False"]
    names = ["--model_name_or_path", folders["model"], "--dataset_name", folders[data]]
    return [*names, *COMMON, *dropout]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("recipe", [sft, reward], ids=["sft", "reward"])
def test_cut_off_after_any_checkpoint_a_run_ends_in_the_same_bits(
    recipe, run, folders, tmp_path, capsys
):
    command, unbroken = [*command_of(recipe, folders), *RUNS[run]], tmp_path / "unbroken"
    recipe.cli([*command, "--output_dir", str(unbroken)])
    steps = 6 if run == "half an epoch" else 8
    for step in range(1, steps + 1):
        out = cut_off_after(step, unbroken, tmp_path / f"cut{step}")
        capsys.readouterr()
        recipe.cli([*command, "--output_dir", str(out)])
        assert f"continuing from checkpoint-{step} of {steps}\n" in capsys.readouterr().out
        assert_same(out, unbroken)


def test_early_stopping_counts_on_and_a_stopped_run_stays_stopped(folders, tmp_path):
    command = command_of(reward, folders)
    command += ["--learning_rate", "0", "--early_stopping_patience", "2", "--num_train_epochs", "6"]
    unbroken = tmp_path / "unbroken"
    reward.cli([*command, "--output_dir", str(unbroken)])
    saved = sorted(int(p.name.split("-")[1]) for p in unbroken.glob("checkpoint-*"))
    assert saved == [4, 8, 12]  # accuracy never rises after the first epoch
    for step in saved:
        out = cut_off_after(step, unbroken, tmp_path / f"cut{step}")
        reward.cli([*command, "--output_dir", str(out)])
        assert_same(out, unbroken)


def test_a_deletion_that_was_due_is_made_up_for(folders, tmp_path):
    command = [*command_of(sft, folders), "--eval_strategy", "no", "--save_steps", "2"]
    out = tmp_path / "out"
    sft.cli([*command, "--output_dir", str(out)])
    cut_off_after(8, out, tmp_path / "cut")  # killed after the last checkpoint, before rotation
    (tmp_path / "cut" / "checkpoint-2").rename(tmp_path / "cut" / ".checkpoint-2.delete")
    sft.cli([*command, "--output_dir", str(tmp_path / "cut"), "--save_total_limit", "2"])
    left = sorted(p.name for p in (tmp_path / "cut").glob("*checkpoint*"))
    assert left == ["checkpoint-6", "checkpoint-8"]
    assert_same(tmp_path / "cut", out)


@pytest.mark.parametrize("name", ["optimizer.pt", "carried.json", "files.json"])
def test_damage_is_skipped_and_the_result_stays_the_same(name, folders, tmp_path, capsys):
    command, unbroken = [*command_of(sft, folders), *RUNS["grouped"]], tmp_path / "unbroken"
    sft.cli([*command, "--output_dir", str(unbroken), "--save_steps", "2"])
    out = cut_off_after(6, unbroken, tmp_path / "damaged")
    (out / "checkpoint-6" / name).write_bytes(b"0123456789")
    capsys.readouterr()
    sft.cli([*command, "--output_dir", str(out), "--save_steps", "2"])
    said = capsys.readouterr().out
    assert f"skipping checkpoint-6: {name} " in said and "continuing from checkpoint-4 of 8" in said
    assert_same(out, unbroken)
    assert sorted(p.name for p in out.glob("*checkpoint*")) == [
        f"checkpoint-{step}" for step in (2, 4, 6, 8)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "run"), [(reward, "grouped"), (sft, "random")])
def test_two_processes_resume_in_the_second_epoch_as_well(recipe, run, folders, tmp_path):
    """Both draw one order, each has dropout of its own; skipping reaches either's sampler."""
    command = [*command_of(recipe, folders), *RUNS[run], "--per_device_train_batch_size", "1"]

    def launch(output_dir: Path) -> str:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        done = subprocess.run(
            [*launcher, "--nproc_per_node", "2", "-m", recipe.__name__]
            + [*command, "--output_dir", str(output_dir)],
            cwd=REPO, env=SCRIPT_ENV, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    unbroken = tmp_path / "unbroken"
    launch(unbroken)
    for step in (2, 4, 6):
        out = cut_off_after(step, unbroken, tmp_path / f"cut{step}")
        assert f"continuing from checkpoint-{step} of 8" in launch(out)
        assert_same(out, unbroken)


def test_an_order_is_drawn_as_before_and_can_be_drawn_again():
    lengths = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
    torch.manual_seed(0)
    expected, after = list(LengthGroupedSampler(2, lengths=lengths)), torch.rand(1)
    order = RepeatableOrder(LengthGroupedSampler(2, lengths=lengths), processes=1)
    torch.manual_seed(0)
    # the run that is not cut off is what it was without the wrapper
    assert list(order) == expected and torch.equal(torch.rand(1), after)
    assert list(order) != expected and len(order) == 12
    began = order.began
    again = RepeatableOrder(LengthGroupedSampler(2, lengths=lengths), processes=1)
    again.again = began
    torch.manual_seed(7)
    assert list(again) != list(again)  # the first by the state given, the second onwards
