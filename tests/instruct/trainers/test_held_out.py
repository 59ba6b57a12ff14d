"""Scores of held-out rankings, as they are left for the evaluation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from instruct.evaluation.ranking_metrics import PAD
from instruct.ranking import key_of
from instruct.trainers import held_out

RANKINGS = [("a", ["x", "y"], [1, 2]), ("b", ["x", "z", "y"], [1, 3, 2]), ("a", ["u", "v"], [2, 1])]


def trainer_of(rankings: list[tuple], dtype=torch.float32, **args):
    """A trainer that has looked at these; only what `_scored` reads."""
    rows = [
        {"prompt": [{"role": "user", "content": p}], "completions": texts, "ranks": ranks}
        for p, texts, ranks in rankings
    ]
    rows = [{**row, "prompt_key": key_of(row["prompt"])} for row in rows]
    return SimpleNamespace(
        args=SimpleNamespace(**{"bf16": False, "fp16": False, "tf32": None, **args}),
        eval_dataset=Dataset.from_list(rows), is_fsdp_enabled=False, is_deepspeed_enabled=False,
        model=torch.nn.Linear(1, 1, dtype=dtype),
    )  # fmt: skip


def predicted(trainer, order: list[int]) -> tuple[np.ndarray, ...]:
    """(scores, ranks, keys) in another order; the score of a text is 10 * row + place."""
    rows = trainer.eval_dataset.to_list()
    scores, ranks = np.zeros((len(rows), 3)), np.full((len(rows), 3), PAD)
    for place, i in enumerate(order):
        count = len(rows[i]["ranks"])
        ranks[place, :count] = rows[i]["ranks"]
        scores[place, :count] = [10 * i + k for k in range(count)]
    return scores, ranks, np.array([rows[i]["prompt_key"] for i in order])


def test_scores_go_with_their_texts_in_whatever_order_rows_come_back():
    trainer = trainer_of(RANKINGS)
    found = held_out._scored(trainer, *predicted(trainer, [1, 2, 0]))
    told = {(r["prompt"][0]["content"], r["completion"]): s for r, s in zip(*found, strict=True)}
    assert told == {
        ("a", "x"): 0, ("a", "y"): 1, ("b", "x"): 10, ("b", "z"): 11, ("b", "y"): 12,
        ("a", "u"): 20, ("a", "v"): 21,
    }  # fmt: skip


def test_rankings_that_cannot_be_told_apart_are_left_out():
    trainer = trainer_of([*RANKINGS, ("a", ["p", "q"], [1, 2])])
    found = held_out._scored(trainer, *predicted(trainer, [3, 1, 2, 0]))
    assert {row["completion"] for row in found.rows} == {"x", "z", "y", "u", "v"}
    assert [s for row, s in zip(*found, strict=True) if row["completion"] == "x"] == [10]


@pytest.mark.parametrize("change", [{"bf16": True}, {"tf32": True}, {"dtype": torch.bfloat16}])
def test_scores_of_fewer_bits_are_not_left(change):
    trainer = trainer_of(RANKINGS, **change)
    assert held_out._scored(trainer, *predicted(trainer, [0, 1, 2])) is None
