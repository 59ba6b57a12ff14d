"""Numbers that mean nothing are refused by name, before anything is read."""

import argparse

import pytest
from command_tools import stops

from data_prep import comparisons, demonstrations, label, sample
from instruct.checks.flag_ranges import RANGES, check_ranges, check_types
from instruct.errors import UserError
from recipes import chat, evaluate, ppo, reward, sft


@pytest.mark.parametrize("value", [float("nan"), -1.5, -(10**9)])
@pytest.mark.parametrize("flag", sorted(RANGES))
def test_no_flag_of_the_table_takes_nan_or_less_than_nothing(flag, value):
    with pytest.raises(UserError, match=f"--{flag} "):
        check_ranges({flag: value})


@pytest.mark.parametrize(
    ("flag", "value", "good"),
    [
        ("num_outputs", 0, False), ("num_outputs", 1, True),
        ("max_steps", -1, True), ("max_steps", 0, False), ("save_total_limit", 0, True),
        ("learning_rate", 0.0, True), ("learning_rate", float("inf"), False),
        ("max_kl", float("inf"), True), ("max_kl", float("nan"), False),
        ("temperature", [0.5, -0.1], False), ("temperature", [0.0, 1.0], True),
        ("ema_decay", 1.0, False), ("gamma", 1.0, True), ("gamma", 1.01, False),
        ("seed", 2**32, False), ("seed", 0, True),
        ("somebodys_number", float("nan"), False), ("somebodys_number", -3, True),
        ("watchdog", True, True), ("dtype", "nan", True), ("limit", None, True),
    ],
)  # fmt: skip
def test_ends_of_ranges(flag, value, good):
    if good:
        check_ranges({flag: value})
    else:
        with pytest.raises(UserError, match=f"--{flag} "):
            check_ranges({flag: value})


TRAINS = ["--dataset_name", "x.jsonl", "--output_dir", "out", "--model_name_or_path", "m"]


@pytest.mark.parametrize(
    ("main", "argv", "said"),
    [
        (sft.cli, [*TRAINS, "--learning_rate", "nan"], "--learning_rate nan: must be 0 or more"),
        (sft.cli, [*TRAINS, "--per_device_train_batch_size", "0"], "must be 1 or more"),
        (sft.cli, [*TRAINS, "--max_length", "-1"], "--max_length -1"),
        (sft.cli, [*TRAINS, "--num_train_epochs", "-1"], "--num_train_epochs -1"),
        (sft.cli, [*TRAINS, "--seed", "-1"], "--seed -1"),
        (sft.cli, [*TRAINS, "--dtype", "float99"], "float99"),
        (reward.cli, [*TRAINS, "--lora_r", "0"], "--lora_r 0: must be 1 or more"),
        (reward.cli, [*TRAINS, "--eval_fraction", "1"], "--eval_fraction 1"),
        (ppo.cli, [*TRAINS, "--temperature", "nan"], "--temperature nan"),
        (ppo.cli, [*TRAINS, "--num_ppo_epochs", "0"], "--num_ppo_epochs 0"),
        (chat.main, ["--temperature", "nan"], "--temperature nan"),
        (chat.main, ["--max_new_tokens", "0"], "--max_new_tokens 0"),
        (evaluate.main, ["--models", "a=b", "--input", "x", "--output_dir", "o", "--limit", "0"],
         "--limit 0"),
        (sample.main, ["--model_name_or_path", "m", "--input", "x", "--output", "o.jsonl",
                       "--num_outputs", "0"], "--num_outputs 0"),
        (label.main, ["--labeler", "scripted", "--input", "x", "--output", "o.jsonl",
                      "--tie", "nan"], "--tie nan"),
        (comparisons.main, ["--input", "x", "--output_dir", "o", "--validation", "1.5"],
         "--validation 1.5"),
        (demonstrations.main, ["--input", "x", "--output_dir", "o", "--max_words", "0"],
         "--max_words 0"),
        # required ones
        (sft.cli, TRAINS[2:], "--dataset_name is missing"),
        (reward.cli, TRAINS[:2] + TRAINS[4:], "--output_dir is missing"),
        (ppo.cli, TRAINS[:4], "--model_name_or_path is missing"),
        (ppo.cli, TRAINS, "--reward_model_path or --reward_funcs"),
        (sft.cli, [*TRAINS, "--nope", "1"], "no such flag: --nope"),
    ],
)  # fmt: skip
def test_every_command_asks_before_it_reads(main, argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = stops(main, argv, capsys)
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given",
    ["learning_rate: [1]", "lora_r: 1.5", "max_steps: true", "lora_r: null", "a: [",
     "lora_alpha: x", "save_steps: x"],
)  # fmt: skip
def test_a_yaml_file_is_asked_as_well(given, capsys, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(given + "\n")
    flag = given.partition(":")[0]
    error = stops(sft.cli, [*TRAINS, "--config", str(file)], capsys)
    assert error.count("\n") == 1 and (flag in error or "while parsing" in error)


def test_types_of_a_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int)
    parser.add_argument("--rates", type=float, nargs="+")
    check_types({"count": 1, "rates": [1, 0.5]}, parser._actions, {})
    for wrong in ({"count": "1"}, {"count": [1]}, {"rates": [None]}, {"rates": [True]}):
        with pytest.raises(UserError, match="must be a"):
            check_types(wrong, parser._actions, {})


def test_a_number_too_large_for_a_float_is_out_of_range():
    with pytest.raises(UserError, match="--seed 1000.*: must be 0 or more and at most"):
        check_ranges({"seed": 10**400})
