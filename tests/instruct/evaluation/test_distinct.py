"""Distinct-2 against counts by hand."""

import json

import pytest
from conftest import REPO

from instruct.evaluation.distinct import distinct2, words


def test_distinct_pairs_over_all_texts():
    # the-cat, cat-sat, the-cat, cat-ran: 3 of 4
    assert distinct2(["The cat sat.", "the cat ran"]) == pytest.approx(3 / 4)
    # the end of a text and the beginning of the next are no neighbours
    assert distinct2(["a b", "a b"]) == pytest.approx(1 / 2)
    assert distinct2(["a b c"]) == 1.0
    # nothing to pair: the poorest there is, not an error
    for texts in ([], [""], ["Yes.", "No!", "…"]):
        assert distinct2(texts) == 0.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Yeah, that's great!", ["yeah", "that's", "great"]),
        ("  \n", []),
        ("你好吗", ["你", "好", "吗"]),
        ("Python很好 3.5", ["python", "很", "好", "3", "5"]),
        ("한국어 a", ["한", "국", "어", "a"]),
        ("l’été À", ["l’été", "à"]),
    ],
)
def test_words(text, found):
    assert words(text) == found


def test_a_collapse_is_seen_in_few_answers():
    path = REPO / "tests" / "data" / "collapsed_answers.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    sft, ppo = (distinct2(row[name] for row in rows) for name in ("sft", "ppo"))
    assert sft > 0.9 and ppo < 0.15
