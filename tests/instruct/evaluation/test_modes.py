"""How a model is asked: what is typed, what it is given, and where a plain answer ends."""

import os

import pytest
import torch
from conftest import make_model

from instruct.errors import UserError
from instruct.evaluation.modes import (
    Asked,
    draw_examples,
    first_line,
    is_over,
    over_after,
    parse_asked,
    plain_prompt,
    prompt_ids,
    question_of,
)
from instruct.generation import generate


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("a=m", Asked("m")),
        ("a=out/sft:raw", Asked("out/sft", "raw")),
        ("a=m:few_shot=d/train.jsonl", Asked("m", "few_shot", "d/train.jsonl")),
        ("a=HuggingFaceTB/SmolLM2-135M:raw", Asked("HuggingFaceTB/SmolLM2-135M", "raw")),
        ("a=owner/name@v1.0", Asked("owner/name@v1.0")),
        (r"a=C:\models\m", Asked(r"C:\models\m")),
        ("a=C:/models/m", Asked("C:/models/m")),
        (r"a=C:\models\m:raw", Asked(r"C:\models\m", "raw")),
        (r"a=C:\m:few_shot=D:\d.jsonl", Asked(r"C:\m", "few_shot", r"D:\d.jsonl")),
        ("a=m:few_shot=x=y:z.jsonl", Asked("m", "few_shot", "x=y:z.jsonl")),
        ("a=lr=1e-4/m", Asked("lr=1e-4/m")),
        ("a=runs:old/m", Asked("runs:old/m")),
        ("a=runs:old/m:raw", Asked("runs:old/m", "raw")),
        ("a=runs:raw/m", Asked("runs:raw/m")),
    ],
)
def test_modes_as_they_are_typed(typed, asked):
    assert parse_asked([typed]) == {"a": asked}


def test_two_pairs_of_one_name_are_told():
    assert len(parse_asked(["a=m", "b_vs_c=m", "c=m"])) == 3
    with pytest.raises(UserError, match="are both the pair a_vs_b_vs_c in a report"):
        parse_asked(["c=m", "b_vs_c=m", "a=m", "a_vs_b=m"])


def test_what_is_there_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("m:raw", "m:few_shot=f", "m:v2"):
        os.mkdir(name)
        assert parse_asked([f"a={name}"]) == {"a": Asked(name)}
    assert parse_asked(["a=m:v2:raw"]) == {"a": Asked("m:v2", "raw")}


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("a=m:bare", "no such mode as 'bare'"),
        ("a=m:Raw", "no such mode as 'Raw'"),
        ("a=m:fewshot=f.jsonl", "no such mode as 'fewshot'"),
        ("a=m:shots=/d/f.jsonl", "no such mode as 'shots'"),
        ("a=m:", "no such mode as ''"),
        ("a=m:few_shot", "few_shot needs a file"),
        ("a=m:few_shot=", "few_shot needs a file"),
        ("a=m:raw=1", "raw takes no value"),
        ("a=:raw", "a model's path is missing"),
        ("a=:few_shot=f", "a model's path is missing"),
    ],
)
def test_no_such_mode_is_one_sentence(typed, why):
    with pytest.raises(UserError) as error:
        parse_asked([typed])
    assert why in str(error.value) and typed in str(error.value)


################
# What is asked
################


def row(prompt, completion="An answer.", **more) -> dict:
    return {"prompt": prompt, "completion": completion, **more}


def test_plain_prompts():
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    assert question_of("Why?") == "Why?" and question_of(chat) == "Be kind.\nWhy?"
    assert plain_prompt("Why?", "raw") == "Why?\n"
    asked = plain_prompt("Why?", "few_shot", [["Who?", "Ann."], ["Where?", "Here."]])
    assert asked == (
        "Question: Who?\nAnswer: Ann.\n\nQuestion: Where?\nAnswer: Here.\n\nQuestion: Why?\nAnswer:"
    )


def test_a_plain_prompt_has_no_template_and_no_end(tokenizer):
    ids = prompt_ids(tokenizer, row("Tell me"), "x", "raw")
    assert tokenizer.decode(ids) == "Tell me\n"
    assert prompt_ids(tokenizer, row("Tell me"), "x")[0] == 1  # <|im_start|>


def test_examples_are_drawn_from_rows_that_are_not_asked():
    rows = [row(f"Question {i}?", f"First.\nSecond {i}.", prompt_id=f"p{i}") for i in range(9)]
    rows.append(row("Long?", "x" * 500))
    rows.append(row("Blank?", " "))
    rows.append(row("Theirs?", "A user's.", user_id=3, prompt_id=None))
    asked = [row(f"Question {i}?", prompt_id="q", user_id=f"u{i}") for i in range(3)]
    asked += [row("Else?", prompt_id="p3", user_id="3")]
    pairs = draw_examples(rows, asked, "f", seed=0)
    assert len(pairs) == 4 and pairs == draw_examples(rows, asked, "f", seed=0)
    many = {tuple(p) for seed in range(30) for p in draw_examples(rows, asked, "f", seed)}
    # an answer is one line, as the one that is asked for
    assert many == {(f"Question {i}?", f"First. Second {i}.") for i in range(4, 9)}
    with pytest.raises(UserError, match="none of its 1 rows can be an example"):
        draw_examples([row("Else?")], asked, "f", seed=0)


################
# Where an answer ends
################


@pytest.mark.parametrize(
    ("text", "line", "over"),
    [
        (" Blue.\nQuestion: Why?", "Blue.", True),
        ("\n\n Blue.", "Blue.", False),
        ("\n\n Blue.\n", "Blue.", True),
        (" Blue. Question: Why?", "Blue.", True),
        ("Question: Why?", "", True),
        ("Blue\r\nRed", "Blue", True),
        ("Blue\u2028Red", "Blue", True),
        ("", "", False),
        ("\n \n", "", False),
    ],
)
def test_an_answer_is_its_first_line(text, line, over):
    assert (first_line(text), is_over(text)) == (line, over)


def test_an_answer_ends_at_the_token_that_brings_the_new_line(tokenizer):
    ids = tokenizer("\nI love it!\nMore of it")["input_ids"]
    count = over_after(tokenizer, ids)
    assert tokenizer.decode(ids[:count]) == "\nI love it!\n"
    assert over_after(tokenizer, ids[: count - 1]) is None and over_after(tokenizer, []) is None


def test_generation_stops_where_it_is_told(tokenizer):
    """Rows are cut after the token asked for, and what was drawn goes with its token."""
    model = make_model(initializer_range=0.2).eval()
    prompts = [tokenizer(text)["input_ids"] for text in ("Tell me", "What of the tea and rain?")]
    torch.manual_seed(0)
    free = generate(model, tokenizer, prompts, 30)
    calls = []

    def after_five(ids):
        calls.append(len(ids))
        return 5 if len(ids) >= 5 else None

    torch.manual_seed(0)
    cut = generate(model, tokenizer, prompts, 30, until=after_five)
    assert cut.ids == [row[:5] for row in free.ids]
    assert cut.logprobs == [row[:5] for row in free.logprobs]
    assert max(calls) <= 8  # rows that have stopped are not computed on
