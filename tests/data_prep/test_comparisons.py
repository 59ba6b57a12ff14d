"""Comparisons: rankings stay whole, bad ones are named."""

import json

import pytest
from command_tools import stops
from conftest import write_jsonl

from data_prep import comparisons
from instruct.files import load_rows


def ranking(ranks, prompt="Hi", **more):
    return {
        "prompt": prompt,
        "completions": [f"c{i}" for i in range(len(ranks))],
        "ranks": ranks,
        **more,
    }


def test_few_users_of_whom_none_is_held_out_are_told(tmp_path, capsys):
    file = write_jsonl(tmp_path / "r.jsonl", [ranking([1, 2], user_id="u")])
    run = ["--input", file, "--output_dir", str(tmp_path / "c"), "--validation"]
    comparisons.main([*run, "0.0001"])
    said = capsys.readouterr().out
    assert "none is held out: of few users (or prompts) --validation 0.0001 may draw none" in said
    # who asks for none is told nothing
    comparisons.main([*run, "0"])
    assert "held out" not in capsys.readouterr().out


def test_comparisons_keep_rankings_whole_and_count_what_says_nothing(tmp_path):
    rows = [ranking([1, 2, 2], user_id=f"u{i}") for i in range(40)] + [
        ranking([1]),
        ranking([1, 1]),
    ]
    comparisons.main(
        ["--input", write_jsonl(tmp_path / "r.jsonl", rows), "--output_dir", str(tmp_path / "c")]
    )
    report = json.loads((tmp_path / "c" / "report.json").read_text())
    assert report["removed"] == {"one_completion": 1, "all_tied": 1} and report["in"] == 42
    train, held = (load_rows(tmp_path / "c", split=s).to_list() for s in ("train", "validation"))
    assert len(train) + len(held) == 40 and report["pairs"] == {
        "train": 2 * len(train),
        "validation": 2 * len(held),
    }
    # those that are left out too: the share of strict pairs is of all that were compared
    assert report["all_pairs"] == 40 * 3 + 0 + 1
    assert not {r["user_id"] for r in train} & {r["user_id"] for r in held}
    assert train[0]["prompt"] == [{"role": "user", "content": "Hi"}] and train[0]["ranks"] == [
        1,
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (ranking([1, 2]) | {"ranks": [1]}, "1 ranks for 2 completions"),
        (ranking([1, 2]) | {"ranks": [1, -1]}, "whole numbers"),
        (ranking([1, 2], prompt=" "), "line 1: 'prompt' is empty"),
        (ranking([1, 1]), "no ranking with a preference is left"),
        (ranking([1]), "no ranking with a preference is left"),
    ],
)
def test_bad_rankings_are_named(tmp_path, capsys, row, sentence):
    file = write_jsonl(tmp_path / "r.jsonl", [row])
    error = stops(comparisons.main, ["--input", file, "--output_dir", tmp_path / "c"], capsys)
    assert sentence in error and "r.jsonl" in error and not (tmp_path / "c").exists()


def test_a_file_of_which_all_is_held_out_is_told_so(tmp_path, capsys):
    file = write_jsonl(tmp_path / "r.jsonl", [ranking([1, 2])])
    argv = ["--input", file, "--output_dir", tmp_path / "c", "--validation", "0.999"]
    assert "all 1 are held out; give more, or a lower --validation" in stops(
        comparisons.main, argv, capsys
    )


@pytest.mark.parametrize("user", [0, 7, "x"])
def test_all_rankings_of_a_user_are_in_one_split_also_of_user_0(tmp_path, user):
    rows = [ranking([1, 2], prompt=f"Question {i}") for i in range(2)]
    rows += [ranking([1, 2], prompt=f"Question {i}", user_id=user) for i in range(40)]
    # 0.3: hash by prompt would put some of them in both
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    comparisons.main(["--input", file, "--output_dir", str(tmp_path / "c"), "--validation", "0.3"])
    of_user = [
        any(row["user_id"] is not None for row in load_rows(file))
        for file in (tmp_path / "c").glob("*.jsonl")
    ]
    assert sum(of_user) == 1


def test_rows_in_are_rows_used_and_rows_told_of(tmp_path, capsys):
    arena = {"prompt": "Hi", "response_a": "x", "response_b": "y"}
    rows = [{**arena, "winner": "model_a", "user_id": i} for i in range(20)]
    rows += [{**arena, "winner": "tie"}, {**arena, "winner": None}, {**arena, "winner": "?"}]
    rows += [{**arena, "response_b": "x", "winner": "model_a"}] * 2
    file, out = write_jsonl(tmp_path / "votes.jsonl", rows), tmp_path / "c"
    comparisons.main(["--input", file, "--output_dir", str(out)])
    report = json.loads((out / "report.json").read_text())
    assert report["in"] == 25 == sum(report["kept"].values()) + sum(report["removed"].values())
    assert report["removed"] == {"all_tied": 1, "equal_texts": 2, "misfit": 2}
    assert report["equal_texts"] == 2 and report["rows"]["used"] == 23
    assert report["read_as"] == {file: "two answers and a winner"}
    said = capsys.readouterr().out
    assert f"{file}, line 22: " in said and "2 pairs are one text twice" in said
    assert "read as: two answers and a winner, 23 of 25 rows" in said
    kept = [row for f in out.glob("*.jsonl") for row in load_rows(f)]
    # what was not read for the ranking rides along
    assert {row["user_id"] for row in kept} == set(range(20)) and "winner" not in kept[0]
