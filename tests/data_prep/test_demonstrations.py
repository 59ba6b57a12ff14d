"""Demonstrations: their contract, their splits, and a user's mistakes."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from command_tools import stops
from conftest import CHATML, make_tokenizer, write_jsonl

from data_prep import demonstrations
from data_prep.formats.reader import read
from instruct.files import load_rows, write_rows
from instruct.tokens import encode_prompt_of


def test_demonstrations_follow_their_prompts_split_and_leave_test_users_out(tmp_path):
    for split in ("train", "validation", "test"):
        write_rows(
            tmp_path / "prompts" / f"{split}.parquet",
            [{"id": f"{split}-1", "prompt": "How are you?"}],
        )
    rows = [
        {
            "prompt": "How are you?",
            "completion": "Fine, thank you.",
            "prompt_id": f"{split}-1",
            "source": "people",
        }
        for split in ("train", "validation", "test")
    ]
    rows.append(
        {
            "prompt": "Name a fruit.",
            "completion": "Write to me@acme.org please",
            "source": "people",
        }
    )
    rows.append(
        {"prompt": "Write a poem about tea.", "completion": "Tea, oh tea.", "source": "labelers"}
    )
    argv = [
        "--input",
        write_jsonl(tmp_path / "answers.jsonl", rows),
        "--prompts",
        str(tmp_path / "prompts"),
    ]
    demonstrations.main([*argv, "--output_dir", str(tmp_path / "out"), "--validation", "0"])
    train = load_rows(tmp_path / "out" / "train.jsonl").to_list()
    assert [set(row) for row in train] == [{"prompt", "completion", "source", "category"}] * 2
    assert train[0]["prompt"] == [{"role": "user", "content": "How are you?"}]
    assert train[0]["completion"] == [{"role": "assistant", "content": "Fine, thank you."}]
    assert train[1]["category"] == "generation"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["removed"] == {"prompt_not_in_train_or_validation": 1, "pii": 1}
    assert report["in"] == sum(report["kept"].values()) + sum(report["removed"].values()) == 5
    assert {entry["category"] for entry in report["coverage"]} >= {"generation", "chat", "open_qa"}


def test_demonstrations_need_the_prompts_that_rows_name(tmp_path, capsys):
    file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c", "prompt_id": "1"}])
    assert "--prompts DIR" in stops(
        demonstrations.main, ["--input", file, "--output_dir", tmp_path / "o"], capsys
    )
    assert not (tmp_path / "o").exists()


def demonstrate(tmp_path, rows, *more) -> dict:
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    demonstrations.main(["--input", file, "--output_dir", str(tmp_path / "o"), *more])
    return json.loads((tmp_path / "o" / "report.json").read_text())


def test_a_test_prompt_stays_out_whatever_the_type_of_its_id_and_whichever_row_names_it(tmp_path):
    prompts = tmp_path / "prompts"
    for split, ids in (("train", [0, 1]), ("validation", [2]), ("test", [3])):
        rows = [{"id": i, "prompt": f"question {i}"} for i in ids]
        write_rows(prompts / f"{split}.parquet", rows)
    own = {"prompt": "Write a poem.", "completion": "Tea, oh tea."}
    of = {"prompt": "question", "completion": "An answer."}
    # the labeler's own first: the column is there all the same. 0 is an id, and "0" the same
    for named in (0, "0", 0.0):
        rows = [own, {**of, "prompt_id": named}]
        report = demonstrate(tmp_path, rows, "--prompts", str(prompts), "--validation", "0")
        assert report["kept"] == {"train": 2, "validation": 0} and not report["removed"]
    for named in (3, "3", 3.0):
        rows = [own, {**of, "prompt_id": named}]
        report = demonstrate(tmp_path, rows, "--prompts", str(prompts), "--validation", "0")
        assert report["removed"] == {"prompt_not_in_train_or_validation": 1}


def test_an_empty_validation_split_of_the_prompts_is_no_error(tmp_path):
    prompts = tmp_path / "prompts"
    write_rows(prompts / "train.parquet", [{"id": "1", "prompt": "Hi"}])
    empty = pa.schema({"id": pa.string(), "prompt": pa.string()}).empty_table()
    pq.write_table(empty, prompts / "validation.parquet")
    rows = [{"prompt": "Hi", "completion": "Hello.", "prompt_id": "1"}]
    assert demonstrate(tmp_path, rows, "--prompts", str(prompts))["kept"]["train"] == 1


def test_rows_that_say_nothing_are_counted(tmp_path):
    full = {"prompt": "Hi", "completion": "Hello."}
    blanks = [{**full, key: value} for key in full for value in (None, "", " \n", [])]
    report = demonstrate(tmp_path, [full, *blanks[:3], *blanks[4:7]], "--validation", "0")
    assert report["removed"] == {"malformed": 6} and report["kept"]["train"] == 1


def test_other_shapes_are_counted_row_by_row(tmp_path, capsys):
    """A file's own shape and names; what does not fit is in the report."""
    user, answer = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello you"}
    chats = [{"conversations": [user, answer], "source": "s"}, {"conversations": [user]}]
    file = write_jsonl(tmp_path / "chats.jsonl", chats)
    flags = ["--output_dir", str(tmp_path / "o"), "--validation", "0"]
    demonstrations.main(["--input", file, *flags])
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["in"] == 2 and report["kept"]["train"] == 1
    assert report["removed"] == {"malformed": 1}
    assert "chats.jsonl: read as: conversations, 1 of 2 rows" in capsys.readouterr().out
    named = write_jsonl(tmp_path / "named.jsonl", [{"ask": "Hi", "say": "Hello you", "prompt": 5}])
    names = ["--columns", "prompt=ask", "completion=say", "--format", "prompt-and-completion"]
    demonstrations.main(["--input", named, *flags, *names])
    (row,) = load_rows(tmp_path / "o" / "train.jsonl").to_list()
    assert row["prompt"] == [{"role": "user", "content": "Hi"}] and row["source"] == "named"


def test_a_missing_prompt_id_in_the_first_row_puts_no_test_prompt_into_training(tmp_path):
    for split, name in (("train", "0"), ("validation", "v")):
        write_rows(tmp_path / "prompts" / f"{split}.parquet", [{"id": name, "prompt": "p"}])
    rows = [
        {"prompt": "both sides", "completion": "yes"},
        {"prompt": "p", "completion": "of training", "prompt_id": 0},
        {"prompt": "q", "completion": "of test", "prompt_id": "t"},
        {"prompt": "r", "completion": "of nobody", "prompt_id": ""},
    ]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    flags = ["--prompts", str(tmp_path / "prompts"), "--validation", "0"]
    demonstrations.main(["--input", file, *flags, "--output_dir", str(tmp_path / "o")])
    kept = load_rows(tmp_path / "o" / "train.jsonl").to_list()
    said = [row["completion"][0]["content"] for row in kept]
    assert said == ["yes", "of training", "of nobody"]


def said_in(tmp_path) -> list[str]:
    kept = load_rows(tmp_path / "o" / "train.jsonl").to_list()
    return [row["completion"][0]["content"] for row in kept]


def test_only_what_a_judge_likes_is_kept_and_every_row_is_counted(tmp_path, monkeypatch):
    """Whatever the batches in which the judge is asked; --per_source counts what is kept."""
    good, bad, cut = "I love it, it is great.", "I hate it, it is awful.", "I love it, it is great"
    rows = [{"prompt": f"Tea {i}?", "completion": text} for i, text in enumerate([bad, good] * 4)]
    rows += [{"prompt": "Rain?", "completion": cut}, {"prompt": "Snow?", "completion": ""}]
    judged = ["--judge", "scripted", "--min_score", "0.4", "--validation", "0"]
    for at_once in (1, 3, 2000):
        monkeypatch.setattr(demonstrations, "JUDGED", at_once)
        report = demonstrate(tmp_path, rows, *judged)
        assert report["removed"] == {"malformed": 1, "below_min_score": 4}
        assert said_in(tmp_path) == [good] * 4 + [cut]
        report = demonstrate(tmp_path, rows, *judged, "--finished", "--per_source", "3")
        assert report["removed"] == {
            "malformed": 1, "below_min_score": report["removed"]["below_min_score"],
            "over_per_source": report["removed"]["over_per_source"], "unfinished": 1,
        }  # fmt: skip
        assert said_in(tmp_path) == [good] * 3
        assert report["in"] == sum(report["kept"].values()) + sum(report["removed"].values()) == 10


def test_finished_answers_are_kept_without_a_judge(tmp_path):
    texts = ["Yes.", "Yes!", 'He said "yes?"', "Yes.)", "Yes", "Yes,", "Yes. And"]
    rows = [{"prompt": f"Tea {i}?", "completion": text} for i, text in enumerate(texts)]
    report = demonstrate(tmp_path, rows, "--finished", "--validation", "0")
    assert said_in(tmp_path) == texts[:4] and report["removed"] == {"unfinished": 3}


def test_a_judge_and_its_bar_belong_together(tmp_path, capsys, tiny_model):
    file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "Tea?", "completion": "I love it."}])
    run = ["--input", file, "--output_dir", tmp_path / "o", "--validation", "0"]
    for more, said in (
        (["--judge", "scripted"], "--judge scripted without --min_score does nothing"),
        (["--min_score", "0"], "--min_score 0 without --judge does nothing"),
        (["--judge", "scripted", "--min_score", "nan"], "--min_score nan: must be a finite number"),
        (["--judge", "scripted:", "--min_score", "0"], "--judge scripted: names no model"),
        (["--judge", "no:no", "--min_score", "0"], "--judge no:no: no such module:function"),
        (["--judge", f"reward:{tiny_model}", "--min_score", "0"], "without a trained reward head"),
        (["--judge", "scripted", "--min_score", "5"], "(removed: {'below_min_score': 1})"),
    ):
        assert said in stops(demonstrations.main, [*run, *more], capsys)
        assert not (tmp_path / "o").exists()
    # the model is known by its content
    demonstrations.main([*map(str, run), "--judge", f"logprob:{tiny_model}", "--min_score", "-99"])
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert record["models"]["judge"]["sha256"] and record["flags"]["min_score"] == -99
    # what was asked of it, too
    assert record["flags"]["judge"] == f"logprob:{tiny_model}"


def test_what_the_prompts_template_takes_is_kept_and_read_by_sft(tmp_path):
    tools = [[{"name": "weather"}], [{"name": "n", "zip": 1}], [], None]
    given = [{"style": "terse"}, None, {"n": 1}, {}]
    rows = [
        {"prompt": f"Question {i}?", "completion": "Yes.", "tools": t, "chat_template_kwargs": k}
        for i, (t, k) in enumerate(zip(tools, given, strict=True))
    ]
    argv = ["--input", write_jsonl(tmp_path / "answers.jsonl", rows), "--validation", "0"]
    demonstrations.main([*argv, "--output_dir", str(tmp_path / "out")])
    kept = read(tmp_path / "out" / "train.jsonl", "demonstrations")
    tokenizer = make_tokenizer("{{ tools }}{{ style }}{{ n }}" + CHATML)
    for row, tool, arguments in zip(kept, tools, given, strict=True):
        asked = {"prompt": row["prompt"], "tools": tool, "chat_template_kwargs": arguments}
        wanted = encode_prompt_of(tokenizer, asked, "a row")
        assert encode_prompt_of(tokenizer, row, "a row") == wanted
    # rows without them get no such column
    argv = [
        "--input",
        write_jsonl(tmp_path / "plain.jsonl", [{"prompt": "Hi", "completion": "Yo"}]),
    ]
    demonstrations.main([*argv, "--validation", "0", "--output_dir", str(tmp_path / "plain")])
    (plain,) = load_rows(tmp_path / "plain" / "train.jsonl").to_list()
    assert list(plain) == ["prompt", "completion", "source", "category"]


def test_rows_of_which_several_come_are_told_apart_from_what_came(tmp_path):
    reply = {"role": "assistant", "text": "Water.", "replies": []}
    more = {"role": "prompter", "text": "And rain?", "replies": [reply]}
    tree = {"role": "prompter", "text": "What is snow?", "replies": [{**reply, "replies": [more]}]}
    file = write_jsonl(tmp_path / "trees.jsonl", [{"prompt": tree}, {"prompt": reply}])
    demonstrations.main(["--input", file, "--output_dir", str(tmp_path / "d")])
    report = json.loads((tmp_path / "d" / "report.json").read_text())
    assert report["in"] == 2 and report["removed"] == {"malformed": 1}
    assert report["rows"] == {"used": 1, "made": 2} and sum(report["kept"].values()) == 2


def test_a_split_without_rows_is_told(tmp_path, capsys):
    file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "Why?", "completion": "Because."}])
    for share, missing in (("0", "none for validation"), ("0.9999999", "none to train on")):
        out = str(tmp_path / f"out{share}")
        demonstrations.main(["--input", file, "--output_dir", out, "--validation", share])
        said = capsys.readouterr().out
        assert f"{out}: {missing}" in said and said.count("more rows") == 1


def test_what_is_left_out_is_told(tmp_path, capsys):
    for name in ("train", "validation"):
        rows = [{"id": f"{name[0]}1", "prompt": "Why?"}]
        write_rows(tmp_path / "prompts" / f"{name}.parquet", rows)
    rows = [{"prompt": "Why?", "completion": "So.", "prompt_id": name} for name in ("t1", "x")]
    file, out = write_jsonl(tmp_path / "a.jsonl", rows), str(tmp_path / "out")
    demonstrations.main(
        ["--input", file, "--prompts", str(tmp_path / "prompts"), "--output_dir", out]
    )
    told = f"{out}: left out 1 prompt_not_in_train_or_validation (report.json)"
    assert told in capsys.readouterr().out
