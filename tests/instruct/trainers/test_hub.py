"""The Hub away or refusing when training starts."""

from types import SimpleNamespace

import pytest
from command_tools import stops
from conftest import write_jsonl
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from instruct.hub import is_refusal
from recipes import sft

COMMON = [
    "--use_cpu", "--disable_tqdm", "True", "--max_steps", "1", "--per_device_train_batch_size", "4",
    "--lora_r", "2",
]  # fmt: skip


def refused(status: int) -> HfHubHTTPError:
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    Exception.__init__(error, f"{status} for the url")
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    ("error", "refuses"),
    [
        (refused(401), True),
        (refused(403), True),
        (refused(404), True),
        (refused(429), False),
        (refused(503), False),
        (ConnectionError("no route"), False),
        (OfflineModeIsEnabled("offline"), False),
        (TimeoutError("timed out"), False),
        (HFValidationError("Repo id must be in the form"), True),
        (ValueError("shapes"), False),
    ],
)
def test_what_the_hub_will_say_again_is_told_from_a_hub_that_is_away(error, refuses):
    assert is_refusal(error) is refuses


def test_a_hub_away_at_the_start_stops_no_training(
    tmp_path, hub, capsys, tiny_model, demonstrations
):
    """Trainer makes the repository before it trains, and pushes each checkpoint to it."""
    out, tries = tmp_path / "out", []
    argv = [
        "--model_name_or_path", tiny_model, "--output_dir", str(out), "--push_to_hub",
        "--dataset_name", write_jsonl(tmp_path / "d.jsonl", demonstrations), "--hub_model_id",
        "me/tiny", "--save_strategy", "steps", "--save_steps", "1", "--report_to", "none", *COMMON,
    ]  # fmt: skip
    there = hub.create_repo

    def away_once(repo_id, **kwargs):
        tries.append((out / "finished.json").is_file())
        if len(tries) == 1:
            raise ConnectionError("the Hub is away")
        return there(repo_id)

    hub.create_repo = away_once
    sft.cli(argv)
    assert "the Hub cannot be reached (the Hub is away)" in capsys.readouterr().out
    assert tries == [False, True]  # the second time by the push, of a finished run
    assert hub.pushes == ["me/tiny"] and (tmp_path / "hub/me/tiny/merged").is_dir()


def test_a_hub_that_refuses_is_one_sentence_before_training(
    tmp_path, hub, capsys, tiny_model, demonstrations
):
    def no(repo_id, **kwargs):
        raise refused(401)

    hub.create_repo = no
    argv = [
        "--model_name_or_path", tiny_model, "--output_dir", tmp_path / "out", "--push_to_hub",
        "--dataset_name", write_jsonl(tmp_path / "d.jsonl", demonstrations), *COMMON,
    ]  # fmt: skip
    error = stops(sft.cli, argv, capsys)
    assert "the Hub refuses (401 for the url); log in" in error and "HF_TOKEN" in error
    assert not list((tmp_path / "out").glob("checkpoint-*"))
