"""recipes/chat.py: every model answers, side by side, once or line by line."""

import io

import pytest
from command_tools import stops
from conftest import save_model

from recipes import chat


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_model):
    return [
        "--models",
        f"base={tiny_model}",
        f"other={save_model(tmp_path_factory.mktemp('m') / 'gpt2', 'gpt2')}",
    ]


def test_one_prompt_is_answered_by_every_model(models, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    chat.main([*models, "--prompt", "What of tea?", "--max_new_tokens", "4"])
    first = capsys.readouterr().out
    header = first.splitlines()[0]
    assert header.split() == ["base", "|", "other"]
    chat.main([*models, "--prompt", "What of tea?", "--max_new_tokens", "4"])
    assert capsys.readouterr().out == first  # seeded


def test_lines_are_answered_until_the_end_and_control_codes_are_shown(models, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n\n  \nYou there?\n"))
    monkeypatch.setattr(chat, "decode_completion", lambda *_: "red \x1b[31m\u202e")
    monkeypatch.setenv("COLUMNS", "20")
    chat.main([*models, "--max_new_tokens", "2"])
    assert (
        capsys.readouterr().out.splitlines()
        == [r"[base] red \x1b[31m\u202e", r"[other] red \x1b[31m\u202e"] * 2
    )


def test_columns_wrap_and_line_up():
    lines = chat.side_by_side({"a": "one two three four five six", "b": "x"}, 45).splitlines()
    assert lines[0] == "a                     | b" and lines[2:] == [
        "one two three four    | x",
        "five six              |",
    ]


def test_mistakes_are_one_sentence(capsys):
    for argv, sentence in (
        (["--prompt", " "], "--prompt is empty"),
        (["--models", "sft"], "name=path"),
    ):
        with pytest.raises(SystemExit) as stop:
            chat.main(argv)
        assert stop.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["Hi \udcff", "\ud800"])
def test_a_question_that_is_no_text_is_told(prompt, tiny_model, capsys):
    error = stops(chat.main, ["--models", f"a={tiny_model}", "--prompt", prompt], capsys)
    assert error.splitlines()[-1] == (
        "error: this question: a text that is not UTF-8 (it holds half a character)"
    )


def test_a_typed_line_that_is_no_text_is_told(tiny_model, capsys, monkeypatch):
    lines = io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", lines)
    assert "a line that is not UTF-8" in stops(chat.main, ["--models", f"a={tiny_model}"], capsys)
