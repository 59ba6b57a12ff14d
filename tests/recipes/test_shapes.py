"""The recipes train on and ask what other people's files hold."""

import pytest
from command_tools import stops
from conftest import write_jsonl

from recipes import evaluate, ppo, sft

USER, ANSWER = {"role": "user", "content": "What of tea?"}, {"role": "assistant", "content": "Hot."}
SHAREGPT = [{"from": "human", "value": "What of tea?"}, {"from": "gpt", "value": "Hot."}]
PAIR = {"prompt": [USER], "completion": [ANSWER]}


@pytest.fixture()
def trained_on(monkeypatch, tmp_path, tiny_model):
    """Runs SFT up to its trainer; the token ids of its training rows."""

    def trained_on(*rows: dict, flags=()) -> list[list[int]]:
        seen = []

        class Stop(Exception):
            pass

        def trainer(**parts):
            seen.extend(parts["train_dataset"]["input_ids"])
            raise Stop

        monkeypatch.setattr(sft, "SFTTrainer", trainer)
        file = write_jsonl(tmp_path / "rows.jsonl", rows)
        argv = ["--model_name_or_path", tiny_model, "--dataset_name", file, "--report_to", "none"]
        with pytest.raises(SystemExit):
            sft.cli([*argv, "--output_dir", str(tmp_path / "sft"), "--use_cpu", *flags])
        return seen

    return trained_on


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER]},
        {"conversations": SHAREGPT},
        {"instruction": "What of tea?", "input": "", "output": "Hot."},
        {"question": "What of tea?", "answer": "Hot."},
        {"prompt": "What of tea?", "completion": ANSWER},
    ],
)
def test_sft_trains_on_the_same_tokens(trained_on, row):
    assert trained_on(row) == trained_on(PAIR)


def test_sft_takes_names_and_leaves_out_what_does_not_fit(trained_on, capsys):
    rows = {"chat": [USER, ANSWER], "messages": "x"}, {"chat": [USER]}
    flags = ["--columns", "messages=chat", "--format", "conversations"]
    assert trained_on(*rows, flags=flags) == trained_on(PAIR)
    said = capsys.readouterr().out
    assert "rows.jsonl, line 2: ends in a turn of role 'user'" in said
    assert "rows.jsonl: read as: conversations, 1 of 2 rows" in said


def test_ppo_and_evaluate_ask_the_users_last_turn(tmp_path, capsys):
    rows = [{"messages": [USER, ANSWER]}, {"messages": [ANSWER]}]
    file = write_jsonl(tmp_path / "chats.jsonl", rows)
    (asked,), _ = evaluate.held_out_prompts(file, 5, 0)
    assert asked["prompt"] == [USER]
    args = ppo.ScriptArguments(dataset_name=str(tmp_path / "none"), eval_dataset=file)
    assert ppo.held_out_prompts(args)["prompt"][:] == [[USER]]
    assert capsys.readouterr().out.count("read as: conversations, 1 of 2 rows") == 2


def test_a_wrong_format_is_a_sentence(tmp_path, tiny_model, capsys):
    file = write_jsonl(tmp_path / "rows.jsonl", [PAIR])
    argv = ["--models", f"a={tiny_model}", "--input", file, "--output_dir", str(tmp_path / "o")]
    said = stops(evaluate.main, [*argv, "--format", "nothing"], capsys)
    assert "--format nothing: no such format of prompts; known are" in said
