"""The token contract: prompt ids + completion ids + eos; pad, eos and template."""

import json

import pytest
from conftest import CHATML, make_tokenizer
from datasets import Dataset
from trl import maybe_apply_chat_template

from instruct.errors import UserError
from instruct.tokens import (
    DEFAULT_CHAT_TEMPLATE,
    decode_completion,
    encode_completion,
    encode_prompt,
    encode_prompt_of,
    load_tokenizer,
)


def test_completion_ends_in_eos_although_template_adds_newline(tokenizer):
    prompt, completion = (
        [{"role": "user", "content": "Hi"}],
        [{"role": "assistant", "content": "Hello you"}],
    )
    ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, completion)
    rendered = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
    assert rendered.endswith("<|im_end|>\n")  # the trap
    assert tokenizer.decode(ids) == rendered.removesuffix("\n")
    assert ids[-1] == tokenizer.eos_token_id
    assert encode_prompt(tokenizer, "Hi") == encode_prompt(tokenizer, prompt)


def test_decode_is_the_inverse_and_stops_at_eos(tokenizer):
    ids = encode_completion(tokenizer, "Some words, 42!")
    assert decode_completion(tokenizer, ids + ids) == "Some words, 42!"


def test_pad_is_not_eos_where_the_vocabulary_allows(tmp_path):
    make_tokenizer(pad_token="<|im_end|>").save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token == "<|endoftext|>" and loaded.pad_token_id != loaded.eos_token_id
    assert loaded.chat_template == CHATML


def test_default_template_is_announced_and_stored_with_the_model(tmp_path, capsys):
    make_tokenizer(chat_template=None).save_pretrained(tmp_path / "a")
    load_tokenizer(str(tmp_path / "a"))  # of a judge, or of a model that is asked bare
    assert "no chat template" not in capsys.readouterr().out
    first = load_tokenizer(str(tmp_path / "a"), announce=True)
    assert f"{tmp_path / 'a'}: it has no chat template" in capsys.readouterr().out
    first.save_pretrained(tmp_path / "b")
    again = load_tokenizer(str(tmp_path / "b"), announce=True)
    assert again.chat_template == DEFAULT_CHAT_TEMPLATE
    assert "no chat template" not in capsys.readouterr().out
    text = first.decode(encode_prompt(first, "Hi"))
    assert text.startswith("<|endoftext|>### User:\nHi") and text.endswith("### Assistant:\n")


# ---- messages, as TRL renders them ---------------------------------------------------------------

TOOLS_CHATML = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    "{% if thinking is defined and not thinking %}(briefly) {% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.content %}{{ m['content'] }}{% endif %}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Rome"}}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


RENDERED = {
    "one message": {"prompt": [user("Name a fruit.")]},
    "a system message": {"prompt": [{"role": "system", "content": "Be kind."}, user("Hi")]},
    "several turns": {"prompt": [user("Hi"), assistant("Hello"), user("And now?")]},
    "a beginning of the answer": {"prompt": [user("Name a fruit."), assistant("A red")]},
    "a beginning that ends in a blank": {"prompt": [user("Count."), assistant("one, ")]},
    "tools": {"prompt": [user("Weather in Rome?")], "tools": [WEATHER]},
    "arguments of the template": {
        "prompt": [user("Why?")],
        "chat_template_kwargs": {"thinking": False},
    },
    "a tool's call and answer": {
        "prompt": [
            user("Weather in Rome?"),
            assistant(None, tool_calls=[CALL]),
            {"role": "tool", "content": "sunny"},
        ],
        "tools": [WEATHER],
    },
}


@pytest.mark.parametrize("row", RENDERED.values(), ids=RENDERED)
def test_a_prompt_is_rendered_as_trl_renders_it(row):
    tokenizer = make_tokenizer(TOOLS_CHATML)
    theirs = maybe_apply_chat_template(dict(row), tokenizer, tools=row.get("tools"))["prompt"]
    assert tokenizer.decode(encode_prompt_of(tokenizer, row, "a row")) == theirs
    # as Arrow hands it back: each message with the keys of all, tools as JSON text
    arrow = Dataset.from_list([{**row, "tools": json.dumps(row.get("tools"))}])[0]
    assert tokenizer.decode(encode_prompt_of(tokenizer, arrow, "a row")) == theirs


def test_parts_with_text_are_joined(tokenizer):
    parts = [{"type": "text", "text": "Name "}, {"type": "text", "text": "a fruit."}]
    assert encode_prompt(tokenizer, [user(parts)]) == encode_prompt(tokenizer, "Name a fruit.")
    assert encode_completion(tokenizer, [assistant(parts)]) == encode_completion(
        tokenizer, "Name a fruit."
    )


STRICT = "{{ raise_exception('System role not supported') if messages[0].role == 'system' }}"


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ([{"role": "system", "content": "Be kind."}, user("Hi")], "System role not supported"),
        ([user(None)], "no text as content"),
        ([user([{"type": "image", "url": "x"}])], "a part that is no text"),
        ([{"content": "Hi"}], "a role"),
        (["Hi"], "a role"),
        ([], "an empty prompt"),
        ([user("Hi"), assistant(" ")], "an empty prompt"),
        (7, "text or a list of messages"),
    ],
)
def test_what_cannot_be_rendered_is_told_with_its_place(prompt, why):
    tokenizer = make_tokenizer(STRICT + CHATML)
    with pytest.raises(UserError, match=f"^p.jsonl, row 3: .*{why}"):
        encode_prompt_of(tokenizer, {"prompt": prompt}, "p.jsonl, row 3")


@pytest.mark.parametrize(
    ("completion", "why"),
    [
        ([assistant("a"), user("b"), assistant("c")], "3 messages"),
        ([assistant("a", tool_calls=[CALL])], "tool_calls"),
        ([assistant(None)], "no text as content"),
        ([], "0 messages"),
        (None, "text or a list"),
    ],
)
def test_a_completion_is_one_text(tokenizer, completion, why):
    with pytest.raises(UserError, match=why):
        encode_completion(tokenizer, completion)


def test_a_template_is_not_replaced_without_a_word(tmp_path, capsys):
    make_tokenizer().save_pretrained(tmp_path / "own")
    make_tokenizer(None).save_pretrained(tmp_path / "none")
    other = tmp_path / "other.jinja"
    other.write_text(TOOLS_CHATML)
    assert load_tokenizer(str(tmp_path / "own"), chat_template_path=str(other))
    said = capsys.readouterr().out
    assert "its own chat template is replaced by --chat_template_path" in said
    load_tokenizer(str(tmp_path / "none"), chat_template_path=str(other))
    load_tokenizer(str(tmp_path / "own"))
    assert "replaced" not in capsys.readouterr().out
