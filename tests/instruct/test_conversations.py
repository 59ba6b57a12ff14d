"""Chats as people's files hold them -> messages with role and content."""

import pytest

from instruct.conversations import marked_turns, messages_of, with_input
from instruct.errors import UserError

HI, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CALL = [{"id": "1", "type": "function", "function": {"name": "w", "arguments": "{}"}}]


@pytest.mark.parametrize(
    "chat",
    [
        [HI, HELLO],
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
        [{"role": "USER", "content": "Hi"}, {"role": "Assistant ", "content": "Hello"}],
        [{"role": "prompter", "text": "Hi"}, {"role": "bot", "text": "Hello"}],
        [{"from": "Human", "value": "Hi"}, {"from": "model", "value": "Hello"}],
        # Arrow gives a message the keys of all others
        [{"role": "user", "content": "Hi", "from": None, "value": None}, HELLO],
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, HELLO],
        [{"role": "user", "content": [{"type": "text", "value": "H"}, "i"]}, HELLO],
        [{"role": "user", "content": [{"type": "text", "text": {"value": "Hi"}}]}, HELLO],
        ["Hi", "Hello"],
        '[{"role": "user", "content": "Hi"}, {"from": "gpt", "value": "Hello"}]',
        '["Hi", "Hello"]',
        "\n\nHuman: Hi\n\nAssistant: Hello",
    ],
)
def test_every_shape_is_one(chat):
    found = [{key: m[key] for key in ("role", "content")} for m in messages_of(chat)]
    assert found == [HI, HELLO]


def test_one_message_and_text():
    assert messages_of({"from": "human", "value": "Hi"}) == [HI]
    assert messages_of("Hi") == [HI]
    # a text that only begins like a list
    assert messages_of("[draft] Hi")[0]["content"] == "[draft] Hi"


def test_roles_beside_the_two():
    names = {"developer": "system", "system": "system", "function": "tool", "tool": "tool"}
    chat = [{"role": name, "content": "x"} for name in names]
    assert [m["role"] for m in messages_of(chat)] == list(names.values())


def test_a_call_of_a_tool_may_have_no_content():
    call = {"role": "assistant", "content": None, "tool_calls": CALL}
    assert messages_of([HI, call])[1] == call
    without = {"role": "assistant", "tool_calls": CALL}
    assert messages_of([HI, without])[1] == without


@pytest.mark.parametrize(
    ("chat", "sentence"),
    [
        ([{"role": "critic", "content": "x"}], "unknown role 'critic'"),
        # who writes addresses in the place of roles has them told to nobody
        ([{"role": "ann@mail.org", "content": "x"}], "unknown role that is no word"),
        ([HI, {"role": "assistant", "content": None}], "null for content in message 2"),
        ([HI, {"role": "assistant", "content": 5}], "a number for content in message 2"),
        ([{"role": "user", "content": [{"type": "image", "url": "u"}]}], "part that is no text"),
        ([{"content": "x"}], "no role in message 1"),
        ([HI, "Hello"], "text for message 2"),
        ([], "is empty"),
        (5, "is a number"),
        (None, "is null"),
    ],
)
def test_what_is_no_conversation_is_told(chat, sentence):
    with pytest.raises(UserError, match=sentence):
        messages_of(chat)


def test_marked_turns():
    asked = [HI, HELLO, {"role": "user", "content": "And\n\nnow?"}]
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And\n\nnow?\n\nAssistant:"
    assert marked_turns(text) == asked
    assert marked_turns("Say: \n\nHuman: Hi") is None


def test_the_input_is_part_of_what_is_asked():
    assert with_input({"instruction": "Add", "input": "1 2"}, "instruction") == "Add\n\n1 2"
    assert with_input({"instruction": "Add", "input": " "}, "instruction") == "Add"
    assert with_input({"question": "Who?", "context": "Ann."}, "question") == "Who?\n\nAnn."
    assert with_input({"prompt": "Add", "input": "1 2"}, "prompt") == "Add"
