"""The task harmless: what is asked, killed and gone on with, numbers against plain loops."""

import argparse
import hashlib
import json
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_tokenizer, save_model, write_jsonl
from datasets import Dataset
from transformers import AutoTokenizer

from instruct.errors import UserError
from instruct.evaluation.modes import FEW_SHOT, RAW, Asked
from instruct.evaluation.statistics import cluster_bootstrap
from instruct.evaluation.tasks import continuations, harmless
from instruct.evaluation.tasks.continuations import BIASED, INSTRUCTIONS, RESPECTFUL, read_prompts
from instruct.files import read_jsonl

BEGINNINGS = ["The tea is", "So I said that the rain", "Books are", "I hate", "Trains and cats"]


def toxic_prompts(folder: Path, count: int = 5) -> str:
    """As RealToxicityPrompts has them."""
    rows = [
        {
            "filename": "0.txt",
            "prompt": {"text": text, "toxicity": 0.1},
            "continuation": {"text": "x", "toxicity": None},
        }
        for text in BEGINNINGS[:count]
    ]
    return write_jsonl(folder / "beginnings.jsonl", rows)


def arguments(folder: Path, **changes) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    harmless.add_flags(parser)
    args = parser.parse_args([])
    given = {
        "output_dir": folder / "report",
        "batch_size": 4,
        "dtype": "float32",
        "seed": 0,
        "temperature": 1.0,
        "max_new_tokens": 6,
        "limit": 200,
        "overwrite_output_dir": False,
        "harmless_samples": 3,
        "toxicity_function": "test_harmless:by_hash",
    }
    for name, value in {**given, **changes}.items():
        setattr(args, name, value)
    return args


def by_hash(prompts, completions, **columns) -> list[float]:
    """A number from 0 to 1 that any change of a text moves."""
    return [hashlib.md5(text.encode()).digest()[0] / 255 for text in completions]


def broken(prompts, completions, **columns):
    if any(prompt[0]["content"] == BEGINNINGS[3] for prompt in prompts):
        raise ValueError("no such word")
    return [0.5] * len(completions)


def not_a_number(prompts, completions, **columns):
    return [math.nan if p[0]["content"] == BEGINNINGS[3] else 0.5 for p in prompts]


def too_large(prompts, completions, **columns):
    return [1.5 if p[0]["content"] == BEGINNINGS[3] else 0.5 for p in prompts]


@pytest.fixture
def generated(monkeypatch):
    """Each call's prompts as ids, and a kill at the call of a number."""
    calls, real = [], continuations.generate

    def spy(model, tokenizer, prompts, max_new_tokens, temperature, copies, **more):
        if len(calls) == spy.kill_at:
            raise KeyboardInterrupt
        calls.append((prompts, copies))
        return real(model, tokenizer, prompts, max_new_tokens, temperature, copies, **more)

    spy.kill_at, spy.calls = None, calls
    monkeypatch.setattr(continuations, "generate", spy)
    return spy


################
# Numbers
################


def plain_interval(values: dict[int, float], users: list[str]) -> dict:
    keys = sorted(values)
    found = cluster_bootstrap([values[i] for i in keys], [users[i] for i in keys])
    return dict(zip(("mean", "low", "high"), found, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_numbers_equal_a_plain_loop(seed):
    rng = random.Random(seed)
    count, samples = rng.randint(2, 9), rng.randint(1, 5)
    prompts = [{"user_id": f"u{rng.randint(0, 3)}", "where": f"row {i}"} for i in range(count)]
    said, scores, table = [], [], {}
    for instruction in INSTRUCTIONS:
        for prompt in range(count):
            table[instruction, prompt] = []
            for sample in range(samples):
                # 0.5 is toxic; the first prompt has always a word
                is_empty = rng.random() < 0.3 and prompt > 0
                score = None if is_empty else rng.choice([0.5, rng.random()])
                tokens = rng.randint(1, 9)
                row = {"instruction": instruction, "prompt": prompt, "sample": sample}
                said.append({**row, "completion": "x", "tokens": tokens})
                scores.append(score)
                table[instruction, prompt].append(score)
    numbers, differences = harmless._numbers("m", said, scores, prompts)
    users = [row["user_id"] for row in prompts]
    plain: dict = {}
    for instruction in INSTRUCTIONS:
        mean, worst, any_toxic, toxic, empty = {}, {}, {}, {}, 0
        for prompt in range(count):
            total, most, above, known = 0.0, 0.0, 0, 0
            for score in table[instruction, prompt]:
                if score is None:
                    empty += 1
                    continue
                known += 1
                total += score
                most = score if score > most else most
                above += 1 if score >= 0.5 else 0
            if known:
                mean[prompt], worst[prompt] = total / known, most
                any_toxic[prompt], toxic[prompt] = 1.0 if above else 0.0, above / known
        plain[instruction] = {
            "mean": mean,
            "worst": worst,
            "above_half": any_toxic,
            "samples_above_half": toxic,
        }
        ours = numbers[instruction]
        for number, values in plain[instruction].items():
            assert ours[number] == pytest.approx(plain_interval(values, users))
        assert ours["empty"] == empty and (ours["first_empty"] is None) == (empty == 0)
        lengths = [row["tokens"] for row in said if row["instruction"] == instruction]
        assert ours["tokens"] == pytest.approx(sum(lengths) / len(lengths))
    for instruction in ("respectful", "biased"):
        for number, values in plain[instruction].items():
            without = plain["none"][number]
            both = {i: values[i] - without[i] for i in values if i in without}
            expected = plain_interval(both, users)
            assert differences[instruction][number] == pytest.approx(expected)


def test_intervals_are_no_narrower_for_a_user_who_asks_twice():
    values = {i: float(i % 2) for i in range(20)}
    twice = harmless._interval({**values, **{i + 20: v for i, v in values.items()}},
                               [f"u{i % 20}" for i in range(40)])  # fmt: skip
    assert twice == pytest.approx(harmless._interval(values, [f"u{i}" for i in range(20)]))


################
# What is asked
################


def test_three_instructions_as_each_mode_asks_them(tiny_model, tmp_path, generated):
    examples = write_jsonl(
        tmp_path / "demonstrations.jsonl",
        [{"prompt": "Do you like tea?", "completion": "I do."}],
    )
    models = {
        "sft": Asked(tiny_model),
        "gpt": Asked(tiny_model, RAW),
        "prompted": Asked(tiny_model, FEW_SHOT, examples),
    }
    args = arguments(tmp_path, harmless_input=toxic_prompts(tmp_path, 1), harmless_samples=2)
    harmless.check(models, args)
    harmless.measure(models, args)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = [tokenizer.decode(prompts[0]) for prompts, _ in generated.calls]
    begun = BEGINNINGS[0]
    asked = [begun, f"{RESPECTFUL}\n\n{begun}", f"{BIASED}\n\n{begun}"]
    chat = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    shown = "Question: Do you like tea?\nAnswer: I do.\n\nQuestion: {}\nAnswer:"
    # a text is gone on with where it ends
    assert texts == [form.format(a) for form in (chat, "{}", shown) for a in asked]
    # one line is an answer after examples; elsewhere all that was sampled counts
    rows = [r for step in read_jsonl(tmp_path / "report/harmless/prompted.jsonl")[1:]
            for r in step["rows"]]  # fmt: skip
    assert not any("\n" in row["completion"] for row in rows)


def test_few_shot_examples_may_come_from_who_reads_more_shapes(tiny_model, tmp_path, generated):
    args = arguments(tmp_path, harmless_input=toxic_prompts(tmp_path, 1))
    args.examples_of = lambda asked, prompts, seed: [[asked.file, prompts[0]["prompt_id"]]]
    harmless.measure({"prompted": Asked(tiny_model, FEW_SHOT, "alpaca.csv")}, args)
    text = make_tokenizer().decode(generated.calls[0][0][0])
    assert text.startswith("Question: alpaca.csv\nAnswer: ") and "beginnings.jsonl, line 1" in text


def test_an_instruction_stands_in_the_last_message_of_a_user():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi!"}]
    asked = [*turns, {"role": "user", "content": "Tea?"}]
    found = continuations.instructed(asked, "Be kind.")
    assert found == [*turns, {"role": "user", "content": "Be kind.\n\nTea?"}]
    assert continuations.instructed(asked, "") == asked and asked[-1]["content"] == "Tea?"


@pytest.mark.parametrize("samples, batch", [(1, 3), (3, 4), (4, 4), (5, 2), (7, 3)])
def test_each_sample_is_asked_once_in_batches_of_at_most_the_size(
    samples, batch, tiny_model, tmp_path, generated
):
    source = toxic_prompts(tmp_path)
    args = arguments(tmp_path, harmless_input=source, harmless_samples=samples, batch_size=batch)
    found = harmless.measure({"sft": Asked(tiny_model)}, args)
    assert all(len(prompts) * copies <= batch for prompts, copies in generated.calls)
    asked = sum(len(prompts) * copies for prompts, copies in generated.calls)
    assert asked == 3 * 5 * samples
    steps = read_jsonl(tmp_path / "report/harmless/sft.jsonl")[1:]
    rows = [row for step in steps for row in step["rows"]]
    keys = {(row["instruction"], row["prompt"], row["sample"]) for row in rows}
    assert len(keys) == len(rows) == asked
    # no two samples of a prompt share their random numbers
    of_one = [r["completion"] for r in rows if (r["instruction"], r["prompt"]) == ("biased", 0)]
    assert len(set(of_one)) == samples
    assert found["samples"] == samples and found["n_prompts"] == 5


def test_killed_at_any_step_nothing_is_asked_twice_and_numbers_are_the_same(
    tiny_model, tmp_path, generated, monkeypatch
):
    monkeypatch.setattr(harmless, "SCORED_AT_ONCE", 7)
    other = save_model(tmp_path / "other", seed=1)
    models = {"sft": Asked(tiny_model), "gpt": Asked(tiny_model, RAW), "ppo": Asked(other)}
    source = toxic_prompts(tmp_path)
    whole = harmless.measure(models, arguments(tmp_path / "whole", harmless_input=source))
    calls = list(generated.calls)
    assert len(calls) == 3 * 3 * 5
    for kill_at in (0, 1, 20, len(calls) - 1):
        args = arguments(tmp_path / f"killed {kill_at}", harmless_input=source)
        generated.calls.clear()
        generated.kill_at = kill_at
        with pytest.raises(KeyboardInterrupt):
            harmless.measure(models, args)
        generated.kill_at = None
        assert harmless.measure(models, args) == whole
        assert sorted(map(str, generated.calls)) == sorted(map(str, calls))
    # nothing is loaded when all is there
    monkeypatch.setattr(continuations, "load_policy", lambda *a: pytest.fail("loaded"))
    assert harmless.measure(models, args) == whole
    args.overwrite_output_dir = True
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        harmless.measure(models, args)


def test_killed_while_it_is_scored_no_block_is_scored_twice(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(harmless, "SCORED_AT_ONCE", 7)
    args = arguments(tmp_path, harmless_input=toxic_prompts(tmp_path))
    models, real, scored = {"sft": Asked(tiny_model)}, harmless.scores_of, []

    def scores_of(function, what, prompts, completions):
        if len(scored) == 3:
            scored.append(None)
            raise KeyboardInterrupt
        scored.append(completions)
        return real(function, what, prompts=prompts, completions=completions)

    monkeypatch.setattr(harmless, "scores_of", scores_of)
    with pytest.raises(KeyboardInterrupt):
        harmless.measure(models, args)
    found = harmless.measure(models, args)
    texts = [text for block in scored if block for text in block]
    steps = read_jsonl(tmp_path / "report/harmless/sft.jsonl")[1:]
    said = [row["completion"] for step in steps for row in step["rows"]]
    assert sorted(texts) == sorted(text for text in said if text.strip())
    again = arguments(tmp_path / "again", harmless_input=args.harmless_input)
    monkeypatch.setattr(harmless, "scores_of", real)
    assert harmless.measure(models, again) == found
    # another scorer asks no model, and scores anew
    monkeypatch.setattr(continuations, "load_policy", lambda *a: pytest.fail("loaded"))
    args.toxicity_function = None
    assert harmless.measure(models, args)["models"] != found["models"]


def test_what_was_asked_of_other_prompts_or_flags_is_asked_anew(tiny_model, tmp_path, generated):
    source = toxic_prompts(tmp_path)
    args = arguments(tmp_path, harmless_input=source)
    models = {"sft": Asked(tiny_model)}
    harmless.measure(models, args)
    for change in ({"seed": 1}, {"max_new_tokens": 5}, {"harmless_samples": 2}):
        generated.calls.clear()
        harmless.measure(models, arguments(tmp_path, **{"harmless_input": source, **change}))
        assert generated.calls
    # the same rows elsewhere are the same
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes(Path(source).read_bytes())
    harmless.measure(models, args)
    generated.calls.clear()
    harmless.measure(models, arguments(tmp_path, harmless_input=str(elsewhere)))
    assert not generated.calls


################
# Prompts
################


def prompts_at(tmp_path, source, **changes) -> list[dict]:
    return read_prompts(arguments(tmp_path, harmless_input=str(source), **changes))


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
        ({"toxicity_function": "test_harmless:no_such"}, "--toxicity_function test_harmless:no"),
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
    args.toxicity_function = f"test_harmless:{function}"
    with pytest.raises(UserError) as error:
        harmless.measure({"sft": Asked(tiny_model)}, args)
    told = str(error.value)
    assert "--tasks harmless, model sft, instruction none, " in told
    assert "beginnings.jsonl, line 4, sample 1: --toxicity_function test_harmless:" in told
    assert said in told


def says(texts):
    """A model that says these, in turn."""

    def generate(model, tokenizer, prompts, max_new_tokens, temperature, copies, until):
        rows = [tokenizer(next(texts))["input_ids"] for _ in range(len(prompts) * copies)]
        return argparse.Namespace(ids=[[*row, 2] for row in rows])

    return generate


def test_empty_continuations_are_told_and_never_a_zero(tiny_model, tmp_path, monkeypatch):
    args = arguments(tmp_path, harmless_input=toxic_prompts(tmp_path, 2), batch_size=64)
    args.toxicity_function = "test_harmless:given_two_thirds"
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


def given_two_thirds(prompts, completions, **columns):
    return [2 / 3] * len(completions)


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
