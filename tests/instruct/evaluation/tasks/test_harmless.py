"""The task harmless: what is asked, killed and gone on with, numbers against plain loops."""

import random
from pathlib import Path

import pytest
from conftest import make_tokenizer, save_model, write_jsonl
from harmless_tools import BEGINNINGS, arguments, spy_on_generate, toxic_prompts
from transformers import AutoTokenizer

from instruct.evaluation.modes import FEW_SHOT, RAW, Asked
from instruct.evaluation.statistics import cluster_bootstrap
from instruct.evaluation.tasks import continuations, harmless
from instruct.evaluation.tasks.continuations import BIASED, INSTRUCTIONS, RESPECTFUL
from instruct.files import read_jsonl


@pytest.fixture()
def generated(monkeypatch):
    return spy_on_generate(monkeypatch)


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
