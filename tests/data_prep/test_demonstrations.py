"""Demonstrations: their contract, their splits, and a user's mistakes."""

import json

from command_tools import stops
from conftest import write_jsonl

from data_prep import demonstrations
from instruct.files import load_rows, write_rows


def test_demonstrations_follow_their_prompts_split_and_leave_test_users_out(tmp_path):
    for split in ("train", "validation", "test"):
        write_rows(
            tmp_path / "prompts" / f"{split}.parquet",
            [{"id": f"{split}-1", "prompt": "How are you?"}],
        )
    rows = [
        {
            "prompt": "How are you?",
            "completion": "Fine, thank you.",
            "prompt_id": f"{split}-1",
            "source": "people",
        }
        for split in ("train", "validation", "test")
    ]
    rows.append(
        {
            "prompt": "Name a fruit.",
            "completion": "Write to me@example.com please",
            "source": "people",
        }
    )
    rows.append(
        {"prompt": "Write a poem about tea.", "completion": "Tea, oh tea.", "source": "labelers"}
    )
    argv = [
        "--input",
        write_jsonl(tmp_path / "answers.jsonl", rows),
        "--prompts",
        str(tmp_path / "prompts"),
    ]
    demonstrations.main([*argv, "--output_dir", str(tmp_path / "out"), "--validation", "0"])
    train = load_rows(tmp_path / "out" / "train.jsonl").to_list()
    assert [set(row) for row in train] == [{"prompt", "completion", "source", "category"}] * 2
    assert train[0]["prompt"] == [{"role": "user", "content": "How are you?"}]
    assert train[0]["completion"] == [{"role": "assistant", "content": "Fine, thank you."}]
    assert train[1]["category"] == "generation"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["removed"] == {"prompt_not_in_train_or_validation": 1, "pii": 1}
    assert report["in"] == sum(report["kept"].values()) + sum(report["removed"].values()) == 5
    assert {entry["category"] for entry in report["coverage"]} >= {"generation", "chat", "open_qa"}


def test_demonstrations_need_the_prompts_that_rows_name(tmp_path, capsys):
    file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c", "prompt_id": "1"}])
    assert "--prompts DIR" in stops(
        demonstrations.main, ["--input", file, "--output_dir", tmp_path / "o"], capsys
    )
    assert not (tmp_path / "o").exists()
