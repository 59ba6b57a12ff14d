"""The one reader: a file in any shape -> our rows, what it was read as, and what did not fit."""

import json

import pytest

from data_prep.formats.reader import read, read_rows
from data_prep.formats.registry import FORMATS
from instruct.errors import UserError

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}
PAIR = {"prompt": [USER], "completion": [ANSWER]}
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
TURNS = [*(PAIR["prompt"] + PAIR["completion"]), {"role": "user", "content": "And?"}]
MORE = {"prompt": TURNS, "completion": [{"role": "assistant", "content": "No."}]}


@pytest.fixture
def write(tmp_path):
    def write(*rows: dict) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


DEMONSTRATIONS = [
    ("prompt and completion", {"prompt": "Hi", "completion": "Hello"}, PAIR),
    ("prompt and completion", {"prompt": [USER], "completion": [ANSWER]}, PAIR),
    ("prompt and completion", {"prompt": USER, "completion": ANSWER}, PAIR),
    ("prompt and completion", {"prompt": SHAREGPT[:1], "completion": SHAREGPT[1:]}, PAIR),
    ("question and answer", {"prompt": "Hi", "response": "Hello"}, PAIR),
    ("question and answer", {"question": "Hi", "answer": "Hello"}, PAIR),
    ("question and answer", {"prompt": "Hi", "output": "Hello"}, PAIR),
    ("question and answer", {"query": "Hi", "response": "Hello"}, PAIR),
    ("Alpaca", {"instruction": "Hi", "input": "", "output": "Hello"}, PAIR),
    (
        "Alpaca",
        {"instruction": "Hi", "input": "you", "output": "Hello", "system": "Be kind."},
        {
            "prompt": [SYSTEM, {"role": "user", "content": "Hi\n\nyou"}],
            "completion": [ANSWER],
        },
    ),
    (
        "Alpaca",
        {"instruction": "And?", "output": "No.", "history": [["Hi", "Hello"]]},
        MORE,
    ),
    ("conversations", {"messages": [USER, ANSWER]}, PAIR),
    ("conversations", {"messages": [*TURNS, *MORE["completion"]]}, MORE),
    ("conversations", {"conversations": SHAREGPT}, PAIR),
    (
        "conversations",
        {"conversations": SHAREGPT, "system": "Be kind."},
        {"prompt": [SYSTEM, USER], "completion": [ANSWER]},
    ),
    ("conversations", {"turns": ["Hi", "Hello", "And?", "No."]}, MORE),
    ("conversations", {"messages": json.dumps([USER, ANSWER])}, PAIR),
    ("HH dialogues", {"text": "\n\nHuman: Hi\n\nAssistant: Hello"}, PAIR),
    ("HH dialogues", {"text": "### Human: Hi### Assistant: Hello"}, PAIR),
    ("HH dialogues", {"input": "[|Human|] Hi\n[|AI|] Hello\n[|Human|]", "topic": "x"}, PAIR),
    # Aya and FLAN, distilabel, Capybara, KTO
    ("question and answer", {"inputs": "Hi", "targets": "Hello"}, PAIR),
    ("Alpaca", {"instruction": "Hi", "generation": "Hello"}, PAIR),
    (
        "conversations",
        {"conversation": [{"input": "Hi", "output": "Hello"}, {"input": "And?", "output": "No."}]},
        MORE,
    ),
    ("conversations", {"conversation": [{"human": "Hi", "assistant": "Hello"}]}, PAIR),
    ("KTO", {"prompt": [USER], "completion": [ANSWER], "label": True}, PAIR),
    ("KTO", {"messages": [USER, ANSWER], "kto_tag": True}, PAIR),
    ("KTO", {"prompt": "Hi", "completion": "Hello", "label": "true"}, PAIR),
    (
        "HH prompts and answers",
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "completion": " Hello"},
        PAIR,
    ),
]


@pytest.mark.parametrize(("name", "row", "wanted"), DEMONSTRATIONS)
def test_demonstrations(write, capsys, name, row, wanted):
    rows = read(write({**row, "user_id": 0}, {**row, "source": "us"}), "demonstrations").to_list()
    ours = [{key: row[key] for key in ("prompt", "completion")} for row in rows]
    assert ours == [wanted, wanted]
    assert [(row["user_id"], row["source"]) for row in rows] == [(0, None), (None, "us")]
    assert f"rows.jsonl: read as: {name}, 2 of 2 rows" in capsys.readouterr().out


PROMPTS = [
    ("prompts", {"prompt": "Hi"}, [USER]),
    ("prompts", {"prompt": [SYSTEM, USER]}, [SYSTEM, USER]),
    # a prompt of ours may end in the beginning of its answer
    ("prompts", {"prompt": [USER, ANSWER]}, [USER, ANSWER]),
    ("questions", {"question": "Hi"}, [USER]),
    ("questions", {"text": "Hi"}, [USER]),
    ("questions", {"inputs": "Hi", "targets": "Hello"}, [USER]),
    ("questions", {"text": "### Human: Hi### Assistant: Hello"}, [USER]),
    ("questions", {"instruction": "Hi", "input": "you"}, [{**USER, "content": "Hi\n\nyou"}]),
    ("conversations", {"messages": [SYSTEM, USER, ANSWER]}, [SYSTEM, USER]),
    ("conversations", {"conversation": SHAREGPT}, [USER]),
    # MT-bench: the user's turns alone
    ("conversations", {"turns": ["Hi", "And?"]}, [USER]),
    ("prompts in JSON lists", {"prompt": '["Hi", "And?"]'}, [USER]),
    ("prompts in JSON lists", {"prompt": json.dumps([SYSTEM, USER])}, [SYSTEM, USER]),
    ("HH prompts", {"prompt": "\n\nHuman: Hi\n\nAssistant:"}, [USER]),
    ("OpenAssistant trees", {"prompt": {"text": "Hi", "role": "prompter", "replies": []}}, [USER]),
    (
        "OpenAssistant messages",
        {"message_id": "a", "parent_id": None, "text": "Hi", "role": "prompter"},
        [USER],
    ),
]


@pytest.mark.parametrize(("name", "row", "wanted"), PROMPTS)
def test_prompts(write, capsys, name, row, wanted):
    assert read(write(row), "prompts")["prompt"][:] == [wanted]
    assert f"read as: {name}, 1 of 1 rows" in capsys.readouterr().out


def test_one_prompt_that_is_a_list_is_what_somebody_asked(write):
    rows = read(write({"prompt": '["a", "b"]'}, {"prompt": "Hi"}), "prompts")
    assert [row["prompt"][0]["content"] for row in rows] == ['["a", "b"]', "Hi"]


def test_text_and_messages_in_one_file(write):
    rows = write({"prompt": "Hi", "completion": "Hello"}, {"prompt": [USER], "completion": ANSWER})
    assert read(rows, "demonstrations").to_list() == [PAIR, PAIR]


MISFITS = [
    ({"messages": [USER]}, "ends in a turn of role 'user'"),
    ({"messages": [ANSWER]}, "no turn of the user's before"),
    ({"messages": [USER, ANSWER, ANSWER]}, "ends in two turns of the assistant's"),
    ({"messages": [USER, {"role": "critic", "content": "x"}]}, "unknown role 'critic'"),
    ({"messages": None}, "no 'messages'"),
    ({"messages": "USER: Hi\n\nASSISTANT: Hello"}, "'messages' is text, expected a list"),
    (
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        "tool_calls; only its text",
    ),
]


@pytest.mark.parametrize(("row", "why"), MISFITS)
def test_a_row_that_does_not_fit_is_told_and_counted(write, capsys, row, why):
    reading = read_rows(write({"messages": [USER, ANSWER]}, row), "demonstrations")
    assert (reading.total, reading.used, sum(reading.misfits.values())) == (2, 1, 1)
    said = capsys.readouterr().out.splitlines()
    assert "rows.jsonl, line 2: " in said[0] and why in said[0]
    assert said[1].endswith("read as: conversations, 1 of 2 rows")


def test_an_answer_that_people_did_not_like_is_not_learned(write, capsys):
    rows = [{"prompt": "Hi", "completion": text, "label": text == "Good"} for text in ("Good", "")]
    rows += [{"prompt": "Hi", "completion": "Who knows", "label": None}]
    reading = read_rows(write(*rows), "demonstrations")
    assert [row["completion"][0]["content"] for _, row in reading.rows] == ["Good"]
    said = capsys.readouterr().out
    assert "line 2: 'label' is false" in said and "line 3: 'label' does not say" in said
    assert "read as: KTO, 1 of 3 rows" in said
    # a label that is no thumb says nothing of the kind
    named = [{**row, "label": "billing"} for row in rows]
    assert read_rows(write(*named), "demonstrations").format.name == "prompt and completion"


def test_steps_of_one_answer_are_no_outputs_to_rank(write):
    row = {"prompt": "Hi", "completions": ["First,", "then"], "labels": [True, False]}
    with pytest.raises(UserError, match="line 1: its `completions` are the steps of one answer"):
        read(write(row), "samples")


@pytest.mark.parametrize(
    ("row", "kind", "looks"),
    [
        ({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"}, "prompts", "HH pairs"),
        ({"chosen": "a", "rejected": "b"}, "demonstrations", "pairs"),
        ({"instruction": "Hi", "output": "Hello"}, "rankings", "Alpaca"),
        ({"prompt": "Hi", "completions": ["a", "b"]}, "demonstrations", "samples"),
    ],
)
def test_rows_of_another_kind_are_told_as_what_they_are(write, row, kind, looks):
    with pytest.raises(UserError, match=f"no known shape of {kind}; it looks like {looks}, which"):
        read_rows(write(row), kind)


def test_five_misfits_are_told_the_others_counted(write, capsys):
    reading = read_rows(
        write({"messages": [USER, ANSWER]}, *[{"messages": []}] * 9), "demonstrations"
    )
    said = capsys.readouterr().out.splitlines()
    assert reading.used + sum(reading.misfits.values()) == 10
    assert len(said) == 7 and said[5].endswith("4 more do not fit")


def test_our_own_columns_are_held_to_their_word(write):
    path = write({"prompt": "Hi", "completion": "Hello"}, {"prompt": "Hi", "completion": None})
    with pytest.raises(UserError, match="line 2: 'completion' is null"):
        read(path, "demonstrations")
    assert read_rows(path, "demonstrations").used == 1


def test_columns_by_name(write):
    path = write({"ask": "Hi", "good": "Hello", "prompt": "another's"})
    assert read(path, "demonstrations", columns=["prompt=ask", "completion=good"]).to_list() == [
        PAIR
    ]
    swapped = write({"prompt": "Hello", "completion": "Hi"})
    names = {"prompt": "completion", "completion": "prompt"}
    assert read(swapped, "demonstrations", columns=names).to_list() == [PAIR]
    with pytest.raises(UserError, match="no column 'none'; it has 'prompt', 'completion'"):
        read(swapped, "demonstrations", columns=["prompt=none"])
    for wrong in (["prompt"], ["=x"], ["prompt=a", "prompt=b"], ["a=x", "b=x"]):
        with pytest.raises(UserError, match="--columns"):
            read(swapped, "demonstrations", columns=wrong)


def test_formats_by_name(write):
    path = write({"prompt": "Hi", "messages": [USER, ANSWER]})
    assert read(path, "demonstrations").to_list() == [PAIR]
    assert read(path, "prompts", format="Conversations")["prompt"][:] == [[USER]]
    with pytest.raises(UserError, match="--format pairs: no such format of prompts; known are"):
        read(path, "prompts", format="pairs")
    with pytest.raises(UserError, match="no column 'prompt', 'completion'; it has 'foo'"):
        read(write({"foo": "bar"}), "demonstrations")


def test_other_columns_of_several_types_are_text(write, capsys):
    rows = read(
        write({"prompt": "a", "id": 0}, {"prompt": "b", "id": "x"}, {"prompt": "c"}), "prompts"
    )
    assert rows["id"][:] == ["0", "x", None]
    assert "'id': values of several types, kept as text" in capsys.readouterr().out


def test_names_are_one_of_a_kind():
    names = [(form.kind, form.name.lower()) for form in FORMATS]
    assert len(names) == len(set(names))
