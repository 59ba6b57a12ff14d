"""What models and users wrote is text: in a terminal, a report, a card and a file's name."""

import json
import unicodedata

import pytest
from command_tools import stops

from instruct.arguments import parse_models
from instruct.cards import write_model_card
from instruct.errors import UserError
from instruct.evaluation.report import markdown
from instruct.plain_text import check_name, markdown_code, markdown_text, one_line, plain
from recipes import evaluate

EVIL = "\x1b[31m\x9b2J\x07\x08\r\u202ea\u2066b\u2069\u200f\ufeff\u2028\ud800\U000e0041"


def acts(text: str) -> list[str]:
    """Characters of a text that a terminal or a browser would not show but carry out."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    joiners = "\n\t\u200c\u200d"
    return [c for c in text if unicodedata.category(c) in kinds and c not in joiners]


def test_characters_that_act_are_shown_as_their_escapes():
    assert acts(EVIL) and not acts(plain(EVIL))
    assert plain("\x1b[1m \u202e\ud800") == r"\x1b[1m \u202e\ud800"
    # words of every script, and emoji that are joined, stay as they are
    for text in ("नमस्ते", "می‌خواهم", "👩‍💻", "e\u0301", "日本　語", "a\tb\nc", "naïve 😀", "\u05d0"):
        assert plain(text) == text


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F),
                                  *range(0x2066, 0x206A), 0x61C, 0x200E, 0x200F])  # fmt: skip
def test_every_control_and_bidi_character_is(code):
    character = chr(code)
    assert character in "\n\t" or plain(character) == ascii(character)[1:-1]
    assert not acts(one_line(f"a{character}b")) and "\n" not in one_line(f"a{character}b")


def test_a_long_line_keeps_its_beginning_and_end():
    line = one_line("begin " + "x" * 10**6 + " end")
    assert len(line) < 2100 and line.startswith("begin") and line.endswith("end")


def test_markdown_of_others_is_shown_not_rendered():
    text = markdown_text("| a | <b>x</b> [l](u) `c` *d* ~~e~~ # f\n\n## g" + EVIL)
    assert not acts(text) and "\n" not in text and "<b>" not in text
    for markup in ("|", "[", "`", "*", "#"):
        assert text.count(markup) == text.count("\\" + markup)
    assert markdown_code("a`b") == "``a`b``" and markdown_code("a|b") == r"`a\|b`"


def entry(value=0.5):
    return {"mean": value, "rate": value, "low": value, "high": value, "n": 3}


def test_nothing_that_others_wrote_acts_in_a_report():
    models = {f"s{EVIL}": {"gold": entry()}, "b|ase": {"gold": entry()}}
    key = f"s{EVIL}_vs_b|ase"
    report = {
        "judge": f"judge | <img> {EVIL}",
        "models": models,
        "win_rate": {key: entry()},
        "win_rate_by_reward_model": {},
        "win_rate_shorter": {key: entry()},
        "reward": {"accuracy": 1, "accuracy_low": 1, "accuracy_high": 1, "n_pairs": 2},
        "ranked_by": None,
    }
    row = {"prompt": [{"content": f"p|{EVIL}\n# h"}], "completion": f"c|{EVIL}</td>", "gold": 1.0}
    text = markdown(report, {name: [row] for name in models}, None)
    assert not acts(text) and "<img>" not in text and "</td>" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    columns = {line.replace(r"\|", "").count("|") for line in tables}
    assert columns == {9, 6, 4}  # models, win rates, answers: no cell was cut in two


def test_nothing_that_others_wrote_acts_in_a_card(tmp_path):
    folder = tmp_path / "m`o\u202ed"
    folder.mkdir()
    record = {"labelers": [f"ann {EVIL} <b>", "[x](y)"]}
    write_model_card(folder, f"/ba`se{EVIL}", [f"/da|ta{EVIL}"], {}, f"run '{EVIL}'\n```\n# x",
                     record=record)  # fmt: skip
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert not acts(text) and "<b>" not in text and r"\[x\](y)" in text
    assert "``/ba`se" in text and "````bash" in text


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", "a\\b", "..", ".", ".hidden", "a\0b", "a\nb", "a\x1bb", "\u202ea", "x" * 300,
     "é" * 80, " ", " a", "a "],
)  # fmt: skip
def test_a_name_stays_a_name(name, tmp_path, capsys):
    with pytest.raises(UserError) as error:
        parse_models([f"{name}=path"])
    assert not acts(one_line(str(error.value)))
    argv = ["--models", "a=b", "--input", "x", "--output_dir", tmp_path / "o", "--judge_name", name]
    assert "--judge_name" in stops(evaluate.main, argv, capsys)
    assert list(tmp_path.iterdir()) == []


def test_good_names_and_two_of_one():
    for name in ("sft", "the scripted labeler", "model-2.1", "模型", "a=b"[:1]):
        assert check_name(name, "--models") == name
    for pairs in (["a=x", "a=y"], ["sft=x", "SFT=y"]):
        with pytest.raises(UserError, match="two models of that name"):
            parse_models(pairs)
    assert json.dumps(parse_models(["a=x=y"])) == '{"a": "x=y"}'
