"""Reward functions and judges: one finite number per text, or a sentence with function and row."""

import functools
import math
import sys

import numpy as np
import pytest
import torch

from instruct.checks.score_functions import as_functions, checked_scores, name_of, scores_of
from instruct.errors import UserError

TEXTS = ["good", "bad", "so so"]


@pytest.mark.parametrize(
    "scores",
    [
        [1, 0.5, True],
        (1.0, 2.0, 3.0),
        np.array([1.0, 2.0, 3.0], dtype=np.float16),
        torch.tensor([[1.0], [2.0], [3.0]]),
        [torch.tensor(1.0), np.float64(2), 3],
        (float(len(text)) for text in TEXTS),
        [-3e38, 3e38, 0],
    ],
)
def test_numbers_of_any_kind_become_floats(scores):
    found = checked_scores(scores, "judge 'x'", TEXTS)
    assert len(found) == 3 and all(type(number) is float for number in found)


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([0, math.nan, 0], r"judge 'x' returned nan for the completion 'bad' \(row 2 of 3\)"),
        ([0, 0, math.inf], r"returned inf for the completion 'so so' \(row 3 of 3\)"),
        (np.array([-np.inf, 0, 0]), r"returned -inf for the completion 'good' \(row 1 of 3\)"),
        ([0, 0, 1e39], "returned 1e[+]39"),  # beyond float32, in which PPO computes
        ([0, 0], "returned 2 scores for 3 completions"),
        ([0] * 4, "returned 4 scores for 3 completions"),
        ([], "returned 0 scores"),
        (None, "must return one number per completion, not None"),
        (0.5, "one number per completion, not 0.5"),
        (torch.tensor(0.5), "one number per completion, not tensor"),
        ("123", "one number per completion, not '123'"),
        ({"a": 1, "b": 2, "c": 3}, "one number per completion, not {'a'"),
        ([0, None, 0], r"not None for the completion 'bad' \(row 2 of 3\)"),
        ([0, "0.5", 0], r"not '0.5' for the completion 'bad'"),
        ([0, [1, 2], 0], r"not \[1, 2\] for the completion 'bad'"),
        ([0, 1j, 0], r"not 1j for"),
        ([0, 10**400, 0], r"for the completion 'bad'"),
        (torch.zeros(3, 2), r"for the completion 'good'"),
    ],
)
def test_anything_else_is_a_sentence(scores, sentence):
    with pytest.raises(UserError, match=sentence):
        checked_scores(scores, "judge 'x'", TEXTS)


def test_what_a_function_raises_is_a_sentence_and_ours_stays_as_it_is():
    def divides(prompts, completions):
        return [1 / 0]

    def needs(prompts, completions):
        raise UserError("pip install it")

    with pytest.raises(UserError, match="judge 'x' raised ZeroDivisionError: division by zero"):
        scores_of(divides, "judge 'x'", TEXTS, TEXTS)
    with pytest.raises(UserError, match="^pip install it$"):
        scores_of(needs, "judge 'x'", TEXTS, TEXTS)
    with pytest.raises(UserError, match="judge 'x' raised SystemExit: 0"):
        scores_of(lambda prompts, completions: sys.exit(0), "judge 'x'", TEXTS, TEXTS)
    with pytest.raises(UserError, match="raised TypeError"):
        scores_of(lambda prompts: [0], "judge 'x'", TEXTS, TEXTS)


def test_a_function_cannot_change_what_others_see():
    def empties(prompts, completions, topic):
        scores = [float(len(text)) for text in completions]
        prompts.clear(), completions.clear()
        return scores

    assert scores_of(empties, "judge", TEXTS, TEXTS, topic=TEXTS) == [4.0, 3.0, 5.0]
    assert len(TEXTS) == 3


def test_one_function_or_several():
    assert as_functions(len) == [len] and as_functions(None) == [] == as_functions(())
    assert as_functions([len, max]) == [len, max] and as_functions(iter((len,))) == [len]
    assert name_of(functools.partial(len)) == "partial"
    for wrong in ("module:function", 3, ["len"], {"len": len}, [len, None]):
        with pytest.raises(UserError, match="is no function"):
            as_functions(wrong)
