"""Conversations of every shape into prompts."""

import pytest
from prompt_tools import SPLITS, adds_up, rows_of, run, write_lines

CHAT = [
    {"role": "system", "content": "be nice"},
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A bot, mail a@b.org"},
    {"role": "user", "content": "And your name?"},
]


SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}.get(m["role"], m["role"]), "value": m["content"]}
    for m in CHAT
]


@pytest.mark.parametrize(
    ("column", "messages"),
    [("messages", CHAT), ("conversation", CHAT), ("conversations", SHAREGPT)],
)
def test_conversations(tmp_path, column, messages):
    log = [
        {"id": "c1", "user_id": "u", column: messages},
        {"id": "c2", "user_id": "v", column: messages[:2]},
    ]
    source = write_lines(
        tmp_path / "log.jsonl",
        [*log, {"id": "c3", column: messages[:1]}, {"id": "c4", column: [{"role": "user"}]}],
    )
    report = run(source, tmp_path / "first")
    rows = [r for n in SPLITS for r in rows_of(tmp_path / "first", n)]
    assert [(r["id"], r["prompt"], r["dup_count"]) for r in rows] == [("c1", "Who are you?", 2)]
    assert report["removed"] == {"malformed": 2, "duplicate_prefix": 1}
    run(source, tmp_path / "all", "--turns", "all", "--pii", "redact")
    adds_up(tmp_path / "all")
    rows = {r["id"]: r for n in SPLITS for r in rows_of(tmp_path / "all", n)}
    assert set(rows) == {
        "c1#0",
        "c1#1",
    }  # c2's turn has the same history (a system prompt) and the same words
    assert rows["c1#1"]["prompt"] == "And your name?"
    assert [m["content"] for m in rows["c1#1"]["history"]] == [
        "be nice",
        "Who are you?",
        "A bot, mail <EMAIL>",
    ]
    assert [m["role"] for m in rows["c1#1"]["history"]] == ["system", "user", "assistant"]
    run(source, tmp_path / "drop", "--turns", "all")
    assert "c1#1" not in {
        r["id"] for n in SPLITS for r in rows_of(tmp_path / "drop", n)
    }  # its history holds an address


@pytest.mark.parametrize(
    "text",
    [
        "\n\nHuman: What is snow?\n\nAssistant: Water.",
        "### Human: What is snow?### Assistant: Water.",
        "The conversation between human and AI assistant.\n[|Human|] What is snow?\n[|AI|] Water.",
    ],
)
def test_of_a_dialogue_as_text_the_answer_is_no_part_of_the_prompt(tmp_path, text):
    source = write_lines(tmp_path / "log.jsonl", [{"text": text}, {"text": "And rain?"}])
    run(source, tmp_path / "out")
    rows = [row for split in SPLITS for row in rows_of(tmp_path / "out", split)]
    assert {row["prompt"] for row in rows} == {"What is snow?", "And rain?"}
