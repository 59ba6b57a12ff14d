"""Reading rankings: training and held-out rows from a folder, a file of their own or a share."""

import pytest
from conftest import write_jsonl

from data_prep.formats.rankings import load_train_and_eval
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
    with pytest.raises(UserError, match="holding out 1%"):
        load_train_and_eval(other, "train", "validation", 0.01, seed=0)
