"""Reading rankings: training and held-out rows from a folder, a file of their own or a share."""

import pytest
from conftest import write_jsonl

from data_prep.formats.rankings import load_rankings, load_train_and_eval
from instruct.errors import UserError


def test_held_out_rankings_from_split_file_or_share_of_prompts(comparisons, tmp_path):
    rows = [
        {**row, "ranks": row["ranks"][::way]} for row in comparisons for way in (1, -1, 1)
    ]  # each prompt three times
    source, other = (
        write_jsonl(tmp_path / "all.jsonl", rows),
        write_jsonl(tmp_path / "other.jsonl", comparisons[:2]),
    )
    train, held_out = load_train_and_eval(source, "train", "validation", 0.3, seed=0)

    def words(dataset) -> set[str]:
        return {row["prompt"][0]["content"] for row in dataset}

    assert len(train) + len(held_out) == 36 and not words(train) & words(held_out)
    train, held_out = load_train_and_eval(source, "train", other, 0.3, seed=0)
    assert len(train) == 36 and len(held_out) == 2
    assert load_train_and_eval(source, "train", "validation", 0.0, seed=0)[1] is None


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("prompts", [2, 3, 12])
def test_a_share_of_few_prompts_leaves_no_side_empty(comparisons, tmp_path, prompts, fraction):
    rows = [row for row in comparisons[:prompts] for _ in range(2)]
    source = write_jsonl(tmp_path / "few.jsonl", rows)
    for seed in range(5):
        train, held_out = load_train_and_eval(source, "train", "validation", fraction, seed)
        assert len(train) >= 2 and len(held_out) >= 2 and len(train) + len(held_out) == len(rows)


def test_rankings_of_one_prompt_cannot_be_shared_out(comparisons, tmp_path):
    source = write_jsonl(tmp_path / "one.jsonl", [comparisons[0], comparisons[0]])
    with pytest.raises(UserError, match="all of one prompt.*--eval_fraction 0.1"):
        load_train_and_eval(source, "train", "validation", 0.1, seed=0)
    train, held_out = load_train_and_eval(source, "train", "validation", 0.0, seed=0)
    assert len(train) == 2 and held_out is None


def test_a_margin_that_nothing_learns_from_is_told(tmp_path, capsys):
    pair = {"prompt": "Hi", "chosen": "Yes.", "rejected": "No."}
    with_margin = write_jsonl(tmp_path / "margin.jsonl", [{**pair, "margin": 0.5}])
    assert load_rankings(with_margin).column_names == ["prompt", "completions", "ranks"]
    assert f"{with_margin}: its column 'margin' is not used" in capsys.readouterr().out
    load_rankings(write_jsonl(tmp_path / "plain.jsonl", [pair]))
    assert "'margin'" not in capsys.readouterr().out
