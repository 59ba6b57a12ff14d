"""The task harmless: prompts in every shape, and what is refused."""

import argparse
import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import save_model, write_jsonl
from datasets import Dataset
from harmless_tools import BEGINNINGS, arguments, spy_on_generate, toxic_prompts

from instruct.errors import UserError
from instruct.evaluation.modes import FEW_SHOT, Asked
from instruct.evaluation.tasks import continuations, harmless
from instruct.evaluation.tasks.continuations import INSTRUCTIONS, read_prompts


@pytest.fixture()
def generated(monkeypatch):
    return spy_on_generate(monkeypatch)


################
# Prompts
################


def prompts_at(tmp_path, source, **changes) -> list[dict]:
    return read_prompts(arguments(tmp_path, harmless_input=str(source), **changes))[0]


def test_prompts_in_every_shape(tmp_path, monkeypatch):
    texts = lambda rows: sorted(row["prompt"][-1]["content"] for row in rows)  # noqa: E731
    assert texts(prompts_at(tmp_path, toxic_prompts(tmp_path))) == sorted(BEGINNINGS)
    # as data_prep.prompts writes them, in its folder
    folder = tmp_path / "prompts"
    folder.mkdir()
    rows = [{"id": f"p{i}", "prompt": t, "user_id": f"u{i % 2}"} for i, t in enumerate(BEGINNINGS)]
    for split, some in (("train", rows[:1]), ("test", rows[1:])):
        pq.write_table(pa.Table.from_pylist(some), folder / f"{split}.parquet")
    found = prompts_at(tmp_path, folder)
    assert (
        texts(found)
        == sorted(BEGINNINGS[1:])
        == texts(prompts_at(tmp_path, folder / "test.parquet"))
    )
    assert {(row["prompt_id"], row["user_id"]) for row in found} == {
        ("p1", "u1"), ("p2", "u0"), ("p3", "u1"), ("p4", "u0")
    }  # fmt: skip
    # messages, also in parts, with another row's keys that are null
    turns = [{"role": "system", "content": "Be good."}, {"role": "user", "content": "Tea?"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Rain?"}]}]
    file = write_jsonl(tmp_path / "turns.jsonl", [{"prompt": turns}, {"prompt": parts}])
    found = prompts_at(tmp_path, file)
    assert texts(found) == ["Rain?", "Tea?"] and turns in [row["prompt"] for row in found]
    # each is a cluster of its own where there are no users
    assert len({row["user_id"] for row in found}) == 2
    # RealToxicityPrompts has but one split
    asked = []

    def load_dataset(name, config, split):
        asked.append(split)
        if split != "train":
            raise ValueError(f'Unknown split "{split}". Should be one of ["train"].')
        return Dataset.from_list([{"prompt": {"text": t, "toxicity": 0.1}} for t in BEGINNINGS])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("instruct.rows.stored_tables.ask_hub", lambda name: None)
    assert texts(prompts_at(tmp_path, "allenai/real-toxicity-prompts")) == sorted(BEGINNINGS)
    assert asked == ["test", "validation", "train"]


def test_a_csv_files_objects_are_their_texts(tmp_path):
    file = tmp_path / "rtp.csv"
    with file.open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["prompt"])
        whole = [{"text": text, "toxicity": None} for text in BEGINNINGS[1:]]
        table.writerows(
            [json.dumps(cell)] if i % 2 else [repr(cell)] for i, cell in enumerate(whole)
        )
        sorted_ones = [
            {"rude": 1, "text": "A", "toxicity": 0},
            {"toxicity": 1, "text": "B"},
        ]
        table.writerows([json.dumps(cell)] for cell in sorted_ones)
        own = [
            "{curly} is a text",
            '{"text": "a prompt that is JSON", "to": "French"}',
            '{"rows": [{"text": "What is rude here?", "toxicity": 1}]}',
        ]
        table.writerows([text] for text in own)
    found = sorted(row["prompt"][-1]["content"] for row in prompts_at(tmp_path, str(file)))
    assert found == sorted([*BEGINNINGS[1:], "A", "B", *own])
    file.write_text("prompt\n\"{'text': 'so', 'toxicity': nan}\"\n")
    with pytest.raises(UserError, match="rtp.csv, .*'prompt' begins as an object with text and"):
        prompts_at(tmp_path, str(file))


def test_prompts_are_drawn_with_the_seed(tmp_path):
    source = write_jsonl(tmp_path / "many.jsonl", [{"prompt": f"p {i}"} for i in range(50)])
    drawn = [
        [row["prompt_id"] for row in prompts_at(tmp_path, source, harmless_limit=9, seed=seed)]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 9


@pytest.mark.parametrize(
    "row, said",
    [
        ({"text": "x"}, "line 2: no 'prompt'; it has 'text'"),
        ({"prompt": {"toxicity": 0.5}}, "line 2: 'prompt' is an object without a 'text'"),
        ({"prompt": {"text": None}}, "line 2: 'prompt' is null"),
        ({"prompt": " "}, "line 2: 'prompt' is empty"),
        ({"prompt": 3}, "line 2: 'prompt' is a number"),
        ({"prompt": [{"role": "user"}]}, "line 2: 'prompt' has no content in message 1"),
        (
            {"prompt": [{"role": "assistant", "content": "I"}]},
            "line 2: 'prompt' ends in a message of 'assistant'",
        ),
    ],
)
def test_a_row_that_is_no_prompt_is_told_with_its_line(row, said, tmp_path):
    source = write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "Tea?"}, row])
    with pytest.raises(UserError, match="bad.jsonl") as error:
        prompts_at(tmp_path, source)
    assert said in str(error.value)


def test_what_cannot_work_is_told_before_anything_is_asked(tiny_model, tmp_path, generated):
    source = toxic_prompts(tmp_path)
    models = {"sft": Asked(tiny_model)}
    for changes, said in (
        ({"harmless_input": None}, "--tasks harmless needs --harmless_input"),
        ({"harmless_input": str(tmp_path / "no.jsonl")}, "--harmless_input .*no such file"),
        ({"harmless_samples": 0}, "--harmless_samples 0: must be at least 1"),
        ({"harmless_limit": 0}, "--harmless_limit 0: must be at least 1"),
        ({"temperature": 0}, "--harmless_samples 3 with --temperature 0"),
        ({"toxicity_function": "harmless_tools:no_such"}, "--toxicity_function harmless_tools:no"),
        ({"toxicity_label": "toxic"}, "--toxicity_label is a label of --toxicity_model"),
    ):
        with pytest.raises(UserError, match=said):
            harmless.check(models, arguments(tmp_path, **{"harmless_input": source, **changes}))
    for asked, said in (
        (Asked(str(tmp_path / "gone")), "--tasks harmless, model ppo: .*gone"),
        (Asked(tiny_model, FEW_SHOT, str(tmp_path / "none.jsonl")), "none.jsonl"),
    ):
        with pytest.raises(UserError, match=said):
            harmless.check({**models, "ppo": asked}, arguments(tmp_path, harmless_input=source))
    assert not generated.calls


################
# What goes wrong as it is measured
################


@pytest.mark.parametrize(
    "function, said",
    [
        ("broken", "raised ValueError: no such word"),
        ("not_a_number", "returned nan for the completion"),
        ("too_large", "returned 1.5, and a toxicity is from 0 to 1"),
    ],
)
def test_a_scorer_that_fails_is_told_with_model_task_and_row(function, said, tiny_model, tmp_path):
    args = arguments(tmp_path, harmless_input=toxic_prompts(tmp_path))
    args.toxicity_function = f"harmless_tools:{function}"
    with pytest.raises(UserError) as error:
        harmless.measure({"sft": Asked(tiny_model)}, args)
    told = str(error.value)
    assert "--tasks harmless, model sft, instruction none, " in told
    assert "beginnings.jsonl, line 4, sample 1: --toxicity_function harmless_tools:" in told
    assert said in told


def says(texts):
    """A model that says these, in turn."""

    def generate(
        model, tokenizer, prompts, max_new_tokens, temperature, copies, until, shared_from
    ):
        rows = [tokenizer(next(texts))["input_ids"] for _ in range(len(prompts) * copies)]
        return argparse.Namespace(ids=[[*row, 2] for row in rows])

    return generate


def test_empty_continuations_are_told_and_never_a_zero(tiny_model, tmp_path, monkeypatch):
    args = arguments(tmp_path, harmless_input=toxic_prompts(tmp_path, 2), batch_size=64)
    args.toxicity_function = "harmless_tools:given_two_thirds"
    # none: one of six; respectful: one prompt has no words at all; biased: all
    texts = ["a", " \n", "b", "c", "d", "e"] + ["", "", "", "a", "b", "c"] + ["a"] * 6
    monkeypatch.setattr(continuations, "generate", says(iter(texts)))
    found = harmless.measure({"s_f": Asked(tiny_model)}, args)
    numbers = found["models"]["s_f"]
    assert [numbers[told]["empty"] for told in INSTRUCTIONS] == [1, 3, 0]
    for told in INSTRUCTIONS:
        assert numbers[told]["mean"] == pytest.approx({"mean": 2 / 3, "low": 2 / 3, "high": 2 / 3})
    text = "\n".join(harmless.lines(found))
    assert "- s\\_f, told respectful: 3 of 6 continuations hold no word and are left out" in text
    monkeypatch.setattr(continuations, "generate", says(iter(["a"] * 6 + [""] * 99)))
    args = arguments(tmp_path / "mute", harmless_input=args.harmless_input, batch_size=64)
    with pytest.raises(UserError, match="model mute, instruction respectful: not a word in any of "
                       "6 continuations, the first after .*beginnings.jsonl, line "):  # fmt: skip
        harmless.measure({"mute": Asked(tiny_model)}, args)


def test_logits_that_are_not_finite_are_told_with_model_task_and_row(
    tiny_model, tmp_path, monkeypatch
):
    def generate(*args, **kwargs):
        raise UserError("the model's logits are not finite")

    monkeypatch.setattr(continuations, "generate", generate)
    args = arguments(tmp_path, harmless_input=toxic_prompts(tmp_path, 1))
    with pytest.raises(
        UserError, match="--tasks harmless, model sft, instruction none, .*line 1: the model's"
    ):
        harmless.measure({"sft": Asked(tiny_model)}, args)


def test_a_prompt_beyond_the_positions_is_told_before_it_is_asked(tmp_path, generated):
    path = save_model(tmp_path / "gpt2", "gpt2")
    source = write_jsonl(tmp_path / "long.jsonl", [{"prompt": "tea and rain " * 200}])
    args = arguments(tmp_path, harmless_input=source)
    with pytest.raises(UserError, match="model short, .*long.jsonl, line 1: .* 512 positions"):
        harmless.measure({"short": Asked(path)}, args)
    assert not generated.calls


def test_the_report_is_json_and_markdown(tiny_model, tmp_path):
    args = arguments(tmp_path, harmless_input=toxic_prompts(tmp_path))
    args.toxicity_function = None
    found = harmless.measure({"a|b": Asked(tiny_model)}, args)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["models"]["a|b"]) == set(INSTRUCTIONS)
    assert set(found["differences"]["a|b"]) == {"respectful", "biased"}
    text = harmless.lines(found)
    rows = [line for line in text if line.startswith("| a\\|b |")]
    assert len(rows) == 3 + 2
    assert "| model | told | toxicity | worst of 3 | any of 3 toxic | toxic continuations |" in text
    assert "the word list of better-profanity" in "\n".join(text)
